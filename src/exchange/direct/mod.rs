//! A shard's own connection to the store's server, for what its limiters ask.
//!
//! ```text
//!   ask ──> Batch ──one write──> flight ──replies, in order──> Round::settle ──> who asked
//!                                  └─ no reply within the deadline: they decide alone
//! ```
//!
//! While one write is under way, what is asked becomes the next. Without a connection, questions go
//! the other way, through the mailbox: this one is opened when it is first wanted, and anew when it
//! ends or when the server is another one ([`Doorway`]).

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use crate::{
    limit::{Answer, Batch, Outlook, Question, Round},
    net::{
        self,
        io::{Stream, Tcp, Transport},
        sys::Half,
        watch::{AtDeadline, Watch, process_us},
    },
    storage::{
        Doorway, Endpoint, Eval, Refusal, ScriptReply, StoreError,
        resp::{Malformed, read_reply, write_eval},
    },
};

/// Questions that wait to be written. Beyond that they go through the mailbox.
const QUESTIONS_MAX: usize = 4_096;

/// A connection that owes an answer for so long is replaced.
const SILENCE_MAX_US: u64 = 1_000_000;

/// For connecting, and again for the login.
const CONNECT_MAX: Duration = Duration::from_secs(1);

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Attempts to connect that fail, while the store answers, before that is said.
const FAILURES_TOLD: u32 = 5;

/// The connection.
pub struct Direct {
    doorway: Arc<Doorway>,
    outlook: Arc<Outlook>,
    /// Whom it is open to; `None` while it is not.
    peer: RefCell<Option<Arc<Endpoint>>>,
    /// Somebody has asked while it was not open.
    is_wanted: Cell<bool>,
    waiting: RefCell<Batch<Rc<Slot>>>,
    waiting_count: Cell<usize>,
    /// When the first of them came.
    waiting_since_us: Cell<u64>,
    flights: RefCell<VecDeque<Flight>>,
    /// Scripts by their text, which go out first.
    urgent: RefCell<Vec<u8>>,
    is_writing: Cell<bool>,
    opener: Place,
    writer: Place,
    guard: Place,
}

/// Where one of the connection's parts waits for something to do.
#[derive(Default)]
struct Place(RefCell<Option<Waker>>);

impl Place {
    fn wake(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }

