//! Log lines to syslog and Logstash, beside stderr.
//!
//! A thread per server writes; whoever logs never waits for it. A server that is away costs the lines
//! that are logged meanwhile, which are counted. Lines for syslog have the form of Go's `log/syslog`:
//! facility 0, as Tyk's hook has it.
//!
//! Tyk: `gateway/server.go` (`setupLogger`); keys `use_syslog`, `syslog_transport`,
//! `syslog_network_addr`, `use_logstash`, `logstash_transport`, `logstash_network_addr`.

use std::{
    io::{self, Write},
    net::{TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::net::{UnixDatagram, UnixStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tracing::Level;

use crate::http::date::civil;

/// Lines that wait to be written; beyond it they are dropped.
const LINES_MAX: usize = 4096;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A server that takes nothing for so long is taken for gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two attempts to reach a server that is away; lines are lost meanwhile.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Where local daemons listen.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// The way to a server. Cloning shares it.
#[derive(Debug, Clone)]
pub struct RemoteLog {
    entries: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Entry {
    Line(Line),
    /// Whoever waits is answered when all before it is written.
    Flush(SyncSender<()>),
}

#[derive(Debug)]
struct Line {
    severity: u8,
    at_s: u64,
    text: String,
}

/// What stands around a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Syslog,
    /// Nothing but its end.
    Bare,
}

impl RemoteLog {
    /// To a syslog daemon. `transport` is `udp`, `tcp` or empty for the local one; `host` is what the
    /// daemon is told of this machine. Lines wait until [`LogWriter::start`].
    ///
    /// # Errors
    /// A transport that does not exist.
    pub fn syslog(transport: &str, address: &str, host: &str) -> Result<(Self, LogWriter), String> {
        match transport {
            "" | "udp" | "tcp" => Ok(Self::new(transport, address, host, Framing::Syslog)),
            other => Err(format!("syslog_transport: {other:?} does not exist")),
        }
    }

    /// To Logstash, which wants one JSON object per line. `transport` is `udp` or `tcp`.
    ///
    /// # Errors
    /// A transport that does not exist.
    pub fn logstash(transport: &str, address: &str) -> Result<(Self, LogWriter), String> {
        match transport {
            "udp" | "tcp" => Ok(Self::new(transport, address, "", Framing::Bare)),
            other => Err(format!("logstash_transport: {other:?} does not exist")),
        }
    }

    fn new(transport: &str, address: &str, host: &str, framing: Framing) -> (Self, LogWriter) {
        let (entries, received) = sync_channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = LogWriter {
            transport: transport.to_owned(),
            address: address.to_owned(),
            host: host.to_owned(),
            framing,
            received,
            link: None,
            failed_at: None,
            lost: Arc::clone(&lost),
        };
        (Self { entries, lost }, writer)
    }

    /// Hands over a line. Never waits; a line too many is dropped.
    pub fn send(&self, level: Level, text: &str) {
        #[allow(
            clippy::disallowed_methods,
            reason = "the time of a line is told to people"
        )]
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let line = Line {
            severity: severity(level),
            at_s: since.map_or(0, |since| since.as_secs()),
            text: text.trim_end_matches('\n').to_owned(),
        };
        if self.entries.try_send(Entry::Line(line)).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Waits until what was handed over is written or lost, or until `span` is over.
    pub fn flush(&self, span: Duration) {
        let (done, wait) = sync_channel(1);
        if self.entries.try_send(Entry::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(span);
        }
    }

    /// How many lines were lost.
    #[must_use]
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }
}

/// RFC 5424 §6.2.1.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Datagram(UnixDatagram),
    Stream(UnixStream),
}

