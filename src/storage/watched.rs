//! A store under watch: every question has a deadline, and none waits for a store that is away.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::storage::{
    Add, Counter, Eval, ListLimit, Pulse, PushOutcome, REQUEST_PATIENCE, Records, Replace,
    ScriptReply, Scripts, Store, StoreError, Subscription, Ttl, Waiting, WriteOp,
};

/// A refusal that took so long was no answer.
const ANSWER_MAX: Duration = Duration::from_millis(90);

/// For a walk through all names, where the asker is not in a hurry.
const LIST_MAX: Duration = Duration::from_secs(60);

/// [`Pulse`] hears how each question went.
pub(super) struct Watched {
    inner: Arc<dyn Store>,
    pulse: Arc<Pulse>,
    deadline: Duration,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn Store>, pulse: Arc<Pulse>, deadline: Duration) -> Self {
        Self {
            inner,
            pulse,
            deadline,
        }
    }

    fn ask<'a, T: Send + 'a>(
        &'a self,
        question: impl FnOnce(&'a dyn Store) -> Waiting<'a, T>,
    ) -> Waiting<'a, T> {
        self.ask_within(self.deadline, question)
    }

    fn ask_within<'a, T: Send + 'a>(
        &'a self,
        deadline: Duration,
        question: impl FnOnce(&'a dyn Store) -> Waiting<'a, T>,
    ) -> Waiting<'a, T> {
        if self.pulse.is_away() {
            let why = format!("{}: no answer for a while", self.inner.name());
            return Box::pin(async move { Err(StoreError::Away(why)) });
        }
        let waiting = question(self.inner.as_ref());
        Box::pin(async move {
            let (round, began) = (self.pulse.round(), Instant::now());
            let answer = tokio::time::timeout(deadline, waiting).await;
            let error = match answer {
                Ok(Ok(answer)) => {
                    self.pulse.answered();
                    return Ok(answer);
                }
                Ok(Err(StoreError::Away(why))) if began.elapsed() >= ANSWER_MAX => {
                    StoreError::Away(why)
                }
                // Above all a refusal to write, however long another server was looked for: it is an
                // answer.
                Ok(Err(error)) => return Err(error),
                Err(_) => StoreError::Away(format!(
                    "{}: no answer within {} ms",
                    self.inner.name(),
                    deadline.as_millis()
                )),
            };
            if self.pulse.missed(round) {
                tokio::spawn(Arc::clone(&self.pulse).revive(Arc::clone(&self.inner)));
            }
            Err(error)
        })
    }
}

impl Store for Watched {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn patience(&self) -> Duration {
        self.deadline
    }

    fn get(&self, key: &str) -> Waiting<'_, Option<Vec<u8>>> {
        self.ask(|store| store.get(key))
    }

    fn get_many(&self, keys: Vec<String>) -> Waiting<'_, Vec<Option<Vec<u8>>>> {
        self.ask(|store| store.get_many(keys))
    }

    fn set(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Waiting<'_, ()> {
        self.ask(|store| store.set(key, value, ttl))
    }

    fn delete(&self, key: &str) -> Waiting<'_, bool> {
        self.ask(|store| store.delete(key))
    }

    fn exists(&self, key: &str) -> Waiting<'_, bool> {
        self.ask(|store| store.exists(key))
    }

    fn list(&self, prefix: &str) -> Waiting<'_, Vec<String>> {
        let deadline = match self.deadline < self.inner.patience() {
            true => self.deadline,
            false => LIST_MAX,
        };
        self.ask_within(deadline, |store| store.list(prefix))
    }

    fn write(&self, ops: Vec<WriteOp>) -> Waiting<'_, ()> {
        self.ask(|store| store.write(ops))
    }

    fn ttl(&self, key: &str) -> Waiting<'_, Option<Ttl>> {
        self.ask(|store| store.ttl(key))
    }

    fn set_if_absent(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Waiting<'_, bool> {
        self.ask(|store| store.set_if_absent(key, value, ttl))
    }

    fn replace(&self, changes: Vec<Replace>) -> Waiting<'_, Vec<bool>> {
        self.ask(|store| store.replace(changes))
    }

    fn add(&self, adds: Vec<Add>) -> Waiting<'_, Vec<Counter>> {
        self.ask(|store| store.add(adds))
    }

    fn push(&self, list: &str, records: Records, limit: ListLimit) -> Waiting<'_, PushOutcome> {
        self.ask(|store| store.push(list, records, limit))
    }

    fn publish(&self, channel: &str, message: &str) -> Waiting<'_, ()> {
        self.ask(|store| store.publish(channel, message))
    }

    fn subscribe(&self, channel: &str) -> Option<Subscription> {
        self.inner.subscribe(channel)
    }

    fn scripts(&self) -> Option<&dyn Scripts> {
        self.inner.scripts().map(|_| self as &dyn Scripts)
    }

    /// Also asked while the store is away: it is how that ends.
    fn probe(&self) -> Waiting<'_, ()> {
        let probing = self.inner.probe();
        Box::pin(async move {
            let began = Instant::now();
            probing.await?;
            // What comes later than requests wait for is no sign of life for them.
            if began.elapsed() < REQUEST_PATIENCE {
                self.pulse.answered();
            }
            Ok(())
        })
    }

    fn flush(&self) -> Waiting<'_, ()> {
        self.inner.flush()
    }

    fn close(&self) -> Waiting<'_, ()> {
        self.inner.close()
    }
}

