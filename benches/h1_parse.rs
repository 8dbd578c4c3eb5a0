//! What it costs to understand a message: heads with their classification, and chunk framing.

use std::{fmt::Write as _, hint::black_box};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::http::{
    h1::{
        Limits, Progress, RequestHead, ResponseHead,
        chunked::{Decoder, Event},
    },
    uri,
};

/// What wrk, hey and most clients of an API send.
const SMALL: &[u8] =
    b"GET /api1/users/42?fields=name HTTP/1.1\r\nHost: gateway.example.com:8080\r\n\
User-Agent: curl/8.5.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nX-Request-Id: 6f1c2a90\r\n\r\n";

const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: nginx/1.27.0\r\n\
Content-Type: application/json; charset=utf-8\r\nContent-Length: 512\r\nConnection: keep-alive\r\n\
Cache-Control: no-cache\r\nX-Powered-By: origin\r\n\r\n";

/// As a browser behind a CDN: names known and unknown, values of some 30 bytes.
fn forty_fields() -> Vec<u8> {
    let mut head = "GET /api1/users/42 HTTP/1.1\r\nHost: gateway.example.com\r\n".to_owned();
    let known = [
        (
            "User-Agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101",
        ),
        ("Accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"),
        ("Accept-Language", "en-GB,en;q=0.5"),
        ("Accept-Encoding", "gzip, deflate, br, zstd"),
        (
            "Cookie",
            "session=5f4dcc3b5aa765d61d8327deb882cf99; theme=dark; lang=en",
        ),
        (
            "Authorization",
            "Bearer eyJhbGciOiJIUzI1NiJ9.e30.ZRrHA1JJJW8opsbCGfG_HACGp",
        ),
        ("Connection", "keep-alive"),
        ("Upgrade-Insecure-Requests", "1"),
        ("Sec-Fetch-Dest", "document"),
        ("Sec-Fetch-Mode", "navigate"),
        ("X-Forwarded-For", "203.0.113.7, 198.51.100.2"),
        ("X-Forwarded-Proto", "https"),
        ("Cache-Control", "no-cache"),
    ];
    for (name, value) in known {
        write!(head, "{name}: {value}\r\n").expect("a string grows");
    }
    for i in 0..40 - 1 - known.len() {
        write!(
            head,
            "X-Custom-Header-{i}: some value of a usual length {i}\r\n"
        )
        .expect("a string grows");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn request(c: &mut Criterion, name: &str, bytes: &[u8]) {
    let limits = Limits::default();
    let mut head = RequestHead::default();
    let mut group = c.benchmark_group("request head");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function(name, |b| {
        b.iter(|| {
            let progress = head.parse(black_box(bytes), &mut 0, &limits);
            assert_eq!(progress, Ok(Progress::Complete));
            head.len
        });
    });
    // The same with more bytes behind it, as in a pooled buffer: no short loads at the end.
    let mut longer = bytes.to_vec();
    longer.resize(bytes.len() + 64, b'G');
    group.bench_function(format!("{name}, pipelined"), |b| {
        b.iter(|| {
            let progress = head.parse(black_box(&longer), &mut 0, &limits);
            assert_eq!(progress, Ok(Progress::Complete));
            head.len
        });
    });
    group.finish();
}

fn heads(c: &mut Criterion) {
    request(c, "small", SMALL);
    request(c, "minimal", b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    request(c, "40 fields", &forty_fields());

    let limits = Limits::default();
    let mut head = ResponseHead::default();
    let mut group = c.benchmark_group("response head");
    group.throughput(Throughput::Bytes(RESPONSE.len() as u64));
    group.bench_function("7 fields", |b| {
        b.iter(|| {
            let progress = head.parse(black_box(RESPONSE), &mut 0, &limits, false);
            assert_eq!(progress, Ok(Progress::Complete));
            head.len
        });
    });
    group.finish();
}

fn chunks(c: &mut Criterion) {
    let mut group = c.benchmark_group("chunked");
    let limits = Limits::default();
    for (count, size) in [(64, 16), (16, 1024), (4, 16_384)] {
        let mut body = Vec::new();
        for _ in 0..count {
            body.extend_from_slice(format!("{size:x}\r\n").as_bytes());
            body.resize(body.len() + size, b'x');
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("{count} chunks of {size}"), |b| {
            b.iter(|| {
                let mut decoder = Decoder::default();
                let mut rest = black_box(body.as_slice());
                let mut content_bytes = 0;
                loop {
                    match decoder.next(rest, &limits).expect("sound") {
                        Event::Data { skip, len } => {
                            content_bytes += len;
                            rest = &rest[skip + len..];
                        }
                        Event::NeedMore { .. } | Event::End { .. } => break content_bytes,
                    }
                }
            });
        });
    }
    group.finish();
}

fn paths(c: &mut Criterion) {
    let mut group = c.benchmark_group("path");
    group.bench_function("is_plain", |b| {
        b.iter(|| uri::is_plain(black_box(b"/api1/users/42/orders/1234567")));
    });
    group.bench_function("upstream_path, escapes kept", |b| {
        b.iter(|| uri::upstream_path(black_box(b"/api1/users/42%20a/orders/1234567")).len());
    });
    group.finish();
}

criterion_group!(benches, heads, chunks, paths);
criterion_main!(benches);
