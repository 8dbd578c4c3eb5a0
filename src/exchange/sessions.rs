//! The sessions that one shard has at hand, and its line to those it has not.
//!
//! A request whose session is at hand costs one look into a map and one at a flag; nothing is
//! asked, locked or copied. Everything else is a question to `auth::directory`.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use ahash::RandomState;

use crate::{
    analytics::{ApiRecorder, KeyRuns},
    auth::{
        access::{Access, Kind, Scope},
        directory::{Ask, Found},
    },
    mailbox::{Line, NoAnswer},
    net::watch::{Clock, TICK_MS},
};

/// Sessions that a shard keeps. With more in use, some are asked for again.
const KEPT_MAX: usize = 65_536;

/// How long an organisation without a session is not asked for again.
const ABSENT_MS: u64 = 1_000;

/// A session that a shard holds.
#[derive(Debug)]
pub struct Held {
    access: Arc<Access>,
    /// On the shard's clock.
    fresh_until_ms: u64,
    /// Its part of records, put into bytes for the first of them.
    key_runs: OnceCell<Option<Box<KeyRuns>>>,
}

impl Held {
    /// What the records of this key at that API have in common; `None` where they must be put
    /// together one by one.
    #[inline]
    #[must_use]
    pub fn key_runs(&self, api: &ApiRecorder) -> Option<&KeyRuns> {
        let make = || KeyRuns::new(api, &self.access.identity).map(Box::new);
        self.key_runs.get_or_init(make).as_deref()
    }
}

impl std::ops::Deref for Held {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.access
    }
}

/// The shard's sessions.
pub struct Sessions {
    line: Line<Ask, Found>,
    /// How long a request waits for the store.
    deadline_ms: u64,
    /// How long a session counts without being read again (Tyk: 10 s).
    fresh_ms: u64,
    kept: RefCell<Kept>,
}

type ByToken = HashMap<Box<[u8]>, Rc<Held>, RandomState>;

#[derive(Default)]
struct Kept {
    by_scope: HashMap<u64, ByToken, RandomState>,
    count: usize,
    /// Organisations without a session, by scope, and until when that is believed.
    absent: HashMap<u64, u64, RandomState>,
}

impl Sessions {
    #[must_use]
    pub fn new(line: Line<Ask, Found>, deadline_ms: u64, fresh_ms: u64) -> Self {
        Self {
            line,
            deadline_ms,
            fresh_ms,
            kept: RefCell::default(),
        }
    }

    #[must_use]
    pub const fn line(&self) -> &Line<Ask, Found> {
        &self.line
    }

    /// A session that is at hand and fresh.
    #[must_use]
    pub fn at_hand(&self, scope: &Scope, token: &[u8], now_ms: u64) -> Option<Rc<Held>> {
        let kept = self.kept.borrow();
        let held = kept.by_scope.get(&scope.id())?.get(token)?;
        (now_ms < held.fresh_until_ms && !held.is_stale()).then(|| Rc::clone(held))
    }

    /// A session that was at hand once and has not been replaced: for APIs that go on with it while
    /// the store is away. A change that this node was told of ends it.
    #[must_use]
    pub fn left_over(&self, scope: &Scope, token: &[u8]) -> Option<Rc<Held>> {
        let kept = self.kept.borrow();
        let held = kept.by_scope.get(&scope.id())?.get(token)?;
        (!held.is_stale()).then(|| Rc::clone(held))
    }

