//! Where requests come in and where they go: `proxy`.
//!
//! Tyk: `apidef/api_definitions.go` (`ProxyConfig`, `ServiceDiscoveryConfiguration`).

use serde::{Deserialize, Serialize};

use crate::apidef::value::List;

/// Listen path, target and what lies between.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyConfig {
    pub preserve_host_header: bool,
    pub listen_path: String,
    pub target_url: String,
    pub disable_strip_slash: bool,
    pub strip_listen_path: bool,
    pub enable_load_balancing: bool,
    /// Targets in turn when `enable_load_balancing` is on.
    pub target_list: List<String>,
    pub check_host_against_uptime_tests: bool,
    pub service_discovery: ServiceDiscoveryConfiguration,
    pub transport: Transport,
}

/// Connection settings towards the upstream. TLS versions are Go constants: 769 (1.0) to 772 (1.3).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Transport {
    pub ssl_insecure_skip_verify: bool,
    pub ssl_ciphers: List<String>,
    pub ssl_min_version: u16,
    pub ssl_max_version: u16,
    pub ssl_force_common_name_check: bool,
    pub proxy_url: String,
}

/// Where a list of upstream hosts is fetched from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceDiscoveryConfiguration {
    pub use_discovery_service: bool,
    pub query_endpoint: String,
    pub use_nested_query: bool,
    pub parent_data_path: String,
    pub data_path: String,
    pub port_data_path: String,
    pub target_path: String,
    pub use_target_list: bool,
    pub cache_disabled: bool,
    /// Seconds; 0: the default of `tyk.conf`.
    pub cache_timeout: i64,
    pub endpoint_returns_list: bool,
}
