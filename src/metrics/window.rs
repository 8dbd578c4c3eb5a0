//! What happened per API within the last seconds, from counters that only go up.
//!
//! Somebody looks at the counters once a second, see [`Window::look`]; an API in which nothing
//! happens adds nothing. Requests have no part in it.
//!
//! Tyk: `gateway/api_healthcheck.go`.

#![allow(
    clippy::disallowed_types,
    reason = "locked once a second and by whoever asks for figures, never by a request"
)]

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::metrics::{ApiSums, Refusal};

/// The sums of APIs as they were during the last seconds.
#[derive(Debug)]
pub struct Window {
    span_s: u64,
    /// By API id; each with the time from which on its sums held. The first is what held when the
    /// window began, or later.
    apis: Mutex<HashMap<Box<str>, VecDeque<(u64, ApiSums)>>>,
}

/// What happened per second, rounded down to hundredths as in Tyk.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    pub throttled: f64,
    pub quota_violations: f64,
    pub key_failures: f64,
    /// Milliseconds until the head of an upstream's answer.
    pub upstream_latency_ms: f64,
    /// Requests that an upstream answered.
    pub requests: f64,
}

impl Window {
    /// 0 and less mean a minute.
    #[must_use]
    pub fn new(span_s: i64) -> Self {
        Self {
            span_s: match span_s {
                1.. => span_s as u64,
                _ => 60,
            },
            apis: Mutex::default(),
        }
    }

    /// Takes in what was counted until now. Times are milliseconds of any clock that only goes up.
    pub fn look(&self, now_ms: u64, sums: impl IntoIterator<Item = (Box<str>, ApiSums)>) {
        let began_ms = self.began_ms(now_ms);
        let mut apis = self.apis();
        for (api_id, sums) in sums {
            let known = apis.entry(api_id).or_default();
            if known.back().is_none_or(|(_, last)| *last != sums) {
                known.push_back((now_ms, sums));
            }
            // One from before the window stays: it says what the window began with.
            while known.get(1).is_some_and(|(at_ms, _)| *at_ms <= began_ms) {
                known.pop_front();
            }
        }
    }

    /// What happened in one API until now, where its sums are these.
    #[must_use]
    pub fn figures(&self, now_ms: u64, api_id: &str, now: &ApiSums) -> Figures {
        let began_ms = self.began_ms(now_ms);
        let apis = self.apis();
        let known = apis.get(api_id);
        let before = known
            .and_then(|known| known.iter().rev().find(|(at_ms, _)| *at_ms <= began_ms))
            .map_or_else(ApiSums::default, |(_, sums)| *sums);
        let since = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let per_s = |count: f64| hundredths(count / self.span_s as f64);
        let refused = |kind: Refusal| per_s(since(now.refused(kind), before.refused(kind)));
        let passed = since(now.passed(), before.passed());
        let upstream_us = since(now.upstream_us, before.upstream_us);
        Figures {
            throttled: refused(Refusal::Rate),
            quota_violations: refused(Refusal::Quota),
            key_failures: refused(Refusal::Key),
            upstream_latency_ms: match passed {
                0.0 => 0.0,
                passed => hundredths(upstream_us / passed / 1000.0),
            },
            requests: per_s(passed),
        }
    }

    fn began_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.span_s.saturating_mul(1000))
    }

    fn apis(&self) -> MutexGuard<'_, HashMap<Box<str>, VecDeque<(u64, ApiSums)>>> {
        self.apis.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).trunc() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;

    #[test]
    fn figures_are_those_of_the_last_seconds() {
        let registry = Registry::new(2);
        let api = registry.api("a");
        let (one, two) = (api.shard(0).unwrap(), api.shard(1).unwrap());
        let window = Window::new(10);
        let now = |now_ms| window.figures(now_ms, "a", &api.sums());
        let look = |now_ms| window.look(now_ms, registry.api_sums());
        let refuse = |kind| {
            one.response(429);
            one.refusal(kind);
        };
        assert_eq!(now(50_000), Figures::default());
        look(50_000);
        for _ in 0..3 {
            refuse(Refusal::Rate);
        }
        refuse(Refusal::Quota);
        refuse(Refusal::Other);
        for shard in [one, two] {
            shard.response(200);
            shard.took(5, 1_505);
        }
        let expected = Figures {
            throttled: 0.3,
            quota_violations: 0.1,
            key_failures: 0.0,
            upstream_latency_ms: 1.5,
            requests: 0.2,
        };
        // At once, and as long as the window holds it, however often somebody looks.
        assert_eq!(now(50_001), expected);
        for at_ms in (51_000..=60_000).step_by(1000) {
            look(at_ms);
            assert_eq!(now(at_ms), expected, "{at_ms}");
        }
        refuse(Refusal::Key);
        look(61_000);
        let later = Figures {
            key_failures: 0.1,
            ..Figures::default()
        };
        assert_eq!(now(61_000), later);
        look(71_000);
        assert_eq!(now(71_000), Figures::default());
        assert_eq!(window.apis()["a"].len(), 1, "what nobody needs has gone");
    }

    #[test]
    fn no_span_is_a_minute() {
        let registry = Registry::new(1);
        let api = registry.api("a");
        for _ in 0..90 {
            api.shard(0).unwrap().response(200);
        }
        for span_s in [0, -1] {
            let figures = Window::new(span_s).figures(1, "a", &api.sums());
            assert_eq!(figures.requests, 1.5);
        }
    }
}
