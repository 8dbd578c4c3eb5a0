//! Events with a handler have a line in the log.

use serde_json::json;

use crate::harness::{Origin, Response, Setup, api, eventually, keyed_api};

#[test]
fn refusals_and_changed_keys_are_told_to_the_log_handler() {
    let origin = Origin::answering(|_| Response::new(200, "").to_bytes());
    let handler = |prefix: &str| json!([{"handler_name": "eh_log_handler", "handler_meta": {"prefix": prefix}}]);
    let gateway = Setup::new()
        .api(keyed_api("w", &origin.url()))
        .with(json!({"event_handlers": {"events": {
            "AuthFailure": handler("w-auth"),
            "QuotaExceeded": handler("w-quota"),
            "RatelimitExceeded": handler("w-rate"),
            "KeyExpired": handler("w-old"),
        }}}))
        .api(api("open", &origin.url()))
        .conf(json!({"hash_keys": false, "event_handlers": {"events": {
            "TokenCreated": handler("made"),
            "TokenDeleted": handler("removed"),
        }}}))
        .start();
    gateway.make_key(
        "little",
        json!({"quota_max": 1, "quota_renewal_rate": 3600}),
    );
    gateway.make_key("slow", json!({"rate": 1, "per": 3600}));
    gateway.make_key("over", json!({"is_inactive": true}));
    for (path, key, status) in [
        ("/w/x", "little", 200),
        ("/w/y?q=1", "little", 403),
        ("/w/x", "slow", 200),
        ("/w/x", "slow", 429),
        ("/w/x", "over", 403),
        ("/w/x", "unknown", 403),
        ("/open/x", "unknown", 200),
    ] {
        assert_eq!(gateway.keyed(path, key).status, status, "{path} {key}");
    }
    let gone = gateway.admin("DELETE", "/tyk/keys/slow?org_id=org1", "");
    assert_eq!(gone.status, 200, "{}", gone.summary());
    let told = eventually("the last event", || {
        let log = gateway.log();
        let lines = log.lines().filter_map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let is_event = line["prefix"] == "event";
            is_event.then(|| line["msg"].as_str().unwrap_or_default().to_owned())
        });
        let mut told: Vec<String> = lines.collect();
        told.sort();
        told.contains(&"removed:TokenDeleted".to_owned())
            .then_some(told)
    });
    assert_eq!(
        told,
        [
            "made:TokenCreated",
            "made:TokenCreated",
            "made:TokenCreated",
            "removed:TokenDeleted",
            "w-auth:AuthFailure",
            "w-old:KeyExpired",
            "w-quota:QuotaExceeded:****ttle:127.0.0.1:/w/y",
            "w-rate:RatelimitExceeded",
        ]
    );
}
