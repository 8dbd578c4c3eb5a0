//! The times of a limiter's last requests, in the node's own memory.
//!
//! Tyk's sliding log keeps every request of the last `per` in a Redis set and refuses when `rate`
//! were there before. That is so exactly when the request `rate` places back is younger than
//! `per`: a ring of the last `rate` times decides it without counting.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A ring of times, shared by all shards. Refused requests are in it as well, as in Tyk.
#[derive(Debug)]
pub(super) struct MemoryLog {
    /// Requests so far.
    head: AtomicU64,
    /// Milliseconds plus one; zero for never.
    times: Box<[AtomicU64]>,
    rate: u64,
    /// Requests that share a place, which holds the time of the first of them.
    unit: u64,
    per_ms: u64,
}

/// One request in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    number: u64,
    /// What stood in its place: where no place is shared, the request `rate` before it.
    displaced: u64,
}

/// Beyond, requests share a place: a window is then known to one part in so many.
const PLACES_MAX: u64 = 4096;

impl MemoryLog {
    pub(super) fn new(rate: u64, per_ms: u64) -> Self {
        let rate = rate.max(1);
        let unit = rate.div_ceil(PLACES_MAX);
        let places = rate.div_ceil(unit) + u64::from(unit > 1);
        Self {
            head: AtomicU64::new(0),
            times: (0..places).map(|_| AtomicU64::new(0)).collect(),
            rate,
            unit,
            per_ms,
        }
    }

    /// Writes one request down.
    pub(super) fn write(&self, now_ms: u64) -> Written {
        let number = self.head.fetch_add(1, Relaxed);
        let mut displaced = 0;
        if number.is_multiple_of(self.unit) {
            // Whoever comes second to a place sees the first, in whichever order their numbers
            // were drawn: of two requests at a limit of one, one is refused.
            displaced = self.place(number).swap(now_ms + 1, Relaxed);
        }
        Written { number, displaced }
    }

    /// Whether at least `count` requests before this one are younger than `per`; `count` is at
    /// most the log's rate. Exact under races for the rate itself.
    pub(super) fn held(&self, written: Written, count: u64, now_ms: u64) -> bool {
        count == 0
            || self
                .time(written, count)
                .is_some_and(|at| now_ms < at + self.per_ms)
    }

    /// When the request `count` places before this one is `per` old.
    pub(super) fn leaves_at_ms(&self, written: Written, count: u64) -> u64 {
        self.time(written, count).unwrap_or(0) + self.per_ms
    }

    /// Whether nothing in it is younger than `per`.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        let is_old = |at: &AtomicU64| at.load(Relaxed) + self.per_ms <= now_ms + 1;
        self.times.iter().all(is_old)
    }

    pub(super) fn clear(&self) {
        for place in &self.times {
            place.store(0, Relaxed);
        }
    }

    fn time(&self, written: Written, count: u64) -> Option<u64> {
        let earlier = written.number.checked_sub(count)?;
        if count == self.rate && self.unit == 1 {
            return written.displaced.checked_sub(1);
        }
        self.place(earlier).load(Relaxed).checked_sub(1)
    }

    #[allow(clippy::indexing_slicing, reason = "a remainder, and never of zero")]
    fn place(&self, number: u64) -> &AtomicU64 {
        &self.times[(number / self.unit % self.times.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests at these times, and how many of them the log refuses at `rate`.
    #[track_caller]
    fn check(rate: u64, per_ms: u64, times_ms: &[u64], expected: &[bool]) {
        let log = MemoryLog::new(rate, per_ms);
        let got: Vec<_> = times_ms
            .iter()
            .map(|&now_ms| !log.held(log.write(now_ms), rate, now_ms))
            .collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn exactly_rate_requests_pass_in_any_window_and_refused_ones_count() {
        check(2, 1000, &[0, 0, 0, 999], &[true, true, false, false]);
        // The third, refused, still stands in the window at 1000.
        check(
            2,
            1000,
            &[0, 0, 500, 1000, 1001],
            &[true, true, false, true, false],
        );
        check(1, 1000, &[7, 1006, 2005, 3005], &[true, false, false, true]);
        check(
            3,
            2000,
            &[1, 2, 3, 4, 5, 2300],
            &[true, true, true, false, false, true],
        );
    }

    #[test]
    fn the_log_decides_as_a_list_of_all_times_does() {
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for rate in [1, 2, 3, 10, 57] {
            let log = MemoryLog::new(rate, 1000);
            let mut all = Vec::new();
            let mut now_ms = 0;
            for _ in 0..5000 {
                now_ms += random(2000 / rate);
                let held = all.iter().filter(|&&at| at + 1000 > now_ms).count() as u64;
                let written = log.write(now_ms);
                assert_eq!(log.held(written, rate, now_ms), held >= rate);
                assert_eq!(log.held(written, rate / 2, now_ms), held >= rate / 2);
                all.push(now_ms);
            }
        }
    }

    #[test]
    fn a_high_rate_is_kept_in_bounded_room_and_stays_right_to_its_unit() {
        let log = MemoryLog::new(1_000_000, 1000);
        assert!(log.times.len() as u64 <= PLACES_MAX + 1);
        let admitted = (0..1_100_000_u64)
            .filter(|_| !log.held(log.write(5), 1_000_000, 5))
            .count() as u64;
        assert!(admitted.abs_diff(1_000_000) <= log.unit, "{admitted}");
    }
    #[test]
    fn threads_together_pass_exactly_the_rate() {
        for rate in [1, 2, 7, 500] {
            let log = MemoryLog::new(rate, 1000);
            let admitted: u64 = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            (0..1000)
                                .filter(|_| !log.held(log.write(9), rate, 9))
                                .count() as u64
                        })
                    })
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).sum()
            });
            assert_eq!(admitted, rate);
        }
    }
}
