//! D1 and D2: something is done to Redis while requests with known keys, unknown keys and no keys go on.
//!
//! Known keys have a rate limit and a quota that are never reached, so each request counts. They are in the gateway's
//! cache when the fault begins and must go on; unknown keys must never pass; requests without a key must not notice.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    arrivals::{self, Clock, Phase, Seen, Spacing, Stream},
    fault_proxy::{FaultProxy, Mode},
    faults::{Part, Plan},
    histogram::Histogram,
    keys::{self, Keys},
    peer::{Bench, Folder, Running},
    probe,
    redis::{Redis, Server},
    site::{self, Checks, Site, Store, create_key, is_stored, start_redis},
    sys::{self, ChildSetup},
};

/// Keys in the gateway's cache.
const KNOWN: u32 = 50;
/// Seconds before a fault and behind it.
const BEFORE_S: f64 = 2.5;
const AFTER_S: f64 = 3.5;
/// What a request may wait for a session that is not cached.
const SESSION_DEADLINE_MS: u64 = 100;
/// How long a session counts without being read again, as in Tyk, less what passes until the traffic begins.
const CACHED: Duration = Duration::from_millis(9_000);
/// What it may take until unknown keys are asked from the store again.
const RECOVERY: Duration = Duration::from_secs(1);
/// What the master's end may take: noticed after one second, elected, told, connected.
const FAILOVER: Duration = Duration::from_secs(8);

/// The streams of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Known,
    Keyless,
    Unknown,
}

const CLASSES: [Class; 3] = [Class::Known, Class::Keyless, Class::Unknown];

/// One fault in front of one gateway.
pub fn run(plan: &Plan, part: Part, bench: &Bench) -> io::Result<bool> {
    let mut faulty = Faulty::start(part, bench)?;
    let usual = match part {
        // The fault is the time until another master is found.
        Part::Sentinel => 7.0,
        _ if plan.long => 30.0,
        _ => 3.0,
    };
    let seconds = plan.seconds.unwrap_or(usual);
    let store = Store::Redis(faulty.proxy.address);
    let mut conf = json!({
        // Nanoseconds, as in Go: what /hello says is at most a second old.
        "liveness_check": {"check_duration": 1_000_000_000},
    });
    if plan.stale {
        crate::peer::merge(
            &mut conf,
            &json!({"penstock": {"when_store_is_away": {"*": "stale"}}}),
        );
    }
    crate::peer::merge(&mut conf, &faulty.conf);
    let apis = [site::keyed_api(), json!({"use_keyless": true})];
    let site = Site::start(bench, 1, &conf, &apis, &store)?;
    let names: Vec<String> = (0..KNOWN).map(keys::name).collect();
    let session = Keys {
        rate: 1e6,
        per: 1.0,
        quota: 1_000_000_000,
        ..Keys::unlimited(1)
    }
    .session(2);
    keys::write(&mut faulty.redis()?, &names, &session)?;
    // Each shard has each key before anything is done.
    for name in names.iter().cycle().take(names.len() * 4) {
        let answer = site.gateways[0].ask(name)?;
        if answer.status != 200 {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            return Err(io::Error::other(format!(
                "{name}: {} {body}",
                answer.status
            )));
        }
    }
    let rate = plan.rate.unwrap_or(2000.0);
    let clock = Clock::default();
    let (seen, acted) = thread::scope(|scope| {
        let offering = scope.spawn(|| offer(&site, rate, seconds, &clock));
        let acted = act(&mut faulty, &site, part, seconds, &session, &clock);
        if acted.is_err() {
            clock.stop();
        }
        (offering.join(), acted)
    });
    let acted = acted?;
    let seen = seen.map_err(|_| io::Error::other("the traffic thread failed"))??;
    if let Ok(calls) = faulty.redis().and_then(|mut redis| redis.calls()) {
        println!("Redis was asked: {calls}");
    }
    let mut checks = Checks::default();
    judge(plan, part, &acted, &seen, &mut checks);
    judge_writes(&mut faulty, part, &acted, &mut checks)?;
    Ok(checks.print(&format!("{part:?}")))
}

