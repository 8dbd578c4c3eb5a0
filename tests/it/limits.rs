//! Every limit of `penstock.limits` at limit − 1, limit and limit + 1, with its default value.
//!
//! Sizes are exact. Times are looked at from one side each: not before the limit, and not long
//! after it; the slack above is wide because test machines stall.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Client, End, Ended, Gate, Gateway, Origin, PATIENCE, Response, Setup, eventually, within,
};

/// How much later than asked a deadline may strike on a loaded machine.
const SLACK: Duration = Duration::from_secs(6);

fn origin() -> Origin {
    Origin::answering(|_| Response::new(200, "fine").to_bytes())
}

/// Sends what `payload` makes for limit − 1, limit and limit + 1; the last is refused with one of
/// `refusals`, the connection closes, and the origin has no whole request of it.
#[track_caller]
fn check(
    gateway: &Gateway,
    origin: &Origin,
    limit: usize,
    refusals: &[u16],
    payload: impl Fn(usize) -> Vec<u8>,
) {
    for (size, passes) in [(limit - 1, true), (limit, true), (limit + 1, false)] {
        let before = origin.requests().len();
        let mut client = gateway.client();
        client.send(&payload(size));
        let answer = client.read("POST");
        let seen = origin.requests().len() - before;
        if passes {
            assert_eq!(
                answer.status,
                200,
                "{size} of {limit}: {}",
                answer.summary()
            );
            assert_eq!(seen, 1, "{size} of {limit}");
        } else {
            let status = answer.status;
            assert!(
                refusals.contains(&status),
                "{size} of {limit}: {}",
                answer.summary()
            );
            assert!(
                client.closes(),
                "{size} of {limit}: the connection stays open"
            );
            assert_eq!(seen, 0, "{size} of {limit}: the origin got a whole request");
        }
    }
    assert!(origin.violations().is_empty(), "{:?}", origin.violations());
}

const CHUNKED: &str = "POST /w/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

fn line_of(size: usize) -> Vec<u8> {
    let padding = size - "GET /w/ HTTP/1.1".len();
    format!("GET /w/{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(padding)).into_bytes()
}

fn head_of(size: usize) -> Vec<u8> {
    let mut head = b"GET /w/x HTTP/1.1\r\nHost: a\r\n".to_vec();
    // Fields of 8 KiB each, and one that fills what is left before the empty line.
    while size - head.len() > 9000 {
        head.extend_from_slice(format!("X-A: {}\r\n", "a".repeat(8000)).as_bytes());
    }
    let padding = size - head.len() - "X-A: \r\n\r\n".len();
    head.extend_from_slice(format!("X-A: {}\r\n\r\n", "a".repeat(padding)).as_bytes());
    assert_eq!(head.len(), size);
    head
}

fn fields_of(count: usize) -> Vec<u8> {
    let others = "X-A: a\r\n".repeat(count - 1);
    format!("GET /w/x HTTP/1.1\r\nHost: a\r\n{others}\r\n").into_bytes()
}

/// The trailer section and the empty line that ends it are `size` bytes.
fn trailers_of(size: usize) -> Vec<u8> {
    let padding = size - "X-T: \r\n\r\n".len();
    format!(
        "{CHUNKED}1\r\nx\r\n0\r\nX-T: {}\r\n\r\n",
        "a".repeat(padding)
    )
    .into_bytes()
}

fn trailer_fields_of(count: usize) -> Vec<u8> {
    format!("{CHUNKED}1\r\nx\r\n0\r\n{}\r\n", "X-T: a\r\n".repeat(count)).into_bytes()
}

/// Extensions of `size` bytes in all, semicolons included, spread over four chunks.
fn extensions_of(size: usize) -> Vec<u8> {
    let mut body = String::new();
    let mut left = size;
    for share in [size / 4, size / 4, size / 4, usize::MAX] {
        let bytes = share.min(left);
        left -= bytes;
        body += &format!("1;{}\r\nx\r\n", "a".repeat(bytes - 1));
    }
    format!("{CHUNKED}{body}0\r\n\r\n").into_bytes()
}

#[test]
fn sizes_of_a_request_head() {
    let origin = origin();
    let gateway = Setup::in_front_of(origin.port()).start();
    check(&gateway, &origin, 16 * 1024, &[414], line_of);
    check(&gateway, &origin, 64 * 1024, &[431], head_of);
    check(&gateway, &origin, 256, &[431], fields_of);
}

#[test]
fn sizes_around_a_chunked_body() {
    let origin = origin();
    let gateway = Setup::in_front_of(origin.port()).start();
    check(&gateway, &origin, 8 * 1024, &[400, 431], trailers_of);
    check(&gateway, &origin, 32, &[400, 431], trailer_fields_of);
    check(&gateway, &origin, 4 * 1024, &[400], extensions_of);
}

#[test]
fn the_limits_are_those_of_the_file() {
    let origin = origin();
    let gateway = Setup::in_front_of(origin.port())
        .limits(json!({
            "request_line_bytes": 100, "head_bytes": 2000, "fields": 10, "trailer_bytes": 100,
            "trailer_fields": 3, "chunk_extension_bytes": 40,
        }))
        .start();
    check(&gateway, &origin, 100, &[414], line_of);
    check(&gateway, &origin, 2000, &[431], head_of);
    check(&gateway, &origin, 10, &[431], fields_of);
    check(&gateway, &origin, 100, &[400, 431], trailers_of);
    check(&gateway, &origin, 3, &[400, 431], trailer_fields_of);
    check(&gateway, &origin, 40, &[400], extensions_of);
}

#[test]
fn a_head_that_comes_byte_by_byte_has_the_same_limits() {
    let origin = origin();
    let gateway = Setup::in_front_of(origin.port())
        .limits(json!({"request_line_bytes": 64}))
        .start();
    for (size, wanted) in [(64, 200), (65, 414)] {
        let mut client = gateway.client();
        for byte in line_of(size) {
            client.send(&[byte]);
        }
        assert_eq!(client.read("GET").status, wanted, "{size}");
    }
}

#[test]
fn interim_answers() {
    for (limit, conf) in [(8, json!({})), (1, json!({"interim_responses": 1}))] {
        let origin = Origin::answering(|req| {
            let count = req.target.trim_start_matches('/').parse().expect("a count");
            let mut out = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(count);
            out.extend(Response::new(200, "fine").to_bytes());
            out
        });
        let gateway = Setup::in_front_of(origin.port()).limits(conf).start();
        for (count, status) in [(limit - 1, 200), (limit, 200), (limit + 1, 500)] {
            let answer = gateway.get(&format!("/w/{count}"));
            assert_eq!(
                answer.status,
                status,
                "{count} of {limit}: {}",
                answer.summary()
            );
        }
    }
}

#[test]
fn max_request_body_size() {
    let origin = origin();
    let gateway = Setup::in_front_of(origin.port())
        .conf(json!({"http_server_options": {"max_request_body_size": 1000}}))
        .start();
    check(&gateway, &origin, 1000, &[413], |size| {
        let body = "b".repeat(size);
        format!("POST /w/x HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n{body}")
            .into_bytes()
    });
    check(&gateway, &origin, 1000, &[413], |size| {
        let body = "b".repeat(size);
        format!("{CHUNKED}{size:x}\r\n{body}\r\n0\r\n\r\n").into_bytes()
    });
    check(&gateway, &origin, 1000, &[413], |size| {
        format!("{CHUNKED}{}0\r\n\r\n", "1\r\nb\r\n".repeat(size)).into_bytes()
    });
    // Tyk: this answer goes past the error template.
    let mut client = gateway.client();
    client.send(b"POST /w/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n");
    let answer = client.read("POST");
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (413, "Request Entity Too Large\n")
    );
}

