//! Go's nil-able lists and maps, and how Go prints numbers: the pieces that make a definition print
//! as Tyk prints it.
//!
//! Go tells a nil slice (`null`) from an empty one (`[]`), and Tyk clients see the difference.

use std::{collections::BTreeMap, ops::Deref};

use serde::{Deserialize, Serialize, Serializer};

/// A list that reads as empty when absent and prints as `null` then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct List<T>(Option<Vec<T>>);

impl<T> List<T> {
    /// Absent, not merely empty.
    #[must_use]
    pub const fn is_nil(&self) -> bool {
        self.0.is_none()
    }

    /// No element, absent or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(Vec::is_empty)
    }

    pub fn push(&mut self, value: T) {
        self.0.get_or_insert_default().push(value);
    }

    /// The elements, to change in place; the list is no longer absent afterwards.
    pub fn as_mut_vec(&mut self) -> &mut Vec<T> {
        self.0.get_or_insert_default()
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Deref for List<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(values: Vec<T>) -> Self {
        Self(Some(values))
    }
}

impl<'a, T> IntoIterator for &'a List<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A map with text keys that reads as empty when absent and prints as `null` then. Sorted by key,
/// as Go prints maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Map<V>(Option<BTreeMap<String, V>>);

impl<V> Map<V> {
    /// Absent, not merely empty.
    #[must_use]
    pub const fn is_nil(&self) -> bool {
        self.0.is_none()
    }

    /// No entry, absent or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(BTreeMap::is_empty)
    }

    pub fn insert(&mut self, key: String, value: V) -> Option<V> {
        self.0.get_or_insert_default().insert(key, value)
    }

    pub fn remove(&mut self, key: &str) -> Option<V> {
        self.0.as_mut()?.remove(key)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut V> {
        self.0.as_mut()?.get_mut(key)
    }

    /// The values, to change in place; an absent map stays absent.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.0.iter_mut().flat_map(BTreeMap::values_mut)
    }

    /// The entries, to change in place; the map is no longer absent afterwards.
    pub fn as_mut_map(&mut self) -> &mut BTreeMap<String, V> {
        self.0.get_or_insert_default()
    }
}

impl<V: 'static> Map<V> {
    const EMPTY: &'static BTreeMap<String, V> = &BTreeMap::new();
}

impl<V> Default for Map<V> {
    fn default() -> Self {
        Self(None)
    }
}

impl<V: 'static> Deref for Map<V> {
    type Target = BTreeMap<String, V>;

    fn deref(&self) -> &BTreeMap<String, V> {
        self.0.as_ref().unwrap_or(Self::EMPTY)
    }
}

impl<V> From<BTreeMap<String, V>> for Map<V> {
    fn from(values: BTreeMap<String, V>) -> Self {
        Self(Some(values))
    }
}

impl<'a, V: 'static> IntoIterator for &'a Map<V> {
    type Item = (&'a String, &'a V);
    type IntoIter = std::collections::btree_map::Iter<'a, String, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Prints a float as Go does: whole numbers without a fraction.
#[expect(
    clippy::cast_possible_truncation,
    reason = "only whole numbers below 2^53 are cast"
)]
pub(crate) fn go_float<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < WHOLE_MAX {
        to.serialize_i64(*value as i64)
    } else {
        to.serialize_f64(*value)
    }
}

/// For `omitempty` on a boolean.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
pub(crate) const fn is_false(value: &bool) -> bool {
    !*value
}
