//! Request heads (RFC 9112 §3 and §5), strict: what is ambiguous is refused, never repaired.
//!
//! Tyk differs: Go's `net/http` takes bare LF as a line end, unfolds obsolete line folding and lets
//! Transfer-Encoding win over Content-Length; all three let two readers see two different requests
//! in the same bytes, and are refused here.

use super::{
    FieldName, Fields, Framing, Limits, Progress, Refusal, Span, Stop,
    field::is_token_byte,
    framing::{self, Connection},
    refuse, scan,
};

/// Request methods with a meaning to the gateway (RFC 9110 §9, RFC 5789). CONNECT is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Trace,
    /// Any other token; its text is at [`RequestHead::method_span`].
    Other,
}

impl Method {
    /// Repeating such a request has no further effect (RFC 9110 §9.2.2).
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        !matches!(self, Self::Post | Self::Patch | Self::Other)
    }
}

/// What Expect asks for (RFC 9110 §10.1.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expect {
    #[default]
    None,
    /// `100-continue`, once, in HTTP/1.1.
    Continue,
    /// Anything else: to be answered with 417.
    Other,
}

/// One request head as ranges of the buffer it was parsed from. Reusable: its lists keep their
/// capacity. Of no meaning until [`RequestHead::parse`] has returned [`Progress::Complete`].
#[derive(Debug, Clone, Default)]
pub struct RequestHead {
    pub method: Method,
    pub method_span: Span,
    /// The request target as it was sent.
    pub target: Span,
    /// From the first slash to the query, escapes as sent; `*` for the asterisk-form. Empty only
    /// when an absolute-form target has no path, which means `/` ([`RequestHead::path_bytes`]).
    pub path: Span,
    /// What stands behind the first `?`, empty when nothing does; `None` without a `?`.
    pub query: Option<Span>,
    /// Host and port of an absolute-form target.
    pub authority: Option<Span>,
    /// The target is `*`. With any method: the router decides what that means.
    pub is_asterisk: bool,
    /// 0 or 1.
    pub version_minor: u8,
    /// The host in force: the authority of an absolute-form target, else Host. May be empty as
    /// Host may. Always there in HTTP/1.1.
    pub host: Option<Span>,
    pub fields: Fields,
    /// Never [`Framing::UntilClose`].
    pub framing: Framing,
    /// The client allows another request on this connection.
    pub keep_alive: bool,
    /// The value of Upgrade, when Connection lists `upgrade`.
    pub upgrade: Option<Span>,
    /// Names in Connection besides `close`, `keep-alive` and `upgrade`: fields to be dropped.
    pub connection_options: Vec<Span>,
    /// Te lists `trailers`.
    pub te_trailers: bool,
    pub expect: Expect,
    /// Bytes of the head with everything before the content, a tolerated leading CRLF included.
    pub len: usize,
}

impl RequestHead {
    /// Parses the head at the start of `buf`.
    ///
    /// `scanned` is 0 for a new head and otherwise what the call before left there for the same
    /// bytes; more bytes may have come behind them. However small the pieces in which a head
    /// arrives, each byte is looked at a bounded number of times.
    ///
    /// Errors: 400 for what RFC 9112 does not allow or leaves ambiguous, 405 for CONNECT and for
    /// TRACE with content, 414 and 431 for a head beyond `limits` (as soon as that is certain),
    /// 501 for a transfer coding other than chunked, 505 for a version other than 1.0 and 1.1.
    pub fn parse(
        &mut self,
        buf: &[u8],
        scanned: &mut usize,
        limits: &Limits,
    ) -> Result<Progress, Refusal> {
        let head_max = limits.head_bytes_max.min(HEAD_BYTES_CAP);
        let window = buf.get(..head_max).unwrap_or(buf);
        let outcome = match *scanned > 0 {
            true => self.resume(window, *scanned, limits),
            false => self.read(window, limits),
        };
        match outcome {
            Ok(()) => Ok(Progress::Complete),
            Err(Stop::Refused(refusal)) => Err(refusal),
            Err(Stop::Partial) if buf.len() >= head_max => Err(Refusal {
                status: 431,
                why: "head too large",
            }),
            Err(Stop::Partial) => {
                *scanned = buf.len();
                Ok(Progress::Partial)
            }
        }
    }

    /// The path, `/` where an absolute-form target has none.
    #[inline]
    #[must_use]
    pub fn path_bytes<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        match self.path.len {
            0 => b"/",
            _ => self.path.of(buf),
        }
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

