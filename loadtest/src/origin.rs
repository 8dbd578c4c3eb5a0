//! The origin behind the proxies under test: one thread, epoll, answers as cheap as the kernel allows.
//!
//! | path | answer |
//! |---|---|
//! | `/` and anything unlisted | 200, 64 bytes of JSON |
//! | `/bytes/N` | 200, N bytes with Content-Length, sent from a memory file |
//! | `/sink` | 200 after the request body (counted or chunked) was dropped inside the kernel |
//! | `/stall/MS` | 200 after MS milliseconds; other requests go on |
//! | `/freeze/MS` | 200 after the whole origin slept MS milliseconds (for the self-test of the generator) |
//! | `/id` | 200, the request's `X-Request-Id`: shows an answer that went to the wrong client |
//! | `/ws` | WebSocket echo |
//! | `/sse`, `/sse/MS` | numbered events, one each MS (default 100) milliseconds, chunked, without end |
//! | `/stats` | 200, JSON: connections accepted, requests seen, connections cut with a request on them |
//!
//! A keep-alive origin that closes idle connections can pretend that its FIN takes a while to arrive: requests
//! that come meanwhile are cut off with a reset and not served, as happens on a real network.
//!
//! With an id log, each request's `X-Request-Id` is written as `<id> <method>` when its head has arrived:
//! what stands there twice was sent to the origin twice.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fs::File,
    io::{self, BufWriter, Write},
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use socket2::Socket;

use crate::{
    http1::{BodyReader, Framing, HEAD_BYTES_MAX, Malformed, RequestHead, head_length},
    sys::{self, Epoll, Event, Interest},
    ws,
};

/// What the origin is asked to do besides answering.
#[derive(Clone, Default, Debug)]
pub struct Options {
    /// Core to run on.
    pub core: Option<usize>,
    /// File that receives one line per request id.
    pub log_ids: Option<PathBuf>,
    /// Closes keep-alive connections this long after their last answer.
    pub close_after_idle: Option<Duration>,
    /// How long such a close takes to reach the peer.
    pub close_latency: Duration,
    /// Answers to `/id` and uploads wait this long, so that exchanges overlap.
    pub answer_after: Option<Duration>,
}

/// A bound origin, to be driven by [`Origin::run`].
pub struct Origin {
    listener: Socket,
    epoll: Epoll,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    /// Counts connections so that a timer never hits a successor in the same slot.
    generation: u64,
    timers: BinaryHeap<Reverse<(u64, usize, u64)>>,
    /// Idle closes in the order they fall due (the span is constant).
    idle: VecDeque<(u64, usize, u64, u64)>,
    close_after_idle: Option<Duration>,
    close_latency: Duration,
    answer_after: Option<Duration>,
    core: Option<usize>,
    ids: Option<BufWriter<File>>,
    body: OwnedFd,
    buf: Vec<u8>,
    accepted: u64,
    requests: u64,
    cut: u64,
}

struct Conn {
    socket: Socket,
    generation: u64,
    /// Received and not yet understood: the begin of a head or of a frame.
    pending_in: Vec<u8>,
    pending_out: Vec<u8>,
    /// An answer that waits for its timer.
    held: Vec<u8>,
    /// Bytes of `/bytes/N` still to be sent behind `pending_out`.
    file_left: u64,
    watched: Interest,
    phase: Phase,
    /// Number of answers so far: tells an idle close whether it is still wanted.
    served: u64,
    close_after_answer: bool,
    /// Closed as far as we are concerned; the peer does not know yet.
    is_closing: bool,
}

enum Phase {
    Head,
    /// Dropping a request body, then answering.
    Sink(BodyReader),
    /// Waiting for a timer to answer; further requests wait.
    Stalled,
    Websocket,
    Events {
        next: u64,
        every: Duration,
    },
}

/// A connection that has to be closed, for whatever reason.
struct Gone;

