//! Spans as OpenTelemetry's protocol has them (`opentelemetry/proto/trace/v1/trace.proto`, 1.x).
//!
//! Names of attributes are those of Tyk 5.4.0: `tyk.api.*`, and HTTP's as `otelhttp` wrote them then.

use crate::{
    analytics::Identified,
    apidef::ApiDefinition,
    config::Config,
    protobuf::{bytes, element, fixed64, int, message, text, whole},
    telemetry::tracer::{ApiTracer, Told},
};

/// Who made the spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource(Box<[u8]>);

impl Resource {
    /// `node_id` names this process, `host` its machine.
    #[must_use]
    pub fn from_config(config: &Config, node_id: &str, host: &str) -> Self {
        let segment = &config.db_app_conf_options;
        let name = match config.opentelemetry.resource_name.as_str() {
            "" => "tyk-gateway",
            name => name,
        };
        let mut out = Vec::new();
        let mut add = |key: &str, value: &[u8]| attribute(&mut out, 1, key, value);
        add("service.name", name.as_bytes());
        add("service.instance.id", node_id.as_bytes());
        add("service.version", env!("CARGO_PKG_VERSION").as_bytes());
        add("tyk.gw.id", node_id.as_bytes());
        add("host.name", host.as_bytes());
        boolean(&mut out, 1, "tyk.gw.dataplane", false);
        number(&mut out, 1, "process.pid", std::process::id().into());
        if segment.node_is_segmented {
            texts(
                &mut out,
                1,
                "tyk.gw.tags",
                segment.tags.iter().map(String::as_str),
            );
        }
        Self(out.into())
    }
}

/// Attributes that all spans of an API have, as fields of a span.
pub(super) fn api_attributes(api: &ApiDefinition) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |key: &str, value: &str| attribute(&mut out, ATTRIBUTES, key, value.as_bytes());
    add("tyk.api.name", &api.name);
    add("tyk.api.orgid", &api.org_id);
    add("tyk.api.id", &api.api_id);
    add("tyk.api.path", &api.proxy.listen_path);
    if !api.tags_disabled {
        let tags = api.tags.iter().chain(&*api.tag_headers);
        texts(
            &mut out,
            ATTRIBUTES,
            "tyk.api.tags",
            tags.map(String::as_str),
        );
    }
    out
}

/// Spans in the making: field 2 of `ScopeSpans`, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Spans {
    encoded: Vec<u8>,
    count: usize,
}

impl Spans {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// An `ExportTraceServiceRequest` with all of them.
    pub(super) fn request(&self, resource: &Resource) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded.len() + resource.0.len() + 64);
        message(&mut out, 1, |out| {
            whole(out, 1, &resource.0);
            message(out, 2, |out| {
                message(out, 1, |out| {
                    text(out, 1, b"penstock");
                    text(out, 2, env!("CARGO_PKG_VERSION").as_bytes());
                });
                out.extend_from_slice(&self.encoded);
            });
        });
        out
    }

    /// Adds the spans of one request: its own, the upstream's and those of its steps.
    pub(super) fn add(&mut self, told: &Told<'_>, api: &ApiTracer, shows_keys: bool) {
        message(&mut self.encoded, 2, |out| {
            request_span(out, told, api, shows_keys);
        });
        self.count += 1;
        if told.upstream.is_some() {
            message(&mut self.encoded, 2, |out| upstream_span(out, told));
            self.count += 1;
        }
        // Tyk differs: each of its steps is a child of the one before, although that has ended.
        for (at, step) in told.steps.iter().enumerate() {
            let id = step_id(told.span_id, at);
            message(&mut self.encoded, 2, |out| {
                head(out, told, &id, &told.span_id);
                text(out, 5, step.name);
                int(out, 6, INTERNAL);
                times(out, told, step.began_us, step.took_us);
                if step.has_failed {
                    failed(out, told.error);
                }
            });
            self.count += 1;
        }
    }
}

const ATTRIBUTES: u32 = 9;
const INTERNAL: i64 = 1;
const SERVER: i64 = 2;
const CLIENT: i64 = 3;

