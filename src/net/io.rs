//! The seam between the gateway and its runtime: byte streams with owned buffers.
//!
//! Everything above `net` reads and writes through [`Transport`]; monoio's types appear only here
//! and in `shard::runtime`, so that another runtime can take its place. Buffers move into an
//! operation and come back with its result, as completion-based IO needs it.

use std::{
    cell::RefCell,
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    rc::Rc,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use monoio::{
    buf::{IoBuf, IoBufMut},
    io::{AsyncReadRent, AsyncWriteRentExt, CancelHandle, CancelableAsyncReadRent, Canceller},
    net::TcpStream,
};

use crate::net::{
    sys::{self, Duplex, Half},
    tls::Tls,
};

/// What an operation brings back: its result and the buffer that was lent to it.
pub type Lent<T> = (io::Result<T>, Vec<u8>);

/// `ECANCELED`: the answer of a read that [`Cancel::cancel`] ended. No byte was lost.
#[must_use]
pub fn is_canceled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

/// When a peer that says nothing is asked whether it is there, how often again, and how many times:
/// a tunnel has no other limit (Go asks, too).
pub(in crate::net) const KEEP_ALIVE: (Duration, Duration, u32) =
    (Duration::from_secs(60), Duration::from_secs(15), 4);

/// Ends reads and accepts that were started with it, without losing what they brought.
#[derive(Default)]
pub struct Cancel(RefCell<Canceller>);

impl Cancel {
    /// Ends the operations under way; later ones are not affected.
    pub fn cancel(&self) {
        let canceller = self.0.take();
        self.0.replace(canceller.cancel());
    }

    pub(in crate::net) fn handle(&self) -> CancelHandle {
        self.0.borrow().handle()
    }
}

/// A duplex byte stream. At most one read and one write are under way at a time.
///
/// Futures of this trait are awaited to their end: dropping one would lose what it brought.
pub trait Transport {
    /// Appends to `buf`, at most up to its capacity. `Ok(0)` is the end of the stream.
    fn read(&self, buf: Vec<u8>) -> impl Future<Output = Lent<usize>>;

    /// As [`Transport::read`]; `ECANCELED` when `cancel` was faster.
    fn read_until_canceled(
        &self,
        buf: Vec<u8>,
        cancel: &Cancel,
    ) -> impl Future<Output = Lent<usize>>;

    /// Writes `buf[from..]` to the last byte.
    fn write_all(&self, buf: Vec<u8>, from: usize) -> impl Future<Output = Lent<()>>;

    /// Waits, holding no buffer, until a read would not wait.
    fn readable(&self) -> impl Future<Output = io::Result<()>>;

    /// Ends one or both directions at once; reads and writes under way end with it.
    fn shutdown(&self, half: Half);

    /// The descriptor, for looking at it.
    fn fd(&self) -> RawFd;
}

/// Waits on the shard's own timer.
pub async fn sleep(span: Duration) {
    monoio::time::sleep(span).await;
}

/// A descriptor that is waited for and never read here, such as an inbox's bell.
pub struct Pollable(monoio::net::UnixStream);

impl Pollable {
    /// Watches a duplicate of `fd`.
    ///
    /// # Errors
    /// When no descriptor is free.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        // The runtime only polls it, so its kind does not matter.
        let stream = std::os::unix::net::UnixStream::from(fd.try_clone_to_owned()?);
        monoio::net::UnixStream::from_std(stream).map(Self)
    }

    /// Waits until a read would not wait.
    ///
    /// # Errors
    /// The kernel's answer.
    pub async fn readable(&self) -> io::Result<()> {
        // Strict: the bytes are read elsewhere, so the epoll driver must look for itself.
        self.0.readable(false).await
    }
}

/// TCP connections open in this process, both sides: what descriptors are spent on.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// How many TCP connections this process has open.
#[must_use]
pub fn connections_open() -> usize {
    OPEN.load(Ordering::Relaxed)
}

/// A TCP connection of this shard's runtime.
#[derive(Clone)]
pub struct Tcp(Rc<Socket>);

/// Counts while it lives.
struct Socket(Duplex<TcpStream>);

