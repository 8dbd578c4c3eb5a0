//! `DELETE /tyk/cache/{api id}`: empties an API's cache of answers.
//!
//! Tyk: `gateway/api.go` (`invalidateCacheHandler`).

use axum::Json;
use serde_json::{Value, json};

/// Nothing is cached, so nothing has to go. An API that is not known is no error, as in Tyk.
pub(super) fn invalidate() -> Json<Value> {
    Json(json!({"status": "ok", "message": "cache invalidated"}))
}
