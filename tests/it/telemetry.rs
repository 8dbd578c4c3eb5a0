//! What others are told of the traffic: spans, StatsD, log lines, the figures of `/tyk/health`.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::{TcpListener, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};

use crate::harness::{
    Collector, Gateway, Origin, PATIENCE, Response, Setup, Span, api, eventually, free_port,
    keyed_api,
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn ok() -> Origin {
    Origin::answering(|_| Response::new(200, "hello").to_bytes())
}

fn otel(collector: &Collector, more: Value) -> Value {
    let mut all = json!({
        "enabled": true,
        "endpoint": collector.address(),
        "headers": {"x-token": "t"},
    });
    crate::harness::merge(&mut all, more);
    json!({"opentelemetry": all})
}

/// A `GET` with these field lines.
fn get(gateway: &Gateway, path: &str, fields: &str) -> Response {
    let mut client = gateway.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: gw.example:80\r\n{fields}\r\n").as_bytes());
    client.read("GET")
}

/// Waits until a span has come for which this holds.
#[track_caller]
fn span(collector: &Collector, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
    eventually(what, || collector.spans().into_iter().find(&is_it))
}

const SERVER: u64 = 2;
const CLIENT: u64 = 3;

#[test]
fn a_request_is_a_span_above_those_of_its_steps_and_its_upstream() {
    let (collector, origin) = (Collector::grpc(), ok());
    let gateway = Setup::new()
        .conf(otel(&collector, json!({})))
        .conf(json!({
            "hash_keys": true,
            "db_app_conf_options": {"node_is_segmented": true, "tags": ["edge"]},
        }))
        .api(keyed_api("w", &format!("{}/base", origin.url())))
        .with(json!({"detailed_tracing": true, "tags": ["a", "b"]}))
        .start();
    gateway.make_key("bobs-key", json!({"alias": "Bob"}));
    let fields = format!(
        "Authorization: bobs-key\r\ntraceparent: 00-{TRACE}-{SPAN}-01\r\nTracestate: x=y\r\n\
         User-Agent: probe\r\n"
    );
    let answer = get(&gateway, "/w/a%20b?secret=1", &fields);
    assert_eq!(answer.status, 200, "{}", answer.summary());
    assert_eq!(answer.field("x-tyk-trace-id"), Some(TRACE));

    let server = span(&collector, "the request's span", |span| span.kind == SERVER);
    assert_eq!(server.name, "GET /w/a%20b");
    assert_eq!(
        (server.trace_id.as_str(), server.parent_id.as_str()),
        (TRACE, SPAN)
    );
    assert_eq!((server.token.as_str(), &server.error), ("t", &None));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    for (key, value) in [
        ("service.name", "tyk-gateway"),
        ("tyk.gw.dataplane", "false"),
        ("tyk.gw.tags", "[edge]"),
        ("host.name", host.trim()),
    ] {
        assert_eq!(server.resource[key], value, "{key}");
    }
    assert!(server.resource["tyk.gw.id"].starts_with("solo-"));
    for (key, value) in [
        ("tyk.api.name", "w"),
        ("tyk.api.id", "w"),
        ("tyk.api.orgid", "org1"),
        ("tyk.api.path", "/w/"),
        ("tyk.api.tags", "[a b]"),
        ("tyk.api.version", "Non Versioned"),
        ("tyk.api.apikey.alias", "Bob"),
        ("http.method", "GET"),
        ("http.status_code", "200"),
        ("http.request.body.size", "0"),
        ("http.response.body.size", "5"),
        ("net.host.name", "gw.example"),
        ("user_agent.original", "probe"),
    ] {
        assert_eq!(server.attributes[key], value, "{key}");
    }
    let key = &server.attributes["tyk.api.apikey"];
    assert!(!key.is_empty() && key != "bobs-key", "{key}");
    assert!(!format!("{server:?}").contains("secret"));

    let client = span(&collector, "the upstream's span", |span| {
        span.kind == CLIENT
    });
    let url = format!("{}/base/a%20b", origin.url());
    assert_eq!(client.attributes["http.url"], url);
    assert_eq!(client.attributes["http.status_code"], "200");
    let seen = origin.requests();
    assert_eq!(
        seen[0].field("traceparent"),
        Some(format!("00-{TRACE}-{}-01", client.span_id).as_str())
    );
    assert_eq!(seen[0].field("tracestate"), Some("x=y"));
    let traceparents = seen[0].fields.iter();
    let traceparents = traceparents.filter(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
    assert_eq!(traceparents.count(), 1);

    let spans = collector.spans();
    for (at, child) in spans.iter().filter(|s| s.kind != SERVER).enumerate() {
        assert_eq!(child.trace_id, TRACE, "{at}");
        assert_eq!(child.parent_id, server.span_id, "{}", child.name);
        assert!(child.began_ns >= server.began_ns && child.ended_ns <= server.ended_ns);
    }
    let steps: Vec<_> = spans
        .iter()
        .filter(|s| s.kind == 1)
        .map(|s| &*s.name)
        .collect();
    assert!(
        steps.starts_with(&["AuthKey"]) && steps.ends_with(&["RateLimitAndQuotaCheck"]),
        "{steps:?}"
    );
}

#[test]
fn spans_go_by_http_and_traces_by_b3_where_that_is_asked_for() {
    let (collector, origin) = (Collector::http(), ok());
    let gateway = Setup::in_front_of(origin.port())
        .conf(otel(
            &collector,
            json!({
                "exporter": "http", "context_propagation": "b3", "resource_name": "edge",
                "span_processor_type": "simple",
            }),
        ))
        .start();
    let fields = format!(
        "B3: {TRACE}-{SPAN}-1\r\nX-B3-ParentSpanId: {SPAN}\r\ntraceparent: 00-{TRACE}-{SPAN}-00\r\n"
    );
    assert_eq!(get(&gateway, "/w/x", &fields).status, 200);
    let server = span(&collector, "the request's span", |span| span.kind == SERVER);
    assert_eq!(
        (server.trace_id.as_str(), server.parent_id.as_str()),
        (TRACE, SPAN)
    );
    assert_eq!(server.resource["service.name"], "edge");
    assert_eq!(server.token, "t");
    let client = span(&collector, "the upstream's span", |span| {
        span.kind == CLIENT
    });
    let seen = &origin.requests()[0];
    assert_eq!(seen.field("x-b3-traceid"), Some(TRACE));
    assert_eq!(seen.field("x-b3-spanid"), Some(client.span_id.as_str()));
    assert_eq!(seen.field("x-b3-sampled"), Some("1"));
    assert_eq!(seen.field("b3"), None);
    assert_eq!(seen.field("x-b3-parentspanid"), None);
    // Not the form that is in use here.
    assert!(seen.field("traceparent").is_some());
    assert!(
        collector.spans().iter().all(|span| span.kind != 1),
        "steps are spans only with detailed_tracing"
    );
}

#[test]
fn what_is_not_sampled_is_told_on_and_not_exported() {
    let (collector, origin) = (Collector::grpc(), ok());
    let sampling = json!({"sampling": {"type": "AlwaysOff", "parent_based": true}});
    let gateway = Setup::in_front_of(origin.port())
        .conf(otel(&collector, sampling))
        .start();
    let answer = get(&gateway, "/w/off", "");
    let own = answer.field("x-tyk-trace-id").expect("told").to_owned();
    assert!(own.len() == 32 && own != TRACE);
    for flags in ["00", "01"] {
        let fields = format!("traceparent: 00-{TRACE}-{SPAN}-{flags}\r\n");
        assert_eq!(get(&gateway, &format!("/w/{flags}"), &fields).status, 200);
    }
    // The one whose caller samples comes last: nothing is left behind it.
    span(&collector, "the sampled request", |span| {
        span.trace_id == TRACE && span.kind == SERVER
    });
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id == TRACE));
    assert_eq!(spans.iter().filter(|span| span.kind == SERVER).count(), 1);
    let told: BTreeMap<_, _> = origin
        .requests()
        .into_iter()
        .map(|req| {
            let told = req.field("traceparent").expect("told on").to_owned();
            (req.target, told)
        })
        .collect();
    for (path, trace, flags) in [
        ("/off", own.as_str(), "00"),
        ("/00", TRACE, "00"),
        ("/01", TRACE, "01"),
    ] {
        let told = &told[path];
        assert!(told.starts_with(&format!("00-{trace}-")), "{told}");
        assert!(
            told.ends_with(&format!("-{flags}")) && !told.contains(SPAN),
            "{told}"
        );
    }
    assert_eq!(gateway.metric("penstock_traces_total"), Some(1.0));
}

