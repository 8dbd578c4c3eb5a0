//! TLS 1.2 and 1.3 over a [`Tcp`] connection, for both sides (RFC 8446, RFC 5246), by rustls.
//!
//! Why an adapter of our own: completion-based IO lends buffers, reads and writes of one connection
//! run at the same time, and a batch of records has to leave in one send. The session is borrowed
//! only between two waits. Ciphertext leaves in the order it was made, because whoever sends holds
//! the turn; a read that has something to send takes the turn when it is free and otherwise leaves
//! the bytes to the writer that holds it, so that reading never waits for a peer that does not read.

mod acceptor;
mod connector;
mod identity;
mod names;
mod versions;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io::{self, BufRead, Write},
    os::fd::RawFd,
    rc::Rc,
    task::{Poll, Waker},
};

use rustls::Connection;

pub use self::{
    acceptor::{NamedIdentity, ServerOptions, ServerTls},
    connector::{TlsOptions, UpstreamTls},
    identity::Identity,
};
use crate::net::{
    io::{Cancel, Lent, Tcp, Transport},
    sys::{self, Half},
};

/// Plaintext that is encrypted before a send begins.
const SEND_BATCH_BYTES: usize = 128 * 1024;

/// Smallest and largest buffer for ciphertext; a record is at most 16 KiB and 2 KiB (RFC 8446 §5.2).
const RECEIVE_BYTES_MIN: usize = 4 * 1024;
const RECEIVE_BYTES_MAX: usize = 128 * 1024;

/// A TLS connection after its handshake. Cloning shares it.
#[derive(Clone)]
pub struct Tls(Rc<Inner>);

struct Inner {
    tcp: Tcp,
    session: RefCell<Connection>,
    received: RefCell<Received>,
    /// What ended the receiving side.
    end: Cell<Option<End>>,
    /// Someone is sending ciphertext.
    is_sending: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

/// Ciphertext that the session has not taken yet.
#[derive(Default)]
struct Received {
    buf: Vec<u8>,
    from: usize,
}

/// How the bytes from the peer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It said so (close_notify).
    Clean,
    /// The connection ended without that: bytes may be missing (RFC 8446 §6.1).
    Truncated,
}

impl Tls {
    /// Takes a connection through its handshake. The caller holds a clone of `tcp` and shuts it
    /// down when its deadline has passed.
    ///
    /// # Errors
    /// Invalid data for what the peer's certificate or messages lack (the peer gets the alert),
    /// unexpected EOF when it hung up, or the connection's own error.
    async fn handshake(tcp: Tcp, mut session: Connection) -> io::Result<Self> {
        // Batches are bounded here, and sent before the next is made.
        session.set_buffer_limit(None);
        let tls = Self(Rc::new(Inner {
            tcp,
            session: RefCell::new(session),
            received: RefCell::default(),
            end: Cell::new(None),
            is_sending: Cell::new(false),
            waiting: RefCell::default(),
        }));
        loop {
            let processed = tls.0.process();
            if processed.is_err() {
                // The alert says why; the peer may be gone already.
                let _ = tls.0.send_pending().await;
                return processed.and(Ok(tls));
            }
            tls.0.send_pending().await?;
            if !tls.0.session.borrow().is_handshaking() {
                return Ok(tls);
            }
            if tls.0.end.get().is_some() {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the peer closed the connection during the TLS handshake",
                ));
            }
            tls.0.receive(RECEIVE_BYTES_MIN, None).await?;
        }
    }

    /// The protocol that both sides chose (RFC 7301), such as `h2`.
    #[must_use]
    pub fn alpn(&self) -> Option<Vec<u8>> {
        let session = self.0.session.borrow();
        session.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// The host name that the client asked for (RFC 6066 §3); `None` on the client's side.
    #[must_use]
    pub fn server_name(&self) -> Option<String> {
        match &*self.0.session.borrow() {
            Connection::Server(session) => session.server_name().map(str::to_owned),
            Connection::Client(_) => None,
        }
    }

    /// The peer's certificates in DER, its own first; empty when it showed none.
    #[must_use]
    pub fn peer_certificates(&self) -> Vec<Vec<u8>> {
        let session = self.0.session.borrow();
        session
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|cert| cert.as_ref().to_vec())
            .collect()
    }

    /// 771 for TLS 1.2, 772 for TLS 1.3.
    #[must_use]
    pub fn version(&self) -> u16 {
        let session = self.0.session.borrow();
        session.protocol_version().map_or(0, u16::from)
    }

    async fn fill(&self, mut buf: Vec<u8>, cancel: Option<&Cancel>) -> Lent<usize> {
        if buf.capacity() == buf.len() {
            return (Ok(0), buf);
        }
        loop {
            let count = match self.0.decrypt(&mut buf) {
                Ok(count) => count,
                Err(e) => {
                    self.0.send_if_free().await;
                    return (Err(e), buf);
                }
            };
            self.0.send_if_free().await;
            if count > 0 {
                return (Ok(count), buf);
            }
            match self.0.end.get() {
                Some(End::Clean) => return (Ok(0), buf),
                Some(End::Truncated) => return (Err(truncated()), buf),
                None => {}
            }
            let room = buf.capacity() - buf.len();
            if let Err(e) = self.0.receive(room, cancel).await {
                return (Err(e), buf);
            }
        }
    }
}

