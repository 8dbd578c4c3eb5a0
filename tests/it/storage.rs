//! Stores against real servers that crash, hang and hand over: what was acknowledged is there.
//!
//! These tests use the crate's storage directly; how a gateway behaves meanwhile is in
//! `storage_faults`.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use penstock::{
    config::{Config, Vars},
    storage::{
        Add, Eval, Event, ListLimit, Owner, Replace, Script, ScriptReply, Store, StoreError, Ttl,
        WriteOp, opener,
    },
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::harness::{
    RedisCluster, RedisServer, SentinelGroup, TempDir, Wire, eventually, fixture, free_port, merge,
};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn config(storage: &Value) -> Config {
    let text = json!({"storage": storage}).to_string();
    let dir = TempDir::new("conf");
    let path = dir.path().join("tyk.conf");
    std::fs::write(&path, text).expect("the temporary folder can be written");
    Config::load(&path, &Vars::new())
        .expect("a configuration")
        .config
}

async fn owner(storage: Value) -> Owner {
    let open = opener(&config(&storage), Path::new("/nowhere")).expect("a store");
    let owner = Owner::new(open);
    owner.acquire().await.expect("nothing is connected yet");
    owner
}

fn redis(addrs: &[String], more: Value) -> Value {
    let mut storage = json!({"type": "redis", "addrs": addrs, "timeout": 5});
    merge(&mut storage, more);
    storage
}

/// Everything that a store can do, in short.
async fn do_everything(store: &dyn Store) {
    static KEYS: Script = Script::new("return {KEYS[1], redis.call('GET', KEYS[1])}");
    let minute = Some(Duration::from_secs(60));
    let name = |n: usize| format!("k-{n}");
    let ops = (0..50).map(|n| WriteOp::Set {
        key: name(n),
        value: n.to_string().into_bytes(),
        ttl: minute,
    });
    store.write(ops.collect()).await.expect("stored");
    let found = store
        .get_many((0..51).map(name).collect())
        .await
        .expect("read");
    for (n, value) in found.iter().enumerate() {
        let expected = (n < 50).then(|| n.to_string().into_bytes());
        assert_eq!(*value, expected, "{n}");
    }
    assert_eq!(store.list("k-").await.expect("listed").len(), 50);
    assert!(matches!(
        store.ttl("k-1").await,
        Ok(Some(Ttl::Ms(1..=60_000)))
    ));
    assert_eq!(store.delete("k-1").await, Ok(true));
    assert_eq!(store.set_if_absent("k-1", b"1", None).await, Ok(true));
    assert_eq!(store.ttl("k-1").await, Ok(Some(Ttl::Forever)));
    let changes = (0..50).map(|n| Replace {
        key: format!("k-{n}"),
        from: b"1".to_vec(),
        to: b"2".to_vec(),
        ttl: minute,
    });
    let replaced = store.replace(changes.collect()).await.expect("asked");
    let count = replaced.iter().filter(|replaced| **replaced).count();
    assert_eq!(count, usize::from(replaced[1]), "only that one is 1");
    let adds = (0..50).map(|n| Add {
        key: format!("c-{}", n % 25),
        by: n,
        ttl: minute,
    });
    let counters = store.add(adds.collect()).await.expect("added");
    assert_eq!(counters[49].value, 24 + 49);
    let pushed = store.push(
        "l",
        (0..10).map(|_| b"r").collect(),
        ListLimit {
            records_max: Some(4),
            ttl: minute,
        },
    );
    assert_eq!(pushed.await.map(|outcome| outcome.dropped), Ok(6));
    let evals = (2..20).map(|n| Eval {
        script: &KEYS,
        keys: vec![name(n)],
        args: Vec::new(),
    });
    let replies = store
        .scripts()
        .expect("it has")
        .eval_many(evals.collect())
        .await
        .expect("run");
    for (n, reply) in (2..20).zip(replies) {
        let bytes = |text: String| ScriptReply::Bytes(text.into_bytes());
        assert_eq!(
            reply,
            Ok(ScriptReply::Array(vec![
                bytes(name(n)),
                bytes(n.to_string())
            ]))
        );
    }
    let mut heard = store.subscribe("channel").expect("it has");
    assert_eq!(heard.next().await, Some(Event::Reconnected));
    store.publish("channel", "hello").await.expect("told");
    assert_eq!(heard.next().await, Some(Event::Message(b"hello".to_vec())));
    store.probe().await.expect("alive");
}

