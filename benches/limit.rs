//! Taking from limiters: one hot key on one thread and on two, and 100,000 keys; the "empty" row is
//! the loop alone.

use std::{
    hint::black_box,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock::limit::{Cells, QuotaCell, QuotaLimit, RateCell, RateLimit, Settings};

const KEYS: usize = 100_000;

fn rate_cells(count: usize, rate: f64) -> Vec<Arc<RateCell>> {
    let (cells, _work) = Cells::new(Settings::default());
    let limit = RateLimit {
        rate,
        per: 1.0,
        smoothing: None,
    };
    let find = |n| cells.rate(&format!("rate-limit-{n:016x}"), "1", &limit);
    (0..count).filter_map(find).collect()
}

fn quota_cell() -> Option<Arc<QuotaCell>> {
    let (cells, _work) = Cells::new(Settings::default());
    let limit = QuotaLimit {
        max: 1_000_000_000,
        renewal_s: 3_600,
        renews_at_s: 0,
    };
    cells.quota("quota-hot", &limit)
}

/// Time moves on by a millisecond every 16 requests.
fn clock(n: usize) -> u64 {
    1 + n as u64 / 16
}

fn limits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("limit");
    group.throughput(Throughput::Elements(1));
    let mut n = 0;
    group.bench_function("empty", |bencher| {
        bencher.iter(|| {
            n += 1;
            black_box(clock(n))
        });
    });
    for (name, rate) in [("admitted", 1e6), ("denied", 1.0)] {
        let hot = rate_cells(1, rate).remove(0);
        group.bench_function(format!("hot key, {name}"), |bencher| {
            bencher.iter(|| {
                n += 1;
                black_box(hot.take(clock(n)))
            });
        });
        // The other thread does the same all the time.
        let is_done = AtomicBool::new(false);
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                let mut n = 0;
                while !is_done.load(Relaxed) {
                    n += 1;
                    black_box(hot.take(clock(n)));
                }
            });
            barrier.wait();
            group.bench_function(format!("hot key, {name}, 2 threads"), |bencher| {
                bencher.iter(|| {
                    n += 1;
                    black_box(hot.take(clock(n)))
                });
            });
            is_done.store(true, Relaxed);
        });
    }
    let many = rate_cells(KEYS, 100.0);
    group.bench_function("100,000 keys", |bencher| {
        bencher.iter(|| {
            n += 1;
            // In no order that a cache could guess.
            let at = n.wrapping_mul(2_654_435_761) % KEYS;
            black_box(many[at].take(clock(n)))
        });
    });
    let Some(quota) = quota_cell() else {
        return;
    };
    group.bench_function("quota without stock", |bencher| {
        bencher.iter(|| {
            n += 1;
            black_box(quota.take(clock(n)))
        });
    });
    group.finish();
}

criterion_group!(benches, limits);
criterion_main!(benches);
