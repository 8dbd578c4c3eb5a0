//! HTTP/1.1 messages (RFC 9112): strict parsing into index ranges, framing, chunked coding.
//!
//! Nothing here owns bytes. A head is described by [`Span`]s into the buffer that it was parsed
//! from, so that the buffer can move into an IO operation and come back.

/// A range of the buffer that a head was parsed from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    pub at: u32,
    pub len: u32,
}

impl Span {
    /// The bytes of this range; empty when the range does not lie inside `buf`.
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        buf.get(self.at as usize..(self.at + self.len) as usize)
            .unwrap_or_default()
    }
}
