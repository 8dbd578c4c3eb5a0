//! What is wrong with a definition that could be read.
//!
//! Two sets of rules: [`rest_fault`] is what Tyk checks when a definition comes by the REST API
//! (`apidef/validator.go`); [`load_faults`] is what the loader must know before it compiles one
//! from whatever source. What is right but not built yet stands in `unsupported`.

use std::collections::BTreeSet;

use super::{
    ApiDefinition, ExtendedPathsSet, Fault, Severity, VersionInfo, expiration,
    fault::push_token,
    json::{self, Document},
    target_url::Target,
    url_regex,
};

/// The first rule of Tyk's REST API that a definition breaks, in Tyk's words. The control plane
/// wraps it as `Validation of API Definition failed. Reason: <r>.`.
#[must_use]
pub fn rest_fault(api: &ApiDefinition) -> Option<String> {
    duplicate_data_source(api)
        .or_else(|| no_auth_source(api))
        .or_else(|| {
            enabled_ip_lists(api)
                .flat_map(|(_, ips)| ips)
                .find(|ip| !is_ip_or_block(ip))
                .map(|ip| format!("invalid IP/CIDR {ip:?}"))
        })
        .or_else(|| {
            let timeouts = api.version_data.versions.values();
            timeouts
                .flat_map(|version| &version.extended_paths.hard_timeouts)
                .any(|entry| entry.timeout < 0)
                .then(|| "invalid timeout value".to_owned())
        })
}

fn duplicate_data_source(api: &ApiDefinition) -> Option<String> {
    let mut names = BTreeSet::new();
    let sources = &api.graphql.engine.data_sources;
    (!sources
        .iter()
        .all(|source| names.insert(source.name.to_lowercase().trim().to_owned())))
    .then(|| "duplicate data source names are not allowed".to_owned())
}

fn no_auth_source(api: &ApiDefinition) -> Option<String> {
    api.auth_configs.iter().find_map(|(name, config)| {
        let is_on = match name.as_str() {
            "authToken" => api.use_standard_auth,
            "jwt" => api.enable_jwt,
            "hmac" => api.enable_signature_checking,
            "oauth" => api.use_oauth2,
            "oidc" => api.use_openid,
            "coprocess" => api.enable_coprocess_auth,
            _ => false,
        };
        let has_source = config.use_param || config.use_cookie || !config.disable_header;
        (is_on && !has_source).then(|| {
            format!(
                "all auth sources are disabled for {name}, at least one of header/cookie/query must be enabled"
            )
        })
    })
}

/// The lists that are in use, with their pointers.
fn enabled_ip_lists(api: &ApiDefinition) -> impl Iterator<Item = (&'static str, &[String])> {
    [
        (
            api.enable_ip_whitelisting,
            "/allowed_ips",
            &*api.allowed_ips,
        ),
        (
            api.enable_ip_blacklisting,
            "/blacklisted_ips",
            &*api.blacklisted_ips,
        ),
    ]
    .into_iter()
    .filter_map(|(is_on, pointer, ips)| is_on.then_some((pointer, ips)))
}

/// An address or a CIDR block as Go reads them (`net.ParseIP`, `net.ParseCIDR`).
#[must_use]
pub fn is_ip_or_block(text: &str) -> bool {
    crate::config::parse_network(text).is_some()
}

/// Everything about a definition that keeps it from being served as written, or that its operator
/// should know. References are resolved before (`references::resolve_proxy`); lines and columns are
/// filled in by [`place`].
#[must_use]
pub fn load_faults(api: &ApiDefinition) -> Vec<Fault> {
    let mut faults = Vec::new();
    listener_faults(api, &mut faults);
    target_faults(api, &mut faults);
    access_faults(api, &mut faults);
    for (name, version) in &api.version_data.versions {
        version_faults(name, version, &mut faults);
    }
    faults
}

/// Fills in line and column of faults about the document they were found in.
pub fn place(faults: &mut [Fault], text: &[u8]) {
    if faults.iter().all(|fault| fault.line > 0) {
        return;
    }
    let Ok(document) = Document::parse(text) else {
        return;
    };
    for fault in faults.iter_mut().filter(|fault| fault.line == 0) {
        (fault.line, fault.column) = json::line_and_column(text, document.locate(&fault.pointer));
    }
}

