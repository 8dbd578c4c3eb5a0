//! A collector of OpenTelemetry's protocol, over gRPC or HTTP: keeps every span that it is sent.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::sync::oneshot;

use super::{Origin, Response};

/// A span, ids in hexadecimal.
#[derive(Clone, Debug, Default)]
pub struct Span {
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: u64,
    pub trace_id: String,
    pub span_id: String,
    /// Empty for the first of a trace.
    pub parent_id: String,
    pub began_ns: u64,
    pub ended_ns: u64,
    pub attributes: BTreeMap<String, String>,
    /// The text of a status that is an error.
    pub error: Option<String>,
    pub resource: BTreeMap<String, String>,
    /// The field `x-token` of the request that brought it.
    pub token: String,
}

pub struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Span>>>,
    /// Ends with the collector.
    _running: Running,
}

enum Running {
    Http { _origin: Origin },
    Grpc { _stop: oneshot::Sender<()> },
}

impl Collector {
    /// Takes what comes to `/v1/traces`.
    pub fn http() -> Self {
        let spans = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&spans);
        let origin = Origin::answering(move |req| {
            if req.target != "/v1/traces" {
                return Response::new(404, "").to_bytes();
            }
            let token = req.field("x-token").unwrap_or_default();
            lock(&taken).extend(read(&req.body, token));
            Response::new(200, "").to_bytes()
        });
        Self {
            port: origin.port(),
            spans,
            _running: Running::Http { _origin: origin },
        }
    }

    pub fn grpc() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let spans = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&spans);
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(async {
                    tokio::select! {
                        () = serve(listener, taken) => {}
                        _ = stopped => {}
                    }
                });
        });
        Self {
            port,
            spans,
            _running: Running::Grpc { _stop: stop },
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn spans(&self) -> Vec<Span> {
        lock(&self.spans).clone()
    }
}

async fn serve(listener: TcpListener, taken: Arc<Mutex<Vec<Span>>>) {
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
    loop {
        let (stream, _) = listener.accept().await.expect("it listens");
        let taken = Arc::clone(&taken);
        tokio::spawn(async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(answer(request, respond, Arc::clone(&taken)));
            }
        });
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    taken: Arc<Mutex<Vec<Span>>>,
) {
    let (head, mut body) = request.into_parts();
    let mut message = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        message.extend_from_slice(&data);
    }
    let token = head.headers.get("x-token");
    let token = token.and_then(|token| token.to_str().ok()).unwrap_or("");
    lock(&taken).extend(read(&message[5..], token));
    let response = http::Response::builder()
        .header("content-type", "application/grpc")
        .body(())
        .expect("a response");
    if let Ok(mut stream) = respond.send_response(response, false) {
        let _ = stream.send_data(Bytes::from_static(&[0; 5]), false);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = stream.send_trailers(trailers);
    }
}

/// The spans of an `ExportTraceServiceRequest`.
fn read(message: &[u8], token: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in inside(message, 1) {
        let resource = inside(of_resource, 1).first().map(|r| attributes(r, 1));
        for of_scope in inside(of_resource, 2) {
            for span in inside(of_scope, 2) {
                let first = |field| inside(span, field).first().copied().unwrap_or_default();
                let text = |field| String::from_utf8_lossy(first(field)).into_owned();
                let status = first(15);
                spans.push(Span {
                    name: text(5),
                    kind: number(span, 6),
                    trace_id: hex(first(1)),
                    span_id: hex(first(2)),
                    parent_id: hex(first(4)),
                    began_ns: number(span, 7),
                    ended_ns: number(span, 8),
                    attributes: attributes(span, 9),
                    error: (number(status, 3) == 2).then(|| {
                        let text = inside(status, 2).first().copied().unwrap_or_default();
                        String::from_utf8_lossy(text).into_owned()
                    }),
                    resource: resource.clone().unwrap_or_default(),
                    token: token.to_owned(),
                });
            }
        }
    }
    spans
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message of Protocol Buffers.
fn fields(mut rest: &[u8]) -> Vec<(u64, Value<'_>)> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, behind) = rest.split_first().expect("a whole message");
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
        let value = match key & 7 {
            0 => Value::Number(varint(&mut rest)),
            1 => {
                let (number, behind) = rest.split_first_chunk().expect("a whole message");
                rest = behind;
                Value::Number(u64::from_le_bytes(*number))
            }
            2 => {
                let length = varint(&mut rest) as usize;
                let (bytes, behind) = rest.split_at(length);
                rest = behind;
                Value::Bytes(bytes)
            }
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, value));
    }
    found
}

fn inside(message: &[u8], field: u64) -> Vec<&[u8]> {
    let found = fields(message).into_iter();
    found
        .filter_map(|(number, value)| match value {
            Value::Bytes(bytes) if number == field => Some(bytes),
            _ => None,
        })
        .collect()
}

fn number(message: &[u8], field: u64) -> u64 {
    let mut found = fields(message).into_iter();
    found
        .find_map(|(number, value)| match value {
            Value::Number(value) if number == field => Some(value),
            _ => None,
        })
        .unwrap_or_default()
}

/// Attributes as text, lists in brackets.
fn attributes(message: &[u8], field: u64) -> BTreeMap<String, String> {
    fn any(value: &[u8]) -> String {
        match fields(value).pop() {
            Some((1, Value::Bytes(text))) => String::from_utf8_lossy(text).into_owned(),
            Some((2, Value::Number(flag))) => (flag == 1).to_string(),
            Some((3, Value::Number(number))) => (number as i64).to_string(),
            Some((5, Value::Bytes(list))) => {
                let list: Vec<_> = inside(list, 1).into_iter().map(any).collect();
                format!("[{}]", list.join(" "))
            }
            _ => "?".to_owned(),
        }
    }
    let pairs = inside(message, field).into_iter();
    pairs
        .map(|pair| {
            let key = inside(pair, 1).first().copied().unwrap_or_default();
            let value = inside(pair, 2).first().copied().unwrap_or_default();
            (String::from_utf8_lossy(key).into_owned(), any(value))
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock(spans: &Mutex<Vec<Span>>) -> MutexGuard<'_, Vec<Span>> {
    spans.lock().expect("no holder panics")
}
