//! What is asked of Redis in one piece, and how its answers read.

use redis::{Cmd, ServerErrorKind, Value};

use crate::storage::{
    PushOutcome, Records, ScriptReply, StoreError, Ttl, redis::options::Address, resp::Malformed,
};

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
    /// The server takes no writes, or is cut off from the one that does. It may still be read from.
    pub(super) is_wrong_server: bool,
    /// A new connection may do better, and this one does nothing.
    pub(super) is_login_void: bool,
    /// The server answers, and only writes are what it does not do.
    pub(super) is_write_refused: bool,
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
            is_login_void: false,
            is_write_refused: false,
        }
    }

    pub(super) fn from_server(error: &redis::ServerError) -> Self {
        let code = code(error);
        let kind = match code {
            "NOSCRIPT" => FailureKind::NoScript,
            "READONLY" | "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" | "MASTERDOWN"
            | "LOADING" | "BUSY" | "NOREPLICAS" => FailureKind::NotNow,
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
            is_wrong_server: matches!(code, "READONLY" | "MASTERDOWN"),
            is_login_void: code == "NOAUTH",
            is_write_refused: matches!(code, "READONLY" | "NOREPLICAS" | "OOM" | "MISCONF"),
        }
    }
}

/// What a refusal is about. Redis 7 puts the code of an error that stopped a script in front, as of
/// any other; before, it stood somewhere in the text: `ERR Error running script (call to f_…):
/// @user_script:1: @user_script: 1: -READONLY You can't write …`.
fn code(error: &redis::ServerError) -> &str {
    const IN_SCRIPTS: [&str; 10] = [
        "READONLY",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "LOADING",
        "BUSY",
        "NOAUTH",
    ];
    let outer = error.code();
    let details = error.details().unwrap_or_default();
    let is_of_script =
        outer.starts_with("@user_script") || outer == "ERR" && details.contains("@user_script");
    if !is_of_script {
        return outer;
    }
    details
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix('-'))
        .find(|word| IN_SCRIPTS.contains(word))
        .unwrap_or(outer)
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

/// Why a server did not do what it was asked, seen from a connection with nothing else on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub error: StoreError,
    /// Nothing was done: the text must be sent.
    pub is_script_unknown: bool,
    /// Another connection may do better, perhaps to another server; this one does nothing.
    pub is_server_void: bool,
}

/// Reads a reply that is an error.
///
/// # Errors
/// It is none.
pub(in crate::storage) fn refusal(line: &[u8]) -> Result<Refusal, Malformed> {
    let Ok(Value::ServerError(error)) = redis::parse_redis_value(line) else {
        return Err(Malformed);
    };
    let failure = Failure::from_server(&error);
    Ok(Refusal {
        is_script_unknown: failure.kind == FailureKind::NoScript,
        is_server_void: failure.is_wrong_server || failure.is_login_void,
        error: failure.into(),
    })
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        let why = format!("redis: {}", failure.why);
        match failure.is_write_refused {
            true => StoreError::Refused(why),
            false => StoreError::Away(why),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(line: &str) -> Failure {
        let reply = format!("-{line}\r\n");
        match redis::parse_redis_value(reply.as_bytes()).unwrap() {
            Value::ServerError(error) => Failure::from_server(&error),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check(text: &str, kind: FailureKind, is_wrong_server: bool, is_write_refused: bool) {
        let redis_6 = [
            "ERR Error running script (call to f_2ba): @user_script:1: @user_script: 1: -",
            "ERR Error running script (call to f_2ba): @user_script:1: -",
            "@user_script: 1: -",
        ]
        .map(|before| format!("{before}{text} "));
        let redis_7 = format!("{text} script: 2ba, on @user_script:1.");
        for line in redis_6.iter().chain([&redis_7, &text.to_owned()]) {
            let failure = failure(line);
            assert_eq!(failure.kind, kind, "{line}");
            assert_eq!(failure.is_wrong_server, is_wrong_server, "{line}");
            assert_eq!(failure.is_write_refused, is_write_refused, "{line}");
        }
    }

    #[test]
    fn refusals_are_told_apart_outside_and_inside_of_scripts() {
        use FailureKind::{NotNow, Refused};
        let read_only = "READONLY You can't write against a read only replica.";
        check(read_only, NotNow, true, true);
        let alone =
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
        check(alone, NotNow, true, false);
        let few = "NOREPLICAS Not enough good replicas to write.";
        check(few, NotNow, false, true);
        let full = "OOM command not allowed when used memory > 'maxmemory'.";
        check(full, Refused, false, true);
        let broken = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.";
        check(broken, Refused, false, true);
        check("CLUSTERDOWN The cluster is down", NotNow, false, false);
        check(
            "LOADING Redis is loading the dataset in memory",
            NotNow,
            false,
            false,
        );
        check("BUSY Redis is busy running a script.", NotNow, false, false);
        check("NOAUTH Authentication required.", Refused, false, false);
        assert!(failure("NOAUTH Authentication required.").is_login_void);
    }

    #[test]
    fn what_a_text_merely_mentions_is_not_its_code() {
        for line in [
            "ERR unknown command 'x', with args beginning with: -READONLY",
            "ERR Error running script (call to f_2ba): @user_script:1: READONLY",
            "WRONGTYPE Operation against a key -READONLY @user_script",
        ] {
            let failure = failure(line);
            assert_eq!(failure.kind, FailureKind::Refused, "{line}");
            assert!(
                !failure.is_wrong_server && !failure.is_write_refused,
                "{line}"
            );
        }
        let unknown = failure("NOSCRIPT No matching script. Please use EVAL.");
        assert_eq!(unknown.kind, FailureKind::NoScript);
    }
}
