//! The embedded store under crashes and on a full disk: what was acknowledged is there.
//!
//! The store lives in a child process, this test binary called again for one of the tests that are
//! named `child_…`; those return at once when they are not such a child.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use penstock::storage::{
    Add, ListLimit, Records, Store as _, StoreError, WriteOp, embedded::Embedded,
};

use crate::harness::{TempDir, slow_tests};

const DIR: &str = "PENSTOCK_TEST_STORE";
const ROUND: &str = "PENSTOCK_TEST_ROUND";

/// The folder of the store, in a child.
fn child_dir() -> Option<PathBuf> {
    std::env::var_os(DIR).map(PathBuf::from)
}

/// This binary, called for the test `name` alone.
fn child(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command
        .args(["--exact", &format!("storage_crash::{name}"), "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::piped());
    command
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test)
}

fn set(key: String) -> WriteOp {
    WriteOp::Set {
        value: key.repeat(20).into_bytes(),
        key,
        ttl: None,
    }
}

/// Tells the parent at once; the pipe outlives this process.
fn tell(what: &str) {
    let mut out = std::io::stdout().lock();
    let line = format!("acknowledged {what}\n");
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = child_dir() else {
        return;
    };
    let round = std::env::var(ROUND).expect("the parent says it");
    block_on(async {
        let store = Arc::new(Embedded::open(&dir).expect("a store"));
        for writer in 0..4 {
            let (store, round) = (Arc::clone(&store), round.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    let key = format!("{round}-{writer}-{n}");
                    let pair = vec![set(format!("{key}a")), set(format!("{key}b"))];
                    store.write(pair).await.expect("stored");
                    tell(&format!("set {key}"));
                }
            });
        }
        let counting = Arc::clone(&store);
        tokio::spawn(async move {
            loop {
                let add = |key: &str| Add {
                    key: key.to_owned(),
                    by: 1,
                    ttl: None,
                };
                counting.add(vec![add("count")]).await.expect("counted");
                tell("add");
                let records = [b"record"; 2].into_iter().collect();
                let limit = ListLimit::default();
                counting.push("list", records, limit).await.expect("pushed");
                tell("push");
            }
        });
        // Copies are made, and die, in the middle of it.
        while store.copy().await.is_ok() {}
    });
}

/// Acknowledged so far.
#[derive(Default)]
struct Acknowledged {
    keys: BTreeSet<String>,
    adds: u64,
    pushes: u64,
}

impl Acknowledged {
    fn note(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("set", key)) => drop(self.keys.insert(key.to_owned())),
            _ if line == "add" => self.adds += 1,
            _ if line == "push" => self.pushes += 1,
            _ => panic!("{line:?}"),
        }
    }
}

/// Lets a child write for `lines` acknowledgements, then kills it; what it acknowledged is noted.
fn crash(mut child: Child, lines: usize, acknowledged: &mut Acknowledged) {
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    let told = out.lines().map_while(Result::ok).filter_map(|line| {
        // The test harness writes to the same pipe.
        let (_, what) = line.split_once("acknowledged ")?;
        Some(what.to_owned())
    });
    let mut count = 0;
    for what in told {
        acknowledged.note(&what);
        count += 1;
        if count == lines {
            let _ = child.kill();
        }
    }
    assert!(count >= lines, "the child ended by itself after {count}");
    let _ = child.wait();
}

#[test]
fn nothing_that_was_acknowledged_is_lost_by_a_kill() {
    let rounds = if slow_tests() { 100 } else { 8 };
    let dir = TempDir::new("crash");
    let mut all = Acknowledged::default();
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let writing = child("child_that_writes_until_it_is_killed", dir.path())
            .env(ROUND, round.to_string())
            .spawn()
            .expect("this binary runs");
        // Somewhere in the middle of a commit, or of a copy.
        crash(writing, 150 + round * 37 % 101, &mut all);
        let began = Instant::now();
        let store = Embedded::open(dir.path()).expect("it opens after a kill");
        slowest = slowest.max(began.elapsed());
        block_on(async {
            for key in &all.keys {
                for half in ["a", "b"] {
                    let key = format!("{key}{half}");
                    let expected = key.repeat(20).into_bytes();
                    let found = store.get(&key).await;
                    assert_eq!(found, Ok(Some(expected)), "{key} was acknowledged");
                }
            }
            let count = store.get("count").await.expect("read").unwrap_or_default();
            let count: u64 = String::from_utf8_lossy(&count).parse().unwrap_or_default();
            // One more may have been done in each round.
            let most = all.adds + round as u64 + 1;
            assert!((all.adds..=most).contains(&count), "{} {count}", all.adds);
            let outcome = store
                .push("list", Records::default(), ListLimit::default())
                .await;
            let len = outcome.expect("a list").len;
            assert!(len >= 2 * all.pushes, "{} {len}", all.pushes);
            store.close().await.expect("closed");
        });
    }
    println!(
        "{rounds} kills, {} keys, {} additions and {} pushes acknowledged, 0 lost; opening took at \
         most {slowest:?}",
        2 * all.keys.len(),
        all.adds,
        all.pushes
    );
}

