//! Upgrades: nothing goes upstream behind the head before 101, and afterwards bytes are bytes.
//!
//! RFC 9110 §7.8, RFC 6455 §4. The origin's script speaks raw bytes; a tunnel does not read frames.

use serde_json::json;

use crate::harness::{Client, End, Gate, Gateway, Origin, Peer, Response, Setup, eventually};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn ask(connection: &str, upgrade: &str) -> Vec<u8> {
    format!(
        "GET /w/ws HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\nUpgrade: {upgrade}\r\n{KEY}\r\n"
    )
    .into_bytes()
}

/// Switches and then sends back what comes, prefixed with `>`, until it is `bye`.
fn echoing(peer: &mut Peer) {
    while let Some(req) = peer.request() {
        if req.field("upgrade").is_none() {
            let _ = peer.write(&Response::new(200, "plain").to_bytes());
            continue;
        }
        let _ = peer.write(SWITCH);
        loop {
            let word = peer.raw(4);
            if word.len() < 4 {
                return;
            }
            if word == b"bye!" {
                return;
            }
            let _ = peer.write(b">");
            let _ = peer.write(&word);
        }
    }
}

fn tunnel(gateway: &Gateway) -> Client {
    let mut client = gateway.client();
    client.send(&ask("Upgrade", "websocket"));
    let answer = client.read("GET");
    assert_eq!(answer.status, 101, "{}", answer.summary());
    client
}

