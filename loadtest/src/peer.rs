//! The proxies under test: their configuration files, their processes, their end.
//!
//! Everything a peer writes lies in a folder of its own below the system's temporary folder, which goes with it.
//! Ports are chosen free, addresses are loopback. Each peer starts pinned to the proxy core.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    keys::{self, Through},
    probe,
    process::{self, Tree},
    redis::{Redis, Server},
    scenario::{Candidate, Kind, StoreKind},
    sys::{self, ChildSetup},
};

/// Secret of the gateways under test; they listen on loopback only and live for one run.
pub const SECRET: &str = "loadtest-secret";

/// Cores, limits and binaries of one run.
#[derive(Clone, Debug)]
pub struct Bench {
    /// By candidate name or else by kind; nginx, haproxy and redis-server have defaults.
    pub binaries: BTreeMap<String, PathBuf>,
    /// `None` leaves a process where the scheduler puts it.
    pub proxy_core: Option<usize>,
    pub load_core: Option<usize>,
    /// Descriptor limit the peers inherit.
    pub descriptors: u64,
    /// Keeps the peers' folders for inspection.
    pub keeps_folders: bool,
}

impl Bench {
    /// The binary a candidate is started from, if there is one on this machine.
    pub fn binary(&self, candidate: &Candidate) -> Option<PathBuf> {
        let kind = match candidate.kind {
            Kind::Penstock => "penstock",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::Tyk => "tyk",
            Kind::Direct => return std::env::current_exe().ok(),
        };
        self.tool(&candidate.name).or_else(|| self.tool(kind))
    }

    /// A program by the name it was given on the command line, or from the usual folders.
    pub fn tool(&self, name: &str) -> Option<PathBuf> {
        if let Some(path) = self.binaries.get(name) {
            return Some(path.clone());
        }
        if !matches!(name, "nginx" | "haproxy" | "redis-server") {
            return None;
        }
        ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
            .iter()
            .map(|folder| Path::new(folder).join(name))
            .find(|path| path.exists())
    }
}

/// Files and command line of one peer: can be started any number of times, one after the other.
pub struct Prepared {
    pub name: String,
    pub kind: Kind,
    pub address: SocketAddr,
    /// Listen path of the target API, with both slashes.
    pub base_path: String,
    pub folder: Folder,
    pub core: Option<usize>,
    pub descriptors_max: u64,
    pub request_fields: BTreeMap<String, String>,
    binary: PathBuf,
    args: Vec<String>,
    candidate: Candidate,
    /// A Redis of its own.
    companion: Option<Server>,
    companion_folder: Option<Folder>,
    /// The Redis its file names.
    redis: Option<SocketAddr>,
    /// Programs and arguments before the binary, such as valgrind's.
    wrapper: Vec<String>,
}

/// A process of ours and what belongs to it; ended when dropped.
pub struct Running {
    pub name: String,
    child: Child,
    folder: PathBuf,
}

/// A folder that is removed when dropped.
pub struct Folder {
    path: PathBuf,
    keep: bool,
}

/// Time a started peer has to become ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

const NGINX: &str = include_str!("../configs/nginx.conf");
const HAPROXY: &str = include_str!("../configs/haproxy.cfg");
const PENSTOCK: &str = include_str!("../configs/penstock.json");
const TYK: &str = include_str!("../configs/tyk.json");
const API: &str = include_str!("../configs/api.json");

impl Prepared {
    /// Writes the files of `candidate` in front of `origin`, with a Redis of its own if it wants one.
    pub fn new(candidate: &Candidate, bench: &Bench, origin: SocketAddr) -> io::Result<Self> {
        let wants_redis = candidate.store == StoreKind::Redis || candidate.kind == Kind::Tyk;
        if !wants_redis {
            return Self::beside(candidate, bench, origin, None);
        }
        let folder = Folder::new("redis", bench.keeps_folders)?;
        let server = Server::start(bench, folder.path(), &[])?;
        let mut prepared = Self::beside(candidate, bench, origin, Some(server.address))?;
        prepared.companion = Some(server);
        prepared.companion_folder = Some(folder);
        Ok(prepared)
    }

