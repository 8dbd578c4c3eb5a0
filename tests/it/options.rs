//! Settings that no recorded suite turns, each in use and seen from outside.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};

use crate::harness::{
    Client, Ended, Gate, Gateway, Origin, PATIENCE, Response, Setup, api, eventually, free_port,
};

fn echo() -> Origin {
    Origin::answering(|req| Response::new(200, &req.target).to_bytes())
}

/// Asks with these fields beside `Host`.
fn ask(gateway: &Gateway, target: &str, fields: &str) -> Response {
    let mut client = gateway.client();
    let host = if fields.contains("Host:") {
        ""
    } else {
        "Host: a\r\n"
    };
    client.send(format!("GET {target} HTTP/1.1\r\n{host}{fields}\r\n").as_bytes());
    client.read("GET")
}

fn post(gateway: &Gateway, target: &str, content: &str) -> Response {
    let mut client = gateway.client();
    let length = content.len();
    client.send(
        format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{content}")
            .as_bytes(),
    );
    client.read("POST")
}

#[test]
fn hostname_leaves_other_hosts_without_apis() {
    let origin = echo();
    let gateway = Setup::in_front_of(origin.port())
        .conf(json!({"hostname": "gw.test"}))
        .start();
    assert_eq!(ask(&gateway, "/w/x", "Host: gw.test\r\n").status, 200);
    assert_eq!(ask(&gateway, "/w/x", "Host: other.test\r\n").status, 404);
}

#[test]
fn without_custom_domains_a_domain_is_no_condition() {
    for (on, status) in [(true, 404), (false, 200)] {
        let origin = echo();
        let gateway = Setup::in_front_of(origin.port())
            .with(json!({"domain": "api.test"}))
            .conf(json!({"enable_custom_domains": on}))
            .start();
        assert_eq!(gateway.get("/w/x").status, status, "{on}");
        assert_eq!(ask(&gateway, "/w/x", "Host: api.test\r\n").status, 200);
    }
}

#[test]
fn a_control_port_takes_the_control_api_away_from_the_traffic() {
    let (origin, control) = (echo(), free_port());
    let gateway = Setup::in_front_of(origin.port())
        .conf(json!({"control_api_port": control}))
        .spawn();
    let secret = "black-box-secret";
    let list =
        format!("GET /tyk/apis HTTP/1.1\r\nHost: a\r\nX-Tyk-Authorization: {secret}\r\n\r\n");
    let status = |port| {
        let mut client = Client::try_connect(port).ok()?;
        client.send(list.as_bytes());
        Some(client.read("GET").status)
    };
    eventually("the control port answers", || {
        (status(control) == Some(200)).then_some(())
    });
    assert_eq!(status(gateway.port()), Some(404));
    assert_eq!(gateway.get("/w/x").status, 200);
    assert_eq!(Client::connect(control).get("/w/x").status, 404);
}

/// Whether a client that claims to be 10.1.2.3 is let in by a list of 10.1.0.0/16.
#[track_caller]
fn claims(conf: Value, is_believed: bool) {
    let origin = echo();
    let allow = json!({"enable_ip_whitelisting": true, "allowed_ips": ["10.1.0.0/16"]});
    let block = json!({"enable_ip_blacklisting": true, "blacklisted_ips": ["10.1.2.3"]});
    let gateway = Setup::in_front_of(origin.port())
        .with(allow)
        .api(api("b", &origin.url()))
        .with(block)
        .conf(conf.clone())
        .start();
    for field in [
        "X-Real-IP: 10.1.2.3\r\n",
        "X-Forwarded-For: 10.1.2.3, 8.8.8.8\r\n",
    ] {
        let status = |path| ask(&gateway, path, field).status;
        let expected = if is_believed { (200, 403) } else { (403, 200) };
        assert_eq!((status("/w/x"), status("/b/x")), expected, "{conf} {field}");
    }
    assert_eq!(gateway.get("/w/x").status, 403);
}

#[test]
fn a_claimed_address_counts_from_trusted_proxies_only() {
    claims(json!({}), true);
    claims(json!({"penstock": {"compat": "strict"}}), false);
    claims(
        json!({"penstock": {"trusted_proxies": ["192.0.2.0/24"]}}),
        false,
    );
    claims(
        json!({"penstock": {"compat": "strict", "trusted_proxies": ["127.0.0.1"]}}),
        true,
    );
}

