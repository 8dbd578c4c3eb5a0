//! SIGUSR2 and SIGTERM: a new binary takes over, or the old one goes on; nobody is dropped.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{
    Client, End, Gate, Gateway, Load, Origin, PATIENCE, Response, Setup, TempDir, built_binary,
    eventually, slow_tests, within,
};

/// Close 1001 "going away", as a server sends it (RFC 6455 §5.5.1, §7.4.1).
const GOING_AWAY: &[u8] = &[0x88, 0x02, 0x03, 0xe9];

fn fine() -> Origin {
    Origin::answering(|req| Response::new(200, &req.target).to_bytes())
}

/// Drains in seconds, not half a minute.
fn quick(origin: &Origin, drain_s: u64) -> Setup {
    Setup::in_front_of(origin.port()).conf(json!({"graceful_shutdown_timeout_duration": drain_s}))
}

#[track_caller]
fn upgrade(gateway: &mut Gateway) -> u32 {
    let old = gateway.pid();
    gateway.signal("USR2");
    gateway.successor_of(old)
}

#[test]
fn upgrades_under_load_lose_no_request() {
    let origin = fine();
    let mut gateway = quick(&origin, 5).start();
    let kept = Load::start(gateway.port(), "/w/kept", 4, true);
    let fresh = Load::start(gateway.port(), "/w/fresh", 2, false);
    kept.run_for(100);
    let rounds = if slow_tests() { 10 } else { 3 };
    let mut pids = vec![gateway.pid()];
    for _ in 0..rounds {
        pids.push(upgrade(&mut gateway));
        kept.run_for(100);
        fresh.run_for(50);
    }
    let mut report = kept.stop();
    let others = fresh.stop();
    // The origin counts by id; both loads number their requests alike, so compare them by path.
    report.failed.extend(others.failed);
    assert!(report.failed.is_empty(), "{}", report.failed.join("\n"));
    for (path, answered) in [("/kept", &report.answered), ("/fresh", &others.answered)] {
        let mut seen: Vec<u64> = origin
            .requests()
            .iter()
            .filter_map(|r| {
                r.target
                    .strip_prefix(path)?
                    .strip_prefix("?id=")?
                    .parse()
                    .ok()
            })
            .collect();
        let mut wanted = answered.clone();
        seen.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(
            seen.len(),
            wanted.len(),
            "{path}: sent and answered differ in number"
        );
        assert!(seen == wanted, "{path}: sent and answered differ");
    }
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(
        pids.len(),
        rounds + 1,
        "each generation is a process of its own"
    );
}

#[test]
fn a_connect_storm_survives_a_change_of_the_number_of_shards() {
    let origin = fine();
    let mut gateway = quick(&origin, 5).start();
    let storm = Load::start(gateway.port(), "/w/storm", 4, false);
    for shards in [1, 3, 2] {
        gateway.change_conf(json!({"penstock": {"shards": shards}}));
        upgrade(&mut gateway);
        storm.run_for(100);
        assert_eq!(gateway.metric("penstock_shards"), Some(f64::from(shards)));
    }
    storm.stop().assert_flawless(&origin);
}

/// A copy of the binary in a folder of its own, where it can be replaced.
fn own_copy(folder: &Path) -> PathBuf {
    let path = folder.join("penstock");
    fs::copy(built_binary(), &path).expect("the binary can be copied");
    path
}

/// Puts an executable shell script in the place of the binary.
fn replace(path: &Path, script: &str) {
    let aside = path.with_extension("new");
    fs::write(&aside, script).expect("our own folder");
    fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).expect("our own file");
    fs::rename(aside, path).expect("our own folder");
}

#[test]
fn a_new_binary_that_dies_leaves_the_old_process_serving() {
    let origin = fine();
    let folder = TempDir::new("binary");
    let binary = own_copy(folder.path());
    let mut gateway = quick(&origin, 5).binary(binary.clone()).start();
    let load = Load::start(gateway.port(), "/w/load", 4, true);
    let first = gateway.pid();
    for (script, what) in [
        ("#!/bin/sh\nexit 1\n", "exits at once"),
        ("#!/bin/sh\nkill -s KILL $$\n", "is killed"),
        ("no program at all", "cannot be executed"),
    ] {
        replace(&binary, script);
        let failures = gateway
            .metric("penstock_upgrade_failures_total")
            .unwrap_or(0.0);
        gateway.signal("USR2");
        eventually(what, || {
            (gateway.metric("penstock_upgrade_failures_total")? > failures).then_some(())
        });
        load.run_for(50);
        assert_eq!(gateway.pid(), first, "{what}");
        assert_eq!(gateway.get("/ready").status, 200, "{what}");
    }
    // Sockets, store and signal handling are as before: a good binary takes over.
    fs::remove_file(&binary).expect("our own file");
    own_copy(folder.path());
    upgrade(&mut gateway);
    load.run_for(50);
    load.stop().assert_flawless(&origin);
}

