//! `allowed_urls`: the paths and methods that a key opens at an API.
//!
//! Tyk: `mw_granular_access.go` (`GranularAccessMiddleware`). Order: behind the access rights.
//! Cost without entries: one comparison; else a search of the path per entry with the method.

use crate::{
    error::Reject,
    exchange::{Ctx, Verdict},
};

/// Refuses with 403 what no entry names. Expressions are searched in the whole inbound path.
#[must_use]
pub fn check(cx: &Ctx) -> Verdict {
    match &cx.access {
        Some(access)
            if !access.pass.opens_every_path
                && !access.allows(cx.part(cx.head.method_span), cx.path()) =>
        {
            Verdict::Reject(Reject::ResourceDisallowed)
        }
        _ => Verdict::Next,
    }
}
