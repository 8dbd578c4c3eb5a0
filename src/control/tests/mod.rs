//! Calls from outside, and the answers that Tyk's clients assert.

mod keys;
mod policies;

use std::{
    fs,
    path::PathBuf,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use super::*;
use crate::{
    apidef::ApiDefinition,
    auth::keyspace,
    gateway::reload::{Readiness, Refused, ReloadReport, Ringer},
    session::key_naming,
    storage::{Embedded, Store},
};

const SECRET: &str = "conformance-secret";

const NO_SECRET: &str = concat!(
    r#"{"status":"error","message":"Attempted administrative access with invalid or missing key!"}"#,
    "\n"
);

/// A gateway that reads its folder and serves nobody.
struct Loaded {
    dir: PathBuf,
    definitions: Mutex<Arc<[Arc<ApiDefinition>]>>,
    readiness: Mutex<Readiness>,
}

impl Loaded {
    fn reload(&self) -> ReloadReport {
        let Ok(entries) = fs::read_dir(&self.dir) else {
            let refused = Refused {
                file: self.dir.clone(),
                line: 0,
                column: 0,
                pointer: String::new(),
                reason: "cannot be read".to_owned(),
            };
            return ReloadReport::failed(vec![refused]);
        };
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let (mut read, mut refused) = (Vec::new(), Vec::new());
        for file in files {
            match ApiDefinition::from_json_slice(&fs::read(&file).unwrap()) {
                Ok(api) => read.push(Arc::new(api)),
                Err(fault) => refused.push(fault.in_file(file.file_name().unwrap()).into()),
            }
        }
        *self.definitions.lock().unwrap() = read.into();
        ReloadReport::done(vec![], vec![], vec![], refused)
    }
}

impl Gateway for Loaded {
    fn definitions(&self) -> Arc<[Arc<ApiDefinition>]> {
        Arc::clone(&self.definitions.lock().unwrap())
    }

    fn dry_run(&self) -> Pin<Box<dyn Future<Output = ReloadReport> + Send + '_>> {
        Box::pin(async { ReloadReport::done(vec!["new".into()], vec![], vec![], vec![]) })
    }

    fn readiness(&self) -> Readiness {
        *self.readiness.lock().unwrap()
    }
}

/// Remembers what it was told.
#[derive(Default)]
struct Told {
    changed: Mutex<Vec<String>>,
    reset: Mutex<Vec<String>>,
}

impl keyspace::Notifier for Told {
    fn key_changed(&self, names: &[String]) {
        self.changed.lock().unwrap().extend_from_slice(names);
    }

    fn counters_reset(&self, names: &[String]) {
        self.reset.lock().unwrap().extend_from_slice(names);
    }

    fn reserved(&self, _quota: &str) -> i64 {
        0
    }

    fn group_reload(&self) {}
}

/// Sends no request anywhere.
struct Nobody;

impl Debugger for Nobody {
    fn run(
        &self,
        _: Vec<u8>,
        _: Vec<u8>,
        _: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + '_>> {
        let (end, logs) = (End::Refused, String::new());
        Box::pin(async { Outcome { end, logs } })
    }
}

