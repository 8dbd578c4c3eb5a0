//! The client side of every generator: many connections, one thread, one exchange per connection at a time.
//!
//! Response bodies of known length are dropped inside the kernel; uploads come from a memory file.
//! What a failed exchange looked like is kept apart ([`Failure`]), because availability tests judge by it.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Duration,
};

use socket2::Socket;

use crate::{
    http1::{BodyReader, HEAD_BYTES_MAX, ResponseHead, head_length},
    sys::{self, Epoll, Event, Interest},
};

/// Why an exchange did not bring a complete answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Failure {
    Refused,
    Reset,
    /// The peer ended the connection after the request was (at least partly) sent and before any answer.
    ClosedBeforeAnswer,
    ClosedInsideAnswer,
    Malformed,
    TimedOut,
    Other,
}

/// A complete answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    pub status: u16,
    pub keep_alive: bool,
    pub has_retry_after: bool,
}

/// What one readiness report led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Pending,
    Answer(Answer),
    /// The peer closed while nothing was outstanding.
    ClosedIdle,
    Failed(Failure),
}

/// A fixed number of connection slots to one address, or as many to each of several.
pub struct Client {
    /// Slot `n` belongs to target `n / slots_each`.
    targets: Vec<SocketAddr>,
    slots_each: usize,
    epoll: Epoll,
    conns: Vec<Conn>,
    buf: Vec<u8>,
    body: OwnedFd,
    /// Body bytes received and sent so far, also of exchanges that are not complete.
    pub received_bytes: u64,
    pub sent_bytes: u64,
    /// Keeps the begin of each answer's body in [`Client::body_start`].
    pub keeps_body_start: bool,
}

#[derive(Default)]
struct Conn {
    socket: Option<Socket>,
    out: Vec<u8>,
    sent: usize,
    upload_left: u64,
    waits_to_write: bool,
    pending_in: Vec<u8>,
    body_start: Vec<u8>,
    asked_at_ns: u64,
    phase: Phase,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    Head,
    Body {
        answer: Answer,
        reader: BodyReader,
    },
}

const BODY_FILE_BYTES: usize = 4 << 20;
const BODY_START_BYTES_MAX: usize = 256;

impl Client {
    pub fn new(target: SocketAddr, slots: usize) -> io::Result<Self> {
        Self::to_each(&[target], slots)
    }

    /// `slots_each` connections to each target, those of the first target first.
    pub fn to_each(targets: &[SocketAddr], slots_each: usize) -> io::Result<Self> {
        let mut conns = Vec::new();
        conns.resize_with(slots_each * targets.len(), Conn::default);
        Ok(Self {
            targets: targets.to_vec(),
            slots_each: slots_each.max(1),
            epoll: Epoll::new(256)?,
            conns,
            buf: vec![0; 1 << 16],
            body: sys::body_file(BODY_FILE_BYTES)?,
            received_bytes: 0,
            sent_bytes: 0,
            keeps_body_start: false,
        })
    }

    /// Opens (or opens anew) the connection of a slot; it may still be under way when this returns.
    pub fn open(&mut self, slot: usize) -> Result<(), Failure> {
        let target = self.targets.get(slot / self.slots_each);
        let target = *target.ok_or(Failure::Other)?;
        let socket = sys::connect(target).map_err(|e| kind_of(&e))?;
        self.epoll
            .add(socket.as_raw_fd(), slot as u64, Interest::Read)
            .map_err(|e| kind_of(&e))?;
        self.conns[slot] = Conn {
            socket: Some(socket),
            ..Conn::default()
        };
        Ok(())
    }

    pub fn slots(&self) -> usize {
        self.conns.len()
    }

    pub fn close(&mut self, slot: usize) {
        self.conns[slot] = Conn::default();
    }

    pub fn is_open(&self, slot: usize) -> bool {
        self.conns[slot].socket.is_some()
    }

    /// Whether an exchange is under way on this slot.
    pub fn is_busy(&self, slot: usize) -> bool {
        !matches!(self.conns[slot].phase, Phase::Idle)
    }

    /// Begin of the last answer's body, at most 256 bytes.
    pub fn body_start(&self, slot: usize) -> &[u8] {
        &self.conns[slot].body_start
    }

    /// Starts an exchange: `head` as it goes over the wire, then `upload_bytes` of body.
    pub fn ask(&mut self, slot: usize, head: &[u8], upload_bytes: u64) -> Result<(), Failure> {
        let conn = &mut self.conns[slot];
        conn.out.clear();
        conn.out.extend_from_slice(head);
        conn.sent = 0;
        conn.upload_left = upload_bytes;
        conn.body_start.clear();
        conn.phase = Phase::Head;
        conn.asked_at_ns = sys::now_ns();
        self.push(slot)
    }

    /// Waits for readiness, at most `span`.
    pub fn wait(&mut self, span: Option<Duration>, ready: &mut Vec<Event>) -> io::Result<()> {
        ready.clear();
        self.epoll.wait(span, ready)
    }

