//! One request against its limits: the cell decides, or the store is asked, over a connection of
//! the shard's own or else through the reconciler.

use std::{sync::Arc, time::Duration};

use crate::{
    exchange::direct::Direct,
    limit::{
        ASK_MAX_MS, Answer, Cells, Question, QuotaCell, QuotaTaken, RateCell, Taken, Throttle,
        Throttled,
    },
    mailbox::Line,
    metrics,
    net::{
        io,
        watch::{Clock, TICK_MS, process_ms},
    },
};

/// The shard's way to limiters that need to ask.
pub struct Limiters {
    line: Line<Question, Answer>,
    /// The shard's own connection, where the store is one that shards may ask.
    direct: Option<Direct>,
    pub cells: Arc<Cells>,
    metrics: Arc<metrics::Shard>,
}

impl Limiters {
    #[must_use]
    pub const fn new(
        line: Line<Question, Answer>,
        direct: Option<Direct>,
        cells: Arc<Cells>,
        metrics: Arc<metrics::Shard>,
    ) -> Self {
        Self {
            line,
            direct,
            cells,
            metrics,
        }
    }

    #[must_use]
    pub const fn line(&self) -> &Line<Question, Answer> {
        &self.line
    }

    #[must_use]
    pub const fn direct(&self) -> Option<&Direct> {
        self.direct.as_ref()
    }

    /// Whether a request is within a rate limit. One that is not waits and tries again as
    /// `throttle` says.
    pub async fn admits(
        &self,
        cell: &Arc<RateCell>,
        mut throttle: Option<Throttle>,
        clock: &Clock,
    ) -> bool {
        loop {
            let now_ms = process_ms();
            let taken = match cell.take(now_ms) {
                Taken::Ask => self.ask_rate(cell, now_ms, clock).await,
                taken => taken,
            };
            if taken == Taken::Admitted {
                return true;
            }
            match throttle.as_mut().map(Throttle::refused) {
                Some(Throttled::Wait { ms }) => {
                    self.metrics.throttled.count();
                    io::sleep(Duration::from_millis(ms)).await;
                }
                Some(Throttled::Refuse) | None => return false,
            }
        }
    }

    /// Counts a request in a quota.
    pub async fn count(&self, cell: &Arc<QuotaCell>, clock: &Clock) -> QuotaTaken {
        let now_ms = process_ms();
        let taken = cell.take(now_ms);
        if taken.taken != Taken::Ask {
            return taken;
        }
        let question = Question::Quota {
            cell: Arc::clone(cell),
            at_ms: now_ms,
        };
        let waiting = cell.wait();
        match self.ask(question, clock).await {
            Some(Answer::Quota(taken)) => taken,
            _ => {
                drop(waiting);
                self.metrics.limit_local.count();
                cell.fallback(process_ms())
            }
        }
    }

    #[cold]
    async fn ask_rate(&self, cell: &Arc<RateCell>, at_ms: u64, clock: &Clock) -> Taken {
        let question = Question::Rate {
            cell: Arc::clone(cell),
            at_ms,
        };
        match self.ask(question, clock).await {
            Some(Answer::Rate(taken)) => taken,
            _ => {
                self.metrics.limit_local.count();
                cell.fallback(process_ms())
            }
        }
    }

    /// Either way keeps the time: it answers within its deadline, also when the store does not.
    async fn ask(&self, mut question: Question, clock: &Clock) -> Option<Answer> {
        self.metrics.limit_asks.count();
        if let Some(direct) = &self.direct {
            match direct.ask(question).await {
                Ok(answer) => {
                    self.metrics.limit_asks_direct.count();
                    return Some(answer);
                }
                Err(unasked) => question = unasked,
            }
        }
        let at_most_ms = clock.now_ms() + ASK_MAX_MS + TICK_MS;
        self.line.ask(question, at_most_ms).await.ok()
    }
}
