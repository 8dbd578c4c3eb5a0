//! A raw client: sends any bytes, reads answers strictly, sees whether the gateway closed.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use super::{
    PATIENCE,
    message::{Inbox, Response},
};

pub struct Client {
    pub inbox: Inbox,
}

impl Client {
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).unwrap_or_else(|e| panic!("connect to 127.0.0.1:{port}: {e}"))
    }

    pub fn try_connect(port: u16) -> std::io::Result<Self> {
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            inbox: Inbox::new(stream),
        })
    }

    /// How long a read waits; [`PATIENCE`] unless told.
    pub fn patience(&mut self, span: Duration) {
        self.inbox
            .stream
            .set_read_timeout(Some(span))
            .expect("a socket takes a timeout");
    }

    /// Sends; a gateway that has already hung up is no failure, what it answered is what counts.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.inbox.stream.write_all(bytes);
    }

    /// Sends and says whether the gateway took it all.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.inbox.stream.write_all(bytes)
    }

    /// `GET` with a `Host`, nothing else.
    pub fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        self.read("GET")
    }

    /// `GET` with a key.
    pub fn keyed(&mut self, path: &str, key: &str) -> Response {
        self.send(
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: {key}\r\n\r\n").as_bytes(),
        );
        self.read("GET")
    }

    pub fn half_close(&mut self) {
        let _ = self.inbox.stream.shutdown(Shutdown::Write);
    }

    pub fn read(&mut self, method: &str) -> Response {
        self.inbox.response(method)
    }

    /// Reads a final head and leaves the body in the stream.
    pub fn read_head(&mut self) -> Response {
        self.inbox.response_head()
    }

    /// Reads until `wanted` has come in what is not yet taken; answers what came, without taking it.
    pub fn read_until(&mut self, wanted: &[u8]) -> Vec<u8> {
        while !self.inbox.buf.windows(wanted.len()).any(|w| w == wanted) {
            if !matches!(self.inbox.fill(), Ok(n) if n > 0) {
                break;
            }
        }
        self.inbox.buf.clone()
    }

    /// Reads whatever else comes until the connection ends.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while matches!(self.inbox.fill(), Ok(n) if n > 0) {}
        std::mem::take(&mut self.inbox.buf)
    }

    /// Whether the gateway closes (or resets) the connection without another byte.
    pub fn closes(&mut self) -> bool {
        self.inbox.buf.is_empty() && self.ends()
    }

    /// Whether the connection ends, whatever else comes before.
    pub fn ends(&mut self) -> bool {
        loop {
            match self.inbox.fill() {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
    }

    /// Whether nothing comes and nothing closes for `span`: the only assertion that needs a time.
    pub fn stays_silent(&mut self, span: Duration) -> bool {
        let stream = &mut self.inbox.stream;
        stream
            .set_read_timeout(Some(span))
            .expect("a socket takes a timeout");
        let got = stream.read(&mut [0]);
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket takes a timeout");
        matches!(got, Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    }
}
