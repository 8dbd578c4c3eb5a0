//! Do limits hold? One and three gateways on one Redis, requests at known moments, and a reference fed with the same moments.
//!
//! `rate` (D3 of the reliability plan): each case is one key with its limit, offered a multiple of it, then half of it.
//! `outage`: the same with Redis gone in the middle. `quota` (D4): many requests over three gateways, one of which is killed.
//!
//! What a gateway decided, it decided between the moments at which a request was sent and answered. A window counts what
//! surely fell into it, so a slow machine never makes a limiter look too generous.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{
    arrivals::{self, Phase, Seen, Spacing, Stream},
    client::{Client, Outcome},
    keys::{self, Keys},
    oracle::{self, Limit, Reference},
    peer::Bench,
    redis::Server,
    site::{self, Checks, Site, Store, start_redis},
};

/// What to hold against the reference.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    #[arg(value_enum)]
    pub part: Part,
    /// The full plan instead of the short form: more windows, 2000/1 s and 1000/60 s, a million requests.
    #[arg(long)]
    pub long: bool,
    /// Gateways of `rate`: 1, 3, or both in turn when not given.
    #[arg(long)]
    pub gateways: Option<usize>,
    /// Limits as requests/seconds, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = parse_limit)]
    pub limits: Vec<(u64, f64)>,
    /// Multiples of the limit that are offered, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub offers: Vec<f64>,
    /// Windows during which a limit is offered too much (or, below 1, too little).
    #[arg(long)]
    pub windows: Option<f64>,
    /// Random instead of even arrivals.
    #[arg(long)]
    pub poisson: bool,
    /// Requests per second, over all cases that run at once.
    #[arg(long, default_value_t = 2500.0)]
    pub rate_max: f64,
    /// Requests of `quota`.
    #[arg(long)]
    pub requests: Option<u64>,
    /// JSON merged into every gateway's configuration, such as one of Tyk's limiter modes.
    #[arg(long)]
    pub conf: Option<String>,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    Rate,
    Outage,
    Quota,
}

/// Credits are lent where each gateway has at least so many requests per second; below, Redis decides each.
const LEASE_PER_S_PER_NODE: f64 = 50.0;
/// Under leases a window may have so much of the limit.
const LEASED_WINDOW: f64 = 1.07;
/// Of what the reference admits in all, for even arrivals at equal shares, and for the rest.
const TOTAL_EVEN: f64 = 0.97;
const TOTAL_SKEWED: f64 = 0.90;
/// How much longer than `per` a key may stay blocked once the offer is below the limit.
const BLOCKED_SLACK_S: f64 = 0.1;
/// Two heartbeats: every gateway knows how many there are.
const ACQUAINTANCE: Duration = Duration::from_millis(4500);

pub fn run(plan: &Plan, bench: &Bench) -> io::Result<bool> {
    match plan.part {
        Part::Rate => {
            let counts = plan.gateways.map_or(vec![1, 3], |count| vec![count]);
            let mut passed = true;
            for count in counts {
                passed &= rates(plan, bench, count)?;
            }
            Ok(passed)
        }
        Part::Outage => outage(plan, bench),
        Part::Quota => quotas(plan, bench),
    }
}

/// One key with its limit and what it is offered.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    key: String,
    limit: Limit,
    offer: f64,
    is_even: bool,
    stream: Stream,
}

impl Case {
    fn per_s(&self) -> f64 {
        self.limit.per_ns as f64 / 1e9
    }

    fn rate_max(&self) -> f64 {
        let rates = self.stream.phases.iter().map(|phase| phase.rate);
        rates.fold(0.0, f64::max)
    }

    fn is_leased(&self, gateways: usize) -> bool {
        let per_s = self.limit.rate as f64 / self.per_s();
        per_s >= LEASE_PER_S_PER_NODE * gateways as f64
    }
}

