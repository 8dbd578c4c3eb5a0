//! A request head read line by line, with the standard library and nothing clever, straight from
//! the text of RFC 9112; and the comparison with `penstock::http::h1::RequestHead`.

use penstock::http::h1::{Expect, FieldName, Framing, Limits, Method, Progress, RequestHead, Span};

/// What a head says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
    pub is_asterisk: bool,
    pub version_minor: u8,
    pub host: Option<&'a [u8]>,
    pub fields: Vec<(&'a [u8], &'a [u8])>,
    pub framing: Framing,
    pub keep_alive: bool,
    pub upgrade: Option<&'a [u8]>,
    pub connection_options: Vec<&'a [u8]>,
    pub te_trailers: bool,
    pub expect: Expect,
    pub len: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    Partial,
    Refused,
    Complete(Box<Head<'a>>),
}

/// Panics when the parser and [`slow`] differ on `data`, whole or in portions, within wide limits
/// or narrow ones.
pub fn check(data: &[u8]) {
    let narrow = Limits {
        request_line_bytes_max: 40,
        head_bytes_max: 200,
        fields_max: 4,
        ..Limits::default()
    };
    for limits in [Limits::default(), narrow] {
        let expected = slow(data, &limits);
        let whole = fast(data, &mut 0, &limits);
        match (&whole, &expected) {
            (Verdict::Refused, Verdict::Partial) => refusal_was_certain(data, &limits),
            _ => assert_eq!(whole, expected),
        }
        let portion = 1 + data.len() / (1 + data.len() % 5);
        let portions = fast_in_portions(data, portion, &limits);
        match (&portions, &whole) {
            // A head that comes in portions is judged when its end has come.
            (Verdict::Partial, Verdict::Refused) => {
                assert!(!data.windows(4).any(|bytes| bytes == b"\r\n\r\n"));
            }
            _ => assert_eq!(portions, whole, "in portions of {portion}"),
        }
    }
}

/// The parser may refuse a line that has not ended: then no end of it may make it right.
fn refusal_was_certain(data: &[u8], limits: &Limits) {
    const ENDS: &[&str] = &[
        "\r\n",
        "\n",
        " HTTP/1.1\r\n",
        " / HTTP/1.1\r\n",
        "/ HTTP/1.1\r\n",
        "/1.1\r\n",
        ".1\r\n",
        "1\r\n",
        "a HTTP/1.1\r\n",
        "h HTTP/1.1\r\n",
        "41 HTTP/1.1\r\n",
        ":\r\n",
        "a:\r\n",
        ": a\r\n",
        " \r\n",
        "GET / HTTP/1.1\r\n",
    ];
    for end in ENDS {
        let longer = [data, end.as_bytes()].concat();
        let verdict = slow(&longer, limits);
        assert_eq!(
            verdict,
            Verdict::Refused,
            "refused too early, before {end:?}"
        );
    }
}

fn fast_in_portions<'a>(data: &'a [u8], portion: usize, limits: &Limits) -> Verdict<'a> {
    let mut scanned = 0;
    let mut have = 0;
    loop {
        have = (have + portion).min(data.len());
        let verdict = fast(&data[..have], &mut scanned, limits);
        if verdict != Verdict::Partial || have == data.len() {
            return verdict;
        }
    }
}

