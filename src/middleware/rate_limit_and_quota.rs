//! A key's rate limit and quota.
//!
//! Tyk: `mw_rate_limiting.go` (`RateLimitAndQuotaCheck`). Order: behind the access rights; the rate
//! first, so that a request over the rate does not count for the quota.
//! Cost: two atomic cells, found when the session was read; a question to the store where several
//! nodes must agree on a low limit.

use std::borrow::Cow;

use crate::{
    error::Reject,
    exchange::{Client, Ctx, Local, Verdict},
    limit::Taken,
};

/// Refuses with 429 what is over the rate, with 403 what is over the quota. Tells `cx` what
/// `X-RateLimit-*` say.
pub async fn check(local: &Local, client: &Client, cx: &mut Ctx) -> Verdict {
    let Some(access) = cx.access.clone() else {
        return Verdict::Next;
    };
    let limits = &access.pass.limits;
    let clock = local.watch.clock();
    let (mut rate, mut quota) = (limits.rate.as_ref(), limits.quota.as_ref());
    let rare = limits.rare.as_deref();
    let named;
    if let Some(by_request) = rare.and_then(|rare| rare.by_request.as_ref()) {
        let id = access
            .session
            .custom_rate_key(|name| context(local, client, cx, name));
        let (id, generation) = match &id {
            Some(id) => (id.as_str(), ""),
            None => (
                access.key_name.as_str(),
                access.session.last_updated.as_str(),
            ),
        };
        named = by_request.cells(id, generation, &local.limiters.cells);
        (rate, quota) = (named.0.as_ref(), named.1.as_ref());
    }
    if let Some(cell) = rate
        && !local
            .limiters
            .admits(cell, rare.and_then(|rare| rare.throttle), clock)
            .await
    {
        return Verdict::Reject(Reject::RateLimitExceeded);
    }
    cx.quota = limits.told;
    if let Some(cell) = quota {
        let counted = local.limiters.count(cell, clock).await;
        if counted.taken != Taken::Admitted {
            return Verdict::Reject(Reject::QuotaExceeded);
        }
        cx.quota = [limits.told[0], counted.remaining, counted.renews_at_s];
    }
    Verdict::Next
}

/// `$tyk_context.<name>`, as far as it is known before the request is changed.
fn context<'a>(local: &Local, client: &Client, cx: &'a Ctx, name: &str) -> Option<Cow<'a, str>> {
    if let Some(header) = name.strip_prefix("headers_") {
        let is_named = |field: &[u8]| {
            field.len() == header.len()
                && field
                    .iter()
                    .zip(header.as_bytes())
                    .all(|(have, want)| match have {
                        b'-' => *want == b'_',
                        _ => have.eq_ignore_ascii_case(want),
                    })
        };
        let field = cx
            .head
            .fields
            .iter()
            .find(|field| is_named(cx.part(field.name)))?;
        return Some(String::from_utf8_lossy(cx.part(field.value)));
    }
    match name {
        "path" => Some(String::from_utf8_lossy(cx.path())),
        "remote_addr" => {
            let ip = cx.real_ip(client.peer.ip(), &local.settings);
            Some(Cow::Owned(ip.to_string()))
        }
        "token" => Some(Cow::Owned(cx.access.as_ref()?.key_id.clone())),
        _ => None,
    }
}
