//! Availability cases: traffic goes on while the gateway is reloaded, replaced, ended or starved.
//!
//! The ids come from the reliability plan: R1 and R2 reload, R3 and R4 broken definitions, R5 replacement by
//! SIGUSR2, R6 SIGTERM, R9 descriptor exhaustion. `race` is the keep-alive race with a hasty origin,
//! `plain` does nothing and shows that the traffic itself is clean. A case passes when all its checks do.

use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{
    client::{Client, Outcome, Request},
    peer::{self, Bench, Folder, Prepared, Running, SECRET},
    probe, process,
    process::Tree,
    scenario::{Candidate, Kind},
    site::Checks,
    sys,
    traffic::{self, Ledger, Mix, Signals, StreamLedger},
};

/// What to do to whom, for how long. What is not given follows from the case.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    #[arg(long, value_enum)]
    pub case: Case,
    /// Length of the case (the plan's own length when not given).
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Seconds between two actions.
    #[arg(long)]
    pub every: Option<f64>,
    /// Keep-alive connections.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Milliseconds each of them rests between two exchanges.
    #[arg(long)]
    pub gap_ms: Option<u64>,
    #[arg(long, default_value_t = 50)]
    pub websockets: usize,
    #[arg(long, default_value_t = 20)]
    pub event_streams: usize,
    /// New connections per second beside the rest.
    #[arg(long)]
    pub storm: Option<f64>,
    /// Number of API definitions.
    #[arg(long)]
    pub apis: Option<usize>,
    /// Number of reloads (R2).
    #[arg(long, default_value_t = 2600)]
    pub reloads: usize,
    /// JSON merged into every API definition.
    #[arg(long)]
    pub overlay: Option<PathBuf>,
    /// Who is tested; others than penstock only show that the tool works.
    #[arg(long, value_enum, default_value_t = Target::Penstock)]
    pub kind: Target,
    /// Seconds after which a replaced process must be gone, or an ending one must have ended.
    #[arg(long, default_value_t = 5.0)]
    pub drain_s: f64,
    /// Seconds an ending gateway goes on accepting after it said that it is not ready (R6).
    #[arg(long, default_value_t = 2)]
    pub ready_delay_s: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Case {
    Plain,
    #[value(name = "R1")]
    R1,
    #[value(name = "R2")]
    R2,
    #[value(name = "R3")]
    R3,
    #[value(name = "R4")]
    R4,
    #[value(name = "R5")]
    R5,
    #[value(name = "R6")]
    R6,
    #[value(name = "R9")]
    R9,
    Race,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Target {
    Penstock,
    Nginx,
    Haproxy,
    Tyk,
    Direct,
}

/// APIs that R1 adds and removes; the traffic leaves them alone.
const CHURNED: usize = 10;
/// The origin answers 30 ms after a beat and closes a second later: just as the next beat arrives.
const RACE_GAP_MS: u64 = 1030;
/// Time a started replacement has to become ready.
const READY_LIMIT: Duration = Duration::from_secs(35);

/// Runs one case and prints what it found; true when every check passed.
pub fn run(plan: &Plan, bench: &Bench) -> io::Result<bool> {
    sys::adopt_orphans();
    let mut site = Site::new(plan, bench)?;
    let mut checks = Checks::default();
    let outcome = match plan.case {
        Case::R2 => many_reloads(plan, &site, &mut checks),
        Case::R9 => starve(plan, &site, &mut checks),
        _ => under_traffic(plan, &mut site, &mut checks),
    };
    if let Err(e) = outcome {
        checks.check(false, format!("the case could not be finished: {e}"));
    }
    Ok(checks.print(&format!("{:?}", plan.case)))
}

/// The gateway, its origin and their files.
struct Site {
    prepared: Prepared,
    running: Option<Running>,
    origin_log: PathBuf,
    origin_address: SocketAddr,
    control: SocketAddr,
    overlay: Value,
    _origin: Running,
    _folder: Folder,
}

impl Site {
    fn new(plan: &Plan, bench: &Bench) -> io::Result<Self> {
        let folder = Folder::new("origin", bench.keeps_folders)?;
        let origin_log = folder.path().join("ids");
        let mut options = vec!["--log-ids".to_owned(), origin_log.display().to_string()];
        if plan.case == Case::Race {
            // All exchanges of one beat overlap, so each has an upstream connection that then rests for a second.
            options.extend(["--close-after-idle-ms", "1000"].map(str::to_owned));
            options.extend(["--close-latency-ms", "2"].map(str::to_owned));
            options.extend(["--answer-after-ms", "30"].map(str::to_owned));
        }
        let (origin, origin_address) = peer::start_origin(bench, folder.path(), &options)?;
        let overlay = match &plan.overlay {
            Some(path) => serde_json::from_str(&fs::read_to_string(path)?)?,
            None => Value::Null,
        };
        let control = sys::free_address()?;
        let candidate = plan.candidate(&overlay, control);
        let mut bench = bench.clone();
        if plan.case == Case::R9 {
            bench.descriptors = 1024;
        }
        let prepared = Prepared::new(&candidate, &bench, origin_address)?;
        prepared.check_files()?;
        let running = prepared.start()?;
        let has_control_port = plan.case == Case::R9 && plan.kind == Target::Penstock;
        Ok(Self {
            control: match has_control_port {
                true => control,
                false => prepared.address,
            },
            prepared,
            running,
            origin_log,
            origin_address,
            overlay,
            _origin: origin,
            _folder: folder,
        })
    }

    fn tree(&self) -> io::Result<Tree> {
        let running = self.running.as_ref().ok_or_else(no_process)?;
        Ok(running.tree())
    }

    fn reload(&self) -> io::Result<Duration> {
        let running = self.running.as_ref().ok_or_else(no_process)?;
        let started = Instant::now();
        self.prepared.reload(running).map(|()| started.elapsed())
    }

    fn status(&self, nth: usize) -> io::Result<u16> {
        let path = self.prepared.listen_path(nth);
        let limit = Duration::from_secs(5);
        probe::get(self.prepared.address, &path, &[], limit).map(|answer| answer.status)
    }

    /// The process that serves now: a replaced gateway is no child of ours any more.
    fn pid(&self) -> io::Result<i32> {
        let started = self.running.as_ref().map(Running::pid);
        let found = self.prepared.pid_in_file().or(started);
        found.ok_or_else(no_process)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // A replacement has to be ended by hand.
        let Some(pid) = self.prepared.pid_in_file() else {
            return;
        };
        if self.running.as_ref().is_some_and(|r| r.pid() == pid) {
            return;
        }
        let _ = sys::kill(pid, libc::SIGTERM);
        let until = Instant::now() + Duration::from_secs(8);
        while self.prepared.owns(pid) && Instant::now() < until {
            sys::reap(pid);
            thread::sleep(Duration::from_millis(10));
        }
        if self.prepared.owns(pid) {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        sys::reap(pid);
    }
}

impl Plan {
    fn candidate(&self, overlay: &Value, control: SocketAddr) -> Candidate {
        let kind = match self.kind {
            Target::Penstock => Kind::Penstock,
            Target::Nginx => Kind::Nginx,
            Target::Haproxy => Kind::Haproxy,
            Target::Tyk => Kind::Tyk,
            Target::Direct => Kind::Direct,
        };
        let mut conf = match self.case {
            Case::R5 => json!({"graceful_shutdown_timeout_duration": self.drain_s as u64}),
            Case::R6 => json!({
                "graceful_shutdown_timeout_duration": 15,
                "graceful_shutdown_delay_seconds": self.ready_delay_s,
            }),
            Case::R9 => json!({"control_api_port": control.port()}),
            _ => json!({}),
        };
        if kind == Kind::Penstock {
            // Hand-over between shards belongs to what is tested.
            conf["penstock"] = json!({"shards": 2});
        }
        Candidate {
            name: format!("{:?}", self.kind).to_lowercase(),
            kind,
            apis: self.apis(),
            api: overlay.clone(),
            conf,
            ..Candidate::new("", kind)
        }
    }

    fn apis(&self) -> usize {
        let usual = match self.case {
            Case::R1 | Case::R2 | Case::R3 | Case::R4 | Case::R5 => 500,
            _ => 1,
        };
        match self.kind {
            Target::Direct => 1,
            _ => self.apis.unwrap_or(usual),
        }
    }

    fn seconds(&self) -> f64 {
        let usual = match self.case {
            Case::R5 => 300.0,
            Case::Race => 600.0,
            Case::R1 => 60.0,
            _ => 10.0,
        };
        self.seconds.unwrap_or(usual)
    }

    fn every(&self) -> Duration {
        let usual = match self.case {
            Case::R5 => 10.0,
            _ => 1.0,
        };
        Duration::from_secs_f64(self.every.unwrap_or(usual))
    }

    fn mix(&self, site: &Site) -> Mix {
        let apis = self.apis();
        let base_paths = match apis {
            1 => vec![site.prepared.base_path.clone()],
            _ => (CHURNED.min(apis - 1)..apis)
                .map(|nth| site.prepared.listen_path(nth))
                .collect(),
        };
        let is_race = self.case == Case::Race;
        // nginx needs a configuration of its own for WebSockets; it is here to try the tool only.
        let websockets = match self.kind {
            _ if is_race => 0,
            Target::Nginx => 0,
            _ => self.websockets,
        };
        let storm = match self.case {
            Case::R5 => 2000.0,
            _ => 0.0,
        };
        Mix {
            target: site.prepared.address,
            base_paths,
            connections: self.connections,
            gap: Duration::from_millis(self.gap_ms.unwrap_or(if is_race {
                RACE_GAP_MS
            } else {
                50
            })),
            jitter: Duration::from_millis(10),
            in_step: is_race,
            post_every: 4,
            storm_per_s: self.storm.unwrap_or(storm),
            websockets,
            event_streams: if is_race { 0 } else { self.event_streams },
        }
    }
}

/// Traffic in two threads, the case's action in this one, then the ledgers are closed and compared.
fn under_traffic(plan: &Plan, site: &mut Site, checks: &mut Checks) -> io::Result<()> {
    let mix = plan.mix(site);
    let signals = Signals::default();
    let acted = thread::scope(|scope| {
        let exchanging = scope.spawn(|| traffic::exchanges(&mix, &signals, 1));
        let streaming = scope.spawn(|| traffic::streams(&mix, &signals));
        let acted = act(plan, site, &signals, checks);
        signals.stop.store(true, Ordering::Relaxed);
        let ledger = exchanging.join();
        let streams = streaming.join();
        (acted, ledger, streams)
    });
    let (acted, ledger, streams) = acted;
    let died = |_| io::Error::other("a traffic thread failed");
    judge(
        plan,
        site,
        &ledger.map_err(died)??,
        &streams.map_err(died)??,
        checks,
    )?;
    acted
}

fn judge(
    plan: &Plan,
    site: &Site,
    ledger: &Ledger,
    streams: &StreamLedger,
    checks: &mut Checks,
) -> io::Result<()> {
    // The origin writes its log at the end of each turn, 50 ms at the latest.
    thread::sleep(Duration::from_millis(150));
    let ids = ledger.compare(&site.origin_log)?;
    print!("{ledger}{streams}");
    println!(
        "ids: {} asked, {} answered, {} GETs reached the origin twice",
        ids.asked, ids.answered, ids.gets_twice
    );
    let is_race = plan.case == Case::Race;
    let failed = if is_race {
        // A POST on a connection that the origin is closing may fail; it may not be repeated.
        println!("POSTs failed: {}", ledger.post_failures);
        let limit = Duration::from_secs(5);
        let stats = probe::get(site.origin_address, "/stats", &[], limit)?;
        let stats: Value = serde_json::from_slice(&stats.body)?;
        let cut = stats["cut"].as_u64().unwrap_or(0);
        checks.check(cut > 0, format!("{cut} requests met a closing connection"));
        ledger.get_failures
    } else {
        ledger.failed()
    };
    checks.check(
        ids.answered > 0,
        format!("{} requests answered", ids.answered),
    );
    checks.check(failed == 0, format!("{failed} failed requests"));
    checks.check(
        ids.answered_by_nobody == 0,
        format!("{} answered without the origin", ids.answered_by_nobody),
    );
    checks.check(
        ids.posts_twice == 0,
        format!("{} POSTs reached the origin twice", ids.posts_twice),
    );
    checks.check(
        ledger.crossed == 0,
        format!("{} answers went to the wrong client", ledger.crossed),
    );
    checks.check(
        streams.broken == 0,
        format!("{} streams broken", streams.broken),
    );
    let may_drain = matches!(plan.case, Case::R5 | Case::R6);
    if !may_drain {
        checks.check(
            streams.drained == 0,
            format!("{} streams ended by the gateway", streams.drained),
        );
    }
    Ok(())
}

fn act(plan: &Plan, site: &mut Site, signals: &Signals, checks: &mut Checks) -> io::Result<()> {
    // The traffic has to run before anything is done to it.
    let until = Instant::now() + Duration::from_secs(5);
    while signals.answered.load(Ordering::Relaxed) < 100 && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    let end = Instant::now() + Duration::from_secs_f64(plan.seconds());
    match plan.case {
        Case::R1 => reload_repeatedly(plan, site, end, checks),
        Case::R3 => reload_broken(site, checks),
        Case::R4 => reload_without_files(site, checks),
        Case::R5 => replace_repeatedly(plan, site, end, checks),
        Case::R6 => terminate(plan, site, signals, checks),
        Case::Plain | Case::Race | Case::R2 | Case::R9 => {
            thread::sleep(end.saturating_duration_since(Instant::now()));
            Ok(())
        }
    }
}

/// R1: ten APIs come and go.
fn reload_repeatedly(
    plan: &Plan,
    site: &Site,
    end: Instant,
    checks: &mut Checks,
) -> io::Result<()> {
    let has_files = matches!(plan.kind, Target::Penstock | Target::Tyk);
    let mut spans = Vec::new();
    let mut latest_ms = 0.0f64;
    let mut present = true;
    while Instant::now() < end {
        let next = Instant::now() + plan.every();
        if has_files {
            present = !present;
            for nth in 0..CHURNED {
                match present {
                    true => site
                        .prepared
                        .write_api(nth, site.origin_address, &site.overlay)?,
                    false => site.prepared.remove_api(nth)?,
                }
            }
        }
        spans.push(site.reload()?.as_secs_f64());
        if has_files {
            let since = Instant::now();
            let wanted = if present { 200 } else { 404 };
            while site.status(CHURNED - 1)? != wanted && since.elapsed() < Duration::from_secs(5) {
                thread::sleep(Duration::from_millis(1));
            }
            latest_ms = latest_ms.max(since.elapsed().as_secs_f64() * 1e3);
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let longest = spans.iter().copied().fold(0.0, f64::max);
    println!("{} reloads, the longest took {longest:.3} s", spans.len());
    checks.check(!spans.is_empty(), format!("{} reloads", spans.len()));
    checks.check(
        latest_ms <= 100.0,
        format!(
            "added and removed APIs take effect {latest_ms:.1} ms after the answer at the latest"
        ),
    );
    Ok(())
}

/// R2: memory, descriptors and threads after many reloads against those after a hundred.
fn many_reloads(plan: &Plan, site: &Site, checks: &mut Checks) -> io::Result<()> {
    let settle = Duration::from_secs(2);
    let mut early = None;
    let mut peak_ratio = 0.0f64;
    let first = plan.reloads.min(100);
    for nth in 1..=plan.reloads {
        let change = json!({"name": format!("reload {nth}")});
        let api = nth % plan.apis();
        site.prepared.write_api(api, site.origin_address, &change)?;
        let tree = site.tree()?;
        let steady = tree.memory().rss;
        tree.reset_peak();
        site.reload()?;
        if nth > first {
            peak_ratio = peak_ratio.max(tree.memory().peak as f64 / steady as f64);
        }
        let status = site.status(api)?;
        if status != 200 {
            checks.check(
                false,
                format!("API {api} answers {status} after reload {nth}"),
            );
            return Ok(());
        }
        if nth == first {
            thread::sleep(settle);
            let tree = site.tree()?;
            early = Some((tree.memory().rss, tree.descriptors(), tree.threads()));
        }
        if nth % 200 == 0 {
            let mb = site.tree()?.memory().rss as f64 / 1e6;
            eprintln!("{nth} reloads, {mb:.1} MB");
        }
    }
    thread::sleep(settle);
    let tree = site.tree()?;
    let (rss, descriptors, threads) = (tree.memory().rss, tree.descriptors(), tree.threads());
    let Some((early_rss, early_descriptors, early_threads)) = early else {
        return Ok(());
    };
    let allowed = (early_rss / 20).max(10 << 20);
    checks.check(
        rss <= early_rss + allowed,
        format!(
            "memory {:.1} MB after {first} reloads, {:.1} MB after {}",
            early_rss as f64 / 1e6,
            rss as f64 / 1e6,
            plan.reloads
        ),
    );
    checks.check(
        descriptors == early_descriptors,
        format!("descriptors {early_descriptors}, then {descriptors}"),
    );
    checks.check(
        threads == early_threads,
        format!("threads {early_threads}, then {threads}"),
    );
    checks.check(
        peak_ratio <= 1.3,
        format!("peak during one reload {peak_ratio:.2} × steady"),
    );
    Ok(())
}

/// R3: one broken definition; the others go on and the new ones among them take effect.
fn reload_broken(site: &Site, checks: &mut Checks) -> io::Result<()> {
    let apps = site.prepared.folder.path().join("apps");
    fs::write(
        apps.join(format!("{}.json", peer::api_id(0))),
        "{\"api_id\": ",
    )?;
    site.prepared.remove_api(1)?;
    let answer = site.reload();
    println!("reload with one broken definition: {answer:?}");
    let broken = site.status(0)?;
    println!("the broken one answers {broken}");
    checks.check(
        matches!(broken, 200 | 404),
        format!("the broken one answers {broken} (its old version, or nothing)"),
    );
    let removed = site.status(1)?;
    checks.check(removed == 404, format!("a removed one answers {removed}"));
    let other = site.status(2)?;
    checks.check(other == 200, format!("an untouched one answers {other}"));
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// R4: the folder of definitions is gone; the previous table stays.
fn reload_without_files(site: &Site, checks: &mut Checks) -> io::Result<()> {
    let apps = site.prepared.folder.path().join("apps");
    let aside = site.prepared.folder.path().join("apps.aside");
    fs::rename(&apps, &aside)?;
    println!("reload without files: {:?}", site.reload());
    for nth in [0, CHURNED, CHURNED + 1] {
        let status = site.status(nth)?;
        checks.check(status == 200, format!("API {nth} answers {status}"));
    }
    let ready = probe::get(site.control, "/ready", &[], Duration::from_secs(5))?;
    checks.check(ready.status == 200, format!("/ready says {}", ready.status));
    fs::rename(&aside, &apps)?;
    site.reload()?;
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// R5: a new process takes over, again and again.
fn replace_repeatedly(
    plan: &Plan,
    site: &Site,
    end: Instant,
    checks: &mut Checks,
) -> io::Result<()> {
    let mut count = 0;
    let (mut longest_ready, mut longest_drain) = (0.0f64, 0.0f64);
    while Instant::now() < end {
        let next = Instant::now() + plan.every();
        let old = site.pid()?;
        sys::kill(old, libc::SIGUSR2)?;
        let started = Instant::now();
        let new = loop {
            match site.prepared.pid_in_file() {
                Some(pid) if pid != old => break Some(pid),
                _ if started.elapsed() > READY_LIMIT => break None,
                _ => thread::sleep(Duration::from_millis(5)),
            }
        };
        let Some(new) = new else {
            checks.check(
                false,
                format!("replacement {count}: no new pid in the pid file"),
            );
            return Ok(());
        };
        longest_ready = longest_ready.max(started.elapsed().as_secs_f64());
        let handed_over = Instant::now();
        let slack = Duration::from_secs(2);
        let limit = Duration::from_secs_f64(plan.drain_s) + slack;
        while process::is_alive(old) && handed_over.elapsed() < limit {
            sys::reap(old);
            thread::sleep(Duration::from_millis(5));
        }
        longest_drain = longest_drain.max(handed_over.elapsed().as_secs_f64());
        if process::is_alive(old) {
            checks.check(
                false,
                format!("process {old} is still there after {limit:?}"),
            );
        }
        if !process::is_alive(new) {
            checks.check(false, format!("process {new} has died"));
            return Ok(());
        }
        count += 1;
        eprintln!("replacement {count}: {old} → {new}");
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    println!(
        "{count} replacements; ready after {longest_ready:.2} s, old gone after {longest_drain:.2} s at the latest"
    );
    checks.check(count > 0, format!("{count} replacements"));
    Ok(())
}

/// R6: SIGTERM while an answer takes ten seconds.
fn terminate(
    plan: &Plan,
    site: &mut Site,
    signals: &Signals,
    checks: &mut Checks,
) -> io::Result<()> {
    let address = site.prepared.address;
    let path = format!("{}stall/10000", site.prepared.base_path);
    let pid = site.pid()?;
    let signal = match site.prepared.kind {
        Kind::Nginx => libc::SIGQUIT,
        Kind::Haproxy => libc::SIGUSR1,
        _ => libc::SIGTERM,
    };
    let is_gateway = site.prepared.kind == Kind::Penstock;
    let grace = match is_gateway {
        true => Duration::from_secs(plan.ready_delay_s),
        false => Duration::ZERO,
    };
    let timeout = Duration::from_secs(15);
    let (slow, unready, exit) = thread::scope(|scope| {
        let slow = scope.spawn(move || probe::get(address, &path, &[], Duration::from_secs(30)));
        thread::sleep(Duration::from_millis(500));
        let told = Instant::now();
        if grace.is_zero() {
            signals.is_ending.store(true, Ordering::Relaxed);
        }
        let sent = sys::kill(pid, signal);
        let mut unready = None;
        while is_gateway && unready.is_none() && told.elapsed() < Duration::from_secs(2) {
            match probe::get(address, "/ready", &[], Duration::from_secs(1)) {
                Ok(answer) if answer.status == 503 => unready = Some(told.elapsed()),
                Ok(_) => thread::sleep(Duration::from_millis(5)),
                Err(_) => break,
            }
        }
        // New connections are served until a balancer can have noticed; then it opens no more.
        thread::sleep((grace / 2).saturating_sub(told.elapsed()));
        signals.is_ending.store(true, Ordering::Relaxed);
        let mut exit = None;
        while exit.is_none() && told.elapsed() < timeout + Duration::from_secs(5) {
            let ended = site.running.as_mut().is_none_or(Running::has_ended);
            if ended {
                exit = Some(told.elapsed());
            }
            thread::sleep(Duration::from_millis(5));
        }
        (sent.and(Ok(slow.join())), unready, exit)
    });
    let slow = slow?.map_err(|_| io::Error::other("the slow request's thread failed"))?;
    let told = match &slow {
        Ok(answer) => answer.status.to_string(),
        Err(e) => e.to_string(),
    };
    checks.check(
        slow.is_ok_and(|answer| answer.status == 200),
        format!("the answer that was under way: {told}"),
    );
    if is_gateway {
        checks.check(
            unready.is_some(),
            format!("/ready says 503 after {unready:?}, while connections are still served"),
        );
    }
    checks.check(
        exit.is_some_and(|exit| exit <= timeout + Duration::from_secs(3)),
        format!("ended after {exit:?}"),
    );
    Ok(())
}

/// R9: 1,024 descriptors, 3,000 clients.
fn starve(plan: &Plan, site: &Site, checks: &mut Checks) -> io::Result<()> {
    const CLIENTS: usize = 3000;
    let mut client = Client::new(site.prepared.address, CLIENTS)?;
    let head = Request::get(site.prepared.address, &site.prepared.base_path).encode();
    let mut tally = Tally::default();
    for slot in 0..CLIENTS {
        let asked = client.open(slot).and_then(|()| client.ask(slot, &head, 0));
        if asked.is_err() {
            tally.failed += 1;
            client.close(slot);
        }
        if slot % 50 == 0 {
            tally.turn(&mut client, Duration::ZERO)?;
        }
    }
    tally.turn(&mut client, Duration::from_secs(2))?;
    println!(
        "{CLIENTS} clients: {} answered, {} refused or cut, the rest waits",
        tally.answered, tally.failed
    );
    let tree = site.tree()?;
    let log = site.prepared.folder.path().join("penstock.log");
    let log_before = fs::metadata(&log).map_or(0, |m| m.len());
    let (before, span) = (tree.cpu_ns(), plan.seconds().min(10.0));
    tally.turn(&mut client, Duration::from_secs_f64(span))?;
    let cores = (tree.cpu_ns() - before) as f64 / 1e9 / span;
    let logged = fs::metadata(&log).map_or(0, |m| m.len()) - log_before;
    checks.check(cores < 0.5, format!("{cores:.3} cores busy while starved"));
    checks.check(
        logged < 64 * 1024,
        format!("{logged} bytes logged in {span} s while starved"),
    );
    if site.prepared.kind == Kind::Penstock {
        let auth = [("x-tyk-authorization", SECRET)];
        let answer = probe::get(site.control, "/tyk/apis", &auth, Duration::from_secs(3));
        let shown = answer.as_ref().map(|a| a.status);
        checks.check(
            shown.as_ref().is_ok_and(|s| *s == 200),
            format!("the control API answers {shown:?} while starved"),
        );
    }
    for slot in 0..CLIENTS {
        if !client.is_busy(slot) {
            client.close(slot);
        }
    }
    let waiting = (0..CLIENTS).filter(|s| client.is_busy(*s)).count();
    let (answered, failed) = (tally.answered, tally.failed);
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until && (0..CLIENTS).any(|s| client.is_busy(s)) {
        tally.turn(&mut client, Duration::from_millis(50))?;
        for slot in 0..CLIENTS {
            if !client.is_busy(slot) {
                client.close(slot);
            }
        }
    }
    let late = tally.answered - answered;
    checks.check(
        late == waiting && tally.failed == failed,
        format!(
            "of {waiting} clients that waited {late} were answered once descriptors were free, {} cut",
            tally.failed - failed
        ),
    );
    let status = site.status(0)?;
    checks.check(status == 200, format!("a new client is answered {status}"));
    Ok(())
}

/// Answers and failures of the starved clients.
#[derive(Default)]
struct Tally {
    answered: usize,
    failed: usize,
}

impl Tally {
    fn turn(&mut self, client: &mut Client, span: Duration) -> io::Result<()> {
        let until = Instant::now() + span;
        let mut ready = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            client.wait(Some(left.min(Duration::from_millis(50))), &mut ready)?;
            for event in &ready {
                match client.advance(*event) {
                    Outcome::Answer(answer) if answer.status == 200 => self.answered += 1,
                    Outcome::Answer(_) | Outcome::Failed(_) => self.failed += 1,
                    Outcome::Pending | Outcome::ClosedIdle => {}
                }
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }
}

fn no_process() -> io::Error {
    io::Error::other("there is no process to act on")
}
