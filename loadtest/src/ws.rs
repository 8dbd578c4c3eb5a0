//! WebSocket frames and the handshake digest (RFC 6455), enough for an echo and its clients. No IO.

/// Longest payload accepted, in bytes: the tests send short texts.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

pub const TEXT: u8 = 0x1;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// One unfragmented frame, already unmasked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The status code of a Close frame, if it carries one (RFC 6455 §5.5.1).
    pub fn close_code(&self) -> Option<u16> {
        match (self.opcode, self.payload.as_slice()) {
            (CLOSE, [high, low, ..]) => Some(u16::from_be_bytes([*high, *low])),
            _ => None,
        }
    }
}

/// Reads the first frame of `bytes`: the frame and its length on the wire, or `None` until it is complete.
///
/// Fragmented frames and payloads above [`PAYLOAD_BYTES_MAX`] are errors.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, &'static str> {
    let [first, second, ..] = *bytes else {
        return Ok(None);
    };
    if first & 0x80 == 0 {
        return Err("fragmented websocket frame");
    }
    let masked = second & 0x80 != 0;
    let (length, mut at) = match second & 0x7f {
        126 => match bytes.get(2..4) {
            Some(&[a, b]) => (usize::from(u16::from_be_bytes([a, b])), 4),
            _ => return Ok(None),
        },
        127 => return Err("websocket payload too long"),
        short => (usize::from(short), 2),
    };
    if length > PAYLOAD_BYTES_MAX {
        return Err("websocket payload too long");
    }
    let mask = if masked {
        let Some(mask) = bytes.get(at..at + 4) else {
            return Ok(None);
        };
        at += 4;
        mask
    } else {
        &[0; 4]
    };
    let Some(payload) = bytes.get(at..at + length) else {
        return Ok(None);
    };
    let payload = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    let frame = Frame {
        opcode: first & 0x0f,
        payload,
    };
    Ok(Some((frame, at + length)))
}

/// Appends one unfragmented frame to `out`, masked when `mask` is given (clients must, RFC 6455 §5.3).
pub fn encode(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) {
    let flag = if mask.is_some() { 0x80 } else { 0 };
    out.push(0x80 | opcode);
    match u16::try_from(payload.len()) {
        Ok(short) if short < 126 => out.push(flag | short as u8),
        length => {
            out.push(flag | 0x7e);
            out.extend(length.unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    let mask = mask.inspect(|mask| out.extend(mask)).unwrap_or_default();
    let masked = payload.iter().zip(mask.iter().cycle());
    out.extend(masked.map(|(byte, mask)| byte ^ mask));
}

/// `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key` (RFC 6455 §4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    let mut text = key.to_vec();
    text.extend(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64(&sha1(&text))
}

fn sha1(text: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [
        0x6745_2301,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    let mut padded = text.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend((text.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        let mut words = [0u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |w, b| w << 8 | u32::from(*b));
        }
        for i in 16..80 {
            let mixed = words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16];
            words[i] = mixed.rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (i, word) in words.iter().enumerate() {
            let (f, k) = match i / 20 {
                0 => ((b & c) | (!b & d), 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc_u32),
                _ => (b ^ c ^ d, 0xca62_c1d6),
            };
            let next = a
                .rotate_left(5)
                .wrapping_add(f)
                .wrapping_add(e)
                .wrapping_add(k)
                .wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, part) in state.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }
    let mut digest = [0; 20];
    for (out, word) in digest.chunks_exact_mut(4).zip(state) {
        out.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut padded = [0u8; 4];
        padded[1..=three.len()].copy_from_slice(three);
        let bits = u32::from_be_bytes(padded);
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) & 63;
            text.push(if place > three.len() {
                '='
            } else {
                char::from(DIGITS[digit as usize])
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_digest_is_the_one_of_the_rfc() {
        // RFC 6455 §1.3.
        assert_eq!(
            accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn frames_survive_encoding_masked_and_plain() {
        for length in [0, 1, 125, 126, 4096] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let payload = vec![b'x'; length];
                let mut wire = Vec::new();
                encode(&mut wire, TEXT, &payload, mask);
                let whole = wire.len();
                assert_eq!(decode(&wire[..whole - 1]), Ok(None));
                let expected = Frame {
                    opcode: TEXT,
                    payload,
                };
                assert_eq!(decode(&wire), Ok(Some((expected, whole))));
            }
        }
    }

    #[test]
    fn a_close_frame_tells_its_code() {
        let frame = Frame {
            opcode: CLOSE,
            payload: vec![0x03, 0xe9],
        };
        assert_eq!(frame.close_code(), Some(1001));
    }
}