/// Writes one key after the other; which were acknowledged. Ends when `is_done` says so.
async fn write_until(
    store: &dyn Store,
    name: &str,
    is_done: impl Fn(usize) -> bool,
) -> (Vec<String>, usize) {
    let (mut acknowledged, mut failed) = (Vec::new(), 0);
    let mut n = 0;
    while !is_done(acknowledged.len()) {
        let key = format!("{name}-{n}");
        match store.set(&key, key.as_bytes(), None).await {
            Ok(()) => acknowledged.push(key),
            Err(_) => failed += 1,
        }
        n += 1;
    }
    (acknowledged, failed)
}

async fn check_acknowledged(store: &dyn Store, acknowledged: &[String]) {
    for names in acknowledged.chunks(500) {
        let found = store.get_many(names.to_vec()).await.expect("read");
        for (name, value) in names.iter().zip(found) {
            assert_eq!(
                value.as_deref(),
                Some(name.as_bytes()),
                "{name} was acknowledged"
            );
        }
    }
}

/// Writes and counts while `fail` happens; afterwards nothing that was acknowledged is missing.
fn survive(runtime: &Runtime, owner: &Owner, fail: impl FnOnce() + Send) {
    const COUNT: usize = 300;
    let store = owner.store().expect("owned");
    let (reached, begin) = std::sync::mpsc::channel();
    let (written, (counted, unknown)) = std::thread::scope(|scope| {
        let failing = scope.spawn(move || {
            begin.recv().expect("the writer tells");
            fail();
        });
        let is_over = std::cell::Cell::new(false);
        let counting = async {
            let (mut acknowledged, mut unknown) = (0, 0);
            while !is_over.get() {
                let add = Add {
                    key: "count".to_owned(),
                    by: 1,
                    ttl: None,
                };
                match store.add(vec![add]).await {
                    Ok(_) => acknowledged += 1,
                    Err(_) => unknown += 1,
                }
            }
            (acknowledged, unknown)
        };
        let writing = async {
            let store = store.as_ref();
            let (mut written, failed) = write_until(store, "before", |n| n >= COUNT).await;
            assert_eq!(failed, 0);
            reached.send(()).expect("it waits");
            let began = Instant::now();
            let (during, failed) = write_until(store, "during", |_| failing.is_finished()).await;
            written.extend(during);
            let (after, failed_after) = write_until(store, "after", |n| n >= COUNT).await;
            written.extend(after);
            println!(
                "{} acknowledged, {} failed; {:?} until all was well",
                written.len(),
                failed + failed_after,
                began.elapsed()
            );
            is_over.set(true);
            written
        };
        runtime.block_on(async { tokio::join!(writing, counting) })
    });
    runtime.block_on(async {
        check_acknowledged(store.as_ref(), &written).await;
        let count = store.get("count").await.expect("read");
        store.delete("count").await.expect("deleted");
        let count = String::from_utf8(count.expect("it was counted")).expect("digits");
        let count: u64 = count.parse().expect("a number");
        assert!(
            (counted..=counted + unknown).contains(&count),
            "{counted} acknowledged, {unknown} unknown, {count} stored"
        );
    });
}

