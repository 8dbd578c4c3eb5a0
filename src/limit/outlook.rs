//! What cells know of the world beyond their node: how many nodes there are, and whether the
//! store answers.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::sync::mpsc;

use crate::limit::{Algorithm, QuotaCell, Settings, Work};

/// One per process; every cell has a hand on it.
pub struct Outlook {
    /// Nodes in the lower bits, [`AWAY`] above: cells look at one word.
    word: AtomicU32,
    /// Questions without an answer since the last answer.
    missed: AtomicU32,
    /// Microseconds a question to the store takes, smoothed.
    rtt_us: AtomicU32,
    pub(super) settings: Settings,
    work: mpsc::Sender<Work>,
    /// Who wants to know of quotas whose period begins.
    pub(super) renewals: OnceLock<mpsc::Sender<Arc<QuotaCell>>>,
}

const AWAY: u32 = 1 << 31;
const NODES: u32 = AWAY - 1;

/// After so many questions in a row without an answer nobody asks until a probe succeeds.
const MISSED_MAX: u32 = 3;

/// How long the store may take to answer for a limiter, unless a mode of Tyk's is selected.
const DEADLINE_MS: u64 = 5;

/// How long it waits where the configuration wants Tyk's decision and not a share.
pub(super) const DEADLINE_TYK_MS: u64 = 100;

/// How long a request waits for the reconciler, which answers earlier by itself unless the machine
/// has no time for it.
pub const ASK_MAX_MS: u64 = 200;

/// How things look to a cell at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View(u32);

impl View {
    /// This node included; 1 when the store is not shared.
    #[inline]
    pub(super) const fn nodes(self) -> u32 {
        self.0 & NODES
    }

    #[inline]
    pub(super) const fn is_away(self) -> bool {
        self.0 & AWAY != 0
    }

    /// Neither other nodes nor anything else to mind.
    #[inline]
    pub(super) const fn is_alone(self) -> bool {
        self.nodes() <= 1
    }
}

impl Outlook {
    pub(super) fn new(settings: Settings, work: mpsc::Sender<Work>) -> Self {
        Self {
            word: AtomicU32::new(1),
            missed: AtomicU32::new(0),
            rtt_us: AtomicU32::new(1_000),
            settings,
            work,
            renewals: OnceLock::new(),
        }
    }

    #[inline]
    pub(super) fn view(&self) -> View {
        View(self.word.load(Relaxed))
    }

    /// How many nodes share the limits, this one included.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        self.view().nodes()
    }

    /// Tells how many nodes there are, this one included. Ignored where the store is not shared.
    pub fn set_nodes(&self, nodes: u32) {
        if self.settings.is_shared {
            let nodes = nodes.clamp(1, NODES);
            let _ = self
                .word
                .fetch_update(Relaxed, Relaxed, |word| Some(word & AWAY | nodes));
        }
    }

    /// Whether the store is taken not to answer: nobody waits for it, limits are local shares.
    #[must_use]
    pub fn is_away(&self) -> bool {
        self.view().is_away()
    }

    /// A question had no answer in time.
    pub fn miss(&self) {
        if self.missed.fetch_add(1, Relaxed) + 1 >= MISSED_MAX {
            self.word.fetch_or(AWAY, Relaxed);
        }
    }

    /// The store refused or broke: it is away at once.
    pub(super) fn lose(&self) {
        self.missed.store(MISSED_MAX, Relaxed);
        self.word.fetch_or(AWAY, Relaxed);
    }

    /// The store answered after so long.
    pub fn answered(&self, took_us: u32) {
        let before = self.rtt_us.load(Relaxed);
        let smoothed = before - before / 8 + took_us.min(1_000_000) / 8;
        self.rtt_us.store(smoothed, Relaxed);
        if u64::from(took_us) < self.deadline_ms() * 1_000 {
            self.missed.store(0, Relaxed);
            self.word.fetch_and(NODES, Relaxed);
        }
    }

    /// Slower answers than this reach nobody.
    #[must_use]
    pub fn deadline_ms(&self) -> u64 {
        let by_algorithm = match (self.settings.is_shared, self.settings.algorithm) {
            (true, Algorithm::Default) => DEADLINE_MS,
            _ => DEADLINE_TYK_MS,
        };
        self.settings.deadline_ms.unwrap_or(by_algorithm)
    }

    /// How long ahead of need a refill is asked for: two round trips.
    pub(super) fn ahead_ms(&self) -> u64 {
        (2 * u64::from(self.rtt_us.load(Relaxed)))
            .div_ceil(1_000)
            .max(2)
    }

    /// The period of a quota has begun, or is another than was thought. Lost where too many wait.
    pub(super) fn renewed(&self, cell: &Arc<QuotaCell>) {
        if let Some(renewals) = self.renewals.get() {
            let _ = renewals.try_send(Arc::clone(cell));
        }
    }

    /// Hands work to the reconciler; false when it has too much.
    pub fn post(&self, work: Work) -> bool {
        self.work.try_send(work).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(is_shared: bool) -> Outlook {
        let settings = Settings {
            is_shared,
            ..Settings::default()
        };
        Outlook::new(settings, mpsc::channel(1).0)
    }

    #[test]
    fn three_questions_without_an_answer_make_the_store_away_until_one_is_answered_in_time() {
        let outlook = outlook(true);
        outlook.set_nodes(3);
        for _ in 0..2 {
            outlook.miss();
            outlook.miss();
            assert!(!outlook.is_away());
            outlook.answered(900);
        }
        for _ in 0..3 {
            outlook.miss();
        }
        assert!(outlook.is_away());
        assert_eq!(outlook.nodes(), 3);
        outlook.answered(50_000);
        assert!(
            outlook.is_away(),
            "an answer that nobody would have waited for"
        );
        outlook.answered(4_000);
        assert!(!outlook.is_away());
        outlook.lose();
        assert!(outlook.is_away());
    }

    #[test]
    fn a_node_with_a_store_of_its_own_is_alone() {
        let outlook = outlook(false);
        outlook.set_nodes(3);
        assert!(outlook.view().is_alone());
    }
}
