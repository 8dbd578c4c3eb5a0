//! Questions of a shard to the store, asked without blocking it.

use crate::{
    mailbox::{Line, NoAnswer},
    net::watch::Clock,
    storage::desk::Found,
};

/// The storage keys under which a session may lie, in order of preference.
pub type Ask = Vec<String>;

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

    /// The session under the first of these keys that exists, as stored; `Ok(None)` when none does.
    ///
    /// # Errors
    /// [`NoAnswer`] when the store's thread is overloaded or gone, the deadline passed, or the store
    /// is away.
    pub async fn session(&self, keys: Ask, clock: &Clock) -> Result<Option<Vec<u8>>, NoAnswer> {
        let deadline_ms = clock.now_ms() + self.deadline_ms;
        self.line
            .ask(keys, deadline_ms)
            .await?
            .map_err(|_| NoAnswer::Gone)
    }
}
