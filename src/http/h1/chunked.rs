//! The chunked transfer coding (RFC 9112 §7.1), strict, and its encoder.
//!
//! The decoder takes bytes in any portions and never asks for one twice. It hands out content as
//! ranges of the input and forgets the framing: chunk sizes and extensions go no further. Trailer
//! fields are kept only when [`TRAILERS_ALLOWED`] names them.

use super::{Limits, Refusal, field::is_token_byte};

/// Ends a chunked message without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Trailer fields that are handed on; all others are dropped (RFC 9110 §6.5.1 lets an
/// intermediary do so). These are statuses and checksums that are known only behind the content
/// and that nobody takes for framing, routing or authentication. Never merged into a head.
pub const TRAILERS_ALLOWED: &[&str] = &[
    "content-digest",
    "digest",
    "etag",
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
    "repr-digest",
    "server-timing",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-trailer-signature",
];

/// What the next bytes of the input are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// `len` > 0 bytes of content start at `input[skip]`; `skip + len` bytes are used up.
    Data { skip: usize, len: usize },
    /// All of the input, `consumed` bytes, was framing; more is needed.
    NeedMore { consumed: usize },
    /// The message ends `consumed` bytes into the input.
    End { consumed: usize },
}

/// Decoder of one message. Holds no content; allocates only when trailer fields come.
#[derive(Debug, Clone, Default)]
pub struct Decoder {
    state: State,
    /// Hex digits of the size read so far.
    digits: u8,
    /// Bytes of the current chunk still to come; while its size is read, the size so far.
    left: u64,
    extension_bytes: usize,
    trailer_bytes: usize,
    trailer_fields: usize,
    /// Kept trailer lines, then the one that is being read.
    trailers: Vec<u8>,
    /// Where the line that is being read starts in `trailers`, and where its name ends.
    line_at: usize,
    name_end: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Before or within the digits of a chunk size.
    #[default]
    Size,
    /// In whitespace that only `;` can follow.
    BeforeSemicolon,
    /// Behind `;`, before the name of the extension.
    BeforeName,
    Name,
    /// In whitespace behind a name.
    AfterName,
    /// Behind `=`.
    BeforeValue,
    Value,
    Quoted,
    /// Behind a backslash within a quoted string.
    Escaped,
    AfterQuoted,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl Decoder {
    /// Looks at `input`, which starts where the event before ended.
    ///
    /// After [`Event::End`] it goes on to say `End { consumed: 0 }`.
    ///
    /// Errors: 400 for everything that RFC 9112 §7.1 does not describe and for extensions beyond
    /// their limit, 431 for trailers beyond theirs. The decoder is of no use after an error.
    pub fn next(&mut self, input: &[u8], limits: &Limits) -> Result<Event, Refusal> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Data => {
                    let left = (input.len() - at) as u64;
                    let len = self.left.min(left);
                    self.left -= len;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Event::Data {
                        skip: at,
                        len: len as usize,
                    });
                }
                State::Size => self.size(byte, limits)?,
                State::SizeLf => {
                    let next = match self.left {
                        0 => State::TrailerStart,
                        _ => State::Data,
                    };
                    self.step(byte, b'\n', next)?;
                }
                State::DataCr => self.step(byte, b'\r', State::DataLf)?,
                State::DataLf => {
                    self.step(byte, b'\n', State::Size)?;
                    self.digits = 0;
                }
                State::TrailerStart
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerLf
                | State::EndLf => self.trailer(byte, limits)?,
                State::Done => break,
                _ => self.extension(byte, limits)?,
            }
            at += 1;
        }
        Ok(match self.state {
            State::Done => Event::End { consumed: at },
            _ => Event::NeedMore { consumed: at },
        })
    }

    /// The message has ended.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The kept trailer fields as lines `name ": " value CRLF`, ready to stand between the last
    /// chunk and the empty line; empty when there are none. Of meaning after [`Event::End`].
    #[must_use]
    pub fn trailers(&self) -> &[u8] {
        self.trailers.get(..self.line_at).unwrap_or_default()
    }

    #[inline(always)]
    fn step(&mut self, byte: u8, expected: u8, next: State) -> Result<(), Refusal> {
        if byte != expected {
            return Err(refuse(400, "chunk not delimited by CRLF"));
        }
        self.state = next;
        Ok(())
    }

    #[inline(always)]
    fn size(&mut self, byte: u8, limits: &Limits) -> Result<(), Refusal> {
        let Some(digit) = hex_digit(byte) else {
            return match byte {
                _ if self.digits == 0 => Err(refuse(400, "chunk without a size")),
                b'\r' => {
                    self.state = State::SizeLf;
                    Ok(())
                }
                b' ' | b'\t' | b';' => {
                    self.state = State::BeforeSemicolon;
                    self.extension(byte, limits)
                }
                _ => Err(refuse(400, "chunk size is not hexadecimal")),
            };
        };
        // Zeros in front count as digits: sixteen of them are more than anybody needs.
        if self.digits == 16 {
            return Err(refuse(400, "chunk size too long"));
        }
        // `left` is zero before the first digit: the chunk before has been used up.
        self.left = self.left << 4 | u64::from(digit);
        self.digits += 1;
        Ok(())
    }

    /// RFC 9112 §7.1.1: `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )`.
    #[inline(never)]
    fn extension(&mut self, byte: u8, limits: &Limits) -> Result<(), Refusal> {
        use State::{
            AfterName, AfterQuoted, BeforeName, BeforeSemicolon, BeforeValue, Escaped, Name,
            Quoted, SizeLf, Value,
        };
        let is_token = is_token_byte(byte);
        self.state = match (self.state, byte) {
            (Name | Value | AfterQuoted, b'\r') => {
                self.state = SizeLf;
                return Ok(());
            }
            (BeforeSemicolon | Name | AfterName | Value | AfterQuoted, b';') => BeforeName,
            (Name | AfterName, b'=') => BeforeValue,
            (Name, b' ' | b'\t') => AfterName,
            (Value | AfterQuoted, b' ' | b'\t') => BeforeSemicolon,
            (BeforeSemicolon | BeforeName | AfterName | BeforeValue, b' ' | b'\t') => self.state,
            (BeforeName | Name, _) if is_token => Name,
            (BeforeValue | Value, _) if is_token => Value,
            (BeforeValue, b'"') => Quoted,
            (Quoted, b'"') => AfterQuoted,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, b'\t' | b' '..=b'~' | 0x80..) => Quoted,
            _ => return Err(refuse(400, "malformed chunk extension")),
        };
        self.extension_bytes += 1;
        if self.extension_bytes > limits.chunk_extension_bytes_max {
            return Err(refuse(400, "chunk extensions too long"));
        }
        Ok(())
    }

    /// RFC 9112 §7.1.2: field lines as in a head, then the empty line.
    #[inline(never)]
    fn trailer(&mut self, byte: u8, limits: &Limits) -> Result<(), Refusal> {
        use State::{Done, EndLf, TrailerLf, TrailerName, TrailerStart, TrailerValue};
        self.trailer_bytes += 1;
        if self.trailer_bytes > limits.trailer_bytes_max {
            return Err(refuse(431, "trailers too long"));
        }
        self.state = match (self.state, byte) {
            (TrailerStart, b'\r') => EndLf,
            (EndLf, b'\n') => Done,
            (TrailerStart, _) if is_token_byte(byte) => {
                if self.trailer_fields >= limits.trailer_fields_max {
                    return Err(refuse(431, "too many trailers"));
                }
                self.trailer_fields += 1;
                self.trailers.push(byte);
                TrailerName
            }
            (TrailerName, b':') => {
                self.name_end = self.trailers.len();
                self.trailers.extend_from_slice(b": ");
                TrailerValue
            }
            (TrailerName, _) if is_token_byte(byte) => {
                self.trailers.push(byte);
                TrailerName
            }
            (TrailerValue, b'\r') => TrailerLf,
            (TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => {
                let is_leading = self.trailers.len() == self.name_end + 2;
                if !(is_leading && matches!(byte, b' ' | b'\t')) {
                    self.trailers.push(byte);
                }
                TrailerValue
            }
            (TrailerLf, b'\n') => {
                self.end_trailer_line();
                TrailerStart
            }
            _ => return Err(refuse(400, "malformed trailer")),
        };
        Ok(())
    }

    /// Keeps or drops the trailer line that has just ended.
    fn end_trailer_line(&mut self) {
        let name = self.trailers.get(self.line_at..self.name_end);
        if !is_allowed_trailer(name.unwrap_or_default()) {
            self.trailers.truncate(self.line_at);
            return;
        }
        let line = self.trailers.get(self.name_end + 2..).unwrap_or_default();
        let value_len = line.trim_ascii_end().len();
        self.trailers.truncate(self.name_end + 2 + value_len);
        self.trailers.extend_from_slice(b"\r\n");
        self.line_at = self.trailers.len();
    }
}

