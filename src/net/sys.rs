//! Small system calls that std does not offer, and the one cell that lets a socket be read and
//! written at the same time.

#![allow(unsafe_code, reason = "system calls are made here alone")]

use std::{
    cell::UnsafeCell,
    io,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use tokio::io::unix::AsyncFd;

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
    #[allow(clippy::mut_from_ref, reason = "what the type is for")]
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

/// Makes the close of a socket reset its connection; errors leave an ordinary close.
pub fn reset_at_close(fd: RawFd) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let length = size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: one live `linger` and its own size.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    };
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

/// Whether nothing has happened on a connection: no byte to read, no end, no error.
#[must_use]
pub fn is_quiet(fd: RawFd) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN | libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one valid pollfd, length 1.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 0 }
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
    let field = info
        .get(AT..AT + 8)
        .filter(|_| done == 0 && len as usize >= AT + 8)?;
    Some(u64::from_ne_bytes(field.try_into().ok()?))
}

/// Takes ownership of an inherited listening socket, and makes it close-on-exec and non-blocking.
///
/// # Errors
/// EBADF for a closed number, ENOTSOCK for another kind of file, EINVAL for a socket that does not
/// listen. The descriptor is then left alone.
pub fn adopt_listener(fd: RawFd) -> io::Result<OwnedFd> {
    if socket_option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN)? == 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    adopt(fd)
}

/// Takes ownership of an inherited descriptor, and makes it close-on-exec and non-blocking.
///
/// The caller got the number from the process that started this one, and adopts it once.
///
/// # Errors
/// EBADF for a closed number.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    set_close_on_exec(fd, true)?;
    // SAFETY: plain system calls on a descriptor that was just seen to be open.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    // SAFETY: open, and this process' own: nobody else in it knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A second number for the same open file, close-on-exec.
///
/// # Errors
/// EBADF, EMFILE.
pub fn duplicate(fd: RawFd) -> io::Result<RawFd> {
    // SAFETY: a system call on a number; a stale one gives EBADF.
    check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })
}

/// Whether a descriptor ends at exec.
///
/// # Errors
/// EBADF.
pub fn set_close_on_exec(fd: RawFd, on: bool) -> io::Result<()> {
    // SAFETY: system calls on a number; a stale one gives EBADF.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFD))?;
        let flags = if on {
            flags | libc::FD_CLOEXEC
        } else {
            flags & !libc::FD_CLOEXEC
        };
        check(libc::fcntl(fd, libc::F_SETFD, flags))?;
    }
    Ok(())
}

/// Whether small writes leave at once (`TCP_NODELAY`).
#[must_use]
pub fn is_nodelay(fd: RawFd) -> bool {
    socket_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY).is_ok_and(|on| on != 0)
}

/// Sends what fits at once and never waits; answers how many bytes left.
///
/// # Errors
/// EAGAIN when nothing fits, or what the connection died of.
pub fn send_now(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length are those of one live slice.
    let sent = unsafe {
        libc::send(
            fd,
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Looks at bytes that have arrived, without taking them and without waiting.
///
/// # Errors
/// EAGAIN when nothing has arrived.
pub fn peek_now(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length are those of one live slice.
    let seen = unsafe {
        libc::recv(
            fd,
            into.as_mut_ptr().cast(),
            into.len(),
            libc::MSG_DONTWAIT | libc::MSG_PEEK,
        )
    };
    usize::try_from(seen).map_err(|_| io::Error::last_os_error())
}

/// Lets a program inherit exactly `fds` beside standard input, output and error, under the same
/// numbers, whatever other descriptors of this process lack close-on-exec (sockets that io_uring
/// accepted do).
pub fn hand_down(command: &mut Command, fds: Vec<RawFd>) {
    let close_rest = move || {
        close_all_at_exec()?;
        fds.iter().try_for_each(|fd| set_close_on_exec(*fd, false))
    };
    // SAFETY: between fork and exec only system calls are made: no allocation, no lock.
    unsafe { command.pre_exec(close_rest) };
}

/// Marks every descriptor from 3 as close-on-exec. Makes only system calls.
fn close_all_at_exec() -> io::Result<()> {
    // SAFETY: flags only; nothing is closed in this process.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3_u32,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        return Ok(());
    }
    // Before Linux 5.11: one by one, up to the limit.
    // SAFETY: `limit` is live plain data; numbers that are not open give EBADF.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        let end = libc::c_int::try_from(limit.rlim_cur).unwrap_or(libc::c_int::MAX);
        for fd in 3..end {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
    Ok(())
}

/// The process at the other end of a Unix socket pair when the pair was made.
///
/// # Errors
/// EBADF, or another error when the descriptor is not a Unix socket.
pub fn unix_peer_pid(fd: RawFd) -> io::Result<u32> {
    if socket_option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN)? != libc::AF_UNIX {
        return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
    }
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: value and length are live, and length is the value's own.
    check(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    })?;
    u32::try_from(peer.pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))
}

