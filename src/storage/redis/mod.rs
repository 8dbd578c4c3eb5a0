//! Sessions in Redis, under Tyk's key names: one server, one found through sentinels, or a cluster.
//!
//! Connections open when they are first needed and anew when they end ([`lane`]); a gateway starts,
//! and serves keyless APIs, while Redis is away (as Tyk). A question that was certainly not done is
//! asked again, elsewhere if need be, until the configured `timeout`; one that may have been done is
//! asked again only when that changes nothing. Redis copies to replicas after it has answered: what a
//! master took in its last moments may be missing from the one that follows it, as with Tyk.

mod cluster;
mod dial;
mod freight;
mod lane;
mod link;
mod options;
mod pubsub;
mod request;
mod sentinel;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{Cmd, Value};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::Instant,
};

use crate::storage::{
    Add, Counter, Doorway, Eval, ListLimit, PushOutcome, Records, Script, ScriptReply, Scripts,
    Store, StoreError, Subscription, Ttl, Waiting, WriteOp, keys,
};

use cluster::Cluster;
use dial::Connection;
#[cfg(test)]
pub(crate) use dial::written;
use link::Link;
pub use options::CONNECTIONS;
pub(super) use options::Options;
use options::{Address, Kind};
pub use request::Refusal;
pub(super) use request::refusal;
use request::{Failure, FailureKind, Request, Route};
use sentinel::Sentinels;

/// Adds `ARGV[1]` to a counter and gives it `ARGV[2]` ms to live when it is new (0: for ever); its
/// value and `PTTL`.
static ADD: Script = Script::new(
    "local new = redis.call('EXISTS', KEYS[1]) == 0
local value = redis.call('INCRBY', KEYS[1], ARGV[1])
if new and ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {value, redis.call('PTTL', KEYS[1])}",
);

/// Keeps a list to `ARGV[1]` records, and gives it `ARGV[2]` ms to live when it has none; its length
/// and how many were dropped. An empty argument: no limit. What appends is done together with it and
/// stands outside: in a script, records would go to Lua and back for nothing.
const BOUND: &str = "local len = redis.call('LLEN', KEYS[1])
local dropped = 0
if ARGV[1] ~= '' and len > tonumber(ARGV[1]) then
  dropped = len - tonumber(ARGV[1])
  redis.call('LTRIM', KEYS[1], dropped, -1)
end
if ARGV[2] ~= '' and redis.call('PTTL', KEYS[1]) == -1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return {len - dropped, dropped}";

/// Names that one step of a listing looks at.
const SCAN_COUNT: usize = 1000;

/// Messages that a subscriber may be behind.
const EVENTS_MAX: usize = 1024;

/// Between attempts to listen, and to ask again.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long a single server may be away before questions stop waiting for it. Others take over for
/// a master of sentinels or of a cluster, which is worth the whole timeout.
const SINGLE_PATIENCE: Duration = Duration::from_secs(1);

/// For one attempt to connect in order to listen.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// A Redis, connected when needed.
pub struct Redis {
    timeout: Duration,
    /// `None` once closed.
    transport: ArcSwapOption<Transport>,
    is_closed: watch::Sender<bool>,
    doorway: Shown,
}

/// Who is told where the server is.
type Shown = Arc<OnceLock<Arc<Doorway>>>;

struct Transport {
    options: Options,
    way: Way,
}

enum Way {
    Single(Link),
    Sentinel {
        link: Link,
        sentinels: Arc<Sentinels>,
        _following: Following,
    },
    Cluster(Cluster),
}