/// [`TRAILERS_ALLOWED`] has this name, in any case.
#[must_use]
pub fn is_allowed_trailer(name: &[u8]) -> bool {
    TRAILERS_ALLOWED
        .iter()
        .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(name))
}

/// Writes the line that opens a chunk of `len` bytes. `len` is not zero: that would end the
/// message. CRLF follows the data.
#[inline]
pub fn encode_header(out: &mut Vec<u8>, len: usize) {
    debug_assert!(len > 0);
    let digits = len.checked_ilog2().unwrap_or(0) / 4 + 1;
    for place in (0..digits).rev() {
        let digit = (len >> (4 * place)) as u8 & 0xf;
        out.push(match digit {
            0..10 => b'0' + digit,
            _ => b'a' + digit - 10,
        });
    }
    out.extend_from_slice(b"\r\n");
}

#[inline(always)]
const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cold]
#[inline(never)]
const fn refuse(status: u16, why: &'static str) -> Refusal {
    Refusal { status, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content, trailers and length of a message that is sound; else the status. A message that
    /// does not end is status 0. In portions of every size.
    #[track_caller]
    fn decode(input: &[u8], limits: &Limits) -> Result<(Vec<u8>, Vec<u8>, usize), u16> {
        let in_portions = |portion: usize| {
            let mut decoder = Decoder::default();
            let mut content = Vec::new();
            let mut at = 0;
            let mut end = 0;
            while end < input.len() {
                end = input.len().min(end + portion);
                while at < end {
                    match decoder
                        .next(&input[at..end], limits)
                        .map_err(|r| r.status)?
                    {
                        Event::Data { skip, len } => {
                            content.extend_from_slice(&input[at + skip..at + skip + len]);
                            at += skip + len;
                        }
                        Event::NeedMore { consumed } => {
                            at += consumed;
                            assert_eq!(at, end);
                        }
                        Event::End { consumed } => {
                            assert!(decoder.is_done());
                            return Ok((content, decoder.trailers().to_vec(), at + consumed));
                        }
                    }
                }
            }
            Err(0)
        };
        let whole = in_portions(input.len());
        for portion in 1..input.len().min(30) {
            assert_eq!(in_portions(portion), whole, "{}", input.escape_ascii());
        }
        whole
    }

    #[track_caller]
    fn check(input: &str, expected: Result<(&str, &str), u16>) {
        let decoded = decode(input.as_bytes(), &Limits::default());
        let sound = decoded.map(|(content, trailers, _)| {
            (
                String::from_utf8(content).unwrap(),
                String::from_utf8(trailers).unwrap(),
            )
        });
        let expected = expected.map(|(content, trailers)| (content.into(), trailers.into()));
        assert_eq!(sound, expected, "{input:?}");
    }

    /// RFC 9112 §7.1.
    #[test]
    fn chunks() {
        check("0\r\n\r\n", Ok(("", "")));
        check("3\r\nabc\r\n0\r\n\r\n", Ok(("abc", "")));
        check(
            "3\r\nabc\r\nA\r\n0123\r\n6789\r\n000\r\n\r\n",
            Ok(("abc0123\r\n6789", "")),
        );
        check("0000000000000001\r\na\r\n0\r\n\r\n", Ok(("a", "")));
        check("", Err(0));
        check("3\r\nab", Err(0));
        check("3\r\nabc\r\n0\r\n", Err(0));
        check("ffffffffffffffff\r\nabc", Err(0));
        for bad in [
            "\r\n",
            "zz\r\n",
            "0x3\r\nabc",
            "-3\r\n",
            "+3\r\n",
            "3_\r\n",
            " 3\r\n",
            "\t3\r\n",
            "3 \r\n",
            "3\nabc\n0\n\n",
            "3\rabc",
            "fffffffffffffffff\r\n",
            "00000000000000003\r\n",
            "3\r\nabcXX0\r\n\r\n",
            "3\r\nabc0\r\n\r\n",
            "3\r\nabc\n0\r\n\r\n",
            "3\r\nabc\r0\r\n\r\n",
            "3\r\nabcd\r\n0\r\n\r\n",
            "3\0\r\n",
            "0\r\n\n",
            "0\n\r\n",
            "0\r\n\rX",
        ] {
            check(bad, Err(400));
        }
    }

    /// RFC 9112 §7.1.1.
    #[test]
    fn extensions_are_read_strictly_and_forgotten() {
        for good in [
            ";a",
            ";a=b",
            ";a;b=c",
            ";a=\"x;\\\"\ty\u{e9}\"",
            " ;\ta = b ; c",
            ";a=\"\";b",
            ";a=\"b\" ;c",
        ] {
            check(&format!("1{good}\r\nx\r\n0{good}\r\n\r\n"), Ok(("x", "")));
        }
        for bad in [
            ";",
            ";;a",
            ";a=",
            ";=b",
            ";a b",
            ";a=b c",
            ";a=\"b",
            ";a=\"b\"c",
            ";a=\"\\\u{7f}\"",
            ";a\rb",
            ";a\nb",
            ";a=\"\nb\"",
            ";a\0",
            ";a=\"\0\"",
            ";\u{e9}",
            ";a ",
            ";a=b ",
            " a",
            "a=b",
            ";a/b",
            ";a=\"\r\"",
        ] {
            check(&format!("1{bad}\r\nx\r\n0\r\n\r\n"), Err(400));
        }
    }

    /// RFC 9112 §7.1.2; RFC 9110 §6.5.
    #[test]
    fn trailers_pass_an_allow_list() {
        check(
            "0\r\ngrpc-status: 0\r\nGrpc-Message:\t ok then \r\nETag:\r\n\r\n",
            Ok(("", "grpc-status: 0\r\nGrpc-Message: ok then\r\nETag: \r\n")),
        );
        for dropped in [
            "Content-Length",
            "Transfer-Encoding",
            "Host",
            "Authorization",
            "X-Forwarded-For",
            "Cookie",
            "Set-Cookie",
            "Connection",
            "Trailer",
            "X-Other",
            "grpc-statu",
            "grpc-status-",
        ] {
            check(&format!("0\r\n{dropped}: 1\r\n\r\n"), Ok(("", "")));
            check(
                &format!("0\r\n{dropped}: 1\r\ngrpc-status: 2\r\n{dropped}:3\r\n\r\n"),
                Ok(("", "grpc-status: 2\r\n")),
            );
        }
        for bad in [
            " a: b\r\n",
            "a : b\r\n",
            "a\r\n",
            ": b\r\n",
            "a: b\n",
            "a: \0\r\n",
            "a: b\r\n c\r\n",
            "a: b\rc\r\n",
            "\u{e9}: b\r\n",
        ] {
            check(&format!("0\r\n{bad}\r\n"), Err(400));
        }
    }

    #[test]
    fn limits_hold_at_the_byte() {
        let limits = Limits {
            trailer_bytes_max: 40,
            trailer_fields_max: 3,
            chunk_extension_bytes_max: 10,
            ..Limits::default()
        };
        #[track_caller]
        fn check(input: &str, limits: &Limits, expected: Result<(), u16>) {
            assert_eq!(
                decode(input.as_bytes(), limits).map(|_| ()),
                expected,
                "{input:?}"
            );
        }
        for (len, expected) in [(9, Ok(())), (10, Ok(())), (11, Err(400))] {
            let name = "a".repeat(len - 1);
            check(&format!("0;{name}\r\n\r\n"), &limits, expected);
            // Over the message, not per chunk.
            let name = "a".repeat(len - 6);
            check(
                &format!("1;aaaa\r\nx\r\n0;{name}\r\n\r\n"),
                &limits,
                expected,
            );
        }
        for (len, expected) in [(39, Ok(())), (40, Ok(())), (41, Err(431))] {
            let value = "a".repeat(len - 6);
            check(&format!("0\r\nX:{value}\r\n\r\n"), &limits, expected);
        }
        for (count, expected) in [(2, Ok(())), (3, Ok(())), (4, Err(431))] {
            check(
                &format!("0\r\n{}\r\n", "X:1\r\n".repeat(count)),
                &limits,
                expected,
            );
        }
        let limits = Limits::default();
        check(&format!("0;{}\r\n\r\n", "a".repeat(4095)), &limits, Ok(()));
        check(
            &format!("0;{}\r\n\r\n", "a".repeat(4096)),
            &limits,
            Err(400),
        );
        check(
            &format!("0\r\nX:{}\r\n\r\n", "a".repeat(8186)),
            &limits,
            Ok(()),
        );
        check(
            &format!("0\r\nX:{}\r\n\r\n", "a".repeat(8187)),
            &limits,
            Err(431),
        );
        check(
            &format!("0\r\n{}\r\n", "X:1\r\n".repeat(32)),
            &limits,
            Ok(()),
        );
        check(
            &format!("0\r\n{}\r\n", "X:1\r\n".repeat(33)),
            &limits,
            Err(431),
        );
    }

    #[test]
    fn the_end_is_found_before_the_next_message() {
        let (content, _, len) =
            decode(b"1\r\na\r\n0\r\n\r\nGET / HTTP/1.1\r\n", &Limits::default()).unwrap();
        assert_eq!((content.as_slice(), len), (b"a".as_slice(), 11));
    }

    #[test]
    fn chunk_headers_are_what_the_decoder_reads() {
        for len in (1..200).chain([255, 256, 4095, 4096, 65_535, 65_536, 1 << 40, usize::MAX]) {
            let mut header = Vec::new();
            encode_header(&mut header, len);
            assert_eq!(header, format!("{len:x}\r\n").into_bytes());
        }
        let mut decoder = Decoder::default();
        let end = decoder.next(LAST_CHUNK, &Limits::default());
        assert_eq!(end, Ok(Event::End { consumed: 5 }));
    }
}
