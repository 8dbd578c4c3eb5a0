//! Raw requests and answers that two readers could take differently: `tests/data/wire/*.txt`.
//!
//! The verdict comes from the bytes the origin recorded, read by the harness's own strict parser:
//! an ambiguous head reaches nobody, an error inside a body ends the upstream message unfinished.
//! RFC 9112 §6, §7, §11; `tests/data/wire/README.md` has the notation.

use std::{fmt::Write as _, time::Duration};

use crate::harness::{
    Client, End, Ended, Gate, Gateway, Origin, Request, Response, Setup, eventually, within,
};

/// A refused case must leave the origin with nothing of this sort.
const SMUGGLED: &[u8] = b"smuggled";

/// Stop a table that fails all over before it costs minutes.
const FAILURES_MAX: usize = 40;

/// Verdicts come at once; a table of cases that hang should not take an hour to say so.
const SHORT: Duration = Duration::from_secs(3);

#[test]
fn no_ambiguous_length_is_accepted() {
    requests(include_str!("../data/wire/length.txt"), 45);
}

#[test]
fn no_transfer_encoding_but_chunked_is_accepted() {
    requests(include_str!("../data/wire/transfer_encoding.txt"), 40);
}

#[test]
fn an_error_in_a_chunked_body_ends_both_connections() {
    requests(include_str!("../data/wire/chunk_syntax.txt"), 80);
}

#[test]
fn malformed_lines_are_refused() {
    requests(include_str!("../data/wire/line.txt"), 80);
}

#[test]
fn the_origin_receives_the_path_that_was_routed() {
    requests(include_str!("../data/wire/target.txt"), 45);
}

#[test]
fn one_message_does_not_change_the_next() {
    requests(include_str!("../data/wire/state.txt"), 20);
}

#[test]
fn a_broken_answer_is_never_passed_on_nor_its_connection_reused() {
    responses(include_str!("../data/wire/responses.txt"), 70);
}

