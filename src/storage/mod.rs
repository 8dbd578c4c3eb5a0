//! Where sessions and keys live.
//!
//! A [`Store`] is Redis, shared with Tyk gateways under Tyk's key names, or the embedded store of
//! one process. [`Owner`] holds it for this process and hands it over in an upgrade; [`Liveness`]
//! asks it for signs of life, [`Pulse`] knows whether it answers at all. All of it runs on tokio's side; shards reach it through the mailbox.
//!
//! Tyk: `storage/redis_cluster.go`, `storage/connection_handler.go`.

mod doorway;
pub mod embedded;
pub mod keys;
mod liveness;
pub mod notification;
mod ops;
mod owner;
mod pulse;
mod redis;
pub mod resp;
mod script;
mod subscription;
mod watched;

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use crate::config::{Config, Storage, StoreKind};

pub use doorway::{Doorway, Endpoint};
pub use embedded::Embedded;
pub use liveness::{Liveness, Probe};
pub use ops::{Add, Chunk, Counter, ListLimit, PushOutcome, Records, Replace, Ttl, WriteOp};
pub use owner::{NotOwner, Open, Owner, Ownership, WriteGuard};
pub use pulse::Pulse;
#[cfg(test)]
pub(crate) use redis::written;
pub use redis::{CONNECTIONS as STORE_CONNECTIONS, Redis, Refusal};
pub use script::{Eval, Script, ScriptReply, Scripts};
pub use subscription::{Event, Subscription};

/// How long a request waits for the store.
pub const REQUEST_PATIENCE: Duration = Duration::from_millis(100);

/// What a store answers, later.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Text keys to byte values, with expiry. Keys are whole: callers put the prefix of
/// [`keys`] before them.
pub trait Store: Send + Sync {
    /// What people call it in a log line.
    fn name(&self) -> &'static str;

    /// How long one that is not in a hurry waits for an answer.
    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// The value of a key; `None` when there is none or it has expired.
    fn get(&self, key: &str) -> Waiting<'_, Option<Vec<u8>>>;

    /// As [`Store::get`] for several keys in one question; answers in the keys' order.
    fn get_many(&self, keys: Vec<String>) -> Waiting<'_, Vec<Option<Vec<u8>>>>;

    /// Stores a value. Without a time to live it stays, also when an earlier one had one
    /// (Tyk: `SetKey` with a time of 0 or less).
    fn set(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Waiting<'_, ()>;

    /// Removes a key; whether it was there.
    fn delete(&self, key: &str) -> Waiting<'_, bool>;

    fn exists(&self, key: &str) -> Waiting<'_, bool>;

    /// The names that begin with `prefix`, sorted. Walks through all of them.
    fn list(&self, prefix: &str) -> Waiting<'_, Vec<String>>;

    /// Makes several changes, in order and all or none (in a Redis cluster: each on its own). Ok
    /// only when all of them are stored.
    fn write(&self, ops: Vec<WriteOp>) -> Waiting<'_, ()>;

    /// How much longer a key lives; `None` when there is none.
    fn ttl(&self, key: &str) -> Waiting<'_, Option<Ttl>>;

    /// Stores a value unless the key exists; whether it was stored.
    fn set_if_absent(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Waiting<'_, bool>;

    /// Replaces values, each only where it is the one given, in one round trip; whether it was, in
    /// order. What is gone stays gone.
    fn replace(&self, changes: Vec<Replace>) -> Waiting<'_, Vec<bool>> {
        match self.scripts() {
            Some(scripts) => script::replace(scripts, changes),
            None => Box::pin(async { Err(StoreError::Closed) }),
        }
    }

    /// Adds to counters, in one round trip; answers in order. A counter is a value in decimal
    /// digits, absent means 0.
    fn add(&self, adds: Vec<Add>) -> Waiting<'_, Vec<Counter>>;

    /// Appends records to a list.
    fn push(&self, list: &str, records: Records, limit: ListLimit) -> Waiting<'_, PushOutcome>;

    /// Tells everybody who subscribed to a channel. A store of one process has nobody to tell.
    fn publish(&self, channel: &str, message: &str) -> Waiting<'_, ()>;

    /// Listens to a channel, from inside tokio; `None` where nobody else could publish.
    fn subscribe(&self, channel: &str) -> Option<Subscription>;

    /// `None` for a store of one process, which has nobody to agree with.
    fn scripts(&self) -> Option<&dyn Scripts>;

    /// Has the doorway tell from now on where the server is; nothing where there is none.
    fn show(&self, _doorway: Arc<Doorway>) {}

    /// Proves with a write that the store works now.
    fn probe(&self) -> Waiting<'_, ()>;

    /// Ends when everything that was accepted before is durable as far as the store can tell.
    fn flush(&self) -> Waiting<'_, ()>;

    /// Flushes and lets go of every file and connection. Questions after it get
    /// [`StoreError::Closed`]. Closing twice is no error.
    fn close(&self) -> Waiting<'_, ()>;

    /// A session by its key in clear, as stored while `hash_keys` is off.
    fn get_session(&self, key: &str) -> Waiting<'_, Option<Vec<u8>>> {
        self.get(&keys::session(key))
    }
}

