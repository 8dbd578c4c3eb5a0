//! `POST /tyk/debug`: a request through a definition that is not loaded.

use serde_json::{Value, json};

use crate::harness::{Gateway, Origin, Response, Setup, api, keyed_api};

fn debug(gateway: &Gateway, spec: &Value, request: &Value) -> (u16, Value) {
    let body = json!({"spec": spec, "request": request}).to_string();
    let answer = gateway.admin("POST", "/tyk/debug", &body);
    (answer.status, answer.json())
}

fn text<'a>(told: &'a Value, name: &str) -> &'a str {
    told[name].as_str().unwrap_or_default()
}

#[test]
fn a_request_passes_through_a_definition_that_is_not_loaded() {
    let origin = Origin::answering(|_| Response::new(201, "made").to_bytes());
    let gateway = Setup::new().start();
    let request = json!({"method": "POST", "path": "/fresh/x?y=1", "body": "hello",
        "headers": {"X-One": ["1"]}});
    let (status, told) = debug(&gateway, &api("fresh", &origin.url()), &request);
    assert_eq!((status, &told["message"]), (200, &json!("ok")), "{told}");
    let response = text(&told, "response");
    let begin = "====== Request ======\nPOST /fresh/x?y=1 HTTP/1.1\r\n";
    assert!(response.starts_with(begin), "{response}");
    assert!(
        response.contains("\n====== Response ======\nHTTP/1.1 201 "),
        "{response}"
    );
    assert!(response.ends_with("\r\n\r\nmade"), "{response}");
    let seen = origin.requests();
    assert_eq!(seen.len(), 1);
    assert_eq!((&*seen[0].method, &*seen[0].target), ("POST", "/x?y=1"));
    assert_eq!(
        (seen[0].field("x-one"), &*seen[0].body),
        (Some("1"), &b"hello"[..])
    );
    // Nothing of it is served.
    assert_eq!(gateway.get("/fresh/x").status, 404);
}

#[test]
fn steps_are_logged_and_their_refusal_is_the_answer() {
    let origin = Origin::answering(|_| Response::new(200, "").to_bytes());
    // What is loaded has another target: a definition is tried before it takes its place.
    let gateway = Setup::new()
        .api(keyed_api("fresh", "http://127.0.0.1:1/"))
        .start();
    let spec = keyed_api("fresh", &origin.url());
    let (status, told) = debug(&gateway, &spec, &json!({"path": "/fresh/x"}));
    assert_eq!(status, 200, "{told}");
    assert!(
        text(&told, "response").contains("HTTP/1.1 401 Unauthorized"),
        "{told}"
    );
    let lines: Vec<Value> = text(&told, "logs")
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object per line"))
        .collect();
    let refused = lines.iter().find(|line| line["mw"] == "AuthKey");
    let refused = refused.expect("the step that refused is logged");
    assert_eq!(refused["code"], 401, "{refused}");
    assert_eq!(refused["err"], "Authorization field missing", "{refused}");
    assert!(origin.requests().is_empty());
    // A key of the store counts here as anywhere.
    let rights = json!({"fresh": {"api_id": "fresh", "versions": ["Default"]}});
    gateway.make_key("fresh-key", json!({"access_rights": rights}));
    let request = json!({"path": "/fresh/x", "headers": {"Authorization": ["fresh-key"]}});
    let (_, told) = debug(&gateway, &spec, &request);
    assert!(text(&told, "response").contains("HTTP/1.1 200 "), "{told}");
}

#[test]
fn a_refused_definition_is_told_with_its_reason() {
    let gateway = Setup::new().start();
    let mut spec = api("fresh", "http://127.0.0.1:1/");
    spec["proxy"]["listen_path"] = json!(7);
    let (status, told) = debug(&gateway, &spec, &json!({"path": "/"}));
    assert_eq!((status, &told["message"]), (400, &json!("error")), "{told}");
    assert!(text(&told, "logs").contains("/proxy/listen_path"), "{told}");
}

#[test]
fn what_cannot_be_a_request_is_refused() {
    let gateway = Setup::new().start();
    let spec = api("fresh", "http://127.0.0.1:1/");
    let request = json!({"path": "/x", "headers": {"A": ["b\r\nC: d"]}});
    let (status, told) = debug(&gateway, &spec, &request);
    assert_eq!(status, 500, "{told}");
    // An upstream that is not there is an answer like any other.
    let (status, told) = debug(&gateway, &spec, &json!({"path": "/fresh/x"}));
    assert_eq!(status, 200, "{told}");
    assert!(text(&told, "response").contains("HTTP/1.1 500 "), "{told}");
}