fn offer(site: &Site, rate: f64, seconds: f64, clock: &Clock) -> io::Result<Vec<Seen>> {
    let shares = [0.7, 0.2, 0.1];
    let streams = shares.map(|share| Stream {
        phases: vec![Phase {
            seconds: BEFORE_S + seconds + AFTER_S,
            rate: rate * share,
        }],
        spacing: Spacing::Poisson,
        weights: vec![1.0],
    });
    let gateway = &site.gateways[0];
    let (keyed, keyless) = (
        gateway.prepared.listen_path(0),
        gateway.prepared.listen_path(1),
    );
    let mut count = 0u32;
    arrivals::drive(&site.addresses(), &streams, 1, clock, |stream, _, out| {
        count = count.wrapping_add(1);
        let head = match CLASSES[stream] {
            Class::Known => site::head(gateway.address(), &keyed, &keys::name(count % KNOWN)),
            Class::Keyless => site::head(gateway.address(), &keyless, ""),
            // Never the same twice, so that nothing is cached about it.
            Class::Unknown => {
                site::head(gateway.address(), &keyed, &format!("loadnone-{count:08}"))
            }
        };
        out.extend_from_slice(&head);
    })
}

/// What was done and seen besides the requests.
struct Acted {
    from: Duration,
    to: Duration,
    /// Names of keys whose creation was answered, with the status and the moment.
    writes: Vec<(String, u16, Duration)>,
    hello_during: String,
    hello_after: String,
    connections_during: u64,
    connections_after: u64,
}

/// Lets the fault come and go; creates a key now and then all along.
fn act(
    faulty: &mut Faulty,
    site: &Site,
    part: Part,
    seconds: f64,
    session: &Value,
    clock: &Clock,
) -> io::Result<Acted> {
    clock.await_begin();
    let gateway = &site.gateways[0];
    let count = AtomicU64::new(0);
    let mut writes = Vec::new();
    let write_until = |writes: &mut Vec<_>, until: Duration| {
        while clock.elapsed() < until {
            let name = format!("loadnew-{:06}", count.fetch_add(1, Ordering::Relaxed));
            let status = create_key(gateway, &name, session).unwrap_or(0);
            writes.push((name, status, clock.elapsed()));
            let next = clock.elapsed() + Duration::from_millis(100);
            thread::sleep(next.min(until).saturating_sub(clock.elapsed()));
        }
    };
    write_until(&mut writes, Duration::from_secs_f64(BEFORE_S));
    let connections = faulty.proxy.accepted();
    // Some faults take a moment to bring about.
    let from = clock.elapsed();
    faulty.begin(part, seconds)?;
    let end = clock.elapsed() + Duration::from_secs_f64(seconds);
    write_until(&mut writes, end.saturating_sub(Duration::from_millis(200)));
    let hello_during = store_status(site);
    thread::sleep(end.saturating_sub(clock.elapsed()));
    let connections_during = faulty.proxy.accepted() - connections;
    faulty.end(part)?;
    let to = clock.elapsed();
    write_until(&mut writes, to + Duration::from_secs_f64(AFTER_S - 0.5));
    Ok(Acted {
        from,
        to,
        writes,
        hello_during,
        hello_after: store_status(site),
        connections_during,
        connections_after: faulty.proxy.accepted() - connections - connections_during,
    })
}

/// What `/hello` says about the store.
fn store_status(site: &Site) -> String {
    let answer = probe::get(
        site.gateways[0].address(),
        "/hello",
        &[],
        Duration::from_secs(5),
    );
    let body: Option<Value> = answer
        .ok()
        .and_then(|answer| serde_json::from_slice(&answer.body).ok());
    let status = body.as_ref().map(|b| &b["details"]["redis"]["status"]);
    status
        .and_then(Value::as_str)
        .unwrap_or("nothing")
        .to_owned()
}

/// Statuses of one class within a stretch, with the longest waits.
struct Stretch {
    statuses: BTreeMap<String, u64>,
    /// First and last answer of each status, in seconds from the begin.
    moments: BTreeMap<String, (f64, f64)>,
    waits: Histogram,
    without_retry_after: u64,
}