    /// The session of a key, asked for. `Ok(None)`: there is none, or none that counts.
    ///
    /// # Errors
    /// [`NoAnswer`] when the store's thread is overloaded or gone, the deadline passed, or the store
    /// is away.
    pub async fn find(
        &self,
        scope: &Arc<Scope>,
        token: &str,
        clock: &Clock,
    ) -> Result<Option<Rc<Held>>, NoAnswer> {
        let ask = Ask {
            scope: Arc::clone(scope),
            token: token.to_owned(),
        };
        // The clock is behind by up to a tick: without it, a question that is asked just before the
        // next tick would have no time at all.
        let deadline_ms = clock.now_ms() + self.deadline_ms + TICK_MS;
        let found = self.line.ask(ask, deadline_ms).await?;
        let Some(access) = found.map_err(|_| NoAnswer::Gone)? else {
            self.forget(scope, token.as_bytes());
            if scope.kind == Kind::Organisation {
                let until_ms = clock.now_ms() + ABSENT_MS;
                self.kept.borrow_mut().absent.insert(scope.id(), until_ms);
            }
            return Ok(None);
        };
        // What another shard asked for a while ago is not kept longer here.
        let age_ms = access.age_now_ms();
        let held = Rc::new(Held {
            access,
            fresh_until_ms: clock.now_ms() + self.fresh_ms.saturating_sub(age_ms),
            key_runs: OnceCell::new(),
        });
        if !held.is_stale() {
            self.keep(scope, token.as_bytes(), Rc::clone(&held), clock.now_ms());
        }
        Ok(Some(held))
    }

    /// There was no such organisation a moment ago. Asked again soon: in Tyk it stays absent until
    /// a reload.
    #[must_use]
    pub fn is_absent(&self, scope: &Scope, now_ms: u64) -> bool {
        let kept = self.kept.borrow();
        let until_ms = kept.absent.get(&scope.id());
        until_ms.is_some_and(|until_ms| now_ms < *until_ms)
    }

    /// Lets go of what no longer counts.
    pub fn sweep(&self, now_ms: u64) {
        let mut kept = self.kept.borrow_mut();
        // What is over may still be of use while the store is away, for as long again.
        let keep_ms = self.fresh_ms * 6;
        let mut count = 0;
        kept.by_scope.retain(|_, tokens| {
            tokens.retain(|_, held| !held.is_stale() && held.fresh_until_ms + keep_ms > now_ms);
            count += tokens.len();
            !tokens.is_empty()
        });
        kept.count = count;
        kept.absent.retain(|_, until_ms| now_ms < *until_ms);
    }

    fn keep(&self, scope: &Scope, token: &[u8], held: Rc<Held>, now_ms: u64) {
        let mut kept = self.kept.borrow_mut();
        if kept.count >= KEPT_MAX {
            kept.by_scope.retain(|_, tokens| {
                tokens.retain(|_, held| !held.is_stale() && held.fresh_until_ms > now_ms);
                !tokens.is_empty()
            });
            kept.count = kept.by_scope.values().map(HashMap::len).sum();
            if kept.count >= KEPT_MAX {
                kept.by_scope.clear();
                kept.count = 0;
            }
        }
        let tokens = kept.by_scope.entry(scope.id()).or_default();
        let is_new = tokens.insert(token.into(), held).is_none();
        kept.count += usize::from(is_new);
    }

    fn forget(&self, scope: &Scope, token: &[u8]) {
        let mut kept = self.kept.borrow_mut();
        let gone = kept
            .by_scope
            .get_mut(&scope.id())
            .and_then(|tokens| tokens.remove(token));
        kept.count -= usize::from(gone.is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        sync::Arc,
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::{
        mailbox::{Answered, Outlet, Wake, inbox, mailbox},
        net::watch::Watch,
    };

    #[test]
    fn a_question_has_its_whole_time_whenever_it_is_asked() {
        let (mailbox, _desk) = mailbox(8);
        let (_inbox, outlet): (_, Outlet<Answered<Found>>) =
            inbox(Wake::socketpair().expect("a pair"), 8);
        let sessions = Sessions::new(Line::new(mailbox, Arc::new(outlet), 8), 100, 10_000);
        let watch = Watch::new();
        let scope = Arc::new(Scope::of_organisation("org"));
        let mut answer = pin!(sessions.find(&scope, "org", watch.clock()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(answer.as_mut().poll(&mut cx).is_pending());
        // The next tick may come a moment after the question.
        sessions.line().expire(TICK_MS);
        assert!(answer.as_mut().poll(&mut cx).is_pending());
        sessions.line().expire(2 * TICK_MS);
        let Poll::Ready(answer) = answer.as_mut().poll(&mut cx) else {
            panic!("it waits longer than its deadline");
        };
        assert_eq!(answer.err(), Some(NoAnswer::TimedOut));
    }
}