impl From<io::Error> for Gone {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl From<Malformed> for Gone {
    fn from(_: Malformed) -> Self {
        Self
    }
}

const LISTENER: u64 = u64::MAX;
const BODY_FILE_BYTES: usize = 4 << 20;
const SMALL: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 64\r\n\r\n\
    {\"message\":\"hello from the origin\",\"padding\":\"0123456789abcde\"}\n";

impl Origin {
    pub fn bind(address: SocketAddr, options: Options) -> io::Result<Self> {
        let listener = sys::listen(address)?;
        let epoll = Epoll::new(256)?;
        epoll.add(listener.as_raw_fd(), LISTENER, Interest::Read)?;
        let ids = match options.log_ids {
            Some(path) => Some(BufWriter::with_capacity(1 << 16, File::create(path)?)),
            None => None,
        };
        Ok(Self {
            listener,
            epoll,
            conns: Vec::new(),
            free: Vec::new(),
            generation: 0,
            timers: BinaryHeap::new(),
            idle: VecDeque::new(),
            close_after_idle: options.close_after_idle,
            close_latency: options.close_latency,
            answer_after: options.answer_after,
            core: options.core,
            ids,
            body: sys::body_file(BODY_FILE_BYTES)?,
            buf: vec![0; 1 << 16],
            accepted: 0,
            requests: 0,
            cut: 0,
        })
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the origin's listener has no IP address"))
    }

    /// Serves until `stop` is set (looked at every 50 ms at the latest); the id log is then complete.
    pub fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        if let Some(core) = self.core {
            sys::pin_thread(core)?;
        }
        sys::precise_timers();
        let mut ready = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            ready.clear();
            let span = self.until_next_timer().min(Duration::from_millis(50));
            self.epoll.wait(Some(span), &mut ready)?;
            for event in &ready {
                if event.token == LISTENER {
                    self.accept();
                } else {
                    self.serve(*event);
                }
            }
            self.fire_timers();
            if let Some(ids) = &mut self.ids {
                ids.flush()?;
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        // A bounded number per turn, so that a connect storm does not starve running exchanges.
        for _ in 0..64 {
            let Ok((socket, _)) = self.listener.accept() else {
                return;
            };
            if socket.set_nonblocking(true).is_err() || socket.set_tcp_nodelay(true).is_err() {
                continue;
            }
            let slot = self.free.pop().unwrap_or_else(|| {
                self.conns.push(None);
                self.conns.len() - 1
            });
            if self
                .epoll
                .add(socket.as_raw_fd(), slot as u64, Interest::Read)
                .is_err()
            {
                self.free.push(slot);
                continue;
            }
            self.generation += 1;
            self.accepted += 1;
            self.conns[slot] = Some(Conn {
                socket,
                generation: self.generation,
                pending_in: Vec::new(),
                pending_out: Vec::new(),
                held: Vec::new(),
                file_left: 0,
                watched: Interest::Read,
                phase: Phase::Head,
                served: 0,
                close_after_answer: false,
                is_closing: false,
            });
        }
    }

    fn serve(&mut self, event: Event) {
        let slot = event.token as usize;
        let Some(mut conn) = self.conns.get_mut(slot).and_then(Option::take) else {
            return;
        };
        match self.advance(&mut conn, slot, event.readable) {
            Ok(()) => self.conns[slot] = Some(conn),
            Err(Gone) => self.free.push(slot),
        }
    }

    /// Does all that is possible without waiting.
    fn advance(&mut self, conn: &mut Conn, slot: usize, readable: bool) -> Result<(), Gone> {
        if conn.is_closing {
            // Closing with unread bytes resets the connection.
            self.cut += 1;
            return Err(Gone);
        }
        if conn.watched == Interest::ReadWrite {
            self.flush(conn, slot)?;
            if conn.watched == Interest::Read && !conn.pending_in.is_empty() {
                self.understand(conn, slot, &[])?;
            }
        }
        if readable && conn.watched == Interest::Read {
            self.read(conn, slot)?;
        }
        Ok(())
    }

    fn read(&mut self, conn: &mut Conn, slot: usize) -> Result<(), Gone> {
        let fd = conn.socket.as_raw_fd();
        // Large counted bodies never reach this process.
        if let Phase::Sink(body) = &mut conn.phase
            && let Some(left) = body.droppable().filter(|left| *left > 1024)
        {
            let count = match sys::recv_drop(fd, left.min(1 << 30) as usize) {
                Ok(0) => return Err(Gone),
                Ok(n) => n,
                Err(e) => return later(&e),
            };
            body.dropped(count as u64);
            if body.is_done() {
                self.finish_upload(conn, slot)?;
            }
            return Ok(());
        }
        let mut buf = std::mem::take(&mut self.buf);
        let result = match sys::recv(fd, &mut buf) {
            Ok(0) => Err(Gone),
            Ok(n) => self.understand(conn, slot, &buf[..n]),
            Err(e) => later(&e),
        };
        self.buf = buf;
        result
    }

    /// Takes in newly received bytes, together with what was left from before.
    fn understand(&mut self, conn: &mut Conn, slot: usize, bytes: &[u8]) -> Result<(), Gone> {
        if conn.pending_in.is_empty() {
            let used = self.consume(conn, slot, bytes)?;
            conn.pending_in.extend_from_slice(&bytes[used..]);
        } else {
            let mut joined = std::mem::take(&mut conn.pending_in);
            joined.extend_from_slice(bytes);
            let used = self.consume(conn, slot, &joined)?;
            joined.drain(..used);
            conn.pending_in = joined;
        }
        if conn.pending_in.len() > HEAD_BYTES_MAX + ws::PAYLOAD_BYTES_MAX {
            return Err(Gone);
        }
        Ok(())
    }

    /// Consumes complete heads, body pieces and frames; returns how many bytes that were.
    fn consume(&mut self, conn: &mut Conn, slot: usize, bytes: &[u8]) -> Result<usize, Gone> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut conn.phase {
                // What was pipelined behind a large answer waits for its end.
                Phase::Head if conn.file_left > 0 => break,
                Phase::Head => {
                    let Some(length) = head_length(rest) else {
                        break;
                    };
                    let head = RequestHead::parse(&rest[..length])?;
                    at += length;
                    self.request(conn, slot, &rest[..length], &head)?;
                }
                Phase::Sink(body) => {
                    at += body.feed(rest, |_| {})?;
                    if body.is_done() {
                        self.finish_upload(conn, slot)?;
                    }
                }
                Phase::Websocket => {
                    let Some((frame, used)) = ws::decode(rest).map_err(|_| Gone)? else {
                        break;
                    };
                    at += used;
                    let opcode = match frame.opcode {
                        ws::PING => ws::PONG,
                        other => other,
                    };
                    ws::encode(&mut conn.pending_out, opcode, &frame.payload, None);
                    self.flush(conn, slot)?;
                    if opcode == ws::CLOSE {
                        return Err(Gone);
                    }
                }
                Phase::Stalled => break,
                Phase::Events { .. } => at = bytes.len(),
            }
        }
        Ok(at)
    }

