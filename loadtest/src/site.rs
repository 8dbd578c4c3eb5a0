//! Gateways of one fleet, their store and their origin, for tests that act on them.
//!
//! Processes end with the thread that started them: start and restart them from the thread that stays.

use std::{
    io,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    keys,
    peer::{self, Bench, Folder, Prepared, Running, SECRET},
    probe,
    redis::{Redis, Server},
    scenario::{Candidate, Kind},
};

/// One gateway of the fleet.
pub struct Gateway {
    pub running: Option<Running>,
    pub prepared: Prepared,
}

/// Where the gateways' store is.
pub enum Store {
    Embedded,
    /// Redis at this address, or behind it.
    Redis(SocketAddr),
}

/// Everything in it ends when it is dropped, the gateways first.
pub struct Site {
    pub gateways: Vec<Gateway>,
    pub origin: SocketAddr,
    _origin: Running,
    _folder: Folder,
}

impl Gateway {
    pub fn address(&self) -> SocketAddr {
        self.prepared.address
    }

    /// As if the machine lost its power.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut running) = self.running.take() {
            running.kill()?;
        }
        Ok(())
    }

    /// Starts it (again) with the files it has.
    pub fn start(&mut self) -> io::Result<()> {
        self.running = self.prepared.spawn()?;
        self.await_ready()
    }

    /// Until `/ready` says so; an error as soon as the process has ended.
    fn await_ready(&mut self) -> io::Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let address = self.prepared.address;
            let answer = probe::get(address, "/ready", &[], Duration::from_secs(2));
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            let has_ended = self.running.as_mut().is_none_or(Running::has_ended);
            if has_ended || Instant::now() > until {
                let log = self.running.as_ref().map(Running::log_tail);
                let log = log.unwrap_or_default();
                let what = if has_ended {
                    "has ended"
                } else {
                    "is not ready"
                };
                return Err(io::Error::other(format!("{address} {what}\n{log}")));
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// A call of its control API.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> io::Result<probe::Answer> {
        let body = match body {
            Value::Null => Vec::new(),
            body => serde_json::to_vec(body)?,
        };
        let auth = [("x-tyk-authorization", SECRET)];
        let limit = Duration::from_secs(10);
        probe::request(self.address(), method, path, &auth, &body, limit)
    }

    /// A request of the first API with a key.
    pub fn ask(&self, key: &str) -> io::Result<probe::Answer> {
        let fields = [("Authorization", key)];
        let path = &self.prepared.base_path;
        probe::get(self.address(), path, &fields, Duration::from_secs(10))
    }

    /// A request head of the first API with a key.
    pub fn head(&self, key: &str) -> Vec<u8> {
        head(self.address(), &self.prepared.base_path, key)
    }

    /// The sum of all series of a counter or gauge on `/metrics` whose name and labels begin so.
    pub fn metric(&self, begin: &str) -> io::Result<Option<f64>> {
        let answer = probe::get(self.address(), "/metrics", &[], Duration::from_secs(5))?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let values: Vec<f64> = text
            .lines()
            .filter(|line| line.starts_with(begin))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }
}

impl Site {
    /// An origin and `count` gateways with the same store, all of them ready.
    pub fn start(
        bench: &Bench,
        count: usize,
        conf: &Value,
        apis: &[Value],
        store: &Store,
    ) -> io::Result<Self> {
        let folder = Folder::new("site", bench.keeps_folders)?;
        let (origin_process, origin) = peer::start_origin(bench, folder.path(), &[])?;
        let redis = match store {
            Store::Embedded => None,
            Store::Redis(address) => Some(*address),
        };
        let mut gateways = Vec::new();
        for nth in 0..count {
            let candidate = Candidate {
                conf: conf.clone(),
                apis: apis.len(),
                ..Candidate::new(&format!("penstock-{nth}"), Kind::Penstock)
            };
            let mut bench = bench.clone();
            let binary = bench.tool("penstock");
            let binary = binary.ok_or_else(|| io::Error::other("--penstock is missing"))?;
            bench.binaries.insert(candidate.name.clone(), binary);
            let prepared = Prepared::beside(&candidate, &bench, origin, redis)?;
            for (nth, api) in apis.iter().enumerate() {
                prepared.write_api(nth, origin, api)?;
            }
            let running = prepared.spawn()?;
            gateways.push(Gateway { running, prepared });
        }
        for gateway in &mut gateways {
            gateway.await_ready()?;
        }
        Ok(Self {
            gateways,
            origin,
            _origin: origin_process,
            _folder: folder,
        })
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.gateways.iter().map(Gateway::address).collect()
    }

    /// A figure of the origin, such as `requests`.
    pub fn origin_stat(&self, name: &str) -> io::Result<u64> {
        let answer = probe::get(self.origin, "/stats", &[], Duration::from_secs(5))?;
        let stats: Value = serde_json::from_slice(&answer.body)?;
        stats[name]
            .as_u64()
            .ok_or_else(|| io::Error::other(format!("the origin does not tell {name}")))
    }
}

/// The API that asks for a key in `Authorization`.
pub fn keyed_api() -> Value {
    peer::keyed_api()
}

/// A request head with a key, or without one.
pub fn head(gateway: SocketAddr, path: &str, key: &str) -> Vec<u8> {
    let field = match key {
        "" => String::new(),
        key => format!("Authorization: {key}\r\n"),
    };
    format!("GET {path} HTTP/1.1\r\nHost: {gateway}\r\n{field}\r\n").into_bytes()
}

/// Creates one key by a call of the control API; the status of the answer.
pub fn create_key(gateway: &Gateway, key: &str, session: &Value) -> io::Result<u16> {
    let path = format!("/tyk/keys/{key}");
    gateway
        .call("POST", &path, session)
        .map(|answer| answer.status)
}

/// Whether Redis has a key's session.
pub fn is_stored(redis: &mut Redis, key: &str) -> io::Result<bool> {
    let found = redis.number(&["EXISTS", &keys::stored_name(key)])?;
    Ok(found == 1)
}

/// A Redis of this test's own.
pub fn start_redis(bench: &Bench, args: &[&str]) -> io::Result<(Server, Folder)> {
    let folder = Folder::new("redis", bench.keeps_folders)?;
    let server = Server::start(bench, folder.path(), args)?;
    Ok((server, folder))
}

/// What was looked at, and whether it was as it should be.
#[derive(Default)]
pub struct Checks {
    lines: Vec<(bool, String)>,
}

impl Checks {
    pub fn check(&mut self, is_good: bool, what: impl Into<String>) {
        let what = what.into();
        if !is_good {
            eprintln!("FAILED {what}");
        }
        self.lines.push((is_good, what));
    }

    /// Whether everything was.
    pub fn print(&self, name: &str) -> bool {
        let passed = self.lines.iter().all(|(is_good, _)| *is_good);
        for (is_good, what) in &self.lines {
            println!("{:<7}{what}", if *is_good { "ok" } else { "FAILED" });
        }
        let word = if passed { "passed" } else { "failed" };
        println!("{name} {word}: {} checks", self.lines.len());
        passed
    }
}
