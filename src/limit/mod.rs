//! Rate limits and quotas.
//!
//! ```text
//!   session / grant ──Arc──> RateCell, QuotaCell      one per limiter key and node ([`Cells`])
//!        │ take(now_ms)          │ refills (fire and forget)
//!        ▼                       ▼
//!   Admitted | Denied | Ask ──> [`Reconciler`] ──one pipelined question──> Redis, or the embedded store
//! ```
//!
//! A cell decides with plain atomics, exactly across all shards of the node. Only where several
//! nodes must agree on a limit that is too low for leases, or where the configuration selects one
//! of Tyk's own algorithms, does it say [`Taken::Ask`]: the request then awaits one answer of the
//! [`Reconciler`], and [`RateCell::fallback`] decides when none comes. `docs/limits.md` states what
//! each way guarantees.
//!
//! Times are milliseconds of one monotonic clock for the whole process, so that a wall clock that
//! is set neither opens a window nor keeps one shut.
//!
//! Tyk: `gateway/session_manager.go`, `internal/rate/`, `gateway/distributed_rate_limiter.go`.

mod cells;
mod fleet;
mod lease;
mod memory_log;
mod names;
mod outlook;
mod pace;
mod quota;
mod rate;
mod reconciler;
mod round;
mod scripts;
mod smoothing;
mod throttle;
mod window;

use crate::config::Config;

pub use cells::{Cells, QuotaLimit, RateLimit};
pub use fleet::Fleet;
pub use names::api_limiter_id;
pub use outlook::{ASK_MAX_MS, Outlook};
pub use quota::{QuotaCell, QuotaTaken};
pub use rate::{Mark, RateCell};
pub use reconciler::{Answer, Question, Reconciler, StoreSource, Work, release, take_unsettled};
pub use round::{Batch, Round};
pub use smoothing::{Smoothed, SmoothingRule};
pub use throttle::{Throttle, Throttled};

/// What a cell says to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Admitted,
    /// Nothing is admitted before then, as far as this node knows.
    Denied {
        retry_at_ms: u64,
    },
    /// Only the [`Reconciler`] can tell; without an answer in time, the cell's `fallback`.
    Ask,
}

/// Which of Tyk's limiters the configuration selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Windows in memory on one node; leases, or the exact log, between several.
    #[default]
    Default,
    /// `enable_fixed_window_rate_limiter`.
    FixedWindow,
    /// `enable_sentinel_rate_limiter`.
    Sentinel,
    /// `enable_redis_rolling_limiter`.
    RollingLog,
}

/// What all cells of a node share and what never changes while it runs.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub algorithm: Algorithm,
    /// Other nodes may use the same store.
    pub is_shared: bool,
    /// `enable_rate_limit_smoothing`.
    pub is_smoothing: bool,
    /// `drl_enable_sentinel_rate_limiter`: the rolling log refuses one request earlier and marks it.
    pub is_drl_sentinel: bool,
    /// How long the store may take to answer; `None`: as long as the algorithm allows.
    pub deadline_ms: Option<u64>,
    /// Cells of each kind; limiters beyond share cells (`docs/limits.md`, "Bounds").
    pub cells_max: usize,
    /// Nanoseconds since 1970. Only names of windows and times that clients see come from it.
    pub wall_ns: fn() -> i64,
}

impl Settings {
    /// Reads the limiter's keys of `tyk.conf`; `is_shared` says whether the store is Redis.
    #[must_use]
    pub fn from_config(config: &Config, is_shared: bool) -> Self {
        // Order as in Tyk (`SessionLimiter.ForwardMessage`).
        let algorithm = if config.enable_fixed_window_rate_limiter {
            Algorithm::FixedWindow
        } else if config.enable_sentinel_rate_limiter {
            Algorithm::Sentinel
        } else if config.enable_redis_rolling_limiter {
            Algorithm::RollingLog
        } else {
            Algorithm::Default
        };
        Self {
            algorithm,
            is_shared,
            is_smoothing: config.enable_rate_limit_smoothing,
            is_drl_sentinel: config.drl_enable_sentinel_rate_limiter,
            ..Self::default()
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Default,
            is_shared: false,
            is_smoothing: false,
            is_drl_sentinel: false,
            deadline_ms: None,
            cells_max: CELLS_MAX,
            wall_ns,
        }
    }
}

/// A million sessions with a limit of their own, and as many to spare.
const CELLS_MAX: usize = 2_000_000;

#[allow(
    clippy::disallowed_methods,
    reason = "read once per round trip, on tokio's side"
)]
fn wall_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |span| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