    /// As [`Prepared::new`] with a Redis that somebody else holds, or none.
    pub fn beside(
        candidate: &Candidate,
        bench: &Bench,
        origin: SocketAddr,
        redis: Option<SocketAddr>,
    ) -> io::Result<Self> {
        let binary = bench
            .binary(candidate)
            .ok_or_else(|| io::Error::other(format!("{}: no binary given", candidate.name)))?;
        let folder = Folder::new(&candidate.name, bench.keeps_folders)?;
        let dir = folder.path().display().to_string();
        let address = match candidate.kind {
            Kind::Direct => origin,
            _ => sys::free_address()?,
        };
        let mut prepared = Self {
            name: candidate.name.clone(),
            kind: candidate.kind,
            address,
            base_path: listen_path(candidate.apis, candidate.apis / 2),
            core: bench.proxy_core,
            descriptors_max: bench.descriptors,
            request_fields: candidate.request_fields.clone(),
            binary,
            args: Vec::new(),
            candidate: candidate.clone(),
            companion: None,
            companion_folder: None,
            redis,
            wrapper: Vec::new(),
            folder,
        };
        let port = address.port().to_string();
        let mut names = BTreeMap::from([
            ("dir", dir.clone()),
            ("listen", address.to_string()),
            ("port", port),
            ("origin", origin.to_string()),
            ("secret", SECRET.to_owned()),
            ("user", "root".to_owned()),
            ("descriptors", bench.descriptors.to_string()),
            ("connections", connections_max(bench.descriptors)),
        ]);
        match candidate.kind {
            Kind::Direct => prepared.base_path = "/".to_owned(),
            Kind::Nginx => {
                let routes = (0..candidate.apis).map(|nth| {
                    let path = listen_path(candidate.apis, nth);
                    format!("        location {path} {{ proxy_pass http://origin/; }}")
                });
                names.insert("routes", join_lines(routes));
                prepared.write("nginx.conf", fill(NGINX, &names))?;
                prepared.args = vec![
                    "-p".into(),
                    dir.clone(),
                    "-c".into(),
                    format!("{dir}/nginx.conf"),
                ];
            }
            Kind::Haproxy => {
                prepared.write_haproxy(&mut names, origin)?;
                prepared.args = vec!["-db".into(), "-f".into(), format!("{dir}/haproxy.cfg")];
            }
            Kind::Penstock | Kind::Tyk => {
                if let Some(redis) = redis {
                    names.insert("redis_port", redis.port().to_string());
                }
                if candidate.kind == Kind::Tyk {
                    for empty in ["templates", "middleware"] {
                        fs::create_dir_all(prepared.folder.path().join(empty))?;
                    }
                    prepared.write("policies.json", "{}".to_owned())?;
                    prepared.write(
                        "templates/error.json",
                        "{\"error\":\"{{.Message}}\"}".into(),
                    )?;
                }
                let template = match candidate.kind {
                    Kind::Tyk => TYK,
                    _ => PENSTOCK,
                };
                let mut conf = fill_json(template, &names)?;
                if let (Kind::Penstock, Some(redis)) = (candidate.kind, redis) {
                    let storage =
                        json!({"type": "redis", "host": "127.0.0.1", "port": redis.port()});
                    merge(
                        &mut conf,
                        &json!({"storage": storage, "node_secret": SECRET}),
                    );
                }
                merge(&mut conf, &candidate.conf);
                prepared.write("tyk.conf", serde_json::to_string_pretty(&conf)?)?;
                fs::create_dir_all(prepared.folder.path().join("apps"))?;
                for nth in 0..candidate.apis {
                    prepared.write_api(nth, origin, &Value::Null)?;
                }
                if candidate.keys.is_some() {
                    let first = ("Authorization".to_owned(), keys::name(0));
                    prepared.request_fields.extend([first]);
                }
                prepared.args = vec!["--conf".into(), format!("{dir}/tyk.conf")];
            }
        }
        Ok(prepared)
    }

