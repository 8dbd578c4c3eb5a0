//! The Redis store against servers of its own.

use super::*;
use crate::{
    config::Storage,
    storage::{
        Event,
        tests::{RedisServer, some_records},
    },
};

fn open(port: u16) -> Redis {
    let storage = Storage {
        kind: "redis".to_owned(),
        port: port.into(),
        timeout: 2,
        ..Storage::default()
    };
    Redis::open(&Options::from_config("storage", &storage).unwrap())
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

#[test]
fn values_are_set_read_and_removed() {
    let server = RedisServer::start();
    block_on(async {
        let store = open(server.port);
        assert_eq!(store.get("a").await, Ok(None));
        store.set("a", b"\x00\xff", None).await.unwrap();
        store
            .set("b", b"2", Some(Duration::from_secs(100)))
            .await
            .unwrap();
        assert_eq!(store.get("a").await, Ok(Some(vec![0, 0xff])));
        assert_eq!(
            store.get_many(vec!["b".into(), "x".into()]).await,
            Ok(vec![Some(b"2".to_vec()), None])
        );
        assert_eq!(store.get_many(Vec::new()).await, Ok(Vec::new()));
        assert_eq!(store.exists("b").await, Ok(true));
        assert_eq!(store.delete("b").await, Ok(true));
        assert_eq!(store.delete("b").await, Ok(false));
        store.probe().await.unwrap();
        let ttl = store.ttl("tyk-liveness-probe").await.unwrap();
        assert!(matches!(ttl, Some(Ttl::Ms(1..=10_000))), "{ttl:?}");
        store.close().await.unwrap();
        assert_eq!(store.get("a").await, Err(StoreError::Closed));
    });
}

#[test]
fn a_server_that_is_away_is_told_and_used_again_when_it_is_back() {
    let server = RedisServer::start();
    let port = server.port;
    block_on(async {
        let store = open(port);
        store.probe().await.unwrap();
        drop(server);
        assert!(matches!(store.probe().await, Err(StoreError::Away(_))));
        assert!(matches!(store.get("a").await, Err(StoreError::Away(_))));
        let Some(_server) = RedisServer::start_on(port, &[]) else {
            return; // Somebody else has the port now.
        };
        // The attempts while it was away may still be in their pause.
        let back = async {
            while store.probe().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), back)
            .await
            .unwrap();
    });
}

/// Makes a server the replica of a master that is not there: it keeps its data and takes no writes.
async fn demote(store: &Redis) {
    let mut command = redis::cmd("REPLICAOF");
    command.arg("127.0.0.1").arg(1);
    store.one(Request::write(command, "")).await.unwrap();
}

async fn promote(store: &Redis) {
    let mut command = redis::cmd("REPLICAOF");
    command.arg("NO").arg("ONE");
    store.one(Request::write(command, "")).await.unwrap();
}

#[test]
fn a_server_that_takes_no_writes_is_read_from_until_there_is_another() {
    let server = RedisServer::start();
    block_on(async {
        let store = open(server.port);
        store.set("a", b"1", None).await.unwrap();
        demote(&store).await;
        let transport = store.transport().unwrap();
        let options = transport.options.clone();
        let is_first = std::sync::atomic::AtomicBool::new(true);
        let dial: lane::Dial = Arc::new(move |load| {
            let options = options.clone();
            let is_first = is_first.swap(false, std::sync::atomic::Ordering::Relaxed);
            Box::pin(async move {
                if !is_first {
                    // There is no other.
                    std::future::pending::<()>().await;
                }
                Connection::open(&options, &options.addresses[0], load).await
            })
        });
        let timeout = Duration::from_secs(2);
        let lane = lane::Lane::new("redis".to_owned(), dial::Load::Prompt, timeout, dial);
        let ask = async |request: Request| {
            let until = Instant::now() + Duration::from_secs(5);
            let mut answers = lane
                .exchange(&[&request], until, Duration::from_secs(5), until)
                .await;
            answers.pop().unwrap()
        };
        for _ in 0..3 {
            let failure = ask(Request::write(set("a", b"2", None), "a")).await;
            assert!(failure.unwrap_err().is_wrong_server);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            let value = ask(Request::read(Cmd::get("a"), "a")).await.unwrap();
            assert_eq!(value, Value::BulkString(b"1".to_vec()));
        }
    });
}

