//! Dates after which an API or a version is no longer served: `2006-01-02 15:04` in UTC.
//!
//! Tyk: `gateway/api_definition.go` (`Expired`), Go's `time.Parse` with that layout. An unreadable
//! date of a version counts as past, one of an API as never; both are reported by `load_faults`.

use super::{ApiDefinition, VersionInfo};

/// Seconds since 1970 of `2006-01-02 15:04`, UTC.
///
/// Two digits each, but the hour may have one, as in Go. `None`: not such a date.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let (date, clock) = text.split_once(' ')?;
    let mut date = date.split('-');
    let year = number(date.next()?, 4..=4)?;
    let month = number(date.next()?, 2..=2)?;
    let day = number(date.next()?, 2..=2)?;
    let (hour, minute) = clock.split_once(':')?;
    let hour = number(hour, 1..=2)?;
    let minute = number(minute, 2..=2)?;
    let in_range = date.next().is_none()
        && (1..=12).contains(&month)
        && (1..=days_in_month(year, month)).contains(&day)
        && hour < 24
        && minute < 60;
    in_range.then(|| (days_since_1970(year, month, day) * 24 + hour) * 3600 + minute * 60)
}

impl ApiDefinition {
    /// When the API ends, in seconds since 1970; `None`: never. It applies to `not_versioned` APIs
    /// only, as in Tyk.
    #[must_use]
    pub fn expires_at(&self) -> Option<i64> {
        parse(&self.expiration)
    }
}

impl VersionInfo {
    /// When the version ends, in seconds since 1970; `None`: never. An unreadable date is long
    /// past.
    #[must_use]
    pub fn expires_at(&self) -> Option<i64> {
        match self.expires.as_str() {
            "" | "-1" => None,
            date => Some(parse(date).unwrap_or(i64::MIN)),
        }
    }
}

fn number(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<i64> {
    if !digits.contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Proleptic Gregorian calendar; the year is counted from March so that leap days come last.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let leap_days = year / 4 - year / 100 + year / 400;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    365 * year + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<i64>) {
        assert_eq!(parse(text), expected, "{text}");
    }

    #[test]
    fn dates_are_read_as_go_reads_them() {
        check("1970-01-01 00:00", Some(0));
        check("2006-01-02 15:04", Some(1_136_214_240));
        check("2024-02-29 23:59", Some(1_709_251_140));
        check("2000-02-29 3:07", Some(951_793_620));
        check("0001-01-01 00:00", Some(-62_135_596_800));
        check("9999-12-31 23:59", Some(253_402_300_740));
        for bad in [
            "",
            "-1",
            "2023-02-29 00:00",
            "1900-02-29 00:00",
            "2024-13-01 00:00",
            "2024-00-01 00:00",
            "2024-01-00 00:00",
            "2024-04-31 00:00",
            "2024-01-01 24:00",
            "2024-01-01 00:60",
            "2024-1-01 00:00",
            "2024-01-01 00:0",
            "2024-01-01T00:00",
            "2024-01-01 00:00:00",
            "2024-01-01-01 00:00",
            "24-01-01 00:00",
            "2024-01-01  00:00",
            "+024-01-01 00:00",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn an_unreadable_date_ends_a_version_but_not_an_api() {
        let version = |expires: &str| {
            VersionInfo {
                expires: expires.to_owned(),
                ..VersionInfo::default()
            }
            .expires_at()
        };
        assert_eq!(version(""), None);
        assert_eq!(version("-1"), None);
        assert_eq!(version("1970-01-01 00:01"), Some(60));
        assert_eq!(version("tomorrow"), Some(i64::MIN));
        let api = ApiDefinition {
            expiration: "tomorrow".to_owned(),
            ..ApiDefinition::default()
        };
        assert_eq!(api.expires_at(), None);
    }
}
