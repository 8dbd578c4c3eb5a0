//! Protocol Buffers, writing only: the wire format of proto3.
//!
//! Fields that hold their zero value are left out, as every encoder of proto3 does; the functions
//! named after a wire type alone ([`varint`], [`tag`]) write whatever they are given.

use std::borrow::Cow;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const LENGTH: u32 = 2;

/// The number of a field with its wire type.
pub fn tag(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    varint(out, (field << 3 | wire_type).into());
}

/// Seven bits per byte, the lowest first.
pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// `int32`, `int64`, `uint32`, `enum` and `bool`: negative numbers take ten bytes.
pub fn int(out: &mut Vec<u8>, field: u32, value: i64) {
    if value != 0 {
        tag(out, field, VARINT);
        varint(out, value as u64);
    }
}

/// `fixed64`.
pub fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        tag(out, field, FIXED64);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// `double`.
pub fn double(out: &mut Vec<u8>, field: u32, value: f64) {
    fixed64(out, field, value.to_bits());
}

/// `bytes`.
pub fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        whole(out, field, value);
    }
}

/// `string`. What is no UTF-8 becomes U+FFFD: a decoder would refuse the message.
pub fn text(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    bytes(out, field, readable(value).as_bytes());
}

/// An element of a repeated `string`, or one inside a `oneof` or map entry: written empty too.
pub fn element(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    whole(out, field, readable(value).as_bytes());
}

/// Asks first, because what asks is far faster than what repairs.
fn readable(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(value),
    }
}

/// A message that has been written already, empty or not.
pub fn whole(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    tag(out, field, LENGTH);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A message, empty or not.
pub fn message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    tag(out, field, LENGTH);
    // Most lengths take one byte; a longer one moves what was written.
    let at = out.len();
    out.push(0);
    write(out);
    let length = out.len() - at - 1;
    match out.get_mut(at) {
        Some(place) if length < 0x80 => *place = length as u8,
        _ => {
            let mut prefix = Vec::with_capacity(4);
            varint(&mut prefix, length as u64);
            out.splice(at..=at, prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(write: impl FnOnce(&mut Vec<u8>), expected: &[u8]) {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn fields_are_written_as_the_encoding_guide_says() {
        check(|out| int(out, 1, 150), b"\x08\x96\x01");
        check(|out| int(out, 1, 0), b"");
        check(
            |out| int(out, 16, -1),
            b"\x80\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        );
        check(|out| text(out, 2, b"testing"), b"\x12\x07testing");
        check(|out| text(out, 2, b""), b"");
        check(|out| element(out, 2, b""), b"\x12\0");
        check(|out| text(out, 2, b"\xff"), b"\x12\x03\xef\xbf\xbd");
        check(
            |out| message(out, 3, |out| int(out, 1, 150)),
            b"\x1a\x03\x08\x96\x01",
        );
        check(|out| message(out, 3, |_| {}), b"\x1a\0");
        check(|out| fixed64(out, 1, 1), b"\x09\x01\0\0\0\0\0\0\0");
        check(|out| double(out, 1, 1.0), b"\x09\0\0\0\0\0\0\xf0\x3f");
        check(|out| double(out, 1, 0.0), b"");
    }

    #[test]
    fn long_messages_have_long_lengths() {
        for length in [127, 128, 16_383, 16_384] {
            let mut expected = vec![0x0a];
            varint(&mut expected, length);
            expected.resize(expected.len() + length as usize, 7);
            check(
                |out| message(out, 1, |out| out.resize(out.len() + length as usize, 7)),
                &expected,
            );
        }
    }
}
