//! Keys of clients and of organisations over the REST API.

use serde_json::{Value, json};

use super::*;
use crate::{
    policy::Policy,
    session::Session,
    storage::{Ttl, WriteOp},
};

impl Bench {
    async fn call(&self, method: &str, target: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let (status, text) = self.admin_text(method, target, &body).await;
        (status, serde_json::from_str(&text).unwrap())
    }

    async fn stored(&self, name: &str) -> Option<Session> {
        let value = self.owner.store().unwrap().get(name).await.unwrap();
        value.map(|value| Session::from_json_slice(&value).unwrap())
    }

    async fn put(&self, name: &str, value: &str) {
        let store = self.owner.store().unwrap();
        store.set(name, value.as_bytes(), None).await.unwrap();
    }

    async fn is_there(&self, name: &str) -> bool {
        self.owner.store().unwrap().exists(name).await.unwrap()
    }

    fn laid(&self, policies: Value) {
        let policies = policies.as_array().unwrap().iter();
        let policies = policies
            .map(|policy| Policy::from_json_slice(policy.to_string().as_bytes()).unwrap())
            .collect();
        self.policies.publish(policies);
    }

    fn heard(&self) -> (Vec<String>, Vec<String>) {
        let take = |of: &Mutex<Vec<String>>| std::mem::take(&mut *of.lock().unwrap());
        (take(&self.told.changed), take(&self.told.reset))
    }
}

fn session() -> Value {
    json!({"org_id": "org1", "rate": 1000, "per": 1, "quota_max": -1, "quota_renewal_rate": 60,
           "allowance": 1000,
           "access_rights": {"api1": {"api_id": "api1", "api_name": "api1", "versions": ["Default"]}}})
}

fn with(changes: Value) -> Value {
    let mut session = session();
    for (key, value) in changes.as_object().unwrap() {
        session[key] = value.clone();
    }
    session
}

fn ok(key: &str, action: &str) -> (u16, Value) {
    (200, json!({"key": key, "status": "ok", "action": action}))
}

fn error(status: u16, message: &str) -> (u16, Value) {
    (status, json!({"status": "error", "message": message}))
}

const NOT_SECURE: &str = "Failed to create key, ensure security settings are correct.";

#[test]
fn a_key_is_made_read_changed_and_removed() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let (status, made) = bench.call("POST", "/tyk/keys/create", session()).await;
        assert_eq!((status, &made["action"]), (200, &json!("added")));
        assert_eq!(made.get("key_hash"), None);
        let key = made["key"].as_str().unwrap().to_owned();
        assert!(key.starts_with("org1") && key.len() == 36, "{key}");
        let path = format!("/tyk/keys/{key}");

        let (status, read) = bench.call("GET", &path, Value::Null).await;
        assert_eq!(status, 200);
        assert_eq!(
            (&read["rate"], &read["quota_max"]),
            (&json!(1000), &json!(-1))
        );
        assert_eq!(
            (&read["meta_data"], &read["tags"]),
            (&json!({}), &json!([]))
        );
        let renews = read["quota_renews"].as_i64().unwrap();
        let updated: i64 = read["last_updated"].as_str().unwrap().parse().unwrap();
        assert_eq!(renews, updated + 60);
        assert_ne!(read["date_created"], "0001-01-01T00:00:00Z");
        let listed = bench.call("GET", "/tyk/keys", Value::Null).await;
        assert_eq!(listed, (200, json!({"keys": [key]})));

        let changed = with(json!({"rate": 5, "alias": "al"}));
        assert_eq!(
            bench.call("PUT", &path, changed).await,
            ok(&key, "modified")
        );
        let after = bench.stored(&format!("apikey-{key}")).await.unwrap();
        assert_eq!((after.rate, after.alias.as_str()), (5.0, "al"));
        assert_eq!(after.date_created.as_str(), read["date_created"]);

        assert_eq!(
            bench.call("DELETE", &path, Value::Null).await,
            ok(&key, "deleted")
        );
        for (method, message) in [
            ("GET", "Key not found"),
            ("DELETE", "There is no such key found"),
        ] {
            let answer = bench.call(method, &path, Value::Null).await;
            assert_eq!(answer, error(404, message));
        }
        let answer = bench.call("PUT", &path, session()).await;
        assert_eq!(answer, error(404, "Key is not found"));
        let listed = bench.call("GET", "/tyk/keys", Value::Null).await;
        assert_eq!(listed, (200, json!({"keys": []})));
    });
}

