//! The rules that a definition must keep to be written through the API.
//!
//! Tyk: `apidef/validator.go` (`DefaultValidationRuleSet`). The loader does not ask them: a file
//! that breaks one is loaded.

use std::collections::BTreeSet;

use crate::{apidef::ApiDefinition, config::parse_network};

/// The first rule that the definition breaks, in Tyk's words.
pub(super) fn reason_against(api: &ApiDefinition) -> Option<String> {
    data_sources(api)
        .or_else(|| auth_sources(api))
        .or_else(|| networks(api))
        .or_else(|| timeouts(api))
}

fn data_sources(api: &ApiDefinition) -> Option<String> {
    let mut names = BTreeSet::new();
    let is_unique = api
        .graphql
        .engine
        .data_sources
        .iter()
        .all(|source| names.insert(source.name.as_str()));
    (!is_unique).then(|| "duplicate data source names are not allowed".to_owned())
}

fn auth_sources(api: &ApiDefinition) -> Option<String> {
    let is_used = |kind: &str| match kind {
        "authToken" => api.use_standard_auth,
        "jwt" => api.enable_jwt,
        "hmac" => api.enable_signature_checking,
        "basic" => api.use_basic_auth,
        "oauth" => api.use_oauth2,
        "oidc" => api.use_openid,
        "coprocess" => api.enable_coprocess_auth,
        _ => false,
    };
    api.auth_configs
        .iter()
        .find(|(kind, auth)| {
            is_used(kind) && auth.disable_header && !auth.use_param && !auth.use_cookie
        })
        .map(|(kind, _)| {
            format!(
                "all auth sources are disabled for {kind}, at least one of header/cookie/query \
                 must be enabled"
            )
        })
}

fn networks(api: &ApiDefinition) -> Option<String> {
    let allowed = api
        .enable_ip_whitelisting
        .then_some(&api.allowed_ips)
        .into_iter()
        .flatten();
    let blocked = api
        .enable_ip_blacklisting
        .then_some(&api.blacklisted_ips)
        .into_iter()
        .flatten();
    allowed
        .chain(blocked)
        .find(|text| parse_network(text).is_none())
        .map(|text| format!("invalid IP/CIDR {text:?}"))
}

fn timeouts(api: &ApiDefinition) -> Option<String> {
    let is_negative = api.version_data.versions.values().any(|version| {
        let timeouts = &version.extended_paths.hard_timeouts;
        timeouts
            .iter()
            .any(|endpoint| !endpoint.disabled && endpoint.timeout < 0)
    });
    is_negative.then(|| "invalid timeout value".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: Option<&str>) {
        let api = ApiDefinition::from_json_slice(json.as_bytes()).unwrap();
        assert_eq!(reason_against(&api).as_deref(), expected, "{json}");
    }

    #[test]
    fn a_plain_definition_breaks_no_rule() {
        check("{}", None);
    }

    #[test]
    fn data_sources_have_names_of_their_own() {
        let sources =
            |names: &str| format!(r#"{{"graphql": {{"engine": {{"data_sources": [{names}]}}}}}}"#);
        check(&sources(r#"{"name": "a"}, {"name": "b"}"#), None);
        check(
            &sources(r#"{"name": "a"}, {"name": "a"}"#),
            Some("duplicate data source names are not allowed"),
        );
    }

    #[test]
    fn a_used_auth_method_has_a_source() {
        let text = "all auth sources are disabled for jwt, at least one of header/cookie/query \
                    must be enabled";
        check(
            r#"{"enable_jwt": true, "auth_configs": {"jwt": {"disable_header": true}}}"#,
            Some(text),
        );
        check(
            r#"{"enable_jwt": true,
                "auth_configs": {"jwt": {"disable_header": true, "use_cookie": true}}}"#,
            None,
        );
        check(
            r#"{"auth_configs": {"jwt": {"disable_header": true}}}"#,
            None,
        );
    }

    #[test]
    fn lists_in_use_hold_addresses_and_networks() {
        check(
            r#"{"enable_ip_whitelisting": true, "allowed_ips": ["10.0.0.0/8", "::1"]}"#,
            None,
        );
        check(
            r#"{"enable_ip_whitelisting": true, "allowed_ips": ["10.0.0.0/33"]}"#,
            Some("invalid IP/CIDR \"10.0.0.0/33\""),
        );
        check(
            r#"{"enable_ip_blacklisting": true, "blacklisted_ips": ["bob"]}"#,
            Some("invalid IP/CIDR \"bob\""),
        );
        check(r#"{"allowed_ips": ["bob"]}"#, None);
    }

    #[test]
    fn timeouts_are_not_negative() {
        let timeout = |seconds: i64| {
            format!(
                r#"{{"version_data": {{"versions": {{"v": {{"extended_paths":
                   {{"hard_timeouts": [{{"timeout": {seconds}}}]}}}}}}}}}}"#
            )
        };
        check(&timeout(0), None);
        check(&timeout(-1), Some("invalid timeout value"));
    }
}
