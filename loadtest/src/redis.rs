//! Redis beside the gateways: a server of our own per run, and a client small enough to read (RESP2).

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    peer::{Bench, Running},
    sys::{self, ChildSetup},
};

/// What Redis answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    Nil,
    Int(i64),
    Text(Vec<u8>),
    Error(String),
    List(Vec<Reply>),
}

impl Reply {
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Text(text) => std::str::from_utf8(text).ok()?.parse().ok(),
            _ => None,
        }
    }

    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        }
    }
}

/// One blocking connection.
pub struct Redis {
    stream: TcpStream,
    received: Vec<u8>,
}

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

impl Redis {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            stream: sys::connect_blocking(address, PATIENCE)?,
            received: Vec::new(),
        })
    }

    /// One command; an error of the server is an error here.
    pub fn call(&mut self, words: &[&str]) -> io::Result<Reply> {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut wire = Vec::new();
        encode(&mut wire, &words);
        self.stream.write_all(&wire)?;
        match self.reply()? {
            Reply::Error(why) => Err(io::Error::other(format!(
                "{}: {why}",
                String::from_utf8_lossy(words.first().copied().unwrap_or_default())
            ))),
            reply => Ok(reply),
        }
    }

    /// As [`Redis::call`] for a command that answers a number.
    pub fn number(&mut self, words: &[&str]) -> io::Result<i64> {
        let reply = self.call(words)?;
        reply
            .int()
            .ok_or_else(|| io::Error::other(format!("{words:?}: no number: {reply:?}")))
    }

    /// Many commands in one write, then all their answers; the first error of the server is an error here.
    pub fn pipeline<'a>(
        &mut self,
        commands: impl IntoIterator<Item = Vec<&'a [u8]>>,
    ) -> io::Result<Vec<Reply>> {
        let (mut wire, mut count) = (Vec::new(), 0);
        for words in commands {
            encode(&mut wire, &words);
            count += 1;
        }
        self.stream.write_all(&wire)?;
        (0..count)
            .map(|_| match self.reply()? {
                Reply::Error(why) => Err(io::Error::other(why)),
                reply => Ok(reply),
            })
            .collect()
    }

    /// A figure of `INFO`, such as `used_memory`.
    pub fn info(&mut self, name: &str) -> io::Result<u64> {
        let text = self.call(&["INFO"])?.text().unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|value| value.trim().parse().ok())
            .ok_or_else(|| io::Error::other(format!("INFO does not tell {name}")))
    }

    fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some((reply, used)) = decode(&self.received)? {
                self.received.drain(..used);
                return Ok(reply);
            }
            let mut buf = [0; 16 * 1024];
            match self.stream.read(&mut buf)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.received.extend_from_slice(&buf[..count]),
            }
        }
    }
}

/// A command as an array of bulk strings.
fn encode(wire: &mut Vec<u8>, words: &[&[u8]]) {
    wire.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        wire.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        wire.extend_from_slice(word);
        wire.extend_from_slice(b"\r\n");
    }
}

/// The first reply in `bytes` and its length, or `None` until it is complete.
fn decode(bytes: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return Ok(None);
    };
    let (Some(kind), line) = (bytes.first(), &bytes[1.min(end)..end]) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(line).into_owned();
    let number = || {
        text.parse::<i64>()
            .map_err(|_| io::Error::other(format!("no RESP number: {text}")))
    };
    let at = end + 2;
    let reply = match kind {
        b'+' => Reply::Text(line.to_vec()),
        b'-' => Reply::Error(text),
        b':' => Reply::Int(number()?),
        b'$' => match usize::try_from(number()?) {
            Err(_) => Reply::Nil,
            Ok(length) => {
                let Some(content) = bytes.get(at..at + length + 2) else {
                    return Ok(None);
                };
                return Ok(Some((
                    Reply::Text(content[..length].to_vec()),
                    at + length + 2,
                )));
            }
        },
        b'*' => match usize::try_from(number()?) {
            Err(_) => Reply::Nil,
            Ok(count) => {
                let (mut items, mut at) = (Vec::new(), at);
                for _ in 0..count {
                    let Some((item, used)) = decode(&bytes[at..])? else {
                        return Ok(None);
                    };
                    items.push(item);
                    at += used;
                }
                return Ok(Some((Reply::List(items), at)));
            }
        },
        other => return Err(io::Error::other(format!("no RESP type: {other}"))),
    };
    Ok(Some((reply, at)))
}