fn stretch(seen: &[Seen], class: Class, from: Duration, to: Duration) -> Stretch {
    let mut stretch = Stretch {
        statuses: BTreeMap::new(),
        moments: BTreeMap::new(),
        waits: Histogram::default(),
        without_retry_after: 0,
    };
    let inside = |s: &&Seen| {
        let sent = Duration::from_nanos(s.sent_ns);
        CLASSES[s.stream] == class && sent >= from && sent < to
    };
    for one in seen.iter().filter(inside) {
        let name = match one.status {
            Ok(status) => status.to_string(),
            Err(failure) => format!("{failure:?}"),
        };
        let at = one.answered_ns as f64 / 1e9;
        let span = stretch.moments.entry(name.clone()).or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
        *stretch.statuses.entry(name).or_default() += 1;
        stretch.waits.record(one.answered_ns - one.sent_ns);
        let lacks = one.status == Ok(503) && !one.has_retry_after;
        stretch.without_retry_after += u64::from(lacks);
    }
    stretch
}

impl Stretch {
    fn others_than(&self, right: &[&str]) -> u64 {
        let wrong = self.statuses.iter();
        wrong
            .filter(|(status, _)| !right.contains(&status.as_str()))
            .map(|(_, count)| count)
            .sum()
    }

    /// Statuses with their numbers, and when they came.
    fn shown(&self) -> String {
        let each = self.statuses.iter().map(|(status, count)| {
            let (from, to) = self.moments[status];
            format!("{count} × {status} at {from:.2}–{to:.2} s")
        });
        each.collect::<Vec<_>>().join(", ")
    }

    fn wait_ms(&self, share: f64) -> f64 {
        self.waits.quantile(share) as f64 / 1e6
    }
}

/// Whether reads still work during the fault.
fn is_write_only(part: Part) -> bool {
    matches!(
        part,
        Part::Calm | Part::Readonly | Part::Oom | Part::Misconf
    )
}

