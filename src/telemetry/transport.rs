//! To a collector: one message by gRPC or by HTTP.
//!
//! gRPC is `h2` and five bytes before the message; one connection is kept. HTTP is one request per
//! connection: a batch per second is no load.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::{
    config::OpenTelemetry,
    net::tls::{Identity, TlsOptions, UpstreamTls},
};

/// Where spans go (`opentelemetry.exporter`, `endpoint`, `headers`, `tls`).
#[derive(Debug, Clone)]
pub struct Endpoint {
    is_grpc: bool,
    host: String,
    port: u16,
    /// Of the HTTP form.
    path: String,
    tls: Option<Arc<ClientConfig>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
}

const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const HTTP_PATH: &str = "/v1/traces";

/// What is read of an answer's head.
const HEAD_BYTES_MAX: usize = 8 << 10;

impl Endpoint {
    /// # Errors
    /// One line naming the key that makes no sense.
    pub fn from_config(otel: &OpenTelemetry) -> Result<Self, String> {
        let is_grpc = match otel.exporter.as_str() {
            "" | "grpc" => true,
            "http" => false,
            other => return Err(format!("opentelemetry.exporter: {other:?} does not exist")),
        };
        let default_port = if is_grpc { 4317 } else { 4318 };
        let (is_https, address) = match otel.endpoint.split_once("://") {
            Some(("https", address)) => (true, address),
            Some((_, address)) => (false, address),
            None => (false, otel.endpoint.as_str()),
        };
        let (authority, path) = match address.find('/') {
            Some(at) => address.split_at(at),
            None => (address, HTTP_PATH),
        };
        let unusable = || format!("opentelemetry.endpoint: {:?} is no address", otel.endpoint);
        let (host, port) = match authority {
            "" => ("localhost", default_port),
            _ => host_and_port(authority, default_port).ok_or_else(unusable)?,
        };
        let mut headers = Vec::new();
        for (name, value) in &otel.headers {
            let unusable = || format!("opentelemetry.headers: {name:?} cannot be sent");
            let field = HeaderName::try_from(name.as_str()).map_err(|_| unusable())?;
            let mut value = HeaderValue::try_from(value.as_str()).map_err(|_| unusable())?;
            value.set_sensitive(true);
            headers.push((field, value));
        }
        let tls = match otel.tls.enable || is_https {
            true => Some(tls(otel, is_grpc)?),
            false => None,
        };
        Ok(Self {
            is_grpc,
            host: host.to_owned(),
            port,
            path: if path == "/" { HTTP_PATH } else { path }.to_owned(),
            tls,
            headers,
            timeout: Duration::from_secs(match otel.connection_timeout {
                seconds @ 1.. => seconds as u64,
                _ => 1,
            }),
        })
    }

    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(Arc::clone(tls)).connect(name, tcp);
        Ok(Box::new(tls.await?))
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

fn host_and_port(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, port.parse().ok()?)),
            None => port.is_empty().then_some((host, default_port)),
        };
    }
    match authority.split_once(':') {
        Some(("", _)) => None,
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((authority, default_port)),
    }
}

fn tls(otel: &OpenTelemetry, is_grpc: bool) -> Result<Arc<ClientConfig>, String> {
    let options = &otel.tls;
    let fault = |why: String| format!("opentelemetry.tls: {why}");
    let version = |name: &str| match name {
        "" => Ok(0),
        "1.0" => Ok(769),
        "1.1" => Ok(770),
        "1.2" => Ok(771),
        "1.3" => Ok(772),
        other => Err(fault(format!("there is no version {other:?}"))),
    };
    let identity = match options.cert_file.as_str() {
        "" => None,
        file => {
            Some(Identity::from_files(file.as_ref(), options.key_file.as_ref()).map_err(fault)?)
        }
    };
    let files = Some(&options.ca_file).filter(|file| !file.is_empty());
    let tls = UpstreamTls::trusting_only_files(&TlsOptions {
        insecure_skip_verify: options.insecure_skip_verify,
        min_version: version(&options.min_version)?,
        max_version: version(&options.max_version)?,
        ca_files: files.map(Into::into).into_iter().collect(),
        identity,
        alpn: if is_grpc {
            vec![b"h2".to_vec()]
        } else {
            Vec::new()
        },
        ..TlsOptions::default()
    });
    Ok(tls.map_err(fault)?.config())
}

/// Why a collector has not taken a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Later it may.
    Again(String),
    /// It never will.
    Never(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Again(error.to_string())
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Self::Again(error.to_string())
    }
}

/// A way to a collector.
pub(super) struct Channel {
    endpoint: Endpoint,
    grpc: Option<h2::client::SendRequest<Bytes>>,
}

