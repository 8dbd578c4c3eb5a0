//! What is counted and recorded of a request once it is over.
//!
//! Tyk: `handler_success.go` (`RecordHit`), `handler_error.go` (`HandleError`).

use std::borrow::Cow;

use crate::{
    analytics::{FieldValues, Hit, Latency},
    error::Reject,
    event::Origin,
    exchange::{Client, Ctx, Local, Tracking},
    gateway::{detail, serve::Served, snapshot::Mount, trace},
    http::h1::{FieldName, Framing},
    metrics::Refusal,
    net::watch::process_us,
};

/// Counts a request of an API, and records it where that is wanted.
pub fn note(local: &Local, client: &Client, mount: &Mount, cx: &Ctx, served: Served) {
    let course = &cx.course;
    let answered_us = course.answered_us.get();
    let upstream_us = (answered_us > 0).then(|| answered_us.saturating_sub(course.proxied_us));
    let now_us = match (course.is_recorded, course.proxied_us) {
        (false, proxied_us) if proxied_us > 0 => proxied_us,
        // The clock was read a moment ago, and records go by milliseconds.
        (true, _) if course.is_answered_whole.get() => answered_us,
        _ => process_us(),
    };
    let until_us = match course.proxied_us {
        0 => now_us,
        proxied_us => proxied_us,
    };
    let gateway_us = until_us.saturating_sub(course.began_us);
    local.metrics.took(gateway_us, upstream_us);
    if let Some(counters) = mount.api.counters.shard(local.index) {
        counters.response(served.status);
        counters.took(gateway_us, upstream_us.unwrap_or(0));
        if !course.refused.is_empty() {
            counters.refusal(kind_of(course.reject));
        }
    }
    if mount.api.times_steps || cx.trace.is_some() {
        trace::end(local, client, mount, cx, served, now_us);
    }
    if let Some(events) = &mount.api.events
        && !course.refused.is_empty()
    {
        events.refused(course.refused, || Origin {
            key: cx
                .access
                .as_ref()
                .map_or("", |access| &access.key_id)
                .to_owned(),
            ip: cx.real_ip(client.peer.ip(), &local.settings),
            path: String::from_utf8_lossy(cx.path()).into_owned(),
        });
    }
    if let (Some(recorder), Some(records)) = (&mount.api.recorder, &local.records) {
        let tracked_path = match &course.tracking {
            Tracking::Plain => None,
            Tracking::Pattern(pattern) => Some(&**pattern),
            Tracking::Off => return,
        };
        let ip = cx.real_ip(client.peer.ip(), &local.settings);
        if served.is_cut() || recorder.ignores(&ip) {
            return;
        }
        let texts = course.detail.as_ref().map(|kept| detail::texts(cx, kept));
        let (raw_request, raw_response) = texts.unwrap_or_default();
        let is_proxied = answered_us > 0;
        let path = if is_proxied {
            Cow::Borrowed(cx.upstream_path())
        } else if mount.api.strip {
            mount.listen_path.strip(cx.path())
        } else {
            Cow::Borrowed(cx.path())
        };
        let latency = if is_proxied {
            let ms = |us: u64| u32::try_from(us / 1_000).unwrap_or(u32::MAX);
            Latency {
                total: ms(now_us.saturating_sub(course.began_us)),
                upstream: ms(upstream_us.unwrap_or(0)),
            }
        } else {
            // As in Tyk: what the gateway answers itself has none.
            Latency::default()
        };
        let hit = Hit {
            method: cx.part(cx.head.method_span),
            host: course.target.as_deref().filter(|_| is_proxied),
            path: &path,
            tracked_path,
            content_length: match cx.head.framing {
                Framing::Length(length) => i64::try_from(length).unwrap_or(i64::MAX),
                Framing::Chunked => -1,
                Framing::None | Framing::UntilClose => 0,
            },
            user_agent: cx.field(FieldName::UserAgent).unwrap_or_default(),
            status: served.status,
            timestamp_ms: local.watch.clock().unix_ms_at(now_us),
            latency,
            ip,
            version: b"",
            identity: cx.access.as_ref().map(|access| &access.identity),
            key: cx
                .access
                .as_ref()
                .and_then(|access| access.key_runs(recorder)),
            tail: Some(&cx.record_tail),
            fields: &Fields(cx),
            is_cached: false,
            expire_after_s: course.organisation.expire_after_s,
            raw_request: &raw_request,
            raw_response: &raw_response,
        };
        records.record(recorder, &hit);
    }
}

/// What `/tyk/health` and `/metrics` tell apart. As in Tyk, an address that is not let in counts as
/// a failure of the key, and a missing key does not.
fn kind_of(reject: Option<Reject>) -> Refusal {
    match reject {
        Some(Reject::RateLimitExceeded | Reject::ApiRateLimitExceeded) => Refusal::Rate,
        Some(Reject::QuotaExceeded) => Refusal::Quota,
        Some(
            Reject::KeyNotFound | Reject::KeyInactive | Reject::KeyExpired | Reject::IpNotAllowed,
        ) => Refusal::Key,
        _ => Refusal::Other,
    }
}

/// A request's fields, for tags.
struct Fields<'a>(&'a Ctx);

impl FieldValues for Fields<'_> {
    fn each(&self, name: &str, found: &mut dyn FnMut(&[u8])) {
        for field in &self.0.head.fields {
            let is_named = self
                .0
                .part(field.name)
                .eq_ignore_ascii_case(name.as_bytes());
            if is_named {
                found(self.0.part(field.value));
            }
        }
    }
}
