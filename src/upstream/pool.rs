//! Keep-alive connections of one shard to its upstreams, last in first out.
//!
//! Keyed by what makes connections interchangeable and not by API, so that a reload keeps them.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
};

use crate::{
    exchange::Local,
    net::{
        io::{Stream, Tcp, Transport},
        proxy_connect,
        sys::{self, PeerState},
        tls,
        watch::{AtDeadline, Deadline},
    },
    upstream::target::{Address, Target, Upstream},
};

/// A connection to an upstream.
pub struct Conn {
    pub stream: Stream,
    pub deadline: Rc<Deadline>,
    /// Bytes written since the connection was made.
    pub sent: Cell<u64>,
    /// An earlier exchange used it: the origin may be closing it right now.
    pub reused: Cell<bool>,
    idle_since_ms: Cell<u64>,
}

impl Conn {
    /// Whether the origin's kernel acknowledged any byte of the exchange that began after `sent`
    /// bytes. When it did not, the origin cannot have seen the request.
    #[must_use]
    pub fn is_acknowledged_beyond(&self, sent: u64) -> bool {
        // The SYN counts as one byte.
        sys::bytes_acknowledged(self.stream.fd()).is_none_or(|acked| acked > sent + 1)
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFault {
    /// The name does not exist, or could not be resolved.
    Lookup,
    /// No address accepted, or the handshake failed.
    Refused,
}

/// The idle connections of one shard.
#[derive(Default)]
pub struct Pools {
    idle: RefCell<HashMap<u64, Vec<Conn>, ahash::RandomState>>,
}

impl Pools {
    /// The most recently used idle connection to `target`, if any.
    #[must_use]
    pub fn take(&self, target: &Target) -> Option<Conn> {
        let mut idle = self.idle.borrow_mut();
        let conn = idle.get_mut(&target.pool_key)?.pop()?;
        conn.reused.set(true);
        Some(conn)
    }

    /// Keeps a connection whose last exchange ended cleanly.
    pub fn give(&self, target: &Target, conn: Conn, local: &Local) {
        conn.deadline.clear();
        conn.idle_since_ms.set(local.watch.clock().now_ms());
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(target.pool_key).or_default();
        if list.len() < local.settings.upstream_idle_max && !local.draining.get() {
            list.push(conn);
        }
    }

    /// Closes connections that idled too long or that the origin closed. Called once a second.
    pub fn sweep(&self, local: &Local) {
        let now_ms = local.watch.clock().now_ms();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, list| {
            list.retain(|conn| {
                now_ms.saturating_sub(conn.idle_since_ms.get()) < local.settings.upstream_idle_ms
                    && sys::peer_state(conn.stream.fd()) == PeerState::Open
            });
            !list.is_empty()
        });
    }

    /// Idle connections, for the metrics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.idle.borrow().values().map(Vec::len).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closes everything.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
    }
}

/// Opens a connection, trying the target's addresses in turn.
///
/// # Errors
/// [`ConnectFault`], after every address failed or the time was over.
pub async fn connect(
    upstream: &Upstream,
    target: &Target,
    local: &Local,
) -> Result<Conn, ConnectFault> {
    let timeout_ms = upstream.connect_timeout_ms;
    let address = target.proxy.as_ref().map_or(&target.address, |proxy| &proxy.address);
    let tcp = match address {
        Address::Literal(address) => Tcp::connect(*address, timeout_ms).await,
        Address::Name { name, port } => {
            let addresses = name.addresses(timeout_ms).await.ok_or(ConnectFault::Lookup)?;
            let mut last = Err(std::io::ErrorKind::NotFound.into());
            for address in addresses {
                last = Tcp::connect(SocketAddr::new(address, *port), timeout_ms).await;
                if last.is_ok() {
                    break;
                }
            }
            last
        }
    };
    let tcp = tcp.map_err(|error| {
        tracing::debug!(%error, target = %String::from_utf8_lossy(&target.authority), "connect failed");
        ConnectFault::Refused
    })?;
    let deadline = local.watch.deadline(tcp.fd());
    deadline.set(timeout_ms, AtDeadline::Shutdown);
    if let (Some(proxy), true) = (&target.proxy, target.tls.is_some()) {
        proxy_connect::connect(&tcp, proxy, &target.authority).await.map_err(|error| {
            tracing::warn!(%error, "the HTTP proxy refused to connect");
            ConnectFault::Refused
        })?;
    }
    let stream = match &target.tls {
        None => Stream::Tcp(tcp),
        Some(tls) => {
            let stream =
                tls::Tls::connect(tcp, std::sync::Arc::clone(&tls.config), tls.server_name.clone())
                    .await
                    .map_err(|error| {
                        tracing::warn!(%error, target = %String::from_utf8_lossy(&target.authority), "TLS handshake failed");
                        ConnectFault::Refused
                    })?;
            Stream::Tls(stream)
        }
    };
    deadline.clear();
    Ok(Conn {
        stream,
        deadline,
        sent: Cell::new(0),
        reused: Cell::new(false),
        idle_since_ms: Cell::new(0),
    })
}