fn fast<'a>(data: &'a [u8], scanned: &mut usize, limits: &Limits) -> Verdict<'a> {
    let mut head = RequestHead::default();
    match head.parse(data, scanned, limits) {
        Err(refusal) => {
            assert!((400..=599).contains(&refusal.status) && !refusal.why.is_empty());
            Verdict::Refused
        }
        Ok(Progress::Partial) => {
            assert_eq!(*scanned, data.len());
            Verdict::Partial
        }
        Ok(Progress::Complete) => {
            let text = |span: Span| {
                assert!(span.len == 0 || (span.at + span.len) as usize <= head.len);
                span.of(data)
            };
            for field in &head.fields {
                let name = field.name.of(data);
                assert_eq!(field.id, FieldName::from_bytes(name));
                let canonical = field.id.canonical();
                let is_same = canonical.as_bytes().eq_ignore_ascii_case(name);
                assert!(field.id == FieldName::Other || is_same);
            }
            let method = text(head.method_span);
            let known = match head.method {
                Method::Get => "GET",
                Method::Head => "HEAD",
                Method::Post => "POST",
                Method::Put => "PUT",
                Method::Patch => "PATCH",
                Method::Delete => "DELETE",
                Method::Options => "OPTIONS",
                Method::Trace => "TRACE",
                Method::Other => "",
            };
            assert!(head.method == Method::Other || method == known.as_bytes());
            Verdict::Complete(Box::new(Head {
                method,
                target: text(head.target),
                path: head.path_bytes(data),
                query: head.query.map(text),
                is_asterisk: head.is_asterisk,
                version_minor: head.version_minor,
                host: head.host.map(text),
                fields: head
                    .fields
                    .iter()
                    .map(|field| (text(field.name), text(field.value)))
                    .collect(),
                framing: head.framing,
                keep_alive: head.keep_alive,
                upgrade: head.upgrade.map(text),
                connection_options: head.connection_options.iter().copied().map(text).collect(),
                te_trailers: head.te_trailers,
                expect: head.expect,
                len: head.len,
            }))
        }
    }
}

/// The second opinion.
pub fn slow<'a>(data: &'a [u8], limits: &Limits) -> Verdict<'a> {
    let start = if data.starts_with(b"\r\n") { 2 } else { 0 };
    let mut at = start;
    let mut lines: Vec<&[u8]> = Vec::new();
    loop {
        let Some(line_len) = data[at..].iter().position(|&byte| byte == b'\n') else {
            return match data.len() >= limits.head_bytes_max {
                true => Verdict::Refused,
                false => Verdict::Partial,
            };
        };
        let line = &data[at..at + line_len];
        at += line_len + 1;
        let Some(line) = line.strip_suffix(b"\r") else {
            return Verdict::Refused;
        };
        if at > limits.head_bytes_max {
            return Verdict::Refused;
        }
        if lines.is_empty() {
            if line.len() > limits.request_line_bytes_max || request_line(line).is_none() {
                return Verdict::Refused;
            }
        } else if line.is_empty() {
            break;
        } else if lines.len() > limits.fields_max || field(line).is_none() {
            return Verdict::Refused;
        }
        lines.push(line);
    }
    match head(&lines, at) {
        Some(head) => Verdict::Complete(Box::new(head)),
        None => Verdict::Refused,
    }
}

struct RequestLine<'a> {
    method: &'a [u8],
    target: &'a [u8],
    authority: Option<&'a [u8]>,
    path: &'a [u8],
    query: Option<&'a [u8]>,
    is_asterisk: bool,
    version_minor: u8,
}

fn request_line(line: &[u8]) -> Option<RequestLine<'_>> {
    let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return None;
    };
    let version_minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        _ => return None,
    };
    if !is_token(method) || method == b"CONNECT" || target.is_empty() {
        return None;
    }
    if target.iter().any(|&byte| byte < 0x20 || byte == 0x7f) {
        return None;
    }
    let (before_query, query) = match target.iter().position(|&byte| byte == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    };
    let lower = before_query.to_ascii_lowercase();
    let scheme_len = if lower.starts_with(b"http://") {
        7
    } else if lower.starts_with(b"https://") {
        8
    } else {
        0
    };
    let mut authority = None;
    let mut path = before_query;
    let mut is_asterisk = target == b"*";
    if scheme_len > 0 {
        let rest = &before_query[scheme_len..];
        let end = rest
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(rest.len());
        let (host, behind) = rest.split_at(end);
        if host.is_empty() || !is_host(host) {
            return None;
        }
        authority = Some(host);
        path = behind;
        is_asterisk = method == b"OPTIONS" && behind.is_empty() && query.is_none();
        if behind.is_empty() {
            path = b"/";
        }
    } else if !target.starts_with(b"/") && !is_asterisk {
        return None;
    }
    let mut i = 0;
    while i < path.len() {
        let is_hex = |at: usize| path.get(at).is_some_and(u8::is_ascii_hexdigit);
        match path[i] {
            b'\\' => return None,
            b'%' if !is_hex(i + 1) || !is_hex(i + 2) => return None,
            _ => i += 1,
        }
    }
    Some(RequestLine {
        method,
        target,
        authority,
        path,
        query,
        is_asterisk,
        version_minor,
    })
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_sound = |&byte: &u8| byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
    (is_token(name) && value.iter().all(is_sound)).then(|| (name, trim(value)))
}