fn judge(plan: &Plan, part: Part, acted: &Acted, seen: &[Seen], checks: &mut Checks) {
    let Acted { from, to, .. } = *acted;
    let all = Duration::from_secs(3600);
    let (recovery, grace) = match part {
        Part::Sentinel => (FAILOVER, FAILOVER),
        _ => (RECOVERY, RECOVERY),
    };
    // A sentinel's fault has no end of its own: the old master does not come back.
    let healed_from = if part == Part::Sentinel { from } else { to };
    println!(
        "{part:?} from {:.2} to {:.2} s",
        from.as_secs_f64(),
        to.as_secs_f64()
    );
    let settled = healed_from + grace;
    for (when, from, to) in [
        ("before", Duration::ZERO, from),
        ("during", from, to),
        ("after", to, all),
    ] {
        for class in CLASSES {
            let s = stretch(seen, class, from, to);
            println!(
                "{when:<7}{:<8} {}; p50 {:.1} p99.9 {:.1} max {:.1} ms",
                format!("{class:?}"),
                s.shown(),
                s.wait_ms(0.5),
                s.wait_ms(0.999),
                s.wait_ms(1.0)
            );
        }
    }
    // Requests without a key have nothing to do with the store: what they wait is the machine's.
    let keyless = stretch(seen, Class::Keyless, from, to);
    let calm = stretch(seen, Class::Keyless, Duration::ZERO, from);
    let slack = plan.slack_ms as f64;
    let noise = keyless.wait_ms(0.999) + slack;
    let keyless_wrong = stretch(seen, Class::Keyless, Duration::ZERO, all).others_than(&["200"]);
    checks.check(
        keyless_wrong == 0,
        format!("Keyless: {keyless_wrong} answers other than 200 all along"),
    );
    // What is cached goes on for its time; then it is as good as unknown, unless the API goes on with it.
    let outlives = is_write_only(part) || plan.stale || settled <= CACHED;
    let stretches: &[(Duration, Duration)] = match outlives {
        true => &[(Duration::ZERO, all)],
        false => &[(Duration::ZERO, from.max(CACHED)), (settled, all)],
    };
    for (begin, end) in stretches {
        let known = stretch(seen, Class::Known, *begin, *end);
        checks.check(
            known.others_than(&["200"]) == 0,
            format!(
                "Known: {:?} while cached, or the store there",
                known.statuses
            ),
        );
    }
    let known = stretch(seen, Class::Known, Duration::ZERO, all);
    checks.check(
        known.others_than(&["200", "503"]) == 0 && known.without_retry_after == 0,
        format!(
            "Known: {:?} in all, 503 without Retry-After: {}",
            known.statuses, known.without_retry_after
        ),
    );
    let (p50, limit) = (keyless.wait_ms(0.5), calm.wait_ms(0.5) + slack);
    checks.check(
        p50 <= limit,
        format!("Keyless: p50 {p50:.1} ms during the fault, at most {limit:.1}"),
    );
    // Counters wait 5 ms at most, and not at all once the store counts as away. A session that is
    // not cached any more waits as that of an unknown key does.
    let cached_until = match outlives {
        true => to,
        false => CACHED.clamp(from, to),
    };
    let session_limit = SESSION_DEADLINE_MS as f64 + noise;
    let cached_limit = match part {
        // Messages may have been missed: what is cached is doubtful and asked for once more.
        Part::Late => session_limit,
        _ => 5.0 + noise,
    };
    for (what, begin, end, limit) in [
        ("cached", from, cached_until, cached_limit),
        ("not cached", cached_until, to, session_limit),
    ] {
        let known = stretch(seen, Class::Known, begin, end).wait_ms(0.999);
        checks.check(
            known <= limit,
            format!("Known, {what}: p99.9 {known:.1} ms during the fault, at most {limit:.1}"),
        );
    }
    // What is under way when the fault begins may be caught by it.
    let untouched = from.saturating_sub(Duration::from_millis(2 * SESSION_DEADLINE_MS));
    let before = stretch(seen, Class::Unknown, Duration::ZERO, untouched);
    checks.check(
        before.others_than(&["403"]) == 0,
        format!("unknown keys before: {:?}", before.statuses),
    );
    let during = stretch(seen, Class::Unknown, from, to);
    let right: &[&str] = match is_write_only(part) {
        true => &["403"],
        false => &["403", "503"],
    };
    checks.check(
        during.others_than(right) == 0,
        format!(
            "unknown keys during the fault: {:?}, only {right:?}",
            during.statuses
        ),
    );
    if !is_write_only(part) {
        checks.check(
            during.statuses.contains_key("503"),
            "unknown keys are told that the store is away",
        );
    }
    checks.check(
        during.without_retry_after == 0,
        format!("503 without Retry-After: {}", during.without_retry_after),
    );
    checks.check(
        during.wait_ms(0.999) <= session_limit,
        format!(
            "unknown keys wait {:.1} ms (p99.9) during the fault, at most {session_limit:.1}",
            during.wait_ms(0.999)
        ),
    );
    let asked_again = seen
        .iter()
        .filter(|s| CLASSES[s.stream] == Class::Unknown && s.status == Ok(403))
        .map(|s| Duration::from_nanos(s.answered_ns))
        .filter(|at| {
            *at > healed_from + Duration::from_millis(u64::from(part == Part::Sentinel) * 500)
        })
        .min();
    let took = asked_again.map(|at| at.saturating_sub(healed_from));
    checks.check(
        took.is_some_and(|took| took <= recovery),
        format!("unknown keys are asked from the store again after {took:?}, at most {recovery:?}"),
    );
    let after = stretch(seen, Class::Unknown, settled, all);
    checks.check(
        after.others_than(&["403"]) == 0 && !after.statuses.is_empty(),
        format!("unknown keys afterwards: {:?}", after.statuses),
    );
    let notices = !matches!(part, Part::Sentinel | Part::Calm);
    checks.check(
        !notices || acted.hello_during == "fail",
        format!(
            "/hello says {:?} about the store during the fault",
            acted.hello_during
        ),
    );
    checks.check(
        acted.hello_after == "pass",
        format!("/hello says {:?} afterwards", acted.hello_after),
    );
    if part != Part::Sentinel {
        let seconds = to.saturating_sub(from).as_secs_f64();
        let allowed = (16.0 + 20.0 * seconds) as u64;
        checks.check(
            acted.connections_during <= allowed && acted.connections_after <= 32,
            format!(
                "{} connections to Redis during the fault, at most {allowed}; {} afterwards, at most 32",
                acted.connections_during, acted.connections_after
            ),
        );
    }
}

