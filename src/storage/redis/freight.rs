//! A connection for what is large: records go from where they lie to the socket, without a copy.
//!
//! Commands are written by whoever asks, one asker after the other; one task reads the answers, in
//! order. RESP2: <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::{
    io::{self, IoSlice, Write as _},
    ops::Range,
};

use redis::{Arg, Value};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::{Mutex, mpsc, oneshot},
};

use crate::storage::{
    Records,
    redis::{
        dial::Stream,
        request::{Failure, FailureKind, Request},
    },
};

/// Askers whose answers are due at the same time.
const DUE_MAX: usize = 64;

pub(super) struct Freight {
    out: Mutex<Out>,
}

struct Out {
    stream: WriteHalf<Box<dyn Stream>>,
    due: mpsc::Sender<Due>,
    /// A command may have been written in part: nothing can follow it.
    is_torn: bool,
}

/// Answers that somebody waits for.
struct Due {
    count: usize,
    answers: oneshot::Sender<Vec<Value>>,
}

impl Freight {
    /// Beside it comes what reads the answers, until the connection ends.
    pub(super) fn new(stream: Box<dyn Stream>) -> (Self, impl Future<Output = ()> + Send) {
        let (reader, stream) = tokio::io::split(stream);
        let (due, awaited) = mpsc::channel(DUE_MAX);
        let out = Out {
            stream,
            due,
            is_torn: false,
        };
        let freight = Self {
            out: Mutex::new(out),
        };
        (freight, read(reader, awaited))
    }

    /// The server's answers to all commands of the requests.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn ask(&self, requests: &[&Request]) -> Result<Vec<Value>, Failure> {
        let lost = |kind| Failure::new(kind, "connection lost".to_owned());
        let count = requests.iter().map(|request| request.commands.len()).sum();
        let (answers, answered) = oneshot::channel();
        {
            let mut out = self.out.lock().await;
            if out.is_torn {
                return Err(lost(FailureKind::NotNow));
            }
            // Also for the one who gives up waiting meanwhile.
            out.is_torn = true;
            if out.due.send(Due { count, answers }).await.is_err() {
                return Err(lost(FailureKind::NotNow));
            }
            let message = Message::of(requests);
            if let Err(error) = write_all(&mut out.stream, &mut message.slices()).await {
                return Err(Failure::new(FailureKind::Unknown, error.to_string()));
            }
            out.is_torn = false;
        }
        answered.await.map_err(|_| lost(FailureKind::Unknown))
    }
}

/// Ends with the connection; whoever waits then hears of it.
async fn read(mut stream: ReadHalf<Box<dyn Stream>>, mut awaited: mpsc::Receiver<Due>) {
    #[allow(
        clippy::default_trait_access,
        reason = "its type has no name here: it is of another crate"
    )]
    let mut decoder = Default::default();
    let mut due: Option<(Due, Vec<Value>)> = None;
    loop {
        let answer = match redis::parse_redis_value_async(&mut decoder, &mut stream).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(prefix = "redis", "a connection ended: {error}");
                return;
            }
        };
        let (asker, mut answers) = match due.take() {
            Some(due) => due,
            None => match awaited.recv().await {
                Some(asker) => (asker, Vec::new()),
                None => return,
            },
        };
        answers.push(answer);
        if answers.len() < asker.count {
            due = Some((asker, answers));
        } else {
            // Who has given up does not want them.
            let _ = asker.answers.send(answers);
        }
    }
}

/// Commands as they are sent: what is made here, and chunks that stay where they are.
struct Message<'a> {
    made: Vec<u8>,
    parts: Vec<(Range<usize>, &'a [u8])>,
}

