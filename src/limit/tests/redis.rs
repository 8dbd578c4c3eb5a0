//! The scripts in a real `redis-server`: the same answers as the fake gives, at the same times.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use super::{
    super::{rate::eval, scripts},
    fake::Fake,
    *,
};
use crate::{
    config::Config,
    storage::{Script, Scripts, Store, opener},
};

struct Server(Child, u16);

impl Server {
    fn start() -> Self {
        // Between giving the port back and the server taking it, another may: try again.
        for _ in 0..20 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            let mut child = Command::new("redis-server")
                .args(["--port", &port.to_string()])
                .args(["--bind", "127.0.0.1", "--save", ""])
                .stdout(Stdio::piped())
                .spawn()
                .expect("redis-server is installed (see the test command in README.md)");
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let is_ready = lines
                .by_ref()
                .map_while(Result::ok)
                .any(|line| line.contains("Ready to accept connections"));
            let server = Self(child, port);
            if is_ready {
                return server;
            }
        }
        panic!("redis-server found no port");
    }

    fn open(&self) -> Arc<dyn Store> {
        let mut config = Config::default();
        config.storage.kind = "redis".to_owned();
        config.storage.host = "127.0.0.1".to_owned();
        config.storage.port = self.1.into();
        opener(&config, std::path::Path::new("/nowhere")).unwrap()().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    let server = Server::start();
    block_on(async {
        let store = server.open();
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
    let server = Server::start();
    block_on(async {
        let store = server.open();
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
fn a_quotas_counter_lives_and_ends_as_the_fake_says() {
    let server = Server::start();
    block_on(async {
        let store = server.open();
        let redis = store.scripts().unwrap();
        let quota = async |args: &[i64]| run(redis, &scripts::QUOTA, "quota-k", args).await;
        // want, all, max, renewal, share, overdue, debt, asks, refused
        let first = quota(&[5, 0, 100, 60, 4, 0, 0, 0, 0]).await;
        assert_eq!(first[..2], [5, 5]);
        assert!((59_000..=60_000).contains(&first[2]), "{first:?}");
        assert_eq!(
            store.get("quota-k").await.unwrap().as_deref(),
            Some(&b"5"[..])
        );
        assert_eq!(quota(&[80, 0, 100, 60, 4, 0, 0, 0, 0]).await[..2], [23, 28]);
        assert_eq!(
            quota(&[80, 0, 100, 60, 4, 0, 2, 30, 0]).await[..2],
            [30, 60]
        );
        assert_eq!(
            quota(&[80, 0, 100, 60, 0, 0, 0, 0, 0]).await[..2],
            [40, 100]
        );
        assert_eq!(quota(&[1, 1, 100, 60, 0, 1, 0, 1, 3]).await[..2], [0, 104]);
        // Refused ones do not count into a counter that somebody has reset.
        assert_eq!(quota(&[0, 1, 200, 60, 0, 0, 0, 0, 9]).await[..2], [0, 104]);
        // Back into the same period only.
        let ends = {
            let now = quota(&[0, 0, 100, 60, 0, 0, 0, 0, 0]).await;
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
            quota(&[1, 1, 100, 60, 0, 0, 0, 1, 0]).await[..3],
            [0, 101, -1]
        );
        assert_eq!(quota(&[1, 1, 100, 60, 0, 1, 0, 1, 0]).await[..2], [1, 1]);
        assert_eq!(quota(&[1, 1, 100, 60, 0, 1, 0, 1, 0]).await[..2], [1, 2]);
    });
}
