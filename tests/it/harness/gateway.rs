//! One gateway process with a folder of its own: `tyk.conf`, `apps/`, the log, the embedded store.
//!
//! `PENSTOCK_TEST_DRIVER` (`auto` or `epoll`) chooses the io driver of every gateway started here,
//! so that one suite runs on both.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Client, PATIENCE, RedisServer, Response, TempDir, eventually, within};

pub const SECRET: &str = "black-box-secret";

/// What to start; every part has a default that serves.
pub struct Setup {
    conf: Value,
    apis: Vec<Value>,
    env: Vec<(String, String)>,
    binary: Option<PathBuf>,
    descriptors: Option<u32>,
    panics_expected: bool,
}

impl Setup {
    pub fn new() -> Self {
        Self {
            conf: json!({}),
            apis: Vec::new(),
            env: Vec::new(),
            binary: None,
            descriptors: None,
            panics_expected: false,
        }
    }

    /// One API called `w` under `/w/`, listen path stripped, in front of an origin at this port.
    pub fn in_front_of(origin: u16) -> Self {
        Self::new().api(api("w", &format!("http://127.0.0.1:{origin}")))
    }

    /// Merges into `tyk.conf`.
    pub fn conf(mut self, more: Value) -> Self {
        merge(&mut self.conf, more);
        self
    }

    /// Keys, counters and records lie in this server.
    pub fn on_redis(self, redis: &RedisServer) -> Self {
        self.conf(json!({
            "storage": {"type": "redis", "host": "127.0.0.1", "port": redis.port(), "timeout": 1},
        }))
    }

    /// Merges into `penstock.limits`.
    pub fn limits(self, limits: Value) -> Self {
        self.conf(json!({"penstock": {"limits": limits}}))
    }

    pub fn api(mut self, api: Value) -> Self {
        self.apis.push(api);
        self
    }

    /// Merges into the definition added last.
    pub fn with(mut self, more: Value) -> Self {
        merge(self.apis.last_mut().expect("an API was added before"), more);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts this file instead of the built binary.
    pub fn binary(mut self, path: PathBuf) -> Self {
        self.binary = Some(path);
        self
    }

    /// Lets the process have so many file descriptors.
    pub fn descriptors(mut self, count: u32) -> Self {
        self.descriptors = Some(count);
        self
    }

    /// Without this, a panic in the gateway's log fails the test, even when the gateway caught it.
    #[cfg_attr(
        not(feature = "fault-injection"),
        allow(dead_code, reason = "for builds that panic on purpose")
    )]
    pub fn panics_expected(mut self) -> Self {
        self.panics_expected = true;
        self
    }

    /// Starts and waits until `/ready` answers 200.
    #[track_caller]
    pub fn start(self) -> Gateway {
        let mut last = String::new();
        // A port that was free a moment ago may be taken; then another is tried.
        for _ in 0..5 {
            let mut gateway = self.spawn();
            let up = within(PATIENCE * 2, || {
                if gateway.child.try_wait().ok().flatten().is_some() {
                    return Some(false);
                }
                gateway
                    .try_get("/ready")
                    .filter(|r| r.status == 200)
                    .map(|_| true)
            });
            if up == Some(true) {
                return gateway;
            }
            last = gateway.log();
            gateway.panics_expected = true;
            let lost = last.to_lowercase().contains("in use");
            if up.is_none() || !lost {
                break;
            }
        }
        panic!("the gateway did not become ready; its log:\n{last}");
    }

    /// Starts without waiting; for tests about a start that must fail.
    pub fn spawn(&self) -> Gateway {
        let dir = TempDir::new("gateway");
        let port = free_port();
        let mut conf = json!({
            "listen_address": "127.0.0.1",
            "listen_port": port,
            "secret": SECRET,
            "node_secret": SECRET,
            "app_path": dir.path().join("apps"),
            "use_db_app_configs": false,
            "enable_analytics": false,
            "hash_keys": false,
            "pid_file_location": dir.path().join("gateway.pid"),
            "http_server_options": {"enable_websockets": true},
            "policies": {
                "policy_source": "file",
                "policy_record_name": dir.path().join("policies.json"),
            },
            "penstock": {
                "shards": 2,
                "store_path": dir.path().join("store"),
                "io_driver": driver(),
            },
        });
        merge(&mut conf, self.conf.clone());
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("inside the folder")).expect("a folder");
            fs::write(path, text).expect("the temporary folder can be written");
        };
        fs::create_dir_all(dir.path().join("apps")).expect("a folder");
        write("tyk.conf", &pretty(&conf));
        write("policies.json", "{}");
        for api in &self.apis {
            let id = api["api_id"].as_str().expect("an id");
            write(&format!("apps/{id}.json"), &pretty(api));
        }
        let binary = self.binary.clone().unwrap_or_else(built_binary);
        let log = fs::File::create(dir.path().join("gateway.log")).expect("a log file");
        let mut command = match self.descriptors {
            None => Command::new(&binary),
            Some(count) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh"]);
                shell.arg(count.to_string()).arg(&binary);
                shell
            }
        };
        command
            .args(["--conf".as_ref(), dir.path().join("tyk.conf").as_os_str()])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .process_group(0)
            .envs(self.env.iter().cloned());
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("start {}: {e}", binary.display()));
        Gateway {
            port,
            dir,
            child,
            command,
            panics_expected: self.panics_expected,
        }
    }
}

