//! A wire between two peers that a test may cut: bytes go nowhere, and nobody is told.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use super::eventually;

/// Listens on a port of its own and passes bytes to and from another.
pub struct Wire {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_cut: AtomicBool,
    is_over: AtomicBool,
    /// Times that it was cut. What was connected then stays dead, as when a middlebox forgot it.
    cuts: AtomicUsize,
}

impl Wire {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if accepting.is_over.load(SeqCst) {
                    return;
                }
                // Who connects while it is cut is not answered.
                let far = match accepting.is_cut.load(SeqCst) {
                    true => None,
                    false => TcpStream::connect(("127.0.0.1", port)).ok(),
                };
                join(near, far, &accepting);
            }
        });
        Self { port: own, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn cut(&self) {
        self.shared.cuts.fetch_add(1, SeqCst);
        self.shared.is_cut.store(true, SeqCst);
    }

    pub fn mend(&self) {
        self.shared.is_cut.store(false, SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.is_over.store(true, SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn join(near: TcpStream, far: Option<TcpStream>, shared: &Arc<Shared>) {
    let cuts = shared.cuts.load(SeqCst);
    let Some(far) = far else {
        // Held until the end: nobody is told.
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            eventually("the far end gives up", || {
                let is_gone = matches!(near.peek(&mut [0]), Ok(0) | Err(_));
                (is_gone || shared.is_over.load(SeqCst)).then_some(())
            });
        });
        return;
    };
    let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) else {
        return;
    };
    for (mut from, mut to) in [(near, far), (far_again, near_again)] {
        let shared = Arc::clone(shared);
        let _ = from.set_read_timeout(Some(Duration::from_millis(50)));
        thread::spawn(move || {
            let mut buffer = [0; 16 << 10];
            while !shared.is_over.load(SeqCst) {
                let count = match from.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
                    Err(_) => break,
                };
                let is_lost = shared.cuts.load(SeqCst) != cuts;
                if !is_lost && to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}
