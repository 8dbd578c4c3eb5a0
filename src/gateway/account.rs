//! What is counted and recorded of a request once it is over.
//!
//! Tyk: `handler_success.go` (`RecordHit`), `handler_error.go` (`HandleError`).

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use crate::{
    analytics::{Again, ApiRecorder, FieldValues, Hit, Latency, Producer},
    error::Reject,
    event::Origin,
    exchange::{Client, Ctx, Local, Tracking},
    gateway::{detail, serve::Served, snapshot::Mount, trace},
    http::h1::{FieldName, Framing, Method},
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
    if let (Some(recorder), Some(records)) = (&mount.api.recorder, &local.records)
        && !record_again(local, client, recorder, records, cx, served, now_us)
    {
        record(local, client, mount, recorder, records, cx, served, now_us);
    }
}

/// Records what is like the connection's last request but for path and times, as most are. False for
/// anything else.
#[inline(always)]
fn record_again(
    local: &Local,
    client: &Client,
    recorder: &ApiRecorder,
    records: &Producer,
    cx: &Ctx,
    served: Served,
    now_us: u64,
) -> bool {
    let course = &cx.course;
    let answered_us = course.answered_us.get();
    let is_like_most = answered_us > 0
        && matches!(course.tracking, Tracking::Plain)
        && course.target.is_none()
        && course.detail.is_none()
        && course.organisation.expire_after_s.is_none();
    if !is_like_most {
        return false;
    }
    let key = match &cx.access {
        None => None,
        Some(access) => match access.key_runs(recorder) {
            None => return false,
            key => key,
        },
    };
    let again = Passed {
        local,
        client,
        cx,
        status: served.status,
        now_us,
    };
    records.record_again(recorder, key, &cx.record_tail, &again)
}

/// A request that the upstream has answered.
struct Passed<'a> {
    local: &'a Local,
    client: &'a Client,
    cx: &'a Ctx,
    status: u16,
    now_us: u64,
}

impl Again for Passed<'_> {
    #[inline(always)]
    fn method(&self) -> Method {
        self.cx.head.method
    }

    #[inline(always)]
    fn path_and_behind(&self) -> &[u8] {
        self.cx.upstream_path_and_behind().0
    }

    #[inline(always)]
    fn path_bytes(&self) -> usize {
        self.cx.upstream_path_and_behind().1
    }

    #[inline(always)]
    fn content_length(&self) -> i64 {
        match self.cx.head.framing {
            Framing::None => 0,
            _ => content_length(self.cx),
        }
    }

    #[inline(always)]
    fn user_agent(&self) -> &[u8] {
        self.cx.field(FieldName::UserAgent).unwrap_or_default()
    }

    #[inline(always)]
    fn status(&self) -> u16 {
        self.status
    }

    #[inline(always)]
    fn told_ip(&self) -> Option<IpAddr> {
        let ip = || self.cx.real_ip(self.client.peer.ip(), &self.local.settings);
        self.cx.may_tell_ip().then(ip)
    }

    #[inline(always)]
    fn unix_us(&self) -> u64 {
        self.local.watch.clock().unix_us_at(self.now_us)
    }

    #[inline(always)]
    fn total_us(&self) -> u64 {
        self.now_us.saturating_sub(self.cx.course.began_us)
    }

    #[inline(always)]
    fn upstream_us(&self) -> u64 {
        let course = &self.cx.course;
        course.answered_us.get().saturating_sub(course.proxied_us)
    }
}

/// -1 when it was not told.
#[inline(never)]
fn content_length(cx: &Ctx) -> i64 {
    match cx.head.framing {
        Framing::Length(length) => i64::try_from(length).unwrap_or(i64::MAX),
        Framing::Chunked => -1,
        Framing::None | Framing::UntilClose => 0,
    }
}

/// Records a request of any kind.
#[inline(never)]
#[allow(
    clippy::too_many_arguments,
    reason = "what `note` knows, out of its way"
)]
fn record(
    local: &Local,
    client: &Client,
    mount: &Mount,
    recorder: &Arc<ApiRecorder>,
    records: &Producer,
    cx: &Ctx,
    served: Served,
    now_us: u64,
) {
    let course = &cx.course;
    let answered_us = course.answered_us.get();
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
            upstream: ms(answered_us.saturating_sub(course.proxied_us)),
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
        content_length: content_length(cx),
        user_agent: cx.field(FieldName::UserAgent).unwrap_or_default(),
        status: served.status,
        timestamp_ms: local.watch.clock().unix_ms_at(now_us),
        latency,
        ip,
        is_peers_ip: !cx.may_tell_ip(),
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
