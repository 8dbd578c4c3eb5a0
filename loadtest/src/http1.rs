//! HTTP/1.1 framing for a load generator and its origin: heads, bodies, chunks. No IO.
//!
//! Lenient where speed matters (it only ever talks to the proxy under test), strict where a wrong
//! answer would hide a fault: lengths, chunk framing and early ends of stream are errors.

use std::ops::Range;

/// The peer sent something that is not HTTP/1.1, or ended a message early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed(pub &'static str);

/// Longest head we accept, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Length of the head including its empty line, once it has arrived completely.
pub fn head_length(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(found) = bytes.get(from..)?.iter().position(|b| *b == b'\r') {
        let at = from + found;
        if bytes.get(at..at + 4)? == b"\r\n\r\n" {
            return Some(at + 4);
        }
        from = at + 1;
    }
    None
}

/// Field lines of a head, without its first line.
pub fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|b| *b == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|b| *b == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

/// How the end of a body is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    Empty,
    Length(u64),
    Chunked,
    UntilClose,
}

/// First line and the fields a client cares about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseHead {
    pub status: u16,
    pub keep_alive: bool,
    pub framing: Framing,
    /// Whether it says when to come back.
    pub has_retry_after: bool,
}

impl ResponseHead {
    /// `head` is one complete head as [`head_length`] measured it.
    pub fn parse(head: &[u8]) -> Result<Self, Malformed> {
        let version = head.get(..9).ok_or(Malformed("short status line"))?;
        let mut keep_alive = match version {
            b"HTTP/1.1 " => true,
            b"HTTP/1.0 " => false,
            _ => return Err(Malformed("no HTTP/1 status line")),
        };
        let status = head
            .get(9..12)
            .and_then(|d| std::str::from_utf8(d).ok()?.parse::<u16>().ok())
            .ok_or(Malformed("status code"))?;
        let mut framing = Framing::UntilClose;
        let mut has_retry_after = false;
        for (name, value) in fields(head) {
            match name.len() {
                14 if name.eq_ignore_ascii_case(b"content-length")
                    && framing != Framing::Chunked =>
                {
                    framing = Framing::Length(decimal(value)?);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    framing = Framing::Chunked;
                }
                11 if name.eq_ignore_ascii_case(b"retry-after") => has_retry_after = true,
                10 if name.eq_ignore_ascii_case(b"connection") => {
                    if value.eq_ignore_ascii_case(b"close") {
                        keep_alive = false;
                    } else if value.eq_ignore_ascii_case(b"keep-alive") {
                        keep_alive = true;
                    }
                }
                _ => {}
            }
        }
        if status < 200 || status == 204 || status == 304 {
            framing = Framing::Empty;
        }
        Ok(Self {
            status,
            keep_alive: keep_alive && framing != Framing::UntilClose,
            framing,
            has_retry_after,
        })
    }
}

/// First line and the fields an origin cares about; ranges are positions in the head.
#[derive(Clone, Debug)]
pub struct RequestHead {
    pub method: Range<usize>,
    pub target: Range<usize>,
    pub keep_alive: bool,
    pub framing: Framing,
    pub request_id: Option<Range<usize>>,
    pub websocket_key: Option<Range<usize>>,
    pub expects_continue: bool,
}

impl RequestHead {
    /// `head` is one complete head as [`head_length`] measured it.
    pub fn parse(head: &[u8]) -> Result<Self, Malformed> {
        let line_end = head
            .iter()
            .position(|b| *b == b'\r')
            .ok_or(Malformed("request line"))?;
        let line = &head[..line_end];
        let method_end = line
            .iter()
            .position(|b| *b == b' ')
            .ok_or(Malformed("method"))?;
        let target_end = line
            .iter()
            .rposition(|b| *b == b' ')
            .filter(|e| *e > method_end)
            .ok_or(Malformed("target"))?;
        let mut parsed = Self {
            method: 0..method_end,
            target: method_end + 1..target_end,
            keep_alive: line.ends_with(b"HTTP/1.1"),
            framing: Framing::Empty,
            request_id: None,
            websocket_key: None,
            expects_continue: false,
        };
        let base = head.as_ptr() as usize;
        let place = |value: &[u8]| {
            let start = value.as_ptr() as usize - base;
            start..start + value.len()
        };
        for (name, value) in fields(head) {
            match name.len() {
                14 if name.eq_ignore_ascii_case(b"content-length")
                    && parsed.framing == Framing::Empty =>
                {
                    parsed.framing = Framing::Length(decimal(value)?);
                }
                17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                    parsed.framing = Framing::Chunked;
                }
                10 if name.eq_ignore_ascii_case(b"connection")
                    && value.eq_ignore_ascii_case(b"close") =>
                {
                    parsed.keep_alive = false;
                }
                12 if name.eq_ignore_ascii_case(b"x-request-id") => {
                    parsed.request_id = Some(place(value));
                }
                17 if name.eq_ignore_ascii_case(b"sec-websocket-key") => {
                    parsed.websocket_key = Some(place(value));
                }
                6 if name.eq_ignore_ascii_case(b"expect") => {
                    parsed.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
                }
                _ => {}
            }
        }
        // `sec-websocket-key` shares its length with `transfer-encoding`; the guards above tell them apart.
        Ok(parsed)
    }
}

