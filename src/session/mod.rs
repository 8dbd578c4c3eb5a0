//! Sessions: what a key may do, as it is stored and as the REST API speaks of it.
//!
//! Pure data: parse, print, and the rules that need nothing else (lifetime, expiry, which limit
//! counts for an API, names of counters). Every field of Tyk 5.4.0, in Tyk's order; printing gives
//! what Go's `json.Marshal` gives, so that gateways of both kinds share a store.
//!
//! Tyk: `user/session.go` (`SessionState`, `AccessDefinition`, `APILimit`).

mod access;
mod date;
mod lifetime;
mod names;
mod pattern;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use access::{
    AccessDefinition, AccessSpec, ApiLimit, FieldAccessDefinition, FieldLimits, GraphQlType,
    RateLimitSmoothing,
};
pub use date::Date;
pub use lifetime::LifetimeRules;
pub use names::{key_naming, prefix, quota_key, rate_limit_key};
pub use pattern::value_text;

use crate::apidef::{
    List, Map,
    json::{Document, JsonError, canonical, to_go_string},
};

/// Largest session that is read.
pub const SESSION_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a key may do. Every field of Tyk 5.4.0.
///
/// Missing fields and `null` are zero values, as in Go; absent lists and maps are printed as `null`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Session {
    /// Not written by Tyk any more.
    pub last_check: i64,
    /// Counted down only with `legacy_enable_allowance_countdown`.
    pub allowance: f64,
    /// Requests per `per`; 0 or less: not limited.
    pub rate: f64,
    /// Seconds.
    pub per: f64,
    /// Seconds between retries that the gateway makes for a client beyond its rate.
    pub throttle_interval: f64,
    pub throttle_retry_limit: i64,
    /// GraphQL; 0 and -1: not limited.
    pub max_query_depth: i64,
    pub date_created: Date,
    /// Seconds since 1970; below 1: never.
    pub expires: i64,
    /// 0 and -1: not limited.
    pub quota_max: i64,
    /// Seconds since 1970.
    pub quota_renews: i64,
    /// As last told; the counter in the store is what counts.
    pub quota_remaining: i64,
    /// Seconds; 0 or less: never renews.
    pub quota_renewal_rate: i64,
    /// By API id; empty: every API.
    pub access_rights: Map<AccessDefinition>,
    pub org_id: String,
    pub oauth_client_id: String,
    /// Client id to its last token.
    pub oauth_keys: Map<String>,
    /// Id of a client certificate.
    pub certificate: String,
    pub basic_auth_data: BasicAuthData,
    pub jwt_data: JwtData,
    pub hmac_enabled: bool,
    pub enable_http_signature_validation: bool,
    /// The HMAC secret.
    pub hmac_string: String,
    pub rsa_certificate_id: String,
    pub is_inactive: bool,
    /// Deprecated; counts where `apply_policies` is empty.
    pub apply_policy_id: String,
    pub apply_policies: List<String>,
    /// Seconds that analytics records are kept; of organisations only.
    pub data_expires: i64,
    pub monitor: Monitor,
    /// Deprecated name of the next.
    pub enable_detail_recording: bool,
    pub enable_detailed_recording: bool,
    pub meta_data: Map<Value>,
    pub tags: List<String>,
    pub alias: String,
    /// Seconds since 1970, as text.
    pub last_updated: String,
    /// Seconds since 1970.
    pub id_extractor_deadline: i64,
    /// Seconds that the session stays in the store; 0 or less: as the API says.
    pub session_lifetime: i64,
    pub smoothing: Option<RateLimitSmoothing>,
}

/// A user's password, and how it is hashed: empty (not at all), `bcrypt` or a name of
/// [`crate::hash::HashFn`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BasicAuthData {
    pub password: String,
    pub hash_type: String,
}

/// A key's own secret for JSON web tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JwtData {
    pub secret: String,
}

/// Percentages of a quota that are told about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Monitor {
    pub trigger_limits: List<f64>,
}

/// The limit that counts for one API, and which counters it has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Allowance<'a> {
    pub limit: ApiLimit,
    /// `allowance_scope`: part of the counters' names; empty: those of the whole key.
    pub scope: &'a str,
}

impl Session {
    /// Reads a session by Go's rules (see [`crate::apidef::json`]).
    ///
    /// # Errors
    /// The first place that is not JSON, the first value of a wrong type, a document beyond
    /// [`SESSION_BYTES_MAX`] or nested too deeply. With pointer and reason; no text of the session
    /// is quoted.
    pub fn from_json_slice(bytes: &[u8]) -> Result<Self, JsonError> {
        let mut session: Self = Document::parse_within(bytes, SESSION_BYTES_MAX)?.decode()?;
        session.meta_data.values_mut().for_each(canonical);
        Ok(session)
    }

    /// One line, as it is stored and as the REST API answers.
    #[must_use]
    pub fn to_json_string(&self) -> String {
        to_go_string(self)
    }

    /// The policies of this session by id (Tyk: `PolicyIDs`).
    #[must_use]
    pub fn policy_ids(&self) -> &[String] {
        if !self.apply_policies.is_empty() {
            &self.apply_policies
        } else if self.apply_policy_id.is_empty() {
            &[]
        } else {
            std::slice::from_ref(&self.apply_policy_id)
        }
    }

    /// Replaces the policies (Tyk: `SetPolicies`). No id at all prints as `null`, as in Tyk.
    pub fn set_policies(&mut self, ids: List<String>) {
        self.apply_policy_id.clear();
        self.apply_policies = ids;
    }

    /// Has a password (Tyk: `IsBasicAuth`).
    #[must_use]
    pub fn is_basic_auth(&self) -> bool {
        !self.basic_auth_data.password.is_empty()
    }

    /// The limits at the root of the session (Tyk: `APILimit`).
    #[must_use]
    pub const fn root_limit(&self) -> ApiLimit {
        ApiLimit {
            rate: self.rate,
            per: self.per,
            throttle_interval: self.throttle_interval,
            throttle_retry_limit: self.throttle_retry_limit,
            max_query_depth: self.max_query_depth,
            quota_max: self.quota_max,
            quota_renews: self.quota_renews,
            quota_remaining: self.quota_remaining,
            quota_renewal_rate: self.quota_renewal_rate,
            smoothing: self.smoothing,
        }
    }

    /// The limit for an API: its own, or that of the root where it has none. A session that names no
    /// API gives its root's. `None`: it names others, and gives no right to this one.
    ///
    /// Tyk: `GetAccessDefinitionByAPIIDOrSession`.
    #[must_use]
    pub fn limit_for(&self, api_id: &str) -> Option<Allowance<'_>> {
        if self.access_rights.is_empty() {
            return Some(Allowance {
                limit: self.root_limit(),
                scope: "",
            });
        }
        let right = self.access_rights.get(api_id)?;
        let limit = if right.limit.is_empty() {
            self.root_limit()
        } else {
            right.limit
        };
        Some(Allowance {
            limit,
            scope: &right.allowance_scope,
        })
    }

    /// Whether requests and answers are recorded whole.
    #[must_use]
    pub const fn is_recorded_in_detail(&self) -> bool {
        self.enable_detail_recording || self.enable_detailed_recording
    }
}

#[cfg(test)]
mod tests;