struct Bench {
    control: Control,
    told: Arc<Told>,
    policies: Arc<policy::Current>,
    gateway: Arc<Loaded>,
    owner: Arc<Owner>,
    liveness: Arc<Liveness>,
    registry: Arc<Registry>,
    dir: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Bench {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, SeqCst);
        let dir = std::env::temp_dir().join(format!("penstock-api-{}-{count}", std::process::id()));
        let apps = dir.join("apps");
        fs::create_dir_all(&apps).unwrap();
        fs::write(apps.join("api1.json"), definition("api1", "api1")).unwrap();
        let mut config = Config {
            secret: SECRET.into(),
            app_path: apps.to_str().unwrap().to_owned(),
            ..Config::default()
        };
        change(&mut config);
        let gateway = Arc::new(Loaded {
            dir: apps,
            definitions: Mutex::new([].into()),
            readiness: Mutex::new(Readiness::Ready),
        });
        gateway.reload();
        let store = dir.join("store");
        let open = move || Embedded::open(&store).map(|store| Arc::new(store) as Arc<dyn Store>);
        let owner = Arc::new(Owner::new(Arc::new(open)));
        owner.acquire().await.unwrap();
        let (bell, ringer) = Bell::new();
        let registry = Arc::new(Registry::new(1));
        tokio::spawn(ringing(ringer, Arc::clone(&gateway), Arc::clone(&registry)));
        let liveness = Arc::<Liveness>::default();
        let told = Arc::<Told>::default();
        let policies = Arc::<policy::Current>::default();
        let keyspace = Keyspace::new(
            Arc::clone(&owner),
            key_naming(&config),
            Arc::clone(&told) as Arc<dyn keyspace::Notifier>,
        );
        let control = Control::new(Setup {
            config: &config,
            gateway: Arc::clone(&gateway) as Arc<dyn Gateway>,
            bell,
            owner: Arc::clone(&owner),
            liveness: Arc::clone(&liveness),
            registry: Arc::clone(&registry),
            keyspace: Arc::new(keyspace),
            policies: Arc::clone(&policies),
            debugger: Arc::new(Nobody),
            health: config
                .health_check
                .enable_health_checks
                .then(|| Arc::new(crate::metrics::Window::new(0))),
            statsd: None,
        });
        Self {
            control,
            told,
            policies,
            gateway,
            owner,
            liveness,
            registry,
            dir,
        }
    }

    async fn send(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        self.control
            .call(Call {
                method: method.to_owned(),
                path_and_query: target.to_owned(),
                headers: fields
                    .iter()
                    .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                    .collect(),
                body: body.as_bytes().to_vec(),
                peer: "127.0.0.1:1".parse().unwrap(),
            })
            .await
    }

    /// With the secret.
    async fn admin(&self, method: &str, target: &str, body: &str) -> Answer {
        let secret = ("X-Tyk-Authorization", SECRET);
        self.send(method, target, &[secret], body).await
    }

    async fn admin_text(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        text(self.admin(method, target, body).await)
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("apps")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

async fn ringing(ringer: Ringer, gateway: Arc<Loaded>, registry: Arc<Registry>) {
    ringer
        .run(Duration::from_secs(1), &registry, || async {
            gateway.reload()
        })
        .await;
}

fn definition(id: &str, name: &str) -> String {
    format!(
        r#"{{"api_id": "{id}", "name": "{name}", "slug": "{name}", "org_id": "org1",
            "active": true, "use_keyless": true,
            "proxy": {{"listen_path": "/{id}/", "target_url": "http://127.0.0.1:1"}}}}"#
    )
}

fn text(answer: Answer) -> (u16, String) {
    (answer.status, String::from_utf8(answer.body).unwrap())
}

fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    let found = answer.headers.iter().find(|(found, _)| found == name);
    found.map(|(_, value)| std::str::from_utf8(value).unwrap())
}

fn refused(message: &str) -> String {
    format!("{{\"status\":\"error\",\"message\":\"{message}\"}}\n")
}

fn modified(key: &str, action: &str) -> (u16, String) {
    let json = format!("{{\"key\":\"{key}\",\"status\":\"ok\",\"action\":\"{action}\"}}\n");
    (200, json)
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn paths_of_the_control_api_are_told_from_all_others() {
    let paths = Paths::from_config(&Config::default());
    for path in [
        "/hello",
        "/live",
        "/ready",
        "/metrics",
        "/tyk/",
        "/tyk/x",
        "/tyk/apis/",
    ] {
        assert!(paths.owns(path.as_bytes()), "{path}");
    }
    for path in [
        "", "/", "/hello/", "/hellox", "/tyk", "/tykx", "/Hello", "/x/tyk/", "/live/", "*",
    ] {
        assert!(!paths.owns(path.as_bytes()), "{path}");
    }
    let renamed = Paths::from_config(&Config {
        health_check_endpoint_name: "status/up".to_owned(),
        ..Config::default()
    });
    assert!(renamed.owns(b"/status/up"));
    assert!(!renamed.owns(b"/hello"));
}

#[test]
fn the_secret_comes_before_everything_else() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let forbidden = (403, NO_SECRET.to_owned());
        let check = async |method: &str, target: &str, fields: &[(&str, &str)]| {
            let answer = bench.send(method, target, fields, "").await;
            assert_eq!(header(&answer, "Content-Type"), Some("application/json"));
            assert_eq!(text(answer), forbidden, "{method} {target} {fields:?}");
        };
        check("GET", "/tyk/apis", &[]).await;
        check("GET", "/tyk/apis", &[("x-tyk-authorization", "nope")]).await;
        check("GET", "/tyk/apis", &[("x-tyk-authorization", "")]).await;
        check("GET", "/tyk/apis", &[("Authorization", SECRET)]).await;
        check("GET", "/tyk/apis?authorization=conformance-secret", &[]).await;
        check("GET", "/tyk/nothing", &[]).await;
        check("PATCH", "/tyk/apis", &[]).await;
        check("GET", "/tyk/", &[]).await;
        check("POST", "/tyk/apis", &[]).await;
        check("GET", "/tyk//hello", &[]).await;
        let twice = [
            ("X-Tyk-Authorization", "nope"),
            ("X-Tyk-Authorization", SECRET),
        ];
        check("GET", "/tyk/apis", &twice).await;
        let fields = [("x-tYK-authorization", SECRET)];
        assert_eq!(
            bench.send("GET", "/tyk/apis", &fields, "").await.status,
            200
        );
    });
}

