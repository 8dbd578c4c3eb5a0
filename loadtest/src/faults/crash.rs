//! D6: the embedded store under kill −9 and under replacement: nothing that was acknowledged may be lost.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    client::{Client, Outcome},
    faults::Plan,
    keys::{Keys, control_call},
    peer::Bench,
    process,
    rng::Rng,
    site::{self, Checks, Site, Store},
    sys,
};

/// What the gateway said about each key: the last acknowledged state, and a write nobody knows the end of.
#[derive(Clone, Default, Debug)]
pub(super) struct Written {
    acknowledged: Option<State>,
    under_way: Option<State>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// There, with this alias.
    Alias(String),
    Gone,
}

pub(super) type Ledger = BTreeMap<String, Written>;

const WRITERS: usize = 16;
/// Writes before a kill, at least.
const ACKNOWLEDGED_MIN: u64 = 50;

/// Kills the gateway again and again while keys are created, changed and deleted.
pub fn kills(plan: &Plan, bench: &Bench) -> io::Result<bool> {
    let times = plan.times.unwrap_or(if plan.long { 100 } else { 10 });
    let apis = [site::keyed_api()];
    let mut site = Site::start(bench, 1, &json!({}), &apis, &Store::Embedded)?;
    let session = Keys::unlimited(1).session(1);
    let mut checks = Checks::default();
    let mut ledger = Ledger::new();
    let mut rng = Rng::from_seed(6);
    let (mut acknowledged, mut lost, mut slowest) = (0, Vec::new(), Duration::ZERO);
    let mut failed_starts = 0;
    for round in 0..times {
        let address = site.gateways[0].address();
        let (stop, told) = (AtomicBool::new(false), AtomicU64::new(0));
        let (wrote, killed) = thread::scope(|scope| {
            let (session, stop, told) = (&session, &stop, &told);
            let writing = scope.spawn(move || write(address, round, session, stop, told));
            // In the middle of writing, at no moment in particular.
            let until = Instant::now() + Duration::from_secs(5);
            while told.load(Ordering::Relaxed) < ACKNOWLEDGED_MIN && Instant::now() < until {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_micros(rng.below(100_000)));
            let killed = site.gateways[0].kill();
            stop.store(true, Ordering::Relaxed);
            (writing.join(), killed)
        });
        killed?;
        let wrote = wrote.map_err(|_| io::Error::other("the writing thread failed"))??;
        acknowledged += told.load(Ordering::Relaxed);
        let started = Instant::now();
        failed_starts += restart(&mut site.gateways[0])?;
        slowest = slowest.max(started.elapsed());
        lost.extend(missing(address, &wrote)?);
        ledger.extend(wrote);
    }
    lost.extend(missing(site.gateways[0].address(), &ledger)?);
    lost.sort();
    lost.dedup();
    println!(
        "{times} kills, {acknowledged} acknowledged writes on {} keys",
        ledger.len()
    );
    checks.check(
        acknowledged > 0,
        format!("{acknowledged} writes were acknowledged"),
    );
    checks.check(
        lost.is_empty(),
        format!("{} of them lost: {lost:?}", lost.len()),
    );
    checks.check(
        failed_starts == 0,
        format!("{failed_starts} starts failed before one succeeded"),
    );
    let limit = Duration::from_millis(1000 + plan.slack_ms);
    checks.check(
        slowest <= limit,
        format!("ready again after {slowest:.2?} at the latest, at most {limit:?}"),
    );
    Ok(checks.print("kill −9 with the embedded store"))
}

/// Starts a killed gateway as a supervisor would, at once and again; how often it failed.
fn restart(gateway: &mut site::Gateway) -> io::Result<u32> {
    let until = Instant::now() + Duration::from_secs(10);
    let mut failed = 0;
    loop {
        match gateway.start() {
            Ok(()) => return Ok(failed),
            Err(e) if Instant::now() > until => return Err(e),
            Err(e) => {
                if failed == 0 {
                    let last = e.to_string();
                    eprintln!(
                        "a start failed: {}",
                        last.lines().last().unwrap_or_default()
                    );
                }
                failed += 1;
            }
        }
    }
}

