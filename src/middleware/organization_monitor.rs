//! `enforce_org_quotas`: the limits of an organisation over all its APIs.
//!
//! Tyk: `mw_organisation_activity.go` (`OrganizationMonitor`). Order: before authentication.
//! Cost: a look at the shard's sessions and two atomic cells.

use std::sync::Arc;

use crate::{
    apidef::ApiDefinition,
    auth::access::Scope,
    config::Config,
    error::Reject,
    exchange::{Ctx, Local, Verdict},
    limit::Taken,
};

/// The organisation of an API.
#[derive(Debug)]
pub struct OrganizationMonitor {
    scope: Arc<Scope>,
}

impl OrganizationMonitor {
    /// `None` unless organisations are limited and the API has one.
    #[must_use]
    pub fn from_spec(api: &ApiDefinition, config: &Config) -> Option<Self> {
        let is_on = config.enforce_org_quotas && !api.org_id.is_empty();
        is_on.then(|| Self {
            scope: Arc::new(Scope::of_organisation(&api.org_id)),
        })
    }

    /// Refuses with 403 what an inactive organisation, its rate or its quota forbids. An organisation
    /// without a session, or a store that is away, forbids nothing.
    // Tyk differs: with `experimental_process_org_off_thread` it decides for the next request.
    pub async fn check(&self, local: &Local, cx: &mut Ctx) -> Verdict {
        let clock = local.watch.clock();
        let id = &self.scope.org_id;
        let sessions = &local.sessions;
        let access = match sessions.at_hand(&self.scope, id.as_bytes(), clock.now_ms()) {
            Some(held) => held,
            None if sessions.is_absent(&self.scope, clock.now_ms()) => return Verdict::Next,
            None => {
                let asked_us = cx.store_asked_us();
                match sessions.find(&self.scope, id, asked_us, clock).await {
                    Ok(Some(held)) => held,
                    Ok(None) => return Verdict::Next,
                    // The key is not waited for once more.
                    Err(_) => {
                        cx.store_asked_us = Some(asked_us);
                        return Verdict::Next;
                    }
                }
            }
        };
        if access.pass.is_inactive {
            return Verdict::Reject(Reject::OrganisationInactive);
        }
        if let Some(cell) = &access.pass.limits.rate
            && !local.limiters.admits(cell, None, clock).await
        {
            return Verdict::Reject(Reject::OrganisationRateLimitExceeded);
        }
        if let Some(cell) = &access.pass.limits.quota
            && local.limiters.count(cell, clock).await.taken != Taken::Admitted
        {
            return Verdict::Reject(Reject::OrganisationQuotaExceeded);
        }
        Verdict::Next
    }
}
