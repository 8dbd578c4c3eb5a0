//! One record as Tyk's pump knows it, borrowed from wherever its parts are.
//!
//! Tyk: `analytics.AnalyticsRecord` of tyk-pump.

use std::collections::BTreeMap;

/// The fields of a record, in the order in which they are written. Texts are bytes: a Go string
/// holds whatever a client sent. `GraphQLStats` and `CollectionName` are always empty.
#[derive(Debug, Clone, Default)]
pub struct Record<'a> {
    pub method: &'a [u8],
    pub host: &'a [u8],
    /// May be normalised, or the pattern of a tracked endpoint.
    pub path: &'a [u8],
    pub raw_path: &'a [u8],
    /// Of the request; -1 when it was not told.
    pub content_length: i64,
    pub user_agent: &'a [u8],
    /// `-1` for connections without HTTP.
    pub response_code: i32,
    /// Hashed where keys are.
    pub api_key: &'a [u8],
    /// Milliseconds since 1970. `Day`, `Month`, `Year` and `Hour` follow from it.
    // Tyk differs: it takes those four in the machine's time zone, here they are UTC.
    pub timestamp_ms: u64,
    pub api_version: &'a [u8],
    pub api_name: &'a [u8],
    pub api_id: &'a [u8],
    pub org_id: &'a [u8],
    pub oauth_id: &'a [u8],
    /// Milliseconds.
    pub request_time: i64,
    /// Base64.
    pub raw_request: &'a [u8],
    /// Base64.
    pub raw_response: &'a [u8],
    pub ip_address: &'a [u8],
    pub geo: Geo<'a>,
    pub network: Network,
    pub latency: Latency,
    /// An empty list is written as nil.
    pub tags: &'a [&'a [u8]],
    pub alias: &'a [u8],
    pub track_path: bool,
    /// Milliseconds since 1970.
    pub expire_at_ms: i64,
    pub api_schema: &'a [u8],
}

/// Where an address is, as far as a MaxMind database tells.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct Geo<'a> {
    #[serde(borrow)]
    pub country: Country<'a>,
    #[serde(borrow)]
    pub city: City<'a>,
    #[serde(borrow)]
    pub location: Location<'a>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Country<'a> {
    #[serde(borrow)]
    pub iso_code: &'a str,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct City<'a> {
    pub geoname_id: u32,
    /// Language to name; no entry is written as nil.
    #[serde(borrow)]
    pub names: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Deserialize)]
#[serde(default)]
pub struct Location<'a> {
    pub latitude: f64,
    pub longitude: f64,
    #[serde(borrow)]
    pub time_zone: &'a str,
}

/// Connections and bytes of a service without HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Network {
    pub open_connections: i64,
    pub closed_connections: i64,
    pub bytes_in: i64,
    pub bytes_out: i64,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    pub total: u32,
    /// Until the head of the upstream's answer.
    pub upstream: u32,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The bytes that a file of golden vectors gives for a name.
    pub(crate) fn vector(file: &str, name: &str) -> Vec<u8> {
        let line = file
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .unwrap();
        (0..line.len() / 2)
            .map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    /// What the vectors call `request`.
    pub(crate) fn request() -> Record<'static> {
        Record {
            method: b"GET",
            host: b"127.0.0.1:8080",
            path: b"/base/user/{id}/x",
            raw_path: b"/base/user/123/x",
            content_length: -1,
            user_agent: b"probe/1",
            response_code: 200,
            api_key: b"00000000",
            timestamp_ms: 1_795_377_342_123,
            api_version: b"Non Versioned",
            api_name: b"api one",
            api_id: b"api1",
            org_id: b"org1",
            oauth_id: b"client",
            request_time: 300,
            raw_request: b"R0VUIC8=",
            raw_response: b"SFRUUA==",
            ip_address: b"127.0.0.1",
            latency: Latency {
                total: 300,
                upstream: 127,
            },
            tags: &[
                b"t1",
                b"x-tag-tv",
                b"key-00000000",
                b"org-org1",
                b"api-api1",
            ],
            alias: b"bob",
            track_path: true,
            expire_at_ms: (1_795_377_342 + 3_153_600_000) * 1000,
            ..Record::default()
        }
    }

    /// What the vectors call `wide`: long texts, many tags, a place.
    pub(crate) fn wide(check: impl FnOnce(&Record<'_>)) {
        let path = [b"/".as_slice(), &[b'p'; 299]].concat();
        let tags: Vec<String> = (0..17).map(|i| format!("t{i}")).collect();
        let tags: Vec<&[u8]> = tags.iter().map(String::as_bytes).collect();
        check(&Record {
            geo: Geo {
                country: Country { iso_code: "DE" },
                city: City {
                    geoname_id: 2_950_159,
                    names: [("en", "Berlin")].into(),
                },
                location: Location {
                    latitude: 52.5244,
                    longitude: 13.4105,
                    time_zone: "Europe/Berlin",
                },
            },
            network: Network {
                open_connections: 1,
                closed_connections: 128,
                bytes_in: 65_536,
                bytes_out: 1 << 32,
            },
            user_agent: &[b'u'; 32],
            alias: &[b'a'; 256],
            path: &path,
            response_code: -1,
            tags: &tags,
            ..request()
        });
    }
}