fn cases(plan: &Plan, gateways: usize) -> Vec<Case> {
    let limits = match (&plan.limits[..], plan.long) {
        ([], false) => vec![(3, 1.0), (50, 1.0), (200, 1.0)],
        ([], true) => vec![(3, 1.0), (50, 1.0), (2000, 1.0), (1000, 60.0)],
        (given, _) => given.to_vec(),
    };
    let offers = match &plan.offers[..] {
        [] => vec![0.5, 0.9, 1.1, 2.0, 10.0],
        given => given.to_vec(),
    };
    let spacing = match plan.poisson {
        true => Spacing::Poisson,
        false => Spacing::Paced,
    };
    let mut cases = Vec::new();
    for (rate, per) in limits {
        for offer in &offers {
            let even = vec![1.0; gateways];
            let mut splits = vec![(true, even)];
            if gateways == 3 && *offer > 1.0 {
                splits.push((false, vec![90.0, 5.0, 5.0]));
            }
            for (is_even, weights) in splits {
                let usual = match (plan.long, per > 10.0) {
                    (false, _) => 5.0,
                    (true, false) => 30.0,
                    (true, true) => 5.0,
                };
                let phases = vec![
                    Phase {
                        seconds: plan.windows.unwrap_or(usual) * per,
                        rate: offer * rate as f64 / per,
                    },
                    Phase {
                        seconds: per + 1.5,
                        rate: 0.5 * rate as f64 / per,
                    },
                ];
                let split = if is_even { "even" } else { "90/5/5" };
                let nth = cases.len();
                cases.push(Case {
                    name: format!("{rate}/{per} s × {offer} {split}"),
                    key: format!("loadacc-{gateways}-{nth:04}"),
                    limit: Limit {
                        rate,
                        per_ns: (per * 1e9) as u64,
                    },
                    offer: *offer,
                    is_even,
                    stream: Stream {
                        phases,
                        spacing,
                        weights,
                    },
                });
            }
        }
    }
    cases
}

/// Cases that can run at once, fullest groups first; what is too fast by itself is left out.
fn groups(cases: Vec<Case>, rate_max: f64) -> (Vec<Vec<Case>>, Vec<Case>) {
    let (fitting, mut too_fast): (Vec<_>, Vec<_>) = cases
        .into_iter()
        .partition(|case| case.rate_max() <= rate_max);
    let mut groups: Vec<Vec<Case>> = Vec::new();
    for case in fitting {
        let has_room = |group: &&mut Vec<Case>| {
            let sum: f64 = group.iter().map(Case::rate_max).sum();
            let alike = group
                .iter()
                .all(|c| (c.per_s() > 10.0) == (case.per_s() > 10.0));
            alike && sum + case.rate_max() <= rate_max
        };
        match groups.iter_mut().find(has_room) {
            Some(group) => group.push(case),
            None => groups.push(vec![case]),
        }
    }
    too_fast.sort_by(|a, b| a.name.cmp(&b.name));
    (groups, too_fast)
}

fn conf(plan: &Plan) -> io::Result<Value> {
    let mut conf = json!({"drl_notification_frequency": 1});
    if let Some(more) = &plan.conf {
        crate::peer::merge(&mut conf, &serde_json::from_str(more)?);
    }
    Ok(conf)
}

fn rates(plan: &Plan, bench: &Bench, gateways: usize) -> io::Result<bool> {
    let (groups, too_fast) = groups(cases(plan, gateways), plan.rate_max);
    let (redis, _folder) = start_redis(bench, &[])?;
    let apis = [site::keyed_api()];
    let store = Store::Redis(redis.address);
    let site = Site::start(bench, gateways, &conf(plan)?, &apis, &store)?;
    let cases: Vec<&Case> = groups.iter().flatten().collect();
    write_keys(&redis, &cases)?;
    thread::sleep(ACQUAINTANCE);
    let mut checks = Checks::default();
    println!("{gateways} gateway(s); windows are those that surely had so many");
    println!(
        "{:<24} {:>8} {:>9} {:>9} {:>7} {:>9} {:>9} {:>9}",
        "case", "offered", "admitted", "reference", "ratio", "worst/R", "gap s", "blocked s"
    );
    for group in &groups {
        let seen = offer(&site, group, plan.seed)?;
        for (nth, case) in group.iter().enumerate() {
            let own: Vec<Seen> = seen.iter().filter(|s| s.stream == nth).copied().collect();
            judge(case, &own, gateways, &mut checks);
        }
    }
    for case in too_fast {
        println!(
            "{:<24} left out: above {} per second",
            case.name, plan.rate_max
        );
    }
    Ok(checks.print(&format!("rate limits on {gateways} gateway(s)")))
}

