//! Deadlines of one shard: a coarse clock and a lazy timer wheel.
//!
//! A connection sets its deadline with one store. The wheel looks at it once a second and
//! when it is due, and files it again when the deadline has moved meanwhile: an active
//! connection costs nothing between two looks. An expired deadline either cancels the read under
//! way, so that nothing is lost, or shuts the socket down, which ends whatever waits on it.

use std::{
    cell::{Cell, RefCell},
    os::fd::RawFd,
    rc::Rc,
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::net::{
    io::Cancel,
    sys::{self, Half},
};

/// Length of one turn of the wheel's smallest hand: how late a deadline may be.
pub const TICK_MS: u64 = 100;
const SLOTS: u64 = 16;
/// The longest time between two looks, so that short-lived connections never fill far slots.
const LOOK_MS: u64 = 1_000;
const NEVER: u64 = u64::MAX;

/// What happens at the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtDeadline {
    /// The read under way answers `ECANCELED`; bytes that came stay in the socket.
    CancelRead,
    /// Both directions end.
    Shutdown,
}

/// The deadline of one connection. Dropping it takes it off the wheel.
pub struct Deadline {
    at_ms: Cell<u64>,
    act: Cell<AtDeadline>,
    expired: Cell<bool>,
    /// When the wheel looks next; other entries of this deadline are stale.
    look_at_ms: Cell<u64>,
    /// Somebody waits for readiness, which only the socket itself can end.
    polled: Cell<bool>,
    fd: RawFd,
    cancel: Cancel,
    wheel: Rc<Wheel>,
    /// For filing an earlier look.
    this: Entry,
}

impl Deadline {
    /// Expires `span_ms` from now or up to two ticks later, never before.
    pub fn set(&self, span_ms: u64, act: AtDeadline) {
        self.expired.set(false);
        self.act.set(act);
        // The clock is behind by up to one tick.
        let now_ms = self.wheel.clock.now_ms() + TICK_MS;
        let at_ms = now_ms.saturating_add(span_ms);
        self.at_ms.set(at_ms);
        if at_ms < self.look_at_ms.get() {
            self.look(at_ms);
        }
    }

    /// Never expires until set again.
    pub fn clear(&self) {
        self.at_ms.set(NEVER);
    }

    /// Whether the last deadline passed.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expired.get()
    }

    /// What ends reads on this connection.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Tells whether the connection waits for readiness instead of reading.
    pub fn set_polled(&self, polled: bool) {
        self.polled.set(polled);
    }

    /// Ends whatever waits for bytes, without a fault.
    fn interrupt(&self) {
        if self.polled.get() {
            sys::shutdown(self.fd, Half::Read);
        } else {
            self.cancel.cancel();
        }
    }

    fn look(&self, at_ms: u64) {
        self.look_at_ms.set(at_ms);
        self.wheel.file(self.this.clone(), at_ms);
    }

    fn expire(&self) {
        self.at_ms.set(NEVER);
        self.expired.set(true);
        match self.act.get() {
            AtDeadline::CancelRead => self.cancel.cancel(),
            AtDeadline::Shutdown => sys::shutdown(self.fd, Half::Both),
        }
    }
}

/// Milliseconds since the shard started, as of the last tick.
pub struct Clock {
    started: Instant,
    now_ms: Cell<u64>,
    unix_s: Cell<u64>,
    /// By how much the time since 1970 is ahead of [`process_us`], in microseconds.
    unix_ahead_us: Cell<u64>,
}

impl Clock {
    /// Coarse: behind by up to one tick.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    /// Seconds since 1970, as of the last tick.
    #[must_use]
    pub fn unix_s(&self) -> u64 {
        self.unix_s.get()
    }

    /// Milliseconds since 1970 at a moment of [`process_us`]. Exact but for what the machine's time
    /// was set by since the last tick, and without reading a clock.
    #[inline]
    #[must_use]
    pub fn unix_ms_at(&self, us: u64) -> u64 {
        self.unix_us_at(us) / 1_000
    }

    /// As [`Clock::unix_ms_at`], in microseconds.
    #[inline]
    #[must_use]
    pub fn unix_us_at(&self, us: u64) -> u64 {
        us.wrapping_add(self.unix_ahead_us.get())
    }

    fn read_wall_clock(&self) {
        let unix_us = unix_us();
        self.unix_s.set(unix_us / 1_000_000);
        self.unix_ahead_us.set(unix_us.wrapping_sub(process_us()));
    }

    /// Exact, at the price of reading the clock.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the shard's clock itself")]
    pub fn exact_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NEVER)
    }
}

/// Milliseconds since the process began to measure, exact and the same on every thread.
#[must_use]
pub fn process_ms() -> u64 {
    process_us() / 1_000
}

/// As [`process_ms`], in microseconds.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "a clock itself")]
pub fn process_us() -> u64 {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(STARTED.elapsed().as_micros()).unwrap_or(NEVER)
}

/// Milliseconds since 1970, exact.
#[must_use]
pub fn unix_ms() -> u64 {
    unix_us() / 1_000
}

/// As [`unix_ms`], in microseconds.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "a clock itself")]
pub fn unix_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |span| u64::try_from(span.as_micros()).unwrap_or(NEVER))
}

type Entry = std::rc::Weak<Deadline>;

/// Slots of connections to look at, a tick apart.
struct Wheel {
    clock: Rc<Clock>,
    slots: Vec<RefCell<Vec<(Entry, u64)>>>,
    next_tick: Cell<u64>,
}

