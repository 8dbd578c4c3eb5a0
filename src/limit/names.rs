//! Names of limiters beside those that a session has.
//!
//! Tyk: `gateway/api_rate_limiting.go`.

use crate::session::prefix;

/// What an API's own limit uses as id, before it is hashed as keys are.
#[must_use]
pub fn api_limiter_id(org_id: &str, api_id: &str) -> String {
    format!("apilimiter-{org_id}{api_id}")
}

/// Where the credits of a limiter are kept between nodes. No name of Tyk's.
pub(super) fn lease_key(rate_limit_key: &str) -> String {
    prefix(&["penstock-lease", rate_limit_key])
}
