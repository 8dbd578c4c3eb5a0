//! One blocking request on a connection of its own: readiness, control calls, set-up.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    http1::{BodyReader, Malformed, ResponseHead, head_length},
    sys,
};

/// A complete answer with its body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// GET with extra fields, at most `limit` per wait.
pub fn get(
    target: SocketAddr,
    path: &str,
    fields: &[(&str, &str)],
    limit: Duration,
) -> io::Result<Answer> {
    request(target, "GET", path, fields, b"", limit)
}

/// Any request; the connection is closed behind the answer.
pub fn request(
    target: SocketAddr,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &[u8],
    limit: Duration,
) -> io::Result<Answer> {
    let mut stream = sys::connect_blocking(target, limit)?;
    let mut wire = format!("{method} {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n");
    for (name, value) in fields {
        wire.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method != "GET" {
        wire.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    wire.push_str("\r\n");
    let mut wire = wire.into_bytes();
    wire.extend_from_slice(body);
    stream.write_all(&wire)?;
    let mut received = Vec::new();
    let mut buf = [0; 16 * 1024];
    let mut more = |received: &mut Vec<u8>| {
        let count = stream.read(&mut buf)?;
        received.extend_from_slice(&buf[..count]);
        Ok::<_, io::Error>(count)
    };
    loop {
        let length = loop {
            if let Some(length) = head_length(&received) {
                break length;
            }
            if more(&mut received)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head = ResponseHead::parse(&received[..length]).map_err(invalid)?;
        received.drain(..length);
        if (100..200).contains(&head.status) {
            continue;
        }
        let mut reader = BodyReader::new(head.framing);
        let mut body = Vec::new();
        loop {
            let used = reader
                .feed(&received, |piece| body.extend_from_slice(piece))
                .map_err(invalid)?;
            received.drain(..used);
            if reader.is_done() || (more(&mut received)? == 0 && reader.may_end_here()) {
                break;
            }
            if received.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        return Ok(Answer {
            status: head.status,
            body,
        });
    }
}

/// Asks every millisecond until the answer is 2xx; the time that took.
pub fn until_ready(
    target: SocketAddr,
    path: &str,
    fields: &[(&str, &str)],
    limit: Duration,
) -> io::Result<Duration> {
    let started = Instant::now();
    loop {
        let outcome = get(target, path, fields, Duration::from_secs(2));
        match outcome {
            Ok(answer) if (200..300).contains(&answer.status) => return Ok(started.elapsed()),
            _ if started.elapsed() < limit => std::thread::sleep(Duration::from_millis(1)),
            Ok(answer) => {
                return Err(io::Error::other(format!(
                    "{target}{path} still answers {} after {limit:?}: {}",
                    answer.status,
                    String::from_utf8_lossy(&answer.body)
                )));
            }
            Err(e) => {
                return Err(io::Error::new(
                    e.kind(),
                    format!("{target}{path} does not answer within {limit:?}: {e}"),
                ));
            }
        }
    }
}

fn invalid(why: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.0)
}
