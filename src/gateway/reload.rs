//! Reloading: the bell that asks for it, the ringer that does it, the report that comes back.
//!
//! Tyk: `gateway/server.go` (`reloadQueueLoop`, `reloadLoop`). Whoever wants the definitions read
//! anew rings the [`Bell`]; a ticker of `reload_interval` seconds turns all rings since the last
//! tick into one reload. One reload runs at a time. A ring that comes while one is running may
//! concern a file it has read already, so it is for the next one.
//!
//! `// Tyk differs:` a caller that waits (`block=true`) is served at once instead of at the next
//! tick: same outcome, up to a second sooner.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use crate::{apidef::ApiDefinition, error::LoadError, metrics::Registry};

/// What the control API may ask of the gateway. Nothing of it changes what is served; only the
/// [`Bell`] does.
pub trait Gateway: Send + Sync {
    /// The definitions as read at the last reload, in load order: those that are served and those
    /// that are not (inactive, refused but readable), as Tyk lists them.
    fn definitions(&self) -> Arc<[Arc<ApiDefinition>]>;

    /// Reads the files and says what a reload would do now. Publishes nothing.
    fn dry_run(&self) -> Pin<Box<dyn Future<Output = ReloadReport> + Send + '_>>;

    fn readiness(&self) -> Readiness;
}

/// Whether new clients should be sent here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// The first definitions are still being loaded.
    Starting,
    Ready,
    /// Stopping, or handing over: answers what it has.
    Draining,
}

/// Rings that may wait for one reload. Past it a caller is told so instead of being kept.
const RINGS_MAX: usize = 4096;

/// Asks for a reload. Clones ring the same ringer.
#[derive(Clone)]
pub struct Bell {
    rings: mpsc::Sender<Ring>,
}

enum Ring {
    /// At the next tick.
    Queued,
    /// Now, and tell me.
    Awaited(oneshot::Sender<Arc<ReloadReport>>),
}

/// Why a ring brought no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotRung {
    #[error("too many reloads are waiting")]
    Full,
    #[error("the gateway is stopping")]
    Stopping,
}

impl Bell {
    /// A bell and the ringer it rings.
    #[must_use]
    pub fn new() -> (Self, Ringer) {
        let (sender, receiver) = mpsc::channel(RINGS_MAX);
        (Self { rings: sender }, Ringer { rings: receiver })
    }

    /// Asks for a reload at the next tick.
    ///
    /// # Errors
    /// [`NotRung::Stopping`]. A full queue is no error: the reload that will empty it serves this
    /// ring too.
    pub fn ring(&self) -> Result<(), NotRung> {
        match self.rings.try_send(Ring::Queued) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(NotRung::Stopping),
        }
    }

    /// Asks for a reload at once and waits for what it did.
    ///
    /// # Errors
    /// [`NotRung`]; also when the reload itself broke off.
    pub async fn ring_and_wait(&self) -> Result<Arc<ReloadReport>, NotRung> {
        let (sender, receiver) = oneshot::channel();
        self.rings
            .try_send(Ring::Awaited(sender))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => NotRung::Full,
                mpsc::error::TrySendError::Closed(_) => NotRung::Stopping,
            })?;
        receiver.await.map_err(|_| NotRung::Stopping)
    }
}

/// The receiving end of all bells: runs the reloads.
pub struct Ringer {
    rings: mpsc::Receiver<Ring>,
}

impl Ringer {
    /// Runs `reload` whenever the bell asks for it, until the last bell is gone. `interval` is
    /// `reload_interval`, at least one second as in Tyk.
    pub async fn run<F>(
        mut self,
        interval: Duration,
        registry: &Registry,
        mut reload: impl FnMut() -> F,
    ) where
        F: Future<Output = ReloadReport>,
    {
        let interval = interval.max(Duration::from_secs(1));
        let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        while let Some(mut waiting) = self.collect(&mut ticks).await {
            while let Ok(ring) = self.rings.try_recv() {
                keep(ring, &mut waiting);
            }
            let report = Arc::new(guarded(reload()).await);
            match report.status {
                Status::Failed => registry.reload_failed(),
                Status::Ok | Status::Partial => registry.reload_succeeded(report.refused.len()),
            }
            for waiter in waiting {
                // A caller that went away needs no answer.
                let _ = waiter.send(Arc::clone(&report));
            }
        }
    }

    /// Waits for a tick by which somebody rang, or for somebody who waits. `None` at the end.
    async fn collect(
        &mut self,
        ticks: &mut tokio::time::Interval,
    ) -> Option<Vec<oneshot::Sender<Arc<ReloadReport>>>> {
        let mut waiting = Vec::new();
        let mut is_rung = false;
        loop {
            // Both branches are safe to drop: a ring stays in the queue, a tick stays due.
            tokio::select! {
                biased;
                ring = self.rings.recv() => {
                    is_rung = true;
                    keep(ring?, &mut waiting);
                    if !waiting.is_empty() {
                        return Some(waiting);
                    }
                }
                _ = ticks.tick() => {
                    if is_rung {
                        return Some(waiting);
                    }
                }
            }
        }
    }
}

