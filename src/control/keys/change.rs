//! Making, changing and removing keys.
//!
//! `// Tyk differs:` there a session is written once for each API it names, and a policy that does
//! not fit the second leaves the key of the first behind. Here it is written once, in the form that
//! it has after the last, or not at all.

use std::io;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    apidef::{ApiDefinition, List, json::Document},
    auth::keyspace::{Counters, KeyRef, Stored, now},
    control::keys::{Asked, Keys, Refusal, added, away, json, modified, refusal},
    event::Kind,
    hash::random_id,
    policy::{self, ApplyError},
    session::{Date, Session},
    storage::StoreError,
};

/// Largest body of `/tyk/keys/policy`.
const INSTRUCTION_BYTES_MAX: usize = 64 * 1024;

/// What `POST /tyk/keys/policy/{key}` takes.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PolicyUpdate {
    policy: String,
    apply_policies: List<String>,
}

/// Why a session was not stored.
enum NotStored {
    /// It names no API, and `allow_master_keys` is off.
    Master,
    Policy(ApplyError),
    Store(StoreError),
}

impl Keys {
    /// `POST /tyk/keys/create`
    pub(super) async fn create(&self, body: &[u8]) -> Result<Response, Refusal> {
        let mut session = parse(body).ok_or_else(unmarshalling_failed)?;
        let naming = self.keyspace.naming();
        let new_key = || naming.new_key(&session.org_id).map_err(|e| no_random(&e));
        let key = if session.certificate.is_empty() {
            new_key()?
        } else {
            let key = naming.key(&session.org_id, &session.certificate);
            let key = key.map_or_else(new_key, Ok)?;
            let found = self.stored(&key, &session.org_id, false).await?;
            if found.is_some() {
                return Err((
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!(
                        "Failed to create key - Key with given certificate already found:{key}"
                    ),
                ));
            }
            key
        };
        if session.hmac_enabled {
            let secret = random_id().map_err(|error| no_random(&error))?;
            session.hmac_string = STANDARD.encode(secret);
        }
        if session.is_basic_auth() {
            // Tyk quirk: only the endpoint for custom keys hashes passwords.
            tracing::warn!(
                prefix = "api",
                "/tyk/keys/create stores the password in clear; POST to /tyk/keys/<user name> to \
                 have it hashed"
            );
        }
        stamp(&mut session);
        session.date_created = date();
        let failed = |text: &dyn std::fmt::Display| {
            let text = format!("Failed to create key - {text}");
            (StatusCode::INTERNAL_SERVER_ERROR, text)
        };
        policy::apply(&mut session, &self.policies.load(), None).map_err(|error| failed(&error))?;
        let at = self.keyspace.at(key, &session.org_id);
        self.settle(&at, &mut session, Counters::Reset)
            .await
            .map_err(|why| match why {
                NotStored::Master => refusal(
                    StatusCode::BAD_REQUEST,
                    "Failed to create key, keys must have at least one Access Rights record set.",
                ),
                NotStored::Policy(error) => failed(&error),
                NotStored::Store(error) => failed(&error),
            })?;
        tracing::info!(
            prefix = "api",
            key = self.shown(at.shown()),
            org_id = session.org_id,
            "Generated new key"
        );
        let hash = self.told_hash(&at);
        Ok(added(at.shown().to_owned(), "added", hash))
    }

    /// `POST /tyk/keys/preview`
    pub(super) fn preview(&self, body: &[u8]) -> Result<Response, Refusal> {
        let mut session = parse(body).ok_or_else(unmarshalling_failed)?;
        stamp(&mut session);
        session.date_created = date();
        if let Err(error) = policy::apply(&mut session, &self.policies.load(), None) {
            tracing::warn!(prefix = "api", %error, "a key in preview");
        }
        Ok(json(session.to_json_string()))
    }

    /// `POST /tyk/keys` and `POST /tyk/keys/{key}`
    pub(super) async fn add(
        &self,
        name: &str,
        asked: &Asked,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let mut session = parse(body).ok_or_else(malformed)?;
        self.lay(&mut session);
        session.date_created = date();
        let naming = self.keyspace.naming();
        let key = match naming.key(&session.org_id, name) {
            Some(key) => key,
            None => naming.new_key(&session.org_id).map_err(|e| no_random(&e))?,
        };
        let at = if asked.by_name {
            KeyRef {
                name: key.clone(),
                key: Some(key),
                org_id: session.org_id.clone(),
            }
        } else {
            self.keyspace.at(key, &session.org_id)
        };
        if is_past(session.expires) {
            session.expires = 0;
        }
        if session.is_basic_auth() {
            self.hash_password(&mut session).await?;
        }
        self.settle(&at, &mut session, asked.counters())
            .await
            .map_err(not_secure)?;
        self.told(&at, &session, "Key added", Kind::TokenCreated);
        let hash = self.told_hash(&at);
        let is_hidden = !hash.is_empty() && session.is_basic_auth();
        let key = if is_hidden { "" } else { at.shown() };
        Ok(added(key.to_owned(), "added", hash))
    }