#[test]
fn a_custom_key_is_found_in_its_organisation() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let added = bench.call("POST", "/tyk/keys/mykey", session()).await;
        assert_eq!(added, ok("org1mykey", "added"));
        let again = bench.call("POST", "/tyk/keys/org1mykey", session()).await;
        assert_eq!(again, ok("org1mykey", "added"));
        for (target, status) in [
            ("/tyk/keys/org1mykey", 200),
            ("/tyk/keys/mykey", 404),
            ("/tyk/keys/mykey?org_id=org1", 200),
            ("/tyk/keys/mykey?api_id=api1", 200),
            ("/tyk/keys/mykey?api_id=other", 404),
            ("/tyk/keys/mykey?username=true&org_id=org1", 200),
        ] {
            let (found, _) = bench.call("GET", target, Value::Null).await;
            assert_eq!(found, status, "{target}");
        }
        for (filter, keys) in [
            ("", json!(["org1mykey"])),
            ("?filter=org1", json!(["org1mykey"])),
            ("?filter=zzz", json!([])),
        ] {
            let listed = bench
                .call("GET", &format!("/tyk/keys{filter}"), Value::Null)
                .await;
            assert_eq!(listed.1["keys"], keys, "{filter}");
        }
        let gone = bench.call("DELETE", "/tyk/keys/mykey", Value::Null).await;
        assert_eq!(gone, error(404, "There is no such key found"));
        let gone = bench
            .call(
                "DELETE",
                "/tyk/keys/mykey?org_id=org1&api_id=-1",
                Value::Null,
            )
            .await;
        assert_eq!(gone, (200, Value::Null));
        let (status, made) = bench.call("POST", "/tyk/keys", session()).await;
        assert_eq!((status, made["key"].as_str().unwrap().len()), (200, 36));
    });
}

#[test]
fn create_and_preview_are_names_to_the_other_methods() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        for name in ["create", "preview"] {
            let target = format!("/tyk/keys/{name}");
            let answer = bench.call("GET", &target, Value::Null).await;
            assert_eq!(answer, error(404, "Key not found"));
            let answer = bench.call("PUT", &target, session()).await;
            assert_eq!(answer, error(404, "Key is not found"));
        }
        for method in ["PATCH", "HEAD", "OPTIONS"] {
            for target in [
                "/tyk/keys",
                "/tyk/keys/a",
                "/tyk/org/keys/a",
                "/tyk/policies",
            ] {
                let (status, _) = bench.admin_text(method, target, "").await;
                assert_eq!(status, 405, "{method} {target}");
            }
        }
        let answer = bench.call("GET", "/tyk/keys/policy/a", Value::Null).await;
        assert_eq!(answer, error(405, "Method not supported"));
    });
}

