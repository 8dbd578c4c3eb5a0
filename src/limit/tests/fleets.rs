//! Fleets that share one limit, simulated event by event: arrivals at random, a round trip of one
//! millisecond to a store that runs the scripts' state machines.
//!
//! `SLOW_TESTS=1` runs the whole grid for 30 windows each.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::{super::rate::RatePlan, fake::Fake, *};
use crate::storage::{Eval, ScriptReply, StoreError};

const RTT_US: u64 = 1_000;
const START_US: u64 = 1_700_000_000_000_000;

struct Node {
    cells: Arc<Cells>,
    cell: Arc<RateCell>,
    work: tokio::sync::mpsc::Receiver<Work>,
    under_way: VecDeque<Question>,
    asking: u64,
}

struct Question {
    plan: RatePlan,
    evals: Vec<Eval>,
    replies: Vec<Result<ScriptReply, StoreError>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    AtStore(usize),
    Back(usize),
}

/// What is offered to whom.
#[derive(Clone, Copy)]
struct Offer<'a> {
    nodes: u32,
    rate: f64,
    per_s: f64,
    /// The nodes' parts of the traffic.
    parts: &'a [f64],
    /// Multiples of the limit, from when on (ms).
    demand: &'a [(u64, f64)],
    windows: u64,
    is_paced: bool,
}

struct Outcome {
    /// Times in microseconds from the start.
    arrivals: Vec<u64>,
    admitted: Vec<u64>,
    denied: Vec<u64>,
    evals: usize,
}

impl Outcome {
    /// The most that was admitted within any `per`.
    fn window_max(&self, per_us: u64) -> u64 {
        let mut from = 0;
        let mut max = 0;
        for (to, at) in self.admitted.iter().enumerate() {
            while self.admitted[from] + per_us <= *at {
                from += 1;
            }
            max = max.max(to - from + 1);
        }
        max as u64
    }

    /// What an exact log that does not count refused requests admits of the same arrivals.
    fn oracle(&self, rate: u64, per_us: u64) -> u64 {
        let mut window = VecDeque::new();
        let mut admitted = 0;
        for &at in &self.arrivals {
            while window.front().is_some_and(|&first| first + per_us <= at) {
                window.pop_front();
            }
            if (window.len() as u64) < rate {
                window.push_back(at);
                admitted += 1;
            }
        }
        admitted
    }
}

