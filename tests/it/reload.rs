//! Reload: what did not change is not touched, what is wrong is refused alone, nothing is cut.

use std::{collections::BTreeSet, fs, time::Duration};

use serde_json::{Value, json};

use crate::harness::{
    Client, Gate, Gateway, Load, Origin, Response, Setup, api, eventually, slow_tests,
};

const COMPILATIONS: &str = "penstock_api_compilations_total";
const LAST_RELOAD: &str = "penstock_config_last_reload_successful";

fn named(name: &'static str) -> Origin {
    Origin::answering(move |req| Response::new(200, &format!("{name} {}", req.target)).to_bytes())
}

/// A gateway with `count` APIs called `api0`, `api1` … in front of `origin`.
fn many(origin: &Origin, count: usize) -> Setup {
    (0..count).fold(Setup::new(), |setup, n| {
        setup.api(api(&format!("api{n}"), &origin.url()))
    })
}

fn statuses(gateway: &Gateway, paths: &[&str]) -> Vec<u16> {
    paths.iter().map(|p| gateway.get(p).status).collect()
}

#[test]
fn added_changed_and_removed_apis_take_effect_at_the_reload() {
    let (a, b) = (named("a"), named("b"));
    let mut setup = Setup::in_front_of(a.port());
    setup = setup.api(api("gone", &a.url()));
    let gateway = setup.start();
    gateway.write_api(&api("new", &a.url()));
    gateway.write_api(&api("w", &b.url()));
    gateway.remove_api("gone");
    assert_eq!(
        gateway.get("/w/x").text(),
        "a /x",
        "files alone change nothing"
    );
    assert_eq!(statuses(&gateway, &["/new/x", "/gone/x"]), [404, 200]);
    gateway.reload();
    assert_eq!(gateway.get("/w/x").text(), "b /x");
    assert_eq!(statuses(&gateway, &["/new/x", "/gone/x"]), [200, 404]);
    // A client that was connected all the time sees the change with its next request.
    let mut client = gateway.client();
    assert_eq!(client.get("/w/x").text(), "b /x");
    gateway.write_api(&api("w", &a.url()));
    gateway.reload();
    assert_eq!(client.get("/w/x").text(), "a /x");
}

#[test]
fn a_reload_without_block_takes_effect_soon() {
    let origin = named("a");
    let gateway = Setup::in_front_of(origin.port()).start();
    gateway.write_api(&api("new", &origin.url()));
    assert_eq!(gateway.admin("GET", "/tyk/reload", "").status, 200);
    eventually("the new API answers", || {
        (gateway.get("/new/x").status == 200).then_some(())
    });
}

#[test]
fn only_what_changed_is_compiled_again() {
    let origin = named("a");
    let count = if slow_tests() { 10_000 } else { 300 };
    let gateway = many(&origin, count).start();
    let compiled = || gateway.metric(COMPILATIONS).expect("the metric is there");
    let at_start = compiled();
    assert!(at_start >= count as f64, "{at_start} for {count} APIs");
    gateway.reload();
    assert_eq!(compiled() - at_start, 0.0, "nothing had changed");
    let mut changed = api("api7", &origin.url());
    changed["proxy"]["listen_path"] = json!("/seven/");
    gateway.write_api(&changed);
    gateway.reload();
    assert_eq!(compiled() - at_start, 1.0, "one had changed");
    assert_eq!(statuses(&gateway, &["/seven/x", "/api8/x"]), [200, 200]);
    // Written again with the same content is no change either.
    gateway.write_api(&changed);
    gateway.reload();
    assert_eq!(compiled() - at_start, 1.0, "the same content is no change");
}