impl Link {
    fn open(transport: &str, address: &str) -> io::Result<Self> {
        match transport {
            "udp" => {
                let address = address
                    .to_socket_addrs()?
                    .next()
                    .ok_or_else(|| io::Error::other("the name has no address"))?;
                let any = if address.is_ipv4() {
                    "0.0.0.0:0"
                } else {
                    "[::]:0"
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(address)?;
                Ok(Self::Udp(socket))
            }
            "tcp" => {
                let mut last = io::Error::other("the name has no address");
                for address in address.to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                        Ok(stream) => {
                            stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                            return Ok(Self::Tcp(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            _ => LOCAL
                .iter()
                .find_map(|path| Self::local(path).ok())
                .ok_or_else(|| io::Error::other("no syslog daemon on this machine")),
        }
    }

    fn local(path: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        match socket.connect(path) {
            Ok(()) => {
                socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
                Ok(Self::Datagram(socket))
            }
            Err(_) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                Ok(Self::Stream(stream))
            }
        }
    }

    fn is_local(&self) -> bool {
        matches!(self, Self::Datagram(_) | Self::Stream(_))
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Udp(socket) => socket.send(line).map(drop),
            Self::Datagram(socket) => socket.send(line).map(drop),
            Self::Tcp(stream) => stream.write_all(line),
            Self::Stream(stream) => stream.write_all(line),
        }
    }
}

/// The writing end. Its thread must not be the first of the process: it takes over which signals
/// are blocked.
pub struct LogWriter {
    transport: String,
    address: String,
    host: String,
    framing: Framing,
    received: Receiver<Entry>,
    /// `None` before the first line and after it broke.
    link: Option<Link>,
    /// When the server could not be reached.
    failed_at: Option<Instant>,
    lost: Arc<AtomicU64>,
}

impl LogWriter {
    /// Starts the writing thread.
    ///
    /// # Errors
    /// There is no thread.
    pub fn start(self) -> io::Result<()> {
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || self.run())
            .map(drop)
    }

    fn run(mut self) {
        while let Ok(entry) = self.received.recv() {
            match entry {
                // Once more on a new connection, as Go's package does; then the line is lost.
                Entry::Line(line) => {
                    if self.write(&line).or_else(|_| self.write(&line)).is_err() {
                        self.lost.fetch_add(1, Relaxed);
                    }
                }
                Entry::Flush(done) => {
                    let _ = done.try_send(());
                }
            }
        }
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a thread that may block has a clock of its own"
    )]
    fn write(&mut self, line: &Line) -> io::Result<()> {
        let is_away = |failed_at: Instant| failed_at.elapsed() < TRY_AGAIN;
        if self.link.is_none() {
            if self.failed_at.is_some_and(is_away) {
                return Err(io::ErrorKind::NotConnected.into());
            }
            let opened = Link::open(&self.transport, &self.address);
            self.failed_at = opened.is_err().then(Instant::now);
            self.link = Some(opened?);
        }
        let link = self.link.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let bytes = match (self.framing, link.is_local()) {
            (Framing::Bare, _) => format!("{}\n", line.text),
            (Framing::Syslog, true) => local_form(line),
            (Framing::Syslog, false) => network_form(line, &self.host),
        };
        let written = link.write(bytes.as_bytes());
        if written.is_err() {
            self.link = None;
        }
        written
    }
}
/// `<6>Nov 22 15:04:05 penstock[17]: text`.
fn local_form(line: &Line) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, month, day) = civil(line.at_s / 86_400);
    let month = MONTHS.get(month as usize - 1).unwrap_or(&"");
    let clock = clock(line.at_s);
    format!(
        "<{}>{month} {day:2} {clock} {}\n",
        line.severity,
        tagged(line)
    )
}

/// `<6>2026-11-22T15:04:05Z host penstock[17]: text`.
fn network_form(line: &Line, host: &str) -> String {
    let (year, month, day) = civil(line.at_s / 86_400);
    let clock = clock(line.at_s);
    format!(
        "<{}>{year:04}-{month:02}-{day:02}T{clock}Z {host} {}\n",
        line.severity,
        tagged(line)
    )
}

