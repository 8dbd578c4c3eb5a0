//! One quota of this node.
//!
//! The counter in the store is Tyk's (`quota-…`, `RedisQuotaExceeded` in
//! `gateway/session_manager.go`). Large quotas are reserved in blocks ahead of use: a unit is used
//! only after the counter has counted it, so nothing is ever admitted beyond the maximum, and a
//! crash loses the units that were reserved and not used. With the embedded store every quota is
//! reserved that way; small quotas in a shared store are asked for one by one.

#![allow(
    clippy::disallowed_types,
    reason = "held for a few instructions by those whom the stock of units did not serve"
)]

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    limit::{
        QuotaLimit, Taken, Work,
        lease::{Lease, take_up_to},
        outlook::Outlook,
        pace::Pace,
        rate::eval,
        scripts,
    },
    storage::{Add, Counter, Eval, ScriptReply, Ttl},
};

/// Counts the requests under one quota, exactly across all shards.
///
/// All that a request touches which is admitted stands in the first cache line.
#[repr(C, align(64))]
pub struct QuotaCell {
    lease: Lease,
    max: i64,
    /// The counter as the store said last, our own stock included.
    counter: AtomicI64,
    /// Seconds since 1970.
    renews_at_s: AtomicI64,

    /// When a block was asked for that has not come; 0 when none is under way.
    refill_at_ms: AtomicU64,
    /// Requests that wait for the store's word: it may count a unit for each of them.
    waiting: AtomicI64,
    /// Debt that the store is being told of.
    told: AtomicI64,
    /// Debt that the counter has counted beyond the maximum: as many units that come for requests
    /// which did not wait for them are nobody's.
    beyond: AtomicI64,
    /// Refused here without the store being told yet.
    refused: AtomicI64,
    /// Questions are put, answers and shares taken one after the other, whichever thread that is on.
    turn: Mutex<Turn>,
    /// Seconds; 0 for a quota that is not renewed.
    renewal_s: i64,
    is_ahead: bool,
    outlook: Arc<Outlook>,
    name: Box<str>,
    /// The end of the period by the server's clock; see [`scripts::QUOTA_BACK`].
    server_end_ms: AtomicI64,
    pace: Pace,
    /// Units in stock after the last settlement.
    stocked: AtomicI64,
    /// Units in stock when the directory looked last.
    seen: AtomicI64,
    pub(super) idle_since_ms: AtomicU64,
}

/// Who has looked after the cell so far.
#[derive(Debug, Default)]
struct Turn {
    /// Answers of the store.
    answers: u64,
    /// The one of them that `counter` is from, counted from 1.
    counter_is_from: u64,
}

/// What a quota says to one request, and what the client is told (`X-RateLimit-*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaTaken {
    pub taken: Taken,
    /// Units left after this request; never below zero.
    pub remaining: i64,
    /// Seconds since 1970.
    pub renews_at_s: i64,
}

/// A request that waits for the store. Ends with it, however that ends.
#[derive(Debug)]
pub struct Waiting<'a>(&'a AtomicI64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Quotas from here on, with a period of at least [`LEASE_RENEWAL_S_MIN`], are reserved in blocks.
const LEASE_MAX_MIN: i64 = 1_000;
const LEASE_RENEWAL_S_MIN: i64 = 10;

/// A block that is asked for at all is at least a thousandth of the quota on all nodes together,
/// within these, as far as the bound allows.
const BLOCK_MIN: i64 = 64;
const BLOCK_MIN_MOST: i64 = 4_096;

/// Traffic that a block is for.
const BLOCK_MS: u64 = 200;
/// The same where nobody else waits for units and a block costs a commit.
const BLOCK_EMBEDDED_MS: u64 = 1_000;

/// For how long a refusal stands without asking: another node may have reset the counter.
const REFUSED_MS: u64 = 1_000;

const REFILL_LOST_MS: u64 = 1_000;

/// A period that does not end.
const NEVER_MS: u64 = u64::MAX;