/// Follows one body to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BodyReader {
    state: BodyState,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum BodyState {
    Counted(u64),
    /// Inside a chunk-size line, its digits so far.
    ChunkSize {
        size: u64,
        digits: u8,
        extension: bool,
    },
    ChunkData(u64),
    /// Inside the CRLF behind chunk data, bytes still to come.
    ChunkEnd(u8),
    /// Behind the last chunk; length of the trailer line so far.
    Trailer(usize),
    UntilClose,
    Done,
}

impl BodyReader {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => BodyState::Done,
            Framing::Length(n) => BodyState::Counted(n),
            Framing::Chunked => BodyState::chunk_size(),
            Framing::UntilClose => BodyState::UntilClose,
        };
        Self { state }
    }

    pub fn is_done(&self) -> bool {
        self.state == BodyState::Done
    }

    /// Whether an end of stream here ends the body properly.
    pub fn may_end_here(&self) -> bool {
        matches!(self.state, BodyState::Done | BodyState::UntilClose)
    }

    /// Bytes that may be dropped unseen: all of them are content.
    pub fn droppable(&self) -> Option<u64> {
        match self.state {
            BodyState::Counted(left) | BodyState::ChunkData(left) => Some(left),
            _ => None,
        }
    }

    /// Accounts for `count` content bytes dropped unseen, at most [`BodyReader::droppable`].
    pub fn dropped(&mut self, count: u64) {
        match &mut self.state {
            BodyState::Counted(left) => {
                *left = left.saturating_sub(count);
                if *left == 0 {
                    self.state = BodyState::Done;
                }
            }
            BodyState::ChunkData(left) => {
                *left = left.saturating_sub(count);
                if *left == 0 {
                    self.state = BodyState::ChunkEnd(2);
                }
            }
            _ => {}
        }
    }

    /// Consumes from `bytes` what belongs to this body, handing content to `sink`; returns the number consumed.
    pub fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, Malformed> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match &mut self.state {
                BodyState::Done => break,
                BodyState::UntilClose => {
                    sink(&bytes[at..]);
                    at = bytes.len();
                }
                BodyState::Counted(left) | BodyState::ChunkData(left) => {
                    let here = usize::try_from(*left)
                        .unwrap_or(usize::MAX)
                        .min(bytes.len() - at);
                    sink(&bytes[at..at + here]);
                    self.dropped(here as u64);
                    at += here;
                }
                BodyState::ChunkSize {
                    size,
                    digits,
                    extension,
                } => {
                    at += 1;
                    match byte {
                        b'\n' if *digits == 0 => return Err(Malformed("chunk size")),
                        b'\n' if *size == 0 => self.state = BodyState::Trailer(0),
                        b'\n' => self.state = BodyState::ChunkData(*size),
                        b'\r' => {}
                        b';' => *extension = true,
                        _ if *extension => {}
                        _ => {
                            let digit = char::from(byte)
                                .to_digit(16)
                                .ok_or(Malformed("chunk size digit"))?;
                            *digits += 1;
                            if *digits > 15 {
                                return Err(Malformed("chunk size too large"));
                            }
                            *size = *size * 16 + u64::from(digit);
                        }
                    }
                }
                BodyState::ChunkEnd(left) => {
                    at += 1;
                    let expected = if *left == 2 { b'\r' } else { b'\n' };
                    if byte != expected {
                        return Err(Malformed("no CRLF behind a chunk"));
                    }
                    *left -= 1;
                    if *left == 0 {
                        self.state = BodyState::chunk_size();
                    }
                }
                BodyState::Trailer(length) => {
                    at += 1;
                    match byte {
                        b'\n' if *length == 0 => self.state = BodyState::Done,
                        b'\n' => *length = 0,
                        b'\r' => {}
                        _ => *length += 1,
                    }
                }
            }
        }
        Ok(at)
    }
}

