//! One node: a model that is told the same times decides the same.

use std::thread;

use super::*;

/// Tyk's in-memory bucket, written down plainly.
struct Model {
    rate: u64,
    per_ms: u64,
    end_ms: u64,
    used: u64,
}

impl Model {
    fn take(&mut self, now_ms: u64) -> bool {
        if now_ms >= self.end_ms {
            self.end_ms = now_ms + self.per_ms;
            self.used = 0;
        }
        self.used += 1;
        self.used <= self.rate
    }
}

#[track_caller]
fn check(limit: RateLimit, model_rate: u64, model_per_ms: u64) {
    let (cells, _work) = node(Settings::default(), 1);
    let cell = cells.rate("rate-limit-a", "1", &limit).unwrap();
    let mut model = Model {
        rate: model_rate,
        per_ms: model_per_ms,
        end_ms: 0,
        used: 0,
    };
    let mut random = Random(99);
    let mut now_ms = 1;
    for _ in 0..20_000 {
        now_ms += random.below(2 * model_per_ms / model_rate + 2);
        let is_admitted = cell.take(now_ms) == Taken::Admitted;
        assert_eq!(is_admitted, model.take(now_ms), "{limit:?} at {now_ms}");
    }
}

#[test]
fn one_node_decides_as_tyks_bucket() {
    check(rate(5.0, 10.0), 5, 10_000);
    check(rate(3.0, 1.0), 3, 1_000);
    check(rate(50.0, 1.0), 50, 1_000);
    check(rate(1000.0, 60.0), 1000, 60_000);
    // Both are truncated, but never to nothing.
    check(rate(2.9, 1.9), 2, 1_000);
    check(rate(0.5, 1.0), 1, 1_000);
    check(rate(2.0, 0.5), 2, 500);
}

#[test]
fn nothing_to_limit_is_no_cell() {
    let (cells, _work) = node(Settings::default(), 1);
    for (requests, per) in [
        (0.0, 1.0),
        (-1.0, 1.0),
        (5.0, 0.0),
        (5.0, -1.0),
        (f64::NAN, 1.0),
        (5.0, f64::NAN),
        (f64::INFINITY, 1.0),
    ] {
        assert!(cells.rate("a", "", &rate(requests, per)).is_none());
    }
    assert!(cells.quota("q", &quota(0, 60)).is_none());
    assert!(cells.quota("q", &quota(-1, 60)).is_none());
}

#[test]
fn threads_together_admit_exactly_the_rate() {
    for algorithm in [
        Algorithm::Default,
        Algorithm::RollingLog,
        Algorithm::FixedWindow,
    ] {
        let settings = Settings {
            algorithm,
            ..Settings::default()
        };
        let (cells, _work) = node(settings, 1);
        for limit in [1.0, 5.0, 2_500.0] {
            let name = format!("rate-limit-{limit}");
            let cell = cells.rate(&name, "", &rate(limit, 20.0)).unwrap();
            let admitted: usize = thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            (0..2_000)
                                .filter(|n| cell.take(100 + n % 7) == Taken::Admitted)
                                .count()
                        })
                    })
                    .collect();
                threads.into_iter().map(|t| t.join().unwrap()).sum()
            });
            assert_eq!(admitted, limit as usize, "{algorithm:?}");
        }
    }
}

#[test]
fn a_changed_key_or_limit_counts_anew_and_a_custom_key_does_not() {
    let (cells, _work) = node(Settings::default(), 1);
    let one = rate(1.0, 60.0);
    let take = |generation: &str, limit: &RateLimit| {
        let cell = cells.rate("rate-limit-a", generation, limit).unwrap();
        cell.take(5) == Taken::Admitted
    };
    assert!(take("100", &one));
    assert!(!take("100", &one));
    assert!(take("101", &one));
    assert!(take("101", &rate(2.0, 60.0)));
    assert!(take("", &one));
    assert!(!take("", &rate(2.0, 60.0)));
    assert_eq!(cells.counts().0, 4);
}

