//! Reading keys: one, or the list of them.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::json;

use crate::{
    auth::keyspace::Stored,
    control::keys::{Asked, Keys, Refusal, away, json, refusal},
    policy,
    session::{Session, quota_key},
    storage::StoreError,
};

impl Keys {
    /// `GET /tyk/keys`
    pub(super) async fn list(&self, asked: &Asked) -> Result<Response, Refusal> {
        let mut filter = asked.filter.as_str();
        if self.keyspace.naming().is_hashed {
            if !self.lists_hashed {
                return Err(refusal(
                    StatusCode::NOT_FOUND,
                    "Hashed key listing is disabled in config (enable_hashed_keys_listing)",
                ));
            }
            // Hashes begin with nothing that somebody could know.
            filter = "";
        }
        let mut keys = self.keyspace.list(filter).await.map_err(away)?;
        if !filter.is_empty() {
            // An organisation's tokens, too: they begin alike, up to the letters in which the next
            // bytes have a part.
            let token = STANDARD_NO_PAD.encode(format!(r#"{{"org":"{filter}""#));
            let prefix = token.get(..token.len() - 2).unwrap_or_default();
            keys.extend(self.keyspace.list(prefix).await.map_err(away)?);
        }
        Ok(Json(json!({"keys": keys})).into_response())
    }

    /// `GET /tyk/keys/{key}`
    pub(super) async fn read(&self, key: &str, asked: &Asked) -> Result<Response, Refusal> {
        if asked.by_name && !self.keyspace.naming().is_hashed {
            return Err(refusal(
                StatusCode::BAD_REQUEST,
                "Key requested by hash but key hashing is not enabled",
            ));
        }
        let apis = self.apis();
        let api = apis.get(&asked.api_id);
        let org_id = api.map_or(&asked.org_id, |api| &api.org_id);
        let mut found = None;
        for key in self.meant(key, asked) {
            found = self.stored(&key, org_id, asked.by_name).await?;
            if found.is_some() {
                break;
            }
        }
        let Some(Stored { at, mut session }) = found else {
            return Err(refusal(StatusCode::NOT_FOUND, "Key not found"));
        };
        let org_id = api.map(|api| api.org_id.as_str());
        if let Err(error) = policy::apply(&mut session, &self.policies.load(), org_id) {
            // Shown as far as it came, as in Tyk.
            tracing::warn!(prefix = "api", key = self.shown(at.shown()), %error, "policies");
        }
        self.fill_remaining(&at.name, &mut session)
            .await
            .map_err(away)?;
        session.basic_auth_data.password.clear();
        Ok(json(session.to_json_string()))
    }

    /// The session of a key, or of a name in the store.
    pub(super) async fn stored(
        &self,
        key: &str,
        org_id: &str,
        by_name: bool,
    ) -> Result<Option<Stored>, Refusal> {
        let found = if by_name {
            self.keyspace.find_name(key).await
        } else {
            self.keyspace.find(key, org_id).await
        };
        found.map_err(away)
    }

    /// Puts what is left of quotas into a session, from the counters.
    async fn fill_remaining(&self, name: &str, session: &mut Session) -> Result<(), StoreError> {
        let is_root_limited = session.quota_max != -1;
        let limited: Vec<String> = session
            .access_rights
            .iter()
            .filter(|(_, right)| !matches!(right.limit.quota_max, 0 | -1))
            .map(|(api_id, _)| api_id.clone())
            .collect();
        let names = is_root_limited
            .then(|| quota_key("", name))
            .into_iter()
            .chain(limited.iter().map(|api_id| {
                let right = session.access_rights.get(api_id);
                quota_key(right.map_or("", |right| &right.allowance_scope), name)
            }))
            .collect();
        let mut used = self.keyspace.used_quotas(names).await?.into_iter();
        let left = |max: i64, used: i64| max.saturating_sub(used).max(0);
        if is_root_limited && let Some(used) = used.next().flatten() {
            session.quota_remaining = left(session.quota_max, used);
        }
        for (api_id, used) in limited.iter().zip(used) {
            if let Some(right) = session.access_rights.get_mut(api_id) {
                let limit = &mut right.limit;
                limit.quota_remaining = used.map_or(limit.quota_max, |u| left(limit.quota_max, u));
            }
        }
        Ok(())
    }
}
