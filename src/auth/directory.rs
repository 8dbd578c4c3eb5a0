//! The sessions of a node: read from the store, made into [`Access`]es, kept while they are fresh.
//!
//! Lives on tokio's side. Shards keep what they got from here for themselves and look at one flag
//! of it per request; [`Directory::changed`] sets that flag, so that a change counts for the next
//! request of every shard.
//!
//! Tyk: `gateway/middleware.go` (`CheckSessionAndIdentityForValidKey`), `auth_manager.go`
//! (`SessionDetail`).

#![allow(
    clippy::disallowed_types,
    reason = "held for a few instructions on the control side and never over an await"
)]

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ahash::RandomState;
use regex_automata::meta::Regex;
use tokio::sync::Semaphore;

use crate::{
    apidef::url_regex,
    auth::{
        access::{Access, AllowedUrl, Kind, Scope},
        limits::Limits,
        write_back::Homes,
    },
    hash::{Candidate, HashFn, KeyNaming},
    limit::Cells,
    mailbox::{Desk, Question},
    net::watch::process_us,
    policy::{self, Policies},
    session::Session,
    storage::{Owner, REQUEST_PATIENCE, StoreError, keys},
};

/// What a shard asks.
pub struct Ask {
    pub scope: Arc<Scope>,
    /// The key as presented; for an organisation its id.
    pub token: String,
    /// When its request began to wait for the store, by
    /// [`process_us`](crate::net::watch::process_us).
    pub asked_us: u64,
    /// Nobody waits: it is at hand and in use, and about to be too old.
    pub is_ahead: bool,
}

/// What a question brought; `None`: no such key, or none that counts.
pub type Found = Result<Option<Arc<Access>>, StoreError>;

/// Questions that become one question to the store.
const BATCH_MAX: usize = 64;

/// Questions to the store under way. While all are, the mailbox fills and shards are told so.
const BATCHES_MAX: usize = 32;

/// Expressions of `allowed_urls` that are kept compiled.
const EXPRESSIONS_MAX: usize = 10_000;

/// What is older is let go by the sweep.
const KEEP: Duration = Duration::from_secs(60);

/// All sessions that this node has read lately.
pub struct Directory {
    naming: KeyNaming,
    owner: Arc<Owner>,
    policies: Arc<policy::Current>,
    cells: Arc<Cells>,
    /// How long an access counts without being read again.
    fresh: Duration,
    state: Mutex<State>,
    /// Grows with every change of anything: what was read before and arrives after may be old.
    changes: AtomicU64,
    hasher: RandomState,
    homes: Homes,
}

#[derive(Default)]
struct State {
    by_token: HashMap<(u64, Box<str>), Arc<Access>, RandomState>,
    /// Under the hash of each name that a change may come under.
    by_name: HashMap<u64, Vec<Weak<Access>>, RandomState>,
    expressions: HashMap<String, Option<Arc<Regex>>, RandomState>,
}

impl Directory {
    /// `fresh` of zero: every request reads its session from the store.
    #[must_use]
    pub fn new(
        naming: KeyNaming,
        owner: Arc<Owner>,
        policies: Arc<policy::Current>,
        cells: Arc<Cells>,
        fresh: Duration,
    ) -> Self {
        Self {
            naming,
            owner,
            policies,
            cells,
            fresh,
            state: Mutex::default(),
            changes: AtomicU64::new(0),
            hasher: RandomState::new(),
            homes: Homes::default(),
        }
    }

