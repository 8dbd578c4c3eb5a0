//! What requests change in stored sessions: when the quota's period ends, what is left of it, and
//! how long the session stays.
//!
//! Tyk writes a session with a quota at every request. Here that happens behind the requests: a
//! period that begins is written at once and told to Tyk gateways, what is left of it every
//! [`PASS`] for keys that were used meanwhile. Only the fields of the quota change, only in a
//! session that says otherwise what this node has read, and only if nobody writes it at the same
//! time; one that is gone stays gone. While the store is away nothing is written, and nothing is
//! lost: the counter is what decides.
//!
//! Tyk: `session_manager.go` (`RedisQuotaExceeded`), `middleware.go` (`UpdateRequestSession`),
//! `auth_manager.go` (`UpdateSession`).

#![allow(
    clippy::disallowed_types,
    reason = "held for a few instructions on the control side and never over an await"
)]

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ahash::RandomState;
use memchr::memmem;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use crate::{
    auth::{
        access::{Access, Kind, Scope},
        directory::Directory,
        keyspace::{KeyRef, QUOTA_ONLY, aliases, now, ttl},
    },
    limit::QuotaCell,
    session::{ApiLimit, LifetimeRules, Session},
    storage::{Replace, StoreError, keys},
};

/// Every key that was used is written once in this time at most.
const PASS: Duration = Duration::from_secs(5);

/// Parts of the directory, one looked at at a time.
const STRIPES: usize = 20;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(PASS.as_millis() as u64 / STRIPES as u64);

/// Keys written per look at most; those that were written longest ago come first.
const KEYS_PER_LOOK_MAX: usize = 250;

/// Keys in one question to the store. Others wait for this thread while their sessions are read.
const BATCH_MAX: usize = 32;

/// Renewals of so long a time are told in one message.
const GATHER: Duration = Duration::from_millis(20);

/// Times of renewal that differ by no more are the same: both are cut to whole seconds.
const RENEWAL_SLACK_S: u64 = 2;

/// Sessions that this node holds and that have a quota.
pub(super) struct Homes {
    stripes: [Mutex<Stripe>; STRIPES],
    hasher: RandomState,
}

/// By the address of the quota's cell, which each home keeps alive. Several keys share a cell where
/// `rate_limit_pattern` says so.
type Stripe = HashMap<usize, Vec<Home>, RandomState>;

/// Keys that share a cell and are written; of more, the last ones.
const SHARERS_MAX: usize = 64;

/// A stored session and what is known of it.
struct Home {
    access: Arc<Access>,
    scope: Arc<Scope>,
    /// See [`Homes::rest`].
    rest: u64,
    /// The time of renewal that is stored.
    renews_at_s: i64,
    /// The quota's when it was looked at last.
    mark: [i64; 3],
    /// The look at which it was written last.
    written: u64,
}

impl Home {
    /// `None` where nothing has changed since it was written.
    fn due(&self) -> Option<Due> {
        let cell = self.access.pass.limits.quota.as_ref()?;
        // Before the store has been asked, the session knows more.
        let remaining = cell.remaining()?;
        let (mark, renews_at_s) = (cell.mark(), cell.renews_at_s());
        let is_renewed = renews_at_s.abs_diff(self.renews_at_s) > RENEWAL_SLACK_S;
        (is_renewed || mark != self.mark).then(|| Due {
            access: Arc::clone(&self.access),
            scope: Arc::clone(&self.scope),
            cell: Arc::clone(cell),
            rest: self.rest,
            mark,
            remaining,
            renews_at_s,
            is_renewed,
            written: self.written,
        })
    }
}

/// A session to be written.
struct Due {
    access: Arc<Access>,
    scope: Arc<Scope>,
    cell: Arc<QuotaCell>,
    rest: u64,
    mark: [i64; 3],
    remaining: i64,
    renews_at_s: i64,
    is_renewed: bool,
    written: u64,
}