/// A server of ours: nothing is persisted unless asked for; ended when dropped.
pub struct Server {
    pub address: SocketAddr,
    running: Option<Running>,
    binary: PathBuf,
    folder: PathBuf,
    core: Option<usize>,
    args: Vec<String>,
}

impl Server {
    /// Starts `redis-server` on a free port and waits until it answers. `args` follow the usual ones.
    pub fn start(bench: &Bench, folder: &Path, args: &[&str]) -> io::Result<Self> {
        let binary = bench
            .tool("redis-server")
            .ok_or_else(|| io::Error::other("redis-server is not installed"))?;
        let mut server = Self {
            address: sys::free_address()?,
            running: None,
            binary,
            folder: folder.to_owned(),
            core: bench.load_core,
            args: args.iter().map(ToString::to_string).collect(),
        };
        server.revive(&[])?;
        Ok(server)
    }

    /// Starts the process (again) on the same port and waits until it takes connections.
    pub fn revive(&mut self, args: &[&str]) -> io::Result<()> {
        self.running = None;
        let mut command = Command::new(&self.binary);
        command
            .args(["--bind", "127.0.0.1", "--port"])
            .arg(self.address.port().to_string())
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(&self.folder)
            .args(&self.args)
            .args(args);
        let setup = ChildSetup {
            core: self.core,
            descriptors_max: None,
            die_with_parent: true,
        };
        let name = format!("redis-{}", self.address.port());
        let mut running = Running::spawn(&name, command, &self.folder, setup)?;
        let until = Instant::now() + Duration::from_secs(10);
        while sys::connect_blocking(self.address, Duration::from_secs(1)).is_err() {
            if running.has_ended() || Instant::now() > until {
                let log = running.log_tail();
                return Err(io::Error::other(format!(
                    "redis-server does not answer\n{log}"
                )));
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.running = Some(running);
        Ok(())
    }

    pub fn connect(&self) -> io::Result<Redis> {
        Redis::connect(self.address)
    }

    pub fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    /// Sends a signal, such as SIGSTOP.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let running = self.running.as_ref();
        let running = running.ok_or_else(|| io::Error::other("redis-server is not running"))?;
        sys::kill(running.pid(), signal)
    }

    /// As if the power went.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(mut running) = self.running.take() {
            running.kill()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(wire: &str, expected: Reply) {
        for end in 0..wire.len() {
            assert_eq!(decode(&wire.as_bytes()[..end]).unwrap(), None, "{end}");
        }
        let behind = format!("{wire}+OK\r\n");
        assert_eq!(
            decode(behind.as_bytes()).unwrap(),
            Some((expected, wire.len()))
        );
    }

    #[test]
    fn replies_are_read_whole_or_not_at_all() {
        check("+OK\r\n", Reply::Text(b"OK".to_vec()));
        check("-ERR no\r\n", Reply::Error("ERR no".to_owned()));
        check(":-7\r\n", Reply::Int(-7));
        check("$-1\r\n", Reply::Nil);
        check("*-1\r\n", Reply::Nil);
        check("$4\r\na\r\nb\r\n", Reply::Text(b"a\r\nb".to_vec()));
        check(
            "*2\r\n:1\r\n*1\r\n$1\r\nx\r\n",
            Reply::List(vec![
                Reply::Int(1),
                Reply::List(vec![Reply::Text(b"x".to_vec())]),
            ]),
        );
        assert!(decode(b"?\r\n").is_err());
        assert!(decode(b":x\r\n").is_err());
    }

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut wire = Vec::new();
        encode(&mut wire, &[b"SET", b"a", b""]);
        assert_eq!(wire, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$0\r\n\r\n");
    }
}
