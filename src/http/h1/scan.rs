//! Finding the byte that ends a run, eight bytes at a time, in safe code.
//!
//! A word holds eight bytes, little-endian; a class of bytes is a word with the top bit of every
//! lane set that belongs to it. Reads past the end of the buffer give zeros, which every search
//! takes for its end: a result at or past `buf.len()` means that the buffer ran out.
//!
//! Classes marked *lowest* are right up to and including their first lane; a borrow may set
//! lanes above it. That is enough to find the first, and costs half of an exact one.

const ONES: u64 = 0x0101_0101_0101_0101;
const TOPS: u64 = 0x80 * ONES;

/// Eight bytes from `at`, zeros where the buffer has ended.
#[inline(always)]
pub(super) fn load(buf: &[u8], at: usize) -> u64 {
    match buf.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        Some(word) => u64::from_le_bytes(*word),
        None => load_tail(buf, at),
    }
}

#[inline]
fn load_tail(buf: &[u8], at: usize) -> u64 {
    let left = buf.len().saturating_sub(at);
    if left == 0 {
        return 0;
    }
    match buf.last_chunk::<8>() {
        // The last eight bytes, shifted until the first is the one at `at`.
        Some(word) => u64::from_le_bytes(*word) >> (8 * (8 - left)),
        None => buf
            .iter()
            .skip(at)
            .rev()
            .fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

/// How many lanes lie below the first that is set in `class`; 8 for none.
#[inline(always)]
pub(super) const fn first(class: u64) -> usize {
    class.trailing_zeros() as usize / 8
}

/// All bytes of `word` below lane `len` (1..=8), zeros above.
#[inline(always)]
pub(super) const fn keep(word: u64, len: usize) -> u64 {
    word & u64::MAX >> (64 - 8 * len)
}

/// As [`keep`], for `len` from zero.
#[inline(always)]
pub(super) const fn keep_or_none(word: u64, len: usize) -> u64 {
    match len {
        0 => 0,
        _ => keep(word, len),
    }
}

/// Lowest: lanes equal to `byte`.
#[inline(always)]
pub(super) const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (byte as u64 * ONES), 1)
}

/// Lowest: lanes below `bound` (at most 0x80).
#[inline(always)]
const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(bound as u64 * ONES) & !word & TOPS
}

/// Exact: lanes from `low` to `high` (below 0x80).
#[inline(always)]
const fn within(word: u64, low: u8, high: u8) -> u64 {
    let seven = word & !TOPS;
    let from_low = seven + (0x80 - low as u64) * ONES;
    let past_high = seven + (0x7f - high as u64) * ONES;
    (from_low ^ past_high) & !word & TOPS
}

/// Exact: letters, digits, `-` and `_`, what nearly every field name is made of.
#[inline(always)]
pub(super) const fn plain_token(word: u64) -> u64 {
    let letters = within(word | (0x20 * ONES), b'a', b'z');
    let digits = within(word, b'0', b'9');
    letters | digits | within(word, b'-', b'-') | within(word, b'_', b'_')
}

/// The lanes below `len` are all of [`plain_token`].
#[inline(always)]
pub(super) const fn is_plain_token(word: u64, len: usize) -> bool {
    keep(!plain_token(word) & TOPS, len) == 0
}

/// Lowest: controls (TAB too) and DEL.
#[inline(always)]
const fn controls(word: u64) -> u64 {
    below(word, 0x20) | equal(word, 0x7f)
}

/// First byte at or after `at` that is a control (TAB too) or DEL.
#[inline(always)]
pub(super) fn control(buf: &[u8], mut at: usize) -> usize {
    loop {
        let found = controls(load(buf, at));
        if found != 0 {
            return at + first(found);
        }
        at += 8;
    }
}

/// Where the target of a request line ends, and what is remarkable in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// First byte that cannot be part of it: space, control or DEL.
    pub(super) end: usize,
    /// First `?`; equal to `end` when there is none.
    pub(super) query_at: usize,
    /// A `%` or a backslash occurs (anywhere).
    pub(super) odd: bool,
}