#[test]
fn refusals_and_failures_say_why() {
    let collector = Collector::grpc();
    let closed = free_port();
    let gateway = Setup::new()
        .conf(otel(&collector, json!({})))
        .api(keyed_api("k", &format!("http://127.0.0.1:{closed}")))
        .api(keyed_api("d", &format!("http://127.0.0.1:{closed}")))
        .with(json!({"detailed_tracing": true}))
        .api(api("w", &format!("http://127.0.0.1:{closed}")))
        .start();
    for (path, status) in [("/k/x", 401), ("/d/x", 401), ("/w/x", 500)] {
        let answer = get(&gateway, path, "");
        assert_eq!(answer.status, status, "{}", answer.summary());
        assert!(answer.field("x-tyk-trace-id").is_some());
    }
    let of = |path: &str| {
        let name = format!("GET {path}");
        span(&collector, &name, |span| span.name == name)
    };
    let missing = Some("Authorization field missing".to_owned());
    assert_eq!(of("/k/x").error, missing);
    let detailed = of("/d/x");
    assert_eq!(detailed.error, None);
    let step = span(&collector, "the step that refused", |span| {
        span.name == "AuthKey" && span.parent_id == detailed.span_id
    });
    assert_eq!(step.error, missing);
    let failed = of("/w/x");
    let why = Some("There was a problem proxying the request".to_owned());
    assert_eq!(
        (&failed.error, &*failed.attributes["http.status_code"]),
        (&why, "500")
    );
    let client = span(&collector, "the upstream's span", |span| {
        span.kind == CLIENT
    });
    assert_eq!((client.parent_id, client.error), (failed.span_id, why));
    let clients = collector.spans().into_iter().filter(|s| s.kind == CLIENT);
    assert_eq!(clients.count(), 1, "who is refused reaches no upstream");
}

