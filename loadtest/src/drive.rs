//! Closed-loop generator: N connections, each asks again as soon as it was answered. It saturates the proxy,
//! so that CPU per request can be read; its latencies mean nothing and are not taken.

use std::{io, net::SocketAddr, time::Duration};

use crate::{
    client::{Client, Outcome},
    heads::Heads,
    sys,
};

/// What to send, and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    pub target: SocketAddr,
    pub connections: usize,
    pub heads: Heads,
    pub upload_bytes: u64,
    /// One connection per request; `head` should say `Connection: close`.
    pub new_connection: bool,
    /// Statuses that are right besides 2xx; they count as refused.
    pub refusals: Vec<u16>,
    pub warm_up: Duration,
    pub measure: Duration,
}

/// Moments at which the caller reads the counters of the process under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    Start,
    End,
}

/// What happened between the two edges.
#[derive(Clone, Default, Debug)]
pub struct Tally {
    pub responses: u64,
    pub non_2xx: u64,
    pub refused: u64,
    pub failures: u64,
    pub received_bytes: u64,
    pub sent_bytes: u64,
    pub seconds: f64,
    /// CPU of the generator's thread.
    pub generator_cpu_ns: u64,
    /// From the first request to the last, warm-up included.
    pub asked_in_all: u64,
    pub answered_in_all: u64,
}

/// How long an exchange may take before it counts as failed.
const STUCK: Duration = Duration::from_secs(20);
/// How long a failed connection rests, so that a dead target is not hammered.
const REST_NS: u64 = 10_000_000;

/// Runs warm-up and measurement on the calling thread; `edge` is called at the two ends of the measurement.
pub fn drive(load: &Load, edge: &mut dyn FnMut(Edge)) -> io::Result<Tally> {
    let mut driver = Driver {
        load,
        heads: load.heads.clone(),
        asked: 0,
        answered: 0,
        client: Client::new(load.target, load.connections)?,
        tally: Tally::default(),
        resting: Vec::new(),
        is_ending: false,
    };
    for slot in 0..load.connections {
        driver.ask(slot);
    }
    driver.turn_until(sys::now_ns() + load.warm_up.as_nanos() as u64)?;
    driver.tally = Tally::default();
    let (received, sent) = (driver.client.received_bytes, driver.client.sent_bytes);
    edge(Edge::Start);
    let (started, cpu) = (sys::now_ns(), sys::thread_cpu_ns());
    driver.turn_until(started + load.measure.as_nanos() as u64)?;
    let (ended, cpu_end) = (sys::now_ns(), sys::thread_cpu_ns());
    edge(Edge::End);
    let mut tally = driver.tally.clone();
    tally.seconds = (ended - started) as f64 / 1e9;
    tally.generator_cpu_ns = cpu_end - cpu;
    tally.received_bytes = driver.client.received_bytes - received;
    tally.sent_bytes = driver.client.sent_bytes - sent;
    // Small exchanges end properly; large ones are cut after a moment.
    driver.is_ending = true;
    driver.turn_until(sys::now_ns() + 50_000_000)?;
    tally.asked_in_all = driver.asked;
    tally.answered_in_all = driver.answered;
    Ok(tally)
}

struct Driver<'a> {
    load: &'a Load,
    heads: Heads,
    asked: u64,
    answered: u64,
    client: Client,
    tally: Tally,
    /// Slots to be tried again, and when.
    resting: Vec<(u64, usize)>,
    is_ending: bool,
}

impl Driver<'_> {
    fn turn_until(&mut self, end_ns: u64) -> io::Result<()> {
        let mut ready = Vec::with_capacity(256);
        loop {
            let now = sys::now_ns();
            if now >= end_ns {
                break;
            }
            let span = Duration::from_nanos(end_ns - now).min(Duration::from_millis(20));
            self.client.wait(Some(span), &mut ready)?;
            for event in &ready {
                let outcome = self.client.advance(*event);
                self.settle(event.token as usize, outcome);
            }
            self.wake_resting();
        }
        for slot in self.client.stuck(STUCK) {
            self.client.close(slot);
            self.fail(slot);
        }
        Ok(())
    }

    fn settle(&mut self, slot: usize, outcome: Outcome) {
        match outcome {
            Outcome::Pending => {}
            Outcome::Answer(answer) => {
                self.answered += 1;
                self.tally.responses += 1;
                match answer.status {
                    200..300 => {}
                    status if self.load.refusals.contains(&status) => self.tally.refused += 1,
                    _ => self.tally.non_2xx += 1,
                }
                if self.is_ending {
                    self.client.close(slot);
                } else if answer.keep_alive && !self.load.new_connection {
                    self.ask(slot);
                }
                // Otherwise the server closes first, as it said, and `ClosedIdle` follows.
            }
            Outcome::ClosedIdle => self.ask(slot),
            Outcome::Failed(_) => self.fail(slot),
        }
    }

    fn ask(&mut self, slot: usize) {
        if self.is_ending {
            return;
        }
        let opened = if self.client.is_open(slot) {
            Ok(())
        } else {
            self.client.open(slot)
        };
        let asked = opened.and_then(|()| {
            self.asked += 1;
            let upload_bytes = self.load.upload_bytes;
            self.client.ask(slot, self.heads.next(), upload_bytes)
        });
        if asked.is_err() {
            self.client.close(slot);
            self.fail(slot);
        }
    }

    fn fail(&mut self, slot: usize) {
        self.tally.failures += 1;
        self.resting.push((sys::now_ns() + REST_NS, slot));
    }

    fn wake_resting(&mut self) {
        if self.resting.is_empty() {
            return;
        }
        let now = sys::now_ns();
        let (due, rest): (Vec<_>, Vec<_>) = self.resting.drain(..).partition(|(at, _)| *at <= now);
        self.resting = rest;
        for (_, slot) in due {
            self.ask(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    use super::*;
    use crate::{client::Request, origin};

    #[track_caller]
    fn check(path: &str, upload_bytes: u64, new_connection: bool) -> Tally {
        let bound = (Ipv4Addr::LOCALHOST, 0).into();
        let origin = origin::Origin::bind(bound, origin::Options::default()).unwrap();
        let target = origin.address().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = thread::spawn(move || origin.run(&seen));
        let mut request = Request::get(target, path);
        request.close = new_connection;
        request.upload_bytes = (upload_bytes > 0).then_some(upload_bytes);
        let load = Load {
            target,
            connections: 4,
            heads: Heads::fixed(request.encode()),
            upload_bytes,
            new_connection,
            refusals: Vec::new(),
            warm_up: Duration::from_millis(20),
            measure: Duration::from_millis(200),
        };
        let mut edges = Vec::new();
        let tally = drive(&load, &mut |edge| edges.push(edge)).unwrap();
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap().unwrap();
        assert_eq!(edges, [Edge::Start, Edge::End]);
        assert_eq!((tally.non_2xx, tally.failures), (0, 0));
        assert!(tally.responses > 0);
        tally
    }

    #[test]
    fn small_answers_are_counted() {
        check("/", 0, false);
    }

    #[test]
    fn a_new_connection_per_request_works() {
        check("/", 0, true);
    }

    #[test]
    fn downloads_and_uploads_are_counted_in_bytes() {
        assert!(check("/bytes/1000000", 0, false).received_bytes >= 1_000_000);
        assert!(check("/sink", 1_000_000, false).sent_bytes >= 1_000_000);
    }
}
