//! What is asked of Redis in one piece, and how its answers read.

use redis::{Cmd, ServerErrorKind, Value};

use crate::storage::{PushOutcome, Records, ScriptReply, StoreError, Ttl, redis::options::Address};

/// Commands that go to one server, next to one another.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) commands: Vec<Cmd>,
    /// Further arguments of one of the commands, by its place.
    pub(super) cargo: Option<(usize, Records)>,
    /// Who is asked, in a cluster.
    pub(super) route: Route,
    /// May be asked again although it may have been done before.
    pub(super) is_repeatable: bool,
    /// Large, or slow for the server: stands in nobody's way.
    pub(super) is_bulk: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// The master that has this key.
    Key(String),
    /// This server.
    Server(Address),
    Anywhere,
}

impl Request {
    pub(super) fn read(command: Cmd, key: &str) -> Self {
        Self {
            commands: vec![command],
            cargo: None,
            route: Route::Key(key.to_owned()),
            is_repeatable: true,
            is_bulk: false,
        }
    }

    pub(super) fn write(command: Cmd, key: &str) -> Self {
        Self {
            is_repeatable: false,
            ..Self::read(command, key)
        }
    }

    /// Commands that are done together or not at all. `MULTI` comes before them.
    pub(super) fn together(commands: Vec<Cmd>, key: &str) -> Self {
        let mut all = Vec::with_capacity(commands.len() + 2);
        all.push(redis::cmd("MULTI"));
        all.extend(commands);
        all.push(redis::cmd("EXEC"));
        Self {
            commands: all,
            cargo: None,
            route: Route::Key(key.to_owned()),
            is_repeatable: false,
            is_bulk: false,
        }
    }

    /// The further arguments of the command at a place.
    pub(super) fn cargo_of(&self, place: usize) -> Option<&Records> {
        let (at, records) = self.cargo.as_ref()?;
        (*at == place).then_some(records)
    }

    /// What became of it, by the server's answers to its commands: that of the last one.
    pub(super) fn outcome(replies: Vec<Value>) -> Result<Value, Failure> {
        let mut cause = None;
        let mut last = Value::Nil;
        for reply in replies {
            if let Value::ServerError(error) = &reply
                && cause.is_none()
            {
                cause = Some(Failure::from_server(error));
            }
            last = reply;
        }
        match (last, cause) {
            // `EXECABORT` says less than what came before it.
            (Value::ServerError(error), cause) => {
                Err(cause.unwrap_or_else(|| Failure::from_server(&error)))
            }
            (Value::Array(items), _) => match items.iter().find_map(server_error) {
                // Part of what should have been done together has been.
                Some(error) => Err(Failure::new(
                    FailureKind::Refused,
                    Failure::from_server(error).why,
                )),
                None => Ok(Value::Array(items)),
            },
            (last, _) => Ok(last),
        }
    }
}

fn server_error(value: &Value) -> Option<&redis::ServerError> {
    match value {
        Value::ServerError(error) => Some(error),
        _ => None,
    }
}

/// Why a request brought nothing.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) why: String,
    /// Whom to ask instead (`MOVED`, `ASK`).
    pub(super) redirect: Option<Redirect>,
    /// This is no master, or the login is void: a new connection may do better.
    pub(super) is_wrong_server: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The server does not know the script. Nothing was done.
    NoScript,
    /// Nothing was done, and a moment later, or elsewhere, it may be.
    NotNow,
    /// It may have been done.
    Unknown,
    /// The server does not do it, or there is none.
    Refused,
}