#[test]
fn unknown_paths_and_methods_are_answered_as_tyk_does() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        for target in [
            "/tyk/nothing",
            "/tyk/",
            "/tyk/apis/a/b/c",
            "/tyk//apis",
            "/tyk/^",
            "/tyk/\u{1}",
        ] {
            let answer = bench.admin("GET", target, "").await;
            assert_eq!(header(&answer, "X-Content-Type-Options"), Some("nosniff"));
            assert_eq!(
                header(&answer, "Content-Type"),
                Some("text/plain; charset=utf-8")
            );
            assert_eq!(
                text(answer),
                (404, "404 page not found\n".to_owned()),
                "{target}"
            );
        }
        for target in ["/hello/", "/", "/api1/x", "/tyk", ""] {
            let expected = (404, "Not Found".to_owned());
            assert_eq!(
                bench.admin_text("GET", target, "").await,
                expected,
                "{target}"
            );
        }
        let not_supported = (405, refused("Method not supported"));
        for (method, target) in [
            ("PATCH", "/tyk/apis"),
            ("PUT", "/tyk/apis"),
            ("DELETE", "/tyk/apis"),
            ("POST", "/tyk/reload"),
            ("HEAD", "/tyk/apis"),
            ("HEAD", "/tyk/apis/api1"),
            ("BREW", "/tyk/apis"),
            ("PATCH", "/tyk/apis/api1"),
            ("POST", "/tyk/apis/api1/versions"),
        ] {
            let answer = bench.admin_text(method, target, "").await;
            assert_eq!(answer, not_supported, "{method} {target}");
        }
        assert_eq!(bench.admin("HEAD", "/tyk/nothing", "").await.status, 404);
        let allow = bench.admin("PATCH", "/tyk/apis/api1", "").await;
        assert_eq!(header(&allow, "Allow"), Some("GET,POST,PUT,DELETE"));
    });
}

#[test]
fn hello_tells_the_last_probe() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let version = env!("CARGO_PKG_VERSION");
        let before = format!(
            "{{\"status\":\"pass\",\"version\":\"v{version}\",\"description\":\"Tyk GW\"}}\n"
        );
        let answer = bench.send("GET", "/hello", &[], "").await;
        assert_eq!(header(&answer, "Content-Type"), Some("application/json"));
        assert_eq!(text(answer), (200, before), "nothing was probed yet");
        let running = bench
            .liveness
            .run(&bench.owner, Duration::from_secs(9), || ());
        let probed = async {
            while bench.liveness.last().is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = running => unreachable!(),
            () = probed => {}
        }
        let (status, body) = text(bench.send("GET", "/hello?x=1", &[], "").await);
        let found: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &found["status"]), (200, &"pass".into()));
        assert_eq!(found["details"]["redis"]["status"], "pass");
        assert_eq!(found["details"]["redis"]["componentType"], "datastore");
        assert!(
            found["details"]["redis"]["time"]
                .as_str()
                .unwrap()
                .starts_with("20")
        );
        assert!(found["details"]["redis"].get("output").is_none());
        let not_allowed = (405, refused("Method Not Allowed"));
        assert_eq!(
            text(bench.send("POST", "/hello", &[], "").await),
            not_allowed
        );
        assert_eq!(
            text(bench.send("HEAD", "/hello", &[], "").await),
            not_allowed
        );
        assert_eq!(bench.admin("GET", "/hello", "").await.status, 200);
    });
}