fn request_span(out: &mut Vec<u8>, told: &Told<'_>, api: &ApiTracer, shows_keys: bool) {
    head(out, told, &told.span_id, &told.parent_id);
    text(out, 5, &[told.method, b" ", told.path].concat());
    int(out, 6, SERVER);
    times(out, told, 0, told.took_us);
    out.extend_from_slice(api.attributes());
    let mut add = |key: &str, value: &[u8]| attribute(out, ATTRIBUTES, key, value);
    add("http.method", told.method);
    add("http.scheme", scheme(told.is_tls));
    add("http.target", told.path);
    let (host, port) = host_and_port(told.host);
    add("net.host.name", host);
    add("user_agent.original", told.user_agent);
    add("net.sock.peer.addr", told.ip.to_string().as_bytes());
    add(
        "tyk.api.version",
        match told.version {
            b"" => b"Non Versioned",
            version => version,
        },
    );
    if !told.identity.is_empty() {
        let who = Identified::read(told.identity);
        if shows_keys {
            add("tyk.api.apikey", who.key);
        }
        add("tyk.api.apikey.alias", who.alias);
        if !who.oauth_id.is_empty() {
            add("tyk.api.oauthid", who.oauth_id);
        }
    }
    if let Some(port) = port {
        number(out, ATTRIBUTES, "net.host.port", port.into());
    }
    number(out, ATTRIBUTES, "http.status_code", told.status.into());
    number(
        out,
        ATTRIBUTES,
        "http.request.body.size",
        told.request_bytes,
    );
    number(
        out,
        ATTRIBUTES,
        "http.response.body.size",
        i64::try_from(told.response_bytes).unwrap_or(i64::MAX),
    );
    // As in Tyk, a step that turns the request away marks its own span, or this one where steps
    // have none.
    let is_told = told.steps.iter().any(|step| step.has_failed);
    if told.status >= 500 || (!told.error.is_empty() && !is_told) {
        failed(out, told.error);
    }
}

/// A `Host` field taken apart; no port where there is none.
fn host_and_port(host: &[u8]) -> (&[u8], Option<u16>) {
    let port = |digits| std::str::from_utf8(digits).ok()?.parse().ok();
    match host.iter().rposition(|byte| *byte == b':') {
        // Inside brackets it is part of an address.
        Some(at) if !host.ends_with(b"]") => {
            let (name, rest) = host.split_at(at);
            (name, rest.get(1..).and_then(port))
        }
        _ => (host, None),
    }
}

fn upstream_span(out: &mut Vec<u8>, told: &Told<'_>) {
    let Some(call) = &told.upstream else {
        return;
    };
    head(out, told, &told.upstream_id, &told.span_id);
    text(out, 5, &[b"HTTP ", told.method].concat());
    int(out, 6, CLIENT);
    times(out, told, call.began_us, call.took_us);
    let url = [scheme(call.is_tls), b"://", call.authority, call.path].concat();
    attribute(out, ATTRIBUTES, "http.method", told.method);
    attribute(out, ATTRIBUTES, "http.url", &url);
    attribute(out, ATTRIBUTES, "net.peer.name", call.authority);
    if call.status > 0 {
        number(out, ATTRIBUTES, "http.status_code", call.status.into());
    }
    if call.status == 0 || call.status >= 400 {
        failed(out, if call.status == 0 { told.error } else { b"" });
    }
}

fn head(out: &mut Vec<u8>, told: &Told<'_>, id: &[u8; 8], parent: &[u8; 8]) {
    bytes(out, 1, &told.trace_id);
    bytes(out, 2, id);
    if *parent != [0; 8] {
        bytes(out, 4, parent);
    }
}

fn times(out: &mut Vec<u8>, told: &Told<'_>, began_us: u32, took_us: u32) {
    let began_at = told.began_at_ns + u64::from(began_us) * 1000;
    fixed64(out, 7, began_at);
    fixed64(out, 8, began_at + u64::from(took_us) * 1000);
}

