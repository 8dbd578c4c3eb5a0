//! Auth token: a request must carry a key that the store knows.
//!
//! Tyk: `mw_auth_key.go` (`AuthKey`), `middleware.go` (`getAuthToken`); keys `auth`,
//! `auth_configs.authToken`, `use_standard_auth`. Order: last of the authentication methods.
//! Cost: a look at the shard's sessions; a question to the store for a key that is not there.

use std::sync::Arc;

use crate::{
    apidef::ApiDefinition,
    auth::{access::Scope, token::TokenSource},
    config::{Config, WhenStoreIsAway},
    error::Reject,
    exchange::{Ctx, Local, Verdict},
};

/// Where the token is and how its session is found.
#[derive(Debug)]
pub struct AuthKey {
    source: TokenSource,
    scope: Arc<Scope>,
    /// Tokens that are not longer never match (`min_token_length`).
    length_min: usize,
    when_store_is_away: WhenStoreIsAway,
}

impl AuthKey {
    /// `None` for a keyless API.
    #[must_use]
    pub fn from_spec(api: &ApiDefinition, config: &Config) -> Option<Self> {
        if api.use_keyless {
            return None;
        }
        Some(Self {
            source: TokenSource::from_config(api.token_auth()),
            scope: Arc::new(Scope::of_api(api)),
            length_min: config.min_token_length_or_default(),
            when_store_is_away: config.penstock.when_store_is_away(&api.api_id),
        })
    }

    /// Puts the session of the request's key into `cx`. Refuses a missing token with 401
    /// [`Reject::AuthFieldMissing`], an unknown one with 403 [`Reject::KeyNotFound`]. A store that
    /// does not answer gives 503, unless `penstock.when_store_is_away` says otherwise for this API.
    pub async fn check(&self, local: &Local, cx: &mut Ctx) -> Verdict {
        let token = self.source.token(&cx.head, &cx.inb);
        let token = strip_bearer(&token);
        if token.is_empty() {
            return Verdict::Reject(Reject::AuthFieldMissing);
        }
        let clock = local.watch.clock();
        if let Some(held) = local.sessions.at_hand(&self.scope, token, clock.now_ms()) {
            local.metrics.session_hits.count();
            cx.access = Some(held);
            return Verdict::Next;
        }
        let Ok(token) = std::str::from_utf8(token) else {
            return Verdict::Reject(Reject::KeyNotFound);
        };
        if token.len() <= self.length_min {
            return Verdict::Reject(Reject::KeyNotFound);
        }
        local.metrics.session_misses.count();
        let asked_us = cx.store_asked_us();
        let sessions = &local.sessions;
        let found = sessions.find(&self.scope, token, asked_us, clock).await;
        let left_over = match (&found, self.when_store_is_away) {
            (Err(_), WhenStoreIsAway::Stale) => {
                local.sessions.left_over(&self.scope, token.as_bytes())
            }
            _ => None,
        };
        match found {
            Ok(Some(held)) => cx.access = Some(held),
            Ok(None) => return Verdict::Reject(Reject::KeyNotFound),
            Err(_) if left_over.is_some() => cx.access = left_over,
            Err(_) if self.when_store_is_away == WhenStoreIsAway::FailOpen => cx.is_let_in = true,
            // Tyk differs: it answers 403, which tells a client to throw its key away.
            Err(_) => return Verdict::Reject(Reject::StoreAway),
        }
        Verdict::Next
    }
}

/// Removes `Bearer ` in any case (Tyk: `stripBearer`).
fn strip_bearer(token: &[u8]) -> &[u8] {
    match token.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest,
        _ => token,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_is_removed_in_any_case() {
        for (token, bare) in [
            ("Bearer abc", "abc"),
            ("bEARER abc", "abc"),
            ("Bearerabc", "Bearerabc"),
            ("bearer", "bearer"),
            ("Bearer ", ""),
            ("", ""),
        ] {
            assert_eq!(strip_bearer(token.as_bytes()), bare.as_bytes());
        }
    }
}
