//! A small, strict reading of HTTP/1.1 messages, independent of the gateway's own parser.
//!
//! RFC 9112 without its lenience: CRLF only, one framing field, lower- or upper-case hex and
//! nothing else in a chunk size. A message the gateway sends must satisfy it, in both directions.

use std::{
    io::{self, ErrorKind, Read},
    net::TcpStream,
};

/// Sees bytes as they come.
pub type Tap = Box<dyn FnMut(&[u8]) + Send>;

/// Reads a stream into a buffer and takes messages off its front.
pub struct Inbox {
    pub stream: TcpStream,
    /// Bytes read and not yet taken.
    pub buf: Vec<u8>,
    /// Sees every byte as it comes off the socket.
    pub tap: Option<Tap>,
}

/// Why a message could not be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The message was complete.
    Complete,
    /// The other side closed or reset the connection before the end.
    Cut,
    /// Nothing came for as long as the socket's timeout.
    TimedOut,
    /// Against the grammar; says how.
    Malformed(String),
}

#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub version: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Which connection of the origin it came on, counted from 0.
    pub connection: usize,
}

#[derive(Clone, Debug)]
pub struct Response {
    /// 0: not one complete head arrived.
    pub status: u16,
    pub version: String,
    pub reason: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Statuses of the 1xx answers before this one.
    pub interim: Vec<u16>,
    /// The body was ended by closing the connection.
    pub close_delimited: bool,
    pub end: End,
}

impl Request {
    pub fn field(&self, name: &str) -> Option<&str> {
        first(&self.fields, name)
    }

    /// Says whether the sender wants the connection closed behind this exchange.
    pub fn is_last(&self) -> bool {
        self.field("connection")
            .is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }
}

impl Response {
    pub fn new(status: u16, body: &str) -> Self {
        Self {
            status,
            version: "HTTP/1.1".to_owned(),
            reason: "Said".to_owned(),
            fields: vec![("Content-Length".to_owned(), body.len().to_string())],
            body: body.as_bytes().to_vec(),
            trailers: Vec::new(),
            interim: Vec::new(),
            close_delimited: false,
            end: End::Complete,
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} {}\r\n", self.version, self.status, self.reason);
        for (name, value) in &self.fields {
            out += &format!("{name}: {value}\r\n");
        }
        out += "\r\n";
        let mut out = out.into_bytes();
        out.extend_from_slice(&self.body);
        out
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        first(&self.fields, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {:?}", self.text()))
    }

    /// The answer in one line, for failure messages.
    pub fn summary(&self) -> String {
        let mut body = self.text();
        body.truncate(body.floor_char_boundary(160));
        format!("{} {:?} {:?} {body:?}", self.status, self.end, self.fields)
    }
}

fn first<'a>(fields: &'a [(String, String)], name: &str) -> Option<&'a str> {
    fields
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.as_str())
}

/// How the content of a message is delimited.
enum Framing {
    None,
    Length(usize),
    Chunked,
    Close,
}

type Fields = Vec<(String, String)>;

