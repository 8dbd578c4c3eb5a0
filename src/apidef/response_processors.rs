//! Steps on the way back: `response_processors`.
//!
//! Tyk: `apidef/api_definitions.go` (`ResponseProcessor`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One response step and its options.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResponseProcessor {
    pub name: String,
    /// Depends on `name`.
    pub options: Value,
}