    /// Goes on with a head whose first `scanned` bytes hold no end: parses it once it is whole.
    #[inline(never)]
    fn resume(&mut self, buf: &[u8], scanned: usize, limits: &Limits) -> Result<(), Stop> {
        if has_end(buf, scanned)? {
            return self.read(buf, limits);
        }
        let line_max = line_window(buf, limits);
        // The line is known to be too long from exactly this many bytes on: look once.
        if scanned < line_max
            && let Some(line) = buf.get(leading(buf)..line_max)
            && memchr::memchr(b'\n', line).is_none()
        {
            return Err(refuse(414, "request line too long"));
        }
        Err(Stop::Partial)
    }

    /// One pass from the first byte to the end of the head.
    #[inline]
    fn read(&mut self, buf: &[u8], limits: &Limits) -> Result<(), Stop> {
        let line_max = line_window(buf, limits);
        let line = buf.get(..line_max).unwrap_or(buf);
        let fields_at = match self.read_line(line, leading(buf)) {
            Err(Stop::Partial) if buf.len() >= line_max => {
                return Err(refuse(414, "request line too long"));
            }
            other => other?,
        };
        self.fields.clear();
        self.len = self.fields.read(buf, fields_at, fields_max(limits))?;
        self.settle(buf)
    }

    /// RFC 9112 §3: `method SP request-target SP HTTP-version CRLF`.
    #[inline(always)]
    fn read_line(&mut self, buf: &[u8], at: usize) -> Result<usize, Stop> {
        let (method, len) = method(buf, at)?;
        self.method = method;
        self.method_span = Span::new(at, at + len);
        let target_at = at + len + 1;
        let found = scan::target(buf, target_at);
        if found.end == target_at && found.end < buf.len() {
            return Err(refuse(400, "empty request target"));
        }
        match buf.get(found.end) {
            Some(b' ') => {}
            None => return Err(Stop::Partial),
            Some(_) => return Err(refuse(400, "control character in the request line")),
        }
        self.target = Span::new(target_at, found.end);
        self.path = Span::new(target_at, found.path_end);
        self.query = match found.path_end < found.end {
            true => Some(Span::new(found.path_end + 1, found.end)),
            false => None,
        };
        self.authority = None;
        self.is_asterisk = false;
        if found.is_odd || buf.get(target_at) != Some(&b'/') {
            self.read_odd_target(buf)?;
        }
        let version_at = found.end + 1;
        self.version_minor = match buf.get(version_at..version_at + 10) {
            Some(b"HTTP/1.1\r\n") => 1,
            _ => version(buf, version_at)?,
        };
        Ok(version_at + 10)
    }

    /// A target with an escape, and one that is not in origin-form.
    #[inline(never)]
    fn read_odd_target(&mut self, buf: &[u8]) -> Result<(), Stop> {
        if !self.target.of(buf).starts_with(b"/") {
            self.read_other_form(buf)?;
        }
        check_path(self.path.of(buf))
    }

    /// Asterisk-form and absolute-form (RFC 9112 §3.2.2, §3.2.4); `path` is all before the query.
    fn read_other_form(&mut self, buf: &[u8]) -> Result<(), Stop> {
        let target = self.target.of(buf);
        if target == b"*" {
            self.is_asterisk = true;
            return Ok(());
        }
        let before_query = self.path.of(buf);
        let scheme = [b"http://".as_slice(), b"https://"]
            .into_iter()
            .find(|&scheme| {
                let start = before_query.get(..scheme.len()).unwrap_or_default();
                start.eq_ignore_ascii_case(scheme)
            });
        let Some(scheme) = scheme else {
            return Err(refuse(
                400,
                "request target is neither a path nor an http URI",
            ));
        };
        let behind = before_query.get(scheme.len()..).unwrap_or_default();
        let len = memchr::memchr(b'/', behind).unwrap_or(behind.len());
        let authority_at = self.path.at as usize + scheme.len();
        let path_at = authority_at + len;
        let path_end = authority_at + behind.len();
        let authority = Span::new(authority_at, path_at);
        // RFC 9110 §4.2.1: an http URI with an empty host is invalid; §4.2.4: so is userinfo.
        if authority.len == 0 || !is_host(authority.of(buf)) {
            return Err(refuse(400, "request target with an invalid host"));
        }
        self.authority = Some(authority);
        self.path = Span::new(path_at, path_end);
        // RFC 9112 §3.2.4: OPTIONS without path and query is what `*` says to the last hop.
        let is_bare = path_at == path_end && self.query.is_none();
        self.is_asterisk = self.method == Method::Options && is_bare;
        Ok(())
    }

