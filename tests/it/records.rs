//! What is counted and recorded of requests: nothing twice, nothing lost.

use std::{collections::BTreeMap, thread};

use serde_json::json;

use crate::harness::{
    Gateway, Load, Origin, PATIENCE, RedisServer, Response, Setup, api, eventually, keyed_api,
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

/// The records that are there, one after the other; waits for so many.
fn records(redis: &RedisServer, count: u64) -> Vec<Vec<u8>> {
    let found = crate::harness::within(PATIENCE, || (record_count(redis) >= count).then_some(()));
    assert!(found.is_some(), "{} records", record_count(redis));
    let mut range = redis::cmd("LRANGE");
    let range = range.arg(RECORDS).arg(0).arg(-1);
    let records: Vec<Vec<u8>> = range.query(&mut redis.client()).expect("a list");
    assert_eq!(records.len() as u64, count);
    records
}

/// What stands behind a name in a record, as far as it could be that value.
fn behind<'a>(record: &'a [u8], name: &str) -> &'a [u8] {
    let mut key = vec![0xa0 | name.len() as u8];
    key.extend_from_slice(name.as_bytes());
    let at = record
        .windows(key.len())
        .position(|window| window == key)
        .unwrap_or_else(|| panic!("no {name}"));
    &record[at + key.len()..]
}

fn text(record: &[u8], name: &str) -> String {
    let value = behind(record, name);
    let (from, len) = match value[0] {
        short @ 0xa0..=0xbf => (1, usize::from(short & 0x1f)),
        0xd9 => (2, usize::from(value[1])),
        0xda => (3, usize::from(u16::from_be_bytes([value[1], value[2]]))),
        0xdb => (
            5,
            u32::from_be_bytes([value[1], value[2], value[3], value[4]]) as usize,
        ),
        other => panic!("{name} begins with {other:x}"),
    };
    String::from_utf8(value[from..from + len].to_vec()).expect("text")
}

/// A request or answer that was recorded whole.
fn whole(record: &[u8], name: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let raw = STANDARD.decode(text(record, name)).expect("base64");
    String::from_utf8(raw).expect("text")
}

/// Seconds from a record's time to its end.
fn age_s(record: &[u8]) -> i64 {
    let seconds = |name| {
        let value = behind(record, name);
        assert_eq!(value[..2], [0x92, 0xce], "{name}");
        i64::from(u32::from_be_bytes([value[2], value[3], value[4], value[5]]))
    };
    seconds("ExpireAt") - seconds("TimeStamp")
}

fn recorded(redis: &RedisServer, setup: Setup) -> Gateway {
    let analytics = json!({
        "enable_analytics": true, "hash_keys": false,
        "analytics_config": {"storage_expiration_time": 600},
    });
    setup.conf(analytics).on_redis(redis).start()
}