impl Due {
    /// Where the session lies.
    fn key(&self) -> String {
        match self.scope.kind {
            Kind::Key => keys::session(&self.access.key_name),
            Kind::Organisation => keys::organisation(&self.access.key_id),
        }
    }

    /// The session as it is to be stored, and for how long; `None` where that changes nothing.
    // Tyk differs: it stores the session with all that policies lay over it.
    fn change(&self, stored: &[u8], rules: LifetimeRules) -> Option<Replace> {
        let mut session = Session::from_json_slice(stored).ok()?;
        let applied = &*self.access.session;
        let (scope, lifetime) = match self.scope.kind {
            Kind::Key => (
                applied.limit_for(&self.scope.api_id)?.scope,
                self.scope.lifetime,
            ),
            // Tyk differs: an API's `session_lifetime` does not end its organisation.
            Kind::Organisation => ("", (0, false)),
        };
        let rights = applied.access_rights.iter();
        for (api_id, right) in rights.filter(|(_, right)| right.allowance_scope == scope) {
            // One that is empty stays empty: else it would count instead of the session's own.
            if right.limit.is_empty() {
                continue;
            }
            let rights = session.access_rights.as_mut_map();
            let own = rights
                .entry(api_id.clone())
                .or_insert_with(|| right.clone());
            if own.limit.is_empty() {
                own.limit = right.limit;
            }
            let ApiLimit {
                quota_renews,
                quota_remaining,
                ..
            } = &mut own.limit;
            self.tell(quota_renews, quota_remaining);
        }
        if scope.is_empty() {
            self.tell(&mut session.quota_renews, &mut session.quota_remaining);
        }
        let now_s = i64::try_from(now().as_secs()).unwrap_or(i64::MAX);
        let ttl = ttl(session.lifetime_s(rules, lifetime, now_s));
        let to = session.to_json_string().into_bytes();
        (ttl.is_some() || to != stored).then(|| Replace {
            key: self.key(),
            from: stored.to_vec(),
            to,
            ttl,
        })
    }

    fn tell(&self, renews_at_s: &mut i64, remaining: &mut i64) {
        *remaining = self.remaining;
        if renews_at_s.abs_diff(self.renews_at_s) > RENEWAL_SLACK_S {
            *renews_at_s = self.renews_at_s;
        }
    }
}

impl Default for Homes {
    fn default() -> Self {
        Self {
            stripes: Default::default(),
            hasher: RandomState::new(),
        }
    }
}

impl Homes {
    /// A session has been read: `value` is what is stored.
    pub(super) fn note(&self, access: &Arc<Access>, scope: &Arc<Scope>, value: &[u8]) {
        let Some(cell) = &access.pass.limits.quota else {
            return;
        };
        let [_, _, renews_at_s] = access.pass.limits.told;
        let mut home = Home {
            access: Arc::clone(access),
            scope: Arc::clone(scope),
            rest: self.rest(value),
            renews_at_s,
            mark: cell.mark(),
            written: 0,
        };
        let mut stripe = self.stripe(address(cell));
        let homes = stripe.entry(address(cell)).or_default();
        let same = |known: &&mut Home| known.access.key_name == access.key_name;
        if let Some(known) = homes.iter_mut().find(same) {
            // What was used since it was written is still to be written.
            home.mark = known.mark;
            home.written = known.written;
            *known = home;
            return;
        }
        if homes.len() >= SHARERS_MAX {
            homes.remove(0);
        }
        homes.push(home);
    }