    fn request(
        &mut self,
        conn: &mut Conn,
        slot: usize,
        bytes: &[u8],
        head: &RequestHead,
    ) -> Result<(), Gone> {
        self.requests += 1;
        if let (Some(ids), Some(id)) = (&mut self.ids, &head.request_id) {
            ids.write_all(&bytes[id.clone()])?;
            ids.write_all(b" ")?;
            ids.write_all(&bytes[head.method.clone()])?;
            ids.write_all(b"\n")?;
        }
        conn.close_after_answer = !head.keep_alive;
        if head.expects_continue {
            conn.pending_out
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if head.framing != Framing::Empty && head.framing != Framing::Length(0) {
            conn.phase = Phase::Sink(BodyReader::new(head.framing));
            return self.flush(conn, slot);
        }
        let target = std::str::from_utf8(&bytes[head.target.clone()]).map_err(|_| Gone)?;
        let path = target.split('?').next().unwrap_or_default();
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let name = parts.next().unwrap_or_default();
        let number = parts.next().and_then(|n| n.parse::<u64>().ok());
        match (name, number) {
            ("bytes", Some(count)) => {
                write!(
                    conn.pending_out,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {count}\r\n\r\n"
                )?;
                conn.file_left = count;
                self.answered(conn, slot)
            }
            ("stall", Some(ms)) => {
                conn.held.extend_from_slice(SMALL);
                self.hold(conn, slot, Duration::from_millis(ms));
                Ok(())
            }
            ("freeze", Some(ms)) => {
                std::thread::sleep(Duration::from_millis(ms));
                conn.pending_out.extend_from_slice(SMALL);
                self.answered(conn, slot)
            }
            ("id", _) => {
                let id = head.request_id.clone().map_or(&[][..], |id| &bytes[id]);
                write!(
                    conn.held,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
                    id.len()
                )?;
                conn.held.extend_from_slice(id);
                self.answer_held(conn, slot)
            }
            ("ws", _) => {
                let key = head.websocket_key.clone().ok_or(Gone)?;
                let accept = ws::accept_key(&bytes[key]);
                write!(
                    conn.pending_out,
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
                )?;
                conn.phase = Phase::Websocket;
                self.flush(conn, slot)
            }
            ("sse", every_ms) => {
                conn.pending_out.extend_from_slice(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n",
                );
                conn.phase = Phase::Events {
                    next: 0,
                    every: Duration::from_millis(every_ms.unwrap_or(100).max(1)),
                };
                self.event(conn, slot)
            }
            ("stats", _) => {
                let text = format!(
                    "{{\"accepted\":{},\"requests\":{},\"cut\":{}}}\n",
                    self.accepted, self.requests, self.cut
                );
                write!(
                    conn.pending_out,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
                    text.len()
                )?;
                self.answered(conn, slot)
            }
            _ => {
                if conn.pending_out.is_empty() {
                    // The common case: one send, no copy.
                    let sent = match sys::send(conn.socket.as_raw_fd(), SMALL, false) {
                        Ok(n) => n,
                        Err(e) => later(&e).map(|()| 0)?,
                    };
                    conn.pending_out.extend_from_slice(&SMALL[sent..]);
                } else {
                    conn.pending_out.extend_from_slice(SMALL);
                }
                self.answered(conn, slot)
            }
        }
    }

    fn finish_upload(&mut self, conn: &mut Conn, slot: usize) -> Result<(), Gone> {
        conn.held.extend_from_slice(SMALL);
        conn.phase = Phase::Head;
        self.answer_held(conn, slot)
    }

    /// Answers with what is held, at once or after the span the options ask for.
    fn answer_held(&mut self, conn: &mut Conn, slot: usize) -> Result<(), Gone> {
        match self.answer_after {
            Some(span) => {
                self.hold(conn, slot, span);
                Ok(())
            }
            None => {
                conn.pending_out.append(&mut conn.held);
                self.answered(conn, slot)
            }
        }
    }

    fn hold(&mut self, conn: &mut Conn, slot: usize, span: Duration) {
        conn.phase = Phase::Stalled;
        self.set_timer(conn, slot, span);
    }

    /// One event of an endless stream, and the timer for the next.
    fn event(&mut self, conn: &mut Conn, slot: usize) -> Result<(), Gone> {
        let Phase::Events { next, every } = &mut conn.phase else {
            return Ok(());
        };
        let every = *every;
        let text = format!("data: {next}\n\n");
        *next += 1;
        write!(conn.pending_out, "{:x}\r\n{text}\r\n", text.len())?;
        self.set_timer(conn, slot, every);
        self.flush(conn, slot)
    }

    /// An answer stands in the buffers: send it, and begin counting idle time.
    fn answered(&mut self, conn: &mut Conn, slot: usize) -> Result<(), Gone> {
        conn.served += 1;
        if let Some(span) = self.close_after_idle {
            let due = sys::now_ns() + span.as_nanos() as u64;
            self.idle
                .push_back((due, slot, conn.generation, conn.served));
        }
        self.flush(conn, slot)
    }

    fn flush(&mut self, conn: &mut Conn, slot: usize) -> Result<(), Gone> {
        let fd = conn.socket.as_raw_fd();
        let finished = send_all(fd, conn, self.body.as_raw_fd())?;
        let wanted = if finished {
            Interest::Read
        } else {
            Interest::ReadWrite
        };
        if wanted != conn.watched {
            self.epoll.modify(fd, slot as u64, wanted)?;
            conn.watched = wanted;
        }
        if finished && conn.close_after_answer && matches!(conn.phase, Phase::Head) {
            return Err(Gone);
        }
        Ok(())
    }

    fn set_timer(&mut self, conn: &Conn, slot: usize, span: Duration) {
        let due = sys::now_ns() + span.as_nanos() as u64;
        self.timers.push(Reverse((due, slot, conn.generation)));
    }

    fn until_next_timer(&self) -> Duration {
        let timer = self.timers.peek().map(|Reverse((due, ..))| *due);
        let idle = self.idle.front().map(|(due, ..)| *due);
        match timer.into_iter().chain(idle).min() {
            Some(due) => Duration::from_nanos(due.saturating_sub(sys::now_ns())),
            None => Duration::MAX,
        }
    }

    fn fire_timers(&mut self) {
        if self.timers.is_empty() && self.idle.is_empty() {
            return;
        }
        let now = sys::now_ns();
        while let Some(Reverse((due, slot, generation))) = self.timers.peek().copied() {
            if due > now {
                break;
            }
            self.timers.pop();
            let Some(mut conn) = self.take(slot, generation) else {
                continue;
            };
            let outcome = match conn.phase {
                Phase::Stalled => {
                    conn.pending_out.append(&mut conn.held);
                    conn.phase = Phase::Head;
                    self.answered(&mut conn, slot)
                        .and_then(|()| self.understand(&mut conn, slot, &[]))
                }
                Phase::Events { .. } => self.event(&mut conn, slot),
                Phase::Head if conn.is_closing => Err(Gone),
                _ => Ok(()),
            };
            match outcome {
                Ok(()) => self.conns[slot] = Some(conn),
                Err(Gone) => self.free.push(slot),
            }
        }
        while let Some((due, slot, generation, served)) = self.idle.front().copied() {
            if due > now {
                break;
            }
            self.idle.pop_front();
            let Some(mut conn) = self.take(slot, generation) else {
                continue;
            };
            let is_idle = conn.served == served
                && conn.pending_out.is_empty()
                && conn.file_left == 0
                && matches!(conn.phase, Phase::Head);
            if is_idle && self.close_latency.is_zero() {
                self.free.push(slot);
            } else {
                if is_idle {
                    conn.is_closing = true;
                    self.set_timer(&conn, slot, self.close_latency);
                }
                self.conns[slot] = Some(conn);
            }
        }
    }

    fn take(&mut self, slot: usize, generation: u64) -> Option<Conn> {
        let place = self.conns.get_mut(slot)?;
        if place.as_ref()?.generation == generation {
            place.take()
        } else {
            None
        }
    }
}

/// An IO error that only means "not now" keeps the connection.
fn later(error: &io::Error) -> Result<(), Gone> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(Gone),
    }
}