    /// Answers the questions of shards until every shard is gone. Questions that wait are asked of
    /// the store together; a slow answer holds up nobody else's.
    pub async fn run(self: Arc<Self>, mut desk: Desk<Ask, Found>) {
        let slots = Arc::new(Semaphore::new(BATCHES_MAX));
        let mut batch = Vec::new();
        loop {
            // Closing the semaphore is not in the program.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            if desk.recv_batch(&mut batch, BATCH_MAX).await == 0 {
                return;
            }
            let questions = std::mem::take(&mut batch);
            let directory = Arc::clone(&self);
            // A panic in there drops the replies, which tells the shards.
            tokio::spawn(async move {
                directory.answer(questions, process_us()).await;
                drop(slot);
            });
        }
    }

    /// Looks one key up.
    ///
    /// # Errors
    /// What the store says.
    pub async fn find(&self, ask: Ask) -> Found {
        let mut found = self.find_all(&[ask]).await;
        found.pop().unwrap_or(Ok(None))
    }

    /// Names under which something has changed: keys, or their names in the store. Counts for the
    /// next request.
    pub fn changed<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let mut state = self.state();
        for name in names {
            let hash = self.hasher.hash_one(name);
            for access in state.by_name.remove(&hash).unwrap_or_default() {
                if let Some(access) = access.upgrade() {
                    access.set_changed();
                }
            }
        }
    }

    /// Messages were missed: anything may have changed. What the store does not tell anew, because
    /// it does not answer yet, counts for as long as it would have without that.
    pub fn all_doubtful(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        for access in self.state().by_token.values() {
            access.set_doubtful();
        }
    }

    /// Everything has changed: policies.
    pub fn all_changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        let mut state = self.state();
        for access in state.by_token.values() {
            access.set_changed();
        }
        state.by_token.clear();
        state.by_name.clear();
    }

    pub(super) const fn homes(&self) -> &Homes {
        &self.homes
    }

    pub(super) const fn naming(&self) -> &KeyNaming {
        &self.naming
    }

    pub(super) const fn owner(&self) -> &Arc<Owner> {
        &self.owner
    }

    /// Lets go of what has not been read for a while. For a timer.
    pub fn sweep(&self) {
        let now = now();
        let mut state = self.state();
        state
            .by_token
            .retain(|_, access| !access.is_changed() && access.age(now) < KEEP.max(self.fresh));
        state.by_name.retain(|_, named| {
            named.retain(|access| access.strong_count() > 0);
            !named.is_empty()
        });
    }

    /// Answers each question when the store has, or when its time is over: some have waited before
    /// they came here.
    async fn answer(&self, questions: Vec<Question<Ask, Found>>, at_us: u64) {
        let at = tokio::time::Instant::now();
        let (mut asks, mut replies) = (Vec::new(), Vec::new());
        for Question { payload, reply, .. } in questions {
            match self.at_hand(&payload, now()) {
                Some(access) => reply.send(Ok(Some(access))),
                None => {
                    let waited = Duration::from_micros(at_us.saturating_sub(payload.asked_us));
                    let until = at + REQUEST_PATIENCE.saturating_sub(waited);
                    asks.push(payload);
                    replies.push((until, Some(reply)));
                }
            }
        }
        let mut finding = std::pin::pin!(self.find_all(&asks));
        let found = loop {
            let waiting = replies.iter().filter(|(_, reply)| reply.is_some());
            let next = waiting.map(|(until, _)| *until).min();
            tokio::select! {
                biased;
                found = &mut finding => break found,
                // Without anybody who waits the answer is still awaited: how long it takes tells
                // whether the store is away, and what it says is kept.
                () = tokio::time::sleep_until(next.unwrap_or(at)), if next.is_some() => {}
            }
            let at = tokio::time::Instant::now();
            for (ask, (until, reply)) in asks.iter().zip(&mut replies) {
                if *until <= at
                    && let Some(reply) = reply.take()
                {
                    let silent = || StoreError::Away("no answer in time".to_owned());
                    reply.send(self.doubtful(ask, now()).map(Some).ok_or_else(silent));
                }
            }
        };
        for (found, (_, reply)) in found.into_iter().zip(replies) {
            if let Some(reply) = reply {
                reply.send(found);
            }
        }
    }

    /// One question to the store for all that is not at hand.
    async fn find_all(&self, asks: &[Ask]) -> Vec<Found> {
        let changes = self.changes.load(Ordering::Acquire);
        let now = now();
        let mut names = Vec::new();
        let sought: Vec<_> = asks
            .iter()
            .map(|ask| {
                if let Some(access) = self.at_hand(ask, now) {
                    return Err(access);
                }
                let candidates = match ask.scope.kind {
                    Kind::Key => self.naming.candidates(&ask.token, &ask.scope.org_id),
                    Kind::Organisation => vec![Candidate {
                        key: ask.token.clone(),
                        name: self.naming.name(&ask.token).into_owned(),
                    }],
                };
                names.extend(candidates.iter().map(|candidate| match ask.scope.kind {
                    Kind::Key => keys::session(&candidate.name),
                    Kind::Organisation => keys::organisation(&ask.token),
                }));
                Ok((ask, candidates))
            })
            .collect();
        let values = if names.is_empty() {
            Ok(Vec::new())
        } else {
            match self.owner.store_within(REQUEST_PATIENCE) {
                Ok(store) => store.get_many(names).await,
                Err(error) => Err(error),
            }
        };
        let mut values = match values {
            Ok(values) => Ok(values.into_iter()),
            Err(error) => Err(error),
        };
        sought
            .into_iter()
            .map(|sought| {
                let (ask, candidates) = match sought {
                    Ok(sought) => sought,
                    Err(access) => return Ok(Some(access)),
                };
                let values = match &mut values {
                    Ok(values) => values,
                    Err(error) => {
                        return self
                            .doubtful(ask, now)
                            .map(Some)
                            .ok_or_else(|| error.clone());
                    }
                };
                let mut first = None;
                for candidate in candidates {
                    let value = values.next().flatten();
                    if first.is_none()
                        && let Some(value) = value
                    {
                        first = Some((candidate, value));
                    }
                }
                if let Some((candidate, value)) = &first
                    && let Some(access) = self.confirm(ask, candidate, value, now)
                {
                    return Ok(Some(access));
                }
                let found = first.and_then(|(candidate, value)| {
                    let access = self.make(&ask.scope, candidate, &value, now)?;
                    Some((access, value))
                });
                // What may have been read before a change is not kept, and takes the place of nothing;
                // that there is no key counts in any case.
                if found.is_none() || self.changes.load(Ordering::Acquire) == changes {
                    self.settle(ask);
                }
                Ok(found.map(|(access, value)| {
                    let scope = Arc::clone(&ask.scope);
                    let access = self.keep(ask, access, changes);
                    self.homes.note(&access, &scope, &value);
                    access
                }))
            })
            .collect()
    }

    fn at_hand(&self, ask: &Ask, now: Instant) -> Option<Arc<Access>> {
        self.known(ask, now).filter(|access| !access.is_stale())
    }

    /// What was read in time and may have changed since, while the store does not say.
    fn doubtful(&self, ask: &Ask, now: Instant) -> Option<Arc<Access>> {
        let known = self.known(ask, now);
        known.filter(|access| !access.is_changed())
    }

    /// What was doubtful, or asked for ahead of its end, has been read anew, whatever came of it: who
    /// holds it is to look for that.
    fn settle(&self, ask: &Ask) {
        let mut state = self.state();
        let place = ask.place();
        if let Some(before) = state.by_token.get(&place)
            && (ask.is_ahead || before.is_stale())
        {
            before.set_changed();
            state.by_token.remove(&place);
        }
    }

    fn known(&self, ask: &Ask, now: Instant) -> Option<Arc<Access>> {
        let state = self.state();
        let access = state.by_token.get(&ask.place())?;
        let fresh = if ask.is_ahead {
            self.fresh * 4 / 5
        } else {
            self.fresh
        };
        (access.age(now) < fresh).then(|| Arc::clone(access))
    }

    /// The access that there was, when the store has what it was made from still.
    fn confirm(
        &self,
        ask: &Ask,
        candidate: &Candidate,
        value: &[u8],
        now: Instant,
    ) -> Option<Arc<Access>> {
        let state = self.state();
        let access = state.by_token.get(&ask.place())?;
        // Changes mark it under the same lock.
        let is_good = !access.is_stale()
            && access.is_made_from(&candidate.key, self.digest(value))
            && !access.pass.limits.are_makeshift();
        is_good.then(|| {
            access.confirm(now);
            Arc::clone(access)
        })
    }

    fn digest(&self, value: &[u8]) -> u64 {
        self.hasher.hash_one(value)
    }

    /// A session as the API sees it; `None` when it cannot be read or a policy forbids it.
    fn make(
        &self,
        scope: &Scope,
        candidate: Candidate,
        value: &[u8],
        now: Instant,
    ) -> Option<Access> {
        let mut session = match Session::from_json_slice(value) {
            Ok(session) => session,
            Err(error) => {
                tracing::warn!(prefix = "auth-mgr", %error, "a stored session cannot be read");
                return None;
            }
        };
        if scope.kind == Kind::Key {
            let policies: Arc<Policies> = self.policies.load();
            if let Err(error) = policy::apply(&mut session, &policies, Some(&scope.org_id)) {
                tracing::warn!(prefix = "auth-mgr", api_id = %scope.api_id, %error, "policies");
                return None;
            }
        }
        let allowed_urls = self.allowed_urls(scope, &session);
        let limits = Limits::of(&session, scope, &candidate.name, &self.cells);
        let session = Arc::new(session);
        Some(Access::new(
            candidate.key,
            candidate.name,
            session,
            scope,
            allowed_urls,
            limits,
            now,
            self.digest(value),
        ))
    }

    fn allowed_urls(&self, scope: &Scope, session: &Session) -> Box<[AllowedUrl]> {
        let Some(right) = session.access_rights.get(&scope.api_id) else {
            return Box::default();
        };
        let mut state = self.state();
        if state.expressions.len() > EXPRESSIONS_MAX {
            state.expressions.clear();
        }
        right
            .allowed_urls
            .iter()
            .map(|spec| {
                let url = state
                    .expressions
                    .entry(spec.url.clone())
                    .or_insert_with(|| {
                        let compiled = url_regex::compile(&spec.url);
                        if let Err(why) = &compiled {
                            tracing::warn!(prefix = "auth-mgr", url = %spec.url, %why, "allowed_urls");
                        }
                        compiled.ok().map(Arc::new)
                    })
                    .clone();
                AllowedUrl {
                    url,
                    methods: spec.methods.iter().cloned().collect(),
                }
            })
            .collect()
    }

    fn keep(&self, ask: &Ask, access: Access, changes: u64) -> Arc<Access> {
        let access = Arc::new(access);
        let mut state = self.state();
        if self.fresh.is_zero() {
            return access;
        }
        if self.changes.load(Ordering::Acquire) != changes {
            // It may have been read before the change: good for this request and no other.
            access.set_changed();
            return access;
        }
        let hashed = |text: &str| HashFn::Murmur64.hex(text);
        for name in [
            &*access.key_id,
            &*access.key_name,
            &*ask.token,
            &*hashed(&ask.token),
            &*hashed(&access.key_id),
        ] {
            let named = state.by_name.entry(self.hasher.hash_one(name)).or_default();
            if !named
                .iter()
                .any(|known| std::ptr::eq(known.as_ptr(), &raw const *access))
            {
                named.push(Arc::downgrade(&access));
            }
        }
        state.by_token.insert(ask.place(), Arc::clone(&access));
        access
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ask {
    fn place(&self) -> (u64, Box<str>) {
        (self.scope.id(), Box::from(self.token.as_str()))
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "ages of what is kept, on tokio's side"
)]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apidef::ApiDefinition,
        limit::Settings,
        mailbox::{Answered, Deliver, Pending, Reply, Ticket},
        storage::{
            Store as _,
            tests::{Stub, paused},
        },
    };

    const HASHED: KeyNaming = KeyNaming {
        is_hashed: true,
        function: Some(HashFn::Murmur64),
        fallbacks: Vec::new(),
        is_by_key_only: false,
    };

    struct Node {
        stub: Stub,
        directory: Directory,
        scope: Arc<Scope>,
    }

    impl Node {
        async fn new(naming: KeyNaming, fresh: Duration) -> Self {
            let stub = Stub::new();
            let owner = Arc::new(stub.owner());
            owner.acquire().await.unwrap();
            let api = ApiDefinition {
                api_id: "a".to_owned(),
                org_id: "org".to_owned(),
                ..ApiDefinition::default()
            };
            Self {
                stub,
                directory: Directory::new(
                    naming,
                    owner,
                    Arc::default(),
                    Cells::new(Settings::default()).0,
                    fresh,
                ),
                scope: Arc::new(Scope::of_api(&api)),
            }
        }

        async fn find(&self, token: &str) -> Found {
            let scope = Arc::clone(&self.scope);
            let token = token.to_owned();
            let ask = Ask {
                scope,
                token,
                asked_us: process_us(),
                is_ahead: false,
            };
            self.directory.find(ask).await
        }

        #[track_caller]
        fn alias(found: &Found) -> &str {
            let access = found.as_ref().unwrap().as_ref().unwrap();
            &access.session.alias
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_custom_key_is_found_behind_its_organisation() {
        paused(async {
            let node = Node::new(KeyNaming::default(), MINUTE).await;
            assert!(node.find("mine").await.unwrap().is_none());
            node.stub.put("apikey-mine", r#"{"alias":"bare"}"#);
            assert_eq!(Node::alias(&node.find("mine").await), "bare");
            node.directory.changed(["mine"]);
            node.stub.put("apikey-orgmine", r#"{"alias":"custom"}"#);
            let found = node.find("mine").await;
            assert_eq!(Node::alias(&found), "custom");
            assert_eq!(found.unwrap().unwrap().key_id, "orgmine");
        });
    }

    #[test]
    fn a_session_is_read_once_and_anew_after_a_change_under_any_of_its_names() {
        paused(async {
            let node = Node::new(HASHED, MINUTE).await;
            let key = HASHED.key("org", "mine").unwrap();
            let name = HASHED.name(&key).into_owned();
            let stored = keys::session(&name);
            let presented_hash = HashFn::Murmur64.hex("mine");
            for changed in [&key, &name, "mine", &presented_hash] {
                node.stub.put(&stored, r#"{"alias":"before"}"#);
                let held = node.find("mine").await;
                assert_eq!(Node::alias(&held), "before");
                node.stub.put(&stored, r#"{"alias":"after"}"#);
                assert_eq!(Node::alias(&node.find("mine").await), "before");
                node.directory.changed(["other"]);
                assert!(!held.as_ref().unwrap().as_ref().unwrap().is_stale());
                node.directory.changed([changed]);
                assert!(held.unwrap().unwrap().is_stale(), "{changed}");
                assert_eq!(Node::alias(&node.find("mine").await), "after");
                node.directory.all_changed();
            }
        });
    }

    #[test]
    fn what_the_store_has_unchanged_is_confirmed_and_anything_else_is_marked() {
        paused(async {
            // Too old as soon as it is there, and kept all the same.
            let node = Node::new(KeyNaming::default(), Duration::from_nanos(1)).await;
            let ahead = || Ask {
                scope: Arc::clone(&node.scope),
                token: "mine".to_owned(),
                asked_us: process_us(),
                is_ahead: true,
            };
            node.stub.put("apikey-mine", r#"{"alias":"bare"}"#);
            let held = node.find("mine").await.unwrap().unwrap();
            let again = node.directory.find(ahead()).await.unwrap().unwrap();
            assert!(Arc::ptr_eq(&held, &again));
            assert!(!held.is_stale());
            // Another key, which is looked for first, with the same session.
            node.stub.put("apikey-orgmine", r#"{"alias":"bare"}"#);
            let other = node.directory.find(ahead()).await.unwrap().unwrap();
            assert_eq!(other.key_id, "orgmine");
            assert!(held.is_stale(), "shards ask for what came instead");
            node.stub.put("apikey-orgmine", r#"{"alias":"else"}"#);
            let changed = node.directory.find(ahead()).await;
            assert_eq!(Node::alias(&changed), "else");
            assert!(other.is_stale());
            let changed = changed.unwrap().unwrap();
            node.directory.changed(["mine"]);
            let after = node.find("mine").await.unwrap().unwrap();
            assert!(
                !Arc::ptr_eq(&changed, &after),
                "a change is never confirmed"
            );
            for name in ["apikey-orgmine", "apikey-mine"] {
                node.stub.put(name, r#"{"expires":"never"}"#);
            }
            assert!(node.directory.find(ahead()).await.unwrap().is_none());
            assert!(after.is_stale(), "shards have it no longer");
        });
    }

    #[test]
    fn without_a_cache_each_request_reads() {
        paused(async {
            let node = Node::new(KeyNaming::default(), Duration::ZERO).await;
            node.stub.put("apikey-orgmine", r#"{"alias":"1"}"#);
            let first = node.find("mine").await;
            assert_eq!(Node::alias(&first), "1");
            node.stub.put("apikey-orgmine", r#"{"alias":"2"}"#);
            assert_eq!(Node::alias(&node.find("mine").await), "2");
        });
    }

    #[test]
    fn what_cannot_be_read_opens_nothing_and_a_store_that_is_away_is_told() {
        paused(async {
            let node = Node::new(KeyNaming::default(), MINUTE).await;
            node.stub.put("apikey-orgbroken", r#"{"expires":"never"}"#);
            assert!(node.find("broken").await.unwrap().is_none());
            node.stub
                .put("apikey-orgunknown", r#"{"apply_policies":["none"]}"#);
            assert!(node.find("unknown").await.unwrap().is_none());
            node.stub.put("apikey-orgmine", "{}");
            assert!(node.find("mine").await.unwrap().is_some());
            node.stub.fail("down");
            assert!(node.find("mine").await.unwrap().is_some(), "at hand");
            let away = StoreError::Away("down".to_owned());
            assert_eq!(node.find("other").await.err(), Some(away));
        });
    }

    #[test]
    fn after_missed_messages_a_session_is_read_anew_or_lives_on_until_the_store_answers() {
        paused(async {
            let node = Node::new(HASHED, MINUTE).await;
            let stored = keys::session(&HASHED.name(&HASHED.key("org", "mine").unwrap()));
            node.stub.put(&stored, r#"{"alias":"before"}"#);
            let held = node.find("mine").await.unwrap().unwrap();
            node.directory.all_doubtful();
            assert!(held.is_stale(), "shards ask");
            node.stub.fail("down");
            node.directory.sweep();
            for _ in 0..2 {
                assert_eq!(Node::alias(&node.find("mine").await), "before");
                assert!(node.find("stranger").await.is_err());
            }
            node.stub.heal();
            node.stub.put(&stored, r#"{"alias":"after"}"#);
            assert_eq!(Node::alias(&node.find("mine").await), "after");
            // What is known to have changed does not live on, nor what is known to be gone.
            node.directory.all_doubtful();
            node.stub.delete(&stored).await.unwrap();
            assert!(node.find("mine").await.unwrap().is_none());
            node.stub.fail("down");
            assert!(node.find("mine").await.is_err());
            node.stub.heal();
            node.stub.put(&stored, r#"{"alias":"after"}"#);
            assert_eq!(Node::alias(&node.find("mine").await), "after");
            node.directory.all_doubtful();
            node.directory.changed(["mine"]);
            node.stub.fail("down");
            assert!(node.find("mine").await.is_err());
            node.stub.heal();
            assert_eq!(Node::alias(&node.find("mine").await), "after");
            node.directory.all_changed();
            node.directory.all_doubtful();
            node.stub.fail("down");
            assert!(node.find("mine").await.is_err());
        });
    }

    #[test]
    fn an_answer_that_a_change_has_overtaken_ends_no_session_unless_the_key_is_gone() {
        paused(async {
            let node = Node::new(HASHED, MINUTE).await;
            let stored = keys::session(&HASHED.name(&HASHED.key("org", "mine").unwrap()));
            node.stub.put(&stored, r#"{"alias":"mine"}"#);
            assert_eq!(Node::alias(&node.find("mine").await), "mine");
            node.directory.all_doubtful();
            let late = Duration::from_millis(50);
            let overtaken = async |node: &Node| {
                node.stub.delay(late);
                let change = async {
                    tokio::time::sleep(late / 2).await;
                    node.directory.changed(["other"]);
                };
                let found = tokio::join!(node.find("mine"), change).0;
                node.stub.delay(Duration::ZERO);
                found
            };
            assert_eq!(Node::alias(&overtaken(&node).await), "mine");
            node.stub.fail("down");
            assert_eq!(Node::alias(&node.find("mine").await), "mine");
            node.stub.heal();
            node.stub.delete(&stored).await.unwrap();
            assert!(overtaken(&node).await.unwrap().is_none());
            node.stub.fail("down");
            assert!(node.find("mine").await.is_err());
        });
    }

    /// Who was answered, whether with a session, and when.
    #[derive(Default)]
    struct Answers(Mutex<Vec<(Ticket, bool, tokio::time::Instant)>>);

    impl Deliver<Found> for Answers {
        fn deliver(&self, answered: Answered<Found>) {
            let is_found = matches!(answered.outcome, Ok(Ok(Some(_))));
            let mut answers = self.0.lock().unwrap();
            answers.push((answered.ticket, is_found, tokio::time::Instant::now()));
        }
    }

    #[test]
    fn each_question_is_answered_when_its_own_time_is_over() {
        paused(async {
            let node = Node::new(KeyNaming::default(), MINUTE).await;
            node.stub.put("apikey-orgdoubtful", "{}");
            node.stub.put("apikey-orgknown", "{}");
            assert!(node.find("doubtful").await.unwrap().is_some());
            node.directory.all_doubtful();
            assert!(node.find("known").await.unwrap().is_some());
            node.stub.hang();
            let (answers, pending) = (Arc::new(Answers::default()), Pending::<Found>::new(8));
            let mut waits = Vec::new();
            // The age of each question in milliseconds, when it is answered, and whether well.
            let cases = [
                ("fresh", 0, 100, false),
                ("old", 70, 30, false),
                ("older", 95, 5, false),
                ("late", 500, 0, false),
                ("doubtful", 60, 40, true),
                ("known", 0, 0, true),
            ];
            let questions = cases.map(|(token, age_ms, ..)| {
                let (ticket, wait) = pending.ask(u64::MAX).unwrap();
                waits.push((ticket, wait));
                Question {
                    payload: Ask {
                        scope: Arc::clone(&node.scope),
                        token: token.to_owned(),
                        asked_us: (1_000 - age_ms) * 1_000,
                        is_ahead: false,
                    },
                    deadline_ms: u64::MAX,
                    reply: Reply::new(Arc::clone(&answers) as Arc<dyn Deliver<Found>>, ticket),
                }
            });
            let began = tokio::time::Instant::now();
            node.directory.answer(questions.into(), 1_000_000).await;
            let answers = answers.0.lock().unwrap();
            for ((token, _, at_ms, is_found), (ticket, _)) in cases.iter().zip(&waits) {
                let of = answers.iter().find(|(answered, ..)| answered == ticket);
                let (_, found, at) = of.unwrap();
                assert_eq!(found, is_found, "{token}");
                assert_eq!((*at - began).as_millis(), *at_ms, "{token}");
            }
        });
    }

    #[test]
    fn a_doubtful_session_lives_no_longer_than_any_other() {
        paused(async {
            let short = Duration::from_millis(5);
            let node = Node::new(KeyNaming::default(), short).await;
            node.stub.put("apikey-orgmine", "{}");
            let held = node.find("mine").await.unwrap().unwrap();
            node.directory.all_doubtful();
            node.stub.fail("down");
            std::thread::sleep(short);
            assert!(held.age(now()) >= short);
            assert!(node.find("mine").await.is_err());
        });
    }

    #[test]
    fn only_named_apis_and_allowed_urls_are_opened() {
        paused(async {
            let node = Node::new(KeyNaming::default(), MINUTE).await;
            let right = |api: &str| {
                format!(
                    r#"{{"access_rights":{{"{api}":{{"allowed_urls":[
                        {{"url":"/ok/(.*)","methods":["GET"]}},{{"url":"(","methods":["GET"]}}]}}}}}}"#
                )
            };
            node.stub.put("apikey-orgmine", &right("a"));
            node.stub.put("apikey-orgother", &right("b"));
            let mine = node.find("mine").await.unwrap().unwrap();
            assert!(mine.pass.is_admitted);
            assert!(mine.allows(b"GET", b"/a/ok/1"));
            assert!(!mine.allows(b"POST", b"/a/ok/1"));
            assert!(!mine.allows(b"GET", b"/a/no"));
            let other = node.find("other").await.unwrap().unwrap();
            assert!(!other.pass.is_admitted);
        });
    }
}