/// One definition is broken: its old version goes on, the others are updated, and the log says
/// where the mistake is.
#[test]
fn a_broken_definition_costs_nobody_else() {
    let (a, b) = (named("a"), named("b"));
    let gateway = many(&a, 20).start();
    for n in 0..20 {
        gateway.write_api(&api(&format!("api{n}"), &b.url()));
    }
    gateway.write(
        "apps/api3.json",
        "{\n  \"api_id\": \"api3\",\n  \"proxy\": [,]\n}",
    );
    gateway.reload();
    for n in 0..20 {
        let wanted = if n == 3 { "a /x" } else { "b /x" };
        assert_eq!(gateway.get(&format!("/api{n}/x")).text(), wanted, "api{n}");
    }
    let log = gateway.log();
    let told = log.lines().find(|l| l.contains("api3.json"));
    assert!(
        told.is_some_and(|l| l.contains('3')),
        "no line names api3.json: {told:?}"
    );
    assert_eq!(gateway.get("/ready").status, 200);
    gateway.write_api(&api("api3", &b.url()));
    gateway.reload();
    assert_eq!(gateway.get("/api3/x").text(), "b /x");
}

/// A definition refused at load keeps its own route: its traffic never falls to a shorter path.
#[test]
fn a_refused_definition_answers_404_and_nothing_falls_through() {
    let origin = named("outer");
    let mut outer = api("outer", &origin.url());
    outer["proxy"]["listen_path"] = json!("/nest/");
    let mut inner = api("inner", &origin.url());
    inner["proxy"]["listen_path"] = json!("/nest/inner/");
    inner["version_data"]["versions"]["Default"]["extended_paths"] =
        json!({"white_list": [{"path": "(", "method": "GET"}]});
    let gateway = Setup::new().api(outer).api(inner).start();
    assert_eq!(
        statuses(&gateway, &["/nest/x", "/nest/inner/x"]),
        [200, 404]
    );
    assert_eq!(gateway.get("/nest/inner/x").text(), "Not Found");
    let log = gateway.log();
    assert!(
        log.contains("inner.json"),
        "the log does not name the file:\n{log}"
    );
}

#[test]
fn without_any_readable_file_the_old_table_is_kept() {
    let origin = named("a");
    let gateway = many(&origin, 5).start();
    assert_eq!(gateway.metric(LAST_RELOAD), Some(1.0));
    let away = gateway.dir().join("elsewhere");
    fs::rename(gateway.dir().join("apps"), &away).expect("a folder moves");
    let _ = gateway.admin("GET", "/tyk/reload/?block=true", "");
    assert_eq!(
        statuses(&gateway, &["/api0/x", "/api4/x", "/ready"]),
        [200, 200, 200]
    );
    assert_eq!(gateway.metric(LAST_RELOAD), Some(0.0));
    assert!(
        gateway.log().contains("apps"),
        "the log does not say what is missing"
    );
    fs::rename(away, gateway.dir().join("apps")).expect("a folder moves");
    gateway.reload();
    assert_eq!(gateway.metric(LAST_RELOAD), Some(1.0));
    assert_eq!(statuses(&gateway, &["/api0/x", "/api4/x"]), [200, 200]);
}

#[test]
fn a_dry_run_tells_and_publishes_nothing() {
    let (a, b) = (named("a"), named("b"));
    let gateway = many(&a, 3).start();
    gateway.write_api(&api("new", &a.url()));
    gateway.write_api(&api("api0", &b.url()));
    gateway.remove_api("api1");
    gateway.write(
        "apps/broken.json",
        "{\n  \"api_id\": \"broken\",\n  \"name\": 7,\n}",
    );
    let answer = gateway.admin("GET", "/tyk/reload?dry_run=true", "");
    assert_eq!(answer.status, 200, "{}", answer.summary());
    let report = answer.json();
    let ids = |list: &Value| -> BTreeSet<String> {
        let all = list.as_array().expect("a list").iter();
        all.map(|v| {
            v.as_str()
                .unwrap_or_else(|| v["api_id"].as_str().expect("an id"))
                .to_owned()
        })
        .collect()
    };
    assert!(report["status"].is_string(), "{report:#}");
    assert_eq!(
        ids(&report["added"]),
        BTreeSet::from(["new".to_owned()]),
        "{report:#}"
    );
    assert_eq!(
        ids(&report["removed"]),
        BTreeSet::from(["api1".to_owned()]),
        "{report:#}"
    );
    assert_eq!(
        ids(&report["changed"]),
        BTreeSet::from(["api0".to_owned()]),
        "{report:#}"
    );
    assert_eq!(
        report["changed"][0]["pointers"],
        json!(["/proxy/target_url"]),
        "{report:#}"
    );
    let refused = &report["refused"][0];
    let file = refused["file"].as_str().expect("a file");
    assert!(file.ends_with("broken.json"), "{report:#}");
    for key in ["line", "column"] {
        assert!(refused[key].is_u64(), "{key}: {report:#}");
    }
    for key in ["pointer", "reason"] {
        assert!(refused[key].is_string(), "{key}: {report:#}");
    }
    // Nothing of it is in force.
    assert_eq!(gateway.get("/api0/x").text(), "a /x");
    assert_eq!(statuses(&gateway, &["/new/x", "/api1/x"]), [404, 200]);
}

