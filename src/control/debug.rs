//! `POST /tyk/debug`: one request through a definition that is not loaded, to see what becomes of it.
//!
//! The definition is compiled as a file of `app_path` would be, and the request passes through its
//! steps and goes to its upstream for real: keys are looked up, limits count, records are written.
//! Nothing that is served changes.
//!
//! Tyk: `gateway/tracing.go` (`traceHandler`).

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr, pin::Pin};

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Sends a request through a definition. Lives beside the shards.
pub trait Debugger: Send + Sync {
    /// `spec` is a classic definition in JSON, `request` a whole HTTP/1.1 request; `peer` is taken
    /// for its client.
    fn run(
        &self,
        spec: Vec<u8>,
        request: Vec<u8>,
        peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + '_>>;
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub end: End,
    /// What was logged on the way, an object per line.
    pub logs: String,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The answer as on the wire.
    Answered(Vec<u8>),
    /// The definition is refused: `logs` says why.
    Refused,
    /// There was no answer, and why.
    Failed(String),
}

#[derive(Deserialize)]
struct Asked<'a> {
    request: Option<AskedRequest>,
    #[serde(borrow)]
    spec: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AskedRequest {
    #[serde(default)]
    method: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    headers: Option<BTreeMap<String, Option<Vec<String>>>>,
}

/// Tyk's `traceResponse`.
#[derive(Serialize)]
struct Told {
    message: &'static str,
    response: String,
    logs: String,
}

type Refusal = (StatusCode, String);

/// Answers a call.
// Tyk differs: the answer is shown as on the wire.
pub(super) async fn debug(
    debugger: &dyn Debugger,
    body: &[u8],
    peer: SocketAddr,
) -> Result<Response, Refusal> {
    let bad = |why: &str| (StatusCode::BAD_REQUEST, why.to_owned());
    let asked: Asked<'_> = serde_json::from_slice(body).map_err(|_| bad("Request malformed"))?;
    let spec = asked
        .spec
        .filter(|spec| spec.get() != "null")
        .ok_or_else(|| bad("Spec field is missing"))?;
    let request = asked
        .request
        .ok_or_else(|| bad("Request field is missing"))?;
    let unexpected = |why: &str| {
        let text = format!("Unexpected failure: {why}");
        (StatusCode::INTERNAL_SERVER_ERROR, text)
    };
    let request = request.to_wire().map_err(|why| unexpected(&why))?;
    let spec = spec.get().as_bytes().to_vec();
    let Outcome { end, logs } = debugger.run(spec, request.clone(), peer).await;
    let answer = match end {
        End::Answered(answer) => answer,
        End::Refused => {
            let told = Told {
                message: "error",
                response: String::new(),
                logs,
            };
            return Ok((StatusCode::BAD_REQUEST, Json(told)).into_response());
        }
        End::Failed(why) => return Err(unexpected(&why)),
    };
    let response = format!(
        "====== Request ======\n{}\n====== Response ======\n{}",
        String::from_utf8_lossy(&request),
        String::from_utf8_lossy(&answer)
    );
    let told = Told {
        message: "ok",
        response,
        logs,
    };
    Ok(Json(told).into_response())
}

impl AskedRequest {
    /// The request as it goes over the wire. Says what is no HTTP in it.
    fn to_wire(&self) -> Result<Vec<u8>, String> {
        let method = match self.method.as_str() {
            "" => "GET",
            method => method,
        };
        if !method.bytes().all(is_token_byte) {
            return Err(format!("invalid method {method:?}"));
        }
        // What Go's URL takes from an absolute one.
        let path = match self.path.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => &self.path,
        };
        let slash = if path.starts_with('/') { "" } else { "/" };
        if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(format!("invalid path {path:?}"));
        }
        let mut out = format!("{method} {slash}{path} HTTP/1.1\r\n");
        let mut host = "localhost";
        let mut fields = String::new();
        for (name, values) in self.headers.iter().flatten() {
            if name.is_empty() || !name.bytes().all(is_token_byte) {
                return Err(format!("invalid header field name {name:?}"));
            }
            for value in values.iter().flatten() {
                if value.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
                    return Err(format!("invalid header field value for {name:?}"));
                }
                match name.to_ascii_lowercase().as_str() {
                    "host" => host = value,
                    // Both follow from the content that is given.
                    "content-length" | "transfer-encoding" => {}
                    // Writing to a String cannot fail.
                    _ => drop(write!(fields, "{name}: {value}\r\n")),
                }
            }
        }
        let _ = write!(out, "Host: {host}\r\n{fields}");
        if !self.body.is_empty() {
            let _ = write!(out, "Content-Length: {}\r\n", self.body.len());
        }
        out.push_str("\r\n");
        out.push_str(&self.body);
        Ok(out.into_bytes())
    }
}

