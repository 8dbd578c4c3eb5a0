//! The sessions that one shard has at hand, and its line to those it has not.
//!
//! A request whose session is at hand costs one look into a map and one at a flag; nothing is
//! asked, locked or copied. Everything else is a question to `auth::directory`.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher},
    rc::Rc,
    sync::Arc,
};

use ahash::RandomState;

use crate::{
    analytics::{ApiRecorder, KeyRuns},
    auth::{
        access::{Access, Kind, Pass, Scope, marks},
        directory::{Ask, Found},
    },
    mailbox::{Line, NoAnswer},
    net::watch::{Clock, TICK_MS, process_us},
};

/// Sessions that a shard keeps. With more in use, some are asked for again.
const KEPT_MAX: usize = 65_536;

/// How long an organisation without a session is not asked for again.
const ABSENT_MS: u64 = 1_000;

/// A session that a shard holds: all that most requests need of it in three adjacent cache lines.
#[derive(Debug)]
#[repr(C)]
pub struct Held {
    /// When its age has to be looked at, on the shard's clock.
    due_ms: Cell<u64>,
    /// It was not stale when so many accesses of the process had been marked.
    marks: Cell<u64>,
    /// The access's own, copied.
    pub pass: Pass,
    access: Arc<Access>,
    scope: Arc<Scope>,
    /// Its part of records, put into bytes for the first of them.
    key_runs: OnceCell<Option<Box<KeyRuns>>>,
    token: Token,
}

impl std::ops::Deref for Held {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.access
    }
}

/// As presented.
#[derive(Debug)]
enum Token {
    Short(u8, [u8; TOKEN_SHORT_MAX]),
    Long(Box<[u8]>),
}

/// Tyk's tokens have 56 bytes and custom ones fewer; with so many an entry ends with a cache line.
const TOKEN_SHORT_MAX: usize = 62;

