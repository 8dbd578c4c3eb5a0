//! The suites recorded from a real Tyk 5.4.0 (`tests/conformance`), run against the built binary.
//!
//! Only areas that are complete run here; a step that waits for a later feature stands in
//! `tests/conformance/pending.json` with its reason, and is a failure there once it passes.

use std::{net::TcpListener, path::Path, process::Command};

use crate::harness::built_binary;

/// Ports that one worker of the runner uses, and how many workers run.
const PORTS_PER_WORKER: u16 = 10;
const WORKERS: u16 = 2;

/// Suites about keys, their limits and what is recorded of them.
const KEYED: &[&str] = &[
    "auth/token",
    "auth/session_state",
    "limits",
    "records/analytics",
    "records/analytics_options",
    "records/key_ttl",
    "records/session_cache",
    "control/keys_*",
    "control/policies_crud",
    "control/org_keys",
    "control/health_off",
];

#[test]
fn routing_as_tyk() {
    run(&["routing"], Store::Redis);
}

#[test]
fn proxying_as_tyk() {
    run(&["proxy"], Store::Redis);
}

#[test]
fn control_as_tyk() {
    run(
        &[
            "control/hello",
            "control/auth",
            "control/apis_crud",
            "control/hot_reload",
            "control/bad_definitions",
            "control/listen_port",
            "control/secrets",
            "control/pubsub",
        ],
        Store::Redis,
    );
}

#[test]
fn keys_and_limits_as_tyk() {
    run(KEYED, Store::Redis);
}

#[test]
fn keys_and_limits_as_tyk_without_a_redis() {
    run(KEYED, Store::Embedded);
}

/// What the gateways under test store their keys in.
#[derive(Clone, Copy, PartialEq)]
enum Store {
    Redis,
    Embedded,
}

#[track_caller]
fn run(only: &[&str], store: Store) {
    assert!(
        store == Store::Embedded
            || Command::new("redis-server")
                .arg("--version")
                .output()
                .is_ok(),
        "redis-server is not installed; tests/setup installs it"
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut command = Command::new("python3");
    command
        .arg(folder.join("run.py"))
        .arg("--gateway")
        .arg(format!("{} --conf {{conf}}", built_binary().display()))
        .args(["--strict", "--quiet", "-j", &WORKERS.to_string()])
        .arg("--port")
        .arg(free_range().to_string())
        .arg("--pending")
        .arg(folder.join("pending.json"));
    if store == Store::Embedded {
        command.args(["--store", "embedded"]);
    }
    for suite in only {
        command.args(["--only", suite]);
    }
    let done = command
        .output()
        .expect("python3 is installed; tests/setup installs it");
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}

/// The runner counts its ports up from one: looks for a stretch, below the ports that the system
/// gives out, that is free now and that no other test process starts from.
fn free_range() -> u16 {
    let needed = PORTS_PER_WORKER * WORKERS;
    let spread = (std::process::id() % 500) as u16;
    for attempt in 0..500_u16 {
        static TAKEN: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
        let step = TAKEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let first = 12_000 + (spread + step + attempt) % 500 * needed;
        let free = (first..first + needed).all(|p| TcpListener::bind(("127.0.0.1", p)).is_ok());
        if free {
            return first;
        }
    }
    panic!("no stretch of {needed} free ports");
}
