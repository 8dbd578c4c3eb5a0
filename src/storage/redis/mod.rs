//! Sessions in Redis, under Tyk's key names.
//!
//! One multiplexed connection that is opened when it is first needed and anew when it breaks; a
//! gateway starts, and serves keyless APIs, while Redis is away (as Tyk).

#![allow(
    clippy::disallowed_types,
    reason = "held for a few instructions on the control side and never over an await"
)]

mod options;
mod pubsub;
mod request;

use std::{collections::BTreeSet, time::Duration};

use redis::{
    Client, Cmd, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError, Value,
    aio::{ConnectionLike as _, ConnectionManager, ConnectionManagerConfig},
};
use tokio::sync::mpsc;

use crate::storage::{
    Add, Counter, Eval, ListLimit, PushOutcome, Script, ScriptReply, Scripts, Store, StoreError,
    Subscription, Ttl, Waiting, WriteOp, keys,
};

pub(super) use options::Options;
use request::{Failure, FailureKind, Request};

/// Adds ARGV[1] to a counter and gives it ARGV[2] ms to live when it is new (0: for ever); its value
/// and `PTTL`.
static ADD: Script = Script::new(
    "local new = redis.call('EXISTS', KEYS[1]) == 0
local value = redis.call('INCRBY', KEYS[1], ARGV[1])
if new and ARGV[2] ~= '' then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {value, redis.call('PTTL', KEYS[1])}",
);

