//! Sustained traffic for availability tests: keep-alive exchanges, a connect storm, WebSockets, event streams.
//!
//! Every exchange carries an id of its own; what the origin logged is compared with what the clients were
//! answered ([`Ledger::compare`]). A failure is never retried and never forgiven here: the case decides.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fmt, fs, io,
    net::SocketAddr,
    os::fd::AsRawFd,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use socket2::Socket;

use crate::{
    client::{Client, Failure, Outcome, Request},
    http1::{BodyReader, ResponseHead, head_length},
    rng::Rng,
    sys::{self, Epoll, Event, Interest},
    ws,
};

/// What kinds of traffic, and how much of each.
#[derive(Clone, Debug)]
pub struct Mix {
    pub target: SocketAddr,
    /// Listen paths the clients spread over.
    pub base_paths: Vec<String>,
    /// Keep-alive connections, each asking again `gap` ± `jitter` after its last answer.
    pub connections: usize,
    pub gap: Duration,
    pub jitter: Duration,
    /// All keep-alive connections ask at the same moments, `gap` apart (± `jitter`).
    pub in_step: bool,
    /// Every n-th exchange is a POST (0: none).
    pub post_every: u64,
    /// New connections per second, one request each.
    pub storm_per_s: f64,
    pub websockets: usize,
    pub event_streams: usize,
}

/// Flags the case and the traffic share.
#[derive(Default)]
pub struct Signals {
    pub stop: AtomicBool,
    /// The gateway was told to end: a refused connection is no failure any more.
    pub is_ending: AtomicBool,
    pub answered: AtomicU64,
}

/// What became of the exchanges, by id.
#[derive(Default)]
pub struct Ledger {
    /// Per id: whether it was a POST, and whether it was answered 2xx.
    entries: Vec<(bool, bool)>,
    pub failures: BTreeMap<String, u64>,
    /// The first failures with their moment, for whoever looks for the cause.
    pub examples: Vec<String>,
    /// Answers that carried somebody else's id.
    pub crossed: u64,
    pub closed_idle: u64,
    pub told_to_close: u64,
    pub refused_at_end: u64,
    pub get_failures: u64,
    pub post_failures: u64,
    started_ns: u64,
}

/// What became of WebSockets and event streams.
#[derive(Default)]
pub struct StreamLedger {
    pub opened: u64,
    pub echoes: u64,
    pub events: u64,
    /// Ended by Close 1001 (or 1000), or by a clean end of body.
    pub drained: u64,
    /// Ended in any other way, or silent, or out of order.
    pub broken: u64,
    pub examples: Vec<String>,
    started_ns: u64,
}

/// The origin's log against the clients' ledger.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Comparison {
    pub asked: u64,
    pub answered: u64,
    /// Answered 2xx although the origin never saw it.
    pub answered_by_nobody: u64,
    pub posts_twice: u64,
    pub gets_twice: u64,
}

/// How long an exchange may take.
const STUCK: Duration = Duration::from_secs(5);
const STORM_SLOTS: usize = 1024;
const UPLOAD_BYTES: u64 = 2000;
const EXAMPLES_MAX: usize = 12;
const REST_NS: u64 = 20_000_000;

/// Keep-alive exchanges and the connect storm; runs until told to stop, on the calling thread.
pub fn exchanges(mix: &Mix, signals: &Signals, seed: u64) -> io::Result<Ledger> {
    let storm_slots = if mix.storm_per_s > 0.0 {
        STORM_SLOTS
    } else {
        0
    };
    let mut client = Client::new(mix.target, mix.connections + storm_slots)?;
    client.keeps_body_start = true;
    sys::precise_timers();
    let now = sys::now_ns();
    let mut traffic = Exchanges {
        mix,
        signals,
        client,
        rng: Rng::from_seed(seed),
        ids: vec![u64::MAX; mix.connections + storm_slots],
        due: BinaryHeap::new(),
        storm_free: (mix.connections..mix.connections + storm_slots).collect(),
        ledger: Ledger {
            started_ns: now,
            ..Ledger::default()
        },
    };
    for slot in 0..mix.connections {
        let offset = match mix.in_step {
            true => 0,
            false => traffic.rng.below(mix.gap.as_nanos() as u64 + 1),
        };
        traffic.due.push(Reverse((now + offset, slot)));
    }
    traffic.turn()?;
    Ok(traffic.ledger)
}

