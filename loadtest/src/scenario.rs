//! A scenario file: what is sent, to whom, for how long, and what is to be shown. See `scenarios/*.toml`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

use crate::keys::Keys;

/// One measurement, as written in its file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Such as `S1`; taken from the file's name.
    #[serde(skip)]
    pub name: String,
    /// One line for the summary.
    pub what: String,
    pub mode: Mode,
    #[serde(default = "defaults::connections")]
    pub connections: usize,
    #[serde(default = "defaults::warm_up_s")]
    pub warm_up_s: f64,
    #[serde(default = "defaults::seconds")]
    pub seconds: f64,
    /// Seconds of load before the first round, so that windows are as full as they get.
    #[serde(default)]
    pub prepare_s: f64,
    /// Statuses that are right besides 2xx.
    #[serde(default)]
    pub refusals: Vec<u16>,
    #[serde(default = "defaults::rounds")]
    pub rounds: usize,
    /// Path behind the listen path, without a leading slash.
    #[serde(default)]
    pub path: String,
    /// Total number of request fields, filled up with `X-Field-nn`.
    #[serde(default)]
    pub fields: usize,
    #[serde(default)]
    pub upload_bytes: Option<u64>,
    #[serde(default)]
    pub new_connection: bool,
    /// Arrivals per second (open loop, reload).
    #[serde(default)]
    pub rate: f64,
    /// Connections held open, in the order they are measured (idle).
    #[serde(default)]
    pub idle: Vec<usize>,
    #[serde(rename = "candidate")]
    pub candidates: Vec<Candidate>,
    #[serde(rename = "compare", default)]
    pub comparisons: Vec<Comparison>,
    #[serde(rename = "goal", default)]
    pub goals: Vec<Goal>,
}

/// What one slot does with a candidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Saturate it, read CPU per response and per gigabyte.
    Closed,
    /// Offer a fixed rate, read latencies and CPU per response.
    Open,
    /// Start it anew, read the time until the target API answers.
    Start,
    /// Offer a fixed rate for two windows, reload once inside the second.
    Reload,
    /// Start it anew, hold idle connections, read memory per connection.
    Idle,
}

/// Somebody who answers: a proxy, or the origin itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    pub name: String,
    pub kind: Kind,
    /// Number of generated definitions (or locations, or backends); the target is in their middle.
    #[serde(default = "defaults::apis")]
    pub apis: usize,
    /// Merged into every generated API definition (penstock, tyk).
    #[serde(default)]
    pub api: Value,
    /// Merged into the configuration file (penstock, tyk).
    #[serde(default)]
    pub conf: Value,
    /// Calls made once it is up, with the secret in `x-tyk-authorization`.
    #[serde(default)]
    pub setup: Vec<SetupCall>,
    /// Fields this candidate's requests carry.
    #[serde(default)]
    pub request_fields: BTreeMap<String, String>,
    #[serde(default)]
    pub store: StoreKind,
    /// The API asks for a key; requests carry one of these.
    #[serde(default)]
    pub keys: Option<Keys>,
    /// Further nodes in its Redis that only say that they are there.
    #[serde(default)]
    pub neighbours: usize,
    /// Records are taken out of its Redis and counted: as many as requests, or the run fails.
    #[serde(default)]
    pub pump: bool,
}

/// Where a gateway keeps its keys and counters.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// Inside the process (Tyk has none and always gets a Redis).
    #[default]
    Embedded,
    /// A Redis of its own for this run.
    Redis,
}

impl Candidate {
    /// One API without keys, nothing special.
    pub fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            apis: 1,
            api: Value::Null,
            conf: Value::Null,
            setup: Vec::new(),
            request_fields: BTreeMap::new(),
            store: StoreKind::default(),
            keys: None,
            neighbours: 0,
            pump: false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Penstock,
    Nginx,
    Haproxy,
    Tyk,
    Direct,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetupCall {
    pub method: String,
    pub path: String,
    #[serde(default)]
    pub body: Value,
}

/// One candidate's figure against another's, round by round.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comparison {
    pub subject: String,
    pub against: String,
    pub figure: String,
    #[serde(default)]
    pub by: By,
    /// A candidate whose own figure is taken off both first: the generator's floor.
    #[serde(default)]
    pub above: Option<String>,
    #[serde(default)]
    pub at_most: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    #[default]
    Ratio,
    Difference,
}

/// A goal for a figure by itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    pub subject: String,
    pub figure: String,
    pub at_most: f64,
}

