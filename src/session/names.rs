//! Names of keys, and of their counters in the store.
//!
//! Tyk: `internal/rate/rate.go` (`Prefix`, `LimiterKeyPrefix`), `gateway/session_manager.go`
//! (`QuotaKeyPrefix`, `RateLimitKeyPrefix`).

use crate::{config::Config, hash::KeyNaming};

/// How the gateway of a `tyk.conf` forms and finds keys.
#[must_use]
pub fn key_naming(config: &Config) -> KeyNaming {
    KeyNaming {
        is_hashed: config.hash_keys,
        function: KeyNaming::function(&config.hash_key_function),
        fallbacks: config
            .hash_key_function_fallback
            .iter()
            .map(|name| KeyNaming::function(name))
            .collect(),
        is_by_key_only: config.disable_key_actions_by_username,
    }
}

/// Parts joined by `-`, each without those at its ends; empty ones are left out (Tyk: `Prefix`).
#[must_use]
pub fn prefix(parts: &[&str]) -> String {
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

/// Where the used quota of a key is counted: `quota-[<scope>-]<id>`. `id` is the key's name in the
/// store, or what its `rate_limit_pattern` gives.
#[must_use]
pub fn quota_key(scope: &str, id: &str) -> String {
    prefix(&["quota", scope, id])
}

/// What the requests of a key are limited under: `rate-limit-[<scope>-]<id>`.
#[must_use]
pub fn rate_limit_key(scope: &str, id: &str) -> String {
    prefix(&["rate-limit", scope, id])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_joined_as_in_tyk() {
        for (parts, expected) in [
            (&["quota-", "", "abc"][..], "quota-abc"),
            (&["quota", "scope", "abc"], "quota-scope-abc"),
            (&["--a--", "-", "b-c", ""], "a-b-c"),
            (&["", "-"], ""),
            (&[], ""),
        ] {
            assert_eq!(prefix(parts), expected);
        }
        assert_eq!(quota_key("", "5e8047ba"), "quota-5e8047ba");
        assert_eq!(quota_key("api1", "5e8047ba"), "quota-api1-5e8047ba");
        assert_eq!(rate_limit_key("", "org1"), "rate-limit-org1");
        assert_eq!(rate_limit_key("p", "-x-"), "rate-limit-p-x");
    }
}