#[test]
fn refused_writes_do_not_make_a_store_away_that_can_be_read() {
    let server = RedisServer::start();
    let port = server.port;
    block_on(async {
        let owner = crate::storage::Owner::new(Arc::new(move || Ok(Arc::new(open(port)))));
        owner.acquire().await.unwrap();
        let (store, admin) = (owner.store().unwrap(), open(port));
        store.set("a", b"1", None).await.unwrap();
        demote(&admin).await;
        for _ in 0..3 {
            let refused = store.set("a", b"2", None).await;
            assert!(
                matches!(&refused, Err(StoreError::Refused(why)) if why.contains("READONLY")),
                "{refused:?}"
            );
            let add = Add {
                key: "n".to_owned(),
                by: 1,
                ttl: None,
            };
            let refused = store.add(vec![add]).await;
            assert!(
                matches!(refused, Err(StoreError::Refused(_))),
                "{refused:?}"
            );
        }
        assert!(!owner.pulse().is_away());
        assert_eq!(store.get("a").await, Ok(Some(b"1".to_vec())));
        promote(&admin).await;
        // The attempts to find another one may still be in their pause, but this one is it.
        assert_eq!(store.set("a", b"2", None).await, Ok(()));
    });
}

#[test]
fn changes_are_made_together_and_names_are_listed() {
    let server = RedisServer::start();
    block_on(async {
        let store = open(server.port);
        let set = |key: &str, ttl| WriteOp::Set {
            key: key.to_owned(),
            value: b"v".to_vec(),
            ttl,
        };
        let minute = Some(Duration::from_secs(60));
        let ops = vec![
            set("p*-b", None),
            set("p*-a", minute),
            set("p*-c", None),
            WriteOp::Delete("p*-c".to_owned()),
            set("pp-q", Some(Duration::ZERO)),
        ];
        store.write(ops).await.unwrap();
        store.write(Vec::new()).await.unwrap();
        assert_eq!(store.list("p*-").await.unwrap(), ["p*-a", "p*-b"]);
        assert_eq!(store.list("none").await, Ok(Vec::new()));
        assert_eq!(store.ttl("p*-b").await, Ok(Some(Ttl::Forever)));
        assert!(matches!(
            store.ttl("p*-a").await,
            Ok(Some(Ttl::Ms(1..=60_000)))
        ));
        assert_eq!(store.ttl("none").await, Ok(None));
        assert_eq!(store.set_if_absent("p*-a", b"2", None).await, Ok(false));
        assert_eq!(store.set_if_absent("q", b"2", minute).await, Ok(true));
        assert!(matches!(
            store.ttl("q").await,
            Ok(Some(Ttl::Ms(1..=60_000)))
        ));
        let replace = |key: &str, from: &[u8], ttl| crate::storage::Replace {
            key: key.to_owned(),
            from: from.to_vec(),
            to: b"new".to_vec(),
            ttl,
        };
        let changes = vec![
            replace("q", b"2", None),
            replace("q", b"2", minute),
            replace("p*-a", b"other", minute),
            replace("none", b"", None),
        ];
        let replaced = store.replace(changes).await;
        assert_eq!(replaced, Ok(vec![true, false, false, false]));
        assert_eq!(store.get("q").await, Ok(Some(b"new".to_vec())));
        assert_eq!(store.ttl("q").await, Ok(Some(Ttl::Forever)));
        assert_eq!(store.exists("none").await, Ok(false));
        let replaced = store.replace(vec![replace("q", b"new", minute)]).await;
        assert_eq!(replaced, Ok(vec![true]));
        assert!(matches!(
            store.ttl("q").await,
            Ok(Some(Ttl::Ms(1..=60_000)))
        ));
    });
}

