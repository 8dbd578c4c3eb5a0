//! Redis servers of a test's own: one, a master with replicas and sentinels, a cluster.
//!
//! Each runs in a folder of its own on ports the system picked, and goes with its owner.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use super::{PATIENCE, TempDir, eventually, fixture, gateway::signal, within};
use crate::harness::free_port;

/// A configuration in a server's folder, where it has one.
const CONF: &str = "server.conf";

/// A server process.
pub struct RedisServer {
    child: Child,
    port: u16,
    is_killed: bool,
    dir: TempDir,
    arguments: Vec<String>,
}

impl RedisServer {
    /// A server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::start_with(|_| Vec::new())
    }

    /// With these arguments beside those for its port, given a free port for further use.
    pub fn start_with(arguments: impl Fn(u16) -> Vec<String>) -> Self {
        // Between giving a port back and the server taking it, another may: try again.
        (0..20)
            .find_map(|_| {
                let mut all = vec!["--port".to_owned(), free_port().to_string()];
                all.extend(arguments(free_port()));
                Self::spawn(TempDir::in_memory("redis"), all)
            })
            .expect("redis-server found no port")
    }

    /// A server that also speaks TLS, to clients of the fixtures' authority, and on which port.
    pub fn start_with_tls() -> (Self, u16) {
        let server = Self::start_with(|port| {
            let words = [
                ["--tls-port", &port.to_string()],
                ["--tls-cert-file", &fixture("upstream.crt")],
                ["--tls-key-file", &fixture("upstream.key")],
                ["--tls-ca-cert-file", &fixture("ca.crt")],
                ["--tls-auth-clients", "yes"],
            ];
            words.concat().into_iter().map(str::to_owned).collect()
        });
        let port: (String, u16) = server.ask("CONFIG GET tls-port");
        (server, port.1)
    }

    /// `arguments` begin with a port argument.
    fn spawn(dir: TempDir, arguments: Vec<String>) -> Option<Self> {
        let log = dir.path().join("redis.log");
        let _ = fs::remove_file(&log);
        let child = Command::new("redis-server")
            .args(Some(dir.path().join(CONF)).filter(|path| path.exists()))
            .args(&arguments)
            .args(["--bind", "127.0.0.1", "--save", ""])
            .args(["--repl-diskless-sync-delay", "0", "--logfile"])
            .arg(&log)
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (see the test command in README.md)");
        let port = arguments.get(1).and_then(|port| port.parse().ok());
        let mut server = Self {
            child,
            port: port.expect("its port comes first"),
            is_killed: false,
            dir,
            arguments,
        };
        let up = within(PATIENCE, || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let is_ready = ["Ready to accept connections", "Sentinel ID is"]
                .iter()
                .any(|line| text.contains(line));
            let is_gone = server.child.try_wait().expect("our own child").is_some();
            (is_ready || is_gone).then_some(is_ready && !is_gone)
        });
        (up == Some(true)).then_some(server)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.is_killed = true;
    }

    /// A new process on the same port, after [`RedisServer::kill`]; `false` when the port is taken.
    pub fn restart(&mut self) -> bool {
        let dir = std::mem::replace(&mut self.dir, TempDir::in_memory("redis"));
        match Self::spawn(dir, self.arguments.clone()) {
            Some(server) => {
                *self = server;
                true
            }
            None => false,
        }
    }

    /// Sends `STOP`, `CONT` …
    pub fn signal(&self, name: &str) {
        signal(name, &self.child.id().to_string());
    }

    /// A connection without a login.
    pub fn client(&self) -> redis::Connection {
        self.try_client().expect("it listens")
    }

    fn try_client(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(("127.0.0.1", self.port))?.get_connection_with_timeout(PATIENCE)
    }

    /// Asks something without a login.
    pub fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        self.try_ask(command).expect(command)
    }

    fn try_ask<T: redis::FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        command_of(command).query(&mut self.try_client()?)
    }
}

fn command_of(line: &str) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    for word in line.split(' ') {
        command.arg(word);
    }
    command
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default();
            let from = log.floor_char_boundary(log.len().saturating_sub(1500));
            eprintln!("--- end of the log of {}\n{}", self.address(), &log[from..]);
        }
    }
}

/// One master, two replicas and three sentinels that watch `main`.
pub struct SentinelGroup {
    pub servers: Vec<RedisServer>,
    pub sentinels: Vec<RedisServer>,
    password: String,
}

impl SentinelGroup {
    /// `password` guards the sentinels.
    pub fn start(password: &str) -> Self {
        let master = RedisServer::start();
        let replica = || {
            let port = master.port().to_string();
            RedisServer::start_with(|_| {
                let words = ["--replicaof", "127.0.0.1", &port];
                words.map(str::to_owned).to_vec()
            })
        };
        let servers = vec![replica(), replica(), master];
        let master = servers[2].port();
        eventually("replicas follow", || {
            let info: String = servers[2].try_ask("INFO replication").ok()?;
            (info.matches("state=online").count() == 2).then_some(())
        });
        let sentinels: Vec<_> = (0..3).map(|_| sentinel(master, password)).collect();
        eventually("sentinels know one another", || {
            let all = sentinels.iter().all(|sentinel| {
                let mut client = sentinel.client();
                let auth: redis::RedisResult<()> =
                    redis::cmd("AUTH").arg(password).query(&mut client);
                let about: redis::RedisResult<std::collections::BTreeMap<String, String>> =
                    command_of("SENTINEL MASTER main").query(&mut client);
                let is = |about: &std::collections::BTreeMap<String, String>, key: &str| {
                    about.get(key).is_some_and(|count| count == "2")
                };
                auth.is_ok()
                    && about.is_ok_and(|a| is(&a, "num-slaves") && is(&a, "num-other-sentinels"))
            });
            all.then_some(())
        });
        Self {
            servers,
            sentinels,
            password: password.to_owned(),
        }
    }

