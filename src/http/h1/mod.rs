//! HTTP/1.1 messages (RFC 9112): strict parsing into index ranges, framing, chunked coding.
//!
//! Nothing here owns bytes. A head is described by [`Span`]s into the buffer that it was parsed
//! from, so that the buffer can move into an IO operation and come back.

pub mod chunked;
mod field;
mod framing;
mod request;
mod response;
mod scan;

pub use self::{
    field::{Field, FieldName, Fields},
    request::{Expect, Method, RequestHead},
    response::ResponseHead,
};

/// A range of the buffer that a head was parsed from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    pub at: u32,
    pub len: u32,
}

impl Span {
    /// The bytes of this range; empty when the range does not lie inside `buf`.
    #[inline]
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        // The sum is taken in usize: a made-up span cannot wrap around.
        buf.get(self.at as usize..self.at as usize + self.len as usize)
            .unwrap_or_default()
    }

    /// The last `len` bytes of this range; `None` when it has fewer.
    #[inline]
    #[must_use]
    pub fn last(self, len: usize) -> Option<Self> {
        let len = u32::try_from(len).ok()?;
        let before = self.len.checked_sub(len)?;
        Some(Self {
            at: self.at + before,
            len,
        })
    }

    /// The range `at..end`; empty when `end` lies before `at`. Heads are far below 4 GiB.
    #[inline]
    #[must_use]
    pub(crate) const fn new(at: usize, end: usize) -> Self {
        Self {
            at: at as u32,
            len: end.saturating_sub(at) as u32,
        }
    }
}

/// What a message may weigh. All sizes in bytes of the wire form, CRLFs included unless said
/// otherwise. Config section `penstock.limits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Request line without its CRLF; beyond it 414.
    pub request_line_bytes_max: usize,
    /// Whole head with the empty line that ends it (and a tolerated leading one); beyond it 431.
    pub head_bytes_max: usize,
    /// Field lines of a head; beyond it 431.
    pub fields_max: usize,
    /// All trailer lines of a message with the empty line; beyond it 431.
    pub trailer_bytes_max: usize,
    /// Trailer lines of a message, kept or not; beyond it 431.
    pub trailer_fields_max: usize,
    /// Chunk extensions of a message, from each `;` to the CRLF; beyond it 400.
    pub chunk_extension_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_line_bytes_max: 16_384,
            head_bytes_max: 65_536,
            fields_max: 256,
            trailer_bytes_max: 8_192,
            trailer_fields_max: 32,
            chunk_extension_bytes_max: 4_096,
        }
    }
}

/// Why a message cannot be accepted. The connection is not usable afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// Answer to a client; for messages of an upstream always 502.
    pub status: u16,
    /// For logs; never contains bytes of the message.
    pub why: &'static str,
}

/// How far a head got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Sound so far, more bytes needed.
    Partial,
    /// The head ends inside the buffer.
    Complete,
}

/// How the end of the content is found (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Framing {
    /// No content and no framing field.
    #[default]
    None,
    Length(u64),
    Chunked,
    /// Responses only: everything until the connection closes.
    UntilClose,
}

/// Why a parser stopped before the end; `?` carries it out of the inner loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Partial,
    Refused(Refusal),
}

/// Refuses with `status`. Cold, so that the loops that never refuse stay together.
#[cold]
#[inline(never)]
const fn refuse(status: u16, why: &'static str) -> Stop {
    Stop::Refused(Refusal { status, why })
}