fn clock(at_s: u64) -> String {
    let s = at_s % 86_400;
    format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

fn tagged(line: &Line) -> String {
    format!("penstock[{}]: {}", std::process::id(), line.text)
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::TcpListener};

    use super::*;

    #[test]
    fn lines_have_the_form_of_go() {
        let line = |level, at_s| Line {
            severity: severity(level),
            at_s,
            text: "x".to_owned(),
        };
        let pid = std::process::id();
        assert_eq!(
            network_form(&line(Level::ERROR, 1_795_377_342), "h"),
            format!("<3>2026-11-22T19:55:42Z h penstock[{pid}]: x\n")
        );
        assert_eq!(
            local_form(&line(Level::INFO, 1_791_000_000)),
            format!("<6>Oct  3 04:00:00 penstock[{pid}]: x\n")
        );
        for (level, expected) in [(Level::WARN, 4), (Level::DEBUG, 7), (Level::TRACE, 7)] {
            assert_eq!(severity(level), expected);
        }
    }

    fn started((log, writer): (RemoteLog, LogWriter)) -> RemoteLog {
        writer.start().unwrap();
        log
    }

    #[test]
    fn lines_arrive_by_udp() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = receiver.local_addr().unwrap().to_string();
        let (log, writer) = RemoteLog::syslog("udp", &address, "h").unwrap();
        // What is logged before the thread is there waits for it.
        log.send(Level::WARN, "one\n");
        writer.start().unwrap();
        let mut buf = [0; 200];
        let length = receiver.recv(&mut buf).unwrap();
        let text = std::str::from_utf8(&buf[..length]).unwrap();
        assert!(
            text.starts_with("<4>20") && text.ends_with("]: one\n"),
            "{text}"
        );
    }

    #[test]
    fn lines_for_logstash_stand_alone() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = receiver.local_addr().unwrap().to_string();
        let log = started(RemoteLog::logstash("udp", &address).unwrap());
        log.send(Level::WARN, "{}\n");
        let mut buf = [0; 200];
        let length = receiver.recv(&mut buf).unwrap();
        assert_eq!(&buf[..length], b"{}\n");
    }

    #[test]
    fn a_broken_connection_is_made_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let log = started(RemoteLog::syslog("tcp", &address, "h").unwrap());
        log.send(Level::INFO, "first");
        let (first, _) = listener.accept().unwrap();
        drop(first);
        // The peer's end of the first connection is noticed by a write, not at once.
        let (lines, again) = (log.clone(), listener.try_clone().unwrap());
        let accepted = std::thread::spawn(move || again.accept().unwrap().0);
        while !accepted.is_finished() {
            lines.send(Level::INFO, "again");
            std::thread::yield_now();
        }
        let mut buf = [0; 3];
        accepted.join().unwrap().read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"<6>");
    }

    #[test]
    fn a_server_that_is_away_costs_its_lines_and_nothing_else() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = closed.local_addr().unwrap().to_string();
        drop(closed);
        let log = started(RemoteLog::syslog("tcp", &address, "h").unwrap());
        for _ in 0..10 {
            log.send(Level::INFO, "x");
        }
        log.flush(Duration::from_secs(60));
        assert_eq!(log.lost().load(Relaxed), 10);
        // Nobody writes at all: the queue fills, and whoever logs goes on.
        let (log, _writer) = RemoteLog::syslog("udp", &address, "h").unwrap();
        for _ in 0..LINES_MAX + 3 {
            log.send(Level::INFO, "x");
        }
        assert_eq!(log.lost().load(Relaxed), 3);
    }

    #[test]
    fn a_transport_that_does_not_exist_is_an_error() {
        let why = RemoteLog::syslog("smoke", "x", "h").map(drop).unwrap_err();
        assert_eq!(why, "syslog_transport: \"smoke\" does not exist");
        let why = RemoteLog::logstash("", "x").map(drop).unwrap_err();
        assert_eq!(why, "logstash_transport: \"\" does not exist");
    }
}
