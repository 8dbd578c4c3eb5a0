//! What every black-box test needs: a gateway process, a scripted origin, a raw client.
//!
//! Nothing here knows the gateway's insides: it starts the built binary with files in a folder of
//! its own, speaks bytes over sockets, and reads what the origin was sent. Sockets use ports the
//! system picks; waiting is for a condition with a deadline ([`eventually`]), never for a time.

mod client;
mod collector;
mod gateway;
mod load;
mod message;
mod origin;
mod redis;
mod wire;

use std::{
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

pub use client::Client;
pub use collector::{Collector, Span};
pub use gateway::{Gateway, SECRET, Setup, api, built_binary, free_port, keyed_api, merge};
pub use load::Load;
pub use message::{End, Request, Response};
pub use origin::{Ended, Origin, Peer};
pub use redis::{RedisCluster, RedisServer, SentinelGroup};
pub use wire::Wire;

/// How long a test waits for something that should come at once.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Asks again and again until `condition` answers `Some`; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, condition).unwrap_or_else(|| panic!("not within {PATIENCE:?}: {what}"))
}

/// Asks until `condition` answers `Some` or `limit` has passed.
pub fn within<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A file of the conformance suites.
pub fn fixture(name: &str) -> String {
    let root = env!("CARGO_MANIFEST_DIR");
    format!("{root}/tests/conformance/fixtures/{name}")
}

/// Whether the long forms of slow tests were asked for.
pub fn slow_tests() -> bool {
    std::env::var_os("SLOW_TESTS").is_some_and(|v| v != "0" && !v.is_empty())
}

/// A door between two threads of one test: closed until somebody opens it.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub fn open(&self) {
        *self.0.0.lock().expect("no holder panics") = true;
        self.0.1.notify_all();
    }

    /// Returns once the gate is open; `false` when it stayed shut for thrice the patience.
    pub fn wait(&self) -> bool {
        let shut = self.0.0.lock().expect("no holder panics");
        let (opened, _) = self
            .0
            .1
            .wait_timeout_while(shut, PATIENCE * 3, |open| !*open)
            .expect("no holder panics");
        *opened
    }
}

/// A folder that goes with its owner; kept when the test fails.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(what: &str) -> Self {
        Self::below(&std::env::temp_dir(), what)
    }

    /// In memory where there is such a place: for what waits for the disk and need not.
    pub fn in_memory(what: &str) -> Self {
        match std::path::Path::new("/dev/shm") {
            memory if memory.is_dir() => Self::below(memory, what),
            _ => Self::new(what),
        }
    }

    fn below(parent: &std::path::Path, what: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("penstock-{what}-{}-{number}", std::process::id());
        let path = parent.join(name);
        std::fs::create_dir_all(&path).expect("the temporary folder can be written");
        Self(path)
    }

    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.0.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

mod tests {
    //! The harness holds itself to account without a gateway: client straight to origin.

    use super::*;

    #[test]
    fn the_origin_records_what_a_client_sends() {
        let origin = Origin::answering(|req| {
            Response::new(200, &format!("{} {}", req.method, req.target)).to_bytes()
        });
        let mut client = Client::connect(origin.port());
        client.send(
            b"POST /a HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        );
        let answer = client.read("POST");
        assert_eq!((answer.status, answer.text().as_str()), (200, "POST /a"));
        client.send(b"GET /b HTTP/1.1\r\nHost: o\r\n\r\n");
        assert_eq!(client.read("GET").text(), "GET /b");
        let seen = origin.requests();
        assert_eq!(seen.len(), 2);
        assert_eq!(
            (seen[0].body.as_slice(), seen[0].connection),
            (&b"abc"[..], seen[1].connection)
        );
        assert!(origin.violations().is_empty());
    }

    #[test]
    fn the_origin_names_what_no_gateway_may_send() {
        let origin = Origin::answering(|_| Response::new(200, "").to_bytes());
        for bad in [
            &b"GET /a HTTP/1.1\r\nHost: o\nX: y\r\n\r\n"[..],
            b"GET /a HTTP/1.1\r\nHost: o\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        ] {
            let before = origin.violations().len();
            let mut client = Client::connect(origin.port());
            client.send(bad);
            assert!(client.closes());
            assert_eq!(origin.violations().len(), before + 1, "{}", bad.escape_ascii());
        }
    }
}