impl Scenario {
    /// Reads a scenario by name (from the committed folder) or by path.
    pub fn load(name_or_path: &str) -> io::Result<Self> {
        let path = if Path::new(name_or_path)
            .extension()
            .is_some_and(|e| e == "toml")
        {
            PathBuf::from(name_or_path)
        } else {
            folder().join(format!("{name_or_path}.toml"))
        };
        let text = fs::read_to_string(&path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let stem = path.file_stem().and_then(|s| s.to_str());
        Self::parse(stem.unwrap_or(name_or_path), &text)
            .map_err(|e| io::Error::other(format!("{}: {e}", path.display())))
    }

    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let mut scenario: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        scenario.name = name.to_owned();
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        let known = |name: &String| self.candidates.iter().any(|c| c.name == *name);
        let compared = self
            .comparisons
            .iter()
            .flat_map(|c| [Some(&c.subject), Some(&c.against), c.above.as_ref()])
            .flatten();
        let wanted = self.goals.iter().map(|g| &g.subject);
        for name in compared.chain(wanted) {
            if !known(name) {
                return Err(format!("no candidate is called {name:?}"));
            }
        }
        let figures = self.comparisons.iter().map(|c| &c.figure);
        for figure in figures.chain(self.goals.iter().map(|g| &g.figure)) {
            if !crate::report::FIGURES.iter().any(|f| f.name == *figure) {
                return Err(format!("no figure is called {figure:?}"));
            }
        }
        for candidate in &self.candidates {
            let needs_redis = candidate.neighbours > 0 || candidate.pump;
            let has_redis = candidate.store == StoreKind::Redis || candidate.kind == Kind::Tyk;
            if needs_redis && !has_redis {
                return Err(format!("{}: this needs store = \"redis\"", candidate.name));
            }
            let count = candidate.keys.as_ref().map_or(1, |keys| keys.count);
            if count == 0 || count > crate::keys::COUNT_MAX {
                return Err(format!("{}: {count} keys", candidate.name));
            }
        }
        if matches!(self.mode, Mode::Open | Mode::Reload) && self.rate <= 0.0 {
            return Err("this mode needs a rate".to_owned());
        }
        if self.mode == Mode::Idle && self.idle.len() < 2 {
            return Err("idle needs two or more numbers of connections".to_owned());
        }
        Ok(())
    }

    /// Leaves out candidates `keep` refuses, and comparisons and goals that name them.
    pub fn keep(&mut self, keep: impl Fn(&Candidate) -> bool) {
        self.candidates.retain(keep);
        let known = |name: &str| self.candidates.iter().any(|c| c.name == name);
        self.comparisons.retain(|c| {
            known(&c.subject) && known(&c.against) && c.above.as_deref().is_none_or(known)
        });
        self.goals.retain(|g| known(&g.subject));
    }
}

/// The committed scenarios.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

/// Names of the committed scenarios, sorted.
pub fn names() -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder())? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "toml") {
            names.extend(path.file_stem().and_then(|s| s.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    Ok(names)
}

/// What a scenario file need not say.
mod defaults {
    pub fn connections() -> usize {
        64
    }

    pub fn warm_up_s() -> f64 {
        1.0
    }

    pub fn seconds() -> f64 {
        3.0
    }

    pub fn rounds() -> usize {
        crate::stats::ROUNDS_MIN
    }

    pub fn apis() -> usize {
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_scenario_can_be_read() {
        let names = names().unwrap();
        assert!(names.contains(&"S1".to_owned()));
        for name in names {
            let scenario = Scenario::load(&name).unwrap();
            assert!(!scenario.candidates.is_empty(), "{name}");
        }
    }

    #[track_caller]
    fn refused(text: &str, why: &str) {
        let error = Scenario::parse("x", text).unwrap_err();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_name_nobody_bears_is_refused() {
        let head =
            "what = \"x\"\nmode = \"closed\"\n[[candidate]]\nname = \"a\"\nkind = \"nginx\"\n";
        refused(
            &format!("{head}[[goal]]\nsubject = \"b\"\nfigure = \"cpu_us\"\nat_most = 1.0"),
            "no candidate",
        );
        refused(
            &format!("{head}[[goal]]\nsubject = \"a\"\nfigure = \"cpu\"\nat_most = 1.0"),
            "no figure",
        );
        refused(&format!("speed = 1\n{head}"), "speed");
        refused(&format!("{head}pump = true"), "redis");
        refused(&format!("{head}keys = {{ count = 0 }}"), "0 keys");
    }

    #[test]
    fn what_names_an_absent_candidate_goes_with_it() {
        let mut scenario = Scenario::load("S1").unwrap();
        scenario.keep(|c| c.kind != Kind::Penstock);
        assert!(
            scenario
                .comparisons
                .iter()
                .all(|c| c.subject != "penstock" && c.against != "penstock")
        );
    }
}
