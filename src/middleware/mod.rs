//! Request steps, one file each, named after Tyk's `mw_*.go`.
//!
//! A step's `from_spec` is the only place that reads the definition; `check` is all that a request
//! runs. Steps never know one another.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod access_rights;
pub mod auth_key;
pub mod granular_access;
pub mod hard_timeouts;
pub mod ip_blacklist;
pub mod ip_whitelist;
pub mod key_expired;
pub mod organization_monitor;
pub mod organization_records;
pub mod rate_limit_and_quota;
pub mod rate_limit_for_api;
pub mod strip_auth;
pub mod track_endpoints;
pub mod validate_json;
pub mod version_check;