#[test]
fn requests_and_answers_are_recorded_whole_where_that_is_asked_for() {
    let redis = RedisServer::start();
    let origin = Origin::scripted(|peer| {
        while let Some(req) = peer.request() {
            let path = req.target.split('?').next().unwrap_or_default();
            let answer: &[u8] = match path {
                "/chunks" => {
                    b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n\
                      3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
                }
                "/head" => b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
            };
            if peer.write(answer).is_err() {
                return;
            }
        }
    });
    let detailed = json!({"enable_detailed_recording": true, "strip_auth_data": true});
    let setup = Setup::new()
        .api(keyed_api("w", &origin.url()))
        .with(detailed)
        .api(keyed_api("v", &origin.url()));
    let gateway = recorded(&redis, setup);
    let rights = json!({
        "w": {"api_id": "w", "versions": ["Default"]},
        "v": {"api_id": "v", "versions": ["Default"]},
    });
    gateway.make_key("plainkey", json!({"access_rights": rights}));
    let session = json!({"access_rights": rights, "enable_detail_recording": true});
    gateway.make_key("watched", session);
    let ask = |head: &str, body: &str| {
        let mut client = gateway.client();
        client.send(format!("{head}\r\nHost: a\r\n{body}").as_bytes());
        let answer = client.read(head.split(' ').next().expect("a method"));
        answer.status
    };
    let key = "Authorization: plainkey\r\n";
    let chunks = "Transfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n2\r\n12\r\n0\r\n\r\n";
    let status = ask(
        "POST /w/chunks?q=1 HTTP/1.1",
        &format!("{key}B: c\r\n{chunks}"),
    );
    assert_eq!(status, 201);
    let length = "Content-Length: 4\r\n\r\nbody";
    assert_eq!(ask("PUT /w/plain HTTP/1.1", &format!("{key}{length}")), 200);
    assert_eq!(ask("HEAD /w/head HTTP/1.1", &format!("{key}\r\n")), 200);
    assert_eq!(ask("GET /w/refused HTTP/1.1", "\r\n"), 401);
    assert_eq!(ask("GET /v/plain HTTP/1.1", &format!("{key}\r\n")), 200);
    let watched = "Authorization: watched\r\n\r\n";
    assert_eq!(ask("GET /v/plain HTTP/1.1", watched), 200);
    let records = records(&redis, 6);
    let find = |wanted: &dyn Fn(&Vec<u8>) -> bool| {
        let found = records.iter().find(|record| wanted(record));
        found.expect("a record").clone()
    };
    let method = |method: &'static str| find(&move |record| text(record, "Method") == method);
    let chunked = method("POST");
    let request = whole(&chunked, "RawRequest");
    assert!(
        request.starts_with("POST /chunks?q=1 HTTP/1.1\r\nHost: 127.0.0.1:"),
        "{request}"
    );
    assert!(request.contains("\r\nB: c\r\n"), "{request}");
    assert!(
        !request.contains("plainkey"),
        "stripped on its way: {request}"
    );
    let end = "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nxyz12\r\n0\r\n\r\n";
    assert!(request.ends_with(end), "{request}");
    let answer = whole(&chunked, "RawResponse");
    assert!(
        answer.starts_with("HTTP/1.1 201 Created\r\nA: b\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("\r\nContent-Length: 7\r\n\r\nabcdefg"),
        "{answer}"
    );
    assert!(!answer.contains("chunked"), "{answer}");
    let put = method("PUT");
    assert!(whole(&put, "RawRequest").ends_with("\r\nContent-Length: 4\r\n\r\nbody"));
    assert!(whole(&put, "RawResponse").ends_with("\r\nContent-Length: 2\r\n\r\nok"));
    let head = whole(&method("HEAD"), "RawResponse");
    assert!(head.contains("\r\nContent-Length: 7\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    let refused = find(&|record| text(record, "Path") == "/refused");
    let request = whole(&refused, "RawRequest");
    assert_eq!(request, "GET /w/refused HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = whole(&refused, "RawResponse");
    assert!(
        answer.starts_with("HTTP/0.0 401 Unauthorized\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("Authorization field missing\"\n}"),
        "{answer}"
    );
    // By the key, and not without it.
    let of_key = |key: &str| {
        find(&|record| text(record, "APIKey").contains(key) && text(record, "APIID") == "v")
    };
    assert_eq!(text(&of_key("plainkey"), "RawRequest"), "");
    assert!(whole(&of_key("watched"), "RawRequest").starts_with("GET /plain HTTP/1.1\r\n"));
}

#[test]
fn a_large_answer_streams_through_and_its_record_is_cut() {
    const LEN: usize = 2 << 20;
    let redis = RedisServer::start();
    let origin = Origin::answering(|_| Response::new(200, &"x".repeat(LEN)).to_bytes());
    let setup = Setup::new()
        .api(api("w", &origin.url()))
        .with(json!({"enable_detailed_recording": true}));
    let gateway = recorded(&redis, setup);
    let mut client = gateway.client();
    let body = "y".repeat(LEN);
    client.send(
        format!("POST /w/x HTTP/1.1\r\nHost: a\r\nContent-Length: {LEN}\r\n\r\n{body}").as_bytes(),
    );
    let answer = client.read("POST");
    assert_eq!((answer.status, answer.body.len()), (200, LEN));
    let record = records(&redis, 1).remove(0);
    for (name, letter) in [("RawRequest", "y"), ("RawResponse", "x")] {
        let raw = whole(&record, name);
        assert!(
            (200 << 10..=256 << 10).contains(&raw.len()),
            "{}",
            raw.len()
        );
        let (head, content) = raw.split_once("\r\n\r\n").expect("a head");
        assert_eq!(content, letter.repeat(content.len()));
        let note = format!("\r\nX-Penstock-Recorded: {} bytes of {LEN}", content.len());
        assert!(head.ends_with(&note), "{head}");
        assert!(
            head.contains(&format!("\r\nContent-Length: {LEN}\r\n")),
            "{head}"
        );
    }
}

#[test]
fn endpoints_are_recorded_under_their_pattern_or_not_at_all() {
    let redis = RedisServer::start();
    let origin = Origin::answering(|_| Response::new(200, "").to_bytes());
    let lists = json!({
        "track_endpoints": [{"path": "/users/{id}", "method": "GET"}],
        "do_not_track_endpoints": [{"path": "^/private", "method": "GET"}],
    });
    let version = json!({"name": "Default", "use_extended_paths": true, "extended_paths": lists});
    let setup = Setup::new()
        .api(keyed_api("w", &origin.url()))
        .with(json!({"version_data": {"versions": {"Default": version}}}));
    let gateway = recorded(&redis, setup);
    gateway.make_key("kkkk", json!({}));
    for path in ["/w/private/1", "/w/users/7", "/w/other"] {
        assert_eq!(gateway.keyed(path, "kkkk").status, 200, "{path}");
    }
    // Refused behind the step that decides it.
    assert_eq!(gateway.get("/w/private/2").status, 401);
    assert_eq!(gateway.get("/w/users/8").status, 401);
    let mut found: Vec<_> = records(&redis, 3)
        .iter()
        .map(|record| {
            let is_tracked = behind(record, "TrackPath")[0] == 0xc3;
            (text(record, "Path"), text(record, "RawPath"), is_tracked)
        })
        .collect();
    found.sort();
    let users = |raw: &str| ("/users/{id}".to_owned(), raw.to_owned(), true);
    let other = ("/other".to_owned(), "/other".to_owned(), false);
    assert_eq!(found, [other, users("/users/7"), users("/users/8")]);
}

#[test]
fn an_organisation_decides_how_long_its_records_are_kept_and_how_whole_they_are() {
    let (redis, origin) = (RedisServer::start(), by_path());
    let of = |id: &str, org: &str| {
        let mut api = api(id, &origin.url());
        api["org_id"] = json!(org);
        api["expire_analytics_after"] = json!(50);
        api
    };
    let setup = Setup::new()
        .api(of("known", "org1"))
        .api(of("silent", "org2"))
        .api(of("unknown", "org3"))
        .conf(json!({"enforce_org_data_age": true, "enforce_org_data_detail_logging": true}));
    let gateway = recorded(&redis, setup);
    for (org, session) in [
        (
            "org1",
            json!({"data_expires": 3600, "enable_detailed_recording": true}),
        ),
        ("org2", json!({"data_expires": 0})),
    ] {
        let mut session = session;
        session["org_id"] = json!(org);
        session["quota_max"] = json!(-1);
        let path = format!("/tyk/org/keys/{org}");
        let answer = gateway.admin("POST", &path, &session.to_string());
        assert_eq!(answer.status, 200, "{}", answer.summary());
    }
    for api in ["known", "silent", "unknown"] {
        assert_eq!(gateway.get(&format!("/{api}/x")).status, 200, "{api}");
    }
    for record in records(&redis, 3) {
        let expected = match text(&record, "APIID").as_str() {
            "known" => (3600, true),
            "silent" => (50, false),
            _ => (604_800, false),
        };
        let is_whole = !text(&record, "RawRequest").is_empty();
        assert_eq!((age_s(&record), is_whole), expected);
    }
}
