//! Requests turned away, by reason.

use std::sync::OnceLock;

use crate::metrics::Counter;

/// Reasons that are told apart; the others share the last place.
const REASONS_MAX: usize = 64;

/// The label of refusals without a reason of their own.
pub(super) const OTHER: &str = "other";

/// Counts by name, for one thread to write. A name finds its place the first time it is counted;
/// counting it again compares a few pointers, and only refused requests pay that.
#[derive(Debug)]
pub struct Refusals {
    places: [Place; REASONS_MAX],
    other: Counter,
}

#[derive(Debug, Default)]
struct Place {
    reason: OnceLock<&'static str>,
    count: Counter,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            places: std::array::from_fn(|_| Place::default()),
            other: Counter::default(),
        }
    }
}

impl Refusals {
    /// Counts a refusal. For the writing thread alone.
    pub fn count(&self, reason: &'static str) {
        for place in &self.places {
            if *place.reason.get_or_init(|| reason) == reason {
                place.count.count();
                return;
            }
        }
        self.other.count();
    }

    /// Reasons and their counts, those without a place last.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let known = self.places.iter().map_while(|place| {
            let reason = place.reason.get()?;
            Some((*reason, place.count.value()))
        });
        known.chain([(OTHER, self.other.value())])
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_place() {
        let refusals = Refusals::default();
        for reason in ["a", "b", "a"] {
            refusals.count(reason);
        }
        let counts: Vec<_> = refusals.counts().collect();
        assert_eq!(counts, [("a", 2), ("b", 1), (OTHER, 0)]);
        assert_eq!(refusals.total(), 3);
    }

    #[test]
    fn beyond_the_bound_reasons_share_a_place() {
        let refusals = Refusals::default();
        for n in 0..REASONS_MAX + 2 {
            refusals.count(Box::leak(n.to_string().into()));
        }
        refusals.count("0");
        assert_eq!(refusals.counts().next(), Some(("0", 2)));
        assert_eq!(refusals.counts().last(), Some((OTHER, 2)));
        assert_eq!(refusals.total(), REASONS_MAX as u64 + 3);
    }
}
