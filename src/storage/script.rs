//! Scripts that run inside a shared store, so that several gateways agree.

use std::sync::OnceLock;

use crate::storage::{Replace, StoreError, Waiting};

/// A Lua script, named by its text.
pub struct Script {
    source: &'static str,
    sha1: OnceLock<String>,
}

impl Script {
    #[must_use]
    pub const fn new(source: &'static str) -> Self {
        Self {
            source,
            sha1: OnceLock::new(),
        }
    }

    #[must_use]
    pub fn source(&self) -> &'static str {
        self.source
    }

    /// Its name in the server, in lower-case hexadecimal.
    pub fn sha1(&self) -> &str {
        let sha1 = || redis::Script::new(self.source).get_hash().to_owned();
        self.sha1.get_or_init(sha1)
    }
}

/// One run of a script.
#[derive(Clone)]
pub struct Eval {
    pub script: &'static Script,
    /// All of them in one slot where the store is a cluster, which finds it by the first.
    pub keys: Vec<String>,
    pub args: Vec<Vec<u8>>,
}

/// What a script returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptReply {
    Nil,
    Int(i64),
    /// Also a status such as `OK`.
    Bytes(Vec<u8>),
    Array(Vec<ScriptReply>),
}

impl ScriptReply {
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// Several integers, as a script returns a table of them.
    #[must_use]
    pub fn ints<const N: usize>(&self) -> Option<[i64; N]> {
        let Self::Array(items) = self else {
            return None;
        };
        let ints: Option<Vec<_>> = items.iter().map(Self::int).collect();
        ints?.try_into().ok()
    }
}

/// A store that runs scripts.
pub trait Scripts: Send + Sync {
    /// Runs scripts in one round trip (a second one where the server does not know a script yet)
    /// and answers each on its own, in order. A script that may have run is never run again.
    ///
    /// # Errors
    /// As a whole when nothing was asked; else each for itself.
    fn eval_many(&self, evals: Vec<Eval>) -> Waiting<'_, Vec<Result<ScriptReply, StoreError>>>;
}

/// Sets a value in another's place. Arguments: the one that must be there, the new one, how long it
/// lives (ms; 0: for good). Answers 1 when it did.
static REPLACE: Script = Script::new(
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '0' then
  redis.call('SET', KEYS[1], ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1",
);

/// [`Store::replace`](super::Store::replace) where there are scripts.
pub(super) fn replace(scripts: &dyn Scripts, changes: Vec<Replace>) -> Waiting<'_, Vec<bool>> {
    let evals = changes
        .into_iter()
        .map(|change| Eval {
            script: &REPLACE,
            keys: vec![change.key],
            args: vec![
                change.from,
                change.to,
                change
                    .ttl
                    .map_or(0, |ttl| ttl.as_millis())
                    .to_string()
                    .into_bytes(),
            ],
        })
        .collect();
    let answers = scripts.eval_many(evals);
    Box::pin(async move {
        let was_replaced = |answer: Result<ScriptReply, StoreError>| Ok(answer?.int() == Some(1));
        answers.await?.into_iter().map(was_replaced).collect()
    })
}
