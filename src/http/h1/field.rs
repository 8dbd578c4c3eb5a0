//! Field lines: names known by number, values as ranges, and the loop that reads a field section.
//!
//! RFC 9112 §5. The section is read in one pass. A name that the gateway treats in some way gets
//! its [`FieldName`] from one perfect-hash lookup, so that later code compares numbers, not text.

use std::ops::Deref;

use super::{Span, Stop, refuse, scan};

/// One field line. The value is without the whitespace around it (RFC 9110 §5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub name: Span,
    pub value: Span,
    pub id: FieldName,
}

/// The field lines of a head in their order, and where each known name stands.
#[derive(Debug, Clone)]
pub struct Fields {
    list: Vec<Field>,
    /// Bit `id as u8` is set when the name occurs.
    seen: u64,
    /// Bit `id as u8` is set when the name occurs again.
    again: u64,
    /// Place of the first occurrence; of meaning only where `seen` says so.
    first: [u16; 64],
}

impl Default for Fields {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            seen: 0,
            again: 0,
            first: [0; 64],
        }
    }
}

impl Fields {
    /// The first field of this name. Of no meaning for [`FieldName::Other`].
    #[inline]
    #[must_use]
    pub fn first(&self, id: FieldName) -> Option<&Field> {
        if !self.has(id) {
            return None;
        }
        self.list.get(usize::from(*self.first.get(id as usize)?))
    }

    /// The value of the first field of this name.
    #[inline]
    #[must_use]
    pub fn value(&self, id: FieldName) -> Option<Span> {
        Some(self.first(id)?.value)
    }

    /// All fields of this name in their order. Free when the name is absent.
    #[inline]
    pub fn all(&self, id: FieldName) -> impl Iterator<Item = &Field> {
        let first = self.first.get(id as usize).map_or(0, |&at| usize::from(at));
        let range = match (self.has(id), self.has_twice(id)) {
            (false, _) => 0..0,
            (true, false) => first..first + 1,
            (true, true) => first..self.list.len(),
        };
        self.list
            .get(range)
            .unwrap_or_default()
            .iter()
            .filter(move |field| field.id == id)
    }

    /// The name occurs.
    #[inline]
    #[must_use]
    pub const fn has(&self, id: FieldName) -> bool {
        self.seen & id.bit() != 0
    }

    /// The name occurs more than once.
    #[inline]
    #[must_use]
    pub const fn has_twice(&self, id: FieldName) -> bool {
        self.again & id.bit() != 0
    }

    /// Some name whose bit is in `bits` occurs ([`FieldName::bit`]).
    #[inline]
    pub(super) const fn has_any(&self, bits: u64) -> bool {
        self.seen & bits != 0
    }

    #[inline]
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.seen = 0;
        self.again = 0;
    }

    #[inline(always)]
    fn push(&mut self, field: Field) {
        let bit = field.id.bit();
        self.again |= self.seen & bit;
        if let Some(first) = self.first.get_mut(field.id as usize) {
            let here = self.list.len() as u16;
            *first = if self.seen & bit == 0 { here } else { *first };
        }
        self.seen |= bit;
        self.list.push(field);
    }

    /// Reads the field section at `at` and returns where the content starts.
    ///
    /// Errors: 400 for a line that RFC 9112 §5 does not describe (obsolete folding included), 431
    /// for more than `fields_max` lines.
    #[inline(always)]
    pub(super) fn read(
        &mut self,
        buf: &[u8],
        mut at: usize,
        fields_max: usize,
    ) -> Result<usize, Stop> {
        loop {
            let start = scan::load_three(buf, at);
            let [low, ..] = start;
            if low as u8 == b'\r' {
                return match (low >> 8) as u8 {
                    b'\n' => Ok(at + 2),
                    _ if at + 1 >= buf.len() => Err(Stop::Partial),
                    _ => Err(refuse(400, "CR without LF")),
                };
            }
            if self.list.len() >= fields_max {
                return Err(match at >= buf.len() {
                    true => Stop::Partial,
                    false => refuse(431, "too many fields"),
                });
            }
            let (field, next) = line(buf, at, start)?;
            self.push(field);
            at = next;
        }
    }
}

impl Deref for Fields {
    type Target = [Field];

