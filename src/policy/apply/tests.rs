//! Policies laid over sessions, rule by rule.

use serde_json::json;

use super::*;

fn policies(of: Value) -> Policies {
    let Value::Object(of) = of else {
        panic!("an object of policies");
    };
    of.into_iter()
        .map(|(id, mut policy)| {
            policy["id"] = json!(id);
            if policy.get("org_id").is_none() {
                policy["org_id"] = json!("org1");
            }
            Policy::from_json_slice(policy.to_string().as_bytes()).unwrap()
        })
        .collect()
}

fn session(of: Value) -> Session {
    Session::from_json_slice(of.to_string().as_bytes()).unwrap()
}

fn printed(session: &Session) -> Value {
    serde_json::from_str(&session.to_json_string()).unwrap()
}

/// Every member of `expected` is in `found`; objects only have to contain, and `{}` is empty.
#[track_caller]
fn contains(found: &Value, expected: &Value, at: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) if !expected.is_empty() => {
            for (key, value) in expected {
                contains(&found[key], value, &format!("{at}/{key}"));
            }
        }
        _ => assert_eq!(found, expected, "{at}"),
    }
}

#[track_caller]
fn gives(before: Value, laid: &Policies, expected: Value) -> Session {
    let mut session = session(before);
    apply(&mut session, laid, Some("org1")).unwrap();
    contains(&printed(&session), &expected, "");
    session
}

#[track_caller]
fn fails(before: Value, laid: &Policies, text: &str) {
    let error = apply(&mut session(before), laid, Some("org1")).unwrap_err();
    assert_eq!(error.to_string(), text);
}

fn api(id: &str) -> Value {
    json!({id: {"api_id": id, "api_name": id, "versions": ["Default"]}})
}

fn both() -> Value {
    json!({"api1": {"api_id": "api1", "versions": ["Default"]},
           "api2": {"api_id": "api2", "versions": ["Default"]}})
}

/// The policies of the recorded suite on limits.
fn recorded() -> Policies {
    let limited = |rate: f64, quota: i64| json!({"rate": rate, "per": 1, "quota_max": quota, "quota_renewal_rate": 60});
    policies(json!({
        "whole": {"rate": 20, "per": 2, "quota_max": 7, "quota_renewal_rate": 60,
                  "access_rights": api("api1"), "tags": ["t1"], "meta_data": {"plan": "gold"}},
        "whole2": {"rate": 30, "per": 2, "quota_max": 3, "quota_renewal_rate": 60,
                   "access_rights": api("api2")},
        "prate": {"rate": 33, "per": 1, "quota_max": 99, "partitions": {"rate_limit": true},
                  "access_rights": both()},
        "pquota": {"rate": 44, "per": 1, "quota_max": 4, "quota_renewal_rate": 60,
                   "partitions": {"quota": true}, "access_rights": both()},
        "pacl": {"rate": 44, "per": 1, "quota_max": 99, "partitions": {"acl": true},
                 "access_rights": api("api2")},
        "inact": {"is_inactive": true, "access_rights": api("api1")},
        "draft": {"active": false, "access_rights": api("api1")},
        "otherorg": {"org_id": "orgX", "access_rights": api("api1")},
        "perapi": {"partitions": {"per_api": true}, "access_rights": {
            "api1": {"api_id": "api1", "limit": limited(5.0, 3)},
            "api2": {"api_id": "api2", "limit": limited(5.0, 8)}}},
    }))
}

