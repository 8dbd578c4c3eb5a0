//! A chunked body read line by line from the grammar of RFC 9112 §7.1; and the comparison with
//! `penstock::http::h1::chunked::Decoder`.

use penstock::http::h1::{
    Limits,
    chunked::{Decoder, Event, TRAILERS_ALLOWED},
};

use super::h1_request::{is_token, trim};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// More bytes are needed; the content so far.
    Partial(Vec<u8>),
    Refused,
    Complete {
        content: Vec<u8>,
        trailers: Vec<u8>,
        len: usize,
    },
}

/// Panics when the decoder and [`slow`] differ on `data`, whole or in portions, within wide limits
/// or narrow ones.
pub fn check(data: &[u8]) {
    let narrow = Limits {
        chunk_extension_bytes_max: 12,
        trailer_bytes_max: 40,
        trailer_fields_max: 2,
        ..Limits::default()
    };
    for limits in [Limits::default(), narrow] {
        let expected = slow(data, &limits);
        let whole = fast(data, data.len(), &limits);
        match (&whole, &expected) {
            (Verdict::Refused, Verdict::Partial(_)) => refusal_was_certain(data, &limits),
            _ => assert_eq!(whole, expected),
        }
        let portion = 1 + data.len() / (1 + data.len() % 7);
        assert_eq!(
            fast(data, portion, &limits),
            whole,
            "in portions of {portion}"
        );
    }
}

/// The decoder may refuse a line that has not ended: then no end of it may make it right.
fn refusal_was_certain(data: &[u8], limits: &Limits) {
    for end in [
        "\r\n", "\n", "0\r\n", "a\r\n", "\"\r\n", "a\"\r\n", ":\r\n", "a:\r\n", "=a\r\n",
    ] {
        let longer = [data, end.as_bytes()].concat();
        let verdict = slow(&longer, limits);
        assert_eq!(
            verdict,
            Verdict::Refused,
            "refused too early, before {end:?}"
        );
    }
}

fn fast(data: &[u8], portion: usize, limits: &Limits) -> Verdict {
    let mut decoder = Decoder::default();
    let mut content = Vec::new();
    let mut at = 0;
    for input in data.chunks(portion.max(1)) {
        let mut rest = input;
        loop {
            match decoder.next(rest, limits) {
                Err(refusal) => {
                    assert!(matches!(refusal.status, 400 | 431));
                    return Verdict::Refused;
                }
                Ok(Event::Data { skip, len }) => {
                    assert!(len > 0);
                    content.extend_from_slice(&rest[skip..skip + len]);
                    rest = &rest[skip + len..];
                    at += skip + len;
                }
                Ok(Event::NeedMore { consumed }) => {
                    assert_eq!(consumed, rest.len());
                    at += consumed;
                    break;
                }
                Ok(Event::End { consumed }) => {
                    assert_eq!(decoder.next(b"x", limits), Ok(Event::End { consumed: 0 }));
                    return Verdict::Complete {
                        content,
                        trailers: decoder.trailers().to_vec(),
                        len: at + consumed,
                    };
                }
            }
        }
    }
    Verdict::Partial(content)
}

/// The second opinion.
pub fn slow(data: &[u8], limits: &Limits) -> Verdict {
    let mut content = Vec::new();
    let mut extension_bytes = 0;
    let mut at = 0;
    loop {
        let Some(line) = line(&data[at..]) else {
            return Verdict::Partial(content);
        };
        let Some(line) = line else {
            return Verdict::Refused;
        };
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let (size, extensions) = line.split_at(digits);
        if digits == 0 || digits > 16 || !are_extensions(extensions) {
            return Verdict::Refused;
        }
        extension_bytes += extensions.len();
        if extension_bytes > limits.chunk_extension_bytes_max {
            return Verdict::Refused;
        }
        let size = u64::from_str_radix(std::str::from_utf8(size).unwrap(), 16).unwrap();
        at += line.len() + 2;
        if size == 0 {
            break;
        }
        let here = (data.len() - at) as u64;
        let len = size.min(here) as usize;
        content.extend_from_slice(&data[at..at + len]);
        at += len;
        if size >= here {
            return Verdict::Partial(content);
        }
        match &data[at..] {
            [b'\r', b'\n', ..] => at += 2,
            [b'\r'] => return Verdict::Partial(content),
            _ => return Verdict::Refused,
        }
    }
    let start = at;
    let mut trailers = Vec::new();
    let mut count = 0;
    loop {
        let Some(line) = line(&data[at..]) else {
            return Verdict::Partial(content);
        };
        let Some(line) = line else {
            return Verdict::Refused;
        };
        at += line.len() + 2;
        if at - start > limits.trailer_bytes_max {
            return Verdict::Refused;
        }
        if line.is_empty() {
            return Verdict::Complete {
                content,
                trailers,
                len: at,
            };
        }
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            return Verdict::Refused;
        };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let is_sound = |&byte: &u8| byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
        count += 1;
        if !is_token(name) || !value.iter().all(is_sound) || count > limits.trailer_fields_max {
            return Verdict::Refused;
        }
        let name_text = String::from_utf8_lossy(name).to_lowercase();
        if TRAILERS_ALLOWED.contains(&name_text.as_str()) {
            trailers.extend_from_slice(&[name, b": ", trim(value), b"\r\n"].concat());
        }
    }
}

/// The line at the start of `data`: not ended yet, ended in another way than by CRLF, or sound.
#[allow(clippy::option_option, reason = "whether it ended, and with what")]
fn line(data: &[u8]) -> Option<Option<&[u8]>> {
    let end = data.iter().position(|&byte| byte == b'\n')?;
    Some(data[..end].strip_suffix(b"\r"))
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`
fn are_extensions(text: &[u8]) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let Some(behind) = start(rest).strip_prefix(b";") else {
            return false;
        };
        let (name, behind) = token(start(behind));
        if name.is_empty() {
            return false;
        }
        rest = behind;
        if let Some(value) = start(behind).strip_prefix(b"=") {
            let value = start(value);
            let after = match value.strip_prefix(b"\"") {
                Some(quoted) => match quoted_string(quoted) {
                    Some(after) => after,
                    None => return false,
                },
                None => match token(value) {
                    ([], _) => return false,
                    (_, after) => after,
                },
            };
            rest = after;
        }
    }
    true
}

/// Without whitespace in front.
fn start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

fn token(text: &[u8]) -> (&[u8], &[u8]) {
    let len = (0..text.len())
        .take_while(|&i| is_token(&text[i..=i]))
        .count();
    text.split_at(len)
}

/// What stands behind the closing quote.
fn quoted_string(mut text: &[u8]) -> Option<&[u8]> {
    let is_text = |byte: u8| byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
    loop {
        text = match text {
            [b'"', rest @ ..] => return Some(rest),
            [b'\\', byte, rest @ ..] if is_text(*byte) => rest,
            [b'\\', ..] => return None,
            [byte, rest @ ..] if is_text(*byte) => rest,
            _ => return None,
        }
    }
}
