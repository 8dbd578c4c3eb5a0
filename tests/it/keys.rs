//! Keys and organisations: what their limits refuse, what clients are told, and what an upgrade
//! leaves of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{
    Client, End, Gateway, Origin, PATIENCE, RedisServer, Response, SECRET, Setup, TempDir, api,
    eventually, keyed_api, within,
};

fn fine() -> Origin {
    Origin::answering(|_| Response::new(200, "").to_bytes())
}

/// Runs `test` on a gateway with the embedded store and on one with a Redis.
fn on_both_stores(setup: impl Fn() -> Setup, test: impl Fn(&Gateway)) {
    test(&setup().start());
    let redis = RedisServer::start();
    test(&setup().on_redis(&redis).start());
}

#[track_caller]
fn set_organisation(gateway: &Gateway, session: &Value) {
    let answer = gateway.admin(
        "POST",
        "/tyk/org/keys/org1?reset_quota=1",
        &session.to_string(),
    );
    assert_eq!(answer.status, 200, "{}", answer.summary());
}

#[test]
fn an_organisation_is_held_to_its_limits() {
    let origin = fine();
    let setup = || {
        Setup::new()
            .api(api("w", &origin.url()))
            .api(api("v", &origin.url()))
            .conf(json!({"enforce_org_quotas": true}))
    };
    on_both_stores(setup, |gateway| {
        let check = |what: &str, error: &str, passing: usize| {
            for n in 0..passing {
                let path = ["/w/x", "/v/x"][n % 2];
                let answer = gateway.get(path);
                assert_eq!(answer.status, 200, "{what}: {}", answer.summary());
            }
            for path in ["/w/x", "/v/x"] {
                let answer = gateway.get(path);
                assert_eq!(answer.status, 403, "{what}: {}", answer.summary());
                assert_eq!(answer.json(), json!({"error": error}), "{what}");
            }
        };
        set_organisation(
            gateway,
            &json!({"org_id": "org1", "is_inactive": true, "quota_max": -1}),
        );
        check(
            "inactive",
            "this organisation access has been disabled, please contact your API administrator",
            0,
        );
        set_organisation(
            gateway,
            &json!({"org_id": "org1", "quota_max": 3, "quota_renewal_rate": 3600}),
        );
        check(
            "quota",
            "This organisation quota has been exceeded, please contact your API administrator",
            3,
        );
        set_organisation(
            gateway,
            &json!({"org_id": "org1", "quota_max": -1, "rate": 4, "per": 60}),
        );
        check(
            "rate",
            "This organisation rate limit has been exceeded, please contact your API administrator",
            4,
        );
        let gone = gateway.admin("DELETE", "/tyk/org/keys/org1", "");
        assert_eq!(gone.status, 200, "{}", gone.summary());
        // Without a session of its own it has no limits.
        for _ in 0..8 {
            assert_eq!(gateway.get("/w/x").status, 200);
        }
        // That there is none is remembered for a second.
        set_organisation(
            gateway,
            &json!({"org_id": "org1", "is_inactive": true, "quota_max": -1}),
        );
        eventually("the organisation is inactive again", || {
            (gateway.get("/w/x").status == 403).then_some(())
        });
    });
}