    pub fn sentinel_addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::address).collect()
    }

    /// Asks the first sentinel.
    pub fn try_sentinel<T: redis::FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let mut client = self.sentinels[0].client();
        let () = command_of(&format!("AUTH {}", self.password)).query(&mut client)?;
        command_of(command).query(&mut client)
    }

    /// The index of the server that says it is the master, among those that answer.
    pub fn master(&self) -> usize {
        master_of(&self.servers)
    }
}

fn master_of(servers: &[RedisServer]) -> usize {
    eventually("one of them is master", || {
        servers.iter().position(|server| {
            let role: redis::RedisResult<Vec<redis::Value>> = server.try_ask("ROLE");
            role.is_ok_and(|role| {
                role.first() == Some(&redis::Value::BulkString(b"master".to_vec()))
            })
        })
    })
}

fn sentinel(master: u16, password: &str) -> RedisServer {
    (0..20)
        .find_map(|_| {
            let dir = TempDir::in_memory("sentinel");
            let text = format!(
                "requirepass {password}\nsentinel sentinel-pass {password}\n\
                 sentinel monitor main 127.0.0.1 {master} 2\n\
                 sentinel down-after-milliseconds main 1000\n\
                 sentinel failover-timeout main 3000\nsentinel parallel-syncs main 2\n"
            );
            fs::write(dir.path().join(CONF), text).expect("the temporary folder can be written");
            let arguments = vec![
                "--port".to_owned(),
                free_port().to_string(),
                "--sentinel".to_owned(),
            ];
            RedisServer::spawn(dir, arguments)
        })
        .expect("the sentinel found no port")
}

/// Three masters with a replica each: masters are 0 to 2, their replicas 3 to 5.
pub struct RedisCluster {
    pub servers: Vec<RedisServer>,
}

impl RedisCluster {
    pub fn start() -> Self {
        let mut bus_ports = Vec::new();
        let servers: Vec<_> = (0..6)
            .map(|_| {
                let bus = std::cell::Cell::new(0);
                let server = RedisServer::start_with(|port| {
                    bus.set(port);
                    let bus = port.to_string();
                    let words = [
                        ["--cluster-enabled", "yes"],
                        ["--cluster-port", &bus],
                        ["--cluster-node-timeout", "1000"],
                        ["--cluster-replica-validity-factor", "0"],
                    ];
                    words.concat().into_iter().map(str::to_owned).collect()
                });
                bus_ports.push(bus.get());
                server
            })
            .collect();
        for (index, slots) in ["0 5460", "5461 10922", "10923 16383"].iter().enumerate() {
            let _: () = servers[index].ask(&format!("CLUSTER ADDSLOTSRANGE {slots}"));
            let _: () = servers[index].ask(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1));
        }
        for (server, bus) in servers.iter().zip(&bus_ports).skip(1) {
            let port = server.port();
            let _: () = servers[0].ask(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}"));
        }
        let cluster = Self { servers };
        cluster.settled("cluster_known_nodes:6");
        for index in 0..3 {
            let id: String = cluster.servers[index].ask("CLUSTER MYID");
            let replica = &cluster.servers[index + 3];
            eventually("a replica follows", || {
                let done: redis::RedisResult<()> =
                    replica.try_ask(&format!("CLUSTER REPLICATE {id}"));
                done.ok()
            });
        }
        eventually("replicas are in sync", || {
            let all = cluster.servers.iter().take(3).all(|server| {
                let info: redis::RedisResult<String> = server.try_ask("INFO replication");
                info.is_ok_and(|info| info.contains("state=online"))
            });
            all.then_some(())
        });
        cluster.settled("cluster_state:ok");
        cluster
    }

    /// Waits until every living server's view of the cluster contains this line.
    pub fn settled(&self, line: &str) {
        eventually(line, || {
            let all = self.servers.iter().all(|server| {
                let info: redis::RedisResult<String> = server.try_ask("CLUSTER INFO");
                info.map_or(server.is_killed, |info| info.contains(line))
            });
            all.then_some(())
        });
    }

    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(RedisServer::address).collect()
    }

    /// Gives slots with their keys from one master to another, key by key, as `redis-cli` does.
    pub fn move_slots(&self, from: usize, to: usize, slots: impl Iterator<Item = u16>) {
        let [from, to] = [&self.servers[from], &self.servers[to]];
        let [from_id, to_id]: [String; 2] = [from, to].map(|server| server.ask("CLUSTER MYID"));
        for slot in slots {
            let _: () = to.ask(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"));
            let _: () = from.ask(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"));
            loop {
                let keys: Vec<String> = from.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 1"));
                let Some(key) = keys.first() else {
                    break;
                };
                let port = to.port();
                let _: () = from.ask(&format!("MIGRATE 127.0.0.1 {port} {key} 0 5000"));
            }
            for server in [to, from] {
                let _: () = server.ask(&format!("CLUSTER SETSLOT {slot} NODE {to_id}"));
            }
        }
    }
}
