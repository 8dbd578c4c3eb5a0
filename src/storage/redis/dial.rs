//! Opening connections: TCP, TLS, the login.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, Cmd, RedisConnectionInfo, Value, aio::MultiplexedConnection};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    task::AbortHandle,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use crate::storage::redis::{
    freight::Freight,
    options::{Address, Options},
    request::{Failure, FailureKind, Request},
};

/// A peer that is gone without a word is noticed by the kernel after about three of these.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects by TCP and, where it is asked for, TLS; and to which address.
pub(super) async fn stream(
    options: &Options,
    address: &Address,
) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
    let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
    let peer = tcp.peer_addr()?;
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
    let Some(tls) = &options.tls else {
        return Ok((Box::new(tcp), peer));
    };
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    let tls = TlsConnector::from(tls.config());
    Ok((Box::new(tls.connect(name, tcp).await?), peer))
}

/// Sends commands one after the other and returns what was answered to each.
///
/// # Errors
/// When the connection breaks, or an answer is an error.
pub(super) async fn converse(
    mut stream: &mut dyn Stream,
    commands: &[Cmd],
) -> io::Result<Vec<Value>> {
    #[allow(
        clippy::default_trait_access,
        reason = "its type has no name here: it is of another crate"
    )]
    let mut decoder = Default::default();
    let mut answers = Vec::with_capacity(commands.len());
    for command in commands {
        stream.write_all(&command.get_packed_command()).await?;
        let answer = redis::parse_redis_value_async(&mut decoder, &mut stream).await;
        match answer.map_err(io::Error::other)? {
            Value::ServerError(error) => {
                return Err(io::Error::other(Failure::from_server(&error).why));
            }
            answer => answers.push(answer),
        }
    }
    Ok(answers)
}

/// What a connection says first, without the database.
pub(super) fn login(username: &str, password: &str) -> Option<Cmd> {
    let mut login = redis::cmd("AUTH");
    match (username, password) {
        (_, "") => return None,
        ("", password) => login.arg(password),
        (username, password) => login.arg(username).arg(password),
    };
    Some(login)
}

/// All that it says before anything else. `PING` makes sure that somebody is there: the kernel accepts
/// for a server that stands still.
pub(super) fn greeting(options: &Options) -> Vec<Cmd> {
    let mut select = redis::cmd("SELECT");
    select.arg(options.database);
    let select = (options.database != 0).then_some(select);
    let login = login(&options.username, &options.password);
    let commands = login.into_iter().chain(select);
    commands.chain([redis::cmd("PING")]).collect()
}

/// Commands as they are written, and how many they are.
pub(crate) fn written(commands: &[Cmd]) -> (Vec<u8>, usize) {
    let bytes = commands.iter().flat_map(Cmd::get_packed_command);
    (bytes.collect(), commands.len())
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    Prompt,
    Bulk,
}

/// A connection on which many ask at once.
pub(super) struct Connection {
    way: Way,
    pub(super) peer: SocketAddr,
    driver: AbortHandle,
    flow: Arc<Flow>,
}

enum Way {
    Shared(MultiplexedConnection),
    Freight(Freight),
}

/// What goes on on a connection.
struct Flow {
    began: Instant,
    is_broken: AtomicBool,
    /// Another one is wanted; until there is one, this one is used.
    is_left: AtomicBool,
    /// It is broken, or another one is wanted.
    ended: Notify,
    /// Requests that wait for an answer.
    waiting: AtomicUsize,
    /// Milliseconds since it began at which it last answered, or was first asked after that; 0
    /// while nothing is unanswered.
    silent_since_ms: AtomicU64,
}

impl Flow {
    fn retire(&self) {
        self.is_broken.store(true, Relaxed);
        self.ended.notify_one();
    }

    fn now_ms(&self) -> u64 {
        // Never 0, which means something else.
        self.began.elapsed().as_millis() as u64 + 1
    }
}

