//! Credits that a node holds of a limit it shares with others, so that no request waits.
//!
//! Credits come in small amounts, are counted in the store when they are granted, and end after a
//! tenth of the window; what is left of them then goes back with the next refill. A node without
//! credits admits a few requests as debt while a refill is under way, so that the first request
//! of a quiet key does not wait either; debt is counted in the store before anything is granted.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// What requests touch. Lives inside a cell's first cache line, or begins in it: what there is
/// credit for reads the first three.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Lease {
    credits: AtomicI64,
    ends_at_ms: AtomicU64,
    /// Stock below which a refill is due.
    low: AtomicI64,
    /// Nothing is to be had before.
    deny_until_ms: AtomicU64,
    /// Admitted without credit and not told the store yet.
    debt: AtomicI64,
}

/// How a lease met a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drawn {
    /// Admitted.
    Plenty,
    /// Admitted, and a refill is due.
    Low,
    /// Refused, and until when.
    Denied(u64),
    /// No credit, no room for debt, and nothing known: the store must be asked.
    Dry,
}

impl Lease {
    /// Uses up one credit, or runs into debt up to `debt_max`.
    #[inline]
    pub(super) fn draw(&self, now_ms: u64, debt_max: i64) -> Drawn {
        if let Some(left) = self.draw_credit(now_ms) {
            return if left < self.low.load(Relaxed) {
                Drawn::Low
            } else {
                Drawn::Plenty
            };
        }
        let deny_until_ms = self.deny_until_ms.load(Relaxed);
        if now_ms < deny_until_ms {
            return Drawn::Denied(deny_until_ms);
        }
        if self.debt.load(Relaxed) < debt_max {
            if self.debt.fetch_add(1, Relaxed) < debt_max {
                return Drawn::Low;
            }
            self.debt.fetch_sub(1, Relaxed);
        }
        Drawn::Dry
    }

    /// Uses up one credit; what is left then.
    #[inline]
    pub(super) fn draw_credit(&self, now_ms: u64) -> Option<i64> {
        if now_ms >= self.ends_at_ms.load(Relaxed) || self.credits.load(Relaxed) <= 0 {
            return None;
        }
        let left = self.credits.fetch_sub(1, Relaxed) - 1;
        if left < 0 {
            self.credits.fetch_add(1, Relaxed);
            return None;
        }
        Some(left)
    }

    #[inline]
    pub(super) fn warm(&self) {
        std::hint::black_box(self.credits.load(Relaxed));
    }

    #[inline]
    pub(super) fn low(&self) -> i64 {
        self.low.load(Relaxed)
    }

    /// Ends what there was and begins anew, unless somebody else did.
    pub(super) fn renew(&self, ended_at_ms: u64, ends_at_ms: u64) -> bool {
        let is_ours = self
            .ends_at_ms
            .compare_exchange(ended_at_ms, ends_at_ms, Relaxed, Relaxed)
            .is_ok();
        if is_ours {
            self.credits.store(0, Relaxed);
            self.debt.store(0, Relaxed);
        }
        is_ours
    }

    pub(super) fn denied_until_ms(&self) -> u64 {
        self.deny_until_ms.load(Relaxed)
    }

    pub(super) fn deny_until(&self, at_ms: u64) {
        self.deny_until_ms.store(at_ms, Relaxed);
    }

    pub(super) fn stock(&self) -> i64 {
        self.credits.load(Relaxed).max(0)
    }

    pub(super) fn ends_at_ms(&self) -> u64 {
        self.ends_at_ms.load(Relaxed)
    }

    /// Takes out credits whose time is over.
    pub(super) fn take_ended(&self, now_ms: u64) -> i64 {
        if now_ms < self.ends_at_ms() || self.credits.load(Relaxed) <= 0 {
            return 0;
        }
        self.credits.swap(0, Relaxed).max(0)
    }

    /// Takes out everything.
    pub(super) fn take_all(&self) -> i64 {
        self.ends_at_ms.store(0, Relaxed);
        self.credits.swap(0, Relaxed).max(0)
    }

    /// Takes out the debt, to be told the store.
    pub(super) fn take_debt(&self) -> i64 {
        self.debt.swap(0, Relaxed).max(0)
    }

    /// Puts back a debt that the store did not hear of, or counts one more.
    pub(super) fn owe(&self, debt: i64) {
        self.debt.fetch_add(debt, Relaxed);
    }

    pub(super) fn debt(&self) -> i64 {
        self.debt.load(Relaxed)
    }

    /// Counts one request as debt unless there are `max` already.
    pub(super) fn owe_one(&self, max: i64) -> bool {
        if self.debt.load(Relaxed) >= max {
            return false;
        }
        let has_room = self.debt.fetch_add(1, Relaxed) < max;
        if !has_room {
            self.debt.fetch_sub(1, Relaxed);
        }
        has_room
    }

    /// Pays debt with `units`; how many that took.
    pub(super) fn repay(&self, units: i64) -> i64 {
        take_up_to(&self.debt, units)
    }

    /// Takes out up to `most` credits; how many that were.
    pub(super) fn draw_up_to(&self, most: i64) -> i64 {
        take_up_to(&self.credits, most)
    }

    /// Adds what the store granted.
    pub(super) fn grant(&self, credits: i64, ends_at_ms: u64, low: i64) {
        self.low.store(low, Relaxed);
        self.credits.fetch_add(credits, Relaxed);
        self.ends_at_ms.fetch_max(ends_at_ms, Relaxed);
    }
}

/// Takes up to `most` off a number that is above zero; how much that was.
pub(super) fn take_up_to(number: &AtomicI64, most: i64) -> i64 {
    let part = |value: i64| value.clamp(0, most.max(0));
    let before = number.fetch_update(Relaxed, Relaxed, |value| Some(value - part(value)));
    before.map_or(0, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_drawn_until_their_end() {
        let lease = Lease::default();
        lease.grant(3, 100, 1);
        assert_eq!(lease.draw(0, 0), Drawn::Plenty);
        assert_eq!(lease.draw(1, 0), Drawn::Plenty);
        assert_eq!(lease.draw(99, 0), Drawn::Low);
        assert_eq!(lease.draw(99, 0), Drawn::Dry);
        lease.grant(2, 200, 1);
        assert_eq!(lease.draw(200, 0), Drawn::Dry);
        assert_eq!(lease.take_ended(199), 0);
        assert_eq!(lease.take_ended(200), 2);
        assert_eq!(lease.take_ended(200), 0);
    }

    #[test]
    fn without_credit_there_is_debt_up_to_its_limit_unless_the_store_has_refused() {
        let lease = Lease::default();
        assert_eq!(lease.draw(5, 2), Drawn::Low);
        assert_eq!(lease.draw(5, 2), Drawn::Low);
        assert_eq!(lease.draw(5, 2), Drawn::Dry);
        assert_eq!(lease.take_debt(), 2);
        lease.deny_until(50);
        assert_eq!(lease.draw(49, 2), Drawn::Denied(50));
        assert_eq!(lease.draw(50, 2), Drawn::Low);
        lease.owe(1);
        assert_eq!(lease.take_debt(), 2);
    }

    #[test]
    fn threads_together_draw_each_credit_once() {
        let lease = Lease::default();
        lease.grant(10_000, 100, 0);
        let drawn: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..5_000)
                            .filter(|_| lease.draw_credit(1).is_some())
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(drawn, 10_000);
        assert_eq!(lease.stock(), 0);
    }
}