#[test]
fn a_collector_that_is_away_costs_no_request() {
    let origin = ok();
    let mut gateway = Setup::in_front_of(origin.port())
        .conf(json!({
            "opentelemetry": {"enabled": true, "endpoint": format!("127.0.0.1:{}", free_port())},
            "graceful_shutdown_timeout_duration": 5,
        }))
        .start();
    for _ in 0..50 {
        assert_eq!(gateway.get("/w/x").status, 200);
    }
    assert_eq!(gateway.metric("penstock_traces_total"), Some(50.0));
    eventually("failures are counted", || {
        let failures = gateway.metric("penstock_trace_export_failures_total")?;
        (failures >= 1.0).then_some(())
    });
    assert_eq!(gateway.get("/w/x").status, 200);
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
    assert!(gateway.log().contains("the collector takes no spans"));
}

#[test]
fn no_span_is_lost_by_upgrade_and_end() {
    let (collector, origin) = (Collector::grpc(), ok());
    let mut gateway = Setup::in_front_of(origin.port())
        .conf(otel(&collector, json!({})))
        .start();
    for _ in 0..20 {
        assert_eq!(gateway.get("/w/first").status, 200);
    }
    let old = gateway.pid();
    gateway.signal("USR2");
    gateway.successor_of(old);
    for _ in 0..20 {
        assert_eq!(gateway.get("/w/second").status, 200);
    }
    let last = gateway.pid();
    gateway.signal("TERM");
    eventually("it ends", || gateway.is_gone(last).then_some(()));
    eventually("the old one has ended", || {
        gateway.is_gone(old).then_some(())
    });
    let spans = collector.spans();
    for name in ["GET /w/first", "GET /w/second"] {
        let count = spans.iter().filter(|span| span.name == name).count();
        assert_eq!(count, 20, "{name}");
    }
    let nodes: std::collections::BTreeSet<_> = spans
        .iter()
        .map(|span| &span.resource["tyk.gw.id"])
        .collect();
    assert_eq!(nodes.len(), 2);
}

