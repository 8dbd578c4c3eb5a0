//! What a run leaves behind: `raw.csv` (every slot of every round), `summary.md`, `env.txt`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    scenario::{By, Comparison, Scenario},
    stats::{Spread, Verdict},
};

/// A figure a slot can have, its unit and the number of decimals it is printed with.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub decimals: usize,
}

const fn figure(name: &'static str, unit: &'static str, decimals: usize) -> Figure {
    Figure {
        name,
        unit,
        decimals,
    }
}

/// All figures, in the order of the columns of `raw.csv`.
pub const FIGURES: &[Figure] = &[
    figure("cpu_us", "µs CPU per response", 2),
    figure("cpu_s_per_gb", "CPU s per GB", 3),
    figure("cpu_all_us", "µs CPU per response, Redis included", 2),
    figure("companion_cpu_us", "µs CPU of Redis per response", 2),
    figure("responses_per_s", "responses/s", 0),
    figure("gb_per_s", "GB/s", 3),
    figure("utilisation", "share of the proxy core", 2),
    figure("p50_us", "µs", 0),
    figure("p90_us", "µs", 0),
    figure("p99_us", "µs", 0),
    figure("p999_us", "µs", 0),
    figure("max_us", "µs", 0),
    figure("ready_s", "s", 3),
    figure("ready_cpu_s", "CPU s", 3),
    figure("reload_s", "s", 3),
    figure("p999_reload_us", "µs", 0),
    figure("p999_reload_ratio", "× p99.9 without reload", 2),
    figure("idle_rss_mb", "MB", 2),
    figure("idle_connection_bytes", "bytes", 0),
    figure("rss_mb", "MB", 2),
    figure("peak_mb", "MB", 2),
    figure("grown_mb", "MB", 2),
    figure("responses", "", 0),
    figure("non_2xx", "", 1),
    figure("failures", "", 1),
    figure("refused_share", "share of right refusals", 4),
    figure("records_lost", "", 1),
    figure("records_extra", "", 1),
    figure("seconds", "s", 3),
    figure("generator_cpu_s", "CPU s", 3),
    figure("origin_cpu_s", "CPU s", 3),
    figure("other_cores", "cores busy with other work", 2),
    figure("stolen_cores", "cores", 2),
];

/// Figures that must be 0 everywhere.
const FAULTS: &[&str] = &["non_2xx", "failures", "records_lost", "records_extra"];

/// One slot: a candidate measured once.
#[derive(Clone, Debug)]
pub struct Row {
    pub scenario: String,
    pub round: usize,
    pub slot: usize,
    pub candidate: String,
    pub values: BTreeMap<&'static str, f64>,
}

/// What one scenario came to.
pub struct Section {
    pub scenario: Scenario,
    pub rows: Vec<Row>,
}

/// One line of the table of decisions.
#[derive(Clone, Debug)]
pub struct Decision {
    pub text: String,
    pub verdict: Option<Verdict>,
}

impl Section {
    /// Mean over the slots of one round, per round in order.
    pub fn per_round(&self, candidate: &str, figure: &str) -> Vec<f64> {
        let rounds = self.rows.iter().map(|r| r.round).max().unwrap_or(0);
        (1..=rounds)
            .map(|round| {
                let values: Vec<f64> = self
                    .rows
                    .iter()
                    .filter(|r| r.round == round && r.candidate == candidate)
                    .filter_map(|r| r.values.get(figure).copied())
                    .collect();
                // No slot gives 0/0, which is left out later.
                values.iter().sum::<f64>() / values.len() as f64
            })
            .collect()
    }

    /// The comparison round by round.
    pub fn compared(&self, comparison: &Comparison) -> Vec<f64> {
        let of = |name: &str| self.per_round(name, &comparison.figure);
        let (mut subject, mut against) = (of(&comparison.subject), of(&comparison.against));
        if let Some(floor) = &comparison.above {
            for (nth, floor) in of(floor).into_iter().enumerate() {
                subject[nth] -= floor;
                against[nth] -= floor;
            }
        }
        subject
            .into_iter()
            .zip(against)
            .map(|(a, b)| match comparison.by {
                By::Ratio if b > 0.0 => a / b,
                By::Ratio => f64::NAN,
                By::Difference => a - b,
            })
            .collect()
    }

