//! The process that takes over: events in, actions out, no IO.

use std::time::Duration;

use serde_json::Value;

use super::{Level, Message, REOPEN_EVERY, TAKE_STORE_WITHIN};

/// What happens to this process.
#[derive(Debug, Clone, PartialEq)]
pub enum NewEvent {
    /// Configuration loaded, shards up, nothing accepted, store not opened; or why not.
    Prepared(Result<(), String>),
    Received(Message),
    /// The socket pair ended or carried nonsense, or a message could not be sent.
    ChannelEnded(String),
    StoreOpened(Result<(), String>),
    /// The answer to [`NewAction::ApplyWrite`].
    WriteApplied {
        id: u64,
        result: Result<(), String>,
    },
    DeadlinePassed(Deadline),
    TerminateRequested,
}

/// What this process has to do, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum NewAction {
    Send(Message),
    SetDeadline(Deadline, Duration),
    ClearDeadline,
    /// Answered by `StoreOpened`.
    OpenStore,
    StartAccepting,
    WritePidFile,
    NotifyReady,
    /// Write to the store for the old process; answered by `WriteApplied`.
    ApplyWrite {
        id: u64,
        record: Value,
    },
    /// The old process has ended: an upgrade of this one may start.
    PredecessorGone,
    /// End this process; nothing was served.
    Exit(String),
    Say(Level, String),
}

/// What is waited for, no longer than a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    TakeStore,
    /// The next attempt to open the store that a dead process left.
    Reopen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Preparing,
    /// `ready` was sent.
    Waiting,
    OpeningStore,
    Serving,
    Ended,
}

/// The state of the process that takes over.
#[derive(Debug)]
pub struct NewGeneration {
    phase: Phase,
    pid: u32,
    release: String,
    /// The old process lives and can be spoken to.
    is_connected: bool,
}

impl NewGeneration {
    #[must_use]
    pub fn new(pid: u32, release: &str) -> Self {
        Self {
            phase: Phase::Preparing,
            pid,
            release: release.to_owned(),
            is_connected: true,
        }
    }

    /// Takes one event; answers what to do about it.
    pub fn on(&mut self, event: NewEvent) -> Vec<NewAction> {
        let mut todo = Vec::new();
        match event {
            NewEvent::Prepared(result) => self.prepared(result, &mut todo),
            NewEvent::Received(message) => self.received(message, &mut todo),
            NewEvent::ChannelEnded(why) => self.channel_ended(&why, &mut todo),
            NewEvent::StoreOpened(result) => self.store_opened(result, &mut todo),
            NewEvent::WriteApplied { id, result } => {
                if self.is_connected {
                    let error = result.err();
                    todo.push(NewAction::Send(Message::Written { id, error }));
                }
            }
            NewEvent::DeadlinePassed(Deadline::TakeStore) if self.phase == Phase::Waiting => {
                let limit = TAKE_STORE_WITHIN.as_secs();
                let text = format!("the old process did not give up the store in {limit} s");
                self.give_up(text, &mut todo);
            }
            NewEvent::DeadlinePassed(Deadline::Reopen) if self.phase == Phase::OpeningStore => {
                todo.push(NewAction::OpenStore);
            }
            NewEvent::DeadlinePassed(_) => {}
            NewEvent::TerminateRequested => {
                if !matches!(self.phase, Phase::Serving | Phase::Ended) {
                    self.give_up("this process was asked to stop".to_owned(), &mut todo);
                }
            }
        }
        todo
    }

    fn prepared(&mut self, result: Result<(), String>, todo: &mut Vec<NewAction>) {
        match result {
            _ if self.phase != Phase::Preparing => {}
            Err(why) => self.give_up(why, todo),
            Ok(()) if self.is_connected => {
                self.phase = Phase::Waiting;
                todo.push(NewAction::SetDeadline(
                    Deadline::TakeStore,
                    TAKE_STORE_WITHIN,
                ));
                todo.push(NewAction::Send(Message::Ready {
                    pid: self.pid,
                    release: self.release.clone(),
                }));
            }
            Ok(()) => self.open_store(todo),
        }
    }

    fn received(&mut self, message: Message, todo: &mut Vec<NewAction>) {
        match (self.phase, message) {
            (Phase::Waiting, Message::TakeStore) => self.open_store(todo),
            (Phase::Serving, Message::Write { id, record }) => {
                todo.push(NewAction::ApplyWrite { id, record });
            }
            (Phase::Serving, Message::AcceptStopped) => {
                say(
                    todo,
                    Level::Info,
                    "upgrade: the old process accepts no more",
                );
            }
            (Phase::Serving, Message::Drained) => {
                self.is_connected = false;
                say(
                    todo,
                    Level::Info,
                    "upgrade complete: the old process has drained",
                );
                todo.push(NewAction::PredecessorGone);
            }
            (Phase::Ended, _) => {}
            (Phase::Serving, message) => {
                let text = format!("the old process said {message:?} out of turn");
                say(todo, Level::Warn, text);
            }
            (_, Message::Failed { reason }) => {
                self.phase = Phase::Ended;
                todo.push(NewAction::Exit(format!(
                    "the old process gave up: {reason}"
                )));
            }
            (_, message) => {
                self.give_up(
                    format!("the old process said {message:?} out of turn"),
                    todo,
                );
            }
        }
    }

    /// The old process ends this one when it gives up, so a silent end means that it died: nobody
    /// else serves now.
    fn channel_ended(&mut self, why: &str, todo: &mut Vec<NewAction>) {
        if !self.is_connected || self.phase == Phase::Ended {
            return;
        }
        self.is_connected = false;
        let text = format!("the old process ended without draining: {why}");
        say(todo, Level::Error, text);
        match self.phase {
            Phase::Waiting => self.open_store(todo),
            Phase::Serving => todo.push(NewAction::PredecessorGone),
            Phase::Preparing | Phase::OpeningStore | Phase::Ended => {}
        }
    }

    fn open_store(&mut self, todo: &mut Vec<NewAction>) {
        self.phase = Phase::OpeningStore;
        todo.push(NewAction::ClearDeadline);
        todo.push(NewAction::OpenStore);
    }

    fn store_opened(&mut self, result: Result<(), String>, todo: &mut Vec<NewAction>) {
        if self.phase != Phase::OpeningStore {
            return;
        }
        match result {
            Ok(()) => {
                self.phase = Phase::Serving;
                if self.is_connected {
                    todo.push(NewAction::Send(Message::StoreTaken));
                }
                todo.push(NewAction::StartAccepting);
                todo.push(NewAction::WritePidFile);
                todo.push(NewAction::NotifyReady);
                if !self.is_connected {
                    todo.push(NewAction::PredecessorGone);
                }
            }
            Err(why) if self.is_connected => {
                self.give_up(format!("the store could not be opened: {why}"), todo);
            }
            Err(why) => {
                // A dead process' lock ends with it; there is nobody to give the traffic back to.
                let text = format!("the store could not be opened: {why}; trying again");
                say(todo, Level::Error, text);
                todo.push(NewAction::SetDeadline(Deadline::Reopen, REOPEN_EVERY));
            }
        }
    }

    fn give_up(&mut self, why: String, todo: &mut Vec<NewAction>) {
        self.phase = Phase::Ended;
        if self.is_connected {
            let reason = why.clone();
            todo.push(NewAction::Send(Message::Failed { reason }));
        }
        todo.push(NewAction::Exit(why));
    }
}

fn say(todo: &mut Vec<NewAction>, level: Level, text: impl Into<String>) {
    todo.push(NewAction::Say(level, text.into()));
}

#[cfg(test)]
mod tests;
