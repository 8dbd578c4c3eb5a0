//! Finding the byte that ends a run, eight bytes at a time, in safe code.
//!
//! A word holds eight bytes, little-endian; a class of bytes is a word with the top bit of every
//! lane set that belongs to it. Reads past the end of the buffer give zeros, which every search
//! takes for its end: a result at or past `buf.len()` means that the buffer ran out.
//!
//! Classes marked *lowest* are right up to and including their first lane; a borrow may set
//! lanes above it. That is enough to find the first, and costs half of an exact one. Classes marked
//! *rough* also take in bytes from 0x80 on: whoever uses one looks at the byte that it found.

#![allow(
    clippy::needless_bitwise_bool,
    reason = "without branches the compiler makes vectors of these"
)]

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

/// Lowest: controls (TAB too) and DEL.
#[inline(always)]
const fn controls(word: u64) -> u64 {
    below(word, 0x20) | equal(word, 0x7f)
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

/// The lanes below `len` (1..=8) are all of [`plain_token`].
#[inline(always)]
pub(super) const fn is_plain_token(word: u64, len: usize) -> bool {
    !plain_token(word) & TOPS & (u64::MAX >> (64 - 8 * len)) == 0
}

/// The first `len` (1..=16) bytes at `at` are all of [`plain_token`].
#[inline(always)]
pub(super) fn is_plain_block(buf: &[u8], at: usize, len: usize) -> bool {
    match buf.get(at..).and_then(<[u8]>::first_chunk::<16>) {
        // One fold without a branch: see `skip`.
        Some(block) => {
            let mut all = true;
            for (lane, &byte) in (0u8..).zip(block) {
                let letter = (byte | 0x20).wrapping_sub(b'a') < 26;
                let digit = byte.wrapping_sub(b'0') < 10;
                let mark = (byte == b'-') | (byte == b'_');
                all &= letter | digit | mark | (lane >= len as u8);
            }
            all
        }
        None => {
            is_plain_token(load(buf, at), len.min(8))
                && (len <= 8 || is_plain_token(load(buf, at + 8), len - 8))
        }
    }
}

/// Rough, lowest: lanes equal to `byte`, which is below 0x80.
#[inline(always)]
pub(super) const fn equal_or_high(word: u64, byte: u8) -> u64 {
    (word ^ (byte as u64 * ONES)).wrapping_sub(ONES) & TOPS
}

/// The byte in the first lane of `class`, which is not empty.
#[inline(always)]
pub(super) const fn byte_at(word: u64, class: u64) -> u8 {
    (word >> (class.trailing_zeros() & 0x38)) as u8
}

/// The 24 bytes from `at`, zeros where the buffer has ended.
#[inline(always)]
pub(super) fn load_three(buf: &[u8], at: usize) -> [u64; 3] {
    let block = buf.get(at..).and_then(<[u8]>::first_chunk::<24>);
    match block.map(|block| block.as_chunks::<8>().0) {
        Some([low, mid, high]) => [
            u64::from_le_bytes(*low),
            u64::from_le_bytes(*mid),
            u64::from_le_bytes(*high),
        ],
        _ => load_three_tail(buf, at),
    }
}

#[inline(never)]
fn load_three_tail(buf: &[u8], at: usize) -> [u64; 3] {
    [load(buf, at), load(buf, at + 8), load(buf, at + 16)]
}

/// First byte at or after `at` that is a control (TAB too), DEL, or perhaps of 0x80 and more.
///
/// Cost: nine instructions for eight bytes of ordinary text; long texts go on in blocks.
#[inline(always)]
pub(super) fn unprintable(buf: &[u8], at: usize) -> usize {
    let rough = |word: u64| (word.wrapping_sub(0x20 * ONES) | word.wrapping_add(ONES)) & TOPS;
    let mut rest = buf.get(at..).unwrap_or_default();
    for _ in 0..LONG_BYTES / 8 {
        let Some((word, behind)) = rest.split_first_chunk::<8>() else {
            let at = buf.len() - rest.len();
            return at + first(controls(load_tail(buf, at)));
        };
        let found = rough(u64::from_le_bytes(*word));
        if found != 0 {
            return buf.len() - rest.len() + first(found);
        }
        rest = behind;
    }
    control(buf, buf.len() - rest.len())
}

/// From this length on, blocks are cheaper than words.
const LONG_BYTES: usize = 48;

/// First byte at or after `at` that is a control (TAB too) or DEL.
#[inline(never)]
pub(super) fn control(buf: &[u8], at: usize) -> usize {
    let mut at = skip(buf, at, |byte| (byte < 0x20) | (byte == 0x7f));
    loop {
        let found = controls(load(buf, at));
        if found != 0 {
            return at + first(found);
        }
        at += 8;
    }
}

/// Steps over blocks of sixteen bytes in which no byte `ends` the run.
///
/// Written as one fold without a branch, so that it becomes a handful of vector instructions.
#[inline(always)]
fn skip(buf: &[u8], at: usize, ends: impl Fn(u8) -> bool) -> usize {
    let mut rest = buf.get(at..).unwrap_or_default();
    let len = rest.len();
    while let Some((block, behind)) = rest.split_first_chunk::<16>() {
        if block.iter().fold(false, |any, &byte| any | ends(byte)) {
            break;
        }
        rest = behind;
    }
    at + (len - rest.len())
}

/// Where the path and the whole of a request target end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    /// First byte that cannot be part of it: space, control or DEL.
    pub(super) end: usize,
    /// First `?`; equal to `end` when there is none.
    pub(super) path_end: usize,
    /// The path has a `%` or a backslash; or perhaps a byte of 0x80 and more.
    pub(super) is_odd: bool,
}