pub struct Gateway {
    port: u16,
    dir: TempDir,
    /// The process started first; upgrades leave others behind, in the same process group.
    child: Child,
    command: Command,
    panics_expected: bool,
}

impl Gateway {
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir.path().join("gateway.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// `GET` on a connection of its own.
    pub fn get(&self, path: &str) -> Response {
        self.client().get(path)
    }

    /// `GET` with a key on a connection of its own.
    pub fn keyed(&self, path: &str, key: &str) -> Response {
        self.client().keyed(path, key)
    }

    /// Makes or replaces a key with this name in `org1`: unlimited at every API, but for `session`.
    #[track_caller]
    pub fn make_key(&self, name: &str, session: Value) {
        let mut all = json!({
            "org_id": "org1", "rate": 0, "per": 0, "quota_max": -1,
            "access_rights": {"w": {"api_id": "w", "api_name": "w", "versions": ["Default"]}},
        });
        merge(&mut all, session);
        let answer = self.admin("POST", &format!("/tyk/keys/{name}"), &all.to_string());
        assert_eq!(answer.status, 200, "key {name}: {}", answer.summary());
    }

    /// `None` when the connection is refused.
    pub fn try_get(&self, path: &str) -> Option<Response> {
        Client::try_connect(self.port).ok().map(|mut c| c.get(path))
    }

    /// A request with the secret to a path under `/tyk`.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> Response {
        let mut client = self.client();
        client.send(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: a\r\nX-Tyk-Authorization: {SECRET}\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        client.read(method)
    }

    /// A reload that is in force when this returns.
    #[track_caller]
    pub fn reload(&self) {
        let answer = self.admin("GET", "/tyk/reload/?block=true", "");
        assert_eq!(answer.status, 200, "reload: {}", answer.summary());
    }

    pub fn write_api(&self, api: &Value) {
        let id = api["api_id"].as_str().expect("an id");
        self.write(&format!("apps/{id}.json"), &pretty(api));
    }

    pub fn remove_api(&self, id: &str) {
        fs::remove_file(self.dir().join(format!("apps/{id}.json"))).expect("the file was there");
    }

    /// Writes a file in the gateway's folder, whole or not at all.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.dir().join(name);
        let aside = path.with_extension("aside");
        fs::write(&aside, text).expect("the temporary folder can be written");
        fs::rename(aside, path).expect("the temporary folder can be written");
    }

    /// Merges into `tyk.conf` for the next start or upgrade.
    pub fn change_conf(&self, more: Value) {
        let path = self.dir().join("tyk.conf");
        let text = fs::read_to_string(path).expect("it was written at start");
        let mut conf: Value = serde_json::from_str(&text).expect("it was written at start");
        merge(&mut conf, more);
        self.write("tyk.conf", &pretty(&conf));
    }