    /// Writes (again) the nth API definition, with `extra` merged in.
    pub fn write_api(&self, nth: usize, origin: SocketAddr, extra: &Value) -> io::Result<()> {
        let id = api_id(nth);
        let names = BTreeMap::from([
            ("id", id.clone()),
            ("listen_path", listen_path(self.candidate.apis, nth)),
            ("origin", origin.to_string()),
        ]);
        let mut api = fill_json(API, &names)?;
        if self.candidate.keys.is_some() {
            merge(&mut api, &keyed_api());
        }
        merge(&mut api, &self.candidate.api);
        merge(&mut api, extra);
        self.write(&format!("apps/{id}.json"), serde_json::to_string(&api)?)
    }

    /// Removes the nth API definition.
    pub fn remove_api(&self, nth: usize) -> io::Result<()> {
        fs::remove_file(
            self.folder
                .path()
                .join(format!("apps/{}.json", api_id(nth))),
        )
    }

    /// Listen path of the nth generated API.
    pub fn listen_path(&self, nth: usize) -> String {
        listen_path(self.candidate.apis, nth)
    }

    /// The process the peer's pid file names, when it is alive and ours by its command line.
    pub fn pid_in_file(&self) -> Option<i32> {
        let name = match self.kind {
            Kind::Penstock => "penstock.pid",
            Kind::Tyk => "tyk.pid",
            Kind::Nginx => "nginx.pid",
            Kind::Haproxy | Kind::Direct => return None,
        };
        let text = fs::read_to_string(self.folder.path().join(name)).ok()?;
        let pid = text.trim().parse().ok()?;
        self.owns(pid).then_some(pid)
    }

    /// Whether a process is alive and was started with this peer's files.
    pub fn owns(&self, pid: i32) -> bool {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        process::is_alive(pid) && line.contains(&self.folder.path().display().to_string())
    }