    /// Comparisons and goals with their verdicts.
    pub fn decisions(&self) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for comparison in &self.scenario.comparisons {
            let Some(spread) = Spread::of(&self.compared(comparison)) else {
                continue;
            };
            let decimals = match comparison.by {
                By::Ratio => 3,
                By::Difference => decimals(&comparison.figure),
            };
            let verdict = comparison.at_most.map(|goal| match comparison.by {
                By::Ratio => Verdict::of_ratio(&spread, goal),
                By::Difference => Verdict::of_value(&spread, goal),
            });
            let sign = match comparison.by {
                By::Ratio => "÷",
                By::Difference => "−",
            };
            let mut what = format!(
                "{} {sign} {}, {}",
                comparison.subject, comparison.against, comparison.figure
            );
            if let Some(floor) = &comparison.above {
                let _ = write!(what, " above {floor}");
            }
            decisions.push(Decision::new(
                &what,
                &spread,
                decimals,
                comparison.at_most,
                verdict,
            ));
        }
        for goal in &self.scenario.goals {
            let values = self.per_round(&goal.subject, &goal.figure);
            if let Some(spread) = Spread::of(&values) {
                decisions.push(Decision::new(
                    &format!("{}, {}", goal.subject, goal.figure),
                    &spread,
                    decimals(&goal.figure),
                    Some(goal.at_most),
                    Some(Verdict::of_value(&spread, goal.at_most)),
                ));
            }
        }
        decisions
    }

    /// Answers that were wrong or missing, over all slots.
    pub fn faults(&self) -> u64 {
        self.rows
            .iter()
            .flat_map(|r| FAULTS.iter().filter_map(|name| r.values.get(name)))
            .sum::<f64>() as u64
    }

    /// The section of `summary.md`.
    pub fn to_markdown(&self) -> String {
        let scenario = &self.scenario;
        let mut text = format!("## {}: {}\n\n", scenario.name, scenario.what);
        let rounds = self.rows.iter().map(|r| r.round).max().unwrap_or(0);
        let _ = writeln!(
            text,
            "{:?} loop, {} connections, {} s warm-up, {} s per slot, {rounds} rounds in mirror order. Median [quartiles] over rounds.\n",
            scenario.mode, scenario.connections, scenario.warm_up_s, scenario.seconds
        );
        let shown: Vec<&Figure> = FIGURES
            .iter()
            .filter(|f| !matches!(f.name, "responses" | "seconds" | "origin_cpu_s"))
            .filter(|f| self.rows.iter().any(|r| r.values.contains_key(f.name)))
            .collect();
        let names = scenario.candidates.iter().map(|c| c.name.as_str());
        let _ = writeln!(
            text,
            "| figure | {} |",
            names.collect::<Vec<_>>().join(" | ")
        );
        let _ = writeln!(text, "|---|{}", "---|".repeat(scenario.candidates.len()));
        for figure in shown {
            let cells = scenario.candidates.iter().map(|candidate| {
                let values = self.per_round(&candidate.name, figure.name);
                Spread::of(&values).map_or("–".to_owned(), |s| show(&s, figure.decimals))
            });
            let unit = match figure.unit {
                "" => String::new(),
                unit => format!(" ({unit})"),
            };
            let _ = writeln!(
                text,
                "| {}{unit} | {} |",
                figure.name,
                cells.collect::<Vec<_>>().join(" | ")
            );
        }
        let decisions = self.decisions();
        if !decisions.is_empty() {
            text.push_str(
                "\n| comparison | median [quartiles] | goal | verdict |\n|---|---|---|---|\n",
            );
            for decision in decisions {
                let _ = writeln!(text, "{}", decision.text);
            }
        }
        let faults = self.faults();
        if faults > 0 {
            let _ = writeln!(text, "\n**{faults} answers were wrong or missing.**");
        }
        text.push('\n');
        text
    }
}

impl Decision {
    fn new(
        what: &str,
        spread: &Spread,
        decimals: usize,
        goal: Option<f64>,
        verdict: Option<Verdict>,
    ) -> Self {
        let goal = goal.map_or("–".to_owned(), |g| format!("≤ {g}"));
        let word = verdict.map_or("–", Verdict::word);
        Self {
            text: format!("| {what} | {} | {goal} | {word} |", show(spread, decimals)),
            verdict,
        }
    }
}

/// The whole of `raw.csv`.
pub fn to_csv(rows: &[Row]) -> String {
    let mut text = "scenario,round,slot,candidate".to_owned();
    for figure in FIGURES {
        let _ = write!(text, ",{}", figure.name);
    }
    text.push('\n');
    for row in rows {
        let _ = write!(
            text,
            "{},{},{},{}",
            row.scenario, row.round, row.slot, row.candidate
        );
        for figure in FIGURES {
            text.push(',');
            if let Some(value) = row.values.get(figure.name) {
                let _ = write!(text, "{value:.6}");
            }
        }
        text.push('\n');
    }
    text
}