fn listener_faults(api: &ApiDefinition, faults: &mut Vec<Fault>) {
    let path = api.proxy.listen_path.as_str();
    let is_stream = matches!(api.protocol.as_str(), "tcp" | "tls");
    let skipped = match path {
        _ if is_stream => None,
        "" => Some("the listen path is empty"),
        _ if path.contains(' ') => Some("the listen path contains a space"),
        _ if !path.starts_with('/') => Some("the listen path does not begin with `/`"),
        _ => None,
    };
    if let Some(why) = skipped {
        faults.push(Fault::new(Severity::Skip, "/proxy/listen_path", why));
    } else if let Err(why) = url_regex::check_template(path) {
        faults.push(Fault::refuse("/proxy/listen_path", why));
    }
    if !api.domain_disabled
        && let Err(why) = url_regex::check_template(&api.domain)
    {
        faults.push(Fault::refuse("/domain", why));
    }
    if is_stream && api.listen_port == 0 {
        faults.push(Fault::refuse("/listen_port", "missing listening port"));
    }
    if !(0..=65535).contains(&api.listen_port) {
        faults.push(Fault::refuse(
            "/listen_port",
            format!("found {}, expected 0 to 65535", api.listen_port),
        ));
    }
    if !matches!(
        api.protocol.as_str(),
        "" | "http" | "https" | "h2c" | "tcp" | "tls"
    ) {
        faults.push(Fault::refuse(
            "/protocol",
            "expected http, https, h2c, tcp or tls",
        ));
    }
    if !api.expiration.is_empty() && expiration::parse(&api.expiration).is_none() {
        faults.push(Fault::warn(
            "/expiration",
            "not a date such as `2006-01-02 15:04`; the API never expires",
        ));
    }
}

fn target_faults(api: &ApiDefinition, faults: &mut Vec<Fault>) {
    const POINTER: &str = "/proxy/target_url";
    match Target::parse(&api.proxy.target_url) {
        // Tyk skips such an API, too.
        Err(why) => faults.push(Fault::new(Severity::Skip, POINTER, why)),
        Ok(target) => {
            let is_replaced = api.proxy.enable_load_balancing && !api.proxy.target_list.is_empty()
                || api.proxy.service_discovery.use_discovery_service;
            if target.host.is_empty() && !is_replaced {
                faults.push(Fault::warn(
                    POINTER,
                    "the target names no host; every request will fail",
                ));
            }
        }
    }
    if api.proxy.enable_load_balancing {
        for (index, target) in api.proxy.target_list.iter().enumerate() {
            let with_scheme = match target.contains("://") {
                true => target.clone(),
                false => format!("http://{target}"),
            };
            let why = match Target::parse(&with_scheme) {
                Err(why) => why,
                Ok(target) if target.host.is_empty() => "the target names no host".to_owned(),
                Ok(_) => continue,
            };
            faults.push(Fault::warn(format!("/proxy/target_list/{index}"), why));
        }
    }
}

fn access_faults(api: &ApiDefinition, faults: &mut Vec<Fault>) {
    // Tyk differs: there an entry that cannot be read matches nobody, which opens a block list.
    for (list, ips) in enabled_ip_lists(api) {
        for (index, ip) in ips.iter().enumerate() {
            if !is_ip_or_block(ip) {
                faults.push(Fault::refuse(
                    format!("{list}/{index}"),
                    format!("invalid IP/CIDR {ip:?}"),
                ));
            }
        }
    }
    if api.enable_ip_whitelisting && api.allowed_ips.is_empty() {
        faults.push(Fault::warn(
            "/allowed_ips",
            "the allow list is on and empty; as in Tyk everybody is let in",
        ));
    }
    if api.use_keyless {
        for (is_on, pointer) in auth_switches(api) {
            if is_on {
                faults.push(Fault::warn(
                    pointer,
                    "`use_keyless` wins: nobody is asked for credentials",
                ));
            }
        }
    } else if let Some(why) = no_auth_source(api) {
        faults.push(Fault::warn("/auth_configs", why));
    }
    if api.version_data.not_versioned && api.version_data.versions.len() > 1 {
        faults.push(Fault::warn(
            "/version_data/versions",
            "not versioned, yet there are several versions: the first by name is used",
        ));
    }
}

