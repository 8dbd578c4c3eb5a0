//! Limiters as simple as they can be, fed with the moments of a run: what a gateway's decisions are held against.
//!
//! Moments are nanoseconds; requests come in order.

use std::collections::VecDeque;

/// A limit: so many requests in so much time.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limit {
    pub rate: u64,
    pub per_ns: u64,
}

/// How the reference decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reference {
    /// A window that begins with the first request after the last one ended (Tyk's in-memory bucket): one gateway.
    Window,
    /// Fewer than `rate` admitted within the last `per`: several gateways.
    Log,
}

/// Decisions of the reference in the order of the moments, and the begin of each window it opened.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Decided {
    pub admitted: Vec<bool>,
    pub windows: Vec<u64>,
}

impl Decided {
    pub fn count(&self) -> usize {
        self.admitted.iter().filter(|is| **is).count()
    }
}

pub fn decide(reference: Reference, limit: Limit, moments: &[u64]) -> Decided {
    let mut decided = Decided::default();
    match reference {
        Reference::Window => {
            let (mut end, mut count) = (0, 0);
            for at in moments {
                if *at >= end {
                    (end, count) = (at + limit.per_ns, 0);
                    decided.windows.push(*at);
                }
                count += 1;
                decided.admitted.push(count <= limit.rate);
            }
        }
        Reference::Log => {
            let mut log: VecDeque<u64> = VecDeque::new();
            for at in moments {
                while log.front().is_some_and(|first| first + limit.per_ns <= *at) {
                    log.pop_front();
                }
                let is_admitted = (log.len() as u64) < limit.rate;
                if is_admitted {
                    log.push_back(*at);
                }
                decided.admitted.push(is_admitted);
            }
        }
    }
    decided
}

/// Most requests that were surely decided within one stretch of `span_ns`: sent and answered inside of it.
/// Takes (sent, answered) pairs in any order.
pub fn worst_window(decided: &[(u64, u64)], span_ns: u64) -> usize {
    let mut sorted = decided.to_vec();
    sorted.sort_unstable();
    let mut worst = 0;
    let mut from = 0;
    for (first, (begin, _)) in sorted.iter().enumerate() {
        from = from.max(first);
        while sorted
            .get(from)
            .is_some_and(|(sent, _)| *sent < begin + span_ns)
        {
            from += 1;
        }
        let inside = sorted[first..from]
            .iter()
            .filter(|(_, answered)| *answered < begin + span_ns)
            .count();
        worst = worst.max(inside);
    }
    worst
}

/// Most requests under way at once.
pub fn most_at_once(decided: &[(u64, u64)]) -> usize {
    let mut edges: Vec<(u64, i64)> = Vec::with_capacity(2 * decided.len());
    for (sent, answered) in decided {
        edges.extend([(*sent, 1), (*answered, -1)]);
    }
    edges.sort_unstable();
    let (mut now, mut most) = (0i64, 0);
    for (_, step) in edges {
        now += step;
        most = most.max(now);
    }
    most as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit {
        rate: 2,
        per_ns: 100,
    };

    #[track_caller]
    fn check(reference: Reference, moments: &[u64], expected: &[u64]) {
        let decided = decide(reference, LIMIT, moments);
        let admitted: Vec<u64> = moments
            .iter()
            .zip(&decided.admitted)
            .filter_map(|(at, is)| is.then_some(*at))
            .collect();
        assert_eq!(admitted, expected, "{reference:?}");
    }

    #[test]
    fn a_window_begins_with_the_first_request_after_the_last() {
        check(
            Reference::Window,
            &[0, 90, 95, 100, 101, 102, 199, 200],
            &[0, 90, 100, 101, 200],
        );
        let decided = decide(Reference::Window, LIMIT, &[5, 90, 130]);
        assert_eq!(decided.windows, [5, 130]);
    }

    #[test]
    fn the_log_never_has_more_than_the_rate_within_per() {
        check(
            Reference::Log,
            &[0, 90, 95, 100, 101, 189, 190, 199, 200],
            &[0, 90, 100, 190, 200],
        );
    }

    #[test]
    fn only_what_surely_fell_into_a_window_is_counted() {
        assert_eq!(worst_window(&[(0, 5), (50, 55), (99, 101)], 100), 2);
        assert_eq!(
            worst_window(&[(50, 55), (0, 5), (90, 99), (104, 106)], 100),
            3
        );
        assert_eq!(worst_window(&[], 100), 0);
    }

    #[test]
    fn requests_under_way_at_once_are_counted() {
        assert_eq!(most_at_once(&[(0, 10), (5, 6), (6, 20), (30, 31)]), 2);
        assert_eq!(most_at_once(&[]), 0);
    }
}