/// A reload that panics is one that failed; the next one can succeed.
async fn guarded(reload: impl Future<Output = ReloadReport>) -> ReloadReport {
    let mut reload = pin!(reload);
    std::future::poll_fn(|cx| {
        let poll = || reload.as_mut().poll(cx);
        catch_unwind(AssertUnwindSafe(poll)).unwrap_or_else(|_| {
            let defect = LoadError::whole("gateway", "a defect in the gateway; its log says where");
            Poll::Ready(ReloadReport::failed(vec![defect.into()]))
        })
    })
    .await
}

fn keep(ring: Ring, waiting: &mut Vec<oneshot::Sender<Arc<ReloadReport>>>) {
    if let Ring::Awaited(waiter) = ring {
        waiting.push(waiter);
    }
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Every definition is served as it stands on disk.
    Ok,
    /// Some definitions were refused; the others are served.
    Partial,
    /// The definitions of before are still served.
    Failed,
}

/// What a reload did, or what a dry run would have done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReloadReport {
    pub status: Status,
    /// API ids that were not served before.
    pub added: Vec<String>,
    /// API ids that are served no more.
    pub removed: Vec<String>,
    pub changed: Vec<Changed>,
    pub refused: Vec<Refused>,
}

impl ReloadReport {
    /// A report whose status follows from what was refused.
    #[must_use]
    pub fn done(
        added: Vec<String>,
        removed: Vec<String>,
        changed: Vec<Changed>,
        refused: Vec<Refused>,
    ) -> Self {
        let status = if refused.is_empty() {
            Status::Ok
        } else {
            Status::Partial
        };
        Self {
            status,
            added,
            removed,
            changed,
            refused,
        }
    }

    /// The report with further refusals, of other files than definitions.
    #[must_use]
    pub fn with(mut self, refused: Vec<Refused>) -> Self {
        if !refused.is_empty() && self.status == Status::Ok {
            self.status = Status::Partial;
        }
        self.refused.extend(refused);
        self
    }

    /// A reload that changed nothing, and why.
    #[must_use]
    pub fn failed(refused: Vec<Refused>) -> Self {
        Self {
            status: Status::Failed,
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            refused,
        }
    }

    /// The refusals in one line for people, the first eight by name. Empty when there is none.
    #[must_use]
    pub fn summary(&self) -> String {
        const NAMED_MAX: usize = 8;
        let mut text = self
            .refused
            .iter()
            .take(NAMED_MAX)
            .map(Refused::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        if self.refused.len() > NAMED_MAX {
            text.push_str(&format!("; and {} more", self.refused.len() - NAMED_MAX));
        }
        text
    }
}

/// A definition that differs from the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    pub api_id: String,
    /// JSON pointers (RFC 6901) of the values that differ.
    pub pointers: Vec<String>,
}

/// A definition, or a part of one, that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    pub file: PathBuf,
    /// 1-based; 0 when the place is not known.
    pub line: u32,
    /// 1-based, in bytes; 0 when the place is not known.
    pub column: u32,
    pub pointer: String,
    pub reason: String,
}