struct Exchanges<'a> {
    mix: &'a Mix,
    signals: &'a Signals,
    client: Client,
    rng: Rng,
    /// The id under way on each slot.
    ids: Vec<u64>,
    due: BinaryHeap<Reverse<(u64, usize)>>,
    storm_free: Vec<usize>,
    ledger: Ledger,
}

impl Exchanges<'_> {
    fn turn(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        let storm_gap_ns = 1e9 / self.mix.storm_per_s.max(1e-9);
        let mut next_storm = sys::now_ns() as f64 + storm_gap_ns;
        let mut next_look = 0;
        let mut end = None;
        loop {
            let now = sys::now_ns();
            if end.is_none() && self.signals.stop.load(Ordering::Relaxed) {
                // What is under way may still be answered.
                end = Some(now + STUCK.as_nanos() as u64);
            }
            let busy = || (0..self.ids.len()).any(|slot| self.client.is_busy(slot));
            if end.is_some_and(|end| now >= end) || (end.is_some() && !busy()) {
                return Ok(());
            }
            if end.is_none() {
                while let Some(Reverse((_, slot))) =
                    self.due.peek().copied().filter(|d| d.0.0 <= now)
                {
                    self.due.pop();
                    self.ask(slot, false);
                }
                while self.mix.storm_per_s > 0.0 && next_storm <= now as f64 {
                    next_storm += storm_gap_ns;
                    match self.storm_free.pop() {
                        Some(slot) => self.ask(slot, true),
                        None => self
                            .ledger
                            .fail("storm: no answer for 1,024 clients", 0, false),
                    }
                }
            }
            let mut wake = self.due.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
            if self.mix.storm_per_s > 0.0 {
                wake = wake.min(next_storm as u64);
            }
            let span = Duration::from_nanos(wake.saturating_sub(sys::now_ns()));
            let span = if end.is_some() {
                Duration::from_millis(5)
            } else {
                span.min(Duration::from_millis(20))
            };
            self.client.wait(Some(span), &mut ready)?;
            for event in &ready {
                let outcome = self.client.advance(*event);
                self.settle(event.token as usize, outcome);
            }
            if now >= next_look {
                next_look = now + 100_000_000;
                for slot in self.client.stuck(STUCK) {
                    self.client.close(slot);
                    self.settle(slot, Outcome::Failed(Failure::TimedOut));
                }
            }
        }
    }

    fn ask(&mut self, slot: usize, is_storm: bool) {
        let id = self.ledger.entries.len() as u64;
        let is_post = self.mix.post_every > 0 && id.is_multiple_of(self.mix.post_every);
        let spread = slot % self.mix.base_paths.len().max(1);
        let base = self.mix.base_paths.get(spread).map_or("/", String::as_str);
        let path = format!("{base}{}", if is_post { "sink" } else { "id" });
        let mut request = Request::get(self.mix.target, &path);
        let fields = [("X-Request-Id".to_owned(), id_text(id))];
        request.fields = fields.into();
        request.close = is_storm;
        if is_post {
            request.method = "POST";
            request.upload_bytes = Some(UPLOAD_BYTES);
        }
        if !self.client.is_open(slot)
            && let Err(failure) = self.client.open(slot)
        {
            if failure == Failure::Refused && self.signals.is_ending.load(Ordering::Relaxed) {
                self.ledger.refused_at_end += 1;
                return;
            }
            self.ledger
                .fail(&format!("connect: {failure:?}"), id, is_post);
            self.retire(slot, REST_NS);
            return;
        }
        self.ledger.entries.push((is_post, false));
        self.ids[slot] = id;
        let upload = request.upload_bytes.unwrap_or(0);
        if let Err(failure) = self.client.ask(slot, &request.encode(), upload) {
            self.client.close(slot);
            self.settle(slot, Outcome::Failed(failure));
        }
    }

    fn settle(&mut self, slot: usize, outcome: Outcome) {
        let id = self.ids[slot];
        let is_post = self
            .ledger
            .entries
            .get(id as usize)
            .is_some_and(|(is_post, _)| *is_post);
        match outcome {
            Outcome::Pending => {}
            Outcome::ClosedIdle => self.ledger.closed_idle += 1,
            Outcome::Failed(Failure::Refused) if self.signals.is_ending.load(Ordering::Relaxed) => {
                // A connect that was under way; nothing was sent.
                self.ledger.refused_at_end += 1;
            }
            Outcome::Failed(failure) => {
                let kind = if slot < self.mix.connections {
                    "keep-alive"
                } else {
                    "storm"
                };
                self.ledger
                    .fail(&format!("{kind}: {failure:?}"), id, is_post);
                self.retire(slot, REST_NS);
            }
            Outcome::Answer(answer) => {
                self.signals.answered.fetch_add(1, Ordering::Relaxed);
                if (200..300).contains(&answer.status) {
                    let carries_id = self.client.body_start(slot) == id_text(id).as_bytes();
                    if !is_post && !carries_id {
                        self.ledger.crossed += 1;
                    }
                    if let Some(entry) = self.ledger.entries.get_mut(id as usize) {
                        entry.1 = true;
                    }
                } else {
                    let text = String::from_utf8_lossy(self.client.body_start(slot)).into_owned();
                    let text: String = text.chars().take(60).collect();
                    let what = format!("status {} {}", answer.status, text.escape_default());
                    self.ledger.fail(&what, id, is_post);
                }
                if !answer.keep_alive {
                    if slot < self.mix.connections {
                        self.ledger.told_to_close += 1;
                    }
                    self.client.close(slot);
                }
                let jitter = self.mix.jitter.as_nanos() as u64;
                let mut gap = self.mix.gap.as_nanos() as u64;
                if self.mix.in_step {
                    // To the beat nearest to one gap from now.
                    let age = sys::now_ns() - self.ledger.started_ns;
                    let beat = (age + gap + gap / 2) / gap.max(1);
                    gap = beat * gap - age;
                }
                let rest = gap + self.rng.below(2 * jitter + 1);
                self.retire(slot, rest.saturating_sub(jitter));
            }
        }
    }

    /// The slot is free; it asks again after `rest_ns` (storm slots when the storm needs them).
    fn retire(&mut self, slot: usize, rest_ns: u64) {
        if slot < self.mix.connections {
            self.due.push(Reverse((sys::now_ns() + rest_ns, slot)));
        } else {
            self.client.close(slot);
            self.storm_free.push(slot);
        }
    }
}

