//! Who has the store: at any time exactly one process, also during an upgrade.
//!
//! ```text
//!   old process   Owned ──release()──> Leaving ──flush, close──> Released ──acquire()──> Owned …
//!   new process   Released ──acquire()──> Owned                  (when the new one failed)
//! ```
//!
//! From the first moment of [`Owner::release`] on, control writes are refused; those under way
//! are awaited. While this process has no store, reads get [`StoreError::Closed`] and the caller
//! answers from what it has cached.

#![allow(
    clippy::disallowed_types,
    reason = "held for a few instructions on the control side and never over an await"
)]

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::storage::{Doorway, Pulse, Store, StoreError, watched::Watched};

/// Opens the store. Called on a thread that may wait, inside the tokio runtime.
pub type Open = Arc<dyn Fn() -> Result<Arc<dyn Store>, StoreError> + Send + Sync>;

/// Where the store stands, seen from this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// Not here: another process has it, or it cannot be opened.
    Released,
    Owned,
    /// Being flushed and closed.
    Leaving,
}

/// This process's hold on the store.
pub struct Owner {
    open: Open,
    // A std lock: it is held for a few instructions on the control side and never over an await.
    state: Mutex<State>,
    /// Control writes under way.
    write_count: watch::Sender<usize>,
    pulse: Arc<Pulse>,
    doorway: Arc<Doorway>,
    /// One hand-over at a time.
    turn: tokio::sync::Mutex<()>,
}

struct State {
    ownership: Ownership,
    store: Option<Opened>,
}

/// A store, and itself under watch.
#[derive(Clone)]
struct Opened {
    plain: Arc<dyn Store>,
    watched: Arc<dyn Store>,
}

/// This process may not write now; the caller answers 503 with `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this gateway is handing over to a new one; try again in a moment")]
pub struct NotOwner;

/// Leave for one control write. The store is not handed over before it is dropped.
#[must_use]
pub struct WriteGuard<'a>(&'a Owner);

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.0.write_count.send_modify(|count| *count -= 1);
    }
}

