//! What a key may do at one API: its session with policies applied, made ready for requests.
//!
//! Tyk: `mw_access_rights.go`, `mw_granular_access.go`, `mw_key_expired_check.go`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use regex_automata::meta::Regex;

use crate::{
    analytics::Identity,
    apidef::{ApiDefinition, go_regex},
    auth::limits::Limits,
    session::Session,
};

/// What of an API decides how a key's session is read. Made once per API and load.
#[derive(Debug)]
pub struct Scope {
    /// Never given twice in a process, so that a cache entry never serves another API.
    id: u64,
    pub kind: Kind,
    pub api_id: String,
    pub org_id: String,
    /// Which limits apply.
    pub limits_rate: bool,
    pub limits_quota: bool,
    /// `session_lifetime` and `session_lifetime_respects_key_expiration` of the API.
    pub lifetime: (i64, bool),
}

/// Whose sessions a scope is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keys of clients.
    Key,
    /// The organisation itself.
    Organisation,
}

impl Scope {
    fn new(kind: Kind, api_id: &str, org_id: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            kind,
            api_id: api_id.to_owned(),
            org_id: org_id.to_owned(),
            limits_rate: true,
            limits_quota: true,
            lifetime: (0, false),
        }
    }

    /// For the keys of an API.
    #[must_use]
    pub fn of_api(api: &ApiDefinition) -> Self {
        Self {
            limits_rate: !api.disable_rate_limit,
            limits_quota: !api.disable_quota,
            lifetime: (
                api.session_lifetime,
                api.session_lifetime_respects_key_expiration,
            ),
            ..Self::new(Kind::Key, &api.api_id, &api.org_id)
        }
    }

    /// For the session of an organisation.
    #[must_use]
    pub fn of_organisation(org_id: &str) -> Self {
        Self::new(Kind::Organisation, "", org_id)
    }

    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }
}

/// What a request asks of a session in any case. Shards keep it beside the token, so that a request
/// whose session is at hand reads nothing else of it.
#[derive(Debug, Clone)]
pub struct Pass {
    pub limits: Limits,
    /// Seconds since 1970; below 1: never.
    expires: i64,
    pub is_inactive: bool,
    /// The session gives a right to this API: it names it, or it names none.
    pub is_admitted: bool,
    /// No `allowed_urls`.
    pub opens_every_path: bool,
}

/// A session as one API sees it.
#[derive(Debug)]
pub struct Access {
    /// The key in clear: the one whose session was found, which need not be the one presented.
    pub key_id: String,
    /// The key's part of storage names: hashed where `hash_keys` is on.
    pub key_name: String,
    /// With policies applied.
    pub session: Arc<Session>,
    pub pass: Pass,
    /// Empty: every path.
    pub allowed_urls: Box<[AllowedUrl]>,
    /// What records of the key have in common.
    pub identity: Identity,
    /// Records of the key have requests and answers whole.
    pub is_detailed: bool,
    loaded: Instant,
    /// Milliseconds after `loaded` at which the store had the same bytes still.
    confirmed_ms: AtomicU64,
    /// Of the bytes that it was made from.
    digest: u64,
    /// Grows only.
    standing: AtomicU8,
}

/// Nothing is known against it.
const GOOD: u8 = 0;
/// A change of it may have been missed.
const DOUBTFUL: u8 = 1;
/// Something that it was made from has changed.
const CHANGED: u8 = 2;

/// How often something was marked.
static MARKS: Marks = Marks(AtomicU64::new(0));

/// In a cache line of its own: every request reads it.
#[repr(align(64))]
struct Marks(AtomicU64);

/// How often any access of this process was marked as changed or doubtful. While it stands still, who
/// was not stale is not: what is read with it need not be looked at again.
#[must_use]
#[inline]
pub fn marks() -> u64 {
    MARKS.0.load(Ordering::Acquire)
}

/// Tags in Tyk's order (`getSessionTags`).
fn identity(session: &Session, key_name: &str) -> Identity {
    let policies = session.policy_ids().iter().map(|id| format!("pol-{id}"));
    let developer = match session.meta_data.get("tyk_developer_id") {
        Some(serde_json::Value::String(id)) => Some(format!("dev-{id}")),
        _ => None,
    };
    let tags = policies
        .chain(developer)
        .chain(session.tags.iter().cloned());
    Identity::new(key_name, &session.alias, &session.oauth_client_id, tags)
}