#[test]
fn hashed_keys_are_told_with_their_hash_and_not_listed() {
    run(async {
        let hashed = |config: &mut Config| {
            config.hash_keys = true;
            config.hash_key_function = "sha256".to_owned();
        };
        let bench = Bench::new(hashed).await;
        let token = "eyJvcmciOiJvcmcxIiwiaWQiOiJmaXhlZGtleSIsImgiOiJzaGEyNTYifQ==";
        let hash = "3a6871385b5911b92b36769e79e6ff5c73f4734dbdfcb09b84f2edd8928921a5";
        let added = bench.call("POST", "/tyk/keys/fixedkey", session()).await;
        let expected = json!({"key": token, "status": "ok", "action": "added", "key_hash": hash});
        assert_eq!(added, (200, expected));
        assert!(bench.is_there(&format!("apikey-{hash}")).await);
        let (changed, reset) = bench.heard();
        assert_eq!(changed[0], hash);
        assert!(changed.contains(&token.to_owned()) && changed.contains(&"fixedkey".to_owned()));
        assert!(changed.contains(&crate::hash::HashFn::Murmur64.hex(token)));
        assert_eq!(reset[0], format!("quota-{hash}"));
        let listed = bench.call("GET", "/tyk/keys", Value::Null).await;
        assert_eq!(
            listed,
            error(
                404,
                "Hashed key listing is disabled in config (enable_hashed_keys_listing)"
            )
        );
        let by_hash = format!("/tyk/keys/{hash}?hashed=true");
        assert_eq!(bench.call("GET", &by_hash, Value::Null).await.0, 200);
        assert_eq!(
            bench.call("PUT", &by_hash, session()).await,
            ok(hash, "modified")
        );
        let target = format!("/tyk/keys/policy/{hash}");
        bench.laid(json!([{"id": "p", "org_id": "org1"}]));
        let body = json!({"policy": "p", "apply_policies": ["q"]});
        assert_eq!(bench.call("POST", &target, body).await, ok(hash, "updated"));
        let stored = bench.stored(&format!("apikey-{hash}")).await.unwrap();
        assert_eq!(stored.policy_ids(), ["q", "p"]);
        assert_eq!(
            bench.call("DELETE", &by_hash, Value::Null).await,
            ok(hash, "deleted")
        );
        assert!(!bench.is_there(&format!("apikey-{hash}")).await);
    });
    run(async {
        let listing = |config: &mut Config| {
            config.hash_keys = true;
            config.enable_hashed_keys_listing = true;
        };
        let bench = Bench::new(listing).await;
        let added = bench.call("POST", "/tyk/keys/fixedkey", session()).await;
        assert_eq!(added.1["key_hash"], "9c5b9688");
        let listed = bench.call("GET", "/tyk/keys?filter=x", Value::Null).await;
        assert_eq!(listed.1, json!({"keys": ["9c5b9688"]}));
    });
    run(async {
        let bench = Bench::new(|_| ()).await;
        let answer = bench.call("GET", "/tyk/keys/a?hashed=1", Value::Null).await;
        let message = "Key requested by hash but key hashing is not enabled";
        assert_eq!(answer, error(400, message));
    });
}

#[test]
fn what_cannot_be_stored_is_refused_in_tyks_words() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let bare = json!({"org_id": "org1"});
        let unknown = with(json!({"apply_policies": ["nosuch"]}));
        for (target, body, status, message) in [
            (
                "create",
                &bare,
                400,
                "Failed to create key, keys must have at least one Access Rights record set.",
            ),
            ("abc", &bare, 500, NOT_SECURE),
            (
                "create",
                &unknown,
                500,
                "Failed to create key - policy not found: \"nosuch\"",
            ),
            ("abc", &unknown, 500, NOT_SECURE),
            ("create", &json!([]), 500, "Unmarshalling failed"),
            ("preview", &json!([]), 500, "Unmarshalling failed"),
            ("abc", &json!({"rate": "x"}), 400, "Request malformed"),
            (
                "policy/abc",
                &json!({"policy": 1}),
                400,
                "Couldn't decode instruction",
            ),
            ("policy/abc", &json!({}), 404, "Key not found"),
        ] {
            let answer = bench
                .call("POST", &format!("/tyk/keys/{target}"), body.clone())
                .await;
            assert_eq!(answer, error(status, message), "{target} {body}");
        }
        let malformed = bench.call("PUT", "/tyk/keys/abc", json!([])).await;
        assert_eq!(malformed, error(400, "Request malformed"));
        let listed = bench.call("GET", "/tyk/keys", Value::Null).await;
        assert_eq!(listed.1, json!({"keys": []}), "nothing was stored");
        assert_eq!(bench.heard(), (vec![], vec![]));
    });
}

#[test]
fn an_unknown_api_in_the_rights_is_no_obstacle() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let body = with(json!({"access_rights": {"nosuch": {"api_id": "nosuch"}}}));
        let added = bench.call("POST", "/tyk/keys/unk", body).await;
        assert_eq!(added, ok("org1unk", "added"));
    });
}

#[test]
fn master_keys_are_made_where_they_are_allowed() {
    run(async {
        let bench = Bench::new(|config| config.allow_master_keys = true).await;
        let bare = json!({"org_id": "org1", "rate": 1});
        let added = bench.call("POST", "/tyk/keys/m", bare.clone()).await;
        assert_eq!(added, ok("org1m", "added"));
        assert_eq!(
            bench.call("POST", "/tyk/keys/create", bare.clone()).await.0,
            200
        );
        // Also with no API loaded: what is answered with ok is stored.
        fs::remove_file(bench.dir.join("apps/api1.json")).unwrap();
        bench.gateway.reload();
        assert_eq!(bench.call("POST", "/tyk/keys/n", bare).await.0, 200);
        assert!(bench.is_there("apikey-org1n").await);
    });
}