/// Requests sent ahead wait their turn; they neither overtake nor pile up in the gateway's memory.
#[test]
fn pipelined_heads_wait_outside() {
    let go = Gate::default();
    let door = go.clone();
    let origin = Origin::answering(move |req| {
        if req.target == "/first" {
            door.wait();
        }
        Response::new(200, &req.target).to_bytes()
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let ask = |n: usize| format!("GET /w/{n} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut client = gateway.client();
    client.send(b"GET /w/first HTTP/1.1\r\nHost: a\r\n\r\n");
    let ahead = 17;
    client.send((0..ahead).map(ask).collect::<String>().as_bytes());
    eventually("the first request is with the origin", || {
        (!origin.connections().is_empty()).then_some(())
    });
    go.open();
    assert_eq!(client.read("GET").text(), "/first");
    for n in 0..ahead {
        assert_eq!(client.read("GET").text(), format!("/{n}"));
    }
}

#[test]
fn a_flood_of_pipelined_heads_takes_no_memory() {
    let go = Gate::default();
    let door = go.clone();
    let origin = Origin::answering(move |_| {
        door.wait();
        Response::new(200, "fine").to_bytes()
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let before = gateway.resident_kib();
    let mut client = gateway.client();
    client
        .inbox
        .stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("a socket takes a timeout");
    let heads = b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(30_000);
    let mut taken = 0;
    while taken < 64 && client.try_send(&heads).is_ok() {
        taken += 1;
    }
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(
        grown < 8 * 1024,
        "{grown} KiB more after {taken} floods of {} bytes",
        heads.len()
    );
    go.open();
}

/// Runs `act` until the connection ends; answers after how long, and what had been answered.
fn until_closed(client: &mut Client, mut act: impl FnMut(&mut Client)) -> (Duration, Response) {
    let began = Instant::now();
    client.patience(Duration::from_millis(100));
    loop {
        let ended = match client.inbox.fill() {
            Ok(n) => n == 0,
            Err(e) => !matches!(
                e.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ),
        };
        if ended || began.elapsed() > PATIENCE * 3 {
            let took = began.elapsed();
            return (took, client.read("GET"));
        }
        act(client);
    }
}

#[track_caller]
fn assert_deadline(took: Duration, seconds: u64) {
    let wanted = Duration::from_secs(seconds);
    assert!(
        took >= wanted.mul_f64(0.9),
        "too early: after {took:?}, wanted {wanted:?}"
    );
    assert!(
        took <= wanted + SLACK,
        "too late: after {took:?}, wanted {wanted:?}"
    );
}

#[test]
fn a_head_has_a_deadline_however_it_trickles() {
    let origin = origin();
    let gateway = Setup::in_front_of(origin.port())
        .limits(json!({"header_deadline_s": 2}))
        .start();
    // Half a head and then nothing.
    let mut still = gateway.client();
    still.send(b"GET /w/x HTTP/1.1\r\nHo");
    let (took, answer) = until_closed(&mut still, |_| {});
    assert!(matches!(answer.status, 0 | 408), "{}", answer.summary());
    assert_deadline(took, 2);
    // A byte ten times a second: each arrival is not a new deadline.
    let mut trickle = gateway.client();
    trickle.send(b"GET /w/x HTTP/1.1\r\nX: ");
    let (took, answer) = until_closed(&mut trickle, |c| c.send(b"a"));
    assert!(matches!(answer.status, 0 | 408), "{}", answer.summary());
    assert_deadline(took, 2);
    // The second head of a connection has one too.
    let mut second = gateway.client();
    assert_eq!(second.get("/w/x").status, 200);
    second.send(b"GET /w/y HT");
    let (took, _) = until_closed(&mut second, |c| c.send(b""));
    assert_deadline(took, 2);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_body_has_a_least_rate() {
    let origin = origin();
    let gateway = Setup::in_front_of(origin.port())
        .limits(json!({"body_rate_min_bytes_per_s": 240, "body_rate_grace_s": 2}))
        .start();
    // Ten times 5 bytes a second is far below, and is cut; the origin's side is cut as well.
    let mut slow = gateway.client();
    slow.send(b"POST /w/slow HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    let (took, answer) = until_closed(&mut slow, |c| c.send(b"aaaaa"));
    assert!(
        matches!(answer.status, 0 | 400 | 408),
        "{}",
        answer.summary()
    );
    assert_deadline(took, 2);
    assert!(
        origin.requests().is_empty(),
        "the origin took a cut body for a whole one"
    );
    let closed = eventually("the upstream connection ends", || {
        origin
            .connections()
            .first()
            .map_or(Some(None), |c| c.ended.map(Some))
    });
    assert_ne!(closed, Some(Ended::ByOrigin));
    // Ten times 100 bytes a second is enough, however long it takes.
    let mut steady = gateway.client();
    steady.send(b"POST /w/steady HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n");
    for _ in 0..40 {
        steady.send(&[b'a'; 100]);
        assert!(
            steady.stays_silent(Duration::from_millis(100)),
            "a steady body was cut"
        );
    }
    // The last send may have crossed the answer's way; either way it is whole.
    let answer = steady.read("POST");
    assert_eq!(answer.status, 200, "{}", answer.summary());
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let go = Gate::default();
    let door = go.clone();
    let origin = Origin::answering(move |req| {
        if req.target == "/long" {
            door.wait();
        }
        Response::new(200, "fine").to_bytes()
    });
    let gateway = Setup::in_front_of(origin.port())
        .limits(json!({"keep_alive_idle_s": 2}))
        .start();
    let mut busy = gateway.client();
    busy.send(b"GET /w/long HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut idle = gateway.client();
    assert_eq!(idle.get("/w/x").status, 200);
    let (took, rest) = until_closed(&mut idle, |_| {});
    assert_eq!(
        (rest.status, rest.end),
        (0, End::Cut),
        "an idle connection ends without a word"
    );
    // An idle connection may first be parked for a second; it is closed 2 s behind its request.
    assert_deadline(took, 2);
    let mut never = gateway.client();
    let (took, rest) = until_closed(&mut never, |_| {});
    assert_eq!(rest.status, 0);
    assert_deadline(took, 2);
    // All this time the other waited for its answer: that is not idle.
    go.open();
    assert_eq!(busy.read("GET").status, 200);
}

/// With no descriptor left the gateway neither spins nor stops, and takes up again.
#[test]
fn running_out_of_descriptors_is_survived() {
    let origin = origin();
    let gateway = Setup::in_front_of(origin.port()).descriptors(256).start();
    let mut crowd: Vec<Client> = Vec::new();
    for _ in 0..600 {
        match Client::try_connect(gateway.port()) {
            Ok(client) => crowd.push(client),
            Err(_) => break,
        }
    }
    let used = cpu_ticks(gateway.pid());
    let watched = Instant::now();
    within(Duration::from_secs(2), || None::<()>);
    let ticks = cpu_ticks(gateway.pid()) - used;
    let share = ticks as f64 / 100.0 / watched.elapsed().as_secs_f64();
    assert!(share < 0.5, "{share:.2} of a core while nothing happens");
    drop(crowd);
    eventually("new clients are served again", || {
        gateway
            .try_get("/w/x")
            .filter(|r| r.status == 200)
            .map(|_| ())
    });
    let lines = gateway.log().lines().count();
    assert!(lines < 300, "{lines} lines in the log");
}

/// User and system time of a process, in hundredths of a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    fields[11..13]
        .iter()
        .map(|f| f.parse::<u64>().expect("a number"))
        .sum()
}
