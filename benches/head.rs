//! A request's way through the sans-IO code: parsed, rewritten for the upstream; and an answer's back.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::{
    exchange::Ctx,
    http::h1::Limits,
    upstream::{
        head::write_request,
        target::{Address, Target, TargetParts, Upstream},
    },
};

fn upstream() -> Upstream {
    let target = Target::new(TargetParts {
        authority: b"origin.example:8080".to_vec(),
        address: Address::Literal(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
        host: "origin.example".to_owned(),
        port: 8080,
        path: b"/base".to_vec(),
        query: Vec::new(),
        keep_target_slash: false,
        tls: None,
        proxy: None,
        pool_key: 1,
    });
    Upstream::new(vec![Arc::new(target)]).expect("one target")
}

fn request(more_fields: usize) -> Vec<u8> {
    let mut head = b"GET /api/things/17?full=1 HTTP/1.1\r\nHost: api.example\r\n\
        User-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n"
        .to_vec();
    for n in 0..more_fields {
        head.extend_from_slice(format!("X-Field-{n}: value number {n}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("head");
    let upstream = upstream();
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (name, more_fields) in [("small", 0), ("40 fields", 36)] {
        let mut cx = Ctx {
            inb: request(more_fields),
            ..Ctx::default()
        };
        group.throughput(Throughput::Bytes(cx.inb.len() as u64));
        let mut out = Vec::with_capacity(16 << 10);
        group.bench_function(format!("parse and rewrite, {name}"), |b| {
            b.iter(|| {
                let mut scanned = 0;
                let parsed = cx.head.parse(&cx.inb, &mut scanned, &Limits::default());
                black_box(parsed).expect("a request");
                out.clear();
                let target = upstream.next_target();
                black_box(write_request(
                    &mut out,
                    &cx,
                    peer,
                    &upstream,
                    target,
                    b"/things/17",
                    false,
                ));
                black_box(&out);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, heads);
criterion_main!(benches);
