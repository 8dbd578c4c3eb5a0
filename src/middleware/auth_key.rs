//! Auth token: a request must carry a key that the store knows.
//!
//! Tyk: `mw_auth_key.go` (`AuthKey`), `mw_auth_key.go` `getAuthToken`; keys `auth`,
//! `auth_configs.authToken`, `use_standard_auth`. Order: last of the authentication methods.
//! Cost: one question to the store per request, answered by another thread.

use std::collections::BTreeMap;

use crate::{
    apidef::ApiDefinition,
    auth::token::TokenSource,
    error::Reject,
    exchange::{Ctx, Local, Verdict},
    storage::keys,
};

/// Where the token is and how its session is found.
#[derive(Debug)]
pub struct AuthKey {
    source: TokenSource,
    org_id: String,
    api_id: String,
    /// Tokens that are not longer never match (`min_token_length`).
    length_min: usize,
}

impl AuthKey {
    /// `None` for a keyless API.
    #[must_use]
    pub fn from_spec(api: &ApiDefinition, length_min: usize) -> Option<Self> {
        if api.use_keyless {
            return None;
        }
        Some(Self {
            source: TokenSource::from_config(api.token_auth()),
            org_id: api.org_id.clone(),
            api_id: api.api_id.clone(),
            length_min,
        })
    }

    /// Refuses a missing token with 401 [`Reject::AuthFieldMissing`], an unknown one with 403
    /// [`Reject::KeyNotFound`]. A store that does not answer gives 503 and never passes.
    pub async fn check(&self, local: &Local, cx: &Ctx) -> Verdict {
        let token = self.source.token(&cx.head, &cx.inb);
        let token = strip_bearer(&token);
        if token.is_empty() {
            return Verdict::Reject(Reject::AuthFieldMissing);
        }
        let Ok(token) = std::str::from_utf8(token) else {
            return Verdict::Reject(Reject::KeyNotFound);
        };
        if token.len() <= self.length_min {
            return Verdict::Reject(Reject::KeyNotFound);
        }
        // Tyk: a custom key is stored behind its organisation's id, any other as it is.
        let keys = vec![
            keys::session(&format!("{}{token}", self.org_id)),
            keys::session(token),
        ];
        let found = local.asks.session(keys, local.watch.clock()).await;
        match found {
            Ok(Some(session)) => self.admits(&session, local.watch.clock().unix_s()),
            Ok(None) => Verdict::Reject(Reject::KeyNotFound),
            // Tyk differs: it answers 403, which tells a client to throw its key away.
            Err(_) => Verdict::Reject(Reject::StoreAway),
        }
    }
}

/// What of a session decides whether its key opens an API at all.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Rights {
    is_inactive: bool,
    expires: i64,
    access_rights: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

impl AuthKey {
    /// A key opens the APIs it names, all when it names none; not when it is inactive or expired.
    fn admits(&self, session: &[u8], now_s: u64) -> Verdict {
        let Ok(rights) = serde_json::from_slice::<Rights>(session) else {
            return Verdict::Reject(Reject::KeyNotFound);
        };
        if rights.is_inactive {
            return Verdict::Reject(Reject::KeyInactive);
        }
        let expires = u64::try_from(rights.expires).unwrap_or(0);
        if expires > 0 && expires <= now_s {
            return Verdict::Reject(Reject::KeyExpired);
        }
        let named = rights.access_rights.unwrap_or_default();
        if named.is_empty() || named.contains_key(&self.api_id) {
            Verdict::Next
        } else {
            Verdict::Reject(Reject::AccessDisallowed)
        }
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
