//! Policies: what many keys share, written down once.
//!
//! Pure data and its files: parse, print, load (`load`), and lay over a session (`apply`). What is
//! in force stands in [`Current`], immutable and published whole.
//!
//! Tyk: `user/policy.go`, `internal/policy/apply.go`, `gateway/policy.go`.

mod apply;
mod current;
mod load;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use apply::{ApplyError, apply};
pub use current::Current;
pub use load::{Load, Source, load};

use crate::{
    apidef::{
        List, Map,
        json::{Document, JsonError, canonical, to_go_string, to_go_string_pretty},
    },
    session::{AccessDefinition, ApiLimit, RateLimitSmoothing, Session},
};

/// Largest policy that is read.
pub const POLICY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A policy as written, every field of Tyk 5.4.0 in its order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Database id.
    #[serde(rename = "_id")]
    pub mid: String,
    pub id: String,
    pub name: String,
    /// Keys of APIs of other organisations cannot have it.
    pub org_id: String,
    /// As in [`Session`], also below.
    pub rate: f64,
    pub per: f64,
    pub quota_max: i64,
    pub quota_renewal_rate: i64,
    pub throttle_interval: f64,
    pub throttle_retry_limit: i64,
    pub max_query_depth: i64,
    pub access_rights: Map<AccessDefinition>,
    pub hmac_enabled: bool,
    pub enable_http_signature_validation: bool,
    /// Not looked at, as in Tyk.
    pub active: bool,
    pub is_inactive: bool,
    pub tags: List<String>,
    /// Seconds that a new key lives; 0 or less: as the key says.
    pub key_expires_in: i64,
    pub partitions: Partitions,
    /// Seconds since 1970, as text.
    pub last_updated: String,
    pub meta_data: Map<Value>,
    /// Not looked at, as in Tyk.
    pub graphql_access_rights: Map<GraphAccessDefinition>,
    pub smoothing: Option<RateLimitSmoothing>,
}

/// Which parts of a policy count; none set: all of them, for the whole key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Partitions {
    pub quota: bool,
    pub rate_limit: bool,
    pub complexity: bool,
    pub acl: bool,
    /// Each API has limits of its own.
    pub per_api: bool,
}

impl Partitions {
    /// Any but `per_api`.
    #[must_use]
    pub const fn is_partial(self) -> bool {
        self.quota || self.rate_limit || self.complexity || self.acl
    }
}

/// An object without fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphAccessDefinition {}

impl Policy {
    /// Reads a policy by Go's rules (see [`crate::apidef::json`]).
    ///
    /// # Errors
    /// The first place that is not JSON, the first value of a wrong type, a document beyond
    /// [`POLICY_BYTES_MAX`] or nested too deeply.
    pub fn from_json_slice(bytes: &[u8]) -> Result<Self, JsonError> {
        Document::parse_within(bytes, POLICY_BYTES_MAX)?
            .decode()
            .map(Self::canonical)
    }

    fn canonical(mut self) -> Self {
        self.meta_data.values_mut().for_each(canonical);
        self
    }

    /// One line, as the REST API answers.
    #[must_use]
    pub fn to_json_string(&self) -> String {
        to_go_string(self)
    }

    /// Two spaces per level, as files are written.
    #[must_use]
    pub fn to_json_string_pretty(&self) -> String {
        to_go_string_pretty(self)
    }

    /// The policy's own limits (Tyk: `APILimit`).
    #[must_use]
    pub const fn limit(&self) -> ApiLimit {
        ApiLimit {
            rate: self.rate,
            per: self.per,
            throttle_interval: self.throttle_interval,
            throttle_retry_limit: self.throttle_retry_limit,
            max_query_depth: self.max_query_depth,
            quota_max: self.quota_max,
            quota_renews: 0,
            quota_remaining: 0,
            quota_renewal_rate: self.quota_renewal_rate,
            smoothing: self.smoothing,
        }
    }
}

/// All policies of one load. Immutable.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    by_id: BTreeMap<String, Entry>,
    epoch: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    policy: Arc<Policy>,
    /// Where it was read.
    file: Arc<Path>,
}

