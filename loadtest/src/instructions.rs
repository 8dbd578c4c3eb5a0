//! Instructions per request of the whole gateway process, counted by callgrind: the same on a busy machine and on a quiet one.
//!
//! One process per candidate: after a warm-up it answers N requests, then 2 N, and again, and the counters are taken
//! (and set to zero) behind each window. (Ir(2 N) − Ir(N)) / N leaves what a request costs: start, end and the taking itself fall out.
//! What runs by time and not by request (timers, probes of the store) is counted in: valgrind is some fifty times slower,
//! so it weighs more here than it does outside.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use clap::Args;
use serde_json::json;

use crate::{
    client::{Client, Outcome, Request},
    fleet::{Neighbours, Pump},
    heads::Heads,
    peer::{self, Bench, Folder, Prepared, Running, SECRET},
    scenario::{By, Candidate, Comparison, Kind, Scenario},
    stats::Spread,
};

/// What to count.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    /// A scenario whose penstock candidates are counted (closed loop, whatever its mode).
    pub scenario: String,
    /// N: the first window has N requests, the second 2 N.
    #[arg(long, default_value_t = 4000)]
    pub requests: u64,
    /// Keep-alive connections, each asking again as soon as it was answered.
    #[arg(long, default_value_t = 8)]
    pub connections: usize,
    /// Pairs of windows.
    #[arg(long, default_value_t = 5)]
    pub repeat: usize,
    /// Candidates to keep, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// A second penstock binary, counted as `before` beside the first.
    #[arg(long)]
    pub against: Option<PathBuf>,
    /// Keeps callgrind's file of the last window here, as `<candidate>.callgrind`, and prints its first functions.
    #[arg(long)]
    pub annotate: Option<PathBuf>,
    /// Fail when a ratio is above its goal.
    #[arg(long)]
    pub strict: bool,
}

/// Requests before the first window: connections, caches and buffers are as they stay.
const WARM_UP: u64 = 500;
/// Under valgrind a start takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Counts and prints; true unless a goal is missed with `--strict`.
pub fn run(plan: &Plan, bench: &Bench) -> io::Result<bool> {
    for tool in ["valgrind", "vgdb"] {
        Command::new(tool)
            .arg("--version")
            .output()
            .map_err(|e| io::Error::new(e.kind(), format!("{tool}: {e}")))?;
    }
    let mut scenario = Scenario::load(&plan.scenario)?;
    scenario.keep(|c| c.kind == Kind::Penstock);
    if plan.against.is_some() {
        add_before(&mut scenario);
    }
    scenario.keep(|c| plan.only.is_empty() || plan.only.contains(&c.name));
    let mut counts: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for candidate in &scenario.candidates {
        let found = count(plan, &scenario, candidate, bench)?;
        eprintln!("{}: {found:.0?}", candidate.name);
        counts.insert(candidate.name.clone(), found);
    }
    println!(
        "instructions per request, median [quartiles] of {}",
        plan.repeat
    );
    for candidate in &scenario.candidates {
        if let Some(spread) = Spread::of(&counts[&candidate.name]) {
            let Spread { q1, median, q3, .. } = spread;
            println!("{:<28} {median:.0} [{q1:.0}–{q3:.0}]", candidate.name);
        }
    }
    Ok(print_ratios(&scenario.comparisons, &counts) || !plan.strict)
}

/// Whether every ratio keeps its goal.
fn print_ratios(comparisons: &[Comparison], counts: &BTreeMap<String, Vec<f64>>) -> bool {
    let median = |name: &str| Some(Spread::of(counts.get(name)?)?.median);
    let mut all_met = true;
    for comparison in comparisons {
        let is_cpu = comparison.figure == "cpu_us" && comparison.by == By::Ratio;
        let (Some(subject), Some(against)) =
            (median(&comparison.subject), median(&comparison.against))
        else {
            continue;
        };
        if !is_cpu {
            continue;
        }
        let ratio = subject / against;
        let goal = comparison.at_most.map_or(String::new(), |goal| {
            // Counts have no noise to be tolerant of.
            all_met &= ratio <= goal;
            let word = if ratio <= goal { "met" } else { "missed" };
            format!(", goal ≤ {goal}: {word}")
        });
        println!(
            "{} ÷ {}: {ratio:.3}{goal}",
            comparison.subject, comparison.against
        );
    }
    all_met
}

