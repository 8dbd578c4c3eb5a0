//! One line per rule: what is accepted and as what, what is refused and with which status.
//!
//! The parser as a whole is held against a second one in `tests/it/fuzz_corpus.rs`.

use super::*;

const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n";
const POST: &str = "POST /a HTTP/1.1\r\nHost: a\r\n";

/// Parses a head that is expected to be whole and sound.
#[track_caller]
fn parsed(text: &[u8]) -> RequestHead {
    let mut head = RequestHead::default();
    let progress = head.parse(text, &mut 0, &Limits::default());
    assert_eq!(progress, Ok(Progress::Complete), "{}", text.escape_ascii());
    head
}

/// The status that `text` is refused with, whole and byte by byte; 0 when it is accepted.
#[track_caller]
fn status(text: &[u8], limits: &Limits) -> u16 {
    let outcome = |step: usize| {
        let mut head = RequestHead::default();
        let (mut scanned, mut have) = (0, 0);
        loop {
            have = text.len().min(have + step);
            match head.parse(&text[..have], &mut scanned, limits) {
                Ok(Progress::Complete) => return 0,
                Ok(Progress::Partial) if have == text.len() => return 1,
                Ok(Progress::Partial) => {}
                Err(refusal) => return refusal.status,
            }
        }
    };
    let whole = outcome(text.len());
    assert_eq!(outcome(1), whole, "byte by byte: {}", text.escape_ascii());
    whole
}

/// `fields` behind `start` are refused with `expected`, or accepted where that is 0.
#[track_caller]
fn check(start: &str, fields: &str, expected: u16) {
    let text = format!("{start}{fields}\r\n");
    assert_eq!(
        status(text.as_bytes(), &Limits::default()),
        expected,
        "{text:?}"
    );
}