    /// Acts on one readiness report. After `ClosedIdle` and `Failed` the slot is closed.
    pub fn advance(&mut self, event: Event) -> Outcome {
        let slot = event.token as usize;
        if !self.is_open(slot) {
            return Outcome::Pending;
        }
        let mut outcome = Outcome::Pending;
        if event.readable {
            outcome = self.read(slot).unwrap_or_else(Outcome::Failed);
        }
        if event.writable
            && outcome == Outcome::Pending
            && self.conns[slot].waits_to_write
            && let Err(failure) = self.push(slot)
        {
            outcome = Outcome::Failed(failure);
        }
        if matches!(outcome, Outcome::Failed(_) | Outcome::ClosedIdle) {
            self.close(slot);
        }
        outcome
    }

    /// Slots whose exchange began more than `limit` ago; the caller decides what becomes of them.
    pub fn stuck(&self, limit: Duration) -> Vec<usize> {
        let before = sys::now_ns().saturating_sub(limit.as_nanos() as u64);
        (0..self.conns.len())
            .filter(|slot| self.is_busy(*slot) && self.conns[*slot].asked_at_ns < before)
            .collect()
    }

    /// Sends what is left of the request.
    fn push(&mut self, slot: usize) -> Result<(), Failure> {
        let body = self.body.as_raw_fd();
        let conn = &mut self.conns[slot];
        let Some(fd) = conn.socket.as_ref().map(AsRawFd::as_raw_fd) else {
            return Err(Failure::Other);
        };
        let before = conn.upload_left;
        let result = send_request(fd, conn, body);
        self.sent_bytes += before - conn.upload_left;
        let must_wait = match result {
            Ok(()) => false,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => true,
            // The peer may have answered (413, say) and closed: what it sent is read first.
            Err(e) if is_broken(&e) && conn.sent > 0 => false,
            Err(e) => return Err(kind_of(&e)),
        };
        if must_wait != conn.waits_to_write {
            conn.waits_to_write = must_wait;
            let interest = if must_wait {
                Interest::ReadWrite
            } else {
                Interest::Read
            };
            self.epoll
                .modify(fd, slot as u64, interest)
                .map_err(|e| kind_of(&e))?;
        }
        Ok(())
    }

    fn read(&mut self, slot: usize) -> Result<Outcome, Failure> {
        let conn = &mut self.conns[slot];
        let Some(fd) = conn.socket.as_ref().map(AsRawFd::as_raw_fd) else {
            return Err(Failure::Other);
        };
        if let Phase::Body { answer, reader } = &mut conn.phase
            && !self.keeps_body_start
            && let Some(left) = reader.droppable().filter(|left| *left > 4096)
        {
            let count = match sys::recv_drop(fd, left.min(1 << 30) as usize) {
                Ok(0) => return Err(Failure::ClosedInsideAnswer),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Outcome::Pending),
                Err(e) => return Err(kind_of(&e)),
            };
            self.received_bytes += count as u64;
            reader.dropped(count as u64);
            if reader.is_done() {
                let answer = *answer;
                conn.phase = Phase::Idle;
                return Ok(Outcome::Answer(answer));
            }
            return Ok(Outcome::Pending);
        }
        let count = match sys::recv(fd, &mut self.buf) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Outcome::Pending),
            Err(e) => return Err(kind_of(&e)),
        };
        if count == 0 {
            return match &conn.phase {
                Phase::Idle => Ok(Outcome::ClosedIdle),
                Phase::Head if conn.pending_in.is_empty() => Err(Failure::ClosedBeforeAnswer),
                Phase::Body { answer, reader } if reader.may_end_here() => {
                    let answer = *answer;
                    conn.phase = Phase::Idle;
                    Ok(Outcome::Answer(answer))
                }
                _ => Err(Failure::ClosedInsideAnswer),
            };
        }
        let Some(bytes) = self.buf.get(..count) else {
            return Err(Failure::Other);
        };
        let keep = self.keeps_body_start;
        if conn.pending_in.is_empty() {
            let (outcome, content) = conn.understand(bytes, keep)?;
            self.received_bytes += content;
            return Ok(outcome);
        }
        let mut joined = std::mem::take(&mut conn.pending_in);
        joined.extend_from_slice(bytes);
        let (outcome, content) = conn.understand(&joined, keep)?;
        self.received_bytes += content;
        Ok(outcome)
    }
}

