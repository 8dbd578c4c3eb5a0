//! The system calls the standard library lacks: epoll, receive-and-drop, pinning, limits, signals.
//!
//! The only file of this crate with `unsafe`; everything above it sees owned descriptors and slices.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};

/// Readiness a descriptor is watched for; errors and hang-ups are always reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    Read,
    ReadWrite,
}

impl Interest {
    fn bits(self) -> u32 {
        let read = (libc::EPOLLIN | libc::EPOLLRDHUP) as u32;
        match self {
            Self::Read => read,
            Self::ReadWrite => read | libc::EPOLLOUT as u32,
        }
    }
}

/// One readiness report.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
}

/// A level-triggered epoll instance.
pub struct Epoll {
    fd: OwnedFd,
    ready: Vec<libc::epoll_event>,
}

impl Epoll {
    /// `batch` is the largest number of reports one [`Epoll::wait`] brings.
    pub fn new(batch: usize) -> io::Result<Self> {
        // SAFETY: no pointers; the returned descriptor is checked and owned at once.
        let fd = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        let empty = libc::epoll_event { events: 0, u64: 0 };
        Ok(Self {
            fd,
            ready: vec![empty; batch.max(1)],
        })
    }

    pub fn add(&self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    pub fn modify(&self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Appends what is ready to `out`, waiting at most `span` (nanosecond resolution; `None` waits for ever).
    pub fn wait(&mut self, span: Option<Duration>, out: &mut Vec<Event>) -> io::Result<()> {
        let limit = span.map(|d| libc::timespec {
            tv_sec: d.as_secs() as libc::time_t,
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        let limit_ptr = limit
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref::<libc::timespec>);
        // SAFETY: `ready` is a live buffer of the stated length, `limit` outlives the call, no signal mask is given.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.fd.as_raw_fd(),
                self.ready.as_mut_ptr(),
                self.ready.len() as libc::c_int,
                limit_ptr,
                std::ptr::null::<libc::sigset_t>(),
                0usize,
            )
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted {
                Ok(())
            } else {
                Err(error)
            };
        }
        let failed = (libc::EPOLLERR | libc::EPOLLHUP | libc::EPOLLRDHUP) as u32;
        out.extend(self.ready.iter().take(count as usize).map(|e| {
            let bits = e.events;
            Event {
                token: e.u64,
                readable: bits & (libc::EPOLLIN as u32 | failed) != 0,
                writable: bits & libc::EPOLLOUT as u32 != 0,
            }
        }));
        Ok(())
    }

    fn control(&self, op: i32, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: token,
        };
        // SAFETY: `event` lives across the call; bad descriptors are answered with an error.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), op, fd, &raw mut event) }).map(drop)
    }
}

/// Receives what has arrived, at most `buf.len()` bytes; 0 is the peer's end of stream.
pub fn recv(fd: RawFd, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length describe one live mutable slice.
    length(unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) })
}

/// Receives and drops at most `len` bytes inside the kernel: nothing is copied to this process.
pub fn recv_drop(fd: RawFd, len: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: tcp(7): with MSG_TRUNC on a TCP socket the buffer is not touched and may be null.
    length(unsafe { libc::recv(fd, std::ptr::null_mut(), len, flags) })
}

