//! Keep-alive connections of one shard to its upstreams, last in first out.
//!
//! Keyed by what makes connections interchangeable and not by API, so that a reload keeps them.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use crate::{
    exchange::Local,
    net::{
        dns,
        io::{Stream, Tcp, Transport},
        sys,
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
    /// The most recently used idle connection to `target`, if any. One that idled for more than a
    /// moment is looked at first: an origin that ended it, or said what nobody asked for (RFC 9112
    /// §9.2), must not meet the next request.
    #[must_use]
    pub fn take(&self, target: &Target, local: &Local) -> Option<Conn> {
        let now_ms = local.watch.clock().now_ms();
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(&target.pool_key)?;
        while let Some(conn) = list.pop() {
            if conn.idle_since_ms.get() == now_ms || sys::is_quiet(conn.stream.fd()) {
                conn.reused.set(true);
                local.metrics.upstream_reuses.count();
                return Some(conn);
            }
        }
        None
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

    /// Closes connections that idled too long, that the origin closed, or on which it said what
    /// nobody asked for. Called once a second.
    pub fn sweep(&self, local: &Local) {
        let now_ms = local.watch.clock().now_ms();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, list| {
            list.retain(|conn| {
                now_ms.saturating_sub(conn.idle_since_ms.get()) < local.settings.upstream_idle_ms
                    && sys::is_quiet(conn.stream.fd())
            });
            !list.is_empty()
        });
        drop(idle);
        local.metrics.upstream_idle.set(self.len() as u64);
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
    let address = target
        .proxy
        .as_ref()
        .map_or(&target.address, |via| &via.address);
    let tcp = dial(address, timeout_ms, local).await?;
    let deadline = local.watch.deadline(tcp.fd());
    deadline.set(timeout_ms, AtDeadline::Shutdown);
    if let (Some(via), true) = (&target.proxy, target.tls.is_some()) {
        via.proxy
            .open_tunnel(&tcp, &target.host, target.port)
            .await
            .map_err(|error| {
                tracing::warn!(%error, host = target.host, "the HTTP proxy opened no tunnel");
                ConnectFault::Refused
            })?;
    }
    let stream = match &target.tls {
        None => Stream::Tcp(tcp),
        Some(tls) => {
            let stream = tls.config.connect(tcp, &tls.host).await.map_err(|error| {
                tracing::warn!(%error, host = target.host, "TLS handshake with the upstream failed");
                ConnectFault::Refused
            })?;
            Stream::Tls(stream)
        }
    };
    deadline.clear();
    local.metrics.upstream_connections.count();
    Ok(Conn {
        stream,
        deadline,
        sent: Cell::new(0),
        reused: Cell::new(false),
        idle_since_ms: Cell::new(0),
    })
}

/// Tries the addresses of a name in turn, within `timeout_ms` for all of them.
async fn dial(address: &Address, timeout_ms: u64, local: &Local) -> Result<Tcp, ConnectFault> {
    let timeout = Duration::from_millis(timeout_ms);
    let (name, port) = match address {
        Address::Literal(address) => {
            return Tcp::connect(*address, timeout).await.map_err(|error| {
                tracing::debug!(%error, %address, "connect failed");
                ConnectFault::Refused
            });
        }
        Address::Name { name, port } => (name, *port),
    };
    let mut waited_ms = 0;
    // Only right after the start or a reload: the control thread is asking.
    while name.answer().state == dns::State::Pending && waited_ms < timeout_ms {
        waited_ms += NAME_LOOK_MS;
        crate::net::io::sleep(Duration::from_millis(NAME_LOOK_MS)).await;
    }
    let mut addresses = name.in_turn(port);
    let count = addresses.clone().count() as u64;
    if count == 0 {
        return Err(ConnectFault::Lookup);
    }
    let clock = local.watch.clock();
    let end_ms = clock.now_ms().saturating_add(timeout_ms);
    for left in (1..=count).rev() {
        let Some(address) = addresses.next() else {
            break;
        };
        let share_ms = share_ms(end_ms.saturating_sub(clock.now_ms()), left);
        match Tcp::connect(address, Duration::from_millis(share_ms)).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => tracing::debug!(%error, %address, "connect failed"),
        }
    }
    Err(ConnectFault::Refused)
}

/// How much of the time that is left one of `count` addresses gets, so that a dead one leaves some
/// to the others (Go: `net.partialDeadline`).
fn share_ms(left_ms: u64, count: u64) -> u64 {
    const LEAST_MS: u64 = 2_000;
    (left_ms / count.max(1)).max(LEAST_MS.min(left_ms)).max(1)
}

/// Between two looks at a name that is being resolved.
const NAME_LOOK_MS: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_share_the_time_to_connect() {
        for (left_ms, count, expected) in [
            (30_000, 1, 30_000),
            (30_000, 3, 10_000),
            // Less than two seconds is too little to tell a dead address from a far one.
            (3_000, 3, 2_000),
            (1_000, 2, 1_000),
            (0, 2, 1),
        ] {
            assert_eq!(
                share_ms(left_ms, count),
                expected,
                "{left_ms} ms for {count}"
            );
        }
    }
}
