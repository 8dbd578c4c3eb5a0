//! The node's directory of limiters.
//!
//! Looked into when a session is loaded, never per request: the session holds its cells. What no
//! session holds any more is dropped after ten minutes.

#![allow(
    clippy::disallowed_types,
    reason = "looked into when a session is loaded; held for one look-up, or for a pass over a \
              thousandth of the cells"
)]

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use ahash::RandomState;
use tokio::sync::mpsc;

use crate::{
    limit::{
        Outlook, QuotaCell, RateCell, Settings, SmoothingRule, Work, rate::SHARED_BY_STRANGERS,
    },
    session::ApiLimit,
};

/// A rate limit as a session or an API has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// Requests per window; zero or less for no limit.
    pub rate: f64,
    /// Seconds.
    pub per: f64,
    pub smoothing: Option<SmoothingRule>,
}

/// A quota as a session or an API limit has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaLimit {
    /// Zero or less for none.
    pub max: i64,
    /// Zero or less for a quota that is never renewed.
    pub renewal_s: i64,
    /// `quota_renews`: seconds since 1970.
    pub renews_at_s: i64,
}

impl RateLimit {
    /// The rate limit of a session, or of one of its APIs.
    #[must_use]
    pub fn from_session(limit: &ApiLimit) -> Self {
        Self {
            rate: limit.rate,
            per: limit.per,
            smoothing: limit
                .smoothing
                .as_ref()
                .and_then(SmoothingRule::from_session),
        }
    }
}

impl QuotaLimit {
    /// The quota of a session, or of one of its APIs.
    #[must_use]
    pub const fn from_session(limit: &ApiLimit) -> Self {
        Self {
            max: limit.quota_max,
            renewal_s: limit.quota_renewal_rate,
            renews_at_s: limit.quota_renews,
        }
    }
}

/// All limiters of this node.
pub struct Cells {
    rates: Directory<RateCell>,
    quotas: Directory<QuotaCell>,
    outlook: Arc<Outlook>,
}

/// Refills that may wait for the reconciler; more are asked for again.
const WORK_MAX: usize = 8_192;

/// Renewals that may wait to be written down; the others are found later.
const RENEWALS_MAX: usize = 16_384;

/// A cell that nobody holds is dropped after so long (Tyk: buckets after ten minutes without use).
const IDLE_MS: u64 = 600_000;

impl Cells {
    /// An empty directory, and the end at which the [`Reconciler`](super::Reconciler) gets work.
    #[must_use]
    pub fn new(settings: Settings) -> (Arc<Self>, mpsc::Receiver<Work>) {
        let (sender, receiver) = mpsc::channel(WORK_MAX);
        let cells = Self {
            rates: Directory::new(settings.cells_max),
            quotas: Directory::new(settings.cells_max),
            outlook: Arc::new(Outlook::new(settings, sender)),
        };
        (Arc::new(cells), receiver)
    }

    /// How many nodes share the limits, and whether the store answers.
    #[must_use]
    pub fn outlook(&self) -> &Arc<Outlook> {
        &self.outlook
    }

    /// The limiter called `name` (see [`rate_limit_key`](crate::session::rate_limit_key)). A limiter with another
    /// `generation` (Tyk: `last_updated` of the session) or another limit counts anew; one without
    /// generation (Tyk: custom keys) keeps the limit that it was made with. `None` when there is
    /// nothing to limit.
    #[must_use]
    pub fn rate(&self, name: &str, generation: &str, limit: &RateLimit) -> Option<Arc<RateCell>> {
        let mut key = String::with_capacity(name.len() + generation.len() + 24);
        key.push_str(name);
        if !generation.is_empty() {
            key.push_str(&format!("\n{generation}\n{}/{}", limit.rate, limit.per));
        }
        let make = |name: &str| RateCell::new(name, limit, Arc::clone(&self.outlook));
        match self.rates.find(&key) {
            Some(cell) => Some(cell),
            None if self.rates.is_full() => {
                // Strangers share a cell: each may get less than its limit, nobody more.
                let slot = self.rates.hash(&key) % SHARED_CELLS;
                let key = format!("\nshared\n{slot}\n{}/{}", limit.rate, limit.per);
                self.rates
                    .insert(key, || make(&format!("{name}{SHARED_BY_STRANGERS}")))
            }
            None => self.rates.insert(key, || make(name)),
        }
    }

