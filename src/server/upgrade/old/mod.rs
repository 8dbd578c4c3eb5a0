//! The process that hands over: events in, actions out, no IO.
//!
//! Three things are tracked apart, because a failure can meet them in any combination: the phase of
//! the upgrade, who owns the store, and whether this process accepts.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use serde_json::Value;

use super::{LAST_WRITES_WITHIN, Level, Message, READY_WITHIN, REOPEN_EVERY, STORE_TAKEN_WITHIN};

/// Store writes that wait while the store changes hands.
pub const WAITING_WRITES_MAX: usize = 10_000;

/// What happens to this process.
#[derive(Debug, Clone, PartialEq)]
pub enum OldEvent {
    /// SIGUSR2.
    UpgradeRequested,
    /// The process that handed over to this one has ended.
    PredecessorGone,
    /// The new process was started, with this pid, or could not be.
    Spawned(Result<u32, String>),
    Received(Message),
    /// The socket pair ended or carried nonsense, or a message could not be sent.
    ChannelEnded(String),
    /// After [`OldAction::EndSuccessor`]: it is gone and holds nothing any more.
    SuccessorEnded,
    DeadlinePassed(Deadline),
    StoreClosed(Result<(), String>),
    StoreReopened(Result<(), String>),
    /// Every shard has cancelled its accepts, awaited them and serves what they brought.
    AcceptsCanceled,
    /// A request under way must write to the store. `id` is the caller's, unused so far.
    WriteWanted {
        id: u64,
        record: Value,
    },
    /// Nothing is under way any more, or the drain limit was reached.
    DrainEnded,
    /// SIGTERM and the like.
    TerminateRequested,
}

/// What this process has to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum OldAction {
    /// Start the new binary; answered by `Spawned`.
    Spawn,
    Send(Message),
    /// Kill the new process if it lives, and await its end; answered by `SuccessorEnded`.
    EndSuccessor,
    SetDeadline(Deadline, Duration),
    ClearDeadline,
    /// Control writes get 503 with Retry-After.
    RefuseWrites,
    AllowWrites,
    /// Flush and close; answered by `StoreClosed`.
    CloseStore,
    /// Answered by `StoreReopened`.
    ReopenStore,
    /// On every shard; answered by `AcceptsCanceled`. The sockets stay open.
    CancelAccepts,
    ResumeAccepts,
    /// Close this process' copies of the listening sockets.
    CloseListeners,
    /// Finish what is under way; answered by `DrainEnded`.
    Drain,
    /// Write to the own store a record that waited.
    ApplyWrite {
        id: u64,
        record: Value,
    },
    /// The answer to `WriteWanted`, when another process wrote or nobody could.
    WriteEnded {
        id: u64,
        result: Result<(), String>,
    },
    /// Tell the service manager.
    NotifyReloading,
    NotifyReady,
    NotifyMainPid(u32),
    /// Begin the ordinary end of a process that nobody follows.
    Terminate,
    /// End this process now, successfully.
    Exit,
    Say(Level, String),
}

/// What is waited for, no longer than a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    Ready,
    StoreTaken,
    LastWrites,
    Reopen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No upgrade under way.
    Serving,
    /// The new process starts.
    Starting,
    /// It is ready; the store is closed and offered.
    HandingStore,
    /// It has the store; accepting ends here.
    StoppingAccepts,
    /// It serves; this process finishes.
    Draining,
    /// The upgrade failed; things are put back.
    Aborting,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Open,
    Closing,
    /// Closed here, and nobody's unless `take_store` was sent.
    Closed,
    /// The new process said that it owns it.
    Taken,
    Reopening,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepts {
    On,
    Canceling,
    Off,
}

/// The state of the process that hands over.
#[derive(Debug)]
pub struct OldGeneration {
    phase: Phase,
    store: Store,
    accepts: Accepts,
    /// The new process was started and its end was not seen.
    has_successor: bool,
    successor_pid: u32,
    /// Messages can still be sent.
    is_connected: bool,
    /// The process before this one still drains.
    has_predecessor: bool,
    /// A SIGUSR2 waits for that, or for the end of a failed upgrade.
    is_queued: bool,
    /// SIGTERM came during an upgrade that is being given up.
    is_terminating: bool,
    has_drained: bool,
    failure: String,
    /// Writes that wait for the store to have an owner again.
    waiting: VecDeque<(u64, Value)>,
    /// Writes that the new process was asked for.
    sent: BTreeSet<u64>,
}

