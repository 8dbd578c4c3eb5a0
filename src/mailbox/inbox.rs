//! What reaches a shard from other threads: answers and jobs, behind one descriptor to wait for.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use crossbeam_queue::SegQueue;

use crate::mailbox::Answered;

/// A queue into a shard. `capacity` bounds what [`Outlet::send`] may leave in it; answers always
/// find room, since each was paid for by a question that a bounded queue accepted.
#[must_use]
pub fn inbox<T: Send>(wake: Wake, capacity: usize) -> (Inbox<T>, Outlet<T>) {
    let shared = Arc::new(Shared {
        queue: SegQueue::new(),
        is_signalled: AtomicBool::new(false),
        is_read: AtomicBool::new(true),
        outlet_count: AtomicUsize::new(1),
        capacity: capacity.max(1),
        bell: wake.write,
    });
    let inbox = Inbox {
        shared: Arc::clone(&shared),
        bell: wake.read,
    };
    (inbox, Outlet { shared })
}

/// The descriptor behind an inbox: nonblocking, closed on exec.
pub struct Wake {
    read: File,
    write: File,
}

impl Wake {
    /// A socketpair, which every system offers.
    ///
    /// # Errors
    /// The kernel's answer, EMFILE for one.
    pub fn socketpair() -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        read.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        Ok(Self {
            read: File::from(OwnedFd::from(read)),
            write: File::from(OwnedFd::from(write)),
        })
    }

    /// An eventfd that was made with `EFD_NONBLOCK | EFD_CLOEXEC`: half the cost of a socketpair.
    ///
    /// # Errors
    /// When the descriptor cannot be duplicated.
    pub fn from_eventfd(fd: OwnedFd) -> io::Result<Self> {
        let read = File::from(fd);
        let write = read.try_clone()?;
        Ok(Self { read, write })
    }
}

struct Shared<T> {
    queue: SegQueue<T>,
    /// The bell was rung and the shard has not begun to drain since.
    is_signalled: AtomicBool,
    is_read: AtomicBool,
    outlet_count: AtomicUsize,
    capacity: usize,
    bell: File,
}

impl<T> Shared<T> {
    fn push(&self, item: T) {
        self.queue.push(item);
        // After the push, so that a shard that clears the flag now also sees the item.
        self.signal();
        if !self.is_read.load(Ordering::SeqCst) {
            // The shard ended between our look and our push: nobody else empties the queue.
            while self.queue.pop().is_some() {}
        }
    }

    fn signal(&self) {
        if !self.is_signalled.swap(true, Ordering::SeqCst) {
            // EAGAIN means that the bell is ringing already; the shard will look.
            let _ = (&self.bell).write_all(&1u64.to_ne_bytes());
        }
    }
}

/// The shard's end.
pub struct Inbox<T> {
    shared: Arc<Shared<T>>,
    bell: File,
}

impl<T> Inbox<T> {
    /// Readable when [`Inbox::drain`] has something to do.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// The same descriptor, borrowed.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Hands over what has arrived, in order of arrival, and returns how many items that were. At
    /// most one capacity's worth at a time; the descriptor stays readable when more is left.
    pub fn drain(&self, mut take: impl FnMut(T)) -> usize {
        // Twice the eight bytes of an eventfd; a socketpair never holds more than two rings.
        let mut rings = [0u8; 16];
        while matches!((&self.bell).read(&mut rings), Ok(n) if n == rings.len()) {}
        // Cleared before the first look: an item pushed after our last look rings anew. A swap, not
        // a store, so that we see the push of whoever found the flag set.
        self.shared.is_signalled.swap(false, Ordering::SeqCst);
        let mut taken = 0;
        while taken < self.shared.capacity {
            let Some(item) = self.shared.queue.pop() else {
                return taken;
            };
            taken += 1;
            take(item);
        }
        if !self.shared.queue.is_empty() {
            self.shared.signal();
        }
        taken
    }

    /// Whether nothing more can arrive: every outlet is gone and the queue is empty.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.shared.outlet_count.load(Ordering::SeqCst) == 0 && self.shared.queue.is_empty()
    }
}

impl<T> Drop for Inbox<T> {
    /// Drops what was not read, so that a job with a way back tells its sender.
    fn drop(&mut self) {
        self.shared.is_read.store(false, Ordering::SeqCst);
        while self.shared.queue.pop().is_some() {}
    }
}

/// Why an item was not taken; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum SendError<T> {
    Full(T),
    Gone(T),
}

/// A sender's end. Never waits.
pub struct Outlet<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Outlet<T> {
    /// Leaves one item for the shard.
    ///
    /// # Errors
    /// The item, when the queue is full or the shard has ended.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        if !self.shared.is_read.load(Ordering::SeqCst) {
            return Err(SendError::Gone(item));
        }
        if self.shared.queue.len() >= self.shared.capacity {
            return Err(SendError::Full(item));
        }
        self.shared.push(item);
        Ok(())
    }
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        self.shared.outlet_count.fetch_add(1, Ordering::SeqCst);
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Drop for Outlet<T> {
    fn drop(&mut self) {
        if self.shared.outlet_count.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The shard learns that it waits for nobody.
            self.shared.signal();
        }
    }
}

