//! A Redis that lives in memory, on a clock of the test's: the scripts' state machines once more,
//! in Rust. `redis.rs` holds them against the scripts.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::{
    limit::scripts,
    storage::{
        Add, Counter, Eval, ListLimit, PushOutcome, Records, Script, ScriptReply, Scripts, Store,
        StoreError, Subscription, Ttl, Waiting, WriteOp,
    },
};

#[derive(Default)]
pub(super) struct Fake {
    /// Microseconds since 1970.
    pub(super) now_us: AtomicU64,
    pub(super) is_away: AtomicBool,
    pub(super) is_hanging: AtomicBool,
    /// How long an answer is on its way; what it says is decided at once.
    pub(super) late_ms: AtomicU64,
    pub(super) eval_count: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    leases: HashMap<String, Slots>,
    logs: HashMap<String, BTreeSet<i64>>,
    /// Value, and the end of its life in milliseconds.
    counters: HashMap<String, (i64, Option<i64>)>,
    hashes: HashMap<String, [Vec<u8>; 2]>,
}

#[derive(Default)]
struct Slots {
    last_ms: i64,
    slots: Vec<(i64, i64)>,
}

impl Fake {
    pub(super) fn at(now_us: u64) -> Arc<Self> {
        let fake = Self::default();
        fake.now_us.store(now_us, SeqCst);
        Arc::new(fake)
    }

    pub(super) fn advance_ms(&self, ms: u64) {
        self.now_us.fetch_add(ms * 1_000, SeqCst);
    }

    fn now_ms(&self) -> i64 {
        (self.now_us.load(SeqCst) / 1_000) as i64
    }

    pub(super) fn counter(&self, key: &str) -> Option<i64> {
        let mut state = self.state.lock().unwrap();
        state.alive(key, self.now_ms()).map(|(value, _)| value)
    }

    pub(super) fn put(&self, key: &str, value: i64) {
        let mut state = self.state.lock().unwrap();
        state.counters.insert(key.to_owned(), (value, None));
    }

    pub(super) fn remove(&self, key: &str) {
        self.state.lock().unwrap().counters.remove(key);
    }

    pub(super) fn entries(&self, key: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.logs.get(key).map_or(0, BTreeSet::len)
    }

    pub(super) fn eval(&self, eval: &Eval) -> ScriptReply {
        self.eval_count.fetch_add(1, SeqCst);
        let [key] = eval.keys.as_slice() else {
            panic!("one key each, so that a cluster runs it");
        };
        let args: Vec<i64> = eval
            .args
            .iter()
            .map(|arg| std::str::from_utf8(arg).unwrap().parse().unwrap_or(-1))
            .collect();
        let (now_us, now_ms) = (self.now_us.load(SeqCst) as i64, self.now_ms());
        let mut state = self.state.lock().unwrap();
        let is = |script: &'static Script| std::ptr::eq(eval.script, script);
        if is(&scripts::LEASE) {
            ints(
                &state
                    .leases
                    .entry(key.clone())
                    .or_default()
                    .run(&args, now_ms),
            )
        } else if is(&scripts::EXACT) {
            ints(&exact(
                state.logs.entry(key.clone()).or_default(),
                &args,
                now_us,
            ))
        } else if is(&scripts::LOG) {
            let log = state.logs.entry(key.clone()).or_default();
            ScriptReply::Int(write(log, args[0], args[1], now_us))
        } else if is(&scripts::QUOTA) {
            ints(&state.quota(key, &args, now_ms))
        } else if is(&scripts::QUOTA_BACK) {
            ScriptReply::Int(state.quota_back(key, &args, now_ms))
        } else if is(&scripts::IS_SET) {
            ScriptReply::Int(i64::from(state.alive(key, now_ms).is_some()))
        } else if is(&scripts::MARK) {
            if state.alive(key, now_ms).is_none() {
                let until = now_ms + args[0] * 1_000;
                state.counters.insert(key.clone(), (1, Some(until)));
            }
            ScriptReply::Int(0)
        } else if is(&scripts::FIXED) {
            let value = state.alive(key, now_ms).map_or(0, |(value, _)| value) + args[0];
            let until = now_ms + args[1];
            state.counters.insert(key.clone(), (value, Some(until)));
            ScriptReply::Int(value)
        } else if is(&scripts::ALLOWANCE) {
            ScriptReply::Array(match state.hashes.get(key) {
                Some(fields) => fields.iter().cloned().map(ScriptReply::Bytes).collect(),
                None => vec![ScriptReply::Nil, ScriptReply::Nil],
            })
        } else if is(&scripts::SET_ALLOWANCE) {
            let fields = [eval.args[1].clone(), eval.args[2].clone()];
            state.hashes.insert(key.clone(), fields);
            ScriptReply::Int(0)
        } else {
            panic!("no such script");
        }
    }
}