#[test]
fn a_renamed_hello_takes_the_others_place() {
    run(async {
        let rename = |config: &mut Config| config.health_check_endpoint_name = "live".to_owned();
        let bench = Bench::new(rename).await;
        let (status, body) = text(bench.send("GET", "/live", &[], "").await);
        assert_eq!(status, 200);
        assert!(body.contains("Tyk GW"), "{body}");
        assert_eq!(bench.send("GET", "/hello", &[], "").await.status, 404);
        // A name that is no path of a router must not stop the gateway.
        let odd = |config: &mut Config| config.health_check_endpoint_name = "{*x}".to_owned();
        assert_eq!(
            Bench::new(odd)
                .await
                .send("GET", "/live", &[], "")
                .await
                .status,
            200
        );
    });
}

#[test]
fn readiness_follows_the_gateway() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let ready = async || text(bench.send("GET", "/ready", &[], "").await);
        assert_eq!(
            ready().await,
            (200, "{\"status\":\"pass\",\"degraded\":false}\n".to_owned())
        );
        bench.registry.reload_failed();
        assert_eq!(
            ready().await,
            (200, "{\"status\":\"warn\",\"degraded\":true}\n".to_owned())
        );
        for readiness in [Readiness::Starting, Readiness::Draining] {
            *bench.gateway.readiness.lock().unwrap() = readiness;
            assert_eq!(ready().await.0, 503);
        }
        assert_eq!(bench.send("HEAD", "/live", &[], "").await.status, 200);
        assert_eq!(bench.send("POST", "/live", &[], "").await.status, 405);
        let metrics = bench.send("GET", "/metrics", &[], "").await;
        assert_eq!(
            header(&metrics, "Content-Type"),
            Some(Registry::CONTENT_TYPE)
        );
        assert!(
            text(metrics)
                .1
                .contains("penstock_config_last_reload_successful 0\n")
        );
    });
}

#[test]
fn reload_answers_when_it_is_asked_to_wait() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let ok = (200, "{\"status\":\"ok\",\"message\":\"\"}\n".to_owned());
        for target in [
            "/tyk/reload",
            "/tyk/reload/",
            "/tyk/reload/group",
            "/tyk/reload/?block=true",
            "/tyk/reload?block=true",
            "/tyk/reload?block=1",
        ] {
            assert_eq!(bench.admin_text("GET", target, "").await, ok, "{target}");
        }
        fs::write(bench.dir.join("apps/broken.json"), "{not json").unwrap();
        let (status, body) = bench.admin_text("GET", "/tyk/reload?block=true", "").await;
        assert_eq!(status, 200);
        assert!(body.contains("broken.json:1:2"), "{body}");
        fs::rename(bench.dir.join("apps"), bench.dir.join("away")).unwrap();
        let (status, body) = bench.admin_text("GET", "/tyk/reload?block=true", "").await;
        assert_eq!(status, 500);
        assert!(body.contains("cannot be read"), "{body}");
        assert!(!bench.registry.is_last_reload_successful());
        assert_eq!(
            bench.gateway.definitions().len(),
            1,
            "the old ones are kept"
        );
        let dry = bench
            .admin_text("GET", "/tyk/reload?dry_run=true", "")
            .await
            .1;
        let report = r#"{"status":"ok","added":["new"],"removed":[],"changed":[],"refused":[]}"#;
        assert_eq!(dry, format!("{report}\n"));
    });
}