#[test]
fn without_opentelemetry_nothing_is_added_or_taken() {
    let origin = ok();
    for otel in [
        json!({"enabled": false, "exporter": "smoke"}),
        json!({"enabled": true, "exporter": "smoke"}),
    ] {
        let is_on = otel["enabled"] == true;
        let gateway = Setup::in_front_of(origin.port())
            .conf(json!({"opentelemetry": otel}))
            .start();
        let own = format!("00-{TRACE}-{SPAN}-01");
        let answer = get(&gateway, "/w/x", &format!("traceparent: {own}\r\n"));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("x-tyk-trace-id"), None);
        let seen = origin.requests();
        let seen = seen.last().expect("it came through");
        assert_eq!(seen.field("traceparent"), Some(own.as_str()));
        let log = gateway.log();
        assert_eq!(log.contains("opentelemetry.exporter"), is_on, "{log}");
    }
}

/// Datagrams, one text.
struct Sink {
    address: String,
    heard: Arc<Mutex<String>>,
}

impl Sink {
    fn udp() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("it is bound").to_string();
        let heard = Arc::new(Mutex::new(String::new()));
        let ears = Arc::clone(&heard);
        thread::spawn(move || {
            let mut buf = [0; 65_536];
            while let Ok(length) = socket.recv(&mut buf) {
                let text = String::from_utf8_lossy(&buf[..length]);
                ears.lock().expect("no holder panics").push_str(&text);
            }
        });
        Self { address, heard }
    }

    /// Lines over one connection after the other.
    fn tcp() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let heard = Arc::new(Mutex::new(String::new()));
        let ears = Arc::clone(&heard);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let mut heard = ears.lock().expect("no holder panics");
                    heard.push_str(&line);
                    heard.push('\n');
                }
            }
        });
        Self { address, heard }
    }

    fn heard(&self) -> String {
        self.heard.lock().expect("no holder panics").clone()
    }
}

#[test]
fn statsd_is_told_of_steps_and_calls() {
    let (sink, origin) = (Sink::udp(), ok());
    let mut gateway = Setup::new()
        .conf(json!({"statsd_connection_string": sink.address, "statsd_prefix": "gw"}))
        .env("TYK_INSTRUMENTATION", "1")
        .api(keyed_api("w", &origin.url()))
        .start();
    gateway.make_key("some-key", json!({}));
    for _ in 0..12 {
        assert_eq!(gateway.keyed("/w/x", "some-key").status, 200);
    }
    assert_eq!(gateway.get("/w/x").status, 401);
    assert_eq!(gateway.admin("GET", "/tyk/apis/none", "").status, 404);
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
    let count_of = |key: &str| -> u64 {
        let heard = sink.heard();
        let values = heard.lines().filter_map(|line| {
            let value = line.strip_prefix(key)?.strip_prefix(':')?;
            value.strip_suffix("|c")?.parse::<u64>().ok()
        });
        values.sum()
    };
    for (key, count) in [
        ("gw.AuthKey.executed", 13),
        ("gw.MiddlewareCall.AuthKey.executed", 13),
        ("gw.RateLimitAndQuotaCheck.executed", 12),
        ("gw.SystemAPICall.called", 2),
        ("gw.404", 1),
        ("gw.SystemAPIError.404", 1),
    ] {
        let found = crate::harness::within(PATIENCE, || (count_of(key) == count).then_some(()));
        assert!(
            found.is_some(),
            "{key}: {} in {}",
            count_of(key),
            sink.heard()
        );
    }
    let heard = sink.heard();
    for key in [
        "gw.MiddlewareCall.AuthKey.executed.exec_time:",
        "gw.exec_time:",
        "gw.SystemAPICall.success:",
    ] {
        assert!(heard.contains(key), "{key} in {heard}");
    }
}

#[test]
fn statsd_is_silent_unless_it_is_asked_for() {
    let (sink, origin) = (Sink::udp(), ok());
    let mut gateway = Setup::in_front_of(origin.port())
        .conf(json!({"statsd_connection_string": sink.address}))
        .start();
    assert_eq!(gateway.get("/w/x").status, 200);
    assert!(gateway.log().contains("TYK_INSTRUMENTATION=1"));
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
    assert_eq!(sink.heard(), "");
}