/// One writer per connection: creates a key, changes it, deletes every third one; until the gateway is gone.
pub(super) fn write(
    address: SocketAddr,
    round: usize,
    session: &Value,
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
) -> io::Result<Ledger> {
    let mut client = Client::new(address, WRITERS)?;
    let mut ledger = Ledger::new();
    // Key, step within its life.
    let mut lives = vec![(String::new(), 0u32); WRITERS];
    let mut count = 0u32;
    let mut ask =
        |client: &mut Client, slot: usize, life: &mut (String, u32), ledger: &mut Ledger| {
            let (method, state) = match life.1 {
                0 => {
                    count += 1;
                    life.0 = format!("loadcrash-{round:04}-{count:06}");
                    ("POST", State::Alias("first".to_owned()))
                }
                1 => ("PUT", State::Alias("second".to_owned())),
                _ => ("DELETE", State::Gone),
            };
            let body = match &state {
                State::Alias(alias) => {
                    let mut session = session.clone();
                    session["alias"] = alias.as_str().into();
                    session
                }
                State::Gone => Value::Null,
            };
            ledger.entry(life.0.clone()).or_default().under_way = Some(state);
            let call = control_call(address, method, &format!("/tyk/keys/{}", life.0), &body)?;
            let opened = match client.is_open(slot) {
                true => Ok(()),
                false => client.open(slot),
            };
            Ok::<bool, io::Error>(opened.and_then(|()| client.ask(slot, &call, 0)).is_ok())
        };
    for (slot, life) in lives.iter_mut().enumerate() {
        ask(&mut client, slot, life, &mut ledger)?;
    }
    let mut ready = Vec::new();
    let mut alive = WRITERS;
    while alive > 0 {
        client.wait(Some(Duration::from_millis(5)), &mut ready)?;
        let is_over = stop.load(Ordering::Relaxed);
        for event in &ready {
            let slot = event.token as usize;
            match client.advance(*event) {
                Outcome::Pending => {}
                Outcome::Answer(answer) => {
                    let life = &mut lives[slot];
                    if let Some(written) = ledger.get_mut(&life.0) {
                        if answer.status == 200 {
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                            written.acknowledged = written.under_way.take();
                        } else {
                            return Err(io::Error::other(format!(
                                "a write of {} was answered {}",
                                life.0, answer.status
                            )));
                        }
                    }
                    // Two of three keys stay.
                    let is_deleted = life.0.bytes().last().is_some_and(|b| b % 3 == 0);
                    life.1 = match life.1 {
                        0 => 1,
                        1 if is_deleted => 2,
                        _ => 0,
                    };
                    if is_over || !ask(&mut client, slot, life, &mut ledger)? {
                        alive -= 1;
                    }
                }
                Outcome::ClosedIdle | Outcome::Failed(_) => alive -= 1,
            }
        }
        if is_over && ready.is_empty() {
            break;
        }
    }
    Ok(ledger)
}

/// Keys that are not as they were acknowledged, with what they are.
pub(super) fn missing(address: SocketAddr, ledger: &Ledger) -> io::Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut client = Client::new(address, WRITERS)?;
    client.keeps_body_start = true;
    client.body_start_max = 64 * 1024;
    let mut left = ledger.iter().filter(|(_, w)| w.acknowledged.is_some());
    let mut asked: Vec<Option<(&String, &Written)>> = vec![None; WRITERS];
    let mut ready = Vec::new();
    let until = Instant::now() + Duration::from_secs(120);
    let mut ask = |client: &mut Client, slot: usize| -> io::Result<Option<_>> {
        let Some((name, written)) = left.next() else {
            return Ok(None);
        };
        let call = control_call(address, "GET", &format!("/tyk/keys/{name}"), &Value::Null)?;
        let failed = |e| io::Error::other(format!("{name}: {e:?}"));
        if !client.is_open(slot) {
            client.open(slot).map_err(failed)?;
        }
        client.ask(slot, &call, 0).map_err(failed)?;
        Ok(Some((name, written)))
    };
    for (slot, place) in asked.iter_mut().enumerate() {
        *place = ask(&mut client, slot)?;
    }
    while asked.iter().any(Option::is_some) {
        client.wait(Some(Duration::from_millis(50)), &mut ready)?;
        for event in &ready {
            let slot = event.token as usize;
            match client.advance(*event) {
                Outcome::Pending | Outcome::ClosedIdle => {}
                Outcome::Answer(answer) => {
                    if let Some((name, written)) = asked[slot].take() {
                        let found = match answer.status {
                            200 => Some(client.body_start(slot).to_vec()),
                            404 => None,
                            other => return Err(io::Error::other(format!("{name}: {other}"))),
                        };
                        wrong.extend(differs(name, written, found.as_deref()));
                    }
                    if !answer.keep_alive {
                        client.close(slot);
                    }
                    asked[slot] = ask(&mut client, slot)?;
                }
                Outcome::Failed(why) => return Err(io::Error::other(format!("{why:?}"))),
            }
        }
        if Instant::now() > until {
            return Err(io::Error::other("keys cannot be read"));
        }
    }
    Ok(wrong)
}

