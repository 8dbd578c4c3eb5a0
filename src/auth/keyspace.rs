//! Sessions as they are stored: the one place that finds, writes and removes them.
//!
//! Every change is one write to the store, sessions and counters together, and is told to the
//! [`Notifier`] once it is stored: whoever keeps sessions or counters learns of it before the caller
//! of the REST API does.
//!
//! Tyk: `gateway/auth_manager.go` (`DefaultSessionManager`).

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    hash::{HashFn, KeyNaming, token_id},
    session::{Session, quota_key, rate_limit_key},
    storage::{Owner, StoreError, WriteOp, keys},
};

/// The node around the sessions: learns of changes after they are stored. Must not wait.
pub trait Notifier: Send + Sync {
    /// Sessions of keys were written or removed. `names` are all names that somebody may keep one
    /// of them under: its name in the store, the key, what a client presents, and the hashes of these
    /// that Tyk gateways keep sessions under.
    fn key_changed(&self, names: &[String]);

    /// Counters begin anew: `names` as [`quota_key`] and [`rate_limit_key`] form them. They are
    /// gone from the store.
    fn counters_reset(&self, names: &[String]);

    /// Units of a quota that this node has taken from its counter in advance, for requests to come.
    fn reserved(&self, quota: &str) -> i64;

    /// All gateways of the cluster are to reload, this one too.
    fn group_reload(&self);
}

/// A key, or its name in the store where that is all that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRef {
    /// `None`: only the name is known, as for a caller that asks by hash.
    pub key: Option<String>,
    /// Behind `apikey-`.
    pub name: String,
    /// Of the key.
    pub org_id: String,
}

impl KeyRef {
    /// What Tyk answers as `key`: the key, else its name.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.key.as_deref().unwrap_or(&self.name)
    }
}

/// A session and where it was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub at: KeyRef,
    pub session: Session,
}

/// What becomes of a key's counters when its session is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counters {
    Keep,
    Reset,
}

/// The sessions of keys and organisations in the store.
pub struct Keyspace {
    owner: Arc<Owner>,
    naming: KeyNaming,
    notifier: Arc<dyn Notifier>,
}

impl Keyspace {
    #[must_use]
    pub fn new(owner: Arc<Owner>, naming: KeyNaming, notifier: Arc<dyn Notifier>) -> Self {
        Self {
            owner,
            naming,
            notifier,
        }
    }

    #[must_use]
    pub fn notifier(&self) -> &dyn Notifier {
        &*self.notifier
    }

    #[must_use]
    pub const fn naming(&self) -> &KeyNaming {
        &self.naming
    }

    /// A key that is known.
    #[must_use]
    pub fn at(&self, key: String, org_id: &str) -> KeyRef {
        KeyRef {
            name: self.naming.name(&key).into_owned(),
            key: Some(key),
            org_id: org_id.to_owned(),
        }
    }

    /// The session of a key as a client of `org_id` would present it (Tyk: `SessionDetail`).
    /// `None` also for one that cannot be read.
    ///
    /// # Errors
    /// What the store says.
    pub async fn find(&self, presented: &str, org_id: &str) -> Result<Option<Stored>, StoreError> {
        let candidates = self.naming.candidates(presented, org_id);
        let names = candidates
            .iter()
            .map(|candidate| keys::session(&candidate.name))
            .collect();
        let values = self.owner.store()?.get_many(names).await?;
        let found = candidates
            .into_iter()
            .zip(values)
            .find_map(|(candidate, value)| Some((candidate, value?)));
        Ok(found.and_then(|(candidate, value)| {
            let at = KeyRef {
                key: Some(candidate.key),
                name: candidate.name,
                org_id: org_id.to_owned(),
            };
            stored(at, &value)
        }))
    }

    /// The session under a name in the store, as callers ask who know a key's hash only.
    ///
    /// # Errors
    /// What the store says.
    pub async fn find_name(&self, name: &str) -> Result<Option<Stored>, StoreError> {
        let value = self.owner.store()?.get(&keys::session(name)).await?;
        let at = KeyRef {
            key: None,
            name: name.to_owned(),
            org_id: String::new(),
        };
        Ok(value.and_then(|value| stored(at, &value)))
    }

