//! The task on tokio's side that asks the store for all limiters of the node.
//!
//! What waits becomes one pipelined question ([`Round`](super::Round)). Several questions are under way at once, so that one slow answer holds up nobody
//! else; the embedded store gets one at a time, which is one commit, and keeps their order.

use std::{pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, timeout},
};

use crate::{
    limit::{
        Batch, Cells, Outlook, QuotaCell, QuotaTaken, RateCell, Taken,
        rate::{Mark, eval},
        scripts, smoothing,
    },
    mailbox::{Desk, Reply},
    session::Date,
    storage::{Add, Eval, ScriptReply, Scripts, Store, StoreError},
};

/// What cells want done without anybody waiting. The time is the one given to `take`.
pub enum Work {
    /// More credits.
    Rate(Arc<RateCell>, u64),
    /// A block of units.
    Quota(Arc<QuotaCell>, u64),
    /// Units that this cell has and nobody will use.
    Return(Arc<QuotaCell>),
    /// A limiter is exceeded.
    Mark(Mark),
    /// A smoothed limit, whose turn it is to move, had so many requests in its window.
    Smooth {
        cell: Arc<RateCell>,
        count: u64,
        at_ms: u64,
    },
}

/// A request that was told to ask. `at_ms` is the time given to `take`.
pub enum Question {
    Rate { cell: Arc<RateCell>, at_ms: u64 },
    Quota { cell: Arc<QuotaCell>, at_ms: u64 },
}

/// What it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Never [`Taken::Ask`].
    Rate(Taken),
    Quota(QuotaTaken),
    /// The store did not say: the cell's `fallback` decides.
    Unknown,
}

/// How the store is reached at the moment.
pub type StoreSource = Arc<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// The task. Ends when every shard is gone.
pub struct Reconciler {
    cells: Arc<Cells>,
    work: mpsc::Receiver<Work>,
    store: StoreSource,
    /// The clock that `take` is given.
    now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// Questions of shards that become one question to the store.
const BATCH_MAX: usize = 256;

/// Questions to a shared store under way.
const BATCHES_MAX: usize = 32;

/// After that long nobody is there any more whom an answer would help.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// How often a store that is away is probed.
const PROBE: Duration = Duration::from_millis(250);

/// Between two passes over the directory, in probes.
const SWEEP_PROBES: u32 = 240;

impl Reconciler {
    #[must_use]
    pub fn new(
        cells: Arc<Cells>,
        work: mpsc::Receiver<Work>,
        store: StoreSource,
        now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> Self {
        Self {
            cells,
            work,
            store,
            now_ms,
        }
    }

    /// Answers until every shard is gone. `read` and `write` turn the mailbox's words into this
    /// module's.
    pub async fn run<Q, A>(
        mut self,
        mut desk: Desk<Q, A>,
        read: fn(Q) -> Question,
        write: fn(Answer) -> A,
    ) where
        Q: Send + 'static,
        A: Send + 'static,
    {
        let is_shared = self.cells.outlook().settings.is_shared;
        let slots = Arc::new(Semaphore::new(if is_shared { BATCHES_MAX } else { 1 }));
        let mut ticks = tokio::time::interval(PROBE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick_count = 0;
        let (mut questions, mut work) = (Vec::new(), Vec::new());
        loop {
            // Closing the semaphore is not in the program.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    tick_count += 1;
                    self.tick(tick_count);
                    continue;
                }
                count = desk.recv_batch(&mut questions, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                }
                _ = self.work.recv_many(&mut work, BATCH_MAX) => {}
            }
            while work.len() < BATCH_MAX
                && let Ok(more) = self.work.try_recv()
            {
                work.push(more);
            }
            let mut load = Load::default();
            for question in questions.drain(..) {
                load.batch.ask(read(question.payload), question.reply);
            }
            for work in work.drain(..) {
                load.take(work);
            }
            let store = (self.store)();
            let outlook = Arc::clone(self.cells.outlook());
            let now_ms = (self.now_ms)();
            // A panic in there drops the replies, which tells the shards.
            tokio::spawn(async move {
                load.run(store, &outlook, now_ms, slot, write).await;
            });
        }
    }