/// Finds the end of the request target that starts at `at`.
#[inline(always)]
pub(super) fn target(buf: &[u8], mut at: usize) -> Target {
    let mut query_at = usize::MAX;
    let mut odds = 0;
    loop {
        let word = load(buf, at);
        let stops = below(word, 0x21) | equal(word, 0x7f);
        // All bits below the first stop; all of them when there is none.
        let before = stops.wrapping_sub(1) & !stops;
        let queries = equal(word, b'?') & before;
        odds |= (equal(word, b'%') | equal(word, b'\\')) & before;
        if queries != 0 && query_at == usize::MAX {
            query_at = at + first(queries);
        }
        if stops != 0 {
            let end = at + first(stops);
            return Target {
                end,
                query_at: query_at.min(end),
                odd: odds != 0,
            };
        }
        at += 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words with every byte in every lane among different neighbours.
    fn words() -> impl Iterator<Item = [u8; 8]> {
        let fillers = [0u8, 0x1f, b' ', b'a', b':', 0x7e, 0x7f, 0x80, 0xff];
        fillers.into_iter().flat_map(|filler| {
            (0..8).flat_map(move |lane| {
                (0..=255u8).map(move |byte| {
                    let mut bytes = [filler; 8];
                    bytes[lane] = byte;
                    bytes
                })
            })
        })
    }

    #[test]
    fn the_first_lane_of_a_class_is_the_first_byte_of_it() {
        #[track_caller]
        fn check(class: impl Fn(u64) -> u64, of: impl Fn(u8) -> bool) {
            for bytes in words() {
                let expected = bytes.iter().position(|&b| of(b)).unwrap_or(8);
                assert_eq!(
                    first(class(u64::from_le_bytes(bytes))),
                    expected,
                    "{bytes:?}"
                );
            }
        }
        check(controls, |b| b < 0x20 || b == 0x7f);
        check(|w| below(w, 0x21), |b| b < 0x21);
        check(|w| equal(w, b':'), |b| b == b':');
        check(|w| equal(w, 0), |b| b == 0);
    }

    #[test]
    fn plain_tokens_are_told_in_every_lane() {
        for bytes in words() {
            let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            for len in 1..=8 {
                let word = u64::from_le_bytes(bytes);
                assert_eq!(
                    is_plain_token(word, len),
                    bytes[..len].iter().all(plain),
                    "{bytes:?}"
                );
            }
        }
    }

    #[test]
    fn a_load_at_any_place_gives_the_bytes_and_then_zeros() {
        let bytes: Vec<u8> = (1..=24).collect();
        for len in 0..=bytes.len() {
            for at in 0..=len + 3 {
                let mut expected = [0u8; 8];
                for (i, slot) in expected.iter_mut().enumerate() {
                    *slot = bytes[..len].get(at + i).copied().unwrap_or(0);
                }
                assert_eq!(load(&bytes[..len], at).to_le_bytes(), expected);
            }
        }
    }

    #[test]
    fn a_target_ends_where_a_byte_loop_says() {
        #[track_caller]
        fn check(text: &str) {
            let buf = text.as_bytes();
            let end = buf
                .iter()
                .position(|&b| b <= b' ' || b == 0x7f)
                .unwrap_or(buf.len());
            let inside = &buf[..end];
            let expected = Target {
                end,
                query_at: inside.iter().position(|&b| b == b'?').unwrap_or(end),
                odd: inside.iter().any(|b| b"%\\".contains(b)),
            };
            assert_eq!(target(buf, 0), expected, "{text:?}");
        }
        for n in 0..40 {
            let fill = "a".repeat(n);
            for tail in ["", " ", "?", "?x?y z?%", "% ", "\\", " %", "?\r", "é?"] {
                check(&format!("{fill}{tail}"));
                check(&format!("{fill}{tail}{fill}"));
            }
        }
    }
}
