//! `/tyk/apis/oas` and `/tyk/apis/oas/{id}`: only what can be said while there are no OpenAPI definitions.
//!
//! Tyk: `gateway/api.go` (`apiOASGetHandler`).

use axum::{Json, http::StatusCode};

use crate::gateway::reload::Gateway;

/// No definition is an OpenAPI document.
pub(super) const fn list() -> Json<[(); 0]> {
    Json([])
}

/// Every definition is a classic one, or unknown.
pub(super) fn read(gateway: &dyn Gateway, id: &str) -> (StatusCode, &'static str) {
    if gateway.definitions().iter().any(|api| api.api_id == id) {
        (
            StatusCode::BAD_REQUEST,
            "the requested API definition is in Tyk classic format, please use old api endpoint",
        )
    } else {
        (StatusCode::NOT_FOUND, "API not found")
    }
}
