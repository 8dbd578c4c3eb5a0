//! Requests of several streams to several gateways, each at its own time, every one of them written down.
//!
//! Open loop: what is due is sent whether or not earlier requests were answered, as long as a connection is free.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::{
    client::{Client, Failure, Outcome},
    rng::Rng,
    sys,
};

/// One kind of request: how many, to whom.
#[derive(Clone, Debug)]
pub struct Stream {
    /// One after the other.
    pub phases: Vec<Phase>,
    pub spacing: Spacing,
    /// Shares of the gateways; all equal means in turn.
    pub weights: Vec<f64>,
}

#[derive(Clone, Copy, Debug)]
pub struct Phase {
    pub seconds: f64,
    /// Arrivals per second; 0 for silence.
    pub rate: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spacing {
    /// Even, but for a tenth of the gap either way.
    Paced,
    Poisson,
}

/// One request and its answer. Moments are nanoseconds since the run began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub stream: usize,
    pub gateway: usize,
    pub due_ns: u64,
    pub sent_ns: u64,
    pub answered_ns: u64,
    /// `Err` without a complete answer.
    pub status: Result<u16, Failure>,
    pub has_retry_after: bool,
}

impl Seen {
    pub fn is_admitted(&self) -> bool {
        self.status.is_ok_and(|status| (200..300).contains(&status))
    }
}

/// Connections to each gateway.
const SLOTS_EACH: usize = 192;
/// How long an answer may take.
const STUCK: Duration = Duration::from_secs(8);

impl Stream {
    pub fn seconds(&self) -> f64 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }

    /// Moments of all arrivals, in seconds from the begin, with the gateway each goes to.
    fn schedule(&self, seed: u64) -> VecDeque<(u64, usize)> {
        let mut rng = Rng::from_seed(seed);
        let in_turn = self.weights.windows(2).all(|pair| pair[0] == pair[1]);
        let total: f64 = self.weights.iter().sum();
        let mut turn = rng.below(self.weights.len() as u64) as usize;
        let mut schedule = VecDeque::new();
        let mut begin = 0.0;
        for phase in &self.phases {
            let gap = 1.0 / phase.rate;
            let end = begin + phase.seconds;
            let mut next = begin + gap * rng.unit();
            while phase.rate > 0.0 && next < end {
                let at = match self.spacing {
                    Spacing::Paced => next + gap * 0.2 * (rng.unit() - 0.5),
                    Spacing::Poisson => next,
                };
                turn = if in_turn {
                    (turn + 1) % self.weights.len()
                } else {
                    let mut left = rng.unit() * total;
                    let found = self.weights.iter().position(|weight| {
                        left -= weight;
                        left < 0.0
                    });
                    found.unwrap_or(0)
                };
                schedule.push_back(((at.max(0.0) * 1e9) as u64, turn));
                next += match self.spacing {
                    Spacing::Paced => gap,
                    Spacing::Poisson => rng.poisson_gap_ns(phase.rate) / 1e9,
                };
            }
            begin = end;
        }
        schedule
    }
}

/// Runs all streams to their end, or until told to stop. `write_head` gives the request of a stream to a gateway.
pub fn drive(
    targets: &[SocketAddr],
    streams: &[Stream],
    seed: u64,
    stop: &AtomicBool,
    mut write_head: impl FnMut(usize, usize, &mut Vec<u8>),
) -> io::Result<Vec<Seen>> {
    sys::precise_timers();
    let mut schedules: Vec<_> = (0..)
        .zip(streams)
        .map(|(nth, stream)| stream.schedule(seed * 1000 + nth))
        .collect();
    let mut heap = BinaryHeap::new();
    for (nth, schedule) in schedules.iter().enumerate() {
        heap.extend(schedule.front().map(|(at, _)| Reverse((*at, nth))));
    }
    let mut client = Client::to_each(targets, SLOTS_EACH)?;
    let mut desk = Desk {
        seen: Vec::new(),
        under_way: vec![None; client.slots()],
        free: targets.iter().map(|_| VecDeque::new()).collect(),
        waiting: targets.iter().map(|_| VecDeque::new()).collect(),
        begin: sys::now_ns(),
        outstanding: 0,
    };
    for slot in 0..client.slots() {
        desk.free[slot / SLOTS_EACH].push_back(slot);
    }
    let mut head = Vec::new();
    let mut ready = Vec::new();
    let mut next_look = 0;
    loop {
        let now = desk.now();
        let is_stopped = stop.load(Ordering::Relaxed);
        while let Some(Reverse((at, nth))) = heap.peek().copied() {
            if at > now || is_stopped {
                break;
            }
            heap.pop();
            if let Some((at, gateway)) = schedules[nth].pop_front() {
                desk.waiting[gateway].push_back((at, nth));
            }
            heap.extend(schedules[nth].front().map(|(at, _)| Reverse((*at, nth))));
        }
        for gateway in 0..targets.len() {
            while !desk.waiting[gateway].is_empty() {
                let Some(slot) = desk.free[gateway].pop_front() else {
                    break;
                };
                if let Some((due_ns, stream)) = desk.waiting[gateway].pop_front() {
                    head.clear();
                    write_head(stream, gateway, &mut head);
                    desk.send(&mut client, slot, due_ns, stream, &head);
                }
            }
        }
        let is_over = heap.is_empty() || is_stopped;
        if is_over && desk.outstanding == 0 && desk.waiting.iter().all(VecDeque::is_empty) {
            return Ok(desk.seen);
        }
        let next = heap.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
        let span = Duration::from_nanos(next.saturating_sub(desk.now()));
        client.wait(Some(span.min(Duration::from_millis(20))), &mut ready)?;
        for event in &ready {
            let outcome = client.advance(*event);
            desk.settle(&mut client, event.token as usize, outcome);
        }
        if desk.now() > next_look {
            next_look = desk.now() + 100_000_000;
            for slot in client.stuck(STUCK) {
                client.close(slot);
                desk.settle(&mut client, slot, Outcome::Failed(Failure::TimedOut));
            }
        }
    }
}

