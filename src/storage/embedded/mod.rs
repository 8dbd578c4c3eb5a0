//! The store inside the process: one file, `penstock.redb`, and one thread that owns it.
//!
//! The thread takes what has been asked, does it in one transaction and answers when that is
//! durable, so writes of one moment share one commit. Whatever fails inside, a panic included,
//! costs the questions of one batch: they get [`StoreError::Away`], and the next batch opens the
//! file anew.

mod file;
mod keeper;
mod tables;

use std::{path::Path, time::Duration};

use tokio::sync::{mpsc, oneshot};

use crate::storage::{
    Add, Counter, ListLimit, PushOutcome, Scripts, Store, StoreError, Subscription, Ttl, Waiting,
    WriteOp, keys,
};

use keeper::Keeper;

/// The file's name inside `penstock.store_path`.
pub(crate) const FILE_NAME: &str = "penstock.redb";

/// Questions that may wait.
const QUEUE_MAX: usize = 4096;

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
    Exists(String),
    Ttl(String),
    List(String),
    Write(Vec<WriteOp>),
    Delete(String),
    SetIfAbsent {
        key: String,
        value: Vec<u8>,
        ttl: Option<Duration>,
    },
    Add(Vec<Add>),
    Push {
        list: String,
        records: Vec<Vec<u8>>,
        limit: ListLimit,
    },
    Flush,
    Close,
}

enum Found {
    Values(Vec<Option<Vec<u8>>>),
    Was(bool),
    Ttl(Option<Ttl>),
    Names(Vec<String>),
    Counters(Vec<Counter>),
    Pushed(PushOutcome),
    Done,
    /// This question alone cannot be done, and changed nothing.
    Refused(&'static str),
}

impl Embedded {
    /// Opens the store in `dir`, which is made (for this user alone) when it is not there. Waits
    /// for the disk: milliseconds, also after a crash.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] naming the file and the remedy: another process has it, the folder
    /// cannot be written, the file is damaged.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        file::make_folder(dir)?;
        let mut keeper = Keeper::open(dir.join(FILE_NAME))?;
        let (asks, receiver) = mpsc::channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || keeper.run(receiver))
            .map_err(|error| StoreError::Unusable(format!("no thread for the store: {error}")))?;
        Ok(Self { asks })
    }

    /// Asks the thread; `read` takes the kind of answer that this work has.
    fn ask<'a, T: Default + 'a>(
        &'a self,
        work: Work,
        read: fn(Found) -> Option<T>,
    ) -> Waiting<'a, T> {
        Box::pin(async move {
            let (answer, receiver) = oneshot::channel();
            self.asks
                .send(Ask { work, answer })
                .await
                .map_err(|_| StoreError::Closed)?;
            match receiver.await.map_err(|_| StoreError::Closed)?? {
                Found::Refused(why) => Err(StoreError::Away(format!("embedded store: {why}"))),
                found => Ok(read(found).unwrap_or_default()),
            }
        })
    }

    fn done(&self, work: Work) -> Waiting<'_, ()> {
        self.ask(work, |_| Some(()))
    }

    fn was(&self, work: Work) -> Waiting<'_, bool> {
        self.ask(work, |found| match found {
            Found::Was(was) => Some(was),
            _ => None,
        })
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
        self.ask(Work::Get(keys), |found| match found {
            Found::Values(values) => Some(values),
            _ => None,
        })
    }

    fn set(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Waiting<'_, ()> {
        self.write(vec![WriteOp::Set {
            key: key.to_owned(),
            value: value.to_vec(),
            ttl,
        }])
    }

    fn delete(&self, key: &str) -> Waiting<'_, bool> {
        self.was(Work::Delete(key.to_owned()))
    }

    fn exists(&self, key: &str) -> Waiting<'_, bool> {
        self.was(Work::Exists(key.to_owned()))
    }

    fn list(&self, prefix: &str) -> Waiting<'_, Vec<String>> {
        self.ask(Work::List(prefix.to_owned()), |found| match found {
            Found::Names(names) => Some(names),
            _ => None,
        })
    }

    fn write(&self, ops: Vec<WriteOp>) -> Waiting<'_, ()> {
        self.done(Work::Write(ops))
    }

    fn ttl(&self, key: &str) -> Waiting<'_, Option<Ttl>> {
        self.ask(Work::Ttl(key.to_owned()), |found| match found {
            Found::Ttl(ttl) => Some(ttl),
            _ => None,
        })
    }

    fn set_if_absent(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Waiting<'_, bool> {
        self.was(Work::SetIfAbsent {
            key: key.to_owned(),
            value: value.to_vec(),
            ttl,
        })
    }

    fn add(&self, adds: Vec<Add>) -> Waiting<'_, Vec<Counter>> {
        self.ask(Work::Add(adds), |found| match found {
            Found::Counters(counters) => Some(counters),
            _ => None,
        })
    }

    fn push(
        &self,
        list: &str,
        records: Vec<Vec<u8>>,
        limit: ListLimit,
    ) -> Waiting<'_, PushOutcome> {
        let work = Work::Push {
            list: list.to_owned(),
            records,
            limit,
        };
        self.ask(work, |found| match found {
            Found::Pushed(outcome) => Some(outcome),
            _ => None,
        })
    }

    fn publish(&self, _: &str, _: &str) -> Waiting<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn subscribe(&self, _: &str) -> Option<Subscription> {
        None
    }

    fn scripts(&self) -> Option<&dyn Scripts> {
        None
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
        self.done(Work::Flush)
    }

    fn close(&self) -> Waiting<'_, ()> {
        let closing = self.done(Work::Close);
        Box::pin(async move {
            match closing.await {
                // Closed before: that is what was asked for.
                Ok(()) | Err(StoreError::Closed) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }
}

#[cfg(test)]
mod tests;