fn write_keys(redis: &Server, cases: &[&Case]) -> io::Result<()> {
    let mut redis = redis.connect()?;
    for case in cases {
        let session = Keys {
            rate: case.limit.rate as f64,
            per: case.per_s(),
            ..Keys::unlimited(1)
        }
        .session(1);
        keys::write(&mut redis, &[case.key.clone()], &session)?;
    }
    Ok(())
}

fn offer(site: &Site, group: &[Case], seed: u64) -> io::Result<Vec<Seen>> {
    let streams: Vec<Stream> = group.iter().map(|case| case.stream.clone()).collect();
    let heads: Vec<Vec<Vec<u8>>> = group
        .iter()
        .map(|case| site.gateways.iter().map(|g| g.head(&case.key)).collect())
        .collect();
    let never = AtomicBool::new(false);
    arrivals::drive(
        &site.addresses(),
        &streams,
        seed,
        &never,
        |stream, gateway, out| out.extend_from_slice(&heads[stream][gateway]),
    )
}

/// What one case came to.
#[derive(Clone, Debug)]
struct Findings {
    admitted: usize,
    reference: usize,
    /// Most requests surely admitted within `per`.
    worst: usize,
    at_once: usize,
    /// One gateway: how far the fullest or emptiest of its windows is from the limit; see [`off`].
    off: u64,
    /// Longest time between two admissions while too much was offered, in seconds.
    gap_s: f64,
    /// Longest time without an admission although asked, once the offer had fallen, in seconds.
    blocked_s: f64,
    wrong: usize,
}

fn find(case: &Case, seen: &[Seen], gateways: usize) -> Findings {
    let mut seen = seen.to_vec();
    seen.sort_by_key(|s| s.sent_ns);
    let fall_ns = (case.stream.phases[0].seconds * 1e9) as u64;
    let spans = |of: &dyn Fn(&Seen) -> bool| -> Vec<(u64, u64)> {
        let chosen = seen.iter().filter(|s| of(s));
        chosen.map(|s| (s.sent_ns, s.answered_ns)).collect()
    };
    let over: Vec<&Seen> = seen.iter().filter(|s| s.due_ns < fall_ns).collect();
    let moments: Vec<u64> = over.iter().map(|s| s.sent_ns).collect();
    let reference = match gateways {
        1 => Reference::Window,
        _ => Reference::Log,
    };
    let decided = oracle::decide(reference, case.limit, &moments);
    let admitted: Vec<&&Seen> = over.iter().filter(|s| s.is_admitted()).collect();
    let gaps = admitted
        .windows(2)
        .map(|pair| pair[1].sent_ns.saturating_sub(pair[0].answered_ns));
    let by_gateway = (0..gateways).map(|gateway| {
        let own: Vec<&Seen> = seen.iter().filter(|s| s.gateway == gateway).collect();
        blocked_ns(&own, fall_ns)
    });
    let together = blocked_ns(&seen.iter().collect::<Vec<_>>(), fall_ns);
    let off = match reference {
        Reference::Window => off(case.limit, &over),
        Reference::Log => 0,
    };
    Findings {
        admitted: admitted.len(),
        reference: decided.count(),
        worst: oracle::worst_window(&spans(&Seen::is_admitted), case.limit.per_ns),
        at_once: oracle::most_at_once(&spans(&|_| true)),
        off,
        gap_s: gaps.max().unwrap_or(0) as f64 / 1e9,
        blocked_s: by_gateway.chain([together]).max().unwrap_or(0) as f64 / 1e9,
        wrong: seen
            .iter()
            .filter(|s| !s.is_admitted() && s.status != Ok(429))
            .count(),
    }
}