impl Ledger {
    fn fail(&mut self, what: &str, id: u64, is_post: bool) {
        *self.failures.entry(what.to_owned()).or_default() += 1;
        if is_post {
            self.post_failures += 1;
        } else {
            self.get_failures += 1;
        }
        let at = since(self.started_ns);
        note(
            &mut self.examples,
            format!("{at:.3} s: {} {what}", id_text(id)),
        );
    }

    pub fn failed(&self) -> u64 {
        self.get_failures + self.post_failures
    }

    /// Reads the origin's id log and counts what it says about ours. Ids of others are skipped.
    pub fn compare(&self, log: &Path) -> io::Result<Comparison> {
        let text = fs::read_to_string(log)?;
        let mut seen = vec![0u32; self.entries.len()];
        for line in text.lines() {
            let id = line.split(' ').next().unwrap_or_default();
            let number = id.strip_prefix('t').and_then(|n| n.parse::<usize>().ok());
            if let Some(count) = number.and_then(|n| seen.get_mut(n)) {
                *count += 1;
            }
        }
        let mut comparison = Comparison {
            asked: self.entries.len() as u64,
            ..Comparison::default()
        };
        for ((is_post, is_answered), count) in self.entries.iter().zip(seen) {
            comparison.answered += u64::from(*is_answered);
            comparison.answered_by_nobody += u64::from(*is_answered && count == 0);
            match is_post {
                true => comparison.posts_twice += u64::from(count > 1),
                false => comparison.gets_twice += u64::from(count > 1),
            }
        }
        Ok(comparison)
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "exchanges: {} failed ({} GET, {} POST), {} crossed; {} answers said close, {} closed while idle, {} refused at the end",
            self.failed(),
            self.get_failures,
            self.post_failures,
            self.crossed,
            self.told_to_close,
            self.closed_idle,
            self.refused_at_end
        )?;
        for (what, count) in &self.failures {
            writeln!(f, "  {count} × {what}")?;
        }
        for example in &self.examples {
            writeln!(f, "  e.g. {example}")?;
        }
        Ok(())
    }
}

