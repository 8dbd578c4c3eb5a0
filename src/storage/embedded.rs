//! The store inside the process: one file, `penstock.redb`, and one thread that owns it.
//!
//! The thread takes what has been asked, does it in one transaction and answers when that is
//! durable, so writes of one moment share one commit. Whatever fails inside, a panic included,
//! costs the questions of one batch: they get [`StoreError::Away`], and the next batch opens the
//! file anew.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable, StorageError, TableDefinition,
    TableError, WriteTransaction,
};
use tokio::sync::{mpsc, oneshot};

use crate::storage::{Store, StoreError, Waiting, keys};

/// The file's name inside `penstock.store_path`.
pub(crate) const FILE_NAME: &str = "penstock.redb";

/// Key to: eight bytes of expiry in milliseconds since 1970, little-endian, 0 for never; value.
const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("values");

/// What expires, by when. A row whose value has been written anew since is stale.
const EXPIRIES: TableDefinition<(u64, &str), ()> = TableDefinition::new("expiries");

/// Questions that may wait.
const QUEUE_MAX: usize = 4096;

/// Questions that share a transaction.
const BATCH_MAX: usize = 512;

/// Expired values that one writing batch removes beside its own work.
const SWEEP_MAX: usize = 64;

/// Memory for pages of the file; the store holds sessions, and shards keep the hot ones.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// An open store. Dropped without [`Store::close`], the file is let go soon after.
pub struct Embedded {
    asks: mpsc::Sender<Ask>,
}

struct Ask {
    work: Work,
    answer: oneshot::Sender<Result<Found, StoreError>>,
}

enum Work {
    Get(Vec<String>),
    Set {
        key: String,
        value: Vec<u8>,
        ttl: Option<Duration>,
    },
    Delete(String),
    Exists(String),
    Flush,
    Close,
}

enum Found {
    Values(Vec<Option<Vec<u8>>>),
    Was(bool),
    Done,
}

impl Embedded {
    /// Opens the store in `dir`, which is made (for this user alone) when it is not there. Waits
    /// for the disk: milliseconds, also after a crash.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] naming the file and the remedy: another process has it, the folder
    /// cannot be written, the file is damaged.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| cannot_use(dir, &error))?;
        let path = dir.join(FILE_NAME);
        let database = open_file(&path)?;
        let (asks, receiver) = mpsc::channel(QUEUE_MAX);
        let mut keeper = Keeper {
            path,
            database: Some(database),
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || keeper.run(receiver))
            .map_err(|error| StoreError::Unusable(format!("no thread for the store: {error}")))?;
        Ok(Self { asks })
    }

    async fn ask(&self, work: Work) -> Result<Found, StoreError> {
        let (answer, receiver) = oneshot::channel();
        self.asks
            .send(Ask { work, answer })
            .await
            .map_err(|_| StoreError::Closed)?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }
}

