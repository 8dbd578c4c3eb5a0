//! Runs scenarios: every candidate on the same core, in mirror order (A B … B A) round after round.
//!
//! A linear drift of the machine inside a round falls on both slots of every candidate alike, so each round
//! gives one fair ratio; medians and quartiles over the rounds decide (see `stats`).

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    client::{Client, Outcome, Request},
    drive::{self, Edge},
    fleet::{Neighbours, Pump},
    heads::Heads,
    open,
    peer::{self, Bench, Folder, Prepared, Running, SECRET},
    process::{MachineCpu, Tree, machine_cpu},
    report::{self, Row, Section},
    scenario::{Kind, Mode, Scenario},
    stats::{ROUNDS_MIN, Verdict},
    sys,
};

/// What the command line decides.
#[derive(Clone, Debug)]
pub struct Settings {
    pub bench: Bench,
    pub rounds: Option<usize>,
    pub seconds: Option<f64>,
    pub only: Vec<String>,
    /// Measures although other work disturbs.
    pub force: bool,
    /// Folder that receives one folder of results; `None` leaves nothing behind.
    pub results: Option<PathBuf>,
    pub command_line: String,
    /// A second penstock binary, measured beside the first (a change before and after).
    pub against: bool,
}

/// What a run came to.
#[derive(Clone, Copy, Default, Debug)]
pub struct Outcomes {
    pub faults: u64,
    pub missed: usize,
}

/// Cores that may be busy with other work before a run is refused.
const DISTURBANCE_MAX: f64 = 0.15;

/// Runs the scenarios one after the other and writes one folder of results.
pub fn run(mut scenarios: Vec<Scenario>, settings: &Settings) -> io::Result<Outcomes> {
    let _lock = exclusive()?;
    let mut notes = Vec::new();
    match disturbance() {
        Some(why) if settings.force => {
            eprintln!("WARNING: {why}; measuring anyway (--force)");
            notes.push(format!("forced: {why}"));
        }
        Some(why) => {
            return Err(io::Error::other(format!(
                "refusing to measure: {why}; wait, or use --force"
            )));
        }
        None => {}
    }
    let mut tools = BTreeMap::new();
    let mut sections = Vec::new();
    for scenario in &mut scenarios {
        adapt(scenario, settings, &mut notes);
        for candidate in &scenario.candidates {
            if let (false, Some(path)) = (
                candidate.kind == Kind::Direct,
                settings.bench.binary(candidate),
            ) {
                tools.insert(candidate.name.clone(), path);
            }
        }
        if let Some(core) = settings.bench.load_core {
            sys::pin_thread(core)?;
        }
        let rows = measure(scenario, settings)?;
        let section = Section {
            scenario: scenario.clone(),
            rows,
        };
        eprintln!("{}", section.to_markdown());
        sections.push(section);
    }
    if let Some(base) = &settings.results {
        let tools: Vec<_> = tools.into_iter().collect();
        let folder = report::results_folder(base)?;
        write_results(&folder, &sections, settings, &tools, &notes)?;
    }
    let missed = |s: &Section| {
        let decisions = s.decisions();
        let missed = decisions
            .iter()
            .filter(|d| d.verdict == Some(Verdict::Missed));
        missed.count()
    };
    Ok(Outcomes {
        faults: sections.iter().map(Section::faults).sum(),
        missed: sections.iter().map(missed).sum(),
    })
}

fn write_results(
    folder: &Path,
    sections: &[Section],
    settings: &Settings,
    tools: &[(String, PathBuf)],
    notes: &[String],
) -> io::Result<()> {
    let rows: Vec<Row> = sections.iter().flat_map(|s| s.rows.clone()).collect();
    fs::write(folder.join("raw.csv"), report::to_csv(&rows))?;
    let environment = report::environment(&settings.command_line, tools, notes);
    fs::write(folder.join("env.txt"), environment)?;
    let mut summary = "# Side by side\n\n".to_owned();
    for note in notes {
        summary.push_str(&format!("Note: {note}.\n\n"));
    }
    for section in sections {
        summary.push_str(&section.to_markdown());
    }
    fs::write(folder.join("summary.md"), summary)?;
    eprintln!("results in {}", folder.display());
    Ok(())
}