impl<'a> Message<'a> {
    fn of(requests: &[&'a Request]) -> Self {
        let mut message = Self {
            made: Vec::new(),
            parts: Vec::new(),
        };
        let mut begin = 0;
        for request in requests {
            for (place, command) in request.commands.iter().enumerate() {
                let cargo = request.cargo_of(place);
                let args = command.args_iter();
                let count = args.len() as u64 + cargo.map_or(0, Records::count);
                message.put(b'*', count);
                for arg in args {
                    // A cursor is zero here: nobody makes one.
                    let arg = match arg {
                        Arg::Simple(arg) => arg,
                        _ => b"0",
                    };
                    message.put(b'$', arg.len() as u64);
                    message.made.extend_from_slice(arg);
                    message.made.extend_from_slice(b"\r\n");
                }
                for chunk in cargo.map_or(&[][..], Records::chunks) {
                    let end = message.made.len();
                    message.parts.push((begin..end, chunk));
                    begin = end;
                }
            }
        }
        let end = message.made.len();
        message.parts.push((begin..end, &[]));
        message
    }

    fn put(&mut self, kind: u8, count: u64) {
        // Writing to a Vec cannot fail.
        let _ = write!(self.made, "{}{count}\r\n", char::from(kind));
    }

    fn slices(&self) -> Vec<IoSlice<'_>> {
        let parts = self.parts.iter().flat_map(|(made, chunk)| {
            let made = self.made.get(made.clone()).unwrap_or_default();
            [IoSlice::new(made), IoSlice::new(chunk)]
        });
        parts.filter(|part| !part.is_empty()).collect()
    }
}

async fn write_all(
    stream: &mut (impl AsyncWrite + Unpin),
    mut parts: &mut [IoSlice<'_>],
) -> io::Result<()> {
    while !parts.is_empty() {
        match stream.write_vectored(parts).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => IoSlice::advance_slices(&mut parts, count),
        }
    }
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn block_on(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(test);
    }

    fn request(cargo: Option<Records>) -> Request {
        let mut command = redis::cmd("RPUSH");
        command.arg("l");
        Request {
            cargo: cargo.map(|cargo| (0, cargo)),
            ..Request::write(command, "l")
        }
    }

    #[test]
    fn records_follow_the_arguments_of_their_command() {
        let chunks = [&["abc", ""][..], &["d"]].map(|records| {
            let mut chunk = Vec::new();
            for record in records {
                Records::add(&mut chunk, record.as_bytes());
            }
            chunk.into()
        });
        let cargo = Records::new(chunks.into(), 3);
        let requests = [&request(Some(cargo)), &request(None)];
        let message = Message::of(&requests);
        let sent: Vec<u8> = message.slices().concat_all();
        let expected = "*5\r\n$5\r\nRPUSH\r\n$1\r\nl\r\n$3\r\nabc\r\n$0\r\n\r\n$1\r\nd\r\n\
            *2\r\n$5\r\nRPUSH\r\n$1\r\nl\r\n";
        assert_eq!(String::from_utf8(sent).unwrap(), expected);
    }

    trait ConcatAll {
        fn concat_all(&self) -> Vec<u8>;
    }

    impl ConcatAll for Vec<IoSlice<'_>> {
        fn concat_all(&self) -> Vec<u8> {
            self.iter().flat_map(|part| part.to_vec()).collect()
        }
    }

    #[test]
    fn answers_reach_their_askers_in_order_and_an_end_reaches_all() {
        block_on(async {
            let (own, mut server) = tokio::io::duplex(1 << 16);
            let (freight, reading) = Freight::new(Box::new(own));
            tokio::spawn(reading);
            let (one, two) = (request(None), request(None));
            let serve = async {
                let mut asked = [0; 3 * 22];
                server.read_exact(&mut asked).await.unwrap();
                server.write_all(b":1\r\n:2\r\n:3\r\n").await.unwrap();
                drop(server);
            };
            let (both, last) = ([&one, &two], [&one]);
            let (first, second, ()) = tokio::join!(freight.ask(&both), freight.ask(&last), serve);
            assert_eq!(first.unwrap(), [Value::Int(1), Value::Int(2)]);
            assert_eq!(second.unwrap(), [Value::Int(3)]);
            assert!(freight.ask(&[&one]).await.is_err());
        });
    }

    #[test]
    fn behind_a_command_that_was_written_in_part_nothing_is_sent() {
        block_on(async {
            let (own, mut server) = tokio::io::duplex(8);
            let (freight, reading) = Freight::new(Box::new(own));
            tokio::spawn(reading);
            let (large, small) = (request(None), request(None));
            // Nobody reads: it gives up in the middle.
            let soon = std::time::Duration::from_millis(1);
            let given_up = tokio::time::timeout(soon, freight.ask(&[&large])).await;
            assert!(given_up.is_err());
            let failure = freight.ask(&[&small]).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::NotNow);
            let mut sent = [0; 8];
            server.read_exact(&mut sent).await.unwrap();
            assert_eq!(&sent, b"*2\r\n$5\r\n");
        });
    }
}
