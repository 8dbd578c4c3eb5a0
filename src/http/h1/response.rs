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