/// The task that hears of new masters; ends with this.
struct Following(AbortHandle);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Transport {
    fn new(options: &Options, doorway: &Shown) -> Self {
        let link = |dial| Link::new("redis", options, dial);
        let way = match &options.kind {
            Kind::Cluster => Way::Cluster(Cluster::new(options.clone())),
            Kind::Single => {
                let (options, doorway) = (options.clone(), Arc::clone(doorway));
                Way::Single(link(Arc::new(move |load| {
                    let (options, doorway) = (options.clone(), Arc::clone(&doorway));
                    Box::pin(async move {
                        let Some(address) = options.addresses.first() else {
                            return Err("no address".to_owned());
                        };
                        let connection = Connection::open(&options, address, load).await?;
                        show(&doorway, &options, address, &connection);
                        Ok(connection)
                    })
                })))
            }
            Kind::Sentinel {
                master_name,
                password,
            } => {
                let sentinels = Arc::new(Sentinels::new(
                    options.clone(),
                    master_name.clone(),
                    password.clone(),
                ));
                let (asked, doorway) = (Arc::clone(&sentinels), Arc::clone(doorway));
                let options = options.clone();
                let dial = Arc::new(move |load| {
                    let (sentinels, doorway) = (Arc::clone(&asked), Arc::clone(&doorway));
                    let options = options.clone();
                    Box::pin(async move {
                        let (connection, master) = sentinels.dial(load).await?;
                        show(&doorway, &options, &master, &connection);
                        Ok(connection)
                    }) as _
                });
                let followed = Arc::clone(&sentinels);
                let task = tokio::spawn(async move { followed.follow().await });
                Way::Sentinel {
                    link: link(dial),
                    sentinels,
                    _following: Following(task.abort_handle()),
                }
            }
        };
        Self {
            options: options.clone(),
            way,
        }
    }

    async fn exchange(&self, requests: &[&Request], until: Instant) -> Vec<Result<Value, Failure>> {
        match &self.way {
            Way::Single(link) | Way::Sentinel { link, .. } => {
                link.exchange(requests, until, self.patience(), until).await
            }
            Way::Cluster(cluster) => cluster.exchange(requests, until).await,
        }
    }

    /// How long it may be away before nobody waits for it any more.
    fn patience(&self) -> Duration {
        match &self.way {
            Way::Single(_) => SINGLE_PATIENCE,
            Way::Sentinel { .. } | Way::Cluster(_) => Duration::from_secs(3600),
        }
    }

    /// A server through which everybody hears.
    async fn publisher(&self) -> io::Result<Address> {
        match &self.way {
            Way::Single(_) => {
                let address = self.options.addresses.first().cloned();
                address.ok_or_else(|| io::Error::other("no address"))
            }
            Way::Sentinel { sentinels, .. } => sentinels.master().await.map_err(io::Error::other),
            Way::Cluster(cluster) => Ok(cluster.anyone()),
        }
    }
}

fn show(doorway: &Shown, options: &Options, address: &Address, connection: &Connection) {
    if let Some(doorway) = doorway.get() {
        doorway.show(options.endpoint(address, connection.peer));
    }
}

impl Redis {
    /// Prepares connections; opens none. To be called inside a tokio runtime.
    #[must_use]
    pub fn open(options: &Options) -> Self {
        let doorway = Shown::default();
        Self {
            timeout: options.timeout,
            transport: ArcSwapOption::from_pointee(Transport::new(options, &doorway)),
            is_closed: watch::Sender::new(false),
            doorway,
        }
    }

    fn transport(&self) -> Result<Arc<Transport>, StoreError> {
        self.transport.load_full().ok_or(StoreError::Closed)
    }

    /// The cluster, if it is one.
    fn is_cluster(&self) -> Result<bool, StoreError> {
        Ok(matches!(self.transport()?.way, Way::Cluster(_)))
    }