/// Sends without waiting; `more` says that the rest of the message follows at once.
pub fn send(fd: RawFd, bytes: &[u8], more: bool) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: the pointer and length describe one live slice.
    length(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// A memory file of `len` bytes of body text, to be sent with [`send_file`] any number of times.
pub fn body_file(len: usize) -> io::Result<OwnedFd> {
    // SAFETY: the name is a NUL-terminated literal; the descriptor is checked and owned at once.
    let fd = owned(unsafe { libc::memfd_create(c"body".as_ptr(), libc::MFD_CLOEXEC) })?;
    let file = std::fs::File::from(fd);
    let text: Vec<u8> = (0..len).map(|i| b'a' + (i % 26) as u8).collect();
    std::io::Write::write_all(&mut &file, &text)?;
    Ok(file.into())
}

/// Sends `len` bytes of `file` from its start without copying them through this process.
pub fn send_file(socket: RawFd, file: RawFd, len: usize) -> io::Result<usize> {
    let mut offset: libc::off_t = 0;
    // SAFETY: `offset` lives across the call; bad descriptors are answered with an error.
    length(unsafe { libc::sendfile(socket, file, &raw mut offset, len) })
}

/// Starts a non-blocking connect with `TCP_NODELAY`; on loopback the first send usually works at once.
pub fn connect(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => Ok(socket),
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
        Err(e) => Err(e),
    }
}

/// A non-blocking listener with a deep backlog (net.core.somaxconn still bounds it).
pub fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket)
}

/// A loopback address whose port was free a moment ago.
pub fn free_address() -> io::Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.local_addr()
}

/// A blocking connection whose reads and writes give up after `limit`.
pub fn connect_blocking(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Breaks a TCP connection off with a reset, whoever else holds it.
pub fn reset(fd: RawFd) -> io::Result<()> {
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let length = std::mem::size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: `nowhere` lives across the call and has the stated length; connect(2) dissolves a connection by AF_UNSPEC.
    check(unsafe { libc::connect(fd, &raw const nowhere, length) }).map(drop)
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a live timespec; CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// CPU nanoseconds this thread has used.
pub fn thread_cpu_ns() -> u64 {
    let mut used = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `used` is a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut used) };
    used.tv_sec as u64 * 1_000_000_000 + used.tv_nsec as u64
}

/// Pins the calling thread (and what it later starts) to one core.
pub fn pin_thread(core: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set; CPU_SET ignores cores beyond the set's size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        check(libc::sched_setaffinity(
            0,
            std::mem::size_of::<libc::cpu_set_t>(),
            &raw const set,
        ))
        .map(drop)
    }
}

/// Sleeps of this thread end on time instead of up to 50 µs late.
pub fn precise_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1, 0, 0, 0) };
}

/// Orphans of our children become our children, so that a process which replaced itself can be ended.
pub fn adopt_orphans() {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes one integer and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

/// Takes the exit of one adopted process, if it has ended. Never touches other children.
pub fn reap(pid: i32) -> bool {
    let mut status = 0;
    // SAFETY: `status` is a live integer.
    unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) == pid }
}

/// Raises the soft descriptor limit to the hard one; returns it.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is live across both calls.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
    }
    Ok(limit.rlim_cur)
}

/// Sends a signal to one process.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // Non-positive ids are groups, or everybody.
    if pid <= 1 {
        return Err(io::Error::other(format!("refusing to signal pid {pid}")));
    }
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// What a child process gets between fork and exec.
#[derive(Clone, Copy, Default, Debug)]
pub struct ChildSetup {
    /// Core the child and its descendants run on.
    pub core: Option<usize>,
    /// Descriptor limit (soft and hard).
    pub descriptors_max: Option<u64>,
    /// Ends the child when the thread that started it ends.
    pub die_with_parent: bool,
}

/// Arranges `setup` for the next spawn of `command`.
pub fn prepare_child(command: &mut Command, setup: ChildSetup) {
    let apply = move || {
        if let Some(core) = setup.core {
            pin_thread(core)?;
        }
        if let Some(max) = setup.descriptors_max {
            let limit = libc::rlimit {
                rlim_cur: max,
                rlim_max: max,
            };
            // SAFETY: `limit` is live across the call.
            check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
        }
        if setup.die_with_parent {
            // SAFETY: PR_SET_PDEATHSIG takes one integer and touches no memory.
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls only: no allocation, no lock, so it is safe after fork.
    unsafe { command.pre_exec(apply) };
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn length(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn owned(fd: i32) -> io::Result<OwnedFd> {
    let fd = check(fd)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
