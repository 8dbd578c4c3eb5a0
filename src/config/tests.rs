//! Tests of the whole configuration: keys, overrides, places in messages, references, checks.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;

use super::{field::Field as _, unknown::Hint, *};
use crate::error::LoadError;

/// Path, Go type, variable, origin; one line per leaf of Tyk 5.4.0's `config.Config`, and ours.
const KEYS: &str = include_str!("../../tests/data/tyk_conf_keys.tsv");

fn rows() -> Vec<[&'static str; 4]> {
    let row = |line: &'static str| {
        let mut parts = line.split('\t');
        std::array::from_fn(|_| parts.next().expect("four columns"))
    };
    KEYS.lines().map(row).collect()
}

fn vars(pairs: &[(&str, &str)]) -> Vars {
    let pair = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    pairs.iter().map(pair).collect()
}

fn parse(text: &str) -> Result<(Config, Vec<UnknownKey>), LoadError> {
    Config::from_json_str(Path::new("tyk.conf"), text)
}

/// What a leaf of this Go type expects.
fn expects(go_type: &str) -> &'static str {
    match go_type {
        "bool" => "true or false",
        "int" | "int64" => "a whole number",
        "int32" => "a whole number of 32 bits",
        "uint16" => "a whole number from 0 to 65535",
        "uint32" => "a whole number from 0 to 4294967295",
        "uint64" => "a whole number, not negative",
        "float32" | "float64" => "a number",
        "time.Duration" => "nanoseconds, or a span such as \"10s\"",
        "[]string" | "CertsData" => "a list",
        "PortsWhiteList" => "an object",
        _ if go_type.starts_with("map") => "an object",
        "penstock.IoDriver" => "\"auto\", \"io_uring\" or \"epoll\"",
        "penstock.Compat" => "\"tyk-5.4\" or \"strict\"",
        "penstock.AccessLog" => "\"\", \"json\" or \"combined\"",
        _ => "a string",
    }
}