/// What is wrong with a key: it has to be as acknowledged, or as the write that was under way.
fn differs(name: &str, written: &Written, found: Option<&[u8]>) -> Option<String> {
    let found = match found {
        None => State::Gone,
        Some(body) => {
            let session: Value = serde_json::from_slice(body).unwrap_or_default();
            State::Alias(session["alias"].as_str().unwrap_or_default().to_owned())
        }
    };
    let allowed = [&written.acknowledged, &written.under_way];
    let is_right = allowed.into_iter().flatten().any(|state| *state == found);
    (!is_right).then(|| format!("{name}: {found:?} instead of {written:?}"))
}

/// Replaces the gateway again and again while keys are created and one key's quota is used up.
pub fn upgrades(plan: &Plan, bench: &Bench) -> io::Result<bool> {
    let times = plan.times.unwrap_or(if plan.long { 10 } else { 4 });
    let quota = 20_000u64 * times as u64;
    let conf = json!({"graceful_shutdown_timeout_duration": 2});
    let apis = [site::keyed_api()];
    let site = Site::start(bench, 1, &conf, &apis, &Store::Embedded)?;
    let gateway = &site.gateways[0];
    let session = Keys::unlimited(1).session(1);
    let counted = Keys {
        quota: quota as i64,
        ..Keys::unlimited(1)
    }
    .session(1);
    let created = site::create_key(gateway, "loadupgrade", &counted)?;
    let mut checks = Checks::default();
    checks.check(
        created == 200,
        format!("the counted key was created: {created}"),
    );
    let before = site.origin_stat("requests")?;
    let stop = AtomicBool::new(false);
    let used = AtomicU64::new(0);
    let acknowledged = Mutex::new(Vec::new());
    let head = gateway.head("loadupgrade");
    let (using, acted) = thread::scope(|scope| {
        let using = scope.spawn(|| use_up(gateway.address(), &head, &stop, &used));
        scope.spawn(|| create(gateway, &session, &stop, &acknowledged));
        let acted = replace(&site, times, &mut checks);
        // The rest of the quota, so that its end is seen as well.
        let until = Instant::now() + Duration::from_secs(if plan.long { 120 } else { 30 });
        while acted.is_ok() && used.load(Ordering::Relaxed) < quota && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        (using.join(), acted)
    });
    let pid = acted?;
    let usage = using.map_err(|_| io::Error::other("the traffic thread failed"))??;
    // The last of these questions counts, too.
    let reached = site.origin_stat("requests")? - before - 1;
    println!("{usage:?}; {reached} reached the origin");
    checks.check(
        usage.failed == 0 && usage.other.is_empty(),
        format!(
            "{} failed, answered otherwise: {:?}",
            usage.failed, usage.other
        ),
    );
    checks.check(
        usage.admitted == quota && reached == quota,
        format!(
            "of a quota of {quota} were admitted {} ({reached} at the origin)",
            usage.admitted
        ),
    );
    let names = acknowledged
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let mut lost = Vec::new();
    for name in &names {
        let answer = gateway.call("GET", &format!("/tyk/keys/{name}"), &Value::Null)?;
        if answer.status != 200 {
            lost.push(name.clone());
        }
    }
    checks.check(
        !names.is_empty() && lost.is_empty(),
        format!(
            "{} keys were created meanwhile, {} of them lost {lost:?}",
            names.len(),
            lost.len()
        ),
    );
    end_successor(pid, &site);
    Ok(checks.print("upgrades with the embedded store"))
}

/// SIGUSR2 `times` times; the process that serves in the end.
fn replace(site: &Site, times: usize, checks: &mut Checks) -> io::Result<i32> {
    const READY: Duration = Duration::from_secs(35);
    let prepared = &site.gateways[0].prepared;
    let running = site.gateways[0].running.as_ref();
    let first = running.map(crate::peer::Running::pid);
    let mut pid = first.ok_or_else(|| io::Error::other("there is no process to replace"))?;
    let mut longest = Duration::ZERO;
    for nth in 0..times {
        thread::sleep(Duration::from_millis(300));
        let started = Instant::now();
        sys::kill(pid, libc::SIGUSR2)?;
        let new = loop {
            match prepared.pid_in_file() {
                Some(new) if new != pid => break new,
                _ if started.elapsed() > READY => {
                    return Err(io::Error::other(format!("replacement {nth} does not come")));
                }
                _ => thread::sleep(Duration::from_millis(5)),
            }
        };
        longest = longest.max(started.elapsed());
        let gone = Instant::now();
        while process::is_alive(pid) && gone.elapsed() < Duration::from_secs(6) {
            sys::reap(pid);
            thread::sleep(Duration::from_millis(5));
        }
        if process::is_alive(pid) {
            checks.check(false, format!("process {pid} does not go"));
        }
        pid = new;
    }
    println!("{times} replacements, the longest took {longest:.2?}");
    Ok(pid)
}

