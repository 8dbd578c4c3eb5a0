//! Listening sockets: bound once, accepted by shards, handed from process to process.
//!
//! One socket per shard and address (`SO_REUSEPORT`), so that the kernel spreads connections and no
//! lock is shared. The sockets outlive processes: a binary upgrade hands the descriptors over and
//! never binds anew, because closing a socket resets what waits in its queue. For the same reason
//! an accept is never dropped, raced or timed out: it is cancelled, awaited, and what it brings is
//! served ([`Acceptor::stop`]).
//!
//! Tyk: `gateway/server.go` (`generateListener`), keys `listen_address`, `listen_port`.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    pin::pin,
    task::{Poll, Waker},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::net::{
    io::{Cancel, KEEP_ALIVE, Tcp, is_canceled},
    sys,
};

/// Connections that the kernel keeps ready for one socket; `net.core.somaxconn` may lower it.
const BACKLOG: i32 = 4096;

/// How long an accept waits after the process ran out of descriptors.
const STARVED_PAUSE_MS: u64 = 100;

/// Failed accepts between two log lines while descriptors are short (about 10 s for one accept).
const STARVED_LOG_EVERY: u32 = 100;

/// Where to listen, as written in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// Address or host name; empty for every address of the machine, IPv4 and IPv6.
    pub host: String,
    /// 0 lets the kernel choose.
    pub port: u16,
}

impl Place {
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
        }
    }

    /// The addresses to try in turn: the first that can be bound is taken.
    fn candidates(&self) -> Result<Vec<SocketAddr>, CannotListen> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            // A machine without IPv6 has no `::`.
            return Ok(vec![
                (Ipv6Addr::UNSPECIFIED, self.port).into(),
                (Ipv4Addr::UNSPECIFIED, self.port).into(),
            ]);
        }
        let mut found: Vec<SocketAddr> = (host, self.port)
            .to_socket_addrs()
            .map_err(|e| CannotListen {
                is_in_use: false,
                why: format!("cannot listen on {self}: the name `{host}` has no address ({e}); check `listen_address`"),
            })?
            .collect();
        // Go's net.Listen takes the IPv4 address of a name that has both.
        found.sort_by_key(SocketAddr::is_ipv6);
        Ok(found)
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = match self.host.as_str() {
            "" => "*",
            host => host,
        };
        if host.contains(':') && !host.starts_with('[') {
            write!(f, "[{host}]:{}", self.port)
        } else {
            write!(f, "{host}:{}", self.port)
        }
    }
}

/// The sockets of one purpose, such as `traffic` or `control`.
struct Group {
    name: String,
    place: Place,
    local: SocketAddr,
    sockets: Vec<OwnedFd>,
    /// Someone of this process asked for it; false for what was inherited and not asked for yet.
    claimed: bool,
}

/// What a process tells its successor about one group; descriptor numbers are the same in both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    pub name: String,
    pub place: Place,
    pub fds: Vec<RawFd>,
}

/// Why nothing listens at a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct CannotListen {
    /// Some socket listens there already. It may be the last of a process that was killed: what a
    /// ring had begun to accept keeps it for a moment longer than the process lives.
    pub is_in_use: bool,
    /// One line with address, cause and remedy.
    why: String,
}

/// Every listening socket of the process. Lives on the control thread; shards get duplicates.
#[derive(Default)]
pub struct ListenerSet {
    groups: Vec<Group>,
}

impl ListenerSet {
    /// Takes over the sockets that the process before this one described.
    ///
    /// # Errors
    /// Names the descriptor that is not a listening socket.
    pub fn adopt(handed: &[Handed]) -> Result<Self, String> {
        let mut groups = Vec::with_capacity(handed.len());
        for group in handed {
            let mut sockets = Vec::with_capacity(group.fds.len());
            for fd in &group.fds {
                let socket = sys::adopt_listener(*fd).map_err(|e| {
                    format!(
                        "descriptor {fd}, said to listen on {} ({}), is not a listening socket: {e}",
                        group.place, group.name
                    )
                })?;
                sockets.push(socket);
            }
            let Some(first) = sockets.first() else {
                continue;
            };
            let local = local_addr(first).map_err(|e| format!("{}: {e}", group.place))?;
            groups.push(Group {
                name: group.name.clone(),
                place: group.place.clone(),
                local,
                sockets,
                claimed: false,
            });
        }
        Ok(Self { groups })
    }