/// Streams stay on the version they began with, also when their API is changed or removed.
#[test]
fn open_streams_survive_every_reload() {
    let go = Gate::default();
    let door = go.clone();
    let origin = Origin::scripted(move |peer| {
        while let Some(req) = peer.request() {
            match req.target.as_str() {
                "/ws" => {
                    let _ = peer.write(
                        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                          Upgrade: websocket\r\n\r\n",
                    );
                    loop {
                        let word = peer.raw(4);
                        if word.len() < 4 || peer.write(&word).is_err() {
                            return;
                        }
                    }
                }
                "/events" => {
                    let _ =
                        peer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
                    let _ = peer.write(b"data: one\n\n");
                    door.wait();
                    let _ = peer.write(b"data: two\n\n");
                    return;
                }
                _ => {
                    let _ = peer.write(&Response::new(200, "a").to_bytes());
                }
            }
        }
    });
    let gateway = many(&origin, 10).start();
    let open = |path: &str| -> Client {
        let mut client = gateway.client();
        client.send(
            format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            .as_bytes(),
        );
        assert_eq!(
            client.read_head().status,
            if path.ends_with("ws") { 101 } else { 200 }
        );
        client
    };
    let mut sockets: Vec<Client> = (0..10).map(|n| open(&format!("/api{n}/ws"))).collect();
    let mut events: Vec<Client> = (0..4).map(|n| open(&format!("/api{n}/events"))).collect();
    let load = Load::start(gateway.port(), "/api9/load", 4, true);
    let rounds = if slow_tests() { 60 } else { 12 };
    for round in 0..rounds {
        // api0 is changed, api1 comes and goes, the others stay as they are.
        let mut changed = api("api0", &origin.url());
        changed["name"] = json!(format!("round {round}"));
        gateway.write_api(&changed);
        match round % 2 {
            0 => gateway.remove_api("api1"),
            _ => gateway.write_api(&api("api1", &origin.url())),
        }
        gateway.reload();
        let gone = if round % 2 == 0 { 404 } else { 200 };
        assert_eq!(statuses(&gateway, &["/api1/x", "/api2/x"]), [gone, 200]);
        load.run_for(20);
        for (n, socket) in sockets.iter_mut().enumerate() {
            socket.send(b"ping");
            assert_eq!(
                socket.read_until(b"ping"),
                b"ping",
                "websocket {n}, round {round}"
            );
            socket.inbox.buf.clear();
        }
    }
    go.open();
    for (n, stream) in events.iter_mut().enumerate() {
        let rest = stream.read_until(b"data: two\n\n");
        assert!(
            rest.windows(9).any(|w| w == b"data: two"),
            "stream {n} was cut"
        );
    }
    load.stop().assert_flawless(&origin);
}