impl OldGeneration {
    /// `has_predecessor`: this process was itself started by an upgrade whose old process drains.
    #[must_use]
    pub fn new(has_predecessor: bool) -> Self {
        Self {
            phase: Phase::Serving,
            store: Store::Open,
            accepts: Accepts::On,
            has_successor: false,
            successor_pid: 0,
            is_connected: false,
            has_predecessor,
            is_queued: false,
            is_terminating: false,
            has_drained: false,
            failure: String::new(),
            waiting: VecDeque::new(),
            sent: BTreeSet::new(),
        }
    }

    /// Whether the store is open in this process, and only in this one.
    #[must_use]
    pub fn owns_store(&self) -> bool {
        matches!(self.store, Store::Open | Store::Closing)
    }

    /// Takes one event; answers what to do about it.
    pub fn on(&mut self, event: OldEvent) -> Vec<OldAction> {
        let mut todo = Vec::new();
        match event {
            OldEvent::UpgradeRequested => self.upgrade_requested(&mut todo),
            OldEvent::PredecessorGone => {
                self.has_predecessor = false;
                self.start_queued(&mut todo);
            }
            OldEvent::Spawned(result) => self.spawned(result, &mut todo),
            OldEvent::Received(message) => self.received(message, &mut todo),
            OldEvent::ChannelEnded(why) => self.channel_ended(&why, &mut todo),
            OldEvent::SuccessorEnded => {
                self.has_successor = false;
                self.put_back(&mut todo);
            }
            OldEvent::DeadlinePassed(deadline) => self.deadline_passed(deadline, &mut todo),
            OldEvent::StoreClosed(result) => self.store_closed(result, &mut todo),
            OldEvent::StoreReopened(result) => self.store_reopened(result, &mut todo),
            OldEvent::AcceptsCanceled => self.accepts_canceled(&mut todo),
            OldEvent::WriteWanted { id, record } => self.write(id, record, &mut todo),
            OldEvent::DrainEnded => {
                self.has_drained = true;
                self.leave(&mut todo);
            }
            OldEvent::TerminateRequested => self.terminate_requested(&mut todo),
        }
        todo
    }

    fn upgrade_requested(&mut self, todo: &mut Vec<OldAction>) {
        match self.phase {
            Phase::Serving if self.has_predecessor => {
                self.is_queued = true;
                say(
                    todo,
                    Level::Info,
                    "upgrade queued: an older process still drains",
                );
            }
            Phase::Serving => self.start(todo),
            Phase::Aborting => {
                self.is_queued = true;
                say(
                    todo,
                    Level::Info,
                    "upgrade queued: the last one is being taken back",
                );
            }
            Phase::Starting | Phase::HandingStore | Phase::StoppingAccepts => {
                say(todo, Level::Info, "an upgrade is already under way");
            }
            Phase::Draining | Phase::Done => {
                let pid = self.successor_pid;
                let text = format!("this process is draining; signal process {pid} instead");
                say(todo, Level::Warn, text);
            }
        }
    }

    fn start_queued(&mut self, todo: &mut Vec<OldAction>) {
        if self.phase == Phase::Serving && !self.has_predecessor && self.is_queued {
            self.is_queued = false;
            self.start(todo);
        }
    }

    fn start(&mut self, todo: &mut Vec<OldAction>) {
        self.phase = Phase::Starting;
        say(todo, Level::Info, "upgrade: starting the new process");
        todo.push(OldAction::NotifyReloading);
        todo.push(OldAction::Spawn);
    }

    fn spawned(&mut self, result: Result<u32, String>, todo: &mut Vec<OldAction>) {
        match result {
            Ok(pid) => {
                self.has_successor = true;
                self.is_connected = true;
                self.successor_pid = pid;
                if self.phase == Phase::Starting {
                    todo.push(OldAction::SetDeadline(Deadline::Ready, READY_WITHIN));
                } else {
                    todo.push(OldAction::EndSuccessor);
                }
            }
            Err(why) => self.abort(format!("the new process could not be started: {why}"), todo),
        }
    }

