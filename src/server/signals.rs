//! Signals as a stream of events on the control thread.
//!
//! They are blocked before the first thread starts, so no shard is ever interrupted, and read from
//! a `signalfd`. A successor inherits the blocked mask on purpose: a signal that comes before it
//! listens waits instead of killing it. SIGPIPE is ignored by Rust's runtime from the start.
//!
//! Tyk: `gateway/server.go`, the library `again`.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use tokio::io::unix::AsyncFd;

use crate::net::sys;

/// What the process is asked to do from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGUSR2: start the new binary and hand over to it.
    Upgrade,
    /// SIGTERM, SIGINT, SIGQUIT: drain and end.
    // Tyk differs: it ends a second later and cuts what is under way.
    Terminate,
    /// SIGHUP, SIGUSR1: only logged, as in Tyk.
    Noted(&'static str),
}

const HANDLED: &[libc::c_int] = &[
    libc::SIGUSR2,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGHUP,
    libc::SIGUSR1,
];

/// Blocks the handled signals for this thread and those it starts. Called before any other thread
/// is started.
///
/// # Errors
/// The kernel's.
pub fn block() -> io::Result<()> {
    sys::block_signals(HANDLED)
}

/// The signals of this process, after [`block`].
pub struct Signals(AsyncFd<OwnedFd>);

impl Signals {
    /// Listens on the tokio runtime of this thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        sys::watch(sys::signal_fd(HANDLED)?).map(Self)
    }

    /// Waits for the next signal; may be dropped while it waits.
    ///
    /// # Errors
    /// The kernel's; none is expected.
    pub async fn next(&mut self) -> io::Result<Signal> {
        loop {
            let mut ready = self.0.readable().await?;
            match sys::read_signal(self.0.as_raw_fd()) {
                Ok(number) => {
                    if let Some(signal) = Signal::from_number(number) {
                        return Ok(signal);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(e) => return Err(e),
            }
        }
    }
}

impl Signal {
    fn from_number(number: libc::c_int) -> Option<Self> {
        Some(match number {
            libc::SIGUSR2 => Self::Upgrade,
            libc::SIGTERM | libc::SIGINT | libc::SIGQUIT => Self::Terminate,
            libc::SIGHUP => Self::Noted("hangup"),
            libc::SIGUSR1 => Self::Noted("user defined signal 1"),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocked_signals_arrive_as_events_in_turn() {
        // Signals are sent to this thread alone: the other tests of the process must not get them.
        block().expect("a mask");
        tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("a runtime")
            .block_on(async {
                let mut signals = Signals::open().expect("a descriptor");
                for (number, expected) in [
                    (libc::SIGUSR2, Signal::Upgrade),
                    (libc::SIGTERM, Signal::Terminate),
                    (libc::SIGINT, Signal::Terminate),
                    (libc::SIGQUIT, Signal::Terminate),
                    (libc::SIGHUP, Signal::Noted("hangup")),
                    (libc::SIGUSR1, Signal::Noted("user defined signal 1")),
                ] {
                    sys::raise(number).expect("a signal");
                    assert_eq!(signals.next().await.expect("read"), expected);
                }
            });
    }
}
