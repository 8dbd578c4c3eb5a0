//! Hits become records: what a shard left out is added here, on the tokio thread.
//!
//! Tyk: `recordWorker` of `gateway/analytics.go`, and the ends of both handlers.

use std::{
    borrow::Cow,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::analytics::{
    geo::GeoIp,
    hit::{Identified, Told},
    msgpack,
    normalise::Normaliser,
    protobuf,
    record::{Geo, Latency, Record},
    recorder::{ApiRecorder, DETAIL_BYTES_MAX, NON_VERSIONED},
    ring::HitBlock,
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

const CACHED: &[u8] = b"cached-response";

/// 36,500 days: what `expire_analytics_after: 0` means.
const HUNDRED_YEARS_S: i64 = 100 * 365 * 24 * 3600;

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

    /// Calls `done` with the time (milliseconds since 1970) and the bytes of each record of a block,
    /// in order.
    pub fn assemble(&mut self, block: &HitBlock, mut done: impl FnMut(u64, Vec<u8>)) {
        let mut rest = block.bytes();
        let mut tags = Vec::new();
        let mut ip = String::new();
        while let Some(told) = Told::read(&mut rest) {
            let Some(api) = block.party(told.api) else {
                continue;
            };
            tags.clear();
            ip.clear();
            let record = self.record(&told, api, &mut tags, &mut ip);
            done(told.timestamp_ms, record);
        }
    }

    fn record<'a>(
        &mut self,
        told: &Told<'a>,
        api: &'a ApiRecorder,
        tags: &mut Vec<&'a [u8]>,
        ip: &mut String,
    ) -> Vec<u8> {
        let who = told.who.clone().unwrap_or_else(|| api.nobody());
        add_tags(told, &who, api, tags);
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
        // In one buffer first: the record's own is made once, as large as it is.
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
        out.clone()
    }
}

/// Tags in Tyk's order.
fn add_tags<'a>(
    told: &Told<'a>,
    who: &Identified<'a>,
    api: &'a ApiRecorder,
    tags: &mut Vec<&'a [u8]>,
) {
    tags.extend(who.tags.clone());
    tags.extend(told.header_tags.clone());
    tags.extend(api.tags());
    if told.is_cached {
        tags.push(CACHED);
    }
    tags.extend(api.node_tags());
    if !who.key_tag.is_empty() {
        tags.push(who.key_tag);
    }
    tags.extend(api.closing_tags());
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
fn write_ip(out: &mut String, ip: IpAddr) {
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
    use std::collections::BTreeMap;

    use super::*;
    use crate::analytics::{
        Hit, Identity,
        hit::{FieldValues, tests::hit},
        recorder::tests::{api, recording},
        ring::ring,
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

    fn records(
        assembler: &mut Assembler,
        api: &std::sync::Arc<ApiRecorder>,
        hits: &[Hit<'_>],
    ) -> Vec<Vec<u8>> {
        let (producer, consumer) = ring(0, std::sync::Arc::default());
        for hit in hits {
            producer.record(api, hit);
        }
        drop(producer);
        let mut out = Vec::new();
        assembler.assemble(&consumer.take().unwrap(), |_, record| out.push(record));
        out
    }

    #[track_caller]
    fn check(
        conf: &str,
        keyless_key: &str,
        definition: &str,
        hit: &Hit<'_>,
        expected: &[(&str, &str)],
    ) {
        let recording = recording(
            &format!(r#"{{"enable_analytics": true{conf}}}"#),
            keyless_key,
        );
        let api = api(&recording, definition).unwrap();
        let out = records(&mut Assembler::default(), &api, &[*hit]);
        let found = fields(&out[0]);
        for (name, value) in expected {
            assert_eq!(found[*name], *value, "{name} in {found:?}");
        }
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
        let api = api(&recording(r#"{"enable_analytics": true}"#, ""), "{}").unwrap();
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
