//! A gateway while its Redis hangs, crashes or hands over: requests are answered at once, keyless
//! APIs and keys that are known do not notice, and nobody gets in who should not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Gateway, Origin, RedisCluster, RedisServer, Response, SentinelGroup, Setup, api, eventually,
    fixture,
};

/// What a request may take beside waiting for the store; machines that test are busy.
const PROMPT: Duration = Duration::from_millis(250);

/// The store's share of a request, and some.
const PATIENCE: Duration = Duration::from_millis(100 + 250);

/// One API with keys, `w`, and one without, `open`.
fn gateway(storage: Value) -> (Gateway, Origin) {
    let origin = Origin::answering(|_| Response::new(200, "").to_bytes());
    let mut section = json!({"type": "redis", "timeout": 5});
    crate::harness::merge(&mut section, storage);
    let gateway = Setup::new()
        .api(api("open", &origin.url()))
        .api(api("w", &origin.url()))
        .with(json!({"use_keyless": false, "use_standard_auth": true}))
        .conf(json!({"storage": section, "liveness_check": {"check_duration": 100_000_000}}))
        .start();
    (gateway, origin)
}

/// Status of a request with this key, and how long it took.
fn with_key(gateway: &Gateway, key: &str) -> (u16, Duration) {
    let began = Instant::now();
    let mut client = gateway.client();
    client.send(format!("GET /w/x HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n").as_bytes());
    (client.read("GET").status, began.elapsed())
}

/// Adds a key through the control API; its status.
fn add_key(gateway: &Gateway, key: &str) -> u16 {
    let session = json!({"org_id": "org1", "access_rights": {"w": {"api_id": "w"}}});
    let path = format!("/tyk/keys/{key}?suppress_reset=1");
    gateway.admin("POST", &path, &session.to_string()).status
}

#[test]
fn a_stopped_redis_costs_strangers_a_moment_and_nobody_else_anything() {
    let redis = RedisServer::start();
    let (gateway, _origin) = gateway(json!({"addrs": [redis.address()]}));
    for key in ["knownknown", "laterlater"] {
        assert_eq!(add_key(&gateway, key), 200);
    }
    assert_eq!(with_key(&gateway, "knownknown").0, 200);
    redis.signal("STOP");
    let stopped = Instant::now();
    let mut slowest = [Duration::ZERO; 3];
    while stopped.elapsed() < Duration::from_secs(4) {
        let began = Instant::now();
        assert_eq!(gateway.get("/open/x").status, 200);
        let keyless = began.elapsed();
        let (status, known) = with_key(&gateway, "knownknown");
        assert_eq!(status, 200, "{:?} after it stopped", stopped.elapsed());
        let (status, stranger) = with_key(&gateway, "strangerst");
        assert_eq!(status, 503);
        // Three questions may wait; then none does.
        let is_away = stopped.elapsed() > Duration::from_secs(1);
        assert!(
            stranger < if is_away { PROMPT } else { PATIENCE },
            "{stranger:?}"
        );
        for (slowest, took) in slowest.iter_mut().zip([keyless, known, stranger]) {
            *slowest = took.max(*slowest);
        }
    }
    assert!(slowest[0] < PROMPT && slowest[1] < PROMPT, "{slowest:?}");
    let began = Instant::now();
    assert_eq!(
        add_key(&gateway, "refusedref"),
        500,
        "never ok when it was not written"
    );
    assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    redis.signal("CONT");
    let continued = Instant::now();
    eventually("keys open again", || {
        (with_key(&gateway, "laterlater").0 == 200).then_some(())
    });
    println!(
        "slowest keyless, known, strange: {slowest:?}; back {:?} after it went on",
        continued.elapsed()
    );
    assert!(continued.elapsed() < Duration::from_secs(2));
    assert_eq!(with_key(&gateway, "strangerst").0, 403);
    assert_eq!(add_key(&gateway, "refusedref"), 200);
}