#[test]
fn a_server_with_a_login_does_everything() {
    let server =
        RedisServer::start_with(|_| ["--requirepass", "secret"].map(str::to_owned).to_vec());
    runtime().block_on(async {
        let login = json!({"username": "default", "password": "secret", "database": 3});
        let right = owner(redis(&[server.address()], login)).await;
        do_everything(right.store().expect("owned").as_ref()).await;
        for wrong in [
            json!({}),
            json!({"password": "no"}),
            json!({"username": "x", "password": "secret"}),
        ] {
            let mut storage = redis(&[server.address()], wrong);
            merge(&mut storage, json!({"timeout": 1}));
            let wrong = owner(storage).await;
            let refused = wrong.store().expect("owned").get("a").await;
            let Err(StoreError::Away(why)) = refused else {
                panic!("refused: {refused:?}");
            };
            assert!(
                why.contains("uthentication")
                    || why.contains("WRONGPASS")
                    || why.contains("NOAUTH"),
                "{why}"
            );
        }
    });
}

#[test]
fn tls_is_spoken_with_the_authority_and_the_certificate_of_the_configuration() {
    let (_server, port) = RedisServer::start_with_tls();
    let address = [format!("127.0.0.1:{port}")];
    let with = |more: Value| {
        let mut storage = json!({
            "use_ssl": true, "ca_file": fixture("ca.crt"), "timeout": 1,
            "cert_file": fixture("client1.crt"), "key_file": fixture("client1.key"),
        });
        merge(&mut storage, more);
        redis(&address, storage)
    };
    runtime().block_on(async {
        for good in [
            json!({}),
            json!({"tls_max_version": "1.2"}),
            json!({"tls_min_version": "1.3"}),
            json!({"ca_file": "", "ssl_insecure_skip_verify": true}),
        ] {
            let owner = owner(with(good)).await;
            do_everything(owner.store().expect("owned").as_ref()).await;
            let store = owner.store().expect("owned");
            for name in store.list("").await.expect("listed") {
                store.delete(&name).await.expect("deleted");
            }
        }
        for bad in [
            json!({"ca_file": ""}),
            json!({"ca_file": fixture("client1.crt")}),
            json!({"cert_file": "", "key_file": ""}),
            json!({"use_ssl": false}),
        ] {
            let owner = owner(with(bad.clone())).await;
            let refused = owner.store().expect("owned").get("a").await;
            assert!(
                matches!(refused, Err(StoreError::Away(_))),
                "{bad}: {refused:?}"
            );
        }
    });
}

#[test]
fn a_master_found_through_sentinels_may_crash_under_writes() {
    let mut group = SentinelGroup::start("watch");
    let mut addresses = group.sentinel_addresses();
    // One that is not there is no matter.
    addresses.insert(0, format!("127.0.0.1:{}", free_port()));
    let runtime = runtime();
    let owner = runtime.block_on(async {
        let sentinels = json!({"master_name": "main", "sentinel_password": "watch"});
        let owner = owner(redis(&addresses, sentinels)).await;
        do_everything(owner.store().expect("owned").as_ref()).await;
        owner
    });
    survive(&runtime, &owner, || {
        let master = group.master();
        group.servers[master].kill();
        group.master();
    });
    // Handed over while it is alive, as for maintenance: the old master goes on taking writes until
    // it is told, some seconds later, and forgets them. Nobody should be with it then.
    let epoch = || -> Option<u64> {
        let about: std::collections::BTreeMap<String, String> =
            group.try_sentinel("SENTINEL MASTER main").ok()?;
        about.get("config-epoch")?.parse().ok()
    };
    let before = eventually("a sentinel answers", epoch);
    eventually("the sentinels agree to hand over", || {
        group.try_sentinel::<()>("SENTINEL FAILOVER main").ok()
    });
    eventually("there is another master", || {
        epoch().filter(|now| *now > before)
    });
    let store = owner.store().expect("owned");
    runtime.block_on(async {
        let switched = Instant::now();
        let is_followed = || {
            let master: Vec<String> = group
                .try_sentinel("SENTINEL GET-MASTER-ADDR-BY-NAME main")
                .expect("a master");
            let master = group
                .servers
                .iter()
                .find(|s| s.port().to_string() == master[1]);
            let found: Option<String> = master.expect("one of ours").ask("GET followed");
            found.is_some()
        };
        loop {
            store.set("followed", b"1", None).await.expect("stored");
            if is_followed() {
                break;
            }
            assert!(switched.elapsed() < Duration::from_secs(5));
        }
        println!("followed to the new master after {:?}", switched.elapsed());
    });
}