impl From<LoadError> for Refused {
    fn from(error: LoadError) -> Self {
        Self {
            file: error.file,
            line: error.line,
            column: error.column,
            pointer: error.pointer,
            reason: error.reason,
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        LoadError {
            file: self.file.clone(),
            line: self.line,
            column: self.column,
            pointer: self.pointer.clone(),
            reason: self.reason.clone(),
        }
        .fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        rc::Rc,
    };

    use super::*;

    /// What the reload of a test does: counts, and may wait for the test.
    #[derive(Default)]
    struct Reloads {
        begun: Cell<usize>,
        running: Cell<usize>,
        gates: RefCell<Vec<oneshot::Receiver<()>>>,
    }

    impl Reloads {
        async fn run(self: Rc<Self>) -> ReloadReport {
            self.begun.set(self.begun.get() + 1);
            self.running.set(self.running.get() + 1);
            assert_eq!(self.running.get(), 1, "one reload at a time");
            let gate = self.gates.borrow_mut().pop();
            if let Some(gate) = gate {
                let _ = gate.await;
            }
            self.running.set(self.running.get() - 1);
            let name = self.begun.get().to_string();
            ReloadReport::done(vec![name], vec![], vec![], vec![])
        }
    }

    fn run(test: impl AsyncFnOnce(Bell, Rc<Reloads>), registry: &Arc<Registry>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let tasks = tokio::task::LocalSet::new();
        tasks.block_on(&runtime, async {
            tokio::time::pause();
            let (bell, ringer) = Bell::new();
            let reloads = Rc::<Reloads>::default();
            let (reloads_of_ringer, registry) = (Rc::clone(&reloads), Arc::clone(registry));
            let ringing = tokio::task::spawn_local(async move {
                let reload = move || Rc::clone(&reloads_of_ringer).run();
                ringer.run(Duration::from_secs(2), &registry, reload).await;
            });
            test(bell, reloads).await;
            ringing.await.unwrap();
        });
    }

    #[test]
    fn rings_between_two_ticks_are_one_reload() {
        let registry = Arc::new(Registry::new(1));
        run(
            async |bell, reloads| {
                for _ in 0..30 {
                    bell.ring().unwrap();
                }
                tokio::time::sleep(Duration::from_millis(1_900)).await;
                assert_eq!(reloads.begun.get(), 0, "not before the tick");
                tokio::time::sleep(Duration::from_millis(200)).await;
                assert_eq!(reloads.begun.get(), 1);
                tokio::time::sleep(Duration::from_secs(10)).await;
                assert_eq!(reloads.begun.get(), 1, "nobody rang since");
            },
            &registry,
        );
        assert!(registry.render().contains("reloads_total 1\n"));
    }

    #[test]
    fn a_waiting_caller_is_served_at_once() {
        run(
            async |bell, reloads| {
                let before = Instant::now();
                let report = bell.ring_and_wait().await.unwrap();
                assert_eq!(report.added, ["1"]);
                assert_eq!(before.elapsed(), Duration::ZERO);
                assert_eq!(reloads.begun.get(), 1);
            },
            &Arc::new(Registry::new(1)),
        );
    }

    #[test]
    fn a_waiting_caller_takes_queued_rings_along() {
        run(
            async |bell, reloads| {
                bell.ring().unwrap();
                bell.ring_and_wait().await.unwrap();
                tokio::time::sleep(Duration::from_secs(10)).await;
                assert_eq!(reloads.begun.get(), 1);
            },
            &Arc::new(Registry::new(1)),
        );
    }

    #[test]
    fn a_ring_during_a_reload_is_for_the_next_one() {
        run(
            async |bell, reloads| {
                let (open, gate) = oneshot::channel();
                reloads.gates.borrow_mut().push(gate);
                let first = tokio::task::spawn_local({
                    let bell = bell.clone();
                    async move { bell.ring_and_wait().await.unwrap() }
                });
                while reloads.begun.get() == 0 {
                    tokio::task::yield_now().await;
                }
                let late: Vec<_> = (0..3)
                    .map(|_| {
                        let bell = bell.clone();
                        tokio::task::spawn_local(async move { bell.ring_and_wait().await.unwrap() })
                    })
                    .collect();
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                open.send(()).unwrap();
                assert_eq!(first.await.unwrap().added, ["1"]);
                for waiter in late {
                    assert_eq!(
                        waiter.await.unwrap().added,
                        ["2"],
                        "one reload for the three"
                    );
                }
            },
            &Arc::new(Registry::new(1)),
        );
    }

    #[test]
    fn a_reload_that_panics_is_told_and_the_next_one_runs() {
        let registry = Arc::new(Registry::new(1));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let (bell, ringer) = Bell::new();
            let count = Cell::new(0);
            let ringing = ringer.run(Duration::from_secs(1), &registry, || {
                count.set(count.get() + 1);
                let is_first = count.get() == 1;
                async move {
                    assert!(!is_first, "a panic on purpose");
                    ReloadReport::done(vec![], vec![], vec![], vec![])
                }
            });
            let asking = async {
                let first = bell.ring_and_wait().await.unwrap();
                assert_eq!(first.status, Status::Failed);
                let second = bell.ring_and_wait().await.unwrap();
                assert_eq!(second.status, Status::Ok);
            };
            tokio::select! {
                () = ringing => unreachable!(),
                () = asking => {}
            }
        });
        assert!(registry.is_last_reload_successful());
    }

    #[test]
    fn a_bell_without_ringer_says_so() {
        let (bell, ringer) = Bell::new();
        drop(ringer);
        assert_eq!(bell.ring(), Err(NotRung::Stopping));
    }

    #[test]
    fn the_report_has_the_documented_shape() {
        let refused = Refused::from(LoadError {
            file: "apps/a.json".into(),
            line: 3,
            column: 7,
            pointer: "/proxy/target_url".into(),
            reason: "not a URL".into(),
        });
        let changed = Changed {
            api_id: "b".into(),
            pointers: vec!["/name".into()],
        };
        let report = ReloadReport::done(vec!["a".into()], vec![], vec![changed], vec![refused]);
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            concat!(
                r#"{"status":"partial","added":["a"],"removed":[],"#,
                r#""changed":[{"api_id":"b","pointers":["/name"]}],"#,
                r#""refused":[{"file":"apps/a.json","line":3,"column":7,"#,
                r#""pointer":"/proxy/target_url","reason":"not a URL"}]}"#
            )
        );
        assert_eq!(
            report.summary(),
            "apps/a.json:3:7: /proxy/target_url: not a URL"
        );
    }
}
