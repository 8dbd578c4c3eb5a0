//! A connection that listens to one channel.

use std::{io, time::Duration};

use redis::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};

use crate::storage::{Event, redis::dial};

/// A silent server is asked for a sign of life this often, and given up after two such spans.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Subscribes and passes messages on until the connection breaks or the subscriber is gone. A
/// subscriber that is slow holds up the server, which gives the connection up at some point.
///
pub(super) async fn listen<S>(
    mut stream: S,
    login: Option<redis::Cmd>,
    channel: &str,
    events: &mpsc::Sender<Event>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let login: Vec<_> = login.into_iter().collect();
    patiently(dial::converse(&mut stream, &login)).await?;
    let (mut read, mut write) = tokio::io::split(stream);
    #[allow(
        clippy::default_trait_access,
        reason = "its type has no name here: it is of another crate"
    )]
    let mut decoder = Default::default();
    let subscribe = redis::cmd("SUBSCRIBE").arg(channel).get_packed_command();
    write.write_all(&subscribe).await?;
    let reading = async {
        loop {
            let answer = patiently(async {
                let answer = redis::parse_redis_value_async(&mut decoder, &mut read);
                answer.await.map_err(io::Error::other)
            });
            let event = match kind_and_payload(answer.await?)? {
                Some((kind, _)) if kind == b"subscribe" => Event::Reconnected,
                Some((kind, payload)) if kind == b"message" => Event::Message(payload),
                _ => continue,
            };
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
    };
    let pinging = async {
        loop {
            tokio::time::sleep(PING_EVERY).await;
            let ping = redis::cmd("PING").get_packed_command();
            write.write_all(&ping).await?;
        }
    };
    tokio::select! {
        done = reading => done,
        failed = pinging => failed,
        () = events.closed() => Ok(()),
    }
}

async fn patiently<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(2 * PING_EVERY, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What a push message is, and its last part.
fn kind_and_payload(value: Value) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut parts = match value {
        Value::Array(parts) => parts.into_iter(),
        Value::ServerError(error) => return Err(io::Error::other(error.to_string())),
        _ => return Ok(None),
    };
    let Some(Value::BulkString(kind)) = parts.next() else {
        return Ok(None);
    };
    Ok(match parts.next_back() {
        Some(Value::BulkString(payload)) => Some((kind, payload)),
        Some(_) => Some((kind, Vec::new())),
        None => None,
    })
}
