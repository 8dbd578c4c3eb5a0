//! What is counted and recorded of requests: nothing twice, nothing lost.

use std::{collections::BTreeMap, thread};

use serde_json::json;

use crate::harness::{
    Gateway, Load, Origin, PATIENCE, RedisServer, Response, Setup, api, eventually,
};

const RECORDS: &str = "analytics-tyk-system-analytics";

/// Answers with the status that the path ends in.
fn by_path() -> Origin {
    Origin::answering(|req| {
        let status = req.target.rsplit('/').next().and_then(|s| s.parse().ok());
        Response::new(status.unwrap_or(200), "").to_bytes()
    })
}

#[test]
fn metrics_of_all_shards_add_up_to_what_the_origin_saw() {
    let origin = by_path();
    let gateway = Setup::new()
        .api(api("w", &origin.url()))
        .with(json!({"proxy": {"strip_listen_path": false}}))
        .api(api("v", &origin.url()))
        .with(json!({"proxy": {"strip_listen_path": false}}))
        .start();
    let port = gateway.port();
    let clients: Vec<_> = (0..8)
        .map(|n: usize| {
            thread::spawn(move || {
                for round in 0..40_usize {
                    let api = ["w", "v", "w"][(n + round) % 3];
                    let status = [200, 204, 404, 500, 302][(n * 7 + round) % 5];
                    let mut client = crate::harness::Client::connect(port);
                    for _ in 0..=round % 3 {
                        let answer = client.get(&format!("/{api}/{status}"));
                        assert_eq!(answer.status, status, "{}", answer.summary());
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("every request is answered");
    }
    let mut seen: BTreeMap<String, f64> = BTreeMap::new();
    for request in origin.requests() {
        let mut parts = request.target.trim_start_matches('/').split('/');
        let (api, status) = (
            parts.next().expect("an API"),
            parts.next().expect("a status"),
        );
        let class = &status[..1];
        *seen
            .entry(format!(r#"api_id="{api}",class="{class}xx""#))
            .or_default() += 1.0;
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
    // A request is counted when its answer has been written, just behind the client's reading it.
    let mut counted = BTreeMap::new();
    let agree = crate::harness::within(PATIENCE, || {
        counted = gateway.series("penstock_api_responses_total");
        (counted == seen).then_some(())
    });
    assert!(agree.is_some(), "counted {counted:?}\nseen {seen:?}");
}

fn recording(redis: &RedisServer, origin: &Origin) -> Gateway {
    Setup::in_front_of(origin.port())
        .on_redis(redis)
        .conf(json!({
            "enable_analytics": true,
            "analytics_config": {"type": "", "storage_expiration_time": 600},
            "graceful_shutdown_timeout_duration": 5,
        }))
        .start()
}

fn record_count(redis: &RedisServer) -> u64 {
    redis.ask(&format!("LLEN {RECORDS}"))
}

#[test]
fn every_request_is_recorded_once_also_across_upgrade_and_end() {
    let (redis, origin) = (RedisServer::start(), by_path());
    let mut gateway = recording(&redis, &origin);
    let kept = Load::start(gateway.port(), "/w/kept", 4, true);
    let fresh = Load::start(gateway.port(), "/w/fresh", 2, false);
    kept.run_for(200);
    fresh.run_for(50);
    // First while nothing else happens: each one comes, and within a moment.
    for _ in 0..2 {
        let old = gateway.pid();
        gateway.signal("USR2");
        gateway.successor_of(old);
        kept.run_for(100);
        fresh.run_for(50);
    }
    let (kept, fresh) = (kept.stop(), fresh.stop());
    let failed = [kept.failed, fresh.failed].concat();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    let sent = (kept.answered.len() + fresh.answered.len()) as u64;
    let mut found = 0;
    let all = crate::harness::within(PATIENCE, || {
        found = record_count(&redis);
        (found >= sent).then_some(())
    });
    assert!(all.is_some(), "{found} records of {sent} requests");
    assert_eq!(found, sent, "recorded twice");
    // And the last ones before the end.
    for n in 0..25 {
        assert_eq!(gateway.get(&format!("/w/last{n}")).status, 200);
    }
    let last = gateway.pid();
    gateway.signal("TERM");
    eventually("it ends", || gateway.is_gone(last).then_some(()));
    assert_eq!(record_count(&redis), sent + 25);
}

#[test]
fn a_process_that_ends_under_load_has_recorded_what_it_answered() {
    let (redis, origin) = (RedisServer::start(), by_path());
    let mut gateway = recording(&redis, &origin);
    let load = Load::start(gateway.port(), "/w/load", 4, true);
    load.run_for(200);
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
    let report = load.stop();
    assert_eq!(record_count(&redis), report.answered.len() as u64);
}