/// WebSockets (a text each 250 ms, echoed) and event streams; runs until told to stop, on the calling thread.
pub fn streams(mix: &Mix, signals: &Signals) -> io::Result<StreamLedger> {
    let count = mix.websockets + mix.event_streams;
    let mut streams = Streams {
        mix,
        signals,
        epoll: Epoll::new(256)?,
        slots: Vec::new(),
        ledger: StreamLedger {
            started_ns: sys::now_ns(),
            ..StreamLedger::default()
        },
    };
    streams.slots.resize_with(count, || None);
    let mut ready = Vec::new();
    let mut next_look = 0;
    while !signals.stop.load(Ordering::Relaxed) && count > 0 {
        let now = sys::now_ns();
        if now >= next_look {
            next_look = now + 50_000_000;
            (0..count).for_each(|slot| streams.look_after(slot));
        }
        ready.clear();
        streams
            .epoll
            .wait(Some(Duration::from_millis(20)), &mut ready)?;
        for event in &ready {
            streams.advance(*event);
        }
    }
    Ok(streams.ledger)
}

struct Streams<'a> {
    mix: &'a Mix,
    signals: &'a Signals,
    epoll: Epoll,
    slots: Vec<Option<Stream>>,
    ledger: StreamLedger,
}

struct Stream {
    socket: Socket,
    is_websocket: bool,
    request: Option<Vec<u8>>,
    pending_in: Vec<u8>,
    /// `None` until the head has come.
    body: Option<BodyReader>,
    text: Vec<u8>,
    sent: u64,
    received: u64,
    sent_at_ns: u64,
    heard_at_ns: u64,
}

/// How a stream came to its end.
enum End {
    Drained,
    Broken(String),
}

impl From<&str> for End {
    fn from(why: &str) -> Self {
        Self::Broken(why.to_owned())
    }
}

const WEBSOCKET_PAUSE_NS: u64 = 250_000_000;