impl Connection {
    /// Connects and logs in.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn open(
        options: &Options,
        address: &Address,
        load: Load,
    ) -> Result<Self, String> {
        let say = |error: &dyn std::fmt::Display| format!("{address}: {error}");
        let (mut stream, peer) = stream(options, address).await.map_err(|e| say(&e))?;
        if load == Load::Bulk {
            converse(&mut *stream, &greeting(options))
                .await
                .map_err(|e| say(&e))?;
            let (freight, driver) = Freight::new(stream);
            return Ok(Self::driven(Way::Freight(freight), peer, driver));
        }
        let mut login = RedisConnectionInfo::default().set_db(options.database);
        if !options.password.is_empty() {
            login = login.set_password(&options.password);
            if !options.username.is_empty() {
                login = login.set_username(&options.username);
            }
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (inner, driver) = MultiplexedConnection::new_with_config(&login, stream, config)
            .await
            .map_err(|e| say(&e))?;
        Ok(Self::driven(Way::Shared(inner), peer, driver))
    }

    fn driven(
        way: Way,
        peer: SocketAddr,
        driver: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let flow = Arc::new(Flow {
            began: Instant::now(),
            is_broken: AtomicBool::new(false),
            is_left: AtomicBool::new(false),
            ended: Notify::new(),
            waiting: AtomicUsize::new(0),
            silent_since_ms: AtomicU64::new(0),
        });
        let driver = tokio::spawn({
            let flow = Arc::clone(&flow);
            async move {
                driver.await;
                flow.retire();
            }
        });
        Self {
            way,
            peer,
            driver: driver.abort_handle(),
            flow,
        }
    }

    /// `master`, `slave` or `sentinel`.
    ///
    /// # Errors
    /// One line.
    pub(super) async fn role(&self) -> Result<String, String> {
        let request = Request::read(redis::cmd("ROLE"), "");
        let answer = match &self.way {
            Way::Shared(connection) => {
                let mut connection = connection.clone();
                let answer = connection.send_packed_command(&redis::cmd("ROLE")).await;
                answer.map_err(|error| error.to_string())?
            }
            Way::Freight(freight) => {
                let answers = freight.ask(&[&request]).await;
                let answers = answers.map_err(|failure| failure.why)?;
                answers.into_iter().next().unwrap_or(Value::Nil)
            }
        };
        match answer {
            Value::ServerError(error) => Err(Failure::from_server(&error).why),
            Value::Array(parts) => match parts.first() {
                Some(Value::BulkString(role)) => Ok(String::from_utf8_lossy(role).into_owned()),
                _ => Err("no answer to ROLE".to_owned()),
            },
            _ => Err("no answer to ROLE".to_owned()),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.flow.is_broken.load(Relaxed)
    }

    /// Has it replaced. Who waits for an answer on it goes on waiting.
    pub(super) fn retire(&self) {
        self.flow.retire();
    }

    /// Has it replaced as soon as there is another one. Until then it is used.
    pub(super) fn leave(&self) {
        self.flow.is_left.store(true, Relaxed);
        self.flow.ended.notify_one();
    }

    pub(super) fn is_left(&self) -> bool {
        self.flow.is_left.load(Relaxed)
    }

    /// To have it replaced later, if it is still there.
    pub(super) fn retirer(&self) -> Retirer {
        Retirer(Arc::downgrade(&self.flow))
    }

    /// Returns when it should be replaced.
    pub(super) async fn ended(&self) {
        self.flow.ended.notified().await;
    }

    /// For how long nothing has been heard while an answer was due.
    pub(super) fn silence(&self) -> Duration {
        match self.flow.silent_since_ms.load(Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.flow.now_ms().saturating_sub(since)),
        }
    }

    /// Asks several things in one write; answers each, in order.
    pub(super) async fn exchange(
        &self,
        requests: &[&Request],
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        if self.is_broken() {
            let failure = Failure::new(FailureKind::NotNow, "connection lost".to_owned());
            return requests.iter().map(|_| Err(failure.clone())).collect();
        }
        let due = Due::new(&self.flow);
        let failure = match tokio::time::timeout_at(until, self.ask(requests)).await {
            Ok(Ok(replies)) => {
                due.answered();
                let mut replies = replies.into_iter();
                return requests
                    .iter()
                    .map(|request| {
                        let replies = replies.by_ref().take(request.commands.len());
                        Request::outcome(replies.collect())
                    })
                    .collect();
            }
            Ok(Err(failure)) => {
                self.retire();
                failure
            }
            Err(_) => Failure::new(FailureKind::Unknown, "no answer in time".to_owned()),
        };
        requests.iter().map(|_| Err(failure.clone())).collect()
    }

    async fn ask(&self, requests: &[&Request]) -> Result<Vec<Value>, Failure> {
        let connection = match &self.way {
            Way::Shared(connection) => connection,
            Way::Freight(freight) => return freight.ask(requests).await,
        };
        let mut pipeline = redis::pipe();
        let mut count = 0;
        for request in requests {
            count += request.commands.len();
            for (place, command) in request.commands.iter().enumerate() {
                pipeline.add_command(command.clone());
                // Where there is one connection for everything, they are copied.
                for record in request
                    .cargo_of(place)
                    .iter()
                    .flat_map(|cargo| cargo.iter())
                {
                    pipeline.arg(record);
                }
            }
        }
        let mut connection = connection.clone();
        let answer = connection.send_packed_commands(&pipeline, 0, count).await;
        answer.map_err(|error| Failure::new(FailureKind::Unknown, error.to_string()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// See [`Connection::retirer`].
pub(super) struct Retirer(Weak<Flow>);

impl Retirer {
    pub(super) fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }

    pub(super) fn retire(&self) {
        if let Some(flow) = self.0.upgrade() {
            flow.retire();
        }
    }
}

/// An answer that is due.
struct Due<'a>(&'a Flow);

impl<'a> Due<'a> {
    fn new(flow: &'a Flow) -> Self {
        flow.waiting.fetch_add(1, Relaxed);
        // Who asks after somebody who still waits does not make the silence begin anew.
        let now_ms = flow.now_ms();
        let _ = flow
            .silent_since_ms
            .compare_exchange(0, now_ms, Relaxed, Relaxed);
        Self(flow)
    }

    fn answered(&self) {
        // This one is still counted.
        let since_ms = match self.0.waiting.load(Relaxed) {
            0 | 1 => 0,
            _ => self.0.now_ms(),
        };
        self.0.silent_since_ms.store(since_ms, Relaxed);
    }
}

/// A question that was given up leaves the silence as it was.
impl Drop for Due<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}