    /// `PUT /tyk/keys` and `PUT /tyk/keys/{key}`
    pub(super) async fn update(
        &self,
        key: &str,
        asked: &Asked,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let mut session = parse(body).ok_or_else(malformed)?;
        self.lay(&mut session);
        let mut found = None;
        for key in self.meant(key, asked) {
            found = self.stored(&key, &session.org_id, asked.by_name).await?;
            if found.is_some() {
                break;
            }
        }
        let Some(Stored {
            at,
            session: before,
        }) = found
        else {
            return Err(refusal(StatusCode::NOT_FOUND, "Key is not found"));
        };
        if session.certificate != before.certificate {
            self.check_certificate(&session.certificate).await?;
        }
        session.date_created = before.date_created.clone();
        if asked.suppress_reset {
            keep_periods(&mut session, &before);
        }
        if is_past(session.expires) {
            session.expires = before.expires;
        }
        if !session.is_basic_auth()
            || session.basic_auth_data.password == before.basic_auth_data.password
        {
            // Tyk differs: there what the body says of the function is believed for the stored
            // hash, too, which may then be sent as a password.
            session.basic_auth_data = before.basic_auth_data;
        } else {
            self.hash_password(&mut session).await?;
        }
        self.settle(&at, &mut session, asked.counters())
            .await
            .map_err(not_secure)?;
        self.told(&at, &session, "Key modified", Kind::TokenUpdated);
        Ok(modified(at.shown(), "modified"))
    }

    /// `DELETE /tyk/keys` and `DELETE /tyk/keys/{key}`
    pub(super) async fn delete(&self, key: &str, asked: &Asked) -> Result<Response, Refusal> {
        let mut found = None;
        for key in self.meant(key, asked) {
            found = self.stored(&key, &asked.org_id, asked.by_name).await?;
            if found.is_some() {
                break;
            }
        }
        let Some(stored) = found else {
            return Err(refusal(StatusCode::NOT_FOUND, "There is no such key found"));
        };
        self.keyspace.remove(&stored).await.map_err(|error| {
            tracing::error!(prefix = "api", %error, "Failed to remove the key");
            refusal(StatusCode::BAD_REQUEST, "Failed to remove the key")
        })?;
        self.told(
            &stored.at,
            &stored.session,
            "Key deleted",
            Kind::TokenDeleted,
        );
        if asked.api_id == "-1" {
            return Ok(Json(Value::Null).into_response());
        }
        Ok(modified(stored.at.shown(), "deleted"))
    }

    /// `POST /tyk/keys/policy/{key}`: other policies for a key that is known by its hash.
    pub(in crate::control) async fn set_policies(
        &self,
        name: &str,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let update = Document::parse_within(body, INSTRUCTION_BYTES_MAX)
            .and_then(|document| document.decode::<PolicyUpdate>());
        let Ok(mut update) = update else {
            return Err(refusal(
                StatusCode::BAD_REQUEST,
                "Couldn't decode instruction",
            ));
        };
        if !update.policy.is_empty() {
            update.apply_policies.push(update.policy);
        }
        let Some(Stored { at, mut session }) = self.stored(name, "", true).await? else {
            return Err(refusal(StatusCode::NOT_FOUND, "Key not found"));
        };
        stamp(&mut session);
        session.set_policies(update.apply_policies);
        self.keyspace
            .save(&at, &session, 0, Counters::Keep)
            .await
            .map_err(|error| {
                tracing::error!(prefix = "api", %error, "Failed to update hashed key.");
                refusal(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "Could not write key data",
                )
            })?;
        self.told(&at, &session, "Updated hashed key", Kind::TokenUpdated);
        Ok(modified(at.shown(), "updated"))
    }

    /// The policies as far as they go; what keeps a key from being stored is found by
    /// [`Keys::settle`].
    fn lay(&self, session: &mut Session) {
        if let Err(error) = policy::apply(session, &self.policies.load(), None) {
            tracing::warn!(prefix = "api", %error, "policies");
        }
    }