impl Pass {
    /// Whether the key's time is over (Tyk: `SessionExpired`).
    #[must_use]
    pub fn is_expired(&self, now_s: u64) -> bool {
        let expires = self.expires;
        expires >= 1 && u64::try_from(expires).is_ok_and(|expires| now_s > expires)
    }
}

/// One entry of `allowed_urls`.
#[derive(Debug)]
pub struct AllowedUrl {
    /// `None`: it does not compile, and matches nothing.
    // Tyk differs: there such an expression lets everything pass.
    pub url: Option<Arc<Regex>>,
    pub methods: Box<[String]>,
}

impl Access {
    /// An access that was read from the store just now. `digest` is that of the bytes.
    #[must_use]
    #[allow(
        clippy::too_many_arguments,
        reason = "one for each part that it is made of"
    )]
    pub fn new(
        key_id: String,
        key_name: String,
        session: Arc<Session>,
        scope: &Scope,
        allowed_urls: Box<[AllowedUrl]>,
        limits: Limits,
        loaded: Instant,
        digest: u64,
    ) -> Self {
        let rights = &session.access_rights;
        let is_admitted = scope.kind == Kind::Organisation
            || rights.is_empty()
            || rights.get(&scope.api_id).is_some();
        let identity = identity(&session, &key_name);
        let is_detailed = session.is_recorded_in_detail();
        let pass = Pass {
            limits,
            expires: session.expires,
            is_inactive: session.is_inactive,
            is_admitted,
            opens_every_path: allowed_urls.is_empty(),
        };
        Self {
            is_detailed,
            pass,
            key_id,
            key_name,
            session,
            allowed_urls,
            identity,
            loaded,
            confirmed_ms: AtomicU64::new(0),
            digest,
            standing: AtomicU8::new(GOOD),
        }
    }

    /// Whether it was made from these bytes under this name.
    #[must_use]
    pub fn is_made_from(&self, key_id: &str, digest: u64) -> bool {
        self.digest == digest && self.key_id == key_id
    }

    /// The store had the same bytes when it was asked at that time.
    pub fn confirm(&self, now: Instant) {
        let after = now.saturating_duration_since(self.loaded);
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.confirmed_ms.fetch_max(after_ms, Ordering::Relaxed);
    }

    /// How long ago it was read.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        let confirmed_ms = self.confirmed_ms.load(Ordering::Relaxed);
        now.saturating_duration_since(self.loaded)
            .saturating_sub(Duration::from_millis(confirmed_ms))
    }

    /// How long ago it was read, in milliseconds. Reads the clock.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "once per session read, not per request"
    )]
    pub fn age_now_ms(&self) -> u64 {
        u64::try_from(self.age(Instant::now()).as_millis()).unwrap_or(u64::MAX)
    }

    /// Something that it was made from has changed: the next request reads it anew.
    pub fn set_changed(&self) {
        self.mark(CHANGED);
    }

    /// Something that it was made from may have changed: the next request reads it anew if the store
    /// answers.
    pub fn set_doubtful(&self) {
        self.mark(DOUBTFUL);
    }

    fn mark(&self, standing: u8) {
        self.standing.fetch_max(standing, Ordering::Release);
        MARKS.0.fetch_add(1, Ordering::Release);
    }

    /// The next request asks for it.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.standing.load(Ordering::Acquire) != GOOD
    }

    /// It must not be used any more, whether the store answers or not.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.standing.load(Ordering::Acquire) == CHANGED
    }

    /// Whether `allowed_urls` let this request pass. `path` is the inbound one, listen path
    /// included; patterns are searched in it, unanchored as in Tyk.
    #[must_use]
    pub fn allows(&self, method: &[u8], path: &[u8]) -> bool {
        if self.allowed_urls.is_empty() {
            return true;
        }
        let path = &*go_regex::as_go_text(path);
        self.allowed_urls.iter().any(|allowed| {
            allowed.methods.iter().any(|name| name.as_bytes() == method)
                && allowed.url.as_ref().is_some_and(|url| url.is_match(path))
        })
    }
}
