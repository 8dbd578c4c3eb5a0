//! A TCP proxy between a gateway and its Redis that can be told to misbehave: late, silent, or gone.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::sys;

/// How bytes are passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Pass,
    /// Answers come so much later, at least.
    Late(Duration),
    /// Nothing is passed on until the mode changes; connections stay.
    Silent,
    /// All connections are reset, new ones at once.
    Reset,
}

/// Listens for as long as it lives.
pub struct FaultProxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

struct Shared {
    mode: Mutex<Mode>,
    changed: Condvar,
    accepted: AtomicU64,
    stop: AtomicBool,
    /// Both ends of every connection there is, to be reset.
    open: Mutex<Vec<TcpStream>>,
}

const LOOK: Duration = Duration::from_millis(50);

impl FaultProxy {
    pub fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Pass),
            changed: Condvar::new(),
            accepted: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            open: Mutex::new(Vec::new()),
        });
        let own = shared.clone();
        let thread = thread::spawn(move || accept(&listener, server, &own));
        Ok(Self {
            address,
            shared,
            thread: Some(thread),
        })
    }

    pub fn set(&self, mode: Mode) {
        *lock(&self.shared.mode) = mode;
        self.shared.changed.notify_all();
        if mode == Mode::Reset {
            reset_all(&self.shared);
        }
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.set(Mode::Reset);
        if let Some(thread) = self.thread.take() {
            // A thread that failed has nothing left to end.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn reset_all(shared: &Shared) {
    for stream in lock(&shared.open).drain(..) {
        // One that is closed already needs no reset.
        let _ = sys::reset(stream.as_raw_fd());
    }
}

fn accept(listener: &TcpListener, server: SocketAddr, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((client, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::Relaxed);
        let is_reset = *lock(&shared.mode) == Mode::Reset;
        let upstream = match is_reset {
            true => None,
            false => sys::connect_blocking(server, Duration::from_secs(5)).ok(),
        };
        let Some(upstream) = upstream else {
            let _ = sys::reset(client.as_raw_fd());
            continue;
        };
        // A connection that cannot be set up is dropped, and closed with that.
        let _ = join(client, upstream, shared);
    }
}

/// Starts a thread per direction.
fn join(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    for stream in [&client, &server] {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
        stream.set_write_timeout(None)?;
    }
    {
        let mut open = lock(&shared.open);
        open.retain(|stream| stream.peer_addr().is_ok());
        open.extend([client.try_clone()?, server.try_clone()?]);
    }
    let asking = (client.try_clone()?, server.try_clone()?, shared.clone());
    let answering = (server, client, shared.clone());
    thread::spawn(move || pass(asking.0, asking.1, &asking.2, false));
    thread::spawn(move || pass(answering.0, answering.1, &answering.2, true));
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Shared, is_answer: bool) {
    let mut buf = vec![0; 64 * 1024];
    while !shared.stop.load(Ordering::Relaxed) {
        let count = match from.read(&mut buf) {
            Ok(0) => break,
            Ok(count) => count,
            Err(e) if is_timeout(&e) => continue,
            Err(_) => break,
        };
        wait(shared, is_answer);
        if to.write_all(&buf[..count]).is_err() {
            break;
        }
    }
    // The other direction ends by itself, or has.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Until what was read may be passed on.
fn wait(shared: &Shared, is_answer: bool) {
    let since = Instant::now();
    let mut mode = lock(&shared.mode);
    loop {
        let span = match *mode {
            Mode::Silent => LOOK,
            Mode::Late(span) if is_answer => span.saturating_sub(since.elapsed()),
            _ => return,
        };
        if span.is_zero() || shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let woken = shared.changed.wait_timeout(mode, span);
        mode = woken.unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buf = [0; 100];
                    while let Ok(count @ 1..) = stream.read(&mut buf) {
                        if stream.write_all(&buf[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    fn ask(stream: &mut TcpStream) -> io::Result<Duration> {
        let since = Instant::now();
        stream.write_all(b"hello")?;
        let mut buf = [0; 5];
        stream.read_exact(&mut buf)?;
        assert_eq!(&buf, b"hello");
        Ok(since.elapsed())
    }

    #[test]
    fn bytes_are_passed_late_held_back_or_refused_as_told() {
        let proxy = FaultProxy::start(echo()).unwrap();
        let long = Duration::from_secs(5);
        let mut stream = sys::connect_blocking(proxy.address, long).unwrap();
        ask(&mut stream).unwrap();

        proxy.set(Mode::Late(Duration::from_millis(120)));
        assert!(ask(&mut stream).unwrap() >= Duration::from_millis(120));

        proxy.set(Mode::Silent);
        let short = Some(Duration::from_millis(80));
        stream.set_read_timeout(short).unwrap();
        assert!(ask(&mut stream).is_err());
        proxy.set(Mode::Pass);
        stream.set_read_timeout(Some(long)).unwrap();
        let mut held = [0; 5];
        stream.read_exact(&mut held).unwrap();
        assert_eq!(&held, b"hello");

        proxy.set(Mode::Reset);
        let error = ask(&mut stream).unwrap_err();
        let is_gone = matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        assert!(is_gone, "{error}");
        let mut refused = sys::connect_blocking(proxy.address, long).unwrap();
        assert!(ask(&mut refused).is_err());
        proxy.set(Mode::Pass);
        let mut stream = sys::connect_blocking(proxy.address, long).unwrap();
        ask(&mut stream).unwrap();
        assert_eq!(proxy.accepted(), 3);
    }
}
