//! Small system calls that std does not offer, and the one cell that lets a socket be read and
//! written at the same time.

#![allow(unsafe_code)]

use std::{cell::UnsafeCell, io, os::fd::RawFd};

/// A value whose methods take `&mut self` although they only touch the kernel's side of it.
pub struct Duplex<T>(UnsafeCell<T>);

impl<T> Duplex<T> {
    pub fn new(inner: T) -> Self {
        Self(UnsafeCell::new(inner))
    }

    /// The value, for one operation.
    ///
    /// Callers are [`super::io::Tcp`]'s methods alone: each starts one operation, which copies the
    /// descriptor out of the value before it first waits.
    #[allow(clippy::mut_from_ref)]
    pub fn get(&self) -> &mut T {
        // SAFETY: the cell is `!Sync`, so only one thread gets here, and monoio's socket methods
        // read nothing but the shared descriptor through this reference (monoio declares the type
        // safe to split into a reading and a writing half for the same reason).
        unsafe { &mut *self.0.get() }
    }
}

/// Which directions of a connection end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    Read,
    Write,
    Both,
}

/// `shutdown(2)`; errors mean that the peer was faster, which is the state asked for.
pub fn shutdown(fd: RawFd, half: Half) {
    let how = match half {
        Half::Read => libc::SHUT_RD,
        Half::Write => libc::SHUT_WR,
        Half::Both => libc::SHUT_RDWR,
    };
    // SAFETY: a system call on a descriptor; a stale one gives EBADF or ENOTCONN.
    unsafe { libc::shutdown(fd, how) };
}

/// What the peer has done to a connection that nobody is reading, asked without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    Open,
    /// It sent FIN: it may still be waiting for an answer.
    HalfClosed,
    /// It reset the connection.
    Gone,
}

/// Looks at a socket with `poll(2)` and a timeout of zero.
#[must_use]
pub fn peer_state(fd: RawFd) -> PeerState {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one valid pollfd, length 1.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    if ready <= 0 {
        PeerState::Open
    } else if poll.revents & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 {
        PeerState::Gone
    } else if poll.revents & libc::POLLRDHUP != 0 {
        PeerState::HalfClosed
    } else {
        PeerState::Open
    }
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// The kernel's answer, EINVAL when the CPU is not in the allowed set.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: `cpu_set_t` is plain data for which all zeroes is the empty set; the size passed is
    // its own.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The CPUs this process may run on, ascending.
#[must_use]
pub fn allowed_cpus() -> Vec<usize> {
    // SAFETY: as in `pin_to_cpu`.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return vec![0];
        }
        (0..libc::CPU_SETSIZE as usize)
            .filter(|cpu| libc::CPU_ISSET(*cpu, &set))
            .collect()
    }
}

/// Bytes of a TCP connection that the peer's kernel has acknowledged (`tcpi_bytes_acked`);
/// `None` when the kernel does not say.
#[must_use]
pub fn bytes_acknowledged(fd: RawFd) -> Option<u64> {
    /// Offset of `tcpi_bytes_acked` in `struct tcp_info` (linux/tcp.h, fixed since 4.1).
    const AT: usize = 120;
    let mut info = [0_u8; 192];
    let mut len = libc::socklen_t::try_from(info.len()).unwrap_or(0);
    // SAFETY: the kernel writes at most `len` bytes into `info` and stores how many it wrote.
    let done = unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    let field = info.get(AT..AT + 8).filter(|_| done == 0 && len as usize >= AT + 8)?;
    Some(u64::from_ne_bytes(field.try_into().ok()?))
}