#[test]
fn a_redis_that_takes_no_writes_is_read_from_and_nothing_is_confirmed_that_it_has_not() {
    let redis = RedisServer::start();
    let (gateway, _origin) = gateway(json!({"addrs": [redis.address()]}));
    // Known to the store and not to the gateway: each must be read.
    for n in 0..60 {
        assert_eq!(add_key(&gateway, &format!("stored{n:04}")), 200);
    }
    let _: String = redis.ask("REPLICAOF 127.0.0.1 1");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for n in 0..4 {
                let key = format!("refused{n:04}");
                assert_eq!(add_key(&gateway, &key), 500, "{key}");
            }
        });
        let mut n = 0;
        while !writing.is_finished() || n < 60 {
            let key = format!("stored{:04}", n % 60);
            assert_eq!(with_key(&gateway, &key).0, 200, "{key}");
            let key = format!("strange{n:04}");
            assert_eq!(with_key(&gateway, &key).0, 403, "{key}");
            assert_eq!(gateway.get("/open/x").status, 200);
            n += 1;
        }
    });
    let _: String = redis.ask("REPLICAOF NO ONE");
    eventually("keys can be made again", || {
        (add_key(&gateway, "againagain") == 200).then_some(())
    });
    let keys: Vec<String> = redis.ask("KEYS *refused*");
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn keys_that_are_known_do_not_notice_that_redis_ends_and_comes_back() {
    let mut redis = RedisServer::start();
    let (gateway, _origin) = gateway(json!({"addrs": [redis.address()]}));
    for key in ["knownknown", "laterlater"] {
        assert_eq!(add_key(&gateway, key), 200);
    }
    assert_eq!(with_key(&gateway, "knownknown").0, 200);
    let _: String = redis.ask("SAVE");
    redis.kill();
    eventually("the store counts as away", || {
        assert_eq!(with_key(&gateway, "knownknown").0, 200);
        (with_key(&gateway, "strangerst").0 == 503).then_some(())
    });
    if !redis.restart() {
        return; // Somebody else has the port now.
    }
    // All that is missed while nobody listens makes known keys doubtful; they are read anew, or go on.
    let mut is_back = 0;
    while is_back < 300 {
        assert_eq!(with_key(&gateway, "knownknown").0, 200);
        is_back += usize::from(with_key(&gateway, "laterlater").0 == 200);
    }
}

/// Adds keys while `fail` happens; every key whose creation was confirmed opens the API afterwards.
fn keys_survive(gateway: &Gateway, fail: impl FnOnce() + Send) {
    let confirmed = std::thread::scope(|scope| {
        let (mut confirmed, mut refused) = (Vec::new(), 0);
        let (begin, begun) = std::sync::mpsc::channel();
        let failing = scope.spawn(move || {
            begun.recv().expect("the writer tells");
            fail();
        });
        let mut after = 0;
        while after < 20 {
            if confirmed.len() == 30 {
                let _ = begin.send(());
            }
            let key = format!("key{:09}", confirmed.len() + refused);
            match add_key(gateway, &key) {
                200 => confirmed.push(key),
                _ => refused += 1,
            }
            after += usize::from(failing.is_finished());
        }
        println!("{} confirmed, {refused} refused", confirmed.len());
        confirmed
    });
    for key in confirmed {
        // The part that was lost may still be coming back.
        eventually(&format!("{key}, which was confirmed, is found"), || {
            let status = with_key(gateway, &key).0;
            assert!(matches!(status, 200 | 503), "{key}: {status}");
            (status == 200).then_some(())
        });
    }
}

#[test]
fn keys_that_were_confirmed_survive_the_loss_of_a_master() {
    let mut group = SentinelGroup::start("watch");
    let (gateway, _origin) = gateway(json!({
        "addrs": group.sentinel_addresses(), "master_name": "main", "sentinel_password": "watch",
    }));
    keys_survive(&gateway, || {
        let master = group.master();
        group.servers[master].kill();
        group.master();
    });
}