    /// Stores a session, for `lifetime_s` seconds where that is above 0.
    ///
    /// # Errors
    /// What the store says: then nothing has changed, and nobody is told.
    pub async fn save(
        &self,
        at: &KeyRef,
        session: &Session,
        lifetime_s: i64,
        counters: Counters,
    ) -> Result<(), StoreError> {
        let set = WriteOp::Set {
            key: keys::session(&at.name),
            value: session.to_json_string().into_bytes(),
            ttl: ttl(lifetime_s),
        };
        self.write(at, session, set, counters).await
    }

    /// Removes a session and its counters.
    ///
    /// # Errors
    /// As [`Keyspace::save`].
    pub async fn remove(&self, stored: &Stored) -> Result<(), StoreError> {
        let delete = WriteOp::Delete(keys::session(&stored.at.name));
        self.write(&stored.at, &stored.session, delete, Counters::Reset)
            .await
    }

    async fn write(
        &self,
        at: &KeyRef,
        session: &Session,
        change: WriteOp,
        counters: Counters,
    ) -> Result<(), StoreError> {
        let reset = match counters {
            Counters::Keep => CounterNames::default(),
            Counters::Reset => CounterNames::of(&at.name, session),
        };
        let mut ops = reset.deletions();
        ops.push(change);
        self.owner.store()?.write(ops).await?;
        if !reset.quotas.is_empty() {
            self.notifier.counters_reset(&reset.all());
        }
        self.notifier.key_changed(&self.aliases(at, session));
        Ok(())
    }

    /// The names of keys, or their hashes, that begin with a text.
    ///
    /// # Errors
    /// What the store says.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.names_behind(keys::SESSION, prefix).await
    }

    /// What the counters of quotas say, by their names; `None`: no such counter, or no number.
    ///
    /// # Errors
    /// What the store says.
    pub async fn used_quotas(&self, names: Vec<String>) -> Result<Vec<Option<i64>>, StoreError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.owner.store()?.get_many(names.clone()).await?;
        let number = |value: Vec<u8>| std::str::from_utf8(&value).ok()?.parse::<i64>().ok();
        Ok(names
            .iter()
            .zip(values)
            .map(|(name, value)| {
                let counted = value.and_then(number)?;
                Some(counted.saturating_sub(self.notifier.reserved(name)))
            })
            .collect())
    }

    /// Whether a certificate of this id is stored.
    ///
    /// # Errors
    /// What the store says.
    pub async fn has_certificate(&self, id: &str) -> Result<bool, StoreError> {
        self.owner.store()?.exists(&keys::certificate(id)).await
    }

    /// The session of an organisation.
    ///
    /// # Errors
    /// What the store says.
    pub async fn find_org(&self, id: &str) -> Result<Option<Session>, StoreError> {
        let value = self.owner.store()?.get(&keys::organisation(id)).await?;
        Ok(value.and_then(|value| readable(&value)))
    }

    /// Stores the session of an organisation, for good as in Tyk.
    ///
    /// # Errors
    /// As [`Keyspace::save`].
    pub async fn save_org(
        &self,
        id: &str,
        session: &Session,
        counters: Counters,
    ) -> Result<(), StoreError> {
        let set = WriteOp::Set {
            key: keys::organisation(id),
            value: session.to_json_string().into_bytes(),
            ttl: None,
        };
        self.write(&self.org(id), session, set, counters).await
    }

    /// Removes the session of an organisation; whether there was one. Its counters go on, as in
    /// Tyk.
    ///
    /// # Errors
    /// As [`Keyspace::save`].
    pub async fn remove_org(&self, id: &str) -> Result<bool, StoreError> {
        let key = keys::organisation(id);
        if !self.owner.store()?.exists(&key).await? {
            return Ok(false);
        }
        let delete = WriteOp::Delete(key);
        self.write(&self.org(id), &Session::default(), delete, Counters::Keep)
            .await?;
        Ok(true)
    }

    /// The ids of organisations with a session that begin with a text.
    ///
    /// # Errors
    /// What the store says.
    pub async fn list_orgs(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.names_behind(keys::ORGANISATION, prefix).await
    }

    async fn names_behind(&self, kind: &str, prefix: &str) -> Result<Vec<String>, StoreError> {
        let names = self.owner.store()?.list(&[kind, prefix].concat()).await?;
        Ok(names
            .into_iter()
            .filter_map(|name| Some(name.strip_prefix(kind)?.to_owned()))
            // What Tyk's own counters would be called if they had the prefix of sessions.
            .filter(|name| !name.starts_with("quota-") && !name.starts_with("rate-limit-"))
            .collect())
    }

    /// Counters of organisations are named after the id, hashed as a key is.
    fn org(&self, id: &str) -> KeyRef {
        self.at(id.to_owned(), id)
    }

    fn aliases(&self, at: &KeyRef, session: &Session) -> Vec<String> {
        aliases(&self.naming, at, session)
    }
}