fn run(offer: &Offer<'_>, seed: u64) -> Outcome {
    let store = Fake::at(START_US);
    let mut nodes: Vec<_> = (0..offer.nodes)
        .map(|_| {
            let (cells, work) = node(shared(), offer.nodes);
            let cell = cells
                .rate("rate-limit-x", "", &rate(offer.rate, offer.per_s))
                .unwrap();
            Node {
                cells,
                cell,
                work,
                under_way: VecDeque::new(),
                asking: 0,
            }
        })
        .collect();
    let mut random = Random(seed | 1);
    let end_us = (offer.windows as f64 * offer.per_s * 1e6) as u64;
    let mut events = BinaryHeap::from([Reverse((0, Event::Arrival))]);
    let mut outcome = Outcome {
        arrivals: Vec::new(),
        admitted: Vec::new(),
        denied: Vec::new(),
        evals: 0,
    };
    while let Some(Reverse((now_us, event))) = events.pop() {
        store
            .now_us
            .store(START_US + now_us, std::sync::atomic::Ordering::SeqCst);
        let now_ms = now_us / 1_000;
        match event {
            Event::Arrival if now_us >= end_us => {}
            Event::Arrival => {
                let demand = offer.demand.iter().rfind(|(from_ms, _)| now_ms >= *from_ms);
                let per_us = demand.unwrap().1 * offer.rate / offer.per_s / 1e6;
                let gap = if offer.is_paced {
                    1.0
                } else {
                    -(1.0 - random.unit()).ln()
                };
                let next_us = now_us + ((gap / per_us) as u64).max(1);
                events.push(Reverse((next_us, Event::Arrival)));
                let mut part = random.unit() * offer.parts.iter().sum::<f64>();
                let mut to = 0;
                while to + 1 < offer.parts.len() && part >= offer.parts[to] {
                    part -= offer.parts[to];
                    to += 1;
                }
                let node = &mut nodes[to];
                outcome.arrivals.push(now_us);
                match node.cell.take(now_ms) {
                    Taken::Admitted => outcome.admitted.push(now_us),
                    Taken::Denied { .. } => outcome.denied.push(now_us),
                    Taken::Ask => node.asking += 1,
                }
                let has_work = node.work.try_recv().is_ok();
                if node.asking > 0 || has_work {
                    let mut evals = Vec::new();
                    let plan = node.cell.plan(node.asking, now_ms, 0, &mut evals);
                    node.asking = 0;
                    node.under_way.push_back(Question {
                        plan: plan.unwrap(),
                        evals,
                        replies: Vec::new(),
                    });
                    events.push(Reverse((now_us + RTT_US / 2, Event::AtStore(to))));
                }
            }
            Event::AtStore(to) => {
                let node = &mut nodes[to];
                let question = node
                    .under_way
                    .iter_mut()
                    .find(|question| question.replies.is_empty())
                    .unwrap();
                let replies = question.evals.iter().map(|eval| Ok(store.eval(eval)));
                question.replies = replies.collect();
                outcome.evals += 1;
                events.push(Reverse((now_us + RTT_US / 2, Event::Back(to))));
            }
            Event::Back(to) => {
                let node = &mut nodes[to];
                let question = node.under_way.pop_front().unwrap();
                node.cells.outlook().answered(RTT_US as u32);
                let settled = node.cell.settle(&question.plan, &question.replies).unwrap();
                for number in 0..question.plan.asks {
                    if number < settled.admitted {
                        outcome.admitted.push(now_us);
                    } else {
                        outcome.denied.push(now_us);
                    }
                }
            }
        }
    }
    outcome.admitted.sort_unstable();
    outcome.denied.sort_unstable();
    outcome
}

fn is_slow() -> bool {
    #[allow(clippy::disallowed_methods, reason = "how slow tests are asked for")]
    std::env::var("SLOW_TESTS").is_ok_and(|value| value == "1")
}

fn parts(skew: &str, nodes: u32) -> Vec<f64> {
    (0..nodes)
        .map(|n| match (skew, n) {
            ("uniform", _) => 1.0,
            ("zipf", n) => 1.0 / f64::from(n + 1),
            ("one node", 0) => 1.0,
            ("one node", _) => 0.0,
            ("90/5/5", 0) => 0.9,
            ("90/5/5", _) => 0.1 / f64::from(nodes - 1),
            _ => panic!("{skew}"),
        })
        .collect()
}

/// `window_max` in parts of the limit, `total_min` in parts of what the oracle admits.
#[track_caller]
fn check(nodes: u32, limit: (f64, f64), skew: &str, demand: f64, window_max: f64, total_min: f64) {
    let (limit, per_s) = limit;
    let offer = Offer {
        nodes,
        rate: limit,
        per_s,
        parts: &parts(skew, nodes),
        demand: &[(0, demand)],
        windows: if is_slow() { 30 } else { 6 },
        is_paced: false,
    };
    let outcome = run(&offer, 42 + u64::from(nodes));
    let per_us = (per_s * 1e6) as u64;
    let window = outcome.window_max(per_us) as f64 / limit;
    let oracle = outcome.oracle(limit as u64, per_us);
    let total = outcome.admitted.len() as f64 / oracle as f64;
    let evals = outcome.evals as f64 / outcome.arrivals.len() as f64;
    println!(
        "N={nodes} R={limit}/{per_s}s {skew} demand {demand}: window {window:.3}, total \
         {total:.3}, store {evals:.3} per request"
    );
    assert!(window <= window_max, "window {window}");
    assert!(total >= total_min, "total {total}");
}