impl Policies {
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Policy>> {
        self.by_id.get(id).map(|entry| &entry.policy)
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Policy>)> {
        self.by_id
            .iter()
            .map(|(id, entry)| (id.as_str(), &entry.policy))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Whether the other ones say the same, wherever they were read.
    #[must_use]
    pub fn say_the_same(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }

    /// Grows with each publication by [`Current`]; what was worked out from other policies holds as
    /// long as it stays.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Seconds that a new key with this session lives, where one of its policies says so: the last
    /// one that does (Tyk: `checkAndApplyTrialPeriod`).
    #[must_use]
    pub fn trial_s(&self, session: &Session) -> Option<i64> {
        session
            .policy_ids()
            .iter()
            .filter_map(|id| self.get(id))
            .map(|policy| policy.key_expires_in)
            .rfind(|seconds| *seconds > 0)
    }
}

impl FromIterator<Policy> for Policies {
    /// By their ids; the last of an id is the one.
    fn from_iter<T: IntoIterator<Item = Policy>>(policies: T) -> Self {
        let file: Arc<Path> = PathBuf::new().into();
        let by_id = policies.into_iter().map(|policy| {
            let file = Arc::clone(&file);
            let policy = Arc::new(policy);
            (policy.id.clone(), Entry { policy, file })
        });
        Self {
            by_id: by_id.collect(),
            epoch: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A policy in full, as Tyk printed it.
    const FULL: &str = concat!(
        r#"{"_id":"","id":"pa","name":"p","org_id":"org1","rate":10,"per":1,"quota_max":5,"#,
        r#""quota_renewal_rate":60,"throttle_interval":0,"throttle_retry_limit":0,"#,
        r#""max_query_depth":0,"access_rights":{"api1":{"api_name":"api1","api_id":"api1","#,
        r#""versions":["Default"],"allowed_urls":null,"restricted_types":null,"#,
        r#""allowed_types":null,"limit":{"rate":0,"per":0,"throttle_interval":0,"#,
        r#""throttle_retry_limit":0,"max_query_depth":0,"quota_max":0,"quota_renews":0,"#,
        r#""quota_remaining":0,"quota_renewal_rate":0,"smoothing":null},"#,
        r#""field_access_rights":null,"disable_introspection":false,"allowance_scope":""}},"#,
        r#""hmac_enabled":false,"enable_http_signature_validation":false,"active":true,"#,
        r#""is_inactive":false,"tags":null,"key_expires_in":0,"partitions":{"quota":false,"#,
        r#""rate_limit":false,"complexity":false,"acl":false,"per_api":false},"#,
        r#""last_updated":"","meta_data":null,"graphql_access_rights":null,"smoothing":null}"#,
    );

    #[test]
    fn what_tyk_printed_is_printed_again_byte_for_byte() {
        let policy = Policy::from_json_slice(FULL.as_bytes()).unwrap();
        assert_eq!(policy.to_json_string(), FULL);
        let pretty = policy.to_json_string_pretty();
        assert!(pretty.starts_with("{\n  \"_id\": \"\",\n  \"id\": \"pa\",\n"));
        assert_eq!(Policy::from_json_slice(pretty.as_bytes()).unwrap(), policy);
    }

    #[test]
    fn what_is_no_policy_is_refused_with_its_place() {
        for (text, pointer) in [
            ("{", ""),
            (r#"{"rate":"1"}"#, "/rate"),
            (r#"{"partitions":{"acl":1}}"#, "/partitions/acl"),
            (
                r#"{"graphql_access_rights":{"a":1}}"#,
                "/graphql_access_rights/a",
            ),
        ] {
            let error = Policy::from_json_slice(text.as_bytes()).unwrap_err();
            assert_eq!(error.pointer(), pointer, "{text}");
        }
    }

    #[test]
    fn the_last_policy_with_a_trial_period_counts() {
        let policy = |id: &str, key_expires_in| Policy {
            id: id.to_owned(),
            key_expires_in,
            ..Policy::default()
        };
        let policies: Policies = [policy("a", 5), policy("b", 9), policy("none", 0)]
            .into_iter()
            .collect();
        let trial = |ids: &[&str]| {
            let ids: Vec<String> = ids.iter().map(|&id| id.to_owned()).collect();
            let session = Session {
                apply_policies: ids.into(),
                ..Session::default()
            };
            policies.trial_s(&session)
        };
        assert_eq!(trial(&["a", "b", "none", "unknown"]), Some(9));
        assert_eq!(trial(&["b", "a"]), Some(5));
        assert_eq!(trial(&["none"]), None);
        assert_eq!(trial(&[]), None);
    }
}