fn add_before(scenario: &mut Scenario) {
    let named = |c: &Candidate| Candidate {
        name: format!("before-{}", c.name),
        ..c.clone()
    };
    let earlier: Vec<Candidate> = scenario.candidates.iter().map(named).collect();
    for candidate in &scenario.candidates {
        scenario.comparisons.push(Comparison {
            subject: candidate.name.clone(),
            against: format!("before-{}", candidate.name),
            figure: "cpu_us".to_owned(),
            by: By::Ratio,
            above: None,
            at_most: None,
        });
    }
    scenario.candidates.extend(earlier);
}

/// One process: its instructions per request, pair by pair.
fn count(
    plan: &Plan,
    scenario: &Scenario,
    candidate: &Candidate,
    bench: &Bench,
) -> io::Result<Vec<f64>> {
    let mut bench = bench.clone();
    if let (Some(path), true) = (&plan.against, candidate.name.starts_with("before-")) {
        let path = path.canonicalize()?;
        bench.binaries.insert(candidate.name.clone(), path);
    }
    // The origin has to outlive the gateway; its own folder goes with it.
    let folder = Folder::new("callgrind", bench.keeps_folders)?;
    let (_origin, origin_address) = peer::start_origin(&bench, folder.path(), &[])?;
    let mut candidate = candidate.clone();
    // Valgrind does not know io_uring.
    let driver = json!({"penstock": {"io_driver": "epoll", "shards": 1}});
    peer::merge(&mut candidate.conf, &driver);
    let mut prepared = Prepared::new(&candidate, &bench, origin_address)?;
    let redis = prepared.redis();
    let neighbours = redis.filter(|_| candidate.neighbours > 0);
    let _neighbours = neighbours.map(|r| Neighbours::start(r, candidate.neighbours, SECRET));
    let _pump = redis.filter(|_| candidate.pump).map(Pump::start);
    let out = folder.path().join("callgrind.out");
    prepared.wrap(vec![
        "valgrind".to_owned(),
        "--quiet".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", out.display()),
        // A later file does not lean on names of an earlier one.
        "--compress-strings=no".to_owned(),
        // Time jumps ahead in large steps otherwise while one thread runs.
        "--fair-sched=yes".to_owned(),
    ]);
    let mut running = prepared
        .start_within(PATIENCE)?
        .ok_or_else(|| io::Error::other("only a process has instructions"))?;
    let mut asker = Asker::new(plan, scenario, &candidate, &prepared)?;
    asker.ask(WARM_UP)?;
    take(&running, &out, 1)?;
    let (mut counts, mut taken) = (Vec::new(), 1);
    let mut window = |requests: u64| -> io::Result<u64> {
        asker.ask(requests)?;
        taken += 1;
        take(&running, &out, taken)
    };
    for _ in 0..plan.repeat {
        let one = window(plan.requests)?;
        let two = window(2 * plan.requests)?;
        counts.push((two as f64 - one as f64) / plan.requests as f64);
    }
    running.end(PATIENCE)?;
    if let Some(kept) = &plan.annotate {
        fs::create_dir_all(kept)?;
        let file = kept.join(format!("{}.callgrind", candidate.name));
        let text = fs::read_to_string(numbered(&out, taken))?;
        fs::write(&file, without_open_calls(&text))?;
        let said = Command::new("callgrind_annotate")
            .args(["--threshold=80", "--auto=no"])
            .arg(&file)
            .output()?;
        println!("{}", String::from_utf8_lossy(&said.stdout));
    }
    Ok(counts)
}

/// Asks over the same connections, window after window.
struct Asker {
    client: Client,
    heads: Heads,
    refusals: Vec<u16>,
}

