//! Load and availability tests of a gateway beside nginx, HAProxy and Tyk; see README.md in this folder.
#![deny(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "threads of this program block and measure; the bans protect the gateway's shards"
)]
#![allow(unreachable_pub, reason = "nobody is outside of a program")]

mod accuracy;
mod arrivals;
mod availability;
mod client;
mod drive;
mod fleet;
mod heads;
mod histogram;
mod http1;
mod instructions;
mod keys;
mod open;
mod oracle;
mod origin;
mod peer;
mod probe;
mod process;
mod redis;
mod report;
mod rng;
mod run;
mod scenario;
mod site;
mod stats;
#[allow(unsafe_code, reason = "system calls are made here alone")]
mod sys;
mod traffic;
mod ws;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::AtomicBool,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    client::Request, heads::Heads, origin::Origin, peer::Bench, run::Settings, scenario::Scenario,
};

#[derive(Parser)]
#[command(name = "loadtest", about = "Load and availability tests of a gateway")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve as the origin behind a proxy.
    Origin {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Core to run on.
        #[arg(long)]
        core: Option<usize>,
        /// Write each request's X-Request-Id and method to this file.
        #[arg(long)]
        log_ids: Option<PathBuf>,
        /// Close keep-alive connections this long after their last answer.
        #[arg(long)]
        close_after_idle_ms: Option<u64>,
        /// Such a close takes this long to reach the peer; requests that come meanwhile are cut off.
        #[arg(long, default_value_t = 0)]
        close_latency_ms: u64,
        /// Hold answers to /id and uploads this long.
        #[arg(long)]
        answer_after_ms: Option<u64>,
    },
    /// Saturate a target (closed loop).
    Drive {
        #[command(flatten)]
        load: LoadArgs,
        /// Bytes of request body.
        #[arg(long)]
        upload: Option<u64>,
        #[arg(long)]
        new_connection: bool,
    },
    /// Offer a fixed rate (open loop) and print latencies from the intended send time.
    Open {
        #[command(flatten)]
        load: LoadArgs,
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Show that a stall of the origin is not hidden; needs no target.
        #[arg(long)]
        self_test: bool,
    },
    /// Run scenarios, by name or path; without any, print their names.
    Run {
        scenarios: Vec<String>,
        #[command(flatten)]
        bench: BenchArgs,
        /// A second penstock binary, measured as `before` beside the first.
        #[arg(long)]
        against: Option<PathBuf>,
        #[arg(long)]
        rounds: Option<usize>,
        #[arg(long)]
        seconds: Option<f64>,
        /// Candidates to keep, separated by commas.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Fail when a goal is missed.
        #[arg(long)]
        strict: bool,
        #[arg(long)]
        results: Option<PathBuf>,
        /// Measure although other work disturbs.
        #[arg(long)]
        force: bool,
    },
    /// Keep traffic up while something is done to the gateway; 0 failures is the goal.
    Availability {
        #[command(flatten)]
        plan: availability::Plan,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// Hold rate limits and quotas of one and three gateways against a reference.
    Accuracy {
        #[command(flatten)]
        plan: accuracy::Plan,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// Count instructions per request under callgrind.
    Instructions {
        #[command(flatten)]
        plan: instructions::Plan,
        #[command(flatten)]
        bench: BenchArgs,
    },
    /// Two seconds of S1: does it answer at all?
    Smoke {
        #[command(flatten)]
        bench: BenchArgs,
    },
}

#[derive(Args)]
struct LoadArgs {
    /// Address of the target.
    #[arg(default_value = "127.0.0.1:80")]
    target: SocketAddr,
    #[arg(long, default_value = "/")]
    path: String,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// Total number of request fields.
    #[arg(long, default_value_t = 0)]
    fields: usize,
    /// Core to run on.
    #[arg(long)]
    core: Option<usize>,
}

#[derive(Args)]
struct BenchArgs {
    /// The gateway under test.
    #[arg(long)]
    penstock: Option<PathBuf>,
    /// A binary by candidate or kind, as `nginx=/usr/sbin/nginx`.
    #[arg(long = "binary", value_parser = named_path)]
    binaries: Vec<(String, PathBuf)>,
    #[arg(long, default_value_t = 0)]
    proxy_core: usize,
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Leave the peers' folders behind.
    #[arg(long)]
    keep: bool,
}

impl BenchArgs {
    /// For tests that measure nothing in nanoseconds: all cores may work.
    fn unpinned(&self, descriptors: u64) -> io::Result<Bench> {
        let mut bench = self.bench(descriptors)?;
        bench.proxy_core = None;
        bench.load_core = None;
        Ok(bench)
    }

    /// Tyk is taken from `TYK_BIN`.
    fn bench(&self, descriptors: u64) -> io::Result<Bench> {
        let mut binaries: BTreeMap<String, PathBuf> = self.binaries.iter().cloned().collect();
        if let Some(path) = std::env::var_os("TYK_BIN") {
            binaries.insert("tyk".to_owned(), path.into());
        }
        if let Some(path) = &self.penstock {
            binaries.insert("penstock".to_owned(), path.clone());
        }
        for (name, path) in &mut binaries {
            *path = path.canonicalize().map_err(|e| {
                io::Error::new(e.kind(), format!("{name}: {}: {e}", path.display()))
            })?;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let core = |wanted: usize| (wanted < cores).then_some(wanted);
        Ok(Bench {
            binaries,
            proxy_core: core(self.proxy_core),
            load_core: core(self.load_core),
            descriptors,
            keeps_folders: self.keep,
        })
    }
}

fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("loadtest: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the command showed what it should.
fn execute(command: Command) -> io::Result<bool> {
    let descriptors = sys::raise_descriptor_limit()?;
    match command {
        Command::Origin {
            listen,
            core,
            log_ids,
            close_after_idle_ms,
            close_latency_ms,
            answer_after_ms,
        } => {
            let options = origin::Options {
                core,
                log_ids,
                close_after_idle: close_after_idle_ms.map(Duration::from_millis),
                close_latency: Duration::from_millis(close_latency_ms),
                answer_after: answer_after_ms.map(Duration::from_millis),
            };
            let origin = Origin::bind(listen, options)?;
            println!("{}", origin.address()?);
            origin.run(&AtomicBool::new(false)).map(|()| true)
        }
        Command::Drive {
            load,
            upload,
            new_connection,
        } => closed_loop(&load, upload, new_connection),
        Command::Open {
            self_test: true, ..
        } => {
            let shown = open::self_test().map_err(io::Error::other)?;
            println!("{shown}");
            Ok(true)
        }
        Command::Open {
            load, rate, seed, ..
        } => open_loop(&load, rate, seed),
        Command::Run { scenarios, .. } if scenarios.is_empty() => {
            for name in scenario::names()? {
                println!("{name:<12} {}", Scenario::load(&name)?.what);
            }
            Ok(true)
        }
        Command::Run {
            scenarios,
            bench,
            against,
            rounds,
            seconds,
            only,
            strict,
            results,
            force,
        } => {
            let mut bench = bench.bench(descriptors)?;
            let has_before = against.is_some();
            if let Some(path) = against {
                bench
                    .binaries
                    .insert("before".to_owned(), path.canonicalize()?);
            }
            let settings = Settings {
                bench,
                rounds,
                seconds,
                only,
                force,
                results: Some(results.unwrap_or_else(committed_results)),
                command_line: command_line(),
                against: has_before,
            };
            let scenarios: io::Result<Vec<_>> =
                scenarios.iter().map(|s| Scenario::load(s)).collect();
            let outcomes = run::run(scenarios?, &settings)?;
            Ok(outcomes.faults == 0 && !(strict && outcomes.missed > 0))
        }
        Command::Availability { plan, bench } => {
            availability::run(&plan, &bench.unpinned(descriptors)?)
        }
        Command::Accuracy { plan, bench } => accuracy::run(&plan, &bench.unpinned(descriptors)?),
        Command::Instructions { plan, bench } => {
            instructions::run(&plan, &bench.bench(descriptors)?)
        }
        Command::Smoke { bench } => {
            let settings = Settings {
                bench: bench.bench(descriptors)?,
                rounds: Some(1),
                seconds: Some(2.0),
                only: Vec::new(),
                force: true,
                results: None,
                command_line: command_line(),
                against: false,
            };
            let outcomes = run::run(vec![Scenario::load("smoke")?], &settings)?;
            Ok(outcomes.faults == 0)
        }
    }
}

fn closed_loop(args: &LoadArgs, upload: Option<u64>, new_connection: bool) -> io::Result<bool> {
    let mut request = args.request();
    if let Some(count) = upload {
        request.method = "POST";
        request.upload_bytes = Some(count);
    }
    request.close = new_connection;
    let load = drive::Load {
        target: args.target,
        connections: args.connections,
        heads: Heads::fixed(request.encode()),
        upload_bytes: upload.unwrap_or(0),
        new_connection,
        refusals: Vec::new(),
        warm_up: Duration::from_secs_f64(args.warm_up),
        measure: Duration::from_secs_f64(args.seconds),
    };
    args.pin()?;
    let tally = drive::drive(&load, &mut |_| {})?;
    println!(
        "{} responses in {:.3} s ({:.0}/s), {} not 2xx, {} failures, {} bytes in, {} bytes out, generator {:.3} CPU s",
        tally.responses,
        tally.seconds,
        tally.responses as f64 / tally.seconds,
        tally.non_2xx,
        tally.failures,
        tally.received_bytes,
        tally.sent_bytes,
        tally.generator_cpu_ns as f64 / 1e9,
    );
    Ok(tally.non_2xx + tally.failures == 0 && tally.responses > 0)
}

fn open_loop(args: &LoadArgs, rate: f64, seed: u64) -> io::Result<bool> {
    let load = open::Load {
        target: args.target,
        connections: args.connections,
        heads: Heads::fixed(args.request().encode()),
        refusals: Vec::new(),
        rate,
        seed,
        warm_up: Duration::from_secs_f64(args.warm_up),
        measure: Duration::from_secs_f64(args.seconds),
    };
    args.pin()?;
    let tally = open::drive(&load, &mut |_| {})?;
    let us = |share: f64| tally.latency.quantile(share) as f64 / 1e3;
    println!(
        "{} due, {} not 2xx, {} failures, longest queue {}, µs: p50 {:.0} p90 {:.0} p99 {:.0} p99.9 {:.0} max {:.0}",
        tally.due,
        tally.non_2xx,
        tally.failures,
        tally.queue_max,
        us(0.5),
        us(0.9),
        us(0.99),
        us(0.999),
        tally.latency.max() as f64 / 1e3,
    );
    Ok(tally.non_2xx + tally.failures == 0)
}

impl LoadArgs {
    fn request(&self) -> Request {
        let mut request = Request::get(self.target, &self.path);
        request.fields_count = self.fields;
        request
    }

    fn pin(&self) -> io::Result<()> {
        self.core.map_or(Ok(()), sys::pin_thread)
    }
}

fn committed_results() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

fn command_line() -> String {
    std::env::args().collect::<Vec<_>>().join(" ")
}

fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("expected name=path")?;
    Ok((name.to_owned(), path.into()))
}
