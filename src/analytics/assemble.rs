//! The long way of a record: hits become records here, on the store's thread, where what a shard left
//! out is added. [`prepared`](super::prepared) is the short one.
//!
//! Tyk: `recordWorker` of `gateway/analytics.go`, and the ends of both handlers.

use std::{
    borrow::Cow,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    analytics::{
        geo::GeoIp,
        hit::Told,
        msgpack,
        normalise::Normaliser,
        protobuf,
        record::{Geo, Latency, Record},
        recorder::{ApiRecorder, DETAIL_BYTES_MAX, HUNDRED_YEARS_S, NON_VERSIONED},
        ring::HitBlock,
    },
    storage::Records,
};

/// How records are written (`analytics_config.serializer_type`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Serializer {
    #[default]
    MessagePack,
    Protobuf,
}

impl Serializer {
    /// What `serializer_type` asks for; whatever is not `protobuf` is MessagePack, as in Tyk.
    #[must_use]
    pub fn from_config(kind: &str) -> Self {
        match kind {
            "protobuf" => Self::Protobuf,
            _ => Self::MessagePack,
        }
    }

    /// What the name of a list ends in.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::MessagePack => "",
            Self::Protobuf => "_protobuf",
        }
    }
}

/// Makes records of hits.
#[derive(Debug, Default)]
pub struct Assembler {
    serializer: Serializer,
    normaliser: Normaliser,
    geo_ip: Option<GeoIp>,
    encoder: msgpack::Encoder,
    scratch: Vec<u8>,
}

/// The tag of an answer from the cache.
pub(super) const CACHED: &[u8] = b"cached-response";

impl Assembler {
    #[must_use]
    pub fn new(serializer: Serializer, normaliser: Normaliser, geo_ip: Option<GeoIp>) -> Self {
        Self {
            serializer,
            normaliser,
            geo_ip,
            encoder: msgpack::Encoder::default(),
            scratch: Vec::new(),
        }
    }

    /// Appends the record of each hit of a block, in order, as [`Records`] have them.
    /// Returns their times.
    pub fn assemble(&mut self, block: &HitBlock, out: &mut Vec<u8>) -> Vec<u64> {
        let mut times = Vec::new();
        let mut rest = block.bytes();
        let mut tags = Vec::new();
        let mut ip = String::new();
        while let Some(told) = Told::read(&mut rest) {
            let Some(api) = block.party(told.api) else {
                continue;
            };
            tags.clear();
            ip.clear();
            Records::add(out, self.record(&told, api, &mut tags, &mut ip));
            times.push(told.timestamp_ms);
        }
        times
    }

    fn record<'a>(
        &mut self,
        told: &Told<'a>,
        api: &'a ApiRecorder,
        tags: &mut Vec<&'a [u8]>,
        ip: &mut String,
    ) -> &[u8] {
        let who = told.who.clone().unwrap_or_else(|| api.nobody());
        api.add_tags(&who, told.header_tags.clone(), told.is_cached, tags);
        write_ip(ip, told.ip);
        let raw_path = rooted(told.path);
        let path = match told.tracked_path {
            Some(pattern) => rooted(pattern),
            None => Cow::Borrowed(raw_path.as_ref()),
        };
        let path = self.normaliser.normalise(&path);
        let expire_after_s = match told.expire_after_s.unwrap_or(api.expire_after_s()) {
            0 => HUNDRED_YEARS_S,
            seconds => seconds,
        };
        let timestamp_ms = i64::try_from(told.timestamp_ms).unwrap_or(i64::MAX);
        let (raw_request, raw_response) = (detail(told.raw_request), detail(told.raw_response));
        let Latency { total, .. } = told.latency;
        let record = Record {
            method: told.method,
            host: told.host.unwrap_or(api.host()),
            path: &path,
            raw_path: &raw_path,
            content_length: told.content_length,
            user_agent: told.user_agent,
            response_code: told.status.into(),
            api_key: who.key,
            timestamp_ms: told.timestamp_ms,
            api_version: match told.version {
                b"" => NON_VERSIONED,
                version => version,
            },
            api_name: api.name(),
            api_id: api.api_id(),
            org_id: api.org_id(),
            oauth_id: who.oauth_id,
            request_time: total.into(),
            raw_request: raw_request.as_bytes(),
            raw_response: raw_response.as_bytes(),
            ip_address: ip.as_bytes(),
            geo: self
                .geo_ip
                .as_ref()
                .map_or_else(Geo::default, |geo_ip| geo_ip.find(told.ip)),
            latency: told.latency,
            tags,
            alias: who.alias,
            track_path: told.tracked_path.is_some(),
            expire_at_ms: timestamp_ms.saturating_add(expire_after_s.saturating_mul(1000)),
            ..Record::default()
        };
        // Apart first: its length stands before it.
        let out = &mut self.scratch;
        out.clear();
        match self.serializer {
            Serializer::Protobuf => protobuf::encode(&record, out),
            Serializer::MessagePack if told.version.is_empty() => {
                self.encoder.encode(&record, api.unversioned(), out);
            }
            Serializer::MessagePack => {
                let mut versioned = Vec::new();
                msgpack::encode_api(&record, &mut versioned);
                self.encoder.encode(&record, &versioned, out);
            }
        }
        out
    }
}