/// Applies the command line to a scenario and leaves out whom this machine does not have.
fn adapt(scenario: &mut Scenario, settings: &Settings, notes: &mut Vec<String>) {
    if settings.against {
        let penstocks = scenario.candidates.iter();
        let earlier: Vec<_> = penstocks
            .filter(|c| c.kind == Kind::Penstock && c.name == "penstock")
            .cloned()
            .collect();
        for mut candidate in earlier {
            candidate.name = "before".to_owned();
            scenario.candidates.push(candidate);
            scenario
                .comparisons
                .extend(figures_of(scenario.mode).iter().map(|figure| {
                    crate::scenario::Comparison {
                        subject: "penstock".to_owned(),
                        against: "before".to_owned(),
                        figure: (*figure).to_owned(),
                        by: crate::scenario::By::default(),
                        above: None,
                        at_most: None,
                    }
                }));
        }
    }
    let mut left_out = Vec::new();
    for candidate in &scenario.candidates {
        let wanted = settings.only.is_empty() || settings.only.contains(&candidate.name);
        if !wanted {
            left_out.push(candidate.name.clone());
        } else if settings.bench.binary(candidate).is_none() {
            let note = format!("{}: {} is not here", scenario.name, candidate.name);
            eprintln!("{note}");
            notes.push(note);
            left_out.push(candidate.name.clone());
        }
    }
    scenario.keep(|candidate| !left_out.contains(&candidate.name));
    scenario.rounds = settings.rounds.unwrap_or(scenario.rounds);
    scenario.seconds = settings.seconds.unwrap_or(scenario.seconds);
    if scenario.rounds < ROUNDS_MIN && scenario.comparisons.iter().any(|c| c.at_most.is_some()) {
        notes.push(format!(
            "{}: {} rounds are fewer than the {ROUNDS_MIN} a verdict needs",
            scenario.name, scenario.rounds
        ));
    }
}

fn figures_of(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Closed => &["cpu_us"],
        Mode::Open => &["cpu_us", "p50_us", "p999_us"],
        Mode::Start => &["ready_s", "ready_cpu_s"],
        Mode::Reload => &["reload_s", "p999_reload_us"],
        Mode::Idle => &["idle_rss_mb", "idle_connection_bytes"],
    }
}

/// One run at a time on this machine.
fn exclusive() -> io::Result<File> {
    let path = std::env::temp_dir().join("penstock-loadtest.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another load test to end");
        file.lock()?;
    }
    Ok(file)
}

/// What disturbs a measurement just now, if anything does.
pub fn disturbance() -> Option<String> {
    let before = machine_cpu().ok()?;
    let started = Instant::now();
    thread::sleep(Duration::from_secs(1));
    let after = machine_cpu().ok()?;
    let cores = share(before, after, started.elapsed().as_secs_f64()).0;
    if cores > DISTURBANCE_MAX {
        return Some(format!("{cores:.2} cores are busy with other work"));
    }
    let load = crate::process::load_average();
    (load > 1.5).then(|| format!("the load average is {load:.2}"))
}

/// Busy and stolen cores between two readings.
fn share(before: MachineCpu, after: MachineCpu, seconds: f64) -> (f64, f64) {
    let of = |a: Duration, b: Duration| b.saturating_sub(a).as_secs_f64() / seconds;
    (of(before.busy, after.busy), of(before.stolen, after.stolen))
}