#[test]
fn child_that_fills_its_disk() {
    let Some(dir) = child_dir() else {
        return;
    };
    block_on(async {
        let store = Embedded::open(&dir).expect("a store");
        let mut written = 0;
        let why = loop {
            let ops = (0..50).map(|n| set(format!("k-{}", written * 50 + n)));
            match store.write(ops.collect()).await {
                Ok(()) => tell(&format!("set {written}")),
                Err(error) => break error,
            }
            written += 1;
        };
        assert!(matches!(why, StoreError::Away(_)), "{why}");
        tell(&format!("full {why}"));
        // It is read as before, and goes on refusing what does not fit.
        for round in 0..20 {
            let key = format!("k-{}", round % (written * 50));
            let found = read_soon(&store, &key).await;
            assert_eq!(found, Some(key.repeat(20).into_bytes()));
            let ops = (0..500).map(|n| set(format!("more-{n}")));
            assert!(store.write(ops.collect()).await.is_err());
        }
        store.close().await.expect("closed");
        tell("end");
    });
}

/// After a failure the file is opened anew, after a pause when it failed before.
async fn read_soon(store: &Embedded, key: &str) -> Option<Vec<u8>> {
    let reading = async {
        loop {
            match store.get(key).await {
                Ok(found) => return found,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(15), reading).await;
    found.expect("a full disk can be read")
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let dir = TempDir::new("full");
    let filling = child("child_that_fills_its_disk", dir.path());
    // A limit for files is where a full disk is at hand in any test. In units of 512 or 1024 bytes.
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\""])
        .arg(filling.get_program())
        .args(filling.get_args())
        .env(DIR, dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = shell.output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let mut last = BTreeMap::new();
    for line in text.lines() {
        if let Some((_, what)) = line.split_once("acknowledged ") {
            let (kind, rest) = what.split_once(' ').unwrap_or((what, ""));
            last.insert(kind.to_owned(), rest.to_owned());
        }
    }
    assert!(last.contains_key("end"), "{text}\n{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    println!("told: {}", last["full"]);
    let written: usize = last["set"].parse().expect("a number");
    block_on(async {
        let store = Embedded::open(dir.path()).expect("it opens where there is room again");
        for n in 0..(written + 1) * 50 {
            let key = format!("k-{n}");
            let expected = key.repeat(20).into_bytes();
            assert_eq!(
                store.get(&key).await,
                Ok(Some(expected)),
                "{key} was acknowledged"
            );
        }
        store.set("new", b"1", None).await.expect("there is room");
        store.close().await.expect("closed");
    });
}

#[test]
fn a_million_sessions_open_at_once_after_a_kill() {
    let sessions: u64 = if slow_tests() { 1_000_000 } else { 5_000 };
    let dir = TempDir::new("million");
    let writing = child("child_that_writes_many_sessions", dir.path())
        .env(ROUND, sessions.to_string())
        .spawn()
        .expect("this binary runs");
    let mut all = Acknowledged::default();
    crash(writing, 1, &mut all);
    let before = resident_kib();
    let began = Instant::now();
    let store = Embedded::open(dir.path()).expect("it opens after a kill");
    let opened = began.elapsed();
    block_on(async {
        let began = Instant::now();
        let mut n = 7;
        for _ in 0..5_000 {
            n = (n * 48_271) % sessions;
            let found = store.get(&format!("apikey-{n}")).await.expect("read");
            assert_eq!(found.map(|session| session.len()), Some(SESSION_BYTES));
        }
        let reading = began.elapsed();
        let began = Instant::now();
        store.copy().await.expect("copied");
        let file = std::fs::metadata(dir.path().join("penstock.redb")).expect("it is there");
        println!(
            "{sessions} sessions of {SESSION_BYTES} bytes, {} MiB: opened in {opened:?}, 5,000 read in \
             {reading:?}, copied in {:?}, {} KiB more memory",
            file.len() >> 20,
            began.elapsed(),
            resident_kib().saturating_sub(before),
        );
        // The next owner waits for this; a copy that is being made does not hold it up.
        let copying = store.copy();
        let began = Instant::now();
        store.close().await.expect("closed");
        let closed = began.elapsed();
        println!("closed in {closed:?}");
        assert!(closed < Duration::from_secs(2), "{closed:?}");
        drop(copying);
        Embedded::open(dir.path()).expect("nobody has it now");
    });
    assert!(opened < Duration::from_secs(1), "{opened:?}");
}

const SESSION_BYTES: usize = 900;

#[test]
fn child_that_writes_many_sessions() {
    let Some(dir) = child_dir() else {
        return;
    };
    let sessions: usize = std::env::var(ROUND)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("the parent says it");
    block_on(async {
        let store = Embedded::open(&dir).expect("a store");
        let mut n = 0;
        while n < sessions {
            let ops = (n..sessions.min(n + 5_000)).map(|n| WriteOp::Set {
                key: format!("apikey-{n}"),
                value: vec![b'x'; SESSION_BYTES],
                ttl: Some(Duration::from_secs(86_400)),
            });
            store.write(ops.collect()).await.expect("stored");
            n += 5_000;
        }
        // The kill hits a store that is being written.
        tell("add");
        for n in 0.. {
            store
                .write(vec![set(format!("later-{n}"))])
                .await
                .expect("stored");
        }
    });
}

/// Memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.and_then(|kib| kib.parse().ok()).unwrap_or_default()
}
