//! StatsD, as Tyk instruments itself: jobs and their events under a prefix.
//!
//! Each event goes out twice, as `<prefix>.<event>` and `<prefix>.<job>.<event>`. What happens per
//! request is counted by the shards and sent as sums: `5|c` once and not `1|c` five times, spans of
//! time as their mean with the share that it stands for.
//!
//! Tyk: `gateway/instrumentation_handlers.go`, `gateway/instrumentation_statsd_sink.go`;
//! `TYK_INSTRUMENTATION=1` or `--log-instrumentation`, `statsd_connection_string`, `statsd_prefix`.
//! `GCActivity` is not sent: nothing here collects garbage.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use crate::metrics::Registry;

/// Lines that wait to be sent; beyond it they are dropped.
const EVENTS_MAX: usize = 8192;

/// A datagram holds no more, to cross an Ethernet in one piece.
const DATAGRAM_BYTES: usize = 1440;

const FLUSH: Duration = Duration::from_millis(100);

/// Between two sums of what the shards counted.
const SUM: Duration = Duration::from_secs(1);

/// Between two measures of the load.
const LOAD: Duration = Duration::from_secs(5);

/// Before a name that could not be resolved is tried again.
const RESOLVE_PAUSE: Duration = Duration::from_secs(10);

/// What happened, by the name of its job.
#[derive(Debug)]
enum Event {
    Count(&'static str, String),
    Complete(&'static str, &'static str, Duration),
    /// Whoever waits is answered when everything counted so far is sent.
    Finish(oneshot::Sender<()>),
}

/// Tells of what happens on the control side. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct StatsD(mpsc::Sender<Event>);

impl StatsD {
    /// The two ends; `address` is `host:port`.
    #[must_use]
    pub fn new(address: &str, prefix: &str, registry: Arc<Registry>) -> (Self, StatsDSender) {
        let (events, received) = mpsc::channel(EVENTS_MAX);
        let sender = StatsDSender {
            address: address.to_owned(),
            lines: Lines::new(prefix),
            received,
            registry,
            steps: BTreeMap::new(),
            requests: 0,
        };
        (Self(events), sender)
    }

    /// A call of the control API was answered.
    pub fn system_api_call(&self, took: Duration) {
        self.send(Event::Count("SystemAPICall", "called".to_owned()));
        self.send(Event::Complete("SystemAPICall", "success", took));
    }

    /// A call of the control API was answered with an error.
    pub fn system_api_error(&self, status: u16) {
        self.send(Event::Count("SystemAPIError", status.to_string()));
    }

    /// Sends what was counted so far, at the end of the process. Waits no longer than `span`.
    pub async fn finish(&self, span: Duration) {
        let (done, wait) = oneshot::channel();
        self.send(Event::Finish(done));
        let _ = tokio::time::timeout(span, wait).await;
    }

    fn send(&self, event: Event) {
        // Where too many wait, this one is not told.
        let _ = self.0.try_send(event);
    }
}

/// Sends datagrams.
pub struct StatsDSender {
    address: String,
    lines: Lines,
    received: mpsc::Receiver<Event>,
    registry: Arc<Registry>,
    /// Runs and microseconds of each step, as they were last told.
    steps: BTreeMap<&'static str, (u64, u64)>,
    /// Requests, as they were last told.
    requests: u64,
}

impl StatsDSender {
    /// Sends until every [`StatsD`] is gone.
    pub async fn run(mut self) {
        let socket = loop {
            match self.connect().await {
                Ok(socket) => break socket,
                Err(error) => {
                    let address = &self.address;
                    tracing::warn!(prefix = "statsd", address, %error, "no way to StatsD");
                    tokio::time::sleep(RESOLVE_PAUSE).await;
                }
            }
            if self.received.is_closed() {
                return;
            }
        };
        let mut flushes = tokio::time::interval(FLUSH);
        flushes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut summed_at, mut loaded_at) = (Instant::now(), Instant::now());
        self.requests = self.request_count();
        loop {
            let mut finished = None;
            let is_over = tokio::select! {
                event = self.received.recv() => match event {
                    Some(Event::Finish(done)) => {
                        finished = Some(done);
                        self.sum_steps();
                        false
                    }
                    Some(event) => {
                        self.lines.event(&event);
                        continue;
                    }
                    None => true,
                },
                now = flushes.tick() => {
                    if now - summed_at >= SUM {
                        summed_at = now;
                        self.sum_steps();
                    }
                    if now - loaded_at >= LOAD {
                        self.load(now - loaded_at);
                        loaded_at = now;
                    }
                    false
                }
            };
            for datagram in self.lines.datagrams() {
                // Nobody listens, or the queue is full: measurements are not worth waiting for.
                let _ = socket.send(&datagram).await;
            }
            if let Some(done) = finished {
                let _ = done.send(());
            }
            if is_over {
                return;
            }
        }
    }

