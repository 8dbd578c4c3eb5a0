//! A small repeatable random source (SplitMix64) for arrivals and jitter: same seed, same run.

#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    pub fn from_seed(seed: u64) -> Self {
        Self { state: seed }
    }

    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..bound; 0 for an empty range.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.unit() * bound as f64) as u64
    }

    /// A gap of a Poisson process with `rate` arrivals per second, in nanoseconds.
    pub fn poisson_gap_ns(&mut self, rate: f64) -> f64 {
        -(1.0 - self.unit()).ln() / rate * 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poisson_gaps_have_the_stated_mean_and_repeat() {
        let mut rng = Rng::from_seed(7);
        let gaps: Vec<f64> = (0..100_000).map(|_| rng.poisson_gap_ns(1000.0)).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        assert!((mean / 1e6 - 1.0).abs() < 0.02, "mean {mean}");
        assert_eq!(Rng::from_seed(7).poisson_gap_ns(1000.0), gaps[0]);
    }
}
