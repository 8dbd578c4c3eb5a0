//! Records in MessagePack, byte for byte as `gopkg.in/vmihailenco/msgpack.v2` writes them.
//!
//! A map of 32 entries under Go's field names; whole numbers in their shortest form; a time as an
//! array of seconds and nanoseconds, never the timestamp extension: one record that the pump cannot
//! read loses all that it popped with it.

use crate::{
    analytics::record::{Geo, Network, Record},
    http::date::civil,
};

/// Appends a record.
pub fn encode(record: &Record<'_>, out: &mut Vec<u8>) {
    let mut api = Vec::new();
    encode_api(record, &mut api);
    Encoder::default().encode(record, &api, out);
}

/// Appends `APIVersion`, `APIName`, `APIID` and `OrgID`, which the records of an API share.
pub(super) fn encode_api(record: &Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\xaaAPIVersion");
    text(out, record.api_version);
    out.extend_from_slice(b"\xa7APIName");
    text(out, record.api_name);
    out.extend_from_slice(b"\xa5APIID");
    text(out, record.api_id);
    out.extend_from_slice(b"\xa5OrgID");
    text(out, record.org_id);
}

/// Encodes records that follow one another: what an hour's records share is put into bytes once.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    hour: Hour,
}

/// `Day`, `Month`, `Year` and `Hour` of one hour.
#[derive(Debug, Default)]
struct Hour {
    /// Hours since 1970, plus one; 0 before the first.
    key: u64,
    encoded: Vec<u8>,
}

impl Encoder {
    /// Appends a record. `api` is what [`encode_api`] makes of it.
    pub(super) fn encode(&mut self, record: &Record<'_>, api: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"\xde\x00\x20\xa6Method");
        text(out, record.method);
        host(out, record.host);
        text(out, record.path);
        out.extend_from_slice(b"\xa7RawPath");
        text(out, record.raw_path);
        out.extend_from_slice(b"\xadContentLength");
        int(out, record.content_length);
        out.extend_from_slice(b"\xa9UserAgent");
        text(out, record.user_agent);
        out.extend_from_slice(self.hour.of(record.timestamp_ms));
        int(out, record.response_code.into());
        key(out, record.api_key);
        moment(out, i64::try_from(record.timestamp_ms).unwrap_or(i64::MAX));
        out.extend_from_slice(api);
        oauth(out, record.oauth_id);
        int(out, record.request_time);
        raw(out, record.raw_request, record.raw_response);
        address(out, record.ip_address);
        place(out, &record.geo, record.network);
        int(out, record.latency.total.into());
        out.extend_from_slice(b"\xa8Upstream");
        int(out, record.latency.upstream.into());
        tagged(out, record.tags, record.alias, record.track_path);
        moment(out, record.expire_at_ms);
        end(out, record.api_schema);
    }
}

/// The time of a record that was written here; 0 for one of another form.
pub(super) fn time_of(record: &[u8]) -> u64 {
    let find = || {
        let name = b"\xa9TimeStamp\x92\xce";
        let at = memchr::memmem::find(record, name)? + name.len();
        let (seconds, rest) = record.get(at..)?.split_first_chunk()?;
        let nanoseconds = match rest {
            [0xce, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]),
            _ => 0,
        };
        let ms = u64::from(nanoseconds / 1_000_000);
        Some(u64::from(u32::from_be_bytes(*seconds)) * 1000 + ms)
    };
    find().unwrap_or(0)
}

// The parts of a record that `prepared` puts into bytes beforehand, in their order.

/// `Host`, and the name of `Path`.
pub(super) fn host(out: &mut Vec<u8>, host: &[u8]) {
    out.extend_from_slice(b"\xa4Host");
    text(out, host);
    out.extend_from_slice(b"\xa4Path");
}

/// `Day`, `Month`, `Year` and `Hour` of an hour since 1970, and the name of `ResponseCode`.
pub(super) fn hour(out: &mut Vec<u8>, hours: u64) {
    let (year, month, day) = civil(hours / 24);
    out.extend_from_slice(b"\xa3Day");
    uint(out, day);
    out.extend_from_slice(b"\xa5Month");
    uint(out, month);
    out.extend_from_slice(b"\xa4Year");
    uint(out, year);
    out.extend_from_slice(b"\xa4Hour");
    uint(out, hours % 24);
    out.extend_from_slice(b"\xacResponseCode");
}

/// `APIKey`, and the begin of `TimeStamp`.
pub(super) fn key(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"\xa6APIKey");
    text(out, key);
    out.extend_from_slice(b"\xa9TimeStamp\x92");
}

/// `OauthID`, and the name of `RequestTime`.
pub(super) fn oauth(out: &mut Vec<u8>, id: &[u8]) {
    out.extend_from_slice(b"\xa7OauthID");
    text(out, id);
    out.extend_from_slice(b"\xabRequestTime");
}