#[test]
fn policies_are_laid_over_what_is_stored() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        bench.laid(json!([
            {"id": "p", "org_id": "org1", "rate": 20, "per": 2, "quota_max": 7,
             "quota_renewal_rate": 60, "access_rights": {"api1": {"api_id": "api1"}}},
            {"id": "other", "org_id": "orgX", "access_rights": {"api1": {"api_id": "api1"}}},
            {"id": "trial", "org_id": "org1", "key_expires_in": 500,
             "access_rights": {"api1": {"api_id": "api1"}}},
        ]));
        let by = |policy: &str| json!({"org_id": "org1", "apply_policies": [policy]});
        assert_eq!(
            bench.call("POST", "/tyk/keys/k", by("p")).await,
            ok("org1k", "added")
        );
        let stored = bench.stored("apikey-org1k").await.unwrap();
        assert_eq!((stored.rate, stored.quota_max), (20.0, 7));
        assert!(stored.access_rights.contains_key("api1"));
        let other = bench.call("POST", "/tyk/keys/o", by("other")).await;
        assert_eq!(other, error(500, NOT_SECURE));
        let previewed = bench.call("POST", "/tyk/keys/preview", by("p")).await;
        assert_eq!((previewed.0, &previewed.1["quota_max"]), (200, &json!(7)));

        bench.call("POST", "/tyk/keys/t", by("trial")).await;
        let first = bench.stored("apikey-org1t").await.unwrap().expires;
        assert!(first > 1_700_000_000);
        // Only while it is new.
        bench.call("POST", "/tyk/keys/t", by("trial")).await;
        assert_eq!(bench.stored("apikey-org1t").await.unwrap().expires, 0);
    });
}

#[test]
fn an_expiry_in_the_past_is_not_taken() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let expires = async |method: &str, expires: i64| {
            let body = with(json!({"expires": expires}));
            let (status, _) = bench.call(method, "/tyk/keys/k?org_id=org1", body).await;
            assert_eq!(status, 200);
            bench.stored("apikey-org1k").await.unwrap().expires
        };
        let later = keyspace::now().as_secs() as i64 + 300;
        assert_eq!(expires("POST", 1_000).await, 0);
        assert_eq!(expires("POST", 1).await, 1);
        assert_eq!(expires("POST", -1).await, -1);
        assert_eq!(expires("POST", later).await, later);
        assert_eq!(expires("PUT", 1_000).await, later);
        assert_eq!(expires("PUT", 0).await, 0);
    });
}

#[test]
fn counters_begin_anew_unless_that_is_suppressed() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let body = with(json!({"quota_max": 5, "access_rights": {
            "api1": {"api_id": "api1", "limit": {"quota_max": 3}}}}));
        bench.call("POST", "/tyk/keys/k", body.clone()).await;
        let (_, reset) = bench.heard();
        assert_eq!(
            reset,
            [
                "quota-api1-org1k",
                "quota-org1k",
                "rate-limit-api1-org1k",
                "rate-limit-org1k"
            ]
        );
        let counters = [
            "quota-org1k",
            "quota-api1-org1k",
            "rate-limit-org1k.BLOCKED",
        ];
        let count = async || {
            for name in counters {
                bench.put(name, "2").await;
            }
        };
        count().await;
        let read = bench.call("GET", "/tyk/keys/org1k", Value::Null).await.1;
        assert_eq!(read["quota_remaining"], 3);
        assert_eq!(read["access_rights"]["api1"]["limit"]["quota_remaining"], 1);
        let before = bench.stored("apikey-org1k").await.unwrap();
        let kept = with(json!({"quota_max": 5, "last_updated": "x", "quota_renews": 1}));
        bench
            .call("PUT", "/tyk/keys/k?suppress_reset=1", kept)
            .await;
        let after = bench.stored("apikey-org1k").await.unwrap();
        assert_eq!(after.quota_renews, before.quota_renews);
        assert_eq!(after.last_updated, before.last_updated);
        for name in counters {
            assert!(bench.is_there(name).await, "{name}");
        }
        assert_eq!(bench.heard().1, Vec::<String>::new());
        bench.call("PUT", "/tyk/keys/k", body.clone()).await;
        for name in counters {
            assert!(!bench.is_there(name).await, "{name}");
        }
        let read = bench.call("GET", "/tyk/keys/org1k", Value::Null).await.1;
        assert_eq!(read["access_rights"]["api1"]["limit"]["quota_remaining"], 3);
        count().await;
        bench.call("DELETE", "/tyk/keys/org1k", Value::Null).await;
        for name in counters {
            assert!(!bench.is_there(name).await, "{name}");
        }
        // An API may say that its keys keep them.
        let mut api = definition("api1", "api1");
        api.insert_str(1, r#""dont_set_quota_on_create": true,"#);
        fs::write(bench.dir.join("apps/api1.json"), api).unwrap();
        bench.gateway.reload();
        count().await;
        bench.call("POST", "/tyk/keys/k", body).await;
        for name in counters {
            assert!(bench.is_there(name).await, "{name}");
        }
    });
}

