//! One rate limiter of this node.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed},
};

use crate::{
    limit::{
        Algorithm, RateLimit, Smoothed, Taken, Work,
        lease::{Drawn, Lease},
        memory_log::{MemoryLog, Written},
        names,
        outlook::{DEADLINE_TYK_MS, Outlook, View},
        pace::Pace,
        scripts,
        smoothing::Allowance,
        window::{COUNT_MAX, Shape, Window},
    },
    storage::{Eval, Script, ScriptReply, StoreError},
};

/// How the name of a cell ends that limiters share for which there is no room.
pub(super) const SHARED_BY_STRANGERS: &str = "\nshared";

/// Counts the requests of one limiter, exactly across all shards. Held by every session that
/// is under the limit.
///
/// All that a request touches which is admitted from memory stands in the first cache line.
#[repr(C, align(64))]
pub struct RateCell {
    window: Window,
    /// Requests per window.
    rate: u64,
    shape: Shape,
    outlook: Arc<Outlook>,
    /// With more nodes than this the exact log decides.
    lease_nodes_max: u32,
    way: Way,
    lease: Lease,

    /// When a refill was asked for that has not come; 0 when none is under way.
    refill_at_ms: AtomicU64,
    name: Box<str>,
    tyk: Option<Box<TykState>>,
    pace: Pace,
    /// Since when a question tells the store what was counted in the window; 0 when none does.
    telling_at_ms: AtomicU64,
    /// Credits in stock after the last settlement.
    stocked: AtomicI64,
    /// When nobody held it any more, as the directory saw; 0 while somebody does.
    pub(super) idle_since_ms: AtomicU64,
}

/// What only logs in memory and smoothing need.
#[derive(Default)]
struct TykState {
    log: Option<MemoryLog>,
    /// Sentinel in memory: refuses until then.
    blocked_until_ms: AtomicU64,
    allowance: Option<Allowance>,
    /// A move of the allowance that nobody has taken yet.
    event: AtomicU8,
}

/// How a limiter decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Default,
    /// Tyk's algorithms in this node's memory.
    MemoryFixed,
    MemoryLog,
    MemorySentinel,
    /// The same in Redis.
    Fixed,
    Log,
    Sentinel,
}

/// Leases are for limits of at least so many requests per second and node; below, credits that
/// nodes hold would leave too little for the others.
const LEASE_PER_S_PER_NODE: f64 = 50.0;

/// A refill that has not come after so long is asked for again.
const REFILL_LOST_MS: u64 = 1_000;

/// A question that has not been answered after so long is taken not to have told.
const TELLING_LOST_MS: u64 = 50;

/// What one round trip for a limiter was asked for, to settle it with the answer.
#[derive(Debug)]
pub(super) struct RatePlan {
    kind: Kind,
    /// Requests that wait for it.
    pub(super) asks: u64,
    at_ms: u64,
    /// Admitted as debt, and now counted in the store.
    debt: i64,
    /// Counted in the window while the store was not asked, and now counted there.
    told: u64,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Lease,
    Exact,
    Log,
    Sentinel,
    Fixed { left_ms: u64 },
}

/// What an answer means for those who wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// The first so many.
    pub(super) admitted: u64,
    /// For all others.
    pub(super) retry_at_ms: u64,
    /// To be done in the store without anybody waiting.
    pub(super) mark: Option<Mark>,
    /// Requests in the window, when smoothing has to look at them.
    pub(super) smooth: Option<u64>,
}

/// A limiter that has to be marked as exceeded.
#[derive(Debug, PartialEq, Eq)]
pub struct Mark {
    pub(super) key: String,
    pub(super) per_s: u64,
}

