//! The shard's own table of questions under way.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use crate::mailbox::{Answered, NoAnswer, Ticket};

/// Questions under way on one shard, at most a fixed number. A clone is the same table.
///
/// Dropping the last handle to it answers what is left with [`NoAnswer::Gone`].
pub struct Pending<A> {
    table: Rc<Handle<A>>,
}

/// Counts the handles that are not answers, so that the table's end is noticed.
struct Handle<A>(Rc<RefCell<Table<A>>>);

struct Table<A> {
    slots: Vec<Slot<A>>,
    /// Free slots, the last freed first.
    free: Vec<u32>,
    max: usize,
    /// No question under way has an earlier deadline. May be too early, never too late.
    earliest_ms: u64,
}

struct Slot<A> {
    generation: u32,
    deadline_ms: u64,
    state: State<A>,
}

enum State<A> {
    Free,
    Waiting(Option<Waker>),
    Done(Result<A, NoAnswer>),
}

impl<A> Pending<A> {
    /// An empty table for at most `max` questions. Grows with use.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            table: Rc::new(Handle(Rc::new(RefCell::new(Table {
                slots: Vec::new(),
                free: Vec::new(),
                max: max.min(u32::MAX as usize),
                earliest_ms: u64::MAX,
            })))),
        }
    }

    /// Opens a question that [`Pending::expire`] ends at `deadline_ms`.
    ///
    /// # Errors
    /// [`NoAnswer::Full`].
    pub fn ask(&self, deadline_ms: u64) -> Result<(Ticket, Answer<A>), NoAnswer> {
        let table = &self.table.0;
        let ticket = table.borrow_mut().open(deadline_ms)?;
        let answer = Answer(Inner::Waiting(Rc::clone(table), ticket));
        Ok((ticket, answer))
    }

    /// Delivers what came back. An outcome that nobody waits for any more is dropped; false then.
    pub fn complete(&self, answered: Answered<A>) -> bool {
        let waker = {
            let mut table = self.table.0.borrow_mut();
            let Some(slot) = table.slot(answered.ticket) else {
                return false;
            };
            let State::Waiting(waker) = &mut slot.state else {
                return false;
            };
            let waker = waker.take();
            slot.state = State::Done(answered.outcome);
            waker
        };
        // Outside the borrow: a waker may poll at once.
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Ends every question whose deadline is `now_ms` or earlier with [`NoAnswer::TimedOut`] and
    /// returns how many those were. One comparison when none can be due, else one pass.
    pub fn expire(&self, now_ms: u64) -> usize {
        if now_ms < self.table.0.borrow().earliest_ms {
            return 0;
        }
        let mut wakers = Vec::new();
        let count = self
            .table
            .0
            .borrow_mut()
            .end_until(now_ms, NoAnswer::TimedOut, &mut wakers);
        for waker in wakers {
            waker.wake();
        }
        count
    }

    /// Questions that wait for an answer or whose answer was not fetched yet.
    #[must_use]
    pub fn count(&self) -> usize {
        let table = self.table.0.borrow();
        table.slots.len() - table.free.len()
    }
}

impl<A> Clone for Pending<A> {
    fn clone(&self) -> Self {
        Self {
            table: Rc::clone(&self.table),
        }
    }
}

impl<A> Drop for Handle<A> {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        self.0
            .borrow_mut()
            .end_until(u64::MAX, NoAnswer::Gone, &mut wakers);
        for waker in wakers {
            waker.wake();
        }
    }
}