/// Machine, kernel, settings and versions a reader needs to repeat the run.
pub fn environment(command_line: &str, tools: &[(String, PathBuf)], notes: &[String]) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name}: {}", value.trim());
    };
    let (date, time) = now();
    line("date", &format!("{date} {time} UTC"));
    line("command", command_line);
    line("kernel", &output("uname", &["-a"]));
    let cpu = file("/proc/cpuinfo");
    let model = cpu.lines().find(|l| l.starts_with("model name"));
    line("cpu", model.unwrap_or("unknown"));
    let cores = cpu.lines().filter(|l| l.starts_with("processor")).count();
    line("cores", &cores.to_string());
    let memory = file("/proc/meminfo");
    line("memory", memory.lines().next().unwrap_or_default());
    for setting in [
        "net/ipv4/tcp_congestion_control",
        "net/core/default_qdisc",
        "net/core/somaxconn",
        "net/ipv4/ip_local_port_range",
        "net/ipv4/tcp_tw_reuse",
        "net/ipv4/tcp_rmem",
        "net/ipv4/tcp_wmem",
        "kernel/io_uring_disabled",
    ] {
        line(
            &setting.replace('/', "."),
            &file(&format!("/proc/sys/{setting}")),
        );
    }
    let frequency = "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor";
    line("governor", &file(frequency));
    line("commit", &output("git", &["rev-parse", "HEAD"]));
    for (name, path) in tools {
        let program = path.display().to_string();
        let flag = match name.as_str() {
            "nginx" => "-V",
            "haproxy" => "-v",
            "redis-server" => "--version",
            _ => "version",
        };
        let said = output(&program, &[flag]);
        let first = said.lines().next().unwrap_or_default();
        line(name, &format!("{program} ({first})"));
    }
    for note in notes {
        line("note", note);
    }
    text
}

/// Creates `results/<date>-<host>` (or `…-2`, `…-3`: results are never overwritten).
pub fn results_folder(base: &Path) -> io::Result<PathBuf> {
    let host = file("/proc/sys/kernel/hostname");
    let host = match host.trim() {
        "" => "unnamed",
        host => host,
    };
    let name = format!("{}-{host}", now().0);
    for nth in 1.. {
        let suffix = if nth == 1 {
            String::new()
        } else {
            format!("-{nth}")
        };
        let path = base.join(format!("{name}{suffix}"));
        match fs::create_dir_all(base).and_then(|()| fs::create_dir(&path)) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("no free folder name"))
}

fn decimals(figure: &str) -> usize {
    let found = FIGURES.iter().find(|f| f.name == figure);
    found.map_or(2, |f| f.decimals)
}

fn show(spread: &Spread, decimals: usize) -> String {
    let Spread { q1, median, q3, .. } = spread;
    if q1 == q3 {
        format!("{median:.decimals$}")
    } else {
        format!("{median:.decimals$} [{q1:.decimals$}–{q3:.decimals$}]")
    }
}

/// Today's date and time, UTC.
fn now() -> (String, String) {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    (
        format!("{year}-{month:02}-{day:02}"),
        format!("{hour:02}:{minute:02}"),
    )
}

/// Year, month and day of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut left) = (1970, days);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

fn file(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn output(program: &str, args: &[&str]) -> String {
    match Command::new(program).args(args).output() {
        Ok(output) => {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            text
        }
        Err(e) => format!("unknown: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59), (1970, 3, 1));
        assert_eq!(civil(20_779), (2026, 11, 22));
        assert_eq!(civil(11_016), (2000, 2, 29));
    }

    fn section() -> Section {
        let scenario = Scenario::load("S1").unwrap();
        let mut rows = Vec::new();
        for round in 1..=9 {
            // Mirror order under a linear drift: the drift cancels in the mean of both slots.
            let order = ["penstock", "nginx", "nginx", "penstock"];
            for (slot, candidate) in order.into_iter().enumerate() {
                let base = if candidate == "nginx" { 20.0 } else { 18.0 };
                let drift = slot as f64;
                rows.push(Row {
                    scenario: "S1".to_owned(),
                    round,
                    slot: slot + 1,
                    candidate: candidate.to_owned(),
                    values: BTreeMap::from([("cpu_us", base + drift), ("failures", 0.0)]),
                });
            }
        }
        Section { scenario, rows }
    }

    #[test]
    fn a_round_is_one_ratio_of_means_and_drift_cancels() {
        let section = section();
        let comparison = Comparison {
            subject: "penstock".to_owned(),
            against: "nginx".to_owned(),
            figure: "cpu_us".to_owned(),
            by: By::Ratio,
            above: None,
            at_most: Some(1.0),
        };
        let ratios = section.compared(&comparison);
        assert_eq!(ratios.len(), 9);
        assert!(ratios.iter().all(|r| (r - 19.5 / 21.5).abs() < 1e-9));
    }

    #[test]
    fn the_summary_names_the_decision_and_the_csv_has_every_slot() {
        let section = section();
        let text = section.to_markdown();
        assert!(
            text.contains("penstock ÷ nginx, cpu_us | 0.907 | ≤ 1 | met"),
            "{text}"
        );
        assert_eq!(to_csv(&section.rows).lines().count(), 37);
        assert_eq!(section.faults(), 0);
    }
}
