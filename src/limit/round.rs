//! Questions that are asked together, and what their answers mean for those who wait: without IO,
//! for the [`Reconciler`](super::Reconciler) and for shards with a connection of their own.
//!
//! Requests that wait for the same limiter are one run of its script.

use std::{collections::HashMap, ops::Range, sync::Arc};

use crate::{
    limit::{
        Answer, Outlook, Question, QuotaCell, RateCell, Taken, Work, quota::QuotaPlan,
        rate::RatePlan,
    },
    storage::{Eval, ScriptReply, StoreError},
};

/// Questions, by limiter. `W` is who waits for an answer.
pub struct Batch<W> {
    pub(super) rates: Vec<Waiting<RateCell, W>>,
    pub(super) quotas: Vec<Waiting<QuotaCell, W>>,
    /// Where a cell stands in its list, by address.
    places: HashMap<usize, usize, ahash::RandomState>,
}

pub(super) struct Waiting<C, W> {
    pub(super) cell: Arc<C>,
    /// When the first of them came.
    pub(super) at_ms: u64,
    pub(super) who: Vec<W>,
}

impl<W> Default for Batch<W> {
    fn default() -> Self {
        Self {
            rates: Vec::new(),
            quotas: Vec::new(),
            places: HashMap::default(),
        }
    }
}

impl<W> Batch<W> {
    /// Adds a question, and who asks.
    pub fn ask(&mut self, question: Question, who: W) {
        match question {
            Question::Rate { cell, at_ms } => self.rate(cell, at_ms, Some(who)),
            Question::Quota { cell, at_ms } => self.quota(cell, at_ms, Some(who)),
        }
    }

    /// Asks for a limiter; for a refill, if nobody waits.
    pub(super) fn rate(&mut self, cell: Arc<RateCell>, at_ms: u64, who: Option<W>) {
        file(&mut self.rates, &mut self.places, cell, at_ms, who);
    }

    /// As [`Batch::rate`].
    pub(super) fn quota(&mut self, cell: Arc<QuotaCell>, at_ms: u64, who: Option<W>) {
        file(&mut self.quotas, &mut self.places, cell, at_ms, who);
    }

    /// Nobody can be asked: everybody decides alone.
    pub fn give_up(self, mut tell: impl FnMut(W, Answer)) {
        let rates = self.rates.into_iter().flat_map(|waiting| waiting.who);
        let quotas = self.quotas.into_iter().flat_map(|waiting| waiting.who);
        rates
            .chain(quotas)
            .for_each(|who| tell(who, Answer::Unknown));
    }

    /// What to run in the store, in order.
    #[must_use]
    pub fn plan(self, outlook: &Outlook) -> (Round<W>, Vec<Eval>) {
        let wall_ns = (outlook.settings.wall_ns)();
        let mut evals = Vec::with_capacity(self.rates.len() + self.quotas.len());
        let rates = self.rates.into_iter().map(|waiting| {
            let from = evals.len();
            let asks = waiting.who.len() as u64;
            let plan = waiting.cell.plan(asks, waiting.at_ms, wall_ns, &mut evals);
            (waiting, (plan, from..evals.len()))
        });
        let rates = rates.collect();
        let quotas = self.quotas.into_iter().map(|waiting| {
            let asks = waiting.who.len() as u64;
            let plan = waiting.cell.plan(asks, waiting.at_ms, wall_ns);
            evals.push(waiting.cell.eval(&plan));
            (waiting, plan, evals.len() - 1)
        });
        let quotas = quotas.collect();
        let round = Round {
            rates,
            quotas,
            is_late: false,
        };
        (round, evals)
    }
}

type Planned = (Option<RatePlan>, Range<usize>);

/// Puts a cell into its list, or another request to the cell that is there.
fn file<C, W>(
    list: &mut Vec<Waiting<C, W>>,
    places: &mut HashMap<usize, usize, ahash::RandomState>,
    cell: Arc<C>,
    at_ms: u64,
    who: Option<W>,
) {
    let place = *places
        .entry(Arc::as_ptr(&cell).addr())
        .or_insert(list.len());
    match list.get_mut(place) {
        Some(waiting) => {
            waiting.at_ms = waiting.at_ms.min(at_ms);
            waiting.who.extend(who);
        }
        None => list.push(Waiting {
            cell,
            at_ms,
            who: who.into_iter().collect(),
        }),
    }
}

