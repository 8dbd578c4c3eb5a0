//! Messages over the socket pair: a length of four bytes, then JSON with the protocol's version.

use std::{io, os::unix::net::UnixStream as StdUnixStream, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{Message, PROTOCOL_VERSION};

/// Largest message, in bytes: a store record and its frame.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A peer that does not read is as good as gone.
const SEND_WITHIN: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct Envelope {
    version: u32,
    #[serde(flatten)]
    message: Message,
}

/// Only what every version of the protocol has.
#[derive(Deserialize)]
struct AnyEnvelope {
    version: u32,
}

/// Packs one message.
///
/// # Errors
/// Invalid input when it is larger than [`MESSAGE_BYTES_MAX`].
pub fn encode(message: &Message) -> io::Result<Vec<u8>> {
    let envelope = Envelope {
        version: PROTOCOL_VERSION,
        message: message.clone(),
    };
    let mut out = vec![0; 4];
    serde_json::to_writer(&mut out, &envelope)?;
    let length = out.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= MESSAGE_BYTES_MAX => {
            out.splice(..4, prefix.to_le_bytes());
            Ok(out)
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("a message of {length} bytes is too large"),
        )),
    }
}

/// Bytes in, messages out.
#[derive(Default)]
pub struct Decoder(Vec<u8>);

impl Decoder {
    /// Where received bytes are appended.
    pub fn buf(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// The next whole message; `None` while it is not complete.
    ///
    /// # Errors
    /// One line: too long, not JSON, unknown, or of another version.
    pub fn take_message(&mut self) -> Result<Option<Message>, String> {
        let Some((prefix, rest)) = self.0.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(format!("a message of {length} bytes is too large"));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let decoded = decode(body);
        self.0.drain(..4 + length);
        decoded.map(Some)
    }
}

fn decode(body: &[u8]) -> Result<Message, String> {
    let any: AnyEnvelope =
        serde_json::from_slice(body).map_err(|e| format!("an unreadable message: {e}"))?;
    if any.version != PROTOCOL_VERSION {
        return Err(format!(
            "the other process speaks upgrade protocol {}, this one {PROTOCOL_VERSION}; restart instead",
            any.version
        ));
    }
    serde_json::from_slice::<Envelope>(body)
        .map(|envelope| envelope.message)
        .map_err(|e| format!("an unknown message: {e}"))
}

/// One end of the socket pair.
pub struct Channel {
    stream: UnixStream,
    decoder: Decoder,
}

impl Channel {
    /// Gives the socket to the tokio runtime of this thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(stream: StdUnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream: UnixStream::from_std(stream)?,
            decoder: Decoder::default(),
        })
    }

    /// Waits for a message; may be dropped while it waits.
    ///
    /// # Errors
    /// One line: the other process closed its end, or sent what is no message.
    pub async fn receive(&mut self) -> Result<Message, String> {
        loop {
            if let Some(message) = self.decoder.take_message()? {
                return Ok(message);
            }
            match self.stream.read_buf(self.decoder.buf()).await {
                Ok(0) => return Err("it closed the connection".to_owned()),
                Ok(_) => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    }

    /// Sends a message to its last byte.
    ///
    /// # Errors
    /// One line; the channel is useless afterwards.
    pub async fn send(&mut self, message: &Message) -> Result<(), String> {
        let bytes = encode(message).map_err(|e| e.to_string())?;
        match tokio::time::timeout(SEND_WITHIN, self.stream.write_all(&bytes)).await {
            Ok(sent) => sent.map_err(|e| e.to_string()),
            Err(_) => Err(format!("it did not read for {} s", SEND_WITHIN.as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn every_message() -> Vec<Message> {
        vec![
            Message::Ready {
                pid: 7,
                release: "0.1.0".into(),
            },
            Message::TakeStore,
            Message::StoreTaken,
            Message::AcceptStopped,
            Message::Write {
                id: u64::MAX,
                record: json!({"key": "apikey-1", "value": [1, null]}),
            },
            Message::Written {
                id: 1,
                error: Some("full".into()),
            },
            Message::Written { id: 2, error: None },
            Message::Drained,
            Message::Failed {
                reason: "\u{1f4a5}".into(),
            },
        ]
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_the_bytes_are_cut() {
        let bytes: Vec<u8> = every_message()
            .iter()
            .flat_map(|m| encode(m).expect("small"))
            .collect();
        for piece in [1, 3, 7, 64, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for part in bytes.chunks(piece) {
                decoder.buf().extend_from_slice(part);
                while let Some(message) = decoder.take_message().expect("a message") {
                    got.push(message);
                }
            }
            assert_eq!(got, every_message(), "{piece}");
        }
    }

    #[track_caller]
    fn check_refused(body: &[u8], expected: &str) {
        let mut decoder = Decoder::default();
        let length = u32::try_from(body.len()).expect("small");
        decoder.buf().extend(length.to_le_bytes());
        decoder.buf().extend(body);
        let error = decoder.take_message().expect_err("refused");
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn other_versions_and_nonsense_are_refused_by_name() {
        check_refused(br#"{"version":2,"type":"hello"}"#, "protocol 2");
        check_refused(br#"{"version":1,"type":"hello"}"#, "unknown message");
        check_refused(br#"{"type":"drained"}"#, "unreadable");
        check_refused(b"", "unreadable");
        check_refused(b"GET / HTTP/1.1", "unreadable");
    }

    #[test]
    fn a_message_above_the_limit_is_neither_sent_nor_awaited() {
        let limit = u32::try_from(MESSAGE_BYTES_MAX).expect("small");
        for (length, refused) in [(limit, false), (limit + 1, true)] {
            let mut decoder = Decoder::default();
            decoder.buf().extend(length.to_le_bytes());
            assert_eq!(decoder.take_message().is_err(), refused);
        }
        let empty = encode(&Message::Failed {
            reason: String::new(),
        });
        let frame = empty.expect("small").len() - 4;
        for (size, refused) in [(0, false), (1, true)] {
            let reason = "x".repeat(MESSAGE_BYTES_MAX - frame + size);
            assert_eq!(encode(&Message::Failed { reason }).is_err(), refused);
        }
    }
}
