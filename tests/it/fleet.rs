//! Two gateways on one Redis: what is told to one counts at the other.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::harness::{
    Client, Gateway, Origin, PATIENCE, RedisServer, Response, Setup, eventually, keyed_api, within,
};

const CHANNEL: &str = "tyk.cluster.notifications";

fn fine() -> Origin {
    Origin::answering(|_| Response::new(200, "").to_bytes())
}

/// Two gateways that both listen to the channel of their Redis.
fn pair(redis: &RedisServer, origin: &Origin, conf: &Value) -> [Gateway; 2] {
    let gateways = [0, 1].map(|_| {
        Setup::new()
            .api(keyed_api("w", &origin.url()))
            .on_redis(redis)
            .conf(conf.clone())
            .start()
    });
    eventually("both listen", || {
        let (_, count): (String, u32) = redis.ask(&format!("PUBSUB NUMSUB {CHANNEL}"));
        (count == 2).then_some(())
    });
    gateways
}

/// Enough connections for every shard to have met this key.
#[track_caller]
fn met_everywhere(gateway: &Gateway, key: &str) {
    for _ in 0..12 {
        assert_eq!(gateway.keyed("/w/x", key).status, 200);
    }
}

#[test]
fn a_key_deleted_at_one_gateway_opens_nothing_at_the_other() {
    let (redis, origin) = (RedisServer::start(), fine());
    let [one, other] = pair(&redis, &origin, &json!({}));
    for round in 0..5 {
        let key = format!("gone{round}");
        one.make_key(&key, json!({}));
        met_everywhere(&other, &key);
        let mut client = other.client();
        assert_eq!(client.keyed("/w/x", &key).status, 200);
        let gone = one.admin("DELETE", &format!("/tyk/keys/org1{key}"), "");
        assert_eq!(gone.status, 200, "{}", gone.summary());
        // Sessions are held for ten seconds: without the message they would go on that long.
        let refused = within(Duration::from_secs(2), || {
            (client.keyed("/w/x", &key).status == 403).then_some(())
        });
        assert!(refused.is_some(), "{key} is still let in");
        for _ in 0..12 {
            assert_eq!(other.keyed("/w/x", &key).status, 403, "{key}");
        }
        assert_eq!(one.keyed("/w/x", &key).status, 403, "{key}");
    }
}

#[test]
fn a_group_reload_brings_policies_and_apis_to_both() {
    let (redis, origin) = (RedisServer::start(), fine());
    let [one, other] = pair(&redis, &origin, &json!({}));
    let policies = |quota: u32| {
        json!({"p": {
            "id": "p", "org_id": "org1", "active": true, "rate": 0, "per": 0,
            "quota_max": quota, "quota_renewal_rate": 3600,
            "access_rights": {"w": {"api_id": "w", "api_name": "w", "versions": ["Default"]}},
        }})
        .to_string()
    };
    let mut added = keyed_api("v", &origin.url());
    added["use_keyless"] = json!(true);
    for quota in [500, 700] {
        for gateway in [&one, &other] {
            gateway.write("policies.json", &policies(quota));
        }
        if quota == 700 {
            one.write_api(&added);
            other.write_api(&added);
        }
        let answer = one.admin("GET", "/tyk/reload/group", "");
        assert_eq!(answer.status, 200, "{}", answer.summary());
        if quota == 500 {
            eventually("the policy is there", || {
                let body = json!({"org_id": "org1", "apply_policies": ["p"]}).to_string();
                (one.admin("POST", "/tyk/keys/kkkk", &body).status == 200).then_some(())
            });
        }
        for (name, gateway) in [("the one asked", &one), ("the other", &other)] {
            eventually(&format!("{name} has a quota of {quota}"), || {
                let answer = gateway.keyed("/w/x", "kkkk");
                (answer.field("x-ratelimit-limit") == Some(&quota.to_string())).then_some(())
            });
        }
    }
    for gateway in [&one, &other] {
        assert_eq!(gateway.get("/v/x").status, 200);
    }
}