/// Longest time from the first to the last refusal in a row, counted from `fall_ns` on.
fn blocked_ns(seen: &[&Seen], fall_ns: u64) -> u64 {
    let (mut first, mut longest) = (None, 0);
    for one in seen.iter().filter(|s| s.answered_ns >= fall_ns) {
        if one.is_admitted() {
            first = None;
        } else {
            let since = *first.get_or_insert(one.sent_ns.max(fall_ns));
            longest = longest.max(one.sent_ns.saturating_sub(since));
        }
    }
    longest
}

/// Follows one gateway's windows by its own admissions: how many more or fewer than the limit one of them surely had.
/// Too few is a window that refused somebody before it was full.
fn off(limit: Limit, over: &[&Seen]) -> u64 {
    /// A gateway reads the clock once per turn of its loop.
    const BLUR_NS: u64 = 5_000_000;
    let from = |s: &Seen| s.sent_ns.saturating_sub(BLUR_NS);
    let to = |s: &Seen| s.answered_ns + BLUR_NS;
    let mut worst = 0;
    // The moments between which the window before ended.
    let mut ended = (0, 0);
    loop {
        let opens = |s: &&&Seen| s.is_admitted() && to(s) >= ended.0;
        let Some(opener) = over.iter().find(opens) else {
            return worst;
        };
        // Admitted near the end of the window before: in that one or in this.
        let near = |s: &&&Seen| s.is_admitted() && to(s) >= ended.0 && from(s) <= ended.1;
        let unsure = over.iter().filter(near).count().saturating_sub(1) as u64;
        let end = (
            from(opener) + limit.per_ns,
            to(opener).max(ended.1) + limit.per_ns,
        );
        let sure = |s: &&&Seen| s.sent_ns >= opener.sent_ns && to(s) < end.0;
        let possible = |s: &&&Seen| to(s) >= from(opener) && from(s) <= end.1;
        let admitted = |s: &&&Seen| s.is_admitted();
        let most = over.iter().filter(sure).filter(admitted).count() as u64;
        worst = worst.max(most.saturating_sub(limit.rate + unsure));
        if over.iter().filter(sure).any(|s| !s.is_admitted()) {
            let least = over.iter().filter(possible).filter(admitted).count() as u64;
            worst = worst.max(limit.rate.saturating_sub(least));
        }
        ended = end;
    }
}

fn judge(case: &Case, seen: &[Seen], gateways: usize, checks: &mut Checks) {
    let found = find(case, seen, gateways);
    let rate = case.limit.rate as f64;
    let ratio = found.admitted as f64 / found.reference.max(1) as f64;
    println!(
        "{:<24} {:>8} {:>9} {:>9} {:>7.3} {:>9.3} {:>9.2} {:>9.2}",
        case.name,
        seen.len(),
        found.admitted,
        found.reference,
        ratio,
        found.worst as f64 / rate,
        found.gap_s,
        found.blocked_s
    );
    let name = format!("{gateways}: {}", case.name);
    if found.wrong > 0 {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for one in seen
            .iter()
            .filter(|s| !s.is_admitted() && s.status != Ok(429))
        {
            *kinds.entry(format!("{:?}", one.status)).or_default() += 1;
        }
        checks.check(
            false,
            format!("{name}: answers other than 2xx and 429: {kinds:?}"),
        );
    }
    if gateways == 1 {
        checks.check(
            found.off <= 1,
            format!(
                "{name}: each window is full before it refuses, and not more than full, but for 1: {}",
                found.off
            ),
        );
    } else {
        let (bound, way) = match case.is_leased(gateways) {
            true => ((rate * LEASED_WINDOW).ceil() as usize, "leased, 1.07 R"),
            false => (
                case.limit.rate as usize + found.at_once,
                "exact, R + in flight",
            ),
        };
        checks.check(
            found.worst <= bound,
            format!("{name}: worst window {} ≤ {bound} ({way})", found.worst),
        );
    }
    let share = match case.is_even && case.stream.spacing == Spacing::Paced {
        true => TOTAL_EVEN,
        false => TOTAL_SKEWED,
    };
    // One request may fall on either side of the end of the phase.
    let least = share * found.reference as f64 - 1.0;
    checks.check(
        found.admitted as f64 >= least,
        format!(
            "{name}: admitted {} of the reference's {}, at least {share} of them",
            found.admitted, found.reference
        ),
    );
    let per_s = case.per_s();
    if case.offer >= 1.0 {
        checks.check(
            found.admitted > 0 && found.gap_s <= 2.0 * per_s + BLOCKED_SLACK_S,
            format!("{name}: never nothing for long: {:.2} s", found.gap_s),
        );
    }
    checks.check(
        found.blocked_s <= per_s + BLOCKED_SLACK_S,
        format!(
            "{name}: blocked for {:.2} s once the offer fell",
            found.blocked_s
        ),
    );
}