    fn tick(&self, count: u32) {
        let outlook = self.cells.outlook();
        if outlook.is_away() {
            let (store, outlook) = (Arc::clone(&self.store), Arc::clone(outlook));
            tokio::spawn(async move { probe(&store, &outlook).await });
        }
        let is_crowded = self.cells.is_crowded() && count.is_multiple_of(4);
        if is_crowded || count.is_multiple_of(SWEEP_PROBES) {
            let (cells, store) = (Arc::clone(&self.cells), Arc::clone(&self.store));
            let now_ms = (self.now_ms)();
            tokio::spawn(async move {
                let dropped = cells.sweep(now_ms);
                give_back(&dropped, &store, now_ms).await;
            });
        }
    }
}

/// Gives all reserved units back, before the store is handed over or this process ends. Requests
/// that come afterwards reserve anew, so shards should have stopped.
pub async fn release(cells: &Cells, store: &StoreSource, now_ms: u64) {
    give_back(&cells.quota_cells(), store, now_ms).await;
}

/// Takes out what counters have not heard of yet: requests that were admitted without a unit, less
/// the units that nobody used. For a process that handed its store over before its last request.
#[must_use]
pub fn take_unsettled(cells: &Cells, now_ms: u64) -> Vec<Add> {
    let quotas = cells.quota_cells();
    let unsettled = quotas.iter().filter_map(|cell| cell.take_unsettled(now_ms));
    unsettled.collect()
}

async fn probe(store: &StoreSource, outlook: &Outlook) {
    let Ok(store) = store() else {
        return;
    };
    let started = Instant::now();
    if let Ok(Ok(())) = timeout(ANSWER_MAX, store.probe()).await {
        outlook.answered(micros(started));
    }
}

async fn give_back(quotas: &[Arc<QuotaCell>], store: &StoreSource, now_ms: u64) {
    let Ok(store) = store() else {
        return;
    };
    let (mut evals, mut adds) = (Vec::new(), Vec::new());
    for cell in quotas {
        let is_current = cell.is_current(now_ms);
        let Some((units, eval)) = cell.plan_back() else {
            continue;
        };
        evals.push(eval);
        // Alone with its store, a node's own clock says whether the period is the same.
        if is_current {
            adds.push(Add {
                key: cell.name().to_owned(),
                by: -units,
                ttl: None,
            });
        }
    }
    if evals.is_empty() {
        return;
    }
    // Units that cannot be given back stay used: nobody is admitted for them.
    match store.scripts() {
        Some(scripts) => drop(timeout(ANSWER_MAX, scripts.eval_many(evals)).await),
        None => drop(timeout(ANSWER_MAX, store.add(adds)).await),
    }
}

/// Everything that waits to be asked and done.
struct Load<A> {
    batch: Batch<Reply<A>>,
    returns: Vec<Arc<QuotaCell>>,
    marks: Vec<Mark>,
    smooths: Vec<(Arc<RateCell>, u64, u64)>,
}

impl<A> Default for Load<A> {
    fn default() -> Self {
        Self {
            batch: Batch::default(),
            returns: Vec::new(),
            marks: Vec::new(),
            smooths: Vec::new(),
        }
    }
}

impl<A: Send + 'static> Load<A> {
    fn take(&mut self, work: Work) {
        match work {
            Work::Rate(cell, at_ms) => self.batch.rate(cell, at_ms, None),
            Work::Quota(cell, at_ms) => self.batch.quota(cell, at_ms, None),
            Work::Return(cell) => self.returns.push(cell),
            Work::Mark(mark) => self.marks.push(mark),
            Work::Smooth { cell, count, at_ms } => self.smooths.push((cell, count, at_ms)),
        }
    }

    async fn run(
        mut self,
        store: Result<Arc<dyn Store>, StoreError>,
        outlook: &Arc<Outlook>,
        now_ms: u64,
        slot: OwnedSemaphorePermit,
        write: fn(Answer) -> A,
    ) {
        let Ok(store) = store else {
            outlook.lose();
            return self
                .batch
                .give_up(|reply, answer| reply.send(write(answer)));
        };
        let returns = std::mem::take(&mut self.returns);
        if !returns.is_empty() {
            let source: StoreSource = {
                let store = Arc::clone(&store);
                Arc::new(move || Ok(Arc::clone(&store)))
            };
            give_back(&returns, &source, now_ms).await;
        }
        match store.scripts() {
            Some(scripts) => {
                self.run_shared(scripts, &store, outlook, slot, write).await;
            }
            None => {
                run_embedded(self.batch, &*store, outlook, write).await;
                drop(slot);
            }
        }
    }

    /// One round trip for everything. A store that is silent keeps no place that others wait for:
    /// three silences, and nobody asks any more.
    async fn run_shared(
        mut self,
        scripts: &dyn Scripts,
        store: &Arc<dyn Store>,
        outlook: &Arc<Outlook>,
        slot: OwnedSemaphorePermit,
        write: fn(Answer) -> A,
    ) {
        let tell = |reply: Reply<A>, answer| reply.send(write(answer));
        let (mut round, evals) = std::mem::take(&mut self.batch).plan(outlook);
        let deadline = Duration::from_millis(outlook.deadline_ms());
        let mut slot = Some(slot);
        let mut asking = pin!(ask(scripts, outlook, evals));
        // Counted from here and not from the request: a machine that is busy is no store that is
        // away.
        let replies = match timeout(deadline, &mut asking).await {
            Ok(replies) => replies,
            Err(_) => {
                drop(slot.take());
                round.give_up(outlook, tell);
                asking.await
            }
        };
        for work in round.settle(&replies, outlook, tell) {
            self.take(work);
        }
        for (cell, count, at_ms) in self.smooths {
            let (store, outlook) = (Arc::clone(store), Arc::clone(outlook));
            tokio::spawn(async move { smooth(&cell, count, at_ms, &store, &outlook).await });
        }
        if !self.marks.is_empty() {
            let evals = self
                .marks
                .into_iter()
                .map(|Mark { key, per_s }| eval(&scripts::MARK, key, &[per_s as i64]));
            // A mark that cannot be set is set by the next request.
            let _ = timeout(ANSWER_MAX, scripts.eval_many(evals.collect())).await;
        }
    }
}