#[test]
fn the_recorded_situations_come_out_as_recorded() {
    let laid = recorded();
    gives(
        json!({"apply_policies": ["whole"]}),
        &laid,
        json!({"rate": 20, "per": 2, "quota_max": 7, "quota_renewal_rate": 60, "tags": ["t1"],
               "meta_data": {"plan": "gold"},
               "access_rights": {"api1": {"limit": {"rate": 20, "quota_max": 7}, "allowance_scope": ""}}}),
    );
    let own = json!({"rate": 1000, "per": 1, "quota_max": 9, "quota_renewal_rate": 60,
                     "access_rights": api("api1")});
    let with = |policy: &str, change: &[(&str, Value)]| {
        let mut own = own.clone();
        own["apply_policies"] = json!([policy]);
        for (key, value) in change {
            own[*key] = value.clone();
        }
        own
    };
    let session = gives(
        with("prate", &[]),
        &laid,
        json!({"rate": 33, "per": 1, "quota_max": 9, "access_rights": {"api1": {"limit": {"rate": 0}}}}),
    );
    assert_eq!(session.limit_for("api1").unwrap().limit.quota_max, 9);
    gives(
        with("pquota", &[("quota_max", json!(-1))]),
        &laid,
        json!({"rate": 1000, "quota_max": 4, "access_rights": {"api1": {"api_id": "api1"}}}),
    );
    let session = gives(
        with("pacl", &[("rate", json!(55)), ("quota_max", json!(-1))]),
        &laid,
        json!({"rate": 55, "access_rights": {"api2": {"limit": {"rate": 55, "quota_max": -1}}}}),
    );
    assert_eq!(session.limit_for("api1"), None);
    let session = gives(
        json!({"apply_policies": ["prate", "pquota", "pacl"]}),
        &laid,
        json!({"rate": 33, "quota_max": 4,
               "access_rights": {"api2": {"limit": {"rate": 33, "quota_max": 4}, "allowance_scope": ""}}}),
    );
    assert_eq!(session.access_rights.len(), 1);
    gives(
        json!({"apply_policies": ["whole", "whole2"]}),
        &laid,
        json!({"rate": 30, "quota_max": 7, "access_rights": {
            "api1": {"limit": {"rate": 20, "quota_max": 7}, "allowance_scope": "whole"},
            "api2": {"limit": {"rate": 30, "quota_max": 3}, "allowance_scope": "whole2"}}}),
    );
    gives(
        json!({"apply_policies": ["inact"]}),
        &laid,
        json!({"is_inactive": true}),
    );
    gives(
        json!({"apply_policies": ["draft"]}),
        &laid,
        json!({"is_inactive": false}),
    );
    fails(
        json!({"apply_policies": ["otherorg"]}),
        &laid,
        "attempting to apply policy from different organisation to key, skipping",
    );
    gives(
        json!({"apply_policies": ["perapi", "prate"]}),
        &laid,
        json!({"rate": 33}),
    );
    gives(
        json!({"apply_policies": ["perapi"]}),
        &laid,
        json!({"rate": 0, "quota_max": 0, "access_rights": {
            "api1": {"limit": {"rate": 5, "quota_max": 3}, "allowance_scope": "api1"},
            "api2": {"limit": {"rate": 5, "quota_max": 8}, "allowance_scope": "api2"}}}),
    );
    gives(
        json!({"apply_policy_id": "whole"}),
        &laid,
        json!({"quota_max": 7}),
    );
}

#[test]
fn a_session_without_policies_keeps_what_it_has() {
    let none = Policies::default();
    gives(
        json!({"rate": 5, "per": 1, "access_rights": api("api1")}),
        &none,
        json!({"rate": 5, "meta_data": {}, "tags": [], "access_rights": {"api1": {"allowance_scope": ""}}}),
    );
    gives(
        json!({"tags": ["a", "b", "a"], "access_rights": {
            "own": {"limit": {"rate": 1}}, "none": {"limit": {}}}}),
        &none,
        json!({"tags": ["a", "b"], "access_rights": {
            "own": {"allowance_scope": "own"}, "none": {"allowance_scope": ""}}}),
    );
    gives(json!({}), &none, json!({"access_rights": null}));
}

#[test]
fn policies_that_are_not_there_are_skipped_unless_alone() {
    let laid = recorded();
    fails(
        json!({"apply_policies": ["no<such>"]}),
        &laid,
        r#"policy not found: "no<such>""#,
    );
    fails(
        json!({"apply_policies": ["nosuch"]}),
        &laid,
        r#"policy not found: "nosuch""#,
    );
    gives(
        json!({"apply_policies": ["nosuch", "whole"]}),
        &laid,
        json!({"quota_max": 7}),
    );
    // None of several is there: nothing is laid, as in Tyk.
    gives(
        json!({"apply_policies": ["x", "y"], "quota_max": 5, "access_rights": api("api1")}),
        &laid,
        json!({"quota_max": 5, "access_rights": api("api1")}),
    );
}

#[test]
fn an_organisation_is_checked_where_there_is_one() {
    let laid = recorded();
    let mut previewed = session(json!({"apply_policies": ["otherorg"]}));
    apply(&mut previewed, &laid, None).unwrap();
    assert!(previewed.access_rights.contains_key("api1"));
}

