//! Dates as Go's `time.Time` prints them: RFC 3339 with up to nine digits behind the second.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::http::date::civil;

/// A date as it was read; unset: the first second of year 1, as in Go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Date(Cow<'static, str>);

const UNSET: Date = Date(Cow::Borrowed("0001-01-01T00:00:00Z"));

impl Date {
    /// The moment in UTC.
    #[must_use]
    pub fn from_unix_ns(unix_ns: u64) -> Self {
        let (seconds, ns) = (unix_ns / 1_000_000_000, unix_ns % 1_000_000_000);
        let (year, month, day) = civil(seconds / 86_400);
        let of_day = seconds % 86_400;
        let fraction = format!(".{ns:09}");
        let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
        Self(Cow::Owned(format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}Z",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60,
        )))
    }

    /// Reads what RFC 3339 and Go both take, and keeps it in the form that Go prints.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        let (clock, rest) = rest.split_at_checked(9)?;
        has_form(date, "0000-00-00").then_some(())?;
        has_form(clock, "T00:00:00").then_some(())?;
        let number = |text: Option<&str>| text?.parse::<u64>().ok();
        let (year, month, day) = (
            number(date.get(..4))?,
            number(date.get(5..7))?,
            number(date.get(8..))?,
        );
        let (hour, minute, second) = (
            number(clock.get(1..3))?,
            number(clock.get(4..6))?,
            number(clock.get(7..))?,
        );
        let is_moment = (1..=12).contains(&month)
            && (1..=days_in(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        is_moment.then_some(())?;
        let zone_at = rest.find(['Z', '+', '-'])?;
        let (fraction, zone) = rest.split_at_checked(zone_at)?;
        let fraction = match fraction.strip_prefix('.') {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.get(..9).unwrap_or(digits).trim_end_matches('0')
            }
            None if fraction.is_empty() => "",
            _ => return None,
        };
        let zone = match zone {
            "Z" | "+00:00" => "Z",
            zone if has_form(zone, "+00:00") || has_form(zone, "-00:00") => {
                let (hours, minutes) = (number(zone.get(1..3))?, number(zone.get(4..))?);
                (hours < 24 && minutes < 60).then_some(zone)?
            }
            _ => return None,
        };
        let point = if fraction.is_empty() { "" } else { "." };
        Some(Self(Cow::Owned(format!(
            "{date}{clock}{point}{fraction}{zone}"
        ))))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Date {
    fn default() -> Self {
        UNSET
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Option::<Cow<'de, str>>::deserialize(from)? {
            None => Ok(UNSET),
            Some(text) => Self::parse(&text).ok_or_else(|| {
                D::Error::custom("found another text, expected a date such as 2006-01-02T15:04:05Z")
            }),
        }
    }
}

/// Same length, with a digit for each 0 and the same byte for all else.
fn has_form(text: &str, form: &str) -> bool {
    text.len() == form.len()
        && text
            .bytes()
            .zip(form.bytes())
            .all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                _ => byte == form,
            })
}

const fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let date = Date::parse(text);
        assert_eq!(date.as_ref().map(Date::as_str), expected, "{text}");
    }

    #[test]
    fn dates_are_kept_in_gos_form() {
        for same in [
            "0001-01-01T00:00:00Z",
            "2026-11-22T15:39:36.47555643Z",
            "2026-11-22T15:39:36+01:00",
            "2024-02-29T23:59:59.123456789-05:30",
        ] {
            check(same, Some(same));
        }
        check("2026-11-22T15:39:36.500Z", Some("2026-11-22T15:39:36.5Z"));
        check("2026-11-22T15:39:36.000Z", Some("2026-11-22T15:39:36Z"));
        check(
            "2026-11-22T15:39:36.1234567899Z",
            Some("2026-11-22T15:39:36.123456789Z"),
        );
        check("2026-11-22T15:39:36+00:00", Some("2026-11-22T15:39:36Z"));
        for bad in [
            "",
            "2026",
            "2026-11-22",
            "2026-11-22T15:39:36",
            "2026-11-22 15:39:36Z",
            "2026-11-22T15:39:36.Z",
            "2026-11-22T15:39:36.1aZ",
            "2026-11-22T15:39:36z",
            "2026-13-22T15:39:36Z",
            "2026-02-29T15:39:36Z",
            "2026-11-22T24:39:36Z",
            "2026-11-22T15:39:36+1:00",
            "2026-11-22T15:39:36+24:00",
            "2026-11-22T15:39:36Zx",
            "２026-11-22T15:39:36Z",
            "+026-11-22T15:39:36Z",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn moments_are_printed_as_go_prints_them() {
        for (ns, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_795_361_976_475_556_430, "2026-11-22T15:39:36.47555643Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_500_000_000, "1970-01-01T00:00:01.5Z"),
        ] {
            let date = Date::from_unix_ns(ns);
            assert_eq!(date.as_str(), expected);
            check(expected, Some(expected));
        }
    }
}
