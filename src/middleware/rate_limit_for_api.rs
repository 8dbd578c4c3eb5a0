//! `global_rate_limit`: what all clients of an API share.
//!
//! Tyk: `mw_api_rate_limit.go` (`RateLimitForAPI`). Order: behind the key's own limits; also for
//! keyless APIs. Cost: one atomic cell.

use std::sync::Arc;

use crate::{
    apidef::ApiDefinition,
    error::Reject,
    exchange::{Local, Verdict},
    hash::KeyNaming,
    limit::{Cells, RateCell, RateLimit, api_limiter_id},
    session::rate_limit_key,
};

/// The API's limiter.
pub struct RateLimitForApi {
    cell: Arc<RateCell>,
}

impl RateLimitForApi {
    /// `None` when nothing limits the API.
    #[must_use]
    pub fn from_spec(api: &ApiDefinition, naming: &KeyNaming, cells: &Cells) -> Option<Self> {
        let limit = &api.global_rate_limit;
        if api.disable_rate_limit || limit.disabled {
            return None;
        }
        let limit = RateLimit {
            rate: limit.rate,
            per: limit.per,
            smoothing: None,
        };
        let id = api_limiter_id(&api.org_id, &api.api_id);
        let name = rate_limit_key("", &naming.name(&id));
        let cell = cells.rate(&name, "api", &limit)?;
        Some(Self { cell })
    }

    /// Refuses with 429 what is over the API's rate.
    pub async fn check(&self, local: &Local) -> Verdict {
        let clock = local.watch.clock();
        if local.limiters.admits(&self.cell, None, clock).await {
            Verdict::Next
        } else {
            Verdict::Reject(Reject::ApiRateLimitExceeded)
        }
    }
}
