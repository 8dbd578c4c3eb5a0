//! Streaming gunzip with bounded output, for answers to clients that did not ask for gzip.
//!
//! Tyk's transport asks upstreams for gzip when the client names no encoding, and unpacks the
//! answer (Go `net/http` `gzipReader` over `compress/gzip`). Memory: one window of 32 KiB, made on
//! the first member.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};

/// Decoder of one gzip stream (RFC 1952): one member or several, one behind the other. Anything
/// else behind a member is an error, as in Go.
#[derive(Debug, Default)]
pub struct Gunzip {
    inflate: Option<Decompress>,
    /// The last member is whole; made anew when more input comes.
    at_boundary: bool,
}

/// What one call of [`Gunzip::push`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes of the input that were used up.
    pub consumed: usize,
    /// The output is full and there is more, of the input or within the decoder: call again with
    /// the rest of the input, even when that is empty.
    pub is_full: bool,
}

/// The stream is not gzip, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GunzipError;

impl fmt::Display for GunzipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid gzip data")
    }
}

impl std::error::Error for GunzipError {}

impl Gunzip {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes `input` onto the end of `out`, which never grows beyond `out_max` bytes.
    ///
    /// Errors: a header, block or checksum that is wrong. What was decoded before stays in `out`.
    pub fn push(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        out_max: usize,
    ) -> Result<Pushed, GunzipError> {
        let mut rest = input;
        loop {
            let consumed = input.len() - rest.len();
            if rest.is_empty() && self.is_complete() {
                return Ok(Pushed {
                    consumed,
                    is_full: false,
                });
            }
            let room = out_max.saturating_sub(out.len());
            if room == 0 {
                return Ok(Pushed {
                    consumed,
                    is_full: true,
                });
            }
            if self.at_boundary || self.inflate.is_none() {
                if rest.is_empty() {
                    return Ok(Pushed {
                        consumed,
                        is_full: false,
                    });
                }
                self.inflate = Some(Decompress::new_gzip(WINDOW_BITS));
                self.at_boundary = false;
            }
            let Some(inflate) = &mut self.inflate else {
                return Err(GunzipError);
            };
            let before = out.len();
            out.resize(before + room.min(STEP_BYTES), 0);
            let spare = out.get_mut(before..).unwrap_or_default();
            let (taken, made) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(rest, spare, FlushDecompress::None);
            let taken = (inflate.total_in() - taken) as usize;
            let made = (inflate.total_out() - made) as usize;
            out.truncate(before + made);
            rest = rest.get(taken..).unwrap_or_default();
            match status {
                Ok(Status::StreamEnd) => self.at_boundary = true,
                // No progress: the next bytes have not come yet.
                Ok(Status::Ok | Status::BufError) if taken == 0 && made == 0 => {
                    let consumed = input.len() - rest.len();
                    return Ok(Pushed {
                        consumed,
                        is_full: false,
                    });
                }
                Ok(_) => {}
                Err(_) => return Err(GunzipError),
            }
        }
    }

    /// The input so far ends where a member ends, or there was none: the stream may stop here.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.at_boundary || self.inflate.is_none()
    }
}

/// The largest window that gzip has; a larger one cannot be asked for.
const WINDOW_BITS: u8 = 15;

/// Output is asked for in steps of this size, so that little of it is cleared in vain.
const STEP_BYTES: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut packed = Vec::with_capacity(content.len() + 1024);
        let mut deflate = Compress::new_gzip(Compression::default(), 15);
        deflate
            .compress_vec(content, &mut packed, FlushCompress::Finish)
            .unwrap();
        packed
    }

    fn sample() -> Vec<u8> {
        (0..1_500u32)
            .flat_map(|i| (i.wrapping_mul(i) / 7).to_le_bytes())
            .collect()
    }

    #[test]
    fn a_stream_comes_out_whole_in_any_portions_and_within_any_room() {
        let content = sample();
        let packed = [gzip(&content), gzip(b""), gzip(b"tail")].concat();
        let expected = [content.as_slice(), b"tail"].concat();
        for (portion, room) in [(1, 70_000), (7, 1), (1000, 1000), (usize::MAX, usize::MAX)] {
            let mut gunzip = Gunzip::new();
            let mut unpacked = Vec::new();
            for input in packed.chunks(portion.min(packed.len())) {
                let mut rest = input;
                loop {
                    let mut out = Vec::new();
                    let pushed = gunzip.push(rest, &mut out, room).unwrap();
                    assert!(out.len() <= room);
                    unpacked.extend_from_slice(&out);
                    rest = &rest[pushed.consumed..];
                    if !pushed.is_full {
                        break;
                    }
                }
                assert!(rest.is_empty());
            }
            assert!(gunzip.is_complete());
            assert!(unpacked == expected, "portion {portion}, room {room}");
        }
    }

    #[test]
    fn a_stream_that_stops_early_is_not_complete() {
        let packed = gzip(b"hello");
        for len in 1..packed.len() {
            let mut gunzip = Gunzip::new();
            gunzip.push(&packed[..len], &mut Vec::new(), 100).unwrap();
            assert!(!gunzip.is_complete(), "{len} bytes");
        }
        assert!(Gunzip::new().is_complete());
    }

    #[test]
    fn damage_and_bytes_behind_the_end_are_errors() {
        #[track_caller]
        fn check(packed: &[u8]) {
            let mut out = Vec::new();
            assert_eq!(Gunzip::new().push(packed, &mut out, 1000), Err(GunzipError));
        }
        let packed = gzip(b"hello");
        check(b"not gzip");
        check(&[packed.as_slice(), b"trailing garbage"].concat());
        check(&[packed.as_slice(), &[0; 20]].concat());
        let mut bad_sum = packed.clone();
        let at = bad_sum.len() - 8;
        bad_sum[at] ^= 1;
        check(&bad_sum);
        let mut bad_length = packed;
        let at = bad_length.len() - 1;
        bad_length[at] ^= 1;
        check(&bad_length);
    }

    #[test]
    fn a_bomb_yields_no_more_than_there_is_room_for() {
        let packed = gzip(&vec![0; 1 << 20]);
        let mut gunzip = Gunzip::new();
        let mut out = Vec::new();
        let pushed = gunzip.push(&packed, &mut out, 4096).unwrap();
        assert!(pushed.is_full && out.len() == 4096 && out.capacity() <= 2 * STEP_BYTES);
    }
}