#[test]
fn a_cluster_may_lose_a_master_under_writes() {
    let mut cluster = RedisCluster::start();
    let runtime = runtime();
    let owner = runtime.block_on(async {
        let storage = redis(&cluster.addresses()[..2], json!({"enable_cluster": true}));
        let owner = owner(storage).await;
        do_everything(owner.store().expect("owned").as_ref()).await;
        owner
    });
    survive(&runtime, &owner, || {
        cluster.servers[0].kill();
        cluster.settled("cluster_state:ok");
    });
    // Slots move while they are written.
    survive(&runtime, &owner, || cluster.move_slots(1, 2, 5461..=5600));
}

#[test]
fn a_single_server_may_restart_under_reads() {
    let mut server = RedisServer::start();
    runtime().block_on(async {
        let owner = owner(redis(&[server.address()], json!({}))).await;
        let store = owner.store().expect("owned");
        store.probe().await.expect("alive");
        let down = Instant::now();
        server.kill();
        assert!(matches!(store.get("a").await, Err(StoreError::Away(_))));
        assert!(
            down.elapsed() < Duration::from_secs(2),
            "{:?}",
            down.elapsed()
        );
        if !server.restart() {
            return; // Somebody else has the port now.
        }
        let back = Instant::now();
        while store.get("a").await.is_err() {
            tokio::task::yield_now().await;
        }
        assert!(
            back.elapsed() < Duration::from_secs(1),
            "{:?}",
            back.elapsed()
        );
    });
}

#[test]
fn a_stopped_server_costs_each_question_its_deadline_and_soon_nothing() {
    const HOT: Duration = Duration::from_millis(100);
    let server = RedisServer::start();
    runtime().block_on(async {
        let owner = owner(redis(&[server.address()], json!({}))).await;
        let pulse = owner.pulse();
        owner.store().expect("owned").probe().await.expect("alive");
        let ask = async || {
            let began = Instant::now();
            let answer = owner.store_within(HOT).expect("owned").get("a").await;
            (answer.is_ok(), began.elapsed())
        };
        for _ in 0..3 {
            assert!(ask().await.0);
            server.signal("STOP");
            let stopped = Instant::now();
            while !pulse.is_away() {
                let (is_ok, waited) = ask().await;
                assert!(!is_ok && waited < 2 * HOT, "{waited:?}");
            }
            assert!(stopped.elapsed() < 5 * HOT, "{:?}", stopped.elapsed());
            let (is_ok, waited) = ask().await;
            assert!(!is_ok && waited < HOT / 2, "{waited:?}");
            // Long enough for the old connection to be given up.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            assert!(pulse.is_away());
            server.signal("CONT");
            let continued = Instant::now();
            while pulse.is_away() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            println!("back {:?} after it went on", continued.elapsed());
            assert!(continued.elapsed() < Duration::from_millis(1500));
        }
        let clients: String = server.ask("CLIENT LIST");
        assert!(
            clients.lines().count() < 8,
            "no herd of connections: {clients}"
        );
    });
}

#[test]
fn a_server_behind_a_hole_in_the_network_is_found_again_at_once() {
    let server = RedisServer::start();
    let wire = Wire::to(server.port());
    runtime().block_on(async {
        let owner = owner(redis(&[format!("127.0.0.1:{}", wire.port())], json!({}))).await;
        let store = owner
            .store_within(Duration::from_millis(100))
            .expect("owned");
        store.set("a", b"1", None).await.expect("stored");
        wire.cut();
        while !owner.pulse().is_away() {
            assert!(store.get("a").await.is_err());
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        wire.mend();
        let mended = Instant::now();
        while store.get("a").await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("back {:?} after the wire was mended", mended.elapsed());
        assert!(mended.elapsed() < Duration::from_millis(1500));
    });
}