    fn received(&mut self, message: Message, todo: &mut Vec<OldAction>) {
        match (self.phase, message) {
            (Phase::Starting, Message::Ready { pid, release }) => {
                self.phase = Phase::HandingStore;
                self.store = Store::Closing;
                self.successor_pid = pid;
                let text = format!("upgrade: process {pid} (release {release}) is ready");
                say(todo, Level::Info, text);
                todo.push(OldAction::ClearDeadline);
                todo.push(OldAction::RefuseWrites);
                todo.push(OldAction::CloseStore);
            }
            (Phase::HandingStore, Message::StoreTaken) if self.store == Store::Closed => {
                self.phase = Phase::StoppingAccepts;
                self.store = Store::Taken;
                self.accepts = Accepts::Canceling;
                todo.push(OldAction::ClearDeadline);
                todo.push(OldAction::CancelAccepts);
                for (id, record) in std::mem::take(&mut self.waiting) {
                    self.write(id, record, todo);
                }
            }
            (Phase::StoppingAccepts | Phase::Draining, Message::Written { id, error }) => {
                if self.sent.remove(&id) {
                    let result = error.map_or(Ok(()), Err);
                    todo.push(OldAction::WriteEnded { id, result });
                }
                self.leave(todo);
            }
            (Phase::Starting | Phase::HandingStore, Message::Failed { reason }) => {
                self.abort(format!("the new process gave up: {reason}"), todo);
            }
            // Already being put back, or over: what it says no longer matters.
            (Phase::Serving | Phase::Aborting | Phase::Done, _) => {}
            (Phase::Draining, message) => {
                let text = format!("the new process said {message:?} while this one drained");
                say(todo, Level::Warn, text);
            }
            (_, message) => self.abort(
                format!("the new process said {message:?} out of turn"),
                todo,
            ),
        }
    }

    fn channel_ended(&mut self, why: &str, todo: &mut Vec<OldAction>) {
        self.is_connected = false;
        match self.phase {
            Phase::Starting | Phase::HandingStore | Phase::StoppingAccepts => {
                self.abort(format!("the new process is gone: {why}"), todo);
            }
            Phase::Draining => {
                let text = format!("the new process is gone while this one drains: {why}");
                say(todo, Level::Error, text);
                self.fail_sent(todo);
                self.leave(todo);
            }
            Phase::Serving | Phase::Aborting | Phase::Done => {}
        }
    }

    fn deadline_passed(&mut self, deadline: Deadline, todo: &mut Vec<OldAction>) {
        match (deadline, self.phase) {
            (Deadline::Ready, Phase::Starting) => {
                let limit = READY_WITHIN.as_secs();
                self.abort(format!("the new process was not ready in {limit} s"), todo);
            }
            (Deadline::StoreTaken, Phase::HandingStore) => {
                let limit = STORE_TAKEN_WITHIN.as_secs();
                let text = format!("the new process did not take the store in {limit} s");
                self.abort(text, todo);
            }
            (Deadline::LastWrites, Phase::Draining) => {
                self.fail_sent(todo);
                self.leave(todo);
            }
            (Deadline::Reopen, Phase::Aborting) => self.put_back(todo),
            _ => {}
        }
    }

    fn store_closed(&mut self, result: Result<(), String>, todo: &mut Vec<OldAction>) {
        self.store = Store::Closed;
        match (self.phase, result) {
            (Phase::HandingStore, Ok(())) => {
                let limit = STORE_TAKEN_WITHIN;
                todo.push(OldAction::SetDeadline(Deadline::StoreTaken, limit));
                todo.push(OldAction::Send(Message::TakeStore));
            }
            (Phase::HandingStore, Err(why)) => {
                self.abort(format!("the store could not be closed: {why}"), todo);
            }
            _ => self.put_back(todo),
        }
    }

    fn store_reopened(&mut self, result: Result<(), String>, todo: &mut Vec<OldAction>) {
        match result {
            Ok(()) => {
                self.store = Store::Open;
                for (id, record) in std::mem::take(&mut self.waiting) {
                    todo.push(OldAction::ApplyWrite { id, record });
                }
                self.put_back(todo);
            }
            Err(why) => {
                self.store = Store::Closed;
                let text = format!(
                    "the store could not be opened again: {why}; requests are served from caches, trying again"
                );
                say(todo, Level::Error, text);
                todo.push(OldAction::SetDeadline(Deadline::Reopen, REOPEN_EVERY));
            }
        }
    }

    fn accepts_canceled(&mut self, todo: &mut Vec<OldAction>) {
        self.accepts = Accepts::Off;
        if self.phase != Phase::StoppingAccepts {
            return self.put_back(todo);
        }
        self.phase = Phase::Draining;
        let text = format!(
            "upgrade: process {} serves, this one drains",
            self.successor_pid
        );
        say(todo, Level::Info, text);
        todo.push(OldAction::CloseListeners);
        todo.push(OldAction::Send(Message::AcceptStopped));
        todo.push(OldAction::NotifyMainPid(self.successor_pid));
        todo.push(OldAction::Drain);
    }