/// Another server of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) slot: u16,
    /// Its host is empty where it is the asked server's.
    pub(super) address: Address,
    /// For this once, by an `ASKING`.
    pub(super) is_ask: bool,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, why: String) -> Self {
        Self {
            kind,
            why,
            redirect: None,
            is_wrong_server: false,
        }
    }

    pub(super) fn from_server(error: &redis::ServerError) -> Self {
        let kind = match error.kind() {
            Some(ServerErrorKind::NoScript) => FailureKind::NoScript,
            Some(
                ServerErrorKind::ReadOnly
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading,
            ) => FailureKind::NotNow,
            _ if matches!(error.code(), "BUSY" | "NOREPLICAS") => FailureKind::NotNow,
            _ => FailureKind::Refused,
        };
        let redirect = match error.kind() {
            Some(ServerErrorKind::Moved) => redirect(error, false),
            Some(ServerErrorKind::Ask) => redirect(error, true),
            _ => None,
        };
        let why = match error.details() {
            Some(details) => format!("{} {details}", error.code()),
            None => error.code().to_owned(),
        };
        Self {
            kind,
            why,
            redirect,
            is_wrong_server: error.kind() == Some(ServerErrorKind::ReadOnly)
                || error.code() == "NOAUTH",
        }
    }
}

/// Reads `3999 127.0.0.1:6381`.
fn redirect(error: &redis::ServerError, is_ask: bool) -> Option<Redirect> {
    let (slot, address) = error.details()?.split_once(' ')?;
    let (host, port) = address.rsplit_once(':')?;
    Some(Redirect {
        slot: slot.parse().ok()?,
        address: Address {
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: port.parse().ok()?,
        },
        is_ask,
    })
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        StoreError::Away(format!("redis: {}", failure.why))
    }
}

/// An answer of another kind than the command has.
fn unexpected(value: &Value) -> StoreError {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::Array(_) => "several values",
        _ => "something",
    };
    StoreError::Away(format!("redis: answered {kind} where it should not"))
}

pub(super) fn int(value: &Value) -> Result<i64, StoreError> {
    match value {
        Value::Int(value) => Ok(*value),
        other => Err(unexpected(other)),
    }
}

pub(super) fn bytes(value: Value) -> Result<Option<Vec<u8>>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        other => Err(unexpected(&other)),
    }
}

pub(super) fn items(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(unexpected(&other)),
    }
}

/// As `PTTL` answers.
pub(super) fn ttl(ms: i64) -> Option<Ttl> {
    match u64::try_from(ms) {
        Ok(ms) => Some(Ttl::Ms(ms)),
        Err(_) if ms == -1 => Some(Ttl::Forever),
        Err(_) => None,
    }
}

/// What [`super::BOUND`] answers, behind others done together with it.
pub(super) fn pushed(value: Value) -> Result<PushOutcome, StoreError> {
    let [len, dropped] = items(items(value)?.pop().unwrap_or(Value::Nil))?
        .try_into()
        .map_err(|items| unexpected(&Value::Array(items)))?;
    Ok(PushOutcome {
        len: int(&len)?.unsigned_abs(),
        dropped: int(&dropped)?.unsigned_abs(),
    })
}

/// A cursor and the names of one step of a `SCAN`.
pub(super) fn page(value: Value) -> Result<(String, Vec<String>), StoreError> {
    let [cursor, names] = items(value)?
        .try_into()
        .map_err(|items| unexpected(&Value::Array(items)))?;
    let text = |value: Value| -> Result<String, StoreError> {
        let bytes = bytes(value)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let names: Result<_, _> = items(names)?.into_iter().map(text).collect();
    Ok((text(cursor)?, names?))
}

pub(super) fn script_reply(value: Value) -> Result<ScriptReply, StoreError> {
    Ok(match value {
        Value::Nil => ScriptReply::Nil,
        Value::Int(value) => ScriptReply::Int(value),
        Value::BulkString(bytes) => ScriptReply::Bytes(bytes),
        Value::SimpleString(text) => ScriptReply::Bytes(text.into_bytes()),
        Value::Okay => ScriptReply::Bytes(b"OK".to_vec()),
        Value::Array(items) => {
            let items: Result<_, _> = items.into_iter().map(script_reply).collect();
            ScriptReply::Array(items?)
        }
        other => return Err(unexpected(&other)),
    })
}
