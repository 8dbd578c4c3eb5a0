//! Lookup and build of the router at 1, 100 and 10,000 APIs; the "empty" row is a router without
//! routes. Prints the memory of each.

use std::{fmt::Write as _, hint::black_box};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use penstock::gateway::{
    listen_path::{HostRule, ListenPath},
    router::{Route, RouteKind, Router, tyk_order},
};

struct Api {
    id: String,
    domain: String,
    path: String,
}

/// Ids as Tyk makes them, listen paths that share beginnings; every fourth API has a domain.
fn apis(count: usize) -> Vec<Api> {
    (0..count)
        .map(|n| {
            let mixed = n.wrapping_mul(2_654_435_761) % 1_000_003;
            let mut path = String::new();
            let _ = write!(path, "/team-{}/service-{mixed}/", n % 97);
            let domain = match n % 4 {
                3 => format!("tenant-{}.example.com", n % 1000),
                _ => String::new(),
            };
            Api {
                id: format!("{:032x}", mixed as u128 * 0x9e37_79b9_7f4a_7c15),
                domain,
                path,
            }
        })
        .collect()
}

fn routes(apis: &mut [Api]) -> Vec<Route> {
    tyk_order(apis, |api| &api.domain, |api| &api.path);
    let mut routes = Vec::new();
    for (slot, api) in apis.iter().enumerate() {
        let route = |kind, path| Route {
            order: slot as u32,
            kind,
            path,
            host: HostRule::parse(&api.domain).expect("a good domain"),
            target: slot as u32,
        };
        let path = ListenPath::parse(&api.path).expect("a good listen path");
        routes.push(route(RouteKind::ApiId, ListenPath::of_api_id(&api.id)));
        routes.push(route(RouteKind::ListenPath, path));
    }
    routes
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("router/find");
    group.throughput(Throughput::Elements(1));
    let empty = Router::build([]);
    group.bench_function("empty", |b| {
        b.iter(|| empty.find(black_box(b"gateway.example.com"), black_box(b"/a/b")));
    });
    for count in [1, 100, 10_000] {
        let mut apis = apis(count);
        let router = Router::build(routes(&mut apis));
        eprintln!("{count} APIs: {} bytes", router.heap_bytes());
        // 1,024 requests spread over all APIs, so that one path does not stay in the cache.
        let requests: Vec<(String, String)> = (0..1024)
            .map(|n| {
                let api = &apis[n * 7919 % count];
                let host = match api.domain.as_str() {
                    "" => "gateway.example.com",
                    domain => domain,
                };
                (host.to_owned(), format!("{}v1/users/42", api.path))
            })
            .collect();
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let (host, path) = &requests[next % requests.len()];
                next += 1;
                router.find(black_box(host.as_bytes()), black_box(path.as_bytes()))
            });
        });
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("router/build");
    group.sample_size(20);
    let routes = routes(&mut apis(10_000));
    group.bench_function("10000", |b| {
        b.iter_batched(
            || routes.clone(),
            Router::build,
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, lookup, build);
criterion_main!(benches);
