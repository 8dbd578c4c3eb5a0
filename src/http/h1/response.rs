//! Response heads (RFC 9112 §4 and §5), as strict as request heads with one leniency: the space
//! behind the status code may be missing.
//!
//! An upstream that frames its answer in two ways is as dangerous as a client that does: the rest
//! of its bytes would become the answer to somebody else's request.

use super::{
    Fields, Framing, Limits, Progress, Refusal, Span, Stop,
    field::line_end,
    framing::{self, Connection},
    refuse,
    request::{HEAD_BYTES_CAP, fields_max, has_end},
};

/// One response head as ranges of the buffer it was parsed from. Reusable: its lists keep their
/// capacity. Of no meaning until [`ResponseHead::parse`] has returned [`Progress::Complete`].
#[derive(Debug, Clone, Default)]
pub struct ResponseHead {
    /// 100..=999.
    pub status: u16,
    /// 0 or 1.
    pub version_minor: u8,
    /// May be empty.
    pub reason: Span,
    pub fields: Fields,
    /// [`Framing::None`] for an answer to HEAD, 1xx, 204 and 304, whatever the fields say.
    pub framing: Framing,
    /// The upstream allows another request on this connection.
    pub keep_alive: bool,
    /// The value of Upgrade, when Connection lists `upgrade`.
    pub upgrade: Option<Span>,
    /// Names in Connection besides `close`, `keep-alive` and `upgrade`: fields to be dropped.
    pub connection_options: Vec<Span>,
    /// Bytes of the head.
    pub len: usize,
}

impl ResponseHead {
    /// Parses the head at the start of `buf`; `scanned` as for
    /// [`RequestHead::parse`](super::RequestHead::parse).
    ///
    /// Errors: 502 for everything, with the reason.
    pub fn parse(
        &mut self,
        buf: &[u8],
        scanned: &mut usize,
        limits: &Limits,
        request_is_head: bool,
    ) -> Result<Progress, Refusal> {
        let head_max = limits.head_bytes_max.min(HEAD_BYTES_CAP);
        let window = buf.get(..head_max).unwrap_or(buf);
        let outcome = match *scanned > 0 {
            true => self.resume(window, *scanned, limits, request_is_head),
            false => self.read(window, limits, request_is_head),
        };
        let why = match outcome {
            Ok(()) => return Ok(Progress::Complete),
            Err(Stop::Refused(refusal)) => refusal.why,
            Err(Stop::Partial) if buf.len() >= head_max => "head too large",
            Err(Stop::Partial) => {
                *scanned = buf.len();
                return Ok(Progress::Partial);
            }
        };
        Err(Refusal { status: 502, why })
    }

    /// 1xx: another head follows; except 101, behind which HTTP ends.
    #[inline]
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// Connection names this field, which makes it hop-by-hop (RFC 9110 §7.6.1).
    #[inline]
    #[must_use]
    pub fn is_connection_option(&self, buf: &[u8], name: &[u8]) -> bool {
        !self.connection_options.is_empty()
            && self
                .connection_options
                .iter()
                .any(|option| option.of(buf).eq_ignore_ascii_case(name))
    }

    #[inline(never)]
    fn resume(
        &mut self,
        buf: &[u8],
        scanned: usize,
        limits: &Limits,
        request_is_head: bool,
    ) -> Result<(), Stop> {
        match has_end(buf, scanned)? {
            true => self.read(buf, limits, request_is_head),
            false => Err(Stop::Partial),
        }
    }

    #[inline]
    fn read(&mut self, buf: &[u8], limits: &Limits, request_is_head: bool) -> Result<(), Stop> {
        let fields_at = self.read_line(buf)?;
        self.fields.clear();
        self.len = self.fields.read(buf, fields_at, fields_max(limits))?;
        self.framing = Framing::None;
        self.keep_alive = self.version_minor > 0;
        self.upgrade = None;
        self.connection_options.clear();
        if self.fields.has_any(framing::NAMES) {
            self.framing = framing::declared(&self.fields, buf, self.version_minor)?;
            let options = &mut self.connection_options;
            let connection = Connection::read(&self.fields, buf, self.version_minor, options);
            self.keep_alive = connection.keep_alive;
            self.upgrade = connection.upgrade;
        }
        // RFC 9112 §6.3, rules 1, 2 and 8.
        if request_is_head || self.status < 200 || matches!(self.status, 204 | 304) {
            self.framing = Framing::None;
        } else if self.framing == Framing::None {
            self.framing = Framing::UntilClose;
            self.keep_alive = false;
        }
        Ok(())
    }

