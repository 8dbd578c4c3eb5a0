//! Steady load whose every request has an id, so that loss and duplication show at the origin.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Client, End, Origin};

/// Threads that ask for `<path>?id=<n>` until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// Finished requests, by worker.
    done: Arc<[AtomicU64]>,
    workers: Vec<JoinHandle<Report>>,
}

/// What the clients saw.
#[derive(Default)]
pub struct Report {
    /// Ids answered with 200 and a whole body.
    pub answered: Vec<u64>,
    /// One line for each request that was not.
    pub failed: Vec<String>,
    /// The longest time that one of them took.
    pub slowest: Duration,
}

impl Load {
    /// `keep_alive`: each worker keeps its connection as long as the gateway lets it; otherwise
    /// each request has a connection of its own.
    pub fn start(port: u16, path: &str, workers: u64, keep_alive: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done: Arc<[AtomicU64]> = (0..workers).map(|_| AtomicU64::new(0)).collect();
        let workers = (0..workers)
            .map(|worker| {
                let (stop, done, path) = (Arc::clone(&stop), Arc::clone(&done), path.to_owned());
                thread::spawn(move || {
                    let mut report = Report::default();
                    let mut client = None;
                    let mut number = 0;
                    while !stop.load(Ordering::Relaxed) && report.failed.len() < 20 {
                        let id = worker << 32 | number;
                        number += 1;
                        let asked = Instant::now();
                        ask(port, &path, id, keep_alive, &mut client, &mut report);
                        report.slowest = report.slowest.max(asked.elapsed());
                        done[worker as usize].fetch_add(1, Ordering::Relaxed);
                    }
                    report
                })
            })
            .collect();
        Self {
            stop,
            done,
            workers,
        }
    }

    /// How many requests have been finished so far.
    pub fn done(&self) -> u64 {
        self.done
            .iter()
            .map(|done| done.load(Ordering::Relaxed))
            .sum()
    }

    /// Returns when `count` more requests have been finished and every worker has begun, or after
    /// the patience.
    #[track_caller]
    pub fn run_for(&self, count: u64) {
        let from = self.done();
        super::eventually("the load goes on", || {
            let have_begun = self
                .done
                .iter()
                .all(|done| done.load(Ordering::Relaxed) > 0);
            (have_begun && self.done() >= from + count).then_some(())
        });
    }

    pub fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Report::default();
        for worker in self.workers {
            let report = worker.join().expect("a load thread does not panic");
            all.answered.extend(report.answered);
            all.failed.extend(report.failed);
            all.slowest = all.slowest.max(report.slowest);
        }
        all
    }
}

impl Report {
    /// 0 failed requests; every answered id came to the origin exactly once, and no other did.
    #[track_caller]
    pub fn assert_flawless(&self, origin: &Origin) {
        assert!(
            self.failed.is_empty(),
            "{} of {} requests failed:\n{}",
            self.failed.len(),
            self.failed.len() + self.answered.len(),
            self.failed.join("\n")
        );
        assert!(!self.answered.is_empty(), "the load did nothing");
        let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
        for req in origin.requests() {
            if let Some((_, id)) = req.target.split_once("?id=") {
                *seen.entry(id.parse().expect("an id")).or_default() += 1;
            }
        }
        for id in &self.answered {
            let times = seen.remove(id).unwrap_or(0);
            assert_eq!(times, 1, "request {id} came to the origin {times} times");
        }
        assert!(
            seen.is_empty(),
            "the origin saw requests nobody got an answer to: {seen:?}"
        );
        assert!(origin.violations().is_empty(), "{:?}", origin.violations());
    }
}

fn ask(
    port: u16,
    path: &str,
    id: u64,
    keep_alive: bool,
    client: &mut Option<Client>,
    report: &mut Report,
) {
    let connection = match client.take() {
        Some(kept) => kept,
        None => match Client::try_connect(port) {
            Ok(new) => new,
            Err(e) => return report.failed.push(format!("{id}: connect: {e}")),
        },
    };
    let mut connection = connection;
    let close = if keep_alive {
        ""
    } else {
        "Connection: close\r\n"
    };
    connection.send(format!("GET {path}?id={id} HTTP/1.1\r\nHost: a\r\n{close}\r\n").as_bytes());
    let answer = connection.read("GET");
    if answer.status != 200 || answer.end != End::Complete {
        return report.failed.push(format!("{id}: {}", answer.summary()));
    }
    report.answered.push(id);
    let closing = answer
        .field("connection")
        .is_some_and(|v| v.eq_ignore_ascii_case("close"));
    if keep_alive && !closing {
        *client = Some(connection);
    }
}
