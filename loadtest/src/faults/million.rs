//! D6, a million sessions in the embedded store: how long a start takes, what it costs, and that keys still open.

use std::{
    fs, io,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use penstock::storage::{Store as _, WriteOp, embedded::Embedded};
use serde_json::{Value, json};

use crate::{
    faults::{Plan, crash},
    keys,
    peer::{Bench, Running},
    rng::Rng,
    site::{self, Checks, Gateway, Site, Store},
};

/// Sessions that one write of the filling has.
const CHUNK: u32 = 2000;
/// Keys that are asked for to see what that costs.
const TOUCHED: usize = 10_000;
/// Starts of each kind.
const STARTS: usize = 5;

/// Fills a store, starts gateways on it and kills some of them while they write.
pub fn run(plan: &Plan, bench: &Bench) -> io::Result<bool> {
    let count = plan.sessions.min(keys::COUNT_MAX);
    let times = plan.times.unwrap_or(STARTS);
    let mut site = Site::start(bench, 1, &json!({}), &[site::keyed_api()], &Store::Embedded)?;
    let dir = site.gateways[0].prepared.folder.path().join("store.redb");
    end(&mut site.gateways[0])?;
    let session = session();
    let began = Instant::now();
    let bytes = fill(&dir, count, &session)?;
    println!(
        "{count} sessions of {bytes} bytes, filled in {:.1?}; the file has {:.0} MB",
        began.elapsed(),
        megabytes(&dir)
    );
    let mut checks = Checks::default();
    let mut rng = Rng::from_seed(6);
    let limit = Duration::from_millis(1000 + plan.slack_ms);

    let mut clean = Vec::new();
    for _ in 0..times {
        clean.push(start(&mut site.gateways[0])?);
        opens(&site.gateways[0], count, &mut rng, &mut checks)?;
        end(&mut site.gateways[0])?;
    }
    start(&mut site.gateways[0])?;
    let first = memory(&site.gateways[0]);
    let touched = touch(&site.gateways[0], count, &mut rng)?;
    let second = memory(&site.gateways[0]);
    checks.check(
        touched == TOUCHED,
        format!("{touched} of {TOUCHED} keys in random order were answered 200"),
    );
    println!(
        "memory (proportional, resident): {:.1}, {:.1} MB after the start; {:.1}, {:.1} MB after {TOUCHED} keys",
        first.0, first.1, second.0, second.1
    );

    let mut killed = Vec::new();
    let (mut lost, mut acknowledged) = (Vec::new(), 0);
    for round in 0..times {
        let address = site.gateways[0].address();
        let (stop, told) = (AtomicBool::new(false), AtomicU64::new(0));
        let (wrote, done) = thread::scope(|scope| {
            let (session, stop, told) = (&session, &stop, &told);
            let writing = scope.spawn(move || crash::write(address, round, session, stop, told));
            thread::sleep(Duration::from_millis(500 + rng.below(500)));
            let done = site.gateways[0].kill();
            stop.store(true, Ordering::Relaxed);
            (writing.join(), done)
        });
        done?;
        let wrote = wrote.map_err(|_| io::Error::other("the writing thread failed"))??;
        acknowledged += told.load(Ordering::Relaxed);
        killed.push(start(&mut site.gateways[0])?);
        lost.extend(crash::missing(address, &wrote)?);
        opens(&site.gateways[0], count, &mut rng, &mut checks)?;
    }
    println!(
        "ready after {clean:.2?}; after kill −9 {killed:.2?}; {acknowledged} writes were acknowledged"
    );
    println!(
        "the file has {:.0} MB, with copies {:.0} MB",
        megabytes(&dir),
        folder_megabytes(&dir)
    );
    for (kind, all) in [("clean", clean), ("after kill −9", killed)] {
        let slowest = all.into_iter().max().unwrap_or_default();
        checks.check(
            slowest <= limit,
            format!("ready after {slowest:.2?} at the latest ({kind}), at most {limit:?}"),
        );
    }
    checks.check(
        lost.is_empty(),
        format!("{} acknowledged writes lost: {lost:?}", lost.len()),
    );
    Ok(checks.print("a million sessions in the embedded store"))
}

/// A session with what its API needs and what people usually write, some 600 bytes.
fn session() -> Value {
    let full = keys::Keys {
        rate: 1e6,
        per: 1.0,
        ..keys::Keys::unlimited(1)
    }
    .session(1);
    let mut some =
        json!({"alias": "a name that somebody gave this key", "tags": ["team-a", "paid"]});
    for name in [
        "allowance",
        "rate",
        "per",
        "date_created",
        "quota_max",
        "quota_renews",
        "quota_remaining",
        "quota_renewal_rate",
        "access_rights",
        "org_id",
        "last_updated",
        "hmac_enabled",
        "is_inactive",
    ] {
        some[name] = full[name].clone();
    }
    for right in some["access_rights"]
        .as_object_mut()
        .into_iter()
        .flat_map(|rights| rights.values_mut())
    {
        if let Some(right) = right.as_object_mut() {
            right.remove("limit");
        }
    }
    some
}

/// Writes `count` sessions straight into a store that nobody has open; the bytes of one.
fn fill(dir: &Path, count: u32, session: &Value) -> io::Result<usize> {
    let value = serde_json::to_vec(session)?;
    let bytes = value.len();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let store = Embedded::open(dir).map_err(io::Error::other)?;
        for from in (0..count).step_by(CHUNK as usize) {
            let ops = (from..count.min(from + CHUNK)).map(|nth| WriteOp::Set {
                key: keys::stored_name(&keys::name(nth)),
                value: value.clone(),
                ttl: None,
            });
            store.write(ops.collect()).await.map_err(io::Error::other)?;
        }
        store.close().await.map_err(io::Error::other)
    })?;
    Ok(bytes)
}