fn measure(scenario: &Scenario, settings: &Settings) -> io::Result<Vec<Row>> {
    let bench = &settings.bench;
    let folder = Folder::new("origin", bench.keeps_folders)?;
    let (origin, origin_address) = peer::start_origin(bench, folder.path(), &[])?;
    let mut peers = Vec::new();
    for candidate in &scenario.candidates {
        let prepared = Prepared::new(candidate, bench, origin_address)?;
        prepared.check_files()?;
        let stays = matches!(scenario.mode, Mode::Closed | Mode::Open | Mode::Reload);
        let redis = prepared.redis();
        let neighbours = redis.filter(|_| candidate.neighbours > 0);
        let neighbours = neighbours.map(|r| Neighbours::start(r, candidate.neighbours, SECRET));
        let pump = redis.filter(|_| candidate.pump).map(Pump::start);
        let running = if stays { prepared.start()? } else { None };
        peers.push(Peer {
            prepared,
            running,
            keys: candidate.keys.as_ref().map_or(1, |keys| keys.count),
            pump,
            _neighbours: neighbours,
        });
    }
    if peers.is_empty() {
        return Err(io::Error::other(format!(
            "{}: nobody to measure",
            scenario.name
        )));
    }
    let mut lab = Lab {
        scenario,
        origin,
        origin_address,
        seed: 0,
    };
    if scenario.prepare_s > 0.0 {
        for peer in &peers {
            lab.prepare(peer)?;
        }
    }
    let mut order: Vec<usize> = (0..peers.len()).collect();
    order.extend((0..peers.len()).rev());
    let mut rows = Vec::new();
    for round in 1..=scenario.rounds {
        // Both slots of a round offer the same arrivals; rounds differ.
        lab.seed = round as u64;
        for (slot, nth) in order.iter().enumerate() {
            let values = lab
                .slot(&mut peers[*nth])
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", scenario.name)))?;
            rows.push(Row {
                scenario: scenario.name.clone(),
                round,
                slot: slot + 1,
                candidate: peers[*nth].prepared.name.clone(),
                values,
            });
        }
        eprintln!("{} round {round}/{}", scenario.name, scenario.rounds);
    }
    Ok(rows)
}

struct Peer {
    running: Option<Running>,
    prepared: Prepared,
    /// Requests draw one of so many.
    keys: u32,
    pump: Option<Pump>,
    _neighbours: Option<Neighbours>,
}

/// What all slots of a scenario share.
struct Lab<'a> {
    scenario: &'a Scenario,
    origin: Running,
    origin_address: SocketAddr,
    seed: u64,
}

type Values = BTreeMap<&'static str, f64>;