#[test]
fn clearing_follows_the_partitions() {
    let laid = policies(json!({
        "q": {"partitions": {"quota": true}},
        "r": {"partitions": {"rate_limit": true}},
        "c": {"partitions": {"complexity": true}},
        "a": {"partitions": {"acl": true}},
        "p": {"partitions": {"per_api": true}},
    }));
    let full = json!({"rate": 1, "per": 2, "throttle_interval": 3, "throttle_retry_limit": 4,
                      "max_query_depth": 5, "quota_max": 6, "quota_remaining": 7,
                      "quota_renewal_rate": 8, "quota_renews": 9, "smoothing": {"step": 1}});
    let after = |id: &str| {
        let mut before = session(full.clone());
        before.apply_policies = vec![id.to_owned()].into();
        clear(&mut before, &laid);
        let session = before;
        (
            session.rate + session.per + session.throttle_interval,
            session.throttle_retry_limit,
            session.smoothing.is_some(),
            session.max_query_depth,
            session.quota_max + session.quota_remaining,
            session.quota_renewal_rate + session.quota_renews,
        )
    };
    assert_eq!(after("q"), (6.0, 4, true, 5, 0, 17));
    assert_eq!(after("r"), (0.0, 0, false, 5, 13, 17));
    assert_eq!(after("c"), (6.0, 4, true, 0, 13, 17));
    assert_eq!(after("a"), (6.0, 4, true, 5, 13, 17));
    assert_eq!(after("p"), (0.0, 0, false, 0, 0, 17));
    assert_eq!(after("unknown"), (6.0, 4, true, 5, 13, 17));
}

#[test]
fn clearing_ends_at_the_first_policy_that_is_not_known() {
    let laid = policies(json!({"q": {"partitions": {"quota": true}}}));
    let cleared = |ids: &[&str]| {
        let mut session = session(json!({"quota_max": 6, "apply_policies": ids}));
        clear(&mut session, &laid);
        session.quota_max == 0
    };
    assert!(cleared(&["q", "unknown"]));
    assert!(!cleared(&["unknown", "q"]));
}

#[test]
fn a_policy_that_names_no_api_sets_the_whole_keys_limits() {
    let master = |partitions: Value| {
        policies(
            json!({"m": {"rate": 2, "per": 3, "quota_max": 4, "quota_renewal_rate": 5,
                              "throttle_interval": 6, "throttle_retry_limit": 7,
                              "max_query_depth": 8, "partitions": partitions}}),
        )
    };
    let own = || {
        json!({"apply_policies": ["m"], "rate": 90, "quota_max": 91, "max_query_depth": 92,
                        "access_rights": api("api1")})
    };
    gives(
        own(),
        &master(json!({})),
        json!({"rate": 2, "per": 3, "quota_max": 4, "quota_renewal_rate": 5, "throttle_interval": 6,
               "throttle_retry_limit": 7, "max_query_depth": 8, "access_rights": api("api1")}),
    );
    gives(
        own(),
        &master(json!({"rate_limit": true})),
        json!({"rate": 2, "quota_max": 91, "max_query_depth": 92}),
    );
    gives(
        own(),
        &master(json!({"quota": true, "complexity": true})),
        json!({"rate": 90, "quota_max": 4, "max_query_depth": 8}),
    );
    gives(
        own(),
        &master(json!({"acl": true})),
        json!({"rate": 90, "quota_max": 91, "access_rights": api("api1")}),
    );
}

#[test]
fn unlimited_quota_is_greater_than_any() {
    let laid = policies(json!({
        "low": {"quota_max": 5, "quota_renewal_rate": 60, "access_rights": api("api1")},
        "none": {"quota_max": -1, "quota_renewal_rate": 10, "access_rights": api("api1")},
    }));
    for order in [["low", "none"], ["none", "low"]] {
        gives(
            json!({"apply_policies": order}),
            &laid,
            json!({"quota_max": -1, "quota_renewal_rate": 60,
                   "access_rights": {"api1": {"limit": {"quota_max": -1, "quota_renewal_rate": 60}}}}),
        );
    }
}

#[test]
fn the_faster_rate_and_the_longer_throttle_win() {
    let laid = policies(json!({
        "slow": {"rate": 10, "per": 60, "throttle_interval": 5, "throttle_retry_limit": 1,
                 "access_rights": api("api1"), "smoothing": {"step": 1}},
        "fast": {"rate": 1, "per": 1, "throttle_interval": 2, "throttle_retry_limit": 3,
                 "access_rights": api("api1")},
        "none": {"access_rights": api("api1")},
    }));
    for order in [["slow", "fast"], ["fast", "slow"]] {
        gives(
            json!({"apply_policies": order}),
            &laid,
            json!({"rate": 1, "per": 1, "smoothing": null, "throttle_interval": 5,
                   "throttle_retry_limit": 3}),
        );
    }
    gives(
        json!({"apply_policies": ["none", "slow"]}),
        &laid,
        json!({"rate": 10, "per": 60, "smoothing": {"step": 1}}),
    );
}