    /// The quota with this counter (see [`quota_key`](crate::session::quota_key)). A changed limit makes
    /// a new cell, which finds the counter where it is. `None` when there is none.
    #[must_use]
    pub fn quota(&self, name: &str, limit: &QuotaLimit) -> Option<Arc<QuotaCell>> {
        let make = || QuotaCell::new(name, limit, Arc::clone(&self.outlook));
        match self.quotas.find(name) {
            Some(cell) if cell.is_for(limit) => Some(cell),
            Some(old) => {
                let cell = Arc::new(make()?);
                self.quotas.replace(name, Arc::clone(&cell));
                // The units of the old cell are this key's, too.
                let _ = self.outlook.post(Work::Return(old));
                Some(cell)
            }
            // The counter is in the store: a cell of one session is as exact, only slower.
            None if self.quotas.is_full() => make().map(Arc::new),
            None => self.quotas.insert(name.to_owned(), make),
        }
    }

    /// Quotas whose period begins, from now on, for the first who asks.
    #[must_use]
    pub fn renewals(&self) -> mpsc::Receiver<Arc<QuotaCell>> {
        let (sender, receiver) = mpsc::channel(RENEWALS_MAX);
        let _ = self.outlook.renewals.set(sender);
        receiver
    }

    /// Tells that the counter of a quota was reset. Takes effect on this node at once, on others
    /// within a second.
    pub fn forget_quota(&self, name: &str) {
        if let Some(cell) = self.quotas.find(name) {
            cell.forget();
        }
    }

    /// Units that this node has reserved in a quota's counter and not used.
    #[must_use]
    pub fn unused(&self, quota_name: &str) -> i64 {
        self.quotas.find(quota_name).map_or(0, |cell| cell.unused())
    }

    /// Cells of rate limits and of quotas.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.rates.len(), self.quotas.len())
    }

    /// Drops what nobody has held for ten minutes; when the directory was full, everything that
    /// nobody holds and that has nothing left to remember. Dropped quotas with units in stock come
    /// back, and those whose units nobody has used since the last time.
    pub(super) fn sweep(&self, now_ms: u64) -> Vec<Arc<QuotaCell>> {
        let unmoved = RefCell::new(Vec::new());
        let mut dropped = Vec::new();
        self.rates.sweep(
            |cell, is_crowded| {
                is_idle(&cell.idle_since_ms, now_ms) || is_crowded && cell.is_over(now_ms)
            },
            |cell| cell.idle_since_ms.store(0, Relaxed),
            |_| {},
        );
        self.quotas.sweep(
            |cell, is_crowded| {
                is_idle(&cell.idle_since_ms, now_ms) || is_crowded && cell.is_over(now_ms)
            },
            |cell| {
                cell.idle_since_ms.store(0, Relaxed);
                if cell.is_unmoved() {
                    unmoved.borrow_mut().push(Arc::clone(cell));
                }
            },
            |cell| {
                if cell.unused() > 0 {
                    dropped.push(cell);
                }
            },
        );
        dropped.append(&mut unmoved.into_inner());
        dropped
    }

    /// Whether somebody found the directory full since the last sweep.
    pub(super) fn is_crowded(&self) -> bool {
        self.rates.crowded.load(Relaxed) || self.quotas.crowded.load(Relaxed)
    }

    /// All quotas.
    pub(super) fn quota_cells(&self) -> Vec<Arc<QuotaCell>> {
        self.quotas.all()
    }
}

/// Cells that limiters share for which there is no room.
const SHARED_CELLS: u64 = 256;