/// `RawRequest` and `RawResponse`.
pub(super) fn raw(out: &mut Vec<u8>, request: &[u8], response: &[u8]) {
    out.extend_from_slice(b"\xaaRawRequest");
    text(out, request);
    out.extend_from_slice(b"\xabRawResponse");
    text(out, response);
}

/// `IPAddress`.
pub(super) fn address(out: &mut Vec<u8>, address: &[u8]) {
    out.extend_from_slice(b"\xa9IPAddress");
    text(out, address);
}

/// `Geo` and `Network`, and the name of `Latency.Total`.
pub(super) fn place(out: &mut Vec<u8>, at: &Geo<'_>, traffic: Network) {
    out.extend_from_slice(b"\xa3Geo");
    geo(out, at);
    out.extend_from_slice(b"\xa7Network");
    network(out, traffic);
    out.extend_from_slice(b"\xa7Latency\x82\xa5Total");
}

/// `Tags`, `Alias` and `TrackPath`, and the begin of `ExpireAt`.
pub(super) fn tagged(out: &mut Vec<u8>, all: &[&[u8]], alias: &[u8], track_path: bool) {
    out.extend_from_slice(b"\xa4Tags");
    tags(out, all);
    out.extend_from_slice(b"\xa5Alias");
    text(out, alias);
    out.extend_from_slice(b"\xa9TrackPath");
    out.push(if track_path { 0xc3 } else { 0xc2 });
    out.extend_from_slice(b"\xa8ExpireAt\x92");
}

/// `ApiSchema` and `GraphQLStats`.
pub(super) fn end(out: &mut Vec<u8>, schema: &[u8]) {
    out.extend_from_slice(b"\xa9ApiSchema");
    text(out, schema);
    out.extend_from_slice(
        b"\xacGraphQLStats\x87\xa9Variables\xa0\xaaRootFields\xc0\xa5Types\xc0\xa6Errors\xc0\
        \xadOperationType\x00\xa9HasErrors\xc2\xa9IsGraphQL\xc2\xaeCollectionName\xa0",
    );
}

impl Hour {
    /// The four entries, and the key of the one behind them.
    fn of(&mut self, timestamp_ms: u64) -> &[u8] {
        let hours = timestamp_ms / 3_600_000;
        if self.key != hours + 1 {
            self.key = hours + 1;
            self.encoded.clear();
            hour(&mut self.encoded, hours);
        }
        &self.encoded
    }
}

fn geo(out: &mut Vec<u8>, geo: &Geo<'_>) {
    if *geo == Geo::default() {
        out.extend_from_slice(
            b"\x83\xa7Country\x81\xa7ISOCode\xa0\xa4City\x82\xa9GeoNameID\x00\xa5Names\xc0\
            \xa8Location\x83\xa8Latitude\xcb\0\0\0\0\0\0\0\0\xa9Longitude\xcb\0\0\0\0\0\0\0\0\
            \xa8TimeZone\xa0",
        );
        return;
    }
    out.extend_from_slice(b"\x83\xa7Country\x81\xa7ISOCode");
    text(out, geo.country.iso_code.as_bytes());
    out.extend_from_slice(b"\xa4City\x82\xa9GeoNameID");
    uint(out, geo.city.geoname_id.into());
    out.extend_from_slice(b"\xa5Names");
    if geo.city.names.is_empty() {
        out.push(0xc0);
    } else {
        sized(out, geo.city.names.len(), 0x80, 0xde);
        // Go writes them in any order.
        for (language, name) in &geo.city.names {
            text(out, language.as_bytes());
            text(out, name.as_bytes());
        }
    }
    out.extend_from_slice(b"\xa8Location\x83\xa8Latitude\xcb");
    out.extend_from_slice(&geo.location.latitude.to_be_bytes());
    out.extend_from_slice(b"\xa9Longitude\xcb");
    out.extend_from_slice(&geo.location.longitude.to_be_bytes());
    out.extend_from_slice(b"\xa8TimeZone");
    text(out, geo.location.time_zone.as_bytes());
}

fn network(out: &mut Vec<u8>, network: Network) {
    if network == Network::default() {
        out.extend_from_slice(
            b"\x84\xafOpenConnections\x00\xb0ClosedConnection\x00\xa7BytesIn\x00\xa8BytesOut\x00",
        );
        return;
    }
    out.extend_from_slice(b"\x84\xafOpenConnections");
    int(out, network.open_connections);
    out.extend_from_slice(b"\xb0ClosedConnection");
    int(out, network.closed_connections);
    out.extend_from_slice(b"\xa7BytesIn");
    int(out, network.bytes_in);
    out.extend_from_slice(b"\xa8BytesOut");
    int(out, network.bytes_out);
}

fn tags(out: &mut Vec<u8>, tags: &[&[u8]]) {
    if tags.is_empty() {
        out.push(0xc0);
        return;
    }
    sized(out, tags.len(), 0x90, 0xdc);
    for tag in tags {
        text(out, tag);
    }
}

