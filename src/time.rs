//! Spans of time as Go writes them.
//!
//! Tyk's files hold `time.Duration` values as nanoseconds or as text such as `1h15m30.918s`
//! (Go documentation of `time.ParseDuration`).

const NS_PER_US: i64 = 1_000;
const NS_PER_MS: i64 = 1_000_000;
const NS_PER_S: i64 = 1_000_000_000;

/// Nanoseconds of a Go duration: numbers with a unit each (`ns us µs ms s m h`), one sign in
/// front, `0` alone. `None` when it is none, or beyond 64 bits.
#[must_use]
pub fn parse_go_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, after) = rest.split_at_checked(unit_at)?;
        let unit_end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, below) = after.split_at_checked(unit_end)?;
        total = total.checked_add(scaled(number, unit_ns(unit)?)?)?;
        rest = below;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Text that [`parse_go_duration`] reads back, in Go's own form (`time.Duration.String`).
#[must_use]
pub fn format_go_duration(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let all = ns.unsigned_abs();
    let (us, ms, s) = (
        NS_PER_US.unsigned_abs(),
        NS_PER_MS.unsigned_abs(),
        NS_PER_S.unsigned_abs(),
    );
    match all {
        0 => "0s".to_owned(),
        _ if all < us => format!("{sign}{all}ns"),
        _ if all < ms => format!("{sign}{}µs", decimal(all, us)),
        _ if all < s => format!("{sign}{}ms", decimal(all, ms)),
        _ => {
            let seconds = decimal(all % (60 * s), s);
            let minutes = all / (60 * s);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

fn unit_ns(unit: &str) -> Option<i64> {
    Some(match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => NS_PER_US,
        "ms" => NS_PER_MS,
        "s" => NS_PER_S,
        "m" => 60 * NS_PER_S,
        "h" => 3_600 * NS_PER_S,
        _ => return None,
    })
}

/// `number` (digits with at most one point) times `unit`, rounded down.
fn scaled(number: &str, unit: i64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit = i128::from(unit);
    let mut total = match whole {
        "" => 0,
        digits => i128::from(digits.parse::<u64>().ok()?).checked_mul(unit)?,
    };
    let mut digit_ns = unit;
    for digit in fraction.bytes() {
        if !digit.is_ascii_digit() {
            return None;
        }
        digit_ns /= 10;
        total += i128::from(digit - b'0') * digit_ns;
    }
    Some(total)
}

/// `value / unit` with as many decimals as it needs.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<i64>) {
        assert_eq!(parse_go_duration(text), expected, "{text:?}");
        if let Some(ns) = expected {
            let printed = format_go_duration(ns);
            assert_eq!(parse_go_duration(&printed), Some(ns), "{printed}");
        }
    }

    #[test]
    fn durations_read_as_in_go() {
        check("0", Some(0));
        check("0s", Some(0));
        check("10s", Some(10_000_000_000));
        check("-1.5h", Some(-5_400_000_000_000));
        check("+5s", Some(5_000_000_000));
        check("1h15m30.918s", Some(4_530_918_000_000));
        check("100ms", Some(100_000_000));
        check("3us", Some(3_000));
        check("3µs", Some(3_000));
        check(".5s", Some(500_000_000));
        check("1.s", Some(1_000_000_000));
        check("9223372036854775807ns", Some(i64::MAX));
        check("-9223372036854775808ns", Some(i64::MIN));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "-",
            "3",
            "s",
            ".s",
            "1..5s",
            "1d",
            "10 s",
            "1e3s",
            "+-1s",
            "∞",
            "9223372036854775808ns",
            "99999999999999999999h",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn durations_print_as_in_go() {
        for (ns, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (7_200_000_000_000, "2h0m0s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(format_go_duration(ns), text);
        }
    }
}