impl Scripts for Watched {
    fn eval_many(&self, evals: Vec<Eval>) -> Waiting<'_, Vec<Result<ScriptReply, StoreError>>> {
        self.ask(|store| match store.scripts() {
            Some(scripts) => scripts.eval_many(evals),
            None => Box::pin(async { Err(StoreError::Closed) }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::{Stub, paused};

    const HOT: Duration = Duration::from_millis(100);

    #[test]
    fn three_silences_make_it_away_and_a_probe_brings_it_back() {
        paused(async {
            let stub = Stub::new();
            stub.put("a", "1");
            let owner = stub.owner();
            owner.acquire().await.unwrap();
            let pulse = owner.pulse();
            let ask = async || {
                let began = Instant::now();
                let answer = owner.store_within(HOT).unwrap().get("a").await;
                (answer.is_ok(), began.elapsed())
            };
            assert_eq!(ask().await, (true, Duration::ZERO));
            stub.hang();
            for _ in 0..2 {
                // Those who wait at the same time count once.
                let ((is_ok, waited), _, _) = tokio::join!(ask(), ask(), ask());
                assert!(!is_ok && waited >= HOT);
                assert!(!pulse.is_away());
            }
            assert!(!ask().await.0);
            assert!(pulse.is_away());
            assert_eq!(ask().await, (false, Duration::ZERO), "nobody waits now");
            assert!(owner.store().unwrap().set("b", b"", None).await.is_err());
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert!(pulse.is_away());
            stub.wake();
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!pulse.is_away());
            assert_eq!(ask().await, (true, Duration::ZERO));
        });
    }

    #[test]
    fn an_answer_between_silences_starts_the_count_anew() {
        paused(async {
            let stub = Stub::new();
            let owner = stub.owner();
            owner.acquire().await.unwrap();
            let store = owner.store_within(HOT).unwrap();
            for _ in 0..5 {
                stub.hang();
                assert!(store.get("a").await.is_err());
                assert!(store.get("a").await.is_err());
                stub.wake();
                assert!(store.get("a").await.is_ok());
                // A refusal is an answer as well.
                stub.fail("OOM");
                for _ in 0..5 {
                    assert!(store.get("a").await.is_err());
                }
                stub.heal();
            }
            assert!(!owner.pulse().is_away());
        });
    }

    #[test]
    fn a_store_that_answers_too_late_for_requests_stays_away() {
        paused(async {
            let stub = Stub::new();
            let owner = stub.owner();
            owner.acquire().await.unwrap();
            stub.delay(Duration::from_millis(500));
            for _ in 0..3 {
                assert!(owner.store_within(HOT).unwrap().get("a").await.is_err());
            }
            for _ in 0..20 {
                assert_eq!(owner.store().unwrap().probe().await, Ok(()));
                assert!(owner.pulse().is_away());
            }
            stub.delay(Duration::from_millis(50));
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!owner.pulse().is_away());
        });
    }

    #[test]
    fn a_store_that_was_away_and_refuses_writes_now_is_read_from() {
        paused(async {
            let stub = Stub::new();
            stub.put("a", "1");
            let owner = stub.owner();
            owner.acquire().await.unwrap();
            let store = owner.store_within(HOT).unwrap();
            stub.hang();
            for _ in 0..3 {
                assert!(store.get("a").await.is_err());
            }
            assert!(owner.pulse().is_away());
            stub.refuse_writes("READONLY");
            stub.wake();
            tokio::time::sleep(Duration::from_secs(2)).await;
            let refused = StoreError::Refused("READONLY".to_owned());
            assert_eq!(store.set("a", b"2", None).await, Err(refused.clone()));
            assert_eq!(store.get("a").await, Ok(Some(b"1".to_vec())));
            // What is said about its health is another matter.
            assert_eq!(owner.store().unwrap().probe().await, Err(refused));
        });
    }

    #[test]
    fn a_store_that_was_given_away_while_it_was_away_begins_anew() {
        paused(async {
            let stub = Stub::new();
            let owner = stub.owner();
            owner.acquire().await.unwrap();
            stub.hang();
            for _ in 0..3 {
                let _ = owner.store_within(HOT).unwrap().get("a").await;
            }
            assert!(owner.pulse().is_away());
            stub.wake();
            owner.release().await.unwrap();
            owner.acquire().await.unwrap();
            assert!(!owner.pulse().is_away());
        });
    }
}
