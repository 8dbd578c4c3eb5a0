//! Sessions against what Go reads and prints.

use super::*;

/// A session in full, as Tyk printed it.
const FULL: &str = concat!(
    r#"{"last_check":0,"allowance":1000,"rate":1000,"per":1,"throttle_interval":0,"#,
    r#""throttle_retry_limit":0,"max_query_depth":0,"date_created":"2026-11-22T15:39:36.47555643Z","#,
    r#""expires":0,"quota_max":-1,"quota_renews":1795362036,"quota_remaining":0,"#,
    r#""quota_renewal_rate":60,"access_rights":{"api1":{"api_name":"api1","api_id":"api1","#,
    r#""versions":["Default"],"allowed_urls":null,"restricted_types":null,"allowed_types":null,"#,
    r#""limit":{"rate":0,"per":0,"throttle_interval":0,"throttle_retry_limit":0,"#,
    r#""max_query_depth":0,"quota_max":0,"quota_renews":0,"quota_remaining":0,"#,
    r#""quota_renewal_rate":0,"smoothing":null},"field_access_rights":null,"#,
    r#""disable_introspection":false,"allowance_scope":""}},"org_id":"org1","#,
    r#""oauth_client_id":"","oauth_keys":null,"certificate":"","#,
    r#""basic_auth_data":{"password":"","hash_type":""},"jwt_data":{"secret":""},"#,
    r#""hmac_enabled":false,"enable_http_signature_validation":false,"hmac_string":"","#,
    r#""rsa_certificate_id":"","is_inactive":false,"apply_policy_id":"","apply_policies":null,"#,
    r#""data_expires":0,"monitor":{"trigger_limits":null},"enable_detail_recording":false,"#,
    r#""enable_detailed_recording":false,"meta_data":{},"tags":[],"alias":"","#,
    r#""last_updated":"1795361976","id_extractor_deadline":0,"session_lifetime":0,"#,
    r#""smoothing":null}"#,
);

fn read(text: &str) -> Session {
    Session::from_json_slice(text.as_bytes()).unwrap()
}

#[test]
fn what_tyk_printed_is_printed_again_byte_for_byte() {
    assert_eq!(read(FULL).to_json_string(), FULL);
}

