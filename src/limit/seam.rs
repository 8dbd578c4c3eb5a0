//! Items of `storage` that this module uses.

pub(super) use crate::storage::{StoreError, Waiting};
use std::time::Duration;

pub struct Script {
    source: &'static str,
}
impl Script {
    #[must_use]
    pub const fn new(source: &'static str) -> Self {
        Self { source }
    }
    #[must_use]
    pub fn source(&self) -> &'static str {
        self.source
    }
}
#[derive(Clone)]
pub struct Eval {
    pub script: &'static Script,
    pub keys: Vec<String>,
    pub args: Vec<Vec<u8>>,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptReply {
    Nil,
    Int(i64),
    Bytes(Vec<u8>),
    Array(Vec<ScriptReply>),
}
impl ScriptReply {
    #[must_use]
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(v) => Some(*v),
            _ => None,
        }
    }
    #[must_use]
    pub fn ints<const N: usize>(&self) -> Option<[i64; N]> {
        let Self::Array(items) = self else {
            return None;
        };
        let ints: Option<Vec<_>> = items.iter().map(Self::int).collect();
        ints?.try_into().ok()
    }
}
pub trait Scripts: Send + Sync {
    fn eval_many(&self, evals: Vec<Eval>) -> Waiting<'_, Vec<Result<ScriptReply, StoreError>>>;
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    Forever,
    Ms(u64),
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    pub key: String,
    pub by: i64,
    pub ttl: Option<Duration>,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    pub value: i64,
    pub ttl: Option<Ttl>,
}
pub trait Store: Send + Sync {
    fn delete(&self, key: &str) -> Waiting<'_, bool>;
    fn add(&self, adds: Vec<Add>) -> Waiting<'_, Vec<Counter>>;
    fn scripts(&self) -> Option<&dyn Scripts>;
    fn probe(&self) -> Waiting<'_, ()>;
}
