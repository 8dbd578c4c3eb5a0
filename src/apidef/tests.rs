//! Reading and printing of whole definitions, held against Tyk's own output and its list of fields.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ApiDefinition, Severity, unsupported, validate::load_faults};

const KEYS: &str = include_str!("../../tests/data/apidef_keys.tsv");
const APIS_CRUD: &str = include_str!("../../tests/conformance/cases/control/apis_crud.json");
const BASE: &str = include_str!("../../tests/conformance/base.json");

fn parse(text: &str) -> ApiDefinition {
    ApiDefinition::from_json_slice(text.as_bytes()).expect("a good definition")
}

#[track_caller]
fn refused(text: &str, line: u32, column: u32, pointer: &str, reason: &str) {
    let fault = ApiDefinition::from_json_slice(text.as_bytes()).expect_err("a bad definition");
    assert_eq!(
        (
            fault.line,
            fault.column,
            fault.pointer.as_str(),
            fault.reason.as_str()
        ),
        (line, column, pointer, reason)
    );
    assert_eq!(fault.severity, Severity::Refuse);
}

#[test]
fn prints_what_tyk_prints_in_its_order() {
    let base: Value = serde_json::from_str(BASE).expect("json");
    let cases: Value = serde_json::from_str(APIS_CRUD).expect("json");
    let step = cases["steps"]
        .as_array()
        .and_then(|steps| {
            steps
                .iter()
                .find(|step| step["name"] == "full serialisation of a definition")
        })
        .expect("the step");
    let printed = parse(&base["api"].to_string()).to_json_string();
    // As text: the order of keys counts, too.
    assert_eq!(printed, step["expect"]["json"].to_string());
}

/// A value of the Go type named, and one that Go refuses for it.
fn samples(go_type: &str) -> (Value, Value) {
    match go_type {
        "bool" => (json!(true), json!("true")),
        "int" | "int64" | "time.Duration" => (json!(-7), json!(1.5)),
        "uint64" | "uint16" => (json!(7), json!(-7)),
        "float64" => (json!(0.25), json!("1")),
        "[]int" => (json!([7]), json!(["a"])),
        "map:string" => (json!({"Key": "v"}), json!({"Key": 1})),
        "any" | "json.RawMessage" => (json!({"Key": [1, "a", null]}), Value::Null),
        "obj" => (json!({"Key": [1, "a", null]}), json!([])),
        "*time.Time" => (json!("2024-01-02T03:04:05Z"), json!(5)),
        "[]string" | "[]osin.AccessRequestType" | "[]osin.AuthorizeRequestType" => {
            (json!(["v"]), json!("v"))
        }
        "[]datasource.TypeFieldConfiguration" => (json!([{"type_name": "Q"}]), json!({})),
        "map[event.Event][]EventHandlerTriggerConfig" => (json!({"E": []}), json!([])),
        _ if go_type.starts_with("[]") => (json!([]), json!({})),
        _ if go_type.starts_with("map:") => (json!({}), json!([])),
        "string"
        | "model.ObjectID"
        | "AuthTypeEnum"
        | "EndpointMethodAction"
        | "RequestInputType"
        | "SourceMode"
        | "RoutingTriggerOnType"
        | "MiddlewareDriver"
        | "IdExtractorSource"
        | "IdExtractorType"
        | "AuthProviderCode"
        | "StorageEngineCode"
        | "SessionProviderCode"
        | "event.HandlerName"
        | "GraphQLExecutionMode"
        | "GraphQLConfigVersion"
        | "GraphQLEngineDataSourceKind"
        | "SubscriptionType" => (json!("v"), json!(1)),
        _ => (json!({}), json!([])),
    }
}

/// `value` at `path`, and the pointer that leads there.
fn wrap(path: &str, value: Value) -> (Value, String) {
    let spaced = path.replace("[]", ".[]");
    let mut document = value;
    let mut pointer = String::new();
    for segment in spaced.rsplit('.').filter(|s| !s.is_empty()) {
        let token = match segment {
            "[]" => {
                document = json!([document]);
                "0"
            }
            "{}" => {
                document = json!({"Any": document});
                "Any"
            }
            key => {
                document = json!({ key: document });
                key
            }
        };
        pointer = format!("/{token}{pointer}");
    }
    (document, pointer)
}