impl Lab<'_> {
    fn slot(&mut self, peer: &mut Peer) -> io::Result<Values> {
        match self.scenario.mode {
            Mode::Closed => self.closed(peer, self.scenario.connections),
            Mode::Open => self.open(peer),
            Mode::Start => start(peer),
            Mode::Reload => self.reload(peer),
            Mode::Idle => self.idle(peer),
        }
    }

    fn request(&self, prepared: &Prepared) -> Request {
        let path = format!("{}{}", prepared.base_path, self.scenario.path);
        let mut request = Request::get(prepared.address, &path);
        if let Some(count) = self.scenario.upload_bytes {
            request.method = "POST";
            request.upload_bytes = Some(count);
        }
        let fields = prepared.request_fields.iter();
        request.fields = fields.map(|(n, v)| (n.clone(), v.clone())).collect();
        request.fields_count = self.scenario.fields;
        request.close = self.scenario.new_connection;
        request
    }

    fn heads(&self, peer: &Peer) -> Heads {
        Heads::drawn(self.request(&peer.prepared).encode(), peer.keys, self.seed)
    }

    /// Load that nobody measures.
    fn prepare(&self, peer: &Peer) -> io::Result<()> {
        let span = Duration::from_secs_f64(self.scenario.prepare_s);
        eprintln!(
            "{}: {span:?} of load before the first round",
            self.scenario.name
        );
        match self.scenario.mode {
            Mode::Open | Mode::Reload => {
                let load = open::Load {
                    measure: span,
                    ..self.open_load(peer)
                };
                open::drive(&load, &mut |_| {}).map(drop)
            }
            _ => {
                let load = drive::Load {
                    measure: span,
                    ..self.closed_load(peer, self.scenario.connections)
                };
                drive::drive(&load, &mut |_| {}).map(drop)
            }
        }
    }

    fn closed_load(&self, peer: &Peer, connections: usize) -> drive::Load {
        let request = self.request(&peer.prepared);
        drive::Load {
            target: peer.prepared.address,
            connections,
            heads: self.heads(peer),
            upload_bytes: request.upload_bytes.unwrap_or(0),
            new_connection: request.close,
            refusals: self.scenario.refusals.clone(),
            warm_up: Duration::from_secs_f64(self.scenario.warm_up_s),
            measure: Duration::from_secs_f64(self.scenario.seconds),
        }
    }

    fn closed(&self, peer: &Peer, connections: usize) -> io::Result<Values> {
        let load = self.closed_load(peer, connections);
        let records = peer.pump.as_ref().map(Pump::settled);
        let mut meter = Meter::new(peer, &self.origin);
        let tally = drive::drive(&load, &mut |edge| meter.read(edge))?;
        let mut values = meter.values(tally.seconds, tally.generator_cpu_ns);
        let gigabytes = (tally.received_bytes + tally.sent_bytes) as f64 / 1e9;
        meter.per_response(&mut values, tally.responses);
        if self.scenario.path.starts_with("bytes/") || self.scenario.upload_bytes.is_some() {
            values.insert("cpu_s_per_gb", meter.cpu_s() / gigabytes);
            values.insert("gb_per_s", gigabytes / tally.seconds);
        }
        values.insert("responses_per_s", tally.responses as f64 / tally.seconds);
        values.insert("non_2xx", tally.non_2xx as f64);
        values.insert("failures", tally.failures as f64);
        if !load.refusals.is_empty() {
            values.insert(
                "refused_share",
                tally.refused as f64 / tally.responses as f64,
            );
        }
        count_records(
            peer,
            records,
            tally.answered_in_all,
            tally.asked_in_all,
            &mut values,
        );
        Ok(values)
    }

    fn open(&self, peer: &Peer) -> io::Result<Values> {
        let records = peer.pump.as_ref().map(Pump::settled);
        let mut meter = Meter::new(peer, &self.origin);
        let tally = self.offer(peer, &mut |edge| meter.read(edge))?;
        let mut values = meter.values(tally.seconds, tally.generator_cpu_ns);
        meter.per_response(&mut values, tally.latency.count());
        let us = |share: f64| tally.latency.quantile(share) as f64 / 1e3;
        values.insert("p50_us", us(0.5));
        values.insert("p90_us", us(0.9));
        values.insert("p99_us", us(0.99));
        values.insert("p999_us", us(0.999));
        values.insert("max_us", tally.latency.max() as f64 / 1e3);
        values.insert("non_2xx", tally.non_2xx as f64);
        values.insert("failures", tally.failures as f64);
        if !self.scenario.refusals.is_empty() {
            values.insert("refused_share", tally.refused as f64 / tally.due as f64);
        }
        count_records(
            peer,
            records,
            tally.answered_in_all,
            tally.asked_in_all,
            &mut values,
        );
        Ok(values)
    }

    fn offer(&self, peer: &Peer, edge: &mut dyn FnMut(Edge)) -> io::Result<open::Tally> {
        open::drive(&self.open_load(peer), edge)
    }

    fn open_load(&self, peer: &Peer) -> open::Load {
        open::Load {
            target: peer.prepared.address,
            connections: self.scenario.connections,
            heads: self.heads(peer),
            refusals: self.scenario.refusals.clone(),
            rate: self.scenario.rate,
            seed: self.seed,
            warm_up: Duration::from_secs_f64(self.scenario.warm_up_s),
            measure: Duration::from_secs_f64(self.scenario.seconds),
        }
    }

    /// One window without and one with a reload a third into it; one definition has changed.
    fn reload(&self, peer: &Peer) -> io::Result<Values> {
        let quiet = self.offer(peer, &mut |_| {})?;
        let prepared = &peer.prepared;
        let Some(running) = &peer.running else {
            return Err(io::Error::other("only a process can reload"));
        };
        if matches!(prepared.kind, Kind::Penstock | Kind::Tyk) {
            let changed = json!({"name": format!("changed {} {}", self.seed, sys::now_ns())});
            prepared.write_api(0, self.origin_address, &changed)?;
        }
        let pause = Duration::from_secs_f64(self.scenario.warm_up_s + self.scenario.seconds / 3.0);
        let mut meter = Meter::new(peer, &self.origin);
        let (tally, took) = thread::scope(|scope| {
            let reloading = scope.spawn(|| {
                thread::sleep(pause);
                let started = Instant::now();
                prepared.reload(running).map(|()| started.elapsed())
            });
            let tally = self.offer(peer, &mut |edge| meter.read(edge));
            (tally, reloading.join())
        });
        let tally = tally?;
        let took = took.map_err(|_| io::Error::other("the reloading thread failed"))??;
        let mut values = meter.values(tally.seconds, tally.generator_cpu_ns);
        if prepared.kind == Kind::Nginx {
            // A reload replaces the worker, whose CPU time goes with it.
            values.retain(|name, _| !matches!(*name, "utilisation" | "other_cores"));
        } else {
            meter.per_response(&mut values, tally.latency.count());
        }
        let p999 = |tally: &open::Tally| tally.latency.quantile(0.999) as f64 / 1e3;
        values.insert("reload_s", took.as_secs_f64());
        values.insert("p50_us", tally.latency.quantile(0.5) as f64 / 1e3);
        values.insert("p999_us", p999(&quiet));
        values.insert("p999_reload_us", p999(&tally));
        values.insert("p999_reload_ratio", p999(&tally) / p999(&quiet));
        values.insert("max_us", tally.latency.max() as f64 / 1e3);
        values.insert("non_2xx", (quiet.non_2xx + tally.non_2xx) as f64);
        values.insert("failures", (quiet.failures + tally.failures) as f64);
        Ok(values)
    }

    /// Memory of the fresh process, then its growth per idle connection, then the load beside them.
    fn idle(&self, peer: &mut Peer) -> io::Result<Values> {
        let Some(running) = peer.prepared.start()? else {
            return Err(io::Error::other("only a process has memory"));
        };
        peer.running = Some(running);
        let result = self.idle_measured(peer);
        peer.running = None;
        result
    }

    fn idle_measured(&self, peer: &Peer) -> io::Result<Values> {
        let memory = || {
            // What was freed is given back, what was deferred is done.
            thread::sleep(Duration::from_millis(500));
            let tree = peer.running.as_ref().map(Running::tree);
            tree.map(|t| t.memory()).unwrap_or_default()
        };
        let fresh = memory();
        let most = self.scenario.idle.iter().copied().max().unwrap_or(0);
        let mut client = Client::new(peer.prepared.address, most)?;
        let head = self.request(&peer.prepared).encode();
        let mut points = Vec::new();
        let mut opened = 0;
        for count in &self.scenario.idle {
            hold(&mut client, opened, *count, &head)?;
            opened = opened.max(*count);
            points.push((*count as f64, memory().pss as f64));
        }
        let mut values = self.closed(peer, self.scenario.connections)?;
        let (Some(first), Some(last)) = (points.first(), points.last()) else {
            return Err(io::Error::other("no numbers of idle connections given"));
        };
        let slope = (last.1 - first.1) / (last.0 - first.0);
        values.insert("idle_connection_bytes", slope);
        values.insert("idle_rss_mb", fresh.rss as f64 / 1e6);
        // The held connections have to be alive at the end as well.
        let mut ready = Vec::new();
        let mut lost = 0;
        client.wait(Some(Duration::ZERO), &mut ready)?;
        for event in ready {
            lost += u32::from(client.advance(event) != Outcome::Pending);
        }
        *values.entry("failures").or_insert(0.0) += f64::from(lost);
        Ok(values)
    }
}