impl Socket {
    fn new(stream: TcpStream) -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self(Duplex::new(stream))
    }

    #[allow(clippy::mut_from_ref, reason = "see `Duplex::get`")]
    fn get(&self) -> &mut TcpStream {
        self.0.get()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tcp {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Small answers must not wait for an acknowledgement; failure leaves them slow, not wrong.
        let _ = stream.set_nodelay(true);
        Self::accepted(stream)
    }

    /// A connection that was opened elsewhere.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Self> {
        TcpStream::from_std(stream).map(Self::new)
    }

    /// A connection that got `TCP_NODELAY` from its listening socket.
    pub(in crate::net) fn accepted(stream: TcpStream) -> Self {
        Self(Rc::new(Socket::new(stream)))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The kernel's answer, or timed out.
    pub async fn connect(addr: SocketAddr, timeout: Duration) -> io::Result<Self> {
        #[allow(
            clippy::disallowed_methods,
            reason = "an attempt that is given up has brought nothing that could be lost"
        )]
        match monoio::time::timeout(timeout, TcpStream::connect_addr(addr)).await {
            Ok(stream) => {
                let stream = stream?;
                // Failure leaves a dead peer unnoticed while nothing is sent to it.
                let (time, interval, retries) = KEEP_ALIVE;
                let _ = stream.set_tcp_keepalive(Some(time), Some(interval), Some(retries));
                Ok(Self::new(stream))
            }
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Transport for Tcp {
    async fn read(&self, buf: Vec<u8>) -> Lent<usize> {
        let filled = buf.len();
        let capacity = buf.capacity();
        let (result, slice) = self.0.get().read(buf.slice_mut(filled..capacity)).await;
        (result, slice.into_inner())
    }

    async fn read_until_canceled(&self, buf: Vec<u8>, cancel: &Cancel) -> Lent<usize> {
        let filled = buf.len();
        let capacity = buf.capacity();
        let handle = cancel.handle();
        let (result, slice) = self
            .0
            .get()
            .cancelable_read(buf.slice_mut(filled..capacity), handle)
            .await;
        (result, slice.into_inner())
    }

    async fn write_all(&self, buf: Vec<u8>, from: usize) -> Lent<()> {
        let (result, slice) = self.0.get().write_all(buf.slice(from..)).await;
        (result.map(drop), slice.into_inner())
    }

    async fn readable(&self) -> io::Result<()> {
        self.0.get().readable(true).await
    }

    fn shutdown(&self, half: Half) {
        sys::shutdown(self.fd(), half);
    }

    fn fd(&self) -> RawFd {
        self.0.get().as_raw_fd()
    }
}

/// A connection, encrypted or not. Cloning shares it.
#[derive(Clone)]
pub enum Stream {
    Tcp(Tcp),
    Tls(Tls),
}

/// Futures of the encrypted side are boxed, so that a plain connection does not carry their size.
impl Transport for Stream {
    async fn read(&self, buf: Vec<u8>) -> Lent<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read(buf).await,
            Self::Tls(tls) => Box::pin(tls.read(buf)).await,
        }
    }

    async fn read_until_canceled(&self, buf: Vec<u8>, cancel: &Cancel) -> Lent<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read_until_canceled(buf, cancel).await,
            Self::Tls(tls) => Box::pin(tls.read_until_canceled(buf, cancel)).await,
        }
    }

    async fn write_all(&self, buf: Vec<u8>, from: usize) -> Lent<()> {
        match self {
            Self::Tcp(tcp) => tcp.write_all(buf, from).await,
            Self::Tls(tls) => Box::pin(tls.write_all(buf, from)).await,
        }
    }

    async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.readable().await,
            Self::Tls(tls) => Box::pin(tls.readable()).await,
        }
    }

    fn shutdown(&self, half: Half) {
        match self {
            Self::Tcp(tcp) => tcp.shutdown(half),
            Self::Tls(tls) => tls.shutdown(half),
        }
    }

    fn fd(&self) -> RawFd {
        match self {
            Self::Tcp(tcp) => tcp.fd(),
            Self::Tls(tls) => tls.fd(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use monoio::{FusionDriver, LegacyDriver, RuntimeBuilder};

    use super::*;

    /// Runs the same body on io_uring (where the machine has it) and on epoll.
    pub(crate) fn on_both_drivers<F: Future<Output = ()>>(body: impl Fn() -> F) {
        RuntimeBuilder::<FusionDriver>::new()
            .enable_timer()
            .build()
            .expect("a runtime")
            .block_on(body());
        RuntimeBuilder::<LegacyDriver>::new()
            .enable_timer()
            .build()
            .expect("a runtime")
            .block_on(body());
    }

    /// Two ends of one loopback connection.
    pub(in crate::net) async fn pair() -> (Tcp, Tcp) {
        let listener = monoio::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let client = std::net::TcpStream::connect(addr).expect("connects");
        client.set_nonblocking(true).expect("a socket");
        let client = TcpStream::from_std(client).expect("registers");
        let (server, _) = listener.accept().await.expect("accepts");
        (Tcp::new(client), Tcp::new(server))
    }

    #[test]
    fn a_canceled_read_gives_its_buffer_back_and_loses_nothing() {
        on_both_drivers(|| async {
            let (a, b) = pair().await;
            let cancel = Rc::new(Cancel::default());
            let read = monoio::spawn({
                let (a, cancel) = (a.clone(), cancel.clone());
                async move { a.read_until_canceled(Vec::with_capacity(64), &cancel).await }
            });
            monoio::time::sleep(std::time::Duration::from_millis(2)).await;
            cancel.cancel();
            let (result, buf) = read.await;
            assert!(is_canceled(&result.expect_err("ended")) && buf.capacity() == 64);
            b.write_all(b"later".to_vec(), 0).await.0.expect("writes");
            let (result, buf) = a.read(buf).await;
            assert_eq!((result.expect("reads"), buf.as_slice()), (5, &b"later"[..]));
        });
    }

    #[test]
    fn the_future_of_a_plain_read_stays_small() {
        let size = |stream: &Stream| size_of_val(&stream.read(Vec::new()));
        on_both_drivers(|| async {
            let (a, _b) = pair().await;
            assert!(
                size(&Stream::Tcp(a.clone())) <= 256,
                "{}",
                size(&Stream::Tcp(a))
            );
        });
    }
}
