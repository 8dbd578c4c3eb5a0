//! Health checks of upstream hosts: `uptime_tests`.
//!
//! Tyk: `apidef/api_definitions.go` (`UptimeTests`), `apidef/host_checker.go` (`HostCheckObject`).

use serde::{Deserialize, Serialize};

use crate::apidef::proxy::ServiceDiscoveryConfiguration;
use crate::apidef::value::{List, Map};

/// Uptime tests of an API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UptimeTests {
    pub check_list: List<HostCheckObject>,
    pub config: UptimeTestsConfig,
}

/// One host to check.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostCheckObject {
    pub url: String,
    pub protocol: String,
    /// Nanoseconds.
    pub timeout: i64,
    pub enable_proxy_protocol: bool,
    pub commands: List<CheckCommand>,
    pub method: String,
    pub headers: Map<String>,
    /// Base64.
    pub body: String,
}

/// One step of a TCP check: `send` or `expect`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckCommand {
    pub name: String,
    pub message: String,
}

/// How checks are made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UptimeTestsConfig {
    /// Seconds.
    pub expire_utime_after: i64,
    pub service_discovery: ServiceDiscoveryConfiguration,
    pub recheck_wait: i64,
}
