//! The store inside the process: one file, `penstock.redb`, and threads that own it.
//!
//! The writing thread takes what has been asked, does it in one transaction and answers when that is
//! durable, so writes of one moment share one commit. Copies of the file are made beside it, and
//! take its place when it turns out to be damaged.

#![allow(
    clippy::disallowed_types,
    reason = "held for a few instructions on the control side and never over an await"
)]

mod file;
mod keeper;
mod repair;
mod snapshot;
mod tables;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

use crate::storage::{
    Add, Counter, ListLimit, PushOutcome, Records, Replace, Scripts, Store, StoreError,
    Subscription, Ttl, Waiting, WriteOp, keys,
};

use keeper::Shared;
pub use repair::{Inspection, Repaired, check, repair};
pub use tables::Content;

/// The file's name inside `penstock.store_path`.
pub(crate) const FILE_NAME: &str = "penstock.redb";

/// Questions that may wait.
const QUEUE_MAX: usize = 4096;

/// An open store. Dropped without [`Store::close`], the file is let go soon after.
pub struct Embedded {
    reads: mpsc::Sender<Ask>,
    writes: mpsc::Sender<Ask>,
    /// `None` once closed.
    copies: Mutex<Option<std::sync::mpsc::Sender<snapshot::Request>>>,
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
    Replace(Vec<Replace>),
    Add(Vec<Add>),
    Push {
        list: String,
        records: Records,
        limit: ListLimit,
    },
    Flush,
    Close,
}

enum Found {
    Values(Vec<Option<Vec<u8>>>),
    Was(bool),
    Were(Vec<bool>),
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
        let shared = Shared::open(dir.join(FILE_NAME))?;
        let (reads, read_asks) = mpsc::channel(QUEUE_MAX);
        let (writes, write_asks) = mpsc::channel(QUEUE_MAX);
        let (copies, copy_requests) = std::sync::mpsc::channel();
        let own = Arc::clone(&shared);
        spawn("store-copy", move || snapshot::run(&own, &copy_requests))?;
        let own = Arc::clone(&shared);
        spawn("store-read", move || {
            if let Some(closing) = keeper::run(&own, read_asks) {
                let _ = closing.answer.send(Ok(Found::Done));
            }
        })?;
        spawn("store", move || keeper::run_writer(&shared, write_asks))?;
        Ok(Self {
            reads,
            writes,
            copies: Mutex::new(Some(copies)),
        })
    }

    /// Makes a copy of the store now, which takes its place should it turn out to be damaged.
    pub fn copy(&self) -> Waiting<'_, ()> {
        let (answer, receiver) = oneshot::channel();
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let is_asked = copies
            .as_ref()
            .is_some_and(|copies| copies.send(answer).is_ok());
        drop(copies);
        Box::pin(async move {
            match is_asked {
                true => receiver.await.map_err(|_| StoreError::Closed)?,
                false => Err(StoreError::Closed),
            }
        })
    }

    /// Asks the threads; `read` takes the kind of answer that this work has.
    fn ask<'a, T: Default + 'a>(
        &'a self,
        work: Work,
        read: fn(Found) -> Option<T>,
    ) -> Waiting<'a, T> {
        let asks = match tables::is_write(&work) {
            true => &self.writes,
            false => &self.reads,
        };
        Box::pin(async move {
            match send(asks, work).await? {
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

    fn replace(&self, changes: Vec<Replace>) -> Waiting<'_, Vec<bool>> {
        self.ask(Work::Replace(changes), |found| match found {
            Found::Were(replaced) => Some(replaced),
            _ => None,
        })
    }

    fn add(&self, adds: Vec<Add>) -> Waiting<'_, Vec<Counter>> {
        self.ask(Work::Add(adds), |found| match found {
            Found::Counters(counters) => Some(counters),
            _ => None,
        })
    }

    fn push(&self, list: &str, records: Records, limit: ListLimit) -> Waiting<'_, PushOutcome> {
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
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        *copies = None;
        drop(copies);
        Box::pin(async move {
            for asks in [&self.reads, &self.writes] {
                match send(asks, Work::Close).await {
                    // Closed before: that is what was asked for.
                    Ok(_) | Err(StoreError::Closed) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }
}

async fn send(asks: &mpsc::Sender<Ask>, work: Work) -> Result<Found, StoreError> {
    let (answer, receiver) = oneshot::channel();
    asks.send(Ask { work, answer })
        .await
        .map_err(|_| StoreError::Closed)?;
    receiver.await.map_err(|_| StoreError::Closed)?
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
        .map_err(|error| StoreError::Unusable(format!("no thread for the store: {error}")))
}

#[cfg(test)]
mod tests;
