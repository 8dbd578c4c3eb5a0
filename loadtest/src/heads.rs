//! Request heads of a generator: always the same one, or one that names another key each time.

use std::ops::Range;

use crate::{keys, rng::Rng};

/// Gives the head of each request, as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Heads {
    bytes: Vec<u8>,
    /// Where the digits of the key stand, when there is more than one.
    digits: Option<Range<usize>>,
    count: u64,
    rng: Rng,
}

impl Heads {
    pub fn fixed(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            digits: None,
            count: 1,
            rng: Rng::from_seed(0),
        }
    }

    /// `bytes` name the first key; each request draws one of `count`, with equal chances.
    pub fn drawn(bytes: Vec<u8>, count: u32, seed: u64) -> Self {
        let first = keys::name(0);
        let found = bytes
            .windows(first.len())
            .position(|window| window == first.as_bytes());
        let digits = found
            .filter(|_| count > 1)
            .map(|at| at + first.len() - 6..at + first.len());
        Self {
            bytes,
            digits,
            count: u64::from(count),
            rng: Rng::from_seed(seed),
        }
    }

    #[inline]
    pub fn next(&mut self) -> &[u8] {
        if let Some(digits) = self.digits.clone() {
            let mut left = self.rng.below(self.count);
            for digit in self.bytes[digits].iter_mut().rev() {
                *digit = b'0' + (left % 10) as u8;
                left /= 10;
            }
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_drawn_and_nothing_else_changes() {
        let mut heads = Heads::drawn(b"Authorization: loadkey-000000\r\n".to_vec(), 12, 1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let text = String::from_utf8(heads.next().to_vec()).unwrap();
            let number = text
                .strip_prefix("Authorization: loadkey-")
                .and_then(|rest| rest.strip_suffix("\r\n"))
                .unwrap();
            assert_eq!(number.len(), 6);
            seen.insert(number.parse::<u32>().unwrap());
        }
        assert_eq!(seen, (0..12).collect());
    }

    #[test]
    fn one_key_needs_no_drawing() {
        let wire = b"Authorization: loadkey-000000\r\n".to_vec();
        assert_eq!(Heads::drawn(wire.clone(), 1, 1).next(), wire);
        assert_eq!(Heads::fixed(wire.clone()).next(), wire);
    }
}