    /// Works out what a session is to be stored as, and stores it (Tyk: `doAddOrUpdate`,
    /// `applyPoliciesAndSave`, `checkAndApplyTrialPeriod`).
    async fn settle(
        &self,
        at: &KeyRef,
        session: &mut Session,
        counters: Counters,
    ) -> Result<(), NotStored> {
        let policies = self.policies.load();
        let apis = self.apis();
        if counters == Counters::Reset {
            stamp(session);
        }
        let is_master = session.access_rights.is_empty();
        if is_master && !self.allows_master {
            return Err(NotStored::Master);
        }
        let named: Vec<Option<&ApiDefinition>> = if is_master {
            tracing::warn!(
                prefix = "api",
                "No API Access Rights set, adding key to ALL."
            );
            apis.all().map(Some).collect()
        } else {
            let ids = session.access_rights.keys();
            ids.map(|id| {
                let api = apis.get(id);
                if api.is_none() {
                    tracing::warn!(
                        prefix = "api",
                        api_id = id,
                        "Can't find active API, storing anyway"
                    );
                }
                api
            })
            .collect()
        };
        let is_loaded = named.iter().any(Option::is_some);
        if is_loaded
            && let Some(trial_s) = policies.trial_s(session)
            && !self.is_stored(at).await.map_err(NotStored::Store)?
        {
            session.expires = now_s().saturating_add(trial_s);
        }
        let mut resets = Counters::Keep;
        for api in named {
            let may_reset = is_master || !api.is_some_and(|api| api.dont_set_quota_on_create);
            if counters == Counters::Reset && may_reset {
                resets = Counters::Reset;
                session.quota_renews = now_s().saturating_add(session.quota_renewal_rate);
            }
            let org_id = api.map(|api| api.org_id.as_str());
            policy::apply(session, &policies, org_id).map_err(NotStored::Policy)?;
        }
        let lifetime_s = apis.lifetime_s(session, self.lifetimes);
        self.keyspace
            .save(at, session, lifetime_s, resets)
            .await
            .map_err(NotStored::Store)
    }

    async fn is_stored(&self, at: &KeyRef) -> Result<bool, StoreError> {
        Ok(self.keyspace.find_name(&at.name).await?.is_some())
    }

    async fn check_certificate(&self, id: &str) -> Result<(), Refusal> {
        let why = if id.is_empty() {
            "Key cannot be used without a certificate"
        } else if !self.keyspace.has_certificate(id).await.map_err(away)? {
            "Key must be used with an existent certificate"
        } else {
            return Ok(());
        };
        Err(refusal(StatusCode::BAD_REQUEST, why))
    }

    async fn hash_password(&self, session: &mut Session) -> Result<(), Refusal> {
        let password = std::mem::take(&mut session.basic_auth_data.password);
        let passwords = self.passwords;
        let hashed = tokio::task::spawn_blocking(move || passwords.hash(&password)).await;
        session.basic_auth_data = hashed
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| no_random(&error))?;
        Ok(())
    }

    /// `key_hash` of an answer: nothing while keys are not hashed.
    fn told_hash(&self, at: &KeyRef) -> String {
        if self.keyspace.naming().is_hashed {
            at.name.clone()
        } else {
            String::new()
        }
    }

    fn told(&self, at: &KeyRef, session: &Session, what: &str, event: Kind) {
        let key = self.shown(at.shown());
        tracing::info!(prefix = "api", key, org_id = session.org_id, "{what}");
        if let Some(events) = &self.events {
            events.fire(event);
        }
    }
}

impl Asked {
    const fn counters(&self) -> Counters {
        if self.suppress_reset {
            Counters::Keep
        } else {
            Counters::Reset
        }
    }
}

/// Periods of quotas, and of rate limits in memory, go on.
fn keep_periods(session: &mut Session, before: &Session) {
    session.quota_renews = before.quota_renews;
    session.last_updated.clone_from(&before.last_updated);
    for (api_id, right) in &before.access_rights {
        if !right.limit.is_empty()
            && let Some(new) = session.access_rights.get_mut(api_id)
            && !new.limit.is_empty()
        {
            new.limit.quota_renews = right.limit.quota_renews;
        }
    }
}

fn stamp(session: &mut Session) {
    session.last_updated = now_s().to_string();
}

fn now_s() -> i64 {
    now().as_secs() as i64
}

fn date() -> Date {
    Date::from_unix_ns(u64::try_from(now().as_nanos()).unwrap_or(u64::MAX))
}

fn is_past(expires: i64) -> bool {
    expires > 1 && now_s() >= expires
}

fn parse(body: &[u8]) -> Option<Session> {
    Session::from_json_slice(body)
        .inspect_err(|error| {
            tracing::error!(prefix = "api", %error, "Couldn't decode new session object");
        })
        .ok()
}

fn malformed() -> Refusal {
    refusal(StatusCode::BAD_REQUEST, "Request malformed")
}

fn unmarshalling_failed() -> Refusal {
    refusal(StatusCode::INTERNAL_SERVER_ERROR, "Unmarshalling failed")
}

fn not_secure(why: NotStored) -> Refusal {
    match why {
        NotStored::Master => {
            tracing::error!(
                prefix = "api",
                "Master keys disallowed in configuration, key not added."
            );
        }
        NotStored::Policy(error) => tracing::error!(prefix = "api", %error, "key not stored"),
        NotStored::Store(error) => tracing::error!(prefix = "api", %error, "key not stored"),
    }
    refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        "Failed to create key, ensure security settings are correct.",
    )
}

fn no_random(error: &io::Error) -> Refusal {
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("Failed to create key - {error}"),
    )
}
