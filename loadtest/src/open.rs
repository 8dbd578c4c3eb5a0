//! Open-loop generator: requests fall due at random moments (Poisson, fixed seed) whether or not earlier ones
//! were answered. Latency counts from the moment a request was due, so a stall is charged to every request
//! that should have been sent meanwhile; a closed loop would hide it.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    client::{Client, Outcome, Request},
    drive::Edge,
    heads::Heads,
    histogram::Histogram,
    origin, probe,
    rng::Rng,
    sys,
};

/// What to send, how often, and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    pub target: SocketAddr,
    pub connections: usize,
    pub heads: Heads,
    /// Statuses that are right besides 2xx; they count as refused.
    pub refusals: Vec<u16>,
    /// Mean arrivals per second.
    pub rate: f64,
    pub seed: u64,
    pub warm_up: Duration,
    pub measure: Duration,
}

/// What became of the requests that fell due between the two edges.
#[derive(Clone, Default)]
pub struct Tally {
    /// Nanoseconds from due to answered.
    pub latency: Histogram,
    pub due: u64,
    pub non_2xx: u64,
    pub refused: u64,
    pub failures: u64,
    /// Longest queue of due requests that found no free connection.
    pub queue_max: usize,
    pub seconds: f64,
    pub generator_cpu_ns: u64,
    /// From the first request to the last, warm-up included.
    pub asked_in_all: u64,
    pub answered_in_all: u64,
}

/// How long requests that were due in time may take to be answered behind the end.
const TAIL: Duration = Duration::from_secs(10);

/// Runs warm-up and measurement on the calling thread; `edge` is called at the two ends of the measurement.
pub fn drive(load: &Load, edge: &mut dyn FnMut(Edge)) -> io::Result<Tally> {
    sys::precise_timers();
    let mut client = Client::new(load.target, load.connections)?;
    let mut rng = Rng::from_seed(load.seed);
    let begin = sys::now_ns();
    let start = begin + load.warm_up.as_nanos() as u64;
    let end = start + load.measure.as_nanos() as u64;
    let mut state = State {
        tally: Tally::default(),
        window: start..end,
        heads: load.heads.clone(),
        refusals: &load.refusals,
        due: VecDeque::new(),
        idle: (0..load.connections).collect(),
        asked_for: vec![0; load.connections],
        outstanding: 0,
    };
    let mut next_due = begin as f64 + rng.poisson_gap_ns(load.rate);
    let mut ready = Vec::with_capacity(256);
    let mut cpu = 0;
    let mut has_started = false;
    let mut has_ended = false;
    loop {
        let now = sys::now_ns();
        if !has_started && now >= start {
            has_started = true;
            edge(Edge::Start);
            cpu = sys::thread_cpu_ns();
        }
        if !has_ended && now >= end {
            has_ended = true;
            state.tally.generator_cpu_ns = sys::thread_cpu_ns() - cpu;
            edge(Edge::End);
        }
        let is_over = state.outstanding == 0 && state.due.is_empty();
        if has_ended && (is_over || now >= end + TAIL.as_nanos() as u64) {
            break;
        }
        while next_due < end as f64 && next_due <= now as f64 {
            state.due.push_back(next_due as u64);
            next_due += rng.poisson_gap_ns(load.rate);
        }
        state.send_due(&mut client);
        let wake = if next_due < end as f64 {
            next_due as u64
        } else {
            end
        };
        let wake = if has_started { wake } else { wake.min(start) };
        let span = if has_ended {
            Duration::from_millis(20)
        } else {
            Duration::from_nanos(wake.saturating_sub(sys::now_ns()))
        };
        client.wait(Some(span), &mut ready)?;
        for event in &ready {
            let outcome = client.advance(*event);
            state.settle(&mut client, event.token as usize, outcome);
        }
    }
    let never_answered = state.due.len() + state.outstanding;
    state.tally.failures += never_answered as u64;
    for _ in 0..never_answered {
        state.tally.latency.record(TAIL.as_nanos() as u64);
    }
    state.tally.seconds = load.measure.as_secs_f64();
    Ok(state.tally)
}

struct State<'a> {
    tally: Tally,
    window: std::ops::Range<u64>,
    heads: Heads,
    refusals: &'a [u16],
    due: VecDeque<u64>,
    /// Free slots, the one free for longest first, so that all connections are used.
    idle: VecDeque<usize>,
    /// When the request on each slot was due.
    asked_for: Vec<u64>,
    outstanding: usize,
}