    /// Lets nginx and HAProxy check their own file; gateways say nothing before they start.
    pub fn check_files(&self) -> io::Result<()> {
        let dir = self.folder.path().display().to_string();
        let args: Vec<String> = match self.kind {
            Kind::Nginx => vec![
                "-t".into(),
                "-q".into(),
                "-p".into(),
                dir.clone(),
                "-c".into(),
                format!("{dir}/nginx.conf"),
            ],
            Kind::Haproxy => vec!["-c".into(), "-f".into(), format!("{dir}/haproxy.cfg")],
            _ => return Ok(()),
        };
        let output = Command::new(&self.binary).args(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // HAProxy warns with status 0; a warning means that the file is not what we think.
        if !output.status.success() || said.contains("WARNING") {
            return Err(io::Error::other(format!("{}: {said}", self.name)));
        }
        Ok(())
    }

    /// Starts the process without waiting for it. `Direct` has none.
    pub fn spawn(&self) -> io::Result<Option<Running>> {
        if self.kind == Kind::Direct {
            return Ok(None);
        }
        let setup = ChildSetup {
            core: self.core,
            descriptors_max: Some(self.descriptors_max),
            die_with_parent: true,
        };
        let mut command = match &self.wrapper[..] {
            [] => Command::new(&self.binary),
            [wrapper, args @ ..] => {
                let mut command = Command::new(wrapper);
                command.args(args).arg(&self.binary);
                command
            }
        };
        command.args(&self.args).current_dir(self.folder.path());
        if self.kind == Kind::Tyk {
            command.env("GOMAXPROCS", "1");
        }
        Running::spawn(&self.name, command, self.folder.path(), setup).map(Some)
    }

    /// Runs the process under another program.
    pub fn wrap(&mut self, wrapper: Vec<String>) {
        self.wrapper = wrapper;
    }

    /// Starts the process and returns once the target API answers and the set-up calls are made.
    pub fn start(&self) -> io::Result<Option<Running>> {
        self.start_within(READY_LIMIT)
    }

    /// As [`Prepared::start`] with as much time as it may take.
    pub fn start_within(&self, limit: Duration) -> io::Result<Option<Running>> {
        let running = self.spawn()?;
        self.await_ready_within(running.as_ref(), limit)?;
        Ok(running)
    }

    /// Waits until the target API answers (or, with set-up calls, until they succeed and it then does).
    pub fn await_ready(&self, running: Option<&Running>) -> io::Result<()> {
        self.await_ready_within(running, READY_LIMIT)
    }

    fn await_ready_within(&self, running: Option<&Running>, limit: Duration) -> io::Result<()> {
        let explain = |e: io::Error| {
            let log = running.map(Running::log_tail).unwrap_or_default();
            io::Error::new(e.kind(), format!("{}: {e}\n{log}", self.name))
        };
        let auth = [("x-tyk-authorization", SECRET)];
        if !self.candidate.setup.is_empty() || self.candidate.keys.is_some() {
            probe::until_ready(self.address, "/hello", &[], limit).map_err(explain)?;
        }
        for call in &self.candidate.setup {
            let body = match &call.body {
                Value::Null => Vec::new(),
                body => serde_json::to_vec(body)?,
            };
            let answer =
                probe::request(self.address, &call.method, &call.path, &auth, &body, limit)
                    .map_err(explain)?;
            if !(200..300).contains(&answer.status) {
                let text = String::from_utf8_lossy(&answer.body).into_owned();
                let what = format!("{} {}: {} {text}", call.method, call.path, answer.status);
                return Err(explain(io::Error::other(what)));
            }
        }
        self.fill_store().map_err(explain)?;
        let fields: Vec<(&str, &str)> = self
            .request_fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        probe::until_ready(self.address, &self.base_path, &fields, limit).map_err(explain)?;
        Ok(())
    }

    /// Brings the candidate's keys into its store.
    fn fill_store(&self) -> io::Result<()> {
        let Some(keys) = &self.candidate.keys else {
            return Ok(());
        };
        let names: Vec<String> = (0..keys.count).map(keys::name).collect();
        let session = keys.session(self.candidate.apis);
        match (self.redis, keys.through) {
            (Some(redis), Through::Store) => {
                keys::write(&mut Redis::connect(redis)?, &names, &session)
            }
            _ => keys::create(self.address, &names, &session),
        }
    }

    /// The process that works beside the peer (its Redis).
    pub fn companion(&self) -> Option<&Running> {
        self.companion.as_ref().and_then(Server::running)
    }

    /// The Redis its file names.
    pub fn redis(&self) -> Option<SocketAddr> {
        self.redis
    }

    /// Makes a started peer read its files again; returns what its answer says it has done.
    pub fn reload(&self, running: &Running) -> io::Result<()> {
        match self.kind {
            Kind::Nginx => sys::kill(running.pid(), libc::SIGHUP),
            Kind::Penstock | Kind::Tyk => {
                let answer = probe::get(
                    self.address,
                    "/tyk/reload/?block=true",
                    &[("x-tyk-authorization", SECRET)],
                    Duration::from_secs(60),
                )?;
                if answer.status == 200 {
                    Ok(())
                } else {
                    let text = String::from_utf8_lossy(&answer.body).into_owned();
                    Err(io::Error::other(format!(
                        "reload answered {}: {text}",
                        answer.status
                    )))
                }
            }
            Kind::Haproxy | Kind::Direct => {
                Err(io::Error::other(format!("{} cannot reload", self.name)))
            }
        }
    }

    fn write_haproxy(
        &self,
        names: &mut BTreeMap<&'static str, String>,
        origin: SocketAddr,
    ) -> io::Result<()> {
        let apis = self.candidate.apis;
        let dir = self.folder.path().display();
        // All listen paths are equally long: cutting that many bytes strips them.
        let cut = self.base_path.len() - 1;
        let strip = format!("    http-request set-path %[path,bytes({cut})]");
        if apis == 1 {
            names.insert("routes", format!("{strip}\n    default_backend origin"));
            names.insert("backends", String::new());
        } else {
            let map = (0..apis).map(|nth| format!("{} b{nth}", listen_path(apis, nth)));
            self.write("routes.map", join_lines(map))?;
            // The variable keeps the path the map has to see.
            let routes = format!(
                "    http-request set-var(txn.route) path,map_beg({dir}/routes.map,origin)\n{strip}\n    use_backend %[var(txn.route)]"
            );
            names.insert("routes", routes);
            let backends = (0..apis).map(|nth| {
                format!("backend b{nth}\n    http-request set-header Host {origin}\n    server origin {origin}")
            });
            names.insert("backends", join_lines(backends));
        }
        self.write("haproxy.cfg", fill(HAPROXY, names))
    }

    fn write(&self, name: &str, text: String) -> io::Result<()> {
        fs::write(self.folder.path().join(name), text)
    }
}

impl Running {
    /// Starts `command` with its output in `folder/<name>.log`.
    pub fn spawn(
        name: &str,
        mut command: Command,
        folder: &Path,
        setup: ChildSetup,
    ) -> io::Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join(format!("{name}.log")))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        sys::prepare_child(&mut command, setup);
        let child = command.spawn().map_err(|e| {
            let program = command.get_program().to_string_lossy().into_owned();
            io::Error::new(e.kind(), format!("{program}: {e}"))
        })?;
        Ok(Self {
            name: name.to_owned(),
            child,
            folder: folder.to_owned(),
        })
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn tree(&self) -> Tree {
        Tree::of(self.pid())
    }