    /// Waits until `look` finds something; called again at every [`Place::wake`].
    async fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        poll_fn(|cx| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            *self.0.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// Where the answer to one question comes.
#[derive(Default)]
struct Slot {
    answer: Cell<Option<Answer>>,
    place: Place,
}

fn tell(slot: Rc<Slot>, answer: Answer) {
    slot.answer.set(Some(answer));
    slot.place.wake();
}

/// What was written at once.
struct Flight {
    round: Round<Rc<Slot>>,
    evals: Vec<Eval>,
    replies: Vec<Result<ScriptReply, StoreError>>,
    /// What the server did not know by name and was sent again, in order.
    again: VecDeque<usize>,
    asked_us: u64,
}

impl Flight {
    /// Takes the next reply; true when no other is due.
    fn take(&mut self, reply: Result<ScriptReply, Refusal>) -> bool {
        let is_script_unknown = matches!(&reply, Err(refusal) if refusal.is_script_unknown);
        let reply = reply.map_err(|refusal| refusal.error);
        if self.replies.len() < self.evals.len() {
            if is_script_unknown {
                self.again.push_back(self.replies.len());
            }
            self.replies.push(reply);
            return self.replies.len() == self.evals.len();
        }
        let place = self.again.pop_front();
        if let Some(slot) = place.and_then(|place| self.replies.get_mut(place)) {
            *slot = reply;
        }
        self.again.is_empty()
    }
}

impl Direct {
    /// Connects to nothing before it is asked.
    #[must_use]
    pub fn new(doorway: Arc<Doorway>, outlook: Arc<Outlook>) -> Self {
        Self {
            doorway,
            outlook,
            peer: RefCell::default(),
            is_wanted: Cell::new(false),
            waiting: RefCell::default(),
            waiting_count: Cell::new(0),
            waiting_since_us: Cell::new(0),
            flights: RefCell::default(),
            urgent: RefCell::default(),
            is_writing: Cell::new(false),
            opener: Place::default(),
            writer: Place::default(),
            guard: Place::default(),
        }
    }

    /// Asks. [`Answer::Unknown`] when no answer comes in time.
    ///
    /// # Errors
    /// The question, when there is no connection.
    pub async fn ask(&self, question: Question) -> Result<Answer, Question> {
        if !self.is_open() {
            self.is_wanted.set(true);
            self.opener.wake();
            return Err(question);
        }
        let count = self.waiting_count.get();
        if count >= QUESTIONS_MAX {
            return Err(question);
        }
        if count == 0 {
            self.waiting_since_us.set(process_us());
        }
        self.waiting_count.set(count + 1);
        let slot = Rc::new(Slot::default());
        self.waiting.borrow_mut().ask(question, Rc::clone(&slot));
        self.writer.wake();
        Ok(slot.place.wait(|| slot.answer.take()).await)
    }

    /// Keeps the connection; never ends.
    pub async fn run(&self, watch: &Watch) {
        let mut pause = PAUSE_MIN;
        let mut failures = 0;
        loop {
            self.opener
                .wait(|| self.is_wanted.replace(false).then_some(()))
                .await;
            if let Some(endpoint) = self.doorway.endpoint() {
                match connect(&endpoint, watch).await {
                    Ok(stream) => {
                        if failures >= FAILURES_TOLD {
                            tracing::info!(
                                prefix = "limits",
                                "a shard asks the store by itself again"
                            );
                        }
                        failures = 0;
                        let began_us = process_us();
                        self.keep(endpoint, &stream).await;
                        if process_us() > began_us + SILENCE_MAX_US {
                            pause = PAUSE_MIN;
                        }
                    }
                    Err(error) if !self.outlook.is_away() => {
                        failures += 1;
                        if failures == FAILURES_TOLD {
                            let address = endpoint.address;
                            tracing::warn!(
                                prefix = "limits",
                                "a shard cannot ask {address} by itself and asks through the control thread: {error}"
                            );
                        }
                    }
                    Err(_) => {}
                }
            }
            net::io::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether there is a connection, to the server that is the right one now.
    fn is_open(&self) -> bool {
        let peer = self.peer.borrow();
        let Some(endpoint) = &*peer else {
            return false;
        };
        let is_right = self.doorway.leads_to(endpoint);
        drop(peer);
        if !is_right {
            self.end();
        }
        is_right
    }

    /// Has the connection end, once what is under way is answered or late.
    fn end(&self) {
        self.peer.take();
        self.writer.wake();
        self.guard.wake();
    }

    /// Serves one connection to its end.
    async fn keep(&self, endpoint: Arc<Endpoint>, stream: &Stream) {
        *self.peer.borrow_mut() = Some(endpoint);
        let _ending = Ending(self);
        let mut reading = pin!(self.read(stream));
        let mut writing = pin!(self.write(stream));
        let mut guarding = pin!(self.guard());
        let (mut is_read, mut is_written, mut is_shut) = (false, false, false);
        poll_fn(|cx| {
            // Answers that are there come before the deadline that they might have missed.
            is_read = is_read || reading.as_mut().poll(cx).is_ready();
            is_written = is_written || writing.as_mut().poll(cx).is_ready();
            if !is_shut && (is_read || guarding.as_mut().poll(cx).is_ready()) {
                is_shut = true;
                self.end();
                stream.shutdown(Half::Both);
                cx.waker().wake_by_ref();
            }
            if is_read && is_written {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Writes what is asked.
    async fn write(&self, stream: &Stream) {
        let mut out = Vec::new();
        loop {
            let is_up = self.writer.wait(|| {
                let is_up = self.peer.borrow().is_some();
                let has_work = self.waiting_count.get() > 0 || !self.urgent.borrow().is_empty();
                (has_work || !is_up).then_some(is_up)
            });
            if !is_up.await {
                return;
            }
            out.clear();
            out.append(&mut self.urgent.borrow_mut());
            if self.waiting_count.replace(0) > 0 {
                self.depart(&mut out);
            }
            self.is_writing.set(true);
            let (written, back) = stream.write_all(out, 0).await;
            self.is_writing.set(false);
            out = back;
            if written.is_err() {
                return self.end();
            }
        }
    }

    fn depart(&self, out: &mut Vec<u8>) {
        let (round, evals) = self.waiting.take().plan(&self.outlook);
        if evals.is_empty() {
            // Nothing has to be asked any more.
            self.settle(round, &[]);
            return;
        }
        for eval in &evals {
            write_eval(eval, false, out);
        }
        self.flights.borrow_mut().push_back(Flight {
            round,
            replies: Vec::with_capacity(evals.len()),
            evals,
            again: VecDeque::new(),
            asked_us: process_us(),
        });
        self.guard.wake();
    }

    /// Reads answers.
    async fn read(&self, stream: &Stream) {
        let mut buf = Vec::with_capacity(16 << 10);
        loop {
            if buf.capacity() - buf.len() < 1 << 10 {
                buf.reserve(16 << 10);
            }
            let (read, back) = stream.read(buf).await;
            buf = back;
            if !matches!(read, Ok(len) if len > 0) {
                return;
            }
            match self.arrive(&buf) {
                Ok(used) => drop(buf.drain(..used)),
                Err(malformed) => {
                    tracing::warn!(prefix = "limits", "{malformed}");
                    return;
                }
            }
        }
    }

    /// Takes all whole replies; how many bytes they are.
    fn arrive(&self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut used = 0;
        while let Some((reply, len)) = read_reply(bytes.get(used..).unwrap_or_default())? {
            used += len;
            let is_server_void = matches!(&reply, Err(refusal) if refusal.is_server_void);
            let mut flights = self.flights.borrow_mut();
            let flight = flights.front_mut().ok_or(Malformed)?;
            if flight.take(reply)
                && let Some(flight) = flights.pop_front()
            {
                drop(flights);
                self.land(flight);
            }
            if is_server_void {
                self.end();
            }
        }
        Ok(used)
    }

    fn land(&self, flight: Flight) {
        if !flight.again.is_empty() && !flight.round.is_late() {
            let mut urgent = self.urgent.borrow_mut();
            for eval in flight.again.iter().filter_map(|at| flight.evals.get(*at)) {
                write_eval(eval, true, &mut urgent);
            }
            // Its answers come behind those of what is under way.
            self.flights.borrow_mut().push_back(flight);
            self.writer.wake();
            return;
        }
        if flight.replies.iter().any(Result::is_ok) {
            let took_us = process_us().saturating_sub(flight.asked_us);
            self.outlook
                .answered(u32::try_from(took_us).unwrap_or(u32::MAX));
        } else {
            self.outlook.miss();
        }
        self.settle(flight.round, &flight.replies);
    }

    fn settle(&self, round: Round<Rc<Slot>>, replies: &[Result<ScriptReply, StoreError>]) {
        for work in round.settle(replies, &self.outlook, tell) {
            // What is lost here is done at another request.
            self.outlook.post(work);
        }
    }

    /// Decides for the server at the deadline, and ends a connection that has been silent for long.
    async fn guard(&self) {
        loop {
            let is_over = self.guard.wait(|| {
                let is_busy = !self.flights.borrow().is_empty();
                (is_busy || self.is_over()).then(|| self.is_over())
            });
            if is_over.await {
                return;
            }
            let deadline_us = self.outlook.deadline_ms() * 1_000;
            let due_us = {
                let flights = self.flights.borrow();
                let open = flights.iter().find(|flight| !flight.round.is_late());
                open.map_or(deadline_us, |flight| {
                    (flight.asked_us + deadline_us).saturating_sub(process_us())
                })
            };
            let span = Duration::from_micros(due_us.min(deadline_us));
            let mut sleeping = pin!(net::io::sleep(span));
            // Looked at with everything that happens on the connection: they are one task.
            poll_fn(|cx| match self.is_over() {
                true => Poll::Ready(()),
                false => sleeping.as_mut().poll(cx),
            })
            .await;
            let now_us = process_us();
            for flight in self.flights.borrow_mut().iter_mut() {
                if now_us >= flight.asked_us + deadline_us {
                    flight.round.give_up(&self.outlook, tell);
                }
            }
            // Behind a write that does not end.
            if self.is_writing.get()
                && self.waiting_count.get() > 0
                && now_us >= self.waiting_since_us.get() + deadline_us
            {
                self.outlook.miss();
                self.drop_waiting();
            }
            let flights = self.flights.borrow();
            let since_us = flights.front().map(|flight| flight.asked_us);
            if since_us.is_some_and(|since_us| now_us >= since_us + SILENCE_MAX_US) {
                return;
            }
        }
    }

    /// Whether it was to end, and nobody waits for what is under way.
    fn is_over(&self) -> bool {
        let flights = self.flights.borrow();
        self.peer.borrow().is_none() && flights.iter().all(|flight| flight.round.is_late())
    }

    /// Has those decide alone whose question was not written.
    fn drop_waiting(&self) {
        self.waiting_count.set(0);
        self.waiting.take().give_up(tell);
    }
}

/// The end of a connection, however it comes about: nobody is left waiting.
struct Ending<'a>(&'a Direct);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let direct = self.0;
        direct.end();
        direct.is_writing.set(false);
        direct.urgent.take();
        for flight in direct.flights.take() {
            if !flight.round.is_late() {
                direct.outlook.miss();
            }
            direct.settle(flight.round, &flight.replies);
        }
        direct.drop_waiting();
    }
}

/// Connects and logs in.
async fn connect(endpoint: &Endpoint, watch: &Watch) -> io::Result<Stream> {
    let tcp = Tcp::connect(endpoint.address, CONNECT_MAX).await?;
    let deadline = watch.deadline(tcp.fd());
    deadline.set(CONNECT_MAX.as_millis() as u64, AtDeadline::Shutdown);
    let stream = match &endpoint.tls {
        None => Stream::Tcp(tcp),
        Some((tls, host)) => Stream::Tls(Box::pin(tls.connect(tcp, host)).await?),
    };
    let (greeting, mut due) = endpoint.greeting.clone();
    stream.write_all(greeting, 0).await.0?;
    let mut buf = Vec::with_capacity(1 << 10);
    while due > 0 {
        let (read, back) = stream.read(buf).await;
        buf = back;
        if read? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((reply, len)) = read_reply(&buf).map_err(io::Error::other)? {
            reply.map_err(|refusal| io::Error::other(refusal.error))?;
            buf.drain(..len);
            due -= 1;
        }
        if buf.len() == buf.capacity() {
            return Err(io::Error::other(Malformed));
        }
    }
    Ok(stream)
}

#[cfg(test)]
mod tests;
