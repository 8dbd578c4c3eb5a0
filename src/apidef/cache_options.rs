//! Response cache of one API: `cache_options`.
//!
//! Tyk: `apidef/api_definitions.go` (`CacheOptions`).

use serde::{Deserialize, Serialize};

use crate::apidef::value::List;

/// Response cache.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheOptions {
    /// Seconds.
    pub cache_timeout: i64,
    pub enable_cache: bool,
    pub cache_all_safe_requests: bool,
    pub cache_response_codes: List<i64>,
    pub enable_upstream_cache_control: bool,
    pub cache_control_ttl_header: String,
    pub cache_by_headers: List<String>,
}