    /// Draws the conclusions from the fields.
    #[inline(always)]
    fn settle(&mut self, buf: &[u8]) -> Result<(), Stop> {
        // RFC 9112 §3.2: 400 for more than one Host, an invalid one, and none in HTTP/1.1.
        let host = self.fields.value(FieldName::Host);
        match host {
            Some(host) if self.fields.has_twice(FieldName::Host) || !is_host(host.of(buf)) => {
                return Err(refuse(400, "more than one Host or an invalid one"));
            }
            None if self.version_minor > 0 => return Err(refuse(400, "no Host")),
            _ => {}
        }
        // RFC 9112 §3.2.2: the received Host is ignored when the target has an authority.
        self.host = self.authority.or(host);
        self.framing = Framing::None;
        self.keep_alive = self.version_minor > 0;
        self.upgrade = None;
        self.connection_options.clear();
        self.te_trailers = false;
        self.expect = Expect::None;
        if self
            .fields
            .has_any(framing::NAMES | FieldName::Expect.bit())
        {
            self.settle_framing(buf)?;
        }
        Ok(())
    }

    #[inline(never)]
    fn settle_framing(&mut self, buf: &[u8]) -> Result<(), Stop> {
        self.framing = framing::declared(&self.fields, buf, self.version_minor)?;
        // RFC 9110 §9.3.8: a client sends no content with TRACE.
        if self.method == Method::Trace
            && !matches!(self.framing, Framing::None | Framing::Length(0))
        {
            return Err(refuse(405, "TRACE with content"));
        }
        let options = &mut self.connection_options;
        let connection = Connection::read(&self.fields, buf, self.version_minor, options);
        self.keep_alive = connection.keep_alive;
        self.upgrade = connection.upgrade;
        self.te_trailers = connection.te_trailers;
        // RFC 9110 §10.1.1: 100-continue in HTTP/1.0 is ignored.
        self.expect = match self.fields.value(FieldName::Expect) {
            None => Expect::None,
            Some(value)
                if value.of(buf).eq_ignore_ascii_case(b"100-continue")
                    && !self.fields.has_twice(FieldName::Expect) =>
            {
                match self.version_minor {
                    0 => Expect::None,
                    _ => Expect::Continue,
                }
            }
            Some(_) => Expect::Other,
        };
        Ok(())
    }
}

/// Spans are `u32`: whatever the configuration says, a head stays far below that.
pub(super) const HEAD_BYTES_CAP: usize = 1 << 30;

/// Places of fields are kept in 16 bits.
pub(super) fn fields_max(limits: &Limits) -> usize {
    limits.fields_max.min(usize::from(u16::MAX))
}

/// RFC 9112 §2.2: one empty line before a request line is ignored.
#[inline(always)]
fn leading(buf: &[u8]) -> usize {
    match buf.starts_with(b"\r\n") {
        true => 2,
        false => 0,
    }
}

/// How many bytes a request line of the longest allowed kind takes up, CRLF included.
#[inline(always)]
fn line_window(buf: &[u8], limits: &Limits) -> usize {
    leading(buf) + limits.request_line_bytes_max.min(HEAD_BYTES_CAP) + 2
}

/// A head that ends at or behind `scanned`. Errors: 400 for LF without CR.
pub(super) fn has_end(buf: &[u8], scanned: usize) -> Result<bool, Stop> {
    let mut at = scanned;
    while let Some(found) = memchr::memchr(b'\n', buf.get(at..).unwrap_or_default()) {
        let lf = at + found;
        let before = |n: usize| lf.checked_sub(n).and_then(|at| buf.get(at));
        if before(1) != Some(&b'\r') {
            return Err(refuse(400, "LF without CR"));
        }
        if before(2) == Some(&b'\n') {
            return Ok(true);
        }
        at = lf + 1;
    }
    Ok(false)
}

/// The method that starts at `at`, and its length.
#[inline(always)]
fn method(buf: &[u8], at: usize) -> Result<(Method, usize), Stop> {
    const fn word(text: &[u8; 8]) -> u64 {
        u64::from_le_bytes(*text)
    }
    let start = scan::load(buf, at);
    let is = |text: u64, len: u32| start << (64 - 8 * len) == text << (64 - 8 * len);
    Ok(if is(word(b"GET \0\0\0\0"), 4) {
        (Method::Get, 3)
    } else if is(word(b"POST \0\0\0"), 5) {
        (Method::Post, 4)
    } else if is(word(b"PUT \0\0\0\0"), 4) {
        (Method::Put, 3)
    } else if is(word(b"DELETE \0"), 7) {
        (Method::Delete, 6)
    } else if is(word(b"HEAD \0\0\0"), 5) {
        (Method::Head, 4)
    } else if is(word(b"PATCH \0\0"), 6) {
        (Method::Patch, 5)
    } else if is(word(b"OPTIONS "), 8) {
        (Method::Options, 7)
    } else if is(word(b"TRACE \0\0"), 6) {
        (Method::Trace, 5)
    } else if is(word(b"CONNECT "), 8) {
        // RFC 9110 §9.3.6: this gateway is no tunnel.
        return Err(refuse(405, "CONNECT"));
    } else {
        (Method::Other, other_method(buf, at)?)
    })
}