#[test]
fn a_policys_limits_of_an_api_count_for_its_partitions_only() {
    let own =
        json!({"api1": {"api_id": "api1", "limit": {"rate": 100, "per": 1, "quota_max": 50}}});
    let laid = policies(json!({
        "acl": {"partitions": {"acl": true}, "access_rights": own},
        "rate": {"rate": 10, "per": 1, "partitions": {"rate_limit": true}, "access_rights": api("api1")},
        "whole": {"rate": 10, "per": 1, "quota_max": 7, "access_rights": own},
    }));
    gives(
        json!({"apply_policies": ["acl", "rate"], "quota_max": 3}),
        &laid,
        json!({"rate": 10, "access_rights": {"api1": {"limit": {"rate": 10, "quota_max": 3}}}}),
    );
    gives(
        json!({"apply_policies": ["whole"]}),
        &laid,
        json!({"rate": 100, "quota_max": 50}),
    );
}

#[test]
fn partitions_add_up_in_any_order() {
    let laid = policies(json!({
        "acl": {"partitions": {"acl": true}, "access_rights": {"api1": {
            "api_id": "api1", "versions": ["v1"],
            "allowed_urls": [{"url": "/a", "methods": ["GET"]}]}}},
        "rate": {"rate": 10, "per": 1, "partitions": {"rate_limit": true},
                 "access_rights": {"api1": {"api_id": "api1", "versions": ["v1", "v2"]}}},
        "quota": {"quota_max": 5, "quota_renewal_rate": 60, "partitions": {"quota": true},
                  "access_rights": {"api1": {"api_id": "api1"}}},
    }));
    for order in [
        ["acl", "rate", "quota"],
        ["rate", "acl", "quota"],
        ["quota", "rate", "acl"],
    ] {
        gives(
            json!({"apply_policies": order}),
            &laid,
            json!({"access_rights": {"api1": {
                "versions": ["v1"], "allowed_urls": [{"url": "/a", "methods": ["GET"]}],
                "limit": {"rate": 10, "quota_max": 5}}}}),
        );
    }
}

#[test]
fn rights_of_several_policies_are_joined() {
    let laid = policies(json!({
        "a": {"access_rights": {"api1": {"versions": ["v1"], "allowed_urls": [
                {"url": "/x", "methods": ["GET"]}],
            "restricted_types": [{"name": "T", "fields": ["a", "b"]}],
            "field_access_rights": [{"type_name": "Q", "field_name": "f", "limits": {"max_query_depth": 3}}]}}},
        "b": {"access_rights": {"api1": {"versions": ["v2", "v1"], "disable_introspection": true,
            "allowed_urls": [{"url": "/x", "methods": ["POST", "GET"]}, {"url": "/y", "methods": ["PUT"]}],
            "restricted_types": [{"name": "T", "fields": ["b", "c"]}, {"name": "U", "fields": ["z"]}],
            "field_access_rights": [
                {"type_name": "Q", "field_name": "f", "limits": {"max_query_depth": -1}},
                {"type_name": "Q", "field_name": "g", "limits": {"max_query_depth": 1}}]}}},
        "none": {"access_rights": {"api1": {"restricted_types": [{"name": "T", "fields": ["q"]}]}}},
    }));
    gives(
        json!({"apply_policies": ["a", "b"]}),
        &laid,
        json!({"access_rights": {"api1": {
            "versions": ["v1", "v2"],
            "disable_introspection": true,
            "allowed_urls": [
                {"url": "/x", "methods": ["GET", "POST"]},
                {"url": "/x", "methods": ["POST", "GET"]},
                {"url": "/y", "methods": ["PUT"]}],
            "restricted_types": [{"name": "T", "fields": ["b"]}],
            "field_access_rights": [
                {"type_name": "Q", "field_name": "f", "limits": {"max_query_depth": -1}},
                {"type_name": "Q", "field_name": "g", "limits": {"max_query_depth": 1}}]}}}),
    );
    gives(
        json!({"apply_policies": ["a", "none"]}),
        &laid,
        json!({"access_rights": {"api1": {
            "restricted_types": [{"name": "T", "fields": null}],
            "allowed_urls": [{"url": "/x", "methods": ["GET"]}]}}}),
    );
}

