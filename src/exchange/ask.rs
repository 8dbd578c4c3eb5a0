//! Questions of a shard to the store, asked without blocking it.

use crate::{
    mailbox::{Line, NoAnswer},
    net::watch::Clock,
    storage::desk::{Ask, Found},
};

/// The shard's line to the store.
pub struct Asks {
    line: Line<Ask, Found>,
    deadline_ms: u64,
}

impl Asks {
    /// `deadline_ms` is how long a request waits for the store.
    #[must_use]
    pub fn new(line: Line<Ask, Found>, deadline_ms: u64) -> Self {
        Self { line, deadline_ms }
    }

    #[must_use]
    pub fn line(&self) -> &Line<Ask, Found> {
        &self.line
    }

    /// The session of a key, as stored; `Ok(None)` when there is none.
    ///
    /// # Errors
    /// [`NoAnswer`] when the store's thread is overloaded or gone, the deadline passed, or the store
    /// is away.
    pub async fn session(&self, key: String, clock: &Clock) -> Result<Option<Vec<u8>>, NoAnswer> {
        let deadline_ms = clock.now_ms() + self.deadline_ms;
        self.line.ask(key, deadline_ms).await?.map_err(|_| NoAnswer::Gone)
    }
}
