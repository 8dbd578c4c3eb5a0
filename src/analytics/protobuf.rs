//! Records in Protocol Buffers: message `AnalyticsRecord` of tyk-pump's package `normalproto`.
//!
//! Fields in the order of their numbers and left out where they are zero, as Go writes them; the
//! messages `Latency`, `Geo` and `Network` are always there, or the pump reads from nothing. Texts
//! must be UTF-8 here: what is not becomes U+FFFD (Go refuses the whole record).

use crate::{
    analytics::record::{Geo, Network, Record},
    http::date::civil,
    protobuf::{double, element, int, message, text},
};

/// Appends a record.
pub(super) fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    let hours = record.timestamp_ms / 3_600_000;
    let (year, month, day) = civil(hours / 24);
    let timestamp_ms = i64::try_from(record.timestamp_ms).unwrap_or(i64::MAX);
    text(out, 1, record.host);
    text(out, 2, record.method);
    text(out, 3, record.path);
    text(out, 4, record.raw_path);
    int(out, 5, record.content_length);
    text(out, 6, record.user_agent);
    int(out, 7, day as i64);
    int(out, 8, month as i64);
    int(out, 9, year as i64);
    int(out, 10, (hours % 24) as i64);
    int(out, 11, record.response_code.into());
    text(out, 12, record.api_key);
    message(out, 13, |out| time(out, timestamp_ms));
    text(out, 14, record.api_version);
    text(out, 15, record.api_name);
    text(out, 16, record.api_id);
    text(out, 17, record.org_id);
    int(out, 18, record.request_time);
    message(out, 19, |out| {
        int(out, 1, record.latency.total.into());
        int(out, 2, record.latency.upstream.into());
    });
    text(out, 20, record.raw_request);
    text(out, 21, record.raw_response);
    text(out, 22, record.ip_address);
    message(out, 23, |out| geo(out, &record.geo));
    message(out, 24, |out| network(out, record.network));
    for tag in record.tags {
        element(out, 25, tag);
    }
    text(out, 26, record.alias);
    int(out, 27, record.track_path.into());
    message(out, 28, |out| time(out, record.expire_at_ms));
    text(out, 29, record.oauth_id);
    text(out, 30, b"UTC");
    text(out, 31, record.api_schema);
}

/// `google.protobuf.Timestamp`.
fn time(out: &mut Vec<u8>, ms: i64) {
    int(out, 1, ms.div_euclid(1000));
    int(out, 2, ms.rem_euclid(1000) * 1_000_000);
}

fn geo(out: &mut Vec<u8>, geo: &Geo<'_>) {
    message(out, 1, |out| text(out, 1, geo.country.iso_code.as_bytes()));
    message(out, 2, |out| {
        for (language, name) in &geo.city.names {
            message(out, 1, |out| {
                // Both fields of an entry are written, empty or not.
                element(out, 1, language.as_bytes());
                element(out, 2, name.as_bytes());
            });
        }
        int(out, 2, geo.city.geoname_id.into());
    });
    message(out, 3, |out| {
        double(out, 1, geo.location.latitude);
        double(out, 2, geo.location.longitude);
        text(out, 3, geo.location.time_zone.as_bytes());
    });
}

fn network(out: &mut Vec<u8>, network: Network) {
    int(out, 1, network.open_connections);
    int(out, 2, network.closed_connections);
    int(out, 3, network.bytes_in);
    int(out, 4, network.bytes_out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytics::record::tests::{request, vector, wide};

    /// Written by Go's library from the same message.
    const GOLDEN: &str = include_str!("../../tests/data/analytics/protobuf.txt");

    #[track_caller]
    fn check(name: &str, record: &Record<'_>) {
        let mut out = Vec::new();
        encode(record, &mut out);
        let expected = vector(GOLDEN, name);
        let at = out.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(out, expected, "differs at {at:?}");
    }

    #[test]
    fn records_are_written_as_by_go() {
        check("zero", &Record::default());
        check("request", &request());
        wide(|record| check("wide", record));
    }

    #[test]
    fn a_text_that_is_no_utf8_does_not_lose_the_record() {
        let mut out = Vec::new();
        let agent = b"a\xffb";
        encode(
            &Record {
                user_agent: agent,
                tags: &[agent],
                ..Record::default()
            },
            &mut out,
        );
        let text = "a\u{fffd}b".as_bytes();
        assert_eq!(out.windows(text.len()).filter(|w| *w == text).count(), 2);
        assert!(!out.contains(&0xfe));
    }
}
