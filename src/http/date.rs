//! HTTP dates (RFC 9110 §5.6.7): written in one form, read in all three.

/// Bytes of an IMF-fixdate.
pub const LEN: usize = 29;

const DAYS: [&[u8; 3]; 7] = [b"Sun", b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat"];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// The IMF-fixdate of a moment in seconds since 1970: `Sun, 06 Nov 1994 08:49:37 GMT`.
///
/// Moments after the year 9999 read as its last second.
#[must_use]
pub fn httpdate(unix_s: u64) -> [u8; LEN] {
    const LAST_S: u64 = 253_402_300_799;
    let unix_s = unix_s.min(LAST_S);
    let days = unix_s / 86_400;
    let second = unix_s % 86_400;
    let (year, month, day) = civil(days);
    let name = |names: &[&'static [u8; 3]], at: u64| *names.get(at as usize).unwrap_or(&b"   ");
    let [w0, w1, w2] = *name(&DAYS, (days + 4) % 7);
    let [m0, m1, m2] = *name(&MONTHS, month - 1);
    let tens = |n: u64| b'0' + (n / 10 % 10) as u8;
    let ones = |n: u64| b'0' + (n % 10) as u8;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    [
        w0,
        w1,
        w2,
        b',',
        b' ',
        tens(day),
        ones(day),
        b' ',
        m0,
        m1,
        m2,
        b' ',
        tens(year / 100),
        ones(year / 100),
        tens(year),
        ones(year),
        b' ',
        tens(hour),
        ones(hour),
        b':',
        tens(minute),
        ones(minute),
        b':',
        tens(second),
        ones(second),
        b' ',
        b'G',
        b'M',
        b'T',
    ]
}

/// Seconds since 1970 of an IMF-fixdate, an RFC 850 date or an asctime date. `None` for anything
/// else and for moments before 1970. A leap second reads as the second before it.
///
/// RFC 850 has two digits of a year: from 69 on they mean 19xx, as in Go.
#[must_use]
pub fn parse(text: &[u8]) -> Option<u64> {
    let (weekday, rest) = text.split_at_checked(3)?;
    if let Some(rest) = rest.strip_prefix(b", ") {
        DAYS.iter().position(|day| *day == weekday)?;
        let (&[d0, d1, b' ', m0, m1, m2, b' ', y0, y1, y2, y3, b' '], clock) =
            rest.split_first_chunk::<12>()?
        else {
            return None;
        };
        let year = number(&[y0, y1, y2, y3])?;
        return moment(
            year,
            &[m0, m1, m2],
            number(&[d0, d1])?,
            clock.strip_suffix(b" GMT")?,
        );
    }
    if let Some(rest) = rest.strip_prefix(b" ") {
        DAYS.iter().position(|day| *day == weekday)?;
        let (&[m0, m1, m2, b' ', d0, d1, b' '], rest) = rest.split_first_chunk::<7>()? else {
            return None;
        };
        let (clock, year) = rest.split_at_checked(8)?;
        let d0 = if d0 == b' ' { b'0' } else { d0 };
        let year = number(year.strip_prefix(b" ").filter(|year| year.len() == 4)?)?;
        return moment(year, &[m0, m1, m2], number(&[d0, d1])?, clock);
    }
    let comma = memchr::memchr(b',', text)?;
    let (weekday, rest) = text.split_at_checked(comma)?;
    const LONG_DAYS: [&[u8]; 7] = [
        b"Sunday",
        b"Monday",
        b"Tuesday",
        b"Wednesday",
        b"Thursday",
        b"Friday",
        b"Saturday",
    ];
    LONG_DAYS.iter().position(|day| *day == weekday)?;
    let (&[b',', b' ', d0, d1, b'-', m0, m1, m2, b'-', y0, y1, b' '], clock) =
        rest.split_first_chunk::<12>()?
    else {
        return None;
    };
    let year = match number(&[y0, y1])? {
        year @ 69.. => 1900 + year,
        year => 2000 + year,
    };
    moment(
        year,
        &[m0, m1, m2],
        number(&[d0, d1])?,
        clock.strip_suffix(b" GMT")?,
    )
}

fn moment(year: u64, month: &[u8; 3], day: u64, clock: &[u8]) -> Option<u64> {
    let &[h0, h1, b':', m0, m1, b':', s0, s1] = clock else {
        return None;
    };
    let hour = number(&[h0, h1])?;
    let minute = number(&[m0, m1])?;
    let second = number(&[s0, s1])?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    if hour > 23 || minute > 59 || second > 60 || day == 0 || year < 1970 {
        return None;
    }
    let days = days_since_1970(year, month, day);
    // A day past the end of its month is the first of the next.
    if civil(days) != (year, month, day) {
        return None;
    }
    Some(days * 86_400 + hour * 3600 + minute * 60 + second.min(59))
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + u64::from(byte - b'0'))
    })
}

/// (year, month 1..=12, day 1..=31) of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Counts from March 1 of year 0, so that the leap day is the last of its year (H. Hinnant,
/// "chrono-compatible low-level date algorithms").
pub(crate) const fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + (month <= 2) as u64;
    (year, month, day)
}

/// The other direction; year from 1970 on, month 1..=12.
const fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let year = year - (month <= 2) as u64;
    let era = year / 400;
    let year_of_era = year % 400;
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_the_rfc_are_one_moment() {
        #[track_caller]
        fn check(text: &str, expected: Option<u64>) {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777));
        check("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777));
        check("Sun Nov  6 08:49:37 1994", Some(784_111_777));
        check("Thu, 01 Jan 1970 00:00:00 GMT", Some(0));
        check("Tue, 29 Feb 2000 12:00:00 GMT", Some(951_825_600));
        check("Sat, 31 Dec 2016 23:59:60 GMT", Some(1_483_228_799));
        check("Mon, 29 Feb 2100 12:00:00 GMT", None);
        check("Mon, 31 Apr 2023 12:00:00 GMT", None);
        check("Mon, 00 Apr 2023 12:00:00 GMT", None);
        check("Wed, 31 Dec 1969 23:59:59 GMT", None);
        check("Sun, 06 Nov 1994 08:49:37 UTC", None);
        check("Sun, 06 Nov 1994 24:49:37 GMT", None);
        check("Sun, 6 Nov 1994 08:49:37 GMT", None);
        check("Sux, 06 Nov 1994 08:49:37 GMT", None);
        check("0", None);
        check("", None);
        check("Sun Nov  6 08:49:37 +994", None);
    }

    #[test]
    fn what_is_written_reads_back() {
        for unix_s in (0..253_402_300_799)
            .step_by(86_400 * 97 + 12_345)
            .chain([253_402_300_799])
        {
            let text = httpdate(unix_s);
            assert_eq!(
                parse(&text),
                Some(unix_s),
                "{}",
                String::from_utf8_lossy(&text)
            );
        }
        assert_eq!(&httpdate(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(&httpdate(u64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