#[test]
fn every_field_of_tyk_is_typed_kept_and_checked() {
    for line in KEYS.lines().filter(|line| !line.starts_with('#')) {
        let (path, go_type) = line.split_once('\t').expect("two columns");
        let omitted_when_empty = go_type.ends_with('?');
        let (good, bad) = match go_type.trim_end_matches('?') {
            "obj" if KEYS.contains(&format!("\n{path}.")) => (json!({}), json!([])),
            go_type => samples(go_type),
        };

        let (document, pointer) = wrap(path, good.clone());
        let definition = parse(&document.to_string());
        let printed: Value = serde_json::from_str(&definition.to_json_string()).expect("json");
        let found = printed.pointer(&pointer);
        if omitted_when_empty && matches!(&good, Value::Array(a) if a.is_empty()) {
            assert_eq!(found, None, "{path}");
        } else if omitted_when_empty && good == json!({}) && found.is_none() {
            // An empty map is left out; an empty struct is not.
            assert!(go_type.starts_with("map:"), "{path}");
        } else if good == json!({}) {
            assert!(found.is_some_and(Value::is_object), "{path}");
        } else {
            assert_eq!(found, Some(&good), "{path}");
        }
        assert_eq!(
            parse(&definition.to_json_string()),
            definition,
            "parse(print(x)) == x: {path}"
        );

        // Null is the zero value everywhere.
        let (document, _) = wrap(path, Value::Null);
        parse(&document.to_string());

        if !bad.is_null() {
            let (document, pointer) = wrap(path, bad.clone());
            let fault = ApiDefinition::from_json_slice(document.to_string().as_bytes())
                .expect_err("a wrong type");
            assert!(
                fault.pointer.starts_with(&pointer),
                "{path}: {}",
                fault.pointer
            );
            assert!(fault.column > 1, "{path}");
        }

        // A field that is absent prints as Tyk's zero value, or not at all.
        if !path.contains(['[', '{']) {
            let zero: Value =
                serde_json::from_str(&ApiDefinition::default().to_json_string()).expect("json");
            let pointer = format!("/{}", path.replace('.', "/"));
            let left_out =
                omitted_when_empty && !matches!(zero.pointer(&pointer), Some(Value::Object(_)));
            assert_eq!(zero.pointer(&pointer).is_none(), left_out, "{path}");
        }
    }
}