    /// Listens for `name` at `place`, with one socket per shard; sockets that were inherited for
    /// this name and place are used as they are, however many they are. Answers the address, with
    /// the port that the kernel chose.
    ///
    /// # Errors
    /// [`CannotListen`].
    pub fn open(
        &mut self,
        name: &str,
        place: &Place,
        shards: usize,
    ) -> Result<SocketAddr, CannotListen> {
        if let Some(group) = self
            .groups
            .iter_mut()
            .find(|g| g.name == name && g.place == *place)
        {
            group.claimed = true;
            return Ok(group.local);
        }
        let (local, sockets) = bind(place, shards.max(1))?;
        self.groups.push(Group {
            name: name.to_owned(),
            place: place.clone(),
            local,
            sockets,
            claimed: true,
        });
        Ok(local)
    }

    /// Duplicates of the sockets of `name` for `shards` shards, one list per shard. Every socket
    /// is in some list and no list is empty, whatever the two numbers are: a socket that nobody
    /// accepts would strand the clients that the kernel puts in its queue.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is free; not found for an unknown name.
    pub fn for_shards(&self, name: &str, shards: usize) -> io::Result<Vec<Vec<TcpListener>>> {
        let sockets: Vec<&OwnedFd> = self
            .groups
            .iter()
            .filter(|g| g.name == name && g.claimed)
            .flat_map(|g| &g.sockets)
            .collect();
        if sockets.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("nothing listens for `{name}`"),
            ));
        }
        (0..shards)
            .map(|shard| {
                spread(sockets.len(), shards, shard)
                    .filter_map(|i| sockets.get(i))
                    .map(|fd| fd.try_clone().map(TcpListener::from))
                    .collect()
            })
            .collect()
    }

    /// The address that `name` listens on.
    #[must_use]
    pub fn local_addr(&self, name: &str) -> Option<SocketAddr> {
        self.groups
            .iter()
            .find(|g| g.name == name && g.claimed)
            .map(|g| g.local)
    }

    /// Closes this set's copies for `name`; the sockets end with the last copy of a shard.
    pub fn close(&mut self, name: &str) {
        self.groups.retain(|g| g.name != name);
    }

    /// Closes what was inherited and nobody asked for, and tells where that was.
    pub fn close_unclaimed(&mut self) -> Vec<Place> {
        let gone = self
            .groups
            .iter()
            .filter(|g| !g.claimed)
            .map(|g| g.place.clone())
            .collect();
        self.groups.retain(|g| g.claimed);
        gone
    }

    /// What the next process has to know. The descriptors stay this set's.
    #[must_use]
    pub fn describe(&self) -> Vec<Handed> {
        self.groups
            .iter()
            .map(|g| Handed {
                name: g.name.clone(),
                place: g.place.clone(),
                fds: g.sockets.iter().map(AsRawFd::as_raw_fd).collect(),
            })
            .collect()
    }
}

/// Which of `sockets` sockets the shard number `shard` accepts from.
fn spread(sockets: usize, shards: usize, shard: usize) -> impl Iterator<Item = usize> {
    let first = if sockets == 0 { 0 } else { shard % sockets };
    (first..sockets).step_by(if shard < sockets {
        shards.max(1)
    } else {
        usize::MAX
    })
}

fn bind(place: &Place, count: usize) -> Result<(SocketAddr, Vec<OwnedFd>), CannotListen> {
    let mut failure = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
    for addr in place.candidates()? {
        match bind_addr(addr, count) {
            Ok(bound) => return Ok(bound),
            Err(e) => {
                let try_next = matches!(
                    e.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                );
                failure = e;
                if !try_next {
                    break;
                }
            }
        }
    }
    Err(CannotListen {
        is_in_use: failure.raw_os_error() == Some(libc::EADDRINUSE),
        why: explain(place, &failure),
    })
}