#[test]
fn counters_keep_the_time_they_began_with() {
    let server = RedisServer::start();
    block_on(async {
        let store = open(server.port);
        let add = |key: &str, by, ttl_s| Add {
            key: key.to_owned(),
            by,
            ttl: Some(Duration::from_secs(ttl_s)),
        };
        let adds = vec![add("a", 2, 60), add("b", -1, 60), add("a", 3, 900)];
        let counters = store.add(adds).await.unwrap();
        let values: Vec<_> = counters.iter().map(|counter| counter.value).collect();
        assert_eq!(values, [2, -1, 5]);
        for counter in counters {
            assert!(
                matches!(counter.ttl, Some(Ttl::Ms(1..=60_000))),
                "{counter:?}"
            );
        }
        assert_eq!(store.get("a").await, Ok(Some(b"5".to_vec())));
        store.set("a", b"7", None).await.unwrap();
        let counters = store.add(vec![add("a", 1, 60)]).await.unwrap();
        assert_eq!(counters[0].value, 8);
        assert_eq!(counters[0].ttl, Some(Ttl::Forever), "it existed before");
        store.set("a", b"x", None).await.unwrap();
        let refused = store.add(vec![add("a", 1, 60)]).await;
        assert!(matches!(&refused, Err(StoreError::Away(why)) if why.contains("not an integer")));
        let for_ever = Add {
            ttl: None,
            ..add("c", 1, 0)
        };
        let counters = store.add(vec![for_ever]).await.unwrap();
        assert_eq!(counters[0].ttl, Some(Ttl::Forever));
    });
}

#[test]
fn lists_lose_their_oldest_records_and_expire_once() {
    let server = RedisServer::start();
    block_on(async {
        let store = open(server.port);
        let push = async |count: usize, max, ttl_s: Option<u64>| {
            let limit = ListLimit {
                records_max: max,
                ttl: ttl_s.map(Duration::from_secs),
            };
            let outcome = store.push("l", some_records(count), limit).await.unwrap();
            (outcome.len, outcome.dropped)
        };
        assert_eq!(push(0, None, None).await, (0, 0));
        assert_eq!(store.exists("l").await, Ok(false));
        assert_eq!(push(3, Some(4), None).await, (3, 0));
        assert_eq!(store.ttl("l").await, Ok(Some(Ttl::Forever)));
        assert_eq!(push(1, Some(4), Some(60)).await, (4, 0));
        assert_eq!(push(1, Some(4), Some(900)).await, (4, 1));
        assert_eq!(push(2500, Some(2000), None).await, (2000, 504));
        assert!(matches!(
            store.ttl("l").await,
            Ok(Some(Ttl::Ms(1..=60_000)))
        ));
        store.set("l", b"", None).await.unwrap();
        let refused = store.push("l", some_records(1), ListLimit::default()).await;
        assert!(matches!(&refused, Err(StoreError::Away(why)) if why.contains("wrong kind")));
    });
}

#[test]
fn messages_are_heard_and_a_lost_subscription_is_told() {
    let server = RedisServer::start();
    let port = server.port;
    block_on(async {
        let store = open(port);
        let mut heard = store.subscribe("news").unwrap();
        assert_eq!(heard.next().await, Some(Event::Reconnected));
        store.publish("other", "0").await.unwrap();
        store.publish("news", "1").await.unwrap();
        store.publish("news", "2").await.unwrap();
        assert_eq!(heard.next().await, Some(Event::Message(b"1".to_vec())));
        assert_eq!(heard.next().await, Some(Event::Message(b"2".to_vec())));
        drop(server);
        let Some(_server) = RedisServer::start_on(port, &[]) else {
            return; // Somebody else has the port now.
        };
        assert_eq!(heard.next().await, Some(Event::Reconnected));
    });
}

#[test]
fn scripts_are_loaded_when_needed_and_answer_each_for_itself() {
    static ECHO: Script = Script::new("return {KEYS[1], ARGV[1], 7}");
    static FAIL: Script = Script::new("return redis.error_reply('no')");
    let server = RedisServer::start();
    block_on(async {
        let store = open(server.port);
        let eval = |script, key: &str| Eval {
            script,
            keys: vec![key.to_owned()],
            args: vec![b"a".to_vec()],
        };
        for _ in 0..2 {
            let evals = vec![eval(&ECHO, "1"), eval(&FAIL, "2"), eval(&ECHO, "3")];
            let scripts = store.scripts().unwrap();
            let replies = scripts.eval_many(evals).await.unwrap();
            let reply = |key: &[u8]| {
                ScriptReply::Array(vec![
                    ScriptReply::Bytes(key.to_vec()),
                    ScriptReply::Bytes(b"a".to_vec()),
                    ScriptReply::Int(7),
                ])
            };
            assert_eq!(replies[0], Ok(reply(b"1")));
            assert!(matches!(&replies[1], Err(StoreError::Away(why)) if why.contains("no")));
            assert_eq!(replies[2], Ok(reply(b"3")));
        }
    });
}
