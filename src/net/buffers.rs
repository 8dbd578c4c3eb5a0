//! Pooled buffers of one shard: taken when bytes are expected, given back when they have left.

use std::cell::RefCell;

/// Heads and small bodies.
pub const SMALL_BYTES: usize = 16 << 10;
/// Bodies that proved larger than one small read.
pub const MEDIUM_BYTES: usize = 64 << 10;
/// Bodies that keep coming. Larger ones save little more and hold memory per slow download
/// (`PERF.md`, buffer sizes).
pub const LARGE_BYTES: usize = 256 << 10;

const KEPT: [(usize, usize); 3] = [(SMALL_BYTES, 512), (MEDIUM_BYTES, 32), (LARGE_BYTES, 16)];

/// Free lists per size class. The lists are bounded: what does not fit is freed.
#[derive(Default)]
pub struct Buffers {
    free: [RefCell<Vec<Vec<u8>>>; 3],
}

impl Buffers {
    /// An empty buffer that holds at least `bytes_min`, from the smallest class that does; more
    /// than the largest class is allocated to measure.
    #[must_use]
    pub fn take(&self, bytes_min: usize) -> Vec<u8> {
        for ((size, _), free) in KEPT.iter().zip(&self.free) {
            if *size >= bytes_min {
                return free
                    .borrow_mut()
                    .pop()
                    .unwrap_or_else(|| Vec::with_capacity(*size));
            }
        }
        Vec::with_capacity(bytes_min)
    }

    /// A small buffer.
    #[must_use]
    pub fn small(&self) -> Vec<u8> {
        self.take(SMALL_BYTES)
    }

    /// Takes a buffer back. One that grew out of its class is freed.
    pub fn give(&self, mut buf: Vec<u8>) {
        for ((size, kept), free) in KEPT.iter().zip(&self.free) {
            if buf.capacity() == *size {
                let mut free = free.borrow_mut();
                if free.len() < *kept {
                    buf.clear();
                    free.push(buf);
                }
                return;
            }
        }
    }

    /// The buffer for what remains of a body: grows with it, shrinks at its end.
    #[must_use]
    pub fn for_remaining(&self, remaining: u64) -> Vec<u8> {
        self.take(match remaining {
            0..=0x4000 => SMALL_BYTES,
            0x4001..=0x2_0000 => MEDIUM_BYTES,
            _ => LARGE_BYTES,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_and_in_its_class() {
        let buffers = Buffers::default();
        let mut buf = buffers.take(1);
        assert_eq!(buf.capacity(), SMALL_BYTES);
        buf.extend_from_slice(b"left over");
        let place = buf.as_ptr();
        buffers.give(buf);
        let again = buffers.small();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert_eq!(buffers.take(SMALL_BYTES + 1).capacity(), MEDIUM_BYTES);
        assert_eq!(buffers.take(LARGE_BYTES + 1).capacity(), LARGE_BYTES + 1);
        assert_eq!(buffers.for_remaining(u64::MAX).capacity(), LARGE_BYTES);
    }
}