impl Streams<'_> {
    /// Opens what is closed, sends what is due, notices silence.
    fn look_after(&mut self, slot: usize) {
        if self.slots[slot].is_none() {
            if self.signals.is_ending.load(Ordering::Relaxed) {
                return;
            }
            if let Err(e) = self.open(slot) {
                self.end(slot, End::Broken(format!("connect: {e}")));
            }
            return;
        }
        let now = sys::now_ns();
        let Some(stream) = &mut self.slots[slot] else {
            return;
        };
        if now - stream.heard_at_ns > STUCK.as_nanos() as u64 {
            let is_websocket = stream.is_websocket;
            let kind = if is_websocket { "websocket" } else { "events" };
            self.end(slot, End::Broken(format!("{kind}: silent for {STUCK:?}")));
            return;
        }
        let is_due = stream.is_websocket
            && stream.body.is_some()
            && stream.received == stream.sent
            && now - stream.sent_at_ns >= WEBSOCKET_PAUSE_NS;
        if is_due {
            let mut wire = Vec::new();
            let mask = (now as u32).to_be_bytes();
            ws::encode(
                &mut wire,
                ws::TEXT,
                text(slot, stream.sent).as_bytes(),
                Some(mask),
            );
            stream.sent += 1;
            stream.sent_at_ns = now;
            // A text this short fits into any socket buffer of a healthy peer.
            if sys::send(stream.socket.as_raw_fd(), &wire, false).ok() != Some(wire.len()) {
                // What the peer said before it closed tells drained from broken.
                self.read(slot);
            }
        }
    }

    fn open(&mut self, slot: usize) -> io::Result<()> {
        let is_websocket = slot < self.mix.websockets;
        let spread = slot % self.mix.base_paths.len().max(1);
        let base = self.mix.base_paths.get(spread).map_or("/", String::as_str);
        let path = format!("{base}{}", if is_websocket { "ws" } else { "sse/100" });
        let mut request = Request::get(self.mix.target, &path);
        if is_websocket {
            request.fields = [
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        }
        let socket = sys::connect(self.mix.target)?;
        self.epoll
            .add(socket.as_raw_fd(), slot as u64, Interest::ReadWrite)?;
        let now = sys::now_ns();
        self.slots[slot] = Some(Stream {
            socket,
            is_websocket,
            request: Some(request.encode()),
            pending_in: Vec::new(),
            body: None,
            text: Vec::new(),
            sent: 0,
            received: 0,
            sent_at_ns: now,
            heard_at_ns: now,
        });
        self.ledger.opened += 1;
        Ok(())
    }

    fn advance(&mut self, event: Event) {
        let slot = event.token as usize;
        let Some(stream) = &mut self.slots[slot] else {
            return;
        };
        if event.writable
            && let Some(request) = stream.request.take()
        {
            let fd = stream.socket.as_raw_fd();
            let sent = sys::send(fd, &request, false);
            let watched = self.epoll.modify(fd, slot as u64, Interest::Read);
            if sent.ok() != Some(request.len()) || watched.is_err() {
                self.end(slot, End::from("the request could not be sent"));
                return;
            }
        }
        if event.readable {
            self.read(slot);
        }
    }

    fn read(&mut self, slot: usize) {
        let Some(stream) = &mut self.slots[slot] else {
            return;
        };
        let mut buf = [0; 16 * 1024];
        match sys::recv(stream.socket.as_raw_fd(), &mut buf) {
            Ok(0) => self.end(slot, End::from("end of stream without a farewell")),
            Ok(count) => {
                stream.heard_at_ns = sys::now_ns();
                stream.pending_in.extend_from_slice(&buf[..count]);
                let before = stream.received;
                let result = stream.understand(slot);
                let gained = stream.received - before;
                if stream.is_websocket {
                    self.ledger.echoes += gained;
                } else {
                    self.ledger.events += gained;
                }
                if let Err(end) = result {
                    self.end(slot, end);
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => {
                let refused = e.kind() == io::ErrorKind::ConnectionRefused;
                if refused && self.signals.is_ending.load(Ordering::Relaxed) {
                    self.slots[slot] = None;
                } else {
                    self.end(slot, End::Broken(e.to_string()));
                }
            }
        }
    }

    fn end(&mut self, slot: usize, end: End) {
        self.slots[slot] = None;
        match end {
            End::Drained => self.ledger.drained += 1,
            End::Broken(why) => {
                self.ledger.broken += 1;
                let at = since(self.ledger.started_ns);
                note(
                    &mut self.ledger.examples,
                    format!("{at:.3} s: stream {slot}: {why}"),
                );
            }
        }
    }
}

impl Stream {
    fn understand(&mut self, slot: usize) -> Result<(), End> {
        if self.body.is_none() {
            let Some(length) = head_length(&self.pending_in) else {
                return Ok(());
            };
            let head = ResponseHead::parse(&self.pending_in[..length]).map_err(|m| m.0)?;
            self.pending_in.drain(..length);
            let wanted = if self.is_websocket { 101 } else { 200 };
            if head.status != wanted {
                return Err(End::Broken(format!("status {}", head.status)));
            }
            self.body = Some(BodyReader::new(head.framing));
        }
        if self.is_websocket {
            return self.frames(slot);
        }
        let Some(body) = &mut self.body else {
            return Ok(());
        };
        let text = &mut self.text;
        let used = body
            .feed(&self.pending_in, |piece| text.extend_from_slice(piece))
            .map_err(|m| m.0)?;
        self.pending_in.drain(..used);
        while let Some(at) = self.text.windows(2).position(|pair| pair == b"\n\n") {
            let expected = format!("data: {}", self.received);
            if self.text[..at] != *expected.as_bytes() {
                return Err(End::from("an event is missing or out of order"));
            }
            self.text.drain(..at + 2);
            self.received += 1;
        }
        if self.body.as_ref().is_some_and(BodyReader::is_done) {
            return Err(End::Drained);
        }
        Ok(())
    }

    fn frames(&mut self, slot: usize) -> Result<(), End> {
        while let Some((frame, used)) = ws::decode(&self.pending_in)? {
            self.pending_in.drain(..used);
            match frame.opcode {
                ws::TEXT if frame.payload == text(slot, self.received).as_bytes() => {
                    self.received += 1;
                }
                ws::TEXT => return Err(End::from("a text that was not sent")),
                ws::CLOSE => {
                    return Err(match frame.close_code() {
                        Some(1000 | 1001) => End::Drained,
                        code => End::Broken(format!("Close {code:?}")),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl fmt::Display for StreamLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "streams: {} opened, {} echoes, {} events, {} drained, {} broken",
            self.opened, self.echoes, self.events, self.drained, self.broken
        )?;
        for example in &self.examples {
            writeln!(f, "  e.g. {example}")?;
        }
        Ok(())
    }
}

fn id_text(id: u64) -> String {
    format!("t{id}")
}

fn text(slot: usize, number: u64) -> String {
    format!("text {number} of stream {slot}")
}

fn since(started_ns: u64) -> f64 {
    (sys::now_ns() - started_ns) as f64 / 1e9
}

fn note(examples: &mut Vec<String>, example: String) {
    if examples.len() < EXAMPLES_MAX {
        examples.push(example);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc, thread};

    use super::*;
    use crate::{origin, peer::Folder};

    #[test]
    fn healthy_traffic_leaves_a_clean_ledger() {
        let folder = Folder::new("traffic", false).unwrap();
        let log = folder.path().join("ids");
        let options = origin::Options {
            log_ids: Some(log.clone()),
            ..origin::Options::default()
        };
        let origin = origin::Origin::bind((Ipv4Addr::LOCALHOST, 0).into(), options).unwrap();
        let mix = Mix {
            target: origin.address().unwrap(),
            base_paths: vec!["/".to_owned()],
            connections: 4,
            gap: Duration::from_millis(5),
            jitter: Duration::from_millis(1),
            in_step: false,
            post_every: 3,
            storm_per_s: 200.0,
            websockets: 2,
            event_streams: 2,
        };
        let origin_stop = Arc::new(AtomicBool::new(false));
        let seen = origin_stop.clone();
        let serving = thread::spawn(move || origin.run(&seen));
        let signals = Signals::default();
        let (ledger, streams) = thread::scope(|scope| {
            let exchanging = scope.spawn(|| exchanges(&mix, &signals, 1).unwrap());
            let streaming = scope.spawn(|| streams(&mix, &signals).unwrap());
            while signals.answered.load(Ordering::Relaxed) < 200 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(700));
            signals.stop.store(true, Ordering::Relaxed);
            (exchanging.join().unwrap(), streaming.join().unwrap())
        });
        origin_stop.store(true, Ordering::Relaxed);
        serving.join().unwrap().unwrap();
        let comparison = ledger.compare(&log).unwrap();
        assert_eq!(ledger.failed(), 0, "{ledger}");
        assert_eq!(ledger.crossed, 0);
        assert_eq!(streams.broken + streams.drained, 0, "{streams}");
        assert!(streams.echoes > 0 && streams.events > 0);
        assert_eq!(comparison.asked, comparison.answered);
        assert_eq!(
            (comparison.answered_by_nobody, comparison.posts_twice),
            (0, 0)
        );
    }

    #[test]
    fn the_comparison_finds_what_is_missing_and_what_came_twice() {
        let folder = Folder::new("ledger", false).unwrap();
        let log = folder.path().join("ids");
        fs::write(&log, "t0 POST\nt0 POST\nt1 GET\nt1 GET\nx GET\n").unwrap();
        let ledger = Ledger {
            entries: vec![(true, true), (false, true), (false, true), (true, false)],
            ..Ledger::default()
        };
        let expected = Comparison {
            asked: 4,
            answered: 3,
            answered_by_nobody: 1,
            posts_twice: 1,
            gets_twice: 1,
        };
        assert_eq!(ledger.compare(&log).unwrap(), expected);
    }
}