    /// Asks several things in one round trip per server; answers each, in order.
    async fn exchange(
        &self,
        requests: &[Request],
    ) -> Result<Vec<Result<Value, Failure>>, StoreError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let transport = self.transport()?;
        let began = Instant::now();
        let until = began + self.timeout;
        let again_until = until.min(began + transport.patience());
        let mut outcomes: Vec<Result<Value, Failure>> = Vec::new();
        let mut asked: Vec<(usize, &Request)> = requests.iter().enumerate().collect();
        // The first time at once: the server may just have said whom to ask.
        let mut pause = Duration::ZERO;
        loop {
            let all: Vec<_> = asked.iter().map(|(_, request)| *request).collect();
            let answers = transport.exchange(&all, until).await;
            let mut again = Vec::new();
            for ((at, request), answer) in asked.into_iter().zip(answers) {
                let may_be_repeated = match &answer {
                    Ok(_) => false,
                    Err(failure) => match failure.kind {
                        FailureKind::NotNow => true,
                        FailureKind::Unknown => request.is_repeatable,
                        FailureKind::NoScript | FailureKind::Refused => false,
                    },
                };
                if may_be_repeated {
                    again.push((at, request));
                }
                match outcomes.get_mut(at) {
                    Some(outcome) => *outcome = answer,
                    // The first round is in order.
                    None => outcomes.push(answer),
                }
            }
            if again.is_empty() || Instant::now() + pause >= again_until {
                return Ok(outcomes);
            }
            asked = again;
            tokio::time::sleep(lane::by_chance(pause)).await;
            pause = (pause * 2).clamp(Duration::from_millis(5), PAUSE_MAX);
        }
    }

    async fn one(&self, request: Request) -> Result<Value, StoreError> {
        let mut outcomes = self.exchange(&[request]).await?;
        match outcomes.pop() {
            Some(outcome) => Ok(outcome?),
            None => Err(StoreError::Closed),
        }
    }

    /// Runs scripts by name, and those that the server does not know by their text.
    async fn run(&self, evals: &[Eval]) -> Result<Vec<Result<Value, Failure>>, StoreError> {
        let named: Vec<_> = evals
            .iter()
            .map(|eval| eval_request(eval, "EVALSHA", eval.script.sha1()))
            .collect();
        let mut outcomes = self.exchange(&named).await?;
        let mut unknown = Vec::new();
        for (at, outcome) in outcomes.iter().enumerate() {
            if matches!(outcome, Err(failure) if failure.kind == FailureKind::NoScript) {
                unknown.push(at);
            }
        }
        if unknown.is_empty() {
            return Ok(outcomes);
        }
        let in_full: Vec<_> = unknown
            .iter()
            .filter_map(|at| evals.get(*at))
            .map(|eval| eval_request(eval, "EVAL", eval.script.source()))
            .collect();
        let again = self.exchange(&in_full).await?;
        for (at, outcome) in unknown.into_iter().zip(again) {
            if let Some(slot) = outcomes.get_mut(at) {
                *slot = outcome;
            }
        }
        Ok(outcomes)
    }

    /// The names on one server that match.
    async fn scan(
        &self,
        pattern: &str,
        route: &Route,
        names: &mut BTreeSet<String>,
    ) -> Result<(), StoreError> {
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(&cursor).arg("MATCH").arg(pattern);
            command.arg("COUNT").arg(SCAN_COUNT);
            let request = Request {
                route: route.clone(),
                is_bulk: true,
                ..Request::read(command, "")
            };
            let (next, page) = request::page(self.one(request).await?)?;
            // A name may come twice.
            names.extend(page);
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }
}

fn eval_request(eval: &Eval, command: &str, script: &str) -> Request {
    let mut command = redis::cmd(command);
    command.arg(script).arg(eval.keys.len());
    for key in &eval.keys {
        command.arg(key);
    }
    for arg in &eval.args {
        command.arg(arg.as_slice());
    }
    let route = match eval.keys.first() {
        Some(key) => Route::Key(key.clone()),
        None => Route::Anywhere,
    };
    Request {
        route,
        ..Request::write(command, "")
    }
}

/// Milliseconds as a script's argument, at least one: 0 would remove the key. Empty for none.
fn ms_arg(ttl: Option<Duration>) -> Vec<u8> {
    ttl.map_or_else(Vec::new, |ttl| ms(ttl).to_string().into_bytes())
}

/// As Redis takes it: more than this it refuses.
fn ms(ttl: Duration) -> u64 {
    const MAX: u64 = 1 << 53;
    u64::try_from(ttl.as_millis()).unwrap_or(MAX).clamp(1, MAX)
}

fn set(key: &str, value: &[u8], ttl: Option<Duration>) -> Cmd {
    let mut command = redis::cmd("SET");
    command.arg(key).arg(value);
    if let Some(ttl) = ttl {
        // Whole seconds as Tyk writes them, at least one: 0 is refused by Redis.
        command.arg("EX").arg((ms(ttl) / 1000).max(1));
    }
    command
}

