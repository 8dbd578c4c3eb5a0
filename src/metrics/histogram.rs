//! Spans of time in fixed buckets.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the buckets, in microseconds, and as Prometheus writes them in seconds. Behind
/// the last there is one without a bound.
pub(super) const BOUNDS: [(u64, &str); 17] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (30_000_000, "30"),
];

/// How often which span occurred.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

/// The numbers of a histogram, or of several added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spans {
    /// Per bucket, not cumulative.
    pub(super) counts: [u64; BOUNDS.len() + 1],
    pub(super) sum_us: u64,
}

impl Histogram {
    /// Counts a span. For the writing thread alone.
    #[inline]
    pub fn observe(&self, us: u64) {
        if let Some(count) = self.counts.get(bucket(us)) {
            count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
        }
        let sum = self.sum_us.load(Relaxed);
        self.sum_us.store(sum.wrapping_add(us), Relaxed);
    }

    /// Counts a span, from any thread.
    pub fn observe_shared(&self, us: u64) {
        if let Some(count) = self.counts.get(bucket(us)) {
            count.fetch_add(1, Relaxed);
        }
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// The numbers now.
    #[must_use]
    pub fn spans(&self) -> Spans {
        Spans {
            counts: self.counts.each_ref().map(|count| count.load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }
}

impl Spans {
    /// How many spans there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together, in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }
}

impl std::iter::Sum for Spans {
    fn sum<I: Iterator<Item = Self>>(spans: I) -> Self {
        spans.fold(Self::default(), |mut sum, spans| {
            for (sum, count) in sum.counts.iter_mut().zip(spans.counts) {
                *sum += count;
            }
            sum.sum_us += spans.sum_us;
            sum
        })
    }
}

#[inline]
fn bucket(us: u64) -> usize {
    BOUNDS.partition_point(|(bound, _)| *bound < us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_falls_into_the_first_bucket_that_holds_it() {
        #[track_caller]
        fn check(us: u64, expected: usize) {
            let histogram = Histogram::default();
            histogram.observe(us);
            histogram.observe_shared(us);
            let spans = histogram.spans();
            assert_eq!(spans.counts[expected], 2, "{spans:?}");
            assert_eq!((spans.count(), spans.sum_us), (2, us.wrapping_mul(2)));
        }
        check(0, 0);
        check(100, 0);
        check(101, 1);
        check(1_000, 3);
        check(1_001, 4);
        check(30_000_000, 16);
        check(30_000_001, 17);
        check(u64::MAX / 4, 17);
    }

    #[test]
    fn bounds_grow_and_are_named_in_seconds() {
        assert!(BOUNDS.is_sorted_by(|a, b| a.0 < b.0));
        for (us, name) in BOUNDS {
            assert_eq!(name.parse::<f64>().unwrap(), us as f64 / 1e6);
        }
    }
}