#[test]
fn leases_keep_every_window_within_seven_percent_and_hand_out_the_limit() {
    let (fleets, demands): (&[u32], &[f64]) = if is_slow() {
        (&[2, 3, 4, 16], &[0.8, 1.5, 5.0])
    } else {
        (&[2, 4, 16], &[0.8, 1.5, 5.0])
    };
    for &nodes in fleets {
        for &demand in demands {
            check(nodes, (1000.0, 1.0), "uniform", demand, 1.07, 0.97);
        }
        let skews: &[&str] = if is_slow() {
            &["zipf", "one node", "90/5/5"]
        } else {
            &["zipf", "one node"]
        };
        for skew in skews {
            for &demand in if is_slow() { demands } else { &[1.5] } {
                check(nodes, (1000.0, 1.0), skew, demand, 1.07, 0.97);
            }
        }
    }
    check(2, (100.0, 1.0), "uniform", 1.5, 1.07, 0.97);
    check(2, (100.0, 1.0), "90/5/5", 5.0, 1.07, 0.97);
    check(3, (3000.0, 10.0), "90/5/5", 1.5, 1.07, 0.97);
}

#[test]
fn the_exact_log_admits_what_one_log_would() {
    // In flight: what is decided in the store while requests travel back.
    check(2, (3.0, 1.0), "uniform", 5.0, 1.0, 0.97);
    check(3, (50.0, 1.0), "uniform", 0.8, 1.02, 0.97);
    check(3, (50.0, 1.0), "90/5/5", 10.0, 1.02, 0.97);
    check(16, (50.0, 1.0), "uniform", 1.5, 1.02, 0.97);
    check(16, (100.0, 1.0), "zipf", 5.0, 1.02, 0.97);
    check(3, (1000.0, 60.0), "90/5/5", 1.5, 1.02, 0.97);
}

/// Floods a limit for three windows, then offers less than it: how long requests are refused then.
#[track_caller]
fn check_recovery(nodes: u32, limit: f64, per_s: f64) {
    let per_ms = (per_s * 1e3) as u64;
    let calm_ms = 3 * per_ms;
    let offer = Offer {
        nodes,
        rate: limit,
        per_s,
        parts: &parts("zipf", nodes),
        demand: &[(0, 10.0), (calm_ms, 0.8)],
        windows: 8,
        is_paced: true,
    };
    let outcome = run(&offer, 7);
    let last = outcome.denied.last().copied().unwrap_or(0) / 1_000;
    println!("N={nodes} R={limit}/{per_s}s: refused until {last}, calm from {calm_ms}");
    assert!(last <= calm_ms + per_ms + 100, "{last}");
}

#[test]
fn nobody_is_refused_for_longer_than_a_window_after_a_flood() {
    check_recovery(1, 50.0, 1.0);
    check_recovery(2, 3.0, 1.0);
    check_recovery(3, 50.0, 1.0);
    check_recovery(3, 1000.0, 1.0);
    check_recovery(4, 2000.0, 2.0);
    check_recovery(16, 1000.0, 1.0);
}

#[test]
fn a_low_limit_on_many_nodes_is_never_nothing() {
    let offer = Offer {
        nodes: 16,
        rate: 3.0,
        per_s: 1.0,
        parts: &parts("uniform", 16),
        demand: &[(0, 2.0)],
        windows: 20,
        is_paced: true,
    };
    let outcome = run(&offer, 3);
    for window in 0..19 {
        let span = window * 1_000_000..(window + 2) * 1_000_000;
        let count = outcome
            .admitted
            .iter()
            .filter(|at| span.contains(*at))
            .count();
        assert!(count >= 3, "window {window}: {count}");
    }
}