/// Ends it as a supervisor does.
fn end(gateway: &mut Gateway) -> io::Result<()> {
    match gateway.running.take() {
        Some(mut running) => running.end(Duration::from_secs(60)),
        None => Ok(()),
    }
}

/// How long it takes until it is ready.
fn start(gateway: &mut Gateway) -> io::Result<Duration> {
    let began = Instant::now();
    gateway.start()?;
    Ok(began.elapsed())
}

/// One key opens, a name that is not there does not.
fn opens(gateway: &Gateway, count: u32, rng: &mut Rng, checks: &mut Checks) -> io::Result<()> {
    let name = keys::name(rng.below(u64::from(count)) as u32);
    let known = gateway.ask(&name)?.status;
    let unknown = gateway.ask("loadnone-000000")?.status;
    checks.check(
        known == 200 && unknown == 403,
        format!("{name} is answered {known}, a key that does not exist {unknown}"),
    );
    Ok(())
}

/// Asks for keys in random order; how many were answered 200.
fn touch(gateway: &Gateway, count: u32, rng: &mut Rng) -> io::Result<usize> {
    let mut good = 0;
    for _ in 0..TOUCHED {
        let name = keys::name(rng.below(u64::from(count)) as u32);
        good += usize::from(gateway.ask(&name)?.status == 200);
    }
    Ok(good)
}

/// Proportional and resident memory in megabytes.
fn memory(gateway: &Gateway) -> (f64, f64) {
    let memory = gateway
        .running
        .as_ref()
        .map(Running::tree)
        .map(|tree| tree.memory());
    let memory = memory.unwrap_or_default();
    (memory.pss as f64 / 1e6, memory.rss as f64 / 1e6)
}

fn megabytes(dir: &Path) -> f64 {
    let file = fs::metadata(dir.join("penstock.redb"));
    file.map_or(0.0, |file| file.len() as f64 / 1e6)
}

fn folder_megabytes(dir: &Path) -> f64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .filter_map(|file| file.metadata().ok())
        .map(|file| file.len() as f64 / 1e6)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_some_600_bytes_and_what_its_api_needs() {
        let session = session();
        let bytes = session.to_string().len();
        assert!((500..700).contains(&bytes), "{bytes}: {session}");
        assert!(!session["access_rights"].as_object().unwrap().is_empty());
    }
}