    /// What a stored session says beside the numbers of its quotas that requests change. Two that
    /// agree are the same session at two times.
    fn rest(&self, value: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        let mut from = 0;
        for at in memmem::find_iter(value, b"\"quota_re") {
            let Some(name) = value.get(at..) else {
                continue;
            };
            let is_told = |field: &&[u8]| name.starts_with(field);
            let fields: [&[u8]; 2] = [b"\"quota_renews\":", b"\"quota_remaining\":"];
            if let Some(field) = fields.iter().find(|field| is_told(field)) {
                let end = at + field.len();
                hasher.write(value.get(from..end).unwrap_or_default());
                let digits = value.get(end..).unwrap_or_default().iter();
                from = end
                    + digits
                        .take_while(|byte| matches!(byte, b' ' | b'-' | b'0'..=b'9'))
                        .count();
            }
        }
        hasher.write(value.get(from..).unwrap_or_default());
        hasher.finish()
    }

    /// The sessions of a quota whose period has begun.
    fn renewed(&self, cell: &Arc<QuotaCell>) -> Vec<Due> {
        let stripe = self.stripe(address(cell));
        let homes = stripe.get(&address(cell)).into_iter().flatten();
        homes.filter_map(Home::due).collect()
    }

    /// The sessions of one part that are to be written. Lets go of those that nobody holds.
    fn look(&self, part: usize) -> Vec<Due> {
        let mut due = Vec::new();
        if let Some(stripe) = self.stripes.get(part % STRIPES) {
            let mut stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            stripe.retain(|_, homes| {
                homes.retain(|home| match home.due() {
                    Some(changed) => {
                        due.push(changed);
                        true
                    }
                    None => Arc::strong_count(&home.access) > 1,
                });
                !homes.is_empty()
            });
        }
        if due.len() > KEYS_PER_LOOK_MAX {
            due.sort_by_key(|due| due.written);
            due.truncate(KEYS_PER_LOOK_MAX);
        }
        due
    }

    /// A session has been written (`stored`), or need not be, or is not what was read.
    fn settle(&self, due: &Due, stored: Option<&[u8]>, look: u64) {
        let rest = stored.map(|value| self.rest(value));
        let mut stripe = self.stripe(address(&due.cell));
        let homes = stripe.get_mut(&address(&due.cell)).into_iter().flatten();
        for home in homes.filter(|home| home.access.key_name == due.access.key_name) {
            home.mark = due.mark;
            home.written = look;
            if Arc::ptr_eq(&home.access, &due.access) {
                home.renews_at_s = due.renews_at_s;
                home.rest = rest.unwrap_or(home.rest);
            }
        }
    }

    fn stripe(&self, address: usize) -> MutexGuard<'_, Stripe> {
        let place = self.hasher.hash_one(address) as usize % STRIPES;
        #[allow(clippy::indexing_slicing, reason = "a remainder of the length")]
        let stripe = &self.stripes[place];
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn address(cell: &Arc<QuotaCell>) -> usize {
    Arc::as_ptr(cell).addr()
}

/// The task that writes.
pub struct WriteBack<F> {
    directory: Arc<Directory>,
    rules: LifetimeRules,
    /// Tells Tyk gateways that sessions under these names, joined by commas, are to be read anew.
    tell: F,
    look: u64,
}

impl<F: Fn(String)> WriteBack<F> {
    pub const fn new(directory: Arc<Directory>, rules: LifetimeRules, tell: F) -> Self {
        Self {
            directory,
            rules,
            tell,
            look: 0,
        }
    }