impl<A> Table<A> {
    fn open(&mut self, deadline_ms: u64) -> Result<Ticket, NoAnswer> {
        self.earliest_ms = self.earliest_ms.min(deadline_ms);
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            slot.deadline_ms = deadline_ms;
            slot.state = State::Waiting(None);
            return Ok(Ticket {
                slot: index,
                generation: slot.generation,
            });
        }
        if self.slots.len() >= self.max {
            return Err(NoAnswer::Full);
        }
        let index = u32::try_from(self.slots.len()).map_err(|_| NoAnswer::Full)?;
        self.slots.push(Slot {
            generation: 0,
            deadline_ms,
            state: State::Waiting(None),
        });
        Ok(Ticket {
            slot: index,
            generation: 0,
        })
    }

    /// The slot of a ticket, unless it has gone to a later question.
    fn slot(&mut self, ticket: Ticket) -> Option<&mut Slot<A>> {
        self.slots
            .get_mut(ticket.slot as usize)
            .filter(|slot| slot.generation == ticket.generation)
    }

    /// Takes the outcome if it is there, and with it the slot.
    fn poll(&mut self, ticket: Ticket, waker: &Waker) -> Poll<Result<A, NoAnswer>> {
        let Some(slot) = self.slot(ticket) else {
            return Poll::Ready(Err(NoAnswer::Gone));
        };
        match &mut slot.state {
            State::Waiting(Some(kept)) => {
                kept.clone_from(waker);
                Poll::Pending
            }
            State::Waiting(none) => {
                *none = Some(waker.clone());
                Poll::Pending
            }
            State::Free | State::Done(_) => Poll::Ready(match self.close(ticket) {
                Some(State::Done(outcome)) => outcome,
                _ => Err(NoAnswer::Gone),
            }),
        }
    }

    /// Frees the slot of a ticket; its state, for the caller to drop outside any borrow.
    fn close(&mut self, ticket: Ticket) -> Option<State<A>> {
        let slot = self.slot(ticket)?;
        if matches!(slot.state, State::Free) {
            return None;
        }
        slot.generation = slot.generation.wrapping_add(1);
        let state = std::mem::replace(&mut slot.state, State::Free);
        self.free.push(ticket.slot);
        Some(state)
    }

    fn end_until(&mut self, now_ms: u64, why: NoAnswer, wakers: &mut Vec<Waker>) -> usize {
        let mut count = 0;
        self.earliest_ms = u64::MAX;
        for slot in &mut self.slots {
            let State::Waiting(waker) = &mut slot.state else {
                continue;
            };
            if slot.deadline_ms > now_ms {
                self.earliest_ms = self.earliest_ms.min(slot.deadline_ms);
                continue;
            }
            wakers.extend(waker.take());
            slot.state = State::Done(Err(why));
            count += 1;
        }
        count
    }
}

/// The answer to one question, awaited on the shard that asked. Dropping it gives its place back;
/// what still comes for it is thrown away.
#[must_use = "a question whose answer nobody awaits is closed at once"]
pub struct Answer<A>(Inner<A>);

enum Inner<A> {
    Waiting(Rc<RefCell<Table<A>>>, Ticket),
    Refused(NoAnswer),
}

impl<A> Answer<A> {
    /// An answer that is there already: the question was never posted.
    pub(in crate::mailbox) const fn refused(why: NoAnswer) -> Self {
        Self(Inner::Refused(why))
    }
}

impl<A> Future for Answer<A> {
    type Output = Result<A, NoAnswer>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.0 {
            Inner::Waiting(table, ticket) => table.borrow_mut().poll(*ticket, cx.waker()),
            Inner::Refused(why) => Poll::Ready(Err(*why)),
        }
    }
}

