//! The names of limiters, which are Tyk's keys in Redis.
//!
//! Tyk: `internal/rate.Prefix`, `gateway/session_manager.go`, `gateway/api_rate_limiting.go`.

const RATE: &str = "rate-limit";
const QUOTA: &str = "quota";
const LEASE: &str = "penstock-lease";

/// The name of a rate limiter: `rate-limit-[<scope>-]<id>`. `id` is the key's hash (or the key
/// itself where `hash_keys` is off), or what `rate_limit_pattern` gave.
#[must_use]
pub fn rate_name(scope: &str, id: &str) -> String {
    join([RATE, scope, id])
}

/// The name of a quota's counter: `quota-[<scope>-]<id>`.
#[must_use]
pub fn quota_name(scope: &str, id: &str) -> String {
    join([QUOTA, scope, id])
}

/// What an API's own limit uses as id, before it is hashed as keys are.
#[must_use]
pub fn api_limiter_id(org_id: &str, api_id: &str) -> String {
    format!("apilimiter-{org_id}{api_id}")
}

/// Where the credits of a limiter are kept between nodes. No name of Tyk's.
pub(super) fn lease_name(rate_name: &str) -> String {
    join([LEASE, rate_name, ""])
}

/// Parts without the dashes around them, empty ones left out, joined by dashes.
fn join(parts: [&str; 3]) -> String {
    let mut name = String::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for part in parts {
        let part = part.trim_matches('-');
        if !part.is_empty() {
            if !name.is_empty() {
                name.push('-');
            }
            name.push_str(part);
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tyks() {
        assert_eq!(rate_name("", "abc"), "rate-limit-abc");
        assert_eq!(rate_name("api1", "abc"), "rate-limit-api1-abc");
        assert_eq!(rate_name("-api1-", "--abc"), "rate-limit-api1-abc");
        assert_eq!(quota_name("", "abc"), "quota-abc");
        assert_eq!(quota_name("api1", "abc"), "quota-api1-abc");
        assert_eq!(api_limiter_id("org1", "api1"), "apilimiter-org1api1");
        assert_eq!(
            lease_name("rate-limit-abc"),
            "penstock-lease-rate-limit-abc"
        );
    }
}
