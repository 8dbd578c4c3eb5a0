//! Latency histogram with a bounded relative error, as HdrHistogram does it: 128 steps per power of two.

/// Steps per power of two: a recorded value is off by at most 1/128.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();
const POWERS: usize = 64 - STEP_BITS as usize + 1;

/// Counts of values (nanoseconds here); every `u64` has its place.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; POWERS * STEPS as usize],
            total: 0,
            max: 0,
        }
    }
}

impl Histogram {
    pub fn record(&mut self, value: u64) {
        self.counts[index(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    /// The smallest recorded step at or below which `share` (0–1) of all values lie; 0 when empty.
    pub fn quantile(&self, share: f64) -> u64 {
        let wanted = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return upper_bound(place).min(self.max);
            }
        }
        self.max
    }

    /// How many values are at least `value` (to the step's precision).
    pub fn count_from(&self, value: u64) -> u64 {
        self.counts[index(value)..].iter().sum()
    }
}

fn index(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let power = value.ilog2() - STEP_BITS;
    let step = (value >> power) - STEPS;
    ((u64::from(power) + 1) * STEPS + step) as usize
}

fn upper_bound(place: usize) -> u64 {
    let place = place as u64;
    if place < STEPS {
        return place;
    }
    let power = place / STEPS - 1;
    let low = (STEPS + place % STEPS) << power;
    low + ((1 << power) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_a_step_that_bounds_it_within_one_percent() {
        for value in (0..64).flat_map(|p| [1u64 << p, (1u64 << p) + 1, (1u64 << p) / 3 * 5 / 2]) {
            let bound = upper_bound(index(value));
            assert!(bound >= value, "{value} above its bound {bound}");
            assert!((bound - value) as f64 <= value as f64 / 100.0 + 0.5);
        }
        assert!(index(u64::MAX) < POWERS * STEPS as usize);
    }

    #[test]
    fn quantiles_of_a_uniform_run_are_where_they_belong() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|v| histogram.record(v * 1000));
        for (share, expected) in [(0.5, 500_000.0), (0.99, 990_000.0), (0.999, 999_000.0)] {
            let found = histogram.quantile(share) as f64;
            assert!((found / expected - 1.0).abs() < 0.01, "{share}: {found}");
        }
        assert_eq!(histogram.quantile(1.0), 1_000_000);
        assert_eq!(histogram.max(), 1_000_000);
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }

    #[test]
    fn values_from_a_bound_on_are_counted() {
        let mut histogram = Histogram::default();
        histogram.record(5);
        histogram.record(50_000);
        assert_eq!((histogram.count(), histogram.count_from(40_000)), (2, 1));
    }
}
