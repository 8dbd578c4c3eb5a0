//! Smoothing: an allowance that grows towards the rate in steps, and shrinks again.
//!
//! Tyk: `smoothing` of a limit with `enable_rate_limit_smoothing`; only the log variants know it
//! (`internal/rate/smoothing.go`). The allowance is kept in Redis beside the log, in Tyk's form.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::session::RateLimitSmoothing;

const MS_PER_S: u64 = 1_000;
const NS_PER_S: i64 = 1_000_000_000;

/// How an allowance moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SmoothingRule {
    /// The allowance never falls below.
    pub threshold: u64,
    /// Steps between the allowance and the requests that move it.
    pub trigger: f64,
    pub step: u64,
    /// Seconds between two moves.
    pub delay_s: u64,
}

/// The event of a move: `RateLimitSmoothingUp`, `RateLimitSmoothingDown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smoothed {
    Up,
    Down,
}

impl SmoothingRule {
    /// The rule of a limit; `None` unless it is on and everything is above zero, as Tyk demands.
    #[must_use]
    pub fn from_session(smoothing: &RateLimitSmoothing) -> Option<Self> {
        smoothing.is_valid().then_some(Self {
            threshold: smoothing.threshold as u64,
            trigger: smoothing.trigger,
            step: smoothing.step as u64,
            delay_s: smoothing.delay as u64,
        })
    }

    pub(super) const fn delay_ms(&self) -> u64 {
        self.delay_s.saturating_mul(MS_PER_S)
    }

    /// The next allowance and the event, when requests in the window move it. `reaches` says
    /// whether at least so many are there.
    fn step(
        &self,
        rate: u64,
        allowance: u64,
        reaches: impl Fn(u64) -> bool,
    ) -> Option<(u64, Smoothed)> {
        let lead = self.trigger * self.step as f64;
        let up_from = (allowance as f64 - lead).ceil().max(0.0) as u64;
        if reaches(up_from) {
            let next = allowance.saturating_add(self.step).min(rate);
            return (next > allowance).then_some((next, Smoothed::Up));
        }
        let down_to = allowance as f64 - self.step as f64 - lead;
        if down_to >= 0.0 && !reaches(down_to.floor() as u64 + 1) {
            let next = allowance.saturating_sub(self.step).max(self.threshold);
            return (next < allowance).then_some((next, Smoothed::Down));
        }
        None
    }
}

/// Where a limit's allowance stands, as far as this node knows.
#[derive(Debug)]
pub(super) struct Allowance {
    rule: SmoothingRule,
    rate: u64,
    current: AtomicU64,
    next_ms: AtomicU64,
}

impl Allowance {
    pub(super) fn new(rule: SmoothingRule, rate: u64) -> Self {
        Self {
            rule,
            rate,
            current: AtomicU64::new(rule.threshold.min(rate)),
            next_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn current(&self) -> u64 {
        self.current.load(Relaxed)
    }

    pub(super) const fn rule(&self) -> &SmoothingRule {
        &self.rule
    }

    /// Whether a move may be made now; true for one caller only.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        let next_ms = self.next_ms.load(Relaxed);
        now_ms >= next_ms
            && self
                .next_ms
                .compare_exchange(next_ms, now_ms + self.rule.delay_ms(), Relaxed, Relaxed)
                .is_ok()
    }

    /// Moves, for the caller whose turn it is.
    pub(super) fn step(&self, reaches: impl Fn(u64) -> bool) -> Option<Smoothed> {
        let (next, event) = self.rule.step(self.rate, self.current(), reaches)?;
        self.current.store(next, Relaxed);
        Some(event)
    }

    /// Takes over what another node has stored; `left_ms` until its next move.
    pub(super) fn adopt(&self, current: u64, now_ms: u64, left_ms: u64) {
        let bottom = self.rule.threshold.min(self.rate);
        self.current
            .store(current.clamp(bottom, self.rate), Relaxed);
        if left_ms > 0 {
            let left_ms = left_ms.min(self.rule.delay_ms());
            self.next_ms.store(now_ms + left_ms, Relaxed);
        }
    }
}

/// Nanoseconds since 1970 of an RFC 3339 moment; `None` when it is none.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        let is_number = digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| digits.parse().ok())?
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (fraction, zone) = rest.split_at_checked(zone_at)?;
    let mut ns = 0;
    if let Some(digits) = fraction.strip_prefix('.') {
        let nine: String = digits.chars().chain("000000000".chars()).take(9).collect();
        ns = nine.parse::<u32>().ok()?.into();
    }
    let offset_s = match zone.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign, clock) => {
            let (hours, minutes) = clock.split_once(':')?;
            let seconds = hours.parse::<u8>().ok()?.into();
            let seconds: i64 = seconds;
            let seconds = seconds * 3_600 + i64::from(minutes.parse::<u8>().ok()?) * 60;
            if sign == "-" { -seconds } else { seconds }
        }
    };
    // Howard Hinnant's `days_from_civil`.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    let days = era * 146_097 + of_era - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second - offset_s;
    seconds.checked_mul(NS_PER_S)?.checked_add(ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> SmoothingRule {
        SmoothingRule::from_session(&RateLimitSmoothing {
            enabled: true,
            threshold: 5,
            trigger: 0.5,
            step: 4,
            delay: 10,
        })
        .unwrap()
    }

    #[track_caller]
    fn check(allowance: u64, count: u64, expected: Option<(u64, Smoothed)>) {
        let got = rule().step(12, allowance, |least| count >= least);
        assert_eq!(got, expected);
    }

    #[test]
    fn an_allowance_steps_towards_the_rate_and_back_to_its_threshold() {
        // 5 - 0.5 * 4 = 3 requests move it up.
        check(5, 2, None);
        check(5, 3, Some((9, Smoothed::Up)));
        check(9, 7, Some((12, Smoothed::Up)));
        check(12, 12, None);
        // (12 - 4) - 2 = 6 and fewer move it down.
        check(12, 7, None);
        check(12, 6, Some((8, Smoothed::Down)));
        check(8, 2, Some((5, Smoothed::Down)));
        check(5, 0, None);
    }

    #[test]
    fn a_move_is_due_once_per_delay() {
        let allowance = Allowance::new(rule(), 12);
        assert!(allowance.is_due(3));
        assert!(!allowance.is_due(10_002));
        assert!(allowance.is_due(10_003));
        allowance.adopt(100, 10_003, 500);
        assert_eq!(allowance.current(), 12);
        assert!(!allowance.is_due(10_502));
        assert!(allowance.is_due(10_503));
    }

    #[test]
    fn moments_are_read_as_go_writes_them() {
        for (ns, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_700_000_000_123_000_000, "2023-11-14T22:13:20.123Z"),
            (1_709_164_800_000_000_001, "2024-02-29T00:00:00.000000001Z"),
            (951_868_799_000_000_000, "2000-02-29T23:59:59Z"),
        ] {
            assert_eq!(parse_time(text), Some(ns));
        }
        assert_eq!(
            parse_time("2023-11-15T00:13:20.5+02:00"),
            Some(1_700_000_000_500_000_000)
        );
        for text in [
            "",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "x023-11-14T22:13:20Z",
            "é",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