impl Wheel {
    fn file(&self, entry: Entry, at_ms: u64) {
        let horizon = self.next_tick.get() + SLOTS - 1;
        let tick = at_ms.div_ceil(TICK_MS).clamp(self.next_tick.get(), horizon);
        if let Some(slot) = self.slots.get((tick % SLOTS) as usize) {
            slot.borrow_mut().push((entry, at_ms));
        }
    }
}

/// All deadlines of a shard.
pub struct Watch(Rc<Wheel>);

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the shard's clock itself")]
    pub fn new() -> Self {
        let watch = Self(Rc::new(Wheel {
            clock: Rc::new(Clock {
                started: Instant::now(),
                now_ms: Cell::new(0),
                unix_s: Cell::new(0),
                unix_ahead_us: Cell::new(0),
            }),
            slots: (0..SLOTS).map(|_| RefCell::default()).collect(),
            next_tick: Cell::new(1),
        }));
        watch.0.clock.read_wall_clock();
        watch
    }

    #[must_use]
    pub fn clock(&self) -> &Rc<Clock> {
        &self.0.clock
    }

    /// A deadline for the connection behind `fd`, not set yet.
    #[must_use]
    pub fn deadline(&self, fd: RawFd) -> Rc<Deadline> {
        let deadline = Rc::new_cyclic(|this| Deadline {
            at_ms: Cell::new(NEVER),
            act: Cell::new(AtDeadline::Shutdown),
            expired: Cell::new(false),
            look_at_ms: Cell::new(NEVER),
            polled: Cell::new(false),
            fd,
            cancel: Cancel::default(),
            wheel: Rc::clone(&self.0),
            this: this.clone(),
        });
        deadline.look(self.clock().now_ms() + LOOK_MS);
        deadline
    }

    /// Ends every wait for bytes of the shard: reads answer `ECANCELED`, polls become ready.
    pub fn interrupt_all(&self) {
        let mut all = Vec::new();
        for slot in &self.0.slots {
            all.extend(
                slot.borrow()
                    .iter()
                    .filter_map(|(entry, _)| entry.upgrade()),
            );
        }
        for deadline in all {
            deadline.interrupt();
        }
    }

    /// Moves the clock on and lets pass what has passed. Called once per tick.
    pub fn turn(&self) {
        self.clock().read_wall_clock();
        self.turn_to(self.clock().exact_ms());
    }

    fn turn_to(&self, now_ms: u64) {
        let wheel = &*self.0;
        wheel.clock.now_ms.set(now_ms);
        while wheel.next_tick.get() * TICK_MS <= now_ms {
            let tick = wheel.next_tick.get();
            wheel.next_tick.set(tick + 1);
            let Some(slot) = wheel.slots.get((tick % SLOTS) as usize) else {
                return;
            };
            for (entry, look_at_ms) in slot.take() {
                let Some(deadline) = entry.upgrade() else {
                    continue;
                };
                if deadline.look_at_ms.get() != look_at_ms {
                    continue;
                }
                let at_ms = deadline.at_ms.get();
                if at_ms <= now_ms {
                    deadline.expire();
                    deadline.look(now_ms + LOOK_MS);
                } else {
                    deadline.look(at_ms.min(now_ms + LOOK_MS));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> (Watch, Rc<Deadline>) {
        let watch = Watch::new();
        let deadline = watch.deadline(-1);
        (watch, deadline)
    }

    #[test]
    fn a_moment_of_the_process_is_one_of_the_calendar() {
        let clock = Rc::clone(&watch().0.0.clock);
        let before_ms = unix_ms();
        let at_us = process_us();
        let after_ms = unix_ms();
        let found_ms = clock.unix_ms_at(at_us);
        // Between two readings of the clocks the machine may have been busy elsewhere.
        assert!((before_ms.saturating_sub(1_000)..=after_ms + 1_000).contains(&found_ms));
        assert_eq!(clock.unix_ms_at(at_us + 5_000_000), found_ms + 5_000);
    }

    #[test]
    fn a_deadline_expires_once_and_not_before_its_time() {
        let (watch, deadline) = watch();
        deadline.set(3_000, AtDeadline::CancelRead);
        watch.turn_to(2_900);
        assert!(!deadline.is_expired());
        watch.turn_to(3_200);
        assert!(deadline.is_expired());
        deadline.set(500, AtDeadline::CancelRead);
        assert!(!deadline.is_expired());
        watch.turn_to(5_000);
        assert!(deadline.is_expired());
    }

    #[test]
    fn a_deadline_set_just_before_a_tick_has_its_whole_span() {
        let (watch, deadline) = watch();
        watch.turn_to(1_000);
        // The real time is 1,099 ms by now.
        deadline.set(300, AtDeadline::CancelRead);
        watch.turn_to(1_300);
        assert!(!deadline.is_expired());
        watch.turn_to(1_400);
        assert!(deadline.is_expired());
    }

    #[test]
    fn a_deadline_that_moves_on_does_not_expire() {
        let (watch, deadline) = watch();
        for now in (0..10_000).step_by(100) {
            watch.turn_to(now);
            deadline.set(1_000, AtDeadline::CancelRead);
        }
        assert!(!deadline.is_expired());
        deadline.clear();
        watch.turn_to(200_000);
        assert!(!deadline.is_expired());
    }

    #[test]
    fn a_dropped_connection_leaves_the_wheel() {
        let (watch, deadline) = watch();
        drop(deadline);
        watch.turn_to(2_000);
        assert!(watch.0.slots.iter().all(|slot| slot.borrow().is_empty()));
    }
}