impl RateCell {
    /// `None` for a limit that limits nothing: a rate or a window of zero or less.
    pub(super) fn new(name: &str, limit: &RateLimit, outlook: Arc<Outlook>) -> Option<Self> {
        let RateLimit { rate, per, .. } = *limit;
        // Written so that what is no number limits nothing, as in Tyk.
        if !(rate > 0.0 && per > 0.0) || rate >= COUNT_MAX as f64 {
            return None;
        }
        let settings = &outlook.settings;
        let way = match (settings.algorithm, settings.is_shared) {
            (Algorithm::Default, _) => Way::Default,
            (Algorithm::FixedWindow, false) => Way::MemoryFixed,
            (Algorithm::FixedWindow, true) => Way::Fixed,
            (Algorithm::Sentinel, false) => Way::MemorySentinel,
            (Algorithm::Sentinel, true) => Way::Sentinel,
            (Algorithm::RollingLog, false) => Way::MemoryLog,
            (Algorithm::RollingLog, true) => Way::Log,
        };
        // Tyk truncates both; what would become zero there is kept: a rate below one would refuse
        // everything, a window below a second would limit nothing.
        // Tyk differs: see above.
        let requests = (rate as u64).max(1);
        let per_s = match way {
            Way::Fixed | Way::MemoryFixed => per,
            _ if per >= 1.0 => per.trunc(),
            _ => per,
        };
        let per_ms = ((per_s * 1_000.0) as u64).clamp(1, PER_MS_MAX);
        let is_log = matches!(way, Way::MemoryLog | Way::MemorySentinel);
        let smoothing = limit
            .smoothing
            .filter(|_| settings.is_smoothing && !matches!(way, Way::Fixed | Way::MemoryFixed));
        Some(Self {
            window: Window::default(),
            rate: requests,
            shape: Shape::new(requests, per_ms),
            outlook,
            lease_nodes_max: (rate / per / LEASE_PER_S_PER_NODE) as u32,
            way,
            lease: Lease::default(),
            refill_at_ms: AtomicU64::new(0),
            name: name.into(),
            tyk: (is_log || smoothing.is_some()).then(|| {
                Box::new(TykState {
                    log: is_log.then(|| MemoryLog::new(requests, per_ms)),
                    allowance: smoothing.map(|rule| Allowance::new(rule, requests)),
                    ..TykState::default()
                })
            }),
            pace: Pace::default(),
            telling_at_ms: AtomicU64::new(0),
            stocked: AtomicI64::new(0),
            idle_since_ms: AtomicU64::new(0),
        })
    }

    /// Counts one request. `now_ms` is the process's monotonic clock, read at most a few
    /// milliseconds ago. Never waits; allocates nothing.
    #[inline]
    pub fn take(self: &Arc<Self>, now_ms: u64) -> Taken {
        if self.way == Way::Default {
            let view = self.outlook.view();
            if view.is_alone() {
                return self.take_window(self.rate, now_ms);
            }
            return self.take_shared(view, now_ms);
        }
        self.take_tyk(now_ms)
    }

    /// Reads the line that [`RateCell::take`] will write, so that it is on its way.
    #[inline]
    pub fn warm(&self) {
        self.window.warm();
    }

    /// Decides for a request that asked and had no answer in time: the local share, or what the
    /// selected mode of Tyk's does when Redis fails.
    pub fn fallback(&self, now_ms: u64) -> Taken {
        self.without_store(now_ms)
    }

    /// An event of smoothing that nobody has taken yet.
    #[must_use]
    pub fn take_event(&self) -> Option<Smoothed> {
        let event = &self.tyk.as_ref()?.event;
        if event.load(Relaxed) == 0 {
            return None;
        }
        match event.swap(0, Relaxed) {
            1 => Some(Smoothed::Up),
            2 => Some(Smoothed::Down),
            _ => None,
        }
    }

    /// The limiter's key in Redis.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether limiters for which there was no room count here.
    #[must_use]
    pub fn is_shared_by_strangers(&self) -> bool {
        self.name.ends_with(SHARED_BY_STRANGERS)
    }

    /// Starts anew, as after a reset of the key.
    pub fn forget(&self) {
        self.window.close();
        self.lease.deny_until(0);
        if let Some(tyk) = &self.tyk {
            tyk.blocked_until_ms.store(0, Relaxed);
            if let Some(log) = &tyk.log {
                log.clear();
            }
        }
    }

