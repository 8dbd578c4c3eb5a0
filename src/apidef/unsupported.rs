//! What a definition asks for and this gateway does not do yet.
//!
//! An API is never served without something its operator relies on: a feature that guards, hides or
//! changes what passes is refused, one whose absence only costs comfort is a warning. A feature
//! that gets built loses its row here, nothing else.

use super::{ApiDefinition, ExtendedPathsSet, Fault, Severity, VersionInfo, validate};

/// Features in use that are missing. Lines and columns are filled in by [`validate::place`].
#[must_use]
pub fn unsupported(api: &ApiDefinition) -> Vec<Fault> {
    let mut faults: Vec<Fault> = API_ROWS
        .iter()
        .filter(|row| (row.is_used)(api))
        .map(|row| Fault::new(row.severity, row.pointer, row.reason))
        .collect();
    if !api.use_keyless {
        faults.extend(
            validate::auth_switches(api)
                .into_iter()
                .filter(|(is_on, pointer)| *is_on && *pointer != "/use_standard_auth")
                .map(|(_, pointer)| Fault::refuse(pointer, "this authentication is not there yet")),
        );
        token_faults(api, &mut faults);
    }
    plugin_faults(api, &mut faults);
    for (index, processor) in api.response_processors.iter().enumerate() {
        // Tyk's documentation asks for this one, though templates work without it.
        if processor.name != "response_body_transform" {
            faults.push(Fault::warn(
                format!("/response_processors/{index}"),
                "response processors are not there yet",
            ));
        }
    }
    for (name, version) in &api.version_data.versions {
        let rows = VERSION_ROWS.iter().filter(|row| (row.is_used)(version));
        faults.extend(rows.map(|row| {
            let pointer = validate::version_pointer(name, row.pointer);
            Fault::new(row.severity, pointer, row.reason)
        }));
    }
    faults
}

/// One missing feature: where it is asked for, what lacking it means, and whether `T` asks for it.
struct Row<T> {
    pointer: &'static str,
    severity: Severity,
    reason: &'static str,
    is_used: fn(&T) -> bool,
}

const fn refuse<T>(pointer: &'static str, reason: &'static str, is_used: fn(&T) -> bool) -> Row<T> {
    Row {
        pointer,
        severity: Severity::Refuse,
        reason,
        is_used,
    }
}

const fn warn<T>(pointer: &'static str, reason: &'static str, is_used: fn(&T) -> bool) -> Row<T> {
    Row {
        pointer,
        severity: Severity::Warn,
        reason,
        is_used,
    }
}

