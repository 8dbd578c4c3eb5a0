//! Binary upgrade: a running process starts the new binary and hands over to it without losing a
//! request (SIGUSR2).
//!
//! Both processes speak over one inherited socket pair. The order keeps two promises: some process
//! accepts at every moment, and the store has one owner at every moment.
//!
//! ```text
//!  old process                                   new process
//!  spawn (listeners and socket inherited)  ───>  load configuration, start shards; store not opened
//!                                  <─── ready
//!  refuse control writes, flush, close store
//!  take_store ───>                               open store
//!                                  <─── store_taken, then start accepting, pid file
//!  cancel accepts on every shard, await them,
//!  serve what they brought, close the copies
//!  accept_stopped ───>
//!  drain; store writes travel:  write ───>       <─── written
//!  drained ───>, exit                            alone; a queued SIGUSR2 starts now
//! ```
//!
//! Whatever fails before `store_taken` leaves the old process as it was: the new one is ended and
//! awaited, then the store is opened again. A new process that dies later, while the old one still
//! holds its sockets, is treated the same. If the old process dies first, the new one goes on alone.
//!
//! [`old`] and [`new`] are the two sides as pure state machines, [`channel`] carries messages,
//! [`start`] starts a process and takes over what it inherits, [`drive`] puts them to work.
//!
//! Tyk: the library `again`; it cut requests that took longer than a second, lost TLS, and lost the
//! socket at the second upgrade.

pub mod channel;
pub mod drive;
pub mod new;
pub mod old;
pub mod start;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Both processes must speak the same version; another one is refused by name.
pub const PROTOCOL_VERSION: u32 = 1;

/// From the start of the new process to its `ready`.
pub const READY_WITHIN: Duration = Duration::from_secs(30);
/// From `take_store` to `store_taken`.
pub const STORE_TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// From `ready` to `take_store`, on the other side: longer than a store takes to flush.
pub const TAKE_STORE_WITHIN: Duration = Duration::from_secs(60);
/// From the end of the drain to the last `written`.
pub const LAST_WRITES_WITHIN: Duration = Duration::from_secs(5);
/// Between two attempts to open the store again.
pub const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// What the processes say to one another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Message {
    /// New: everything is loaded, and only the store is missing.
    Ready { pid: u32, release: String },
    /// Old: the store is closed; it is yours.
    TakeStore,
    /// New: the store is open here.
    StoreTaken,
    /// Old: I accept no more connections and hold no listening socket.
    AcceptStopped,
    /// Old: please write this to the store; the record is the store's own form.
    Write { id: u64, record: Value },
    /// New: done, or why not.
    Written { id: u64, error: Option<String> },
    /// Old: nothing is under way here any more.
    Drained,
    /// Either: I give up, for this reason.
    Failed { reason: String },
}

/// How loudly something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

#[cfg(test)]
mod tests;
