//! Streams that pause, stop or say too much: what the other side gets is whole or visibly cut, and
//! nobody's bytes become somebody else's.
//!
//! RFC 9110 §7.8, §10.1.1; RFC 9112 §6.3, §8, §9.3. Pauses here are the thing under test, never a
//! way to wait.

use std::time::Duration;

use serde_json::json;

use crate::harness::{End, Gate, Origin, Peer, Response, Setup, eventually, within};

const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn pause(ms: u64) {
    let _ = within(Duration::from_millis(ms), || None::<()>);
}

/// Answers every request with `200 next`.
fn answer_next(peer: &mut Peer) {
    while peer.request().is_some() {
        let _ = peer.write(&Response::new(200, "next").to_bytes());
    }
}

#[test]
fn an_answer_that_began_early_may_pause_behind_the_end_of_the_request() {
    let origin = Origin::scripted(|peer| {
        let Some(mut req) = peer.head() else { return };
        let _ = peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        peer.body(&mut req);
        pause(2_500);
        let _ = peer.write(b"4\r\nlast\r\n0\r\n\r\n");
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    client.send(b"POST /w/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
    client.read_until(b"first");
    client.send(b"cd");
    let answer = client.read("POST");
    assert_eq!(answer.end, End::Complete, "{}", answer.summary());
    assert_eq!(answer.text(), "firstlast");
}

#[test]
fn the_time_for_an_answer_begins_when_the_request_has_been_sent() {
    let origin = Origin::scripted(|peer| {
        while peer.request().is_some() {
            let _ = peer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n");
            pause(500);
            let _ = peer.write(&Response::new(200, "thanks").to_bytes());
        }
    });
    let gateway = Setup::in_front_of(origin.port())
        .conf(json!({"proxy_default_timeout": 1}))
        .start();
    let mut client = gateway.client();
    client.send(b"POST /w/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
    pause(1_500);
    client.send(b"cd");
    let answer = client.read("POST");
    assert_eq!(answer.text(), "thanks", "{}", answer.summary());
}

#[test]
fn waiting_for_100_is_not_a_slow_body() {
    let origin = Origin::scripted(|peer| {
        if !peer.peek_until(b"\r\n\r\n") {
            return;
        }
        pause(2_000);
        let Some(mut req) = peer.head() else { return };
        peer.body(&mut req);
        let _ = peer.write(&Response::new(200, "thanks").to_bytes());
    });
    let gateway = Setup::in_front_of(origin.port())
        .limits(json!({"body_rate_grace_s": 1}))
        .start();
    let mut client = gateway.client();
    client.send(
        b"POST /w/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
    );
    let came = client.read_until(b"\r\n\r\n");
    assert!(
        came.starts_with(b"HTTP/1.1 100 "),
        "{}",
        came.escape_ascii()
    );
    client.send(b"abcd");
    assert_eq!(client.read("POST").text(), "thanks");
}

/// A connection that has switched protocols is no HTTP connection any more, whatever came first.
#[test]
fn a_switch_before_the_content_has_ended_is_never_pooled() {
    let origin = Origin::scripted(|peer| {
        let Some(mut req) = peer.head() else { return };
        if req.method == "GET" {
            peer.body(&mut req);
            let _ = peer.write(&Response::new(200, "next").to_bytes());
            return;
        }
        peer.body(&mut req);
        let _ = peer.write(SWITCH);
        peer.linger();
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    client.send(
        b"POST /w/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Content-Length: 4\r\n\r\nab",
    );
    eventually("the head has come", || {
        (origin.received() > 0).then_some(())
    });
    client.send(b"cd");
    assert_eq!(client.read("POST").status, 500);
    let next = gateway.get("/w/next");
    assert_eq!(next.text(), "next", "{}", next.summary());
    let first = origin.connections()[0].bytes.clone();
    assert!(!first.windows(4).any(|w| w == b"next"));
}

#[test]
fn content_of_an_upgrade_request_is_sent_once() {
    let origin = Origin::scripted(|peer| {
        if peer.request().is_none() {
            return;
        }
        let _ = peer.write(SWITCH);
        let word = peer.raw(4);
        let _ = peer.write(&word);
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    client.send(
        b"POST /w/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Content-Length: 4\r\n\r\nbody",
    );
    assert_eq!(client.read("GET").status, 101);
    client.send(b"ping");
    assert_eq!(client.read_until(b"ping"), b"ping");
}

/// RFC 9112 §8: a close-delimited answer that stops is not one that ended.
#[test]
fn an_answer_that_stalls_is_cut_and_never_ended() {
    let origin = Origin::scripted(|peer| {
        if peer.request().is_none() {
            return;
        }
        let _ = peer.write(b"HTTP/1.1 200 OK\r\n\r\npart");
        peer.linger();
    });
    let gateway = Setup::in_front_of(origin.port())
        .conf(json!({"http_server_options": {"write_timeout": 1}}))
        .start();
    let answer = gateway.get("/w/x");
    assert_eq!((answer.status, answer.text().as_str()), (200, "part"));
    assert_eq!(answer.end, End::Cut, "{}", answer.summary());
}

#[test]
fn a_client_that_leaves_a_silent_stream_ends_the_upstream_connection() {
    let origin = Origin::scripted(|peer| {
        if peer.request().is_none() {
            return;
        }
        let _ = peer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
            Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
        );
        peer.linger();
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_until(b"data: 1");
    drop(client);
    eventually("the upstream connection ends", || {
        origin.connections()[0].ended
    });
}

#[test]
fn an_empty_answer_said_to_be_gzip_is_empty() {
    let origin = Origin::answering(|_| {
        Response::new(200, "")
            .with("Content-Encoding", "gzip")
            .to_bytes()
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let answer = gateway.get("/w/x");
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
}

/// What an origin says unasked answers nobody's request.
#[test]
fn bytes_that_nobody_asked_for_end_an_idle_connection() {
    let gate = Gate::default();
    let opened = gate.clone();
    let origin = Origin::scripted(move |peer| {
        if peer.number() > 0 {
            return answer_next(peer);
        }
        if peer.request().is_none() {
            return;
        }
        let _ = peer.write(&Response::new(200, "first").to_bytes());
        opened.wait();
        let _ = peer.write(&Response::new(200, "poison").to_bytes());
        peer.linger();
    });
    let gateway = Setup::in_front_of(origin.port())
        .conf(json!({"penstock": {"shards": 1}}))
        .start();
    assert_eq!(gateway.get("/w/x").text(), "first");
    gate.open();
    eventually("the connection is given up", || {
        origin.connections()[0].ended
    });
    assert_eq!(gateway.get("/w/x").text(), "next");
}

/// RFC 9110 §8.6: no Content-Length in a 204.
#[test]
fn no_content_has_no_length() {
    let origin = Origin::answering(|_| {
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nX-Kept: 1\r\n\r\n".to_vec()
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let answer = gateway.get("/w/x");
    assert_eq!(answer.status, 204);
    assert_eq!(answer.field("content-length"), None);
    assert_eq!(answer.field("x-kept"), Some("1"));
}

/// What the client sent behind its last request must not reset its answer away.
#[test]
fn an_answer_that_closes_is_read_whole_however_much_was_sent_behind() {
    let origin = Origin::scripted(answer_next);
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    client.send(&b"GET /w/y HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2_000));
    let answer = client.read("GET");
    assert_eq!(answer.text(), "next", "{}", answer.summary());
    assert!(client.closes());
}

/// RFC 9112 §8: what an HTTP/1.0 client is sent ends with its connection, so a cut must be seen.
#[test]
fn an_answer_that_is_cut_is_no_whole_one_for_http_1_0_either() {
    let origin = Origin::scripted(|peer| {
        if peer.request().is_none() {
            return;
        }
        let _ = peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n");
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    client.send(b"GET /w/x HTTP/1.0\r\nHost: a\r\n\r\n");
    let answer = client.read("GET");
    assert_eq!(answer.end, End::Cut, "{}", answer.summary());
}

/// RFC 9110 §9.2.2: what has been read so far is still at hand, so the origin that closed an idle
/// connection at the wrong moment costs nothing.
#[test]
fn a_put_whose_content_is_still_coming_is_sent_again() {
    for (framing, first, last) in [
        ("Content-Length: 4", "ab", "cd"),
        (
            "Transfer-Encoding: chunked",
            "2\r\nab\r\n",
            "2\r\ncd\r\n0\r\n\r\n",
        ),
    ] {
        let gate = Gate::default();
        let opened = gate.clone();
        let origin = Origin::scripted(move |peer| {
            if peer.number() == 0 {
                if peer.request().is_some() {
                    let _ = peer.write(&Response::new(200, "first").to_bytes());
                    peer.peek_until(b"ab");
                }
                return;
            }
            let Some(mut req) = peer.head() else { return };
            opened.open();
            peer.body(&mut req);
            let _ = peer.write(&Response::new(200, "thanks").to_bytes());
        });
        let gateway = Setup::in_front_of(origin.port())
            .conf(json!({"penstock": {"shards": 1}}))
            .start();
        let mut client = gateway.client();
        assert_eq!(client.get("/w/x").text(), "first");
        client.send(format!("PUT /w/x HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{first}").as_bytes());
        assert!(gate.wait(), "{framing}: it is not sent again");
        client.send(last.as_bytes());
        let answer = client.read("PUT");
        assert_eq!(answer.text(), "thanks", "{}", answer.summary());
        let sent = origin.requests().pop().expect("the second request");
        assert_eq!(sent.body, b"abcd");
    }
}