#[test]
fn bytes_pass_both_ways_behind_101() {
    let origin = Origin::scripted(echoing);
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    client.send(&ask("Upgrade", "websocket"));
    let answer = client.read("GET");
    assert_eq!(answer.status, 101, "{}", answer.summary());
    assert_eq!(answer.field("upgrade"), Some("websocket"));
    assert_eq!(
        answer.field("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    for word in [&b"ping"[..], b"\x00\xff\r\n", b"0\r\n\r", b"GET "] {
        client.send(word);
        let mut wanted = b">".to_vec();
        wanted.extend_from_slice(word);
        assert_eq!(client.read_until(&wanted), wanted);
        client.inbox.buf.clear();
    }
    let seen = &origin.connections()[0];
    let head = String::from_utf8_lossy(&seen.bytes).to_lowercase();
    assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");
    assert!(head.contains("\r\nconnection: upgrade\r\n"), "{head}");
    // The origin says good-bye: the client's connection ends too.
    client.send(b"bye!");
    assert!(client.closes());
}

#[test]
fn connection_is_a_list_of_tokens_in_any_case() {
    let origin = Origin::scripted(echoing);
    let gateway = Setup::in_front_of(origin.port()).start();
    for (connection, status) in [
        ("Upgrade", 101),
        ("upgrade", 101),
        ("UPGRADE", 101),
        ("keep-alive, Upgrade", 101),
        ("Upgrade,keep-alive", 101),
        (" , Upgrade ,", 101),
        ("keep-alive", 200),
        ("upgraded", 200),
        ("\"Upgrade\"", 200),
    ] {
        let mut client = gateway.client();
        client.send(&ask(connection, "websocket"));
        let answer = client.read("GET");
        assert_eq!(answer.status, status, "{connection}: {}", answer.summary());
    }
}

/// Pingora's RUSTSEC-2026-0033: what stands behind an upgrade request belongs to nobody yet.
#[test]
fn nothing_behind_the_request_goes_upstream_before_101() {
    let go = Gate::default();
    let door = go.clone();
    let origin = Origin::scripted(move |peer| {
        let Some(_) = peer.request() else { return };
        door.wait();
        let _ = peer.write(SWITCH);
        let word = peer.raw(5);
        let _ = peer.write(&word);
        peer.linger();
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    let mut early = ask("Upgrade", "websocket");
    early.extend_from_slice(b"early");
    client.send(&early);
    eventually("the origin has the request", || {
        (!origin.requests().is_empty()).then_some(())
    });
    // A request on another connection has come and gone: what could have followed has followed.
    let seen = origin.connections()[0].bytes.clone();
    assert!(seen.ends_with(b"\r\n\r\n"), "{}", seen.escape_ascii());
    go.open();
    assert_eq!(client.read("GET").status, 101);
    assert_eq!(client.read_until(b"early"), b"early");
    let seen = origin.connections()[0].bytes.clone();
    assert!(seen.ends_with(b"\r\n\r\nearly"), "{}", seen.escape_ascii());
}

/// The dangerous half of the same: the origin refuses, and the bytes looked like a request.
#[test]
fn what_follows_a_refused_upgrade_is_the_next_request_or_nothing() {
    let origin =
        Origin::answering(|req| Response::new(200, &format!("plain {}", req.target)).to_bytes());
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    let mut bytes = ask("Upgrade", "websocket");
    bytes.extend_from_slice(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send(&bytes);
    let first = client.read("GET");
    assert_eq!((first.status, first.text().as_str()), (200, "plain /ws"));
    // Routed by the gateway as any request (404 here), never passed through to the origin.
    let second = client.read("GET");
    assert!(
        second.status == 404 || (second.status == 0 && second.end == End::Cut),
        "{}",
        second.summary()
    );
    assert_eq!(origin.requests().len(), 1);
    let sent = origin.connections()[0].bytes.clone();
    assert!(
        !sent.windows(7).any(|w| w == b"nowhere"),
        "{}",
        sent.escape_ascii()
    );
}

#[test]
fn a_refused_upgrade_passes_and_the_connection_goes_on() {
    let origin = Origin::answering(|req| match req.field("upgrade") {
        Some(_) => Response::new(400, "no").to_bytes(),
        None => Response::new(200, "plain").to_bytes(),
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    client.send(&ask("Upgrade", "websocket"));
    let answer = client.read("GET");
    assert_eq!((answer.status, answer.text().as_str()), (400, "no"));
    assert_eq!(client.get("/w/x").text(), "plain");
}

/// Tyk issues 1375 and 1771: a second websocket, and plain HTTP on the same route, must work.
#[test]
fn a_second_upgrade_and_plain_requests_work_behind_a_first() {
    let origin = Origin::scripted(echoing);
    let gateway = Setup::in_front_of(origin.port()).start();
    for _ in 0..3 {
        let mut client = tunnel(&gateway);
        client.send(b"ping");
        assert_eq!(client.read_until(b">ping"), b">ping");
        client.send(b"bye!");
        assert!(client.ends());
        assert_eq!(gateway.get("/w/ws").text(), "plain");
    }
}

/// Either side's end ends both (as in Tyk), but not before all that it sent has arrived.
#[test]
fn what_a_side_sent_before_its_end_arrives() {
    const MUCH: usize = 1 << 20;
    let origin = Origin::scripted(|peer| {
        let Some(req) = peer.request() else { return };
        let _ = peer.write(SWITCH);
        if req.target == "/ws" {
            let _ = peer.write(&vec![b'x'; MUCH]);
        } else {
            peer.linger();
        }
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = tunnel(&gateway);
    assert_eq!(client.read_to_end().len(), MUCH);
    let mut client = gateway.client();
    let head = String::from_utf8(ask("Upgrade", "websocket")).expect("text");
    client.send(head.replace("/w/ws", "/w/up").as_bytes());
    assert_eq!(client.read("GET").status, 101);
    client.send(&vec![b'x'; MUCH]);
    client.half_close();
    let up = eventually("the origin sees the end", || {
        let all = origin.connections();
        all.into_iter()
            .find(|c| c.ended.is_some() && c.requests.iter().any(|r| r.target == "/up"))
    });
    let head_end = up
        .bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .expect("a head");
    assert_eq!(up.bytes.len() - head_end - 4, MUCH);
}

#[test]
fn a_client_that_leaves_takes_the_upstream_connection_along() {
    let origin = Origin::scripted(|peer| {
        let Some(_) = peer.request() else { return };
        let _ = peer.write(SWITCH);
        peer.linger();
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    drop(tunnel(&gateway));
    eventually("the origin sees the end", || origin.connections()[0].ended);
    assert_eq!(gateway.metric("penstock_panics_total"), Some(0.0));
}

/// A tunnel is no idle connection, and much may pass through it with little memory.
#[test]
fn a_tunnel_outlives_idle_limits_and_carries_much() {
    const MUCH: usize = 32 << 20;
    let origin = Origin::scripted(|peer| {
        let Some(_) = peer.request() else { return };
        let _ = peer.write(SWITCH);
        assert_eq!(peer.raw(2), b"go");
        let block = vec![b'x'; 64 << 10];
        for _ in 0..MUCH / block.len() {
            if peer.write(&block).is_err() {
                return;
            }
        }
    });
    let gateway = Setup::in_front_of(origin.port())
        .limits(json!({"keep_alive_idle_s": 1, "body_rate_grace_s": 1}))
        .start();
    let mut client = tunnel(&gateway);
    assert!(
        client.stays_silent(std::time::Duration::from_millis(2500)),
        "the tunnel was cut"
    );
    let before = gateway.resident_kib();
    client.send(b"go");
    let mut came = 0;
    while came < MUCH {
        match client.inbox.fill() {
            Ok(n) if n > 0 => came += n,
            _ => break,
        }
        client.inbox.buf.clear();
    }
    assert_eq!(came, MUCH);
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more");
}

/// Tyk: `enable_websockets` off strips the upgrade and the request goes on as plain HTTP.
#[test]
fn without_enable_websockets_an_upgrade_is_a_plain_request() {
    let origin = Origin::scripted(echoing);
    let gateway = Setup::in_front_of(origin.port())
        .conf(json!({"http_server_options": {"enable_websockets": false}}))
        .start();
    let mut client = gateway.client();
    client.send(&ask("Upgrade", "websocket"));
    let answer = client.read("GET");
    assert_eq!((answer.status, answer.text().as_str()), (200, "plain"));
    let head = String::from_utf8_lossy(&origin.connections()[0].bytes).to_lowercase();
    assert!(!head.contains("\r\nupgrade:"), "{head}");
}
