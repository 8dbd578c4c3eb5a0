//! `/tyk/apis` and `/tyk/apis/{id}`: reading what was loaded, writing files.
//!
//! Nothing is reloaded by a write: the caller asks for that (`/tyk/reload`), as in Tyk.
//!
//! Tyk: `gateway/api.go` (`apiHandler`, `handleAddApi`, `handleUpdateApi`, `handleDeleteAPI`).

use std::sync::Arc;

use axum::{
    Json,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

use crate::{
    apidef::{ApiDefinition, validate},
    gateway::{
        folder::{FileId, Folder},
        reload::Gateway,
    },
    hash::random_id,
};

/// Status and message of a refusal.
type Refusal = (StatusCode, String);

/// Tyk's `apiModifyKeySuccess`.
#[derive(Debug, Serialize)]
pub(super) struct Modified {
    key: String,
    status: &'static str,
    action: &'static str,
}

/// All definitions in classic form, in load order.
pub(super) fn list(gateway: &dyn Gateway) -> Response {
    let mut text = String::from("[");
    for (at, api) in gateway.definitions().iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&api.to_json_string());
    }
    text.push(']');
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// One definition; a child version names its base in a field.
pub(super) fn read(gateway: &dyn Gateway, id: &str) -> Result<Response, Refusal> {
    let definitions = gateway.definitions();
    let api = loaded(&definitions, id)?;
    let mut response = (
        [(header::CONTENT_TYPE, "application/json")],
        api.to_json_string(),
    )
        .into_response();
    if let Some(base) = base_of(&definitions, id)
        && let Ok(value) = base.api_id.parse()
    {
        let name = HeaderName::from_static("x-tyk-base-api-id");
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// Writes the file of a new definition. Without an id it gets one. With `base_api_id` it becomes a
/// version of that API, whose file is then written anew too.
pub(super) async fn create(
    files: &Folder,
    gateway: &dyn Gateway,
    asked: &[(String, String)],
    body: &[u8],
) -> Result<Json<Modified>, Refusal> {
    let mut api = parse(body)?;
    valid(&api)?;
    if api.api_id.is_empty() {
        api.api_id = random_id().map_err(|error| not_written(&error))?;
    }
    let id = file_id(&api.api_id)?;
    let definitions = gateway.definitions();
    let base = asked_base(&definitions, asked);
    files
        .write(&id, api.to_json_string_pretty())
        .await
        .map_err(|error| not_written(&error))?;
    if let Some(base) = base {
        // After the child: a base that names a file that is not there would be worse than a child
        // that no base names.
        let (base_id, text) = with_child(as_written(files, base).await?, &id, asked)?;
        files
            .write(&base_id, text)
            .await
            .map_err(|error| not_written(&error))?;
    }
    Ok(modified(&id, "added"))
}

/// Writes the file of a definition that is loaded.
pub(super) async fn update(
    files: &Folder,
    gateway: &dyn Gateway,
    id: &str,
    body: &[u8],
) -> Result<Json<Modified>, Refusal> {
    let file_id = file_id(id)?;
    let definitions = gateway.definitions();
    let before = loaded(&definitions, id)?;
    let api = parse(body)?;
    if api.api_id != id {
        return Err((
            StatusCode::BAD_REQUEST,
            "Request APIID does not match that in Definition! For Update operations these must \
             match."
                .to_owned(),
        ));
    }
    valid(&api)?;
    if before.is_oas {
        return Err((
            StatusCode::BAD_REQUEST,
            "this API endpoint only supports Tyk Classic APIs; please use the appropriate Tyk OAS \
             API endpoint"
                .to_owned(),
        ));
    }
    files
        .write(&file_id, api.to_json_string_pretty())
        .await
        .map_err(|error| not_written(&error))?;
    Ok(modified(&file_id, "modified"))
}

/// Removes the file of a definition that is loaded, and its entry in its base.
pub(super) async fn delete(
    files: &Folder,
    gateway: &dyn Gateway,
    id: &str,
) -> Result<Json<Modified>, Refusal> {
    let file_id = file_id(id)?;
    let definitions = gateway.definitions();
    loaded(&definitions, id)?;
    let is_removed = files
        .remove(&file_id)
        .await
        .map_err(|error| not_deleted(&format!(": {error}")))?;
    if !is_removed {
        return Err(not_deleted(""));
    }
    if let Some(base) = base_of(&definitions, id) {
        let (base_id, text) = without_child(as_written(files, base).await?, id)?;
        files
            .write(&base_id, text)
            .await
            .map_err(|error| not_written(&error))?;
    }
    Ok(modified(&file_id, "deleted"))
}

fn loaded<'a>(
    definitions: &'a [Arc<ApiDefinition>],
    id: &str,
) -> Result<&'a ApiDefinition, Refusal> {
    definitions
        .iter()
        .find(|api| api.api_id == id)
        .map(Arc::as_ref)
        .ok_or_else(|| (StatusCode::NOT_FOUND, "API not found".to_owned()))
}

