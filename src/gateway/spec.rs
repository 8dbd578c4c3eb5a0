//! A definition compiled: only what a request reads.

use std::{path::PathBuf, sync::Arc};

use crate::{
    analytics::ApiRecorder,
    apidef::ApiDefinition,
    gateway::{chain::Chain, listen_path::ListenPath},
    metrics::ApiCounters,
    middleware::hard_timeouts::HardTimeouts,
    telemetry::ApiTracer,
    upstream::target::Upstream,
};

/// One API, ready to serve.
pub struct Api {
    /// As written; the REST API shows it.
    pub definition: Arc<ApiDefinition>,
    /// Where it was read from.
    pub file: PathBuf,
    pub listen_path: ListenPath,
    /// The listen path is taken off before the target's path goes on.
    pub strip: bool,
    pub chain: Chain,
    pub upstream: Destination,
    pub hard_timeouts: Option<HardTimeouts>,
    pub counters: Arc<ApiCounters>,
    /// `None` where no records are written.
    pub recorder: Option<Arc<ApiRecorder>>,
    /// `None` while OpenTelemetry is off.
    pub tracer: Option<Arc<ApiTracer>>,
    /// Somebody wants to know how long each step takes.
    pub times_steps: bool,
    /// Where clients read their limits; `None` for a keyless API.
    pub rate_limits: Option<RateLimitsPaths>,
}

/// The paths of `tyk/rate-limits/`: below the listen path, and below `/<api_id>/`.
pub type RateLimitsPaths = [Box<[u8]>; 2];

/// Where requests go that passed the chain.
pub enum Destination {
    Upstream(Upstream),
    /// The target names no protocol that can be spoken: every request fails as in Tyk.
    Invalid,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("api_id", &self.definition.api_id)
            .finish_non_exhaustive()
    }
}