/// Redis goes in the middle and comes back: the gateways go on with their shares.
fn outage(plan: &Plan, bench: &Bench) -> io::Result<bool> {
    const GATEWAYS: usize = 3;
    let span = if plan.long { 10.0 } else { 3.0 };
    let limits = match &plan.limits[..] {
        [] => vec![(3, 1.0), (50, 1.0), (200, 1.0)],
        given => given.to_vec(),
    };
    let cases: Vec<Case> = limits
        .into_iter()
        .map(|(rate, per)| Case {
            name: format!("{rate}/{per} s × 2"),
            key: format!("loadout-{rate}-{per}"),
            limit: Limit {
                rate,
                per_ns: (per * 1e9) as u64,
            },
            offer: 2.0,
            is_even: true,
            stream: Stream {
                phases: vec![Phase {
                    seconds: 3.0 * span,
                    rate: 2.0 * rate as f64 / per,
                }],
                spacing: Spacing::Paced,
                weights: vec![1.0; GATEWAYS],
            },
        })
        .collect();
    let (mut redis, _folder) = start_redis(bench, &[])?;
    let apis = [site::keyed_api()];
    let store = Store::Redis(redis.address);
    let site = Site::start(bench, GATEWAYS, &conf(plan)?, &apis, &store)?;
    write_keys(&redis, &cases.iter().collect::<Vec<_>>())?;
    thread::sleep(ACQUAINTANCE);
    let began = Instant::now();
    let (seen, edges) = thread::scope(|scope| {
        let offering = scope.spawn(|| offer(&site, &cases, plan.seed));
        let acted = (|| {
            thread::sleep(Duration::from_secs_f64(span));
            redis.kill()?;
            let gone = began.elapsed();
            thread::sleep(Duration::from_secs_f64(2.0 * span).saturating_sub(began.elapsed()));
            redis.revive(&[])?;
            // The sessions went with the old process.
            write_keys(&redis, &cases.iter().collect::<Vec<_>>())?;
            Ok::<_, io::Error>((gone, began.elapsed()))
        })();
        (offering.join(), acted)
    });
    let seen = seen.map_err(|_| io::Error::other("the traffic thread failed"))??;
    let (gone, back) = edges?;
    let mut checks = Checks::default();
    for (nth, case) in cases.iter().enumerate() {
        let own: Vec<&Seen> = seen.iter().filter(|s| s.stream == nth).collect();
        // Half a second after it went every gateway has noticed.
        let from = gone.as_nanos() as u64 + 500_000_000;
        let to = back.as_nanos() as u64;
        let during: Vec<(u64, u64)> = own
            .iter()
            .filter(|s| s.is_admitted() && s.sent_ns >= from && s.answered_ns < to)
            .map(|s| (s.sent_ns, s.answered_ns))
            .collect();
        let all: Vec<(u64, u64)> = own
            .iter()
            .filter(|s| s.is_admitted())
            .map(|s| (s.sent_ns, s.answered_ns))
            .collect();
        let rate = case.limit.rate as f64;
        let windows = (to - from) as f64 / case.limit.per_ns as f64;
        let away = during.len() as f64 / (windows * rate);
        let worst = oracle::worst_window(&all, case.limit.per_ns) as f64 / rate;
        println!(
            "{:<20} {away:.2} R while Redis was away, worst window {worst:.2} R",
            case.name
        );
        // A share is at least one request, and its window begins anew with the outage.
        let least = 1.0f64.max(GATEWAYS as f64 / rate);
        checks.check(
            away > 0.5 && away <= 1.0 / windows + least,
            format!("{}: the local shares together admit {away:.2} R", case.name),
        );
        checks.check(
            worst <= 2.0 * least + 0.1,
            format!(
                "{}: the worst window, edges included, has {worst:.2} R",
                case.name
            ),
        );
        let wrong = own
            .iter()
            .filter(|s| !s.is_admitted() && s.status != Ok(429))
            .count();
        checks.check(wrong == 0, format!("{}: {wrong} other answers", case.name));
    }
    Ok(checks.print("rate limits without Redis"))
}