fn ints(values: &[i64]) -> ScriptReply {
    ScriptReply::Array(values.iter().copied().map(ScriptReply::Int).collect())
}

impl Slots {
    fn run(&mut self, args: &[i64], now: i64) -> [i64; 3] {
        let &[rate, per, want, used, mut back] = args else {
            panic!("{args:?}");
        };
        let width = (per / 100).max(1);
        let shift = (self.last_ms - now).max(0);
        self.last_ms = now;
        for slot in &mut self.slots {
            slot.0 -= shift;
        }
        self.slots.retain(|slot| slot.0 + width + per > now);
        let mut sum: i64 = self.slots.iter().map(|slot| slot.1).sum();
        for slot in self.slots.iter_mut().rev() {
            let less = back.min(slot.1);
            slot.1 -= less;
            back -= less;
            sum -= less;
        }
        sum += used;
        let granted = want.min(rate - sum).max(0);
        sum += granted;
        if used + granted > 0 {
            match self.slots.last_mut() {
                Some(slot) if now - slot.0 < width => slot.1 += used + granted,
                _ => self.slots.push((now, used + granted)),
            }
        }
        let mut over = sum - rate + 1;
        let mut wait = 0;
        if over > 0 {
            for slot in &self.slots {
                over -= slot.1;
                if over <= 0 {
                    wait = slot.0 + width + per - now;
                    break;
                }
            }
        }
        [granted, wait, sum]
    }
}

/// Nanoseconds in the log.
fn clean(log: &mut BTreeSet<i64>, per_ms: i64, now_us: i64) -> i64 {
    let per_us = per_ms * 1_000;
    log.retain(|&at| at > (now_us - per_us) * 1_000 && at <= (now_us + per_us) * 1_000);
    log.len() as i64
}

fn put(log: &mut BTreeSet<i64>, count: i64, at_ns: &mut i64) {
    let mut left = count;
    while left > 0 {
        left -= i64::from(log.insert(*at_ns));
        *at_ns += 1;
    }
}

fn exact(log: &mut BTreeSet<i64>, args: &[i64], now_us: i64) -> [i64; 3] {
    let &[rate, per, want, used] = args else {
        panic!("{args:?}");
    };
    let mut at_ns = now_us * 1_000;
    let mut count = clean(log, per, now_us);
    put(log, used, &mut at_ns);
    count += used;
    let granted = want.min(rate - count).max(0);
    put(log, granted, &mut at_ns);
    count += granted;
    let mut wait = 0;
    if count >= rate {
        let leaving = log.iter().nth((count - rate) as usize).unwrap();
        // Scores are floating point, as in Redis.
        let left = ((*leaving as f64 / 1_000.0 - now_us as f64) / 1_000.0 + per as f64).ceil();
        wait = (left as i64).max(1);
    }
    [granted, wait, count]
}

fn write(log: &mut BTreeSet<i64>, per: i64, n: i64, now_us: i64) -> i64 {
    let count = clean(log, per, now_us);
    put(log, n, &mut (now_us * 1_000));
    count
}

impl State {
    fn alive(&mut self, key: &str, now_ms: i64) -> Option<(i64, Option<i64>)> {
        let &(value, until) = self.counters.get(key)?;
        if until.is_some_and(|until| until <= now_ms) {
            self.counters.remove(key);
            return None;
        }
        Some((value, until))
    }

