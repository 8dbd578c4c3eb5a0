//! Accepting: several accepts under way per socket, ended only by being awaited.

use std::{cell::Cell, net::TcpListener, rc::Rc, time::Duration};

use tokio::sync::oneshot;

use crate::{
    gateway::snapshot::PortKey,
    net::{io::connections_open, listener::Acceptor, tls::ServerTls},
    shard::{Shard, conn},
};

/// Between two looks whether connections may be accepted again.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// How many connections a process with so many descriptors takes: a quarter is kept for connections
/// to upstreams, for files, and for the control API.
#[must_use]
pub fn connections_max(descriptors: usize) -> usize {
    descriptors - (descriptors / 4).clamp(64.min(descriptors / 2), 4096)
}

/// A socket that this shard accepts on.
pub struct Listening {
    pub key: PortKey,
    acceptor: Acceptor,
    /// APIs are served here too.
    is_traffic: bool,
    /// Accepts under way.
    running: Cell<usize>,
}

/// Starts accepting on a socket.
pub fn start(
    shard: &Rc<Shard>,
    key: PortKey,
    socket: TcpListener,
    tls: Option<ServerTls>,
    is_traffic: bool,
) {
    let acceptor = match Acceptor::new(socket) {
        Ok(acceptor) => acceptor,
        Err(error) => {
            tracing::error!(%error, port = key.port, "cannot accept on a socket");
            return;
        }
    };
    let listening = Rc::new(Listening {
        key,
        acceptor,
        is_traffic,
        running: Cell::new(0),
    });
    shard.acceptors.borrow_mut().push(Rc::clone(&listening));
    for _ in 0..Acceptor::in_flight_max() {
        let (shard, tls) = (Rc::clone(shard), tls.clone());
        let running = Running::new(&listening);
        conn::spawn(async move { accepts(&shard, &running.0, tls).await });
    }
}

/// Counts an accept as under way while it lives, however it ends: [`stop`] waits for it.
struct Running(Rc<Listening>);

impl Running {
    fn new(listening: &Rc<Listening>) -> Self {
        listening.running.set(listening.running.get() + 1);
        Self(Rc::clone(listening))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

async fn accepts(shard: &Rc<Shard>, listening: &Listening, tls: Option<ServerTls>) {
    loop {
        // A listener of the control API alone never waits: that is what the reserve is for.
        while listening.is_traffic
            && connections_open() >= shard.connections_max
            && !listening.acceptor.is_stopped()
        {
            crate::net::io::sleep(FULL_PAUSE).await;
        }
        match listening
            .acceptor
            .accept(async |span| crate::net::io::sleep(span).await)
            .await
        {
            Ok(Some((tcp, peer))) => {
                let (key, tls) = (listening.key, tls.clone());
                // Counted before anything else happens: who asks after `stop` sees it.
                let open = conn::Open::new(&shard.worker.local.metrics);
                conn::spawn(conn::serve(open, Rc::clone(shard), tcp, peer, key, tls));
            }
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, port = listening.key.port, "accepting ended");
                return;
            }
        }
    }
}

/// Stops accepting on one listener, or on all. `stopped` is told when every accept has answered and
/// what it brought is being served.
pub fn stop(shard: &Rc<Shard>, key: Option<PortKey>, stopped: oneshot::Sender<()>) {
    let mut ending = Vec::new();
    shard.acceptors.borrow_mut().retain(|listening| {
        let ends = key.is_none_or(|key| key == listening.key);
        if ends {
            ending.push(Rc::clone(listening));
        }
        !ends
    });
    for listening in &ending {
        listening.acceptor.stop();
    }
    conn::spawn(async move {
        while ending.iter().any(|listening| listening.running.get() > 0) {
            crate::net::io::sleep(Duration::from_millis(1)).await;
        }
        drop(ending);
        // Nobody may be waiting any more.
        let _ = stopped.send(());
    });
}