#[test]
fn definitions_are_created_read_changed_and_removed() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let reload = async || {
            bench
                .admin("GET", "/tyk/reload?block=true", "")
                .await
                .status
        };
        let not_found = (404, refused("API not found"));
        let (status, body) = bench.admin_text("GET", "/tyk/apis/", "").await;
        assert_eq!(status, 200);
        assert!(
            body.starts_with("[{\"name\":\"api1\"") && body.ends_with("}]\n"),
            "{body}"
        );
        assert_eq!(
            bench.admin_text("GET", "/tyk/apis/nosuch", "").await,
            not_found
        );
        let create = definition("new1", "new1");
        let added = bench.admin_text("POST", "/tyk/apis", &create).await;
        assert_eq!(added, modified("new1", "added"));
        assert_eq!(bench.files(), ["api1.json", "new1.json"]);
        assert_eq!(
            bench.admin_text("GET", "/tyk/apis/new1", "").await,
            not_found,
            "no reload"
        );
        assert_eq!(reload().await, 200);
        let rename = definition("new1", "renamed");
        let update = bench.admin_text("PUT", "/tyk/apis/new1", &rename).await;
        assert_eq!(update, modified("new1", "modified"));
        let other = bench
            .admin_text("PUT", "/tyk/apis/new1", &definition("other", "x"))
            .await;
        let mismatch = "Request APIID does not match that in Definition! For Update operations \
                        these must match.";
        assert_eq!(other, (400, refused(mismatch)));
        let nosuch = bench
            .admin_text("PUT", "/tyk/apis/nosuch", &definition("nosuch", "x"))
            .await;
        assert_eq!(nosuch, not_found);
        assert_eq!(reload().await, 200);
        let read: serde_json::Value =
            serde_json::from_str(&bench.admin_text("GET", "/tyk/apis/new1", "").await.1).unwrap();
        assert_eq!(read["name"], "renamed");
        let malformed = (400, refused("Request malformed"));
        assert_eq!(
            bench.admin_text("POST", "/tyk/apis", "{oops").await,
            malformed
        );
        assert_eq!(
            bench.admin_text("PUT", "/tyk/apis/new1", "[]").await,
            malformed
        );
        let deleted = bench.admin_text("DELETE", "/tyk/apis/new1", "").await;
        assert_eq!(deleted, modified("new1", "deleted"));
        assert_eq!(bench.files(), ["api1.json"]);
        let again = bench.admin_text("DELETE", "/tyk/apis/new1", "").await;
        assert_eq!(
            again,
            (500, refused("Delete failed")),
            "its file is gone already"
        );
        assert_eq!(
            bench.admin_text("DELETE", "/tyk/apis/nosuch", "").await,
            not_found
        );
    });
}

#[test]
fn a_definition_without_id_gets_one() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        // The id in the path is not read, as in Tyk.
        for target in ["/tyk/apis", "/tyk/apis/ignored"] {
            let (status, body) = bench
                .admin_text("POST", target, r#"{"name": "auto"}"#)
                .await;
            assert_eq!(status, 200);
            let found: serde_json::Value = serde_json::from_str(&body).unwrap();
            let id = found["key"].as_str().unwrap();
            assert_eq!(id.len(), 32);
            let file = fs::read(bench.dir.join(format!("apps/{id}.json"))).unwrap();
            let written = ApiDefinition::from_json_slice(&file).unwrap();
            assert_eq!(
                (written.api_id.as_str(), written.name.as_str()),
                (id, "auto")
            );
        }
    });
}

#[test]
fn rules_are_named_in_tyks_words() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let body = r#"{"api_id": "a", "enable_ip_whitelisting": true, "allowed_ips": ["x<y"]}"#;
        let reason = "Validation of API Definition failed. Reason: invalid IP/CIDR \
                      \\\"x\\u003cy\\\".";
        let answer = bench.admin_text("POST", "/tyk/apis", body).await;
        assert_eq!(answer, (400, refused(reason)));
        assert_eq!(bench.files(), ["api1.json"]);
    });
}

#[test]
fn no_name_leaves_the_folder() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let before = fs::read_dir(&bench.dir).unwrap().count();
        let ids = [
            "../out",
            "../../out",
            "..",
            ".",
            "./out",
            "/tmp/out",
            "a/b",
            "a/../../out",
            ".out",
            "..\\out",
            "a\\b",
            "a\\u0000b",
            "\\u0000",
            "a\\nb",
            "a..b",
            "...",
            "....//out",
            "x-oas",
            "/",
            "//",
            "\\\\",
            "\\\\\\\\host\\\\x",
            "C:\\\\out",
            "~/../out",
            "%2e%2e/out",
            "..;/out",
            "out/",
            "a\\u007f",
            "a\\u2028/../b",
            "file:///out",
        ];
        assert_eq!(ids.len(), 30);
        for id in ids {
            let (status, body) = bench
                .admin_text("POST", "/tyk/apis", &format!(r#"{{"api_id": "{id}"}}"#))
                .await;
            assert_eq!(status, 400, "{id}: {body}");
        }
        let long = format!(r#"{{"api_id": "{}"}}"#, "a".repeat(251));
        assert_eq!(bench.admin("POST", "/tyk/apis", &long).await.status, 400);
        for id in [
            "..%2fout",
            "%2e%2e%2fout",
            "..%5cout",
            "%2fetc%2fpasswd",
            "a%00b",
            "%2e",
            "%2e%2e",
            ".out",
            "..",
            "a%0ab",
        ] {
            for method in ["PUT", "DELETE"] {
                let answer = bench.admin(method, &format!("/tyk/apis/{id}"), "{}").await;
                assert_eq!(answer.status, 400, "{method} {id}");
            }
            assert_eq!(
                bench
                    .admin("GET", &format!("/tyk/apis/{id}"), "")
                    .await
                    .status,
                404
            );
        }
        assert_eq!(bench.files(), ["api1.json"]);
        assert_eq!(fs::read_dir(&bench.dir).unwrap().count(), before);
    });
}