#[test]
fn cells_that_nobody_holds_leave_after_ten_minutes() {
    let (cells, _work) = node(Settings::default(), 1);
    let held = cells.rate("rate-limit-held", "", &rate(1.0, 60.0)).unwrap();
    cells.rate("rate-limit-gone", "", &rate(1.0, 60.0)).unwrap();
    cells.quota("quota-gone", &quota(10, 60)).unwrap();
    cells.sweep(1_000);
    assert_eq!(cells.counts(), (2, 1));
    cells.sweep(600_999);
    assert_eq!(cells.counts(), (2, 1));
    cells.sweep(601_000);
    assert_eq!(cells.counts(), (1, 0));
    drop(held);
    cells.sweep(602_000);
    // Held again in between: the time starts anew.
    drop(cells.rate("rate-limit-held", "", &rate(1.0, 60.0)).unwrap());
    cells.sweep(1_202_000);
    assert_eq!(cells.counts(), (0, 0));
}

#[test]
fn a_full_directory_shares_cells_and_never_leaves_a_key_unlimited() {
    let settings = Settings {
        cells_max: 10,
        ..Settings::default()
    };
    let (cells, _work) = node(settings, 1);
    let take = |n: u32, now_ms| {
        let name = format!("rate-limit-{n}");
        let cell = cells.rate(&name, "1", &rate(2.0, 1.0)).unwrap();
        cell.take(now_ms) == Taken::Admitted
    };
    for n in 0..10 {
        assert!(take(n, 5));
    }
    let admitted = (0..100_000).filter(|n| take(10 + n, 5)).count();
    assert!(admitted <= 512, "{admitted}");
    assert!(cells.counts().0 <= 10 + 256);
    assert!(cells.is_crowded());
    // What has nothing left to remember makes room.
    cells.sweep(1_005);
    assert_eq!(cells.counts().0, 0);
    assert!(take(7, 1_005) && take(7, 1_005) && !take(7, 1_005));
}

#[test]
fn the_log_in_memory_counts_refused_requests_and_the_sentinel_lets_go() {
    let log = |algorithm| {
        let settings = Settings {
            algorithm,
            ..Settings::default()
        };
        let (cells, _work) = node(settings, 1);
        let cell = cells.rate("rate-limit-a", "", &rate(3.0, 2.0)).unwrap();
        move |times_ms: &[u64]| -> Vec<bool> {
            times_ms
                .iter()
                .map(|&now_ms| cell.take(now_ms) == Taken::Admitted)
                .collect()
        }
    };
    assert_eq!(
        log(Algorithm::RollingLog)(&[0, 1, 2, 3, 1999, 2300, 4310]),
        [true, true, true, false, false, true, true]
    );
    // The third exceeds what the sentinel leaves (two) and marks; refused ones do not prolong it.
    assert_eq!(
        log(Algorithm::Sentinel)(&[0, 1, 2, 3, 2001, 2002, 2003, 4003]),
        [true, true, true, false, false, true, false, true]
    );
    assert_eq!(
        log(Algorithm::FixedWindow)(&[1999, 1999, 1999, 1999, 2000, 3999, 4000]),
        [true, true, true, false, true, true, true]
    );
}

#[test]
fn an_allowance_in_memory_grows_with_the_load() {
    let settings = Settings {
        algorithm: Algorithm::RollingLog,
        is_smoothing: true,
        ..Settings::default()
    };
    let (cells, _work) = node(settings, 1);
    let limit = RateLimit {
        smoothing: Some(SmoothingRule {
            threshold: 5,
            trigger: 0.5,
            step: 5,
            delay_s: 1,
        }),
        ..rate(20.0, 10.0)
    };
    let cell = cells.rate("rate-limit-a", "", &limit).unwrap();
    let burst = |now_ms| {
        let admitted = (0..30)
            .filter(|_| cell.take(now_ms) == Taken::Admitted)
            .count();
        (admitted, cell.take_event())
    };
    assert_eq!(burst(10), (5, None));
    assert_eq!(burst(1_010), (0, Some(Smoothed::Up)));
    assert_eq!(cell.take_event(), None);
    for now_ms in [2_010, 3_010] {
        assert_eq!(burst(now_ms).1, Some(Smoothed::Up));
    }
    // Grown to the rate, and shrunk by one step after a pause.
    assert_eq!(burst(14_000), (15, Some(Smoothed::Down)));
}

#[test]
fn clocks_of_shards_that_lag_neither_open_a_window_nor_close_one() {
    let (cells, _work) = node(Settings::default(), 1);
    let cell = cells.rate("rate-limit-a", "", &rate(2.0, 1.0)).unwrap();
    let took: Vec<_> = [10_000, 9_900, 10_050, 11_000, 10_999, 10_998]
        .iter()
        .map(|&now_ms| cell.take(now_ms) == Taken::Admitted)
        .collect();
    assert_eq!(took, [true, true, false, true, true, false]);
}