    /// RFC 9112 §4: `HTTP-version SP status-code SP [reason-phrase] CRLF`.
    #[inline(always)]
    fn read_line(&mut self, buf: &[u8]) -> Result<usize, Stop> {
        let Some(
            &[
                b'H',
                b'T',
                b'T',
                b'P',
                b'/',
                b'1',
                b'.',
                minor,
                b' ',
                a,
                b,
                c,
                behind,
            ],
        ) = buf.first_chunk::<13>()
        else {
            return Err(unsound_line(buf));
        };
        let digits = [minor, a, b, c].map(|byte| byte.wrapping_sub(b'0'));
        let [minor, a, b, c] = digits;
        if minor > 1 || a == 0 || a.max(b).max(c) > 9 || !matches!(behind, b' ' | b'\r') {
            return Err(unsound_line(buf));
        }
        self.version_minor = minor;
        self.status = u16::from(a) * 100 + u16::from(b) * 10 + u16::from(c);
        let reason_at = match behind {
            b' ' => 13,
            _ => 12,
        };
        let end = line_end(buf, reason_at)?;
        self.reason = Span::new(reason_at, end);
        Ok(end + 2)
    }
}

/// Tells a status line that has not come whole from one that is wrong.
#[inline(never)]
fn unsound_line(buf: &[u8]) -> Stop {
    for (i, expected) in b"HTTP/1.v sdd ".iter().enumerate() {
        let fits = match (buf.get(i), expected) {
            (None, _) => return Stop::Partial,
            (Some(byte), b'v') => matches!(byte, b'0' | b'1'),
            (Some(byte), b's') => matches!(byte, b'1'..=b'9'),
            (Some(byte), b'd') => byte.is_ascii_digit(),
            (Some(byte), _) if i == 12 => matches!(byte, b' ' | b'\r'),
            (Some(byte), _) => byte == expected,
        };
        if !fits {
            return refuse(502, "malformed status line");
        }
    }
    Stop::Partial
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h1::FieldName;

    const LIMITS: Limits = Limits {
        request_line_bytes_max: 64,
        head_bytes_max: 160,
        fields_max: 3,
        trailer_bytes_max: 0,
        trailer_fields_max: 0,
        chunk_extension_bytes_max: 0,
    };

    /// What comes of `text`, whole and byte by byte.
    #[track_caller]
    fn parse(text: &[u8], is_head: bool) -> (Result<Progress, Refusal>, ResponseHead) {
        let mut whole = ResponseHead::default();
        let outcome = whole.parse(text, &mut 0, &LIMITS, is_head);
        let mut head = ResponseHead::default();
        let mut scanned = 0;
        let bytewise = (1..=text.len())
            .map(|have| head.parse(&text[..have], &mut scanned, &LIMITS, is_head))
            .find(|outcome| *outcome != Ok(Progress::Partial))
            .unwrap_or(Ok(Progress::Partial));
        assert_eq!(
            bytewise.is_err(),
            outcome.is_err(),
            "{}",
            text.escape_ascii()
        );
        if outcome == Ok(Progress::Complete) {
            assert_eq!(bytewise, outcome);
            assert_eq!((head.len, head.framing), (whole.len, whole.framing));
        }
        (outcome, whole)
    }

    #[track_caller]
    fn refused(text: &str) {
        let (outcome, _) = parse(text.as_bytes(), false);
        assert_eq!(
            outcome.map_err(|refusal| refusal.status),
            Err(502),
            "{text:?}"
        );
    }

    #[test]
    fn a_head_is_taken_apart() {
        let text = b"HTTP/1.1 404 Not \t\xe9 Found\r\ncontent-encoding: gzip\r\nConnection: x-a, Upgrade\r\nUpgrade: b\r\n\r\nrest";
        let (outcome, head) = parse(text, true);
        assert_eq!(outcome, Ok(Progress::Complete));
        assert_eq!((head.status, head.version_minor), (404, 1));
        assert_eq!(head.reason.of(text), b"Not \t\xe9 Found");
        assert_eq!(head.len, text.len() - 4);
        let encoding = head.fields.value(FieldName::ContentEncoding).unwrap();
        assert_eq!(encoding.of(text), b"gzip");
        assert_eq!(head.upgrade.unwrap().of(text), b"b");
        assert!(head.is_connection_option(text, b"X-A") && !head.is_interim());
    }

    #[test]
    fn status_lines() {
        for (line, reason) in [
            ("HTTP/1.1 200 OK", "OK"),
            ("HTTP/1.0 200 ", ""),
            ("HTTP/1.1 200", ""),
            ("HTTP/1.1 999  a", " a"),
            ("HTTP/1.1 100 Continue", "Continue"),
        ] {
            let text = format!("{line}\r\n\r\n").into_bytes();
            let (outcome, head) = parse(&text, false);
            assert_eq!(outcome, Ok(Progress::Complete), "{line}");
            assert_eq!(head.reason.of(&text), reason.as_bytes(), "{line}");
        }
        for line in [
            "HTTP/1.2 200 OK",
            "HTTP/2.0 200 OK",
            "HTTP/2 200",
            "http/1.1 200 OK",
            "HTTP/1.1  200 OK",
            "HTTP/1.1 20 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 099 OK",
            "HTTP/1.1 2x0 OK",
            "HTTP/1.1 20\u{e9}",
            "HTTP/1.1 -20 OK",
            "HTTP/1.1 200 O\x01K",
            "HTTP/1.1 200 a\rb",
            "HTTP/1.1 200\tOK",
            " HTTP/1.1 200 OK",
            "\r\nHTTP/1.1 200 OK",
            "ICY 200 OK",
            "",
            "SSH-2.0-OpenSSH_9.6",
        ] {
            refused(&format!("{line}\r\n\r\n"));
        }
    }

    /// RFC 9112 §6.3.
    #[test]
    fn the_length_of_the_content() {
        #[track_caller]
        fn check(line: &str, fields: &str, is_head: bool, expected: (Framing, bool)) {
            let text = format!("HTTP/1.{line} X\r\n{fields}\r\n").into_bytes();
            let (outcome, head) = parse(&text, is_head);
            assert_eq!(outcome, Ok(Progress::Complete), "{line} {fields}");
            assert_eq!((head.framing, head.keep_alive), expected, "{line} {fields}");
        }
        const LENGTH: &str = "Content-Length: 7\r\n";
        const CHUNKED: &str = "Transfer-Encoding: Chunked\r\n";
        const CLOSE: &str = "Connection: close\r\n";
        check("1 200", LENGTH, false, (Framing::Length(7), true));
        check("1 200", CHUNKED, false, (Framing::Chunked, true));
        check("1 200", "", false, (Framing::UntilClose, false));
        check(
            "1 200",
            "Connection: keep-alive\r\n",
            false,
            (Framing::UntilClose, false),
        );
        check("1 200", CLOSE, false, (Framing::UntilClose, false));
        check(
            "1 200",
            &format!("{LENGTH}{CLOSE}"),
            false,
            (Framing::Length(7), false),
        );
        check("0 200", LENGTH, false, (Framing::Length(7), false));
        check(
            "0 200",
            &format!("{LENGTH}Connection: keep-alive\r\n"),
            false,
            (Framing::Length(7), true),
        );
        for status in ["100", "101", "103", "204", "304"] {
            for fields in ["", LENGTH, CHUNKED] {
                check(&format!("1 {status}"), fields, false, (Framing::None, true));
            }
        }
        for fields in ["", LENGTH, CHUNKED] {
            check("1 200", fields, true, (Framing::None, true));
        }
    }

    #[test]
    fn two_framings_are_none() {
        for (minor, fields) in [
            (1, "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            (1, "Content-Length: 3\r\nContent-Length: 3\r\n"),
            (1, "Content-Length: 3\r\nContent-Length: 4\r\n"),
            (1, "Content-Length: 3, 3\r\n"),
            (1, "Content-Length: -1\r\n"),
            (1, "Content-Length: 9223372036854775808\r\n"),
            (1, "Transfer-Encoding: gzip, chunked\r\n"),
            (1, "Transfer-Encoding: identity\r\n"),
            (
                1,
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            ),
            (0, "Transfer-Encoding: chunked\r\n"),
            (1, "X: a\r\n b\r\n"),
            (1, "X : a\r\n"),
            (1, "X: a\nY: b\r\n"),
            (1, "X: a\0\r\n"),
            (1, "nocolon\r\n"),
        ] {
            refused(&format!("HTTP/1.{minor} 200 OK\r\n{fields}\r\n"));
            refused(&format!("HTTP/1.{minor} 304 OK\r\n{fields}\r\n"));
        }
        refused("HTTP/1.1 200 OK\n\n");
    }

    #[test]
    fn limits_hold_at_the_byte() {
        for (len, expected) in [(159, true), (160, true), (161, false)] {
            let start = "HTTP/1.1 200 OK\r\nX: ";
            let text = format!("{start}{}\r\n\r\n", "a".repeat(len - start.len() - 4));
            assert_eq!(
                parse(text.as_bytes(), false).0.is_ok(),
                expected,
                "{len} bytes"
            );
        }
        for (count, expected) in [(2, true), (3, true), (4, false)] {
            let text = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(count));
            assert_eq!(
                parse(text.as_bytes(), false).0.is_ok(),
                expected,
                "{count} fields"
            );
        }
    }
}