/// R2 in short: memory, descriptors and threads after many reloads are those after a few.
#[test]
fn many_reloads_leave_nothing_behind() {
    let origin = named("a");
    let (count, rounds) = if slow_tests() { (500, 2600) } else { (100, 80) };
    let gateway = many(&origin, count).start();
    let round = |n: usize| {
        let mut changed = api("api5", &origin.url());
        changed["name"] = json!(format!("round {n}"));
        gateway.write_api(&changed);
        gateway.reload();
        assert_eq!(gateway.get("/api5/x").status, 200);
    };
    let threads =
        || fs::read_dir(format!("/proc/{}/task", gateway.pid())).map_or(0, Iterator::count);
    let warm = rounds / 4;
    (0..warm).for_each(round);
    let before = (
        gateway.resident_kib(),
        gateway.open_descriptors(),
        threads(),
    );
    (warm..rounds).for_each(round);
    let after = eventually("descriptors are given back", || {
        let now = (
            gateway.resident_kib(),
            gateway.open_descriptors(),
            threads(),
        );
        (now.1 <= before.1 + 2).then_some(now)
    });
    // A worker that reloads may still wait for its next task.
    assert!(
        after.2 <= before.2 + 2,
        "{} threads became {}",
        before.2,
        after.2
    );
    let allowed = (before.0 / 20).max(10 * 1024);
    assert!(
        after.0 < before.0 + allowed,
        "{} KiB became {} KiB",
        before.0,
        after.0
    );
}

/// What the control API writes is there whole, or not at all, and says why not.
#[test]
fn a_write_that_fails_leaves_the_old_definition() {
    let origin = named("a");
    let gateway = many(&origin, 2).start();
    let definition = api("blocked", &origin.url()).to_string();
    // A folder stands where the file should go.
    let folder = gateway.dir().join("apps/blocked.json");
    fs::create_dir_all(folder.join("inside")).expect("a folder");
    let answer = gateway.admin("POST", "/tyk/apis", &definition);
    assert_eq!(answer.status, 500, "{}", answer.summary());
    let names: Vec<String> = fs::read_dir(gateway.dir().join("apps"))
        .expect("the folder is there")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(names.len(), 3, "something was left behind: {names:?}");
    fs::remove_dir_all(folder).expect("our own folder");
    assert_eq!(gateway.admin("POST", "/tyk/apis", &definition).status, 200);
    assert_eq!(
        gateway.get("/blocked/x").status,
        404,
        "only a reload publishes"
    );
    gateway.reload();
    assert_eq!(gateway.get("/blocked/x").status, 200);
}

#[test]
fn no_name_leaves_the_folder_of_definitions() {
    let origin = named("a");
    let gateway = many(&origin, 1).start();
    let before = tree(gateway.dir());
    for id in [
        "../evil",
        "..",
        ".",
        "a/../../evil",
        "/etc/evil",
        "a\\..\\evil",
        "evil\u{0}",
        "a/b",
    ] {
        let mut definition = api("x", &origin.url());
        definition["api_id"] = json!(id);
        let answer = gateway.admin("POST", "/tyk/apis", &definition.to_string());
        assert_eq!(answer.status, 400, "{id:?}: {}", answer.summary());
        let escaped: String = id.bytes().map(|b| format!("%{b:02x}")).collect();
        for (method, body) in [("PUT", definition.to_string()), ("DELETE", String::new())] {
            let answer = gateway.admin(method, &format!("/tyk/apis/{escaped}"), &body);
            assert!(
                matches!(answer.status, 301 | 400 | 404 | 405),
                "{method} {id:?}: {}",
                answer.summary()
            );
        }
    }
    assert_eq!(
        tree(gateway.dir()),
        before,
        "something was written or removed"
    );
}

/// The names of all files below a folder, but for the log and the store.
fn tree(folder: &std::path::Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).expect("our own folder").flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("store") {
                open.push(path);
            } else {
                names.insert(path.display().to_string());
            }
        }
    }
    names
}

/// Waiting for a reload never takes a connection of the traffic port hostage for long.
#[test]
fn a_reload_of_many_apis_does_not_stall_traffic() {
    let origin = named("a");
    let count = if slow_tests() { 10_000 } else { 1_000 };
    let gateway = many(&origin, count).start();
    let load = Load::start(gateway.port(), "/api1/load", 2, true);
    load.run_for(20);
    for n in 0..3 {
        for k in 0..100 {
            let mut changed = api(&format!("api{k}"), &origin.url());
            changed["name"] = json!(format!("round {n}"));
            gateway.write_api(&changed);
        }
        gateway.reload();
        load.run_for(20);
    }
    let report = load.stop();
    assert!(
        report.slowest < Duration::from_secs(2),
        "{:?}",
        report.slowest
    );
    report.assert_flawless(&origin);
}
