//! The scripts in a real `redis-server`: the same answers as the fake gives, at the same times.

use super::{
    super::{rate::eval, scripts},
    fake::Fake,
    questions::Node,
    *,
};
use crate::{
    config::Config,
    storage::{Script, Scripts, Store, opener, tests::RedisServer},
};

fn open(server: &RedisServer) -> Arc<dyn Store> {
    let mut config = Config::default();
    config.storage.kind = "redis".to_owned();
    config.storage.host = "127.0.0.1".to_owned();
    config.storage.port = server.port.into();
    opener(&config, std::path::Path::new("/nowhere")).unwrap()().unwrap()
}

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

/// The script with its last two arguments for the server's time.
fn timed(script: &Script) -> &'static Script {
    let source = script
        .source()
        .replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}");
    Box::leak(Box::new(Script::new(Box::leak(source.into_boxed_str()))))
}

async fn run(scripts: &dyn Scripts, script: &'static Script, key: &str, args: &[i64]) -> Vec<i64> {
    let replies = scripts
        .eval_many(vec![eval(script, key.to_owned(), args)])
        .await
        .unwrap();
    match replies.into_iter().next().unwrap().unwrap() {
        crate::storage::ScriptReply::Int(value) => vec![value],
        crate::storage::ScriptReply::Array(values) => {
            values.iter().map(|value| value.int().unwrap()).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_scripts_and_the_fake_are_the_same_state_machine() {
    let server = RedisServer::start();
    block_on(async {
        let store = open(&server);
        let redis = store.scripts().unwrap();
        let fake = Fake::at(1_700_000_000_000_000);
        let mut random = Random(5);
        let (lease, exact, log) = (
            timed(&scripts::LEASE),
            timed(&scripts::EXACT),
            timed(&scripts::LOG),
        );
        for turn in 0..3_000 {
            let now_us = fake.now_us.load(std::sync::atomic::Ordering::SeqCst);
            // Now and then the clock is set back.
            let now_us = match turn % 500 {
                499 => now_us - 3_600_000_000,
                _ => now_us + random.below(40_000),
            };
            fake.now_us
                .store(now_us, std::sync::atomic::Ordering::SeqCst);
            let below = |random: &mut Random, end| random.below(end) as i64;
            let mut args = match random.below(3) {
                0 => vec![
                    100,
                    1_000,
                    below(&mut random, 9),
                    below(&mut random, 3),
                    below(&mut random, 3),
                ],
                1 => vec![20, 1_000, below(&mut random, 4), below(&mut random, 10) / 9],
                _ => vec![1_000, 1 + below(&mut random, 3), 1],
            };
            let (ours, theirs, key) = match args.len() {
                5 => (&scripts::LEASE, lease, "lease"),
                4 => (&scripts::EXACT, exact, "exact"),
                _ => (&scripts::LOG, log, "log"),
            };
            let expected = fake.eval(&eval(ours, key.to_owned(), &args));
            let expected: Vec<_> = match expected {
                crate::storage::ScriptReply::Int(value) => vec![value],
                crate::storage::ScriptReply::Array(values) => {
                    values.iter().map(|value| value.int().unwrap()).collect()
                }
                other => panic!("{other:?}"),
            };
            args.extend([(now_us / 1_000_000) as i64, (now_us % 1_000_000) as i64]);
            let got = run(redis, theirs, key, &args).await;
            assert_eq!(got, expected, "{key} {args:?} in turn {turn}");
        }
    });
}

#[test]
fn entries_of_the_log_are_tyks_and_every_key_expires() {
    let server = RedisServer::start();
    block_on(async {
        let store = open(&server);
        let redis = store.scripts().unwrap();
        assert_eq!(
            run(redis, &scripts::EXACT, "exact", &[3, 2_000, 2, 0]).await[0],
            2
        );
        assert_eq!(
            run(redis, &scripts::EXACT, "exact", &[3, 2_000, 2, 0]).await[0],
            1
        );
        let refused = run(redis, &scripts::EXACT, "exact", &[3, 2_000, 2, 0]).await;
        assert_eq!(refused[0], 0);
        assert!((1_000..=2_000).contains(&refused[1]), "{refused:?}");
        assert_eq!(
            run(redis, &scripts::LOG, "log", &[2_000, 1_500, 2]).await,
            [0]
        );
        assert_eq!(
            run(redis, &scripts::LOG, "log", &[2_000, 1, 2]).await,
            [1_500]
        );
        run(redis, &scripts::LEASE, "lease", &[10, 2_000, 1, 0, 0]).await;
        run(redis, &scripts::MARK, "mark", &[2]).await;
        assert_eq!(run(redis, &scripts::IS_SET, "mark", &[]).await, [1]);
        assert_eq!(run(redis, &scripts::IS_SET, "none", &[]).await, [0]);
        assert_eq!(run(redis, &scripts::FIXED, "fixed", &[3, 1_900]).await, [3]);
        assert_eq!(run(redis, &scripts::FIXED, "fixed", &[2, 1_800]).await, [5]);
        for key in ["exact", "log", "lease", "mark", "fixed"] {
            match store.ttl(key).await.unwrap() {
                Some(crate::storage::Ttl::Ms(ms)) => assert!(ms <= 2_100, "{key}: {ms}"),
                other => panic!("{key}: {other:?}"),
            }
        }
        static MEMBERS: Script = Script::new(
            "local e = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
            local same = 1
            for i = 1, #e, 2 do
              if #e[i] ~= 19 or tonumber(e[i]) ~= tonumber(e[i + 1]) then same = 0 end
            end
            return same",
        );
        assert_eq!(run(redis, &MEMBERS, "exact", &[]).await, [1]);
    });
}

#[test]
fn three_nodes_share_limits_through_a_server_and_outlive_it() {
    use std::{sync::atomic::Ordering::SeqCst, time::Duration};
    let server = RedisServer::start();
    block_on(async {
        let nodes: Vec<_> = (0..3)
            .map(|_| Node::start(shared(), 3, open(&server)))
            .collect();
        let started = tokio::time::Instant::now();
        let clock = || {
            let now_ms = started.elapsed().as_millis() as u64 + 1;
            for node in &nodes {
                node.now_ms.store(now_ms, SeqCst);
            }
            now_ms
        };
        let rates = |name: &str, limit: RateLimit| -> Vec<_> {
            let cell = |node: &Node| node.cells.rate(name, "", &limit).unwrap();
            nodes.iter().map(cell).collect()
        };
        // A connection each, and the scripts, before a deadline of 5 ms counts.
        let warm = rates("rate-limit-warm", rate(1_000.0, 60.0));
        while {
            let mut is_away = false;
            for (node, cell) in nodes.iter().zip(&warm) {
                clock();
                node.rate(cell).await;
                is_away |= node.cells.outlook().is_away();
            }
            is_away
        } {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut admitted = [0; 3];
        let exact = rates("rate-limit-exact", rate(20.0, 600.0));
        let leased = rates("rate-limit-leased", rate(120_000.0, 600.0));
        let quotas: Vec<_> = nodes
            .iter()
            .map(|node| node.cells.quota("quota-k", &quota(1_000, 3_600)).unwrap())
            .collect();
        for turn in 0..2_000 {
            clock();
            let at = [0, 0, 0, 1, 2][turn % 5];
            let node = &nodes[at];
            admitted[0] += i32::from(node.rate(&exact[at]).await);
            admitted[1] += i32::from(node.rate(&leased[at]).await);
            let taken = node.quota(&quotas[at]).await.taken;
            admitted[2] += i32::from(taken == Taken::Admitted);
        }
        println!("{admitted:?}");
        // An answer that comes too late on a loaded machine is counted twice, or has been a share.
        assert!((10..=40).contains(&admitted[0]), "{admitted:?}");
        assert_eq!(admitted[1], 2_000, "120,000 are far");
        assert!((800..=1_050).contains(&admitted[2]), "{admitted:?}");
        // The server ends: every node goes on with its share, and soon without waiting.
        drop(server);
        let local = rates("rate-limit-local", rate(30.0, 600.0));
        let mut alone = [0; 3];
        for _ in 0..40 {
            for ((node, cell), alone) in nodes.iter().zip(&local).zip(&mut alone) {
                clock();
                *alone += i32::from(node.rate(cell).await);
            }
        }
        assert_eq!(alone, [10; 3]);
        assert!(nodes.iter().all(|node| node.cells.outlook().is_away()));
    });
}

#[test]
fn a_quotas_counter_lives_and_ends_as_the_fake_says() {
    let server = RedisServer::start();
    block_on(async {
        let store = open(&server);
        let redis = store.scripts().unwrap();
        let quota = async |args: &[i64]| run(redis, &scripts::QUOTA, "quota-k", args).await;
        // want, all, max, renewal, share, overdue, debt, asks, refused, held
        let first = quota(&[5, 0, 100, 60, 4, 0, 0, 0, 0, 0]).await;
        assert_eq!(first[..2], [5, 5]);
        assert!((59_000..=60_000).contains(&first[2]), "{first:?}");
        assert_eq!(
            store.get("quota-k").await.unwrap().as_deref(),
            Some(&b"5"[..])
        );
        assert_eq!(
            quota(&[80, 0, 100, 60, 4, 0, 0, 0, 0, 0]).await[..2],
            [23, 28]
        );
        assert_eq!(
            quota(&[80, 0, 100, 60, 4, 0, 2, 30, 0, 0]).await[..2],
            [30, 60]
        );
        assert_eq!(
            quota(&[80, 0, 100, 60, 0, 0, 0, 0, 0, 0]).await[..2],
            [40, 100]
        );
        assert_eq!(
            quota(&[1, 1, 100, 60, 0, 1, 0, 1, 3, 0]).await[..2],
            [0, 104]
        );
        // Refused ones do not count into a counter that somebody has reset.
        assert_eq!(
            quota(&[0, 1, 200, 60, 0, 0, 0, 0, 9, 0]).await[..2],
            [0, 104]
        );
        // Back into the same period only.
        let ends = {
            let now = quota(&[0, 0, 100, 60, 0, 0, 0, 0, 0, 0]).await;
            now[2] + now[3]
        };
        let back = async |args: &[i64]| run(redis, &scripts::QUOTA_BACK, "quota-k", args).await;
        assert_eq!(back(&[4, ends + 5_000]).await, [0]);
        assert_eq!(back(&[4, -1]).await, [0]);
        assert_eq!(back(&[400, ends]).await, [0]);
        assert_eq!(back(&[4, ends]).await, [1]);
        assert_eq!(
            store.get("quota-k").await.unwrap().as_deref(),
            Some(&b"100"[..])
        );
        // Without an expiry the session's time of renewal decides.
        store.set("quota-k", b"100", None).await.unwrap();
        assert_eq!(
            quota(&[1, 1, 100, 60, 0, 0, 0, 1, 0, 0]).await[..3],
            [0, 101, -1]
        );
        assert_eq!(quota(&[1, 1, 100, 60, 0, 1, 0, 1, 0, 0]).await[..2], [1, 1]);
        assert_eq!(quota(&[1, 1, 100, 60, 0, 1, 0, 1, 0, 0]).await[..2], [1, 2]);
    });
}