    #[inline]
    fn take_window(&self, max: u64, now_ms: u64) -> Taken {
        match self.window.take(self.shape, max, now_ms) {
            Ok(()) => Taken::Admitted,
            Err(retry_at_ms) => Taken::Denied { retry_at_ms },
        }
    }

    fn take_shared(self: &Arc<Self>, view: View, now_ms: u64) -> Taken {
        if view.is_away() {
            return self.take_share(view, now_ms);
        }
        if !self.is_leased(view) {
            let retry_at_ms = self.lease.denied_until_ms();
            return if now_ms < retry_at_ms {
                Taken::Denied { retry_at_ms }
            } else {
                Taken::Ask
            };
        }
        let debt_max = (self.rate / (100 * u64::from(view.nodes()))).max(1);
        match self.lease.draw(now_ms, debt_max as i64) {
            Drawn::Plenty => Taken::Admitted,
            Drawn::Low => {
                self.refill(now_ms);
                Taken::Admitted
            }
            Drawn::Denied(retry_at_ms) => Taken::Denied { retry_at_ms },
            Drawn::Dry => Taken::Ask,
        }
    }

    fn is_leased(&self, view: View) -> bool {
        view.nodes() <= self.lease_nodes_max
    }

    /// This node's part of the limit; never nothing.
    fn take_share(&self, view: View, now_ms: u64) -> Taken {
        let share = (self.rate / u64::from(view.nodes())).max(1);
        self.take_window(share, now_ms)
    }

    fn take_tyk(&self, now_ms: u64) -> Taken {
        match self.way {
            Way::Default | Way::Fixed | Way::Log | Way::Sentinel => {
                if self.outlook.is_away() {
                    self.without_store(now_ms)
                } else {
                    Taken::Ask
                }
            }
            Way::MemoryFixed => {
                let per_ms = self.shape.per_ms();
                let end_ms = (now_ms / per_ms + 1) * per_ms;
                match self
                    .window
                    .take_until(self.shape, self.rate, now_ms, end_ms)
                {
                    Ok(()) => Taken::Admitted,
                    Err(retry_at_ms) => Taken::Denied { retry_at_ms },
                }
            }
            Way::MemoryLog => self.take_log(now_ms),
            Way::MemorySentinel => self.take_sentinel(now_ms),
        }
    }

    fn take_log(&self, now_ms: u64) -> Taken {
        let Some((tyk, log)) = self.memory() else {
            return Taken::Admitted;
        };
        let written = log.write(now_ms);
        tyk.smooth(log, written, now_ms);
        let limit = self.log_limit();
        if log.held(written, limit, now_ms) {
            let retry_at_ms = log.leaves_at_ms(written, limit);
            return Taken::Denied { retry_at_ms };
        }
        Taken::Admitted
    }

    fn take_sentinel(&self, now_ms: u64) -> Taken {
        let Some((tyk, log)) = self.memory() else {
            return Taken::Admitted;
        };
        let retry_at_ms = tyk.blocked_until_ms.load(Relaxed);
        let is_blocked = now_ms < retry_at_ms;
        // As in Tyk the log is written whatever was decided, and looked at afterwards.
        let written = log.write(now_ms);
        tyk.smooth(log, written, now_ms);
        let limit = self.effective_rate().saturating_sub(1);
        if is_blocked {
            return Taken::Denied { retry_at_ms };
        }
        if log.held(written, limit, now_ms) {
            let until_ms = now_ms + self.shape.per_ms();
            tyk.blocked_until_ms.store(until_ms, Relaxed);
        }
        Taken::Admitted
    }

    fn memory(&self) -> Option<(&TykState, &MemoryLog)> {
        let tyk = self.tyk.as_deref()?;
        Some((tyk, tyk.log.as_ref()?))
    }

