//! The content of a request as it arrives: bounded, timed, never past its end.

use crate::{
    exchange::{Client, Local, detail::Captured},
    http::h1::{Framing, Limits, Refusal, chunked},
    net::{io::Transport, watch::AtDeadline},
};

/// Why the content of a request could not be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    /// The framing is broken (RFC 9112 §7.1).
    Malformed(Refusal),
    /// Longer than allowed.
    TooLarge,
    /// The client went away or half-closed before the end.
    Ended,
    /// Slower than the least rate.
    TooSlow,
    /// The exchange is over: nobody wants the rest.
    Abandoned,
}

/// Reads one request's content. What lies behind it stays for the next request.
pub struct Incoming {
    framing: Framing,
    remaining: u64,
    decoder: chunked::Decoder,
    limits: Limits,
    received: u64,
    bytes_max: u64,
    /// How long reads have waited so far, and how much of that is forgiven.
    waited_ms: u64,
    forgiven_ms: u64,
    complete: bool,
    /// What of the content is recorded.
    captured: Option<Box<Captured>>,
}

impl Incoming {
    /// Content framed as the head said, of which no byte has been looked at.
    #[must_use]
    pub fn new(framing: Framing, bytes_max: u64, local: &Local) -> Self {
        let remaining = match framing {
            Framing::Length(length) => length,
            _ => 0,
        };
        let complete = !matches!(framing, Framing::Chunked) && remaining == 0;
        Self {
            framing,
            remaining,
            decoder: chunked::Decoder::default(),
            limits: local.settings.limits,
            received: 0,
            bytes_max,
            waited_ms: 0,
            forgiven_ms: 0,
            complete,
            captured: None,
        }
    }

    /// Keeps a copy of what is taken and read from now on.
    pub fn capture(&mut self) {
        self.captured = Some(Box::default());
    }

    /// The copy.
    pub fn captured(&mut self) -> Captured {
        self.captured.take().map(|kept| *kept).unwrap_or_default()
    }

    #[inline]
    fn keep(&mut self, data: &[u8]) {
        if let Some(captured) = &mut self.captured {
            captured.push(data);
        }
    }

    /// Lets the client wait so long for a 100 before it is called slow (RFC 9110 §10.1.1).
    pub fn forgive(&mut self, span_ms: u64) {
        self.forgiven_ms = span_ms;
    }

    /// The last byte has been taken.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Bytes still to come, as far as known.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        match self.framing {
            Framing::Chunked if !self.complete => u64::MAX,
            _ => self.remaining,
        }
    }

    /// Takes content out of `input` and appends it to `out`, framed in chunks of our own when the
    /// content came chunked and `reframe` is set. Answers how much of `input` was used; the rest is
    /// behind the content, or the begin of something that needs more bytes.
    ///
    /// # Errors
    /// [`BodyFault::Malformed`] and [`BodyFault::TooLarge`]; nothing at or behind the fault is in
    /// `out`.
    pub fn take(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        reframe: bool,
    ) -> Result<usize, BodyFault> {
        if self.complete {
            return Ok(0);
        }
        if let Framing::Length(_) = self.framing {
            let len = usize::try_from(self.remaining)
                .unwrap_or(usize::MAX)
                .min(input.len());
            let data = input.get(..len).unwrap_or_default();
            out.extend_from_slice(data);
            self.keep(data);
            self.advance(len as u64)?;
            return Ok(len);
        }
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            match self
                .decoder
                .next(rest, &self.limits)
                .map_err(BodyFault::Malformed)?
            {
                chunked::Event::Data { skip, len } => {
                    self.received += len as u64;
                    if self.received > self.bytes_max {
                        return Err(BodyFault::TooLarge);
                    }
                    let data = rest.get(skip..skip + len).unwrap_or_default();
                    self.keep(data);
                    if reframe {
                        chunked::encode_header(out, len);
                        out.extend_from_slice(data);
                        out.extend_from_slice(b"\r\n");
                    } else {
                        out.extend_from_slice(data);
                    }
                    used += skip + len;
                }
                chunked::Event::NeedMore { consumed } => return Ok(used + consumed),
                chunked::Event::End { consumed } => {
                    self.complete = true;
                    if reframe {
                        out.extend_from_slice(b"0\r\n");
                        out.extend_from_slice(self.decoder.trailers());
                        out.extend_from_slice(b"\r\n");
                    }
                    return Ok(used + consumed);
                }
            }
        }
    }

    fn advance(&mut self, len: u64) -> Result<(), BodyFault> {
        self.remaining -= len.min(self.remaining);
        self.received += len;
        self.complete = self.remaining == 0;
        if self.received > self.bytes_max {
            Err(BodyFault::TooLarge)
        } else {
            Ok(())
        }
    }

    /// Reads more bytes of the connection. Content without chunks comes back as it is, cut at its
    /// end; chunked content comes back raw, for [`Incoming::take`].
    ///
    /// # Errors
    /// Every [`BodyFault`]; the buffer comes back in any case.
    pub async fn read(
        &mut self,
        client: &Client,
        local: &Local,
        buf: Vec<u8>,
    ) -> (Result<(), BodyFault>, Vec<u8>) {
        let settings = &local.settings;
        let earned_ms = self.received.saturating_mul(1000);
        if let Some(earned_ms) = earned_ms.checked_div(settings.body_rate_min) {
            // Only waiting counts: a slow upstream is not the client's fault.
            let allowed_ms = (settings.body_grace_ms + self.forgiven_ms).saturating_add(earned_ms);
            let left_ms = allowed_ms.saturating_sub(self.waited_ms);
            client.deadline.set(left_ms, AtDeadline::CancelRead);
        }
        let clock = local.watch.clock();
        let began_ms = clock.now_ms();
        let before = buf.len();
        let (result, mut buf) = client
            .stream
            .read_until_canceled(buf, client.deadline.cancel())
            .await;
        let too_slow = client.deadline.is_expired();
        client.deadline.clear();
        self.waited_ms += clock.now_ms() - began_ms;
        match result {
            Ok(0) => (Err(BodyFault::Ended), buf),
            Err(_) if too_slow => (Err(BodyFault::TooSlow), buf),
            Err(error) if crate::net::io::is_canceled(&error) => (Err(BodyFault::Abandoned), buf),
            Err(_) => (Err(BodyFault::Ended), buf),
            Ok(read) => {
                local.metrics.received_bytes.add(read as u64);
                if let Framing::Length(_) = self.framing {
                    let len = self.remaining.min(read as u64);
                    let end = before + usize::try_from(len).unwrap_or(read);
                    client
                        .overread
                        .borrow_mut()
                        .extend_from_slice(buf.get(end..).unwrap_or_default());
                    buf.truncate(end);
                    self.keep(buf.get(before..).unwrap_or_default());
                    return (self.advance(len), buf);
                }
                (Ok(()), buf)
            }
        }
    }
}
