//! A connection that is kept: opened when it is first needed, and anew whenever it ends.
//!
//! ```text
//!   idle ──first question──> connecting ──> up ──ended, or silent for a second──> connecting …
//!                                └──failed: pause of 20 to 500 ms──┘
//! ```
//!
//! One task per lane connects, whatever the number of those who wait, and pauses differ by chance:
//! a server that comes back is not overrun.

use std::{pin::Pin, sync::Arc, time::Duration};

use redis::Value;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::Instant,
};

use crate::storage::redis::{
    dial::Connection,
    request::{Failure, FailureKind, Request},
};

/// A connection that owes an answer for so long is replaced.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// For one attempt to connect and log in.
const CONNECT_MAX: Duration = Duration::from_secs(1);

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Opens a connection, to wherever that is at the moment.
pub(super) type Dial = Arc<dyn Fn() -> Dialling + Send + Sync>;

pub(super) type Dialling = Pin<Box<dyn Future<Output = Result<Connection, String>> + Send>>;

pub(super) struct Lane {
    state: watch::Receiver<State>,
    demand: Arc<Notify>,
    task: AbortHandle,
}

#[derive(Clone)]
enum State {
    Up(Arc<Connection>),
    Down {
        /// `None`: nobody has asked yet.
        since: Option<Instant>,
        why: String,
    },
}

impl Lane {
    /// To be called inside tokio. `what` names it in the log.
    pub(super) fn new(what: String, dial: Dial) -> Self {
        let (sender, state) = watch::channel(State::Down {
            since: None,
            why: "not connected yet".to_owned(),
        });
        let demand = Arc::new(Notify::new());
        let task = tokio::spawn({
            let demand = Arc::clone(&demand);
            async move {
                demand.notified().await;
                keep(&what, &dial, &sender).await;
            }
        });
        Self {
            state,
            demand,
            task: task.abort_handle(),
        }
    }

    /// The connection, as soon as there is one.
    ///
    /// # Errors
    /// When there is none at `until`, or has been none for `patience`.
    async fn connection(
        &self,
        until: Instant,
        patience: Duration,
    ) -> Result<Arc<Connection>, Failure> {
        self.demand.notify_one();
        let mut state = self.state.clone();
        loop {
            let why = match &*state.borrow_and_update() {
                State::Up(connection) if !connection.is_broken() => {
                    return Ok(Arc::clone(connection));
                }
                State::Up(_) => "connection lost".to_owned(),
                State::Down { since, why } => {
                    if since.is_some_and(|since| since.elapsed() > patience) {
                        return Err(Failure::new(FailureKind::Refused, why.clone()));
                    }
                    why.clone()
                }
            };
            match tokio::time::timeout_at(until, state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Failure::new(FailureKind::Refused, why)),
                Err(_) => return Err(Failure::new(FailureKind::NotNow, why)),
            }
        }
    }

    /// Asks over this lane. Waits for a connection until `connect_until`, and gives up at once when
    /// there has been none for `patience`; waits for the answer until `until`.
    pub(super) async fn exchange(
        &self,
        requests: &[&Request],
        connect_until: Instant,
        patience: Duration,
        until: Instant,
    ) -> Vec<Result<Value, Failure>> {
        let connection = match self.connection(connect_until, patience).await {
            Ok(connection) => connection,
            Err(failure) => return requests.iter().map(|_| Err(failure.clone())).collect(),
        };
        let outcomes = connection.exchange(requests, until).await;
        let is_elsewhere = |outcome: &Result<Value, Failure>| matches!(outcome, Err(failure) if failure.is_wrong_server);
        if outcomes.iter().any(is_elsewhere) {
            connection.retire();
        }
        outcomes
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(what: &str, dial: &Dial, state: &watch::Sender<State>) {
    let mut pause = PAUSE_MIN;
    let mut since = Instant::now();
    // Said once per interruption.
    let mut told: Option<String> = None;
    loop {
        let dialled = match tokio::time::timeout(CONNECT_MAX, dial()).await {
            Ok(Ok(connection)) => Ok(Arc::new(connection)),
            Ok(Err(why)) => Err(why),
            Err(_) => Err("no connection within a second".to_owned()),
        };
        let why = match dialled {
            Err(why) => why,
            Ok(connection) => {
                if told.take().is_some() {
                    tracing::info!(prefix = "redis", "{what}: connected again");
                }
                let began = Instant::now();
                state.send_replace(State::Up(Arc::clone(&connection)));
                let why = tokio::select! {
                    () = connection.ended() => "connection lost",
                    () = silent(&connection) => "no answer for a second",
                };
                since = Instant::now();
                if began.elapsed() > PAUSE_MAX {
                    pause = PAUSE_MIN;
                }
                why.to_owned()
            }
        };
        if told.as_ref() != Some(&why) {
            tracing::warn!(prefix = "redis", "{what}: {why}; connecting again");
            told = Some(why.clone());
        }
        let since = Some(since);
        state.send_replace(State::Down { since, why });
        tokio::time::sleep(by_chance(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Returns when a connection has owed an answer for too long.
async fn silent(connection: &Connection) {
    while connection.silence() < SILENCE_MAX {
        tokio::time::sleep(SILENCE_MAX / 5).await;
    }
}

/// Between half of a span and all of it.
pub(super) fn by_chance(span: Duration) -> Duration {
    let half = span / 2;
    let chance = getrandom::u32().unwrap_or_default();
    half + half.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}