#[test]
fn keys_that_were_confirmed_survive_the_loss_of_a_part_of_a_cluster() {
    let mut cluster = RedisCluster::start();
    let (gateway, _origin) = gateway(json!({"addrs": cluster.addresses(), "enable_cluster": true}));
    keys_survive(&gateway, || {
        cluster.servers[0].kill();
        cluster.settled("cluster_state:ok");
    });
}

/// A gateway with a key for `max` requests.
fn with_quota(storage: Value, max: usize) -> (Gateway, Origin) {
    let (gateway, origin) = gateway(storage);
    let rights = json!({"w": {"api_id": "w", "versions": ["Default"]}});
    gateway.make_key(
        "countedcounted",
        json!({"access_rights": rights, "quota_max": max, "quota_renewal_rate": 3600}),
    );
    (gateway, origin)
}

/// Limits that were asked over connections of shards.
fn asked_directly(gateway: &Gateway) -> f64 {
    let count = gateway.metric("penstock_limit_asks_direct_total");
    count.expect("it is counted")
}

/// Sends requests until shards ask by themselves; so many were admitted.
fn until_direct(gateway: &Gateway) -> usize {
    let mut admitted = 0;
    let before = asked_directly(gateway);
    eventually("a shard asks by itself", || {
        admitted += usize::from(with_key(gateway, "countedcounted").0 == 200);
        (asked_directly(gateway) > before + 3.0).then_some(())
    });
    admitted
}

#[test]
fn a_shard_asks_for_its_limits_by_itself_where_it_may() {
    let login = RedisServer::start_with(|_| ["--requirepass", "secret"].map(str::to_owned).into());
    let (_tls, tls_port) = RedisServer::start_with_tls();
    for (storage, is_direct) in [
        (
            json!({"addrs": [login.address()], "password": "secret", "database": 3}),
            true,
        ),
        (
            json!({
                "addrs": [format!("localhost:{tls_port}")], "use_ssl": true,
                "ca_file": fixture("ca.crt"), "ssl_insecure_skip_verify": true,
                "cert_file": fixture("client1.crt"), "key_file": fixture("client1.key"),
            }),
            true,
        ),
        // As many connections as the store itself takes.
        (
            json!({
                "addrs": [login.address()], "password": "secret", "database": 4,
                "optimisation_max_active": 2,
            }),
            false,
        ),
    ] {
        const MAX: usize = 500;
        let (gateway, _origin) = with_quota(storage, MAX);
        let mut admitted = match is_direct {
            true => until_direct(&gateway),
            false => 0,
        };
        let mut client = gateway.client();
        for _ in 0..MAX {
            admitted += usize::from(client.keyed("/w/x", "countedcounted").status == 200);
        }
        assert!(admitted <= MAX, "{admitted}");
        // Answers that a busy machine has late may cost a few.
        assert!(admitted > MAX * 9 / 10, "{admitted}");
        assert_eq!(asked_directly(&gateway) > 0.0, is_direct);
    }
}

#[test]
fn a_shards_own_connection_follows_the_server() {
    let mut redis = RedisServer::start();
    let (gateway, _origin) = with_quota(json!({"addrs": [redis.address()]}), 900);
    until_direct(&gateway);
    redis.kill();
    // A share of what was left.
    assert_eq!(with_key(&gateway, "countedcounted").0, 200);
    while !redis.restart() {}
    until_direct(&gateway);
    redis.signal("STOP");
    for _ in 0..20 {
        assert_eq!(with_key(&gateway, "countedcounted").0, 200);
    }
    redis.signal("CONT");
    until_direct(&gateway);
}

#[test]
fn a_shards_own_connection_follows_the_master() {
    let mut group = SentinelGroup::start("watch");
    let (gateway, _origin) = with_quota(
        json!({
            "addrs": group.sentinel_addresses(), "master_name": "main",
            "sentinel_password": "watch",
        }),
        900,
    );
    until_direct(&gateway);
    let master = group.master();
    group.servers[master].kill();
    let master = group.master();
    until_direct(&gateway);
    let counters: Vec<String> = group.servers[master].ask("KEYS quota-*");
    assert_eq!(counters.len(), 1);
}
