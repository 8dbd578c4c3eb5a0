//! How a ratio is decided: one ratio per round, then median and quartiles over the rounds.

/// Median and quartiles of per-round values.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    pub q1: f64,
    pub median: f64,
    pub q3: f64,
    pub rounds: usize,
}

impl Spread {
    /// `None` without values. Quartiles interpolate linearly between ranks.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        if sorted.is_empty() {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = share * (sorted.len() - 1) as f64;
            let low = sorted[rank.floor() as usize];
            let high = sorted[rank.ceil() as usize];
            low + (high - low) * rank.fract()
        };
        Some(Self {
            q1: at(0.25),
            median: at(0.5),
            q3: at(0.75),
            rounds: sorted.len(),
        })
    }
}

/// What a comparison with a goal came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The median is at most the goal plus [`TOLERANCE`], and the quartiles do not straddle the goal.
    Met,
    /// As `Met`, but the quartiles lie on both sides of the goal: no difference from it was shown.
    Tie,
    Missed,
}

/// What the median may stand above a goal: the resolution of this method on a shared virtual machine.
pub const TOLERANCE: f64 = 0.05;

/// Fewest rounds a verdict is given on.
pub const ROUNDS_MIN: usize = 9;

impl Verdict {
    pub fn of_ratio(spread: &Spread, goal: f64) -> Self {
        Self::with_tolerance(spread, goal, TOLERANCE)
    }

    /// For goals that are not ratios (seconds, bytes): no tolerance.
    pub fn of_value(spread: &Spread, goal: f64) -> Self {
        Self::with_tolerance(spread, goal, 0.0)
    }

    fn with_tolerance(spread: &Spread, goal: f64, tolerance: f64) -> Self {
        if spread.median > goal + tolerance {
            Self::Missed
        } else if spread.q1 <= goal && goal <= spread.q3 {
            Self::Tie
        } else {
            Self::Met
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Tie => "tie",
            Self::Missed => "missed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[f64], goal: f64, expected: Verdict) {
        let spread = Spread::of(values).unwrap();
        assert_eq!(Verdict::of_ratio(&spread, goal), expected, "{spread:?}");
    }

    #[test]
    fn quartiles_interpolate() {
        let spread = Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((spread.q1, spread.median, spread.q3), (1.75, 2.5, 3.25));
        assert_eq!(Spread::of(&[f64::NAN]), None);
        assert_eq!(Spread::of(&[7.0]).unwrap().q3, 7.0);
    }

    #[test]
    fn a_ratio_is_met_tied_or_missed() {
        check(&[0.80, 0.85, 0.90], 1.0, Verdict::Met);
        check(&[0.95, 1.00, 1.05], 1.0, Verdict::Tie);
        check(&[0.90, 1.04, 1.20], 1.0, Verdict::Tie);
        check(&[1.02, 1.04, 1.05], 1.0, Verdict::Met);
        check(&[1.00, 1.06, 1.07], 1.0, Verdict::Missed);
    }
}