/// One line for the person who starts the gateway: where, why, what to do.
fn explain(place: &Place, error: &io::Error) -> String {
    let port = place.port;
    let why = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => format!(
            "port {port} is in use by another process; stop it (`ss -ltnp 'sport = :{port}'` \
             names it) or choose another port with `listen_port` or TYK_GW_LISTENPORT"
        ),
        Some(libc::EACCES | libc::EPERM) => format!(
            "no permission for port {port}; choose a port from 1024 or give the program the \
             capability (`setcap cap_net_bind_service=+ep` on the binary)"
        ),
        Some(libc::EADDRNOTAVAIL) => "this machine has no such address; check `listen_address` \
                                      (empty listens on all)"
            .to_owned(),
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is free; raise the limit \
                                              (`ulimit -n`, LimitNOFILE=)"
            .to_owned(),
        _ => error.to_string(),
    };
    format!("cannot listen on {place}: {why}")
}

fn bind_addr(addr: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    // SO_REUSEPORT would let a second gateway of the same user share the port without a word, so
    // the first look is taken without it.
    let probe = socket(addr)?;
    probe.bind(&addr.into())?;
    drop(probe);

    let mut local = addr;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = socket(addr)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit both, which saves calls per connection.
        socket.set_tcp_nodelay(true)?;
        let (time, interval, retries) = KEEP_ALIVE;
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(time)
                .with_interval(interval)
                .with_retries(retries),
        )?;
        socket.bind(&local.into())?;
        socket.listen(BACKLOG)?;
        let fd = OwnedFd::from(socket);
        local = local_addr(&fd)?;
        sockets.push(fd);
    }
    Ok((local, sockets))
}

/// A TCP socket: close-on-exec, non-blocking (a shared descriptor must never block the process
/// that lost the race for a connection), address reusable after a restart.
fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if let SocketAddr::V6(v6) = addr {
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    Ok(socket)
}

fn local_addr(fd: &OwnedFd) -> io::Result<SocketAddr> {
    socket2::SockRef::from(fd)
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not an internet socket"))
}

/// A listening socket on a shard's runtime.
pub struct Acceptor {
    listener: monoio::net::TcpListener,
    cancel: Cancel,
    stopped: Cell<bool>,
    /// Accepts that wait for readiness and look at `stopped` when woken.
    waiting: RefCell<Vec<Waker>>,
    /// Accepts that failed for want of a descriptor since the last one that did not.
    starved_count: Cell<u32>,
}

impl Acceptor {
    /// Gives a socket to the runtime of this thread.
    ///
    /// # Errors
    /// The epoll driver's, when it cannot register the socket.
    pub fn new(socket: TcpListener) -> io::Result<Self> {
        Ok(Self {
            listener: monoio::net::TcpListener::from_std(socket)?,
            cancel: Cancel::default(),
            stopped: Cell::new(false),
            waiting: RefCell::default(),
            starved_count: Cell::new(0),
        })
    }

    /// How many accepts to keep under way. The epoll driver remembers one waiter per socket: a
    /// second one would never be woken, nor cancelled.
    #[must_use]
    pub fn in_flight_max() -> usize {
        if monoio::utils::is_legacy() { 1 } else { 16 }
    }