impl Channel {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        let grpc = None;
        Self { endpoint, grpc }
    }

    /// Sends an `ExportTraceServiceRequest`; returns when the collector has taken it.
    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), Failure> {
        let timeout = self.endpoint.timeout;
        let sent = match self.endpoint.is_grpc {
            true => tokio::time::timeout(timeout, self.send_grpc(message)).await,
            false => tokio::time::timeout(timeout, self.send_http(message)).await,
        };
        let sent = sent.unwrap_or_else(|_| Err(Failure::Again("no answer in time".to_owned())));
        if sent.is_err() {
            self.grpc = None;
        }
        sent
    }

    async fn send_grpc(&mut self, message: &[u8]) -> Result<(), Failure> {
        let requests = match self.grpc.take() {
            Some(requests) => requests,
            None => {
                let stream = self.endpoint.connect().await?;
                let (requests, connection) = h2::client::handshake(stream).await?;
                // Ends when nobody sends on it any more.
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(prefix = "otel", %error, "connection to the collector lost");
                    }
                });
                requests
            }
        };
        let mut requests = requests.ready().await?;
        let scheme = if self.endpoint.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let mut request = Request::post(format!(
            "{scheme}://{}{GRPC_PATH}",
            self.endpoint.authority()
        ))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(())
        .map_err(|error| Failure::Never(error.to_string()))?;
        request
            .headers_mut()
            .extend(self.endpoint.headers.iter().cloned());
        let mut frame = Vec::with_capacity(message.len() + 5);
        frame.push(0);
        frame.extend_from_slice(&(message.len() as u32).to_be_bytes());
        frame.extend_from_slice(message);
        let (response, mut body) = requests.send_request(request, false)?;
        body.send_data(frame.into(), true)?;
        let response = response.await?;
        if response.status() != 200 {
            return Err(http_failure(response.status().as_u16()));
        }
        let mut status = grpc_status(response.headers());
        let mut body = response.into_body();
        while let Some(data) = body.data().await {
            let length = data?.len();
            body.flow_control().release_capacity(length)?;
        }
        if let Some(trailers) = body.trailers().await? {
            status = status.or(grpc_status(&trailers));
        }
        self.grpc = Some(requests);
        match status {
            Some((0, _)) => Ok(()),
            // Cancelled, deadline, exhausted, aborted, out of range, unavailable, data loss.
            Some((code @ (1 | 4 | 8 | 10 | 11 | 14 | 15), why)) => {
                Err(Failure::Again(format!("status {code} {why}")))
            }
            Some((code, why)) => Err(Failure::Never(format!("status {code} {why}"))),
            None => Err(Failure::Again("an answer without a status".to_owned())),
        }
    }

    async fn send_http(&self, message: &[u8]) -> Result<(), Failure> {
        let endpoint = &self.endpoint;
        let mut head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/x-protobuf\r\n\
             Content-Length: {}\r\nConnection: close\r\n",
            endpoint.path,
            endpoint.authority(),
            message.len()
        )
        .into_bytes();
        for (name, value) in &endpoint.headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        let mut stream = endpoint.connect().await?;
        stream.write_all(&head).await?;
        stream.write_all(message).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        while !answer.contains(&b'\n') && answer.len() < HEAD_BYTES_MAX {
            if stream.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        match status_of(&answer) {
            Some(200..=299) => Ok(()),
            Some(status) => Err(http_failure(status)),
            None => Err(Failure::Again("the answer is no HTTP".to_owned())),
        }
    }
}

fn http_failure(status: u16) -> Failure {
    let why = format!("HTTP status {status}");
    match status {
        429 | 502..=504 => Failure::Again(why),
        _ => Failure::Never(why),
    }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<(u32, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let why = headers
        .get("grpc-message")
        .and_then(|why| why.to_str().ok());
    Some((code, why.unwrap_or_default().to_owned()))
}

/// The status of an answer's first line.
fn status_of(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The endpoint that a piece of `opentelemetry` asks for.
    pub(crate) fn endpoint(otel: &str) -> Result<Endpoint, String> {
        let config = crate::telemetry::tracer::tests::config(otel);
        Endpoint::from_config(&config.opentelemetry)
    }

    #[test]
    fn endpoints_are_read_as_people_write_them() {
        #[track_caller]
        fn check(otel: &str, authority: &str, path: &str, is_tls: bool) {
            let endpoint = endpoint(otel).unwrap();
            assert_eq!(endpoint.authority(), authority);
            assert_eq!(endpoint.path, path);
            assert_eq!(endpoint.tls.is_some(), is_tls);
        }
        check("", "localhost:4317", "/v1/traces", false);
        check(
            r#", "exporter": "http""#,
            "localhost:4318",
            "/v1/traces",
            false,
        );
        let otel = |endpoint| format!(r#", "exporter": "http", "endpoint": "{endpoint}""#);
        check(&otel("c:1"), "c:1", "/v1/traces", false);
        check(&otel("http://c"), "c:4318", "/v1/traces", false);
        check(&otel("http://c:1/"), "c:1", "/v1/traces", false);
        check(&otel("https://c:1/a/b"), "c:1", "/a/b", true);
        check(&otel("[::1]:1"), "[::1]:1", "/v1/traces", false);
        check(&otel("[::1]"), "[::1]:4318", "/v1/traces", false);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (otel, key) in [
            (r#", "exporter": "x""#, "opentelemetry.exporter"),
            (r#", "endpoint": "c:x""#, "opentelemetry.endpoint"),
            (r#", "endpoint": ":1""#, "opentelemetry.endpoint"),
            (r#", "endpoint": "[::1""#, "opentelemetry.endpoint"),
            (r#", "headers": {"a b": "c"}"#, "opentelemetry.headers"),
            (r#", "headers": {"a": "c\n"}"#, "opentelemetry.headers"),
            (
                r#", "tls": {"enable": true, "min_version": "9"}"#,
                "opentelemetry.tls",
            ),
            (
                r#", "tls": {"enable": true, "ca_file": "/none"}"#,
                "opentelemetry.tls",
            ),
        ] {
            let why = endpoint(otel).unwrap_err();
            assert!(why.starts_with(key), "{why}");
        }
    }

    #[test]
    fn statuses_are_read_from_the_first_line() {
        for (answer, expected) in [
            (&b"HTTP/1.1 200 OK\r\n"[..], Some(200)),
            (b"HTTP/1.0 503\r\n", Some(503)),
            (b"HTTP/1.1 2x0 OK\r\n", None),
            (b"SSH-2.0", None),
            (b"", None),
        ] {
            assert_eq!(status_of(answer), expected);
        }
    }
}