#[test]
fn two_apis_on_one_path_are_renamed_or_in_strict_refused() {
    for (compat, renamed) in [("tyk-5.4", 200), ("strict", 404)] {
        let origin = echo();
        let shared = json!({"proxy": {"listen_path": "/shared/"}});
        let gateway = Setup::in_front_of(origin.port())
            .with(shared.clone())
            .api(api("v", &origin.url()))
            .with(shared)
            .conf(json!({"penstock": {"compat": compat}}))
            .start();
        assert_eq!(gateway.get("/shared/x").status, 404, "{compat}");
        assert_eq!(gateway.get("/shared/-v/x").status, renamed, "{compat}");
    }
}

#[test]
fn the_access_log_has_one_line_per_request() {
    for (form, line) in [
        ("json", "\"path\":\"/w/seen\""),
        ("combined", "\\\"GET /w/seen HTTP/1.1\\\" 200"),
        ("", ""),
    ] {
        let origin = echo();
        let gateway = Setup::in_front_of(origin.port())
            .conf(json!({"penstock": {"access_log": form}}))
            .env("TYK_LOGFORMAT", "json")
            .start();
        assert_eq!(gateway.get("/w/seen").status, 200);
        let count = || gateway.log().matches("/w/seen").count();
        if line.is_empty() {
            assert_eq!(count(), 0);
        } else {
            eventually("the line", || gateway.log().contains(line).then_some(()));
            assert_eq!(count(), 1, "{form}");
        }
    }
}

#[test]
fn messages_are_overridden_by_their_id() {
    let gateway = Setup::in_front_of(free_port())
        .with(json!({"use_keyless": false, "use_standard_auth": true}))
        .conf(json!({"override_messages": {
            "auth.auth_field_missing": {"code": 499, "message": "who is there?"}
        }}))
        .start();
    let answer = gateway.get("/w/x");
    assert_eq!(answer.status, 499);
    assert_eq!(answer.json(), json!({"error": "who is there?"}));
}

/// 401: no token was found; 403: one was, and nobody knows it.
#[track_caller]
fn token(auth: Value, fields: &str, query: &str, expected: u16) {
    let gateway = Setup::in_front_of(free_port())
        .with(json!({"use_keyless": false, "auth_configs": {"authToken": auth.clone()}}))
        .start();
    let answer = ask(&gateway, &format!("/w/x{query}"), fields);
    assert_eq!(answer.status, expected, "{auth} {fields}{query}");
}

#[test]
fn a_token_is_read_where_auth_configs_says() {
    token(json!({}), "Authorization: abcdef\r\n", "", 403);
    token(
        json!({"auth_header_name": "X-Key"}),
        "Authorization: abcdef\r\n",
        "",
        401,
    );
    token(
        json!({"auth_header_name": "X-Key"}),
        "X-Key: abcdef\r\n",
        "",
        403,
    );
    let other = json!({
        "disable_header": true, "use_param": true, "param_name": "k", "use_cookie": true,
        "cookie_name": "c"
    });
    token(other.clone(), "Authorization: abcdef\r\n", "", 401);
    token(other.clone(), "", "?k=abcdef", 403);
    token(other, "Cookie: c=abcdef\r\n", "", 403);
}

#[test]
fn a_body_that_a_step_reads_has_a_limit_and_goes_on_whole() {
    let origin =
        Origin::answering(|req| Response::new(200, &String::from_utf8_lossy(&req.body)).to_bytes());
    // {"type": "string"}
    let schema = "eyJ0eXBlIjogInN0cmluZyJ9";
    let paths = json!([
        {"path": "/checked", "method": "POST", "schema_b64": schema},
        {"path": "/own", "method": "POST", "schema": {"type": "string"},
            "error_response_code": 499},
        {"path": "/off", "method": "POST", "schema_b64": schema, "disabled": true},
    ]);
    let version = json!({"name": "Default", "use_extended_paths": true,
        "extended_paths": {"validate_json": paths}});
    let gateway = Setup::in_front_of(origin.port())
        .with(json!({"version_data": {"not_versioned": true, "versions": {"Default": version}}}))
        .conf(json!({"ignore_endpoint_case": true}))
        .limits(json!({"step_body_bytes": 100}))
        .start();
    for (size, status) in [(99, 200), (100, 200), (101, 413)] {
        let content = format!("\"{}\"", "a".repeat(size - 2));
        let answer = post(&gateway, "/w/CHECKED", &content);
        assert_eq!(answer.status, status, "{size}");
        assert_eq!(answer.text() == content, status == 200, "{size}");
    }
    let mut chunked = gateway.client();
    chunked.send(
        b"POST /w/checked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
          3\r\n\"ab\r\n2\r\nc\"\r\n0\r\n\r\n",
    );
    assert_eq!(chunked.read("POST").text(), "\"abc\"");
    assert_eq!(post(&gateway, "/w/checked", "1").status, 422);
    assert_eq!(post(&gateway, "/w/own", "1").status, 499);
    assert_eq!(post(&gateway, "/w/off", "1").status, 200);
}

