//! Messages of one channel, as they come.

use tokio::{sync::mpsc, task::JoinHandle};

/// What a [`Subscription`] yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Messages are received from here on; what was published before may be lost. Comes first,
    /// and after every interruption.
    Reconnected,
    Message(Vec<u8>),
}

/// Listens until dropped; connects anew by itself.
pub struct Subscription {
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Subscription {
    /// `task` feeds `events`, and is stopped with this.
    #[must_use]
    pub(super) fn new(events: mpsc::Receiver<Event>, task: JoinHandle<()>) -> Self {
        Self { events, task }
    }

    /// The next event; `None` once the store is closed. May be dropped and asked again.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.task.abort();
    }
}
