//! The embedded store against its promises.

use std::fs;

use redb::{ReadableDatabase as _, ReadableTableMetadata as _};

use super::*;
use crate::storage::tests::{Scratch, some_records};

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(test)
}

#[test]
fn values_survive_closing() {
    let dir = Scratch::new();
    block_on(async {
        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.get("a").await, Ok(None), "nothing was ever written");
        store.set("a", b"1", None).await.unwrap();
        store.set("b", b"", None).await.unwrap();
        store.close().await.unwrap();
        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.get("a").await, Ok(Some(b"1".to_vec())));
        assert_eq!(store.exists("b").await, Ok(true));
        assert_eq!(store.delete("a").await, Ok(true));
        assert_eq!(store.delete("a").await, Ok(false));
        assert_eq!(
            store.get_many(vec!["b".into(), "a".into()]).await,
            Ok(vec![Some(Vec::new()), None])
        );
    });
}

#[test]
fn a_second_opener_is_refused_until_the_first_closes() {
    let dir = Scratch::new();
    block_on(async {
        let first = Embedded::open(dir.path()).unwrap();
        let Err(StoreError::Unusable(why)) = Embedded::open(dir.path()) else {
            panic!("one opener at a time");
        };
        assert!(
            why.contains("penstock.redb is in use by another process"),
            "{why}"
        );
        assert!(why.contains("penstock.store_path"), "the remedy: {why}");
        first.close().await.unwrap();
        assert_eq!(first.get("a").await, Err(StoreError::Closed));
        first.close().await.unwrap();
        Embedded::open(dir.path()).unwrap();
    });
}

#[test]
fn a_value_past_its_time_is_gone_and_a_new_one_without_time_stays() {
    let dir = Scratch::new();
    block_on(async {
        let store = Embedded::open(dir.path()).unwrap();
        let set = async |ttl| store.set("a", b"1", ttl).await.unwrap();
        set(Some(Duration::ZERO)).await;
        assert_eq!(store.get("a").await, Ok(None));
        assert_eq!(store.delete("a").await, Ok(false));
        set(Some(Duration::from_secs(60))).await;
        assert_eq!(store.exists("a").await, Ok(true));
        set(Some(Duration::MAX)).await;
        assert_eq!(store.exists("a").await, Ok(true));
        set(Some(Duration::ZERO)).await;
        set(None).await;
        store.flush().await.unwrap();
        assert_eq!(
            store.exists("a").await,
            Ok(true),
            "the sweep spares the newer one"
        );
    });
}

#[test]
fn expired_values_leave_the_file() {
    let dir = Scratch::new();
    let database = file::open(&dir.path().join(FILE_NAME)).unwrap();
    let set = |key: &str, ttl| {
        Work::Write(vec![WriteOp::Set {
            key: key.to_owned(),
            value: vec![0; 10],
            ttl,
        }])
    };
    let ttl = Some(Duration::from_millis(5));
    let push = Work::Push {
        list: "l".to_owned(),
        records: some_records(2),
        limit: ListLimit {
            records_max: None,
            ttl: Some(Duration::from_millis(5)),
        },
    };
    tables::write(&database, &[&set("a", ttl), &set("b", None), &push], 1_000).unwrap();
    let count = || {
        let transaction = database.begin_read().unwrap();
        let values = transaction.open_table(tables::VALUES).unwrap().len();
        let records = transaction.open_table(tables::RECORDS).unwrap().len();
        let expiries = transaction.open_table(tables::EXPIRIES).unwrap().len();
        (values.unwrap(), records.unwrap(), expiries.unwrap())
    };
    assert_eq!(count(), (2, 2, 2));
    tables::write(&database, &[&Work::Flush], 1_004).unwrap();
    assert_eq!(count(), (2, 2, 2));
    tables::write(&database, &[&Work::Flush], 1_005).unwrap();
    assert_eq!(count(), (1, 0, 0));
}