    #[inline]
    fn deref(&self) -> &[Field] {
        &self.list
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = &'a Field;
    type IntoIter = std::slice::Iter<'a, Field>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

/// Reads one field line, CRLF included; `start` is what stands at `at`.
#[inline(always)]
fn line(buf: &[u8], at: usize, start: [u64; 3]) -> Result<(Field, usize), Stop> {
    let (colon, id) = name(buf, at, start)?;
    let (value, next) = value(buf, colon + 1)?;
    let name = Span::new(at, colon);
    Ok((Field { name, value, id }, next))
}

/// Where the name that starts at `at` ends, and which it is.
///
/// A name that is in the table is sound; others are looked at in blocks; only what has bytes
/// besides letters, digits, dash and underscore, or is longer than 23, goes through `name_end`.
#[inline(always)]
fn name(buf: &[u8], at: usize, [low, mid, high]: [u64; 3]) -> Result<(usize, FieldName), Stop> {
    let [in_low, in_mid, in_high] = [low, mid, high].map(|word| scan::equal_or_high(word, b':'));
    let len = if in_low != 0 {
        scan::first(in_low)
    } else if in_mid != 0 {
        8 + scan::first(in_mid)
    } else if in_high != 0 {
        16 + scan::first(in_high)
    } else {
        return Ok((name_end(buf, at)?, FieldName::Other));
    };
    let colon = at + len;
    let last = buf.get(colon.wrapping_sub(2)..colon);
    let id = FieldName::lookup([low, mid, high], len, last.unwrap_or_default());
    if id == FieldName::Other && !(buf.get(colon) == Some(&b':') && is_plain(buf, at, len)) {
        name_end(buf, at)?;
    }
    Ok((colon, id))
}

/// The name, of 1 to 23 bytes, is of letters, digits, dash and underscore.
#[inline(always)]
fn is_plain(buf: &[u8], at: usize, len: usize) -> bool {
    match len {
        0 => false,
        1..=16 => scan::is_plain_block(buf, at, len),
        // Two blocks that overlap.
        _ => scan::is_plain_block(buf, at, 16) && scan::is_plain_block(buf, at + len - 16, 16),
    }
}

/// Byte by byte to the colon: the judge of every name that is not made of plain letters.
#[inline(never)]
fn name_end(buf: &[u8], at: usize) -> Result<usize, Stop> {
    let mut end = at;
    loop {
        end += match buf.get(end) {
            Some(&byte) if is_token_byte(byte) => 1,
            Some(b':') if end > at => return Ok(end),
            Some(b':') => return Err(refuse(400, "empty field name")),
            Some(b' ' | b'\t') if end == at => return Err(refuse(400, "folded field line")),
            Some(b' ' | b'\t') => return Err(refuse(400, "space in a field name")),
            Some(b'\r' | b'\n') => return Err(refuse(400, "field line without a colon")),
            Some(_) => return Err(refuse(400, "field name is not a token")),
            None => return Err(Stop::Partial),
        };
    }
}

/// Reads a value and its CRLF from behind the colon. TAB and 0x80..=0xff are part of values.
#[inline(always)]
fn value(buf: &[u8], mut start: usize) -> Result<(Span, usize), Stop> {
    while let Some(b' ' | b'\t') = buf.get(start) {
        start += 1;
    }
    let end = line_end(buf, start)?;
    let mut last = end;
    while last > start && matches!(buf.get(last - 1), Some(b' ' | b'\t')) {
        last -= 1;
    }
    Ok((Span::new(start, last), end + 2))
}

/// Where the CRLF of a line of text stands (field value, reason phrase).
#[inline(always)]
pub(super) fn line_end(buf: &[u8], at: usize) -> Result<usize, Stop> {
    let end = scan::unprintable(buf, at);
    match buf.get(end..end + 2) {
        Some(b"\r\n") => Ok(end),
        _ => odd_line_end(buf, end),
    }
}

/// Goes on from `at` in a line that is not all printable ASCII.
#[inline(never)]
fn odd_line_end(buf: &[u8], mut at: usize) -> Result<usize, Stop> {
    loop {
        at = scan::control(buf, at);
        match buf.get(at) {
            Some(b'\r') => break,
            Some(b'\t') => at += 1,
            Some(b'\n') => return Err(refuse(400, "LF without CR")),
            Some(_) => return Err(refuse(400, "control character in a field value")),
            None => return Err(Stop::Partial),
        }
    }
    match buf.get(at + 1) {
        Some(b'\n') => Ok(at),
        Some(_) => Err(refuse(400, "CR without LF")),
        None => Err(Stop::Partial),
    }
}

/// RFC 9110 §5.6.2 `tchar`.
#[inline]
#[must_use]
#[expect(
    clippy::indexing_slicing,
    reason = "the table is made while compiling; a byte is within it"
)]
pub(super) const fn is_token_byte(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0u8;
        loop {
            table[byte as usize] = byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'!' | b'#'
                        ..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
                );
            if byte == 255 {
                break table;
            }
            byte += 1;
        }
    };
    TABLE[byte as usize]
}

