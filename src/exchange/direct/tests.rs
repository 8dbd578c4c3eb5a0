//! The connection against real servers, and against one that misbehaves as it is told.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use redis::Value;
use tokio::sync::mpsc;

use super::*;
use crate::{
    limit::{Cells, QuotaCell, QuotaLimit, RateLimit, Settings, Taken, Work},
    net::io::tests::on_both_drivers,
    storage::{tests::RedisServer, written},
};

/// A server that answers commands as the test says: by the number of the connection, from 1, and by
/// the command's words. Each connection has a thread of its own.
struct Impostor {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

enum Manner {
    Say(&'static [u8]),
    /// Says so when the test has let go of it.
    Held(&'static [u8], Arc<std::sync::Barrier>),
    Silence,
    HangUp,
}

impl Impostor {
    fn start(manner: impl Fn(usize, &str) -> Manner + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (manner, count) = (Arc::new(manner), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = count.fetch_add(1, SeqCst) + 1;
                let manner = Arc::clone(&manner);
                std::thread::spawn(move || answer(stream, |command| manner(number, command)));
            }
        });
        Self {
            address,
            connections,
        }
    }
}

fn answer(mut stream: TcpStream, manner: impl Fn(&str) -> Manner) {
    let mut parser = redis::Parser::new();
    while let Ok(Value::Array(words)) = parser.parse_value(&mut stream) {
        let Some(Value::BulkString(command)) = words.first() else {
            panic!("{words:?}");
        };
        let text = match manner(std::str::from_utf8(command).unwrap()) {
            _ if command == b"PING" => b"+PONG\r\n",
            Manner::Say(text) => text,
            Manner::Held(text, gate) => {
                gate.wait();
                text
            }
            Manner::Silence => continue,
            Manner::HangUp => return,
        };
        if stream.write_all(text).is_err() {
            return;
        }
    }
}

/// One of a quota, the first of its period.
const GRANTED: &[u8] = b"*4\r\n:1\r\n:1\r\n:60000\r\n:1\r\n";

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        tls: None,
        greeting: written(&[redis::cmd("PING")]),
    }
}

/// One shard of a node, beside two others.
struct Shard {
    direct: Direct,
    cells: Arc<Cells>,
    _work: mpsc::Receiver<Work>,
}

/// Longer than a test takes on any machine.
const NO_DEADLINE_MS: u64 = 600_000;

fn shard(address: SocketAddr, deadline_ms: u64) -> Shard {
    let (cells, work) = Cells::new(Settings {
        is_shared: true,
        deadline_ms: Some(deadline_ms),
        ..Settings::default()
    });
    cells.outlook().set_nodes(3);
    let doorway = Arc::new(Doorway::default());
    doorway.show(endpoint(address));
    Shard {
        direct: Direct::new(doorway, Arc::clone(cells.outlook())),
        cells,
        _work: work,
    }
}

impl Shard {
    fn quota(&self, name: &str, max: i64) -> Arc<QuotaCell> {
        let limit = QuotaLimit {
            max,
            renewal_s: 3_600,
            renews_at_s: 0,
        };
        self.cells.quota(name, &limit).unwrap()
    }

    /// Asks one thing; `None` when there is no connection.
    async fn ask(&self, cell: &Arc<QuotaCell>) -> Option<Answer> {
        let _waiting = cell.wait();
        let cell = Arc::clone(cell);
        self.direct
            .ask(Question::Quota { cell, at_ms: 1 })
            .await
            .ok()
    }

    /// As [`Shard::ask`], once there is a connection.
    async fn ask_when_open(&self, cell: &Arc<QuotaCell>) -> Answer {
        loop {
            if let Some(answer) = self.ask(cell).await {
                return answer;
            }
            net::io::sleep(Duration::from_millis(1)).await;
        }
    }