/// Compares the records of a slot with its requests, warm-up and end included.
fn count_records(peer: &Peer, before: Option<u64>, answered: u64, asked: u64, values: &mut Values) {
    let (Some(pump), Some(before)) = (&peer.pump, before) else {
        return;
    };
    let records = pump.settled() - before;
    // What was asked and cut off at the end may or may not have been recorded.
    values.insert("records_lost", answered.saturating_sub(records) as f64);
    values.insert("records_extra", records.saturating_sub(asked) as f64);
}

/// Opens connections `from..to` and lets each make one request, 32 at a time.
fn hold(client: &mut Client, from: usize, to: usize, head: &[u8]) -> io::Result<()> {
    let mut next = from;
    let mut under_way = 0;
    let mut ready = Vec::new();
    let until = Instant::now() + Duration::from_secs(60);
    while next < to || under_way > 0 {
        while next < to && under_way < 32 {
            client
                .open(next)
                .and_then(|()| client.ask(next, head, 0))
                .map_err(|e| io::Error::other(format!("idle connection {next}: {e:?}")))?;
            next += 1;
            under_way += 1;
        }
        client.wait(Some(Duration::from_millis(100)), &mut ready)?;
        for event in &ready {
            match client.advance(*event) {
                Outcome::Pending => {}
                Outcome::Answer(answer) if answer.status == 200 && answer.keep_alive => {
                    under_way -= 1;
                }
                other => {
                    return Err(io::Error::other(format!(
                        "idle connection {}: {other:?}",
                        event.token
                    )));
                }
            }
        }
        if Instant::now() > until {
            return Err(io::Error::other(format!("{next} idle connections only")));
        }
    }
    Ok(())
}