/// One commit for all quotas; rate limits never ask here.
async fn run_embedded<A>(
    batch: Batch<Reply<A>>,
    store: &dyn Store,
    outlook: &Outlook,
    write: fn(Answer) -> A,
) {
    for waiting in batch.rates {
        for reply in waiting.who {
            reply.send(write(Answer::Unknown));
        }
    }
    let wall_ns = (outlook.settings.wall_ns)();
    let mut quotas: Vec<_> = batch
        .quotas
        .into_iter()
        .map(|waiting| {
            let asks = waiting.who.len() as u64;
            let plan = waiting.cell.plan(asks, waiting.at_ms, wall_ns);
            let add = waiting.cell.add(&plan);
            (waiting, plan, add)
        })
        .collect();
    // A second round is only for counters that had to go first.
    for _ in 0..2 {
        if quotas.is_empty() {
            return;
        }
        let adds = quotas.iter().map(|(_, _, add)| add.clone()).collect();
        let started = Instant::now();
        let Ok(Ok(counters)) = timeout(ANSWER_MAX, store.add(adds)).await else {
            outlook.lose();
            for (waiting, plan, _) in quotas {
                waiting.cell.failed(&plan);
                for reply in waiting.who {
                    reply.send(write(Answer::Unknown));
                }
            }
            return;
        };
        outlook.answered(micros(started));
        let mut again = Vec::new();
        for ((waiting, plan, add), counter) in quotas.into_iter().zip(counters) {
            let settled = waiting.cell.settle_add(&plan, &add, counter);
            if settled.is_stale && store.delete(waiting.cell.name()).await.is_ok() {
                waiting.cell.forget();
                let plan = waiting
                    .cell
                    .plan(waiting.who.len() as u64, waiting.at_ms, wall_ns);
                let add = waiting.cell.add(&plan);
                again.push((waiting, plan, add));
                continue;
            }
            if settled.is_renewed {
                outlook.renewed(&waiting.cell);
            }
            for (number, reply) in waiting.who.into_iter().enumerate() {
                reply.send(write(Answer::Quota(settled.answer(number as u64))));
            }
        }
        quotas = again;
    }
    for (waiting, _, _) in quotas {
        for reply in waiting.who {
            reply.send(write(Answer::Unknown));
        }
    }
}

/// Runs scripts in one round trip; nothing when the store does not answer.
async fn ask(
    scripts: &dyn Scripts,
    outlook: &Outlook,
    evals: Vec<Eval>,
) -> Vec<Result<ScriptReply, StoreError>> {
    if evals.is_empty() {
        return Vec::new();
    }
    let started = Instant::now();
    match timeout(ANSWER_MAX, scripts.eval_many(evals)).await {
        Ok(Ok(replies)) => {
            if replies.iter().any(Result::is_ok) {
                outlook.answered(micros(started));
            } else {
                outlook.miss();
            }
            replies
        }
        _ => {
            outlook.lose();
            Vec::new()
        }
    }
}

/// Moves an allowance: takes over what another node has stored, or steps and stores it.
async fn smooth(
    cell: &RateCell,
    count: u64,
    at_ms: u64,
    store: &Arc<dyn Store>,
    outlook: &Outlook,
) {
    let (Some(allowance), Some(scripts)) = (cell.allowance(), store.scripts()) else {
        return;
    };
    let key = format!("{}-allowance", cell.name());
    let wall_ns = (outlook.settings.wall_ns)();
    let read = eval(&scripts::ALLOWANCE, key.clone(), &[]);
    let stored = ask(scripts, outlook, vec![read]).await;
    if let Some(Ok(ScriptReply::Array(fields))) = stored.first()
        && let [ScriptReply::Bytes(current), ScriptReply::Bytes(next)] = fields.as_slice()
        && let Some(current) = std::str::from_utf8(current)
            .ok()
            .and_then(|text| text.parse().ok())
        && let Some(next_ns) = std::str::from_utf8(next)
            .ok()
            .and_then(smoothing::parse_time)
    {
        let left_ms = next_ns.saturating_sub(wall_ns).max(0) as u64 / 1_000_000;
        allowance.adopt(current, at_ms, left_ms);
        if left_ms > 0 {
            return;
        }
    }
    let event = allowance.step(|least| count >= least);
    cell.tell(event);
    let delay_s = allowance.rule().delay_s;
    let next_ns = wall_ns.saturating_add(delay_s.min(SMOOTHING_S_MAX) as i64 * 1_000_000_000);
    let write = Eval {
        script: &scripts::SET_ALLOWANCE,
        keys: vec![key],
        args: vec![
            delay_s.to_string().into_bytes(),
            allowance.current().to_string().into_bytes(),
            Date::from_unix_ns(next_ns.max(0) as u64).as_str().into(),
        ],
    };
    let _ = ask(scripts, outlook, vec![write]).await;
}

/// A hundred years.
const SMOOTHING_S_MAX: u64 = 100 * 365 * 86_400;

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}