/// What was asked and is not answered. With each limiter stands which of the answers are its own.
pub struct Round<W> {
    rates: Vec<(Waiting<RateCell, W>, Planned)>,
    quotas: Vec<(Waiting<QuotaCell, W>, QuotaPlan, usize)>,
    is_late: bool,
}

impl<W> Round<W> {
    /// The answers do not come in time: nobody waits any longer. What the store counts for them is
    /// kept for others.
    pub fn give_up(&mut self, outlook: &Outlook, mut tell: impl FnMut(W, Answer)) {
        if self.is_late {
            return;
        }
        self.is_late = true;
        outlook.miss();
        let rates = self.rates.iter_mut().flat_map(|(w, ..)| w.who.drain(..));
        let quotas = self.quotas.iter_mut().flat_map(|(w, ..)| w.who.drain(..));
        rates
            .chain(quotas)
            .for_each(|who| tell(who, Answer::Unknown));
    }

    /// Whether it was given up.
    #[must_use]
    pub const fn is_late(&self) -> bool {
        self.is_late
    }

    /// Tells everybody who waits. `replies` are those to [`Batch::plan`], in order; those that are
    /// missing will not come. What is left to do, without anybody waiting, comes back.
    #[must_use]
    pub fn settle(
        self,
        replies: &[Result<ScriptReply, StoreError>],
        outlook: &Outlook,
        mut tell: impl FnMut(W, Answer),
    ) -> Vec<Work> {
        let mut work = Vec::new();
        for (waiting, (plan, range)) in self.rates {
            let replies = replies.get(range).unwrap_or_default();
            settle_rate(waiting, plan, replies, &mut work, &mut tell);
        }
        for (waiting, plan, at) in self.quotas {
            let reply = replies.get(at).and_then(|reply| reply.as_ref().ok());
            settle_quota(waiting, &plan, reply, self.is_late, outlook, &mut tell);
        }
        work
    }
}

fn settle_rate<W>(
    waiting: Waiting<RateCell, W>,
    plan: Option<RatePlan>,
    replies: &[Result<ScriptReply, StoreError>],
    work: &mut Vec<Work>,
    tell: &mut impl FnMut(W, Answer),
) {
    let settled = plan.and_then(|plan| waiting.cell.settle(&plan, replies));
    let Some(settled) = settled else {
        for who in waiting.who {
            tell(who, Answer::Unknown);
        }
        return;
    };
    for (number, who) in waiting.who.into_iter().enumerate() {
        let taken = if (number as u64) < settled.admitted {
            Taken::Admitted
        } else {
            Taken::Denied {
                retry_at_ms: settled.retry_at_ms,
            }
        };
        tell(who, Answer::Rate(taken));
    }
    work.extend(settled.mark.map(Work::Mark));
    if let (Some(count), Some(allowance)) = (settled.smooth, waiting.cell.allowance())
        && allowance.is_due(waiting.at_ms)
    {
        work.push(Work::Smooth {
            cell: waiting.cell,
            count,
            at_ms: waiting.at_ms,
        });
    }
}

fn settle_quota<W>(
    waiting: Waiting<QuotaCell, W>,
    plan: &QuotaPlan,
    reply: Option<&ScriptReply>,
    is_late: bool,
    outlook: &Outlook,
    tell: &mut impl FnMut(W, Answer),
) {
    let Some(settled) = reply.and_then(|reply| waiting.cell.settle(plan, reply)) else {
        if reply.is_some() {
            outlook.miss();
        }
        waiting.cell.failed(plan);
        for who in waiting.who {
            tell(who, Answer::Unknown);
        }
        return;
    };
    if is_late {
        waiting.cell.keep(settled.admitted);
    }
    if settled.is_renewed {
        outlook.renewed(&waiting.cell);
    }
    for (number, who) in waiting.who.into_iter().enumerate() {
        tell(who, Answer::Quota(settled.answer(number as u64)));
    }
}