    fn quota(&mut self, key: &str, args: &[i64], now_ms: i64) -> [i64; 4] {
        let &[
            want,
            all,
            max,
            renewal,
            share,
            is_overdue,
            mut extra,
            asks,
            refused,
            held,
        ] = args
        else {
            panic!("{args:?}");
        };
        let mut found = self.alive(key, now_ms);
        if let Some((value, None)) = found
            && renewal > 0
            && is_overdue == 1
            && value + extra >= max
        {
            found = None;
        }
        let mut value = found.map_or(0, |(value, _)| value);
        if value >= max {
            extra += refused;
        }
        let rest = max - value - extra;
        let mut granted = want.min(rest - held).max(0);
        if share > 0 {
            granted = granted.min((rest.div_euclid(share)).max(asks).max(1));
        }
        let add = extra + if all == 1 { want } else { granted };
        let mut until = found.and_then(|(_, until)| until);
        if add > 0 {
            value += add;
            if found.is_none() && renewal > 0 {
                until = Some(now_ms + renewal * 1_000);
            }
            self.counters.insert(key.to_owned(), (value, until));
        }
        let left = match until {
            Some(until) => until - now_ms,
            None if found.is_none() && add == 0 && renewal > 0 => renewal * 1_000,
            None => -1,
        };
        [granted, value, left, now_ms]
    }

    fn quota_back(&mut self, key: &str, args: &[i64], now_ms: i64) -> i64 {
        let &[back, ends] = args else {
            panic!("{args:?}");
        };
        let Some((value, until)) = self.alive(key, now_ms) else {
            return 0;
        };
        let is_same = match until {
            None => ends == -1,
            Some(until) => ends != -1 && until.abs_diff(ends) <= 1_000,
        };
        if value < back || !is_same {
            return 0;
        }
        self.counters.insert(key.to_owned(), (value - back, until));
        1
    }
}

impl Scripts for Fake {
    fn eval_many(&self, evals: Vec<Eval>) -> Waiting<'_, Vec<Result<ScriptReply, StoreError>>> {
        Box::pin(async move {
            if self.is_hanging.load(SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.is_away.load(SeqCst) {
                return Err(StoreError::Away("away".to_owned()));
            }
            let replies = evals.iter().map(|eval| Ok(self.eval(eval))).collect();
            let late_ms = self.late_ms.load(SeqCst);
            if late_ms > 0 {
                tokio::time::sleep(Duration::from_millis(late_ms)).await;
            }
            Ok(replies)
        })
    }
}

/// The fake as a store; what limits do not use is not there.
#[derive(Clone)]
pub(super) struct FakeStore(pub(super) Arc<Fake>);

impl Store for FakeStore {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn scripts(&self) -> Option<&dyn Scripts> {
        Some(&*self.0)
    }

    fn probe(&self) -> Waiting<'_, ()> {
        Box::pin(async {
            if self.0.is_hanging.load(SeqCst) {
                std::future::pending::<()>().await;
            }
            if self.0.is_away.load(SeqCst) {
                return Err(StoreError::Away("away".to_owned()));
            }
            Ok(())
        })
    }

    fn get(&self, _: &str) -> Waiting<'_, Option<Vec<u8>>> {
        unreachable!()
    }

    fn get_many(&self, _: Vec<String>) -> Waiting<'_, Vec<Option<Vec<u8>>>> {
        unreachable!()
    }

    fn set(&self, _: &str, _: &[u8], _: Option<Duration>) -> Waiting<'_, ()> {
        unreachable!()
    }

    fn delete(&self, _: &str) -> Waiting<'_, bool> {
        unreachable!()
    }

    fn exists(&self, _: &str) -> Waiting<'_, bool> {
        unreachable!()
    }

    fn list(&self, _: &str) -> Waiting<'_, Vec<String>> {
        unreachable!()
    }

    fn write(&self, _: Vec<WriteOp>) -> Waiting<'_, ()> {
        unreachable!()
    }

    fn ttl(&self, _: &str) -> Waiting<'_, Option<Ttl>> {
        unreachable!()
    }

    fn set_if_absent(&self, _: &str, _: &[u8], _: Option<Duration>) -> Waiting<'_, bool> {
        unreachable!()
    }

    fn add(&self, _: Vec<Add>) -> Waiting<'_, Vec<Counter>> {
        unreachable!()
    }

    fn push(&self, _: &str, _: Records, _: ListLimit) -> Waiting<'_, PushOutcome> {
        unreachable!()
    }

    fn publish(&self, _: &str, _: &str) -> Waiting<'_, ()> {
        unreachable!()
    }

    fn subscribe(&self, _: &str) -> Option<Subscription> {
        None
    }

    fn flush(&self) -> Waiting<'_, ()> {
        unreachable!()
    }

    fn close(&self) -> Waiting<'_, ()> {
        unreachable!()
    }
}