#[test]
fn a_hard_timeout_holds_on_its_endpoint() {
    let go = Gate::default();
    let door = go.clone();
    let origin = Origin::answering(move |req| {
        if req.method == "GET" {
            door.wait();
        }
        Response::new(200, "late").to_bytes()
    });
    let paths = json!([
        {"path": "/slow", "method": "GET", "timeout": 1},
        {"path": "/other", "method": "GET", "timeout": 1, "disabled": true},
    ]);
    let version = json!({"name": "Default", "use_extended_paths": true,
        "extended_paths": {"hard_timeouts": paths}});
    let gateway = Setup::in_front_of(origin.port())
        .with(json!({"version_data": {"not_versioned": true, "versions": {"Default": version}}}))
        .start();
    let mut other = gateway.client();
    other.send(b"GET /w/other HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = gateway.get("/w/slow");
    assert_eq!(answer.status, 504);
    assert_eq!(
        answer.json(),
        json!({"error": "Upstream service reached hard timeout."})
    );
    go.open();
    assert_eq!(other.read("GET").status, 200);
    assert_eq!(post(&gateway, "/w/slow", "").status, 200);
}

#[test]
fn an_idle_upstream_connection_is_closed() {
    let origin = echo();
    let gateway = Setup::in_front_of(origin.port())
        .limits(json!({"upstream_idle_s": 1}))
        .start();
    assert_eq!(gateway.get("/w/x").status, 200);
    eventually("the gateway closes it", || {
        (origin.connections().first()?.ended == Some(Ended::ByGateway)).then_some(())
    });
}

#[test]
fn only_so_many_idle_connections_are_kept_per_host() {
    let (both, arrived) = (Gate::default(), std::sync::Mutex::new(0));
    let door = both.clone();
    let origin = Origin::answering(move |_| {
        let mut count = arrived.lock().expect("no holder panics");
        *count += 1;
        if *count == 2 {
            door.open();
        }
        drop(count);
        door.wait();
        Response::new(200, "").to_bytes()
    });
    let gateway = Setup::in_front_of(origin.port())
        .conf(json!({"max_idle_connections_per_host": 1, "penstock": {"shards": 1}}))
        .start();
    let mut clients = [gateway.client(), gateway.client()];
    for client in &mut clients {
        client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut clients {
        assert_eq!(client.read("GET").status, 200);
    }
    let open = || {
        let connections = origin.connections();
        assert_eq!(connections.len(), 2);
        connections.iter().filter(|c| c.ended.is_none()).count()
    };
    eventually("one of two stays", || (open() == 1).then_some(()));
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    let origin = Origin::answering(|_| Response::new(200, &"a".repeat(64 << 20)).to_bytes());
    let gateway = Setup::in_front_of(origin.port())
        .conf(json!({"http_server_options": {"write_timeout": 1}}))
        .start();
    let mut client = gateway.client();
    client.send(b"GET /w/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let open = || gateway.metric("penstock_connections_open");
    eventually("it is being served", || (open()? >= 2.0).then_some(()));
    eventually("it is cut", || (open()? < 2.0).then_some(()));
}

#[test]
fn an_http_proxy_is_asked_in_absolute_form() {
    let proxy = Origin::scripted(|peer| {
        let wanted = b"GET http://origin.invalid:81/base/x HTTP/1.1\r\n";
        if peer.raw(wanted.len()) == wanted {
            let _ = peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nvia");
            peer.linger();
        }
    });
    let gateway = Setup::new()
        .api(api("w", "http://origin.invalid:81/base"))
        .with(json!({"proxy": {"transport": {"proxy_url": proxy.url()}}}))
        .start();
    assert_eq!(gateway.get("/w/x").text(), "via");
}

#[test]
fn a_targets_own_slash_is_kept_when_asked_for() {
    for (keep, path) in [(true, "/base/"), (false, "/base")] {
        let origin = echo();
        let gateway = Setup::new()
            .api(api("w", &format!("{}/base/", origin.url())))
            .with(json!({"proxy": {"disable_strip_slash": keep}}))
            .start();
        assert_eq!(gateway.get("/w/").text(), path);
    }
}

#[test]
fn a_port_of_an_apis_own_must_be_listed() {
    let (origin, port, other) = (echo(), free_port(), free_port());
    let gateway = Setup::in_front_of(origin.port())
        .with(json!({"listen_port": port}))
        .api(api("v", &origin.url()))
        .with(json!({"listen_port": other}))
        .conf(json!({"ports_whitelist": {"http": {"ports": [port]}}}))
        .start();
    assert_eq!(Client::connect(port).get("/w/x").status, 200);
    assert_eq!(gateway.get("/w/x").status, 404);
    assert!(Client::try_connect(other).is_err());
    assert!(gateway.log().contains("ports_whitelist"));
}

#[test]
fn health_and_readiness_may_have_other_names() {
    let gateway = Setup::in_front_of(free_port())
        .conf(json!({
            "health_check_endpoint_name": "well", "readiness_check_endpoint_name": "willing"
        }))
        .spawn();
    eventually("it is ready under the new name", || {
        (gateway.try_get("/willing")?.status == 200).then_some(())
    });
    assert_eq!(gateway.get("/well").json()["status"], "pass");
    assert_eq!(gateway.get("/ready").status, 404);
    assert_eq!(gateway.get("/hello").status, 404);
}

#[test]
fn an_api_past_its_expiration_is_refused() {
    let origin = echo();
    let gateway = Setup::in_front_of(origin.port())
        .with(json!({"expiration": "2000-01-01 00:00"}))
        .api(api("v", &origin.url()))
        .with(json!({"expiration": "2999-12-31 23:59"}))
        .start();
    assert_eq!(gateway.get("/w/x").status, 403);
    let answer = gateway.get("/v/x");
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.field("x-tyk-api-expires"),
        Some("Tue, 31 Dec 2999 23:59:00 UTC")
    );
}

#[test]
fn both_io_drivers_serve() {
    for driver in ["auto", "epoll"] {
        let origin = echo();
        let gateway = Setup::in_front_of(origin.port())
            .conf(json!({"penstock": {"io_driver": driver}}))
            .start();
        assert_eq!(gateway.get("/w/x").status, 200, "{driver}");
    }
}

#[test]
fn accepting_goes_on_for_the_delay_behind_sigterm() {
    let origin = echo();
    let mut gateway = Setup::in_front_of(origin.port())
        .conf(json!({"graceful_shutdown_delay_seconds": 2}))
        .start();
    gateway.signal("TERM");
    eventually("it says that it drains", || {
        (gateway.get("/ready").status == 503).then_some(())
    });
    assert_eq!(gateway.get("/w/x").status, 200);
    assert_eq!(gateway.exit_code(PATIENCE), Some(Some(0)));
}

/// One request over TLS, or why there was none. The name is that of the fixture's certificate.
fn over_tls(
    port: u16,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<String, String> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(fixture("ca.crt")).expect("a certificate");
    roots.add(ca).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let socket = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = StreamOwned::new(session, socket);
    let ask = b"GET /w/secure HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|e| e.to_string())?;
    Ok(answer)
}

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/fixtures");
    folder.join(name).display().to_string()
}

#[test]
fn the_listener_speaks_tls_within_its_range_of_versions() {
    let files = json!([{"cert_file": fixture("server.crt"), "key_file": fixture("server.key")}]);
    let origin = echo();
    let gateway = Setup::in_front_of(origin.port())
        .conf(json!({"http_server_options": {
            "use_ssl": true, "certificates": files, "min_version": 772
        }}))
        .spawn();
    let answer = eventually("an answer over TLS 1.3", || {
        over_tls(gateway.port(), &[&rustls::version::TLS13]).ok()
    });
    assert!(answer.ends_with("/secure"), "{answer}");
    assert!(over_tls(gateway.port(), &[&rustls::version::TLS12]).is_err());
}