    fn without_store(&self, now_ms: u64) -> Taken {
        match self.way {
            // Tyk's log refuses when Redis fails.
            Way::Log => Taken::Denied {
                retry_at_ms: now_ms + DEADLINE_TYK_MS,
            },
            Way::Sentinel | Way::Fixed => Taken::Admitted,
            _ => self.take_share(self.outlook.view(), now_ms),
        }
    }

    fn refill(self: &Arc<Self>, now_ms: u64) {
        if now_ms < self.lease.denied_until_ms() {
            return;
        }
        let asked_ms = self.refill_at_ms.load(Relaxed);
        if asked_ms != 0 && now_ms < asked_ms + REFILL_LOST_MS {
            return;
        }
        let is_ours = self
            .refill_at_ms
            .compare_exchange(asked_ms, now_ms.max(1), Relaxed, Relaxed)
            .is_ok();
        if is_ours && !self.outlook.post(Work::Rate(Arc::clone(self), now_ms)) {
            self.refill_at_ms.store(0, Relaxed);
        }
    }

    fn effective_rate(&self) -> u64 {
        self.allowance()
            .map_or(self.rate, |allowance| allowance.current().min(self.rate))
    }

    /// What the rolling log admits within a window.
    fn log_limit(&self) -> u64 {
        let rate = self.effective_rate();
        if self.outlook.settings.is_drl_sentinel {
            rate.saturating_sub(1)
        } else {
            rate
        }
    }

    pub(super) fn tell(&self, event: Option<Smoothed>) {
        if let Some(tyk) = &self.tyk {
            tyk.tell(event);
        }
    }

    pub(super) fn allowance(&self) -> Option<&Allowance> {
        self.tyk.as_ref()?.allowance.as_ref()
    }

