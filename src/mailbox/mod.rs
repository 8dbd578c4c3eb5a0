//! The only way between threads: bounded queues, one wake per batch, and for every question an
//! answer within its deadline, also when the other side is gone.
//!
//! ```text
//!            shard thread                                    tokio thread
//!   Line::ask ─> Pending (ticket) ─> Mailbox::post ══════> Desk::recv_batch ─> Question
//!                     │                                                          │ Reply::send
//!   Pending::complete <── Inbox::drain <══ wake descriptor ══ Outlet::send <─────┘ (or its drop)
//! ```
//!
//! Beside questions and answers there is a one-way road for bytes ([`blocks`](blocks())): what a shard
//! leaves behind of its requests.
//!
//! No runtime is known here on the shard's side: the shard waits for [`Inbox::fd`] to become
//! readable and calls [`Inbox::drain`]; its timer calls [`Pending::expire`]. The desk's side is
//! tokio's. Who is silent is answered for: a full queue at once with [`NoAnswer::Full`], a dropped
//! question or a closed desk with [`NoAnswer::Gone`], everything else at its deadline with
//! [`NoAnswer::TimedOut`].

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod blocks;
mod desk;
mod inbox;
mod line;
mod pending;

pub use blocks::{BLOCK_BYTES, Block, Filler, Party, Taker, blocks, blocks_sharing};
pub use desk::{Desk, Mailbox, Question, Reply, mailbox};
pub use inbox::{Deliver, Inbox, Outlet, SendError, Wake, inbox};
pub use line::Line;
pub use pending::{Answer, Pending};

/// Why a question has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The queue, or the table of questions under way, has no room: the caller refuses at once.
    #[error("too many questions are waiting")]
    Full,
    /// The deadline passed.
    #[error("no answer within the deadline")]
    TimedOut,
    /// The other side ended, or dropped the question.
    #[error("the other side is gone")]
    Gone,
}

/// Names one question under way on one shard. Never names a later question in the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    slot: u32,
    generation: u32,
}

/// What comes back to the shard for one question.
#[derive(Debug)]
pub struct Answered<A> {
    pub ticket: Ticket,
    pub outcome: Result<A, NoAnswer>,
}