/// Why a store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened, or the configuration asks for what does not exist. With the remedy.
    #[error("{0}")]
    Unusable(String),
    /// It does not answer, or answers with an error; later it may.
    #[error("{0}")]
    Away(String),
    /// It answers, and takes no writes at present.
    #[error("{0}")]
    Refused(String),
    /// This process has closed it, or does not have it yet.
    #[error("the store is closed")]
    Closed,
}

/// How to open the store that the configuration names. `state_dir` is the platform's folder for
/// the embedded store, used when `penstock.store_path` is empty.
///
/// # Errors
/// [`StoreError::Unusable`] when the configuration asks for what is not there.
pub fn opener(config: &Config, state_dir: &Path) -> Result<Open, StoreError> {
    open_section("storage", &config.storage, store_dir(config, state_dir))
}

/// How to open the store for cached answers, where it is another one
/// (`enable_separate_cache_store`); `None` for the main store.
///
/// # Errors
/// As [`opener`].
pub fn cache_opener(config: &Config, state_dir: &Path) -> Result<Option<Open>, StoreError> {
    if !config.enable_separate_cache_store {
        return Ok(None);
    }
    let dir = store_dir(config, state_dir).join("cache");
    open_section("cache_storage", &config.cache_storage, dir).map(Some)
}

/// How to open the store for records, where it is another one (`enable_analytics` and
/// `enable_separate_analytics_store`); `None` for the main store.
///
/// # Errors
/// As [`opener`].
pub fn analytics_opener(config: &Config, state_dir: &Path) -> Result<Option<Open>, StoreError> {
    if !(config.enable_analytics && config.enable_separate_analytics_store) {
        return Ok(None);
    }
    let dir = store_dir(config, state_dir).join("analytics");
    open_section("analytics_storage", &config.analytics_storage, dir).map(Some)
}

fn store_dir(config: &Config, state_dir: &Path) -> PathBuf {
    match config.penstock.store_path.as_str() {
        "" => state_dir.to_owned(),
        path => path.into(),
    }
}

/// `name` is that of the section; `dir` holds an embedded store.
fn open_section(name: &str, section: &Storage, dir: PathBuf) -> Result<Open, StoreError> {
    match section.store_kind() {
        Some(StoreKind::Redis) => {
            let redis = redis::Options::from_config(name, section)?;
            Ok(Arc::new(move || {
                Ok(Arc::new(Redis::open(&redis)) as Arc<dyn Store>)
            }))
        }
        Some(StoreKind::Embedded) => Ok(Arc::new(move || {
            Ok(Arc::new(Embedded::open(&dir)?) as Arc<dyn Store>)
        })),
        None => Err(StoreError::Unusable(format!(
            "{name}.type {:?} does not exist; use \"redis\" or \"embedded\"",
            section.kind
        ))),
    }
}

#[cfg(test)]
pub(crate) mod tests;
