//! What the fields of a head say about the end of the content and about the connection.
//!
//! RFC 9112 §6 and §9, with no leniency: the one place where two readers of the same bytes must
//! never differ. Shared by requests and responses.

use super::{Field, FieldName, Fields, Framing, Span, Stop, refuse};

/// The names that [`declared`] and [`Connection::read`] look at.
pub(super) const NAMES: u64 = FieldName::ContentLength.bit()
    | FieldName::TransferEncoding.bit()
    | FieldName::Connection.bit()
    | FieldName::Te.bit()
    | FieldName::Upgrade.bit();

/// The framing that Content-Length and Transfer-Encoding declare; `None` when both are absent.
///
/// Errors: 400 for anything but one Content-Length of plain digits or one Transfer-Encoding,
/// 501 for a transfer coding other than `chunked` alone.
pub(super) fn declared(fields: &Fields, buf: &[u8], version_minor: u8) -> Result<Framing, Stop> {
    let length = fields.value(FieldName::ContentLength);
    let coding = fields.value(FieldName::TransferEncoding);
    match (length, coding) {
        (None, None) => Ok(Framing::None),
        // RFC 9112 §6.1: such a message "ought to be handled as an error".
        (Some(_), Some(_)) => Err(refuse(400, "Content-Length with Transfer-Encoding")),
        (Some(_), None) if fields.has_twice(FieldName::ContentLength) => {
            Err(refuse(400, "more than one Content-Length"))
        }
        (Some(length), None) => match content_length(length.of(buf)) {
            Some(length) => Ok(Framing::Length(length)),
            None => Err(refuse(400, "Content-Length is not a number")),
        },
        // RFC 9112 §6.1: Transfer-Encoding in HTTP/1.0 means faulty framing.
        (None, Some(_)) if version_minor == 0 => Err(refuse(400, "Transfer-Encoding in HTTP/1.0")),
        (None, Some(_)) if fields.has_twice(FieldName::TransferEncoding) => {
            Err(refuse(400, "more than one Transfer-Encoding"))
        }
        (None, Some(coding)) if coding.of(buf).eq_ignore_ascii_case(b"chunked") => {
            Ok(Framing::Chunked)
        }
        // RFC 9112 §6.1: a transfer coding that the server does not understand → 501.
        (None, Some(_)) => Err(refuse(501, "transfer coding other than chunked")),
    }
}

/// Digits alone, no leading zero, at most 2^63 - 1: readers that take a zero for octal, a sign
/// for part of the number, or wrap around, agree on all of these.
fn content_length(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || (text.len() > 1 && text.first() == Some(&b'0')) {
        return None;
    }
    let mut length = 0u64;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        length = length * 10 + u64::from(digit);
    }
    i64::try_from(length).ok().map(|_| length)
}

/// What Connection, Te and Upgrade say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) keep_alive: bool,
    /// Value of Upgrade, when Connection lists `upgrade` and there is one such field.
    pub(super) upgrade: Option<Span>,
    pub(super) te_trailers: bool,
}

impl Connection {
    /// Options other than `close`, `keep-alive` and `upgrade` go into `options`.
    pub(super) fn read(
        fields: &Fields,
        buf: &[u8],
        version_minor: u8,
        options: &mut Vec<Span>,
    ) -> Self {
        let mut close = false;
        let mut keep_alive = false;
        let mut upgrade = false;
        for field in fields.all(FieldName::Connection) {
            for option in list(field, buf) {
                let text = option.of(buf);
                if text.eq_ignore_ascii_case(b"keep-alive") {
                    keep_alive = true;
                } else if text.eq_ignore_ascii_case(b"close") {
                    close = true;
                } else if text.eq_ignore_ascii_case(b"upgrade") {
                    upgrade = true;
                } else {
                    options.push(option);
                }
            }
        }
        // RFC 9110 §7.8: Upgrade in HTTP/1.0 is ignored. Two fields leave open which one counts.
        let upgrade = upgrade && version_minor > 0 && !fields.has_twice(FieldName::Upgrade);
        Self {
            // RFC 9112 §9.3: close wins; HTTP/1.0 persists on request only.
            keep_alive: !close && (keep_alive || version_minor > 0),
            upgrade: fields.value(FieldName::Upgrade).filter(|_| upgrade),
            te_trailers: fields
                .all(FieldName::Te)
                .any(|te| list(te, buf).any(|t| t.of(buf).eq_ignore_ascii_case(b"trailers"))),
        }
    }
}

/// The elements of a comma-separated value, without whitespace and without empty ones
/// (RFC 9110 §5.6.1).
fn list<'a>(field: &Field, buf: &'a [u8]) -> impl Iterator<Item = Span> + 'a {
    let value = field.value;
    let mut at = value.at as usize;
    value
        .of(buf)
        .split(|&byte| byte == b',')
        .filter_map(move |element| {
            let start = at;
            at += element.len() + 1;
            let before = element.len() - element.trim_ascii_start().len();
            let text = element.trim_ascii();
            (!text.is_empty()).then(|| Span::new(start + before, start + before + text.len()))
        })
}