impl Inner {
    /// Waits for ciphertext, with a buffer for about `room` bytes of plaintext.
    async fn receive(&self, room: usize, cancel: Option<&Cancel>) -> io::Result<()> {
        // Each record adds at most 22 bytes in TLS 1.3 and 29 in TLS 1.2 with an AEAD.
        let size = room + (room / 16_384 + 1) * 32;
        let buf = Vec::with_capacity(size.clamp(RECEIVE_BYTES_MIN, RECEIVE_BYTES_MAX));
        let (result, buf) = match cancel {
            None => self.tcp.read(buf).await,
            Some(cancel) => self.tcp.read_until_canceled(buf, cancel).await,
        };
        if result? == 0 {
            self.end.set(Some(self.end.get().unwrap_or(End::Truncated)));
        } else {
            // Only called when what came before is used up.
            *self.received.borrow_mut() = Received { buf, from: 0 };
        }
        Ok(())
    }

    /// Moves plaintext to `buf` until it is full or nothing is left to decrypt.
    fn decrypt(&self, buf: &mut Vec<u8>) -> io::Result<usize> {
        let before = buf.len();
        let session = &mut *self.session.borrow_mut();
        loop {
            take_plaintext(session, buf);
            if buf.len() == buf.capacity() {
                break;
            }
            match self.step(session) {
                Ok(true) => {}
                Ok(false) => break,
                // The session gives the same answer to the next call.
                Err(_) if buf.len() > before => break,
                Err(e) => return Err(e),
            }
        }
        Ok(buf.len() - before)
    }

    /// Lets the session work until plaintext waits or nothing is left to decrypt.
    fn process(&self) -> io::Result<()> {
        let session = &mut *self.session.borrow_mut();
        while !has_plaintext(session) && self.step(session)? {}
        Ok(())
    }

    /// Gives the session one piece of ciphertext; false when there was none.
    fn step(&self, session: &mut Connection) -> io::Result<bool> {
        let received = &mut *self.received.borrow_mut();
        let mut rest = received.buf.get(received.from..).unwrap_or_default();
        let taken = if rest.is_empty() {
            0
        } else {
            session.read_tls(&mut rest)?
        };
        received.from += taken;
        if received.from >= received.buf.len() {
            *received = Received::default();
        }
        let state = session.process_new_packets().map_err(invalid)?;
        if state.peer_has_closed() {
            self.end.set(Some(End::Clean));
            *received = Received::default();
        }
        Ok(taken > 0)
    }

    /// Sends what the session has ready, when its turn has come.
    async fn send_pending(&self) -> io::Result<()> {
        let turn = self.turn().await;
        self.send_all(&turn).await
    }

    /// Sends what the session has ready unless someone is sending, who then sends that too.
    /// A failure is the writer's to report: what was read is good.
    async fn send_if_free(&self) {
        if self.session.borrow().wants_write()
            && let Some(turn) = self.try_turn()
        {
            let _ = self.send_all(&turn).await;
        }
    }

    async fn send_all(&self, _: &Turn<'_>) -> io::Result<()> {
        loop {
            let out = self.ciphertext(0)?;
            if out.is_empty() {
                return Ok(());
            }
            self.tcp.write_all(out, 0).await.0?;
        }
    }

