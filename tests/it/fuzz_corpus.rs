//! Replays the fuzzers' corpus on stable, and lets proptest look for differences between the
//! parsers and their slow twins (`fuzz/src`) with inputs made of the usual fragments.

#[path = "../../fuzz/src/apidef.rs"]
mod apidef;
#[path = "../../fuzz/src/config.rs"]
mod config;
#[path = "../../fuzz/src/h1_chunked.rs"]
mod h1_chunked;
#[path = "../../fuzz/src/h1_request.rs"]
mod h1_request;
#[path = "../../fuzz/src/session.rs"]
mod session;

use std::{fs, panic, path::Path};

use proptest::{collection::vec, prelude::*, sample::select};

#[test]
fn the_corpus_of_request_heads_holds() {
    replay("h1_request", h1_request::check);
}

#[test]
fn the_corpus_of_chunked_bodies_holds() {
    replay("h1_chunked", h1_chunked::check);
}

#[test]
fn the_corpus_of_definitions_holds() {
    replay("apidef", apidef::check);
}

#[test]
fn the_corpus_of_configurations_holds() {
    replay("config", config::check);
}

#[test]
fn the_corpus_of_sessions_and_policies_holds() {
    replay("session", session::check);
}

/// Runs `check` on every file of a target's corpus, and on each of its prefixes.
#[track_caller]
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/corpus")
        .join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("the corpus is readable").path();
        let data = fs::read(&path).expect("the corpus is readable");
        for len in (0..=data.len()).rev().take(400) {
            let outcome = panic::catch_unwind(|| check(&data[..len]));
            assert!(outcome.is_ok(), "{}, first {len} bytes", path.display());
        }
        count += 1;
    }
    assert!(count >= 30, "{count} files in {}", folder.display());
}

/// Pieces of heads, sound and unsound.
const HEAD_PIECES: &[&str] = &[
    "GET ",
    "POST ",
    "OPTIONS ",
    "TRACE ",
    "CONNECT ",
    "G@T ",
    "get ",
    "LONGMETHOD ",
    "/",
    "/a",
    "/a?b",
    "*",
    "?",
    "#f",
    "%41",
    "%4",
    "%",
    "\\",
    "http://",
    "HTTPS://",
    "h.example",
    ":80",
    "@",
    "[::1]",
    " HTTP/1.1\r\n",
    " HTTP/1.0\r\n",
    " HTTP/1.2\r\n",
    " HTTP/1.1",
    " http/1.1\r\n",
    "Host: a\r\n",
    "host:b:80\r\n",
    "Host: a b\r\n",
    "Host:\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 03\r\n",
    "content-length:  7 \r\n",
    "Content-Length: 9223372036854775808\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding:\tChunked\t\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer_Encoding: chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, x-a\r\n",
    "Connection: Upgrade,,te\r\n",
    "Upgrade: websocket\r\n",
    "TE: trailers\r\n",
    "Expect: 100-continue\r\n",
    "Expect: x\r\n",
    "X-A: 1\r\n",
    "A-Much-Longer-Field-Name: v\r\n",
    "X!#$%: \u{e9}\r\n",
    "Fifteen-Letters: v\r\n",
    "Sixteen-Letters-: v\r\n",
    "Authorization: ",
    "X-A:",
    ": ",
    ":",
    " ",
    "\t",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    "\0",
    "\u{b}",
    "\u{7f}",
    "\u{e9}",
    "a",
    "-",
];

/// Pieces of chunked bodies, sound and unsound.
const CHUNK_PIECES: &[&str] = &[
    "0",
    "1",
    "3",
    "00",
    "a",
    "F",
    "10",
    "0x1",
    "+1",
    "-1",
    "_",
    "fffffffffffffff",
    "\r\n",
    "\n",
    "\r",
    "abc",
    "a\r\n",
    "1\r\na\r\n",
    "3;x=y\r\nabc\r\n",
    ";",
    "x",
    "=",
    "\"",
    "\\",
    ";x=\"y\\\"z\"",
    ";x = y ",
    " ",
    "\t",
    "0\r\n",
    "0\r\n\r\n",
    "Grpc-Status: 0\r\n",
    "etag:\"a\" \r\n",
    "Host: a\r\n",
    "Content-Length: 1\r\n",
    "a:b\r\n",
    ":",
    "\0",
    "\u{e9}",
    "\u{7f}",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn heads_made_of_pieces_are_judged_alike(pieces in vec(select(HEAD_PIECES), 0..14)) {
        h1_request::check(pieces.concat().as_bytes());
    }

    #[test]
    fn heads_with_some_pieces_put_in_are_judged_alike(
        line in select(&["GET /a?b HTTP/1.1\r\n", "POST http://h/a%20b HTTP/1.1\r\n", "PUT / HTTP/1.0\r\n"][..]),
        fields in vec(select(HEAD_PIECES), 0..5),
        at in any::<prop::sample::Index>(),
        piece in select(HEAD_PIECES),
    ) {
        let mut head = format!("{line}Host: a\r\n{}\r\n", fields.concat()).into_bytes();
        h1_request::check(&head);
        let at = at.index(head.len());
        head.splice(at..at, piece.bytes());
        h1_request::check(&head);
    }

    #[test]
    fn bodies_made_of_pieces_are_judged_alike(pieces in vec(select(CHUNK_PIECES), 0..14)) {
        h1_chunked::check(pieces.concat().as_bytes());
    }

    #[test]
    fn bodies_with_a_piece_put_in_are_judged_alike(
        chunks in vec(1..20usize, 0..5),
        at in any::<prop::sample::Index>(),
        piece in select(CHUNK_PIECES),
    ) {
        let mut body = Vec::new();
        for len in chunks {
            body.extend_from_slice(format!("{len:x}\r\n{}\r\n", "d".repeat(len)).as_bytes());
        }
        body.extend_from_slice(b"0\r\ngrpc-status: 0\r\n\r\n");
        h1_chunked::check(&body);
        let at = at.index(body.len());
        body.splice(at..at, piece.bytes());
        h1_chunked::check(&body);
    }
}
