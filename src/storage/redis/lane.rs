//! A connection that is kept: opened when it is first needed, and anew whenever it ends.
//!
//! ```text
//!   idle ──first question──> connecting ──> up ──ended, or silent for a second──> connecting …
//!                                └──failed: pause of 20 to 500 ms──┘
//! ```
//!
//! A server that takes no writes is left: another connection is looked for, wherever the master is
//! now, and until there is one the server is read from.
//!
//! One task per lane connects, whatever the number of those who wait, and pauses differ by chance:
//! a server that comes back is not overrun.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use redis::Value;
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::storage::redis::{
    dial::{Connection, Load},
    request::{Failure, FailureKind, Request},
};

/// A connection that owes an answer for so long is replaced.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Until another attempt to connect and log in is begun. Short, so that a server that comes back is
/// found at once.
const CONNECT_MAX: Duration = Duration::from_millis(700);

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Why a connection that works is replaced.
const LEFT: &str = "the server takes no writes";

/// Opens a connection, to wherever that is at the moment.
pub(super) type Dial = Arc<dyn Fn(Load) -> Dialling + Send + Sync>;

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
    /// To be called inside tokio. `what` names it in the log; `timeout` is for a server far away.
    pub(super) fn new(what: String, load: Load, timeout: Duration, dial: Dial) -> Self {
        let (sender, state) = watch::channel(State::Down {
            since: None,
            why: "not connected yet".to_owned(),
        });
        let demand = Arc::new(Notify::new());
        let task = tokio::spawn({
            let demand = Arc::clone(&demand);
            async move {
                demand.notified().await;
                keep(&what, timeout, &|| dial(load), &sender).await;
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
        for failure in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            if failure.is_login_void {
                connection.retire();
            } else if failure.is_wrong_server {
                connection.leave();
            }
        }
        outcomes
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn keep(
    what: &str,
    timeout: Duration,
    dial: &(dyn Fn() -> Dialling + Send + Sync),
    state: &watch::Sender<State>,
) {
    let mut pause = PAUSE_MIN;
    let mut since = Instant::now();
    // Said once per interruption.
    let mut told: Option<String> = None;
    let mut attempts = Attempts::default();
    // Up, for want of a better one.
    let mut left: Option<Arc<Connection>> = None;
    loop {
        let began = Instant::now();
        let why = match attempts.next(timeout, dial).await {
            Err(why) => why,
            Ok(connection) => {
                let connection = Arc::new(connection);
                if told.as_deref().is_some_and(|told| told != LEFT) {
                    tracing::info!(prefix = "redis", "{what}: connected again");
                    told = None;
                }
                let up_since = Instant::now();
                state.send_replace(State::Up(Arc::clone(&connection)));
                let mut ended = pin!(async {
                    tokio::select! {
                        () = connection.ended() => match connection.is_left() {
                            true => LEFT,
                            false => "connection lost",
                        },
                        () = silent(&connection) => "no answer for a second",
                    }
                });
                let why = tokio::select! {
                    why = &mut ended => why,
                    () = tokio::time::sleep(PAUSE_MAX), if told.is_some() => {
                        tracing::info!(prefix = "redis", "{what}: connected to another one");
                        told = None;
                        ended.await
                    }
                };
                since = Instant::now();
                if up_since.elapsed() > PAUSE_MAX {
                    pause = PAUSE_MIN;
                }
                left = (why == LEFT).then(|| Arc::clone(&connection));
                why.to_owned()
            }
        };
        if told.as_ref() != Some(&why) {
            tracing::warn!(prefix = "redis", "{what}: {why}; connecting again");
            told = Some(why.clone());
        }
        left = left.filter(|left| !left.is_broken() && left.silence() < SILENCE_MAX);
        if left.is_none() {
            let since = Some(since);
            state.send_replace(State::Down { since, why });
        }
        // An attempt that took long was a pause.
        tokio::time::sleep(by_chance(pause).saturating_sub(began.elapsed())).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Attempts to connect: one that was begun just now, and an older one, for a server that is far.
#[derive(Default)]
struct Attempts {
    tasks: JoinSet<Result<Connection, String>>,
    patient: Option<AbortHandle>,
}

impl Attempts {
    /// Begins an attempt; returns what came of it or of an older one, at the latest after
    /// [`CONNECT_MAX`].
    async fn next(
        &mut self,
        timeout: Duration,
        dial: &(dyn Fn() -> Dialling + Send + Sync),
    ) -> Result<Connection, String> {
        let dialling = dial();
        let attempt = self.tasks.spawn(async move {
            let dialled = tokio::time::timeout(timeout, dialling).await;
            dialled.unwrap_or_else(|_| Err("no connection in time".to_owned()))
        });
        let first = async {
            loop {
                match self.tasks.join_next().await {
                    Some(Ok(dialled)) => return dialled,
                    // Aborted before.
                    Some(Err(_)) => {}
                    None => return Err("no attempt to connect".to_owned()),
                }
            }
        };
        let Ok(dialled) = tokio::time::timeout(CONNECT_MAX, first).await else {
            match &self.patient {
                Some(patient) if !patient.is_finished() => attempt.abort(),
                _ => self.patient = Some(attempt),
            }
            return Err("no connection in time".to_owned());
        };
        if dialled.is_ok() {
            *self = Self::default();
        }
        dialled
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