/// Appends ARGV[3..] to a list of at most ARGV[1] records, and gives it ARGV[2] ms to live when it
/// has none; its length and how many were dropped. An empty argument: no limit.
static PUSH: Script = Script::new(
    "for at = 3, #ARGV, 1000 do
  redis.call('RPUSH', KEYS[1], unpack(ARGV, at, math.min(at + 999, #ARGV)))
end
local len = redis.call('LLEN', KEYS[1])
local dropped = 0
if ARGV[1] ~= '' and len > tonumber(ARGV[1]) then
  dropped = len - tonumber(ARGV[1])
  redis.call('LTRIM', KEYS[1], dropped, -1)
end
if ARGV[2] ~= '' and redis.call('PTTL', KEYS[1]) == -1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return {len - dropped, dropped}",
);

/// Names that one step of a listing looks at.
const SCAN_COUNT: usize = 1000;

/// Messages that a subscriber may be behind.
const EVENTS_MAX: usize = 1024;

/// Between attempts to listen.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// A Redis server, connected when needed.
pub struct Redis {
    options: Options,
    /// `None` once closed.
    connection: std::sync::RwLock<Option<ConnectionManager>>,
}

impl Redis {
    /// Prepares the connection; opens none. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when the options make no sense to the client.
    pub fn open(options: &Options) -> Result<Self, StoreError> {
        let unusable = |error: RedisError| StoreError::Unusable(format!("storage: {error}"));
        let mut login = RedisConnectionInfo::default().set_db(options.database);
        if !options.username.is_empty() {
            login = login.set_username(&options.username);
        }
        if !options.password.is_empty() {
            login = login.set_password(&options.password);
        }
        let info = ConnectionAddr::Tcp(options.host.clone(), options.port)
            .into_connection_info()
            .map_err(unusable)?
            .set_redis_settings(login);
        let client = Client::open(info).map_err(unusable)?;
        // One retry: a question must fail fast while the server is down, and the next one tries
        // again anyway.
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(options.timeout))
            .set_response_timeout(Some(options.timeout))
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(20))
            .set_max_delay(Duration::from_millis(100));
        let connection =
            ConnectionManager::new_lazy_with_config(client, config).map_err(unusable)?;
        Ok(Self {
            options: options.clone(),
            connection: std::sync::RwLock::new(Some(connection)),
        })
    }

    /// A handle to the one connection.
    fn connection(&self) -> Result<ConnectionManager, StoreError> {
        let connection = match self.connection.read() {
            Ok(connection) => connection,
            Err(poisoned) => poisoned.into_inner(),
        };
        connection.clone().ok_or(StoreError::Closed)
    }

    /// Asks several things in one round trip; answers each, in order.
    async fn exchange(
        &self,
        requests: &[Request],
    ) -> Result<Vec<Result<Value, Failure>>, StoreError> {
        let mut connection = self.connection()?;
        let mut pipeline = redis::pipe();
        let mut count = 0;
        for request in requests {
            count += request.commands.len();
            for command in &request.commands {
                pipeline.add_command(command.clone());
            }
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let replies = connection
            .req_packed_commands(&pipeline, 0, count)
            .await
            .map_err(|error| StoreError::Away(format!("redis: {error}")))?;
        let mut replies = replies.into_iter();
        let outcome = |request: &Request| {
            let replies = replies.by_ref().take(request.commands.len()).collect();
            Request::outcome(replies)
        };
        Ok(requests.iter().map(outcome).collect())
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
        let is_unknown = |outcome: &Result<Value, Failure>| matches!(outcome, Err(failure) if failure.kind == FailureKind::NoScript);
        let unknown: Vec<_> = (0..outcomes.len())
            .filter(|at| outcomes.get(*at).is_some_and(is_unknown))
            .collect();
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
    Request {
        commands: vec![command],
        key: eval.keys.first().cloned(),
        is_repeatable: false,
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

    fn get(&self, key: &str) -> Waiting<'_, Option<Vec<u8>>> {
        let request = Request::read(Cmd::get(key), key);
        Box::pin(async move { request::bytes(self.one(request).await?) })
    }

    fn get_many(&self, keys: Vec<String>) -> Waiting<'_, Vec<Option<Vec<u8>>>> {
        Box::pin(async move {
            let Some(first) = keys.first() else {
                return Ok(Vec::new());
            };
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
            // A name may come twice.
            let mut names = BTreeSet::new();
            let mut cursor = "0".to_owned();
            loop {
                let mut command = redis::cmd("SCAN");
                command.arg(&cursor).arg("MATCH").arg(&pattern);
                command.arg("COUNT").arg(SCAN_COUNT);
                let (next, page) = request::page(self.one(Request::read(command, "")).await?)?;
                names.extend(page);
                if next == "0" {
                    return Ok(names.into_iter().collect());
                }
                cursor = next;
            }
        })
    }

    fn write(&self, ops: Vec<WriteOp>) -> Waiting<'_, ()> {
        Box::pin(async move {
            let commands: Vec<_> = ops
                .iter()
                .map(|op| match op {
                    WriteOp::Set { key, value, ttl } => set(key, value, *ttl),
                    WriteOp::Delete(key) => Cmd::del(key),
                })
                .collect();
            if commands.is_empty() {
                return Ok(());
            }
            self.one(Request::together(commands, "")).await.map(drop)
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

    fn push(
        &self,
        list: &str,
        records: Vec<Vec<u8>>,
        limit: ListLimit,
    ) -> Waiting<'_, PushOutcome> {
        let max = limit.records_max.map(|max| max.to_string());
        let mut args = vec![max.unwrap_or_default().into_bytes(), ms_arg(limit.ttl)];
        args.extend(records);
        let eval = Eval {
            script: &PUSH,
            keys: vec![list.to_owned()],
            args,
        };
        Box::pin(async move {
            match self.run(&[eval]).await?.pop() {
                Some(outcome) => request::pushed(outcome?),
                None => Err(StoreError::Closed),
            }
        })
    }

    fn publish(&self, channel: &str, message: &str) -> Waiting<'_, ()> {
        let request = Request::write(Cmd::publish(channel, message), channel);
        Box::pin(async move { self.one(request).await.map(drop) })
    }

    fn subscribe(&self, channel: &str) -> Option<Subscription> {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let (options, channel) = (self.options.clone(), channel.to_owned());
        let task = tokio::spawn(async move {
            while !events.is_closed() {
                let listening = async {
                    let address = (options.host.as_str(), options.port);
                    let stream = tokio::net::TcpStream::connect(address).await?;
                    pubsub::listen(stream, &options.login(), &channel, &events).await
                };
                if let Err(error) = listening.await {
                    tracing::warn!(prefix = "pub-sub", channel, "subscription lost: {error}");
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        });
        Some(Subscription::new(receiver, task))
    }

    fn scripts(&self) -> Option<&dyn Scripts> {
        Some(self)
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
        match self.connection.write() {
            Ok(mut connection) => *connection = None,
            Err(poisoned) => *poisoned.into_inner() = None,
        }
        Box::pin(async { Ok(()) })
    }
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