impl Store for Embedded {
    fn name(&self) -> &'static str {
        "embedded store"
    }

    fn get(&self, key: &str) -> Waiting<'_, Option<Vec<u8>>> {
        let values = self.get_many(vec![key.to_owned()]);
        Box::pin(async move { Ok(values.await?.pop().flatten()) })
    }

    fn get_many(&self, keys: Vec<String>) -> Waiting<'_, Vec<Option<Vec<u8>>>> {
        Box::pin(async move {
            match self.ask(Work::Get(keys)).await? {
                Found::Values(values) => Ok(values),
                Found::Was(_) | Found::Done => Ok(Vec::new()),
            }
        })
    }

    fn set(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Waiting<'_, ()> {
        let work = Work::Set {
            key: key.to_owned(),
            value: value.to_vec(),
            ttl,
        };
        Box::pin(async move { self.ask(work).await.map(drop) })
    }

    fn delete(&self, key: &str) -> Waiting<'_, bool> {
        let work = Work::Delete(key.to_owned());
        Box::pin(async move { Ok(matches!(self.ask(work).await?, Found::Was(true))) })
    }

    fn exists(&self, key: &str) -> Waiting<'_, bool> {
        let work = Work::Exists(key.to_owned());
        Box::pin(async move { Ok(matches!(self.ask(work).await?, Found::Was(true))) })
    }

    fn probe(&self) -> Waiting<'_, ()> {
        let ttl = Duration::from_secs(keys::LIVENESS_PROBE_TTL_S);
        self.set(
            keys::LIVENESS_PROBE,
            keys::LIVENESS_PROBE.as_bytes(),
            Some(ttl),
        )
    }

    fn flush(&self) -> Waiting<'_, ()> {
        Box::pin(async move { self.ask(Work::Flush).await.map(drop) })
    }

    fn close(&self) -> Waiting<'_, ()> {
        Box::pin(async move {
            match self.ask(Work::Close).await {
                // Closed before: that is what was asked for.
                Ok(_) | Err(StoreError::Closed) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }
}

/// The thread's side.
struct Keeper {
    path: PathBuf,
    /// `None` after a failure, until the next batch.
    database: Option<Database>,
}

impl Keeper {
    fn run(&mut self, mut asks: mpsc::Receiver<Ask>) {
        let mut batch = Vec::new();
        while asks.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            let mut closing = None;
            if let Some(at) = batch.iter().position(|ask| matches!(ask.work, Work::Close)) {
                // What stands behind a close is dropped, which answers it with `Closed`.
                batch.truncate(at + 1);
                closing = batch.pop();
                asks.close();
            }
            self.answer(&mut batch);
            if let Some(closing) = closing {
                // Before the answer: whoever asked may open the file at once.
                self.database = None;
                let _ = closing.answer.send(Ok(Found::Done));
                return;
            }
        }
    }

    fn answer(&mut self, batch: &mut Vec<Ask>) {
        let work: Vec<_> = batch.iter().map(|ask| &ask.work).collect();
        let done = catch_unwind(AssertUnwindSafe(|| self.work(&work)))
            .unwrap_or_else(|_| Err("a defect in the store's library".to_owned()));
        match done {
            Ok(found) => {
                for (ask, found) in batch.drain(..).zip(found) {
                    let _ = ask.answer.send(Ok(found));
                }
            }
            Err(why) => {
                // After a failed write the library refuses everything until the file is opened anew.
                let database = self.database.take();
                let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
                let error = StoreError::Away(format!("{}: {why}", self.path.display()));
                for ask in batch.drain(..) {
                    let _ = ask.answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Does a batch in one transaction, in order, so that a read sees the writes before it.
    fn work(&mut self, batch: &[&Work]) -> Result<Vec<Found>, String> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open_file(&self.path).map_err(|error| error.to_string())?,
        };
        let database = self.database.insert(database);
        let now_ms = now_ms();
        let is_writing = batch
            .iter()
            .any(|work| matches!(work, Work::Set { .. } | Work::Delete(_) | Work::Flush));
        if is_writing {
            write(database, batch, now_ms).map_err(|error| error.to_string())
        } else {
            read(database, batch, now_ms).map_err(|error| error.to_string())
        }
    }
}

fn read(database: &Database, batch: &[&Work], now_ms: u64) -> Result<Vec<Found>, redb::Error> {
    let transaction = database.begin_read()?;
    let values = match transaction.open_table(VALUES) {
        Ok(values) => Some(values),
        // Nothing has been written yet.
        Err(TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let value = |key: &str| match &values {
        Some(values) => alive(values, key, now_ms),
        None => Ok(None),
    };
    let mut found = Vec::with_capacity(batch.len());
    for work in batch {
        found.push(match work {
            Work::Get(keys) => {
                let values: Result<_, _> = keys.iter().map(|key| value(key)).collect();
                Found::Values(values?)
            }
            Work::Exists(key) => Found::Was(value(key)?.is_some()),
            Work::Set { .. } | Work::Delete(_) | Work::Flush | Work::Close => Found::Done,
        });
    }
    Ok(found)
}

fn write(database: &Database, batch: &[&Work], now_ms: u64) -> Result<Vec<Found>, redb::Error> {
    let mut transaction = database.begin_write()?;
    // Opening after a kill takes a millisecond instead of a walk through the file.
    transaction.set_quick_repair(true);
    let found = write_batch(&transaction, batch, now_ms)?;
    transaction.commit()?;
    Ok(found)
}

fn write_batch(
    transaction: &WriteTransaction,
    batch: &[&Work],
    now_ms: u64,
) -> Result<Vec<Found>, redb::Error> {
    let mut values = transaction.open_table(VALUES)?;
    let mut expiries = transaction.open_table(EXPIRIES)?;
    let mut found = Vec::with_capacity(batch.len());
    for work in batch {
        found.push(match work {
            Work::Get(keys) => {
                let values: Result<_, _> =
                    keys.iter().map(|key| alive(&values, key, now_ms)).collect();
                Found::Values(values?)
            }
            Work::Exists(key) => Found::Was(alive(&values, key, now_ms)?.is_some()),
            Work::Set { key, value, ttl } => {
                let expires_at_ms = ttl.map_or(0, |ttl| {
                    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
                    now_ms.saturating_add(ttl_ms)
                });
                let mut row = expires_at_ms.to_le_bytes().to_vec();
                row.extend_from_slice(value);
                let before = values
                    .insert(key.as_str(), row.as_slice())?
                    .map_or(0, |before| split(before.value()).0);
                if before != 0 {
                    expiries.remove((before, key.as_str()))?;
                }
                if expires_at_ms != 0 {
                    expiries.insert((expires_at_ms, key.as_str()), ())?;
                }
                Found::Done
            }
            Work::Delete(key) => {
                let before = values
                    .remove(key.as_str())?
                    .map(|before| split(before.value()).0);
                if let Some(expires_at_ms) = before
                    && expires_at_ms != 0
                {
                    expiries.remove((expires_at_ms, key.as_str()))?;
                }
                Found::Was(before.is_some_and(|at| at == 0 || at > now_ms))
            }
            Work::Flush | Work::Close => Found::Done,
        });
    }
    let mut due = Vec::new();
    for row in expiries
        .range(..(now_ms.saturating_add(1), ""))?
        .take(SWEEP_MAX)
    {
        let (at, key) = {
            let (row, ()) = row.map(|(row, unit)| (row, unit.value()))?;
            let (at, key) = row.value();
            (at, key.to_owned())
        };
        due.push((at, key));
    }
    for (at, key) in due {
        expiries.remove((at, key.as_str()))?;
        let is_stale = values
            .get(key.as_str())?
            .is_none_or(|row| split(row.value()).0 != at);
        if !is_stale {
            values.remove(key.as_str())?;
        }
    }
    Ok(found)
}

/// The value of a key that has not expired.
fn alive(
    values: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
    now_ms: u64,
) -> Result<Option<Vec<u8>>, StorageError> {
    Ok(values.get(key)?.and_then(|row| {
        let (expires_at_ms, value) = split(row.value());
        (expires_at_ms == 0 || expires_at_ms > now_ms).then(|| value.to_vec())
    }))
}

/// Expiry and value of a row. A row too short to have an expiry has none.
fn split(row: &[u8]) -> (u64, &[u8]) {
    match row.split_first_chunk() {
        Some((expires_at_ms, value)) => (u64::from_le_bytes(*expires_at_ms), value),
        None => (0, &[]),
    }
}

fn open_file(path: &Path) -> Result<Database, StoreError> {
    let opened = catch_unwind(|| Database::builder().set_cache_size(CACHE_BYTES).create(path));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(refused(path, error)),
        Err(_) => Err(damaged(path, "it cannot be read")),
    }
}

fn refused(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Unusable(format!(
            "{} is in use by another process; stop that one, or give this gateway a folder of its \
             own with penstock.store_path (TYK_GW_PENSTOCK_STOREPATH)",
            path.display()
        )),
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != io::ErrorKind::InvalidData =>
        {
            cannot_use(path, &error)
        }
        error => damaged(path, &error.to_string()),
    }
}

fn cannot_use(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unusable(format!(
        "cannot use {} for the embedded store: {error}; let this user write there, or name another \
         folder with penstock.store_path (TYK_GW_PENSTOCK_STOREPATH)",
        path.display()
    ))
}

fn damaged(path: &Path, why: &str) -> StoreError {
    StoreError::Unusable(format!(
        "{} is damaged ({why}); put a copy of it back, or move it away to start with an empty store",
        path.display()
    ))
}

#[allow(
    clippy::disallowed_methods,
    reason = "expiry outlives the process, so it is counted by the calendar"
)]
fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::Scratch;

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
        let database = open_file(&dir.path().join(FILE_NAME)).unwrap();
        let set = |key: &str, ttl| Work::Set {
            key: key.to_owned(),
            value: vec![0; 10],
            ttl,
        };
        let ttl = Some(Duration::from_millis(5));
        write(&database, &[&set("a", ttl), &set("b", None)], 1_000).unwrap();
        let count = || {
            let transaction = database.begin_read().unwrap();
            let values = transaction
                .open_table(VALUES)
                .unwrap()
                .iter()
                .unwrap()
                .count();
            let expiries = transaction
                .open_table(EXPIRIES)
                .unwrap()
                .iter()
                .unwrap()
                .count();
            (values, expiries)
        };
        assert_eq!(count(), (2, 1));
        write(&database, &[&Work::Flush], 1_004).unwrap();
        assert_eq!(count(), (2, 1));
        write(&database, &[&Work::Flush], 1_005).unwrap();
        assert_eq!(count(), (1, 0));
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
        assert!(why.contains("move it away"), "{why}");
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
}
