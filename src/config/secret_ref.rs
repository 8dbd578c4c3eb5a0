//! References in place of secrets: `env://`, `secrets://`, `consul://`, `vault://`.
//!
//! Tyk resolves them in a handful of fields only (`gateway/server.go` `kvStore`); API definitions
//! use the same function for listen path and target.

use std::collections::BTreeMap;

use crate::config::{Config, Secret, Vars};

/// What `value` stands for: itself, `secrets["KEY"]` for `secrets://KEY`, or the variable
/// `TYK_SECRET_X` for `env://x`; a variable that is not set gives an empty text, as in Tyk.
///
/// # Errors
/// A key that `secrets` lacks; a reference into Consul or Vault.
// Tyk differs: where Consul or Vault cannot be set up Tyk goes on with the reference itself as the
// secret; a secret that everybody can read in the documentation is none, so this refuses.
pub fn resolve_secret_ref(
    value: &str,
    secrets: &BTreeMap<String, Secret>,
    vars: &Vars,
) -> Result<String, String> {
    if let Some(key) = value.strip_prefix("secrets://") {
        return secrets
            .get(key)
            .map(|secret| secret.as_str().to_owned())
            .ok_or_else(|| format!("refers to `{key}`, which `secrets` does not hold"));
    }
    if let Some(key) = value.strip_prefix("env://") {
        let name = format!("TYK_SECRET_{}", key.to_uppercase());
        return Ok(vars.get(&name).cloned().unwrap_or_default());
    }
    for (scheme, store) in [("consul://", "Consul"), ("vault://", "Vault")] {
        if value.starts_with(scheme) {
            return Err(format!(
                "refers to {store}, which is not supported yet; use env:// or secrets://"
            ));
        }
    }
    Ok(value.to_owned())
}

/// Resolves the fields of the configuration that may hold references. `Err` is pointer and reason.
pub(super) fn resolve(config: &mut Config, vars: &Vars) -> Result<(), (&'static str, String)> {
    let secrets = std::mem::take(&mut config.secrets);
    let result = resolve_with(config, &secrets, vars);
    config.secrets = secrets;
    result
}

fn resolve_with(
    config: &mut Config,
    secrets: &BTreeMap<String, Secret>,
    vars: &Vars,
) -> Result<(), (&'static str, String)> {
    let fields: [(&'static str, &mut Secret); 8] = [
        ("/secret", &mut config.secret),
        ("/node_secret", &mut config.node_secret),
        ("/storage/password", &mut config.storage.password),
        (
            "/storage/sentinel_password",
            &mut config.storage.sentinel_password,
        ),
        (
            "/cache_storage/password",
            &mut config.cache_storage.password,
        ),
        (
            "/analytics_storage/password",
            &mut config.analytics_storage.password,
        ),
        (
            "/security/private_certificate_encoding_secret",
            &mut config.security.private_certificate_encoding_secret,
        ),
        ("/slave_options/api_key", &mut config.slave_options.api_key),
    ];
    for (pointer, field) in fields {
        let value = resolve_secret_ref(field.as_str(), secrets, vars);
        *field = value.map_err(|why| (pointer, why))?.into();
    }
    if config.use_db_app_configs {
        let field = &mut config.db_app_conf_options.connection_string;
        *field = resolve_secret_ref(field, secrets, vars)
            .map_err(|why| ("/db_app_conf_options/connection_string", why))?;
    }
    if config.policies.policy_source == "service" {
        let field = &mut config.policies.policy_connection_string;
        *field = resolve_secret_ref(field, secrets, vars)
            .map_err(|why| ("/policies/policy_connection_string", why))?;
    }
    Ok(())
}