/// Methods of authentication that `use_keyless` overrides.
pub(super) fn auth_switches(api: &ApiDefinition) -> [(bool, &'static str); 10] {
    [
        (api.use_standard_auth, "/use_standard_auth"),
        (api.use_basic_auth, "/use_basic_auth"),
        (api.use_oauth2, "/use_oauth2"),
        (api.external_oauth.enabled, "/external_oauth/enabled"),
        (api.use_openid, "/use_openid"),
        (api.enable_jwt, "/enable_jwt"),
        (api.enable_signature_checking, "/enable_signature_checking"),
        (api.use_go_plugin_auth, "/use_go_plugin_auth"),
        (api.enable_coprocess_auth, "/enable_coprocess_auth"),
        (
            api.custom_plugin_auth_enabled,
            "/custom_plugin_auth_enabled",
        ),
    ]
}

/// Pointer of a version's value.
pub(super) fn version_pointer(name: &str, below: &str) -> String {
    let mut pointer = "/version_data/versions".to_owned();
    push_token(&mut pointer, name);
    pointer.push_str(below);
    pointer
}

fn version_faults(name: &str, version: &VersionInfo, faults: &mut Vec<Fault>) {
    let at = |below: &str| version_pointer(name, below);
    if !matches!(version.expires.as_str(), "" | "-1")
        && expiration::parse(&version.expires).is_none()
    {
        faults.push(Fault::warn(
            at("/expires"),
            "not a date such as `2006-01-02 15:04`; the version counts as expired",
        ));
    }
    if version.use_extended_paths {
        let base = at("/extended_paths");
        endpoint_faults(&base, &version.extended_paths, faults);
    } else {
        for (list, paths) in [
            ("ignored", &version.paths.ignored),
            ("white_list", &version.paths.white_list),
            ("black_list", &version.paths.black_list),
        ] {
            for (index, path) in paths.iter().enumerate() {
                if let Err(why) = url_regex::check_endpoint(path) {
                    faults.push(Fault::refuse(at(&format!("/paths/{list}/{index}")), why));
                }
            }
        }
    }
}

// Tyk differs: there one bad expression brings down every request to its version, and a status that
// is no status every request to its endpoint.
fn endpoint_faults(base: &str, paths: &ExtendedPathsSet, faults: &mut Vec<Fault>) {
    let status_fault = |code: i64| format!("found status {code}, expected 100 to 999");
    paths.each_endpoint(|endpoint| {
        if !endpoint.disabled
            && let Err(why) = url_regex::check_endpoint(endpoint.path)
        {
            let field = if endpoint.list == "cache" {
                ""
            } else {
                "/path"
            };
            let (list, index) = (endpoint.list, endpoint.index);
            faults.push(Fault::refuse(format!("{base}/{list}/{index}{field}"), why));
        }
    });
    for (index, mock) in paths.mock_response.iter().enumerate() {
        if !mock.disabled && !is_status(mock.code) {
            faults.push(Fault::refuse(
                format!("{base}/mock_response/{index}/code"),
                status_fault(mock.code),
            ));
        }
    }
    for (list, entries) in [
        ("ignored", &paths.ignored),
        ("white_list", &paths.white_list),
        ("black_list", &paths.black_list),
    ] {
        for (index, entry) in entries.iter().enumerate().filter(|(_, e)| !e.disabled) {
            for (method, action) in &entry.method_actions {
                if action.action == "reply" && !is_status(action.code) {
                    let mut pointer = format!("{base}/{list}/{index}/method_actions");
                    push_token(&mut pointer, method);
                    pointer.push_str("/code");
                    faults.push(Fault::refuse(pointer, status_fault(action.code)));
                }
            }
        }
    }
    for (index, entry) in paths.validate_json.iter().enumerate() {
        let code = entry.error_response_code;
        if !entry.disabled && code != 0 && !is_status(code) {
            faults.push(Fault::refuse(
                format!("{base}/validate_json/{index}/error_response_code"),
                status_fault(code),
            ));
        }
    }
    for (index, entry) in paths.hard_timeouts.iter().enumerate() {
        if !entry.disabled && entry.timeout <= 0 {
            faults.push(Fault::warn(
                format!("{base}/hard_timeouts/{index}/timeout"),
                "the timeout is not above 0 seconds and has no effect",
            ));
        }
    }
    for (index, entry) in paths.url_rewrites.iter().enumerate() {
        if !entry.disabled {
            rewrite_faults(&format!("{base}/url_rewrites/{index}"), entry, faults);
        }
    }
}

/// What Go's `WriteHeader` takes.
fn is_status(code: i64) -> bool {
    (100..=999).contains(&code)
}

fn rewrite_faults(base: &str, entry: &super::UrlRewriteMeta, faults: &mut Vec<Fault>) {
    let mut check = |pointer: String, pattern: &str| {
        if let Err(why) = url_regex::check(pattern) {
            faults.push(Fault::refuse(pointer, why));
        }
    };
    check(format!("{base}/match_pattern"), &entry.match_pattern);
    for (index, trigger) in entry.triggers.iter().enumerate() {
        let options = &trigger.options;
        let base = format!("{base}/triggers/{index}/options");
        for (part, matches) in [
            ("header_matches", &options.header_matches),
            ("query_val_matches", &options.query_val_matches),
            ("path_part_matches", &options.path_part_matches),
            ("session_meta_matches", &options.session_meta_matches),
            ("request_context_matches", &options.request_context_matches),
        ] {
            for (key, rule) in matches {
                let mut pointer = format!("{base}/{part}");
                push_token(&mut pointer, key);
                pointer.push_str("/match_rx");
                check(pointer, &rule.match_rx);
            }
        }
        check(
            format!("{base}/payload_matches/match_rx"),
            &options.payload_matches.match_rx,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ApiDefinition {
        ApiDefinition::from_json_slice(text.as_bytes()).expect("a readable definition")
    }

    #[track_caller]
    fn rest(text: &str, expected: Option<&str>) {
        assert_eq!(rest_fault(&parse(text)).as_deref(), expected, "{text}");
    }

    #[test]
    fn the_rest_api_refuses_in_the_words_of_tyk() {
        rest("{}", None);
        rest(
            r#"{"graphql":{"engine":{"data_sources":[{"name":"A "},{"name":"b"},{"name":"a"}]}}}"#,
            Some("duplicate data source names are not allowed"),
        );
        rest(
            r#"{"use_standard_auth":true,"auth_configs":{"authToken":{"disable_header":true}}}"#,
            Some(
                "all auth sources are disabled for authToken, at least one of header/cookie/query must be enabled",
            ),
        );
        rest(
            r#"{"auth_configs":{"authToken":{"disable_header":true}}}"#,
            None,
        );
        rest(
            r#"{"enable_jwt":true,"auth_configs":{"jwt":{"disable_header":true,"use_cookie":true}}}"#,
            None,
        );
        rest(
            r#"{"enable_ip_whitelisting":true,"allowed_ips":["10.0.0.1","10.0.0.300"]}"#,
            Some("invalid IP/CIDR \"10.0.0.300\""),
        );
        rest(r#"{"allowed_ips":["nonsense"]}"#, None);
        rest(
            r#"{"enable_ip_blacklisting":true,"blacklisted_ips":["10.0.0.0/33"]}"#,
            Some("invalid IP/CIDR \"10.0.0.0/33\""),
        );
        rest(
            r#"{"version_data":{"versions":{"v":{"extended_paths":{"hard_timeouts":[{"timeout":-1}]}}}}}"#,
            Some("invalid timeout value"),
        );
        // The first rule wins.
        rest(
            r#"{"enable_ip_whitelisting":true,"allowed_ips":["x"],
                "version_data":{"versions":{"v":{"extended_paths":{"hard_timeouts":[{"timeout":-1}]}}}}}"#,
            Some("invalid IP/CIDR \"x\""),
        );
    }

    #[test]
    fn addresses_and_blocks_are_read_as_go_reads_them() {
        for good in [
            "1.2.3.4",
            "::1",
            "::ffff:1.2.3.4",
            "10.0.0.0/8",
            "10.1.2.3/0",
            "fe80::/128",
        ] {
            assert!(is_ip_or_block(good), "{good}");
        }
        for bad in [
            "",
            "1.2.3",
            "01.2.3.4",
            "1.2.3.4/33",
            "::1/129",
            "1.2.3.4/",
            "1.2.3.4/+8",
            "1.2.3.4/8/8",
            "fe80::1%eth0",
            "1.2.3.4:80",
            " 1.2.3.4",
        ] {
            assert!(!is_ip_or_block(bad), "{bad}");
        }
    }

    /// `text` laid over an API without faults.
    #[track_caller]
    fn check(text: &str, expected: &[(Severity, &str, &str)]) {
        let whole = format!(
            r#"{{"proxy":{{"listen_path":"/a/","target_url":"http://up"}},{}"#,
            text.trim_start().trim_start_matches('{')
        );
        let faults = load_faults(&parse(&whole));
        let found: Vec<_> = faults
            .iter()
            .map(|f| (f.severity, f.pointer.as_str(), f.reason.as_str()))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn an_api_without_faults_has_none() {
        check(r#"{"name":"a"}"#, &[]);
    }

    #[test]
    fn a_listen_path_that_tyk_skips_is_skipped() {
        for (path, why) in [
            ("", "the listen path is empty"),
            ("/a b/", "the listen path contains a space"),
            ("a/", "the listen path does not begin with `/`"),
        ] {
            check(
                &format!(r#"{{"proxy":{{"listen_path":"{path}"}}}}"#),
                &[(Severity::Skip, "/proxy/listen_path", why)],
            );
        }
        check(
            r#"{"proxy":{"listen_path":"/{x:(a)}/"}}"#,
            &[(
                Severity::Refuse,
                "/proxy/listen_path",
                "a capturing group in `{x:(a)}`; write `(?:…)`",
            )],
        );
        check(
            r#"{"domain":"{x.example.com"}"#,
            &[(Severity::Refuse, "/domain", "unbalanced braces")],
        );
        check(r#"{"domain":"{x.example.com","domain_disabled":true}"#, &[]);
    }

    #[test]
    fn a_target_that_go_cannot_parse_is_skipped() {
        check(
            r#"{"proxy":{"target_url":"::not a url::"}}"#,
            &[(
                Severity::Skip,
                "/proxy/target_url",
                "missing protocol scheme",
            )],
        );
        let no_host = "the target names no host; every request will fail";
        check(
            r#"{"proxy":{"target_url":""}}"#,
            &[(Severity::Warn, "/proxy/target_url", no_host)],
        );
        check(
            r#"{"proxy":{"target_url":"localhost:8080"}}"#,
            &[(Severity::Warn, "/proxy/target_url", no_host)],
        );
        check(
            r#"{"proxy":{"target_url":"","enable_load_balancing":true,"target_list":["a:1","http://b","http://c d"]}}"#,
            &[(
                Severity::Warn,
                "/proxy/target_list/2",
                "invalid character ' ' in host name",
            )],
        );
    }

    #[test]
    fn services_and_ports_are_checked() {
        check(
            r#"{"protocol":"tcp"}"#,
            &[(Severity::Refuse, "/listen_port", "missing listening port")],
        );
        check(
            r#"{"protocol":"tls","listen_port":65535,"proxy":{"listen_path":""}}"#,
            &[],
        );
        check(
            r#"{"listen_port":65536}"#,
            &[(
                Severity::Refuse,
                "/listen_port",
                "found 65536, expected 0 to 65535",
            )],
        );
        check(
            r#"{"listen_port":-1}"#,
            &[(
                Severity::Refuse,
                "/listen_port",
                "found -1, expected 0 to 65535",
            )],
        );
        check(
            r#"{"protocol":"udp"}"#,
            &[(
                Severity::Refuse,
                "/protocol",
                "expected http, https, h2c, tcp or tls",
            )],
        );
    }

    #[test]
    fn lists_of_addresses_in_use_must_be_readable() {
        check(
            r#"{"enable_ip_blacklisting":true,"blacklisted_ips":["10.0.0.1","10.0.0.0/8x"]}"#,
            &[(
                Severity::Refuse,
                "/blacklisted_ips/1",
                "invalid IP/CIDR \"10.0.0.0/8x\"",
            )],
        );
        check(r#"{"blacklisted_ips":["x"]}"#, &[]);
        check(
            r#"{"enable_ip_whitelisting":true}"#,
            &[(
                Severity::Warn,
                "/allowed_ips",
                "the allow list is on and empty; as in Tyk everybody is let in",
            )],
        );
    }

    #[test]
    fn keyless_beside_authentication_is_pointed_out() {
        check(
            r#"{"use_keyless":true,"use_standard_auth":true}"#,
            &[(
                Severity::Warn,
                "/use_standard_auth",
                "`use_keyless` wins: nobody is asked for credentials",
            )],
        );
    }

    #[test]
    fn dates_that_cannot_be_read_are_pointed_out() {
        check(
            r#"{"expiration":"soon","version_data":{"versions":{"v":{"expires":"soon"}}}}"#,
            &[
                (
                    Severity::Warn,
                    "/expiration",
                    "not a date such as `2006-01-02 15:04`; the API never expires",
                ),
                (
                    Severity::Warn,
                    "/version_data/versions/v/expires",
                    "not a date such as `2006-01-02 15:04`; the version counts as expired",
                ),
            ],
        );
    }

    /// `paths` as the endpoint lists of version `a/b`.
    #[track_caller]
    fn check_paths(paths: &str, expected: &[(Severity, &str, &str)]) {
        let base = "/version_data/versions/a~1b/extended_paths/";
        let text = format!(
            r#"{{"version_data":{{"versions":{{"a/b":{{"use_extended_paths":true,"extended_paths":{paths}}}}}}}}}"#
        );
        let expected: Vec<_> = expected
            .iter()
            .map(|(severity, pointer, why)| (*severity, format!("{base}{pointer}"), *why))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(severity, pointer, why)| (*severity, pointer.as_str(), *why))
            .collect();
        check(&text, &expected);
    }

    #[test]
    fn an_endpoint_that_would_bring_the_api_down_is_refused() {
        let refuse = Severity::Refuse;
        check_paths(
            r#"{"ignored":[{"path":"/ok/{id}"},{"path":"/a("}],"validate_json":[{"path":"*","disabled":true}],
                "cache":["/x","[a"],"persist_graphql":[{"path":"\\1"}]}"#,
            &[
                (refuse, "ignored/1/path", "unclosed group"),
                (refuse, "persist_graphql/0/path", "back-reference `\\1`"),
                (refuse, "cache/1", "unclosed character class"),
            ],
        );
        check_paths(
            r#"{"mock_response":[{"path":"/a","code":200},{"path":"/b"},{"path":"/c","code":1000}],
                "white_list":[{"path":"/w","method_actions":{"GET":{"action":"reply","code":99},
                    "POST":{"action":"no_action"},"PUT":{"action":"reply","code":999}}}],
                "validate_json":[{"path":"/v","error_response_code":0},{"path":"/v","error_response_code":42}]}"#,
            &[
                (
                    refuse,
                    "mock_response/1/code",
                    "found status 0, expected 100 to 999",
                ),
                (
                    refuse,
                    "mock_response/2/code",
                    "found status 1000, expected 100 to 999",
                ),
                (
                    refuse,
                    "white_list/0/method_actions/GET/code",
                    "found status 99, expected 100 to 999",
                ),
                (
                    refuse,
                    "validate_json/1/error_response_code",
                    "found status 42, expected 100 to 999",
                ),
            ],
        );
        check_paths(
            r#"{"hard_timeouts":[{"path":"/a","timeout":1},{"path":"/b"}],
                "url_rewrites":[{"path":"/r","match_pattern":"(","triggers":[{"options":{
                    "header_matches":{"X/Y":{"match_rx":"["}},"payload_matches":{"match_rx":"a"}}}]}]}"#,
            &[
                (
                    Severity::Warn,
                    "hard_timeouts/1/timeout",
                    "the timeout is not above 0 seconds and has no effect",
                ),
                (refuse, "url_rewrites/0/match_pattern", "unclosed group"),
                (
                    refuse,
                    "url_rewrites/0/triggers/0/options/header_matches/X~1Y/match_rx",
                    "unclosed character class",
                ),
            ],
        );
    }

    #[test]
    fn the_lists_not_in_use_are_not_judged() {
        check(
            r#"{"version_data":{"versions":{"v":{"extended_paths":{"ignored":[{"path":"("}]},
                "paths":{"black_list":["/ok","("]}}}}}"#,
            &[(
                Severity::Refuse,
                "/version_data/versions/v/paths/black_list/1",
                "unclosed group",
            )],
        );
    }

    #[test]
    fn faults_are_placed_in_the_text_they_were_found_in() {
        let text = br#"{"name": "a",
  "Proxy": {"listen_path": "/a/",
            "target_url": "::not a url::"}, "listen_port": 70000}"#;
        let api = ApiDefinition::from_json_slice(text).expect("readable");
        let mut faults = load_faults(&api);
        place(&mut faults, text);
        let places: Vec<_> = faults
            .iter()
            .map(|f| (f.pointer.as_str(), f.line, f.column))
            .collect();
        assert_eq!(
            places,
            [("/listen_port", 3, 60), ("/proxy/target_url", 3, 27)]
        );
    }
}