/// Notes when a cell was first seen without a holder; whether that is ten minutes ago.
fn is_idle(since_ms: &AtomicU64, now_ms: u64) -> bool {
    match since_ms.load(Relaxed) {
        0 => {
            since_ms.store(now_ms.max(1), Relaxed);
            false
        }
        since_ms => now_ms >= since_ms + IDLE_MS,
    }
}

/// Names to cells. Striped, so that a pass over it never holds up a shard for long.
struct Directory<C> {
    stripes: Box<[Stripe<C>]>,
    random: RandomState,
    len: AtomicUsize,
    max: usize,
    crowded: AtomicBool,
}

type Stripe<C> = RwLock<HashMap<Box<str>, Arc<C>, RandomState>>;

const STRIPES: usize = 1_024;

impl<C> Directory<C> {
    fn new(max: usize) -> Self {
        let random = RandomState::new();
        Self {
            stripes: (0..STRIPES)
                .map(|_| RwLock::new(HashMap::with_hasher(random.clone())))
                .collect(),
            random,
            len: AtomicUsize::new(0),
            max,
            crowded: AtomicBool::new(false),
        }
    }

    fn hash(&self, key: &str) -> u64 {
        self.random.hash_one(key)
    }

    #[allow(clippy::indexing_slicing, reason = "a remainder of the length")]
    fn stripe(&self, key: &str) -> &Stripe<C> {
        // Upper bits: the table inside uses the lower ones.
        &self.stripes[(self.hash(key) >> 48) as usize % STRIPES]
    }

    fn find(&self, key: &str) -> Option<Arc<C>> {
        let cells = self.stripe(key).read();
        let cells = cells.unwrap_or_else(PoisonError::into_inner);
        cells.get(key).cloned()
    }

    /// The cell of that key, made unless another thread was faster.
    fn insert(&self, key: String, make: impl FnOnce() -> Option<C>) -> Option<Arc<C>> {
        if let Some(cell) = self.find(&key) {
            return Some(cell);
        }
        let made = Arc::new(make()?);
        let cells = self.stripe(&key).write();
        let mut cells = cells.unwrap_or_else(PoisonError::into_inner);
        let cell = cells.entry(key.into_boxed_str()).or_insert_with(|| {
            self.len.fetch_add(1, Relaxed);
            made
        });
        Some(Arc::clone(cell))
    }

    fn replace(&self, key: &str, cell: Arc<C>) {
        let cells = self.stripe(key).write();
        let mut cells = cells.unwrap_or_else(PoisonError::into_inner);
        if cells.insert(key.into(), cell).is_none() {
            self.len.fetch_add(1, Relaxed);
        }
    }

    fn is_full(&self) -> bool {
        let is_full = self.len() >= self.max;
        if is_full {
            self.crowded.store(true, Relaxed);
        }
        is_full
    }

    fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Drops cells without holder for which `is_done` holds; `held` sees those with one.
    fn sweep(
        &self,
        is_done: impl Fn(&C, bool) -> bool,
        held: impl Fn(&Arc<C>),
        mut dropped: impl FnMut(Arc<C>),
    ) {
        let is_crowded = self.crowded.swap(false, Relaxed);
        for stripe in &self.stripes {
            let mut cells = stripe.write().unwrap_or_else(PoisonError::into_inner);
            // Nobody can get hold of a cell meanwhile.
            let leaving = cells.extract_if(|_, cell| {
                if Arc::strong_count(cell) > 1 {
                    held(cell);
                    return false;
                }
                is_done(cell, is_crowded)
            });
            let leaving: Vec<_> = leaving.map(|(_, cell)| cell).collect();
            self.len.fetch_sub(leaving.len(), Relaxed);
            drop(cells);
            leaving.into_iter().for_each(&mut dropped);
        }
    }

    fn all(&self) -> Vec<Arc<C>> {
        let mut all = Vec::with_capacity(self.len());
        for stripe in &self.stripes {
            let cells = stripe.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(cells.values().cloned());
        }
        all
    }
}
