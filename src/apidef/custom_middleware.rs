//! Plugins of one API: `custom_middleware` and `analytics_plugin`.
//!
//! Tyk: `apidef/api_definitions.go` (`MiddlewareSection`, `MiddlewareDefinition`,
//! `AnalyticsPluginConfig`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apidef::value::{List, Map, is_false};

/// Plugins by place in the chain.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MiddlewareSection {
    pub pre: List<MiddlewareDefinition>,
    pub post: List<MiddlewareDefinition>,
    pub post_key_auth: List<MiddlewareDefinition>,
    pub auth_check: MiddlewareDefinition,
    pub response: List<MiddlewareDefinition>,
    /// Empty or `otto` (JavaScript), `python`, `lua`, `grpc`, `goplugin`.
    pub driver: String,
    pub id_extractor: MiddlewareIdExtractor,
}

/// One plugin function.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MiddlewareDefinition {
    pub disabled: bool,
    pub name: String,
    pub path: String,
    pub require_session: bool,
    pub raw_body_only: bool,
}

/// Where a plugin's session id is read, so that its answer can be cached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MiddlewareIdExtractor {
    pub disabled: bool,
    pub extract_from: String,
    pub extract_with: String,
    pub extractor_config: Map<Value>,
}

/// A plugin that sees analytics records.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnalyticsPluginConfig {
    #[serde(skip_serializing_if = "is_false")]
    pub enable: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub plugin_path: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub func_name: String,
}