#[test]
fn many_writers_at_once_share_commits_and_see_their_own_writes() {
    let dir = Scratch::new();
    block_on(async {
        let store = std::sync::Arc::new(Embedded::open(dir.path()).unwrap());
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let store = std::sync::Arc::clone(&store);
                tokio::spawn(async move {
                    let key = format!("k{n}");
                    store.set(&key, key.as_bytes(), None).await.unwrap();
                    assert_eq!(store.get(&key).await, Ok(Some(key.into_bytes())));
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_damaged_file_is_named_with_the_remedy() {
    let dir = Scratch::new();
    fs::write(dir.path().join(FILE_NAME), vec![0x5a; 64 * 1024]).unwrap();
    let Err(StoreError::Unusable(why)) = Embedded::open(dir.path()) else {
        panic!("that is no store");
    };
    assert!(why.contains("penstock.redb is damaged"), "{why}");
    assert!(why.contains("store repair"), "{why}");
    assert!(why.contains("move the file away"), "{why}");
    assert!(repair(dir.path()).is_err(), "nothing is in it");
}

/// A store of `count` values `k-<n>`, closed, with a copy of it, and what was written afterwards.
fn filled(dir: &Path, count: usize, with_copy: bool) {
    block_on(async {
        let store = Embedded::open(dir).unwrap();
        let write = async |range: std::ops::Range<usize>| {
            let ops = range.map(|n| WriteOp::Set {
                key: format!("k-{n}"),
                value: value(n),
                ttl: (n % 2 == 0).then_some(Duration::from_secs(3600)),
            });
            store.write(ops.collect()).await.unwrap();
        };
        write(0..count).await;
        if with_copy {
            store.copy().await.unwrap();
        }
        write(count..count + 1).await;
        store.close().await.unwrap();
    });
}

fn value(n: usize) -> Vec<u8> {
    format!("value {n} ").repeat(40).into_bytes()
}

/// Every value that the store gives out is one that was written; how many it does give out.
async fn count_right(store: &Embedded, count: usize) -> Result<usize, StoreError> {
    let mut right = 0;
    for n in 0..count {
        match store.get(&format!("k-{n}")).await? {
            Some(found) if found == value(n) => right += 1,
            Some(found) => panic!("{n}: {:?}", found.escape_ascii().to_string()),
            None => {}
        }
    }
    Ok(right)
}

#[test]
fn copies_are_complete_and_the_last_two_are_kept() {
    let dir = Scratch::new();
    filled(dir.path(), 3000, true);
    block_on(async {
        let store = Embedded::open(dir.path()).unwrap();
        let limit = ListLimit::default();
        store.push("l", some_records(7), limit).await.unwrap();
        store.copy().await.unwrap();
        store.copy().await.unwrap();
        store.close().await.unwrap();
        assert_eq!(store.copy().await, Err(StoreError::Closed));
    });
    let content = Content {
        values: 3001,
        lists: 1,
        records: 7,
    };
    let inspections = check(dir.path()).unwrap();
    assert_eq!(inspections.len(), 3);
    for inspection in inspections {
        assert_eq!(inspection.outcome, Ok(content), "{:?}", inspection.path);
    }
    assert!(matches!(repair(dir.path()), Ok(Repaired::Sound(c)) if c == content));
}

#[test]
fn a_flipped_byte_is_never_given_out_and_a_copy_takes_the_place_of_the_file() {
    const COUNT: usize = 500;
    let original = Scratch::new();
    filled(original.path(), COUNT, true);
    let bytes = fs::read(original.path().join(FILE_NAME)).unwrap();
    let (mut went_back, mut unusable) = (0, 0);
    // Over all kinds of pages.
    let step = bytes.len() / 40;
    for at in (17..bytes.len()).step_by(step) {
        let dir = Scratch::new();
        for file in ["penstock.redb", "penstock.redb.copy-1"] {
            fs::copy(original.path().join(file), dir.path().join(file)).unwrap();
        }
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(dir.path().join(FILE_NAME), flipped).unwrap();
        block_on(async {
            match Embedded::open(dir.path()) {
                Ok(store) => {
                    let right = count_right(&store, COUNT + 1).await.unwrap();
                    assert!(right >= COUNT, "{at}: {right}");
                    went_back += usize::from(right == COUNT);
                    store.set("new", b"1", None).await.unwrap();
                    store.close().await.unwrap();
                }
                Err(_) => unusable += 1,
            }
        });
    }
    assert!(went_back > 10, "{went_back}");
    assert_eq!(unusable, 0);
}

#[test]
fn a_file_without_its_end_is_repaired_or_given_up_for_a_copy() {
    const COUNT: usize = 500;
    for with_copy in [true, false] {
        let original = Scratch::new();
        filled(original.path(), COUNT, with_copy);
        let bytes = fs::read(original.path().join(FILE_NAME)).unwrap();
        for kept in (0..bytes.len()).step_by(bytes.len() / 20) {
            let dir = Scratch::new();
            let copy = "penstock.redb.copy-1";
            if with_copy {
                fs::copy(original.path().join(copy), dir.path().join(copy)).unwrap();
            }
            fs::write(dir.path().join(FILE_NAME), &bytes[..kept]).unwrap();
            let opened = Embedded::open(dir.path());
            block_on(async {
                match opened {
                    Ok(store) => {
                        let right = count_right(&store, COUNT + 1).await.unwrap();
                        // Without a copy, a file of no bytes is a new store.
                        let is_new = kept == 0 && !with_copy;
                        assert!(right >= COUNT || is_new, "{kept}: {right}");
                        store.close().await.unwrap();
                    }
                    Err(StoreError::Unusable(why)) => {
                        assert!(!with_copy, "{kept}: {why}");
                        assert!(why.contains("damaged"), "{kept}: {why}");
                        assert!(why.contains("store repair"), "{kept}: {why}");
                    }
                    Err(error) => panic!("{kept}: {error}"),
                }
            });
        }
    }
}

#[test]
fn damage_below_an_open_store_is_noticed_and_healed() {
    const COUNT: usize = 9_000;
    let dir = Scratch::new();
    filled(dir.path(), COUNT, true);
    let path = dir.path().join(FILE_NAME);
    assert!(
        fs::metadata(&path).unwrap().len() > 4 << 20,
        "not checked when opened"
    );
    let bytes = fs::read(&path).unwrap();
    let at = memchr::memmem::rfind(&bytes, b"value 77 ").unwrap();
    let mut flipped = bytes.clone();
    flipped[at] ^= 1;
    fs::write(&path, flipped).unwrap();
    block_on(async {
        let store = Embedded::open(dir.path()).unwrap();
        let found = store.get("k-77").await;
        assert!(
            matches!(&found, Err(StoreError::Away(why)) if why.contains("damaged")),
            "{found:?}"
        );
        // The next question finds the copy in its place.
        assert_eq!(store.get("k-77").await, Ok(Some(value(77))));
        store.set("new", b"1", None).await.unwrap();
        store.close().await.unwrap();
    });
    assert!(check(dir.path()).unwrap()[0].outcome.is_ok());
    let kept = fs::read_dir(dir.path()).unwrap().flatten();
    let kept = kept.filter(|f| f.file_name().to_string_lossy().contains(".damaged-"));
    assert_eq!(kept.count(), 1);
}

#[test]
fn what_can_be_read_is_saved_where_there_is_no_copy() {
    const COUNT: usize = 2000;
    let dir = Scratch::new();
    filled(dir.path(), COUNT, false);
    let path = dir.path().join(FILE_NAME);
    let mut bytes = fs::read(&path).unwrap();
    let at = memchr::memmem::rfind(&bytes, b"value 77 ").unwrap();
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(Embedded::open(dir.path()).is_err());
    let inspections = check(dir.path()).unwrap();
    assert!(inspections[0].outcome.is_err());
    match repair(dir.path()) {
        Ok(Repaired::Saved { content, lost }) => {
            assert_eq!((content.values, lost), (COUNT as u64, 1));
        }
        other => panic!("{other:?}"),
    }
    block_on(async {
        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(count_right(&store, COUNT + 1).await, Ok(COUNT));
        assert!(matches!(store.ttl("k-2").await, Ok(Some(Ttl::Ms(_)))));
        assert_eq!(
            check(dir.path())
                .map(|_| ())
                .map_err(|e| e.to_string().contains("in use")),
            Err(true)
        );
        store.close().await.unwrap();
    });
}

#[test]
fn a_folder_that_cannot_be_made_is_named_with_the_remedy() {
    let dir = Scratch::new();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let Err(StoreError::Unusable(why)) = Embedded::open(&file.join("store")) else {
        panic!("a file is no folder");
    };
    assert!(why.contains("penstock.store_path"), "{why}");
}

#[test]
fn the_probe_writes() {
    let dir = Scratch::new();
    block_on(async {
        let store = Embedded::open(dir.path()).unwrap();
        store.probe().await.unwrap();
        assert_eq!(store.exists("tyk-liveness-probe").await, Ok(true));
    });
}

#[test]
fn changes_are_made_together_and_names_are_listed() {
    let dir = Scratch::new();
    block_on(async {
        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.list("").await, Ok(Vec::new()));
        let set = |key: &str, ttl| WriteOp::Set {
            key: key.to_owned(),
            value: b"v".to_vec(),
            ttl,
        };
        let minute = Some(Duration::from_secs(60));
        let ops = vec![
            set("p-b", None),
            set("p-a", minute),
            set("p-c", None),
            WriteOp::Delete("p-c".to_owned()),
            set("q", Some(Duration::ZERO)),
        ];
        store.write(ops).await.unwrap();
        assert_eq!(store.list("p-").await.unwrap(), ["p-a", "p-b"]);
        assert_eq!(store.list("").await.unwrap(), ["p-a", "p-b"]);
        assert_eq!(store.ttl("p-b").await, Ok(Some(Ttl::Forever)));
        assert!(matches!(
            store.ttl("p-a").await,
            Ok(Some(Ttl::Ms(1..=60_000)))
        ));
        assert_eq!(store.ttl("q").await, Ok(None));
        assert_eq!(store.set_if_absent("p-a", b"2", None).await, Ok(false));
        assert_eq!(store.set_if_absent("q", b"2", minute).await, Ok(true));
        let replace = |key: &str, from: &[u8], ttl| Replace {
            key: key.to_owned(),
            from: from.to_vec(),
            to: b"new".to_vec(),
            ttl,
        };
        let changes = vec![
            replace("q", b"2", None),
            replace("q", b"2", minute),
            replace("p-a", b"other", minute),
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
        assert!(matches!(
            store.ttl("q").await,
            Ok(Some(Ttl::Ms(1..=60_000)))
        ));
    });
}

#[test]
fn counters_keep_the_time_they_began_with() {
    let dir = Scratch::new();
    block_on(async {
        let store = Embedded::open(dir.path()).unwrap();
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
        let refused = store.add(vec![add("b", 1, 60), add("a", 1, 60)]).await;
        assert!(matches!(&refused, Err(StoreError::Away(why)) if why.contains("not an integer")));
        assert_eq!(
            store.get("b").await,
            Ok(Some(b"-1".to_vec())),
            "all or none"
        );
        store
            .set("a", i64::MAX.to_string().as_bytes(), None)
            .await
            .unwrap();
        assert!(store.add(vec![add("a", 1, 60)]).await.is_err());
    });
}

#[test]
fn lists_lose_their_oldest_records_and_expire_once() {
    let dir = Scratch::new();
    block_on(async {
        let store = Embedded::open(dir.path()).unwrap();
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
        assert_eq!(push(9, Some(4), None).await, (4, 9));
        assert!(matches!(
            store.ttl("l").await,
            Ok(Some(Ttl::Ms(1..=60_000)))
        ));
        assert_eq!(store.list("").await.unwrap(), ["l"]);
        assert_eq!(store.delete("l").await, Ok(true));
        assert_eq!(push(1, None, Some(0)).await, (1, 0));
        assert_eq!(
            push(1, None, None).await,
            (1, 0),
            "the earlier one had expired"
        );
        store.set("l", b"", None).await.unwrap();
        let refused = store.push("l", some_records(1), ListLimit::default()).await;
        assert!(matches!(&refused, Err(StoreError::Away(why)) if why.contains("wrong kind")));
    });
}

#[test]
fn a_store_of_one_process_has_nobody_to_tell() {
    let dir = Scratch::new();
    block_on(async {
        let store = Embedded::open(dir.path()).unwrap();
        assert_eq!(store.publish("channel", "message").await, Ok(()));
        assert!(store.subscribe("channel").is_none());
        assert!(store.scripts().is_none());
    });
}
