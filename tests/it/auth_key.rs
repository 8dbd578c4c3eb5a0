//! Auth token: the keys that a Redis holds, as Tyk stores them, open what their sessions say.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::harness::{Gateway, Origin, Response, Setup, api, eventually, free_port};

const PASSWORD: &str = "let-me-in";
const DATABASE: u8 = 3;

/// A server of this test's own, with a password and keys in a database that is not the first.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    fn start() -> Self {
        // Between giving the port back and the server taking it, another may: try again.
        (0..20)
            .find_map(|_| Self::start_on(free_port()))
            .expect("redis-server found no port")
    }

    fn start_on(port: u16) -> Option<Self> {
        let mut child = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--requirepass",
                PASSWORD,
            ])
            .args(["--port", &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is installed (see the test command in README.md)");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let server = Self { child, port };
        lines
            .map_while(Result::ok)
            .any(|line| line.contains("Ready to accept connections"))
            .then_some(server)
    }

    fn set(&self, key: &str, value: &Value) {
        let value = value.to_string();
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).expect("it listens");
        let database = DATABASE.to_string();
        let mut text = String::new();
        for command in [
            &["AUTH", PASSWORD][..],
            &["SELECT", &database],
            &["SET", key, &value],
        ] {
            text.push_str(&format!("*{}\r\n", command.len()));
            for word in command {
                text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
            }
        }
        socket.write_all(text.as_bytes()).expect("it reads");
        let mut answers = [0; 15];
        socket.read_exact(&mut answers).expect("it answers");
        assert_eq!(&answers, b"+OK\r\n+OK\r\n+OK\r\n");
    }

    fn gateway(&self, origin: &Origin) -> Gateway {
        self.gateway_with(origin, json!({}))
    }

    fn gateway_with(&self, origin: &Origin, conf: Value) -> Gateway {
        Setup::new()
            .api(api("w", &origin.url()))
            .with(json!({"use_keyless": false, "use_standard_auth": true}))
            .conf(json!({
                "min_token_length": 4,
                "liveness_check": {"check_duration": 100_000_000},
                "storage": {
                    "type": "redis", "host": "127.0.0.1", "port": self.port, "timeout": 1,
                    "username": "default", "password": PASSWORD, "database": DATABASE,
                },
            }))
            .conf(conf)
            .start()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn with_key(gateway: &Gateway, key: &str) -> Response {
    let mut client = gateway.client();
    client.send(format!("GET /w/x HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n").as_bytes());
    client.read("GET")
}

#[test]
fn a_session_decides_what_its_key_opens() {
    let redis = Redis::start();
    let rights = |api: &str| json!({"access_rights": {api: {"api_id": api}}});
    for (key, session) in [
        ("apikey-known", rights("w")),
        ("apikey-org1custom", rights("w")),
        ("apikey-other", rights("v")),
        ("apikey-four", rights("w")),
        ("apikey-inactive", json!({"is_inactive": true})),
        ("apikey-expired", json!({"expires": 1})),
        ("apikey-nonsense", json!("no session")),
    ] {
        redis.set(key, &session);
    }
    let origin = Origin::answering(|_| Response::new(200, "").to_bytes());
    let gateway = redis.gateway(&origin);
    for (key, status, error) in [
        ("known", 200, ""),
        ("Bearer known", 200, ""),
        ("custom", 200, ""),
        ("", 401, "Authorization field missing"),
        ("unknown", 403, "Access to this API has been disallowed"),
        ("other", 403, "Access to this API has been disallowed"),
        ("four", 403, "Access to this API has been disallowed"),
        ("inactive", 403, "Key is inactive, please renew"),
        ("expired", 401, "Key has expired, please renew"),
        ("nonsense", 403, "Access to this API has been disallowed"),
    ] {
        let answer = with_key(&gateway, key);
        assert_eq!(answer.status, status, "{key}: {}", answer.summary());
        if !error.is_empty() {
            assert_eq!(answer.json(), json!({"error": error}), "{key}");
        }
    }
    assert_eq!(origin.requests().len(), 3);
}

#[test]
fn a_store_that_is_away_lets_no_stranger_in_and_drives_nobody_away() {
    let redis = Redis::start();
    redis.set("apikey-known", &json!({}));
    redis.set("apikey-later", &json!({}));
    let origin = Origin::answering(|_| Response::new(200, "").to_bytes());
    let gateway = redis.gateway(&origin);
    assert_eq!(with_key(&gateway, "known").status, 200);
    drop(redis);
    // On whichever shard the connection lands, the node has read this session just now.
    assert_eq!(with_key(&gateway, "known").status, 200);
    let answer = with_key(&gateway, "later");
    assert_eq!(answer.status, 503, "{}", answer.summary());
    assert_eq!(answer.field("retry-after"), Some("1"));
    eventually("/hello tells it", || {
        (gateway.get("/hello").json()["details"]["redis"]["status"] == "fail").then_some(())
    });
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn what_an_api_does_without_the_store_can_be_chosen() {
    for (rule, known, stranger) in [
        ("fail_closed", 503, 503),
        ("stale", 200, 503),
        ("fail_open", 200, 200),
    ] {
        let redis = Redis::start();
        redis.set("apikey-known", &json!({"access_rights": {"w": {}}}));
        let origin = Origin::answering(|_| Response::new(200, "").to_bytes());
        let gateway = redis.gateway_with(
            &origin,
            json!({
                "penstock": {"when_store_is_away": {"w": rule}, "shards": 1},
                // Nothing counts for longer than one request.
                "local_session_cache": {"disable_cached_session_state": true},
            }),
        );
        assert_eq!(with_key(&gateway, "known").status, 200);
        drop(redis);
        let answer = with_key(&gateway, "known");
        assert_eq!(answer.status, known, "{rule}: {}", answer.summary());
        assert_eq!(with_key(&gateway, "stranger").status, stranger, "{rule}");
    }
}