    /// Whether dropping the cell would forget nothing that matters.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        self.window.is_over(self.shape, now_ms)
            && now_ms >= self.lease.ends_at_ms()
            && now_ms >= self.lease.denied_until_ms()
            && self.lease.debt() == 0
            && self.tyk.as_ref().is_none_or(|tyk| tyk.is_over(now_ms))
    }

    /// What to ask the store for `asks` requests that wait, or for a refill when there are none.
    /// `None` when there is nothing to ask any more; `fallback` then decides.
    pub(super) fn plan(
        &self,
        asks: u64,
        at_ms: u64,
        wall_ns: i64,
        evals: &mut Vec<Eval>,
    ) -> Option<RatePlan> {
        let view = self.outlook.view();
        let per_ms = self.shape.per_ms() as i64;
        let mut plan = RatePlan {
            kind: Kind::Log,
            asks,
            at_ms,
            debt: 0,
            told: 0,
        };
        match self.way {
            Way::Default if view.is_alone() => {
                self.refill_at_ms.store(0, Relaxed);
                return None;
            }
            Way::Default if self.is_leased(view) => {
                plan.kind = Kind::Lease;
                self.plan_lease(view, &mut plan, evals);
            }
            Way::Default => {
                plan.kind = Kind::Exact;
                self.plan_used(&mut plan, EXACT_USED_MAX);
                let rate = self.effective_rate() as i64;
                let used = plan.debt + plan.told as i64;
                let args = [rate, per_ms, asks as i64, used];
                evals.push(eval(&scripts::EXACT, self.name.to_string(), &args));
            }
            Way::Sentinel => {
                plan.kind = Kind::Sentinel;
                evals.push(eval(&scripts::IS_SET, self.blocked_key(), &[]));
                self.plan_log(asks, evals);
            }
            Way::Log => self.plan_log(asks, evals),
            Way::Fixed => {
                let (start_ns, left_ms) = fixed_window(wall_ns, per_ms);
                plan.kind = Kind::Fixed { left_ms };
                let key = format!("{}/{start_ns}", self.name);
                evals.push(eval(&scripts::FIXED, key, &[asks as i64, left_ms as i64]));
            }
            Way::MemoryFixed | Way::MemoryLog | Way::MemorySentinel => return None,
        }
        Some(plan)
    }

    fn plan_lease(&self, view: View, plan: &mut RatePlan, evals: &mut Vec<Eval>) {
        let (at_ms, nodes) = (plan.at_ms, u64::from(view.nodes()));
        let stock = self.lease.stock();
        let back = self.lease.take_ended(at_ms);
        self.plan_used(plan, u64::MAX);
        let drawn = (self.stocked.load(Relaxed) - stock).max(0) + plan.debt + plan.asks as i64;
        self.pace.note(drawn as u64, at_ms);
        let stock = stock - back;
        self.stocked.store(stock, Relaxed);
        let hold_max = (self.rate / (20 * nodes)).max(1) as i64;
        let span_ms = (self.shape.per_ms() / 50).clamp(SPAN_MS_MIN, SPAN_MS_MAX);
        let ran_dry = plan.asks > 0 || stock == 0 && plan.debt == 0;
        let want = self.pace.want(span_ms, ran_dry, hold_max - stock);
        let args = [
            self.rate as i64,
            self.shape.per_ms() as i64,
            want + plan.asks as i64,
            plan.debt + plan.told as i64,
            back,
        ];
        evals.push(eval(&scripts::LEASE, names::lease_key(&self.name), &args));
    }

    fn plan_log(&self, asks: u64, evals: &mut Vec<Eval>) {
        let args = [self.shape.per_ms() as i64, asks as i64, self.per_s() as i64];
        evals.push(eval(&scripts::LOG, self.name.to_string(), &args));
    }

    /// Reads the answers to [`RateCell::plan`], as many as it pushed; `None` when they cannot be
    /// had, and everything is as before.
    pub(super) fn settle(
        &self,
        plan: &RatePlan,
        replies: &[Result<ScriptReply, StoreError>],
    ) -> Option<Settled> {
        let settled = self.read(plan, replies);
        if matches!(plan.kind, Kind::Lease) {
            self.refill_at_ms.store(0, Relaxed);
        }
        if plan.told > 0 {
            if settled.is_some() {
                self.window.hand_over(self.shape, plan.told);
            }
            self.telling_at_ms.store(0, Relaxed);
        }
        if settled.is_none() {
            self.lease.owe(plan.debt);
        }
        settled
    }

    fn read(
        &self,
        plan: &RatePlan,
        replies: &[Result<ScriptReply, StoreError>],
    ) -> Option<Settled> {
        let mut settled = Settled {
            admitted: 0,
            retry_at_ms: plan.at_ms + self.shape.per_ms(),
            mark: None,
            smooth: None,
        };
        let last = replies.last()?.as_ref().ok()?;
        match plan.kind {
            Kind::Lease => {
                let [granted, wait_ms, _] = last.ints()?;
                settled.admitted = plan.asks.min(granted as u64);
                let credits = granted - settled.admitted as i64;
                self.pace.fetched(granted);
                let low = self.pace.low(self.outlook.ahead_ms());
                if credits > 0 {
                    self.stocked.fetch_add(credits, Relaxed);
                    let ends_at_ms = plan.at_ms + (self.shape.per_ms() / 10).max(1);
                    self.lease.grant(credits, ends_at_ms, low);
                }
                settled.retry_at_ms = self.deny(plan, wait_ms);
            }
            Kind::Exact => {
                let [granted, wait_ms, count] = last.ints()?;
                settled.admitted = granted as u64;
                settled.retry_at_ms = self.deny(plan, wait_ms);
                settled.smooth = Some((count - granted) as u64);
            }
            Kind::Log => {
                let count = last.int()? as u64;
                let limit = self.log_limit();
                settled.admitted = limit.saturating_sub(count).min(plan.asks);
                settled.smooth = Some(count);
                if self.outlook.settings.is_drl_sentinel && settled.admitted < plan.asks {
                    settled.mark = Some(self.mark());
                }
            }
            Kind::Sentinel => {
                let is_blocked = replies.first()?.as_ref().ok()?.int()? != 0;
                settled.admitted = if is_blocked { 0 } else { plan.asks };
                let count = last.int()? as u64;
                settled.smooth = Some(count);
                if count + plan.asks > self.effective_rate().saturating_sub(1) {
                    settled.mark = Some(self.mark());
                }
            }
            Kind::Fixed { left_ms } => {
                let before = last.int()? as u64 - plan.asks;
                settled.admitted = self.rate.saturating_sub(before).min(plan.asks);
                settled.retry_at_ms = plan.at_ms + left_ms;
            }
        }
        Some(settled)
    }

    /// Remembers that nothing is free for so long after the question was put.
    fn deny(&self, plan: &RatePlan, wait_ms: i64) -> u64 {
        let until_ms = plan.at_ms + wait_ms.max(0) as u64;
        if wait_ms > 0 {
            self.lease.deny_until(until_ms);
        }
        until_ms
    }

    /// What was admitted here while nobody could be asked, or while this node was alone.
    fn plan_used(&self, plan: &mut RatePlan, max: u64) {
        plan.debt = self.lease.take_debt();
        let used = self.window.used(self.shape, plan.at_ms).min(max);
        let since_ms = self.telling_at_ms.load(Relaxed);
        // What was told twice is counted twice, for one window; what is not told at all would be
        // admitted twice.
        let is_due = used > 0 && (since_ms == 0 || plan.at_ms > since_ms + TELLING_LOST_MS);
        let now_ms = plan.at_ms.max(1);
        if is_due
            && self
                .telling_at_ms
                .compare_exchange(since_ms, now_ms, Relaxed, Relaxed)
                .is_ok()
        {
            plan.told = used;
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            key: self.blocked_key(),
            per_s: self.per_s(),
        }
    }

    fn blocked_key(&self) -> String {
        format!("{}.BLOCKED", self.name)
    }

    fn per_s(&self) -> u64 {
        self.shape.per_ms().div_ceil(1_000)
    }
}