/// A path with its leading `/`.
fn rooted(path: &[u8]) -> Cow<'_, [u8]> {
    match path {
        [b'/', ..] => Cow::Borrowed(path),
        _ => Cow::Owned([b"/", path].concat()),
    }
}

/// Base64 of what was recorded whole.
fn detail(raw: &[u8]) -> String {
    if raw.is_empty() {
        return String::new();
    }
    STANDARD.encode(raw.get(..DETAIL_BYTES_MAX).unwrap_or(raw))
}

/// As `to_string` writes it, at a fraction of the price for IPv4.
pub(super) fn write_ip(out: &mut String, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => write_v4(out, ip),
        // Writing to a String cannot fail.
        IpAddr::V6(ip) => drop(write!(out, "{ip}")),
    }
}

fn write_v4(out: &mut String, ip: Ipv4Addr) {
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            out.push('.');
        }
        let digit = |n: u8| char::from(b'0' + n % 10);
        if octet >= 100 {
            out.push(digit(octet / 100));
        }
        if octet >= 10 {
            out.push(digit(octet / 10));
        }
        out.push(digit(octet));
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        analytics::{
            Hit, Identity, KeyRuns,
            hit::{FieldValues, tests::hit},
            record::tests::{request, vector},
            recorder::tests::{api, recording},
            ring::ring,
        },
        storage::Chunk,
    };

    /// The top of a record: texts, numbers and lists of texts by their names.
    fn fields(record: &[u8]) -> BTreeMap<String, String> {
        fn value(rest: &mut &[u8]) -> String {
            let (&code, behind) = rest.split_first().unwrap();
            *rest = behind;
            let mut number = |bytes: usize| {
                let (taken, behind) = rest.split_at(bytes);
                *rest = behind;
                taken.iter().fold(0, |n, b| n << 8 | u64::from(*b))
            };
            match code {
                0..0x80 => code.to_string(),
                0xe0.. => (code as i8).to_string(),
                0xc0 => "nil".to_owned(),
                0xc2 | 0xc3 => (code == 0xc3).to_string(),
                0xcc => number(1).to_string(),
                0xcd => number(2).to_string(),
                0xce => number(4).to_string(),
                0xcf => number(8).to_string(),
                0xcb => f64::from_bits(number(8)).to_string(),
                0xa0..0xc0 => string(rest, (code - 0xa0).into()),
                0xd9 => {
                    let length = number(1);
                    string(rest, length)
                }
                0xda => {
                    let length = number(2);
                    string(rest, length)
                }
                0xdb => {
                    let length = number(4);
                    string(rest, length)
                }
                0x90..0xa0 => {
                    let list: Vec<_> = (0x90..code).map(|_| value(rest)).collect();
                    list.join(" ")
                }
                0x80..0x90 => {
                    let map: Vec<_> = (0x80..code)
                        .map(|_| format!("{}={}", value(rest), value(rest)))
                        .collect();
                    format!("{{{}}}", map.join(" "))
                }
                _ => panic!("code {code:x}"),
            }
        }
        fn string(rest: &mut &[u8], length: u64) -> String {
            let (taken, behind) = rest.split_at(length as usize);
            *rest = behind;
            String::from_utf8_lossy(taken).into_owned()
        }
        let mut rest = record.strip_prefix(b"\xde\x00\x20").unwrap();
        let map = (0..32)
            .map(|_| (value(&mut rest), value(&mut rest)))
            .collect();
        assert!(rest.is_empty());
        map
    }

    /// What arrives, by whichever way the recorder and the hits take.
    fn records(
        assembler: &mut Assembler,
        api: &Arc<ApiRecorder>,
        hits: &[Hit<'_>],
    ) -> Vec<Vec<u8>> {
        let (producer, consumer) = ring(1 << 22, Arc::default());
        for hit in hits {
            producer.record(api, hit);
        }
        drop(producer);
        let mut chunks = Vec::new();
        while let Some(block) = consumer.take_records() {
            let (bytes, filled) = block.into_bytes();
            chunks.push(Chunk::new(bytes, filled));
        }
        while let Some(block) = consumer.take_hits() {
            let mut chunk = Vec::new();
            assembler.assemble(&block, &mut chunk);
            chunks.push(chunk.into());
        }
        let records = Records::new(chunks, hits.len() as u64);
        records.iter().map(<[u8]>::to_vec).collect()
    }

    /// The hit's record by both ways.
    #[track_caller]
    fn both(conf: &str, keyless_key: &str, definition: &str, hit: &Hit<'_>) -> Vec<u8> {
        let short = recording(
            &format!(r#"{{"enable_analytics": true{conf}}}"#),
            keyless_key,
        );
        let long = Arc::new(short.on_the_long_way());
        let (short, long) = (api(&short, definition), api(&long, definition));
        let [short, long] = [short, long].map(|api| {
            let api = api.unwrap();
            let key = hit
                .identity
                .and_then(|identity| KeyRuns::new(&api, identity));
            let tail = RefCell::default();
            let hit = Hit {
                key: key.as_ref(),
                ..*hit
            };
            let of_connection = Hit {
                tail: Some(&tail),
                ..hit
            };
            // Behind another one, as the second, and then as one of many.
            let other = Hit {
                user_agent: b"z",
                timestamp_ms: hit.timestamp_ms ^ 1,
                latency: Latency {
                    total: 3,
                    upstream: 2,
                },
                ..of_connection
            };
            let before = Hit {
                latency: other.latency,
                timestamp_ms: hit.timestamp_ms ^ 2,
                ..of_connection
            };
            let hits = [
                hit,
                of_connection,
                of_connection,
                of_connection,
                other,
                of_connection,
                before,
                before,
                of_connection,
            ];
            let one = |hit| {
                let mut out = records(&mut Assembler::default(), &api, &[hit]);
                assert_eq!(out.len(), 1);
                out.remove(0)
            };
            let out = hits.map(one);
            let (first, rest) = out.split_first().unwrap();
            for at in [1, 2, 3, 5, 8] {
                assert_eq!(&rest[at - 1], first, "{at}");
            }
            assert_eq!(rest[5], rest[6]);
            assert_ne!(&rest[3], first);
            first.clone()
        });
        let at = short.iter().zip(&long).position(|(a, b)| a != b);
        assert_eq!(short, long, "differ at {at:?}");
        short
    }

    #[track_caller]
    fn check(
        conf: &str,
        keyless_key: &str,
        definition: &str,
        hit: &Hit<'_>,
        expected: &[(&str, &str)],
    ) {
        let found = fields(&both(conf, keyless_key, definition, hit));
        for (name, value) in expected {
            assert_eq!(found[*name], *value, "{name} in {found:?}");
        }
    }

    #[test]
    fn both_ways_write_the_same_bytes() {
        let identities = [
            None,
            Some(Identity::new("k", "bob", "", ["pol-1", "t"])),
            Some(Identity::new("", "", "", [""; 0])),
            Some(Identity::new(
                &"k".repeat(70_000),
                &"a".repeat(300),
                "",
                vec!["t"; 20],
            )),
            Some(Identity::new("k", "", "client", ["t"])),
        ];
        let long = vec![b'p'; 300];
        let longer = vec![b'/'; 70_000];
        let rooted = vec![b'/'; 256];
        let now_ms = hit().timestamp_ms;
        let variants = |hit: Hit<'static>| {
            vec![
                hit,
                Hit {
                    method: b"POST",
                    content_length: -1,
                    host: Some(b"other:1"),
                    path: b"x",
                    user_agent: b"",
                    ..hit
                },
                Hit {
                    method: b"A-METHOD-OF-MORE-THAN-31-CHARACTERS",
                    content_length: i64::MIN,
                    host: Some(b""),
                    path: b"",
                    status: 0,
                    timestamp_ms: 0,
                    ip: "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(),
                    ..hit
                },
                Hit {
                    method: b"",
                    content_length: i64::MAX,
                    status: u16::MAX,
                    latency: Latency {
                        total: u32::MAX,
                        upstream: 70_000,
                    },
                    timestamp_ms: now_ms - now_ms % 1000,
                    ip: "::ffff:255.255.255.255".parse().unwrap(),
                    is_peers_ip: true,
                    ..hit
                },
                Hit {
                    method: b"DELETE",
                    content_length: 127,
                    timestamp_ms: now_ms - now_ms % 1000,
                    is_peers_ip: true,
                    ..hit
                },
                Hit {
                    method: b"PUT",
                    content_length: 128,
                    is_peers_ip: true,
                    ..hit
                },
                Hit {
                    content_length: 65_536,
                    status: 199,
                    latency: Latency {
                        total: 300,
                        upstream: 127,
                    },
                    timestamp_ms: 4_294_967_296_001,
                    ip: "255.255.255.255".parse().unwrap(),
                    ..hit
                },
                Hit {
                    timestamp_ms: u64::MAX,
                    ..hit
                },
                Hit {
                    is_cached: true,
                    version: b"v1",
                    tracked_path: Some(b"/{id}"),
                    expire_after_s: Some(0),
                    ..hit
                },
            ]
        };
        let [short, of_two, most] = [32, 33, 255].map(|bytes| &rooted[..bytes]);
        let paths: [&[u8]; 8] = [b"/x", short, of_two, most, &rooted, &long, &longer, b"\xff"];
        for definition in [
            DEFINITION,
            r#"{"api_id": "a"}"#,
            r#"{"api_id": "a", "tags": ["t"], "expire_analytics_after": -1}"#,
            r#"{"api_id": "a", "expire_analytics_after": 9223372036854775807}"#,
        ] {
            for hit in variants(Hit {
                fields: &Tagged,
                ..hit()
            }) {
                for identity in &identities {
                    let hit = Hit {
                        identity: identity.as_ref(),
                        ..hit
                    };
                    both("", "", definition, &hit);
                }
                for path in paths {
                    both("", "00000000", definition, &Hit { path, ..hit });
                    let user_agent = path;
                    both("", "", definition, &Hit { user_agent, ..hit });
                }
            }
        }
    }

    #[test]
    fn the_short_way_writes_what_go_writes() {
        let golden = include_str!("../../tests/data/analytics/msgpack.txt");
        // Of what the vector has, the short way knows no path pattern, no detail and no OAuth client.
        let expected = Record {
            path: b"/base/user/123/x",
            oauth_id: b"",
            raw_request: b"",
            raw_response: b"",
            track_path: false,
            // And its time is counted from the request's, milliseconds included.
            expire_at_ms: request().expire_at_ms + 123,
            ..request()
        };
        let mut whole = Vec::new();
        msgpack::encode(&request(), &mut whole);
        assert_eq!(whole, vector(golden, "request"));
        let mut encoded = Vec::new();
        msgpack::encode(&expected, &mut encoded);
        let identity = Identity::new("00000000", "bob", "", ["t1", "x-tag-tv"]);
        let told = Hit {
            path: b"/base/user/123/x",
            content_length: -1,
            latency: Latency {
                total: 300,
                upstream: 127,
            },
            host: Some(b"127.0.0.1:8080"),
            identity: Some(&identity),
            ..hit()
        };
        let definition = r#"{"api_id": "api1", "name": "api one", "org_id": "org1"}"#;
        assert_eq!(both("", "", definition, &told), encoded);
    }

    #[test]
    fn addresses_that_share_a_place_do_not_share_their_text() {
        let api = api(&recording(r#"{"enable_analytics": true}"#, ""), "{}").unwrap();
        let ips: Vec<IpAddr> = (0..300_u32)
            .chain([0, 1, 2])
            .map(|n| Ipv4Addr::from(0x0a00_0000 + n * 251).into())
            .collect();
        let hits: Vec<_> = ips.iter().map(|ip| Hit { ip: *ip, ..hit() }).collect();
        let out = records(&mut Assembler::default(), &api, &hits);
        for (ip, record) in ips.iter().zip(&out) {
            assert_eq!(fields(record)["IPAddress"], ip.to_string());
        }
        assert_eq!(out.len(), ips.len());
    }

    struct Tagged;

    impl FieldValues for Tagged {
        fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
            assert_eq!(name, "x-tag");
            found(b"tv");
        }
    }

    const DEFINITION: &str = r#"{"api_id": "api1", "name": "one", "org_id": "org1",
        "tag_headers": ["X-Tag"], "tags": ["apitag"]}"#;

    #[test]
    fn tags_stand_in_the_order_of_tyk() {
        let identity = Identity::new("kk", "bob", "cl", ["pol-1", "dev-2", "t1", "t2"]);
        let told = Hit {
            identity: Some(&identity),
            fields: &Tagged,
            is_cached: true,
            ..hit()
        };
        check(
            r#", "db_app_conf_options": {"node_is_segmented": true, "tags": ["edge"]}"#,
            "",
            DEFINITION,
            &told,
            &[
                (
                    "Tags",
                    "pol-1 dev-2 t1 t2 x-tag-tv apitag cached-response edge key-kk org-org1 api-api1",
                ),
                ("APIKey", "kk"),
                ("Alias", "bob"),
                ("OauthID", "cl"),
                ("APIID", "api1"),
                ("APIName", "one"),
                ("OrgID", "org1"),
            ],
        );
        check(
            r#", "db_app_conf_options": {"tags": ["edge"]}"#,
            "",
            r#"{"api_id": "free"}"#,
            &hit(),
            &[("Tags", "api-free"), ("APIKey", ""), ("OrgID", "")],
        );
    }

    #[test]
    fn without_a_key_the_hash_of_nothing_is_recorded() {
        let expected = [("APIKey", "00000000"), ("Tags", "key-00000000 api-free")];
        check("", "00000000", r#"{"api_id": "free"}"#, &hit(), &expected);
    }

    #[test]
    fn what_is_left_out_gets_its_default() {
        check(
            "",
            "",
            DEFINITION,
            &Hit {
                path: b"x",
                fields: &Tagged,
                ..hit()
            },
            &[
                ("Host", "target:80"),
                ("Path", "/x"),
                ("RawPath", "/x"),
                ("APIVersion", "Non Versioned"),
                ("RequestTime", "0"),
                ("Latency", "{Total=0 Upstream=0}"),
                ("TimeStamp", "1795377342 123000000"),
                ("ExpireAt", "4948977342 123000000"),
                ("TrackPath", "false"),
                ("IPAddress", "127.0.0.1"),
                ("Day", "22"),
                ("Month", "11"),
                ("Year", "2026"),
                ("Hour", "19"),
            ],
        );
        check(
            "",
            "",
            r#"{"api_id": "a", "expire_analytics_after": 60}"#,
            &Hit {
                host: Some(b"other:1"),
                path: b"/i/1",
                tracked_path: Some(b"i/{id}"),
                version: b"v2",
                ip: "2001:db8::1".parse().unwrap(),
                latency: Latency {
                    total: 9,
                    upstream: 8,
                },
                raw_request: b"GET /",
                raw_response: b"HTTP/1.1",
                ..hit()
            },
            &[
                ("Host", "other:1"),
                ("Path", "/i/{id}"),
                ("RawPath", "/i/1"),
                ("APIVersion", "v2"),
                ("RequestTime", "9"),
                ("Latency", "{Total=9 Upstream=8}"),
                ("ExpireAt", "1795377402 123000000"),
                ("TrackPath", "true"),
                ("IPAddress", "2001:db8::1"),
                ("RawRequest", "R0VUIC8="),
                ("RawResponse", "SFRUUC8xLjE="),
            ],
        );
        let age = Hit {
            expire_after_s: Some(604_800),
            ..hit()
        };
        check(
            "",
            "",
            r#"{"api_id": "a"}"#,
            &age,
            &[("ExpireAt", "1795982142 123000000")],
        );
    }

    #[test]
    fn paths_are_normalised_and_raw_ones_are_not() {
        let config = crate::config::NormaliseUrls {
            enabled: true,
            normalise_numbers: true,
            ..Default::default()
        };
        let (normaliser, _) = Normaliser::from_config(&config);
        let mut assembler = Assembler::new(Serializer::MessagePack, normaliser, None);
        let conf = r#"{"enable_analytics": true, "analytics_config": {
            "normalise_urls": {"enabled": true}}}"#;
        let api = api(&recording(conf, ""), "{}").unwrap();
        let out = records(
            &mut assembler,
            &api,
            &[Hit {
                path: b"1/x/22",
                ..hit()
            }],
        );
        let found = fields(&out[0]);
        assert_eq!(
            (&*found["Path"], &*found["RawPath"]),
            ("/{id}/x/{id}", "/1/x/22")
        );
    }

    #[test]
    fn addresses_print_as_the_library_prints_them() {
        for ip in [
            "0.0.0.0",
            "1.20.103.255",
            "255.255.255.255",
            "10.0.9.99",
            "::1",
            "::ffff:1.2.3.4",
        ] {
            let mut out = String::new();
            write_ip(&mut out, ip.parse().unwrap());
            assert_eq!(out, ip);
        }
    }

    #[test]
    fn detail_is_cut_at_its_limit() {
        for (bytes, expected) in [
            (0, 0),
            (DETAIL_BYTES_MAX, 349_528),
            (DETAIL_BYTES_MAX + 1, 349_528),
        ] {
            assert_eq!(detail(&vec![0; bytes]).len(), expected);
        }
    }
}
