//! Counts by name: refusals by reason, steps by middleware.

use std::sync::OnceLock;

use crate::metrics::Counter;

/// Names that are told apart; the others share the last place.
const NAMES_MAX: usize = 64;

/// The label of what has no place of its own.
pub(super) const OTHER: &str = "other";

/// Counts by name, for one thread to write. A name finds its place the first time it is counted;
/// counting it again compares names until it is found, which is what a refused request pays, and
/// each step while StatsD is on.
#[derive(Debug)]
pub struct Named {
    places: [Place; NAMES_MAX],
    other: Place,
}

#[derive(Debug, Default)]
struct Place {
    name: OnceLock<&'static str>,
    count: Counter,
    sum_us: Counter,
}

impl Default for Named {
    fn default() -> Self {
        Self {
            places: std::array::from_fn(|_| Place::default()),
            other: Place::default(),
        }
    }
}

impl Named {
    /// Counts a name. For the writing thread alone.
    pub fn count(&self, name: &'static str) {
        self.place(name).count.count();
    }

    /// Counts a name and how long it took, in microseconds. For the writing thread alone.
    pub fn took(&self, name: &'static str, us: u64) {
        let place = self.place(name);
        place.count.count();
        place.sum_us.add(us);
    }

    fn place(&self, name: &'static str) -> &Place {
        self.places
            .iter()
            .find(|place| *place.name.get_or_init(|| name) == name)
            .unwrap_or(&self.other)
    }

    /// Names, how often they were counted and how long they took; what has no place is last.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64, u64)> {
        let known = self.places.iter().map_while(|place| {
            let name = place.name.get()?;
            Some((*name, place))
        });
        known
            .chain([(OTHER, &self.other)])
            .map(|(name, place)| (name, place.count.value(), place.sum_us.value()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_place() {
        let named = Named::default();
        for name in ["a", "b", "a"] {
            named.count(name);
        }
        named.took("b", 7);
        let all: Vec<_> = named.all().collect();
        assert_eq!(all, [("a", 2, 0), ("b", 2, 7), (OTHER, 0, 0)]);
    }

    #[test]
    fn beyond_the_bound_names_share_a_place() {
        let named = Named::default();
        for n in 0..NAMES_MAX + 2 {
            named.count(Box::leak(n.to_string().into()));
        }
        named.count("0");
        assert_eq!(named.all().next(), Some(("0", 2, 0)));
        assert_eq!(named.all().last(), Some((OTHER, 2, 0)));
    }
}