/// D4: many requests over three gateways, one of which is killed and comes back.
fn quotas(plan: &Plan, bench: &Bench) -> io::Result<bool> {
    const GATEWAYS: usize = 3;
    let requests = plan
        .requests
        .unwrap_or(if plan.long { 1_000_000 } else { 30_000 });
    let (redis, _folder) = start_redis(bench, &[])?;
    let apis = [site::keyed_api(), site::keyed_api()];
    let store = Store::Redis(redis.address);
    let mut site = Site::start(bench, GATEWAYS, &conf(plan)?, &apis, &store)?;
    let max = requests * 4 / 5;
    let mut connection = redis.connect()?;
    let limited = |quota: u64| {
        Keys {
            quota: quota as i64,
            ..Keys::unlimited(1)
        }
        .session(2)
    };
    keys::write(
        &mut connection,
        &["loadquota-large".to_owned()],
        &limited(max),
    )?;
    keys::write(
        &mut connection,
        &["loadquota-small".to_owned()],
        &limited(500),
    )?;
    let mut two = limited(0);
    for (api, quota) in [("load00000", 50), ("load00001", 80)] {
        two["access_rights"][api]["allowance_scope"] = api.into();
        let renews = two["quota_renews"].clone();
        let limit = &mut two["access_rights"][api]["limit"];
        limit["quota_max"] = quota.into();
        limit["quota_remaining"] = quota.into();
        limit["quota_renewal_rate"] = 3600.into();
        limit["quota_renews"] = renews;
    }
    keys::write(&mut connection, &["loadquota-two".to_owned()], &two)?;
    thread::sleep(ACQUAINTANCE);
    let mut checks = Checks::default();

    let heads = |site: &Site, path: usize, key: &str| -> Vec<Vec<u8>> {
        let heads = site.gateways.iter();
        heads
            .map(|g| site::head(g.address(), &g.prepared.listen_path(path), key))
            .collect()
    };
    let addresses = site.addresses();
    let small = exhaust(
        &addresses,
        &heads(&site, 0, "loadquota-small"),
        1500,
        &AtomicU64::new(0),
    )?;
    checks.check(
        small.admitted == 500 && small.failed == 0,
        format!(
            "a quota of 500 over three gateways admits {} ({small:?})",
            small.admitted
        ),
    );
    for (api, quota) in [(0, 50), (1, 80)] {
        let own = exhaust(
            &addresses,
            &heads(&site, api, "loadquota-two"),
            200,
            &AtomicU64::new(0),
        )?;
        checks.check(
            own.admitted == quota,
            format!(
                "an API's own quota of {quota} admits {} ({own:?})",
                own.admitted
            ),
        );
    }

    let before = site.origin_stat("requests")?;
    let asked = AtomicU64::new(0);
    let large = heads(&site, 0, "loadquota-large");
    let (tally, acted) = thread::scope(|scope| {
        let exhausting = scope.spawn(|| exhaust(&addresses, &large, requests, &asked));
        let wait_for = |share: f64| {
            let wanted = (requests as f64 * share) as u64;
            while asked.load(Ordering::Relaxed) < wanted && !exhausting.is_finished() {
                thread::sleep(Duration::from_millis(2));
            }
        };
        wait_for(0.4);
        let gateway = &mut site.gateways[1];
        let acted = gateway.kill().and_then(|()| gateway.start());
        (exhausting.join(), acted)
    });
    acted?;
    let tally = tally.map_err(|_| io::Error::other("the traffic thread failed"))??;
    // The readiness request of the restarted gateway has no key.
    let reached = site.origin_stat("requests")? - before - 1;
    let counter = connection.number(&["GET", "quota-loadquota-large"]);
    println!("{tally:?}; {reached} reached the origin, the counter says {counter:?}");
    checks.check(
        tally.answered() + tally.failed >= requests,
        format!("{requests} requests were made"),
    );
    checks.check(
        tally.admitted <= max && reached <= max,
        format!(
            "of a quota of {max} were admitted {} ({reached} at the origin)",
            tally.admitted
        ),
    );
    println!("not used for the crash: {}", max.saturating_sub(reached));
    checks.check(
        tally.refused > 0,
        format!("{} were refused in the end", tally.refused),
    );
    let after = exhaust(&addresses, &large, 60, &AtomicU64::new(0))?;
    checks.check(
        after.admitted + tally.admitted <= max && after.failed == 0,
        format!("nothing is forgotten after the restart: {after:?}"),
    );
    Ok(checks.print("quotas"))
}

