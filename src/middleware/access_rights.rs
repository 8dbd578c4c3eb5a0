//! A key opens the APIs and versions that it names.
//!
//! Tyk: `mw_access_rights.go` (`AccessRightsCheck`). Order: behind the expiry check.
//! Cost: one flag, decided when the session was read.

use crate::{
    error::Reject,
    exchange::{Ctx, Verdict},
};

/// Refuses with 403 a key that names other APIs only. A key that names none opens all.
#[must_use]
pub fn check(cx: &Ctx) -> Verdict {
    match &cx.access {
        Some(access) if !access.pass.is_admitted => Verdict::Reject(Reject::AccessDisallowed),
        _ => Verdict::Next,
    }
}