fn head<'a>(lines: &[&'a [u8]], len: usize) -> Option<Head<'a>> {
    let line = request_line(lines[0])?;
    let mut fields = Vec::new();
    for line in &lines[1..] {
        fields.push(field(line)?);
    }
    let values = |name: &str| -> Vec<&'a [u8]> {
        let is_it = |of: &[u8]| of.eq_ignore_ascii_case(name.as_bytes());
        let named = fields.iter().filter(|(of, _)| is_it(of));
        named.map(|(_, value)| *value).collect()
    };
    let elements = |name: &str| -> Vec<&'a [u8]> {
        let mut found = Vec::new();
        for value in values(name) {
            let parts = value.split(|&byte| byte == b',').map(trim);
            found.extend(parts.filter(|part| !part.is_empty()));
        }
        found
    };
    let has = |list: &[&[u8]], token: &str| {
        list.iter()
            .any(|e| e.eq_ignore_ascii_case(token.as_bytes()))
    };

    let host = match values("host")[..] {
        [] if line.version_minor == 0 => None,
        [one] if is_host(one) => Some(one),
        _ => return None,
    };
    let framing = match (
        &values("content-length")[..],
        &values("transfer-encoding")[..],
    ) {
        ([], []) => Framing::None,
        ([length], []) => {
            let text = std::str::from_utf8(length).ok()?;
            let number: i64 = text.parse().ok()?;
            // Signs and zeros in front do not survive printing.
            if number.to_string() != text || number < 0 {
                return None;
            }
            Framing::Length(number as u64)
        }
        ([], [coding]) if line.version_minor == 1 && coding.eq_ignore_ascii_case(b"chunked") => {
            Framing::Chunked
        }
        _ => return None,
    };
    if line.method == b"TRACE" && !matches!(framing, Framing::None | Framing::Length(0)) {
        return None;
    }
    let options = elements("connection");
    let keep_alive = match line.version_minor {
        0 => has(&options, "keep-alive") && !has(&options, "close"),
        _ => !has(&options, "close"),
    };
    let upgrade = match values("upgrade")[..] {
        [one] if has(&options, "upgrade") && line.version_minor == 1 => Some(one),
        _ => None,
    };
    let expect = match values("expect")[..] {
        [] => Expect::None,
        [one] if one.eq_ignore_ascii_case(b"100-continue") => match line.version_minor {
            0 => Expect::None,
            _ => Expect::Continue,
        },
        _ => Expect::Other,
    };
    let treated = ["close", "keep-alive", "upgrade"];
    Some(Head {
        method: line.method,
        target: line.target,
        path: line.path,
        query: line.query,
        is_asterisk: line.is_asterisk,
        version_minor: line.version_minor,
        host: line.authority.or(host),
        framing,
        keep_alive,
        upgrade,
        connection_options: options
            .iter()
            .filter(|o| !treated.iter().any(|t| o.eq_ignore_ascii_case(t.as_bytes())))
            .copied()
            .collect(),
        te_trailers: has(&elements("te"), "trailers"),
        expect,
        fields,
        len,
    })
}

/// `[name] [":" port]` or `"[" address "]" [":" port]`.
fn is_host(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let (name_is_sound, rest) = match text.strip_prefix('[') {
        Some(inner) => {
            let Some((address, rest)) = inner.split_once(']') else {
                return false;
            };
            let is_sound = address
                .chars()
                .all(|c| c.is_ascii_hexdigit() || ":.".contains(c));
            (is_sound && !address.is_empty(), rest)
        }
        None => {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            let is_sound = name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._~%!$&'()*+;=".contains(c));
            (is_sound && (!name.is_empty() || rest.is_empty()), rest)
        }
    };
    let port_is_sound = match rest.strip_prefix(':') {
        Some(port) => port.len() <= 5 && port.chars().all(|c| c.is_ascii_digit()),
        None => rest.is_empty(),
    };
    name_is_sound && port_is_sound
}

pub(crate) fn is_token(text: &[u8]) -> bool {
    let is_tchar = |&byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.iter().all(is_tchar)
}

pub(crate) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}
