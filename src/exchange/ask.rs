//! Questions of a shard to the store, asked without blocking it.

use crate::{
    mailbox::{Line, NoAnswer},
    net::watch::Clock,
};

/// What a step may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The session behind one of these storage keys; the first that exists wins.
    Session { keys: Vec<String> },
}

/// What the store says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The session as stored, or that there is none.
    Session(Option<Vec<u8>>),
    /// The store is away; whether there is a session is not known.
    Away,
}

/// The shard's line to the store.
pub struct Asks {
    line: Line<Question, Answer>,
    deadline_ms: u64,
}

impl Asks {
    #[must_use]
    pub fn new(line: Line<Question, Answer>, deadline_ms: u64) -> Self {
        Self { line, deadline_ms }
    }

    #[must_use]
    pub fn line(&self) -> &Line<Question, Answer> {
        &self.line
    }

    /// Asks for a session.
    ///
    /// # Errors
    /// [`NoAnswer`] when the store's thread is overloaded or gone, or the deadline passed; a store
    /// that is away is an error too.
    pub async fn session(
        &self,
        keys: Vec<String>,
        clock: &Clock,
    ) -> Result<Option<Vec<u8>>, NoAnswer> {
        let deadline_ms = clock.now_ms() + self.deadline_ms;
        match self.line.ask(Question::Session { keys }, deadline_ms).await? {
            Answer::Session(session) => Ok(session),
            Answer::Away => Err(NoAnswer::Gone),
        }
    }
}
