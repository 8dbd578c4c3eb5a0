//! `/tyk/org/keys`: sessions of organisations.
//!
//! Tyk: `gateway/api.go` (`orgHandler` and what it calls).

use axum::{Json, http::StatusCode};
use serde_json::{Value, json};

use crate::{
    auth::keyspace::{Counters, Keyspace, now},
    gateway::reload::Gateway,
    session::Session,
    storage::StoreError,
};

/// Status and message of a refusal.
type Refusal = (StatusCode, String);

/// `GET /tyk/org/keys`: the ids that begin with `filter`.
pub(super) async fn list(
    keyspace: &Keyspace,
    gateway: &dyn Gateway,
    asked: &[(String, String)],
) -> Result<Json<Value>, Refusal> {
    if gateway.definitions().is_empty() {
        return Err(refusal(StatusCode::NOT_FOUND, "ORG not found"));
    }
    let filter = value(asked, "filter");
    let ids = keyspace.list_orgs(filter).await.map_err(away)?;
    Ok(Json(json!({"keys": ids})))
}

/// `GET /tyk/org/keys/{id}`, as JSON text.
pub(super) async fn read(
    keyspace: &Keyspace,
    gateway: &dyn Gateway,
    id: &str,
) -> Result<String, Refusal> {
    let not_found = || refusal(StatusCode::NOT_FOUND, "Org not found");
    if gateway.definitions().is_empty() {
        return Err(not_found());
    }
    let found = keyspace.find_org(id).await.map_err(away)?;
    Ok(found.ok_or_else(not_found)?.to_json_string())
}

/// `POST` and `PUT /tyk/org/keys/{id}`. `suppresses_default` is `suppress_default_org_store`.
pub(super) async fn write(
    keyspace: &Keyspace,
    gateway: &dyn Gateway,
    (id, action): (&str, &'static str),
    suppresses_default: bool,
    asked: &[(String, String)],
    body: &[u8],
) -> Result<Json<Value>, Refusal> {
    let mut session = Session::from_json_slice(body).map_err(|error| {
        tracing::error!(prefix = "api", %error, "Couldn't decode new session object");
        refusal(StatusCode::BAD_REQUEST, "Request malformed")
    })?;
    if suppresses_default && gateway.definitions().is_empty() {
        return Err(refusal(
            StatusCode::NOT_FOUND,
            "No such organisation found in Active API list",
        ));
    }
    let now_s = now().as_secs() as i64;
    let counters = if value(asked, "reset_quota") == "1" {
        session.quota_renews = now_s.saturating_add(session.quota_renewal_rate);
        Counters::Reset
    } else {
        Counters::Keep
    };
    session.last_updated = now_s.to_string();
    keyspace
        .save_org(id, &session, counters)
        .await
        .map_err(|error| {
            let text = format!("Error writing to key store {error}");
            (StatusCode::INTERNAL_SERVER_ERROR, text)
        })?;
    Ok(modified(id, action))
}

/// `DELETE /tyk/org/keys/{id}`
pub(super) async fn delete(
    keyspace: &Keyspace,
    gateway: &dyn Gateway,
    id: &str,
) -> Result<Json<Value>, Refusal> {
    if gateway.definitions().is_empty() {
        return Err(refusal(StatusCode::NOT_FOUND, "Org not found"));
    }
    if !keyspace.remove_org(id).await.map_err(away)? {
        return Err(refusal(StatusCode::BAD_REQUEST, "Failed to remove the key"));
    }
    Ok(modified(id, "deleted"))
}

fn modified(id: &str, action: &'static str) -> Json<Value> {
    Json(json!({"key": id, "status": "ok", "action": action}))
}

fn refusal(status: StatusCode, message: &str) -> Refusal {
    (status, message.to_owned())
}

fn away(error: StoreError) -> Refusal {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

fn value<'a>(asked: &'a [(String, String)], name: &str) -> &'a str {
    let pair = asked.iter().find(|(key, _)| key == name);
    pair.map_or("", |(_, value)| value.as_str())
}
