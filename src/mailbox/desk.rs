//! Questions from shards to a thread that runs tokio.
//!
//! The queue is tokio's bounded channel: sending never waits, and its receiver is woken once
//! however many questions arrive before it looks.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::mailbox::{Answered, Deliver, NoAnswer, Ticket};

/// A queue for at most `capacity` questions: the end that posts (one clone per shard) and the end
/// that answers.
#[must_use]
pub fn mailbox<Q, A>(capacity: usize) -> (Mailbox<Q, A>, Desk<Q, A>) {
    let (sender, receiver) = mpsc::channel(capacity.max(1));
    (Mailbox { sender }, Desk { receiver })
}

/// The posting end of a queue of questions.
pub struct Mailbox<Q, A> {
    sender: mpsc::Sender<Question<Q, A>>,
}

impl<Q, A> Mailbox<Q, A> {
    /// Puts a question into the queue. Never waits.
    ///
    /// # Errors
    /// [`NoAnswer::Full`] and [`NoAnswer::Gone`]; the question is then dropped without a second
    /// answer through its [`Reply`].
    pub fn post(&self, question: Question<Q, A>) -> Result<(), NoAnswer> {
        self.sender.try_send(question).map_err(|error| {
            let (mut question, why) = match error {
                mpsc::error::TrySendError::Full(question) => (question, NoAnswer::Full),
                mpsc::error::TrySendError::Closed(question) => (question, NoAnswer::Gone),
            };
            question.reply.to = None;
            why
        })
    }
}

impl<Q, A> Clone for Mailbox<Q, A> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
        }
    }
}

/// The answering end. Dropping it answers everything in the queue with [`NoAnswer::Gone`].
pub struct Desk<Q, A> {
    receiver: mpsc::Receiver<Question<Q, A>>,
}

impl<Q, A> Desk<Q, A> {
    /// Waits for questions and appends at most `max` of them to `batch`. The number appended; zero
    /// when every posting end is gone. Safe to drop: no question is lost.
    pub async fn recv_batch(&mut self, batch: &mut Vec<Question<Q, A>>, max: usize) -> usize {
        self.receiver.recv_many(batch, max.max(1)).await
    }

    /// Takes no more questions; those in the queue can still be received.
    pub fn close(&mut self) {
        self.receiver.close();
    }
}

/// One question with its way back.
pub struct Question<Q, A> {
    pub payload: Q,
    /// On the clock of the asking shard, in milliseconds; an answer after it reaches nobody.
    pub deadline_ms: u64,
    pub reply: Reply<A>,
}

impl<Q, A> Question<Q, A> {
    /// Whether the asker has given up, so that work for it would be wasted.
    #[must_use]
    pub const fn is_overdue(&self, now_ms: u64) -> bool {
        self.deadline_ms <= now_ms
    }
}

/// The way back to the shard that asked. Dropped without an answer it says [`NoAnswer::Gone`], so
/// a task that panics or is aborted leaves nobody waiting for the deadline.
pub struct Reply<A> {
    to: Option<Arc<dyn Deliver<A>>>,
    ticket: Ticket,
}

impl<A> Reply<A> {
    #[must_use]
    pub fn new(to: Arc<dyn Deliver<A>>, ticket: Ticket) -> Self {
        Self {
            to: Some(to),
            ticket,
        }
    }

    /// Answers.
    pub fn send(mut self, answer: A) {
        self.deliver(Ok(answer));
    }

    /// For what is told and not asked.
    #[must_use]
    pub(super) const fn nobody() -> Self {
        Self {
            to: None,
            ticket: Ticket {
                slot: 0,
                generation: 0,
            },
        }
    }

    fn deliver(&mut self, outcome: Result<A, NoAnswer>) {
        if let Some(to) = self.to.take() {
            to.deliver(Answered {
                ticket: self.ticket,
                outcome,
            });
        }
    }
}

impl<A> Drop for Reply<A> {
    fn drop(&mut self) {
        self.deliver(Err(NoAnswer::Gone));
    }
}