fn file_id(id: &str) -> Result<FileId, Refusal> {
    let parsed = if id.ends_with("-oas") {
        Err("names that end in -oas are those of OpenAPI documents")
    } else {
        FileId::parse(id)
    };
    parsed.map_err(|why| {
        let why = format!("api_id cannot name a file: {why}");
        (StatusCode::BAD_REQUEST, why)
    })
}

fn parse(body: &[u8]) -> Result<ApiDefinition, Refusal> {
    ApiDefinition::from_json_slice(body).map_err(|fault| {
        tracing::error!(prefix = "api", error = %fault, "Couldn't decode new API Definition object");
        (StatusCode::BAD_REQUEST, "Request malformed".to_owned())
    })
}

fn valid(api: &ApiDefinition) -> Result<(), Refusal> {
    match validate::rest_fault(api) {
        None => Ok(()),
        Some(reason) => Err((
            StatusCode::BAD_REQUEST,
            format!("Validation of API Definition failed. Reason: {reason}."),
        )),
    }
}

/// Tyk's text, with the cause behind it.
fn not_written(error: &std::io::Error) -> Refusal {
    tracing::error!(prefix = "api", %error, "Failed to create file!");
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("file object creation failed, write error: {error}"),
    )
}

fn not_deleted(cause: &str) -> Refusal {
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("Delete failed{cause}"),
    )
}

fn modified(id: &FileId, action: &'static str) -> Json<Modified> {
    Json(Modified {
        key: id.as_str().to_owned(),
        status: "ok",
        action,
    })
}

fn base_of<'a>(definitions: &'a [Arc<ApiDefinition>], child: &str) -> Option<&'a ApiDefinition> {
    definitions.iter().map(Arc::as_ref).find(|api| {
        api.definition.enabled && api.definition.versions.values().any(|id| id == child)
    })
}

/// The API that `base_api_id` names. An unknown one is logged and otherwise passed over, as in Tyk.
fn asked_base<'a>(
    definitions: &'a [Arc<ApiDefinition>],
    asked: &[(String, String)],
) -> Option<&'a ApiDefinition> {
    let id = first(asked, "base_api_id")?;
    let found = loaded(definitions, id).ok();
    if found.is_none() {
        tracing::error!(prefix = "api", base_api_id = id, "Couldn't find a base API");
    }
    found
}

/// A loaded definition as its file says it now, for writing it anew.
///
/// `// Tyk differs:` there the loaded one is written back, so that a second version that is added
/// before a reload removes the first, and what references to secrets stood for lands on the disk.
async fn as_written(files: &Folder, api: &ApiDefinition) -> Result<ApiDefinition, Refusal> {
    let id = file_id(&api.api_id)?;
    let text = files.read(&id).await.map_err(|error| not_written(&error))?;
    Ok(text
        .and_then(|text| ApiDefinition::from_json_slice(&text).ok())
        // Its file has another name.
        .unwrap_or_else(|| api.clone()))
}

/// A base with one more version (Tyk: `handleAddApi`, `baseAPI`).
fn with_child(
    mut api: ApiDefinition,
    child: &FileId,
    asked: &[(String, String)],
) -> Result<(FileId, String), Refusal> {
    let versions = &mut api.definition;
    versions.enabled = true;
    if let Some(name) = first(asked, "base_api_version_name") {
        versions.name = name.to_owned();
        versions.default = name.to_owned();
    }
    for (value, fallback) in [
        (&mut versions.key, "x-api-version"),
        (&mut versions.location, "header"),
        (&mut versions.default, "self"),
    ] {
        if value.is_empty() {
            *value = fallback.to_owned();
        }
    }
    let name = first(asked, "new_version_name").unwrap_or_default();
    versions
        .versions
        .insert(name.to_owned(), child.as_str().to_owned());
    if first(asked, "set_default") == Some("true") {
        versions.default = name.to_owned();
    }
    printed(&api)
}

/// A base with one version less; where that was the default, the base's own name is.
fn without_child(mut api: ApiDefinition, child: &str) -> Result<(FileId, String), Refusal> {
    let names: Vec<_> = api
        .definition
        .versions
        .iter()
        .filter(|(_, id)| *id == child)
        .map(|(name, _)| name.clone())
        .collect();
    for name in names {
        api.definition.versions.remove(&name);
        if api.definition.default == name {
            api.definition.default = api.definition.name.clone();
        }
    }
    printed(&api)
}

fn printed(api: &ApiDefinition) -> Result<(FileId, String), Refusal> {
    let id = file_id(&api.api_id)?;
    Ok((id, api.to_json_string_pretty()))
}

/// The first value of a query parameter, unless it is empty.
fn first<'a>(asked: &'a [(String, String)], name: &str) -> Option<&'a str> {
    asked
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
        .filter(|value| !value.is_empty())
}
