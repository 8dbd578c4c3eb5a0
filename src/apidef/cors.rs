//! Cross-origin rules: `CORS` (upper case in the file).
//!
//! Tyk: `apidef/api_definitions.go` (`CORSConfig`).

use serde::{Deserialize, Serialize};

use crate::apidef::value::List;

/// Cross-origin resource sharing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CorsConfig {
    pub enable: bool,
    pub allowed_origins: List<String>,
    pub allowed_methods: List<String>,
    pub allowed_headers: List<String>,
    pub exposed_headers: List<String>,
    pub allow_credentials: bool,
    /// Seconds.
    pub max_age: i64,
    pub options_passthrough: bool,
    pub debug: bool,
}