/// Blocks signals for this thread and the threads it starts.
///
/// # Errors
/// EINVAL for a number that is no signal.
pub fn block_signals(signals: &[libc::c_int]) -> io::Result<()> {
    let set = signal_set(signals)?;
    // SAFETY: `set` is initialised and live; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A descriptor, non-blocking and close-on-exec, that blocked signals are read from.
///
/// # Errors
/// EMFILE, or EINVAL for a number that is no signal.
pub fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    let set = signal_set(signals)?;
    // SAFETY: `set` is initialised and live.
    let fd = check(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
    })?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets the tokio runtime of this thread say when a descriptor can be read.
///
/// # Errors
/// EPERM for files that are always ready.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns its descriptor and cannot exchange it.
    unsafe { AsyncFd::register(fd) }.map_err(Into::into)
}

/// Reads one signal number from a [`signal_fd`].
///
/// # Errors
/// EAGAIN when none is pending.
pub fn read_signal(fd: RawFd) -> io::Result<libc::c_int> {
    // SAFETY: plain data for which all zeroes is a value; the size passed is its own.
    unsafe {
        let mut info: libc::signalfd_siginfo = std::mem::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        if libc::read(fd, (&raw mut info).cast(), size) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(libc::c_int::try_from(info.ssi_signo).unwrap_or(0))
    }
}

/// Sends a signal to the calling thread.
///
/// # Errors
/// EINVAL for a number that is no signal.
pub fn raise(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::raise(signal) }).map(drop)
}

fn signal_set(signals: &[libc::c_int]) -> io::Result<libc::sigset_t> {
    // SAFETY: `set` is live and made a valid set by sigemptyset before use.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        check(libc::sigemptyset(&raw mut set))?;
        for signal in signals {
            check(libc::sigaddset(&raw mut set, *signal))?;
        }
        Ok(set)
    }
}

/// Microseconds of CLOCK_MONOTONIC, which other processes of the machine share.
#[must_use]
pub fn monotonic_us() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is live; the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000
        + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000
}

/// Raises the number of files this process may open to what it is allowed to (as Go programs do),
/// or sets it; answers the limit that holds now.
///
/// # Errors
/// EPERM above the allowed number.
pub fn set_open_files_max(wanted: Option<u64>) -> io::Result<u64> {
    // SAFETY: `limit` is live plain data.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        limit.rlim_cur = wanted.unwrap_or(limit.rlim_max);
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        Ok(limit.rlim_cur)
    }
}

fn socket_option(fd: RawFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and length are live, and length is the value's own.
    check(unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut length) })?;
    Ok(value)
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// A nonblocking eventfd that does not pass to other programs.
///
/// # Errors
/// The kernel's answer, EMFILE for one.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: a system call without pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How many descriptors this process may have open.
#[must_use]
pub fn descriptor_limit() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call gets one valid `rlimit`.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 1024;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

/// Keeps the kernel from backing this process with huge pages, which an idle gateway would fill with
/// nothing: 10 MB more for one API (`PERF.md`, memory).
pub fn disable_huge_pages() {
    // SAFETY: a system call without pointers; where it is refused, memory use is all that differs.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Gives back the pages of the program itself that only its start has used: some 10 MB, most of
/// them mapped by the kernel around the few that were needed. What is used comes back from the page
/// cache by itself.
pub fn give_back_program_pages() {
    // Advice: where the file system says nothing, memory use is all that differs.
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(access), Some(offset)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let is_own = words.nth(2).is_some_and(|path| program.as_os_str() == path);
        // Code, and the constants at the begin of the file. What was relocated lies behind, in
        // pages of this process' own that would be lost.
        let is_file = access == "r-xp" || (access == "r--p" && offset.bytes().all(|b| b == b'0'));
        let hex = |text| usize::from_str_radix(text, 16).ok();
        let bounds = range.split_once('-').map(|(from, to)| (hex(from), hex(to)));
        if let (true, true, Some((Some(from), Some(to)))) = (is_own, is_file, bounds)
            && let Some(length) = to.checked_sub(from)
        {
            let from = std::ptr::with_exposed_provenance_mut(from);
            // SAFETY: the pages are the file's and never written, so dropping them loses nothing.
            unsafe { libc::madvise(from, length, libc::MADV_DONTNEED) };
        }
    }
}

/// Whether bytes have arrived that nobody has read.
#[must_use]
pub fn has_unread(fd: RawFd) -> bool {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int.
    let done = unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut count) };
    done == 0 && count > 0
}