#[test]
fn sessions_live_as_long_as_their_apis_say() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let mut api = definition("life", "life");
        api.insert_str(1, r#""session_lifetime": 100,"#);
        fs::write(bench.dir.join("apps/life.json"), api).unwrap();
        bench.gateway.reload();
        let ttl = async |body: Value| {
            bench.call("POST", "/tyk/keys/k", body).await;
            let store = bench.owner.store().unwrap();
            match store.ttl("apikey-org1k").await.unwrap().unwrap() {
                Ttl::Forever => None,
                Ttl::Ms(ms) => Some(ms.div_ceil(1000)),
            }
        };
        let life = json!({"life": {"api_id": "life"}, "api1": {"api_id": "api1"}});
        assert_eq!(ttl(session()).await, None);
        assert_eq!(ttl(with(json!({"access_rights": life}))).await, Some(100));
        let own = with(json!({"session_lifetime": 50}));
        assert_eq!(ttl(own).await, Some(50));
        assert_eq!(
            ttl(session()).await,
            None,
            "a write takes an earlier one away"
        );
    });
}

#[test]
fn passwords_are_hashed_and_never_shown() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let body = with(json!({"basic_auth_data": {"password": "hello"}}));
        let added = bench.call("POST", "/tyk/keys/user", body).await;
        assert_eq!(added, ok("org1user", "added"));
        let first = bench
            .stored("apikey-org1user")
            .await
            .unwrap()
            .basic_auth_data;
        assert_eq!(first.hash_type, "bcrypt");
        assert!(bcrypt::verify("hello", &first.password).unwrap());
        let read = bench.call("GET", "/tyk/keys/org1user", Value::Null).await.1;
        assert_eq!(read["basic_auth_data"]["password"], "");
        // What was read is sent back, with another rate.
        let mut back = read.clone();
        back["rate"] = json!(3);
        bench.call("PUT", "/tyk/keys/org1user", back).await;
        let kept = bench.stored("apikey-org1user").await.unwrap();
        assert_eq!((kept.rate, &kept.basic_auth_data), (3.0, &first));
        // The hash itself is no password, whatever the body says of its function.
        let forged =
            with(json!({"basic_auth_data": {"password": first.password, "hash_type": ""}}));
        bench.call("PUT", "/tyk/keys/org1user", forged).await;
        assert_eq!(
            bench
                .stored("apikey-org1user")
                .await
                .unwrap()
                .basic_auth_data,
            first
        );
        let other = with(json!({"basic_auth_data": {"password": "other"}}));
        bench.call("PUT", "/tyk/keys/org1user", other).await;
        let second = bench
            .stored("apikey-org1user")
            .await
            .unwrap()
            .basic_auth_data;
        assert!(bcrypt::verify("other", &second.password).unwrap());
    });
    run(async {
        let hashed = |config: &mut Config| {
            config.hash_keys = true;
            config.basic_auth_hash_key_function = "murmur64".to_owned();
        };
        let bench = Bench::new(hashed).await;
        let body = with(json!({"org_id": "default", "basic_auth_data": {"password": "hello"}}));
        let (status, added) = bench.call("POST", "/tyk/keys/alice", body).await;
        assert_eq!(
            (status, &added["key"], &added["key_hash"]),
            (200, &json!(""), &json!("c3f12984"))
        );
        let stored = bench.stored("apikey-c3f12984").await.unwrap();
        assert_eq!(stored.basic_auth_data.password, "cbd8a7b341bd9b02");
    });
}