#[test]
fn per_api_limits_are_the_apis_or_the_policys() {
    let laid = policies(json!({
        "p": {"rate": 9, "per": 1, "quota_max": 90, "partitions": {"per_api": true}, "access_rights": {
            "own": {"limit": {"quota_max": 3}}, "none": {}}},
        "p2": {"partitions": {"per_api": true}, "access_rights": {"own": {}}},
        "q": {"partitions": {"quota": true}, "access_rights": {"own": {}}},
        "both": {"partitions": {"per_api": true, "acl": true}},
    }));
    gives(
        json!({"apply_policies": ["p"], "access_rights": {
            "own": {"limit": {"quota_max": 1, "quota_renews": 777}, "disable_introspection": true},
            "none": {"limit": {}}}}),
        &laid,
        json!({"access_rights": {
            "own": {"limit": {"rate": 0, "quota_max": 3, "quota_renews": 777}, "allowance_scope": "own",
                    "disable_introspection": true},
            "none": {"limit": {"rate": 9, "quota_max": 90, "quota_renews": 0}, "allowance_scope": "p",
                     "disable_introspection": false}}}),
    );
    let mixed =
        "cannot apply multiple policies when some have per_api set and some are partitioned";
    fails(json!({"apply_policies": ["p", "p2"]}), &laid, mixed);
    fails(json!({"apply_policies": ["q", "p"]}), &laid, mixed);
    gives(
        json!({"apply_policies": ["p", "q"]}),
        &laid,
        json!({"access_rights": {"own": {"limit": {"quota_max": 3}}}}),
    );
    fails(
        json!({"apply_policies": ["both"]}),
        &laid,
        "cannot apply policy both which has per_api and any of partitions set",
    );
}

#[test]
fn periods_that_run_go_on() {
    let laid = policies(json!({"w": {"quota_max": 5, "quota_renewal_rate": 60,
                                     "access_rights": api("api1")}}));
    gives(
        json!({"apply_policies": ["w"], "quota_renews": 1,
               "access_rights": {"api1": {"limit": {"quota_max": 5, "quota_renews": 777}}}}),
        &laid,
        json!({"quota_renews": 777, "access_rights": {"api1": {"limit": {"quota_renews": 777}}}}),
    );
}

#[test]
fn tags_data_and_switches_are_joined() {
    let laid = policies(json!({
        "a": {"tags": ["x", "y"], "meta_data": {"k": 1, "a": 1}, "last_updated": "200",
              "hmac_enabled": true, "access_rights": api("api1")},
        "b": {"tags": ["y", "z"], "meta_data": {"k": 2}, "last_updated": "1999",
              "enable_http_signature_validation": true, "access_rights": api("api1")},
    }));
    gives(
        json!({"apply_policies": ["a", "b"], "tags": ["own", "x"], "meta_data": {"k": 0, "own": 1},
               "last_updated": "0"}),
        &laid,
        json!({"tags": ["x", "y", "z", "own"], "meta_data": {"k": 2, "a": 1, "own": 1},
               "last_updated": "200", "hmac_enabled": true,
               "enable_http_signature_validation": true}),
    );
}

#[test]
fn policies_inside_of_a_session_replace_those_it_names() {
    let laid = recorded();
    let custom = |policies: Value| {
        json!({"apply_policies": ["nosuch"], "quota_max": 99,
               "meta_data": {"policies": policies}})
    };
    let org = "org1";
    gives(
        custom(
            json!([{"id": "c", "org_id": org, "quota_max": 2, "access_rights": api("api1")},
                      {"id": "c", "org_id": org, "quota_max": 3, "access_rights": api("api2")}]),
        ),
        &laid,
        json!({"quota_max": 3, "access_rights": {"api2": {"limit": {"quota_max": 3}}}}),
    );
    // An empty list replaces them, too.
    gives(custom(json!([])), &laid, json!({"quota_max": 99}));
    fails(
        custom(json!([{"id": "c", "rate": "many"}])),
        &laid,
        "meta_data.policies/0: /rate: found a string, expected a number",
    );
    // What is no list is only data.
    fails(custom(json!({})), &laid, r#"policy not found: "nosuch""#);
}

#[test]
fn laying_policies_again_changes_nothing() {
    let laid = recorded();
    for ids in [
        json!(["whole"]),
        json!(["whole", "whole2"]),
        json!(["prate", "pquota", "pacl"]),
        json!(["perapi"]),
    ] {
        let mut once = session(json!({"apply_policies": ids}));
        apply(&mut once, &laid, Some("org1")).unwrap();
        let mut twice = once.clone();
        apply(&mut twice, &laid, Some("org1")).unwrap();
        assert_eq!(twice.access_rights, once.access_rights, "{ids}");
        assert_eq!(twice.root_limit(), once.root_limit(), "{ids}");
    }
}