/// Where an answer is left. An [`Outlet`] of any item that can carry one is such a place.
pub trait Deliver<A>: Send + Sync {
    /// Leaves the answer; one for a shard that has ended is dropped.
    fn deliver(&self, answered: Answered<A>);
}

impl<A, T: From<Answered<A>> + Send> Deliver<A> for Outlet<T> {
    fn deliver(&self, answered: Answered<A>) {
        if self.shared.is_read.load(Ordering::SeqCst) {
            self.shared.push(T::from(answered));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(capacity: usize) -> (Inbox<u32>, Outlet<u32>) {
        inbox(Wake::socketpair().unwrap(), capacity)
    }

    /// Bytes waiting in the bell, which are eight per ring.
    fn rings(inbox: &Inbox<u32>) -> usize {
        let mut buf = [0u8; 256];
        (&inbox.bell).read(&mut buf).unwrap_or(0) / 8
    }

    fn drained(inbox: &Inbox<u32>) -> Vec<u32> {
        let mut items = Vec::new();
        inbox.drain(|item| items.push(item));
        items
    }

    #[test]
    fn a_batch_rings_once() {
        let (inbox, outlet) = pair(100);
        for n in 0..50 {
            outlet.send(n).unwrap();
        }
        assert_eq!(rings(&inbox), 1);
        assert_eq!(drained(&inbox), (0..50).collect::<Vec<_>>());
        outlet.send(7).unwrap();
        assert_eq!(rings(&inbox), 1, "the next batch rings again");
    }

    #[test]
    fn an_empty_inbox_drains_nothing_and_does_not_wait() {
        let (inbox, _outlet) = pair(1);
        assert_eq!(inbox.drain(|_| panic!("nothing was sent")), 0);
    }

    #[test]
    fn the_capacity_is_kept_and_the_item_comes_back() {
        let (inbox, outlet) = pair(2);
        assert_eq!(outlet.send(1), Ok(()));
        assert_eq!(outlet.send(2), Ok(()));
        assert_eq!(outlet.send(3), Err(SendError::Full(3)));
        assert_eq!(drained(&inbox), [1, 2]);
        assert_eq!(outlet.send(4), Ok(()));
    }

    #[test]
    fn what_one_drain_leaves_keeps_the_bell_ringing() {
        let (inbox, outlet) = pair(2);
        // Answers go beyond the capacity; push is their way.
        for n in 0..5 {
            outlet.shared.push(n);
        }
        assert_eq!(drained(&inbox), [0, 1]);
        assert_eq!(rings(&inbox), 1);
        assert_eq!(drained(&inbox), [2, 3]);
        assert_eq!(drained(&inbox), [4]);
    }

    #[test]
    fn a_gone_shard_gives_items_back_and_drops_what_it_had() {
        let (kept, witness) = (Arc::new(()), Arc::new(()));
        let (inbox, outlet) = super::inbox(Wake::socketpair().unwrap(), 9);
        outlet.send(Arc::clone(&witness)).unwrap();
        drop(inbox);
        assert_eq!(Arc::strong_count(&witness), 1);
        assert!(matches!(outlet.send(kept), Err(SendError::Gone(_))));
    }

    #[test]
    fn the_last_outlet_rings_when_it_goes() {
        let (inbox, outlet) = pair(9);
        let second = outlet.clone();
        second.send(1).unwrap();
        drop((outlet, second));
        assert!(!inbox.is_gone(), "an item is still to be read");
        assert_eq!(drained(&inbox), [1]);
        assert!(inbox.is_gone());
    }

    #[test]
    fn many_threads_lose_nothing() {
        let (inbox, outlet) = pair(64);
        let threads: Vec<_> = (0..4u32)
            .map(|thread| {
                let outlet = outlet.clone();
                std::thread::spawn(move || {
                    for n in 0..5_000u32 {
                        let mut item = thread << 16 | n;
                        while let Err(error) = outlet.send(item) {
                            let SendError::Full(back) = error else {
                                panic!("the inbox is there")
                            };
                            item = back;
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(outlet);
        let mut next = [0u32; 4];
        let mut bell = UnixStream::from(OwnedFd::from(inbox.bell.try_clone().unwrap()));
        while !inbox.is_gone() {
            // Blocks until the bell rings, as a shard's poll would; a lost wake hangs here.
            bell.set_nonblocking(false).unwrap();
            bell.read_exact(&mut [0u8; 8]).unwrap();
            bell.set_nonblocking(true).unwrap();
            inbox.drain(|item| {
                let (thread, n) = ((item >> 16) as usize, item & 0xffff);
                assert_eq!(next[thread], n, "in order per sender");
                next[thread] += 1;
            });
        }
        assert_eq!(next, [5_000; 4]);
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