/// What one round trip for a quota was asked for.
#[derive(Debug)]
pub(super) struct QuotaPlan {
    /// Answers that were there before it was put.
    after: u64,
    pub(super) asks: u64,
    at_ms: u64,
    wall_s: i64,
    /// Units asked for, those for `asks` included.
    want: i64,
    /// Admitted by the local share: counted whatever happens.
    debt: i64,
    /// Refused here: counted if the counter is at its end still.
    refused: i64,
    /// Debt that another question is telling, which this one may overtake.
    held: i64,
}

/// What an answer means for those who wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QuotaSettled {
    pub(super) admitted: u64,
    /// For the first of them; each next one has one less.
    pub(super) remaining: i64,
    pub(super) retry_at_ms: u64,
    pub(super) renews_at_s: i64,
    /// The counter has no expiry and its session is overdue: it has to go before anything else.
    pub(super) is_stale: bool,
    /// `renews_at_s` is new.
    pub(super) is_renewed: bool,
}

impl QuotaSettled {
    /// The answer to the waiting request with this number, from 0.
    pub(super) fn answer(&self, number: u64) -> QuotaTaken {
        let is_admitted = number < self.admitted;
        QuotaTaken {
            taken: if is_admitted {
                Taken::Admitted
            } else {
                Taken::Denied {
                    retry_at_ms: self.retry_at_ms,
                }
            },
            remaining: if is_admitted {
                (self.remaining - number as i64).max(0)
            } else {
                0
            },
            renews_at_s: self.renews_at_s,
        }
    }
}

impl QuotaCell {
    /// `None` for a quota of -1 or 0, which is none (Tyk).
    pub(super) fn new(name: &str, limit: &QuotaLimit, outlook: Arc<Outlook>) -> Option<Self> {
        if limit.max <= 0 {
            return None;
        }
        let renewal_s = limit.renewal_s.clamp(0, RENEWAL_S_MAX);
        let is_leased = limit.max >= LEASE_MAX_MIN && renewal_s >= LEASE_RENEWAL_S_MIN;
        Some(Self {
            lease: Lease::default(),
            max: limit.max.min(UNITS_MAX),
            counter: AtomicI64::new(0),
            renews_at_s: AtomicI64::new(limit.renews_at_s),
            refill_at_ms: AtomicU64::new(0),
            waiting: AtomicI64::new(0),
            told: AtomicI64::new(0),
            beyond: AtomicI64::new(0),
            refused: AtomicI64::new(0),
            turn: Mutex::default(),
            renewal_s,
            is_ahead: is_leased || !outlook.settings.is_shared,
            outlook,
            name: name.into(),
            server_end_ms: AtomicI64::new(-1),
            pace: Pace::default(),
            stocked: AtomicI64::new(0),
            seen: AtomicI64::new(0),
            idle_since_ms: AtomicU64::new(0),
        })
    }

    /// Counts one request. `now_ms` as for [`RateCell::take`](super::RateCell::take). Never waits;
    /// allocates nothing.
    #[inline]
    pub fn take(self: &Arc<Self>, now_ms: u64) -> QuotaTaken {
        // Before the refusal: a block may have come after it.
        if let Some(left) = self.lease.draw_credit(now_ms) {
            if left < self.lease.low() {
                self.refill(now_ms);
            }
            return self.admitted(left);
        }
        let refused_until_ms = self.lease.denied_until_ms();
        if now_ms < refused_until_ms {
            self.refused.fetch_add(1, Relaxed);
            return self.denied(refused_until_ms);
        }
        if self.outlook.is_away() {
            return self.take_share(now_ms);
        }
        QuotaTaken {
            taken: Taken::Ask,
            remaining: 0,
            renews_at_s: self.renews_at_s.load(Relaxed),
        }
    }

    /// Reads the line that [`QuotaCell::take`] will write, so that it is on its way.
    #[inline]
    pub fn warm(&self) {
        self.lease.warm();
    }