/// The head of a list or map: `short` carries the count up to 15, `long` says that 16 bits follow,
/// the code behind it that 32 do.
fn sized(out: &mut Vec<u8>, count: usize, short: u8, long: u8) {
    match count {
        0..16 => out.push(short | count as u8),
        16..0x1_0000 => put2(out, long, count as u16),
        _ => put4(out, long + 1, count as u32),
    }
}

#[inline]
pub(super) fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    // Many are empty, and a copy of nothing costs as much as one of a word.
    if bytes.is_empty() {
        out.push(0xa0);
        return;
    }
    match bytes.len() {
        len @ 0..32 => out.push(0xa0 | len as u8),
        len @ 32..0x100 => out.extend_from_slice(&[0xd9, len as u8]),
        len @ 0x100..0x1_0000 => put2(out, 0xda, len as u16),
        len => put4(out, 0xdb, len as u32),
    }
    out.extend_from_slice(bytes);
}

#[inline]
fn int(out: &mut Vec<u8>, value: i64) {
    match value {
        0.. => uint(out, value as u64),
        -32..0 => out.push(value as u8),
        -0x80..-32 => out.extend_from_slice(&[0xd0, value as u8]),
        -0x8000..-0x80 => put2(out, 0xd1, value as u16),
        -0x8000_0000..-0x8000 => put4(out, 0xd2, value as u32),
        _ => put8(out, 0xd3, value as u64),
    }
}

#[inline]
fn uint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..0x80 => out.push(value as u8),
        0x80..0x100 => out.extend_from_slice(&[0xcc, value as u8]),
        0x100..0x1_0000 => put2(out, 0xcd, value as u16),
        0x1_0000..0x1_0000_0000 => put4(out, 0xce, value as u32),
        _ => put8(out, 0xcf, value),
    }
}

/// Seconds and nanoseconds of a moment in milliseconds since 1970, behind the head of their list.
#[inline]
fn moment(out: &mut Vec<u8>, ms: i64) {
    int(out, ms.div_euclid(1000));
    uint(out, ms.rem_euclid(1000) as u64 * 1_000_000);
}

#[inline]
fn put2(out: &mut Vec<u8>, code: u8, value: u16) {
    let [a, b] = value.to_be_bytes();
    out.extend_from_slice(&[code, a, b]);
}

#[inline]
fn put4(out: &mut Vec<u8>, code: u8, value: u32) {
    let [a, b, c, d] = value.to_be_bytes();
    out.extend_from_slice(&[code, a, b, c, d]);
}

#[inline]
fn put8(out: &mut Vec<u8>, code: u8, value: u64) {
    out.push(code);
    out.extend_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analytics::record::tests::{request, vector, wide};

    /// Written by the Go library itself.
    const GOLDEN: &str = include_str!("../../tests/data/analytics/msgpack.txt");

    fn golden(name: &str) -> Vec<u8> {
        vector(GOLDEN, name)
    }

    #[track_caller]
    fn check(name: &str, record: &Record<'_>) {
        let mut out = Vec::new();
        encode(record, &mut out);
        let expected = golden(name);
        let at = out.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(out, expected, "differs at {at:?}");
    }

    #[test]
    fn an_empty_record_is_written_as_by_go() {
        // Go's zero month is none of the calendar, and 1970 is.
        let mut expected = golden("zero");
        let at = expected.windows(4).position(|w| w == b"\xa3Day").unwrap();
        expected.splice(
            at..at + 23,
            *b"\xa3Day\x01\xa5Month\x01\xa4Year\xcd\x07\xb2\xa4Hour",
        );
        let mut out = Vec::new();
        encode(&Record::default(), &mut out);
        assert_eq!(out, expected);
    }

    #[test]
    fn a_request_is_written_as_by_go() {
        check("request", &request());
    }

    #[test]
    fn long_texts_many_tags_and_a_place_are_written_as_by_go() {
        wide(|record| check("wide", record));
    }

    #[test]
    fn numbers_and_lengths_take_the_form_that_go_gives_them() {
        for line in GOLDEN.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, value, _] = words[..] else {
                continue;
            };
            let mut out = Vec::new();
            match kind {
                "int" => int(&mut out, value.parse().unwrap()),
                "str" => text(&mut out, &vec![b's'; value.parse().unwrap()]),
                _ => sized(&mut out, value.parse().unwrap(), 0x90, 0xdc),
            }
            let expected = golden(&format!("{kind} {value}"));
            assert_eq!(out[..expected.len()], expected, "{line}");
        }
    }

    #[test]
    fn every_hour_has_its_own_calendar() {
        let mut encoder = Encoder::default();
        for timestamp_ms in [0, 3_599_999, 3_600_000, 951_782_400_000, 951_782_400_001, 0] {
            let record = Record {
                timestamp_ms,
                ..Record::default()
            };
            let (mut api, mut one, mut other) = (Vec::new(), Vec::new(), Vec::new());
            encode_api(&record, &mut api);
            encoder.encode(&record, &api, &mut one);
            encode(&record, &mut other);
            assert_eq!(one, other);
        }
        assert!(encoder.hour.encoded.starts_with(b"\xa3Day\x01"));
    }
}