#[test]
fn a_disk_that_refuses_is_told_with_its_cause() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        fs::remove_dir_all(bench.dir.join("apps")).unwrap();
        let answer = bench
            .admin_text("POST", "/tyk/apis", &definition("a", "a"))
            .await;
        let cause = "file object creation failed, write error: No such file or directory \
                     (os error 2)";
        assert_eq!(answer, (500, refused(cause)));
    });
}

#[test]
fn versions_are_children_of_their_base() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let reload = async || {
            bench
                .admin("GET", "/tyk/reload?block=true", "")
                .await
                .status
        };
        let versions = async |target: &str| bench.admin_text("GET", target, "").await;
        let alone = concat!(
            r#"{"status":"success","apis":[{"id":"api1","name":"api1","versionName":"","#,
            r#""internal":false,"expirationDate":"","isDefaultVersion":true}]}"#,
            "\n"
        );
        assert_eq!(
            versions("/tyk/apis/api1/versions").await,
            (200, alone.to_owned())
        );
        assert_eq!(
            versions("/tyk/apis/x/versions").await,
            (404, refused("API not found"))
        );
        let target = "/tyk/apis?base_api_id=api1&base_api_version_name=v1&new_version_name=v2\
                      &set_default=true";
        let added = bench
            .admin_text("POST", target, &definition("two", "two"))
            .await;
        assert_eq!(added, modified("two", "added"));
        let target = "/tyk/apis?base_api_id=api1&new_version_name=v3";
        let before_reload = bench
            .admin("POST", target, &definition("three", "three"))
            .await;
        assert_eq!(before_reload.status, 200);
        assert_eq!(
            bench.admin("DELETE", "/tyk/apis/three", "").await.status,
            404
        );
        assert_eq!(reload().await, 200);
        assert_eq!(bench.gateway.definitions()[0].definition.versions.len(), 2);
        assert_eq!(
            bench.admin("DELETE", "/tyk/apis/three", "").await.status,
            200
        );
        assert_eq!(reload().await, 200);
        let base = bench.gateway.definitions();
        let base = base.iter().find(|api| api.api_id == "api1").unwrap();
        let written = &base.definition;
        assert!(written.enabled);
        assert_eq!(written.key, "x-api-version");
        assert_eq!(written.location, "header");
        assert_eq!(
            (written.name.as_str(), written.default.as_str()),
            ("v1", "v2")
        );
        assert_eq!(written.versions.get("v2").map(String::as_str), Some("two"));
        for id in ["api1", "two"] {
            let (_, body) = versions(&format!("/tyk/apis/{id}/versions")).await;
            let found: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(found["apis"].as_array().unwrap().len(), 2, "{body}");
            assert_eq!(found["apis"][1]["versionName"], "v2");
            assert_eq!(found["apis"][1]["isDefaultVersion"], true);
            assert_eq!(found["apis"][0]["isDefaultVersion"], false);
        }
        let (_, body) = versions("/tyk/apis/api1/versions?accessType=internal").await;
        assert_eq!(body, "{\"status\":\"success\",\"apis\":null}\n");
        let (_, body) = versions("/tyk/apis/api1/versions?searchText=TWO").await;
        assert!(body.contains("two") && !body.contains("\"api1\""), "{body}");
        let child = bench.admin("GET", "/tyk/apis/two", "").await;
        assert_eq!(header(&child, "X-Tyk-Base-Api-Id"), Some("api1"));
        assert_eq!(bench.admin("DELETE", "/tyk/apis/two", "").await.status, 200);
        assert_eq!(reload().await, 200);
        let base = bench.gateway.definitions();
        assert!(base[0].definition.versions.is_empty());
        assert_eq!(base[0].definition.default, "v1");
    });
}

