//! Text to nodes: a JSON document (RFC 8259) as a flat list in document order.
//!
//! Each node knows its place in the text and the node that follows its whole subtree, so a subtree
//! is skipped in one step. Nesting and size are bounded before anything is built on them.

use std::borrow::Cow;

use super::{DEPTH_MAX, DOCUMENT_BYTES_MAX, JsonError, push_token};

/// A well-formed document.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    False,
    True,
    Number,
    /// Without escapes.
    Text,
    /// With escapes.
    Escaped,
    Array,
    /// Keys and values in turn.
    Object,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::False => "false",
            Self::True => "true",
            Self::Number => "a number",
            Self::Text | Self::Escaped => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) kind: Kind,
    /// First byte; for a text its opening quote.
    pub(super) start: u32,
    /// One past the last byte.
    pub(super) end: u32,
    /// Index of the first node that is not inside this one.
    pub(super) next: u32,
}

impl<'a> Document<'a> {
    /// Parses one value with nothing but space around it.
    ///
    /// # Errors
    /// The first place that is not JSON, nests deeper than [`DEPTH_MAX`], or the size when above
    /// [`DOCUMENT_BYTES_MAX`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, JsonError> {
        Self::parse_within(bytes, DOCUMENT_BYTES_MAX)
    }

    /// As [`Document::parse`], with a size limit of the caller's, which is below 4 GiB.
    ///
    /// # Errors
    /// As there.
    pub fn parse_within(bytes: &'a [u8], bytes_max: usize) -> Result<Self, JsonError> {
        if bytes.len() > bytes_max {
            return Err(JsonError::new(
                None,
                format!(
                    "the document has {} bytes, more than {bytes_max}",
                    bytes.len()
                ),
            ));
        }
        // Tyk differs: Go replaces bytes that are not UTF-8; here they are refused, because what is
        // matched and logged would not be what the file says.
        let text = std::str::from_utf8(bytes).map_err(|e| {
            JsonError::new(Some(e.valid_up_to()), "the bytes are not UTF-8".to_owned())
        })?;
        let mut parser = Parser {
            bytes,
            at: 0,
            nodes: Vec::with_capacity(bytes.len() / 16 + 8),
        };
        parser.value(0)?;
        parser.skip_space();
        match parser.peek() {
            None => Ok(Self {
                text,
                nodes: parser.nodes,
            }),
            Some(_) => Err(parser.unexpected("the end of the document")),
        }
    }

    pub(super) fn node(&self, index: u32) -> Node {
        self.nodes.get(index as usize).copied().unwrap_or(Node {
            kind: Kind::Null,
            start: 0,
            end: 0,
            next: u32::MAX,
        })
    }

    /// The bytes of a node, quotes included.
    pub(super) fn raw(&self, node: Node) -> &'a str {
        self.text
            .get(node.start as usize..node.end as usize)
            .unwrap_or_default()
    }

    /// The content of a text node.
    pub(super) fn content(&self, node: Node) -> Cow<'a, str> {
        let raw = self.raw(node);
        let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
        if node.kind == Kind::Escaped {
            Cow::Owned(unescape(inner))
        } else {
            Cow::Borrowed(inner)
        }
    }

    /// Byte position of the value at `pointer` (RFC 6901); of the nearest enclosing value when
    /// there is none. Keys that differ only in case are followed, as Go would.
    #[must_use]
    pub fn locate(&self, pointer: &str) -> usize {
        let mut at = 0;
        for token in pointer.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            match self.child(at, &token) {
                Some(child) => at = child,
                None => break,
            }
        }
        self.node(at).start as usize
    }

    /// Every text that is a value, with its byte position and pointer, in document order.
    pub fn texts(&self) -> impl Iterator<Item = (usize, String, Cow<'a, str>)> {
        let mut found = Vec::new();
        self.collect_texts(0, &mut String::new(), &mut found);
        found.into_iter()
    }

    /// Nesting is bounded by [`DEPTH_MAX`].
    fn collect_texts(
        &self,
        at: u32,
        pointer: &mut String,
        found: &mut Vec<(usize, String, Cow<'a, str>)>,
    ) {
        let node = self.node(at);
        let base = pointer.len();
        let mut child = at + 1;
        match node.kind {
            Kind::Text | Kind::Escaped => {
                found.push((node.start as usize, pointer.clone(), self.content(node)));
            }
            Kind::Array => {
                let mut index = 0_usize;
                while child < node.next {
                    push_token(pointer, &index.to_string());
                    self.collect_texts(child, pointer, found);
                    pointer.truncate(base);
                    child = self.node(child).next;
                    index += 1;
                }
            }
            Kind::Object => {
                while child < node.next {
                    push_token(pointer, &self.content(self.node(child)));
                    self.collect_texts(child + 1, pointer, found);
                    pointer.truncate(base);
                    child = self.node(child + 1).next;
                }
            }
            _ => {}
        }
    }

    fn child(&self, parent: u32, token: &str) -> Option<u32> {
        let node = self.node(parent);
        let mut at = parent + 1;
        match node.kind {
            Kind::Array => {
                let index: usize = token.parse().ok()?;
                for _ in 0..index {
                    at = (at < node.next).then(|| self.node(at).next)?;
                }
                (at < node.next).then_some(at)
            }
            Kind::Object => {
                let mut folded = None;
                while at < node.next {
                    let key = self.content(self.node(at));
                    if key == token {
                        return Some(at + 1);
                    }
                    if key.eq_ignore_ascii_case(token) {
                        folded.get_or_insert(at + 1);
                    }
                    at = self.node(at + 1).next;
                }
                folded
            }
            _ => None,
        }
    }
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
}