#[test]
fn certificates_stay_with_their_keys() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let certified = with(json!({"certificate": "org1abcdef"}));
        let made = bench
            .call("POST", "/tyk/keys/create", certified.clone())
            .await;
        assert_eq!(made, ok("org1abcdef", "added"));
        let again = bench.call("POST", "/tyk/keys/create", certified).await;
        let message = "Failed to create key - Key with given certificate already found:org1abcdef";
        assert_eq!(again, error(500, message));
        let target = "/tyk/keys/org1abcdef";
        let bare = bench.call("PUT", target, session()).await;
        assert_eq!(bare, error(400, "Key cannot be used without a certificate"));
        let other = with(json!({"certificate": "org1other"}));
        let unknown = bench.call("PUT", target, other.clone()).await;
        assert_eq!(
            unknown,
            error(400, "Key must be used with an existent certificate")
        );
        bench.put("cert-raw-org1other", "pem").await;
        assert_eq!(
            bench.call("PUT", target, other).await,
            ok("org1abcdef", "modified")
        );
    });
}

#[test]
fn keys_with_hmac_get_a_secret() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let body = with(json!({"hmac_enabled": true}));
        let made = bench.call("POST", "/tyk/keys/create", body).await.1;
        let name = format!("apikey-{}", made["key"].as_str().unwrap());
        let secret = bench.stored(&name).await.unwrap().hmac_string;
        assert_eq!(secret.len(), 44, "32 hexadecimal digits in base64");
    });
}

#[test]
fn a_store_that_is_gone_is_told_and_nothing_is_promised() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        bench.owner.release().await.unwrap();
        for (method, target) in [
            ("GET", "/tyk/keys"),
            ("GET", "/tyk/keys/a"),
            ("POST", "/tyk/keys/create"),
            ("DELETE", "/tyk/keys/a"),
            ("GET", "/tyk/org/keys"),
            ("GET", "/tyk/org/keys/a"),
            ("PUT", "/tyk/org/keys/a"),
            ("POST", "/tyk/policies"),
        ] {
            let answer = bench.admin(method, target, "{}").await;
            assert_eq!(answer.status, 503, "{method} {target}");
            assert_eq!(
                header(&answer, "Retry-After"),
                Some("1"),
                "{method} {target}"
            );
        }
    });
}

#[test]
fn a_session_that_cannot_be_read_is_none() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        bench.put("apikey-org1k", "{\"rate\":\"x\"}").await;
        let read = bench.call("GET", "/tyk/keys/org1k", Value::Null).await;
        assert_eq!(read, error(404, "Key not found"));
        bench.put("quota-org1k", "many").await;
        bench
            .call(
                "POST",
                "/tyk/keys/k?suppress_reset=1",
                with(json!({"quota_max": 5, "quota_remaining": 4})),
            )
            .await;
        let read = bench.call("GET", "/tyk/keys/org1k", Value::Null).await.1;
        assert_eq!(read["quota_remaining"], 4);
    });
}

#[test]
fn organisations_have_sessions_of_their_own() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let target = "/tyk/org/keys/org1";
        let body = json!({"quota_max": 3, "quota_renewal_rate": 60, "org_id": "org1"});
        let none = bench.call("GET", target, Value::Null).await;
        assert_eq!(none, error(404, "Org not found"));
        assert_eq!(
            bench.call("POST", target, body.clone()).await,
            ok("org1", "added")
        );
        let read = bench.call("GET", target, Value::Null).await;
        assert_eq!((read.0, &read.1["quota_max"]), (200, &json!(3)));
        let listed = bench.call("GET", "/tyk/org/keys", Value::Null).await;
        assert_eq!(listed, (200, json!({"keys": ["org1"]})));
        let filtered = bench
            .call("GET", "/tyk/org/keys?filter=x", Value::Null)
            .await;
        assert_eq!(filtered.1, json!({"keys": []}));
        bench.put("quota-org1", "3").await;
        assert_eq!(
            bench.call("PUT", target, body.clone()).await,
            ok("org1", "modified")
        );
        assert!(bench.is_there("quota-org1").await);
        bench.heard();
        let reset = format!("{target}?reset_quota=1");
        assert_eq!(
            bench.call("PUT", &reset, body).await,
            ok("org1", "modified")
        );
        assert!(!bench.is_there("quota-org1").await);
        assert!(bench.stored("orgkey.org1").await.unwrap().quota_renews > 0);
        let (changed, reset) = bench.heard();
        assert_eq!(changed, ["org1"]);
        assert_eq!(reset, ["quota-org1", "rate-limit-org1"]);
        let malformed = bench.call("PUT", target, json!([])).await;
        assert_eq!(malformed, error(400, "Request malformed"));
        assert_eq!(
            bench.call("DELETE", target, Value::Null).await,
            ok("org1", "deleted")
        );
        let again = bench.call("DELETE", target, Value::Null).await;
        assert_eq!(again, error(400, "Failed to remove the key"));
        assert_eq!(bench.heard().0, ["org1"]);
    });
}

