//! Whether the store answers, in one word that every thread may read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::storage::{Store, StoreError};

/// Questions without an answer, one after the other, that make a store count as away.
const MISSES_MAX: u32 = 3;

/// Between probes of a store that is away, and for each of them.
const PROBE_EVERY: Duration = Duration::from_millis(250);
const PROBE_MAX: Duration = Duration::from_secs(1);

/// What is known about the store's life. Away means that questions fail at once instead of waiting,
/// until a probe has succeeded.
#[derive(Default)]
pub struct Pulse {
    is_away: AtomicBool,
    /// Counts misses that were counted. Of questions that waited at the same time one counts: three
    /// misses are three spans of silence, not one.
    round: AtomicU64,
    misses: AtomicU32,
}

impl Pulse {
    /// Costs a load.
    #[inline]
    pub fn is_away(&self) -> bool {
        self.is_away.load(Relaxed)
    }

    /// To be told to [`Pulse::missed`] with the same question.
    pub(super) fn round(&self) -> u64 {
        self.round.load(Relaxed)
    }

    pub(super) fn answered(&self) {
        // Written only when that changes something: it is read by every shard.
        if self.misses.load(Relaxed) != 0 {
            self.misses.store(0, Relaxed);
        }
        if self.is_away.load(Relaxed) {
            self.is_away.store(false, Relaxed);
        }
    }

    /// A question of this round got no answer; whether the store counts as away from now on.
    pub(super) fn missed(&self, round: u64) -> bool {
        let next = round.wrapping_add(1);
        let is_first = self
            .round
            .compare_exchange(round, next, Relaxed, Relaxed)
            .is_ok();
        is_first
            && self.misses.fetch_add(1, Relaxed) + 1 >= MISSES_MAX
            && !self.is_away.swap(true, Relaxed)
    }

    /// Probes a store that is away until it answers or is closed.
    pub(super) async fn revive(self: Arc<Self>, store: Arc<dyn Store>) {
        let name = store.name();
        tracing::warn!(
            prefix = "storage",
            "{name}: no answer three times in a row; questions fail at once until it answers again"
        );
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            match tokio::time::timeout(PROBE_MAX, store.probe()).await {
                // A probe is a write. What refuses it answers, so it may be read from.
                Ok(Ok(()) | Err(StoreError::Refused(_))) => break,
                // Not ours any more; the next owner begins anew.
                Ok(Err(StoreError::Closed)) => break,
                Ok(Err(_)) | Err(_) => {}
            }
        }
        self.answered();
        tracing::info!(prefix = "storage", "{name}: answers again");
    }
}
