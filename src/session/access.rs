//! Rights on one API, and limits.
//!
//! Tyk: `user/session.go` (`AccessDefinition`, `APILimit`), `apidef/rate_limit_smoothing.go`.

use serde::{Deserialize, Serialize};

use crate::apidef::List;

/// What a key may do with one API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessDefinition {
    pub api_name: String,
    pub api_id: String,
    pub versions: List<String>,
    /// Endpoints; empty: all.
    pub allowed_urls: List<AccessSpec>,
    /// GraphQL.
    pub restricted_types: List<GraphQlType>,
    /// GraphQL.
    pub allowed_types: List<GraphQlType>,
    /// Empty: the session's own counts.
    pub limit: ApiLimit,
    /// GraphQL.
    pub field_access_rights: List<FieldAccessDefinition>,
    /// GraphQL.
    pub disable_introspection: bool,
    /// Which counters this API shares; see `Allowance`.
    pub allowance_scope: String,
}

/// Endpoints that a key may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessSpec {
    /// A regular expression, searched in the inbound path.
    pub url: String,
    pub methods: List<String>,
}

/// A GraphQL type and its fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GraphQlType {
    pub name: String,
    pub fields: List<String>,
}

/// A limit of one GraphQL field.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FieldAccessDefinition {
    pub type_name: String,
    pub field_name: String,
    pub limits: FieldLimits,
}

/// What limits a GraphQL field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FieldLimits {
    pub max_query_depth: i64,
}

/// Rate, quota and throttling of one API, or of a whole key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiLimit {
    /// Requests per `per`; 0 or less: not limited.
    pub rate: f64,
    /// Seconds.
    pub per: f64,
    /// Seconds.
    pub throttle_interval: f64,
    pub throttle_retry_limit: i64,
    pub max_query_depth: i64,
    /// 0 and -1: not limited.
    pub quota_max: i64,
    /// Seconds since 1970.
    pub quota_renews: i64,
    pub quota_remaining: i64,
    /// Seconds.
    pub quota_renewal_rate: i64,
    pub smoothing: Option<RateLimitSmoothing>,
}

impl ApiLimit {
    /// Says nothing: every number is 0. Smoothing alone does not count, as in Tyk.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self
            == Self {
                smoothing: self.smoothing,
                ..Self::default()
            }
    }

    /// Nanoseconds between two requests at this rate; 0 where there is none (Tyk: `Duration`).
    #[must_use]
    pub fn interval_ns(&self) -> i64 {
        if self.per <= 0.0 || self.rate <= 0.0 {
            return 0;
        }
        // Saturates; Go's conversion of what does not fit is not defined.
        (1e9 * self.per / self.rate) as i64
    }

    /// Has no rate limit that could be compared (Tyk: `emptyRateLimit`).
    #[must_use]
    pub fn is_rate_empty(&self) -> bool {
        self.rate == 0.0 || self.per == 0.0
    }
}

/// How a rate limit follows the load in steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RateLimitSmoothing {
    pub enabled: bool,
    /// Requests per `per` where it begins.
    pub threshold: i64,
    /// The part of a step at which the next one is taken.
    pub trigger: f64,
    /// Requests.
    pub step: i64,
    /// Seconds between two steps.
    pub delay: i64,
}

impl RateLimitSmoothing {
    /// On, and every value above zero (Tyk: `Valid`).
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.enabled && self.threshold > 0 && self.trigger > 0.0 && self.step > 0 && self.delay > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_empty_when_every_number_is_zero() {
        assert!(ApiLimit::default().is_empty());
        let smoothed = ApiLimit {
            smoothing: Some(RateLimitSmoothing::default()),
            ..ApiLimit::default()
        };
        assert!(smoothed.is_empty());
        let unlimited = ApiLimit {
            quota_max: -1,
            ..ApiLimit::default()
        };
        assert!(!unlimited.is_empty());
        let renews = ApiLimit {
            quota_renews: 1,
            ..ApiLimit::default()
        };
        assert!(!renews.is_empty());
    }

    #[test]
    fn rates_are_compared_by_the_time_between_two_requests() {
        let interval = |rate, per| {
            ApiLimit {
                rate,
                per,
                ..ApiLimit::default()
            }
            .interval_ns()
        };
        assert_eq!(interval(2.0, 1.0), 500_000_000);
        assert_eq!(interval(1000.0, 60.0), 60_000_000);
        assert_eq!(interval(0.0, 1.0), 0);
        assert_eq!(interval(-1.0, 1.0), 0);
        assert_eq!(interval(1.0, 0.0), 0);
        assert_eq!(interval(1e-300, 1.0), i64::MAX);
    }
}