    /// Sum over all labels of this metric; `None` when there is none.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let all = self.series(name);
        (!all.is_empty()).then(|| all.values().sum())
    }

    /// The values of this metric by their labels, as they are written.
    pub fn series(&self, name: &str) -> BTreeMap<String, f64> {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "/metrics: {}", answer.summary());
        let mut all = BTreeMap::new();
        for line in answer.text().lines().filter(|l| !l.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let (metric, labels) = series.split_once('{').unwrap_or((series, ""));
            if metric == name {
                let value = value.parse::<f64>().expect("a number");
                all.insert(labels.trim_end_matches('}').to_owned(), value);
            }
        }
        all
    }

    /// The process that answers now, by its pid file.
    pub fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.dir().join("gateway.pid")).unwrap_or_default();
        text.trim().parse().unwrap_or_else(|_| self.child.id())
    }

    /// Sends `USR2`, `TERM` … to the process that answers now.
    pub fn signal(&self, name: &str) {
        signal(name, &self.pid().to_string());
    }

    /// Ends the first process as a crash does and starts it again at once; does not wait for it.
    pub fn kill_and_start_again(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = self.command.spawn().expect("it could be started before");
    }

    /// Waits until a process other than `old` has written the pid file and `old` is gone.
    #[track_caller]
    pub fn successor_of(&mut self, old: u32) -> u32 {
        let new = eventually("another process writes its pid", || {
            Some(self.pid()).filter(|pid| *pid != old)
        });
        eventually("the old process leaves", || self.is_gone(old).then_some(()));
        new
    }

    /// Whether a process has ended (a zombie of ours counts as ended).
    pub fn is_gone(&mut self, pid: u32) -> bool {
        if pid == self.child.id() {
            return self.child.try_wait().expect("our own child").is_some();
        }
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => true,
            Ok(stat) => stat
                .rsplit(')')
                .next()
                .is_some_and(|s| s.trim_start().starts_with('Z')),
        }
    }

    /// Waits for the first process to end; answers its exit code.
    #[allow(
        clippy::option_option,
        reason = "whether it ended, and whether with a code"
    )]
    pub fn exit_code(&mut self, limit: Duration) -> Option<Option<i32>> {
        within(limit, || self.child.try_wait().expect("our own child")).map(|s| s.code())
    }

    /// Resident memory of the serving process in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("RssAnon:"))
            .unwrap_or("0");
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number of kB")
    }

    /// Open descriptors of the serving process.
    pub fn open_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The group holds the first process and all its successors, and nothing else.
        signal("KILL", &format!("-{}", self.child.id()));
        let _ = self.child.wait();
        let log = self.log();
        if thread::panicking() {
            let from = log.floor_char_boundary(log.len().saturating_sub(4000));
            eprintln!("--- end of the gateway's log\n{}", &log[from..]);
        } else if !self.panics_expected {
            let panicked = log.lines().find(|l| l.contains("panicked at"));
            assert!(panicked.is_none(), "the gateway panicked: {panicked:?}");
        }
    }
}

/// A keyless definition, active, unversioned: `/<id>/` is stripped and goes to `target`.
pub fn api(id: &str, target: &str) -> Value {
    json!({
        "api_id": id,
        "name": id,
        "slug": id,
        "org_id": "org1",
        "active": true,
        "use_keyless": true,
        "definition": {"location": "header", "key": "x-api-version"},
        "version_data": {
            "not_versioned": true,
            "versions": {"Default": {"name": "Default", "use_extended_paths": true}},
        },
        "proxy": {"listen_path": format!("/{id}/"), "target_url": target, "strip_listen_path": true},
    })
}

/// As [`api`], for keys in `Authorization`.
pub fn keyed_api(id: &str, target: &str) -> Value {
    let mut api = api(id, target);
    let keyed = json!({
        "use_keyless": false,
        "use_standard_auth": true,
        "auth": {"auth_header_name": "Authorization"},
    });
    merge(&mut api, keyed);
    api
}

/// A port that nothing listens on at this moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// `PENSTOCK_BINARY` names another build of the gateway to put the same questions to.
pub fn built_binary() -> PathBuf {
    let built = || env!("CARGO_BIN_EXE_penstock").into();
    std::env::var_os("PENSTOCK_BINARY")
        .unwrap_or_else(built)
        .into()
}

fn driver() -> String {
    std::env::var("PENSTOCK_TEST_DRIVER").unwrap_or_else(|_| "auto".to_owned())
}

/// `kill` is a shell builtin everywhere; a negative `to` is a process group.
pub fn signal(name: &str, to: &str) {
    let line = format!("kill -s {name} -- {to}");
    let _ = Command::new("sh")
        .args(["-c", &line])
        .stderr(Stdio::null())
        .status();
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("a value prints")
}

/// Objects are merged member by member, everything else is replaced.
pub fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}