/// Control writes work again after a failed upgrade: the store came back to the old process.
#[test]
fn a_failed_upgrade_gives_the_store_back() {
    let origin = fine();
    let folder = TempDir::new("binary");
    let binary = own_copy(folder.path());
    let gateway = quick(&origin, 5).binary(binary.clone()).start();
    replace(&binary, "#!/bin/sh\nexit 1\n");
    gateway.signal("USR2");
    eventually("the failure is counted", || {
        (gateway.metric("penstock_upgrade_failures_total")? > 0.0).then_some(())
    });
    let definition = crate::harness::api("later", &origin.url()).to_string();
    eventually("control writes are taken again", || {
        (gateway.admin("POST", "/tyk/apis", &definition).status == 200).then_some(())
    });
    let hello = gateway.get("/hello").json();
    assert_ne!(hello["status"], "fail", "{hello:#}");
}

/// A new binary that never becomes ready is given up after its 30 s.
#[test]
fn a_new_binary_that_hangs_is_given_up() {
    if !slow_tests() {
        return;
    }
    let origin = fine();
    let folder = TempDir::new("binary");
    let binary = own_copy(folder.path());
    let gateway = quick(&origin, 5).binary(binary.clone()).start();
    let first = gateway.pid();
    replace(&binary, "#!/bin/sh\nexec sleep 600\n");
    gateway.signal("USR2");
    let given_up = within(Duration::from_secs(45), || {
        (gateway.metric("penstock_upgrade_failures_total")? > 0.0).then_some(())
    });
    assert!(given_up.is_some(), "not given up after 45 s");
    assert_eq!((gateway.pid(), gateway.get("/w/x").status), (first, 200));
}