impl Parser<'_> {
    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => self.text(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true", Kind::True),
            Some(b'f') => self.word(b"false", Kind::False),
            Some(b'n') => self.word(b"null", Kind::Null),
            _ => Err(self.unexpected("a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        let node = self.open(Kind::Object, depth)?;
        self.skip_space();
        if self.peek() != Some(b'}') {
            loop {
                self.skip_space();
                if self.peek() != Some(b'"') {
                    return Err(self.unexpected("a key in double quotes"));
                }
                let key = self.nodes.len();
                self.text()?;
                self.skip_space();
                self.expect(b':', "`:`")
                    .map_err(|e| self.inside_key(e, key))?;
                self.value(depth).map_err(|e| self.inside_key(e, key))?;
                self.skip_space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => break,
                    _ => return Err(self.unexpected("`,` or `}`")),
                }
            }
        }
        self.close(node);
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        let node = self.open(Kind::Array, depth)?;
        self.skip_space();
        if self.peek() != Some(b']') {
            for index in 0_usize.. {
                self.value(depth).map_err(|e| e.within(index.to_string()))?;
                self.skip_space();
                match self.peek() {
                    Some(b',') => self.at += 1,
                    Some(b']') => break,
                    _ => return Err(self.unexpected("`,` or `]`")),
                }
            }
        }
        self.close(node);
        Ok(())
    }

    fn open(&mut self, kind: Kind, depth: usize) -> Result<usize, JsonError> {
        if depth > DEPTH_MAX {
            return Err(JsonError::new(
                Some(self.at),
                format!("the document nests deeper than {DEPTH_MAX}"),
            ));
        }
        let start = self.at;
        self.at += 1;
        self.push(kind, start);
        Ok(self.nodes.len() - 1)
    }

    /// Steps over the closing bracket.
    fn close(&mut self, node: usize) {
        self.at += 1;
        let (end, next) = (index(self.at), index(self.nodes.len()));
        if let Some(node) = self.nodes.get_mut(node) {
            node.end = end;
            node.next = next;
        }
    }

    fn text(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.at += 1;
        let mut kind = Kind::Text;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let plain = rest
                .iter()
                .position(|&b| b < 0x20 || b == b'"' || b == b'\\')
                .unwrap_or(rest.len());
            self.at += plain;
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    kind = Kind::Escaped;
                    self.escape()?;
                }
                Some(_) => {
                    return Err(JsonError::new(
                        Some(self.at),
                        "a control character in a string; write it as an escape".to_owned(),
                    ));
                }
                None => {
                    return Err(JsonError::new(
                        Some(start),
                        "the string that begins here has no end".to_owned(),
                    ));
                }
            }
        }
        self.at += 1;
        self.push(kind, start);
        Ok(())
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let length = match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') => {
                let digits = self.bytes.get(self.at + 2..self.at + 6).unwrap_or_default();
                if digits.len() == 4 && digits.iter().all(u8::is_ascii_hexdigit) {
                    6
                } else {
                    0
                }
            }
            _ => 0,
        };
        if length == 0 {
            return Err(JsonError::new(
                Some(self.at),
                "not an escape that JSON knows".to_owned(),
            ));
        }
        self.at += length;
        Ok(())
    }

    /// RFC 8259 §6.
    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        self.push(Kind::Number, start);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let before = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == before {
            return Err(self.unexpected("a digit"));
        }
        Ok(())
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Result<(), JsonError> {
        let start = self.at;
        if self.bytes.get(start..start + word.len()) != Some(word) {
            return Err(self.unexpected("a value"));
        }
        self.at += word.len();
        self.push(kind, start);
        Ok(())
    }

    fn push(&mut self, kind: Kind, start: usize) {
        let next = index(self.nodes.len() + 1);
        self.nodes.push(Node {
            kind,
            start: index(start),
            end: index(self.at),
            next,
        });
    }

    fn expect(&mut self, byte: u8, name: &str) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.unexpected(name))
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn unexpected(&self, expected: &str) -> JsonError {
        let found = match self.peek() {
            None if self.nodes.is_empty() => "an empty document".to_owned(),
            None => "the end of the document".to_owned(),
            Some(b'\'') => "a single quote".to_owned(),
            Some(byte @ 0x21..0x7f) => format!("`{}`", char::from(byte)),
            Some(_) if self.bytes.get(self.at..self.at + 3) == Some(b"\xef\xbb\xbf") => {
                "a byte order mark".to_owned()
            }
            Some(byte) => format!("byte 0x{byte:02x}"),
        };
        JsonError::new(Some(self.at), format!("found {found}, expected {expected}"))
    }

    fn inside_key(&self, error: JsonError, key: usize) -> JsonError {
        let raw = self.nodes.get(key).and_then(|node| {
            let inner = self
                .bytes
                .get(node.start as usize + 1..(node.end as usize).saturating_sub(1))?;
            std::str::from_utf8(inner).ok()
        });
        error.within(unescape(raw.unwrap_or_default()))
    }
}

/// Positions and node counts stay below the document's size, which is far below 2^32.
fn index(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

/// Resolves the escapes of a text that the parser has accepted. Halves of surrogate pairs that
/// stand alone become U+FFFD, as in Go.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        let (c, length) = match escape.as_bytes().get(1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => unescape_unit(escape),
            Some(&other) => (char::from(other), 2),
            None => ('\\', 1),
        };
        plain.push(c);
        rest = escape.get(length..).unwrap_or_default();
    }
    plain.push_str(rest);
    plain
}

/// The character that `\uXXXX` or a pair of them stands for, and how many bytes they take.
fn unescape_unit(escape: &str) -> (char, usize) {
    let unit = |at: usize| {
        let escape = escape.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(escape, 16).ok()
    };
    let first = unit(0).unwrap_or(0xfffd);
    if let 0xd800..0xdc00 = first
        && let Some(second @ 0xdc00..0xe000) = unit(6)
    {
        let point = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (char::from_u32(point).unwrap_or('\u{fffd}'), 12);
    }
    (char::from_u32(first).unwrap_or('\u{fffd}'), 6)
}
