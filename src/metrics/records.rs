//! What becomes of analytics records, and of spans, once they have left their shard.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counted by the tokio thread that writes them. For spans, the store is the collector.
#[derive(Debug, Default)]
pub struct Records {
    written: AtomicU64,
    capped: AtomicU64,
    lost: AtomicU64,
    push_failures: AtomicU64,
}

impl Records {
    /// The store has taken so many.
    pub fn written(&self, count: u64) {
        self.written.fetch_add(count, Relaxed);
    }

    /// So many left their list, unread, because it was full.
    pub fn capped(&self, count: u64) {
        self.capped.fetch_add(count, Relaxed);
    }

    /// So many were given up at the end of this process.
    pub fn lost(&self, count: u64) {
        self.lost.fetch_add(count, Relaxed);
    }

    /// The store has not taken a batch; it is tried again.
    pub fn push_failed(&self) {
        self.push_failures.fetch_add(1, Relaxed);
    }

    /// Records that the store has taken.
    #[must_use]
    pub fn written_count(&self) -> u64 {
        self.written.load(Relaxed)
    }

    #[must_use]
    pub fn capped_count(&self) -> u64 {
        self.capped.load(Relaxed)
    }

    #[must_use]
    pub fn lost_count(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    #[must_use]
    pub fn push_failure_count(&self) -> u64 {
        self.push_failures.load(Relaxed)
    }
}
