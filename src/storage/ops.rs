//! What a [`Store`](super::Store) is asked to do, beside single values.

use std::time::Duration;

/// One change of several that are stored together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOp {
    /// As [`Store::set`](super::Store::set).
    Set {
        key: String,
        value: Vec<u8>,
        ttl: Option<Duration>,
    },
    /// As [`Store::delete`](super::Store::delete).
    Delete(String),
}

/// A value to be put in another's place, if that is still the one that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    pub key: String,
    pub from: Vec<u8>,
    pub to: Vec<u8>,
    /// As for [`Store::set`](super::Store::set).
    pub ttl: Option<Duration>,
}

/// How much longer a key lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    Forever,
    /// Milliseconds.
    Ms(u64),
}

/// A counter and what to add to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    pub key: String,
    pub by: i64,
    /// Given to the counter when it did not exist before.
    pub ttl: Option<Duration>,
}

/// A counter after an [`Add`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// Exact up to 2^53, beyond which Redis' scripts round.
    pub value: i64,
    /// `None` when it was gone as soon as it was there (a time to live of zero).
    pub ttl: Option<Ttl>,
}

/// How large and how old a list may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListLimit {
    /// Records; the oldest go first. `None` for no limit.
    pub records_max: Option<u64>,
    /// Given to the list whenever it has none.
    pub ttl: Option<Duration>,
}

/// A list after records were appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PushOutcome {
    /// Records in the list.
    pub len: u64,
    /// Records that left it for [`ListLimit::records_max`].
    pub dropped: u64,
}