/// Finds the end of the request target that starts at `at`.
#[inline(always)]
pub(super) fn target(buf: &[u8], at: usize) -> Target {
    let is_end = |byte: u8| (byte <= b' ') | (byte == 0x7f) | (byte == b'?');
    let is_odd = |byte: u8| (byte == b'%') | (byte == b'\\');
    let mut found_odd = false;
    let mut rest = buf.get(at..).unwrap_or_default();
    while let Some((block, behind)) = rest.split_first_chunk::<16>() {
        if block.iter().fold(false, |any, &byte| any | is_end(byte)) {
            break;
        }
        found_odd |= block.iter().fold(false, |any, &byte| any | is_odd(byte));
        rest = behind;
    }
    let mut at = buf.len() - rest.len();
    loop {
        let word = load(buf, at);
        let ends = below(word, 0x21) | equal(word, 0x7f) | equal(word, b'?');
        let odd = equal_or_high(word, b'%') | equal_or_high(word, b'\\');
        found_odd |= odd & below_first(ends) != 0;
        if ends == 0 {
            at += 8;
            continue;
        }
        let path_end = at + first(ends);
        return Target {
            end: match byte_at(word, ends) {
                b'?' => target_end(buf, path_end),
                _ => path_end,
            },
            path_end,
            is_odd: found_odd,
        };
    }
}

/// First space, control or DEL at or after `at`.
#[inline(always)]
fn target_end(buf: &[u8], at: usize) -> usize {
    let mut at = skip(buf, at, |byte| (byte <= b' ') | (byte == 0x7f));
    loop {
        let word = load(buf, at);
        let ends = below(word, 0x21) | equal(word, 0x7f);
        if ends != 0 {
            return at + first(ends);
        }
        at += 8;
    }
}

/// All bits below the first lane of `class`; all of them when it is empty.
#[inline(always)]
const fn below_first(class: u64) -> u64 {
    class.wrapping_sub(1) & !class
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
            let path_end = buf[..end].iter().position(|&b| b == b'?').unwrap_or(end);
            let found = target(buf, 0);
            assert_eq!((found.end, found.path_end), (end, path_end), "{text:?}");
            let is_odd = buf[..path_end].iter().any(|b| b"%\\".contains(b));
            assert!(found.is_odd == is_odd || !text.is_ascii(), "{text:?}");
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
