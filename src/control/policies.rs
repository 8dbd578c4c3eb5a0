//! `/tyk/policies` and `/tyk/policies/{id}`: reading what is in force, writing files.
//!
//! A write changes nothing that is in force: the caller reloads (`/tyk/reload`), as in Tyk.
//!
//! Tyk: `gateway/api.go` (`polHandler`, `handleAddOrUpdatePolicy`, `handleDeletePolicy`).

use axum::{Json, http::StatusCode};
use serde_json::{Value, json};

use crate::{
    gateway::folder::{FileId, Folder},
    policy::{Policies, Policy},
};

/// Status and message of a refusal.
type Refusal = (StatusCode, String);

/// All policies, in the order of their ids, as JSON text.
pub(super) fn list(policies: &Policies) -> String {
    let texts: Vec<String> = policies
        .iter()
        .map(|(_, policy)| policy.to_json_string())
        .collect();
    format!("[{}]", texts.join(","))
}

/// One policy, as JSON text.
pub(super) fn read(policies: &Policies, id: &str) -> Result<String, Refusal> {
    policies
        .get(id)
        .filter(|policy| !policy.id.is_empty())
        .map(|policy| policy.to_json_string())
        .ok_or_else(|| (StatusCode::NOT_FOUND, "Policy not found".to_owned()))
}

/// Writes the file of a policy under the id in the body, which may be none.
pub(super) async fn create(folder: &Folder, body: &[u8]) -> Result<Json<Value>, Refusal> {
    let policy = parse(body)?;
    write(folder, &policy, "added").await
}

/// Writes the file of a policy, also of one that is not there yet, as in Tyk.
pub(super) async fn update(folder: &Folder, id: &str, body: &[u8]) -> Result<Json<Value>, Refusal> {
    let policy = parse(body)?;
    if policy.id != id {
        return Err((
            StatusCode::BAD_REQUEST,
            "Request ID does not match that in policy! For Update operations these must match."
                .to_owned(),
        ));
    }
    write(folder, &policy, "modified").await
}

/// Removes the file of a policy.
pub(super) async fn delete(folder: &Folder, id: &str) -> Result<Json<Value>, Refusal> {
    let file_id = file_id(id)?;
    match folder.remove(&file_id).await {
        Ok(true) => Ok(modified(id, "deleted")),
        outcome => {
            tracing::warn!(prefix = "api", ?outcome, "Delete failed");
            Err((
                StatusCode::INTERNAL_SERVER_ERROR,
                "Delete failed".to_owned(),
            ))
        }
    }
}

/// A call that must name a policy does not.
pub(super) fn nameless(doing: &str) -> Refusal {
    (
        StatusCode::BAD_REQUEST,
        format!("Must specify an apiID to {doing}"),
    )
}

fn parse(body: &[u8]) -> Result<Policy, Refusal> {
    Policy::from_json_slice(body).map_err(|error| {
        tracing::error!(prefix = "api", %error, "Couldn't decode new policy object");
        (StatusCode::BAD_REQUEST, "Request malformed".to_owned())
    })
}

async fn write(
    folder: &Folder,
    policy: &Policy,
    action: &'static str,
) -> Result<Json<Value>, Refusal> {
    let file_id = if policy.id.is_empty() {
        FileId::NAMELESS
    } else {
        file_id(&policy.id)?
    };
    folder
        .write(&file_id, policy.to_json_string_pretty())
        .await
        .map_err(|error| {
            tracing::error!(prefix = "api", %error, "Failed to create file!");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "Failed to create file!".to_owned(),
            )
        })?;
    Ok(modified(&policy.id, action))
}

fn file_id(id: &str) -> Result<FileId, Refusal> {
    FileId::parse(id).map_err(|why| {
        let why = format!("the policy's id cannot name a file: {why}");
        (StatusCode::BAD_REQUEST, why)
    })
}

fn modified(id: &str, action: &'static str) -> Json<Value> {
    Json(json!({"key": id, "status": "ok", "action": action}))
}
