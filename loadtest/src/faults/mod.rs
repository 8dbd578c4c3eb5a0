//! Fault cases: the store is away, slow, refuses or changes its master; records pile up; processes are killed.
//!
//! The ids come from the reliability plan: D1 and D2 in [`store`], D5 in [`records`], D6 in [`crash`] and [`million`].

mod crash;
mod million;
mod records;
mod store;

use std::io;

use clap::{Args, ValueEnum};

use crate::{peer::Bench, sys};

/// What to do to whom.
#[derive(Args, Clone, Debug)]
pub struct Plan {
    #[arg(value_enum)]
    pub case: Case,
    /// Parts of the case, separated by commas; all of them when not given.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub only: Vec<Part>,
    /// The full plan instead of the short form.
    #[arg(long)]
    pub long: bool,
    /// Seconds a fault lasts (D1, D2), or records pile up (D5).
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Times a process is killed or replaced (D6).
    #[arg(long)]
    pub times: Option<usize>,
    /// Requests per second (D1, D2, D5).
    #[arg(long)]
    pub rate: Option<f64>,
    /// Milliseconds that a busy machine may add to a deadline.
    #[arg(long, default_value_t = 50)]
    pub slack_ms: u64,
    /// Sessions in the store (D6 million).
    #[arg(long, default_value_t = 1_000_000)]
    pub sessions: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Case {
    #[value(name = "D1")]
    D1,
    #[value(name = "D2")]
    D2,
    #[value(name = "D5")]
    D5,
    #[value(name = "D6")]
    D6,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// D1: nothing; shows that the traffic itself is clean.
    Calm,
    /// D1: Redis gets SIGSTOP.
    Stop,
    /// D1: answers come 500 ms late.
    Late,
    /// D1: connections stay, nothing arrives.
    Hole,
    /// D1: connections are reset, new ones at once.
    Reset,
    /// D1: kill −9, and a new process in the end.
    Kill,
    /// D2: a replica that takes no writes.
    Readonly,
    /// D2: no memory left.
    Oom,
    /// D2: a script does not end.
    Busy,
    /// D2: a password that nobody told the gateway.
    Noauth,
    /// D2: a new process that is still loading.
    Loading,
    /// D2: snapshots fail, so writes are refused.
    Misconf,
    /// D2: sentinels make a replica the master.
    Sentinel,
    /// D6: kill −9 while keys are written.
    Crash,
    /// D6: SIGUSR2 while keys are written and used.
    Upgrade,
    /// D6: starts with a million sessions; only when it is asked for.
    Million,
}

impl Plan {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Runs one case and prints what it found; true when every check passed.
pub fn run(plan: &Plan, bench: &Bench) -> io::Result<bool> {
    sys::adopt_orphans();
    let of_case = |parts: &[Part]| -> Vec<Part> {
        let wanted = parts.iter().copied().filter(|part| plan.wants(*part));
        wanted.collect()
    };
    let mut passed = true;
    match plan.case {
        Case::D1 => {
            use Part::{Calm, Hole, Kill, Late, Reset, Stop};
            for part in of_case(&[Calm, Stop, Late, Hole, Reset, Kill]) {
                passed &= store::run(plan, part, bench)?;
            }
        }
        Case::D2 => {
            use Part::{Busy, Loading, Misconf, Noauth, Oom, Readonly, Sentinel};
            for part in of_case(&[Readonly, Oom, Busy, Noauth, Loading, Misconf, Sentinel]) {
                passed &= store::run(plan, part, bench)?;
            }
        }
        Case::D5 => passed = records::run(plan, bench)?,
        Case::D6 => {
            for part in of_case(&[Part::Crash, Part::Upgrade]) {
                passed &= match part {
                    Part::Upgrade => crash::upgrades(plan, bench)?,
                    _ => crash::kills(plan, bench)?,
                };
            }
            if plan.only.contains(&Part::Million) {
                passed &= million::run(plan, bench)?;
            }
        }
    }
    Ok(passed)
}