const API_ROWS: &[Row<ApiDefinition>] = &[
    // Kinds of service.
    refuse("/protocol", "TCP and TLS services are not there yet", |a| {
        matches!(a.protocol.as_str(), "tcp" | "tls")
    }),
    refuse(
        "/protocol",
        "listeners with TLS of an API's own are not there yet",
        |a| a.protocol == "https",
    ),
    warn(
        "/protocol",
        "HTTP/2 is not there yet; HTTP/1.1 is served",
        |a| a.protocol == "h2c",
    ),
    refuse(
        "/enable_proxy_protocol",
        "the PROXY protocol is not there yet",
        |a| a.enable_proxy_protocol,
    ),
    refuse("/graphql/enabled", "GraphQL is not there yet", |a| {
        a.graphql.enabled
    }),
    refuse("/is_oas", "OpenAPI definitions are not there yet", |a| {
        a.is_oas
    }),
    refuse(
        "/proxy/target_url",
        "internal targets (tyk://) are not there yet",
        |a| {
            let scheme = a.proxy.target_url.split("://").next().unwrap_or_default();
            scheme.eq_ignore_ascii_case("tyk")
        },
    ),
    refuse(
        "/proxy/service_discovery/use_discovery_service",
        "service discovery is not there yet",
        |a| a.proxy.service_discovery.use_discovery_service,
    ),
    warn(
        "/certificates",
        "server certificates of an API are not there yet",
        |a| !a.certificates.is_empty(),
    ),
    // Versions.
    refuse(
        "/definition/enabled",
        "versions as APIs of their own are not there yet",
        |a| a.definition.enabled,
    ),
    refuse(
        "/version_data/not_versioned",
        "versions are not there yet",
        |a| !a.version_data.not_versioned && !a.version_data.versions.is_empty(),
    ),
    // Who may call.
    refuse(
        "/use_mutual_tls_auth",
        "client certificates are not there yet",
        |a| a.use_mutual_tls_auth,
    ),
    refuse(
        "/pinned_public_keys",
        "pinned keys are not there yet",
        |a| !a.pinned_public_keys.is_empty() && !a.certificate_pinning_disabled,
    ),
    refuse(
        "/auth_provider/storage_engine",
        "this store of keys is not there yet",
        |a| matches!(a.auth_provider.storage_engine.as_str(), "ldap" | "rpc"),
    ),
    refuse(
        "/session_provider/storage_engine",
        "this store of sessions is not there yet",
        |a| matches!(a.session_provider.storage_engine.as_str(), "ldap" | "rpc"),
    ),
    refuse(
        "/request_signing/is_enabled",
        "signing of upstream requests is not there yet",
        |a| a.request_signing.is_enabled,
    ),
    refuse("/CORS/enable", "CORS is not there yet", |a| a.cors.enable),
    warn(
        "/CORS/options_passthrough",
        "CORS is not there yet; OPTIONS takes the whole chain",
        |a| a.cors.options_passthrough && !a.cors.enable,
    ),
    // Comfort.
    warn(
        "/cache_options/enable_cache",
        "the cache is not there yet; every request goes through",
        |a| a.cache_options.enable_cache,
    ),
    warn(
        "/enable_batch_request_support",
        "batch requests are not there yet",
        |a| a.enable_batch_request_support,
    ),
    warn(
        "/proxy/check_host_against_uptime_tests",
        "uptime tests are not there yet; every target is used",
        |a| a.proxy.check_host_against_uptime_tests,
    ),
    warn("/uptime_tests", "uptime tests are not there yet", |a| {
        !a.uptime_tests.check_list.is_empty()
            || a.uptime_tests
                .config
                .service_discovery
                .use_discovery_service
    }),
    warn("/event_handlers/events", "events are not there yet", |a| {
        !a.event_handlers.events.is_empty()
    }),
    warn(
        "/analytics_plugin/enable",
        "Go plugins are not there yet",
        |a| a.analytics_plugin.enable,
    ),
];

