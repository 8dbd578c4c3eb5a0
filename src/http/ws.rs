//! Websocket frames (RFC 6455 §5), only as far as a tunnel must know them: where they begin.

/// A Close frame of a server with status 1001, going away (RFC 6455 §7.4.1).
pub const CLOSE_GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

/// Follows frames as their bytes pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Frames {
    /// Header bytes of the current frame seen so far.
    header: [u8; 14],
    seen: u8,
    /// Payload bytes of the current frame still to come.
    payload: u64,
}

impl Frames {
    /// No frame has begun that has not ended.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.seen == 0 && self.payload == 0
    }

    /// Follows `bytes`.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let skip = usize::try_from(self.payload)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                self.payload -= skip as u64;
                bytes = bytes.get(skip..).unwrap_or_default();
                continue;
            }
            if let Some(slot) = self.header.get_mut(usize::from(self.seen)) {
                *slot = *first;
            }
            self.seen += 1;
            bytes = rest;
            if let Some(payload) = self.announced() {
                self.payload = payload;
                self.seen = 0;
            }
        }
    }

    /// The payload length, once the header is whole.
    fn announced(&self) -> Option<u64> {
        let second = if self.seen >= 2 {
            self.header[1]
        } else {
            return None;
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (extended, length) = match second & 0x7f {
            126 => (
                2,
                u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            ),
            127 => {
                let [.., a, b, c, d, e, f, g, h, _, _, _, _] = self.header;
                (8, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            short => (0, u64::from(short)),
        };
        (self.seen >= 2 + extended + mask).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], between: bool) {
        for split in 0..=bytes.len() {
            let mut frames = Frames::default();
            frames.pass(&bytes[..split]);
            frames.pass(&bytes[split..]);
            assert_eq!(frames.is_between(), between, "split at {split}");
        }
    }

    #[test]
    fn frames_are_followed_across_any_split() {
        check(b"", true);
        check(b"\x81\x02hi", true);
        check(b"\x81\x02h", false);
        check(b"\x81\x82mask12", true);
        check(b"\x81\x82mask1", false);
        let mut long = b"\x82\x7e\x01\x00".to_vec();
        long.extend([7; 256]);
        check(&long, true);
        check(&long[..200], false);
        let mut longer = b"\x82\x7f\x00\x00\x00\x00\x00\x00\x01\x01".to_vec();
        longer.extend([7; 257]);
        longer.extend(b"\x88\x00");
        check(&longer, true);
        check(&CLOSE_GOING_AWAY, true);
    }
}