/// RFC 9110 §5.6.2.
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Answers what it is told to, and repeats what it was given.
    struct Echo(fn(Vec<u8>) -> End);

    impl Debugger for Echo {
        fn run(
            &self,
            spec: Vec<u8>,
            request: Vec<u8>,
            _: SocketAddr,
        ) -> Pin<Box<dyn Future<Output = Outcome> + Send + '_>> {
            let logs = String::from_utf8(spec).unwrap();
            let end = (self.0)(request);
            Box::pin(async { Outcome { end, logs } })
        }
    }

    fn call(end: fn(Vec<u8>) -> End, body: &str) -> (u16, Value) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        runtime.block_on(async {
            match debug(&Echo(end), body.as_bytes(), peer).await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
                    (status, serde_json::from_slice(&body.unwrap()).unwrap())
                }
                Err((status, why)) => (status.as_u16(), json!(why)),
            }
        })
    }

    #[test]
    fn a_request_is_written_and_its_answer_told() {
        let body = r#"{"spec": {"api_id":"a"}, "request": {"method": "POST", "path": "get?x=1",
            "body": "hi", "headers": {"X-One": ["1", "2"], "Host": ["h"], "Content-Length": ["9"]}}}"#;
        let (status, told) = call(End::Answered, body);
        let request = "POST /get?x=1 HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nX-One: 2\r\n\
            Content-Length: 2\r\n\r\nhi";
        let response =
            format!("====== Request ======\n{request}\n====== Response ======\n{request}");
        let expected = json!({"message": "ok", "response": response, "logs": "{\"api_id\":\"a\"}"});
        assert_eq!((status, told), (200, expected));
    }

    #[test]
    fn what_is_missing_or_no_http_is_said() {
        #[track_caller]
        fn check(body: &str, status: u16, why: &str) {
            assert_eq!(call(End::Answered, body), (status, json!(why)), "{body}");
        }
        check("{", 400, "Request malformed");
        check(r#"{"request": {}}"#, 400, "Spec field is missing");
        check(
            r#"{"request": {}, "spec": null}"#,
            400,
            "Spec field is missing",
        );
        check(r#"{"spec": {}}"#, 400, "Request field is missing");
        let of = |request: &str| format!(r#"{{"spec": {{}}, "request": {request}}}"#);
        check(
            &of(r#"{"method": "GE T"}"#),
            500,
            r#"Unexpected failure: invalid method "GE T""#,
        );
        check(
            &of(r#"{"path": "/a b"}"#),
            500,
            r#"Unexpected failure: invalid path "/a b""#,
        );
        check(
            &of(r#"{"headers": {"a b": ["c"]}}"#),
            500,
            r#"Unexpected failure: invalid header field name "a b""#,
        );
        check(
            &of(r#"{"headers": {"a": ["b\r\nc: d"]}}"#),
            500,
            r#"Unexpected failure: invalid header field value for "a""#,
        );
        check(
            &of(r#"{"path": "http://other/x y"}"#),
            500,
            r#"Unexpected failure: invalid path "/x y""#,
        );
    }

    #[test]
    fn a_refused_definition_and_a_failure_are_told() {
        let body = r#"{"spec": {}, "request": {"headers": null}}"#;
        let (status, told) = call(|_| End::Refused, body);
        let expected = json!({"message": "error", "response": "", "logs": "{}"});
        assert_eq!((status, told), (400, expected));
        let (status, told) = call(|_| End::Failed("why".to_owned()), body);
        assert_eq!((status, told), (500, json!("Unexpected failure: why")));
    }
}
