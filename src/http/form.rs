//! `application/x-www-form-urlencoded`, as queries have it.
//!
//! Go: `net/url` (`ParseQuery`, `Values.Encode`, `QueryEscape`).

use std::borrow::Cow;

/// Name and value of each pair, decoded, in order. An escape that is none stays as it is.
pub fn pairs(query: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    query
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = pair.split_at(at.unwrap_or(pair.len()));
            (decode(name), decode(value.get(1..).unwrap_or_default()))
        })
}

/// The first value of a parameter.
#[must_use]
pub fn value<'a>(query: &'a [u8], name: &[u8]) -> Option<Cow<'a, [u8]>> {
    pairs(query).find_map(|(key, value)| (*key == *name).then_some(value))
}

/// The query without a parameter, written anew as Go does: names sorted, values of one name in
/// their order. `None` when it has no such parameter.
#[must_use]
pub fn without(query: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let mut kept: Vec<_> = pairs(query).collect();
    let before = kept.len();
    kept.retain(|(key, _)| **key != *name);
    if kept.len() == before {
        return None;
    }
    kept.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut out = Vec::with_capacity(query.len());
    for (key, value) in &kept {
        if !out.is_empty() {
            out.push(b'&');
        }
        encode(&mut out, key);
        out.push(b'=');
        encode(&mut out, value);
    }
    Some(out)
}

/// Undoes percent-encoding, and `+` for a space.
#[must_use]
pub fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        out.push(match (first, behind) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                match (digit(high), digit(low)) {
                    (Some(high), Some(low)) => {
                        rest = after;
                        (high * 16 + low) as u8
                    }
                    _ => b'%',
                }
            }
            _ => *first,
        });
    }
    Cow::Owned(out)
}

/// Appends `text` so that [`decode`] gives it back.
pub fn encode(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(*byte),
            b' ' => out.push(b'+'),
            _ => {
                out.push(b'%');
                out.extend([byte >> 4, byte & 15].map(|digit| match digit {
                    0..=9 => b'0' + digit,
                    _ => b'A' + digit - 10,
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, name: &str, first: Option<&str>, rest: Option<&str>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let found = value(query.as_bytes(), name.as_bytes());
        assert_eq!(found.map(|value| text(&value)).as_deref(), first);
        let left = without(query.as_bytes(), name.as_bytes());
        assert_eq!(left.map(|query| text(&query)).as_deref(), rest);
    }

    #[test]
    fn a_parameter_is_found_and_taken_out() {
        check("token=t&a=1", "token", Some("t"), Some("a=1"));
        check(
            "b=2&token=t&a=1&b=1",
            "token",
            Some("t"),
            Some("a=1&b=2&b=1"),
        );
        check("a=1", "token", None, None);
        check("", "token", None, None);
        check(
            "to%6ben=a%20b&x=%2F+y",
            "token",
            Some("a b"),
            Some("x=%2F+y"),
        );
        check("token&token=2", "token", Some(""), Some(""));
        check("token=%zz%4", "token", Some("%zz%4"), Some(""));
    }
}