    /// So many at once.
    async fn burst(&self, cell: &Arc<QuotaCell>, count: usize) -> usize {
        let mut asking: Vec<_> = (0..count).map(|_| Box::pin(self.ask(cell))).collect();
        let mut admitted = 0;
        poll_fn(|cx| {
            asking.retain_mut(|ask| match ask.as_mut().poll(cx) {
                Poll::Ready(answer) => {
                    admitted += usize::from(answer.is_some_and(is_admitted));
                    false
                }
                Poll::Pending => true,
            });
            if asking.is_empty() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        admitted
    }

    /// Runs a test beside the connection.
    async fn beside<T>(&self, test: impl Future<Output = T>) -> T {
        let watch = Watch::new();
        let mut running = pin!(self.direct.run(&watch));
        let mut test = pin!(test);
        poll_fn(|cx| {
            assert!(running.as_mut().poll(cx).is_pending());
            test.as_mut().poll(cx)
        })
        .await
    }
}

fn is_admitted(answer: Answer) -> bool {
    match answer {
        Answer::Rate(taken) => taken == Taken::Admitted,
        Answer::Quota(taken) => taken.taken == Taken::Admitted,
        Answer::Unknown => panic!("an answer was to come"),
    }
}

async fn eventually(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        net::io::sleep(Duration::from_millis(1)).await;
    }
}

fn local(server: &RedisServer) -> SocketAddr {
    ([127, 0, 0, 1], server.port).into()
}

/// Asks a server something, beside the shard.
fn say<T: redis::FromRedisValue>(server: &RedisServer, line: &str) -> T {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/", server.port)).unwrap();
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    command
        .query(&mut client.get_connection().unwrap())
        .unwrap()
}

#[test]
fn a_server_that_knows_no_script_is_told_and_many_questions_are_exact() {
    on_both_drivers(|| async {
        let server = RedisServer::start();
        let shard = shard(local(&server), NO_DEADLINE_MS);
        shard
            .beside(async {
                let cell = shard.quota("quota-k", 10);
                assert!(is_admitted(shard.ask_when_open(&cell).await));
                assert_eq!(shard.burst(&cell, 40).await, 9);
                let counted: u64 = say(&server, "GET quota-k");
                assert_eq!(counted, 41, "refused ones count, as in Tyk");
                let other = shard.quota("quota-other", 100);
                assert_eq!(shard.burst(&other, 20).await, 20);
                let () = say(&server, "SCRIPT FLUSH");
                // Scripts that are unknown do not overtake those behind them.
                assert_eq!(shard.burst(&other, 100).await, 80);
                let limit = RateLimit {
                    rate: 3.0,
                    per: 600.0,
                    smoothing: None,
                };
                let cell = shard.cells.rate("rate-limit-k", "", &limit).unwrap();
                let ask = async || {
                    let cell = Arc::clone(&cell);
                    let asked = shard.direct.ask(Question::Rate { cell, at_ms: 1 }).await;
                    asked.ok().is_some_and(is_admitted)
                };
                let taken = [ask().await, ask().await, ask().await, ask().await];
                assert_eq!(taken, [true, true, true, false]);
            })
            .await;
    });
}

#[test]
fn two_shards_of_a_node_share_a_quota() {
    on_both_drivers(|| async {
        let server = RedisServer::start();
        let [a, b] = [0; 2].map(|_| shard(local(&server), NO_DEADLINE_MS));
        let cell = a.quota("quota-k", 50);
        a.beside(b.beside(async {
            let mut admitted = usize::from(is_admitted(a.ask_when_open(&cell).await));
            admitted += usize::from(is_admitted(b.ask_when_open(&cell).await));
            for _ in 0..4 {
                let (mut left, mut right) = (pin!(a.burst(&cell, 10)), pin!(b.burst(&cell, 9)));
                let mut done = [None; 2];
                poll_fn(|cx| {
                    for (done, side) in done.iter_mut().zip([
                        left.as_mut() as std::pin::Pin<&mut dyn Future<Output = _>>,
                        right.as_mut(),
                    ]) {
                        if done.is_none()
                            && let Poll::Ready(count) = side.poll(cx)
                        {
                            *done = Some(count);
                        }
                    }
                    match done {
                        [Some(a), Some(b)] => {
                            admitted += a + b;
                            Poll::Ready(())
                        }
                        _ => Poll::Pending,
                    }
                })
                .await;
            }
            assert_eq!(admitted, 50);
        }))
        .await;
    });
}

#[test]
fn the_login_and_the_database_are_those_of_the_store() {
    on_both_drivers(|| async {
        let server = RedisServer::start_with(&["--requirepass", "secret"]);
        let shard = shard(local(&server), NO_DEADLINE_MS);
        let login = |password: &str| Endpoint {
            greeting: written(&[
                redis::cmd("AUTH").arg("default").arg(password).clone(),
                redis::cmd("SELECT").arg(3).clone(),
            ]),
            ..endpoint(local(&server))
        };
        shard
            .beside(async {
                let cell = shard.quota("quota-k", 10);
                for wrong in ["", "no"] {
                    assert!(connect(&login(wrong), &Watch::new()).await.is_err());
                }
                shard.direct.doorway.close();
                shard.direct.doorway.show(login("secret"));
                assert!(is_admitted(shard.ask_when_open(&cell).await));
            })
            .await;
        let client = redis::Client::open(format!("redis://:secret@127.0.0.1:{}/3", server.port));
        let mut client = client.unwrap().get_connection().unwrap();
        let counted: u64 = redis::cmd("GET").arg("quota-k").query(&mut client).unwrap();
        assert_eq!(counted, 1);
    });
}

#[test]
fn a_silent_server_is_asked_three_times_and_its_connection_replaced() {
    on_both_drivers(|| async {
        let server = Impostor::start(|number, _| match number {
            1 => Manner::Silence,
            _ => Manner::Say(GRANTED),
        });
        let shard = shard(server.address, 1);
        shard
            .beside(async {
                let cell = shard.quota("quota-k", 10);
                for _ in 0..3 {
                    assert!(!shard.cells.outlook().is_away());
                    assert_eq!(shard.ask_when_open(&cell).await, Answer::Unknown);
                }
                assert!(shard.cells.outlook().is_away());
                // Whoever asks now has another connection, after a second.
                eventually(|| !shard.direct.is_open()).await;
                shard.ask_when_open(&cell).await;
                assert_eq!(server.connections.load(SeqCst), 2);
            })
            .await;
    });
}

#[test]
fn what_a_late_answer_brings_is_kept_for_others() {
    on_both_drivers(|| async {
        let gate = Arc::new(std::sync::Barrier::new(2));
        let held = Arc::clone(&gate);
        let server = Impostor::start(move |_, _| Manner::Held(GRANTED, Arc::clone(&held)));
        let shard = shard(server.address, 1);
        shard
            .beside(async {
                let cell = shard.quota("quota-k", 10);
                assert_eq!(shard.ask_when_open(&cell).await, Answer::Unknown);
                assert_eq!(cell.unused(), 0);
                gate.wait();
                eventually(|| cell.unused() == 1).await;
                assert_eq!(cell.take(1).taken, Taken::Admitted);
            })
            .await;
    });
}

#[test]
fn a_connection_that_breaks_tells_everybody_and_is_opened_anew() {
    on_both_drivers(|| async {
        let server = Impostor::start(|number, _| match number {
            1 => Manner::HangUp,
            2 => Manner::Say(b"HTTP/1.1 400 Bad Request\r\n"),
            _ => Manner::Say(GRANTED),
        });
        let shard = shard(server.address, NO_DEADLINE_MS);
        shard
            .beside(async {
                let cell = shard.quota("quota-k", 10);
                for _ in 0..2 {
                    assert_eq!(shard.ask_when_open(&cell).await, Answer::Unknown);
                }
                assert!(is_admitted(shard.ask_when_open(&cell).await));
                assert_eq!(server.connections.load(SeqCst), 3);
                assert!(!shard.cells.outlook().is_away(), "two are not three");
            })
            .await;
    });
}

#[test]
fn a_server_that_takes_no_writes_is_left() {
    on_both_drivers(|| async {
        let server = Impostor::start(|number, _| match number {
            1 => Manner::Say(b"-READONLY You can't write against a read only replica.\r\n"),
            _ => Manner::Say(GRANTED),
        });
        let shard = shard(server.address, NO_DEADLINE_MS);
        shard
            .beside(async {
                let cell = shard.quota("quota-k", 10);
                assert_eq!(shard.ask_when_open(&cell).await, Answer::Unknown);
                assert!(is_admitted(shard.ask_when_open(&cell).await));
            })
            .await;
    });
}

#[test]
fn another_server_is_followed_and_a_closed_doorway_is_not_passed() {
    on_both_drivers(|| async {
        let [old, new] = [0; 2].map(|_| Impostor::start(|_, _| Manner::Say(GRANTED)));
        let shard = shard(old.address, NO_DEADLINE_MS);
        shard
            .beside(async {
                let cell = shard.quota("quota-k", 10);
                assert!(is_admitted(shard.ask_when_open(&cell).await));
                shard.direct.doorway.show(endpoint(old.address));
                assert!(shard.direct.is_open(), "the same one");
                shard.direct.doorway.show(endpoint(new.address));
                assert_eq!(shard.ask(&cell).await, None);
                assert!(is_admitted(shard.ask_when_open(&cell).await));
                shard.direct.doorway.close();
                for _ in 0..5 {
                    assert_eq!(shard.ask(&cell).await, None);
                    net::io::sleep(Duration::from_millis(10)).await;
                }
                let counts = [&old, &new].map(|server| server.connections.load(SeqCst));
                assert_eq!(counts, [1, 1]);
            })
            .await;
    });
}

#[test]
fn nobody_waits_for_a_connection_whose_task_is_gone() {
    on_both_drivers(|| async {
        let server = Impostor::start(|_, _| Manner::Silence);
        let shard = shard(server.address, NO_DEADLINE_MS);
        let cell = shard.quota("quota-k", 10);
        let mut asking = pin!(shard.ask(&cell));
        shard
            .beside(async {
                while shard.direct.peer.borrow().is_none() {
                    assert_eq!(shard.ask(&cell).await, None);
                    net::io::sleep(Duration::from_millis(1)).await;
                }
                poll_fn(|cx| {
                    assert!(asking.as_mut().poll(cx).is_pending());
                    Poll::Ready(())
                })
                .await;
            })
            .await;
        assert_eq!(asking.await, Some(Answer::Unknown));
        assert_eq!(shard.ask(&cell).await, None);
    });
}
