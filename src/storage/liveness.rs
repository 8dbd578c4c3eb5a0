//! Signs of life: what `/hello` and `/ready` say about the store.
//!
//! Tyk: `gateway/health_check.go` (`gatherHealthChecks`). A task asks every
//! `liveness_check.check_duration`; the last result is kept with its time, and nobody who reads it
//! waits for the store.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;

use crate::storage::{Owner, StoreError};

/// One result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was wrong, if anything.
    pub outcome: Result<(), StoreError>,
    /// When the store answered, or was given up.
    pub at: SystemTime,
}

/// The last result.
#[derive(Default)]
pub struct Liveness {
    last: ArcSwapOption<Probe>,
}

impl Liveness {
    /// `None` before the first result.
    #[must_use]
    pub fn last(&self) -> Option<Arc<Probe>> {
        self.last.load_full()
    }

    /// Probes at once and then every `interval`, until dropped. `came_back` is called when the
    /// store answers after it did not (Tyk reloads then).
    pub async fn run(&self, owner: &Owner, interval: Duration, came_back: impl Fn()) {
        // Long enough for a slow store, and an interval in which nothing comes back is a result.
        let patience = interval.clamp(Duration::from_secs(1), Duration::from_secs(10));
        let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // While another process has the store there is nothing to find out about it here.
            let Ok(store) = owner.store() else {
                continue;
            };
            let outcome = match tokio::time::timeout(patience, store.probe()).await {
                // Handed over under our hands.
                Ok(Err(StoreError::Closed)) => continue,
                Ok(Ok(())) if owner.pulse().is_away() => Err(StoreError::Away(format!(
                    "{}: answers too late for requests",
                    store.name()
                ))),
                Ok(outcome) => outcome,
                Err(_) => Err(StoreError::Away(format!(
                    "{}: no answer within {} s",
                    store.name(),
                    patience.as_secs()
                ))),
            };
            let was_away = self.last().is_some_and(|last| last.outcome.is_err());
            let is_back = was_away && outcome.is_ok();
            #[allow(clippy::disallowed_methods, reason = "told to people")]
            let at = SystemTime::now();
            self.last.store(Some(Arc::new(Probe { outcome, at })));
            if is_back {
                came_back();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::storage::tests::{Stub, paused};

    #[test]
    fn the_last_result_is_told_with_its_time() {
        paused(async {
            let stub = Stub::new();
            let owner = stub.owner();
            owner.acquire().await.unwrap();
            let (liveness, returns) = (Liveness::default(), Cell::new(0));
            assert!(liveness.last().is_none());
            let before = SystemTime::now();
            let watch = async {
                let next = async || tokio::time::sleep(Duration::from_secs(11)).await;
                next().await;
                let first = liveness.last().unwrap();
                assert_eq!(first.outcome, Ok(()));
                assert!(first.at >= before);
                stub.fail("connection refused");
                next().await;
                let why = StoreError::Away("connection refused".to_owned());
                assert_eq!(liveness.last().unwrap().outcome, Err(why));
                assert_eq!(returns.get(), 0);
                stub.heal();
                next().await;
                assert_eq!(liveness.last().unwrap().outcome, Ok(()));
                assert_eq!(returns.get(), 1, "once, when it came back");
                next().await;
                assert_eq!(returns.get(), 1);
            };
            let running = liveness.run(&owner, Duration::from_secs(10), || {
                returns.set(returns.get() + 1);
            });
            tokio::select! {
                () = watch => {}
                () = running => unreachable!("it runs until dropped"),
            }
        });
    }

    #[test]
    fn a_silent_store_is_given_up() {
        paused(async {
            let stub = Stub::new();
            let owner = stub.owner();
            owner.acquire().await.unwrap();
            stub.hang();
            let liveness = Liveness::default();
            let running = liveness.run(&owner, Duration::from_millis(100), || {});
            let _ = tokio::time::timeout(Duration::from_millis(1_100), running).await;
            let last = liveness.last().unwrap();
            assert!(matches!(&last.outcome, Err(StoreError::Away(why)) if why.contains("1 s")));
        });
    }

    #[test]
    fn a_store_that_is_too_slow_for_requests_is_no_healthy_one() {
        paused(async {
            let stub = Stub::new();
            let owner = stub.owner();
            owner.acquire().await.unwrap();
            stub.delay(Duration::from_millis(300));
            let patience = crate::storage::REQUEST_PATIENCE;
            for _ in 0..3 {
                assert!(
                    owner
                        .store_within(patience)
                        .unwrap()
                        .get("a")
                        .await
                        .is_err()
                );
            }
            let liveness = Liveness::default();
            let run = async || {
                let running = liveness.run(&owner, Duration::from_secs(1), || {});
                let _ = tokio::time::timeout(Duration::from_secs(2), running).await;
            };
            run().await;
            let last = liveness.last().unwrap();
            assert!(
                matches!(&last.outcome, Err(StoreError::Away(why)) if why.contains("too late"))
            );
            stub.delay(Duration::ZERO);
            run().await;
            assert_eq!(liveness.last().unwrap().outcome, Ok(()));
        });
    }

    #[test]
    fn a_store_that_is_elsewhere_leaves_the_last_result_alone() {
        paused(async {
            let stub = Stub::new();
            let owner = stub.owner();
            let liveness = Liveness::default();
            let run = async || {
                let running = liveness.run(&owner, Duration::from_secs(1), || {});
                let _ = tokio::time::timeout(Duration::from_secs(5), running).await;
            };
            run().await;
            assert!(liveness.last().is_none(), "it was never here");
            owner.acquire().await.unwrap();
            run().await;
            owner.release().await.unwrap();
            let before = liveness.last().unwrap();
            run().await;
            assert_eq!(liveness.last().unwrap(), before);
        });
    }
}