impl Owner {
    /// A hold on a store that is not open yet; see [`Owner::acquire`].
    #[must_use]
    pub fn new(open: Open) -> Self {
        Self {
            open,
            state: Mutex::new(State {
                ownership: Ownership::Released,
                store: None,
            }),
            write_count: watch::Sender::new(0),
            pulse: Arc::default(),
            doorway: Arc::default(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    #[must_use]
    pub fn ownership(&self) -> Ownership {
        self.state().ownership
    }

    /// Whether the store answers; stays the same through hand-overs.
    #[must_use]
    pub fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Where the store's server is; stays the same through hand-overs.
    #[must_use]
    pub fn doorway(&self) -> Arc<Doorway> {
        Arc::clone(&self.doorway)
    }

    /// The store, for those who have [`Store::patience`]. Every question to it ends in time, and at
    /// once while the store is away ([`Pulse`]).
    ///
    /// # Errors
    /// [`StoreError::Closed`] while this process does not have it.
    pub fn store(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(self.opened()?.watched)
    }

    /// As [`Owner::store`], with a deadline for each question.
    ///
    /// # Errors
    /// [`StoreError::Closed`] while this process does not have it.
    pub fn store_within(&self, deadline: Duration) -> Result<Arc<dyn Store>, StoreError> {
        let plain = self.opened()?.plain;
        Ok(Arc::new(Watched::new(plain, self.pulse(), deadline)))
    }

    fn opened(&self) -> Result<Opened, StoreError> {
        let state = self.state();
        match (state.ownership, &state.store) {
            (Ownership::Owned, Some(store)) => Ok(store.clone()),
            _ => Err(StoreError::Closed),
        }
    }

    /// Leave to change something through the control API, files included: what is written here
    /// must not be missed by the process that takes over.
    ///
    /// # Errors
    /// [`NotOwner`] from the beginning of a hand-over on.
    pub fn write(&self) -> Result<WriteGuard<'_>, NotOwner> {
        // Under the lock, so that a release that has begun sees every guard given out before it.
        let state = self.state();
        if state.ownership != Ownership::Owned {
            return Err(NotOwner);
        }
        self.write_count.send_modify(|count| *count += 1);
        drop(state);
        Ok(WriteGuard(self))
    }

    /// Opens the store, at the start or after `store_taken`. Does nothing when it is open.
    ///
    /// # Errors
    /// What opening it says; this process then still has no store.
    pub async fn acquire(&self) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        if self.ownership() == Ownership::Owned {
            return Ok(());
        }
        let open = Arc::clone(&self.open);
        let plain = tokio::task::spawn_blocking(move || open())
            .await
            .unwrap_or_else(|error| Err(StoreError::Unusable(error.to_string())))?;
        self.pulse.answered();
        plain.show(self.doorway());
        let patience = plain.patience();
        let watched = Watched::new(Arc::clone(&plain), self.pulse(), patience);
        let store = Opened {
            plain,
            watched: Arc::new(watched),
        };
        *self.state() = State {
            ownership: Ownership::Owned,
            store: Some(store),
        };
        Ok(())
    }

    /// Lets go of the store: refuses new control writes, awaits those under way, flushes, closes.
    /// When it returns, another process can open the store. Does nothing when it is not here.
    ///
    /// # Errors
    /// What flushing or closing says; the store is let go all the same, and what was acknowledged
    /// before is in it.
    pub async fn release(&self) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        let store = {
            let mut state = self.state();
            state.ownership = Ownership::Leaving;
            state.store.take()
        };
        self.doorway.close();
        // Cannot fail: the sender lives as long as this does.
        let _ = self
            .write_count
            .subscribe()
            .wait_for(|count| *count == 0)
            .await;
        let done = match store {
            None => Ok(()),
            Some(Opened { plain, .. }) => {
                let flushed = plain.flush().await;
                let closed = plain.close().await;
                // It may have connected once more meanwhile.
                self.doorway.close();
                closed.and(flushed)
            }
        };
        self.state().ownership = Ownership::Released;
        done
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::storage::tests::{Stub, paused};

    #[test]
    fn the_store_has_one_owner_through_a_hand_over() {
        paused(async {
            let stub = Stub::new();
            let (old, new) = (stub.owner(), stub.owner());
            old.acquire().await.unwrap();
            assert!(
                new.acquire().await.is_err(),
                "the stub refuses a second opener"
            );
            assert_eq!(new.ownership(), Ownership::Released);
            old.release().await.unwrap();
            assert_eq!(stub.flush_count(), 1);
            new.acquire().await.unwrap();
            assert!(matches!(old.store(), Err(StoreError::Closed)));
            assert!(old.write().is_err());
            assert!(new.write().is_ok());
        });
    }

    #[test]
    fn the_old_process_goes_on_when_the_new_one_failed() {
        paused(async {
            let stub = Stub::new();
            let old = stub.owner();
            old.acquire().await.unwrap();
            old.release().await.unwrap();
            assert!(old.write().is_err());
            old.acquire().await.unwrap();
            assert!(old.write().is_ok());
            assert!(old.store().is_ok());
        });
    }

    #[test]
    fn a_write_under_way_is_awaited_and_later_ones_are_refused() {
        paused(async {
            let stub = Stub::new();
            let owner = stub.owner();
            owner.acquire().await.unwrap();
            let guard = owner.write().unwrap();
            let is_released = Cell::new(false);
            let release = async {
                owner.release().await.unwrap();
                is_released.set(true);
            };
            let writer = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                assert_eq!(owner.ownership(), Ownership::Leaving);
                assert!(owner.write().is_err());
                assert!(!is_released.get());
                assert!(stub.is_open(), "not closed under a write");
                drop(guard);
            };
            tokio::join!(release, writer);
            assert!(is_released.get());
            assert!(!stub.is_open());
        });
    }

    #[test]
    fn a_failed_flush_is_told_and_the_store_is_let_go() {
        paused(async {
            let stub = Stub::new();
            let owner = stub.owner();
            owner.acquire().await.unwrap();
            stub.fail("disk full");
            let why = StoreError::Away("disk full".to_owned());
            assert_eq!(owner.release().await, Err(why));
            assert_eq!(owner.ownership(), Ownership::Released);
            assert!(!stub.is_open());
        });
    }

    #[test]
    fn asking_twice_is_no_error() {
        paused(async {
            let stub = Stub::new();
            let owner = stub.owner();
            owner.release().await.unwrap();
            owner.acquire().await.unwrap();
            owner.acquire().await.unwrap();
            owner.release().await.unwrap();
            owner.release().await.unwrap();
        });
    }
}