macro_rules! field_names {
    ($($name:ident = $text:literal,)*) => {
        /// Field names that the gateway, a middleware or a record treats by name.
        ///
        /// Recognised in any case, without allocation. The number of names stays below 64: sets
        /// of them are one `u64`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum FieldName {
            $($name,)*
            /// Any name that is not in this list.
            Other,
        }

        const NAMES: &[(&str, FieldName)] = &[$(($text, FieldName::$name),)*];
    };
}

field_names! {
    Host = "Host",
    Connection = "Connection",
    ContentLength = "Content-Length",
    TransferEncoding = "Transfer-Encoding",
    Te = "Te",
    Trailer = "Trailer",
    Upgrade = "Upgrade",
    KeepAlive = "Keep-Alive",
    ProxyConnection = "Proxy-Connection",
    ProxyAuthenticate = "Proxy-Authenticate",
    ProxyAuthorization = "Proxy-Authorization",
    XForwardedFor = "X-Forwarded-For",
    XRealIp = "X-Real-Ip",
    UserAgent = "User-Agent",
    AcceptEncoding = "Accept-Encoding",
    Expect = "Expect",
    ContentEncoding = "Content-Encoding",
    ContentType = "Content-Type",
    Date = "Date",
    Authorization = "Authorization",
    Cookie = "Cookie",
    Server = "Server",
    Accept = "Accept",
    SetCookie = "Set-Cookie",
    Location = "Location",
    CacheControl = "Cache-Control",
    Etag = "Etag",
    LastModified = "Last-Modified",
    Expires = "Expires",
    Age = "Age",
    Vary = "Vary",
    Via = "Via",
    Origin = "Origin",
    Referer = "Referer",
    AcceptLanguage = "Accept-Language",
    Range = "Range",
    ContentRange = "Content-Range",
    IfModifiedSince = "If-Modified-Since",
    IfNoneMatch = "If-None-Match",
    XForwardedProto = "X-Forwarded-Proto",
    XForwardedHost = "X-Forwarded-Host",
    Forwarded = "Forwarded",
    Allow = "Allow",
    RetryAfter = "Retry-After",
    WwwAuthenticate = "Www-Authenticate",
    XRequestId = "X-Request-Id",
    Pragma = "Pragma",
}

impl FieldName {
    /// The name in any case.
    #[must_use]
    pub fn from_bytes(name: &[u8]) -> Self {
        if name.len() >= 24 {
            return Self::Other;
        }
        let mut text = [0; 24];
        let with_colon = name.iter().chain(b":");
        for (slot, byte) in text.iter_mut().zip(with_colon) {
            *slot = *byte;
        }
        let last = name.last_chunk::<2>().map_or(&[][..], |last| last);
        Self::lookup(scan::load_three(&text, 0), name.len(), last)
    }

    /// As Go's `textproto.CanonicalMIMEHeaderKey` writes it; empty for [`FieldName::Other`].
    #[must_use]
    pub const fn canonical(self) -> &'static str {
        #[expect(clippy::indexing_slicing, reason = "the condition bounds the index")]
        if (self as usize) < NAMES.len() {
            NAMES[self as usize].0
        } else {
            ""
        }
    }

    /// This name as a member of a set.
    #[inline]
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << self as u32
    }

    /// The name whose bytes and the colon behind them are the start of `words` (little-endian);
    /// `len` of them, of which `last` are the last two.
    #[inline(always)]
    fn lookup(words: [u64; 3], len: usize, last: &[u8]) -> Self {
        let [low, mid, high] = words;
        let last = match last {
            [a, b] => u16::from_le_bytes([*a, *b]),
            _ => 0,
        };
        let Some(slot) = SLOTS.get(slot_of(low as u16, last, len)) else {
            return Self::Other;
        };
        let [a, b, c] = slot.words;
        let [x, y, z] = slot.masks;
        match (low ^ a) & x | (mid ^ b) & y | (high ^ c) & z {
            0 => slot.id,
            _ => Self::Other,
        }
    }
}

/// One name in the hash table, with its colon.
#[derive(Clone, Copy)]
struct Slot {
    words: [u64; 3],
    /// Which bits count: all but the case of letters, none behind the colon.
    masks: [u64; 3],
    id: FieldName,
}

impl Slot {
    /// Matches everything, as no known name.
    const EMPTY: Self = Self {
        words: [0; 3],
        masks: [0; 3],
        id: FieldName::Other,
    };
}

