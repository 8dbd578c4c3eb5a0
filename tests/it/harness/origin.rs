//! A scripted origin: one thread per connection, every byte that arrives is recorded.

use std::{
    io::{ErrorKind, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    PATIENCE,
    message::{End, Inbox, Request},
};

pub struct Origin {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<Recorded>>,
    violations: Mutex<Vec<String>>,
    open: Mutex<Vec<TcpStream>>,
    stopped: AtomicBool,
}

/// One connection as the origin saw it.
#[derive(Clone, Default)]
pub struct Recorded {
    pub bytes: Vec<u8>,
    pub requests: Vec<Request>,
    pub ended: Option<Ended>,
}

/// Who ended a connection, as the origin saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The gateway closed or half-closed.
    ByGateway,
    /// The gateway reset it.
    Reset,
    /// The script closed it.
    ByOrigin,
}

impl Origin {
    /// Runs `script` for every connection; it is closed when the script returns.
    pub fn scripted(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::on(listener, script)
    }

    /// The same on a socket that the test bound itself.
    pub fn on(listener: TcpListener, script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Self {
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let script = Arc::new(script);
        let inside = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if inside.stopped.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let mut peer = Peer::new(stream, &inside);
                let script = Arc::clone(&script);
                thread::spawn(move || {
                    script(&mut peer);
                    peer.close();
                });
            }
        });
        Self { port, shared }
    }

    /// Answers each complete request with the bytes the handler makes, on keep-alive connections.
    /// A request with `Expect: 100-continue` gets its 100 first.
    pub fn answering(handler: impl Fn(&Request) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::scripted(move |peer| {
            while let Some(req) = peer.request() {
                let last = req.is_last();
                if peer.write(&handler(&req)).is_err() || last {
                    break;
                }
            }
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn connections(&self) -> Vec<Recorded> {
        lock(&self.shared.connections).clone()
    }

    /// All requests that were read completely, connection by connection.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.connections)
            .iter()
            .flat_map(|c| c.requests.clone())
            .collect()
    }

    /// How many bytes came over all connections.
    pub fn received(&self) -> usize {
        lock(&self.shared.connections)
            .iter()
            .map(|c| c.bytes.len())
            .sum()
    }

    /// What was sent against the grammar, by the gateway under test.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.shared.violations).clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        for stream in lock(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let at = SocketAddr::from(([127, 0, 0, 1], self.port));
        let _ = TcpStream::connect_timeout(&at, Duration::from_millis(200));
    }
}

/// One connection, from the script's side.
pub struct Peer {
    inbox: Inbox,
    number: usize,
    shared: Arc<Shared>,
}

impl Peer {
    fn new(stream: TcpStream, shared: &Arc<Shared>) -> Self {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(PATIENCE * 6));
        let _ = stream.set_write_timeout(Some(PATIENCE * 6));
        if let Ok(copy) = stream.try_clone() {
            lock(&shared.open).push(copy);
        }
        let number = {
            let mut connections = lock(&shared.connections);
            connections.push(Recorded::default());
            connections.len() - 1
        };
        let mut inbox = Inbox::new(stream);
        let inside = Arc::clone(shared);
        inbox.tap = Some(Box::new(move |bytes| {
            lock(&inside.connections)[number]
                .bytes
                .extend_from_slice(bytes);
        }));
        Self {
            inbox,
            number,
            shared: Arc::clone(shared),
        }
    }

    /// Position of this connection among all the origin has seen.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Reads one complete request; `None` when the connection ended (how is recorded).
    pub fn request(&mut self) -> Option<Request> {
        let mut req = self.head()?;
        self.body(&mut req).then_some(req)
    }

    /// Closes when no byte comes for so long, as a server with a short keep-alive does.
    pub fn idle_limit(&mut self, span: Duration) {
        let _ = self.inbox.stream.set_read_timeout(Some(span));
    }

    /// Reads a request head; answers 100 when it is expected.
    pub fn head(&mut self) -> Option<Request> {
        let taken = self.inbox.request_head();
        let mut req = self.judge(taken)?;
        req.connection = self.number;
        if req.field("expect").is_some() {
            let _ = self.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        Some(req)
    }

    /// Reads the body that belongs to `req` and records the request; `false` when it was cut.
    pub fn body(&mut self, req: &mut Request) -> bool {
        let taken = self.inbox.request_body(req);
        let whole = self.judge(taken).is_some();
        if whole {
            self.record(|r| r.requests.push(req.clone()));
        }
        whole
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.inbox.stream.write_all(bytes)
    }

    /// Reads raw bytes until there are `count` of them or the connection ends.
    pub fn raw(&mut self, count: usize) -> Vec<u8> {
        while self.inbox.buf.len() < count {
            if !matches!(self.inbox.fill(), Ok(n) if n > 0) {
                break;
            }
        }
        let take = count.min(self.inbox.buf.len());
        self.inbox.buf.drain(..take).collect()
    }

    /// Reads until `wanted` stands among the bytes not yet taken, and takes nothing.
    pub fn peek_until(&mut self, wanted: &[u8]) -> bool {
        while !self.inbox.buf.windows(wanted.len()).any(|w| w == wanted) {
            if !matches!(self.inbox.fill(), Ok(n) if n > 0) {
                return false;
            }
        }
        true
    }

    /// Reads and records until the gateway ends the connection.
    pub fn linger(&mut self) {
        loop {
            self.inbox.buf.clear();
            match self.inbox.fill() {
                Ok(0) => return self.ended(Ended::ByGateway),
                Ok(_) => {}
                Err(e) if timed_out(&e) => return,
                Err(_) => return self.ended(Ended::Reset),
            }
        }
    }

    pub fn close(&mut self) {
        self.ended(Ended::ByOrigin);
        let _ = self.inbox.stream.shutdown(Shutdown::Both);
    }

    fn judge<T>(&mut self, taken: Result<T, End>) -> Option<T> {
        match taken {
            Ok(value) => return Some(value),
            Err(End::Malformed(why)) => {
                lock(&self.shared.violations).push(why);
                self.close();
            }
            Err(End::Cut) => self.ended(Ended::ByGateway),
            Err(End::TimedOut | End::Complete) => self.close(),
        }
        None
    }

    fn ended(&mut self, how: Ended) {
        self.record(|r| {
            r.ended.get_or_insert(how);
        });
    }

    fn record(&self, change: impl FnOnce(&mut Recorded)) {
        change(&mut lock(&self.shared.connections)[self.number]);
    }
}

fn timed_out(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder panics")
}
