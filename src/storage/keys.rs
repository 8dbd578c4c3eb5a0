//! Every key prefix, once. Names are Tyk's, so that Tyk gateways can share the Redis.
//!
//! Tyk: `gateway/server.go` (`prefix…` at `setupGlobals` and beside each store).

/// Sessions of keys.
pub const SESSION: &str = "apikey-";

/// Sessions of organisations; never hashed.
pub const ORGANISATION: &str = "orgkey.";

/// Certificates, with their keys encrypted.
pub const CERTIFICATE: &str = "cert-raw-";

/// Written by the liveness probe; also its value.
pub const LIVENESS_PROBE: &str = "tyk-liveness-probe";

/// How long the liveness probe's key lives.
pub const LIVENESS_PROBE_TTL_S: u64 = 10;

/// Where the session of an organisation lies.
#[must_use]
pub fn organisation(id: &str) -> String {
    [ORGANISATION, id].concat()
}

/// Where a certificate lies.
#[must_use]
pub fn certificate(id: &str) -> String {
    [CERTIFICATE, id].concat()
}

/// Where the session of a key lies. `key` is in clear, or its hash where `hash_keys` is on.
#[must_use]
pub fn session(key: &str) -> String {
    let mut name = String::with_capacity(SESSION.len() + key.len());
    name.push_str(SESSION);
    name.push_str(key);
    name
}