/// `Status` with code 2, an error.
fn failed(out: &mut Vec<u8>, why: &[u8]) {
    message(out, 15, |out| {
        text(out, 2, why);
        int(out, 3, 2);
    });
}

fn scheme(is_tls: bool) -> &'static [u8] {
    if is_tls { b"https" } else { b"http" }
}

/// An id for the span of a step: a number that its request's span does not share with others.
fn step_id(span_id: [u8; 8], at: usize) -> [u8; 8] {
    let id = u64::from_be_bytes(span_id) ^ (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    id.max(1).to_be_bytes()
}

/// A `KeyValue` with a text, as the field `field`.
fn attribute(out: &mut Vec<u8>, field: u32, key: &str, value: &[u8]) {
    any(out, field, key, |out| element(out, 1, value));
}

fn boolean(out: &mut Vec<u8>, field: u32, key: &str, value: bool) {
    any(out, field, key, |out| {
        out.extend_from_slice(&[2 << 3, value.into()]);
    });
}

fn number(out: &mut Vec<u8>, field: u32, key: &str, value: i64) {
    any(out, field, key, |out| {
        out.push(3 << 3);
        crate::protobuf::varint(out, value as u64);
    });
}

fn texts<'a>(out: &mut Vec<u8>, field: u32, key: &str, values: impl Iterator<Item = &'a str>) {
    any(out, field, key, |out| {
        message(out, 5, |out| {
            for value in values {
                message(out, 1, |out| element(out, 1, value.as_bytes()));
            }
        });
    });
}