    fn write(&mut self, id: u64, record: Value, todo: &mut Vec<OldAction>) {
        let failed = |why: &str| OldAction::WriteEnded {
            id,
            result: Err(why.to_owned()),
        };
        match self.store {
            Store::Open => todo.push(OldAction::ApplyWrite { id, record }),
            Store::Taken if self.phase == Phase::Aborting => self.wait(id, record, todo),
            Store::Taken if self.is_connected => {
                self.sent.insert(id);
                todo.push(OldAction::Send(Message::Write { id, record }));
            }
            Store::Taken => todo.push(failed("the process that owns the store is gone")),
            Store::Closing | Store::Closed | Store::Reopening => self.wait(id, record, todo),
        }
    }

    fn wait(&mut self, id: u64, record: Value, todo: &mut Vec<OldAction>) {
        if self.waiting.len() < WAITING_WRITES_MAX {
            self.waiting.push_back((id, record));
        } else {
            todo.push(OldAction::WriteEnded {
                id,
                result: Err("too many writes wait for the store".to_owned()),
            });
        }
    }

    fn terminate_requested(&mut self, todo: &mut Vec<OldAction>) {
        match self.phase {
            Phase::Serving => todo.push(OldAction::Terminate),
            Phase::Starting | Phase::HandingStore => {
                self.is_terminating = true;
                self.abort("this process was asked to stop".to_owned(), todo);
            }
            Phase::Aborting => self.is_terminating = true,
            // On its way out, and bounded by the drain limit.
            Phase::StoppingAccepts | Phase::Draining | Phase::Done => {}
        }
    }

    /// Gives the upgrade up: the new process is ended first, and only then is anything reopened.
    fn abort(&mut self, why: String, todo: &mut Vec<OldAction>) {
        self.phase = Phase::Aborting;
        self.failure = why;
        todo.push(OldAction::ClearDeadline);
        if self.has_successor {
            if self.is_connected {
                let reason = self.failure.clone();
                todo.push(OldAction::Send(Message::Failed { reason }));
            }
            todo.push(OldAction::EndSuccessor);
        }
        self.fail_sent(todo);
        self.put_back(todo);
    }

    /// Takes the next step back to serving, when nothing is left to wait for.
    fn put_back(&mut self, todo: &mut Vec<OldAction>) {
        if self.phase != Phase::Aborting || self.has_successor {
            return;
        }
        if self.accepts == Accepts::Off {
            self.accepts = Accepts::On;
            todo.push(OldAction::ResumeAccepts);
        }
        match self.store {
            Store::Closing | Store::Reopening => return,
            Store::Closed | Store::Taken => {
                self.store = Store::Reopening;
                todo.push(OldAction::ReopenStore);
                return;
            }
            Store::Open => {}
        }
        if self.accepts == Accepts::Canceling {
            return;
        }
        self.phase = Phase::Serving;
        self.is_connected = false;
        let text = format!(
            "upgrade failed, this process goes on serving: {}",
            self.failure
        );
        say(todo, Level::Error, text);
        todo.push(OldAction::AllowWrites);
        todo.push(OldAction::NotifyReady);
        if self.is_terminating {
            todo.push(OldAction::Terminate);
        } else {
            self.start_queued(todo);
        }
    }

    fn fail_sent(&mut self, todo: &mut Vec<OldAction>) {
        for id in std::mem::take(&mut self.sent) {
            todo.push(OldAction::WriteEnded {
                id,
                result: Err("the process that owns the store did not answer".to_owned()),
            });
        }
    }

    /// Ends this process when nothing is under way and no write is unanswered.
    fn leave(&mut self, todo: &mut Vec<OldAction>) {
        if self.phase != Phase::Draining || !self.has_drained {
            return;
        }
        if self.sent.is_empty() {
            self.phase = Phase::Done;
            if self.is_connected {
                todo.push(OldAction::Send(Message::Drained));
            }
            todo.push(OldAction::Exit);
        } else {
            let limit = LAST_WRITES_WITHIN;
            todo.push(OldAction::SetDeadline(Deadline::LastWrites, limit));
        }
    }
}

fn say(todo: &mut Vec<OldAction>, level: Level, text: impl Into<String>) {
    todo.push(OldAction::Say(level, text.into()));
}

#[cfg(test)]
mod tests;
