//! The threads of the embedded store: one writes, one reads, one makes copies.
//!
//! Readers never wait for a commit. Whatever fails inside, a panic included, costs the questions of
//! one batch; the file is then opened anew, at first at once, later after pauses, and is checked
//! first when it may be damaged.

#![allow(
    clippy::disallowed_types,
    reason = "held for a few instructions by threads of their own, which serve no connection"
)]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redb::Database;
use tokio::{sync::mpsc, time::Instant};

use crate::storage::{
    StoreError,
    embedded::{
        Ask, Found, Work,
        file::{self, Fault},
        tables,
    },
};

/// Questions that share a transaction.
const BATCH_MAX: usize = 512;

/// Between a failure and the next attempt to open the file, doubling with each failure in a row.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// The open file, and what its users tell one another.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    held: Mutex<Held>,
    /// Held while a copy is read from the file.
    copying: Mutex<()>,
    /// Commits that changed something worth a copy.
    pub(super) changes: AtomicU64,
    /// Long work should end: the file is being closed.
    is_leaving: AtomicBool,
    is_closing: AtomicBool,
}

#[derive(Default)]
struct Held {
    /// `None` after a failure, until somebody asks.
    database: Option<Arc<Database>>,
    /// What was open before; it has to be let go by all before the file can be opened again.
    former: Weak<Database>,
    failures: u32,
    failed_at: Option<Instant>,
    why: String,
}

impl Shared {
    pub(super) fn open(path: PathBuf) -> Result<Arc<Self>, StoreError> {
        let database = Some(Arc::new(file::open(&path)?));
        Ok(Arc::new(Self {
            path,
            held: Mutex::new(Held {
                database,
                ..Held::default()
            }),
            copying: Mutex::new(()),
            changes: AtomicU64::new(0),
            is_leaving: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
        }))
    }

    /// The open file; opens it after a failure.
    ///
    /// # Errors
    /// In words, as long as it cannot be opened.
    pub(super) fn database(&self) -> Result<Arc<Database>, String> {
        let mut held = self.held();
        if let Some(database) = &held.database {
            return Ok(Arc::clone(database));
        }
        let pause = PAUSE_MIN * 2_u32.saturating_pow(held.failures.saturating_sub(1).min(16));
        let is_early = held
            .failed_at
            .is_some_and(|at| at.elapsed() < pause.min(PAUSE_MAX) && held.failures > 1);
        if self.is_closing() || is_early || held.former.strong_count() > 0 {
            return Err(held.why.clone());
        }
        match file::open(&self.path) {
            Ok(database) => {
                let database = Arc::new(database);
                held.database = Some(Arc::clone(&database));
                self.is_leaving.store(false, Relaxed);
                Ok(database)
            }
            Err(error) => {
                held.failures = held.failures.saturating_add(1);
                held.failed_at = Some(Instant::now());
                held.why = error.to_string();
                Err(held.why.clone())
            }
        }
    }

    /// Has the file opened anew: after a failure the library refuses everything.
    fn give_up(&self, failed: Arc<Database>, fault: &Fault) -> String {
        let why = fault.describe(&self.path);
        let mut held = self.held();
        if held
            .database
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, &failed))
        {
            tracing::error!(prefix = "storage", "{why}");
            if matches!(fault, Fault::Damaged(_)) {
                file::suspect(&self.path);
            }
            self.is_leaving.store(true, Relaxed);
            held.former = Arc::downgrade(&failed);
            held.failures = held.failures.saturating_add(1);
            held.failed_at = Some(Instant::now());
            held.why.clone_from(&why);
            held.database = None;
        }
        drop(held);
        // The last one closes it, which may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(failed)));
        why
    }

    /// Has the file checked, by opening it anew.
    pub(super) fn doubt(&self) {
        let database = self.held().database.clone();
        if let Some(database) = database {
            self.give_up(
                database,
                &Fault::Damaged("found while copying it".to_owned()),
            );
        }
    }

    fn went_well(&self) {
        let mut held = self.held();
        held.failures = 0;
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Relaxed)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Relaxed)
    }

    fn close(&self) {
        self.is_closing.store(true, Relaxed);
        self.is_leaving.store(true, Relaxed);
    }

    /// For as long as the file is read for a copy: it is not closed meanwhile.
    pub(super) fn copying(&self) -> MutexGuard<'_, ()> {
        self.copying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the file. Who makes a copy stops soon.
    fn let_go(&self) {
        let _copied = self.copying();
        let database = self.held().database.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a batch in one transaction, in order, so that a read sees the writes before it.
    fn work(&self, batch: &[&Work]) -> Result<Vec<Found>, String> {
        let database = self.database()?;
        let now_ms = now_ms();
        let is_writing = batch.iter().any(|work| tables::is_write(work));
        let done = file::guarded(|| {
            Ok(match is_writing {
                true => tables::write(&database, batch, now_ms)?,
                false => tables::read(&database, batch, now_ms)?,
            })
        });
        match done {
            Ok(found) => {
                self.went_well();
                if batch.iter().any(|work| tables::is_worth_a_copy(work)) {
                    self.changes.fetch_add(1, Relaxed);
                }
                Ok(found)
            }
            Err(fault) => Err(self.give_up(database, &fault)),
        }
    }
}

/// Answers until closed, or until nobody can ask any more.
pub(super) fn run(shared: &Shared, mut asks: mpsc::Receiver<Ask>) -> Option<Ask> {
    let mut batch = Vec::new();
    while asks.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        let mut closing = None;
        if let Some(at) = batch.iter().position(|ask| matches!(ask.work, Work::Close)) {
            // What stands behind a close is dropped, which answers it with `Closed`.
            batch.truncate(at + 1);
            closing = batch.pop();
            asks.close();
        }
        answer(shared, &mut batch);
        if closing.is_some() {
            return closing;
        }
    }
    None
}

/// As [`run`]; closes the file before it answers to a close, since whoever asked may open it at
/// once. The reader has ended before.
pub(super) fn run_writer(shared: &Shared, asks: mpsc::Receiver<Ask>) {
    let closing = run(shared, asks);
    shared.close();
    shared.let_go();
    if let Some(closing) = closing {
        let _ = closing.answer.send(Ok(Found::Done));
    }
}

fn answer(shared: &Shared, batch: &mut Vec<Ask>) {
    if batch.is_empty() {
        return;
    }
    let work: Vec<_> = batch.iter().map(|ask| &ask.work).collect();
    match shared.work(&work) {
        Ok(found) => {
            for (ask, found) in batch.drain(..).zip(found) {
                let _ = ask.answer.send(Ok(found));
            }
        }
        Err(why) => {
            let error = StoreError::Away(why);
            for ask in batch.drain(..) {
                let _ = ask.answer.send(Err(error.clone()));
            }
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