impl BodyState {
    fn chunk_size() -> Self {
        Self::ChunkSize {
            size: 0,
            digits: 0,
            extension: false,
        }
    }
}

fn decimal(value: &[u8]) -> Result<u64, Malformed> {
    std::str::from_utf8(value)
        .ok()
        .and_then(|v| v.parse().ok())
        .ok_or(Malformed("content-length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn body(framing: Framing, wire: &str, expected: Result<(&str, usize), &'static str>) {
        let expected = expected
            .map(|(text, used)| (text.to_owned(), used))
            .map_err(Malformed);
        for step in [1, 3, wire.len().max(1)] {
            let mut reader = BodyReader::new(framing);
            let mut content = String::new();
            let mut used = 0;
            let mut outcome = Ok(());
            for piece in wire.as_bytes().chunks(step) {
                match reader.feed(piece, |c| content.push_str(std::str::from_utf8(c).unwrap())) {
                    Ok(n) => used += n,
                    Err(e) => outcome = Err(e),
                }
                if reader.is_done() || outcome.is_err() {
                    break;
                }
            }
            assert_eq!(outcome.map(|()| (content, used)), expected, "step {step}");
        }
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        body(Framing::Length(3), "abcd", Ok(("abc", 3)));
        body(Framing::Empty, "abcd", Ok(("", 0)));
        body(Framing::UntilClose, "abcd", Ok(("abcd", 4)));
        body(
            Framing::Chunked,
            "3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\nGET",
            Ok(("abcd", 23)),
        );
        body(
            Framing::Chunked,
            "1\r\na\r\n0\r\nTrail: er\r\n\r\n",
            Ok(("a", 22)),
        );
        body(
            Framing::Chunked,
            "1\r\nab\r\n",
            Err("no CRLF behind a chunk"),
        );
        body(Framing::Chunked, "\r\n", Err("chunk size"));
        body(Framing::Chunked, "g\r\n", Err("chunk size digit"));
    }

    #[track_caller]
    fn response(head: &str, status: u16, keep_alive: bool, framing: Framing) {
        assert_eq!(head_length(head.as_bytes()), Some(head.len()));
        let expected = ResponseHead {
            status,
            keep_alive,
            framing,
            has_retry_after: head.contains("Retry-After"),
        };
        assert_eq!(ResponseHead::parse(head.as_bytes()), Ok(expected));
    }

    #[test]
    fn response_heads_tell_status_framing_and_reuse() {
        response(
            "HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n",
            200,
            true,
            Framing::Length(64),
        );
        response(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nConnection: close\r\n\r\n",
            200,
            false,
            Framing::Chunked,
        );
        response(
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
            503,
            true,
            Framing::Length(0),
        );
        response("HTTP/1.1 204 No Content\r\n\r\n", 204, true, Framing::Empty);
        response("HTTP/1.0 200 OK\r\n\r\n", 200, false, Framing::UntilClose);
    }

    #[test]
    fn request_heads_tell_target_id_and_framing() {
        let head = b"POST /sink?a=b HTTP/1.1\r\nHost: x\r\nX-Request-Id: id-7 \r\nContent-Length: 9\r\n\r\n";
        let parsed = RequestHead::parse(head).unwrap();
        assert_eq!(&head[parsed.method], b"POST");
        assert_eq!(&head[parsed.target], b"/sink?a=b");
        assert_eq!(&head[parsed.request_id.unwrap()], b"id-7");
        assert_eq!(parsed.framing, Framing::Length(9));
        assert!(parsed.keep_alive);
    }

    #[test]
    fn an_incomplete_head_has_no_length() {
        assert_eq!(head_length(b"GET / HTTP/1.1\r\nHost: x\r\n\r"), None);
        assert_eq!(head_length(b""), None);
    }
}
