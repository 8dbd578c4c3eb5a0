//! What an organisation says about its records: how long they are kept, and whether whole requests
//! are.
//!
//! Tyk: `middleware.go` (`OrgSessionExpiry`), `handler_success.go` (`recordDetail`); keys
//! `enforce_org_data_age`, `enforce_org_data_detail_logging`. Order: first, so that every refusal
//! is recorded so.
//! Cost when absent: none (no step). When present: a look at the shard's sessions.

use std::sync::Arc;

use crate::{
    apidef::ApiDefinition,
    auth::access::Scope,
    config::Config,
    exchange::{Ctx, Local, OfOrganisation},
};

/// Records of an organisation without a session are kept so long (Tyk: seven days).
const UNKNOWN_EXPIRE_S: i64 = 604_800;

/// The organisation of an API whose records it has a say in.
#[derive(Debug)]
pub struct OrganizationRecords {
    scope: Arc<Scope>,
    /// `enforce_org_data_age`
    ages: bool,
    /// `enforce_org_data_detail_logging`
    details: bool,
}

impl OrganizationRecords {
    /// `None` unless organisations are asked and the API is recorded.
    #[must_use]
    pub fn from_spec(api: &ApiDefinition, config: &Config) -> Option<Self> {
        let (ages, details) = (
            config.enforce_org_data_age,
            config.enforce_org_data_detail_logging,
        );
        let is_on = config.enable_analytics && !api.do_not_track && (ages || details);
        is_on.then(|| Self {
            scope: Arc::new(Scope::of_organisation(&api.org_id)),
            ages,
            details,
        })
    }

    /// Notes it for the request's record. A store that is away knows of no organisation.
    pub async fn apply(&self, local: &Local, cx: &mut Ctx) {
        let clock = local.watch.clock();
        let id = &self.scope.org_id;
        let sessions = &local.sessions;
        let access = match sessions.at_hand(&self.scope, id.as_bytes(), clock.now_ms()) {
            Some(held) => Some(held),
            None if id.is_empty() || sessions.is_absent(&self.scope, clock.now_ms()) => None,
            None => {
                let asked_us = cx.store_asked_us();
                match sessions.find(&self.scope, id, asked_us, clock).await {
                    Ok(found) => found,
                    // The key is not waited for once more.
                    Err(_) => {
                        cx.store_asked_us = Some(asked_us);
                        None
                    }
                }
            }
        };
        let session = access.as_ref().map(|access| &access.session);
        cx.course.organisation = OfOrganisation {
            expire_after_s: match session {
                _ if !self.ages => None,
                // One that sets no time leaves it to the API.
                Some(session) => Some(session.data_expires).filter(|expires_s| *expires_s > 0),
                None => Some(UNKNOWN_EXPIRE_S),
            },
            is_detailed: session
                .filter(|_| self.details)
                .map(|session| session.is_recorded_in_detail()),
        };
    }
}