impl Inbox {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buf: Vec::new(),
            tap: None,
        }
    }

    /// Reads once more; the bytes that came are at the end of `buf`. `Ok(0)` is the end of stream.
    pub fn fill(&mut self) -> io::Result<usize> {
        let mut space = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut space) {
                Ok(n) => {
                    self.buf.extend_from_slice(&space[..n]);
                    if let Some(tap) = &mut self.tap {
                        tap(&space[..n]);
                    }
                    return Ok(n);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn need_more(&mut self) -> Result<(), End> {
        match self.fill() {
            Ok(0) => Err(End::Cut),
            Ok(_) => Ok(()),
            Err(e) => match e.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(End::TimedOut),
                _ => Err(End::Cut),
            },
        }
    }

    /// Takes the bytes up to and including an empty line.
    fn head(&mut self) -> Result<Vec<u8>, End> {
        loop {
            if let Some(at) = self.buf.windows(4).position(|w| w == b"\r\n\r\n") {
                return Ok(self.buf.drain(..at + 4).collect());
            }
            self.need_more()?;
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, End> {
        loop {
            if let Some(at) = self.buf.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.buf.drain(..=at).collect();
                line.pop();
                if line.pop() != Some(b'\r') || line.contains(&b'\r') {
                    return Err(malformed("a line does not end in CRLF", &line));
                }
                return Ok(line);
            }
            self.need_more()?;
        }
    }

    fn exactly(&mut self, count: usize, into: &mut Vec<u8>) -> Result<(), End> {
        let mut left = count;
        loop {
            let take = left.min(self.buf.len());
            into.extend(self.buf.drain(..take));
            left -= take;
            if left == 0 {
                return Ok(());
            }
            self.need_more()?;
        }
    }

    /// Decodes a chunked body into `body`; answers its trailers.
    fn chunked(&mut self, body: &mut Vec<u8>) -> Result<Fields, End> {
        loop {
            let line = self.line()?;
            let text = String::from_utf8_lossy(&line).into_owned();
            let plain =
                !text.is_empty() && text.len() <= 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
            if !plain {
                return Err(malformed("chunk size", &line));
            }
            let size =
                usize::from_str_radix(&text, 16).map_err(|_| malformed("chunk size", &line))?;
            if size == 0 {
                break;
            }
            self.exactly(size, body)?;
            if !self.line()?.is_empty() {
                return Err(malformed("no CRLF behind the chunk", b""));
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(trailers);
            }
            trailers.push(field(&line)?);
        }
    }

    fn body(&mut self, framing: Framing, body: &mut Vec<u8>) -> Result<Fields, End> {
        match framing {
            Framing::None => Ok(Vec::new()),
            Framing::Length(n) => self.exactly(n, body).map(|()| Vec::new()),
            Framing::Chunked => self.chunked(body),
            Framing::Close => loop {
                body.append(&mut self.buf);
                match self.fill() {
                    Ok(0) => return Ok(Vec::new()),
                    Ok(_) => {}
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        return Err(End::TimedOut);
                    }
                    Err(_) => return Err(End::Cut),
                }
            },
        }
    }

    /// Takes a request head off the stream; the body follows with [`Self::request_body`].
    /// `Err(End::Cut)` with an empty buffer is a connection closed between two requests.
    pub fn request_head(&mut self) -> Result<Request, End> {
        let head = self.head()?;
        let (start, fields) = parse_head(&head)?;
        let mut words = start.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(malformed("request line", start.as_bytes()));
        };
        if version != "HTTP/1.1" && version != "HTTP/1.0" {
            return Err(malformed("version", version.as_bytes()));
        }
        if method.is_empty() || target.is_empty() || target.contains('#') {
            return Err(malformed("request line", start.as_bytes()));
        }
        let hosts = fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case("host"))
            .count();
        if hosts != 1 {
            return Err(malformed("exactly one Host", start.as_bytes()));
        }
        Ok(Request {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            fields,
            body: Vec::new(),
            trailers: Vec::new(),
            connection: 0,
        })
    }

    pub fn request_body(&mut self, req: &mut Request) -> Result<(), End> {
        let framing = match framing(&req.fields)? {
            Framing::Close => Framing::None,
            other => other,
        };
        req.trailers = self.body(framing, &mut req.body)?;
        Ok(())
    }

    /// Takes one response, with the interim ones before it, to a request of the given method.
    pub fn response(&mut self, method: &str) -> Response {
        let mut out = Response::new(0, "");
        out.fields.clear();
        match self.response_into(method, &mut out) {
            Ok(()) => {}
            Err(end) => out.end = end,
        }
        out
    }

    /// Takes a head that is not an interim one, without its body.
    pub fn response_head(&mut self) -> Response {
        let mut out = Response::new(0, "");
        out.fields.clear();
        if let Err(end) = self.response_head_into(&mut out) {
            out.end = end;
        }
        out
    }

    fn response_head_into(&mut self, out: &mut Response) -> Result<(), End> {
        loop {
            let head = self.head()?;
            let (start, fields) = parse_head(&head)?;
            let mut words = start.splitn(3, ' ');
            let (Some(version), Some(status), Some(reason)) =
                (words.next(), words.next(), words.next())
            else {
                return Err(malformed("status line", start.as_bytes()));
            };
            let well_formed = (version == "HTTP/1.1" || version == "HTTP/1.0")
                && status.len() == 3
                && status.bytes().all(|b| b.is_ascii_digit());
            let Some(status) = status.parse::<u16>().ok().filter(|_| well_formed) else {
                return Err(malformed("status line", start.as_bytes()));
            };
            if (100..200).contains(&status) && status != 101 {
                out.interim.push(status);
                continue;
            }
            out.version = version.to_owned();
            out.reason = reason.to_owned();
            out.fields = fields;
            out.status = status;
            return Ok(());
        }
    }

    fn response_into(&mut self, method: &str, out: &mut Response) -> Result<(), End> {
        self.response_head_into(out)?;
        let framing = match out.status {
            _ if method == "HEAD" => Framing::None,
            101 | 204 | 304 => Framing::None,
            _ => framing(&out.fields)?,
        };
        out.close_delimited = matches!(framing, Framing::Close);
        let mut body = Vec::new();
        let ended = self.body(framing, &mut body);
        out.body = body;
        out.trailers = ended?;
        Ok(())
    }
}

fn malformed(what: &str, bytes: &[u8]) -> End {
    End::Malformed(format!("{what}: {}", bytes.escape_ascii()))
}

fn parse_head(head: &[u8]) -> Result<(String, Fields), End> {
    let text = &head[..head.len() - 4];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|w| w == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    for line in &lines {
        if line.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err(malformed("CR, LF or NUL inside a line", line));
        }
    }
    let start = String::from_utf8_lossy(lines[0]).into_owned();
    let fields = lines[1..]
        .iter()
        .map(|line| field(line))
        .collect::<Result<Fields, End>>()?;
    Ok((start, fields))
}

fn field(line: &[u8]) -> Result<(String, String), End> {
    let Some(colon) = line.iter().position(|b| *b == b':') else {
        return Err(malformed("a field without a colon", line));
    };
    let name = &line[..colon];
    let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    if name.is_empty() || !name.iter().all(token) {
        return Err(malformed("field name", line));
    }
    let value = line[colon + 1..].trim_ascii();
    if value
        .iter()
        .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
    {
        return Err(malformed("a control byte in a field value", line));
    }
    Ok((
        String::from_utf8_lossy(name).into_owned(),
        String::from_utf8_lossy(value).into_owned(),
    ))
}

/// RFC 9112 §6.3, refusing whatever two readers could take differently.
fn framing(fields: &Fields) -> Result<Framing, End> {
    let named = |name: &str| -> Vec<&str> {
        fields
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect()
    };
    let lengths = named("content-length");
    let codings = named("transfer-encoding");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::Close),
        ([length], []) => {
            let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
            match length.parse() {
                Ok(n) if digits => Ok(Framing::Length(n)),
                _ => Err(malformed("Content-Length", length.as_bytes())),
            }
        }
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
        _ => Err(malformed(
            "ambiguous framing",
            format!("{lengths:?} {codings:?}").as_bytes(),
        )),
    }
}