#[test]
fn a_key_can_ask_for_its_limits_and_pays_nothing() {
    let origin = fine();
    let setup = || {
        Setup::new()
            .api(keyed_api("w", &origin.url()))
            .api(keyed_api("v", &origin.url()))
            .api(api("open", &origin.url()))
    };
    on_both_stores(setup, |gateway| {
        let rights =
            |id: &str| json!({id: {"api_id": id, "api_name": id, "versions": ["Default"]}});
        gateway.make_key(
            "kkkk",
            json!({
                "rate": 2, "per": 60, "quota_max": 3, "quota_renewal_rate": 3600,
                "quota_remaining": 3, "access_rights": rights("w"),
            }),
        );
        let before = origin.requests().len();
        for method in ["GET", "POST", "DELETE", "GET", "GET"] {
            let mut client = gateway.client();
            client.send(
                format!(
                    "{method} /w/tyk/rate-limits/ HTTP/1.1\r\nHost: a\r\nAuthorization: kkkk\r\n\
                     Content-Length: 0\r\n\r\n"
                )
                .as_bytes(),
            );
            let answer = client.read(method);
            assert_eq!(answer.status, 200, "{method}: {}", answer.summary());
            let mut told = answer.json();
            assert!(told["quota"]["quota_renews"].is_number(), "{told}");
            told["quota"]["quota_renews"] = json!(0);
            assert_eq!(
                told,
                json!({
                    "quota": {"quota_max": 3, "quota_remaining": 3, "quota_renews": 0},
                    "rate_limit": {"requests": 2, "per_unit": 60},
                })
            );
            assert!(answer.text().ends_with("}\n"), "{:?}", answer.text());
        }
        assert_eq!(origin.requests().len(), before);
        // Nothing was paid: both requests of the rate are there, and the quota is whole.
        for remaining in ["2", "1"] {
            let answer = gateway.keyed("/w/x", "kkkk");
            assert_eq!(answer.status, 200, "{}", answer.summary());
            assert_eq!(answer.field("x-ratelimit-remaining"), Some(remaining));
        }
        assert_eq!(gateway.keyed("/w/x", "kkkk").status, 429);
        assert_eq!(gateway.keyed("/w/tyk/rate-limits/", "kkkk").status, 200);
        // Who may not come in is told nothing.
        for (path, key, status) in [
            ("/w/tyk/rate-limits/", "unknown", 403),
            ("/v/tyk/rate-limits/", "kkkk", 403),
        ] {
            assert_eq!(gateway.keyed(path, key).status, status, "{path} {key}");
        }
        assert_eq!(gateway.get("/w/tyk/rate-limits/").status, 401);
        // Without the slash behind it, and where no keys are, it is a path like others.
        gateway.make_key("freekey", json!({"access_rights": rights("w")}));
        let before = origin.requests().len();
        assert_eq!(gateway.keyed("/w/tyk/rate-limits", "freekey").status, 200);
        assert_eq!(gateway.get("/open/tyk/rate-limits/").status, 200);
        assert_eq!(origin.requests().len(), before + 2);
    });
}

#[test]
fn a_new_period_of_a_quota_is_stored() {
    let origin = fine();
    on_both_stores(
        || Setup::new().api(keyed_api("w", &origin.url())),
        |gateway| {
            let limit = json!({"quota_max": 5, "quota_renewal_rate": 1, "quota_renews": 0});
            let mut session = limit.clone();
            session["access_rights"] = json!({
                "w": {"api_id": "w", "versions": ["Default"], "limit": limit}
            });
            gateway.make_key("kkkk", session);
            let renews = || {
                let told = gateway
                    .admin("GET", "/tyk/keys/kkkk?org_id=org1", "")
                    .json();
                let limit = &told["access_rights"]["w"]["limit"];
                limit["quota_renews"].as_i64().expect("a number")
            };
            let first = renews();
            eventually("the next period", || {
                gateway.keyed("/w/x", "kkkk");
                (renews() > first + 1).then_some(())
            });
        },
    );
}