    /// All ciphertext that the session has ready.
    fn ciphertext(&self, capacity: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(capacity);
        let session = &mut *self.session.borrow_mut();
        while session.wants_write() {
            session.write_tls(&mut out)?;
        }
        Ok(out)
    }

    fn encrypt(&self, plaintext: &[u8]) -> io::Result<Vec<u8>> {
        self.session.borrow_mut().writer().write_all(plaintext)?;
        self.ciphertext(plaintext.len() + (plaintext.len() / 16_384 + 1) * 32)
    }

    fn try_turn(&self) -> Option<Turn<'_>> {
        (!self.is_sending.replace(true)).then_some(Turn(self))
    }

    async fn turn(&self) -> Turn<'_> {
        poll_fn(|cx| match self.try_turn() {
            Some(turn) => Poll::Ready(turn),
            None => {
                self.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// The right to send, until dropped.
struct Turn<'a>(&'a Inner);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.is_sending.set(false);
        for waker in self.0.waiting.take() {
            waker.wake();
        }
    }
}

impl Transport for Tls {
    /// As [`Transport::read`]. An end without close_notify is an unexpected EOF: bytes of a body
    /// that lasts until the connection closes may be missing.
    async fn read(&self, buf: Vec<u8>) -> Lent<usize> {
        self.fill(buf, None).await
    }

    async fn read_until_canceled(&self, buf: Vec<u8>, cancel: &Cancel) -> Lent<usize> {
        self.fill(buf, Some(cancel)).await
    }

    async fn write_all(&self, buf: Vec<u8>, from: usize) -> Lent<()> {
        let turn = self.0.turn().await;
        let plaintext = buf.get(from..).unwrap_or_default();
        for batch in plaintext.chunks(SEND_BATCH_BYTES) {
            let sent = match self.0.encrypt(batch) {
                Ok(out) => self.0.tcp.write_all(out, 0).await.0,
                Err(e) => Err(e),
            };
            if let Err(e) = sent {
                return (Err(e), buf);
            }
        }
        // What a read left behind meanwhile.
        let result = self.0.send_all(&turn).await;
        drop(turn);
        (result, buf)
    }

    /// As [`Transport::readable`]: waits for bytes of the peer's application, not for messages of
    /// TLS itself, such as the tickets that a server sends after the handshake. Part of a record
    /// does not count either.
    async fn readable(&self) -> io::Result<()> {
        loop {
            // An error is reported by the read that follows.
            if self.0.process().is_err() || has_plaintext(&mut self.0.session.borrow_mut()) {
                return Ok(());
            }
            self.0.send_if_free().await;
            if self.0.end.get().is_some() {
                return Ok(());
            }
            self.0.tcp.readable().await?;
            self.0.receive(RECEIVE_BYTES_MIN, None).await?;
        }
    }

    /// As [`Transport::shutdown`]. Ending the writing side says so to the peer (close_notify);
    /// ending both does not, because that is how an answer is cut short.
    fn shutdown(&self, half: Half) {
        // A writer that is under way is cut, and the peer must see that it was.
        if half == Half::Write && !self.0.is_sending.get() {
            self.0.session.borrow_mut().send_close_notify();
            if let Ok(out) = self.0.ciphertext(64) {
                // 24 bytes; without room even for them the peer is not reading.
                let _ = sys::send_now(self.0.tcp.fd(), &out);
            }
        }
        self.0.tcp.shutdown(half);
    }

    fn fd(&self) -> RawFd {
        self.0.tcp.fd()
    }
}

/// Moves decrypted bytes to `buf` as far as it has room.
fn take_plaintext(session: &mut Connection, buf: &mut Vec<u8>) {
    while buf.len() < buf.capacity() {
        let room = buf.capacity() - buf.len();
        let mut reader = session.reader();
        let count = match reader.fill_buf() {
            Ok(ready) => {
                let count = ready.len().min(room);
                buf.extend_from_slice(ready.get(..count).unwrap_or_default());
                count
            }
            Err(_) => 0,
        };
        if count == 0 {
            return;
        }
        reader.consume(count);
    }
}

fn has_plaintext(session: &mut Connection) -> bool {
    session.reader().fill_buf().is_ok_and(|b| !b.is_empty())
}

fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the peer closed the connection without close_notify",
    )
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