/// A `KeyValue`: what `write` appends is inside its `AnyValue`, whose `oneof` is written even when
/// it is zero.
fn any(out: &mut Vec<u8>, field: u32, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
    message(out, field, |out| {
        text(out, 1, key.as_bytes());
        message(out, 2, write);
    });
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        analytics::Identity,
        telemetry::{
            Facts, Step, UpstreamCall,
            tracer::tests::{api, config, facts, tracer},
        },
    };

    /// A message taken apart: field numbers with numbers or bytes, in order.
    pub(crate) enum Field<'a> {
        Number(u64),
        Bytes(&'a [u8]),
    }

    pub(crate) fn fields(mut rest: &[u8]) -> Vec<(u32, Field<'_>)> {
        fn varint(rest: &mut &[u8]) -> u64 {
            let mut value = 0;
            for shift in (0..).step_by(7) {
                let (byte, behind) = rest.split_first().unwrap();
                *rest = behind;
                value |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while !rest.is_empty() {
            let key = varint(&mut rest);
            let field = match key & 7 {
                0 => Field::Number(varint(&mut rest)),
                1 => {
                    let (number, behind) = rest.split_first_chunk().unwrap();
                    rest = behind;
                    Field::Number(u64::from_le_bytes(*number))
                }
                2 => {
                    let length = varint(&mut rest) as usize;
                    let (bytes, behind) = rest.split_at(length);
                    rest = behind;
                    Field::Bytes(bytes)
                }
                other => panic!("wire type {other}"),
            };
            found.push(((key >> 3) as u32, field));
        }
        found
    }

    fn inside(message: &[u8], field: u32) -> Vec<&[u8]> {
        fields(message)
            .into_iter()
            .filter_map(|(number, value)| match value {
                Field::Bytes(bytes) if number == field => Some(bytes),
                _ => None,
            })
            .collect()
    }

    fn number_of(message: &[u8], field: u32) -> u64 {
        fields(message)
            .into_iter()
            .find_map(|(number, value)| match value {
                Field::Number(value) if number == field => Some(value),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// Attributes as text, lists in brackets.
    pub(crate) fn attributes(message: &[u8], field: u32) -> BTreeMap<String, String> {
        fn any(value: &[u8]) -> String {
            match fields(value).pop().unwrap() {
                (1, Field::Bytes(text)) => String::from_utf8(text.to_vec()).unwrap(),
                (2, Field::Number(flag)) => (flag == 1).to_string(),
                (3, Field::Number(number)) => (number as i64).to_string(),
                (5, Field::Bytes(list)) => {
                    let list: Vec<_> = inside(list, 1).into_iter().map(any).collect();
                    format!("[{}]", list.join(" "))
                }
                (other, _) => panic!("kind {other}"),
            }
        }
        inside(message, field)
            .into_iter()
            .map(|pair| {
                let key = String::from_utf8(inside(pair, 1)[0].to_vec()).unwrap();
                (key, any(inside(pair, 2)[0]))
            })
            .collect()
    }

    /// The spans of a request to a collector, and its resource.
    pub(crate) fn request(message: &[u8]) -> (Vec<&[u8]>, &[u8]) {
        let resource_spans = inside(message, 1);
        assert_eq!(resource_spans.len(), 1);
        let scope_spans = inside(resource_spans[0], 2);
        assert_eq!(inside(inside(scope_spans[0], 1)[0], 1), [b"penstock"]);
        (inside(scope_spans[0], 2), inside(resource_spans[0], 1)[0])
    }

    fn spans_of(facts: &Facts<'_>, definition: &str, shows_keys: bool) -> Vec<u8> {
        let (tracer, taken) = tracer("", 0, std::sync::Arc::default());
        let trace = tracer.begin(1_795_377_342_000_000_000, None);
        tracer.end(&api(definition), &trace, facts);
        drop(tracer);
        let block = taken.take().unwrap();
        let mut spans = Spans::default();
        let mut rest = block.bytes();
        let told = Told::read(&mut rest).unwrap();
        spans.add(&told, block.party(0).unwrap(), shows_keys);
        let resource = Resource::from_config(&config(""), "node", "host");
        spans.request(&resource)
    }

    const DEFINITION: &str = r#"{"api_id": "a1", "name": "one", "org_id": "o", "tags": ["x", "y"],
        "proxy": {"listen_path": "/x/"}}"#;

    #[test]
    fn a_request_is_a_server_span_with_the_attributes_of_tyk() {
        let identity = Identity::new("hash", "bob", "client", ["t"]);
        let facts = Facts {
            version: b"v1",
            identity: Some(&identity),
            request_bytes: -1,
            is_tls: true,
            ..facts()
        };
        let message = spans_of(&facts, DEFINITION, true);
        let (spans, resource) = request(&message);
        let [span] = spans[..] else {
            panic!("one span");
        };
        assert_eq!(inside(span, 5), [b"GET /x/1"]);
        assert_eq!(number_of(span, 6), SERVER as u64);
        assert_eq!(number_of(span, 7), 1_795_377_342_000_000_000);
        assert_eq!(number_of(span, 8), 1_795_377_342_001_500_000);
        assert_eq!(
            (inside(span, 1)[0].len(), inside(span, 2)[0].len()),
            (16, 8)
        );
        assert!(inside(span, 4).is_empty() && inside(span, 15).is_empty());
        let found = attributes(span, 9);
        for (key, value) in [
            ("tyk.api.name", "one"),
            ("tyk.api.id", "a1"),
            ("tyk.api.orgid", "o"),
            ("tyk.api.path", "/x/"),
            ("tyk.api.tags", "[x y]"),
            ("tyk.api.version", "v1"),
            ("tyk.api.apikey", "hash"),
            ("tyk.api.apikey.alias", "bob"),
            ("tyk.api.oauthid", "client"),
            ("http.method", "GET"),
            ("http.scheme", "https"),
            ("http.status_code", "200"),
            ("http.request.body.size", "-1"),
            ("http.response.body.size", "12"),
            ("net.sock.peer.addr", "127.0.0.1"),
        ] {
            assert_eq!(found[key], value, "{key}");
        }
        let found = attributes(resource, 1);
        assert_eq!(found["service.name"], "tyk-gateway");
        assert_eq!(found["service.instance.id"], "node");
        assert_eq!(found["tyk.gw.dataplane"], "false");
    }

    #[test]
    fn a_key_shows_only_as_its_hash() {
        let identity = Identity::new("clear", "", "", [""; 0]);
        let facts = Facts {
            identity: Some(&identity),
            ..facts()
        };
        let message = spans_of(&facts, "{}", false);
        let found = attributes(request(&message).0[0], 9);
        assert!(!found.contains_key("tyk.api.apikey"));
        assert_eq!(found["tyk.api.version"], "Non Versioned");
    }

    #[test]
    fn upstream_and_steps_are_spans_below_the_request() {
        let step = |name, began_us| Step {
            name,
            began_us,
            took_us: 5,
            has_failed: false,
        };
        let call = UpstreamCall {
            began_us: 100,
            took_us: 900,
            status: 404,
            authority: b"up:80",
            path: b"/base/1",
            is_tls: false,
        };
        let steps = [step("VersionCheck", 1), step("AuthKey", 7)];
        let facts = Facts {
            upstream: Some(call),
            steps: &steps,
            status: 404,
            ..facts()
        };
        let message = spans_of(&facts, DEFINITION, true);
        let (spans, _) = request(&message);
        let [server, client, one, two] = spans[..] else {
            panic!("four spans");
        };
        let names: Vec<_> = spans.iter().map(|span| inside(span, 5)[0]).collect();
        assert_eq!(
            names,
            [&b"GET /x/1"[..], b"HTTP GET", b"VersionCheck", b"AuthKey"]
        );
        for span in [client, one, two] {
            assert_eq!(inside(span, 4), inside(server, 2));
            assert_eq!(inside(span, 1), inside(server, 1));
        }
        let ids: std::collections::BTreeSet<_> = spans.iter().map(|s| inside(s, 2)[0]).collect();
        assert_eq!(ids.len(), 4);
        assert_eq!(attributes(client, 9)["http.url"], "http://up:80/base/1");
        assert_eq!(number_of(client, 7), 1_795_377_342_000_100_000);
        assert_eq!(number_of(inside(client, 15)[0], 3), 2);
        assert!(
            inside(server, 15).is_empty(),
            "404 is no error of the gateway"
        );
        assert_eq!(
            (number_of(one, 6), number_of(client, 6)),
            (INTERNAL as u64, CLIENT as u64)
        );
    }

    #[test]
    fn a_refusal_marks_the_step_that_refused_or_else_the_request() {
        let step = |name, has_failed| Step {
            name,
            began_us: 1,
            took_us: 1,
            has_failed,
        };
        let refused = Facts {
            status: 403,
            error: "no",
            ..facts()
        };
        let message = spans_of(&refused, DEFINITION, true);
        let (spans, _) = request(&message);
        assert_eq!(inside(inside(spans[0], 15)[0], 2), [b"no"]);
        let steps = [step("VersionCheck", false), step("AuthKey", true)];
        let refused = Facts {
            steps: &steps,
            ..refused
        };
        let message = spans_of(&refused, DEFINITION, true);
        let (spans, _) = request(&message);
        assert!(inside(spans[0], 15).is_empty() && inside(spans[1], 15).is_empty());
        assert_eq!(inside(inside(spans[2], 15)[0], 2), [b"no"]);
    }

    #[test]
    fn a_host_is_told_apart_from_its_port() {
        #[track_caller]
        fn check(host: &str, name: &str, port: Option<u16>) {
            assert_eq!(host_and_port(host.as_bytes()), (name.as_bytes(), port));
        }
        check("gw:8080", "gw", Some(8080));
        check("gw", "gw", None);
        check("[::1]:80", "[::1]", Some(80));
        check("[::1]", "[::1]", None);
        check("gw:x", "gw", None);
        check("", "", None);
    }

    #[test]
    fn what_failed_here_says_why() {
        let call = UpstreamCall {
            began_us: 1,
            took_us: 2,
            status: 0,
            authority: b"up:80",
            path: b"/",
            is_tls: true,
        };
        let facts = Facts {
            status: 500,
            error: "refused",
            upstream: Some(call),
            ..facts()
        };
        let message = spans_of(&facts, "{}", true);
        let (spans, _) = request(&message);
        for span in &spans {
            assert_eq!(inside(inside(span, 15)[0], 2), [b"refused"]);
        }
        assert!(!attributes(spans[1], 9).contains_key("http.status_code"));
    }
}