#[test]
fn openapi_definitions_are_told_apart() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        let classic = "the requested API definition is in Tyk classic format, please use old api \
                       endpoint";
        let read = bench.admin_text("GET", "/tyk/apis/oas/api1", "").await;
        assert_eq!(read, (400, refused(classic)));
        let unknown = bench.admin_text("GET", "/tyk/apis/oas/nosuch", "").await;
        assert_eq!(unknown, (404, refused("API not found")));
        assert_eq!(
            bench.admin_text("GET", "/tyk/apis/oas", "").await,
            (200, "[]\n".to_owned())
        );
        for (method, target) in [("POST", "/tyk/apis/oas"), ("PUT", "/tyk/apis/oas/api1")] {
            assert_eq!(
                bench.admin(method, target, "").await.status,
                501,
                "{method} {target}"
            );
        }
    });
}

#[test]
fn the_content_limit_is_exact() {
    run(async {
        let limit = |config: &mut Config| config.http_server_options.max_request_body_size = 10;
        let bench = Bench::new(limit).await;
        assert_eq!(bench.control.content_bytes_max(), 10);
        let check = async |bytes: usize, expected: u16| {
            let answer = bench.admin("POST", "/tyk/apis", &"x".repeat(bytes)).await;
            assert_eq!(answer.status, expected, "{bytes} bytes");
            answer
        };
        check(9, 400).await;
        check(10, 400).await;
        assert_eq!(text(check(11, 413).await).1, "Request Entity Too Large\n");
        let default = Bench::new(|_| ()).await.control.content_bytes_max();
        assert_eq!(default, 10 * 1024 * 1024);
    });
}

#[test]
fn a_large_definition_within_the_limit_is_taken() {
    run(async {
        // axum has a smaller limit of its own, which must not apply.
        let bench = Bench::new(|_| ()).await;
        let body = format!(r#"{{"api_id": "big", "name": "{}"}}"#, "x".repeat(3 << 20));
        assert_eq!(bench.admin("POST", "/tyk/apis", &body).await.status, 200);
    });
}

#[test]
fn changes_are_refused_while_the_store_is_handed_over() {
    run(async {
        let bench = Bench::new(|_| ()).await;
        bench.owner.release().await.unwrap();
        let answer = bench
            .admin("POST", "/tyk/apis", &definition("a", "a"))
            .await;
        assert_eq!(answer.status, 503);
        assert_eq!(header(&answer, "Retry-After"), Some("1"));
        assert_eq!(
            bench.admin("DELETE", "/tyk/apis/api1", "").await.status,
            503
        );
        assert_eq!(bench.files(), ["api1.json"]);
        assert_eq!(bench.admin("GET", "/tyk/apis", "").await.status, 200);
        assert_eq!(bench.send("GET", "/hello", &[], "").await.status, 200);
        bench.owner.acquire().await.unwrap();
        assert_eq!(
            bench.admin("DELETE", "/tyk/apis/api1", "").await.status,
            200
        );
    });
}

#[test]
fn a_control_hostname_hides_the_control_api_from_other_hosts() {
    run(async {
        let name = |config: &mut Config| config.control_api_hostname = "admin.test".to_owned();
        let bench = Bench::new(name).await;
        let send = async |target: &str, host: &str| {
            let fields = [("Host", host), ("X-Tyk-Authorization", SECRET)];
            bench.send("GET", target, &fields, "").await.status
        };
        assert_eq!(send("/tyk/apis", "admin.test").await, 200);
        assert_eq!(send("/tyk/apis", "ADMIN.test:8080").await, 200);
        assert_eq!(send("/tyk/apis", "api.test").await, 404);
        assert_eq!(send("/tyk/apis", "[::1]").await, 404);
        assert_eq!(send("/hello", "api.test").await, 200);
    });
}

#[test]
fn json_is_written_as_go_writes_it() {
    let check = |json: &str, expected: &str| {
        let written = as_go(json.as_bytes().to_vec());
        assert_eq!(String::from_utf8(written).unwrap(), format!("{expected}\n"));
    };
    check(r#"{"a":"b"}"#, r#"{"a":"b"}"#);
    check(r#""<a&b>""#, r#""\u003ca\u0026b\u003e""#);
    check(
        "\"\u{2028}\u{2029}\u{2027}é\"",
        "\"\\u2028\\u2029\u{2027}é\"",
    );
}
