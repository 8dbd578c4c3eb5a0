//! Policies over the REST API: files in, what is in force out.

use serde_json::{Value, json};

use super::*;
use crate::policy::{Policies, Source, load};

async fn bench() -> Bench {
    let mut dir = PathBuf::new();
    let bench = Bench::new(|config| {
        dir = PathBuf::from(&config.app_path).with_file_name("policies");
        fs::create_dir(&dir).unwrap();
        config.policies.policy_path = dir.to_str().unwrap().to_owned();
    })
    .await;
    assert_eq!(bench.policy_dir(), dir);
    bench
}

impl Bench {
    fn policy_dir(&self) -> PathBuf {
        self.dir.join("policies")
    }

    fn policy_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.policy_dir()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn reload_policies(&self) {
        let before = self.policies.load();
        let loaded = load(&Source::Dir(self.policy_dir()), &before, false);
        assert_eq!(loaded.refused, []);
        self.policies.publish(loaded.policies);
    }
}

fn policy(id: &str) -> String {
    json!({"id": id, "name": "p", "org_id": "org1", "active": true, "rate": 10, "per": 1,
           "access_rights": {"api1": {"api_id": "api1", "versions": ["Default"]}}})
    .to_string()
}

#[test]
fn policies_are_created_read_changed_and_removed() {
    run(async {
        let bench = bench().await;
        let list = bench.admin_text("GET", "/tyk/policies", "").await;
        assert_eq!(list, (200, "[]\n".to_owned()));
        let created = bench
            .admin_text("POST", "/tyk/policies", &policy("pa"))
            .await;
        assert_eq!(created, modified("pa", "added"));
        let unread = bench.admin_text("GET", "/tyk/policies/pa", "").await;
        assert_eq!(unread, (404, refused("Policy not found")));
        bench.reload_policies();
        let (status, read) = bench.admin_text("GET", "/tyk/policies/pa", "").await;
        assert_eq!(status, 200);
        assert!(read.starts_with(r#"{"_id":"","id":"pa","name":"p","org_id":"org1","rate":10,"#));
        let (_, list) = bench.admin_text("GET", "/tyk/policies", "").await;
        assert_eq!(list, format!("[{}]\n", read.trim_end()));

        let faster = policy("pa").replace("\"rate\":10", "\"rate\":20");
        let updated = bench.admin_text("PUT", "/tyk/policies/pa", &faster).await;
        assert_eq!(updated, modified("pa", "modified"));
        bench.reload_policies();
        let (_, read) = bench.admin_text("GET", "/tyk/policies/pa", "").await;
        assert_eq!(serde_json::from_str::<Value>(&read).unwrap()["rate"], 20);

        let removed = bench.admin_text("DELETE", "/tyk/policies/pa", "").await;
        assert_eq!(removed, modified("pa", "deleted"));
        assert_eq!(bench.policy_files(), Vec::<String>::new());
    });
}

#[test]
fn what_cannot_be_done_is_refused_in_tyks_words() {
    run(async {
        let bench = bench().await;
        let mismatch =
            "Request ID does not match that in policy! For Update operations these must match.";
        for (method, target, body, status, message) in [
            (
                "POST",
                "/tyk/policies",
                "{".to_owned(),
                400,
                "Request malformed",
            ),
            (
                "PUT",
                "/tyk/policies/pa",
                "[]".to_owned(),
                400,
                "Request malformed",
            ),
            ("PUT", "/tyk/policies/pa", policy("pb"), 400, mismatch),
            (
                "PUT",
                "/tyk/policies",
                policy("pb"),
                400,
                "Must specify an apiID to update",
            ),
            (
                "DELETE",
                "/tyk/policies",
                String::new(),
                400,
                "Must specify an apiID to delete",
            ),
            (
                "DELETE",
                "/tyk/policies/nosuch",
                String::new(),
                500,
                "Delete failed",
            ),
            (
                "GET",
                "/tyk/policies/nosuch",
                String::new(),
                404,
                "Policy not found",
            ),
        ] {
            let answer = bench.admin_text(method, target, &body).await;
            assert_eq!(answer, (status, refused(message)), "{method} {target}");
        }
        fs::remove_dir(bench.policy_dir()).unwrap();
        let answer = bench
            .admin_text("POST", "/tyk/policies", &policy("pa"))
            .await;
        assert_eq!(answer, (500, refused("Failed to create file!")));
    });
}

#[test]
fn a_policy_without_id_is_written_and_listed_but_not_found() {
    run(async {
        let bench = bench().await;
        let created = bench.admin_text("POST", "/tyk/policies", "{}").await;
        assert_eq!(created, modified("", "added"));
        assert_eq!(bench.policy_files(), [".json"]);
        bench.reload_policies();
        assert_eq!(bench.policies.load().len(), 1);
        let (_, list) = bench.admin_text("GET", "/tyk/policies", "").await;
        assert!(list.starts_with("[{\"_id\":\"\",\"id\":\"\""));
    });
}

#[test]
fn what_is_in_force_stays_until_a_reload() {
    run(async {
        let bench = bench().await;
        bench
            .admin("POST", "/tyk/policies/ignored", &policy("pa"))
            .await;
        assert_eq!(bench.policy_files(), ["pa.json"]);
        bench.reload_policies();
        bench.admin("DELETE", "/tyk/policies/pa", "").await;
        assert_eq!(bench.admin("GET", "/tyk/policies/pa", "").await.status, 200);
        // Tyk quirk: the last policy goes at a restart only.
        bench.reload_policies();
        assert_eq!(bench.admin("GET", "/tyk/policies/pa", "").await.status, 200);
        bench.policies.publish(Policies::default());
        assert_eq!(bench.admin("GET", "/tyk/policies/pa", "").await.status, 404);
    });
}

/// Names as they stand in JSON, and in a path.
const NAMES: [(&str, &str); 30] = [
    ("../out", "..%2fout"),
    ("../../out", "..%2f..%2fout"),
    ("..", "%2e%2e"),
    (".", "%2e"),
    ("./out", ".%2fout"),
    ("/tmp/out", "%2ftmp%2fout"),
    ("a/b", "a%2fb"),
    ("a/../../out", "a%2f..%2f..%2fout"),
    (".out", ".out"),
    ("..\\out", "..%5cout"),
    ("a\\b", "a%5cb"),
    ("a\0b", "a%00b"),
    ("\0", "%00"),
    ("a\nb", "a%0ab"),
    ("a..b", "a..b"),
    ("...", "..."),
    ("....//out", "....%2f%2fout"),
    ("/", "%2f"),
    ("//", "%2f%2f"),
    ("\\\\", "%5c%5c"),
    ("\\\\host\\x", "%5c%5chost%5cx"),
    ("C:\\out", "C:%5cout"),
    ("~/../out", "~%2f..%2fout"),
    ("%2e%2e/out", "%252e%252e%2fout"),
    ("..;/out", "..;%2fout"),
    ("out/", "out%2f"),
    ("a\u{7f}", "a%7f"),
    ("a\u{2028}/../b", "a%e2%80%a8%2f..%2fb"),
    ("file:///out", "file:%2f%2f%2fout"),
    ("pa.json/../../out", "pa.json%2f..%2f..%2fout"),
];

#[test]
fn no_name_leaves_the_folder() {
    run(async {
        let bench = bench().await;
        bench.admin("POST", "/tyk/policies", &policy("pa")).await;
        let before = fs::read_dir(&bench.dir).unwrap().count();
        for (id, in_path) in NAMES {
            let body = json!({ "id": id }).to_string();
            let (status, text) = bench.admin_text("POST", "/tyk/policies", &body).await;
            assert_eq!(status, 400, "{id:?}: {text}");
            assert!(text.contains("cannot name a file"), "{text}");
            let target = format!("/tyk/policies/{in_path}");
            for (method, expected) in [("PUT", 400), ("DELETE", 400), ("GET", 404)] {
                let status = bench.admin(method, &target, &body).await.status;
                assert_eq!(status, expected, "{method} {target}");
            }
        }
        let long = json!({"id": "a".repeat(251)}).to_string();
        assert_eq!(
            bench.admin("POST", "/tyk/policies", &long).await.status,
            400
        );
        assert_eq!(bench.policy_files(), ["pa.json"]);
        assert_eq!(bench.files(), ["api1.json"]);
        assert_eq!(fs::read_dir(&bench.dir).unwrap().count(), before);
    });
}

#[test]
fn names_of_keys_are_only_names() {
    run(async {
        let bench = bench().await;
        let before = fs::read_dir(&bench.dir).unwrap().count();
        for (id, in_path) in NAMES {
            let body = json!({"org_id": "zz9", "access_rights": {"api1": {}}}).to_string();
            let target = format!("/tyk/keys/{in_path}");
            let (status, text) = bench.admin_text("POST", &target, &body).await;
            assert_eq!(status, 200, "{target}: {text}");
            let added: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(added["key"], format!("zz9{id}"));
            let name = format!("apikey-zz9{id}");
            assert!(bench.owner.store().unwrap().exists(&name).await.unwrap());
            let removal = format!("{target}?org_id=zz9");
            assert_eq!(
                bench.admin("DELETE", &removal, "").await.status,
                200,
                "{removal}"
            );
            let org = format!("/tyk/org/keys/{in_path}");
            assert_eq!(bench.admin("PUT", &org, "{}").await.status, 200, "{org}");
            assert_eq!(bench.admin("DELETE", &org, "").await.status, 200, "{org}");
            for target in [
                format!("/tyk/keys/policy/{in_path}"),
                format!("/tyk/cache/{in_path}"),
            ] {
                let method = if target.contains("cache") {
                    "DELETE"
                } else {
                    "POST"
                };
                let status = bench.admin(method, &target, "{}").await.status;
                assert!(matches!(status, 200 | 404), "{target}: {status}");
            }
        }
        assert_eq!(fs::read_dir(&bench.dir).unwrap().count(), before);
        assert_eq!(bench.policy_files(), Vec::<String>::new());
        assert_eq!(bench.files(), ["api1.json"]);
    });
}
