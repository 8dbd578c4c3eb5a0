//! What follows a 101: bytes both ways until either side ends (RFC 9110 §7.8).

use std::cell::Cell;

use crate::{
    exchange::{Client, Local},
    http::ws,
    net::{
        io::{Lent, Stream, Transport},
        sys::Half,
        watch::{AtDeadline, Deadline},
    },
    upstream::pool::Conn,
};

/// Runs until both directions have ended. `out` is the 101 for the client, from `to_client_from` on
/// followed by what the upstream sent behind it; `to_upstream` is what the client sent ahead.
pub async fn run(
    local: &Local,
    client: &Client,
    conn: &Conn,
    out: Vec<u8>,
    to_client_from: usize,
    to_upstream: Vec<u8>,
    websocket: bool,
) {
    for deadline in [&client.deadline, &conn.deadline] {
        deadline.clear();
        deadline.set_polled(true);
    }
    let frames = Cell::new(ws::Frames::default());
    if websocket {
        let mut seen = frames.get();
        seen.pass(out.get(to_client_from..).unwrap_or_default());
        frames.set(seen);
    }
    let ended = Cell::new(false);
    let down = Way {
        local,
        from: &conn.stream,
        to: &client.stream,
        deadline: &client.deadline,
        frames: websocket.then_some(&frames),
        ended: &ended,
    };
    let up = Way {
        local,
        from: &client.stream,
        to: &conn.stream,
        deadline: &conn.deadline,
        frames: None,
        ended: &ended,
    };
    super::serve::both(
        down.run(out),
        up.run(to_upstream),
        |()| up.end(),
        |()| down.end(),
    )
    .await;
}

/// One direction.
struct Way<'a> {
    local: &'a Local,
    from: &'a Stream,
    to: &'a Stream,
    /// Of `to`: a peer that reads nothing is let go.
    deadline: &'a Deadline,
    /// Where the frames towards the client begin, for a Close of our own.
    frames: Option<&'a Cell<ws::Frames>>,
    ended: &'a Cell<bool>,
}

impl Way<'_> {
    async fn run(&self, first: Vec<u8>) {
        let mut buf = first;
        if !buf.is_empty() {
            let (result, back) = self.write(buf).await;
            buf = back;
            if result.is_err() {
                return;
            }
        }
        self.local.buffers.give(buf);
        loop {
            // Idle tunnels hold no buffer.
            if self.may_end() || self.from.readable().await.is_err() || self.may_end() {
                break;
            }
            if self.ended.get() {
                return;
            }
            let (result, buf) = self.from.read(self.local.buffers.small()).await;
            match result {
                Ok(read) if read > 0 => {
                    if let Some(frames) = self.frames {
                        let mut seen = frames.get();
                        seen.pass(&buf);
                        frames.set(seen);
                    }
                    let (result, buf) = self.write(buf).await;
                    self.local.buffers.give(buf);
                    if result.is_err() {
                        return;
                    }
                }
                _ => {
                    self.local.buffers.give(buf);
                    break;
                }
            }
        }
        if self.frames.is_some() && self.may_end() {
            let _ = self.write(ws::CLOSE_GOING_AWAY.to_vec()).await;
        }
        self.to.shutdown(Half::Write);
    }

    /// The process ends, and no frame has begun that has not ended. The rest of one that has is
    /// read first, as far as it is there: reading ends by itself then.
    fn may_end(&self) -> bool {
        self.local.ending.get() && self.frames.is_none_or(|frames| frames.get().is_between())
    }

    async fn write(&self, buf: Vec<u8>) -> Lent<()> {
        let limit_ms = self.local.settings.write_timeout_ms;
        self.deadline.set(limit_ms, AtDeadline::Shutdown);
        let lent = self.to.write_all(buf, 0).await;
        self.deadline.clear();
        lent
    }

    /// The other direction has ended: this one ends soon, as in Tyk and nginx.
    fn end(&self) {
        self.ended.set(true);
        self.from.shutdown(Half::Read);
    }
}