struct Desk {
    seen: Vec<Seen>,
    /// Due, sent, stream.
    under_way: Vec<Option<(u64, u64, usize)>>,
    free: Vec<VecDeque<usize>>,
    waiting: Vec<VecDeque<(u64, usize)>>,
    begin: u64,
    outstanding: usize,
}

impl Desk {
    fn now(&self) -> u64 {
        sys::now_ns() - self.begin
    }

    fn send(&mut self, client: &mut Client, slot: usize, due_ns: u64, stream: usize, head: &[u8]) {
        self.under_way[slot] = Some((due_ns, self.now(), stream));
        self.outstanding += 1;
        let opened = match client.is_open(slot) {
            true => Ok(()),
            false => client.open(slot),
        };
        if let Err(failure) = opened.and_then(|()| client.ask(slot, head, 0)) {
            client.close(slot);
            self.settle(client, slot, Outcome::Failed(failure));
        }
    }

    fn settle(&mut self, client: &mut Client, slot: usize, outcome: Outcome) {
        let (status, has_retry_after) = match outcome {
            Outcome::Pending | Outcome::ClosedIdle => return,
            Outcome::Answer(answer) => {
                if !answer.keep_alive {
                    client.close(slot);
                }
                (Ok(answer.status), answer.has_retry_after)
            }
            Outcome::Failed(failure) => (Err(failure), false),
        };
        let Some((due_ns, sent_ns, stream)) = self.under_way[slot].take() else {
            return;
        };
        let gateway = slot / SLOTS_EACH;
        self.seen.push(Seen {
            stream,
            gateway,
            due_ns,
            sent_ns,
            answered_ns: self.now(),
            status,
            has_retry_after,
        });
        self.outstanding -= 1;
        self.free[gateway].push_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc, thread};

    use super::*;
    use crate::{client::Request, origin};

    fn stream(rate: f64, seconds: f64, weights: &[f64]) -> Stream {
        Stream {
            phases: vec![Phase { seconds, rate }],
            spacing: Spacing::Paced,
            weights: weights.to_vec(),
        }
    }

    #[test]
    fn a_schedule_has_its_rate_and_its_shares() {
        let mut two = stream(100.0, 10.0, &[90.0, 5.0, 5.0]);
        two.phases.push(Phase {
            seconds: 10.0,
            rate: 10.0,
        });
        let schedule = two.schedule(1);
        assert_eq!(schedule.len(), 1100);
        let first = schedule.iter().filter(|(_, gateway)| *gateway == 0).count();
        assert!((940..1040).contains(&first), "{first}");
        let late = schedule.iter().filter(|(at, _)| *at >= 10_000_000_000);
        assert!((99..=101).contains(&late.count()));
        let in_turn = stream(99.0, 1.0, &[1.0, 1.0, 1.0]).schedule(1);
        let counts = [0, 1, 2].map(|g| in_turn.iter().filter(|(_, to)| *to == g).count());
        assert_eq!(counts, [33, 33, 33]);
    }

    #[test]
    fn every_request_is_written_down_with_its_stream_and_gateway() {
        let stop = Arc::new(AtomicBool::new(false));
        let (targets, threads): (Vec<_>, Vec<_>) = (0..2)
            .map(|_| {
                let bound = (Ipv4Addr::LOCALHOST, 0).into();
                let origin = origin::Origin::bind(bound, origin::Options::default()).unwrap();
                let target = origin.address().unwrap();
                let seen = stop.clone();
                (target, thread::spawn(move || origin.run(&seen)))
            })
            .unzip();
        let streams = [
            stream(200.0, 0.5, &[1.0, 1.0]),
            stream(100.0, 0.5, &[1.0, 0.0]),
        ];
        let head = Request::get(targets[0], "/").encode();
        let never = AtomicBool::new(false);
        let seen = drive(&targets, &streams, 1, &never, |_, _, out| {
            out.extend_from_slice(&head);
        })
        .unwrap();
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
        assert_eq!(seen.len(), 150);
        assert!(seen.iter().all(|s| s.status == Ok(200)));
        assert!(
            seen.iter()
                .all(|s| s.due_ns <= s.sent_ns && s.sent_ns <= s.answered_ns)
        );
        let of = |stream, gateway| {
            let is_it = |s: &&Seen| s.stream == stream && s.gateway == gateway;
            seen.iter().filter(is_it).count()
        };
        assert_eq!([of(0, 0), of(0, 1), of(1, 0), of(1, 1)], [50, 50, 50, 0]);
    }
}
