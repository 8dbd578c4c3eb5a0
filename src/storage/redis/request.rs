//! What is asked of Redis in one piece, and how its answers read.

use redis::{Cmd, ServerErrorKind, Value};

use crate::storage::{PushOutcome, ScriptReply, StoreError, Ttl};

/// Commands that go to one server, next to one another.
#[derive(Clone)]
#[allow(dead_code, reason = "read where there are several servers")]
pub(super) struct Request {
    pub(super) commands: Vec<Cmd>,
    /// Decides the server in a cluster; any server will do without one.
    pub(super) key: Option<String>,
    /// May be asked again although it may have been done before.
    pub(super) is_repeatable: bool,
}

impl Request {
    pub(super) fn read(command: Cmd, key: &str) -> Self {
        Self {
            commands: vec![command],
            key: Some(key.to_owned()),
            is_repeatable: true,
        }
    }

    pub(super) fn write(command: Cmd, key: &str) -> Self {
        Self {
            is_repeatable: false,
            ..Self::read(command, key)
        }
    }

    /// Commands that are done together or not at all.
    pub(super) fn together(commands: Vec<Cmd>, key: &str) -> Self {
        let mut all = Vec::with_capacity(commands.len() + 2);
        all.push(redis::cmd("MULTI"));
        all.extend(commands);
        all.push(redis::cmd("EXEC"));
        Self {
            commands: all,
            key: Some(key.to_owned()),
            is_repeatable: false,
        }
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
                Some(error) => Err(Failure::refused(error.to_string())),
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "made where requests are repeated")]
pub(super) enum FailureKind {
    /// The server does not know the script. Nothing was done.
    NoScript,
    /// Nothing was done, and a moment later, or elsewhere, it may be.
    NotNow,
    /// It may have been done.
    Unknown,
    /// The server does not do it.
    Refused,
}

impl Failure {
    pub(super) fn refused(why: String) -> Self {
        Self {
            kind: FailureKind::Refused,
            why,
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
        let why = match error.details() {
            Some(details) => format!("{} {details}", error.code()),
            None => error.code().to_owned(),
        };
        Self { kind, why }
    }
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

/// As [`super::PUSH`] answers.
pub(super) fn pushed(value: Value) -> Result<PushOutcome, StoreError> {
    let [len, dropped] = items(value)?
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