impl<A> Drop for Answer<A> {
    fn drop(&mut self) {
        if let Inner::Waiting(table, ticket) = &self.0 {
            let state = table.borrow_mut().close(*ticket);
            drop(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll<A>(answer: &mut Answer<A>, wakes: &Arc<Wakes>) -> Poll<Result<A, NoAnswer>> {
        let waker = Waker::from(Arc::clone(wakes));
        pin!(answer).poll(&mut Context::from_waker(&waker))
    }

    fn answered<A>(ticket: Ticket, answer: A) -> Answered<A> {
        Answered {
            ticket,
            outcome: Ok(answer),
        }
    }

    #[test]
    fn an_answer_wakes_its_asker_once() {
        let (pending, wakes) = (Pending::new(4), Arc::<Wakes>::default());
        let (ticket, mut answer) = pending.ask(10).unwrap();
        assert_eq!(poll(&mut answer, &wakes), Poll::Pending);
        assert!(pending.complete(answered(ticket, "yes")));
        assert!(!pending.complete(answered(ticket, "again")));
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(&mut answer, &wakes), Poll::Ready(Ok("yes")));
        assert_eq!(pending.count(), 0);
    }

    #[test]
    fn an_answer_before_the_first_poll_is_kept() {
        let (pending, wakes) = (Pending::new(4), Arc::<Wakes>::default());
        let (ticket, mut answer) = pending.ask(10).unwrap();
        pending.complete(answered(ticket, 1));
        assert_eq!(poll(&mut answer, &wakes), Poll::Ready(Ok(1)));
    }

    #[test]
    fn a_deadline_ends_what_is_due_and_nothing_else() {
        let (pending, wakes) = (Pending::<u8>::new(4), Arc::<Wakes>::default());
        let (_, mut soon) = pending.ask(100).unwrap();
        let (late_ticket, mut late) = pending.ask(101).unwrap();
        for answer in [&mut soon, &mut late] {
            assert_eq!(poll(answer, &wakes), Poll::Pending);
        }
        assert_eq!(pending.expire(99), 0);
        assert_eq!(pending.expire(100), 1);
        assert_eq!(
            poll(&mut soon, &wakes),
            Poll::Ready(Err(NoAnswer::TimedOut))
        );
        assert_eq!(poll(&mut late, &wakes), Poll::Pending);
        pending.complete(answered(late_ticket, 5));
        assert_eq!(pending.expire(101), 0, "answered in time");
        assert_eq!(poll(&mut late, &wakes), Poll::Ready(Ok(5)));
    }

    #[test]
    fn an_earlier_deadline_after_a_sweep_is_seen() {
        let pending = Pending::<u8>::new(4);
        let _far = pending.ask(1_000).unwrap();
        assert_eq!(pending.expire(10), 0);
        let _near = pending.ask(20).unwrap();
        assert_eq!(pending.expire(20), 1);
    }

    #[test]
    fn a_dropped_answer_frees_its_place_and_late_outcomes_miss_the_next_asker() {
        let (pending, wakes) = (Pending::new(1), Arc::<Wakes>::default());
        let (old, answer) = pending.ask(10).unwrap();
        assert!(matches!(pending.ask(10), Err(NoAnswer::Full)));
        drop(answer);
        let (new, mut answer) = pending.ask(10).unwrap();
        assert_ne!(old, new);
        assert!(!pending.complete(answered(old, "stale")));
        assert_eq!(poll(&mut answer, &wakes), Poll::Pending);
        pending.complete(answered(new, "fresh"));
        assert_eq!(poll(&mut answer, &wakes), Poll::Ready(Ok("fresh")));
    }

    #[test]
    fn the_limit_is_kept() {
        let pending = Pending::<u8>::new(3);
        let open: Vec<_> = (0..3).map(|_| pending.ask(1).unwrap()).collect();
        assert!(matches!(pending.ask(1), Err(NoAnswer::Full)));
        drop(open);
        assert_eq!(pending.count(), 0);
        assert!(pending.ask(1).is_ok());
    }

    #[test]
    fn the_tables_end_answers_everybody() {
        let (pending, wakes) = (Pending::<u8>::new(4), Arc::<Wakes>::default());
        let (_, mut answer) = pending.ask(10).unwrap();
        assert_eq!(poll(&mut answer, &wakes), Poll::Pending);
        drop(pending);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(&mut answer, &wakes), Poll::Ready(Err(NoAnswer::Gone)));
    }
}