    /// Whether the process (not its successors) has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the process as a crash would, and waits for its end.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Asks the process to end and waits for it, at most `limit`.
    pub fn end(&mut self, limit: Duration) -> io::Result<()> {
        sys::kill(self.pid(), libc::SIGTERM)?;
        let until = Instant::now() + limit;
        while !self.has_ended() {
            if Instant::now() > until {
                return Err(io::Error::other(format!("{} does not end", self.name)));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The last lines of its output.
    pub fn log_tail(&self) -> String {
        let path = self.folder.join(format!("{}.log", self.name));
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Ends the process: asked first, killed after two seconds.
    pub fn stop(&mut self) {
        let below = self.tree();
        // A process that has already ended needs no signal.
        let _ = sys::kill(self.pid(), libc::SIGTERM);
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until && !self.has_ended() {
            thread::sleep(Duration::from_millis(5));
        }
        for pid in below.pids() {
            if process::is_alive(*pid) {
                let _ = sys::kill(*pid, libc::SIGKILL);
            }
        }
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.stop();
        }
    }
}

impl Folder {
    pub fn new(name: &str, keep: bool) -> io::Result<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let unique = format!("loadtest-{}-{nth}-{name}", std::process::id());
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path)?;
        Ok(Self { path, keep })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept {}", self.path.display());
        } else {
            // A folder that cannot be removed is left to the system's cleaning.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// An origin process on the load core, so that its descriptors and ours are apart.
pub fn start_origin(
    bench: &Bench,
    folder: &Path,
    extra: &[String],
) -> io::Result<(Running, SocketAddr)> {
    let address = sys::free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["origin", "--listen", &address.to_string()])
        .args(extra);
    let setup = ChildSetup {
        core: bench.load_core,
        descriptors_max: None,
        die_with_parent: true,
    };
    let running = Running::spawn("origin", command, folder, setup)?;
    probe::until_ready(address, "/", &[], Duration::from_secs(10))?;
    Ok((running, address))
}

/// Identifier of the nth generated API.
pub fn api_id(nth: usize) -> String {
    format!("load{nth:05}")
}

/// Listen path of the nth of `apis` generated APIs; all of one run are equally long.
pub fn listen_path(apis: usize, nth: usize) -> String {
    if apis == 1 {
        "/api/".to_owned()
    } else {
        format!("/api-{nth:05}/")
    }
}

/// Replaces `{{name}}` by its value.
fn fill(template: &str, names: &BTreeMap<&'static str, String>) -> String {
    let mut text = template.to_owned();
    for (name, value) in names {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    text
}

/// As [`fill`] for a JSON template; a string that becomes a plain number turns into one.
fn fill_json(template: &str, names: &BTreeMap<&'static str, String>) -> io::Result<Value> {
    fn numbers(value: &mut Value, names: &BTreeMap<&'static str, String>) {
        match value {
            Value::Object(map) => map.values_mut().for_each(|v| numbers(v, names)),
            Value::Array(list) => list.iter_mut().for_each(|v| numbers(v, names)),
            Value::String(text) if text.starts_with("{{") && text.ends_with("port}}") => {
                if let Ok(number) = fill(text, names).parse::<u64>() {
                    *value = number.into();
                }
            }
            Value::String(text) => *text = fill(text, names),
            _ => {}
        }
    }
    let mut value: Value = serde_json::from_str(template)?;
    numbers(&mut value, names);
    Ok(value)
}

/// Lays `over` on `base`: objects merge, everything else replaces; null changes nothing.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (_, Value::Null) => {}
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// What makes a generated API ask for a key.
pub fn keyed_api() -> Value {
    json!({
        "use_keyless": false,
        "use_standard_auth": true,
        "auth": {"auth_header_name": "Authorization"},
    })
}

/// HAProxy needs two descriptors per connection and a few for itself.
fn connections_max(descriptors: u64) -> String {
    (descriptors.saturating_sub(200) / 2)
        .clamp(100, 20_000)
        .to_string()
}

fn join_lines(lines: impl Iterator<Item = String>) -> String {
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench() -> Bench {
        Bench {
            binaries: BTreeMap::new(),
            proxy_core: None,
            load_core: None,
            descriptors: 1024,
            keeps_folders: false,
        }
    }

    fn candidate(kind: Kind, apis: usize) -> Candidate {
        Candidate {
            apis,
            ..Candidate::new(&format!("{kind:?}"), kind)
        }
    }

    #[test]
    fn nginx_and_haproxy_accept_their_committed_files() {
        for kind in [Kind::Nginx, Kind::Haproxy] {
            for apis in [1, 50] {
                let candidate = candidate(kind, apis);
                // A machine without the neighbour cannot check it; CI installs both.
                if bench().binary(&candidate).is_some() {
                    let origin = ([127, 0, 0, 1], 9).into();
                    let prepared = Prepared::new(&candidate, &bench(), origin).unwrap();
                    prepared.check_files().unwrap();
                }
            }
        }
    }

    #[test]
    fn a_gateway_gets_numbers_where_numbers_belong() {
        let mut bench = bench();
        bench.binaries.insert("penstock".into(), "/bin/true".into());
        let mut candidate = candidate(Kind::Penstock, 3);
        candidate.conf = serde_json::json!({"penstock": {"shards": 2}});
        candidate.api = serde_json::json!({"use_keyless": false});
        let origin = ([127, 0, 0, 1], 9).into();
        let prepared = Prepared::new(&candidate, &bench, origin).unwrap();
        let read = |name: &str| -> Value {
            let text = fs::read_to_string(prepared.folder.path().join(name)).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        let conf = read("tyk.conf");
        assert_eq!(conf["listen_port"], prepared.address.port());
        assert_eq!(conf["penstock"]["shards"], 2);
        let api = read("apps/load00001.json");
        assert_eq!(api["proxy"]["listen_path"], "/api-00001/");
        assert_eq!(api["proxy"]["target_url"], "http://127.0.0.1:9/");
        assert_eq!(api["use_keyless"], false);
        assert_eq!(prepared.base_path, "/api-00001/");
    }

    #[test]
    fn a_gateway_with_keys_asks_for_them_and_finds_its_redis() {
        let mut bench = bench();
        bench.binaries.insert("penstock".into(), "/bin/true".into());
        let mut candidate = candidate(Kind::Penstock, 1);
        candidate.keys = Some(keys::Keys::unlimited(10));
        let (origin, redis) = (([127, 0, 0, 1], 9).into(), ([127, 0, 0, 1], 7).into());
        let prepared = Prepared::beside(&candidate, &bench, origin, Some(redis)).unwrap();
        let read = |name: &str| -> Value {
            let text = fs::read_to_string(prepared.folder.path().join(name)).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(read("tyk.conf")["storage"]["port"], 7);
        assert_eq!(read("apps/load00000.json")["use_keyless"], false);
        assert_eq!(prepared.request_fields["Authorization"], keys::name(0));
    }
}