    /// Waits for a connection; `None` once [`Acceptor::stop`] was called. The caller awaits the
    /// future to its end and serves what it brings, also after `stop`.
    ///
    /// Out of descriptors, it tries again after `pause` (Go's `http.Server` does the same): clients
    /// wait in the kernel's queue meanwhile. The address comes from the accept itself, an IPv4
    /// client of a dual-stack socket as IPv4; no further system call is made.
    ///
    /// # Errors
    /// Only when the socket itself is unusable.
    pub async fn accept(
        &self,
        pause: impl AsyncFn(Duration),
    ) -> io::Result<Option<(Tcp, SocketAddr)>> {
        while !self.stopped.get() {
            match self.listener.cancelable_accept(self.cancel.handle()).await {
                Ok((stream, mut peer)) => {
                    if self.starved_count.take() > 0 {
                        tracing::info!("file descriptors are free again, accepting connections");
                    }
                    peer.set_ip(peer.ip().to_canonical());
                    return Ok(Some((Tcp::accepted(stream), peer)));
                }
                Err(e) if is_canceled(&e) => {}
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => self.readable_or_stopped().await?,
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        let count = self.starved_count.get();
                        if count.is_multiple_of(STARVED_LOG_EVERY) {
                            tracing::warn!(
                                "cannot accept connections ({e}); clients wait until file descriptors are free; raise the limit (`ulimit -n`, LimitNOFILE=)"
                            );
                        }
                        self.starved_count.set(count.wrapping_add(1).max(1));
                        pause(Duration::from_millis(STARVED_PAUSE_MS)).await;
                    }
                    Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => {
                        return Err(e);
                    }
                    // accept(2): errors of the connection that just came, which is gone.
                    _ => {}
                },
            }
        }
        Ok(None)
    }

    /// Ends accepting: accepts under way answer with the connection that they already hold, or
    /// with `None`. The socket is closed by dropping the acceptor, after the last accept answered.
    pub fn stop(&self) {
        self.stopped.set(true);
        self.cancel.cancel();
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// Some kernels answer an accept on a non-blocking socket with EAGAIN instead of waiting.
    /// A poll holds nothing, so this one may be dropped.
    async fn readable_or_stopped(&self) -> io::Result<()> {
        let mut readable = pin!(self.listener.readable(true));
        poll_fn(|cx| {
            if self.stopped.get() {
                return Poll::Ready(Ok(()));
            }
            let answer = readable.as_mut().poll(cx);
            if answer.is_pending() {
                let mut waiting = self.waiting.borrow_mut();
                if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
                    waiting.push(cx.waker().clone());
                }
            }
            answer
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        rc::Rc,
    };

    use super::*;
    use crate::net::io::{Transport, tests::on_both_drivers};

    async fn pause(time: Duration) {
        monoio::time::sleep(time).await;
    }

    fn loopback() -> Place {
        Place::new("127.0.0.1", 0)
    }

    fn opened(shards: usize) -> (ListenerSet, SocketAddr) {
        let mut set = ListenerSet::default();
        let addr = set.open("traffic", &loopback(), shards).expect("a port");
        (set, addr)
    }

    fn one_acceptor(set: &ListenerSet) -> Acceptor {
        let socket = set
            .for_shards("traffic", 1)
            .expect("duplicates")
            .remove(0)
            .remove(0);
        Acceptor::new(socket).expect("an acceptor")
    }

    #[test]
    fn every_socket_is_accepted_and_every_shard_accepts() {
        for sockets in 1..9 {
            for shards in 1..9 {
                let lists: Vec<Vec<usize>> = (0..shards)
                    .map(|shard| spread(sockets, shards, shard).collect())
                    .collect();
                assert!(lists.iter().all(|l| !l.is_empty()), "{sockets} {shards}");
                let mut all = lists.concat();
                all.sort_unstable();
                all.dedup();
                assert_eq!(all, (0..sockets).collect::<Vec<_>>(), "{sockets} {shards}");
            }
        }
    }

    #[test]
    fn a_port_in_use_is_refused_although_it_is_shared_between_shards() {
        let (_set, addr) = opened(2);
        let mut second = ListenerSet::default();
        let error = second
            .open("traffic", &Place::new("127.0.0.1", addr.port()), 2)
            .expect_err("the port is taken");
        assert!(error.is_in_use);
        let error = error.to_string();
        assert!(
            error.contains(&format!("port {} is in use", addr.port())),
            "{error}"
        );
        assert!(error.contains("listen_port"), "{error}");
    }

    #[test]
    fn a_foreign_address_and_an_unknown_name_are_refused_with_a_remedy() {
        for host in ["192.0.2.1", "no-such-name.invalid"] {
            let error = ListenerSet::default()
                .open("traffic", &Place::new(host, 0), 1)
                .expect_err("not ours");
            assert!(!error.is_in_use);
            let error = error.to_string();
            assert!(
                error.contains(host) && error.contains("listen_address"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_empty_host_listens_for_both_families_and_clients_keep_theirs() {
        on_both_drivers(|| async {
            let mut set = ListenerSet::default();
            let addr = set.open("traffic", &Place::new("", 0), 1).expect("a port");
            let acceptor = one_acceptor(&set);
            let client =
                std::net::TcpStream::connect(("127.0.0.1", addr.port())).expect("connects");
            let (_tcp, peer) = acceptor.accept(pause).await.expect("accepts").expect("one");
            assert_eq!(peer, client.local_addr().expect("bound"));
        });
    }

    #[test]
    fn accepted_connections_carry_bytes_and_send_small_answers_at_once() {
        on_both_drivers(|| async {
            let (set, addr) = opened(1);
            let acceptor = one_acceptor(&set);
            let mut client = std::net::TcpStream::connect(addr).expect("connects");
            let (tcp, _) = acceptor.accept(pause).await.expect("accepts").expect("one");
            assert!(sys::is_nodelay(tcp.fd()), "TCP_NODELAY is inherited");
            tcp.write_all(b"hello".to_vec(), 0).await.0.expect("writes");
            let mut got = [0; 5];
            client.read_exact(&mut got).expect("reads");
            assert_eq!(&got, b"hello");
            client.write_all(b"bye").expect("writes");
            let (result, buf) = tcp.read(Vec::with_capacity(16)).await;
            assert_eq!(
                (result.expect("reads"), buf.as_slice()),
                (3, b"bye".as_slice())
            );
        });
    }

    #[test]
    fn stopping_ends_waiting_accepts_and_later_ones() {
        on_both_drivers(|| async {
            let (set, _) = opened(1);
            let acceptor = Rc::new(one_acceptor(&set));
            let waiting: Vec<_> = (0..Acceptor::in_flight_max())
                .map(|_| {
                    let acceptor = acceptor.clone();
                    monoio::spawn(async move { acceptor.accept(pause).await })
                })
                .collect();
            pause(Duration::from_millis(5)).await;
            acceptor.stop();
            for accept in waiting {
                assert!(accept.await.expect("no error").is_none());
            }
            assert!(acceptor.accept(pause).await.expect("no error").is_none());
        });
    }

    #[test]
    fn clients_that_come_while_accepting_stops_are_served_or_left_to_the_next_process() {
        on_both_drivers(|| async {
            for round in 0..20 {
                let (set, addr) = opened(1);
                let first = Rc::new(one_acceptor(&set));
                let served = Rc::new(Cell::new(0));
                let loops: Vec<_> = (0..Acceptor::in_flight_max())
                    .map(|_| {
                        let (acceptor, served) = (first.clone(), served.clone());
                        monoio::spawn(async move {
                            while let Ok(Some((tcp, _))) = acceptor.accept(pause).await {
                                tcp.write_all(b"1".to_vec(), 0).await.0.expect("writes");
                                served.set(served.get() + 1);
                            }
                        })
                    })
                    .collect();
                let clients = std::thread::spawn(move || {
                    (0..40)
                        .map(|_| std::net::TcpStream::connect(addr).expect("connects"))
                        .collect::<Vec<_>>()
                });
                for _ in 0..round {
                    monoio::time::sleep(Duration::from_micros(50)).await;
                }
                first.stop();
                for task in loops {
                    task.await;
                }
                drop(first);
                // The second acceptor is what the next process would hold.
                let second = one_acceptor(&set);
                while served.get() < 40 {
                    let (tcp, _) = second.accept(pause).await.expect("accepts").expect("one");
                    tcp.write_all(b"2".to_vec(), 0).await.0.expect("writes");
                    served.set(served.get() + 1);
                }
                for mut client in clients.join().expect("clients") {
                    client.read_exact(&mut [0]).expect("answered");
                }
            }
        });
    }

    #[test]
    fn inherited_sockets_are_used_and_the_unclaimed_ones_named() {
        let (mut set, addr) = opened(3);
        set.open("old", &loopback(), 1).expect("a port");
        // What exec would leave open under the same numbers.
        let handed: Vec<Handed> = set
            .describe()
            .into_iter()
            .map(|mut group| {
                for fd in &mut group.fds {
                    *fd = sys::duplicate(*fd).expect("a descriptor");
                }
                group
            })
            .collect();
        drop(set);
        let text = serde_json::to_string(&handed).expect("plain data");
        let handed: Vec<Handed> = serde_json::from_str(&text).expect("plain data");
        let mut next = ListenerSet::adopt(&handed).expect("listening sockets");
        assert_eq!(next.open("traffic", &loopback(), 5), Ok(addr));
        assert_eq!(next.for_shards("traffic", 5).expect("copies").len(), 5);
        assert_eq!(next.close_unclaimed(), [loopback()]);
        std::net::TcpStream::connect(addr).expect("still listening");
    }

    #[test]
    fn a_descriptor_that_does_not_listen_is_not_adopted() {
        let file = std::fs::File::open("/dev/null").expect("opens");
        let fd = sys::duplicate(file.as_raw_fd()).expect("a descriptor");
        let handed = Handed {
            name: "traffic".into(),
            place: loopback(),
            fds: vec![fd],
        };
        let error = ListenerSet::adopt(&[handed]).err().expect("refused");
        assert!(error.contains("not a listening socket"), "{error}");
    }

    /// Not a test of its own: the process whose descriptors run out, with the listening socket as
    /// its standard input.
    #[test]
    fn process_with_few_descriptors() {
        let Ok(driver) = std::env::var("PENSTOCK_TEST_DRIVER") else {
            return;
        };
        let socket = || {
            let fd = sys::duplicate(0).expect("standard input");
            TcpListener::from(sys::adopt_listener(fd).expect("it listens"))
        };
        let serve = || async {
            let acceptor = Rc::new(Acceptor::new(socket()).expect("an acceptor"));
            sys::set_open_files_max(Some(40)).expect("a limit");
            let loops: Vec<_> = (0..Acceptor::in_flight_max())
                .map(|_| {
                    let acceptor = acceptor.clone();
                    monoio::spawn(async move {
                        while let Ok(Some((tcp, _))) = acceptor.accept(pause).await {
                            monoio::spawn(async move {
                                let (_, buf) = tcp.read(Vec::with_capacity(1)).await;
                                let _ = tcp.write_all(buf, 0).await;
                                let _ = tcp.read(Vec::with_capacity(1)).await;
                            });
                        }
                    })
                })
                .collect();
            for task in loops {
                task.await;
            }
        };
        match driver.as_str() {
            "legacy" => monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
                .enable_timer()
                .build()
                .expect("a runtime")
                .block_on(serve()),
            _ => monoio::RuntimeBuilder::<monoio::FusionDriver>::new()
                .enable_timer()
                .build()
                .expect("a runtime")
                .block_on(serve()),
        }
    }

    /// Hundredths of a second that a process has computed (proc(5), utime and stime).
    fn cpu_ticks(pid: u32) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .expect("fields")
            .split(' ')
            .collect();
        fields[12].parse::<u64>().expect("a number") + fields[13].parse::<u64>().expect("a number")
    }

    #[test]
    fn without_descriptors_accepting_rests_and_goes_on_when_some_are_free() {
        for driver in ["fusion", "legacy"] {
            let (set, addr) = opened(1);
            let socket = set
                .for_shards("traffic", 1)
                .expect("a copy")
                .remove(0)
                .remove(0);
            let mut server = std::process::Command::new(std::env::current_exe().expect("this"))
                .args([
                    "net::listener::tests::process_with_few_descriptors",
                    "--exact",
                ])
                .env("PENSTOCK_TEST_DRIVER", driver)
                .stdin(OwnedFd::from(socket))
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("starts");
            let mut waiting: Vec<std::net::TcpStream> = (0..45)
                .map(|_| {
                    let mut client = std::net::TcpStream::connect(addr).expect("connects");
                    client.write_all(b"?").expect("writes");
                    client
                })
                .collect();
            let is_served = |client: &mut std::net::TcpStream, within_ms: u64| {
                let within = Some(Duration::from_millis(within_ms));
                client.set_read_timeout(within).expect("a timeout");
                client.read_exact(&mut [0]).is_ok()
            };
            assert!(
                is_served(&mut waiting[0], 10_000),
                "{driver}: nobody is served"
            );
            let mut held: Vec<_> = waiting.extract_if(1.., |c| is_served(c, 5)).collect();
            assert!(held.len() < 40, "{driver}: the limit is not reached");
            let before = cpu_ticks(server.id());
            held.extend(waiting.extract_if(1.., |c| is_served(c, 25)));
            let spent = cpu_ticks(server.id()) - before;
            assert!(
                spent < 20,
                "{driver}: {spent} ticks in about a second of rest"
            );
            drop(held);
            for client in waiting.iter_mut().skip(1) {
                assert!(is_served(client, 10_000), "{driver}: a client is forgotten");
            }
            server.kill().expect("ours");
            server.wait().expect("ours");
        }
    }
}