/// Upgrades asked for while one is under way wait for it; at most two processes live at a time.
#[test]
fn a_second_signal_waits_for_the_first() {
    let (go, arrived) = (Gate::default(), Gate::default());
    let (door, bell) = (go.clone(), arrived.clone());
    let origin = Origin::answering(move |req| {
        if req.target == "/long" {
            bell.open();
            door.wait();
        }
        Response::new(200, &req.target).to_bytes()
    });
    let mut gateway = quick(&origin, 20).start();
    let mut client = gateway.client();
    client.send(b"GET /w/long HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(arrived.wait());
    let first = gateway.pid();
    gateway.signal("USR2");
    let second = eventually("the successor serves", || {
        Some(gateway.pid()).filter(|p| *p != first)
    });
    gateway.signal("USR2");
    // The first still drains: the successor must not give way yet.
    let third = within(Duration::from_secs(1), || {
        Some(gateway.pid()).filter(|p| *p != second)
    });
    assert_eq!(
        third, None,
        "a third process began while the first was draining"
    );
    assert!(!gateway.is_gone(first));
    go.open();
    assert_eq!(client.read("GET").text(), "/long");
    let third = eventually("the queued upgrade", || {
        Some(gateway.pid()).filter(|p| *p != second)
    });
    eventually("the first leaves", || gateway.is_gone(first).then_some(()));
    eventually("the second leaves", || {
        gateway.is_gone(second).then_some(())
    });
    assert!(!gateway.is_gone(third));
    assert_eq!(gateway.get("/w/x").status, 200);
}

/// A draining process lets a client go with an answer: this one, or one of the next if the drain had
/// not yet reached the client's shard.
#[track_caller]
fn assert_let_go(mut client: Client, answer: &Response) {
    let mut told = answer.field("connection") == Some("close");
    eventually("an answer says that the connection closes", || {
        if !told {
            let next = client.get("/w/next");
            assert_eq!(next.status, 200, "{}", next.summary());
            told = next.field("connection") == Some("close");
        }
        told.then_some(())
    });
    assert!(client.closes());
}

#[test]
fn a_request_under_way_is_answered_by_the_process_that_took_it() {
    let (go, arrived) = (Gate::default(), Gate::default());
    let (door, bell) = (go.clone(), arrived.clone());
    let origin = Origin::answering(move |req| {
        if req.target == "/long" {
            bell.open();
            door.wait();
        }
        Response::new(200, &req.target).to_bytes()
    });
    let mut gateway = quick(&origin, 20).start();
    let mut client = gateway.client();
    client.send(b"GET /w/long HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(arrived.wait());
    // Stays with the old process, and learns when that begins to drain.
    let mut witness = gateway.client();
    assert_eq!(witness.get("/w/x").status, 200);
    let old = gateway.pid();
    gateway.signal("USR2");
    eventually("the successor serves", || {
        (gateway.pid() != old).then_some(())
    });
    assert_eq!(gateway.get("/w/x").status, 200);
    eventually("the old process drains", || {
        let answer = witness.get("/w/x");
        (answer.field("connection") == Some("close")).then_some(())
    });
    go.open();
    let answer = client.read("GET");
    assert_eq!((answer.status, answer.text().as_str()), (200, "/long"));
    assert_let_go(client, &answer);
    eventually("the old process leaves", || {
        gateway.is_gone(old).then_some(())
    });
}

/// A script that switches to a websocket, or streams events, and then waits to be ended.
fn streaming() -> Origin {
    Origin::scripted(|peer| {
        let Some(req) = peer.request() else { return };
        let _ = match req.target.as_str() {
            "/ws" => peer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                  Upgrade: websocket\r\n\r\n",
            ),
            "/events" => peer
                .write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n"),
            _ => {
                let _ = peer.write(&Response::new(200, "fine").to_bytes());
                return;
            }
        };
        peer.linger();
    })
}

fn open_stream(gateway: &Gateway, path: &str) -> Client {
    let mut client = gateway.client();
    client.send(
        format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        .as_bytes(),
    );
    client
}

#[track_caller]
fn assert_streams_end_cleanly(mut socket: Client, mut events: Client) {
    assert_eq!(socket.read_head().status, 101);
    let last = socket.read_to_end();
    assert!(
        last.ends_with(GOING_AWAY),
        "the websocket ended with {}",
        last.escape_ascii()
    );
    let whole = events.read("GET");
    assert_eq!(
        (whole.status, whole.end),
        (200, End::Complete),
        "the event stream"
    );
}

#[test]
fn streams_end_cleanly_at_the_limit_of_an_upgrade() {
    let origin = streaming();
    let mut gateway = quick(&origin, 2).start();
    let socket = open_stream(&gateway, "/w/ws");
    let events = open_stream(&gateway, "/w/events");
    eventually("both streams are open", || {
        (origin.requests().len() == 2).then_some(())
    });
    let old = gateway.pid();
    let began = Instant::now();
    gateway.signal("USR2");
    eventually("the successor serves", || {
        (gateway.pid() != old).then_some(())
    });
    assert_streams_end_cleanly(socket, events);
    eventually("the old process leaves", || {
        gateway.is_gone(old).then_some(())
    });
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(gateway.get("/w/x").status, 200);
}

#[test]
fn sigterm_drains_and_leaves() {
    let (go, arrived) = (Gate::default(), Gate::default());
    let (door, bell) = (go.clone(), arrived.clone());
    let origin = Origin::answering(move |req| {
        if req.target == "/long" {
            bell.open();
            door.wait();
        }
        Response::new(200, &req.target).to_bytes()
    });
    let mut gateway = quick(&origin, 20).start();
    let mut idle = gateway.client();
    assert_eq!(idle.get("/ready").status, 200);
    let mut client = gateway.client();
    client.send(b"GET /w/long HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(arrived.wait());
    gateway.signal("TERM");
    // Readiness goes first: a balancer that still asks is told so, or is not let in any more.
    eventually("nobody is told that it is ready", || {
        gateway
            .try_get("/ready")
            .is_none_or(|r| r.status != 200)
            .then_some(())
    });
    assert!(
        gateway.exit_code(Duration::from_millis(300)).is_none(),
        "it left a request behind"
    );
    go.open();
    let answer = client.read("GET");
    assert_eq!((answer.status, answer.text().as_str()), (200, "/long"));
    assert_let_go(client, &answer);
    // A client that is still connected learns it with its next answer, and is then let go.
    let last = idle.get("/ready");
    assert_eq!(
        (last.status, last.field("connection")),
        (503, Some("close"))
    );
    assert!(idle.closes());
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
}

#[test]
fn sigterm_under_load_cuts_no_answer() {
    let origin = fine();
    let mut gateway = quick(&origin, 5).start();
    let load = Load::start(gateway.port(), "/w/load", 4, true);
    load.run_for(200);
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
    let report = load.stop();
    // Afterwards nobody listens: only refused connections may have failed.
    for failure in &report.failed {
        assert!(failure.contains("connect:"), "{failure}");
    }
    let seen = origin
        .requests()
        .iter()
        .filter(|r| r.target.starts_with("/load"))
        .count();
    assert_eq!(
        seen,
        report.answered.len(),
        "requests that nobody got an answer to"
    );
}

#[test]
fn sigterm_is_bounded_and_ends_streams_cleanly() {
    let origin = streaming();
    let mut gateway = quick(&origin, 2).start();
    let socket = open_stream(&gateway, "/w/ws");
    let events = open_stream(&gateway, "/w/events");
    let mut idle = gateway.client();
    assert_eq!(idle.get("/w/x").status, 200);
    eventually("both streams are open", || {
        (origin.requests().len() == 3).then_some(())
    });
    let began = Instant::now();
    gateway.signal("TERM");
    assert_streams_end_cleanly(socket, events);
    assert!(idle.closes(), "an idle connection is closed at the limit");
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(1500),
        "it did not wait for the streams: {took:?}"
    );
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn the_port_is_free_again_behind_sigterm() {
    let origin = fine();
    let mut gateway = quick(&origin, 2).start();
    assert_eq!(gateway.get("/w/x").status, 200);
    let port = gateway.port();
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
    assert!(Client::try_connect(port).is_err());
}