/// An error in a body whose beginning the origin has already read: nothing behind it follows.
#[test]
fn an_error_in_a_body_that_streams_is_not_forwarded() {
    let begun = Gate::default();
    let opened = begun.clone();
    let origin = Origin::scripted(move |peer| {
        let Some(_) = peer.head() else { return };
        let first = peer.raw(b"3\r\nabc\r\n".len());
        assert_eq!(first, b"3\r\nabc\r\n", "{}", first.escape_ascii());
        opened.open();
        peer.linger();
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    client.send(b"POST /w/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    assert!(begun.wait(), "the first chunk did not reach the origin");
    client.send(b"zz\r\ndef\r\n0\r\n\r\nGET /w/smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.read("POST");
    assert_eq!(answer.status, 400, "{}", answer.summary());
    assert!(client.closes(), "the client's connection stayed open");
    let seen = eventually("the gateway closes the upstream connection", || {
        let all = origin.connections();
        all[0].ended.map(|how| (how, all[0].bytes.clone()))
    });
    assert_ne!(seen.0, Ended::ByOrigin);
    assert!(
        !has(&seen.1, b"def") && !has(&seen.1, b"0\r\n\r\n"),
        "{}",
        seen.1.escape_ascii()
    );
    assert_eq!(origin.connections().len(), 1);
}

/// The same when the answer has begun: a second status line would be a lie, so the line is cut.
#[test]
fn an_error_behind_the_beginning_of_the_answer_cuts_the_connection() {
    let origin = Origin::scripted(|peer| {
        let Some(_) = peer.head() else { return };
        let _ = peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nearly");
        peer.linger();
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut client = gateway.client();
    client.send(b"POST /w/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let head = client.read_head();
    assert_eq!(head.status, 200, "{}", head.summary());
    assert!(client.read_until(b"early").ends_with(b"early"));
    client.send(b"zz\r\ndef\r\n0\r\n\r\n");
    let rest = client.read_to_end();
    assert_eq!(rest, b"early", "{}", rest.escape_ascii());
    eventually("the gateway closes the upstream connection", || {
        origin.connections()[0].ended
    });
    assert!(!has(&origin.connections()[0].bytes, b"def"));
}

/// One case of `tests/data/wire/*.txt`.
#[derive(Default)]
struct Case {
    name: String,
    why: String,
    /// Per answer: the method it answers (for HEAD) and the statuses allowed; 0 stands for `none`.
    expect: Vec<(String, Vec<u16>)>,
    /// `Some(true)`: the connection must close; `Some(false)`: it must go on.
    closes: Option<bool>,
    upstream: Vec<String>,
    has: Vec<Vec<u8>>,
    lacks: Vec<Vec<u8>>,
    half_close: bool,
    sends: Vec<u8>,
    answers: Vec<u8>,
    // What follows is for answers only.
    method: String,
    body: Option<Vec<u8>>,
    cut: bool,
    interim: Vec<u16>,
    reused: String,
    after_close: bool,
}

/// What goes wrong in one case; several things may.
type Findings = Vec<String>;

fn requests(text: &str, at_least: usize) {
    let cases = parse(text);
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
    let origin = Origin::answering(|_| Response::new(200, "fine").to_bytes());
    let gateway = Setup::in_front_of(origin.port()).start();
    assert_eq!(
        gateway.get("/w/fence").status,
        200,
        "the plainest request does not pass"
    );
    let mut failures = String::new();
    let mut count = 0;
    for case in &cases {
        let findings = request(&gateway, &origin, case);
        count += usize::from(!findings.is_empty());
        report(&mut failures, case, &findings);
        if count >= FAILURES_MAX {
            break;
        }
    }
    for violation in origin.violations() {
        let _ = writeln!(failures, "the origin was sent what is no HTTP: {violation}");
    }
    assert!(
        failures.is_empty(),
        "{count} of {} cases failed:\n{failures}",
        cases.len()
    );
}

fn request(gateway: &Gateway, origin: &Origin, case: &Case) -> Findings {
    let mut findings = Findings::new();
    let before = snapshot(origin);
    let mut client = gateway.client();
    client.patience(SHORT);
    client.send(&case.sends);
    if case.half_close {
        client.half_close();
    }
    let mut last = 0;
    for (number, (method, allowed)) in case.expect.iter().enumerate() {
        let answer = client.read(method);
        last = answer.status;
        if !allowed.contains(&answer.status) {
            findings.push(format!(
                "answer {number}: wanted {allowed:?}, got {}",
                answer.summary()
            ));
            break;
        }
        match answer.end {
            End::Complete => {}
            End::Cut if answer.status == 0 => {}
            ref other => findings.push(format!("answer {number}: {other:?}")),
        }
    }
    // A refusal for the sake of safety closes; routing refusals (404, 417 …) may keep the line.
    let refused = last == 0 || matches!(last, 400 | 408 | 413 | 414 | 431 | 501 | 505);
    match case.closes {
        Some(true) if !client.closes() => findings.push("the connection stays open".into()),
        None if refused && !client.closes() => findings.push("the connection stays open".into()),
        Some(false) if findings.is_empty() => {
            let fence = client.get("/w/fence");
            if fence.status != 200 || fence.text() != "fine" {
                findings.push(format!(
                    "the connection does not go on: {}",
                    fence.summary()
                ));
            }
        }
        _ => {}
    }
    drop(client);
    upstream(gateway, origin, case, last, &before, &mut findings);
    findings
}

/// What the origin had received, per connection.
fn snapshot(origin: &Origin) -> Vec<(usize, usize)> {
    origin
        .connections()
        .iter()
        .map(|c| (c.bytes.len(), c.requests.len()))
        .collect()
}

fn upstream(
    gateway: &Gateway,
    origin: &Origin,
    case: &Case,
    last: u16,
    before: &[(usize, usize)],
    findings: &mut Findings,
) {
    let cut = case
        .upstream
        .first()
        .and_then(|u| u.strip_prefix("cut"))
        .map(|p| unescape(p.trim()));
    let was = |i: usize| before.get(i).copied().unwrap_or((0, 0));
    if let Some(allowed) = cut {
        // What went upstream may not have been read yet; after a half-close something always did.
        let patience = if last == 0 {
            SHORT
        } else {
            Duration::from_millis(20)
        };
        within(patience, || {
            let now = origin.connections();
            now.iter()
                .enumerate()
                .any(|(i, c)| c.bytes.len() > was(i).0)
                .then_some(())
        });
        for (i, c) in origin.connections().iter().enumerate() {
            let (bytes, requests) = was(i);
            if c.bytes.len() == bytes {
                continue;
            }
            let sent = c.bytes[bytes..].to_vec();
            let whole = c.requests[requests..]
                .iter()
                .filter(|r| !r.target.contains("fence"));
            for req in whole {
                findings.push(format!("a whole request went upstream: {req:?}"));
            }
            if let Some(why) = not_cut(&sent, &allowed) {
                findings.push(format!("{why}: {}", sent.escape_ascii()));
            }
            contents(case, &sent, findings);
            let closed = within(SHORT, || {
                origin.connections()[i]
                    .ended
                    .filter(|how| *how != Ended::ByOrigin)
            });
            if closed.is_none() {
                findings.push("the upstream connection was not closed by the gateway".into());
            }
        }
    } else {
        // The lines stand for the answers in order; a refusal at the end has none.
        let passed = case.expect.len() - usize::from(!(200..300).contains(&last));
        let wanted = &case.upstream[..passed.min(case.upstream.len())];
        let fresh = || -> (Vec<Request>, Vec<u8>) {
            let mut requests = Vec::new();
            let mut bytes = Vec::new();
            for (i, c) in origin.connections().iter().enumerate() {
                requests.extend_from_slice(&c.requests[was(i).1..]);
                bytes.extend_from_slice(&c.bytes[was(i).0..]);
            }
            requests.retain(|r| !r.target.contains("/fence"));
            (requests, bytes)
        };
        // Whatever else is on its way comes before the answer to a later request.
        let fence = gateway.get("/w/fence");
        if fence.status != 200 {
            findings.push(format!("the gateway does not go on: {}", fence.summary()));
        }
        let (requests, bytes) = fresh();
        let mut got: Vec<String> = requests
            .iter()
            .map(|r| format!("{} {} {}", r.method, r.target, r.body.escape_ascii()))
            .collect();
        let mut want: Vec<String> = wanted.iter().map(|u| normal(u)).collect();
        // Two requests of one client may have gone over two upstream connections.
        got.sort();
        want.sort();
        if got != want {
            findings.push(format!("the origin got {got:?}, wanted {want:?}"));
        }
        if !want.is_empty() {
            contents(case, &bytes, findings);
        }
        let legitimate = case.upstream.iter().any(|u| u.contains("smuggled"));
        if has(&bytes, SMUGGLED) && !legitimate {
            findings.push(format!("smuggled: {}", bytes.escape_ascii()));
        }
    }
}

/// `POST /x abc` with its body as the origin's is shown.
fn normal(line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    let method = unescape(words.next().unwrap_or_default());
    let target = words.next().unwrap_or_default();
    let body = unescape(words.next().unwrap_or_default());
    format!(
        "{} {target} {}",
        String::from_utf8_lossy(&method),
        body.escape_ascii()
    )
}

/// `None` when `sent` is a head and an unfinished body that decodes to a prefix of `allowed`.
fn not_cut(sent: &[u8], allowed: &[u8]) -> Option<&'static str> {
    let Some(at) = find(sent, b"\r\n\r\n") else {
        return Some("half a head");
    };
    let chunked = has(
        &sent[..at].to_ascii_lowercase(),
        b"transfer-encoding: chunked",
    );
    let mut rest = &sent[at + 4..];
    let mut body = Vec::new();
    if !chunked {
        body.extend_from_slice(rest);
        rest = b"";
    }
    while let Some(end) = find(rest, b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).ok();
        let Some(size) = size.and_then(|s| usize::from_str_radix(s, 16).ok()) else {
            return Some("a bad chunk size went upstream");
        };
        if size == 0 {
            return Some("a last chunk went upstream");
        }
        let data = &rest[end + 2..];
        body.extend_from_slice(&data[..size.min(data.len())]);
        rest = data.get(size + 2..).unwrap_or_default();
    }
    (!allowed.starts_with(&body)).then_some("more than the sound part went upstream")
}

fn contents(case: &Case, bytes: &[u8], findings: &mut Findings) {
    let lower = bytes.to_ascii_lowercase();
    for wanted in &case.has {
        if !has(&lower, wanted) {
            let (wanted, got) = (wanted.escape_ascii(), bytes.escape_ascii());
            findings.push(format!("`{wanted}` is missing: {got}"));
        }
    }
    for unwanted in &case.lacks {
        if has(&lower, unwanted) {
            let (unwanted, got) = (unwanted.escape_ascii(), bytes.escape_ascii());
            findings.push(format!("`{unwanted}` must not be there: {got}"));
        }
    }
}

fn responses(text: &str, at_least: usize) {
    let cases = parse(text);
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
    let script = parse(text);
    let origin = Origin::scripted(move |peer| {
        while let Some(req) = peer.request() {
            let number = req
                .target
                .strip_prefix("/case/")
                .and_then(|n| n.parse::<usize>().ok());
            match number.and_then(|n| script.get(n)) {
                None => {
                    let _ = peer.write(&Response::new(200, "fence").to_bytes());
                }
                Some(case) => {
                    let _ = peer.write(&case.answers);
                    if case.after_close {
                        return;
                    }
                }
            }
        }
    });
    let gateway = Setup::in_front_of(origin.port()).start();
    let mut failures = String::new();
    let mut count = 0;
    for (number, case) in cases.iter().enumerate() {
        let findings = response(&gateway, &origin, case, number);
        count += usize::from(!findings.is_empty());
        report(&mut failures, case, &findings);
        if count >= FAILURES_MAX {
            break;
        }
    }
    assert!(
        failures.is_empty(),
        "{count} of {} cases failed:\n{failures}",
        cases.len()
    );
}

fn response(gateway: &Gateway, origin: &Origin, case: &Case, number: usize) -> Findings {
    let mut findings = Findings::new();
    let mut client = gateway.client();
    client.patience(SHORT);
    let method = case.method.as_str();
    let target = format!("/case/{number}");
    client.send(format!("{method} /w{target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    let answer = client.read(method);
    let allowed = &case.expect[0].1;
    if !allowed.contains(&answer.status) {
        findings.push(format!("wanted {allowed:?}, got {}", answer.summary()));
    }
    if answer.status == 500 {
        // Tyk: any failure between gateway and target has this one text.
        let text = "There was a problem proxying the request";
        if answer.end != End::Complete || !answer.text().contains(text) {
            findings.push(format!("not the error Tyk gives: {}", answer.summary()));
        }
    } else if case.cut {
        if answer.end == End::Complete {
            findings.push(format!(
                "passed on as if it were whole: {}",
                answer.summary()
            ));
        }
    } else {
        if answer.end != End::Complete {
            findings.push(format!("the client got {:?}", answer.end));
        }
        if let Some(body) = case.body.as_ref().filter(|b| **b != answer.body) {
            let (got, wanted) = (answer.body.escape_ascii(), body.escape_ascii());
            findings.push(format!("body {got}, wanted {wanted}"));
        }
        let interim: Vec<u16> = answer.interim.clone();
        if !case.interim.is_empty() && interim != case.interim {
            findings.push(format!("interim answers {interim:?}"));
        }
    }
    let head = Response {
        body: Vec::new(),
        ..answer.clone()
    }
    .to_bytes();
    contents(case, &head, &mut findings);
    if has(&answer.body, b"poison") {
        findings.push("the answer nobody asked for was delivered".into());
    }
    // The next request of the same client runs on the same shard: it finds the same idle pool.
    let mut next = if answer.end == End::Complete && !client_closing(&answer) {
        client
    } else {
        gateway.client()
    };
    let fence = next.get("/w/fence");
    if fence.status != 200 || fence.text() != "fence" {
        findings.push(format!("the next request got {}", fence.summary()));
    }
    reuse(origin, case, &target, &mut findings);
    findings
}

fn client_closing(answer: &Response) -> bool {
    answer.close_delimited
        || answer
            .field("connection")
            .is_some_and(|v| v.eq_ignore_ascii_case("close"))
}

fn reuse(origin: &Origin, case: &Case, target: &str, findings: &mut Findings) {
    let connections = origin.connections();
    let used: Vec<usize> = (0..connections.len())
        .filter(|i| connections[*i].requests.iter().any(|r| r.target == target))
        .collect();
    for i in used {
        let requests = &connections[i].requests;
        let last = requests.last().is_some_and(|r| r.target == target);
        match case.reused.as_str() {
            "yes" if last => findings.push("a sound upstream connection was not reused".into()),
            "no" if !last => findings.push("the upstream connection was used again".into()),
            "no" => {
                let closed = within(SHORT, || origin.connections()[i].ended);
                if closed.is_none() {
                    findings.push("the upstream connection was kept".into());
                }
            }
            _ => {}
        }
    }
}

fn report(failures: &mut String, case: &Case, findings: &Findings) {
    if findings.is_empty() {
        return;
    }
    let _ = writeln!(failures, "== {} ({})", case.name, case.why);
    for finding in findings {
        let mut shown = finding.clone();
        shown.truncate(shown.floor_char_boundary(700));
        let _ = writeln!(failures, "   {shown}");
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|w| w == wanted)
}

fn has(bytes: &[u8], wanted: &[u8]) -> bool {
    find(bytes, wanted).is_some()
}

fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            cases.push(Case {
                name: name.to_owned(),
                method: "GET".to_owned(),
                reused: "any".to_owned(),
                ..Case::default()
            });
            continue;
        }
        let Some(case) = cases.last_mut() else {
            continue;
        };
        if let Some(bytes) = line.strip_prefix("> ") {
            case.sends.extend(unescape(bytes));
        } else if let Some(bytes) = line.strip_prefix("< ") {
            case.answers.extend(unescape(bytes));
        } else if let Some((key, value)) = line.split_once(':') {
            entry(case, key, value.trim());
        }
    }
    cases
}

fn entry(case: &mut Case, key: &str, value: &str) {
    match key {
        "why" => case.why = value.to_owned(),
        "expect" => {
            for word in value.split(' ') {
                match word {
                    "close" => case.closes = Some(true),
                    "open" => case.closes = Some(false),
                    _ => {
                        let (method, set) = word.split_once(':').unwrap_or(("GET", word));
                        let status = |s: &str| match s {
                            "none" => 0,
                            number => number.parse().unwrap_or_else(|_| panic!("{value}")),
                        };
                        case.expect
                            .push((method.to_owned(), set.split('|').map(status).collect()));
                    }
                }
            }
        }
        "upstream" => case.upstream.push(value.to_owned()),
        "has" => case.has.push(unescape(value)),
        "lacks" => case.lacks.push(unescape(value)),
        "then" => case.half_close = value == "half-close",
        "method" => case.method = value.to_owned(),
        "body" => case.body = Some(unescape(value)),
        "end" => case.cut = value == "cut",
        "interim" => case.interim = value.split(' ').filter_map(|n| n.parse().ok()).collect(),
        "reused" => case.reused = value.to_owned(),
        "after" => case.after_close = value == "close",
        other => panic!("{}: what is `{other}`?", case.name),
    }
}

/// `¶`, `\r \n \t \\ \xHH`, `{300*ab}` (which may nest).
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(ch) = rest.chars().next() {
        rest = &rest[ch.len_utf8()..];
        match ch {
            '¶' => out.extend_from_slice(b"\r\n"),
            '\\' => {
                let (byte, used) = match rest.as_bytes() {
                    [b'r', ..] => (b'\r', 1),
                    [b'n', ..] => (b'\n', 1),
                    [b't', ..] => (b'\t', 1),
                    [b'\\', ..] => (b'\\', 1),
                    [b'x', ..] => (u8::from_str_radix(&rest[1..3], 16).expect("two digits"), 3),
                    _ => panic!("an unknown escape in {text}"),
                };
                out.push(byte);
                rest = &rest[used..];
            }
            '{' => {
                let (times, body) = rest.split_once('*').expect("a count and a star");
                let mut depth = 1;
                let end = body
                    .find(|c| {
                        depth += match c {
                            '{' => 1,
                            '}' => -1,
                            _ => 0,
                        };
                        depth == 0
                    })
                    .expect("a closing brace");
                let times: usize = times.parse().expect("a count");
                out.extend(unescape(&body[..end]).repeat(times));
                rest = &body[end + 1..];
            }
            _ => out.extend_from_slice(ch.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}

#[test]
fn the_notation_is_read_as_it_is_described() {
    assert_eq!(unescape(r"a¶\x00\t{2*b{2*c}}\\"), b"a\r\n\x00\tbccbcc\\");
    assert_eq!(normal(r"POST /x a\r\nb"), r"POST /x a\r\nb");
    assert_eq!(
        not_cut(
            b"P / H\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"abcd"
        ),
        None
    );
    assert!(
        not_cut(
            b"P / H\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"abcd"
        )
        .is_some()
    );
    assert!(
        not_cut(
            b"P / H\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx",
            b"abcd"
        )
        .is_some()
    );
}

#[test]
fn every_case_says_why_and_what_it_expects() {
    for text in [
        include_str!("../data/wire/length.txt"),
        include_str!("../data/wire/transfer_encoding.txt"),
        include_str!("../data/wire/chunk_syntax.txt"),
        include_str!("../data/wire/line.txt"),
        include_str!("../data/wire/target.txt"),
        include_str!("../data/wire/state.txt"),
        include_str!("../data/wire/responses.txt"),
    ] {
        let mut names = std::collections::BTreeSet::new();
        for case in parse(text) {
            assert!(
                !case.why.is_empty() && !case.expect.is_empty(),
                "{}",
                case.name
            );
            assert!(names.insert(case.name.clone()), "twice: {}", case.name);
        }
    }
}

/// The harness must be able to tell a smuggler from a gateway: a blind pump fails the tables.
#[test]
fn the_verdict_notices_what_a_blind_pump_lets_through() {
    let origin = Origin::answering(|_| Response::new(200, "fine").to_bytes());
    let mut client = Client::connect(origin.port());
    client.send(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 37\r\n\r\n");
    client.send(b"GET /w/smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read("POST").status, 200);
    assert!(has(&origin.connections()[0].bytes, SMUGGLED));
}