/// Paths of everything inside `value`, map keys as `{}` where the list of fields says so.
fn paths_inside(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = if key == "Any" { "{}" } else { key };
                let path = if path.is_empty() {
                    key.to_owned()
                } else {
                    format!("{path}.{key}")
                };
                paths_inside(value, &path, found);
                if key != "{}" {
                    found.push(path);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                paths_inside(item, &format!("{path}[]"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn no_field_is_printed_that_tyk_does_not_have() {
    let keys: Vec<&str> = KEYS
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    for path in &keys {
        // One element or entry in each list and map of structs, so that its fields are printed.
        if !keys.iter().any(|key| {
            key.starts_with(&format!("{path}[].")) || key.starts_with(&format!("{path}.{{}}"))
        }) {
            continue;
        }
        let inside = if keys.iter().any(|key| key.starts_with(&format!("{path}[]"))) {
            "[]"
        } else if *path == "event_handlers.events" {
            ".{}[]"
        } else {
            ".{}"
        };
        let (document, _) = wrap(&format!("{path}{inside}"), json!({}));
        let printed = parse(&document.to_string()).to_json_string();
        let mut found = Vec::new();
        paths_inside(
            &serde_json::from_str(&printed).expect("json"),
            "",
            &mut found,
        );
        assert!(
            found
                .iter()
                .any(|f| f.starts_with(&format!("{path}{inside}."))),
            "{path}"
        );
        for found in found {
            assert!(keys.contains(&found.as_str()), "{found}");
        }
    }
}

#[test]
fn keys_fold_case_null_is_zero_and_unknown_keys_are_passed_over() {
    let definition = parse(
        r#"{"NAME":"a","Proxy":{"Listen_Path":"/a/","target_url":null},"cors":{"ENABLE":true},
            "active":null,"new_in_6":{"x":[1]},"allowed_ips":null,"tags":[],"\u017flug":"s"}"#,
    );
    assert_eq!(definition.name, "a");
    assert_eq!(definition.proxy.listen_path, "/a/");
    assert_eq!(definition.proxy.target_url, "");
    assert!(definition.cors.enable);
    assert!(!definition.active);
    assert!(definition.allowed_ips.is_nil());
    assert!(!definition.tags.is_nil() && definition.tags.is_empty());
    assert_eq!(definition.slug, "s");
}

#[test]
fn a_repeated_key_wins_and_objects_are_merged() {
    let definition = parse(
        r#"{"name":"a","proxy":{"listen_path":"/a/","target_url":"http://a"},
            "Name":"b","proxy":{"target_url":"http://b"},"PROXY":{"strip_listen_path":true},
            "enable_ip_whitelisting":true,"enable_ip_whitelisting":null,
            "config_data":{"a":1},"config_data":{"b":2}}"#,
    );
    assert_eq!(definition.name, "b");
    assert_eq!(definition.proxy.listen_path, "/a/");
    assert_eq!(definition.proxy.target_url, "http://b");
    assert!(definition.proxy.strip_listen_path);
    assert!(definition.enable_ip_whitelisting);
    assert_eq!(definition.config_data.len(), 2);
}

#[test]
fn numbers_print_as_go_prints_them() {
    let text = parse(r#"{"global_rate_limit":{"rate":5.0,"per":0.5}}"#).to_json_string();
    assert!(
        text.contains(r#""global_rate_limit":{"disabled":false,"rate":5,"per":0.5}"#),
        "{text}"
    );
}

#[test]
fn a_bad_definition_is_refused_with_its_place() {
    refused("", 1, 1, "", "found an empty document, expected a value");
    refused("[]", 1, 1, "", "found an array, expected an object");
    refused("null", 1, 1, "", "found null, expected an object");
    refused(
        r#"{"nope"#,
        1,
        2,
        "",
        "the string that begins here has no end",
    );
    refused(
        "{not json",
        1,
        2,
        "",
        "found `n`, expected a key in double quotes",
    );
    refused(
        "{\"name\":\"a\",\n \"active\": \"yes\"}",
        2,
        12,
        "/active",
        "found a string, expected true or false",
    );
    refused(
        "{\"proxy\": {\n  \"transport\": {\"ssl_min_version\": 70000}}}",
        2,
        36,
        "/proxy/transport/ssl_min_version",
        "found the number 70000, expected a whole number from 0 to 65535",
    );
    refused(
        r#"{"listen_port": 8e3}"#,
        1,
        17,
        "/listen_port",
        "found the number 8e3, expected a whole number",
    );
    refused(
        r#"{"proxy": []}"#,
        1,
        11,
        "/proxy",
        "found an array, expected an object",
    );
    refused(
        r#"{"version_data":{"versions":{"a/b~c":{"extended_paths":{"ignored":[{},{"path":3}]}}}}}"#,
        1,
        79,
        "/version_data/versions/a~1b~0c/extended_paths/ignored/1/path",
        "found the number 3, expected a string",
    );
    refused(
        r#"{"name":"a",}"#,
        1,
        13,
        "",
        "found `}`, expected a key in double quotes",
    );
    refused(
        r#"{"name":"a"} x"#,
        1,
        14,
        "",
        "found `x`, expected the end of the document",
    );
    refused(
        "{\"name\":\"\t\"}",
        1,
        10,
        "/name",
        "a control character in a string; write it as an escape",
    );
    refused(
        r#"{"tags":["a","\x"]}"#,
        1,
        15,
        "/tags/1",
        "not an escape that JSON knows",
    );
    refused(
        "\u{feff}{}",
        1,
        1,
        "",
        "found a byte order mark, expected a value",
    );
    refused(
        r#"{"name": 01}"#,
        1,
        11,
        "",
        "found `1`, expected `,` or `}`",
    );
}

#[test]
fn texts_that_may_be_secret_are_not_quoted() {
    let fault = ApiDefinition::from_json_slice(br#"{"config_data":{}, "tags":"hunter2"}"#)
        .expect_err("a wrong type");
    assert!(!fault.to_string().contains("hunter2"), "{fault}");
}

#[test]
fn bytes_that_are_not_utf8_are_refused_with_their_place() {
    let fault = ApiDefinition::from_json_slice(b"{\"name\":\"\xff\"}").expect_err("not UTF-8");
    assert_eq!((fault.line, fault.column), (1, 10));
}

#[test]
fn nesting_is_bounded_at_128() {
    let nested = |depth: usize| {
        format!(
            r#"{{"config_data":{{"a":{}{}}}}}"#,
            "[".repeat(depth - 2),
            "]".repeat(depth - 2)
        )
    };
    for depth in [127, 128] {
        let definition = parse(&nested(depth));
        assert_eq!(parse(&definition.to_json_string()), definition);
    }
    let fault = ApiDefinition::from_json_slice(nested(129).as_bytes()).expect_err("too deep");
    assert_eq!(fault.reason, "the document nests deeper than 128");
}

#[test]
fn size_is_bounded_at_10_mib() {
    let of_size = |bytes: usize| format!(r#"{{"name":"{}"}}"#, "a".repeat(bytes - 11));
    for bytes in [
        super::json::DOCUMENT_BYTES_MAX - 1,
        super::json::DOCUMENT_BYTES_MAX,
    ] {
        assert_eq!(of_size(bytes).len(), bytes);
        assert_eq!(parse(&of_size(bytes)).name.len(), bytes - 11);
    }
    let text = of_size(super::json::DOCUMENT_BYTES_MAX + 1);
    let fault = ApiDefinition::from_json_slice(text.as_bytes()).expect_err("too large");
    assert_eq!(
        fault.reason,
        "the document has 10485761 bytes, more than 10485760"
    );
}

/// `over` laid over `base`, objects merged.
fn merge(base: &Value, over: &Value) -> Value {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            let mut merged = base.clone();
            for (key, value) in over {
                let value = base.get(key).map_or(value.clone(), |old| merge(old, value));
                merged.insert(key.clone(), value);
            }
            Value::Object(merged)
        }
        _ => over.clone(),
    }
}

fn json_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "json"));
    files.sort();
    files
}

#[test]
fn every_definition_of_the_suites_is_read_and_printed_alike() {
    let base: Value = serde_json::from_str(BASE).expect("json");
    let mut count = 0;
    for area in std::fs::read_dir(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/conformance/cases"
    ))
    .expect("the suites are there")
    .flatten()
    {
        let area = format!("tests/conformance/cases/{}", area.file_name().display());
        for file in json_files(&area) {
            let text = std::fs::read_to_string(&file).expect("readable");
            let suite: Value = serde_json::from_str(&text).expect("json");
            let apis = suite["apis"].as_array().cloned().unwrap_or_default();
            for api in apis {
                // The runner writes numbers in place of these.
                let text = merge(&base["api"], &api)
                    .to_string()
                    .replace("\"${extra_port}\"", "1");
                let definition = ApiDefinition::from_json_slice(text.as_bytes())
                    .unwrap_or_else(|fault| panic!("{}: {fault}", file.display()));
                assert_eq!(parse(&definition.to_json_string()), definition);
                assert_eq!(parse(&definition.to_json_string_pretty()), definition);
                count += 1;
            }
        }
    }
    assert!(count > 100, "{count} definitions");
}