/// A replacement is no child of ours: it has to be ended by hand.
fn end_successor(pid: i32, site: &Site) {
    let prepared = &site.gateways[0].prepared;
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        if prepared.owns(pid) {
            // One that has just ended needs no signal.
            let _ = sys::kill(pid, signal);
        }
        let until = Instant::now() + Duration::from_secs(5);
        while prepared.owns(pid) && Instant::now() < until {
            sys::reap(pid);
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[derive(Clone, Default, Debug)]
struct Usage {
    admitted: u64,
    refused: u64,
    /// By status.
    other: BTreeMap<u16, u64>,
    failed: u64,
}

/// Uses a quota up over 8 connections, some 4,000 requests a second, until told to stop.
fn use_up(
    address: SocketAddr,
    head: &[u8],
    stop: &AtomicBool,
    used: &AtomicU64,
) -> io::Result<Usage> {
    const SLOTS: usize = 8;
    let mut client = Client::new(address, SLOTS)?;
    let mut usage = Usage::default();
    let mut free: Vec<usize> = (0..SLOTS).collect();
    let mut ready = Vec::new();
    loop {
        let is_over = stop.load(Ordering::Relaxed);
        if is_over && free.len() == SLOTS {
            return Ok(usage);
        }
        while !is_over && let Some(slot) = free.pop() {
            let opened = match client.is_open(slot) {
                true => Ok(()),
                false => client.open(slot),
            };
            if opened.and_then(|()| client.ask(slot, head, 0)).is_err() {
                client.close(slot);
                usage.failed += 1;
                free.insert(0, slot);
                break;
            }
        }
        client.wait(Some(Duration::from_millis(20)), &mut ready)?;
        for event in &ready {
            let slot = event.token as usize;
            match client.advance(*event) {
                Outcome::Pending | Outcome::ClosedIdle => continue,
                Outcome::Answer(answer) => {
                    match answer.status {
                        200..300 => usage.admitted += 1,
                        403 => usage.refused += 1,
                        status => *usage.other.entry(status).or_default() += 1,
                    }
                    if !answer.keep_alive {
                        client.close(slot);
                    }
                }
                Outcome::Failed(_) => usage.failed += 1,
            }
            free.push(slot);
        }
        used.store(usage.admitted, Ordering::Relaxed);
        for slot in client.stuck(Duration::from_secs(10)) {
            client.close(slot);
            usage.failed += 1;
            free.push(slot);
        }
        if usage.failed > 10_000 {
            return Err(io::Error::other(format!("the gateway is gone: {usage:?}")));
        }
    }
}

/// Creates keys one after the other; remembers those that were acknowledged.
fn create(
    gateway: &site::Gateway,
    session: &Value,
    stop: &AtomicBool,
    acknowledged: &Mutex<Vec<String>>,
) {
    for nth in 0u32.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("loadnew-{nth:06}");
        // Between two processes a write may be refused; it must not be lost.
        if site::create_key(gateway, &name, session).is_ok_and(|status| status == 200) {
            let mut names = acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            names.push(name);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "what `check` takes")]
    fn alias(text: &str) -> Option<State> {
        Some(State::Alias(text.to_owned()))
    }

    #[track_caller]
    fn check(
        acknowledged: Option<State>,
        under_way: Option<State>,
        found: Option<&str>,
        is_right: bool,
    ) {
        let written = Written {
            acknowledged,
            under_way,
        };
        let body = found.map(|alias| json!({"alias": alias}).to_string().into_bytes());
        let wrong = differs("key", &written, body.as_deref());
        assert_eq!(wrong.is_none(), is_right, "{wrong:?}");
    }

    #[test]
    fn a_key_is_as_acknowledged_or_as_the_write_under_way() {
        check(alias("first"), None, Some("first"), true);
        check(alias("first"), alias("second"), Some("second"), true);
        check(alias("second"), Some(State::Gone), None, true);
        check(alias("first"), None, None, false);
        check(alias("second"), None, Some("first"), false);
        check(Some(State::Gone), None, Some("second"), false);
    }
}