impl State<'_> {
    fn send_due(&mut self, client: &mut Client) {
        while !self.due.is_empty() {
            let Some(slot) = self.idle.pop_front() else {
                self.tally.queue_max = self.tally.queue_max.max(self.due.len());
                return;
            };
            let Some(due) = self.due.pop_front() else {
                return;
            };
            self.asked_for[slot] = due;
            self.tally.due += u64::from(self.window.contains(&due));
            let opened = if client.is_open(slot) {
                Ok(())
            } else {
                client.open(slot)
            };
            self.outstanding += 1;
            self.tally.asked_in_all += 1;
            let head = self.heads.next();
            if let Err(failure) = opened.and_then(|()| client.ask(slot, head, 0)) {
                client.close(slot);
                self.settle(client, slot, Outcome::Failed(failure));
            }
        }
    }

    fn settle(&mut self, client: &mut Client, slot: usize, outcome: Outcome) {
        let due = self.asked_for[slot];
        let counts = self.window.contains(&due);
        match outcome {
            Outcome::Pending | Outcome::ClosedIdle => return,
            Outcome::Answer(answer) => {
                if !answer.keep_alive {
                    client.close(slot);
                }
                self.tally.answered_in_all += 1;
                match answer.status {
                    200..300 => {}
                    _ if !counts => {}
                    status if self.refusals.contains(&status) => self.tally.refused += 1,
                    _ => self.tally.non_2xx += 1,
                }
            }
            Outcome::Failed(_) => self.tally.failures += u64::from(counts),
        }
        if counts {
            self.tally.latency.record(sys::now_ns().saturating_sub(due));
        }
        self.outstanding -= 1;
        self.idle.push_back(slot);
    }
}

/// Shows that a 200 ms stall of the origin appears in the tail; an error says what was missing.
pub fn self_test() -> Result<String, String> {
    const STALL_MS: u64 = 200;
    const RATE: f64 = 1000.0;
    let fail = |e: io::Error| format!("self-test: {e}");
    let bound = (Ipv4Addr::LOCALHOST, 0).into();
    let origin = origin::Origin::bind(bound, origin::Options::default()).map_err(fail)?;
    let target = origin.address().map_err(fail)?;
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let serving = thread::spawn(move || origin.run(&seen));
    let load = Load {
        target,
        connections: 16,
        heads: Heads::fixed(Request::get(target, "/").encode()),
        refusals: Vec::new(),
        rate: RATE,
        seed: 1,
        warm_up: Duration::from_millis(200),
        measure: Duration::from_secs(3),
    };
    let freezing = thread::spawn(move || {
        thread::sleep(Duration::from_secs(1));
        let path = format!("/freeze/{STALL_MS}");
        probe::get(target, &path, &[], Duration::from_secs(5))
    });
    let tally = drive(&load, &mut |_| {}).map_err(fail)?;
    let frozen = freezing.join();
    stop.store(true, Ordering::Relaxed);
    let served = serving.join();
    if !matches!(frozen, Ok(Ok(ref answer)) if answer.status == 200) {
        return Err("self-test: the origin could not be frozen".to_owned());
    }
    if !matches!(served, Ok(Ok(()))) {
        return Err("self-test: the origin failed".to_owned());
    }
    judge_stall(&tally, STALL_MS, RATE)
}

fn judge_stall(tally: &Tally, stall_ms: u64, rate: f64) -> Result<String, String> {
    let ms = |ns: u64| ns as f64 / 1e6;
    let (p999, max) = (tally.latency.quantile(0.999), tally.latency.max());
    // Of the requests due during the stall, half were due in its first half and waited at least as long.
    let half = tally.latency.count_from(stall_ms * 500_000);
    let expected = rate * stall_ms as f64 / 2000.0;
    let shown = format!(
        "stall {stall_ms} ms: p50 {:.2} ms, p99.9 {:.1} ms, max {:.1} ms, {half} requests above {} ms (about {expected:.0} expected), {} failed",
        ms(tally.latency.quantile(0.5)),
        ms(p999),
        ms(max),
        stall_ms / 2,
        tally.failures + tally.non_2xx,
    );
    let near = stall_ms * 900_000;
    if max < near || p999 < near || (half as f64) < expected / 2.0 {
        return Err(format!("self-test failed: the stall is hidden: {shown}"));
    }
    if tally.failures + tally.non_2xx > 0 {
        return Err(format!("self-test failed: {shown}"));
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_shows_in_the_tail() {
        self_test().unwrap();
    }

    #[test]
    fn a_tally_that_hides_the_stall_is_refused() {
        // What a closed loop would have measured: 16 late answers among 3000.
        let mut tally = Tally::default();
        (0..3000).for_each(|_| tally.latency.record(200_000));
        assert!(judge_stall(&tally, 200, 1000.0).is_err());
        (0..16).for_each(|_| tally.latency.record(200_000_000));
        assert!(judge_stall(&tally, 200, 1000.0).is_err());
        (0..184).for_each(|i| tally.latency.record(i * 1_000_000));
        assert!(judge_stall(&tally, 200, 1000.0).is_ok());
    }
}
