//! `GET /tyk/reload` and `GET /tyk/reload/group`.
//!
//! Tyk: `gateway/api.go` (`resetHandler`, `groupResetHandler`).

use axum::{Json, http::StatusCode};
use serde_json::{Value, json};

use crate::auth::keyspace::Keyspace;
use crate::gateway::reload::{Bell, Gateway, NotRung, Status};

/// Answers at once; with `block=true` when the reload is done, and with `dry_run=true` with what a
/// reload would do, which then does not happen.
///
/// A reload that leaves definitions out is a success that names them in `message`. One that took
/// no effect is a 500. `// Tyk differs:` there both answer 200 with an empty message.
pub(super) async fn reload(
    bell: &Bell,
    gateway: &dyn Gateway,
    asked: &[(String, String)],
) -> Result<Json<Value>, (StatusCode, String)> {
    let is_asked = |name: &str| {
        let first = asked.iter().find(|(key, _)| key == name);
        first.is_some_and(|(_, value)| value == "true")
    };
    if is_asked("dry_run") {
        let report = gateway.dry_run().await;
        return serde_json::to_value(report)
            .map(Json)
            .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
    }
    if !is_asked("block") {
        bell.ring().map_err(refusal)?;
        return Ok(ok(""));
    }
    let report = bell.ring_and_wait().await.map_err(refusal)?;
    match report.status {
        Status::Ok | Status::Partial => Ok(ok(&report.summary())),
        Status::Failed => Err((StatusCode::INTERNAL_SERVER_ERROR, report.summary())),
    }
}

/// Asks all gateways that share the store; this one also when nobody can be told.
pub(super) fn group(bell: &Bell, keyspace: &Keyspace) -> Result<Json<Value>, (StatusCode, String)> {
    bell.ring().map_err(refusal)?;
    keyspace.notifier().group_reload();
    Ok(ok(""))
}

fn ok(message: &str) -> Json<Value> {
    Json(json!({"status": "ok", "message": message}))
}

fn refusal(why: NotRung) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, why.to_string())
}
