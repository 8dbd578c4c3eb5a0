//! Auth token: a request must carry a key that the store knows.
//!
//! Tyk: `mw_auth_key.go` (`AuthKey`), `mw_auth_key.go` `getAuthToken`; keys `auth`,
//! `auth_configs.authToken`, `use_standard_auth`. Order: last of the authentication methods.
//! Cost: one question to the store per request, answered by another thread.

use crate::{
    apidef::{ApiDefinition, AuthConfig},
    auth::token::TokenSource,
    error::Reject,
    exchange::{Ctx, Local, Verdict},
};

/// Where the token is and how its session is found.
#[derive(Debug)]
pub struct AuthKey {
    source: TokenSource,
    org_id: String,
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
        let config: &AuthConfig = api.auth_configs.get("authToken").unwrap_or(&api.auth);
        Some(Self {
            source: TokenSource::from_config(config),
            org_id: api.org_id.clone(),
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
        let of_org = format!("{}{token}", self.org_id);
        let clock = local.watch.clock();
        let mut found = local.asks.session(of_org, clock).await;
        if let Ok(None) = found {
            found = local.asks.session(token.to_owned(), clock).await;
        }
        match found {
            Ok(Some(_)) => Verdict::Next,
            Ok(None) => Verdict::Reject(Reject::KeyNotFound),
            // Tyk differs: it answers 403, which tells a client to throw its key away.
            Err(_) => Verdict::Reject(Reject::StoreAway),
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
