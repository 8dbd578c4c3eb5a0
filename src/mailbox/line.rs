//! One kind of question from one shard to one desk: ticket, post and answer in one call.

use std::sync::Arc;

use crate::mailbox::{Answer, Answered, Deliver, Mailbox, NoAnswer, Pending, Question, Reply};

/// A shard's line to a desk.
pub struct Line<Q, A> {
    mailbox: Mailbox<Q, A>,
    pending: Pending<A>,
    /// The shard's own inbox, seen from the desk.
    back: Arc<dyn Deliver<A>>,
}

impl<Q, A> Line<Q, A> {
    /// A line with at most `max` questions under way, whose answers come back through `back`.
    #[must_use]
    pub fn new(mailbox: Mailbox<Q, A>, back: Arc<dyn Deliver<A>>, max: usize) -> Self {
        Self {
            mailbox,
            pending: Pending::new(max),
            back,
        }
    }

    /// Asks; the future ends at the latest when [`Line::expire`] is called with `deadline_ms`.
    /// Posted when this returns, not when the future is polled.
    pub fn ask(&self, payload: Q, deadline_ms: u64) -> Answer<A> {
        let (ticket, answer) = match self.pending.ask(deadline_ms) {
            Ok(opened) => opened,
            Err(why) => return Answer::refused(why),
        };
        let posted = self.mailbox.post(Question {
            payload,
            deadline_ms,
            reply: Reply::new(Arc::clone(&self.back), ticket),
        });
        match posted {
            Ok(()) => answer,
            Err(why) => Answer::refused(why),
        }
    }

    /// Posts what needs no answer; one that comes reaches nobody.
    ///
    /// # Errors
    /// [`NoAnswer::Full`] and [`NoAnswer::Gone`].
    pub fn tell(&self, payload: Q) -> Result<(), NoAnswer> {
        self.mailbox.post(Question {
            payload,
            deadline_ms: u64::MAX,
            reply: Reply::nobody(),
        })
    }

    /// Delivers what the shard's inbox brought for this line.
    pub fn complete(&self, answered: Answered<A>) -> bool {
        self.pending.complete(answered)
    }

    /// Ends overdue questions; for the shard's timer.
    pub fn expire(&self, now_ms: u64) -> usize {
        self.pending.expire(now_ms)
    }

    /// Questions under way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pending.count()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;
    use crate::mailbox::{Desk, Inbox, NoAnswer, Outlet, Wake, inbox, mailbox};

    struct Shard {
        line: Line<u32, String>,
        inbox: Inbox<Answered<String>>,
        desk: Option<Desk<u32, String>>,
    }

    fn shard(queue: usize, under_way: usize) -> Shard {
        let (mailbox, desk) = mailbox(queue);
        let (inbox, outlet): (_, Outlet<Answered<String>>) = inbox(Wake::socketpair().unwrap(), 64);
        Shard {
            line: Line::new(mailbox, Arc::new(outlet), under_way),
            inbox,
            desk: Some(desk),
        }
    }

    impl Shard {
        /// Polls the future, draining between polls, with a clock that goes one up per turn.
        fn block_on(&self, answer: Answer<String>, turns: u64) -> Result<String, NoAnswer> {
            let mut answer = pin!(answer);
            let mut cx = Context::from_waker(Waker::noop());
            for now_ms in 0..turns {
                if let Poll::Ready(outcome) = answer.as_mut().poll(&mut cx) {
                    return outcome;
                }
                self.inbox.drain(|answered| {
                    self.line.complete(answered);
                });
                self.line.expire(now_ms);
                std::thread::yield_now();
            }
            panic!("no outcome after {turns} turns");
        }
    }

    /// A thread that answers with `respond` until the posting ends are gone.
    fn serve(
        mut desk: Desk<u32, String>,
        respond: impl Fn(Question<u32, String>) + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut batch = Vec::new();
                while desk.recv_batch(&mut batch, 16).await > 0 {
                    batch.drain(..).for_each(&respond);
                }
            });
        })
    }

    #[test]
    fn questions_are_answered_across_threads() {
        let mut shard = shard(8, 8);
        let thread = serve(shard.desk.take().unwrap(), |question| {
            let answer = format!("{}!", question.payload);
            question.reply.send(answer);
        });
        for n in 0..1_000 {
            let answer = shard.line.ask(n, u64::MAX);
            assert_eq!(shard.block_on(answer, u64::MAX), Ok(format!("{n}!")));
        }
        assert_eq!(shard.line.count(), 0);
        drop(shard);
        thread.join().unwrap();
    }

    #[test]
    fn a_dropped_question_is_answered_gone_at_once() {
        let mut shard = shard(8, 8);
        let thread = serve(shard.desk.take().unwrap(), drop);
        let answer = shard.line.ask(1, u64::MAX);
        assert_eq!(shard.block_on(answer, u64::MAX), Err(NoAnswer::Gone));
        drop(shard);
        thread.join().unwrap();
    }

    #[test]
    fn a_silent_desk_is_answered_for_at_the_deadline() {
        let shard = shard(8, 8);
        let answer = shard.line.ask(1, 50);
        assert_eq!(shard.block_on(answer, 60), Err(NoAnswer::TimedOut));
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_keeps_no_ticket() {
        let shard = shard(1, 8);
        let waiting = shard.line.ask(1, u64::MAX);
        assert_eq!(
            shard.block_on(shard.line.ask(2, u64::MAX), 1),
            Err(NoAnswer::Full)
        );
        assert_eq!(shard.line.count(), 1);
        drop(waiting);
    }

    #[test]
    fn a_full_table_refuses_before_the_queue_is_touched() {
        let mut shard = shard(8, 1);
        let _waiting = shard.line.ask(1, u64::MAX);
        assert_eq!(
            shard.block_on(shard.line.ask(2, u64::MAX), 1),
            Err(NoAnswer::Full)
        );
        let mut batch = Vec::new();
        let desk = shard.desk.as_mut().unwrap();
        let received = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(desk.recv_batch(&mut batch, 16));
        assert_eq!(received, 1);
    }

    #[test]
    fn a_desk_that_ends_answers_what_it_had_and_what_comes_later() {
        let mut shard = shard(8, 8);
        let before = shard.line.ask(1, u64::MAX);
        drop(shard.desk.take());
        assert_eq!(shard.block_on(before, 3), Err(NoAnswer::Gone));
        assert_eq!(
            shard.block_on(shard.line.ask(2, u64::MAX), 1),
            Err(NoAnswer::Gone)
        );
    }
}