/// What became of requests that use up a quota.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    admitted: u64,
    /// 403, as Tyk answers an exhausted quota.
    refused: u64,
    other: u64,
    failed: u64,
}

impl Tally {
    fn answered(self) -> u64 {
        self.admitted + self.refused + self.other
    }
}

/// Makes `count` requests over 16 connections to each gateway, as fast as they are answered.
fn exhaust(
    targets: &[SocketAddr],
    heads: &[Vec<u8>],
    count: u64,
    asked: &AtomicU64,
) -> io::Result<Tally> {
    const EACH: usize = 16;
    let mut client = Client::to_each(targets, EACH)?;
    let mut tally = Tally::default();
    let mut free: Vec<usize> = (0..client.slots()).collect();
    let mut resting: Vec<(Instant, usize)> = Vec::new();
    let mut ready = Vec::new();
    let mut settled = 0;
    let mut last = Instant::now();
    while settled < count {
        let now = Instant::now();
        free.extend(
            resting
                .extract_if(.., |(at, _)| *at <= now)
                .map(|(_, slot)| slot),
        );
        while let Some(slot) = free.pop() {
            if asked.load(Ordering::Relaxed) == count {
                break;
            }
            asked.fetch_add(1, Ordering::Relaxed);
            let opened = match client.is_open(slot) {
                true => Ok(()),
                false => client.open(slot),
            };
            if opened
                .and_then(|()| client.ask(slot, &heads[slot / EACH], 0))
                .is_err()
            {
                client.close(slot);
                tally.failed += 1;
                settled += 1;
                // A gateway that is down would otherwise get all that is left.
                resting.push((now + Duration::from_millis(200), slot));
            }
        }
        client.wait(Some(Duration::from_millis(20)), &mut ready)?;
        for event in &ready {
            let slot = event.token as usize;
            match client.advance(*event) {
                Outcome::Pending | Outcome::ClosedIdle => continue,
                Outcome::Answer(answer) => {
                    match answer.status {
                        200..300 => tally.admitted += 1,
                        403 => tally.refused += 1,
                        _ => tally.other += 1,
                    }
                    if !answer.keep_alive {
                        client.close(slot);
                    }
                    free.push(slot);
                }
                Outcome::Failed(_) => {
                    tally.failed += 1;
                    resting.push((Instant::now() + Duration::from_millis(200), slot));
                }
            }
            settled += 1;
            last = Instant::now();
        }
        if last.elapsed() > Duration::from_secs(20) {
            return Err(io::Error::other(format!("no answers any more: {tally:?}")));
        }
    }
    Ok(tally)
}