/// Behind a name in a message: only the quota of the stored session is new. Tyk cuts what stands
/// behind a colon, and reads the session anew; who takes quotas from their counters need not.
pub const QUOTA_ONLY: &str = ":quota";

/// See [`Notifier::key_changed`].
pub(super) fn aliases(naming: &KeyNaming, at: &KeyRef, session: &Session) -> Vec<String> {
    let mut names = vec![at.name.clone()];
    let mut add = |name: String| {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    };
    if let Some(key) = &at.key {
        let org = if at.org_id.is_empty() {
            &session.org_id
        } else {
            &at.org_id
        };
        let id = token_id(key).unwrap_or_else(|| {
            let id = key.strip_prefix(org.as_str()).unwrap_or(key);
            id.to_owned()
        });
        for presented in [key.clone(), id] {
            if naming.is_hashed {
                // Tyk keeps sessions under this hash of what was presented, whatever the key's
                // own function is.
                add(HashFn::Murmur64.hex(&presented));
            }
            add(presented);
        }
    }
    names
}

/// Counters of one key.
#[derive(Default)]
struct CounterNames {
    quotas: BTreeSet<String>,
    rates: BTreeSet<String>,
}

impl CounterNames {
    fn of(name: &str, session: &Session) -> Self {
        let mut names = Self::default();
        let scopes = session.access_rights.values();
        let scopes = scopes.map(|right| right.allowance_scope.as_str());
        for scope in std::iter::once("").chain(scopes) {
            names.quotas.insert(quota_key(scope, name));
            names.rates.insert(rate_limit_key(scope, name));
        }
        names
    }

    fn deletions(&self) -> Vec<WriteOp> {
        // Of rate limits only the sentinel's flag: what else there is ends by itself soon, as in
        // Tyk.
        let flags = self.rates.iter().map(|name| format!("{name}.BLOCKED"));
        let quotas = self.quotas.iter().cloned();
        quotas.chain(flags).map(WriteOp::Delete).collect()
    }

    fn all(&self) -> Vec<String> {
        self.quotas.iter().chain(&self.rates).cloned().collect()
    }
}

/// Time since 1970.
#[allow(
    clippy::disallowed_methods,
    reason = "dates of sessions, on the control side"
)]
#[must_use]
pub fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

pub(super) fn ttl(lifetime_s: i64) -> Option<Duration> {
    let seconds = u64::try_from(lifetime_s)
        .ok()
        .filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds))
}

fn stored(at: KeyRef, value: &[u8]) -> Option<Stored> {
    readable(value).map(|session| Stored { at, session })
}

fn readable(value: &[u8]) -> Option<Session> {
    Session::from_json_slice(value)
        .inspect_err(|error| {
            tracing::error!(
                prefix = "auth-mgr", %error,
                "Couldn't unmarshal session object"
            );
        })
        .ok()
}
