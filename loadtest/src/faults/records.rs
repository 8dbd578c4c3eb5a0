//! D5: records of every request, and nobody who takes them away.
//!
//! The list may not outgrow its life time, Redis may not outgrow its memory, requests may not notice.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    arrivals::{self, Clock, Phase, Seen, Spacing, Stream},
    faults::Plan,
    fleet,
    histogram::Histogram,
    peer::Bench,
    redis::Redis,
    site::{self, Checks, Site, Store, start_redis},
};

pub fn run(plan: &Plan, bench: &Bench) -> io::Result<bool> {
    let seconds = plan.seconds.unwrap_or(if plan.long { 600.0 } else { 10.0 });
    let rate = plan.rate.unwrap_or(5000.0);
    // Tyk's life of a list is 60 s; the short form has to see it end.
    let life_s = if plan.long { 60 } else { 3 };
    let (redis, _folder) = start_redis(bench, &[])?;
    let conf = json!({
        "enable_analytics": true,
        "analytics_config": {"storage_expiration_time": life_s},
    });
    let apis = [json!({"use_keyless": true})];
    let site = Site::start(bench, 1, &conf, &apis, &Store::Redis(redis.address))?;
    let mut connection = redis.connect()?;
    let memory_before = connection.info("used_memory")?;
    let watch = Watch::start(redis.connect()?);
    let gateway = &site.gateways[0];
    let head = site::head(gateway.address(), &gateway.prepared.base_path, "");
    let stream = Stream {
        phases: vec![Phase { seconds, rate }],
        spacing: Spacing::Poisson,
        weights: vec![1.0],
    };
    let clock = Clock::default();
    let seen = arrivals::drive(&site.addresses(), &[stream], 1, &clock, |_, _, out| {
        out.extend_from_slice(&head);
    })?;
    let watched = watch.end()?;
    let dropped = gateway.metric("penstock_analytics_records_dropped_total")?;
    let mut checks = Checks::default();
    let wrong = seen.iter().filter(|s| !s.is_admitted()).count();
    checks.check(
        wrong == 0,
        format!("{wrong} wrong or failed of {} requests", seen.len()),
    );
    let bound = (rate * f64::from(life_s + 2)) as i64;
    println!(
        "longest list {} records, most memory {:.1} MB above the start, lists ended {} times",
        watched.longest,
        watched.memory.saturating_sub(memory_before) as f64 / 1e6,
        watched.ends
    );
    checks.check(
        watched.longest > 0 && watched.longest <= bound,
        format!(
            "the list has {} records at most, bound {bound}",
            watched.longest
        ),
    );
    checks.check(
        seconds < 2.0 * f64::from(life_s) || watched.ends > 0,
        format!("the list ended {} times in {seconds} s", watched.ends),
    );
    // Records of such requests have some 700 bytes; Redis keeps them in nodes of 8 KiB.
    let memory_bound = bound as u64 * 1500 + (32 << 20);
    checks.check(
        watched.memory.saturating_sub(memory_before) <= memory_bound,
        format!(
            "Redis grew by less than {:.0} MB",
            memory_bound as f64 / 1e6
        ),
    );
    let third = |nth: f64| {
        let mut waits = Histogram::default();
        let (from, to) = (nth / 3.0 * seconds * 1e9, (nth + 1.0) / 3.0 * seconds * 1e9);
        let inside = |s: &&Seen| (from..to).contains(&(s.due_ns as f64));
        for one in seen.iter().filter(inside) {
            waits.record(one.answered_ns - one.due_ns);
        }
        (
            waits.quantile(0.5) as f64 / 1e6,
            waits.quantile(0.99) as f64 / 1e6,
        )
    };
    let (first, last) = (third(0.0), third(2.0));
    checks.check(
        last.1 <= 2.0 * first.1 + plan.slack_ms as f64,
        format!("p50 and p99 in ms: {first:.2?} in the first third, {last:.2?} in the last"),
    );
    checks.check(
        dropped.is_some(),
        format!("/metrics counts records that were dropped: {dropped:?}"),
    );
    Ok(checks.print("D5"))
}

/// Looks at the lists and at Redis' memory every 50 ms.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<io::Result<Watched>>,
}

#[derive(Default)]
struct Watched {
    longest: i64,
    memory: u64,
    /// How often the lists were shorter than before: expired or cut.
    ends: u32,
}

impl Watch {
    fn start(mut redis: Redis) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = thread::spawn(move || {
            let names = fleet::record_lists();
            let (mut watched, mut last) = (Watched::default(), 0);
            while !seen.load(Ordering::Relaxed) {
                let next = Instant::now() + Duration::from_millis(50);
                let lengths = names
                    .iter()
                    .map(|name| redis.number(&["LLEN", name]))
                    .collect::<io::Result<Vec<_>>>()?;
                let length = lengths.iter().sum();
                watched.longest = watched.longest.max(length);
                watched.memory = watched.memory.max(redis.info("used_memory")?);
                watched.ends += u32::from(length < last);
                last = length;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(watched)
        });
        Self { stop, thread }
    }

    fn end(self) -> io::Result<Watched> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        ended.map_err(|_| io::Error::other("the watching thread failed"))?
    }
}
