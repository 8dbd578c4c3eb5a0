//! What to do when something happens to an API: `event_handlers`.
//!
//! Tyk: `apidef/api_definitions.go` (`EventHandlerMetaConfig`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apidef::value::{List, Map};

/// Handlers by event name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventHandlerMetaConfig {
    pub events: Map<List<EventHandlerTriggerConfig>>,
}

/// One handler and its settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventHandlerTriggerConfig {
    pub handler_name: String,
    pub handler_meta: Map<Value>,
}

/// Events of an API that something fires (`event::Kind`).
pub(crate) const EVENTS: [&str; 7] = [
    "AuthFailure",
    "KeyExpired",
    "VersionFailure",
    "RatelimitExceeded",
    "QuotaExceeded",
    "OrgQuotaExceeded",
    "OrgRateLimitExceeded",
];
