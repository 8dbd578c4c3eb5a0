//! A key that is inactive or whose time is over opens nothing.
//!
//! Tyk: `mw_key_expired_check.go` (`KeyExpired`). Order: behind authentication.
//! Cost: two comparisons.

use crate::{
    error::Reject,
    exchange::{Ctx, Local, Verdict},
};

/// Refuses an inactive key with 403, one whose time is over with 401, and a request that no
/// authentication gave a session with 400.
#[must_use]
pub fn check(local: &Local, cx: &Ctx) -> Verdict {
    let Some(access) = &cx.access else {
        return if cx.is_let_in {
            Verdict::Next
        } else {
            Verdict::Reject(Reject::SessionMissing)
        };
    };
    if access.pass.is_inactive {
        return Verdict::Reject(Reject::KeyInactive);
    }
    if access.pass.is_expired(local.watch.clock().unix_s()) {
        return Verdict::Reject(Reject::KeyExpired);
    }
    Verdict::Next
}
