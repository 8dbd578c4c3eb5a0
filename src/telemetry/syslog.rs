//! Log lines to a syslog daemon, beside stderr.
//!
//! A thread of its own writes; whoever logs never waits for it. Lines have the form of Go's
//! `log/syslog`: facility 0, as Tyk's hook has it.
//!
//! Tyk: `log/hooks.go`; keys `use_syslog`, `syslog_transport`, `syslog_network_addr`.

use std::{
    io::{self, Write},
    net::{TcpStream, ToSocketAddrs as _, UdpSocket},
    os::unix::net::{UnixDatagram, UnixStream},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::Level;

use crate::http::date::civil;

/// Lines that wait to be written; beyond it they are dropped.
const LINES_MAX: usize = 4096;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where local daemons listen.
const LOCAL: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];

/// The way to a daemon.
#[derive(Debug, Clone)]
pub struct Syslog(SyncSender<Line>);

#[derive(Debug)]
struct Line {
    severity: u8,
    at_s: u64,
    text: String,
}

impl Syslog {
    /// Starts the writing thread. `transport` is `udp`, `tcp` or empty for the local daemon.
    ///
    /// # Errors
    /// A transport that does not exist, a daemon that cannot be reached now, no thread.
    pub fn start(transport: &str, address: &str, host: &str) -> io::Result<Self> {
        let link = Link::open(transport, address)?;
        let (lines, received) = sync_channel(LINES_MAX);
        let writer = Writer {
            transport: transport.to_owned(),
            address: address.to_owned(),
            host: host.to_owned(),
            link: Some(link),
        };
        std::thread::Builder::new()
            .name("syslog".to_owned())
            .spawn(move || writer.run(&received))?;
        Ok(Self(lines))
    }

    /// Hands over a line. Never waits; a line too many is dropped.
    pub fn send(&self, level: Level, text: &str) {
        #[allow(
            clippy::disallowed_methods,
            reason = "the time of a line is told to people"
        )]
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let _ = self.0.try_send(Line {
            severity: severity(level),
            at_s: since.map_or(0, |since| since.as_secs()),
            text: text.trim_end_matches('\n').to_owned(),
        });
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
                        Ok(stream) => return Ok(Self::Tcp(stream)),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            "" => LOCAL
                .iter()
                .find_map(|path| Self::local(path).ok())
                .ok_or_else(|| io::Error::other("no syslog daemon on this machine")),
            other => Err(io::Error::other(format!(
                "syslog_transport: {other:?} does not exist"
            ))),
        }
    }

    fn local(path: &str) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        match socket.connect(path) {
            Ok(()) => Ok(Self::Datagram(socket)),
            Err(_) => UnixStream::connect(path).map(Self::Stream),
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

struct Writer {
    transport: String,
    address: String,
    host: String,
    /// `None` after it broke.
    link: Option<Link>,
}

impl Writer {
    fn run(mut self, lines: &Receiver<Line>) {
        while let Ok(line) = lines.recv() {
            // Once more on a new connection, as Go's package does; then the line is lost.
            if self.write(&line).is_err() {
                self.link = Link::open(&self.transport, &self.address).ok();
                let _ = self.write(&line);
            }
        }
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let link = self.link.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let bytes = match link.is_local() {
            true => local_form(line),
            false => network_form(line, &self.host),
        };
        link.write(bytes.as_bytes())
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

    #[test]
    fn lines_arrive_by_udp() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = receiver.local_addr().unwrap().to_string();
        let syslog = Syslog::start("udp", &address, "h").unwrap();
        syslog.send(Level::WARN, "one\n");
        let mut buf = [0; 200];
        let length = receiver.recv(&mut buf).unwrap();
        let text = std::str::from_utf8(&buf[..length]).unwrap();
        assert!(
            text.starts_with("<4>20") && text.ends_with("]: one\n"),
            "{text}"
        );
    }

    #[test]
    fn a_broken_connection_is_made_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let syslog = Syslog::start("tcp", &address, "h").unwrap();
        let (first, _) = listener.accept().unwrap();
        drop(first);
        // The peer's end of the first connection is noticed by a write, not at once.
        let (lines, again) = (syslog.clone(), listener.try_clone().unwrap());
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
    fn a_transport_that_does_not_exist_is_an_error() {
        let why = Syslog::start("smoke", "x", "h").unwrap_err();
        assert_eq!(
            why.to_string(),
            "syslog_transport: \"smoke\" does not exist"
        );
    }
}