const SLOT_BITS: u32 = 7;

/// Every name alone in its slot; adding a name may call for another multiplier in [`slot_of`].
#[expect(clippy::indexing_slicing, reason = "the table is made while compiling")]
static SLOTS: [Slot; 1 << SLOT_BITS] = {
    assert!(NAMES.len() < 64);
    let mut slots = [Slot::EMPTY; 1 << SLOT_BITS];
    let mut i = 0;
    while i < NAMES.len() {
        let (text, id) = NAMES[i];
        let text = text.as_bytes();
        assert!(id as usize == i && text.len() >= 2 && text.len() < 24);
        let mut slot = Slot { id, ..Slot::EMPTY };
        let mut at = 0;
        while at <= text.len() {
            // A letter may differ in the bit of its case. Anything else must be the same: a CR
            // differs from a dash in just that bit.
            let (byte, mask) = match at == text.len() {
                true => (b':', 0xff),
                false if text[at].is_ascii_alphabetic() => (text[at], 0xdf),
                false => (text[at], 0xff),
            };
            slot.words[at / 8] |= (byte as u64) << (8 * (at % 8));
            slot.masks[at / 8] |= mask << (8 * (at % 8));
            at += 1;
        }
        let first = u16::from_le_bytes([text[0], text[1]]);
        let last = u16::from_le_bytes([text[text.len() - 2], text[text.len() - 1]]);
        let place = slot_of(first, last, text.len());
        assert!(slots[place].masks[0] == 0, "two names in one slot");
        slots[place] = slot;
        i += 1;
    }
    slots
};

/// Case-blind by leaving out bit 5. The multiplier was found by trying odd random ones.
#[inline(always)]
const fn slot_of(first: u16, last: u16, len: usize) -> usize {
    let ends = (first as u64 | (last as u64) << 16) & 0xdfdf_dfdf;
    let hash = (ends | (len as u64) << 32).wrapping_mul(0xb606_7e96_4e25_e87b);
    (hash >> (64 - SLOT_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_recognised_in_any_case_and_nothing_near_it_is() {
        for &(text, id) in NAMES {
            let exact = text.as_bytes().to_vec();
            assert_eq!(id.canonical(), text);
            for name in [
                exact.clone(),
                exact.to_ascii_lowercase(),
                exact.to_ascii_uppercase(),
            ] {
                assert_eq!(FieldName::from_bytes(&name), id, "{text}");
                let mut line = name.clone();
                line.extend_from_slice(b": v\r\n\r\n");
                let mut fields = Fields::default();
                assert_eq!(fields.read(&line, 0, 9), Ok(line.len()));
                assert_eq!(fields[0].id, id);
            }
            for at in 0..exact.len() {
                for flip in 0..8 {
                    let mut near = exact.clone();
                    near[at] ^= 1 << flip;
                    let expected = match near.eq_ignore_ascii_case(&exact) {
                        true => id,
                        false => FieldName::Other,
                    };
                    let known = NAMES
                        .iter()
                        .any(|(n, _)| near.eq_ignore_ascii_case(n.as_bytes()));
                    if expected == id || !known {
                        assert_eq!(FieldName::from_bytes(&near), expected, "{near:?}");
                    }
                }
            }
            let longer = [exact.as_slice(), b"s"].concat();
            assert_eq!(FieldName::from_bytes(&longer), FieldName::Other);
        }
        assert_eq!(FieldName::from_bytes(b""), FieldName::Other);
        assert_eq!(FieldName::from_bytes(&[b'a'; 300]), FieldName::Other);
        assert_eq!(FieldName::Other.canonical(), "");
    }

    #[test]
    fn known_names_are_found_by_number_and_in_order() {
        let buf = b"Cookie: a\r\nhost: h\r\ncookie: b\r\nX: 1\r\n\r\n";
        let mut fields = Fields::default();
        fields.read(buf, 0, 9).unwrap();
        let text = |span: Span| std::str::from_utf8(span.of(buf)).unwrap().to_owned();
        let cookies: Vec<_> = fields
            .all(FieldName::Cookie)
            .map(|f| text(f.value))
            .collect();
        assert_eq!(cookies, ["a", "b"]);
        assert_eq!(text(fields.value(FieldName::Cookie).unwrap()), "a");
        assert_eq!(text(fields.value(FieldName::Host).unwrap()), "h");
        assert!(fields.has_twice(FieldName::Cookie) && !fields.has_twice(FieldName::Host));
        assert_eq!(fields.all(FieldName::Te).count(), 0);
        assert!(fields.value(FieldName::Te).is_none());
    }
}