#[test]
fn the_examples_are_served_without_a_remark() {
    for file in json_files("configs/apps") {
        let text = std::fs::read(&file).expect("readable");
        let definition = ApiDefinition::from_json_slice(&text).expect("a good definition");
        assert_eq!(load_faults(&definition), [], "{}", file.display());
        assert_eq!(unsupported(&definition), [], "{}", file.display());
        assert!(definition.active);
    }
}

/// Any JSON value; keys are often those of definitions, so that fields are hit.
fn any_json() -> impl Strategy<Value = Value> {
    let words: Vec<String> = KEYS
        .lines()
        .filter_map(|line| line.split('\t').next()?.rsplit(['.', ']', '}']).next())
        .map(str::to_owned)
        .collect();
    let key = prop_oneof![prop::sample::select(words), any::<String>()];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..8)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn our_reader_and_serde_json_agree_on_any_json(value in any_json()) {
        #[derive(serde::Deserialize)]
        struct Any {
            any: Value,
        }
        let text = json!({ "any": value }).to_string();
        let document = super::json::Document::parse(text.as_bytes()).expect("JSON");
        let read: Any = document.decode().expect("any value");
        prop_assert_eq!(&read.any, &value);
    }

    #[test]
    fn what_is_read_is_printed_so_that_it_reads_alike(value in any_json()) {
        let text = value.to_string();
        if let Ok(definition) = ApiDefinition::from_json_slice(text.as_bytes()) {
            prop_assert_eq!(parse(&definition.to_json_string()), definition);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_where_serde_json_does(bytes in any::<Vec<u8>>()) {
        let ours = super::json::Document::parse(&bytes).is_ok();
        let theirs = serde_json::from_slice::<Value>(&bytes).is_ok();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn json_like_text_is_read_or_refused_where_serde_json_does(
        text in r#"[ \n\[\]{}",:0-9eE.+\-tfnulras\\/]{0,24}"#
    ) {
        let ours = super::json::Document::parse(text.as_bytes()).is_ok();
        let theirs = serde_json::from_str::<Value>(&text);
        // Half a surrogate pair, and a number that no float holds, are JSON all the same.
        let is_exempt = theirs.as_ref().is_err_and(|e| {
            let why = e.to_string();
            why.contains("surrogate") || why.contains("hex escape") || why.contains("out of range")
        });
        prop_assert!(is_exempt || ours == theirs.is_ok(), "{text}");
    }
}