/// Length of a method that is none of the known ones.
#[inline(never)]
fn other_method(buf: &[u8], at: usize) -> Result<usize, Stop> {
    let text = buf.get(at..).unwrap_or_default();
    let len = text.iter().take_while(|&&byte| is_token_byte(byte)).count();
    match text.get(len) {
        Some(b' ') if len > 0 => Ok(len),
        Some(_) if text.starts_with(b"\r") && text.len() == 1 => Err(Stop::Partial),
        Some(_) => Err(refuse(400, "method is not a token")),
        None => Err(Stop::Partial),
    }
}

/// RFC 9112 §2.3: `HTTP/` DIGIT `.` DIGIT, then the end of the line. Returns 0 or 1.
#[inline(never)]
fn version(buf: &[u8], at: usize) -> Result<u8, Stop> {
    let text = buf.get(at..).unwrap_or_default();
    for (i, expected) in b"HTTP/d.d\r\n".iter().enumerate() {
        match (text.get(i), expected) {
            (None, _) => return Err(Stop::Partial),
            (Some(b'0'..=b'9'), b'd') => {}
            (Some(byte), _) if byte == expected && *byte != b'd' => {}
            (Some(_), _) => return Err(refuse(400, "malformed HTTP version")),
        }
    }
    match text.get(5..8) {
        Some(b"1.0") => Ok(0),
        Some(b"1.1") => Ok(1),
        _ => Err(refuse(505, "HTTP version not supported")),
    }
}

/// Refuses what servers read in different ways: an escape that is none, and the backslash.
#[inline(never)]
fn check_path(path: &[u8]) -> Result<(), Stop> {
    let mut rest = path;
    while let Some(at) = memchr::memchr2(b'%', b'\\', rest) {
        rest = match rest.get(at..) {
            Some([b'%', high, low, rest @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                rest
            }
            Some([b'%', ..]) => return Err(refuse(400, "invalid escape in the path")),
            // Some servers take it for a slash.
            _ => return Err(refuse(400, "backslash in the path")),
        };
    }
    Ok(())
}

/// RFC 3986 §3.2.2 and §3.2.3: host and optional port, no userinfo; may be empty.
///
/// A comma is refused although a registered name may have one: it is what joins two Host fields.
fn is_host(text: &[u8]) -> bool {
    let is_port = |text: &[u8]| text.iter().all(u8::is_ascii_digit) && text.len() <= 5;
    match text.iter().fold(0, |kinds, &byte| kinds | host_byte(byte)) {
        0 => true,
        COLON => match text.iter().position(|&byte| byte == b':') {
            Some(end) if end > 0 => is_port(text.get(end + 1..).unwrap_or_default()),
            _ => false,
        },
        // An IPv6 address, or no host at all.
        _ => {
            let Some((address, after)) = text
                .strip_prefix(b"[")
                .and_then(|rest| rest.split_at_checked(memchr::memchr(b']', rest)?))
            else {
                return false;
            };
            let is_sound = |&byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(&byte);
            let is_address = !address.is_empty() && address.iter().all(is_sound);
            match after {
                [b']'] => is_address,
                [b']', b':', port @ ..] => is_address && is_port(port),
                _ => false,
            }
        }
    }
}

/// A colon, in [`host_byte`].
const COLON: u8 = 1;

/// 0 for a byte of a registered name, comma excepted.
#[inline(always)]
#[expect(
    clippy::indexing_slicing,
    reason = "the table is made while compiling; a byte is within it"
)]
const fn host_byte(byte: u8) -> u8 {
    const TABLE: [u8; 256] = {
        let mut table = [2; 256];
        let mut byte = 0u8;
        while byte < 0x80 {
            let is_name = byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'-' | b'.'
                        | b'_'
                        | b'~'
                        | b'%'
                        | b'!'
                        | b'$'
                        | b'&'
                        | b'\''
                        | b'('
                        | b')'
                        | b'*'
                        | b'+'
                        | b';'
                        | b'='
                );
            if is_name {
                table[byte as usize] = 0;
            }
            byte += 1;
        }
        table[b':' as usize] = COLON;
        table
    };
    TABLE[byte as usize]
}

#[cfg(test)]
mod tests;