/// Both gateways have heard each other's sign of life.
fn know_one_another(redis: &RedisServer) {
    let mut client = redis.client();
    let mut channel = client.as_pubsub();
    channel.subscribe(CHANNEL).expect("a subscription");
    channel
        .set_read_timeout(Some(PATIENCE))
        .expect("a socket takes a timeout");
    let mut heard = BTreeSet::new();
    while heard.len() < 2 {
        let message = channel.get_message().expect("signs of life");
        let text: String = message.get_payload().expect("text");
        let message: Value = serde_json::from_str(&text).expect("JSON");
        if message["command"] == "NoticeGatewayDRLNotification" {
            heard.insert(message["payload"].to_string());
        }
    }
}

/// Asks in batches until told to stop; answers how many requests were answered.
fn hammer(gateway: &Gateway, key: &str, until: Instant) -> thread::JoinHandle<u64> {
    const BATCH: usize = 8;
    let port = gateway.port();
    let line = format!("GET /w/x HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n");
    let batch = line.repeat(BATCH);
    thread::spawn(move || {
        let mut client = Client::connect(port);
        let mut answered = 0;
        while Instant::now() < until {
            client.send(batch.as_bytes());
            for _ in 0..BATCH {
                let status = client.read("GET").status;
                assert!(matches!(status, 200 | 429), "{status}");
                answered += 1;
            }
        }
        answered
    })
}

/// The bounds of `docs/limits.md`, with room for a clock that is read late.
#[test]
fn two_gateways_hold_a_rate_together() {
    for (rate, share_max) in [(1000, 1.07), (40, 1.0)] {
        let redis = RedisServer::start();
        let arrivals = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&arrivals);
        let origin = Origin::answering(move |_| {
            let now = Instant::now();
            seen.lock().expect("no holder panics").push(now);
            Response::new(200, "").to_bytes()
        });
        let gateways = pair(&redis, &origin, &json!({"drl_notification_frequency": 1}));
        know_one_another(&redis);
        gateways[0].make_key("kkkk", json!({"rate": rate, "per": 1}));
        let span = Duration::from_millis(3500);
        let (began, asked) = (Instant::now(), AtomicU64::new(0));
        let hammers: Vec<_> = gateways
            .iter()
            .cycle()
            .take(4)
            .map(|gateway| hammer(gateway, "kkkk", began + span))
            .collect();
        for hammer in hammers {
            asked.fetch_add(hammer.join().expect("no panic"), Ordering::Relaxed);
        }
        let mut times = std::mem::take(&mut *arrivals.lock().expect("no holder panics"));
        times.sort_unstable();
        let worst = (0..times.len())
            .map(|from| {
                // The origin sees a request later than it was counted, by up to a tenth, say.
                let end = times[from] + Duration::from_millis(900);
                times[from..].partition_point(|time| *time < end)
            })
            .max()
            .unwrap_or(0);
        let asked = asked.into_inner();
        let decided_alone: f64 = gateways
            .iter()
            .filter_map(|gateway| gateway.metric("penstock_limit_local_total"))
            .sum();
        let figures = format!(
            "{worst} of {rate} in a second; {} of {asked}; {decided_alone} without the store",
            times.len()
        );
        // A machine too busy for an answer within 5 ms has an outage of the store, which has edges.
        let share_max = if decided_alone > 0.0 { 2.0 } else { share_max };
        let most = f64::from(rate) * share_max;
        assert!(worst as f64 <= most, "{figures}");
        // Four windows begin in three and a half seconds.
        assert!(times.len() as f64 <= 4.0 * most, "{figures}");
        // A busy machine may not have asked for more than the limit at all.
        let wanted = f64::from(rate) * span.as_secs_f64() * 0.8;
        let least = wanted.min(asked as f64 * 0.8);
        assert!(times.len() as f64 >= least, "{figures}");
    }
}