    /// To be held by a request while it waits for the store.
    #[must_use]
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Relaxed);
        Waiting(&self.waiting)
    }

    /// Decides for a request that asked and had no answer in time: this node's share of what was
    /// left when the store last answered. It waits no more.
    pub fn fallback(&self, now_ms: u64) -> QuotaTaken {
        self.take_share(now_ms)
    }

    /// Whether it counts for this limit. The time of renewal is the counter's business.
    pub(super) fn is_for(&self, limit: &QuotaLimit) -> bool {
        self.max == limit.max.min(UNITS_MAX)
            && self.renewal_s == limit.renewal_s.clamp(0, RENEWAL_S_MAX)
    }

    /// Keeps units that the counter has counted for requests which did not wait for them. Those that
    /// were admitted by the local share meanwhile have them; what is over is for others.
    pub(super) fn keep(&self, units: u64) {
        let _turn = self.turn();
        let units = units as i64;
        let units = units - self.lease.repay(units);
        let units = units - take_up_to(&self.beyond, units);
        self.stocked.fetch_add(units, Relaxed);
        self.lease
            .grant(units, self.lease.ends_at_ms(), self.lease.low());
    }

    /// Units left in this period, as far as this node has been told; `None` before it has asked.
    #[must_use]
    pub fn remaining(&self) -> Option<i64> {
        if self.lease.ends_at_ms() == 0 {
            return None;
        }
        let unused = self.lease.stock() - self.lease.debt();
        Some((self.max - self.counter.load(Relaxed) + unused).max(0))
    }

    /// When the period ends, in seconds since 1970.
    #[must_use]
    pub fn renews_at_s(&self) -> i64 {
        self.renews_at_s.load(Relaxed)
    }

    /// Differs from what it was before whenever a request was counted or refused meanwhile.
    #[must_use]
    pub fn mark(&self) -> [i64; 3] {
        [
            self.remaining().unwrap_or(-1),
            self.lease.denied_until_ms() as i64,
            self.refused.load(Relaxed),
        ]
    }

    /// The counter's key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reserved in the counter and not used: what a reader of the counter has to take off.
    #[must_use]
    pub fn unused(&self) -> i64 {
        self.lease.stock()
    }

    /// Starts anew, for whoever has just reset the counter.
    pub fn forget(&self) {
        let _turn = self.turn();
        self.lease.take_all();
        self.lease.take_debt();
        self.lease.deny_until(0);
        self.beyond.store(0, Relaxed);
        self.refused.store(0, Relaxed);
        self.counter.store(0, Relaxed);
    }

    /// As if the store had said so.
    #[cfg(test)]
    pub(crate) fn told(&self, remaining: i64, renews_at_s: i64) {
        self.counter.store(self.max - remaining, Relaxed);
        self.renews_at_s.store(renews_at_s, Relaxed);
        self.lease.grant(0, NEVER_MS, 0);
    }

    fn admitted(&self, left: i64) -> QuotaTaken {
        QuotaTaken {
            taken: Taken::Admitted,
            remaining: (self.max - self.counter.load(Relaxed) + left).max(0),
            renews_at_s: self.renews_at_s.load(Relaxed),
        }
    }

    fn denied(&self, retry_at_ms: u64) -> QuotaTaken {
        QuotaTaken {
            taken: Taken::Denied { retry_at_ms },
            remaining: 0,
            renews_at_s: self.renews_at_s.load(Relaxed),
        }
    }

    /// A node's share of what was left when the store last answered. Counted as debt, which the
    /// counter gets when the store is back.
    fn take_share(&self, now_ms: u64) -> QuotaTaken {
        let _turn = self.turn();
        self.renew_alone(now_ms);
        let rest = (self.max - self.counter.load(Relaxed)).max(0);
        let nodes = i64::from(self.outlook.nodes());
        let share = if rest == 0 { 0 } else { (rest / nodes).max(1) };
        // What the store is being told, and what it may be granting at this moment, is spent.
        let spoken_for = self.told.load(Relaxed) + self.waiting.load(Relaxed);
        if self.lease.owe_one(share - spoken_for) {
            let left = share - self.lease.debt();
            return QuotaTaken {
                taken: Taken::Admitted,
                remaining: left.max(0),
                renews_at_s: self.renews_at_s.load(Relaxed),
            };
        }
        self.denied(now_ms + REFUSED_MS)
    }

    /// Begins a new period when the old one ends while nobody can be asked.
    fn renew_alone(&self, now_ms: u64) {
        let ends_at_ms = self.lease.ends_at_ms();
        if ends_at_ms == 0 || now_ms < ends_at_ms || self.renewal_s == 0 {
            return;
        }
        let renewal_ms = self.renewal_s as u64 * 1_000;
        if self.lease.renew(ends_at_ms, now_ms + renewal_ms) {
            self.counter.store(0, Relaxed);
            let wall_s = (self.outlook.settings.wall_ns)() / NS_PER_S;
            self.renews_at_s.store(wall_s + self.renewal_s, Relaxed);
        }
    }

    fn refill(self: &Arc<Self>, now_ms: u64) {
        let asked_ms = self.refill_at_ms.load(Relaxed);
        if asked_ms != 0 && now_ms < asked_ms + REFILL_LOST_MS || self.outlook.is_away() {
            return;
        }
        // Everything is reserved: the next to come without a unit asks.
        if self.counter.load(Relaxed) >= self.max {
            return;
        }
        let is_ours = self
            .refill_at_ms
            .compare_exchange(asked_ms, now_ms.max(1), Relaxed, Relaxed)
            .is_ok();
        if is_ours && !self.outlook.post(Work::Quota(Arc::clone(self), now_ms)) {
            self.refill_at_ms.store(0, Relaxed);
        }
    }

    /// Whether it has units that nobody has used since this was asked last.
    pub(super) fn is_unmoved(&self) -> bool {
        let stock = self.lease.stock();
        self.seen.swap(stock, Relaxed) == stock && stock > 0
    }

    /// Whether dropping the cell would forget nothing that matters.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        let is_denied = now_ms < self.lease.denied_until_ms();
        !is_denied && self.lease.stock() == 0 && self.lease.debt() == 0
    }

    /// How much to ask for `asks` requests that wait, or for a refill when there are none.
    pub(super) fn plan(&self, asks: u64, at_ms: u64, wall_ns: i64) -> QuotaPlan {
        let turn = self.turn();
        // What is left of a period that is over counts for nothing, what it refused neither.
        let is_over = at_ms >= self.lease.ends_at_ms();
        self.lease.take_ended(at_ms);
        let stock = self.lease.stock();
        // First here, so that it is never in neither place.
        let owed = self.lease.debt();
        let held = self.told.fetch_add(owed, Relaxed);
        let debt = self.lease.repay(owed);
        self.told.fetch_sub(owed - debt, Relaxed);
        let drawn = (self.stocked.load(Relaxed) - stock).max(0) + debt + asks as i64;
        self.stocked.store(stock, Relaxed);
        self.pace.note(drawn as u64, at_ms);
        let mut want = asks as i64;
        if self.is_ahead {
            let span_ms = if self.outlook.settings.is_shared {
                BLOCK_MS
            } else {
                BLOCK_EMBEDDED_MS
            };
            // All nodes together hold a twentieth at most.
            let nodes = i64::from(self.outlook.nodes());
            let hold_max = (self.max / (20 * nodes)).max(1);
            let ahead = self.pace.want(span_ms, asks > 0 || stock == 0, hold_max);
            // A slow key would otherwise ask for every few requests.
            let least = (self.max / (1_000 * nodes)).clamp(BLOCK_MIN, BLOCK_MIN_MOST);
            let ahead = ahead.max(least.min(hold_max));
            want += (ahead - stock).max(i64::from(!self.outlook.settings.is_shared));
        }
        let refused = match self.refused.swap(0, Relaxed) {
            _ if is_over => 0,
            refused => refused,
        };
        QuotaPlan {
            after: turn.answers,
            asks,
            at_ms,
            wall_s: wall_ns / NS_PER_S,
            want,
            debt,
            refused,
            held,
        }
    }

    /// The question to a shared store.
    pub(super) fn eval(&self, plan: &QuotaPlan) -> Eval {
        let share = if self.is_ahead {
            2 * i64::from(self.outlook.nodes())
        } else {
            0
        };
        let args = [
            plan.want,
            i64::from(!self.is_ahead),
            self.max,
            self.renewal_s,
            share,
            i64::from(self.is_overdue(plan)),
            plan.debt,
            plan.asks as i64,
            plan.refused,
            plan.held,
        ];
        eval(&scripts::QUOTA, self.name.to_string(), &args)
    }

    /// The question to the embedded store.
    pub(super) fn add(&self, plan: &QuotaPlan) -> Add {
        let ttl = (self.renewal_s > 0).then(|| Duration::from_secs(self.renewal_s as u64));
        // Refused ones are not counted here: nobody else reads the counter to refuse by it.
        let rest = (self.max - self.counter.load(Relaxed)).max(plan.asks as i64);
        Add {
            key: self.name.to_string(),
            by: plan.want.min(rest) + plan.debt,
            ttl,
        }
    }

    /// Reads the answer to [`QuotaCell::eval`].
    pub(super) fn settle(&self, plan: &QuotaPlan, reply: &ScriptReply) -> Option<QuotaSettled> {
        let [granted, counter, left_ms, server_ms] = reply.ints()?;
        let mut turn = self.turn();
        let server_end_ms = if left_ms < 0 { -1 } else { server_ms + left_ms };
        self.server_end_ms.store(server_end_ms, Relaxed);
        Some(self.grant(&mut turn, plan, granted, counter, left_ms))
    }

    /// Reads the answer to [`QuotaCell::add`].
    pub(super) fn settle_add(&self, plan: &QuotaPlan, add: &Add, counter: Counter) -> QuotaSettled {
        let mut turn = self.turn();
        let left_ms = match counter.ttl {
            Some(Ttl::Ms(ms)) => ms as i64,
            Some(Ttl::Forever) => -1,
            None => self.renewal_s * 1_000,
        };
        let before = counter.value - (add.by - plan.debt);
        let granted = (self.max - before).clamp(0, add.by - plan.debt);
        let is_stale = left_ms == -1
            && self.renewal_s > 0
            && granted < plan.asks as i64
            && self.is_overdue(plan);
        let counter = counter.value.min(self.max);
        let mut settled = self.grant(&mut turn, plan, granted, counter, left_ms);
        settled.is_stale = is_stale;
        settled
    }

    /// Puts back what could not be told.
    pub(super) fn failed(&self, plan: &QuotaPlan) {
        let _turn = self.turn();
        self.refill_at_ms.store(0, Relaxed);
        self.lease.owe(plan.debt);
        self.told.fetch_sub(plan.debt, Relaxed);
        self.refused.fetch_add(plan.refused, Relaxed);
    }

    /// Units to give back, and how: all of the stock, when this node stops using it.
    pub(super) fn plan_back(&self) -> Option<(i64, Eval)> {
        let _turn = self.turn();
        let back = self.lease.take_all();
        if back == 0 {
            return None;
        }
        self.counter.fetch_sub(back, Relaxed);
        // It was more than was used: twice as much would be wrong next time.
        self.pace.fetched(1);
        let args = [back, self.server_end_ms.load(Relaxed)];
        let eval = eval(&scripts::QUOTA_BACK, self.name.to_string(), &args);
        Some((back, eval))
    }

    /// What the counter still has to hear of, and for how long the period goes on: debt less stock.
    /// Takes both out. `None` when that is nothing, or when the period is over or about to be.
    pub(super) fn take_unsettled(&self, now_ms: u64) -> Option<Add> {
        let _turn = self.turn();
        let ends_at_ms = self.lease.ends_at_ms();
        let by = self.lease.take_debt() - self.lease.take_all();
        let rest_ms = ends_at_ms.saturating_sub(now_ms);
        (by != 0 && rest_ms > PERIOD_SLACK_MS).then(|| Add {
            key: self.name.to_string(),
            by,
            ttl: (ends_at_ms != NEVER_MS).then(|| Duration::from_millis(rest_ms)),
        })
    }

    /// Whether units of the current period can still be given back, by this node's clock.
    pub(super) fn is_current(&self, now_ms: u64) -> bool {
        now_ms < self.lease.ends_at_ms()
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_overdue(&self, plan: &QuotaPlan) -> bool {
        plan.wall_s > self.renews_at_s.load(Relaxed)
    }

    fn grant(
        &self,
        turn: &mut Turn,
        plan: &QuotaPlan,
        granted: i64,
        counter: i64,
        left_ms: i64,
    ) -> QuotaSettled {
        self.refill_at_ms.store(0, Relaxed);
        let renews_at_s = self.renews_at_s.load(Relaxed);
        let ends_at_ms = self.period(plan, counter - granted - plan.debt <= 0, left_ms);
        let mut admitted = plan.asks.min(granted as u64);
        let credits = granted - admitted as i64;
        // Of two that were under way together, over connections of their own, nobody knows which was
        // counted later; unless the counter was reset, the one with more was.
        turn.answers += 1;
        if plan.after >= turn.counter_is_from || counter > self.counter.load(Relaxed) {
            turn.counter_is_from = turn.answers;
            self.counter.store(counter, Relaxed);
        }
        self.told.fetch_sub(plan.debt, Relaxed);
        if granted > 0 {
            self.pace.fetched(granted);
        }
        if credits > 0 {
            self.stocked.fetch_add(credits, Relaxed);
        }
        let low = self.pace.low(self.outlook.ahead_ms());
        if self.lease.ends_at_ms().abs_diff(ends_at_ms) > PERIOD_SLACK_MS {
            // Another period: what was left of the last one is void.
            self.lease.take_all();
            self.beyond.store(0, Relaxed);
        }
        self.lease.grant(credits, ends_at_ms, low);
        let beyond = (counter - self.max).clamp(0, plan.debt);
        if beyond > 0 {
            let void = self.lease.draw_up_to(beyond);
            self.beyond.fetch_add(beyond - void, Relaxed);
        }
        // A refill that overtook this question serves those who wait as well.
        while admitted < plan.asks && self.lease.draw_credit(plan.at_ms).is_some() {
            admitted += 1;
        }
        let mut retry_at_ms = plan.at_ms;
        if admitted < plan.asks || counter >= self.max && self.lease.stock() == 0 {
            // Another node's reset is seen within a second.
            retry_at_ms = if self.outlook.settings.is_shared {
                ends_at_ms.min(plan.at_ms + REFUSED_MS)
            } else {
                ends_at_ms
            };
            self.lease.deny_until(retry_at_ms);
        }
        // Units of this node's stock are left over as well.
        let rest = (self.max - counter).max(0) + self.lease.stock();
        QuotaSettled {
            admitted,
            remaining: rest + admitted as i64 - 1,
            retry_at_ms,
            renews_at_s: self.renews_at_s.load(Relaxed),
            is_stale: false,
            is_renewed: self.renews_at_s.load(Relaxed) != renews_at_s,
        }
    }

    /// The end of the period on this process's clock; sets the time of renewal that clients see.
    fn period(&self, plan: &QuotaPlan, is_new: bool, left_ms: i64) -> u64 {
        if left_ms < 0 {
            let left_s = self.renews_at_s.load(Relaxed) - plan.wall_s;
            return if self.renewal_s == 0 {
                NEVER_MS
            } else {
                // Without an expiry the session's time of renewal rules.
                plan.at_ms + (left_s.max(0) as u64 + 1) * 1_000
            };
        }
        if is_new {
            // As Tyk: the first request of a period sets it.
            self.renews_at_s
                .store(plan.wall_s + self.renewal_s, Relaxed);
            return plan.at_ms + left_ms as u64;
        }
        let renews_at_s = plan.wall_s + (left_ms + 999) / 1_000;
        // Whole seconds, cut off on both sides: what the session says stands if it can be right.
        if self.renews_at_s.load(Relaxed).abs_diff(renews_at_s) > 2 {
            self.renews_at_s.store(renews_at_s, Relaxed);
        }
        plan.at_ms + left_ms as u64
    }
}

const NS_PER_S: i64 = 1_000_000_000;

/// Expiries are set in whole seconds, and the time of asking is a little before that of answering.
const PERIOD_SLACK_MS: u64 = 1_500;

/// A hundred years.
const RENEWAL_S_MAX: i64 = 100 * 365 * 86_400;

/// Counters are exact in scripts up to 2^53.
const UNITS_MAX: i64 = 1 << 52;

const _: () = assert!(std::mem::offset_of!(QuotaCell, refill_at_ms) == 64);