#[test]
fn without_any_api_there_are_no_organisations() {
    run(async {
        let bench = Bench::new(|config| config.suppress_default_org_store = true).await;
        fs::remove_file(bench.dir.join("apps/api1.json")).unwrap();
        bench.gateway.reload();
        for (method, target, message) in [
            ("GET", "/tyk/org/keys", "ORG not found"),
            ("GET", "/tyk/org/keys/a", "Org not found"),
            ("DELETE", "/tyk/org/keys/a", "Org not found"),
            (
                "POST",
                "/tyk/org/keys/a",
                "No such organisation found in Active API list",
            ),
        ] {
            let answer = bench.call(method, target, json!({})).await;
            assert_eq!(answer, error(404, message), "{method} {target}");
        }
    });
}

#[test]
fn an_organisations_tokens_are_listed_by_its_id() {
    run(async {
        let bench = Bench::new(|config| config.hash_key_function = "murmur64".to_owned()).await;
        let added = bench.call("POST", "/tyk/keys/k", session()).await.1;
        let key = added["key"].as_str().unwrap();
        assert!(key.starts_with("eyJ"));
        let other = with(json!({"org_id": "zzz"}));
        bench.call("POST", "/tyk/keys/k", other).await;
        let listed = bench
            .call("GET", "/tyk/keys?filter=org1", Value::Null)
            .await;
        assert_eq!(listed.1, json!({"keys": [key]}));
        // A key of the old form is reached by the name of its user.
        let store = bench.owner.store().unwrap();
        let value = br#"{"org_id":"org1"}"#.to_vec();
        let legacy = WriteOp::Set {
            key: "apikey-org1old".to_owned(),
            value,
            ttl: None,
        };
        store.write(vec![legacy]).await.unwrap();
        let target = "/tyk/keys/org1old?username=true&org_id=org1";
        assert_eq!(bench.call("GET", target, Value::Null).await.0, 200);
    });
}

#[test]
fn small_endpoints_answer_as_tyk() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let emptied = bench.call("DELETE", "/tyk/cache/nosuch", Value::Null).await;
        assert_eq!(
            emptied,
            (200, json!({"status": "ok", "message": "cache invalidated"}))
        );
        let health = bench
            .call("GET", "/tyk/health?api_id=api1", Value::Null)
            .await;
        assert_eq!(
            health,
            error(400, "Health checks are not enabled for this node")
        );
    });
    run(async {
        let bench = Bench::new(|_| ()).await;
        let (status, schema) = bench
            .call("GET", "/tyk/schema?oasVersion=3.0.3", Value::Null)
            .await;
        assert_eq!((status, &schema["status"]), (200, &json!("Success")));
        assert!(schema["schema"]["definitions"]["Session"].is_object());
        let unknown = bench
            .call("GET", "/tyk/schema?oasVersion=4", Value::Null)
            .await;
        let message = "Schema not found for version \"4\"";
        assert_eq!(
            unknown,
            (404, json!({"status": "Failed", "message": message}))
        );
    });
    run(async {
        let enabled = |config: &mut Config| config.health_check.enable_health_checks = true;
        let bench = Bench::new(enabled).await;
        for (query, status, message) in [
            ("", 400, "missing api_id parameter"),
            ("?api_id=x", 404, "API ID not found"),
        ] {
            let health = bench
                .call("GET", &format!("/tyk/health{query}"), Value::Null)
                .await;
            assert_eq!(health, error(status, message));
        }
        let health = bench
            .call("GET", "/tyk/health?api_id=api1", Value::Null)
            .await;
        let nothing = json!({
            "throttle_reqests_per_second": 0,
            "quota_violations_per_second": 0,
            "key_failures_per_second": 0,
            "average_upstream_latency": 0,
            "average_requests_per_second": 0,
        });
        assert_eq!(health, (200, nothing));
    });
}