impl TykState {
    /// Moves the allowance when it is time.
    fn smooth(&self, log: &MemoryLog, written: Written, now_ms: u64) {
        if let Some(allowance) = &self.allowance
            && allowance.is_due(now_ms)
        {
            self.tell(allowance.step(|count| log.held(written, count, now_ms)));
        }
    }

    fn tell(&self, event: Option<Smoothed>) {
        match event {
            Some(Smoothed::Up) => self.event.store(1, Relaxed),
            Some(Smoothed::Down) => self.event.store(2, Relaxed),
            None => {}
        }
    }

    fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.blocked_until_ms.load(Relaxed)
            && self.log.as_ref().is_none_or(|log| log.is_over(now_ms))
    }
}

/// A window longer than this (ten years) is one of ten years.
const PER_MS_MAX: u64 = 10 * 365 * 86_400_000;

/// Spans of traffic that a refill is for.
const SPAN_MS_MIN: u64 = 20;
const SPAN_MS_MAX: u64 = 500;

/// Entries that one question writes into a log for requests that were admitted before.
const EXACT_USED_MAX: u64 = 1_000;

/// One run of a script on one key.
pub(super) fn eval(script: &'static Script, key: String, args: &[i64]) -> Eval {
    Eval {
        script,
        keys: vec![key],
        args: args
            .iter()
            .map(|arg| arg.to_string().into_bytes())
            .collect(),
    }
}

/// The start of Tyk's window at `wall_ns` and the milliseconds that are left of it. Go truncates
/// from the year 1 on.
fn fixed_window(wall_ns: i64, per_ms: i64) -> (i64, u64) {
    const YEAR_1_NS: i128 = 62_135_596_800 * 1_000_000_000;
    let per_ns = i128::from(per_ms) * 1_000_000;
    let since = i128::from(wall_ns) + YEAR_1_NS;
    let start_ns = since - since.rem_euclid(per_ns) - YEAR_1_NS;
    let left_ms = (start_ns + per_ns - i128::from(wall_ns)) / 1_000_000;
    (start_ns as i64, (left_ms as u64).max(1))
}

// Three words of the lease stand in the first line.
const _: () = assert!(std::mem::offset_of!(RateCell, lease) == 40);
