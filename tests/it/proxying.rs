//! What passes through: bodies that stream both ways, early and interim answers, the keep-alive
//! race, several addresses, time limits and the texts of failures.

use std::{
    io::Read as _,
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{
    Client, End, Ended, Gate, Origin, Response, Setup, TempDir, api, eventually, free_port,
    slow_tests, within,
};

const PROXY_ERROR: &str = "There was a problem proxying the request";

fn fine() -> Origin {
    Origin::answering(|req| Response::new(200, &format!("fine {}", req.target)).to_bytes())
}

/// Tyk's error body for a status and a text.
#[track_caller]
fn assert_error(answer: &Response, status: u16, text: &str) {
    assert_eq!(answer.status, status, "{}", answer.summary());
    assert_eq!(answer.text(), format!("{{\n    \"error\": \"{text}\"\n}}"));
    assert_eq!(answer.field("content-type"), Some("application/json"));
    assert_eq!(answer.field("x-generator"), Some("tyk.io"));
}

mod bodies {
    use super::*;

    #[test]
    fn an_answer_streams_before_it_is_complete() {
        for framing in [
            "Content-Length: 10",
            "Transfer-Encoding: chunked",
            "Connection: close",
        ] {
            let go = Gate::default();
            let door = go.clone();
            let origin = Origin::scripted(move |peer| {
                let Some(_) = peer.request() else { return };
                let chunked = framing.starts_with('T');
                let part = |text: &str| match chunked {
                    true => format!("5\r\n{text}\r\n"),
                    false => text.to_owned(),
                };
                let _ = peer.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n").as_bytes());
                let _ = peer.write(part("first").as_bytes());
                door.wait();
                let _ = peer.write(part("final").as_bytes());
                if chunked {
                    let _ = peer.write(b"0\r\n\r\n");
                }
            });
            let gateway = Setup::in_front_of(origin.port()).start();
            let mut client = gateway.client();
            client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
            let came = client.read_until(b"first");
            assert!(
                came.ends_with(b"first") || came.ends_with(b"first\r\n"),
                "{framing}"
            );
            go.open();
            let answer = client.read("GET");
            assert_eq!(
                (answer.text().as_str(), answer.end),
                ("firstfinal", End::Complete)
            );
        }
    }

    #[test]
    fn server_sent_events_come_one_by_one() {
        let next = [Gate::default(), Gate::default(), Gate::default()];
        let doors = next.clone();
        let origin = Origin::scripted(move |peer| {
            let Some(_) = peer.request() else { return };
            let _ = peer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
            for (n, door) in doors.iter().enumerate() {
                let _ = peer.write(format!("data: {n}\n\n").as_bytes());
                door.wait();
            }
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        client.send(b"GET /w/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n");
        for (n, gate) in next.iter().enumerate() {
            let event = format!("data: {n}\n\n");
            let came = client.read_until(event.as_bytes());
            assert!(
                came.windows(event.len()).any(|w| w == event.as_bytes()),
                "event {n}"
            );
            gate.open();
        }
        let answer = client.read("GET");
        assert_eq!(answer.end, End::Complete);
        assert_eq!(answer.field("content-type"), Some("text/event-stream"));
    }

    #[test]
    fn a_request_streams_before_it_is_complete() {
        for (framing, first, last) in [
            ("Content-Length: 10", "first", "final"),
            (
                "Transfer-Encoding: chunked",
                "5\r\nfirst\r\n",
                "5\r\nfinal\r\n0\r\n\r\n",
            ),
        ] {
            let come = Gate::default();
            let came = come.clone();
            let origin = Origin::scripted(move |peer| {
                let Some(mut req) = peer.head() else { return };
                if peer.peek_until(b"first") {
                    came.open();
                }
                assert!(peer.body(&mut req));
                let _ = peer.write(&Response::new(200, "thanks").to_bytes());
            });
            let gateway = Setup::in_front_of(origin.port()).start();
            let mut client = gateway.client();
            let head = format!("POST /w/x HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{first}");
            client.send(head.as_bytes());
            assert!(
                come.wait(),
                "{framing}: the first half waits for the second"
            );
            client.send(last.as_bytes());
            assert_eq!(client.read("POST").text(), "thanks");
            assert_eq!(origin.requests()[0].body, b"firstfinal");
        }
    }

    #[test]
    fn large_bodies_pass_whole_both_ways() {
        let origin = Origin::answering(|req| {
            let mut answer = Response::new(200, "");
            answer.fields = vec![("Content-Length".to_owned(), req.body.len().to_string())];
            answer.body = req.body.clone();
            answer.to_bytes()
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut client = gateway.client();
        client.send(b"POST /w/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        for part in body.chunks(70_001) {
            client.send(format!("{:x}\r\n", part.len()).as_bytes());
            client.send(part);
            client.send(b"\r\n");
        }
        client.send(b"0\r\n\r\n");
        assert!(
            client.read("POST").body == body,
            "chunked: the echo differs"
        );
        client.send(
            format!(
                "PUT /w/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .as_bytes(),
        );
        client.send(&body);
        assert!(
            client.read("PUT").body == body,
            "with a length: the echo differs"
        );
        assert!(origin.violations().is_empty(), "{:?}", origin.violations());
    }

    /// RUSTSEC-2025-0037: the body that nobody read must not become the next request.
    #[test]
    fn an_early_answer_leaves_no_body_behind() {
        let origin = Origin::scripted(|peer| {
            while let Some(mut req) = peer.head() {
                if req.method == "POST" {
                    let _ = peer.write(&Response::new(403, "no need").to_bytes());
                    peer.linger();
                    return;
                }
                peer.body(&mut req);
                let _ = peer.write(&Response::new(200, "next").to_bytes());
            }
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        client.send(b"POST /w/x HTTP/1.1\r\nHost: a\r\nContent-Length: 37\r\n\r\nGET /");
        let answer = client.read("POST");
        assert_eq!((answer.status, answer.text().as_str()), (403, "no need"));
        client.send(b"w/smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        client.send(b"GET /w/next HTTP/1.1\r\nHost: a\r\n\r\n");
        let next = client.read("GET");
        assert!(
            next.text() == "next" || (next.status == 0 && next.end == End::Cut),
            "drained or closed, nothing between: {}",
            next.summary()
        );
        let smuggled = origin
            .requests()
            .iter()
            .any(|r| r.target.contains("smuggled"));
        assert!(!smuggled, "the rest of a body became a request");
    }

    #[test]
    fn a_client_that_leaves_in_its_body_ends_the_upstream_message_unfinished() {
        let begun = Gate::default();
        let opened = begun.clone();
        let origin = Origin::scripted(move |peer| {
            let Some(_) = peer.head() else { return };
            opened.open();
            peer.linger();
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        client.send(
            b"POST /w/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        );
        assert!(begun.wait());
        drop(client);
        eventually("the upstream connection ends", || {
            origin.connections()[0].ended
        });
        let sent = origin.connections()[0].bytes.clone();
        assert!(!sent.ends_with(b"0\r\n\r\n"), "{}", sent.escape_ascii());
    }

    #[test]
    fn a_client_that_leaves_while_it_waits_ends_the_upstream_connection() {
        let origin = Origin::scripted(|peer| {
            let Some(_) = peer.request() else { return };
            peer.linger();
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
        eventually("the origin has it", || {
            (!origin.requests().is_empty()).then_some(())
        });
        drop(client);
        eventually("the upstream connection ends", || {
            origin.connections()[0].ended
        });
    }

    #[test]
    fn a_slow_reader_costs_little_memory() {
        const MUCH: usize = 64 << 20;
        let stuck = Arc::new(AtomicUsize::new(0));
        let written = Arc::clone(&stuck);
        let origin = Origin::scripted(move |peer| {
            let Some(_) = peer.request() else { return };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n");
            let _ = peer.write(head.as_bytes());
            let block = vec![b'x'; 64 << 10];
            while written.load(Ordering::Relaxed) < MUCH && peer.write(&block).is_ok() {
                written.fetch_add(block.len(), Ordering::Relaxed);
            }
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let before = gateway.resident_kib();
        let mut client = gateway.client();
        client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_head().status, 200);
        // The origin writes until every buffer on the way is full, then stands still.
        let mut last = 0;
        eventually("the origin is held back", || {
            let now = stuck.load(Ordering::Relaxed);
            let still = now == last && now > 0;
            last = now;
            within(Duration::from_millis(300), || None::<()>);
            still.then_some(())
        });
        assert!(
            stuck.load(Ordering::Relaxed) < MUCH,
            "nothing held the origin back"
        );
        let grown = gateway.resident_kib().saturating_sub(before);
        assert!(grown < 4 * 1024, "{grown} KiB more for one slow reader");
        let mut came = client.inbox.buf.len();
        while came < MUCH {
            client.inbox.buf.clear();
            match client.inbox.fill() {
                Ok(n) if n > 0 => came += n,
                _ => break,
            }
        }
        assert_eq!(came, MUCH);
    }
}

mod semantics {
    use super::*;

    #[test]
    fn head_has_no_body_and_keeps_its_length() {
        let origin = Origin::answering(|req| match req.method.as_str() {
            "HEAD" => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n".to_vec(),
            _ => Response::new(200, "0123456789").to_bytes(),
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        client.send(b"HEAD /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.read("HEAD");
        assert_eq!(
            (answer.status, answer.field("content-length")),
            (200, Some("10"))
        );
        assert_eq!(client.get("/w/x").text(), "0123456789");
        // An error of the gateway's own has no body for HEAD either.
        client.send(b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read("HEAD").status, 404);
        assert_eq!(client.get("/w/x").status, 200);
    }

    #[test]
    fn answers_without_content_keep_the_connection_in_step() {
        let origin = Origin::answering(|req| match req.target.as_str() {
            "/204" => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            "/304" => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n".to_vec(),
            "/205" => b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n".to_vec(),
            _ => Response::new(200, "body").to_bytes(),
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        for status in [204, 304, 205] {
            let answer = client.get(&format!("/w/{status}"));
            assert_eq!((answer.status, answer.end), (status, End::Complete));
            assert_eq!(client.get("/w/x").text(), "body", "behind {status}");
        }
        assert_eq!(
            origin.connections().len(),
            1,
            "a connection was thrown away"
        );
    }

    #[test]
    fn interim_answers_come_before_the_final_one() {
        let go = Gate::default();
        let door = go.clone();
        let origin = Origin::scripted(move |peer| {
            let Some(_) = peer.request() else { return };
            let _ = peer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
            door.wait();
            let _ = peer.write(&Response::new(200, "late").to_bytes());
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
        let hints = client.read_until(b"\r\n\r\n");
        assert!(
            hints.starts_with(b"HTTP/1.1 103"),
            "{}",
            hints.escape_ascii()
        );
        go.open();
        let answer = client.read("GET");
        assert_eq!((answer.interim, answer.body), (vec![103], b"late".to_vec()));
        // RFC 9110 §15.2: HTTP/1.0 has no interim answers.
        client = gateway.client();
        client.send(b"GET /w/x HTTP/1.0\r\nHost: a\r\n\r\n");
        let answer = client.read("GET");
        assert_eq!((answer.interim, answer.body), (vec![], b"late".to_vec()));
    }

    #[test]
    fn a_body_behind_100_continue_waits_for_it() {
        let origin = fine();
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        client.send(
            b"POST /w/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        );
        let interim = client.read_until(b"\r\n\r\n");
        assert!(
            interim.starts_with(b"HTTP/1.1 100"),
            "{}",
            interim.escape_ascii()
        );
        client.send(b"abc");
        let answer = client.read("POST");
        assert_eq!((answer.status, answer.interim), (200, vec![100]));
        assert_eq!(origin.requests()[0].body, b"abc");
        // An unwanted body is never sent: the final answer comes instead of 100.
        client.send(
            b"POST /nowhere HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        );
        let answer = client.read("POST");
        assert_eq!((answer.status, answer.interim), (404, vec![]));
    }

    #[test]
    fn http_1_0_gets_no_chunks_and_a_closed_connection() {
        let origin = Origin::answering(|_| {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n".to_vec()
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        client.send(b"GET /w/x HTTP/1.0\r\nHost: a\r\n\r\n");
        let answer = client.read("GET");
        assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
        assert_eq!(answer.field("transfer-encoding"), None);
        assert!(client.closes());
        assert_eq!(origin.requests()[0].version, "HTTP/1.1");
        // And without a Host, which HTTP/1.0 does not know.
        let mut client = gateway.client();
        client.send(b"GET /w/x HTTP/1.0\r\n\r\n");
        assert_eq!(client.read("GET").text(), "body");
    }

    #[test]
    fn request_fields_are_those_of_tyk() {
        let origin = fine();
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        client.send(
            b"GET /w/x?a=1&b=%20 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\n\
              X-A: 1\r\nX-A: 2\r\nTE: trailers\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n",
        );
        assert_eq!(client.read("GET").status, 200);
        let seen = origin.requests().pop().expect("one request");
        assert_eq!(seen.target, "/x?a=1&b=%20");
        assert_eq!(
            seen.field("host"),
            Some(format!("127.0.0.1:{}", origin.port()).as_str())
        );
        assert_eq!(seen.field("x-forwarded-for"), Some("10.0.0.1, 127.0.0.1"));
        assert_eq!(seen.field("user-agent"), Some("Tyk/v5.4.0"));
        assert_eq!(seen.field("accept-encoding"), Some("gzip"));
        assert_eq!(seen.field("x-hop"), None);
        assert_eq!(seen.field("x-real-ip"), None);
        let both: Vec<&str> = seen
            .fields
            .iter()
            .filter(|(n, _)| n == "X-A")
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!(both, ["1", "2"]);
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        let level = flate2::Compression::default();
        flate2::read::GzEncoder::new(text, level)
            .read_to_end(&mut packed)
            .expect("in memory");
        packed
    }

    /// An answer of `packed` behind these fields, as one message of known length.
    fn packed_answer(packed: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            packed.len()
        );
        [head.as_bytes(), packed].concat()
    }

    #[test]
    fn gzip_is_undone_for_a_client_that_did_not_ask_for_it() {
        let text = b"hello ".repeat(50_000);
        let packed = gzip(&text);
        let answer = packed_answer(&packed);
        let origin = Origin::answering(move |_| answer.clone());
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        let plain = client.get("/w/x");
        assert!(plain.body == text, "decoded: {} bytes", plain.body.len());
        assert_eq!(plain.field("content-encoding"), None);
        assert_eq!(plain.field("content-length"), None);
        // Whoever asks gets it as it is.
        for asked in ["gzip", "br", "identity"] {
            let line = format!("GET /w/x HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {asked}\r\n\r\n");
            client.send(line.as_bytes());
            let as_it_is = client.read("GET");
            assert!(as_it_is.body == packed, "{asked}");
            assert_eq!(as_it_is.field("content-encoding"), Some("gzip"));
            let seen = origin.requests().pop().expect("a request");
            assert_eq!(seen.field("accept-encoding"), Some(asked));
        }
    }

    #[test]
    fn gzip_is_undone_as_it_streams() {
        let (go, second) = (Gate::default(), Gate::default());
        let (door, sent) = (go.clone(), second.clone());
        let origin = Origin::scripted(move |peer| {
            let Some(_) = peer.request() else { return };
            let _ = peer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n");
            let mut packer =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            std::io::Write::write_all(&mut packer, b"first half").expect("in memory");
            std::io::Write::flush(&mut packer).expect("in memory");
            let first = packer.get_ref().clone();
            let _ = peer.write(&first);
            door.wait();
            std::io::Write::write_all(&mut packer, b", second half").expect("in memory");
            let all = packer.finish().expect("in memory");
            let _ = peer.write(&all[first.len()..]);
            sent.open();
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
        let came = client.read_until(b"first half");
        assert!(
            came.windows(10).any(|w| w == b"first half"),
            "{}",
            came.escape_ascii()
        );
        go.open();
        assert_eq!(client.read("GET").text(), "first half, second half");
        assert!(second.wait());
    }

    #[test]
    fn gzip_that_is_broken_is_never_a_whole_answer() {
        let packed = gzip(&b"hello ".repeat(50_000));
        let mut flipped = packed.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0xff;
        for broken in [
            flipped,
            packed[..packed.len() - 9].to_vec(),
            b"no gzip at all".to_vec(),
        ] {
            let answer = packed_answer(&broken);
            let origin = Origin::answering(move |_| answer.clone());
            let gateway = Setup::in_front_of(origin.port()).start();
            let got = gateway.get("/w/x");
            let honest = got.status == 500 || (got.status == 200 && got.end != End::Complete);
            assert!(honest, "{} {:?}", got.status, got.end);
        }
    }

    #[test]
    fn a_gzip_bomb_takes_no_memory() {
        // 64 MiB of zeros in about 64 KiB.
        let packed = gzip(&vec![0; 64 << 20]);
        let answer = packed_answer(&packed);
        let origin = Origin::answering(move |_| answer.clone());
        let gateway = Setup::in_front_of(origin.port()).start();
        let before = gateway.resident_kib();
        let mut client = gateway.client();
        client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.read_head().status, 200);
        let mut most = 0;
        let mut reads = 0;
        while matches!(client.inbox.fill(), Ok(n) if n > 0) {
            client.inbox.buf.clear();
            reads += 1;
            if reads % 50 == 0 {
                most = most.max(gateway.resident_kib());
            }
            if reads > 4000 {
                break;
            }
        }
        let grown = most.saturating_sub(before);
        assert!(grown < 8 * 1024, "{grown} KiB more while it was unpacked");
    }

    #[test]
    fn trailers_pass_when_they_are_on_the_list_only() {
        let origin = Origin::answering(|_| {
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Grpc-Status\r\n\r\n\
              4\r\nbody\r\n0\r\nGrpc-Status: 0\r\nSet-Cookie: evil=1\r\n\r\n"
                .to_vec()
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let answer = gateway.get("/w/x");
        assert_eq!(answer.text(), "body");
        let names: Vec<String> = answer
            .trailers
            .iter()
            .map(|(n, _)| n.to_ascii_lowercase())
            .collect();
        assert!(!names.contains(&"set-cookie".to_owned()), "{names:?}");
        assert_eq!(answer.field("set-cookie"), None);
    }
}

mod upstreams {
    use super::*;

    /// An origin that closes each connection behind the first answer without saying so.
    fn forgetful(times: Arc<AtomicUsize>) -> Origin {
        Origin::scripted(move |peer| {
            let Some(req) = peer.request() else { return };
            times.fetch_add(1, Ordering::Relaxed);
            let _ = peer.write(&Response::new(200, &req.target).to_bytes());
            // Reads the next request and hangs up on it: the worst moment of the keep-alive race.
            if req.target == "/first" {
                let _ = peer.request();
            }
        })
    }

    #[test]
    fn a_get_that_meets_a_closing_connection_is_sent_again() {
        let origin = forgetful(Arc::default());
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        assert_eq!(client.get("/w/first").status, 200);
        let second = client.get("/w/second");
        assert_eq!((second.status, second.text().as_str()), (200, "/second"));
        assert_eq!(origin.connections().len(), 2);
    }

    #[test]
    fn a_post_is_never_sent_twice() {
        let origin = forgetful(Arc::default());
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        assert_eq!(client.get("/w/first").status, 200);
        client.send(b"POST /w/pay HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        let answer = client.read("POST");
        let times = origin
            .requests()
            .iter()
            .filter(|r| r.target == "/pay")
            .count();
        assert_eq!(times, 1, "answered {}", answer.summary());
        assert_error(&answer, 500, PROXY_ERROR);
    }

    /// A connection that the origin closed while it was idle is noticed before it is used.
    #[test]
    fn a_post_never_meets_a_connection_closed_long_ago() {
        let origin = Origin::scripted(|peer| {
            let Some(req) = peer.request() else { return };
            let _ = peer.write(&Response::new(200, &req.target).to_bytes());
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        for n in 0..20 {
            client.send(
                format!("POST /w/{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
                    .as_bytes(),
            );
            let answer = client.read("POST");
            assert_eq!(answer.status, 200, "POST {n}: {}", answer.summary());
            eventually("the origin has closed", || {
                origin
                    .connections()
                    .iter()
                    .all(|c| c.ended == Some(Ended::ByOrigin))
                    .then_some(())
            });
        }
        assert_eq!(origin.requests().len(), 20);
    }

    /// Requests come just when the origin closes what was idle for a second: no GET may fail, and a
    /// POST comes to the origin at most once.
    #[test]
    fn the_keep_alive_race_loses_no_get_and_repeats_no_post() {
        let origin = Origin::scripted(|peer| {
            peer.idle_limit(Duration::from_secs(1));
            while let Some(req) = peer.request() {
                let _ = peer.write(&Response::new(200, &req.target).to_bytes());
            }
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let rounds = if slow_tests() { 600 } else { 5 };
        let port = gateway.port();
        let ask = move |worker: usize| {
            let mut client = Client::connect(port);
            let mut failed = Vec::new();
            for round in 0..rounds {
                let id = format!("{worker}-{round}");
                let get = client.get(&format!("/w/get-{id}"));
                if (get.status, get.text()) != (200, format!("/get-{id}")) {
                    failed.push(format!("GET {id}: {}", get.summary()));
                }
                // A millisecond earlier or later for each: some hit the moment of closing.
                let pause = Duration::from_micros(994_000 + 1_500 * worker as u64);
                within(pause, || None::<()>);
                let line = format!("POST /w/post-{id} HTTP/1.1\r\nHost: a\r\n");
                client.send(format!("{line}Content-Length: 3\r\n\r\nabc").as_bytes());
                let post = client.read("POST");
                assert!(
                    matches!(post.status, 200 | 500),
                    "POST {id}: {}",
                    post.summary()
                );
                within(pause, || None::<()>);
            }
            failed
        };
        let workers: Vec<_> = (0..8).map(|n| std::thread::spawn(move || ask(n))).collect();
        for worker in workers {
            let failed = worker.join().expect("a worker does not panic");
            assert!(failed.is_empty(), "{}", failed.join("\n"));
        }
        let mut targets: Vec<String> = origin.requests().into_iter().map(|r| r.target).collect();
        targets.retain(|t| t.starts_with("/post-"));
        let sent = targets.len();
        targets.sort();
        targets.dedup();
        assert_eq!(targets.len(), sent, "a POST was sent twice");
    }

    #[test]
    fn a_get_is_not_repeated_for_ever() {
        let origin = Origin::scripted(|peer| {
            let _ = peer.request();
        });
        let gateway = Setup::in_front_of(origin.port()).start();
        let answer = gateway.get("/w/x");
        assert_error(&answer, 500, PROXY_ERROR);
        assert!(
            origin.requests().len() <= 3,
            "{} attempts",
            origin.requests().len()
        );
    }

    #[test]
    fn connections_are_kept_and_used_again() {
        let origin = fine();
        let gateway = Setup::in_front_of(origin.port()).start();
        let mut client = gateway.client();
        for n in 0..50 {
            assert_eq!(client.get(&format!("/w/{n}")).text(), format!("fine /{n}"));
        }
        assert_eq!(origin.connections().len(), 1);
    }

    #[test]
    fn proxy_close_connections_keeps_none() {
        let origin = fine();
        let gateway = Setup::in_front_of(origin.port())
            .conf(json!({"proxy_close_connections": true}))
            .start();
        let mut client = gateway.client();
        for _ in 0..3 {
            assert_eq!(client.get("/w/x").status, 200);
        }
        assert_eq!(origin.connections().len(), 3);
    }

    #[test]
    fn a_target_list_is_taken_in_turn() {
        let origins: Vec<Origin> = (0..3)
            .map(|n| Origin::answering(move |_| Response::new(200, &n.to_string()).to_bytes()))
            .collect();
        let urls: Vec<String> = origins.iter().map(Origin::url).collect();
        let gateway = Setup::in_front_of(free_port())
            .conf(json!({"penstock": {"shards": 1}}))
            .with(json!({"proxy": {"enable_load_balancing": true, "target_list": urls}}))
            .start();
        let mut client = gateway.client();
        let got: Vec<String> = (0..9).map(|_| client.get("/w/x").text()).collect();
        let from = got[0].parse::<usize>().expect("a number");
        let wanted: Vec<String> = (0..9).map(|n| ((from + n) % 3).to_string()).collect();
        assert_eq!(got, wanted);
    }

    /// `localhost` has two addresses where IPv6 is on; a name with one dead address still works.
    #[test]
    fn several_addresses_are_tried_in_turn() {
        // Only 127.0.0.1 listens on this port; `localhost` resolves to ::1 as well.
        let origin = fine();
        let gateway = Setup::new()
            .api(api("w", &format!("http://localhost:{}", origin.port())))
            .start();
        for _ in 0..4 {
            let answer = gateway.get("/w/x");
            assert_eq!(answer.status, 200, "{}", answer.summary());
        }
    }

    #[test]
    fn a_refused_connection_has_tyks_text() {
        let gateway = Setup::in_front_of(free_port()).start();
        assert_error(&gateway.get("/w/x"), 500, PROXY_ERROR);
        let mut xml = gateway.client();
        xml.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\nContent-Type: application/xml\r\n\r\n");
        let answer = xml.read("GET");
        assert_eq!(answer.field("content-type"), Some("application/xml"));
        assert!(
            answer
                .text()
                .contains(&format!("<error>{PROXY_ERROR}</error>"))
        );
    }

    #[test]
    fn an_unknown_name_has_tyks_text() {
        let gateway = Setup::new()
            .api(api("w", "http://no-such-host.invalid"))
            .start();
        assert_error(&gateway.get("/w/x"), 500, "Upstream host lookup failed");
    }

    #[test]
    fn a_late_answer_is_504_and_the_connection_is_dropped() {
        let go = Gate::default();
        let door = go.clone();
        let origin = Origin::answering(move |req| {
            if req.target == "/late" {
                door.wait();
            }
            Response::new(200, &req.target).to_bytes()
        });
        let gateway = Setup::in_front_of(origin.port())
            .conf(json!({"proxy_default_timeout": 1}))
            .start();
        let mut client = gateway.client();
        let asked = Instant::now();
        let answer = client.get("/w/late");
        assert_error(&answer, 504, "Upstream service reached hard timeout.");
        assert!(
            asked.elapsed() > Duration::from_millis(900),
            "{:?}",
            asked.elapsed()
        );
        go.open();
        // The late answer belongs to nobody.
        assert_eq!(client.get("/w/next").text(), "/next");
        assert_eq!(origin.connections().len(), 2);
    }

    #[test]
    fn a_stream_has_no_time_limit_once_it_has_begun() {
        let go = Gate::default();
        let door = go.clone();
        let origin = Origin::scripted(move |peer| {
            let Some(_) = peer.request() else { return };
            let _ = peer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\na");
            door.wait();
            let _ = peer.write(b"b");
        });
        let gateway = Setup::in_front_of(origin.port())
            .conf(json!({"proxy_default_timeout": 1}))
            .start();
        let mut client = gateway.client();
        client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_until(b"a\r\n");
        assert!(
            client.stays_silent(Duration::from_secs(2)),
            "the stream was cut"
        );
        go.open();
        assert_eq!(client.read("GET").text(), "ab");
    }

    /// An upstream that takes no connection: Tyk's text for the time limit of dialling.
    #[test]
    fn a_connection_that_is_never_accepted_times_out() {
        // A full accept queue: nobody accepts, the queue has room for one.
        let stuck = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
        stuck.bind(&any.into()).expect("a free port");
        stuck.listen(0).expect("it listens");
        let listener = TcpListener::from(stuck);
        let port = listener.local_addr().expect("it is bound").port();
        let at = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let mut fillers = Vec::new();
        while fillers.len() < 8 {
            match std::net::TcpStream::connect_timeout(&at, Duration::from_millis(200)) {
                Ok(filler) => fillers.push(filler),
                Err(_) => break,
            }
        }
        let gateway = Setup::in_front_of(port)
            .conf(json!({"proxy_default_timeout": 1}))
            .start();
        let answer = gateway.get("/w/x");
        assert!(matches!(answer.status, 500 | 504), "{}", answer.summary());
        drop(listener);
    }
}

/// A panic in the chain costs one connection, on every shard, any number of times.
#[cfg(feature = "fault-injection")]
mod faults {
    use super::*;
    use crate::harness::Load;

    #[test]
    fn a_panic_costs_one_connection() {
        let origin = fine();
        let gateway = Setup::in_front_of(origin.port()).panics_expected().start();
        let load = Load::start(gateway.port(), "/w/load", 4, true);
        for n in 1..=20 {
            let mut client = gateway.client();
            client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\nX-Penstock-Fault: panic\r\n\r\n");
            let answer = client.read("GET");
            assert_eq!(answer.status, 500, "panic {n}: {}", answer.summary());
            assert!(client.ends());
        }
        load.run_for(200);
        load.stop().assert_flawless(&origin);
        assert_eq!(gateway.metric("penstock_panics_total"), Some(20.0));
    }
}

/// The definitions above are read from files: one that a step needs from a folder of its own.
#[test]
fn a_template_folder_replaces_the_texts_of_errors() {
    let templates = TempDir::new("templates");
    for (name, text) in [
        ("error.json", "{\"sorry\": \"{{.Message}}\"}"),
        ("error.xml", "<sorry/>"),
    ] {
        std::fs::write(templates.path().join(name), text).expect("a folder of its own");
    }
    let gateway = Setup::in_front_of(free_port())
        .conf(json!({"template_path": templates.path()}))
        .start();
    let answer = gateway.get("/w/x");
    assert_eq!(answer.text(), format!("{{\"sorry\": \"{PROXY_ERROR}\"}}"));
}
