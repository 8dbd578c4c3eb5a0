//! The origin of `quickstart`: answers every request with a description of it.

use std::{convert::Infallible, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    config::Config,
    http::h1::{Limits, Progress, RequestHead},
};

/// Where the definitions of `configs/apps` point to.
const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8090);
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Starts the origin.
///
/// # Errors
/// When its port is taken.
pub async fn spawn(_: &Config) -> Result<(), String> {
    let listener = TcpListener::bind(ADDRESS).await.map_err(|error| {
        format!("the built-in origin cannot listen on {ADDRESS}: {error}; stop what listens there")
    })?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
                Err(error) => {
                    tracing::warn!(%error, "the built-in origin cannot accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

/// Answers requests without content until the client goes.
async fn serve(mut stream: TcpStream) -> Option<Infallible> {
    let mut buf = Vec::new();
    let mut head = RequestHead::default();
    loop {
        let mut scanned = 0;
        while head.parse(&buf, &mut scanned, &Limits::default()).ok()? == Progress::Partial {
            if buf.len() > HEAD_BYTES_MAX || stream.read_buf(&mut buf).await.ok()? == 0 {
                return None;
            }
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let content = serde_json::json!({
            "origin": "penstock quickstart",
            "method": text(head.method_span.of(&buf)),
            "path": text(head.path_bytes(&buf)),
        })
        .to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{content}",
            content.len()
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
        buf.drain(..head.len.min(buf.len()));
    }
}

/// Prints what to try, each line followed by what it answers.
#[allow(clippy::print_stdout, reason = "the answer of a command")]
pub fn print_hints(config: &Config) {
    let at = format!("http://127.0.0.1:{}", config.listen_port_or_default());
    let secret = config.secret.as_str();
    println!(
        "Penstock listens on {at}; the secret of the control API is {secret}.\nTry, in another \
         terminal:\n\n\
         curl -s {at}/hello\n# → \"status\":\"pass\"\n\n\
         curl -s {at}/quickstart/anything\n# → \"path\":\"/anything\"\n\n\
         curl -s -H 'X-Tyk-Authorization: {secret}' {at}/tyk/apis\n# → \"api_id\":\"quickstart\"\n\n\
         curl -s -H 'X-Tyk-Authorization: {secret}' '{at}/tyk/reload?block=true'\n\
         # → \"status\":\"ok\"\n\nCtrl-C ends it."
    );
}