impl Token {
    fn new(token: &[u8]) -> Self {
        let mut short = [0; TOKEN_SHORT_MAX];
        match short.get_mut(..token.len()) {
            Some(place) => {
                place.copy_from_slice(token);
                Self::Short(token.len() as u8, short)
            }
            None => Self::Long(token.into()),
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

impl Held {
    fn new(scope: &Arc<Scope>, token: &[u8], access: Arc<Access>) -> Self {
        Self {
            due_ms: Cell::new(0),
            marks: Cell::new(marks()),
            pass: access.pass.clone(),
            access,
            scope: Arc::clone(scope),
            key_runs: OnceCell::new(),
            token: Token::new(token),
        }
    }

    /// What the records of this key at that API have in common; `None` where they must be put
    /// together one by one.
    #[inline]
    #[must_use]
    pub fn key_runs(&self, api: &ApiRecorder) -> Option<&KeyRuns> {
        let make = || KeyRuns::new(api, &self.access.identity).map(Box::new);
        self.key_runs.get_or_init(make).as_deref()
    }

    /// Reads what the request will need next, so that it comes while the token is compared.
    #[inline]
    fn warm(&self) {
        if let Some(cell) = &self.pass.limits.rate {
            cell.warm();
        }
        if let Some(cell) = &self.pass.limits.quota {
            cell.warm();
        }
    }

    #[inline]
    fn is_of(&self, scope: &Scope, token: &[u8]) -> bool {
        self.scope.id() == scope.id() && self.token.bytes() == token
    }

    /// As [`Access::is_stale`], without looking at the access while nothing was marked.
    #[inline]
    fn is_stale(&self) -> bool {
        let marks = marks();
        if marks == self.marks.get() {
            return false;
        }
        let is_stale = self.access.is_stale();
        if !is_stale {
            self.marks.set(marks);
        }
        is_stale
    }
}

// With the counts of its `Rc`, three lines.
const _: () = assert!(size_of::<Held>() + 2 * size_of::<usize>() == 192);

/// The shard's sessions.
pub struct Sessions {
    line: Line<Ask, Found>,
    /// How long a request waits for the store.
    deadline_ms: u64,
    /// How long a session counts without being read again (Tyk: 10 s).
    fresh_ms: u64,
    kept: RefCell<Kept>,
    /// In use and about to be too old: to be read again before somebody has to wait for it.
    wanted: RefCell<Vec<Ask>>,
    hasher: RandomState,
}

#[derive(Default)]
struct Kept {
    /// By hash of scope and token. Of two with the same hash the later one is kept.
    by_hash: HashMap<u64, Rc<Held>, AsIs>,
    /// Organisations without a session, by scope, and until when that is believed.
    absent: HashMap<u64, u64, RandomState>,
}

/// For keys that are hashes already.
#[derive(Default, Clone)]
struct AsIs(u64);

impl BuildHasher for AsIs {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Sessions {
    #[must_use]
    pub fn new(line: Line<Ask, Found>, deadline_ms: u64, fresh_ms: u64) -> Self {
        Self {
            line,
            deadline_ms,
            fresh_ms,
            kept: RefCell::default(),
            wanted: RefCell::default(),
            hasher: RandomState::new(),
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
        let held = kept.by_hash.get(&self.hash(scope, token))?;
        held.warm();
        let is_good = held.is_of(scope, token)
            && (now_ms < held.due_ms.get() || self.is_fresh(held, now_ms))
            && !held.is_stale();
        is_good.then(|| Rc::clone(held))
    }

    /// A session that was at hand once and has not been replaced: for APIs that go on with it while
    /// the store is away. A change that this node was told of ends it.
    #[must_use]
    pub fn left_over(&self, scope: &Scope, token: &[u8]) -> Option<Rc<Held>> {
        let kept = self.kept.borrow();
        let held = kept.by_hash.get(&self.hash(scope, token))?;
        (held.is_of(scope, token) && !held.is_changed()).then(|| Rc::clone(held))
    }

    /// The session of a key, asked for. `Ok(None)`: there is none, or none that counts. The time to
    /// answer runs from `asked_us`, by [`process_us`](crate::net::watch::process_us).
    ///
    /// # Errors
    /// [`NoAnswer`] when the store's thread is overloaded or gone, the deadline passed, or the store
    /// is away.
    pub async fn find(
        &self,
        scope: &Arc<Scope>,
        token: &str,
        asked_us: u64,
        clock: &Clock,
    ) -> Result<Option<Rc<Held>>, NoAnswer> {
        let ask = Ask {
            scope: Arc::clone(scope),
            token: token.to_owned(),
            asked_us,
            is_ahead: false,
        };
        // The other side answers by itself in time, exactly. Here is seen to it when that side has
        // no time, by a clock that is behind by up to a tick: without it, a question that is asked
        // just before the next tick would have no time at all.
        let deadline_ms = clock.now_ms() + self.deadline_ms + TICK_MS;
        let answer = self.line.ask(ask, deadline_ms).await;
        let found = match answer.and_then(|found| found.map_err(|_| NoAnswer::Gone)) {
            Ok(found) => found,
            Err(why) => return self.doubtful(scope, token).map(Some).ok_or(why),
        };
        let Some(access) = found else {
            self.forget(scope, token.as_bytes());
            if scope.kind == Kind::Organisation {
                let until_ms = clock.now_ms() + ABSENT_MS;
                self.kept.borrow_mut().absent.insert(scope.id(), until_ms);
            }
            return Ok(None);
        };
        let held = Rc::new(Held::new(scope, token.as_bytes(), access));
        if !held.access.is_stale() {
            // What another shard asked for a while ago is not kept longer here.
            let left_ms = self.left_ms(&held);
            held.due_ms
                .set(clock.now_ms() + left_ms.saturating_sub(self.ahead_ms()));
            self.keep(Rc::clone(&held), clock.now_ms());
        }
        Ok(Some(held))
    }

    /// A session that is at hand and fresh, and may have changed: messages were missed, and nobody
    /// can say.
    fn doubtful(&self, scope: &Scope, token: &str) -> Option<Rc<Held>> {
        let held = self.left_over(scope, token.as_bytes())?;
        (self.left_ms(&held) > 0).then_some(held)
    }

    /// Asks for what is in use and about to be too old; for the shard's timer. Nobody waits: what is
    /// unchanged is confirmed in place, anything else is marked stale and asked for again.
    pub fn ask_ahead(&self) {
        for ask in self.wanted.borrow_mut().drain(..) {
            // What finds no room is asked for when it is too old.
            let _ = self.line.tell(ask);
        }
    }

    /// Whether a session that is due counts still. Reads the clock.
    #[cold]
    fn is_fresh(&self, held: &Held, now_ms: u64) -> bool {
        let left_ms = self.left_ms(held);
        if left_ms == 0 {
            return false;
        }
        if let Some(later_ms) = left_ms.checked_sub(self.ahead_ms())
            && later_ms > 0
        {
            held.due_ms.set(now_ms + later_ms);
            return true;
        }
        held.due_ms.set(now_ms + left_ms);
        if let Ok(token) = std::str::from_utf8(held.token.bytes()) {
            self.wanted.borrow_mut().push(Ask {
                scope: Arc::clone(&held.scope),
                token: token.to_owned(),
                asked_us: process_us(),
                is_ahead: true,
            });
        }
        true
    }

    /// How long it counts without being read again.
    fn left_ms(&self, held: &Held) -> u64 {
        self.fresh_ms.saturating_sub(held.access.age_now_ms())
    }

    /// The last part of the time that a session counts for.
    const fn ahead_ms(&self) -> u64 {
        self.fresh_ms / 10
    }

    #[inline]
    fn hash(&self, scope: &Scope, token: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(scope.id());
        token.hash(&mut hasher);
        hasher.finish()
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
        kept.by_hash
            .retain(|_, held| !held.is_changed() && held.due_ms.get() + keep_ms > now_ms);
        kept.absent.retain(|_, until_ms| now_ms < *until_ms);
    }

    fn keep(&self, held: Rc<Held>, now_ms: u64) {
        let mut kept = self.kept.borrow_mut();
        let hash = self.hash(&held.scope, held.token.bytes());
        if kept.by_hash.len() >= KEPT_MAX {
            kept.by_hash
                .retain(|_, held| !held.is_stale() && held.due_ms.get() > now_ms);
            if kept.by_hash.len() >= KEPT_MAX {
                kept.by_hash.clear();
            }
        }
        kept.by_hash.insert(hash, held);
    }

    fn forget(&self, scope: &Scope, token: &[u8]) {
        let hash = self.hash(scope, token);
        self.kept.borrow_mut().by_hash.remove(&hash);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        sync::Arc,
        task::{Context, Poll, Waker},
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        auth::limits::Limits,
        mailbox::{Answered, Desk, Inbox, Wake, inbox, mailbox},
        net::watch::Watch,
        session::Session,
    };

    fn sessions() -> (Sessions, Desk<Ask, Found>, Inbox<Answered<Found>>) {
        let (mailbox, desk) = mailbox(8);
        let (inbox, outlet) = inbox(Wake::socketpair().expect("a pair"), 8);
        let line = Line::new(mailbox, Arc::new(outlet), 8);
        (Sessions::new(line, 100, 10_000), desk, inbox)
    }

    #[allow(clippy::disallowed_methods, reason = "an age needs a time")]
    fn now() -> Instant {
        Instant::now()
    }

    fn read_ago(scope: &Scope, ago: Duration) -> Arc<Access> {
        let loaded = now()
            .checked_sub(ago)
            .expect("the machine is up for longer");
        let session = Arc::new(Session::default());
        let [id, name] = ["id", "name"].map(str::to_owned);
        let (urls, limits) = (Box::default(), Limits::default());
        Arc::new(Access::new(
            id, name, session, scope, urls, limits, loaded, 0,
        ))
    }

    #[test]
    fn a_session_in_use_is_asked_for_before_its_time_is_over_and_goes_on_when_it_is_confirmed() {
        let (sessions, mut desk, _inbox) = sessions();
        let scope = Arc::new(Scope::of_organisation("org"));
        let long = [b'x'; TOKEN_SHORT_MAX + 1];
        let tokens = [&b"short"[..], &long[..TOKEN_SHORT_MAX], &long];
        for token in tokens {
            let access = read_ago(&scope, Duration::from_millis(9_500));
            let held = Held::new(&scope, token, Arc::clone(&access));
            sessions.keep(Rc::new(held), 0);
            // Once, however often it is used.
            for _ in 0..3 {
                assert!(sessions.at_hand(&scope, token, 0).is_some());
            }
            // In time: its age begins anew.
            access.confirm(now());
            assert!(sessions.at_hand(&scope, token, 500).is_some());
            assert!(sessions.at_hand(&scope, token, 8_000).is_some());
        }
        sessions.ask_ahead();
        let mut asked = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let taken = pin!(desk.recv_batch(&mut asked, 8)).as_mut().poll(&mut cx);
        assert_eq!(taken, Poll::Ready(3));
        for (question, token) in asked.iter().zip(tokens) {
            assert_eq!(question.payload.token.as_bytes(), token);
            assert!(question.payload.is_ahead);
        }
    }

    #[test]
    fn a_session_is_at_hand_until_it_is_too_old_or_marked_and_for_its_own_scope() {
        let (sessions, _desk, _inbox) = sessions();
        let scope = Arc::new(Scope::of_organisation("org"));
        let keep = |ago| {
            let access = read_ago(&scope, ago);
            let held = Held::new(&scope, b"token", Arc::clone(&access));
            sessions.keep(Rc::new(held), 0);
            access
        };
        keep(Duration::from_secs(10));
        assert!(sessions.at_hand(&scope, b"token", 0).is_none());
        assert!(sessions.left_over(&scope, b"token").is_some());
        let access = keep(Duration::ZERO);
        assert!(sessions.at_hand(&scope, b"token", 0).is_some());
        assert!(sessions.at_hand(&scope, b"toker", 0).is_none());
        let other = Scope::of_organisation("org");
        assert!(sessions.at_hand(&other, b"token", 0).is_none());
        read_ago(&scope, Duration::ZERO).set_changed();
        assert!(sessions.at_hand(&scope, b"token", 0).is_some());
        access.set_changed();
        assert!(sessions.at_hand(&scope, b"token", 0).is_none());
        assert!(sessions.left_over(&scope, b"token").is_none());
    }

    /// What a question gets that nobody answers.
    fn ask_in_vain(sessions: &Sessions, scope: &Arc<Scope>) -> Result<(), NoAnswer> {
        let watch = Watch::new();
        let mut answer = pin!(sessions.find(scope, "org", 0, watch.clock()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(answer.as_mut().poll(&mut cx).is_pending());
        // The next tick may come a moment after the question.
        sessions.line().expire(TICK_MS);
        assert!(answer.as_mut().poll(&mut cx).is_pending());
        sessions.line().expire(2 * TICK_MS);
        match answer.as_mut().poll(&mut cx) {
            Poll::Ready(answer) => answer.map(drop),
            Poll::Pending => panic!("it waits longer than its deadline"),
        }
    }

    #[test]
    fn a_question_has_its_whole_time_whenever_it_is_asked() {
        let (sessions, _desk, _inbox) = sessions();
        let scope = Arc::new(Scope::of_organisation("org"));
        assert_eq!(ask_in_vain(&sessions, &scope), Err(NoAnswer::TimedOut));
    }

    #[test]
    fn a_session_that_may_have_changed_counts_while_nobody_can_say() {
        let (sessions, _desk, _inbox) = sessions();
        let scope = Arc::new(Scope::of_organisation("org"));
        let keep = |ago| {
            let access = read_ago(&scope, ago);
            let held = Held::new(&scope, b"org", Arc::clone(&access));
            sessions.keep(Rc::new(held), 0);
            access
        };
        let access = keep(Duration::from_secs(5));
        assert!(sessions.at_hand(&scope, b"org", 0).is_some());
        access.set_doubtful();
        assert!(
            sessions.at_hand(&scope, b"org", 0).is_none(),
            "it is asked for"
        );
        assert!(ask_in_vain(&sessions, &scope).is_ok());
        access.set_changed();
        assert!(ask_in_vain(&sessions, &scope).is_err());
        keep(Duration::from_secs(10)).set_doubtful();
        assert!(ask_in_vain(&sessions, &scope).is_err(), "its time is over");
    }
}