impl Asker {
    fn new(
        plan: &Plan,
        scenario: &Scenario,
        candidate: &Candidate,
        prepared: &Prepared,
    ) -> io::Result<Self> {
        let path = format!("{}{}", prepared.base_path, scenario.path);
        let mut request = Request::get(prepared.address, &path);
        let fields = prepared.request_fields.iter();
        request.fields = fields.map(|(n, v)| (n.clone(), v.clone())).collect();
        request.fields_count = scenario.fields;
        let keys = candidate.keys.as_ref().map_or(1, |keys| keys.count);
        let mut client = Client::new(prepared.address, plan.connections)?;
        for slot in 0..plan.connections {
            client
                .open(slot)
                .map_err(|e| io::Error::other(format!("{e:?}")))?;
        }
        Ok(Self {
            client,
            heads: Heads::drawn(request.encode(), keys, 1),
            refusals: scenario.refusals.clone(),
        })
    }

    /// Exactly `count` exchanges, all of them right.
    fn ask(&mut self, count: u64) -> io::Result<()> {
        let wrong = |what: String| io::Error::other(format!("under callgrind: {what}"));
        let (mut asked, mut answered) = (0, 0);
        let mut free: Vec<usize> = (0..self.client.slots()).collect();
        let mut ready = Vec::new();
        let mut last = Instant::now();
        while answered < count {
            while let Some(slot) = free.pop() {
                if asked == count {
                    break;
                }
                asked += 1;
                self.client
                    .ask(slot, self.heads.next(), 0)
                    .map_err(|e| wrong(format!("{e:?}")))?;
            }
            self.client
                .wait(Some(Duration::from_millis(100)), &mut ready)?;
            for event in &ready {
                match self.client.advance(*event) {
                    Outcome::Pending => {}
                    Outcome::Answer(answer) => {
                        let is_right = (200..300).contains(&answer.status)
                            || self.refusals.contains(&answer.status);
                        if !is_right || !answer.keep_alive {
                            return Err(wrong(format!("{answer:?}")));
                        }
                        answered += 1;
                        free.push(event.token as usize);
                        last = Instant::now();
                    }
                    other => return Err(wrong(format!("{other:?}"))),
                }
            }
            if last.elapsed() > PATIENCE {
                return Err(wrong("no answer".to_owned()));
            }
        }
        Ok(())
    }
}

/// Takes the counters through valgrind's own door; they start from zero afterwards.
fn take(running: &Running, out: &Path, nth: usize) -> io::Result<u64> {
    let said = Command::new("vgdb")
        .arg(format!("--pid={}", running.pid()))
        .arg("dump")
        .output()?;
    let file = numbered(out, nth);
    let text = fs::read_to_string(&file).map_err(|e| {
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        io::Error::new(e.kind(), format!("{}: {e}: {said}", file.display()))
    })?;
    totals(&text).ok_or_else(|| io::Error::other(format!("{}: no totals", file.display())))
}

fn numbered(out: &Path, nth: usize) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(format!(".{nth}"));
    name.into()
}

/// Leaves out calls that were under way from the window's begin to its end: callgrind_annotate takes their cost for
/// the caller's own.
fn without_open_calls(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("calls=0 ") {
            lines.next();
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// Instructions in one of callgrind's files.
fn totals(text: &str) -> Option<u64> {
    text.lines()
        .rev()
        .find_map(|line| {
            line.strip_prefix("totals:")
                .or(line.strip_prefix("summary:"))
        })
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_file_is_found() {
        let text = "version: 1\nsummary: 12\n\nfn=(1)\n0 12\ntotals: 12\n";
        assert_eq!(totals(text), Some(12));
        assert_eq!(totals("events: Ir\nsummary: 7 8\n"), Some(7));
        assert_eq!(totals("fn=(1)\n"), None);
    }

    #[test]
    fn calls_without_an_end_are_left_out() {
        let text = "fn=clone\ncfn=start\ncalls=0 3\n1 99\ncalls=1 3\n1 2\n";
        let kept = "fn=clone\ncfn=start\ncalls=1 3\n1 2\n";
        assert_eq!(without_open_calls(text), kept);
    }

    #[test]
    fn a_second_binary_is_compared_candidate_by_candidate() {
        let mut scenario = Scenario::load("S1").unwrap();
        scenario.keep(|c| c.kind == Kind::Penstock);
        add_before(&mut scenario);
        assert_eq!(scenario.candidates[1].name, "before-penstock");
        assert_eq!(scenario.comparisons[0].against, "before-penstock");
    }
}