/// No creation may be answered with success unless the key is there.
fn judge_writes(
    faulty: &mut Faulty,
    part: Part,
    acted: &Acted,
    checks: &mut Checks,
) -> io::Result<()> {
    let mut redis = faulty.redis()?;
    let (mut lost, mut told, mut refused) = (Vec::new(), 0, 0);
    let mut recovered = None;
    for (name, status, at) in &acted.writes {
        let is_during = *at >= acted.from && *at < acted.to;
        if (200..300).contains(status) {
            told += 1;
            // Replication to the later master may lag behind the old one's end.
            let may_lag = part == Part::Sentinel
                && *at < acted.from
                && *at + Duration::from_millis(500) > acted.from;
            if !is_stored(&mut redis, name)? && !may_lag {
                lost.push(name.clone());
            }
            if *at >= acted.from && recovered.is_none() {
                recovered = Some(*at);
            }
        } else {
            refused += u64::from(is_during);
            recovered = None;
        }
    }
    checks.check(
        lost.is_empty(),
        format!(
            "{told} creations were answered with success, {} of them lost {lost:?}",
            lost.len()
        ),
    );
    // Late answers are answers; a write may also wait for the new master.
    let refuses = !matches!(part, Part::Calm | Part::Late | Part::Sentinel);
    checks.check(
        refused > 0 || !refuses,
        format!("{refused} creations were refused during the fault"),
    );
    let since = match part {
        Part::Sentinel => acted.from,
        _ => acted.to,
    };
    let limit = match part {
        Part::Sentinel => FAILOVER,
        _ => RECOVERY + Duration::from_millis(500),
    };
    let took = recovered.map(|at| at.saturating_sub(since));
    checks.check(
        took.is_some_and(|took| took <= limit),
        format!("creations succeed again after {took:?}, at most {limit:?}"),
    );
    Ok(())
}

/// Redis and what is done to it.
struct Faulty {
    proxy: FaultProxy,
    server: Server,
    folder: Folder,
    sentinels: Option<Sentinels>,
    /// Merged into the gateway's configuration.
    conf: Value,
    script: Option<thread::JoinHandle<()>>,
}

impl Faulty {
    fn start(part: Part, bench: &Bench) -> io::Result<Self> {
        let args = [
            "--enable-protected-configs",
            "yes",
            "--busy-reply-threshold",
            "50",
        ];
        let (server, folder) = start_redis(bench, &args)?;
        let proxy = FaultProxy::start(server.address)?;
        let (mut conf, mut sentinels) = (Value::Null, None);
        if part == Part::Sentinel {
            let started = Sentinels::start(bench, &server)?;
            conf = json!({"storage": {
                "addrs": started.addresses, "master_name": "loadmaster", "host": "", "port": 0
            }});
            sentinels = Some(started);
        }
        Ok(Self {
            proxy,
            server,
            folder,
            sentinels,
            conf,
            script: None,
        })
    }

    /// Whoever has the data now, past the proxy.
    fn redis(&self) -> io::Result<Redis> {
        match &self.sentinels {
            Some(sentinels) => sentinels.master(),
            None => self.server.connect(),
        }
    }

