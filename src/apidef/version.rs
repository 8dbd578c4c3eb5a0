//! Versions of one API: `definition` (how a request names its version) and `version_data`.
//!
//! Tyk: `apidef/api_definitions.go` (`VersionDefinition`, `VersionData`, `VersionInfo`).

use serde::{Deserialize, Serialize};

use crate::apidef::extended_paths::ExtendedPathsSet;
use crate::apidef::value::{List, Map};

/// How a request names its version; `enabled` routes each version to an API of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionDefinition {
    pub enabled: bool,
    pub name: String,
    /// Version name when the request gives none.
    pub default: String,
    /// `header`, `url-param` or `url`.
    pub location: String,
    /// Header or parameter name.
    pub key: String,
    /// Deprecated name of `strip_versioning_data`.
    pub strip_path: bool,
    pub strip_versioning_data: bool,
    pub fallback_to_default: bool,
    /// Version name to API id.
    pub versions: Map<String>,
}

/// Versions kept inside this definition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionData {
    pub not_versioned: bool,
    pub default_version: String,
    /// Boxed: a tree node has room for eleven values.
    pub versions: Map<Box<VersionInfo>>,
}

/// One version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionInfo {
    pub name: String,
    /// `2006-01-02 15:04`, UTC; empty or `-1`: never.
    pub expires: String,
    pub paths: VersionPaths,
    pub use_extended_paths: bool,
    pub extended_paths: ExtendedPathsSet,
    pub global_headers: Map<String>,
    pub global_headers_remove: List<String>,
    pub global_headers_disabled: bool,
    pub global_response_headers: Map<String>,
    pub global_response_headers_remove: List<String>,
    pub global_response_headers_disabled: bool,
    pub ignore_endpoint_case: bool,
    /// Bytes; 0: none.
    pub global_size_limit: i64,
    /// Replaces `proxy.target_url` for this version.
    pub override_target: String,
}

/// Plain path lists, used only when `use_extended_paths` is off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionPaths {
    pub ignored: List<String>,
    pub white_list: List<String>,
    pub black_list: List<String>,
}