#[test]
fn log_lines_go_to_syslog_and_logstash_to_the_last_one() {
    let (syslog, logstash, origin) = (Sink::udp(), Sink::tcp(), ok());
    let mut gateway = Setup::in_front_of(origin.port())
        .conf(json!({
            "use_syslog": true, "syslog_transport": "udp", "syslog_network_addr": syslog.address,
            "use_logstash": true, "logstash_transport": "tcp",
            "logstash_network_addr": logstash.address,
        }))
        .env("TYK_LOGFORMAT", "text")
        .start();
    let pid = gateway.pid();
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
    eventually("the last line", || {
        syslog.heard().contains("Terminating.").then_some(())
    });
    let heard = syslog.heard();
    let line = heard.lines().find(|line| line.contains("listening on"));
    let line = line.expect("what is logged at start goes there too");
    assert!(
        line.starts_with("<6>20") && line.contains(&format!(" penstock[{pid}]: ")),
        "{line}"
    );
    eventually("the last line", || {
        logstash.heard().contains("Terminating.").then_some(())
    });
    let lines: Vec<Value> = logstash
        .heard()
        .lines()
        .map(|line| serde_json::from_str(line).expect("one object per line"))
        .collect();
    let texts: BTreeMap<_, _> = lines
        .iter()
        .map(|line| {
            (
                line["message"].as_str().unwrap_or_default(),
                &line["@version"],
            )
        })
        .collect();
    assert_eq!(texts["Terminating."], "1");
}

#[test]
fn a_syslog_server_that_is_away_holds_up_nothing() {
    let origin = ok();
    let mut gateway = Setup::in_front_of(origin.port())
        .conf(json!({
            "use_syslog": true, "syslog_transport": "tcp",
            "syslog_network_addr": format!("127.0.0.1:{}", free_port()),
            "use_logstash": true, "logstash_transport": "smoke",
            "penstock": {"access_log": "json"},
        }))
        .start();
    for _ in 0..20 {
        assert_eq!(gateway.get("/w/x").status, 200);
    }
    eventually("lost lines are counted", || {
        let lost = gateway.metric("penstock_log_lines_lost_total")?;
        (lost >= 20.0).then_some(())
    });
    assert!(gateway.log().contains("logstash_transport"));
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
}

#[test]
fn health_of_an_api_is_what_happened_to_it_lately() {
    let origin = ok();
    let gateway = Setup::new()
        .conf(json!({
            "health_check": {"enable_health_checks": true, "health_check_value_timeouts": 1000},
        }))
        .api(keyed_api("w", &origin.url()))
        .start();
    gateway.make_key("rated", json!({"rate": 1, "per": 1000}));
    gateway.make_key(
        "counted",
        json!({"quota_max": 2, "quota_renewal_rate": 3600}),
    );
    let ask = |key: &str, count: usize, statuses: [u16; 2]| {
        for at in 0..count {
            let status = gateway.keyed("/w/x", key).status;
            assert!(statuses.contains(&status), "{key}, {at}: {status}");
        }
    };
    ask("rated", 41, [200, 429]);
    ask("counted", 32, [200, 403]);
    ask("unknown", 20, [403, 403]);
    let answered = origin.requests().len() as f64;
    assert_eq!(answered, 3.0);
    // A request is counted when its answer has been written, just behind the client's reading it.
    let health = eventually("all are counted", || {
        let health = gateway.admin("GET", "/tyk/health?api_id=w", "").json();
        (health["key_failures_per_second"] == 0.02).then_some(health)
    });
    assert_eq!(health["throttle_reqests_per_second"], 0.04);
    assert_eq!(health["quota_violations_per_second"], 0.03);
    assert_eq!(health["average_requests_per_second"], 0);
    assert!(
        health["average_upstream_latency"]
            .as_f64()
            .is_some_and(|ms| ms > 0.0)
    );
    let series = gateway.series("penstock_api_refusals_total");
    let of = |reason: &str| series[&format!(r#"api_id="w",reason="{reason}""#)];
    assert_eq!((of("rate"), of("quota"), of("key")), (40.0, 30.0, 20.0));
}
