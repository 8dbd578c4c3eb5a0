//! `/tyk/keys` and what stands below it.
//!
//! Tyk: `gateway/api.go` (`keyHandler`, `createKeyHandler`, `previewKeyHandler`,
//! `policyUpdateHandler` and what they call).

mod change;
mod read;

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwapOption;
use axum::{
    Json,
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

use crate::{
    apidef::ApiDefinition,
    auth::{
        keyspace::{Keyspace, now},
        password::PasswordHash,
    },
    config::Config,
    event,
    gateway::reload::Gateway,
    log, policy,
    session::{LifetimeRules, Session},
    storage::StoreError,
};

/// Status and message of a refusal.
type Refusal = (StatusCode, String);

/// What the endpoints of keys work on.
pub(super) struct Keys {
    keyspace: Arc<Keyspace>,
    policies: Arc<policy::Current>,
    gateway: Arc<dyn Gateway>,
    apis: ArcSwapOption<Apis>,
    lifetimes: LifetimeRules,
    passwords: PasswordHash,
    /// `allow_master_keys`
    allows_master: bool,
    /// `enable_hashed_keys_listing`
    lists_hashed: bool,
    /// `enable_key_logging`
    logs_keys: bool,
    /// Who is told of changed keys.
    events: Option<event::Handlers>,
}

/// What a call asks for beside its key.
#[derive(Debug, Clone, Default)]
struct Asked {
    /// `hashed`, whatever it says: the key is its name in the store.
    by_name: bool,
    /// `username=true`: the key is an id in the organisation of `org_id`.
    by_id: bool,
    suppress_reset: bool,
    org_id: String,
    api_id: String,
    filter: String,
}

impl Asked {
    fn from_query(query: &[(String, String)]) -> Self {
        let value = |name: &str| {
            let pair = query.iter().find(|(key, _)| key == name);
            pair.map_or("", |(_, value)| value.as_str())
        };
        Self {
            by_name: !value("hashed").is_empty(),
            by_id: value("username") == "true",
            suppress_reset: value("suppress_reset") == "1",
            org_id: value("org_id").to_owned(),
            api_id: value("api_id").to_owned(),
            filter: value("filter").to_owned(),
        }
    }
}

/// Tyk's `apiModifyKeySuccess`.
#[derive(Debug, Serialize)]
struct Modified {
    key: String,
    status: &'static str,
    action: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    key_hash: String,
}

impl Keys {
    pub(super) fn new(
        config: &Config,
        keyspace: Arc<Keyspace>,
        policies: Arc<policy::Current>,
        gateway: Arc<dyn Gateway>,
        events: &event::Queue,
    ) -> Self {
        Self {
            keyspace,
            policies,
            gateway,
            apis: ArcSwapOption::empty(),
            lifetimes: LifetimeRules::from_config(config),
            passwords: PasswordHash::parse(&config.basic_auth_hash_key_function),
            allows_master: config.allow_master_keys,
            lists_hashed: config.enable_hashed_keys_listing,
            logs_keys: config.enable_key_logging,
            events: event::Handlers::from_config(config, events),
        }
    }

    /// Any call to `/tyk/keys` and `/tyk/keys/{key}`; without a key it is empty.
    pub(super) async fn call(
        &self,
        method: &Method,
        key: &str,
        query: &[(String, String)],
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let asked = Asked::from_query(query);
        match (method.as_str(), key) {
            ("GET", "") => self.list(&asked).await,
            ("GET", key) => self.read(key, &asked).await,
            ("POST", "create") => self.create(body).await,
            ("POST", "preview") => self.preview(body),
            ("POST", name) => self.add(name, &asked, body).await,
            ("PUT", key) => self.update(key, &asked, body).await,
            ("DELETE", key) => self.delete(key, &asked).await,
            _ => Err(refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "Method not supported",
            )),
        }
    }

    /// The APIs as they are now. Indexed once per reload, not once per key.
    fn apis(&self) -> Arc<Apis> {
        let of = self.gateway.definitions();
        let known = self.apis.load_full();
        if let Some(known) = known
            && Arc::ptr_eq(&known.of, &of)
        {
            return known;
        }
        let apis = Arc::new(Apis::new(of));
        self.apis.store(Some(Arc::clone(&apis)));
        apis
    }

    /// The keys that a call may mean, in order: with `username=true` first the key of the id, then,
    /// where keys are tokens, the text as it is.
    fn meant(&self, key: &str, asked: &Asked) -> Vec<String> {
        let naming = self.keyspace.naming();
        if !asked.by_id || naming.is_by_key_only {
            return vec![key.to_owned()];
        }
        let mut meant: Vec<String> = naming.key(&asked.org_id, key).into_iter().collect();
        if naming.function.is_some() || meant.is_empty() {
            meant.push(key.to_owned());
        }
        meant
    }

    /// A key in a log line: its last letters, unless `enable_key_logging` (Tyk: `obfuscateKey`).
    fn shown(&self, key: &str) -> String {
        log::shown_key(key, self.logs_keys)
    }
}

/// The APIs that the gateway knows, by id.
struct Apis {
    of: Arc<[Arc<ApiDefinition>]>,
    by_id: HashMap<String, usize>,
}

impl Apis {
    fn new(of: Arc<[Arc<ApiDefinition>]>) -> Self {
        let by_id = of
            .iter()
            .enumerate()
            .map(|(at, api)| (api.api_id.clone(), at))
            .collect();
        Self { of, by_id }
    }

    fn get(&self, id: &str) -> Option<&ApiDefinition> {
        let api = self.of.get(*self.by_id.get(id)?)?;
        Some(api)
    }

    fn all(&self) -> impl Iterator<Item = &ApiDefinition> {
        self.of.iter().map(AsRef::as_ref)
    }

    /// The longest of the lifetimes that the APIs of a session give it, or all APIs for one that
    /// names none (Tyk: `ApplyLifetime`).
    fn lifetime_s(&self, session: &Session, rules: LifetimeRules) -> i64 {
        let now_s = now().as_secs() as i64;
        let lifetime = |api: &ApiDefinition| {
            let own = (
                api.session_lifetime,
                api.session_lifetime_respects_key_expiration,
            );
            session.lifetime_s(rules, own, now_s)
        };
        let longest = if session.access_rights.is_empty() {
            self.all().map(lifetime).max()
        } else {
            let ids = session.access_rights.keys();
            ids.filter_map(|id| self.get(id)).map(lifetime).max()
        };
        longest.unwrap_or(0).max(0)
    }
}

fn refusal(status: StatusCode, message: &str) -> Refusal {
    (status, message.to_owned())
}

/// The store cannot be asked. `// Tyk differs:` there a key is said not to exist then, which makes
/// its owner create another.
fn away(error: StoreError) -> Refusal {
    tracing::error!(prefix = "api", %error, "the store does not answer");
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

fn modified(key: &str, action: &'static str) -> Response {
    added(key.to_owned(), action, String::new())
}

fn added(key: String, action: &'static str, key_hash: String) -> Response {
    Json(Modified {
        key,
        status: "ok",
        action,
        key_hash,
    })
    .into_response()
}

fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}