/// A text for a variable of this type, and the JSON that it stands for.
fn sample(go_type: &str) -> (&'static str, Value) {
    let json = |text: &str| serde_json::from_str(text).expect("sample is JSON");
    match go_type {
        "bool" => ("true", json("true")),
        "int" | "int64" | "int32" | "uint16" | "uint32" | "uint64" => ("0x11", json("17")),
        "float32" | "float64" => ("0.25", json("0.25")),
        "time.Duration" => ("1m1ns", json("60000000001")),
        "[]string" => ("a,b c", json(r#"["a","b c"]"#)),
        "map[string]string" => ("k:v,k2:a:1", json(r#"{"k":"v","k2":"a:1"}"#)),
        "map[string]WhenStoreIsAway" => ("k:stale", json(r#"{"k":"stale"}"#)),
        "map[string]any" => ("k:v", json(r#"{"k":"v"}"#)),
        "map" | "map[event.Event][]EventHandlerTriggerConfig" => (
            r#"{"E":[{"handler_name":"h","handler_meta":{"x":1}}]}"#,
            json(r#"{"E":[{"handler_name":"h","handler_meta":{"x":1}}]}"#),
        ),
        "map[string]TykError" => (
            r#"{"auth.x":{"code":499}}"#,
            json(r#"{"auth.x":{"message":"","code":499}}"#),
        ),
        "PortsWhiteList" => (
            r#"{"http":{"ranges":[{"from":1,"to":2}],"ports":[9]}}"#,
            json(r#"{"http":{"ranges":[{"from":1,"to":2}],"ports":[9]}}"#),
        ),
        "CertsData" => (
            r#"[{"domain_name":"d","cert_file":"c","key_file":"k"}]"#,
            json(r#"[{"domain_name":"d","cert_file":"c","key_file":"k"}]"#),
        ),
        "penstock.IoDriver" => ("epoll", json(r#""epoll""#)),
        "penstock.Compat" => ("strict", json(r#""strict""#)),
        "penstock.AccessLog" => ("json", json(r#""json""#)),
        _ => ("text", json(r#""text""#)),
    }
}

#[test]
fn keys_are_those_of_tyk_with_type_and_variable() {
    let listed: BTreeSet<(String, &str, String)> = rows()
        .into_iter()
        .map(|[path, go_type, env, _]| (path.to_owned(), expects(go_type), env.to_owned()))
        .collect();
    let ours: BTreeSet<_> = Config::all_keys()
        .iter()
        .map(|key| (key.path.clone(), key.expects, key.env.clone()))
        .collect();
    let missing: Vec<_> = listed.difference(&ours).collect();
    let extra: Vec<_> = ours.difference(&listed).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{missing:?} {extra:?}"
    );
    assert_eq!(ours.len(), Config::all_keys().len(), "a key stands twice");
    let names: BTreeSet<_> = ours.iter().map(|key| &key.2).collect();
    assert_eq!(names.len(), ours.len(), "a variable stands twice");
}

#[test]
fn every_variable_changes_exactly_its_field() {
    let before = Config::default().print(Secrets::Shown);
    for [path, go_type, env, _] in rows() {
        let (text, expected) = sample(go_type);
        let loaded = Config::from_env(&vars(&[(env, text)])).expect(env);
        assert_eq!(loaded.unknown, [], "{env}");
        let mut after = loaded.config.print(Secrets::Shown);
        let pointer = format!("/{}", path.replace('.', "/"));
        let field = after.pointer_mut(&pointer).expect(path);
        assert_eq!(*field, expected, "{env}");
        *field = before.pointer(&pointer).expect(path).clone();
        assert_eq!(after, before, "{env} changed more than {path}");
    }
}

#[test]
fn every_key_read_from_a_file_is_the_one_its_variable_sets() {
    for [path, go_type, env, _] in rows() {
        let (text, value) = sample(go_type);
        let nested = path
            .rsplit('.')
            .fold(value, |inner, name| [(name, inner)].into_iter().collect());
        let (config, unknown) = parse(&nested.to_string()).expect(path);
        assert_eq!(unknown, [], "{path}");
        let overridden = Config::from_env(&vars(&[(env, text)])).expect(env).config;
        assert_eq!(config, overridden, "{path}");
    }
}

#[test]
fn variables_win_over_the_file() {
    let (mut config, _) = parse(r#"{"listen_port": 1, "secret": "file"}"#).expect("valid");
    env::apply(&mut config, &vars(&[("TYK_GW_LISTENPORT", "2")])).expect("valid");
    assert_eq!(config.listen_port, 2);
    assert_eq!(config.secret.as_str(), "file");
}

#[test]
fn printing_and_reading_give_the_same_configuration() {
    let all: Vec<(&str, &str)> = rows()
        .into_iter()
        .map(|[_, go_type, env, _]| (env, sample(go_type).0))
        .collect();
    for config in [
        Config::default(),
        Config::from_env(&vars(&all)).expect("valid").config,
    ] {
        let (again, unknown) = parse(&config.to_json_string()).expect("own print");
        assert_eq!(again, config);
        assert_eq!(unknown, []);
    }
}

#[track_caller]
fn refused(text: &str, pointer: &str, place: (u32, u32), reason: &str) {
    let why = parse(text).expect_err(text);
    assert_eq!(why.pointer, pointer, "{why}");
    assert_eq!((why.line, why.column), place, "{why}");
    assert!(why.reason.contains(reason), "{why}");
}

#[test]
fn a_wrong_value_is_named_with_its_place() {
    refused(
        r#"{"listen_port": "8080"}"#,
        "/listen_port",
        (1, 17),
        "found a string, expected a whole number",
    );
    refused(
        "{\n  \"storage\": {\n    \"port\": 6379.0\n  }\n}",
        "/storage/port",
        (3, 13),
        "found the number 6379.0, expected a whole number",
    );
    refused(
        r#"{"http_server_options": {"min_version": 65536}}"#,
        "/http_server_options/min_version",
        (1, 41),
        "from 0 to 65535",
    );
    refused(
        r#"{"analytics_config": {"ignored_ips": ["a", 5]}}"#,
        "/analytics_config/ignored_ips/1",
        (1, 44),
        "found the number 5, expected a string",
    );
    refused(
        r#"{"secrets": {"a/b": []}}"#,
        "/secrets/a~1b",
        (1, 21),
        "a list",
    );
    refused(
        r#"{"policies": []}"#,
        "/policies",
        (1, 14),
        "expected an object",
    );
    refused(
        r#"{"proxy_default_timeout": 1e999}"#,
        "/proxy_default_timeout",
        (1, 27),
        "number",
    );
    refused("[]", "", (1, 1), "expected an object");
}

#[test]
fn what_is_no_json_is_named_with_its_place() {
    refused("", "", (1, 1), "not JSON: EOF");
    refused(
        "{\n\"a\": 1,\n}",
        "",
        (3, 1),
        "not JSON: key must be a string",
    );
    refused("{} {}", "", (1, 4), "not JSON: trailing characters");
    refused("\u{feff}{}", "", (1, 1), "byte order mark");
    refused("{\"secret\": \"\\ud800\"}", "/secret", (1, 19), "not JSON");
    let deep = format!("{{\"tracing\":{{\"options\":{{\"x\":{}", "[".repeat(200));
    let closed = format!("{deep}{}}}}}}}", "]".repeat(200));
    let why = parse(&closed).expect_err("too deep");
    assert_eq!(why.pointer, "/tracing/options/x");
    assert!(why.reason.contains("recursion limit"), "{why}");
}

#[test]
fn null_case_and_doubles_follow_go() {
    let (config, unknown) = parse(
        r#"{"Listen_Port": 1, "listen_port": null, "SECRET": "a", "secret": "b",
            "storage": {"host": "h"}, "STORAGE": {"Type": "redis"},
            "secrets": {"a": "1"}, "Secrets": {"b": "2"}, "ssl": null,
            "security": {"certificates": {"apis": ["x"], "APIs": null}}, "kv": null}"#,
    )
    .expect("valid");
    assert_eq!(config.listen_port, 1);
    assert_eq!(config.secret.as_str(), "b");
    assert_eq!(config.storage.host, "h");
    assert_eq!(config.storage.kind, "redis");
    assert_eq!(config.secrets.len(), 2);
    assert!(config.security.certificates.apis.is_empty());
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown[0].pointer, "/ssl");
}

#[track_caller]
fn hint(text: &str, pointer: &str, expected: &Hint) {
    let (_, unknown) = parse(text).expect(text);
    assert_eq!(unknown.len(), 1, "{unknown:?}");
    assert_eq!(unknown[0].pointer, pointer);
    assert_eq!(unknown[0].hint, *expected);
}

#[test]
fn an_unknown_key_is_reported_with_the_nearest_name() {
    let nearest = |name: &str| Hint::Nearest(name.to_owned());
    hint(
        r#"{"listn_port": 1}"#,
        "/listn_port",
        &nearest("listen_port"),
    );
    hint(
        r#"{"storage": {"pasword": "x"}}"#,
        "/storage/pasword",
        &nearest("password"),
    );
    hint(
        r#"{"max_request_body_size": 1}"#,
        "/max_request_body_size",
        &nearest("http_server_options.max_request_body_size"),
    );
    hint(
        r#"{"penstock": {"limits": {"head_byte": 1}}}"#,
        "/penstock/limits/head_byte",
        &nearest("head_bytes"),
    );
    hint(r#"{"zzzzzzzz": {"x": 1}}"#, "/zzzzzzzz", &Hint::None);
    hint(r#"{"labs": {"x": 1}}"#, "/labs", &Hint::OtherVersion);
    hint(
        r#"{"kv": {"stores": {}}}"#,
        "/kv/stores",
        &Hint::OtherVersion,
    );
    let long = format!("{{\"{}\": 1}}", "a".repeat(10_000));
    assert_eq!(parse(&long).expect("valid").1.len(), 1);
}

#[test]
fn an_unknown_variable_is_reported_with_the_nearest_name() {
    let loaded = Config::from_env(&vars(&[
        ("TYK_GW_LISTENPRT", "1"),
        ("TYK_GW_OMITCONFIGFILE", "false"),
        ("TYK_GW_TRACER_OPTIONS_REPORTER_URL", "x"),
        ("TYK_LOGLEVEL", "debug"),
        ("HOME", "/"),
    ]))
    .expect("valid");
    assert_eq!(loaded.unknown.len(), 1, "{:?}", loaded.unknown);
    assert_eq!(
        loaded.unknown[0].to_string(),
        "environment: TYK_GW_LISTENPRT: unknown key, ignored; did you mean `TYK_GW_LISTENPORT`?"
    );
}

#[track_caller]
fn variable(name: &str, text: &str, expected: Result<&str, &str>) {
    let path = Config::all_keys().iter().find(|key| key.env == name);
    let pointer = path.expect(name).path.replace('.', "/");
    match (Config::from_env(&vars(&[(name, text)])), expected) {
        (Ok(loaded), Ok(expected)) => {
            let printed = loaded.config.print(Secrets::Shown);
            let value = printed.pointer(&format!("/{pointer}")).expect(name);
            assert_eq!(value.to_string(), expected, "{name}={text:?}");
        }
        (Err(why), Err(expected)) => {
            assert_eq!(
                (why.file.to_str(), why.pointer.as_str()),
                (Some("environment"), name)
            );
            assert!(why.reason.contains(expected), "{why}");
        }
        (got, _) => panic!("{name}={text:?}: {got:?}"),
    }
}

#[test]
fn variables_are_read_as_envconfig_does() {
    variable("TYK_GW_HASHKEYS", "T", Ok("true"));
    variable("TYK_GW_HASHKEYS", "0", Ok("false"));
    variable("TYK_GW_HASHKEYS", "yes", Err("expected true or false"));
    variable("TYK_GW_HASHKEYS", "", Err("expected true or false"));
    variable("TYK_GW_LISTENPORT", "0o17", Ok("15"));
    variable("TYK_GW_LISTENPORT", "017", Ok("15"));
    variable("TYK_GW_LISTENPORT", "-0b11", Ok("-3"));
    variable("TYK_GW_LISTENPORT", "1_000", Ok("1000"));
    variable("TYK_GW_LISTENPORT", "0x_f", Ok("15"));
    for text in ["", " 1", "1.0", "1__0", "_1", "1_", "0x", "-", "+-1", "x"] {
        variable("TYK_GW_LISTENPORT", text, Err("expected a whole number"));
    }
    variable("TYK_GW_LISTENPORT", "9223372036854775808", Err("expected"));
    variable("TYK_GW_PROXYSSLMINVERSION", "65536", Err("0 to 65535"));
    variable("TYK_GW_PROXYDEFAULTTIMEOUT", "1e2", Ok("100.0"));
    variable(
        "TYK_GW_PROXYDEFAULTTIMEOUT",
        "NaN",
        Err("expected a number"),
    );
    variable("TYK_GW_LIVENESSCHECK_CHECKDURATION", "250", Ok("250"));
    variable(
        "TYK_GW_LIVENESSCHECK_CHECKDURATION",
        "1.5s",
        Ok("1500000000"),
    );
    variable("TYK_GW_LIVENESSCHECK_CHECKDURATION", "soon", Err("a span"));
    variable("TYK_GW_STORAGE_ADDRS", "a:1, b:2", Ok(r#"["a:1"," b:2"]"#));
    variable("TYK_GW_STORAGE_ADDRS", " ", Ok("[]"));
    variable(
        "TYK_GW_STORAGE_HOSTS",
        "localhost:6379",
        Ok(r#"{"localhost":"6379"}"#),
    );
    variable("TYK_GW_STORAGE_HOSTS", "localhost", Err("name:value pairs"));
    variable(
        "TYK_GW_PORTWHITELIST",
        r#"{"http":{"port":[1]}}"#,
        Err("no such key"),
    );
    variable("TYK_GW_PORTWHITELIST", "{", Err("not JSON"));
    variable(
        "TYK_GW_HTTPSERVEROPTIONS_CERTIFICATES",
        "a",
        Err("not JSON"),
    );
    variable("TYK_GW_OVERRIDEMESSAGES", "a:b", Err("not JSON"));
    variable(
        "TYK_GW_PENSTOCK_COMPAT",
        "loose",
        Err("\"tyk-5.4\" or \"strict\""),
    );
    variable("TYK_GW_PENSTOCK_COMPAT", "", Ok("\"tyk-5.4\""));
}

#[track_caller]
fn reference(value: &str, expected: Result<&str, &str>) {
    let secrets = [("db".to_owned(), Secret::from("hush"))].into();
    let vars = vars(&[("TYK_SECRET_DB_PASS", "quiet")]);
    let got = resolve_secret_ref(value, &secrets, &vars);
    match expected {
        Ok(text) => assert_eq!(got.as_deref(), Ok(text)),
        Err(part) => assert!(got.as_ref().is_err_and(|why| why.contains(part)), "{got:?}"),
    }
}

#[test]
fn references_resolve_as_in_tyk() {
    reference("plain", Ok("plain"));
    reference("", Ok(""));
    reference("secrets://db", Ok("hush"));
    reference(
        "secrets://nope",
        Err("`nope`, which `secrets` does not hold"),
    );
    reference("env://db_pass", Ok("quiet"));
    reference("env://DB_PASS", Ok("quiet"));
    reference("env://unset", Ok(""));
    reference("consul://a/b", Err("Consul, which is not supported yet"));
    reference("vault://a.b", Err("Vault, which is not supported yet"));
}

#[test]
fn references_are_resolved_in_the_fields_that_tyk_names() {
    let fields = [
        ("TYK_GW_SECRET", "/secret"),
        ("TYK_GW_NODESECRET", "/node_secret"),
        ("TYK_GW_STORAGE_PASSWORD", "/storage/password"),
        ("TYK_GW_CACHESTORAGE_PASSWORD", "/cache_storage/password"),
        (
            "TYK_GW_SECURITY_PRIVATECERTIFICATEENCODINGSECRET",
            "/security/private_certificate_encoding_secret",
        ),
        (
            "TYK_GW_DBAPPCONFOPTIONS_CONNECTIONSTRING",
            "/db_app_conf_options/connection_string",
        ),
        (
            "TYK_GW_POLICIES_POLICYCONNECTIONSTRING",
            "/policies/policy_connection_string",
        ),
    ];
    for (name, pointer) in fields {
        let with = |value: &str| {
            Config::from_env(&vars(&[
                (name, value),
                ("TYK_GW_SECRETS", "k:hush"),
                ("TYK_GW_USEDBAPPCONFIGS", "true"),
                ("TYK_GW_POLICIES_POLICYSOURCE", "service"),
            ]))
        };
        let printed = with("secrets://k")
            .expect(name)
            .config
            .print(Secrets::Shown);
        assert_eq!(printed.pointer(pointer), Some(&"hush".into()), "{name}");
        let why = with("secrets://nope").expect_err(name);
        assert_eq!(why.pointer, pointer);
        assert!(!why.to_string().contains('\n'), "{why}");
    }
    let other = Config::from_env(&vars(&[("TYK_GW_LISTENADDRESS", "secrets://nope")]));
    assert_eq!(
        other.expect("left alone").config.listen_address,
        "secrets://nope"
    );
}

#[test]
fn secrets_show_neither_in_debug_nor_masked() {
    let config = Config {
        secret: "hush-1".into(),
        secrets: [("k".to_owned(), "hush-2".into())].into(),
        storage: Storage {
            password: "hush-3".into(),
            ..Storage::default()
        },
        ..Config::default()
    };
    assert!(!format!("{config:?}").contains("hush"));
    assert!(!config.to_masked_json().to_string().contains("hush"));
    assert!(config.to_json_string().contains("hush-3"));
}

#[track_caller]
fn finding(text: &str, pointer: &str, expected: Option<Severity>) {
    let (config, _) = parse(text).expect(text);
    let worst = config
        .check()
        .into_iter()
        .filter(|finding| finding.pointer == pointer)
        .map(|finding| finding.severity)
        .max();
    assert_eq!(worst, expected, "{text}");
}

#[test]
fn a_secret_that_anybody_knows_is_refused_where_others_can_reach_it() {
    let (error, warning) = (Some(Severity::Error), Some(Severity::Warning));
    finding("{}", "/secret", error);
    finding(
        r#"{"secret": "352d20ee67be67f6340b4c0605b044b7"}"#,
        "/secret",
        error,
    );
    finding(r#"{"secret": "my own"}"#, "/secret", None);
    finding(r#"{"listen_address": "0.0.0.0"}"#, "/secret", error);
    for address in [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "[::1]",
        "localhost",
        "::ffff:127.0.0.1",
    ] {
        let text = format!("{{\"listen_address\": {address:?}}}");
        finding(&text, "/secret", warning);
    }
    finding(
        r#"{"penstock": {"allow_insecure_secret": true}}"#,
        "/secret",
        warning,
    );
}

#[test]
fn what_a_store_would_ignore_in_silence_is_told() {
    let (error, warning) = (Some(Severity::Error), Some(Severity::Warning));
    let redis = |more: &str| format!(r#"{{"storage": {{"type": "redis"{more}}}}}"#);
    for odd in [
        r#", "addrs": ["a:1", "b:1"]"#,
        r#", "enable_cluster": true, "master_name": "m""#,
        r#", "enable_cluster": true, "database": 1"#,
        r#", "ca_file": "ca.pem""#,
        r#", "use_ssl": true, "cert_file": "cert.pem""#,
        r#", "use_ssl": true, "ssl_insecure_skip_verify": true"#,
        r#", "use_ssl": true, "tls_min_version": "1.1""#,
        r#", "username": "u""#,
    ] {
        finding(&redis(odd), "/storage", warning);
    }
    for fine in [
        "",
        r#", "addrs": ["a:1", "b:1"], "enable_cluster": true"#,
        r#", "addrs": ["a:1", "b:1"], "master_name": "m", "database": 1"#,
        r#", "use_ssl": true, "cert_file": "cert.pem", "key_file": "key.pem""#,
    ] {
        finding(&redis(fine), "/storage", None);
    }
    let other = r#""cache_storage": {"type": "mongo"}"#;
    finding(&format!("{{{other}}}"), "/cache_storage/type", None);
    finding(
        &format!(r#"{{"enable_separate_cache_store": true, {other}}}"#),
        "/cache_storage/type",
        error,
    );
}

#[test]
fn values_without_meaning_are_refused_before_start() {
    let error = Some(Severity::Error);
    finding(r#"{"listen_port": 65536}"#, "/listen_port", error);
    finding(r#"{"listen_port": -1}"#, "/listen_port", error);
    finding(r#"{"listen_port": 65535}"#, "/listen_port", None);
    finding(r#"{"log_level": "verbose"}"#, "/log_level", error);
    finding(r#"{"log_level": "warn"}"#, "/log_level", None);
    finding(r#"{"storage": {"type": "mongo"}}"#, "/storage/type", error);
    finding(
        r#"{"storage": {"type": "embedded"}}"#,
        "/storage/type",
        None,
    );
    finding(
        r#"{"proxy_ssl_min_version": 772, "proxy_ssl_max_version": 771}"#,
        "/proxy_ssl_min_version",
        error,
    );
    finding(
        r#"{"proxy_ssl_min_version": 3}"#,
        "/proxy_ssl_min_version",
        error,
    );
    finding(
        r#"{"proxy_ssl_min_version": 769}"#,
        "/proxy_ssl_min_version",
        Some(Severity::Warning),
    );
    finding(
        r#"{"penstock": {"trusted_proxies": ["10.0.0.0/33"]}}"#,
        "/penstock/trusted_proxies",
        error,
    );
    finding(
        r#"{"penstock": {"trusted_proxies": ["10.0.0.0/32", "::1"]}}"#,
        "/penstock/trusted_proxies",
        None,
    );
    for (servers, expected) in [
        (r#"["127.0.0.1:53", "[::1]:53"]"#, None),
        (r#"["127.0.0.1"]"#, error),
        (r#"["127.0.0.1:0"]"#, error),
        (r#"["ns.example:53"]"#, error),
    ] {
        finding(
            &format!(r#"{{"penstock": {{"dns_servers": {servers}}}}}"#),
            "/penstock/dns_servers",
            expected,
        );
    }
    finding(
        r#"{"penstock": {"limits": {"head_bytes": 0}}}"#,
        "/penstock/limits/head_bytes",
        error,
    );
    finding(
        r#"{"use_db_app_configs": true}"#,
        "/use_db_app_configs",
        error,
    );
    finding(
        r#"{"use_sentry": true}"#,
        "/use_sentry",
        Some(Severity::Warning),
    );
    for (text, pointer) in [
        (r#"{"max_conn_time": 1}"#, "/max_conn_time"),
        (
            r#"{"http_server_options": {"read_timeout": 1}}"#,
            "/http_server_options/read_timeout",
        ),
    ] {
        finding(text, pointer, Some(Severity::Warning));
    }
}

#[test]
fn absent_keys_fall_back_as_in_tyk() {
    let config = Config::default();
    let seconds = std::time::Duration::from_secs;
    assert_eq!(config.listen_port_or_default(), 8080);
    assert_eq!(config.control_port(), None);
    assert_eq!(
        config.http_server_options.read_timeout_or_default(),
        seconds(120)
    );
    assert_eq!(
        config.http_server_options.write_timeout_or_default(),
        seconds(120)
    );
    assert_eq!(config.proxy_timeout_or_default(), seconds(30));
    assert_eq!(config.liveness_check.interval_or_default(), seconds(10));
    assert_eq!(config.health_check_endpoint_or_default(), "hello");
    assert_eq!(config.readiness_check_endpoint_or_default(), "ready");
    assert_eq!(config.template_dir(), Path::new("templates"));
    assert_eq!(config.reload_interval_or_default(), seconds(1));
    assert_eq!(config.shutdown_timeout_or_default(), seconds(30));
    assert_eq!(config.shutdown_delay(), seconds(0));
    assert_eq!(config.idle_per_host_or_default(), 100);
    assert_eq!(config.storage.addresses(), ["127.0.0.1:6379"]);
    assert_eq!(config.storage.store_kind(), Some(StoreKind::Embedded));
    let set = Config {
        listen_port: 1,
        proxy_default_timeout: 0.5,
        ..Config::default()
    };
    assert_eq!(set.listen_port_or_default(), 1);
    assert_eq!(set.proxy_timeout_or_default(), seconds(1) / 2);
}

#[test]
fn networks_parse_with_their_bounds() {
    let network = |text| parse_network(text).map(|(ip, bits)| (ip.to_string(), bits));
    let is = |ip: &str, bits| Some((ip.to_owned(), bits));
    assert_eq!(network("10.0.0.0/8"), is("10.0.0.0", 8));
    assert_eq!(network("10.0.0.1"), is("10.0.0.1", 32));
    assert_eq!(network("::/0"), is("::", 0));
    assert_eq!(network("::1/128"), is("::1", 128));
    for text in [
        "",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "10.0.0/8",
        "x/8",
    ] {
        assert_eq!(network(text), None, "{text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_gives_one_line_and_is_never_created() {
    let folder = std::env::temp_dir().join(format!("penstock-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("temporary folder");
    let path = folder.join("tyk.conf");
    let why = Config::load(&path, &Vars::new()).expect_err("no file");
    assert!(why.reason.contains("no such file"), "{why}");
    assert!(!path.exists());
    let omitted = Config::load(&path, &vars(&[("TYK_GW_OMITCONFIGFILE", "TRUE")]));
    assert_eq!(omitted.expect("no file needed").path, None);

    std::fs::write(&path, b"{\n\"secret\": \"\xff\"}").expect("write");
    let why = Config::load(&path, &Vars::new()).expect_err("not UTF-8");
    assert_eq!((why.line, why.column), (2, 12), "{why}");

    std::fs::write(&path, r#"{"secret": "env://x", "sekret": 1}"#).expect("write");
    let loaded = Config::load(&path, &vars(&[("TYK_SECRET_X", "s")])).expect("valid");
    assert_eq!(loaded.config.secret.as_str(), "s");
    assert_eq!(loaded.unknown.len(), 1);
    assert_eq!(loaded.path.as_deref(), Some(path.as_path()));

    let why = Config::load(&folder, &Vars::new()).expect_err("folder");
    assert!(why.reason.contains("folder"), "{why}");
    std::fs::remove_dir_all(&folder).expect("clean up");
}

#[test]
fn the_embedded_store_has_a_folder_on_every_platform() {
    let folder = |path: &str, pairs: &[(&str, &str)]| {
        let penstock = Penstock {
            store_path: path.to_owned(),
            ..Penstock::default()
        };
        penstock.store_dir(&vars(pairs)).display().to_string()
    };
    let all = [
        ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"),
        ("XDG_STATE_HOME", "/s"),
        ("HOME", "/home/u"),
    ];
    assert_eq!(folder("/own", &all), "/own");
    assert_eq!(folder("", &all), "/var/lib/a");
    assert_eq!(folder("", &all[1..]), "/s/penstock");
    assert_eq!(folder("", &all[2..]), "/home/u/.local/state/penstock");
    assert_eq!(folder("", &[("HOME", "")]), "/var/lib/penstock");
}

#[test]
fn shipped_files_hold_known_keys_only_and_may_be_started_with() {
    let minimal = include_str!("../../configs/tyk.conf");
    let full = include_str!("../../configs/tyk.full.conf");
    for text in [minimal, full] {
        let (config, unknown) = parse(text).expect("shipped file");
        assert_eq!(unknown, []);
        let errors = config
            .check()
            .into_iter()
            .filter(|f| f.severity == Severity::Error);
        assert_eq!(errors.count(), 0);
        assert!(config.listens_on_loopback());
    }
}

#[test]
fn the_full_file_names_every_key_with_its_default() {
    let text = include_str!("../../configs/tyk.full.conf");
    let written: Value = serde_json::from_str(text).expect("JSON");
    for [path, ..] in rows() {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(written.pointer(&pointer).is_some(), "{path} is missing");
    }
    let (full, _) = parse(text).expect("shipped file");
    let absent = Config::default();
    assert_eq!(full.penstock, absent.penstock);
    assert_eq!(
        full.proxy_timeout_or_default(),
        absent.proxy_timeout_or_default()
    );
    assert_eq!(
        full.listen_port_or_default(),
        absent.listen_port_or_default()
    );
    assert_eq!(full.proxy_tls_versions(), absent.proxy_tls_versions());
    assert_eq!(full.server_tls_versions(), absent.server_tls_versions());
    assert_eq!(full.pid_file(), absent.pid_file());
    assert_eq!(full.storage.addresses(), absent.storage.addresses());
    assert_eq!(full.storage.store_kind(), absent.storage.store_kind());
    assert_eq!(
        full.drl_threshold_or_default().to_bits(),
        absent.drl_threshold_or_default().to_bits()
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// JSON whose names are often those of keys.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            "(text|strict|epoll|json|1.5s)".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            let known: Vec<String> = Config::all_keys()
                .iter()
                .flat_map(|key| key.path.split('.').map(str::to_owned))
                .collect();
            let name = prop_oneof![4 => prop::sample::select(known), 1 => ".{0,4}".boxed()];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name, inner), 0..8)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_reads_prints_and_reads_again(value in json()) {
            if let Ok((config, _)) = parse(&value.to_string()) {
                let (again, unknown) = parse(&config.to_json_string()).expect("own print");
                prop_assert_eq!(&again, &config);
                prop_assert!(unknown.is_empty());
                let _findings = config.check();
            }
        }

        #[test]
        fn no_text_makes_reading_panic(text in "[\\[\\]{}\",:0-9eE.+\\- ntrualsf\\\\\n]{0,60}") {
            if let Err(why) = parse(&text) {
                prop_assert!(why.line >= 1 && why.column >= 1);
            }
        }
    }
}