    async fn connect(&self) -> io::Result<UdpSocket> {
        let mut last = io::Error::other("the name has no address");
        for address in tokio::net::lookup_host(&self.address).await? {
            let any = if address.is_ipv4() {
                "0.0.0.0:0"
            } else {
                "[::]:0"
            };
            let socket = UdpSocket::bind(any).await?;
            match socket.connect(address).await {
                Ok(()) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn request_count(&self) -> u64 {
        let shards = self.registry.shards().iter();
        shards.map(|shard| shard.requests.value()).sum()
    }

    fn load(&mut self, over: Duration) {
        let now = self.request_count();
        let before = std::mem::replace(&mut self.requests, now);
        let rps = self.requests.wrapping_sub(before) as f64 / over.as_secs_f64();
        self.lines.gauge("Load", "rps", rps);
    }

    /// What the steps of all chains did since the last time (Tyk: `MiddlewareCall`).
    fn sum_steps(&mut self) {
        let mut sums: BTreeMap<&'static str, (u64, u64)> = BTreeMap::new();
        for shard in self.registry.shards() {
            for (name, runs, us) in shard.steps.all() {
                let sum = sums.entry(name).or_default();
                sum.0 += runs;
                sum.1 += us;
            }
        }
        for (name, (runs, us)) in &sums {
            let (runs_before, us_before) = self.steps.get(name).copied().unwrap_or_default();
            let runs = runs - runs_before;
            if runs > 0 {
                let us = us - us_before;
                self.lines.step("executed", runs, us);
                self.lines.step(&format!("{name}.executed"), runs, us);
            }
        }
        self.steps = sums;
    }
}

/// Lines in the making.
#[derive(Debug)]
struct Lines {
    prefix: String,
    lines: Vec<String>,
}

impl Lines {
    fn new(prefix: &str) -> Self {
        let prefix = match prefix {
            "" => String::new(),
            prefix => format!("{}.", sanitized(prefix)),
        };
        let lines = Vec::new();
        Self { prefix, lines }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Count(job, event) => self.twice(job, event, "1|c"),
            Event::Complete(job, status, took) => {
                let value = format!("{}|ms", ms(took.as_secs_f64() * 1000.0));
                self.once(&format!("{job}.{status}"), &value);
            }
            Event::Finish(_) => {}
        }
    }

    fn gauge(&mut self, job: &str, event: &str, value: f64) {
        let value = match value {
            -0.1..0.1 => format!("{value}|g"),
            _ => format!("{value:.2}|g"),
        };
        self.twice(job, event, &value);
    }

    /// Runs of a step and their mean span; `executed` goes with `exec_time`.
    fn step(&mut self, event: &str, runs: u64, us: u64) {
        const JOB: &str = "MiddlewareCall";
        let timing = match event.strip_suffix(".executed") {
            Some(_) => format!("{event}.exec_time"),
            None => "exec_time".to_owned(),
        };
        self.twice(JOB, event, &format!("{runs}|c"));
        let mean = ms(us as f64 / runs as f64 / 1000.0);
        let share = match runs {
            1 => String::new(),
            runs => format!("|@{}", 1.0 / runs as f64),
        };
        self.twice(JOB, &timing, &format!("{mean}|ms{share}"));
    }

    fn twice(&mut self, job: &str, event: &str, value: &str) {
        self.once(event, value);
        self.once(&format!("{job}.{event}"), value);
    }

    fn once(&mut self, key: &str, value: &str) {
        let line = format!("{}{}:{value}\n", self.prefix, sanitized(key));
        if line.len() <= DATAGRAM_BYTES && self.lines.len() < EVENTS_MAX {
            self.lines.push(line);
        }
    }

    /// All lines, as few datagrams as hold them.
    fn datagrams(&mut self) -> Vec<Vec<u8>> {
        let mut datagrams: Vec<Vec<u8>> = Vec::new();
        for line in self.lines.drain(..) {
            match datagrams.last_mut() {
                Some(last) if last.len() + line.len() <= DATAGRAM_BYTES => {
                    last.extend_from_slice(line.as_bytes());
                }
                _ => datagrams.push(line.into_bytes()),
            }
        }
        datagrams
    }
}

/// Milliseconds: two decimals below ten.
fn ms(ms: f64) -> String {
    match ms {
        10.0.. => format!("{}", ms.trunc()),
        _ => format!("{ms:.2}"),
    }
}

/// A name with every character that StatsD may misread replaced.
fn sanitized(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars()
        .map(|c| if is_plain(c) { c } else { '$' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: &mut Lines) -> String {
        let datagrams = lines.datagrams().concat();
        String::from_utf8(datagrams).unwrap()
    }

    #[test]
    fn lines_have_the_names_of_tyk() {
        let mut lines = Lines::new("gw one");
        lines.event(&Event::Count("SystemAPIError", "404".to_owned()));
        lines.event(&Event::Complete(
            "SystemAPICall",
            "success",
            Duration::from_micros(1234),
        ));
        lines.event(&Event::Complete(
            "SystemAPICall",
            "success",
            Duration::from_micros(10_999),
        ));
        lines.gauge("Load", "rps", 12.0);
        lines.step("executed", 4, 100);
        lines.step("AuthKey.executed", 1, 25_000);
        let expected = "gw$one.404:1|c\ngw$one.SystemAPIError.404:1|c\n\
            gw$one.SystemAPICall.success:1.23|ms\ngw$one.SystemAPICall.success:10|ms\n\
            gw$one.rps:12.00|g\ngw$one.Load.rps:12.00|g\n\
            gw$one.executed:4|c\ngw$one.MiddlewareCall.executed:4|c\n\
            gw$one.exec_time:0.03|ms|@0.25\ngw$one.MiddlewareCall.exec_time:0.03|ms|@0.25\n\
            gw$one.AuthKey.executed:1|c\ngw$one.MiddlewareCall.AuthKey.executed:1|c\n\
            gw$one.AuthKey.executed.exec_time:25|ms\n\
            gw$one.MiddlewareCall.AuthKey.executed.exec_time:25|ms\n";
        assert_eq!(text(&mut lines), expected);
        let mut bare = Lines::new("");
        bare.gauge("Load", "rps", 0.0);
        assert_eq!(text(&mut bare), "rps:0|g\nLoad.rps:0|g\n");
    }

    #[test]
    fn datagrams_are_filled_and_never_larger() {
        let mut lines = Lines::new("p");
        for n in 0..200 {
            lines.once(&format!("{n:0>40}"), "1|c");
        }
        lines.once(&"x".repeat(DATAGRAM_BYTES), "1|c");
        let datagrams = lines.datagrams();
        assert!(
            datagrams
                .iter()
                .all(|datagram| datagram.len() <= DATAGRAM_BYTES)
        );
        assert_eq!(datagrams.len(), 7);
        let text = String::from_utf8(datagrams.concat()).unwrap();
        assert_eq!(text.lines().count(), 200);
    }

    #[test]
    fn what_is_told_arrives_over_the_network() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = receiver.local_addr().unwrap().to_string();
            let registry = Arc::new(Registry::new(1));
            let (statsd, sender) = StatsD::new(&address, "p", Arc::clone(&registry));
            let task = tokio::spawn(sender.run());
            statsd.system_api_call(Duration::from_millis(2));
            statsd.system_api_error(403);
            let mut found = String::new();
            let mut buf = [0; 2048];
            while !found.contains("SystemAPIError.403") {
                let length = receiver.recv(&mut buf).await.unwrap();
                found.push_str(std::str::from_utf8(&buf[..length]).unwrap());
            }
            for line in [
                "p.called:1|c",
                "p.SystemAPICall.called:1|c",
                "p.SystemAPICall.success:2.00|ms",
            ] {
                assert!(found.lines().any(|found| found == line), "{found}");
            }
            drop(statsd);
            task.await.unwrap();
        });
    }

    #[test]
    fn steps_and_load_are_told_as_what_came_since_the_last_time() {
        let registry = Arc::new(Registry::new(2));
        let (_statsd, mut sender) = StatsD::new("127.0.0.1:1", "", Arc::clone(&registry));
        let ran = |index: usize, us| {
            let shard = registry.shard(index).unwrap();
            shard.steps.took("VersionCheck", us);
        };
        ran(0, 10);
        ran(1, 30);
        sender.sum_steps();
        assert!(text(&mut sender.lines).contains("VersionCheck.executed:2|c\n"));
        sender.sum_steps();
        assert_eq!(text(&mut sender.lines), "");
        ran(0, 5);
        sender.sum_steps();
        assert!(text(&mut sender.lines).contains("VersionCheck.executed.exec_time:0.01|ms\n"));
        registry.shard(0).unwrap().requests.add(50);
        sender.load(Duration::from_secs(5));
        assert_eq!(text(&mut sender.lines), "rps:10.00|g\nLoad.rps:10.00|g\n");
    }
}
