//! Neighbours of a gateway that exist only as messages, and a pump that takes records away.
//!
//! Tyk: `gateway/redis_signals.go` (message form and signature), `gateway/distributed_rate_limiter.go` (heartbeat).

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::redis::{Redis, Reply};

pub const CHANNEL: &str = "tyk.cluster.notifications";
/// Tyk's `drl_notification_frequency` when it is not set.
const EVERY: Duration = Duration::from_secs(2);

/// The heartbeat of a node, signed with the fleet's secret.
pub fn heartbeat(node: &str, node_secret: &str) -> String {
    let payload = json!({
        "HostName": "neighbour", "ID": node, "LoadPerSec": 1, "Percentage": 0, "TagHash": ""
    });
    message(
        "NoticeGatewayDRLNotification",
        &payload.to_string(),
        node_secret,
    )
}

/// A message of the fleet; 5 is Go's number of SHA-256.
fn message(command: &str, payload: &str, node_secret: &str) -> String {
    let digest = Sha256::digest(format!("{command}{payload}{node_secret}"));
    let signature: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    // Fields stand in Tyk's order.
    format!(
        r#"{{"command":{},"payload":{},"signature":"{signature}","algorithm":5}}"#,
        quoted(command),
        quoted(payload)
    )
}

/// A thread that goes on until it is dropped.
struct Worker {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    /// `turn` is called each `every`, with a connection that is made anew when it fails.
    fn start(
        redis: SocketAddr,
        every: Duration,
        mut turn: impl FnMut(&mut Redis) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = thread::spawn(move || {
            let mut connection = None;
            while !seen.load(Ordering::Relaxed) {
                let next = Instant::now() + every;
                if connection.is_none() {
                    connection = Redis::connect(redis).ok();
                }
                // Redis may be away on purpose; the next turn tries again.
                if connection.as_mut().is_some_and(|c| turn(c).is_err()) {
                    connection = None;
                }
                while Instant::now() < next && !seen.load(Ordering::Relaxed) {
                    let left = next.saturating_duration_since(Instant::now());
                    thread::sleep(left.min(Duration::from_millis(50)));
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that failed has nothing left to end.
            let _ = thread.join();
        }
    }
}

/// Nodes that do nothing but say that they are there.
pub struct Neighbours {
    _worker: Worker,
}

impl Neighbours {
    pub fn start(redis: SocketAddr, count: usize, node_secret: &str) -> Self {
        let beats: Vec<String> = (1..=count)
            .map(|nth| heartbeat(&format!("neighbour-{nth}"), node_secret))
            .collect();
        let turn = move |connection: &mut Redis| {
            for beat in &beats {
                connection.call(&["PUBLISH", CHANNEL, beat])?;
            }
            Ok(())
        };
        Self {
            _worker: Worker::start(redis, EVERY, turn),
        }
    }
}

/// Where Tyk's gateways leave their records.
pub const RECORDS: &str = "analytics-tyk-system-analytics";

/// Takes records out of Redis and counts them, as a Tyk pump would.
pub struct Pump {
    count: Arc<AtomicU64>,
    _worker: Worker,
}

impl Pump {
    pub fn start(redis: SocketAddr) -> Self {
        let count = Arc::new(AtomicU64::new(0));
        let counted = count.clone();
        let names = record_lists();
        let turn = move |connection: &mut Redis| {
            let mut commands: Vec<Vec<&[u8]>> = vec![vec![b"MULTI"]];
            commands.extend(names.iter().map(|name| vec![&b"LLEN"[..], name.as_bytes()]));
            let mut unlink: Vec<&[u8]> = vec![b"UNLINK"];
            unlink.extend(names.iter().map(String::as_bytes));
            commands.extend([unlink, vec![b"EXEC"]]);
            let replies = connection.pipeline(commands)?;
            if let Some(Reply::List(items)) = replies.last() {
                let lengths = items.iter().take(names.len()).filter_map(Reply::int);
                counted.fetch_add(lengths.sum::<i64>() as u64, Ordering::Relaxed);
            }
            Ok(())
        };
        Self {
            count,
            _worker: Worker::start(redis, Duration::from_millis(100), turn),
        }
    }

    /// Records so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until nothing has come for a while (a gateway may keep records for a second), at most ten seconds.
    pub fn settled(&self) -> u64 {
        const QUIET: Duration = Duration::from_millis(1500);
        let until = Instant::now() + Duration::from_secs(10);
        let (mut last, mut since) = (self.count(), Instant::now());
        while since.elapsed() < QUIET && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
            let now = self.count();
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    }
}

/// The list and its parts (`enable_multiple_analytics_keys`), in the order pumps read them.
pub fn record_lists() -> Vec<String> {
    let parts = (0..10).map(|nth| format!("{RECORDS}_{nth}"));
    std::iter::once(RECORDS.to_owned()).chain(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_signed_as_tyk_signs_them() {
        // Captured from a real gateway.
        let expected = r#"{"command":"GroupReload","payload":"","signature":"95984d24888960e2cb55c1358a67872b45946c1a0eeccee16d681baf2396fc02","algorithm":5}"#;
        let made = message("GroupReload", "", "352d20ee67be67f6340b4c0605b044b7");
        assert_eq!(made, expected);
    }

    #[test]
    fn a_heartbeat_carries_its_payload_as_text() {
        let made: serde_json::Value = serde_json::from_str(&heartbeat("n1", "s")).unwrap();
        let payload: serde_json::Value =
            serde_json::from_str(made["payload"].as_str().unwrap()).unwrap();
        assert_eq!(payload["ID"], "n1");
        assert_eq!(payload["TagHash"], "");
    }
}