const VERSION_ROWS: &[Row<VersionInfo>] = &[
    refuse(
        "/paths/white_list",
        "allow lists of paths are not there yet",
        |v| !v.use_extended_paths && !v.paths.white_list.is_empty(),
    ),
    refuse(
        "/paths/black_list",
        "block lists of paths are not there yet",
        |v| !v.use_extended_paths && !v.paths.black_list.is_empty(),
    ),
    warn(
        "/paths/ignored",
        "ignored paths are not there yet; credentials are asked for",
        |v| !v.use_extended_paths && !v.paths.ignored.is_empty(),
    ),
    refuse("/global_size_limit", "size limits are not there yet", |v| {
        v.global_size_limit > 0
    }),
    // A header that is taken away may be one that an upstream trusts.
    refuse(
        "/global_headers_remove",
        "removal of headers is not there yet",
        |v| !v.global_headers_disabled && !v.global_headers_remove.is_empty(),
    ),
    warn(
        "/global_headers",
        "header transforms are not there yet",
        |v| !v.global_headers_disabled && !v.global_headers.is_empty(),
    ),
    warn(
        "/global_response_headers",
        "header transforms are not there yet",
        |v| !v.global_response_headers_disabled && !v.global_response_headers.is_empty(),
    ),
    warn(
        "/global_response_headers_remove",
        "header transforms are not there yet",
        |v| !v.global_response_headers_disabled && !v.global_response_headers_remove.is_empty(),
    ),
    // Endpoints.
    refuse(
        "/extended_paths/white_list",
        "allow lists of paths are not there yet",
        |v| lists(v).is_some_and(|p| p.white_list.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/black_list",
        "block lists of paths are not there yet",
        |v| lists(v).is_some_and(|p| p.black_list.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/internal",
        "internal endpoints are not there yet",
        |v| lists(v).is_some_and(|p| p.internal.iter().any(|e| !e.disabled)),
    ),
    warn(
        "/extended_paths/ignored",
        "ignored paths are not there yet; credentials are asked for",
        |v| lists(v).is_some_and(|p| p.ignored.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/mock_response",
        "mock answers are not there yet",
        |v| lists(v).is_some_and(|p| p.mock_response.iter().any(|e| !e.disabled)),
    ),
    warn("/extended_paths/cache", "the cache is not there yet", |v| {
        lists(v).is_some_and(|p| !p.cache.is_empty())
    }),
    warn(
        "/extended_paths/advance_cache_config",
        "the cache is not there yet",
        |v| lists(v).is_some_and(|p| p.advance_cache_config.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/transform",
        "body transforms are not there yet",
        |v| lists(v).is_some_and(|p| p.transform.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/transform_response",
        "body transforms are not there yet",
        |v| lists(v).is_some_and(|p| p.transform_response.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/transform_jq",
        "body transforms are not there yet",
        |v| lists(v).is_some_and(|p| !p.transform_jq.is_empty()),
    ),
    refuse(
        "/extended_paths/transform_jq_response",
        "body transforms are not there yet",
        |v| lists(v).is_some_and(|p| !p.transform_jq_response.is_empty()),
    ),
    refuse(
        "/extended_paths/transform_headers",
        "removal of headers is not there yet",
        |v| {
            lists(v).is_some_and(|p| {
                let mut entries = p.transform_headers.iter();
                entries.any(|e| !e.disabled && !e.delete_headers.is_empty())
            })
        },
    ),
    warn(
        "/extended_paths/transform_headers",
        "header transforms are not there yet",
        |v| {
            lists(v).is_some_and(|p| {
                let mut entries = p.transform_headers.iter();
                entries.any(|e| !e.disabled && !e.add_headers.is_empty())
            })
        },
    ),
    warn(
        "/extended_paths/transform_response_headers",
        "header transforms are not there yet",
        |v| lists(v).is_some_and(|p| p.transform_response_headers.iter().any(|e| !e.disabled)),
    ),
    warn(
        "/extended_paths/circuit_breakers",
        "circuit breakers are not there yet",
        |v| lists(v).is_some_and(|p| p.circuit_breakers.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/url_rewrites",
        "rewriting of URLs is not there yet",
        |v| lists(v).is_some_and(|p| p.url_rewrites.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/virtual",
        "virtual endpoints are not there yet",
        |v| lists(v).is_some_and(|p| p.virtual_endpoints.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/size_limits",
        "size limits are not there yet",
        |v| lists(v).is_some_and(|p| p.size_limits.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/method_transforms",
        "method transforms are not there yet",
        |v| lists(v).is_some_and(|p| p.method_transforms.iter().any(|e| !e.disabled)),
    ),
    warn(
        "/extended_paths/validate_request",
        "read but not executed in classic definitions, as in Tyk",
        |v| lists(v).is_some_and(|p| p.validate_request.iter().any(|e| e.enabled)),
    ),
    refuse(
        "/extended_paths/go_plugin",
        "Go plugins are not there yet",
        |v| lists(v).is_some_and(|p| p.go_plugin.iter().any(|e| !e.disabled)),
    ),
    refuse(
        "/extended_paths/persist_graphql",
        "GraphQL is not there yet",
        |v| lists(v).is_some_and(|p| !p.persist_graphql.is_empty()),
    ),
];

/// The endpoint lists of a version, when it uses them.
fn lists(version: &VersionInfo) -> Option<&ExtendedPathsSet> {
    version
        .use_extended_paths
        .then_some(&version.extended_paths)
}

/// Parts of the token check that are missing. `auth` counts only where `auth_configs` has no entry.
fn token_faults(api: &ApiDefinition, faults: &mut Vec<Fault>) {
    let base = match api.auth_configs.contains_key("authToken") {
        true => "/auth_configs/authToken",
        false => "/auth",
    };
    let config = api.token_auth();
    for (is_on, field) in [
        (config.use_certificate, "use_certificate"),
        (config.validate_signature, "validate_signature"),
    ] {
        if is_on {
            faults.push(Fault::refuse(
                format!("{base}/{field}"),
                "this check of a token is not there yet",
            ));
        }
    }
}

fn plugin_faults(api: &ApiDefinition, faults: &mut Vec<Fault>) {
    if !api.custom_middleware_bundle.is_empty() && !api.custom_middleware_bundle_disabled {
        faults.push(Fault::refuse(
            "/custom_middleware_bundle",
            "plugin bundles are not there yet",
        ));
    }
    let section = &api.custom_middleware;
    let mut is_used = false;
    for (place, plugins) in [
        ("pre", &section.pre),
        ("post_key_auth", &section.post_key_auth),
        ("post", &section.post),
        ("response", &section.response),
    ] {
        if let Some(index) = plugins.iter().position(|plugin| !plugin.disabled) {
            is_used = true;
            faults.push(Fault::refuse(
                format!("/custom_middleware/{place}/{index}"),
                "plugins are not there yet",
            ));
        }
    }
    if !section.auth_check.name.is_empty() && !section.auth_check.disabled && !api.use_keyless {
        is_used = true;
        faults.push(Fault::refuse(
            "/custom_middleware/auth_check",
            "plugins are not there yet",
        ));
    }
    if is_used && matches!(section.driver.as_str(), "lua" | "goplugin") {
        faults.push(Fault::refuse(
            "/custom_middleware/driver",
            "plugins in this language are not supported; use python, grpc or otto",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(Severity, &str)]) {
        let api = ApiDefinition::from_json_slice(text.as_bytes()).expect("a readable definition");
        let faults = unsupported(&api);
        let found: Vec<_> = faults
            .iter()
            .map(|f| (f.severity, f.pointer.as_str()))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    const REFUSE: Severity = Severity::Refuse;
    const WARN: Severity = Severity::Warn;

    #[test]
    fn every_row_points_at_a_field_of_tyk() {
        let keys = include_str!("../../tests/data/apidef_keys.tsv");
        let has = |path: &str| keys.contains(&format!("\n{path}\t"));
        for row in API_ROWS {
            let path = row.pointer.trim_start_matches('/').replace('/', ".");
            assert!(has(&path), "{path}");
        }
        for row in VERSION_ROWS {
            let path = row.pointer.replace('/', ".");
            assert!(has(&format!("version_data.versions.{{}}{path}")), "{path}");
        }
    }

    #[test]
    fn an_api_is_not_served_without_the_authentication_it_asks_for() {
        check(r#"{"use_keyless":true}"#, &[]);
        check(r#"{"use_standard_auth":true}"#, &[]);
        let off = r#""disable_rate_limit":true,"disable_quota":true"#;
        check(&format!("{{{off}}}"), &[]);
        for flag in [
            "use_basic_auth",
            "use_oauth2",
            "use_openid",
            "enable_jwt",
            "enable_signature_checking",
            "use_go_plugin_auth",
            "enable_coprocess_auth",
            "custom_plugin_auth_enabled",
        ] {
            let pointer = format!("/{flag}");
            check(
                &format!(r#"{{"{flag}":true,{off}}}"#),
                &[(REFUSE, &pointer)],
            );
            check(&format!(r#"{{"{flag}":true,"use_keyless":true}}"#), &[]);
        }
        check(
            &format!(r#"{{"external_oauth":{{"enabled":true}},{off}}}"#),
            &[(REFUSE, "/external_oauth/enabled")],
        );
        check(
            r#"{"use_mutual_tls_auth":true,"use_keyless":true}"#,
            &[(REFUSE, "/use_mutual_tls_auth")],
        );
        check(
            &format!(r#"{{"auth":{{"validate_signature":true}},{off}}}"#),
            &[(REFUSE, "/auth/validate_signature")],
        );
        check(
            &format!(
                r#"{{"auth":{{"use_certificate":true}},
                    "auth_configs":{{"authToken":{{"use_certificate":true}}}},{off}}}"#
            ),
            &[(REFUSE, "/auth_configs/authToken/use_certificate")],
        );
        check(
            &format!(
                r#"{{"auth":{{"use_certificate":true}},"auth_configs":{{"authToken":{{}}}},{off}}}"#
            ),
            &[],
        );
    }

    #[test]
    fn kinds_of_service_that_are_missing_are_refused() {
        for (text, pointer) in [
            (r#""protocol":"tcp""#, "/protocol"),
            (r#""protocol":"tls""#, "/protocol"),
            (r#""protocol":"https""#, "/protocol"),
            (r#""enable_proxy_protocol":true"#, "/enable_proxy_protocol"),
            (r#""graphql":{"enabled":true}"#, "/graphql/enabled"),
            (r#""is_oas":true"#, "/is_oas"),
            (
                r#""proxy":{"target_url":"TYK://self"}"#,
                "/proxy/target_url",
            ),
            (
                r#""proxy":{"service_discovery":{"use_discovery_service":true}}"#,
                "/proxy/service_discovery/use_discovery_service",
            ),
            (r#""definition":{"enabled":true}"#, "/definition/enabled"),
            (
                r#""version_data":{"versions":{"v":{}}}"#,
                "/version_data/not_versioned",
            ),
            (r#""pinned_public_keys":{"*":"x"}"#, "/pinned_public_keys"),
            (r#""CORS":{"enable":true}"#, "/CORS/enable"),
            (
                r#""request_signing":{"is_enabled":true}"#,
                "/request_signing/is_enabled",
            ),
            (
                r#""auth_provider":{"storage_engine":"ldap"}"#,
                "/auth_provider/storage_engine",
            ),
            (
                r#""session_provider":{"storage_engine":"rpc"}"#,
                "/session_provider/storage_engine",
            ),
            (
                r#""custom_middleware_bundle":"b.zip""#,
                "/custom_middleware_bundle",
            ),
        ] {
            check(
                &format!(r#"{{"use_keyless":true,{text}}}"#),
                &[(REFUSE, pointer)],
            );
        }
        for text in [
            r#""pinned_public_keys":{"*":"x"},"certificate_pinning_disabled":true"#,
            r#""custom_middleware_bundle":"b.zip","custom_middleware_bundle_disabled":true"#,
            r#""version_data":{"not_versioned":true,"versions":{"v":{}}}"#,
            r#""protocol":"http""#,
        ] {
            check(&format!(r#"{{"use_keyless":true,{text}}}"#), &[]);
        }
    }

    #[test]
    fn what_only_costs_comfort_is_a_warning() {
        for (text, pointer) in [
            (r#""protocol":"h2c""#, "/protocol"),
            (r#""certificates":["a"]"#, "/certificates"),
            (
                r#""CORS":{"options_passthrough":true}"#,
                "/CORS/options_passthrough",
            ),
            (
                r#""cache_options":{"enable_cache":true}"#,
                "/cache_options/enable_cache",
            ),
            (
                r#""enable_batch_request_support":true"#,
                "/enable_batch_request_support",
            ),
            (r#""uptime_tests":{"check_list":[{}]}"#, "/uptime_tests"),
            (
                r#""event_handlers":{"events":{"AuthFailure":[]}}"#,
                "/event_handlers/events",
            ),
            (
                r#""response_processors":[{"name":"header_injector"}]"#,
                "/response_processors/0",
            ),
            (
                r#""analytics_plugin":{"enable":true}"#,
                "/analytics_plugin/enable",
            ),
        ] {
            check(
                &format!(r#"{{"use_keyless":true,{text}}}"#),
                &[(WARN, pointer)],
            );
        }
        check(
            r#"{"use_keyless":true,"response_processors":[{"name":"response_body_transform"}]}"#,
            &[],
        );
    }

    #[test]
    fn plugins_that_would_run_are_refused() {
        check(
            r#"{"use_keyless":true,"custom_middleware":{"driver":"goplugin",
                "pre":[{"disabled":true},{"name":"a"}],"response":[{}],"auth_check":{"name":"x"}}}"#,
            &[
                (REFUSE, "/custom_middleware/pre/1"),
                (REFUSE, "/custom_middleware/response/0"),
                (REFUSE, "/custom_middleware/driver"),
            ],
        );
        check(
            r#"{"disable_rate_limit":true,"disable_quota":true,
                "custom_middleware":{"driver":"python","auth_check":{"name":"x"}}}"#,
            &[(REFUSE, "/custom_middleware/auth_check")],
        );
    }

    #[track_caller]
    fn check_version(text: &str, expected: &[(Severity, &str)]) {
        let base = "/version_data/versions/v";
        let pointers: Vec<_> = expected
            .iter()
            .map(|(severity, below)| (*severity, format!("{base}{below}")))
            .collect();
        let expected: Vec<_> = pointers.iter().map(|(s, p)| (*s, p.as_str())).collect();
        check(
            &format!(
                r#"{{"use_keyless":true,"version_data":{{"not_versioned":true,"versions":{{"v":{text}}}}}}}"#
            ),
            &expected,
        );
    }

    #[test]
    fn endpoint_lists_count_when_they_are_in_use() {
        for list in [
            "white_list",
            "black_list",
            "internal",
            "mock_response",
            "transform",
            "transform_response",
            "url_rewrites",
            "virtual",
            "size_limits",
            "method_transforms",
            "go_plugin",
        ] {
            let pointer = format!("/extended_paths/{list}");
            check_version(
                &format!(
                    r#"{{"use_extended_paths":true,"extended_paths":{{"{list}":[{{"disabled":true}},{{}}]}}}}"#
                ),
                &[(REFUSE, &pointer)],
            );
            check_version(
                &format!(
                    r#"{{"use_extended_paths":true,"extended_paths":{{"{list}":[{{"disabled":true}}]}}}}"#
                ),
                &[],
            );
            check_version(&format!(r#"{{"extended_paths":{{"{list}":[{{}}]}}}}"#), &[]);
        }
        for list in ["transform_jq", "transform_jq_response", "persist_graphql"] {
            let pointer = format!("/extended_paths/{list}");
            check_version(
                &format!(r#"{{"use_extended_paths":true,"extended_paths":{{"{list}":[{{}}]}}}}"#),
                &[(REFUSE, &pointer)],
            );
        }
        for list in [
            "ignored",
            "advance_cache_config",
            "circuit_breakers",
            "transform_response_headers",
        ] {
            let pointer = format!("/extended_paths/{list}");
            check_version(
                &format!(r#"{{"use_extended_paths":true,"extended_paths":{{"{list}":[{{}}]}}}}"#),
                &[(WARN, &pointer)],
            );
        }
        for list in [
            "hard_timeouts",
            "validate_json",
            "track_endpoints",
            "do_not_track_endpoints",
        ] {
            check_version(
                &format!(r#"{{"use_extended_paths":true,"extended_paths":{{"{list}":[{{}}]}}}}"#),
                &[],
            );
        }
        check_version(
            r#"{"paths":{"white_list":["a"],"black_list":["b"],"ignored":["c"]}}"#,
            &[
                (REFUSE, "/paths/white_list"),
                (REFUSE, "/paths/black_list"),
                (WARN, "/paths/ignored"),
            ],
        );
    }

    #[test]
    fn a_header_that_should_be_taken_away_is_never_let_through() {
        check_version(
            r#"{"use_extended_paths":true,"extended_paths":{"transform_headers":[{"add_headers":{"a":"b"}}]}}"#,
            &[(WARN, "/extended_paths/transform_headers")],
        );
        check_version(
            r#"{"use_extended_paths":true,"extended_paths":{"transform_headers":[{"delete_headers":["a"]}]}}"#,
            &[(REFUSE, "/extended_paths/transform_headers")],
        );
        check_version(
            r#"{"global_headers":{"a":"b"},"global_headers_remove":["c"],"global_response_headers":{"a":"b"},
                "global_response_headers_remove":["c"],"global_size_limit":1}"#,
            &[
                (REFUSE, "/global_size_limit"),
                (REFUSE, "/global_headers_remove"),
                (WARN, "/global_headers"),
                (WARN, "/global_response_headers"),
                (WARN, "/global_response_headers_remove"),
            ],
        );
        check_version(
            r#"{"global_headers":{"a":"b"},"global_headers_remove":["c"],"global_headers_disabled":true,
                "global_response_headers":{"a":"b"},"global_response_headers_remove":["c"],
                "global_response_headers_disabled":true}"#,
            &[],
        );
    }
}