impl Store for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn patience(&self) -> Duration {
        self.timeout
    }

    fn get(&self, key: &str) -> Waiting<'_, Option<Vec<u8>>> {
        let request = Request::read(Cmd::get(key), key);
        Box::pin(async move { request::bytes(self.one(request).await?) })
    }

    fn get_many(&self, keys: Vec<String>) -> Waiting<'_, Vec<Option<Vec<u8>>>> {
        Box::pin(async move {
            let Some(first) = keys.first() else {
                return Ok(Vec::new());
            };
            if self.is_cluster()? {
                let read = |key: &String| Request::read(Cmd::get(key), key);
                let requests: Vec<_> = keys.iter().map(read).collect();
                let outcomes = self.exchange(&requests).await?;
                return outcomes
                    .into_iter()
                    .map(|outcome| request::bytes(outcome?))
                    .collect();
            }
            let mut command = redis::cmd("MGET");
            command.arg(&keys);
            let values = self.one(Request::read(command, first)).await?;
            request::items(values)?
                .into_iter()
                .map(request::bytes)
                .collect()
        })
    }

    fn set(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Waiting<'_, ()> {
        let request = Request::write(set(key, value, ttl), key);
        Box::pin(async move { self.one(request).await.map(drop) })
    }

    fn delete(&self, key: &str) -> Waiting<'_, bool> {
        let request = Request::write(Cmd::del(key), key);
        Box::pin(async move { Ok(request::int(&self.one(request).await?)? > 0) })
    }

    fn exists(&self, key: &str) -> Waiting<'_, bool> {
        let request = Request::read(Cmd::exists(key), key);
        Box::pin(async move { Ok(request::int(&self.one(request).await?)? > 0) })
    }

    fn list(&self, prefix: &str) -> Waiting<'_, Vec<String>> {
        let mut pattern = String::with_capacity(prefix.len() + 1);
        for c in prefix.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push('*');
        Box::pin(async move {
            let transport = self.transport()?;
            let mut names = BTreeSet::new();
            match &transport.way {
                Way::Cluster(cluster) => {
                    for server in cluster.masters(Instant::now() + self.timeout).await {
                        let route = Route::Server(server);
                        self.scan(&pattern, &route, &mut names).await?;
                    }
                }
                _ => self.scan(&pattern, &Route::Anywhere, &mut names).await?,
            }
            Ok(names.into_iter().collect())
        })
    }

    fn write(&self, ops: Vec<WriteOp>) -> Waiting<'_, ()> {
        Box::pin(async move {
            let is_cluster = self.is_cluster()?;
            let mut slots: BTreeMap<u16, (Vec<Cmd>, String)> = BTreeMap::new();
            for op in ops {
                let (command, key) = match op {
                    WriteOp::Set { key, value, ttl } => (set(&key, &value, ttl), key),
                    WriteOp::Delete(key) => (Cmd::del(&key), key),
                };
                let slot = match is_cluster {
                    true => cluster::slot(key.as_bytes()),
                    false => 0,
                };
                let (commands, _) = slots.entry(slot).or_insert((Vec::new(), key));
                commands.push(command);
            }
            let requests: Vec<_> = slots
                .into_values()
                .map(|(commands, key)| Request::together(commands, &key))
                .collect();
            for outcome in self.exchange(&requests).await? {
                outcome?;
            }
            Ok(())
        })
    }

    fn ttl(&self, key: &str) -> Waiting<'_, Option<Ttl>> {
        let request = Request::read(Cmd::pttl(key), key);
        Box::pin(async move { Ok(request::ttl(request::int(&self.one(request).await?)?)) })
    }

    fn set_if_absent(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Waiting<'_, bool> {
        let mut command = set(key, value, ttl);
        command.arg("NX");
        let request = Request::write(command, key);
        Box::pin(async move { Ok(self.one(request).await? != Value::Nil) })
    }

    fn add(&self, adds: Vec<Add>) -> Waiting<'_, Vec<Counter>> {
        Box::pin(async move {
            let evals: Vec<_> = adds
                .into_iter()
                .map(|add| Eval {
                    script: &ADD,
                    keys: vec![add.key],
                    args: vec![add.by.to_string().into_bytes(), ms_arg(add.ttl)],
                })
                .collect();
            let mut counters = Vec::with_capacity(evals.len());
            for outcome in self.run(&evals).await? {
                let reply = request::script_reply(outcome?)?;
                let Some([value, pttl]) = reply.ints() else {
                    return Err(StoreError::Away("redis: a counter is no number".to_owned()));
                };
                let ttl = request::ttl(pttl);
                counters.push(Counter { value, ttl });
            }
            Ok(counters)
        })
    }

    fn push(&self, list: &str, records: Records, limit: ListLimit) -> Waiting<'_, PushOutcome> {
        let max = limit.records_max.map(|max| max.to_string());
        let mut commands = Vec::new();
        let mut cargo = None;
        if records.count() > 0 {
            let mut append = redis::cmd("RPUSH");
            append.arg(list);
            commands.push(append);
            // Behind `MULTI`.
            cargo = Some((commands.len(), records));
        }
        // In full: a script that the server does not know would fail when the records are in the
        // list already.
        let mut bound = redis::cmd("EVAL");
        bound.arg(BOUND).arg(1).arg(list);
        bound.arg(max.unwrap_or_default()).arg(ms_arg(limit.ttl));
        commands.push(bound);
        let request = Request {
            cargo,
            is_bulk: true,
            ..Request::together(commands, list)
        };
        Box::pin(async move { request::pushed(self.one(request).await?) })
    }

    fn publish(&self, channel: &str, message: &str) -> Waiting<'_, ()> {
        let request = Request {
            route: Route::Anywhere,
            ..Request::write(Cmd::publish(channel, message), "")
        };
        Box::pin(async move { self.one(request).await.map(drop) })
    }

    fn subscribe(&self, channel: &str) -> Option<Subscription> {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let transport = self.transport.load_full();
        let (channel, mut is_closed) = (channel.to_owned(), self.is_closed.subscribe());
        let task = tokio::spawn(async move {
            let Some(transport) = transport else {
                return;
            };
            let listening = async {
                // Said once per interruption.
                let mut is_told = false;
                while !events.is_closed() {
                    let error = listen(&transport, &channel, &events, &mut is_told).await;
                    if let Err(error) = error
                        && !is_told
                    {
                        tracing::warn!(prefix = "pub-sub", channel, "not listening: {error}");
                        is_told = true;
                    }
                    tokio::time::sleep(lane::by_chance(5 * PAUSE_MAX)).await;
                }
            };
            tokio::select! {
                () = listening => {}
                _ = is_closed.wait_for(|is_closed| *is_closed) => {}
            }
        });
        Some(Subscription::new(receiver, task))
    }

    fn scripts(&self) -> Option<&dyn Scripts> {
        Some(self)
    }

    fn show(&self, doorway: Arc<Doorway>) {
        let _ = self.doorway.set(doorway);
    }

    fn probe(&self) -> Waiting<'_, ()> {
        let ttl = Duration::from_secs(keys::LIVENESS_PROBE_TTL_S);
        self.set(
            keys::LIVENESS_PROBE,
            keys::LIVENESS_PROBE.as_bytes(),
            Some(ttl),
        )
    }

    fn flush(&self) -> Waiting<'_, ()> {
        // Each write is awaited to its answer; nothing is kept back here.
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> Waiting<'_, ()> {
        self.transport.store(None);
        self.is_closed.send_replace(true);
        Box::pin(async { Ok(()) })
    }
}

/// Listens over one connection for as long as it lasts.
async fn listen(
    transport: &Transport,
    channel: &str,
    events: &mpsc::Sender<super::Event>,
    is_told: &mut bool,
) -> io::Result<()> {
    let options = &transport.options;
    let connecting = async {
        let address = transport.publisher().await?;
        dial::stream(options, &address).await
    };
    let stream = match tokio::time::timeout(CONNECT_MAX, connecting).await {
        Ok(connected) => connected?.0,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    *is_told = false;
    let login = dial::login(&options.username, &options.password);
    pubsub::listen(stream, login, channel, events).await
}

impl Scripts for Redis {
    fn eval_many(&self, evals: Vec<Eval>) -> Waiting<'_, Vec<Result<ScriptReply, StoreError>>> {
        Box::pin(async move {
            let outcomes = self.run(&evals).await?;
            let read = |outcome: Result<Value, Failure>| request::script_reply(outcome?);
            Ok(outcomes.into_iter().map(read).collect())
        })
    }
}

#[cfg(test)]
mod tests;
