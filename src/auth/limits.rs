//! The limits of one session at one API, found when the session is read.
//!
//! Tyk: `session_manager.go` (`ForwardMessage`), `mw_rate_limiting.go`.

use std::{fmt, sync::Arc};

use crate::{
    auth::access::{Kind, Scope},
    limit::{Cells, QuotaCell, QuotaLimit, RateCell, RateLimit, SmoothingRule, Throttle},
    session::{ApiLimit, Session, quota_key, rate_limit_key},
};

/// What a request with this session has to pass. Small: every shard has its own copy.
#[derive(Clone, Default)]
pub struct Limits {
    pub rate: Option<Arc<RateCell>>,
    pub quota: Option<Arc<QuotaCell>>,
    /// What few sessions have.
    pub rare: Option<Arc<Rare>>,
    /// `quota_max`, `quota_remaining` and `quota_renews` as stored: what clients are told where no
    /// quota counts.
    pub told: [i64; 3],
}

/// Parts of [`Limits`] that few sessions have.
#[derive(Debug)]
pub struct Rare {
    pub throttle: Option<Throttle>,
    /// The counters are named by the request (`rate_limit_pattern` with `$tyk_context`): cells are
    /// found for each.
    pub by_request: Option<ByRequest>,
}

/// Limits whose counters are named by each request.
#[derive(Debug)]
pub struct ByRequest {
    limit: ApiLimit,
    scope_name: String,
    limits_rate: bool,
    limits_quota: bool,
}

impl Limits {
    /// The limits that `scope` puts on a session with this name in the store.
    #[must_use]
    pub fn of(session: &Session, scope: &Scope, key_name: &str, cells: &Cells) -> Self {
        let (limit, scope_name) = match scope.kind {
            Kind::Key => match session.limit_for(&scope.api_id) {
                Some(allowance) => (allowance.limit, allowance.scope.to_owned()),
                // No right to this API: access rights refuse before any limit counts.
                None => return Self::default(),
            },
            Kind::Organisation => (session.root_limit(), String::new()),
        };
        let found = ByRequest {
            limit,
            scope_name,
            limits_rate: scope.limits_rate,
            limits_quota: scope.limits_quota,
        };
        let told = [limit.quota_max, limit.quota_remaining, limit.quota_renews];
        let throttle = Throttle::new(limit.throttle_interval, limit.throttle_retry_limit);
        let by_request = session
            .rate_limit_pattern()
            .is_some_and(|pattern| pattern.contains("$tyk_context"));
        if by_request {
            let rare = Rare {
                throttle,
                by_request: Some(found),
            };
            return Self {
                rare: Some(Arc::new(rare)),
                told,
                ..Self::default()
            };
        }
        // One that names the counters without the request: keys share them.
        let custom = session.custom_rate_key(|_| None);
        let generation = match &custom {
            // Tyk: a bucket of its own has no suffix.
            Some(_) => "",
            None => &*format!("@{}", session.last_updated),
        };
        let id = custom.as_deref().unwrap_or(key_name);
        let (rate, quota) = found.cells(id, generation, cells);
        let rare = throttle.map(|throttle| Rare {
            throttle: Some(throttle),
            by_request: None,
        });
        Self {
            rate,
            quota,
            rare: rare.map(Arc::new),
            told,
        }
    }

    /// Whether there was no room for a limiter of its own when they were found.
    #[must_use]
    pub fn are_makeshift(&self) -> bool {
        let rate = self.rate.as_ref();
        rate.is_some_and(|rate| rate.is_shared_by_strangers())
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("rate", &self.rate.as_ref().map(|cell| cell.name()))
            .field("quota", &self.quota.as_ref().map(|cell| cell.name()))
            .field("rare", &self.rare)
            .field("told", &self.told)
            .finish()
    }
}

impl ByRequest {
    /// The cells of the counters with this id. `generation`: see [`Cells::rate`].
    #[must_use]
    pub fn cells(
        &self,
        id: &str,
        generation: &str,
        cells: &Cells,
    ) -> (Option<Arc<RateCell>>, Option<Arc<QuotaCell>>) {
        let limit = &self.limit;
        let rate = self.limits_rate.then(|| {
            let limit = RateLimit {
                rate: limit.rate,
                per: limit.per,
                smoothing: limit
                    .smoothing
                    .as_ref()
                    .and_then(SmoothingRule::from_session),
            };
            cells.rate(&rate_limit_key(&self.scope_name, id), generation, &limit)
        });
        let quota = self.limits_quota.then(|| {
            let limit = QuotaLimit {
                max: limit.quota_max,
                renewal_s: limit.quota_renewal_rate,
                renews_at_s: limit.quota_renews,
            };
            cells.quota(&quota_key(&self.scope_name, id), &limit)
        });
        (rate.flatten(), quota.flatten())
    }
}
