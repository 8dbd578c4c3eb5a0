//! The way of `/tyk/debug` to a shard and back.
//!
//! The definition is compiled here and becomes a snapshot of its own; a shard answers the request
//! over a pair of sockets, so that it streams, waits and fails as any other.

#![allow(
    clippy::disallowed_types,
    reason = "log lines are gathered under a lock that nobody else wants"
)]

use std::{
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use crate::{
    control::{Debugger, End, Outcome},
    gateway::{live::Live, snapshot::Published},
    log,
    mailbox::Outlet,
    shard::{Debug, Item, Job},
};

/// What stands for the file of a definition in what is said about it.
const NAME: &str = "spec";
const VERSION: &[u8] = b"HTTP/1.1";
/// An answer is told up to here.
const ANSWER_BYTES_MAX: u64 = 10 << 20;
/// An answer that takes longer is told as far as it came.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends requests through definitions that are not loaded.
pub struct OnShard {
    pub live: Arc<Live>,
    pub shard: Outlet<Item>,
}

impl Debugger for OnShard {
    fn run(
        &self,
        spec: Vec<u8>,
        request: Vec<u8>,
        peer: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + '_>> {
        Box::pin(async move {
            let lines = Arc::new(Mutex::new(String::new()));
            let logs = log::capture({
                let lines = Arc::clone(&lines);
                Box::new(move |_, line| {
                    lines
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push_str(line);
                })
            });
            let end = self.answer(spec, request, peer, logs).await;
            let logs = std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner));
            Outcome { end, logs }
        })
    }
}

impl OnShard {
    async fn answer(
        &self,
        spec: Vec<u8>,
        request: Vec<u8>,
        peer: SocketAddr,
        logs: tracing::Dispatch,
    ) -> End {
        let (live, its_logs) = (Arc::clone(&self.live), logs.clone());
        // A reload may hold what compiles for a while.
        let compiled = tokio::task::spawn_blocking(move || {
            tracing::dispatcher::with_default(&its_logs, || {
                match live.single(Path::new(NAME), &spec) {
                    Ok((snapshot, warnings)) => {
                        for warning in warnings {
                            tracing::warn!(prefix = "main", "{warning}");
                        }
                        Some(snapshot)
                    }
                    Err(errors) => {
                        for error in errors {
                            tracing::error!(prefix = "main", "refused: {error}");
                        }
                        None
                    }
                }
            })
        });
        let snapshot = match compiled.await {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return End::Refused,
            Err(error) => return End::Failed(error.to_string()),
        };
        let (stream, back) = match pair().await {
            Ok(pair) => pair,
            Err(error) => return End::Failed(error.to_string()),
        };
        let job = Job::Debug(Box::new(Debug {
            published: Arc::new(Published::new(Arc::new(snapshot))),
            request,
            stream,
            peer,
            logs,
        }));
        if self.shard.send(Item::Job(job)).is_err() {
            return End::Failed("the shard takes no jobs".to_owned());
        }
        let mut answer = Vec::new();
        let mut back = back.take(ANSWER_BYTES_MAX);
        match tokio::time::timeout(PATIENCE, back.read_to_end(&mut answer)).await {
            Ok(Ok(_)) if answer.is_empty() => End::Failed("no answer".to_owned()),
            Ok(Err(error)) if answer.is_empty() => End::Failed(error.to_string()),
            Err(_) if answer.is_empty() => End::Failed("no answer in 60 s".to_owned()),
            _ => {
                // Asked for in the form of HTTP/1.0; a client would be answered in its own.
                if let Some(minor) = answer.get_mut(..VERSION.len()) {
                    minor.copy_from_slice(VERSION);
                }
                End::Answered(answer)
            }
        }
    }
}

/// Two ends of one connection: for a shard, and for this thread.
async fn pair() -> io::Result<(std::net::TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let back = TcpStream::connect(listener.local_addr()?).await?;
    let own = back.local_addr()?;
    loop {
        let (stream, from) = listener.accept().await?;
        // Whoever else has found the port is not meant.
        if from == own {
            return Ok((stream.into_std()?, back));
        }
    }
}
