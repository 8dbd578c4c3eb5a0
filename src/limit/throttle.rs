//! Throttling: a request that met its rate limit waits and tries again.
//!
//! Tyk: `throttle_interval`, `throttle_retry_limit` (`gateway/mw_rate_limiting.go`, docs "Request
//! Throttling").

/// What one request has left of its retries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttle {
    interval_ms: u64,
    left: u32,
}

/// What a refused request does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Throttled {
    /// Wait so long, then take again.
    Wait { ms: u64 },
    /// The refusal stands.
    Refuse,
}

impl Throttle {
    /// `interval_s` and `retry_limit` as the limit has them; `None` unless both are above zero.
    #[must_use]
    pub fn new(interval_s: f64, retry_limit: i64) -> Option<Self> {
        let left = u32::try_from(retry_limit).ok().filter(|&left| left > 0)?;
        // What is no number is none.
        (interval_s > 0.0).then_some(Self {
            interval_ms: ((interval_s * 1000.0) as u64).max(1),
            left,
        })
    }

    /// After a refusal.
    ///
    /// Tyk differs: it tries with a dry run first, which for its Redis limiters counts as a
    /// request, and then checks everything once more; here the retry is the request itself.
    #[must_use]
    pub fn refused(&mut self) -> Throttled {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Throttled::Wait {
                    ms: self.interval_ms,
                }
            }
            None => Throttled::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(interval_s: f64, retry_limit: i64, expected: &[Throttled]) {
        let mut got = Vec::new();
        if let Some(mut throttle) = Throttle::new(interval_s, retry_limit) {
            while got.last() != Some(&Throttled::Refuse) {
                got.push(throttle.refused());
            }
        }
        assert_eq!(got, expected);
    }

    #[test]
    fn a_refused_request_waits_as_often_as_the_limit_says() {
        let wait = |ms| Throttled::Wait { ms };
        check(0.5, 2, &[wait(500), wait(500), Throttled::Refuse]);
        check(0.0001, 1, &[wait(1), Throttled::Refuse]);
    }

    #[test]
    fn without_interval_or_retries_nothing_is_throttled() {
        for (interval_s, retry_limit) in [(0.0, 3), (-1.0, 3), (f64::NAN, 3), (1.0, 0), (1.0, -1)] {
            check(interval_s, retry_limit, &[]);
        }
    }
}
