//! Questions of a shard to the store, asked without blocking it.

use crate::{
    mailbox::{Line, NoAnswer},
    net::watch::{Clock, TICK_MS},
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
        // The clock is behind by up to a tick: without it, a question that is asked just before the
        // next tick would have no time at all.
        let deadline_ms = clock.now_ms() + self.deadline_ms + TICK_MS;
        self.line
            .ask(keys, deadline_ms)
            .await?
            .map_err(|_| NoAnswer::Gone)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        sync::Arc,
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::{
        mailbox::{Answered, Outlet, Wake, inbox, mailbox},
        net::watch::Watch,
    };

    #[test]
    fn a_question_has_its_whole_time_whenever_it_is_asked() {
        let (mailbox, _desk) = mailbox(8);
        let (_inbox, outlet): (_, Outlet<Answered<Found>>) =
            inbox(Wake::socketpair().expect("a pair"), 8);
        let asks = Asks::new(Line::new(mailbox, Arc::new(outlet), 8), 100);
        let watch = Watch::new();
        let mut answer = pin!(asks.session(Vec::new(), watch.clock()));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(answer.as_mut().poll(&mut cx).is_pending());
        // The next tick may come a moment after the question.
        asks.line().expire(TICK_MS);
        assert!(answer.as_mut().poll(&mut cx).is_pending());
        asks.line().expire(2 * TICK_MS);
        assert_eq!(
            answer.as_mut().poll(&mut cx),
            Poll::Ready(Err(NoAnswer::TimedOut))
        );
    }
}