    fn begin(&mut self, part: Part, seconds: f64) -> io::Result<()> {
        let config = |server: &Server, name: &str, value: &str| {
            server
                .connect()?
                .call(&["CONFIG", "SET", name, value])
                .map(drop)
        };
        match part {
            Part::Calm => Ok(()),
            Part::Stop => self.server.signal(libc::SIGSTOP),
            Part::Late => {
                self.proxy.set(Mode::Late(Duration::from_millis(500)));
                Ok(())
            }
            Part::Hole => {
                self.proxy.set(Mode::Silent);
                Ok(())
            }
            Part::Reset => {
                self.proxy.set(Mode::Reset);
                Ok(())
            }
            Part::Kill => {
                // What it held comes back with it, as from a Redis that persists.
                self.server.connect()?.call(&["SAVE"])?;
                self.server.kill()
            }
            Part::Readonly => {
                // A replica whose master is not there keeps its data and takes no writes.
                let nobody = sys::free_address()?.port().to_string();
                let mut redis = self.server.connect()?;
                redis.call(&["REPLICAOF", "127.0.0.1", &nobody]).map(drop)
            }
            Part::Oom => config(&self.server, "maxmemory", "1"),
            Part::Busy => {
                let mut redis = self.server.connect()?;
                self.script = Some(thread::spawn(move || {
                    // Ends with the error that it was killed.
                    let _ = redis.call(&["EVAL", "while true do end", "0"]);
                }));
                Ok(())
            }
            Part::Noauth => {
                config(&self.server, "requirepass", "loadtest-password")?;
                let mut redis = self.server.connect()?;
                redis.call(&["AUTH", "loadtest-password"])?;
                for kind in ["normal", "pubsub"] {
                    redis.call(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"])?;
                }
                Ok(())
            }
            Part::Loading => {
                let mut redis = self.server.connect()?;
                let fillers: Vec<String> = (0..20_000).map(|n| format!("filler-{n}")).collect();
                for some in fillers.chunks(1000) {
                    let sets = some
                        .iter()
                        .map(|name| vec![&b"SET"[..], name.as_bytes(), b"x"]);
                    redis.pipeline(sets)?;
                }
                redis.call(&["SAVE"])?;
                self.server.kill()?;
                // 20,000 keys, a third longer than the fault; `end` cuts it short.
                let delay_us = (seconds * 1.33 * 1e6 / 20_000.0).max(150.0) as u64;
                self.server.revive(&[
                    "--key-load-delay",
                    &delay_us.to_string(),
                    "--loading-process-events-interval-bytes",
                    "1024",
                ])
            }
            Part::Misconf => {
                let gone = self.folder.path().join("gone");
                fs::create_dir_all(&gone)?;
                config(&self.server, "dir", &gone.display().to_string())?;
                fs::remove_dir(&gone)?;
                config(&self.server, "save", "3600 1")?;
                let mut redis = self.server.connect()?;
                redis.call(&["BGSAVE"])?;
                let until = Instant::now() + Duration::from_secs(5);
                let told = |redis: &mut Redis| -> io::Result<String> {
                    Ok(redis
                        .call(&["INFO", "persistence"])?
                        .text()
                        .unwrap_or_default())
                };
                while !told(&mut redis)?.contains("rdb_last_bgsave_status:err") {
                    if Instant::now() > until {
                        return Err(io::Error::other("the snapshot did not fail"));
                    }
                    thread::sleep(Duration::from_millis(10));
                }
                Ok(())
            }
            Part::Sentinel => self.server.kill(),
            Part::Crash | Part::Upgrade | Part::Million => Ok(()),
        }
    }

    fn end(&mut self, part: Part) -> io::Result<()> {
        match part {
            Part::Calm => Ok(()),
            Part::Stop => self.server.signal(libc::SIGCONT),
            Part::Late | Part::Hole | Part::Reset => {
                self.proxy.set(Mode::Pass);
                Ok(())
            }
            Part::Kill => self.server.revive(&[]),
            Part::Readonly => {
                let mut redis = self.server.connect()?;
                redis.call(&["REPLICAOF", "NO", "ONE"]).map(drop)
            }
            Part::Oom => {
                let mut redis = self.server.connect()?;
                redis.call(&["CONFIG", "SET", "maxmemory", "0"]).map(drop)
            }
            Part::Busy => {
                self.server.connect()?.call(&["SCRIPT", "KILL"])?;
                if let Some(script) = self.script.take() {
                    // It ends with an error on purpose.
                    let _ = script.join();
                }
                Ok(())
            }
            Part::Noauth => {
                let mut redis = self.server.connect()?;
                redis.call(&["AUTH", "loadtest-password"])?;
                redis.call(&["CONFIG", "SET", "requirepass", ""]).map(drop)
            }
            Part::Loading => {
                self.server.kill()?;
                self.server.revive(&[])?;
                let until = Instant::now() + Duration::from_secs(10);
                while self.server.connect()?.call(&["PING"]).is_err() {
                    if Instant::now() > until {
                        return Err(io::Error::other("redis-server does not finish loading"));
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(())
            }
            Part::Misconf => {
                let mut redis = self.server.connect()?;
                let word = ["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"];
                redis.call(&word).map(drop)
            }
            Part::Sentinel | Part::Crash | Part::Upgrade | Part::Million => Ok(()),
        }
    }
}

/// Two replicas and three sentinels beside a master.
struct Sentinels {
    addresses: Vec<String>,
    _sentinels: Vec<Running>,
    replicas: Vec<(Server, Folder)>,
    _folder: Folder,
}

impl Sentinels {
    fn start(bench: &Bench, master: &Server) -> io::Result<Self> {
        let port = master.address.port().to_string();
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let replica = start_redis(bench, &["--replicaof", "127.0.0.1", &port])?;
            let until = Instant::now() + Duration::from_secs(20);
            let mut redis = replica.0.connect()?;
            let told = |redis: &mut Redis| -> io::Result<String> {
                Ok(redis
                    .call(&["INFO", "replication"])?
                    .text()
                    .unwrap_or_default())
            };
            while !told(&mut redis)?.contains("master_link_status:up") {
                if Instant::now() > until {
                    return Err(io::Error::other("a replica does not reach its master"));
                }
                thread::sleep(Duration::from_millis(20));
            }
            replicas.push(replica);
        }
        let folder = Folder::new("sentinel", bench.keeps_folders)?;
        let (mut addresses, mut sentinels) = (Vec::new(), Vec::new());
        for nth in 0..3 {
            let (address, running) = sentinel(bench, folder.path(), nth, &port)?;
            addresses.push(address);
            sentinels.push(running);
        }
        let started = Self {
            addresses,
            _sentinels: sentinels,
            replicas,
            _folder: folder,
        };
        started.await_quorum()?;
        Ok(started)
    }

    /// Until the sentinels know each other and both replicas.
    fn await_quorum(&self) -> io::Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        for address in &self.addresses {
            let address = address.parse().map_err(io::Error::other)?;
            loop {
                let told = Redis::connect(address)
                    .and_then(|mut redis| redis.call(&["INFO", "sentinel"]))
                    .ok()
                    .and_then(|reply| reply.text())
                    .unwrap_or_default();
                if told.contains("slaves=2,sentinels=3") {
                    break;
                }
                if Instant::now() > until {
                    return Err(io::Error::other(format!(
                        "the sentinels do not agree: {told}"
                    )));
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// The replica that has become the master.
    fn master(&self) -> io::Result<Redis> {
        for (replica, _) in &self.replicas {
            let mut redis = replica.connect()?;
            let told = redis.call(&["INFO", "replication"])?.text();
            if told.is_some_and(|text| text.contains("role:master")) {
                return Ok(redis);
            }
        }
        // Before the failover: writes go to the first master, which a replica knows.
        let (replica, _) = self
            .replicas
            .first()
            .ok_or_else(|| io::Error::other("no replica"))?;
        let told = replica.connect()?.call(&["INFO", "replication"])?;
        let text = told.text().unwrap_or_default();
        let port = text
            .lines()
            .find_map(|line| line.strip_prefix("master_port:"))
            .and_then(|port| port.trim().parse::<u16>().ok())
            .ok_or_else(|| io::Error::other("no master"))?;
        Redis::connect(([127, 0, 0, 1], port).into())
    }
}

fn sentinel(
    bench: &Bench,
    folder: &Path,
    nth: usize,
    master_port: &str,
) -> io::Result<(String, Running)> {
    let address = sys::free_address()?;
    let file = folder.join(format!("sentinel-{nth}.conf"));
    let text = format!(
        "port {}\nbind 127.0.0.1\ndir {}\nsentinel monitor loadmaster 127.0.0.1 {master_port} 2\nsentinel down-after-milliseconds loadmaster 1000\nsentinel failover-timeout loadmaster 5000\n",
        address.port(),
        folder.display()
    );
    fs::write(&file, text)?;
    let binary = bench.tool("redis-server");
    let binary = binary.ok_or_else(|| io::Error::other("redis-server is not installed"))?;
    let mut command = Command::new(binary);
    command.arg(&file).arg("--sentinel");
    let setup = ChildSetup {
        core: bench.load_core,
        descriptors_max: None,
        die_with_parent: true,
    };
    let running = Running::spawn(&format!("sentinel-{nth}"), command, folder, setup)?;
    Ok((address.to_string(), running))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Failure;

    fn seen(class: usize, at_ms: u64, wait_ms: u64, status: Result<u16, Failure>) -> Seen {
        Seen {
            stream: class,
            gateway: 0,
            due_ns: at_ms * 1_000_000,
            sent_ns: at_ms * 1_000_000,
            answered_ns: (at_ms + wait_ms) * 1_000_000,
            status,
            has_retry_after: status == Ok(503),
        }
    }

    fn acted() -> Acted {
        Acted {
            from: Duration::from_secs(2),
            to: Duration::from_secs(4),
            writes: Vec::new(),
            hello_during: "fail".to_owned(),
            hello_after: "pass".to_owned(),
            connections_during: 3,
            connections_after: 1,
        }
    }

    fn good() -> Vec<Seen> {
        (0..700)
            .map(|n| n * 10)
            .flat_map(|ms| {
                let unknown = if (2000..4200).contains(&ms) { 503 } else { 403 };
                [
                    seen(0, ms, 1, Ok(200)),
                    seen(1, ms, 1, Ok(200)),
                    seen(2, ms, 20, Ok(unknown)),
                ]
            })
            .collect()
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Vec<Seen>, &mut Acted), passes: bool) {
        let plan = Plan {
            case: crate::faults::Case::D1,
            only: Vec::new(),
            long: false,
            seconds: None,
            times: None,
            rate: None,
            slack_ms: 50,
            sessions: 0,
            stale: false,
        };
        let (mut seen, mut acted) = (good(), acted());
        change(&mut seen, &mut acted);
        let mut checks = Checks::default();
        judge(&plan, Part::Stop, &acted, &seen, &mut checks);
        assert_eq!(checks.print("test"), passes);
    }

    #[test]
    fn a_store_that_was_away_and_came_back_passes() {
        check(|_, _| {}, true);
    }

    #[test]
    fn whatever_was_not_as_promised_fails() {
        let push = |class, ms, wait, status| {
            move |all: &mut Vec<Seen>, _: &mut Acted| all.push(seen(class, ms, wait, status))
        };
        check(push(2, 3000, 1, Ok(200)), false);
        check(push(0, 3000, 1, Ok(503)), false);
        check(push(1, 3000, 1, Err(Failure::Reset)), false);
        check(push(2, 6000, 1, Ok(503)), false);
        check(|_, acted| acted.hello_during = "pass".to_owned(), false);
        check(|_, acted| acted.connections_during = 500, false);
        // All unknown keys wait too long; nobody comes back in time.
        let late = |all: &mut Vec<Seen>, _: &mut Acted| {
            for one in all.iter_mut().filter(|s| s.stream == 2) {
                one.answered_ns += 400_000_000;
            }
        };
        check(late, false);
        let away = |all: &mut Vec<Seen>, _: &mut Acted| {
            all.retain(|s| s.stream != 2 || s.sent_ns < 4_000_000_000 || s.sent_ns > 5_500_000_000);
        };
        check(away, false);
    }
}