/// Starts the peer anew and waits until the target API answers.
fn start(peer: &mut Peer) -> io::Result<Values> {
    let started = Instant::now();
    let running = peer.prepared.spawn()?;
    peer.prepared.await_ready(running.as_ref())?;
    let took = started.elapsed();
    let Some(running) = running else {
        return Err(io::Error::other("only a process can start"));
    };
    let tree = running.tree();
    let memory = tree.memory();
    Ok(BTreeMap::from([
        ("ready_s", took.as_secs_f64()),
        ("ready_cpu_s", tree.cpu_ns() as f64 / 1e9),
        ("rss_mb", memory.rss as f64 / 1e6),
        ("peak_mb", memory.peak as f64 / 1e6),
    ]))
}

/// Reads the counters of everybody involved at the two ends of a slot.
struct Meter {
    peer: Option<Tree>,
    companion: Option<Tree>,
    origin: Tree,
    readings: Vec<Reading>,
    rss_before: u64,
}

struct Reading {
    at: Instant,
    peer_ns: u64,
    companion_ns: u64,
    origin_ns: u64,
    machine: Option<MachineCpu>,
}

impl Meter {
    fn new(peer: &Peer, origin: &Running) -> Self {
        let tree = peer.running.as_ref().map(Running::tree);
        if let Some(tree) = &tree {
            tree.reset_peak();
        }
        Self {
            rss_before: tree.as_ref().map_or(0, |t| t.memory().rss),
            peer: tree,
            companion: peer.prepared.companion().map(Running::tree),
            origin: origin.tree(),
            readings: Vec::new(),
        }
    }

    fn read(&mut self, _: Edge) {
        let cpu = |tree: &Option<Tree>| tree.as_ref().map_or(0, Tree::cpu_ns);
        self.readings.push(Reading {
            at: Instant::now(),
            peer_ns: cpu(&self.peer),
            companion_ns: cpu(&self.companion),
            origin_ns: self.origin.cpu_ns(),
            machine: machine_cpu().ok(),
        });
    }

    /// CPU seconds of the peer, or of the origin when it is measured by itself.
    fn cpu_s(&self) -> f64 {
        let of = |r: &Reading| match self.peer {
            Some(_) => r.peer_ns,
            None => r.origin_ns,
        };
        self.between(of)
    }

    fn between(&self, of: impl Fn(&Reading) -> u64) -> f64 {
        match &self.readings[..] {
            [start, .., end] => of(end).saturating_sub(of(start)) as f64 / 1e9,
            _ => f64::NAN,
        }
    }

    /// Figures every slot has.
    fn values(&self, seconds: f64, generator_cpu_ns: u64) -> Values {
        let mut values = Values::new();
        let generator = generator_cpu_ns as f64 / 1e9;
        let origin = self.between(|r| r.origin_ns);
        values.insert("seconds", seconds);
        values.insert("utilisation", self.cpu_s() / seconds);
        values.insert("generator_cpu_s", generator);
        values.insert("origin_cpu_s", origin);
        if let Some(tree) = &self.peer {
            let memory = tree.memory();
            values.insert("rss_mb", memory.rss as f64 / 1e6);
            values.insert("peak_mb", memory.peak as f64 / 1e6);
            values.insert(
                "grown_mb",
                memory.peak.saturating_sub(self.rss_before) as f64 / 1e6,
            );
        }
        if let [start, .., end] = &self.readings[..]
            && let (Some(before), Some(after)) = (start.machine, end.machine)
        {
            let span = (end.at - start.at).as_secs_f64();
            let (busy, stolen) = share(before, after, span);
            let ours =
                self.between(|r| r.peer_ns) + self.between(|r| r.companion_ns) + origin + generator;
            values.insert("other_cores", (busy - ours / span).max(0.0));
            values.insert("stolen_cores", stolen);
        }
        values
    }

    fn per_response(&self, values: &mut Values, responses: u64) {
        let responses = responses as f64;
        values.insert("responses", responses);
        values.insert("cpu_us", self.cpu_s() * 1e6 / responses);
        if self.companion.is_some() {
            let companion = self.between(|r| r.companion_ns);
            values.insert("companion_cpu_us", companion * 1e6 / responses);
            values.insert("cpu_all_us", (self.cpu_s() + companion) * 1e6 / responses);
        }
    }
}
