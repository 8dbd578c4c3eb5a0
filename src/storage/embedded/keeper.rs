//! The thread that owns the embedded store's file.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use redb::Database;
use tokio::sync::mpsc;

use crate::storage::{
    StoreError,
    embedded::{Ask, Found, Work, file, tables},
};

/// Questions that share a transaction.
const BATCH_MAX: usize = 512;

pub(super) struct Keeper {
    path: PathBuf,
    /// `None` after a failure, until the next batch.
    database: Option<Database>,
}

impl Keeper {
    pub(super) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let database = Some(file::open(&path)?);
        Ok(Self { path, database })
    }

    /// Answers until closed, or until nobody can ask any more.
    pub(super) fn run(&mut self, mut asks: mpsc::Receiver<Ask>) {
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
            None => file::open(&self.path).map_err(|error| error.to_string())?,
        };
        let database = self.database.insert(database);
        let now_ms = now_ms();
        if batch.iter().any(|work| tables::is_write(work)) {
            tables::write(database, batch, now_ms).map_err(|error| error.to_string())
        } else {
            tables::read(database, batch, now_ms).map_err(|error| error.to_string())
        }
    }
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