/// Sends what stands in the buffers; false when the socket is full.
fn send_all(fd: RawFd, conn: &mut Conn, body: RawFd) -> Result<bool, Gone> {
    while !conn.pending_out.is_empty() {
        match sys::send(fd, &conn.pending_out, conn.file_left > 0) {
            Ok(n) => drop(conn.pending_out.drain(..n)),
            Err(e) => return later(&e).map(|()| false),
        }
    }
    while conn.file_left > 0 {
        let piece = conn.file_left.min(BODY_FILE_BYTES as u64) as usize;
        match sys::send_file(fd, body, piece) {
            Ok(0) => return Err(Gone),
            Ok(n) => conn.file_left -= n as u64,
            Err(e) => return later(&e).map(|()| false),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::Ipv4Addr, sync::Arc, thread};

    use super::*;

    /// An origin of its own for one test.
    struct Served {
        address: SocketAddr,
        stop: Arc<AtomicBool>,
        thread: Option<thread::JoinHandle<io::Result<()>>>,
    }

    impl Served {
        fn start(options: Options) -> Self {
            let origin = Origin::bind((Ipv4Addr::LOCALHOST, 0).into(), options).unwrap();
            let address = origin.address().unwrap();
            let stop = Arc::new(AtomicBool::new(false));
            let seen = stop.clone();
            let thread = Some(thread::spawn(move || origin.run(&seen)));
            Self {
                address,
                stop,
                thread,
            }
        }

        fn ask(&self, wire: &str, until: &str) -> String {
            let mut stream = sys::connect_blocking(self.address, Duration::from_secs(10)).unwrap();
            stream.write_all(wire.as_bytes()).unwrap();
            let mut text = Vec::new();
            let mut buf = [0; 4096];
            while !String::from_utf8_lossy(&text).contains(until) {
                match stream.read(&mut buf).unwrap() {
                    0 => break,
                    n => text.extend_from_slice(&buf[..n]),
                }
            }
            String::from_utf8(text).unwrap()
        }
    }

    impl Drop for Served {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            self.thread.take().unwrap().join().unwrap().unwrap();
        }
    }

    #[track_caller]
    fn check(wire: &str, until: &str, expected: &[&str]) {
        let answer = Served::start(Options::default()).ask(wire, until);
        for part in expected {
            assert!(answer.contains(part), "{part:?} not in {answer:?}");
        }
    }

    #[test]
    fn the_small_answer_has_64_bytes() {
        let body = SMALL.len() - head_length(SMALL).unwrap();
        assert_eq!(body, 64);
        check("GET / HTTP/1.1\r\n\r\n", "}\n", &["200 OK", "hello"]);
    }

    #[test]
    fn bytes_come_with_their_length() {
        check(
            "GET /bytes/30 HTTP/1.1\r\nConnection: close\r\n\r\n",
            "never in there",
            &[
                "Content-Length: 30\r\n",
                "\r\n\r\nabcdefghijklmnopqrstuvwxyzabcd",
            ],
        );
    }

    #[test]
    fn uploads_are_answered_after_their_last_byte() {
        check(
            "POST /sink HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcdeGET /stats HTTP/1.1\r\n\r\n",
            "\"requests\":2",
            &["\"requests\":2"],
        );
        check(
            "POST /sink HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /stats HTTP/1.1\r\n\r\n",
            "\"requests\":2",
            &["\"requests\":2"],
        );
    }

    #[test]
    fn a_stalled_answer_comes_and_the_next_request_with_it() {
        check(
            "GET /stall/20 HTTP/1.1\r\n\r\nGET /stats HTTP/1.1\r\n\r\n",
            "\"requests\":2",
            &["hello", "\"requests\":2"],
        );
    }

    #[test]
    fn events_are_numbered() {
        check(
            "GET /sse/1 HTTP/1.1\r\n\r\n",
            "data: 3\n\n",
            &["data: 0\n\n", "data: 1\n\n", "data: 2\n\n"],
        );
    }

    #[test]
    fn an_idle_connection_is_closed_when_asked() {
        let options = Options {
            close_after_idle: Some(Duration::from_millis(20)),
            ..Options::default()
        };
        let answer = Served::start(options).ask("GET / HTTP/1.1\r\n\r\n", "never in there");
        assert!(answer.starts_with("HTTP/1.1 200 OK"));
    }

    #[test]
    fn a_websocket_text_comes_back() {
        let served = Served::start(Options::default());
        let mut stream = sys::connect_blocking(served.address, Duration::from_secs(10)).unwrap();
        let mut wire = b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".to_vec();
        ws::encode(&mut wire, ws::TEXT, b"hello", Some([9, 8, 7, 6]));
        stream.write_all(&wire).unwrap();
        let mut text = Vec::new();
        let mut buf = [0; 1024];
        while !text.ends_with(b"\x81\x05hello") {
            let n = stream.read(&mut buf).unwrap();
            assert_ne!(n, 0, "closed after {text:?}");
            text.extend_from_slice(&buf[..n]);
        }
        assert!(String::from_utf8_lossy(&text).contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
}
