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
    os::fd::{AsRawFd, RawFd},
    rc::Rc,
};

use monoio::{
    buf::{IoBuf, IoBufMut},
    io::{AsyncReadRent, AsyncWriteRentExt, CancelableAsyncReadRent, Canceller},
    net::TcpStream,
};

use crate::net::sys::{self, Duplex, Half};

/// What an operation brings back: its result and the buffer that was lent to it.
pub type Lent<T> = (io::Result<T>, Vec<u8>);

/// `ECANCELED`: the answer of a read that [`Cancel::cancel`] ended. No byte was lost.
#[must_use]
pub fn is_canceled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}

/// Ends reads that were started with it, without losing what they brought.
#[derive(Default)]
pub struct Cancel(RefCell<Canceller>);

impl Cancel {
    /// Ends the reads under way; later reads are not affected.
    pub fn cancel(&self) {
        let canceller = self.0.take();
        self.0.replace(canceller.cancel());
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

/// A TCP connection of this shard's runtime.
#[derive(Clone)]
pub struct Tcp(Rc<Duplex<TcpStream>>);

impl Tcp {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Small answers must not wait for an acknowledgement; failure leaves them slow, not wrong.
        let _ = stream.set_nodelay(true);
        Self(Rc::new(Duplex::new(stream)))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The kernel's answer; waits as long as the kernel does, so the caller sets a deadline and
    /// shuts the attempt down.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        TcpStream::connect_addr(addr).await.map(Self::new)
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
        let handle = cancel.0.borrow().handle();
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
