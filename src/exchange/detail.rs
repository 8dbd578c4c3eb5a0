//! What a detailed record keeps of a request and its answer, while they pass.
//!
//! Nothing waits for it and nothing is held back: bytes are copied as they go by, up to a bound. A
//! request that is not recorded in detail has none.

use std::cell::RefCell;

use crate::analytics::DETAIL_BYTES_MAX;

/// Content that went by.
#[derive(Debug, Default)]
pub struct Captured {
    bytes: Vec<u8>,
    total: u64,
}

impl Captured {
    /// Keeps what there is room for.
    pub fn push(&mut self, data: &[u8]) {
        let room = DETAIL_BYTES_MAX - self.bytes.len().min(DETAIL_BYTES_MAX);
        let kept = data.get(..room).unwrap_or(data);
        self.bytes.extend_from_slice(kept);
        self.total += data.len() as u64;
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How much went by, kept or not.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }
}

/// A request and its answer.
#[derive(Debug, Default)]
pub struct Detail {
    /// As sent upstream, without credentials for a proxy on the way; empty: it did not get there.
    pub request_head: Vec<u8>,
    /// Content that streamed through.
    pub request: Captured,
    pub answer: RefCell<Answer>,
}

/// The answer's part.
#[derive(Debug, Default)]
pub struct Answer {
    /// Status line and fields, those of the framing left out, without the empty line.
    pub head: Vec<u8>,
    pub content: Captured,
    /// The answer has no content, whatever its fields say.
    pub is_bare: bool,
    /// The content is packed on its way to the client, and recorded without.
    pub is_gzip: bool,
}

impl Detail {
    /// Content on its way to the client.
    pub fn passes(&self, data: &[u8]) {
        self.answer.borrow_mut().content.push(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_by_is_kept_up_to_the_bound() {
        for (parts, kept) in [
            (vec![0], 0),
            (vec![DETAIL_BYTES_MAX - 1], DETAIL_BYTES_MAX - 1),
            (vec![DETAIL_BYTES_MAX - 1, 1], DETAIL_BYTES_MAX),
            (vec![DETAIL_BYTES_MAX, 1, 7], DETAIL_BYTES_MAX),
            (vec![7, DETAIL_BYTES_MAX], DETAIL_BYTES_MAX),
        ] {
            let mut captured = Captured::default();
            for part in &parts {
                captured.push(&vec![1; *part]);
            }
            assert_eq!(captured.bytes().len(), kept, "{parts:?}");
            assert_eq!(captured.total(), parts.iter().sum::<usize>() as u64);
        }
    }
}
