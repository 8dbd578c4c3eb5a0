//! How fast a limiter is used, and how much to fetch ahead for it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Kept by whoever settles refills; requests do not touch it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the current stretch of measuring began.
    since_ms: AtomicU64,
    /// Units used in it so far.
    used: AtomicU64,
    /// Thousandths of a unit per second, smoothed.
    per_s_milli: AtomicU64,
    /// The last amount fetched.
    block: AtomicI64,
}

/// Stretches shorter than this say more about the clock than about the traffic.
const STRETCH_MS: u64 = 10;
/// A new stretch this long replaces what was known; a shorter one counts in proportion.
const MEMORY_MS: u64 = 200;

impl Pace {
    /// Notes units used since the last note.
    pub(super) fn note(&self, used: u64, now_ms: u64) {
        let used = self.used.fetch_add(used, Relaxed) + used;
        let since_ms = self.since_ms.load(Relaxed);
        let span_ms = now_ms.saturating_sub(since_ms);
        if span_ms < STRETCH_MS {
            return;
        }
        self.since_ms.store(now_ms, Relaxed);
        self.used.store(0, Relaxed);
        let now = used.saturating_mul(1_000_000) / span_ms;
        let before = self.per_s_milli.load(Relaxed);
        let weight = span_ms.min(MEMORY_MS);
        let smoothed = (u128::from(now) * u128::from(weight)
            + u128::from(before) * u128::from(MEMORY_MS - weight))
            / u128::from(MEMORY_MS);
        self.per_s_milli
            .store(u64::try_from(smoothed).unwrap_or(u64::MAX), Relaxed);
    }

    /// Units that `span_ms` of the traffic need, at most `max`. A limiter that ran dry gets at
    /// least twice what it got last, so that a burst is met within a few round trips.
    pub(super) fn want(&self, span_ms: u64, ran_dry: bool, max: i64) -> i64 {
        let mut want = self.need(span_ms);
        if ran_dry {
            want = want.max(self.block.load(Relaxed).saturating_mul(2));
        }
        want.clamp(0, max.max(0))
    }

    /// Remembers what was fetched.
    pub(super) fn fetched(&self, block: i64) {
        self.block.store(block.max(1), Relaxed);
    }

    /// The stock below which a refill is due, so that it comes within `ahead_ms`.
    pub(super) fn low(&self, ahead_ms: u64) -> i64 {
        // More than half a block would ask again with every grant.
        self.need(ahead_ms)
            .clamp(1, (self.block.load(Relaxed) / 2).max(1))
    }

    fn need(&self, span_ms: u64) -> i64 {
        let milli = u128::from(self.per_s_milli.load(Relaxed)) * u128::from(span_ms);
        // Half a unit and more is one.
        i64::try_from((milli + 500_000) / 1_000_000).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_the_traffic() {
        let pace = Pace::default();
        for turn in 1..=50 {
            pace.note(10, turn * 20);
        }
        // 500 a second.
        let want = pace.want(20, false, 1000);
        assert!((9..=10).contains(&want), "{want}");
        pace.fetched(want);
        assert_eq!(pace.low(2), 1);
        assert_eq!(pace.low(1000), want / 2);
        assert_eq!(pace.want(20, false, 4), 4);
    }

    #[test]
    fn who_ran_dry_gets_twice_as_much() {
        let pace = Pace::default();
        assert_eq!(pace.want(20, true, 100), 0);
        for expected in [2, 4, 8, 10] {
            pace.fetched(expected / 2);
            assert_eq!(
                pace.want(20, true, 10),
                if expected == 10 { 10 } else { expected }
            );
        }
    }

    #[test]
    fn a_limiter_that_is_hardly_used_fetches_nothing_ahead() {
        let pace = Pace::default();
        pace.note(1, 1_000);
        pace.note(1, 2_000);
        assert_eq!(pace.want(20, false, 100), 0);
    }
}
