//! `GET /tyk/apis/{id}/versions`.
//!
//! Tyk: `gateway/api.go` (`getAPIVersions…`), `VersionMetas`.

use axum::{Json, http::StatusCode};
use serde::Serialize;

use crate::{apidef::ApiDefinition, gateway::reload::Gateway};

#[derive(Serialize)]
pub(super) struct Versions {
    status: &'static str,
    /// `null` when nothing is left to list, as Go prints an empty slice that was never made.
    apis: Option<Vec<Version>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    id: String,
    name: String,
    version_name: String,
    internal: bool,
    expiration_date: String,
    is_default_version: bool,
}

/// The versions of an API: the base first, then its children by version name. Asked for a child, the
/// answer is its base's. `searchText` keeps names that contain it, `accessType` keeps `internal`
/// or `external` ones.
pub(super) fn list(
    gateway: &dyn Gateway,
    id: &str,
    asked: &[(String, String)],
) -> Result<Json<Versions>, (StatusCode, &'static str)> {
    let definitions = gateway.definitions();
    let by_id = |id: &str| definitions.iter().find(|api| api.api_id == id);
    let asked_api = by_id(id).ok_or((StatusCode::NOT_FOUND, "API not found"))?;
    let base = definitions
        .iter()
        .find(|api| {
            let versions = &api.definition;
            versions.enabled && versions.versions.values().any(|child| child == id)
        })
        .unwrap_or(asked_api);
    let default = base.definition.default.as_str();
    let own = base.definition.name.as_str();
    let mut versions = vec![version(
        base,
        own,
        default.is_empty() || default == "self" || default == own,
    )];
    for (name, child) in &base.definition.versions {
        if let Some(child) = by_id(child).filter(|child| child.api_id != base.api_id) {
            versions.push(version(child, name, !name.is_empty() && name == default));
        }
    }
    let first = |name: &str| {
        let found = asked.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    };
    let search = first("searchText").to_lowercase();
    versions.retain(|version| {
        let is_found = [&version.name, &version.version_name]
            .iter()
            .any(|text| text.to_lowercase().contains(&search));
        is_found
            && match first("accessType") {
                "internal" => version.internal,
                "external" => !version.internal,
                _ => true,
            }
    });
    Ok(Json(Versions {
        status: "success",
        apis: (!versions.is_empty()).then_some(versions),
    }))
}

fn version(api: &ApiDefinition, name: &str, is_default_version: bool) -> Version {
    Version {
        id: api.api_id.clone(),
        name: api.name.clone(),
        version_name: name.to_owned(),
        internal: api.internal,
        expiration_date: api.expiration.clone(),
        is_default_version,
    }
}