#[test]
fn sessions_change_in_the_store_as_tyk_changes_them() {
    let (origin, redis) = (fine(), RedisServer::start());
    let setup = Setup::new()
        .api(keyed_api("w", &origin.url()))
        .conf(json!({"hash_keys": false}));
    let gateway = setup.on_redis(&redis).start();
    let session = |more: &str| {
        format!(
            r#"{{"org_id":"org1",{more},"quota_max":3000,"quota_renewal_rate":3600,"access_rights":{{"w":{{"api_id":"w","versions":["Default"]}}}}}}"#
        )
    };
    let mut client = redis.client();
    let mut put = |key: &str, value: &str| {
        let mut set = redis::cmd("SET");
        let set = set.arg(format!("apikey-org1{key}")).arg(value);
        set.exec(&mut client).expect("stored");
    };
    let stored = |key: &str| -> Option<Value> {
        let value: Option<String> = redis.ask(&format!("GET apikey-org1{key}"));
        value.map(|value| serde_json::from_str(&value).expect("JSON"))
    };
    put("plain", &session(r#""alias":"first","quota_renews":1000"#));
    put("short", &session(r#""session_lifetime":1000"#));
    put("gone", &session(r#""alias":"gone""#));
    put("edited", &session(r#""alias":"before""#));
    let unmetered = r#"{"org_id":"org1","quota_max":-1}"#;
    put("unmetered", unmetered);
    let mut listening = redis.client();
    let mut channel = listening.as_pubsub();
    channel
        .subscribe("tyk.cluster.notifications")
        .expect("a subscription");
    let (): () = redis.ask("EXPIRE apikey-org1short 900");
    for key in ["gone", "edited", "unmetered", "short", "plain", "plain"] {
        let answer = gateway.keyed("/w/x", key);
        assert_eq!(answer.status, 200, "{key}: {}", answer.summary());
        if key == "edited" {
            put("edited", r#"{"org_id":"org1","alias":"after"}"#);
        }
        if key == "gone" {
            let _: i64 = redis.ask("DEL apikey-org1gone");
        }
    }
    let plain = eventually("it is written", || {
        stored("plain").filter(|session| session["quota_remaining"] == 2998)
    });
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let renews = plain["quota_renews"].as_u64().expect("a time");
    assert!((now_s + 3500..=now_s + 3600).contains(&renews), "{plain}");
    assert_eq!(plain["alias"], "first");
    // An empty limit would count instead of the session's own if it said anything.
    assert_eq!(plain["access_rights"]["w"]["limit"]["quota_renews"], 0);
    assert_eq!(plain["smoothing"], Value::Null, "all of Go's form");
    eventually("the session lives longer", || {
        let ttl: i64 = redis.ask("TTL apikey-org1short");
        (ttl > 900).then_some(())
    });
    // Written before it, had they been written.
    assert_eq!(stored("gone"), None);
    let edited: String = redis.ask("GET apikey-org1edited");
    assert_eq!(edited, r#"{"org_id":"org1","alias":"after"}"#);
    let kept: String = redis.ask("GET apikey-org1unmetered");
    assert_eq!(kept, unmetered);
    // Each renewal is told once, perhaps together with others of its time.
    channel
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket takes a timeout");
    let mut told: Vec<String> = Vec::new();
    while !["plain:quota", "short:quota"]
        .iter()
        .all(|name| told.iter().any(|told| told == name))
    {
        let message = channel.get_message().expect("the renewals");
        let message: String = message.get_payload().expect("text");
        let message: Value = serde_json::from_str(&message).expect("JSON");
        if message["command"] == "KeySpaceUpdateNotification" {
            let names = message["payload"].as_str().expect("text").split(',');
            told.extend(names.map(str::to_owned));
        }
    }
    for name in ["plain", "short", "org1plain", "org1short"] {
        let name = format!("{name}:quota");
        let count = told.iter().filter(|told| **told == name).count();
        assert_eq!(count, 1, "{name}: {told:?}");
    }
}

/// `{"a":{"a": … 0 … }}` with so many objects around each other.
fn nested(depth: usize) -> String {
    format!("{}0{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))
}

/// What a client is told is Tyk's text; the log says where and why, and quotes nothing.
#[test]
fn documents_beyond_a_bound_are_refused_with_place_and_reason() {
    let origin = fine();
    let setup = Setup::new()
        .api(keyed_api("w", &origin.url()))
        .conf(json!({"policies": {"policy_path": "policies.d"}}));
    let gateway = setup.start();
    let rights = r#""org_id":"org1","access_rights":{"w":{"api_id":"w"}}"#;
    let session = |more: &str| format!("{{{rights},{more}}}");
    let long = "x".repeat(4 * 1024 * 1024);
    for (what, body, said) in [
        (
            "as deep as may be",
            session(&format!(r#""meta_data":{{"m":{}}}"#, nested(126))),
            None,
        ),
        (
            "one deeper",
            session(&format!(r#""meta_data":{{"m":{}}}"#, nested(127))),
            Some("nests deeper than 128"),
        ),
        (
            "large",
            session(&format!(r#""alias":"{}""#, &long[..4_000_000])),
            None,
        ),
        (
            "too large",
            session(&format!(r#""alias":"{long}""#)),
            Some("4194304"),
        ),
        (
            "a type",
            session(r#""quota_max":"secret""#),
            Some("/quota_max"),
        ),
        (
            "a type inside",
            r#"{"access_rights":{"w":{"limit":{"rate":"secret"}}}}"#.to_owned(),
            Some("/access_rights/w/limit/rate"),
        ),
        (
            "beyond the integers",
            session(r#""quota_max":92233720368547758080"#),
            Some("/quota_max"),
        ),
        ("no JSON", "{nope".to_owned(), Some("1")),
    ] {
        let from = gateway.log().len();
        let answer = gateway.admin("POST", "/tyk/keys/kkkk", &body);
        let Some(said) = said else {
            assert_eq!(answer.status, 200, "{what}: {}", answer.summary());
            continue;
        };
        assert_eq!(answer.status, 400, "{what}: {}", answer.summary());
        assert_eq!(
            answer.json(),
            json!({"status": "error", "message": "Request malformed"}),
            "{what}"
        );
        let line = eventually(&format!("{what}: a line in the log"), || {
            let log = gateway.log();
            let line = log[from..].lines().find(|line| line.contains(said));
            line.map(str::to_owned)
        });
        assert!(!line.contains("secret"), "{line}");
    }
}

#[test]
fn policies_beyond_a_bound_are_named_and_the_others_count() {
    let origin = fine();
    let gateway = Setup::new().api(keyed_api("w", &origin.url())).start();
    let good =
        r#"{"id":"good","org_id":"org1","active":true,"access_rights":{"w":{"api_id":"w"}}}"#;
    for (what, bad, pointer) in [
        (
            "a type",
            r#"{"id":"bad","quota_max":"x"}"#.to_owned(),
            "/bad/quota_max",
        ),
        (
            "depth",
            format!(r#"{{"id":"bad","meta_data":{{"m":{}}}}}"#, nested(130)),
            "nests deeper",
        ),
    ] {
        gateway.write(
            "policies.json",
            &format!(r#"{{"good":{good},"bad":{bad}}}"#),
        );
        let answer = gateway.admin("GET", "/tyk/reload/?block=true", "");
        let text = answer.text();
        assert!(
            text.contains(pointer) || gateway.log().contains(pointer),
            "{what}: {text}"
        );
        let listed = gateway.admin("GET", "/tyk/policies", "").text();
        assert!(
            listed.contains("good") || what == "depth",
            "{what}: {listed}"
        );
    }
}

/// `POST`s keys until told to stop; the names of those that were acknowledged.
fn write_keys(port: u16, writer: usize, stop: &Arc<AtomicBool>) -> thread::JoinHandle<Vec<String>> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let mut acknowledged = Vec::new();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let name = format!("k{writer}x{number}");
            let body = r#"{"org_id":"org1","quota_max":-1,"access_rights":{"w":{"api_id":"w"}}}"#;
            let Ok(mut client) = Client::try_connect(port) else {
                continue;
            };
            client.send(
                format!(
                    "POST /tyk/keys/{name} HTTP/1.1\r\nHost: a\r\nX-Tyk-Authorization: {SECRET}\r\n\
                     Content-Length: {}\r\n\r\n{body}",
                    body.len()
                )
                .as_bytes(),
            );
            let answer = client.read("POST");
            if answer.status == 200 && answer.end == End::Complete {
                acknowledged.push(name);
            } else {
                assert_eq!(answer.status, 503, "{}", answer.summary());
            }
        }
        acknowledged
    })
}

#[test]
fn upgrades_lose_no_key_and_no_unit_of_a_quota() {
    const QUOTA: usize = 4000;
    let origin = fine();
    // A disk that is busy with something else is not what this is about.
    let folder = TempDir::in_memory("store");
    let mut gateway = Setup::new()
        .api(keyed_api("w", &origin.url()))
        .conf(json!({
            "graceful_shutdown_timeout_duration": 5,
            "penstock": {"store_path": folder.path()},
        }))
        .start();
    let began = Instant::now();
    gateway.make_key(
        "limited",
        json!({"quota_max": QUOTA, "quota_renewal_rate": 3600}),
    );
    let port = gateway.port();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2).map(|n| write_keys(port, n, &stop)).collect();
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let (mut counts, mut failed) = ([0; 2], Vec::new());
                let mut client = Client::connect(port);
                while !stop.load(Ordering::Relaxed) {
                    let answer = client.keyed("/w/x", "limited");
                    match answer.status {
                        200 => counts[0] += 1,
                        403 => counts[1] += 1,
                        _ => failed.push(format!("{:?}: {}", began.elapsed(), answer.summary())),
                    }
                    let closing = answer.field("connection") == Some("close");
                    if closing {
                        client = Client::connect(port);
                    }
                }
                (counts, failed)
            })
        })
        .collect();
    let mut upgrades = Vec::new();
    for _ in 0..3 {
        let reached = origin.requests().len();
        eventually("requests are served", || {
            (origin.requests().len() >= (reached + 200).min(QUOTA)).then_some(())
        });
        let old = gateway.pid();
        let signaled = began.elapsed();
        gateway.signal("USR2");
        gateway.successor_of(old);
        upgrades.push((signaled, began.elapsed()));
    }
    // Until nothing is left, and some requests beyond.
    let refused = |gateway: &Gateway| gateway.keyed("/w/x", "limited").status == 403;
    let mut extra = 0;
    let ended = within(Duration::from_secs(60), || {
        let over = refused(&gateway);
        extra += usize::from(!over);
        over.then_some(())
    });
    assert!(ended.is_some(), "the quota never ended");
    stop.store(true, Ordering::Relaxed);
    let (mut admitted, mut failed) = (extra, Vec::new());
    for asker in askers {
        let (counts, more) = asker.join().expect("no panic");
        admitted += counts[0];
        failed.extend(more);
    }
    assert!(
        failed.is_empty(),
        "{} failed, upgrades at {upgrades:?}: {failed:#?}",
        failed.len()
    );
    let names: Vec<String> = writers
        .into_iter()
        .flat_map(|writer| writer.join().expect("no write failed"))
        .collect();
    assert!(names.len() > 10, "only {} keys were written", names.len());
    let listed = gateway.admin("GET", "/tyk/keys", "").json();
    let listed: std::collections::BTreeSet<&str> = listed["keys"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for name in &names {
        let stored = format!("org1{name}");
        assert!(
            listed.contains(stored.as_str()),
            "{name} was acknowledged and is lost"
        );
    }
    assert_eq!(origin.requests().len(), admitted, "admitted and not served");
    assert_eq!(admitted, QUOTA, "after three upgrades");
}

#[test]
fn metrics_tell_of_sessions_limits_and_upstream_connections() {
    let origin = fine();
    let gateway = Setup::new()
        .conf(json!({"penstock": {"shards": 1}}))
        .api(keyed_api("w", &origin.url()))
        .start();
    let rights = json!({"w": {"api_id": "w", "versions": ["Default"]}});
    gateway.make_key(
        "counted",
        json!({"access_rights": rights, "rate": 1000, "per": 60, "quota_max": 3}),
    );
    let mut client = gateway.client();
    for n in 0..5 {
        let answer = client.keyed("/w/x", "counted");
        assert_eq!(answer.status, if n < 3 { 200 } else { 403 });
    }
    let metric = |name: &str| gateway.metric(name).unwrap_or_default();
    assert_eq!(metric("penstock_session_cache_misses_total"), 1.0);
    assert_eq!(metric("penstock_session_cache_hits_total"), 4.0);
    assert_eq!(metric("penstock_upstream_connections_total"), 1.0);
    assert_eq!(metric("penstock_upstream_reuses_total"), 2.0);
    let refused = gateway.series("penstock_limit_refusals_total");
    let of = |kind: &str| -> f64 {
        let found = refused.iter().filter(|(name, _)| name.contains(kind));
        found.map(|(_, value)| value).sum()
    };
    assert_eq!((of("quota"), of("rate")), (2.0, 0.0), "{refused:?}");
    assert!(metric("penstock_limit_asks_total") >= 1.0);
    eventually("an idle connection is told of", || {
        (metric("penstock_upstream_connections_idle") >= 1.0).then_some(())
    });
}