#[test]
fn a_head_is_taken_apart() {
    let text = b"\r\nPOST /a/b?c=d?e HTTP/1.1\r\nhOsT: h:80\r\nX-A: \t1 2\t \r\nContent-Length: 12\r\nx-b:\r\n\r\nrest";
    let head = parsed(text);
    assert_eq!(head.method, Method::Post);
    assert_eq!(head.method_span.of(text), b"POST");
    assert_eq!(head.target.of(text), b"/a/b?c=d?e");
    assert_eq!(head.path.of(text), b"/a/b");
    assert_eq!(head.query.unwrap().of(text), b"c=d?e");
    assert_eq!(head.version_minor, 1);
    assert_eq!(head.host.unwrap().of(text), b"h:80");
    assert_eq!(head.framing, Framing::Length(12));
    assert!(head.keep_alive && !head.is_asterisk && head.authority.is_none());
    assert_eq!(head.len, text.len() - 4);
    let fields: Vec<_> = head
        .fields
        .iter()
        .map(|f| (f.name.of(text), f.value.of(text), f.id))
        .collect();
    let expected: [(&[u8], &[u8], FieldName); 4] = [
        (b"hOsT", b"h:80", FieldName::Host),
        (b"X-A", b"1 2", FieldName::Other),
        (b"Content-Length", b"12", FieldName::ContentLength),
        (b"x-b", b"", FieldName::Other),
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_head_leaves_nothing_behind_for_the_next() {
    let limits = Limits::default();
    let mut head = RequestHead::default();
    let full = b"OPTIONS http://h HTTP/1.0\r\nConnection: keep-alive, x\r\nTe: trailers\r\nExpect: x\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(head.parse(full, &mut 0, &limits), Ok(Progress::Complete));
    assert!(head.is_asterisk && head.te_trailers && head.authority.is_some());
    let plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(head.parse(plain, &mut 0, &limits), Ok(Progress::Complete));
    let fresh = parsed(plain);
    assert_eq!(
        format!("{:?}", head.fields[..].to_vec()),
        format!("{:?}", fresh.fields[..].to_vec())
    );
    assert!(!head.is_asterisk && !head.te_trailers && head.keep_alive);
    assert_eq!(
        (head.authority, head.query, head.upgrade),
        (None, None, None)
    );
    assert_eq!((head.framing, head.expect), (Framing::None, Expect::None));
    assert!(head.connection_options.is_empty());
    assert!(!head.fields.has(FieldName::Te) && head.fields.has(FieldName::Host));
}

/// RFC 9112 §3.
#[test]
fn request_lines() {
    #[track_caller]
    fn line(text: &str, expected: u16) {
        check(&format!("{text}\r\n"), "Host: a\r\n", expected);
    }
    for method in [
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE",
    ] {
        line(&format!("{method} / HTTP/1.1"), 0);
        line(&format!("{method}X / HTTP/1.1"), 0);
        line(&format!("{method}\t/ HTTP/1.1"), 400);
    }
    line("M-SEARCH / HTTP/1.1", 0);
    line("get / HTTP/1.1", 0);
    line("G / HTTP/1.0", 0);
    line("G@T / HTTP/1.1", 400);
    line(" GET / HTTP/1.1", 400);
    line("GET  / HTTP/1.1", 400);
    line("GET /  HTTP/1.1", 400);
    line("GET / HTTP/1.1 ", 400);
    line("GET /a b HTTP/1.1", 400);
    line("GET /a\tb HTTP/1.1", 400);
    line("GET /a\rb HTTP/1.1", 400);
    line("GET /a\x7fb HTTP/1.1", 400);
    line("GET /a\0b HTTP/1.1", 400);
    line("GET / http/1.1", 400);
    line("GET / HTTP/1.32", 400);
    line("GET / HTTP/11", 400);
    line("GET / HTTP/1.", 400);
    line("GET / HTTP/d.d", 400);
    line("GET /", 400);
    line("GET ", 400);
    line("GET", 400);
    line("hello", 400);
    line("GET / HTTP/1.2", 505);
    line("GET / HTTP/0.9", 505);
    line("GET / HTTP/2.0", 505);
    line("GET / HTTP/3.0", 505);
    line("PRI * HTTP/2.0", 505);
    line("CONNECT a:443 HTTP/1.1", 405);
    line("\r\nGET / HTTP/1.1", 0);
    line("\r\n\r\nGET / HTTP/1.1", 400);
    line("\nGET / HTTP/1.1", 400);
}

/// RFC 9112 §3.2; `routing/url_encoding.json`.
#[test]
fn request_targets() {
    #[track_caller]
    fn target(text: &str, path: &str, query: Option<&str>) {
        let head = format!("OPTIONS {text} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
        let found = parsed(&head);
        assert_eq!(found.path_bytes(&head), path.as_bytes(), "{text}");
        assert_eq!(
            found.query.map(|q| q.of(&head)),
            query.map(str::as_bytes),
            "{text}"
        );
    }
    target("/", "/", None);
    target("//a//b/../c", "//a//b/../c", None);
    target("/q?", "/q", Some(""));
    target("/q?a=b?c", "/q", Some("a=b?c"));
    target("/q?a=%zz\\", "/q", Some("a=%zz\\"));
    target("/a%2Fb%00%5c", "/a%2Fb%00%5c", None);
    target("/caf\u{e9}", "/caf\u{e9}", None);
    target("/a\"b|c{d}[^]`<>", "/a\"b|c{d}[^]`<>", None);
    target("/q#frag", "/q#frag", None);
    target("/http://example.com/x", "/http://example.com/x", None);
    target("*", "*", None);
    target("http://h/a?b", "/a", Some("b"));
    target("HTTPS://h:1?b/c", "/", Some("b/c"));
    target("http://[::1]:80", "/", None);
    for bad in [
        "a",
        "api1/x",
        "?a",
        "**",
        "*?a",
        "http:/a",
        "http://",
        "http:///a",
        "http://u@h/",
        "http://h h/",
        "http://h:x/",
        "http://:80/",
        "http://[::1/",
        "http://[]/",
        "http://[::1]x/",
        "http://h,i/",
        "ftp://h/",
        "mailto:a",
        "a:443",
        "/%",
        "/%4",
        "/%4x",
        "/%%41",
        "/a\\b",
        "http://h/%x",
        "http://h\\i/",
    ] {
        check(&format!("GET {bad} HTTP/1.1\r\n"), "Host: a\r\n", 400);
    }
}

#[test]
fn the_asterisk_is_told() {
    #[track_caller]
    fn is_asterisk(line: &str, expected: bool) {
        let text = format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes();
        assert_eq!(parsed(&text).is_asterisk, expected, "{line}");
    }
    is_asterisk("OPTIONS *", true);
    is_asterisk("GET *", true);
    is_asterisk("OPTIONS http://h", true);
    is_asterisk("OPTIONS http://h/", false);
    is_asterisk("OPTIONS http://h?", false);
    is_asterisk("GET http://h", false);
    is_asterisk("OPTIONS /*", false);
}

/// RFC 9112 §3.2: exactly one Host, and a valid one; §3.2.2: an authority in the target wins.
#[test]
fn hosts() {
    #[track_caller]
    fn host(line: &str, fields: &str, expected: Option<&str>) {
        let text = format!("{line}\r\n{fields}\r\n").into_bytes();
        let found = parsed(&text).host.map(|host| host.of(&text));
        assert_eq!(found, expected.map(str::as_bytes), "{line} {fields}");
    }
    host("GET / HTTP/1.1", "Host: a\r\n", Some("a"));
    host("GET / HTTP/1.1", "Host:\r\n", Some(""));
    host("GET / HTTP/1.1", "Host: [::1]:8080\r\n", Some("[::1]:8080"));
    host("GET / HTTP/1.1", "Host: a_b.c-d~:\r\n", Some("a_b.c-d~:"));
    host("GET / HTTP/1.0", "", None);
    host(
        "GET http://o.example/x HTTP/1.1",
        "Host: a\r\n",
        Some("o.example"),
    );
    host("GET http://o.example/x HTTP/1.0", "", Some("o.example"));
    let line = "GET / HTTP/1.1\r\n";
    check(line, "", 400);
    check(line, "Host: a\r\nHost: b\r\n", 400);
    check(line, "Host: a\r\nhOst: a\r\n", 400);
    check("GET / HTTP/1.0\r\n", "Host: a\r\nHost: a\r\n", 400);
    check("GET http://o/ HTTP/1.1\r\n", "", 400);
    for bad in [
        "a b",
        "a, b",
        "a,b",
        "u@a",
        "a/b",
        "a?b",
        "a#b",
        "a:b",
        "a:123456",
        ":80",
        "[::1",
        "[g]",
        "[]",
        "[::1]80",
        "a\"",
        "a\\b",
        "<a>",
        "caf\u{e9}",
        "a:80:80",
    ] {
        check(line, &format!("Host: {bad}\r\n"), 400);
    }
}

/// RFC 9112 §5.
#[test]
fn field_lines() {
    for (line, expected) in [
        ("X: a\tb", 0),
        ("X:", 0),
        ("X: \u{e9}", 0),
        ("!#$%&'*+-.^_`|~: x", 0),
        ("A-Name-That-Is-Quite-Long-And-Plain: x", 0),
        ("A-Name-That-Is-Quite-Long-And-Plain.: x", 0),
        ("X : 1", 400),
        ("X\t: 1", 400),
        (" X: 1", 400),
        ("\tX: 1", 400),
        ("X: a\r\n b", 400),
        ("X: a\r\n\tb: c", 400),
        ("X: a\r\n ", 400),
        (": x", 400),
        ("nocolon", 400),
        ("no-colon-in-a-line-that-is-long", 400),
        ("X: a\x01b", 400),
        ("X: a\0b", 400),
        ("X: a\x7fb", 400),
        ("X: a\x0bb", 400),
        ("X: a\rb", 400),
        ("X: a\nb: c", 400),
        ("X: a\n", 400),
        ("\u{e9}: 1", 400),
        ("X\u{e9}: 1", 400),
        ("X\0: 1", 400),
        ("X(Y): 1", 400),
        ("A-Name-That-Is-Quite-Long-And (Not): 1", 400),
        ("Content\rLength: 3", 400),
    ] {
        check(GET, &format!("{line}\r\n"), expected);
    }
    let limits = Limits::default();
    assert_eq!(status(b"GET /a HTTP/1.1\nHost: a\n\n", &limits), 400);
    assert_eq!(status(b"GET /a HTTP/1.1\r\nHost: a\r\n\n", &limits), 400);
    assert_eq!(status(b"GET /a HTTP/1.1\r\nHost: a\r\n\rX\n", &limits), 400);
}

/// RFC 9112 §6.1 to §6.3, reliability of the one framing in force.
#[test]
fn framing_fields() {
    #[track_caller]
    fn framing(fields: &str, expected: Framing) {
        let text = format!("{POST}{fields}\r\n").into_bytes();
        assert_eq!(parsed(&text).framing, expected, "{fields}");
    }
    framing("", Framing::None);
    framing("Content-Length: 0\r\n", Framing::Length(0));
    framing("Content-Length:5 \t\r\n", Framing::Length(5));
    framing(
        "Content-Length: 9223372036854775807\r\n",
        Framing::Length(i64::MAX as u64),
    );
    framing("Transfer-Encoding: chunked\r\n", Framing::Chunked);
    framing("Transfer-Encoding: Chunked\r\n", Framing::Chunked);
    framing("Transfer-Encoding:\tchunked \r\n", Framing::Chunked);
    framing("Transfer_Encoding: chunked\r\n", Framing::None);
    for bad in [
        "",
        "+5",
        "-0",
        "-1",
        "0x5",
        "1_0",
        "05",
        "00",
        "5 5",
        "5,5",
        "5, 5",
        "abc",
        "5.",
        "\u{ff}5",
        "9223372036854775808",
        "18446744073709551616",
        "99999999999999999999",
    ] {
        check(POST, &format!("Content-Length: {bad}\r\n"), 400);
    }
    check(POST, "Content-Length: 3\r\nContent-Length: 3\r\n", 400);
    check(POST, "Content-Length: 3\r\nContent-Length: 4\r\n", 400);
    check(
        POST,
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        400,
    );
    check(
        POST,
        "Transfer-Encoding: magic\r\nContent-Length: 4\r\n",
        400,
    );
    check(
        POST,
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        400,
    );
    check(POST, "Transfer-Encoding: \x0bchunked\r\n", 400);
    check(POST, "Transfer-Encoding:\r\n chunked\r\n", 400);
    check(POST, "Transfer-Encoding : chunked\r\n", 400);
    for unknown in [
        "",
        "magic",
        "gzip, chunked",
        "chunked, chunked",
        "chunked, identity",
        "identity",
        "xchunked",
        "chunked;a=b",
        ",chunked",
        "chunked,",
        "\"chunked\"",
        "\u{e9}chunked",
    ] {
        check(POST, &format!("Transfer-Encoding: {unknown}\r\n"), 501);
    }
    check("POST / HTTP/1.0\r\n", "Transfer-Encoding: chunked\r\n", 400);
    check(
        "TRACE / HTTP/1.1\r\nHost: a\r\n",
        "Content-Length: 1\r\n",
        405,
    );
    check(
        "TRACE / HTTP/1.1\r\nHost: a\r\n",
        "Transfer-Encoding: chunked\r\n",
        405,
    );
    check(
        "TRACE / HTTP/1.1\r\nHost: a\r\n",
        "Content-Length: 0\r\n",
        0,
    );
    check("GET / HTTP/1.1\r\nHost: a\r\n", "Content-Length: 2\r\n", 0);
}

/// RFC 9112 §9.3, §9.6; RFC 9110 §7.6.1, §7.8, §10.1.1.
#[test]
fn connection_fields() {
    /// (keep_alive, upgrade, connection_options, te_trailers, expect)
    type Said<'a> = (bool, Option<&'a str>, &'a [&'a str], bool, Expect);
    #[track_caller]
    fn said(minor: u8, fields: &str, expected: Said<'_>) {
        let text = format!("GET / HTTP/1.{minor}\r\nHost: a\r\n{fields}\r\n").into_bytes();
        let head = parsed(&text);
        let string = |span: Span| String::from_utf8_lossy(span.of(&text)).into_owned();
        let upgrade = head.upgrade.map(string);
        let options: Vec<_> = head
            .connection_options
            .iter()
            .copied()
            .map(string)
            .collect();
        assert_eq!(head.keep_alive, expected.0, "{fields}");
        assert_eq!(upgrade.as_deref(), expected.1, "{fields}");
        assert_eq!(options, expected.2, "{fields}");
        assert_eq!(head.te_trailers, expected.3, "{fields}");
        assert_eq!(head.expect, expected.4, "{fields}");
        for option in expected.2 {
            assert!(head.is_connection_option(&text, option.to_ascii_uppercase().as_bytes()));
        }
        assert!(!head.is_connection_option(&text, b"host"));
    }
    const NO: Expect = Expect::None;
    said(1, "", (true, None, &[], false, NO));
    said(0, "", (false, None, &[], false, NO));
    said(1, "Connection: close\r\n", (false, None, &[], false, NO));
    said(
        1,
        "Connection: Keep-Alive\r\nConnection: CLOSE\r\n",
        (false, None, &[], false, NO),
    );
    said(
        0,
        "Connection: keep-alive\r\n",
        (true, None, &[], false, NO),
    );
    said(
        0,
        "Connection: keep-alive, close\r\n",
        (false, None, &[], false, NO),
    );
    said(
        1,
        "Connection: closed, x-hop ,, \t,\r\n",
        (true, None, &["closed", "x-hop"], false, NO),
    );
    said(1, "Upgrade: h2c\r\n", (true, None, &[], false, NO));
    said(
        1,
        "Connection: xupgrade\r\nUpgrade: a\r\n",
        (true, None, &["xupgrade"], false, NO),
    );
    said(1, "Connection: upgrade\r\n", (true, None, &[], false, NO));
    said(
        1,
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
        (true, Some("websocket"), &[], false, NO),
    );
    said(
        1,
        "Connection: Upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n",
        (true, None, &[], false, NO),
    );
    said(
        0,
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        (false, None, &[], false, NO),
    );
    said(1, "Te: trailers\r\n", (true, None, &[], true, NO));
    said(
        1,
        "Te: gzip\r\nTe: deflate, Trailers\r\n",
        (true, None, &[], true, NO),
    );
    said(1, "Te: trailers;q=1\r\n", (true, None, &[], false, NO));
    said(
        1,
        "Expect: 100-Continue\r\n",
        (true, None, &[], false, Expect::Continue),
    );
    said(0, "Expect: 100-continue\r\n", (false, None, &[], false, NO));
    said(
        1,
        "Expect: 100-continue, x\r\n",
        (true, None, &[], false, Expect::Other),
    );
    said(
        1,
        "Expect: 100-continue\r\nExpect: 100-continue\r\n",
        (true, None, &[], false, Expect::Other),
    );
    said(1, "Expect:\r\n", (true, None, &[], false, Expect::Other));
}

#[test]
fn limits_hold_at_the_byte_and_as_soon_as_they_are_passed() {
    let limits = Limits {
        request_line_bytes_max: 30,
        head_bytes_max: 100,
        fields_max: 3,
        ..Limits::default()
    };
    #[track_caller]
    fn check(text: &[u8], limits: &Limits, expected: u16) {
        assert_eq!(status(text, limits), expected, "{}", text.escape_ascii());
    }
    // The request line, also without an end and behind an empty line.
    for lead in ["", "\r\n"] {
        for (len, expected) in [(29, 0), (30, 0), (31, 414)] {
            let fill = "a".repeat(len - "GET / HTTP/1.1".len());
            let line = format!("{lead}GET /{fill} HTTP/1.1");
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            check(head.as_bytes(), &limits, expected);
        }
        for (len, expected) in [(30, 1), (31, 1), (32, 414), (50, 414)] {
            let line = format!("{lead}GET /{}", "a".repeat(len - 5));
            check(line.as_bytes(), &limits, expected);
        }
    }
    // The head: its last byte may be the hundredth.
    for (len, expected) in [(99, 0), (100, 0), (101, 431)] {
        let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
        let head = format!("{start}{}\r\n\r\n", "a".repeat(len - start.len() - 4));
        assert_eq!(head.len(), len);
        check(head.as_bytes(), &limits, expected);
        check(
            &head.as_bytes()[..len - 1],
            &limits,
            if expected == 0 { 1 } else { 431 },
        );
    }
    // The fields, the last one without an end.
    for (count, expected) in [(2, 0), (3, 0), (4, 431)] {
        let head = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "X: 1\r\n".repeat(count - 1)
        );
        check(head.as_bytes(), &limits, expected);
    }
    let mut head = RequestHead::default();
    let four = b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 1\r\nX";
    assert_eq!(head.parse(four, &mut 0, &limits).unwrap_err().status, 431);
    // The defaults.
    let limits = Limits::default();
    let line = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(len - 14));
    check(line(16_384).as_bytes(), &limits, 0);
    check(line(16_385).as_bytes(), &limits, 414);
    let fields = |count: usize| format!("{GET}{}\r\n", "X: 1\r\n".repeat(count - 1));
    check(fields(256).as_bytes(), &limits, 0);
    check(fields(257).as_bytes(), &limits, 431);
    let bytes = |len: usize| format!("{GET}X: {}\r\n\r\n", "a".repeat(len - GET.len() - 7));
    check(bytes(65_536).as_bytes(), &limits, 0);
    check(bytes(65_537).as_bytes(), &limits, 431);
}

#[test]
fn a_head_in_portions_is_the_head_as_a_whole() {
    let text = b"\r\nGET /a?b HTTP/1.1\r\nHost: a\r\nX-Y: z\r\n\r\nGET";
    let whole = parsed(text);
    for first in 1..text.len() {
        let mut head = RequestHead::default();
        let mut scanned = 0;
        if head.parse(&text[..first], &mut scanned, &Limits::default()) == Ok(Progress::Partial) {
            assert_eq!(scanned, first);
            // The reader may come back with nothing new.
            let again = head.parse(&text[..first], &mut scanned, &Limits::default());
            assert_eq!(again, Ok(Progress::Partial));
            let progress = head.parse(text, &mut scanned, &Limits::default());
            assert_eq!(progress, Ok(Progress::Complete));
        }
        assert_eq!(
            (head.len, head.path, head.host),
            (whole.len, whole.path, whole.host)
        );
    }
}