    /// Writes until the process ends. `renewed`: quotas whose period begins.
    pub async fn run(mut self, mut renewed: mpsc::Receiver<Arc<QuotaCell>>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cells = Vec::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => self.look().await,
                count = renewed.recv_many(&mut cells, KEYS_PER_LOOK_MAX) => {
                    if count == 0 {
                        // Nobody counts any more.
                        return;
                    }
                    tokio::time::sleep(GATHER).await;
                    while cells.len() < KEYS_PER_LOOK_MAX
                        && let Ok(cell) = renewed.try_recv()
                    {
                        cells.push(cell);
                    }
                    let cells = std::mem::take(&mut cells);
                    self.renewed(&cells).await;
                }
            }
        }
    }

    /// Writes what was used in one part of the directory.
    async fn look(&mut self) {
        self.look += 1;
        let due = self.directory.homes().look(self.look as usize);
        self.write(due).await;
    }

    async fn renewed(&self, cells: &[Arc<QuotaCell>]) {
        let homes = self.directory.homes();
        let due = cells.iter().flat_map(|cell| homes.renewed(cell));
        self.write(due.collect()).await;
    }

    async fn write(&self, mut due: Vec<Due>) {
        let mut names = Vec::new();
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(BATCH_MAX));
            let batch = std::mem::replace(&mut due, rest);
            match self.write_batch(&batch).await {
                Ok(renewed) => names.extend(renewed),
                // Found again when the store answers again.
                Err(_) => break,
            }
            tokio::task::yield_now().await;
        }
        if !names.is_empty() {
            (self.tell)(names.join(","));
        }
    }

    /// Names of those whose time of renewal was written.
    async fn write_batch(&self, batch: &[Due]) -> Result<Vec<String>, StoreError> {
        let homes = self.directory.homes();
        let store = self.directory.owner().store()?;
        let stored = store.get_many(batch.iter().map(Due::key).collect()).await?;
        let (mut changes, mut changing) = (Vec::new(), Vec::new());
        for (due, value) in batch.iter().zip(stored) {
            let change = value
                .filter(|value| homes.rest(value) == due.rest)
                .and_then(|value| due.change(&value, self.rules));
            match change {
                Some(change) => {
                    changes.push(change);
                    changing.push(due);
                }
                None => homes.settle(due, None, self.look),
            }
        }
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let written: Vec<_> = changes.iter().map(|change| change.to.clone()).collect();
        let replaced = store.replace(changes).await?;
        let mut names = Vec::new();
        for ((due, value), is_replaced) in changing.into_iter().zip(written).zip(replaced) {
            // Else somebody wrote it just now: looked at again.
            if is_replaced {
                homes.settle(due, Some(&value), self.look);
                if due.is_renewed {
                    names.extend(self.names(due));
                }
            }
        }
        Ok(names)
    }

    fn names(&self, due: &Due) -> impl Iterator<Item = String> {
        let at = KeyRef {
            key: Some(due.access.key_id.clone()),
            name: due.access.key_name.clone(),
            org_id: due.scope.org_id.clone(),
        };
        let names = aliases(self.directory.naming(), &at, &due.access.session);
        names.into_iter().map(|name| name + QUOTA_ONLY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        apidef::ApiDefinition,
        auth::directory::Ask,
        hash::KeyNaming,
        limit::{Cells, Settings},
        storage::tests::{Stub, paused},
    };

    const KEY: &str = "apikey-orgmine";

    struct Node {
        stub: Stub,
        write_back: WriteBack<Box<dyn Fn(String)>>,
        told: Arc<Mutex<Vec<String>>>,
        scope: Arc<Scope>,
    }

    impl Node {
        async fn new() -> Self {
            let stub = Stub::new();
            let owner = Arc::new(stub.owner());
            owner.acquire().await.unwrap();
            let api = ApiDefinition {
                api_id: "a".to_owned(),
                org_id: "org".to_owned(),
                ..ApiDefinition::default()
            };
            let directory = Arc::new(Directory::new(
                KeyNaming::default(),
                owner,
                Arc::default(),
                Cells::new(Settings::default()).0,
                Duration::from_secs(10),
            ));
            let told = Arc::new(Mutex::new(Vec::new()));
            let tell: Box<dyn Fn(String)> = {
                let told = Arc::clone(&told);
                Box::new(move |names| told.lock().unwrap().push(names))
            };
            Self {
                stub,
                write_back: WriteBack::new(directory, LifetimeRules::default(), tell),
                told,
                scope: Arc::new(Scope::of_api(&api)),
            }
        }

        async fn read(&self) -> Arc<Access> {
            let ask = Ask {
                scope: Arc::clone(&self.scope),
                token: "mine".to_owned(),
                asked_us: crate::net::watch::process_us(),
                is_ahead: false,
            };
            self.write_back.directory.changed(["mine"]);
            let found = self.write_back.directory.find(ask).await;
            found.unwrap().unwrap()
        }

        /// One pass over all keys.
        async fn pass(&mut self) {
            for _ in 0..STRIPES {
                self.write_back.look().await;
            }
        }

        /// Root and `a`'s: renewal, remaining.
        fn stored(&self) -> [i64; 4] {
            let session = self.stub.value(KEY).unwrap();
            let session = Session::from_json_slice(session.as_bytes()).unwrap();
            let limit = session.access_rights.get("a").map(|right| right.limit);
            let limit = limit.unwrap_or_default();
            [
                session.quota_renews,
                session.quota_remaining,
                limit.quota_renews,
                limit.quota_remaining,
            ]
        }
    }

    fn cell(access: &Access) -> Arc<QuotaCell> {
        Arc::clone(access.pass.limits.quota.as_ref().unwrap())
    }

    #[test]
    fn what_was_used_is_written_once_and_a_new_period_is_told() {
        paused(async {
            let mut node = Node::new().await;
            let plain =
                r#"{"quota_max":10,"quota_renewal_rate":60,"quota_renews":1000,"alias":"x"}"#;
            node.stub.put(KEY, plain);
            let access = node.read().await;
            node.pass().await;
            assert_eq!(node.stub.value(KEY).as_deref(), Some(plain), "unused");
            cell(&access).told(7, 1001);
            node.pass().await;
            assert_eq!(node.stored(), [1000, 7, 0, 0], "a second is no new period");
            assert!(node.told.lock().unwrap().is_empty());
            // Go's form, all of it.
            let written = node.stub.value(KEY).unwrap();
            let mut session = Session::from_json_slice(plain.as_bytes()).unwrap();
            session.quota_remaining = 7;
            assert_eq!(written, session.to_json_string());
            // By the session as it is stored now, also before it has been read anew.
            cell(&access).told(9, 1060);
            node.write_back.renewed(&[cell(&access)]).await;
            assert_eq!(node.stored(), [1060, 9, 0, 0]);
            let told = std::mem::take(&mut *node.told.lock().unwrap());
            assert_eq!(told, ["orgmine:quota,mine:quota"]);
            node.write_back.renewed(&[cell(&access)]).await;
            node.read().await;
            node.pass().await;
            assert!(node.told.lock().unwrap().is_empty());
            // A store that is away loses nothing.
            cell(&access).told(1, 1120);
            node.stub.fail("down");
            node.write_back.renewed(&[cell(&access)]).await;
            node.pass().await;
            node.stub.heal();
            node.read().await;
            node.pass().await;
            assert_eq!(node.stored(), [1120, 1, 0, 0]);
        });
    }

    #[test]
    fn a_session_that_was_changed_or_removed_is_left_alone() {
        paused(async {
            let mut node = Node::new().await;
            let session = |alias: &str, remaining: i64| {
                format!(r#"{{"alias":"{alias}","quota_max":10,"quota_remaining":{remaining}}}"#)
            };
            node.stub.put(KEY, &session("x", 10));
            let access = node.read().await;
            cell(&access).told(7, 0);
            // Another node has written what is left: that is the same session.
            node.stub.put(KEY, &session("x", 4));
            node.pass().await;
            assert_eq!(node.stored(), [0, 7, 0, 0]);
            for change in [
                session("y", 10),
                r#"{"quota_max":11}"#.to_owned(),
                "{".to_owned(),
            ] {
                node.stub.put(KEY, &session("x", 10));
                let access = node.read().await;
                cell(&access).told(6, 9000);
                node.stub.put(KEY, &change);
                node.write_back.renewed(&[cell(&access)]).await;
                node.pass().await;
                assert_eq!(node.stub.value(KEY).as_ref(), Some(&change));
            }
            node.stub.put(KEY, &session("x", 10));
            let access = node.read().await;
            cell(&access).told(5, 9000);
            let store = node.write_back.directory.owner().store().unwrap();
            store.delete(KEY).await.unwrap();
            node.write_back.renewed(&[cell(&access)]).await;
            node.pass().await;
            assert_eq!(node.stub.value(KEY), None);
            assert!(node.told.lock().unwrap().is_empty());
        });
    }

    #[test]
    fn limits_of_one_scope_change_and_no_other() {
        paused(async {
            let mut node = Node::new().await;
            let right = |id: &str, limit: &str| {
                format!(r#""{id}":{{"api_id":"{id}","limit":{{{limit}}}}}"#)
            };
            let limited = r#""quota_max":10,"quota_renews":1000"#;
            for (rights, expected) in [
                // A limit of its own has a counter of its own.
                (right("a", limited), [500, 0, 2000, 3]),
                // Without one the session's counts, and goes on counting.
                (right("a", ""), [2000, 3, 0, 0]),
                (
                    [right("a", limited), right("b", limited)].join(","),
                    [500, 0, 2000, 3],
                ),
            ] {
                let root = r#""quota_max":5,"quota_renews":500"#;
                node.stub
                    .put(KEY, &format!(r#"{{{root},"access_rights":{{{rights}}}}}"#));
                let access = node.read().await;
                cell(&access).told(3, 2000);
                node.pass().await;
                assert_eq!(node.stored(), expected, "{rights}");
            }
            let session = node.stub.value(KEY).unwrap();
            let session = Session::from_json_slice(session.as_bytes()).unwrap();
            let other = session.access_rights.get("b").unwrap().limit;
            assert_eq!((other.quota_renews, other.quota_remaining), (1000, 0));
        });
    }

    #[test]
    fn the_rest_of_a_session_is_all_but_what_requests_change() {
        let homes = Homes::default();
        let rest = |text: &str| homes.rest(text.as_bytes());
        let text =
            r#"{"quota_max":1,"quota_renews":5,"quota_remaining":-1,"quota_renewal_rate":7}"#;
        for (from, to, is_same) in [
            (":5", ":123", true),
            (":5", ": 5", true),
            (":-1", ":0", true),
            (":7", ":8", false),
            (r#"max":1"#, r#"max":2"#, false),
            ("{", r#"{"alias":"\"quota_renews\":5","#, false),
        ] {
            let changed = text.replace(from, to);
            assert_eq!(rest(text) == rest(&changed), is_same, "{changed}");
        }
    }

    #[test]
    fn what_is_over_the_bound_of_a_look_is_written_at_a_later_one() {
        paused(async {
            let mut node = Node::new().await;
            let mut cells = Vec::new();
            let count = KEYS_PER_LOOK_MAX * STRIPES * 2;
            let mut held = Vec::new();
            for n in 0..count {
                node.stub
                    .put(&format!("apikey-orgk{n}"), r#"{"quota_max":10}"#);
                let ask = Ask {
                    scope: Arc::clone(&node.scope),
                    token: format!("k{n}"),
                    asked_us: crate::net::watch::process_us(),
                    is_ahead: false,
                };
                let access = node.write_back.directory.find(ask).await.unwrap().unwrap();
                cell(&access).told(4, 0);
                cells.push(cell(&access));
                held.push(access);
            }
            let written = |node: &Node| {
                let is_written = |n: &usize| {
                    let value = node.stub.value(&format!("apikey-orgk{n}")).unwrap();
                    value.contains(r#""quota_remaining":4"#)
                };
                (0..count).filter(is_written).count()
            };
            node.pass().await;
            assert!(written(&node) <= KEYS_PER_LOOK_MAX * STRIPES);
            for _ in 0..3 {
                node.pass().await;
            }
            assert_eq!(written(&node), count);
        });
    }
}