fn parse_limit(text: &str) -> Result<(u64, f64), String> {
    let (rate, per) = text.split_once('/').ok_or("expected requests/seconds")?;
    let rate = rate.parse().map_err(|e| format!("{rate}: {e}"))?;
    let per = per.parse().map_err(|e| format!("{per}: {e}"))?;
    Ok((rate, per))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            part: Part::Rate,
            long: false,
            gateways: None,
            limits: Vec::new(),
            offers: Vec::new(),
            windows: None,
            poisson: false,
            rate_max: 2500.0,
            requests: None,
            conf: None,
            seed: 1,
        }
    }

    /// A run of 2/1 s at twice the limit over two seconds, then at half of it, decided by `admits`.
    fn seen(gateways: usize, admits: impl Fn(u64) -> bool) -> (Case, Vec<Seen>) {
        let mut plan = plan();
        (plan.limits, plan.offers) = (vec![(2, 1.0)], vec![2.0]);
        plan.windows = Some(2.0);
        let case = cases(&plan, gateways).remove(0);
        let at_ms = (0..8)
            .map(|n| n * 250)
            .chain((0..3).map(|n| 2000 + n * 1000));
        let seen = at_ms
            .map(|ms| Seen {
                stream: 0,
                gateway: ms as usize % gateways,
                due_ns: ms * 1_000_000,
                sent_ns: ms * 1_000_000,
                answered_ns: ms * 1_000_000 + 500_000,
                status: Ok(if admits(ms) { 200 } else { 429 }),
                has_retry_after: false,
            })
            .collect();
        (case, seen)
    }

    #[track_caller]
    fn check(gateways: usize, admits: impl Fn(u64) -> bool, passes: bool) {
        let (case, seen) = seen(gateways, admits);
        let mut checks = Checks::default();
        judge(&case, &seen, gateways, &mut checks);
        assert_eq!(
            checks.print("test"),
            passes,
            "{:?}",
            find(&case, &seen, gateways)
        );
    }

    #[test]
    fn the_reference_itself_passes() {
        for gateways in [1, 3] {
            check(gateways, |ms| ms % 1000 < 500, true);
        }
    }

    #[test]
    fn too_much_too_little_and_a_long_block_are_found() {
        // Everything.
        check(1, |_| true, false);
        // Nothing after the first window.
        check(1, |ms| ms < 500, false);
        check(3, |ms| ms < 500, false);
        // Right while too much is offered, and blocked for two seconds afterwards.
        check(1, |ms| ms < 2000 && ms % 1000 < 500, false);
        check(3, |ms| ms < 2000 && ms % 1000 < 500, false);
    }

    #[test]
    fn a_block_is_counted_from_the_fall_of_the_offer() {
        let (case, seen) = seen(1, |ms| ms != 1750 && ms != 2000 && ms != 3000);
        let found = find(&case, &seen, 1);
        assert!((found.blocked_s - 1.0).abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn cases_are_packed_and_none_is_lost() {
        let all = cases(&plan(), 3);
        let names = all.len();
        let (groups, too_fast) = groups(all, 600.0);
        assert!(groups.iter().all(|group| {
            let sum: f64 = group.iter().map(Case::rate_max).sum();
            sum <= 600.0
        }));
        assert_eq!(
            groups.iter().map(Vec::len).sum::<usize>() + too_fast.len(),
            names
        );
        assert_eq!(too_fast.len(), 2, "200/1 s × 10, even and skewed");
        assert!(groups.iter().flatten().all(|case| case.rate_max() > 0.0));
    }

    #[test]
    fn low_rates_are_exact_and_high_ones_leased() {
        let leased = |rate: u64, per: f64| {
            let mut plan = plan();
            plan.limits = vec![(rate, per)];
            cases(&plan, 3)[0].is_leased(3)
        };
        assert!(!leased(3, 1.0) && !leased(149, 1.0) && !leased(1000, 60.0));
        assert!(leased(150, 1.0) && leased(2000, 1.0));
    }

    #[test]
    fn a_limit_is_requests_and_seconds() {
        assert_eq!(parse_limit("1000/60"), Ok((1000, 60.0)));
        assert!(parse_limit("1000").is_err() && parse_limit("a/1").is_err());
    }
}