#[test]
fn an_empty_session_has_every_field() {
    let printed = read("{}").to_json_string();
    assert!(printed.contains(r#""date_created":"0001-01-01T00:00:00Z""#));
    assert!(printed.contains(r#""access_rights":null"#));
    assert!(printed.contains(r#""meta_data":null,"tags":null"#));
    let fields = |text: &str| {
        let value: Value = serde_json::from_str(text).unwrap();
        let keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys
    };
    assert_eq!(fields(&printed), fields(FULL));
    assert_eq!(read(&printed), Session::default());
}

#[test]
fn null_and_empty_are_told_apart() {
    for text in [
        r#"{"tags":null}"#,
        r#"{"tags":[]}"#,
        r#"{"meta_data":{}}"#,
        r#"{"access_rights":{}}"#,
        r#"{"access_rights":{"a":{"versions":[],"allowed_urls":[{"url":"","methods":null}]}}}"#,
        r#"{"smoothing":{}}"#,
        r#"{"monitor":{"trigger_limits":[0.5,80]}}"#,
    ] {
        let session = read(text);
        assert_eq!(read(&session.to_json_string()), session);
        let given: Value = serde_json::from_str(text).unwrap();
        let printed: Value = serde_json::from_str(&session.to_json_string()).unwrap();
        for (key, value) in given.as_object().unwrap() {
            if key != "access_rights" && key != "smoothing" {
                let (printed, given) = (printed[key].to_string(), value.to_string());
                assert_eq!(printed, given.replace("80.0", "80"), "{text}");
            }
        }
    }
    assert!(
        read(r#"{"access_rights":{}}"#)
            .to_json_string()
            .contains(r#""access_rights":{}"#)
    );
    assert!(read(r#"{"smoothing":{}}"#).to_json_string().ends_with(
        r#""smoothing":{"enabled":false,"threshold":0,"trigger":0,"step":0,"delay":0}}"#
    ));
}

#[test]
fn input_is_read_by_gos_rules() {
    let session = read(
        r#"{"RATE":1.50,"unknown":{"deep":[1]},"org_id":"a","org_id":"b","per":null,
            "meta_data":{"z":{"b":1,"a":1.0},"a":[{"y":1e3,"x":"<&>"}]}}"#,
    );
    assert_eq!(session.rate, 1.5);
    assert_eq!(session.org_id, "b");
    assert!(
        session.to_json_string().contains(
            r#""meta_data":{"a":[{"x":"\u003c\u0026\u003e","y":1000}],"z":{"a":1,"b":1}}"#
        )
    );
}

#[track_caller]
fn refuses(text: &str, pointer: &str, reason: &str) {
    let error = Session::from_json_slice(text.as_bytes()).unwrap_err();
    assert_eq!(error.pointer(), pointer, "{text:.80}");
    assert!(error.reason().contains(reason), "{}", error.reason());
}

#[test]
fn what_is_no_session_is_refused_with_its_place() {
    refuses("", "", "expected a value");
    refuses("null", "", "expected an object");
    refuses("[]", "", "expected an object");
    refuses("{nope", "", "expected a key");
    refuses(r#"{"rate":"1"}"#, "/rate", "expected a number");
    refuses(r#"{"expires":1.5}"#, "/expires", "expected a whole number");
    refuses(
        r#"{"quota_max":9223372036854775808}"#,
        "/quota_max",
        "whole number",
    );
    refuses(r#"{"rate":1e999}"#, "/rate", "64 bits");
    refuses(r#"{"tags":["a",1]}"#, "/tags/1", "expected a string");
    refuses(
        r#"{"access_rights":[]}"#,
        "/access_rights",
        "expected an object",
    );
    refuses(
        r#"{"access_rights":{"a/b":{"limit":{"per":true}}}}"#,
        "/access_rights/a~1b/limit/per",
        "expected a number",
    );
    refuses(r#"{"date_created":""}"#, "/date_created", "expected a date");
    refuses(
        r#"{"date_created":5}"#,
        "/date_created",
        "expected a string",
    );
    refuses(r#"{"is_inactive":0}"#, "/is_inactive", "true or false");
    refuses("{} {}", "", "end of the document");
    refuses("{\"alias\":\"a\nb\"}", "/alias", "control character");
}

#[test]
fn a_secret_is_not_quoted_in_an_error() {
    let error = Session::from_json_slice(br#"{"hmac_enabled":"s3cret"}"#).unwrap_err();
    assert!(!error.to_string().contains("s3cret"));
}

#[test]
fn depth_and_size_are_bounded() {
    let nested = |depth: usize| {
        let depth = depth - 1;
        format!(
            r#"{{"meta_data":{}1{}}}"#,
            r#"{"a":"#.repeat(depth),
            "}".repeat(depth)
        )
    };
    let max = crate::apidef::json::DEPTH_MAX;
    read(&nested(max - 1));
    read(&nested(max));
    let error = Session::from_json_slice(nested(max + 1).as_bytes()).unwrap_err();
    assert!(error.reason().contains("deeper"));
    let sized = |bytes: usize| {
        let frame = r#"{"alias":""}"#.len();
        format!(r#"{{"alias":"{}"}}"#, "x".repeat(bytes - frame))
    };
    read(&sized(SESSION_BYTES_MAX - 1));
    read(&sized(SESSION_BYTES_MAX));
    refuses(&sized(SESSION_BYTES_MAX + 1), "", "bytes, more than");
}

#[test]
fn policies_come_from_the_list_and_then_from_the_old_field() {
    let ids = |text: &str| read(text).policy_ids().to_vec();
    assert_eq!(ids("{}"), Vec::<String>::new());
    assert_eq!(ids(r#"{"apply_policy_id":"a"}"#), ["a"]);
    assert_eq!(ids(r#"{"apply_policy_id":"a","apply_policies":[]}"#), ["a"]);
    assert_eq!(
        ids(r#"{"apply_policy_id":"a","apply_policies":["b","c"]}"#),
        ["b", "c"]
    );
    let mut session = read(r#"{"apply_policy_id":"a"}"#);
    session.set_policies(List::default());
    assert!(session.policy_ids().is_empty());
}

#[test]
fn the_limit_of_an_api_is_its_own_or_the_sessions() {
    let session = read(
        r#"{"rate":10,"per":1,"quota_max":5,"quota_remaining":4,
            "access_rights":{
              "own":{"limit":{"rate":2,"per":1,"quota_max":3},"allowance_scope":"own"},
              "root":{"limit":{},"allowance_scope":"pol"},
              "none":{}}}"#,
    );
    let own = session.limit_for("own").unwrap();
    assert_eq!(
        (own.limit.rate, own.limit.quota_max, own.scope),
        (2.0, 3, "own")
    );
    let root = session.limit_for("root").unwrap();
    assert_eq!((root.limit, root.scope), (session.root_limit(), "pol"));
    assert_eq!(session.limit_for("none").unwrap().limit.quota_remaining, 4);
    assert_eq!(session.limit_for("other"), None);
    let master = read(r#"{"rate":7,"per":1}"#);
    assert_eq!(master.limit_for("other").unwrap().limit.rate, 7.0);
}
