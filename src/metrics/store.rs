//! How the store does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::metrics::{Histogram, histogram::Spans};

/// Counted on the tokio side, from any thread.
#[derive(Debug, Default)]
pub struct StoreCounts {
    latency: Histogram,
    errors: AtomicU64,
    timeouts: AtomicU64,
    is_away: AtomicBool,
    absences: AtomicU64,
}

impl StoreCounts {
    /// The store answered a question, after so many microseconds.
    pub fn answered(&self, us: u64) {
        self.latency.observe_shared(us);
    }

    /// The store answered with an error, or could not be reached.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// A question was given up at its deadline.
    pub fn timed_out(&self) {
        self.timeouts.fetch_add(1, Relaxed);
    }

    /// Nothing waits for the store any more, or questions go to it again.
    pub fn set_away(&self, is_away: bool) {
        if !self.is_away.swap(is_away, Relaxed) && is_away {
            self.absences.fetch_add(1, Relaxed);
        }
    }

    #[must_use]
    pub fn is_away(&self) -> bool {
        self.is_away.load(Relaxed)
    }

    pub(super) fn latency(&self) -> Spans {
        self.latency.spans()
    }

    pub(super) fn error_count(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    pub(super) fn timeout_count(&self) -> u64 {
        self.timeouts.load(Relaxed)
    }

    pub(super) fn absence_count(&self) -> u64 {
        self.absences.load(Relaxed)
    }
}