impl Conn {
    /// Takes in bytes from the begin of a head or from inside a body; returns content bytes seen as well.
    fn understand(&mut self, bytes: &[u8], keep: bool) -> Result<(Outcome, u64), Failure> {
        let mut rest = bytes;
        loop {
            match &mut self.phase {
                Phase::Idle => return Err(Failure::Malformed),
                Phase::Head => {
                    let Some(length) = head_length(rest) else {
                        if rest.len() > HEAD_BYTES_MAX {
                            return Err(Failure::Malformed);
                        }
                        self.pending_in.extend_from_slice(rest);
                        return Ok((Outcome::Pending, 0));
                    };
                    let (head, behind) = rest.split_at(length);
                    let head = ResponseHead::parse(head).map_err(|_| Failure::Malformed)?;
                    rest = behind;
                    if (100..200).contains(&head.status) && head.status != 101 {
                        continue;
                    }
                    let answer = Answer {
                        status: head.status,
                        keep_alive: head.keep_alive,
                        has_retry_after: head.has_retry_after,
                    };
                    let reader = BodyReader::new(head.framing);
                    self.phase = Phase::Body { answer, reader };
                }
                Phase::Body { answer, reader } => {
                    let start = &mut self.body_start;
                    let mut content = 0;
                    let used = reader
                        .feed(rest, |piece| {
                            content += piece.len() as u64;
                            if keep {
                                let room = BODY_START_BYTES_MAX.saturating_sub(start.len());
                                start.extend_from_slice(&piece[..piece.len().min(room)]);
                            }
                        })
                        .map_err(|_| Failure::Malformed)?;
                    if !reader.is_done() {
                        return Ok((Outcome::Pending, content));
                    }
                    if used != rest.len() {
                        // Nothing was pipelined, so nothing may follow.
                        return Err(Failure::Malformed);
                    }
                    let answer = *answer;
                    self.phase = Phase::Idle;
                    return Ok((Outcome::Answer(answer), content));
                }
            }
        }
    }
}

/// A request head as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub host: String,
    /// Field lines of the user's choice.
    pub fields: Vec<(String, String)>,
    /// Total number of field lines, filled up with `X-Field-nn`.
    pub fields_count: usize,
    pub upload_bytes: Option<u64>,
    pub close: bool,
}

impl Request {
    pub fn get(host: SocketAddr, path: &str) -> Self {
        Self {
            method: "GET",
            path: path.to_owned(),
            host: host.to_string(),
            fields: Vec::new(),
            fields_count: 0,
            upload_bytes: None,
            close: false,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut lines = vec![("Host".to_owned(), self.host.clone())];
        lines.extend(self.fields.iter().cloned());
        if let Some(count) = self.upload_bytes {
            lines.push(("Content-Length".to_owned(), count.to_string()));
        }
        if self.close {
            lines.push(("Connection".to_owned(), "close".to_owned()));
        }
        for nth in lines.len()..self.fields_count {
            let value = format!("value-{nth:02}-of-some-length");
            lines.push((format!("X-Field-{nth:02}"), value));
        }
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in lines {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

fn send_request(fd: RawFd, conn: &mut Conn, body: RawFd) -> io::Result<()> {
    while let Some(rest) = conn.out.get(conn.sent..).filter(|rest| !rest.is_empty()) {
        conn.sent += sys::send(fd, rest, conn.upload_left > 0)?;
    }
    while conn.upload_left > 0 {
        let piece = conn.upload_left.min(BODY_FILE_BYTES as u64) as usize;
        conn.upload_left -= sys::send_file(fd, body, piece)? as u64;
    }
    Ok(())
}

fn is_broken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn kind_of(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Failure::Reset,
        io::ErrorKind::TimedOut => Failure::TimedOut,
        _ => Failure::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wire: &str, keep: &str, expected: Result<Outcome, Failure>) {
        for step in [1, 2, wire.len()] {
            let mut conn = Conn {
                phase: Phase::Head,
                ..Conn::default()
            };
            let mut outcome = Ok(Outcome::Pending);
            for piece in wire.as_bytes().chunks(step) {
                let mut joined = std::mem::take(&mut conn.pending_in);
                joined.extend_from_slice(piece);
                outcome = conn.understand(&joined, true).map(|(outcome, _)| outcome);
                if outcome != Ok(Outcome::Pending) {
                    break;
                }
            }
            assert_eq!(outcome, expected, "step {step}");
            if outcome.is_ok() {
                assert_eq!(conn.body_start, keep.as_bytes());
            }
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "what `check` compares with")]
    fn answer(status: u16, keep_alive: bool) -> Result<Outcome, Failure> {
        Ok(Outcome::Answer(Answer {
            status,
            keep_alive,
            has_retry_after: false,
        }))
    }

    #[test]
    fn answers_are_understood_however_they_are_cut() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "ok",
            answer(200, true),
        );
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
            "no",
            answer(404, false),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "ok",
            answer(200, true),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
            "ok",
            Ok(Outcome::Pending),
        );
        check("SSH-2.0-x\r\n\r\n", "", Err(Failure::Malformed));
    }

    #[test]
    fn a_request_is_filled_up_to_its_field_count() {
        let target = ([127, 0, 0, 1], 80).into();
        let mut request = Request::get(target, "/api/");
        assert_eq!(
            request.encode(),
            b"GET /api/ HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n"
        );
        request.fields_count = 40;
        let text = String::from_utf8(request.encode()).expect("ASCII");
        assert_eq!(text.lines().count(), 42);
    }
}
