//! A request's spans: begun when its API is known, told when it is over.
//!
//! An API without a tracer, or whose steps nobody times, costs a comparison for each of the two.
//!
//! Tyk: `gateway/middleware.go` (`TraceMiddleware`), `gateway/reverse_proxy.go` (`RoundTrip`).

use crate::{
    exchange::{Client, Course, Ctx, Local, Verdict},
    gateway::{
        serve::Served,
        snapshot::Mount,
        spec::{Api, Destination},
    },
    http::h1::{FieldName, Framing},
    net::{io::Stream, watch::process_us},
    telemetry::{Facts, Step, UpstreamCall},
};

/// Finds the request's place in its trace. Whether or not its spans are kept, the upstream and the
/// client are told.
pub fn begin(local: &Local, cx: &mut Ctx) {
    let Some(tracer) = &local.tracer else {
        return;
    };
    let parent = tracer.tracing().propagation.extract(|name| {
        let mut unknown = cx.head.fields.iter();
        let field = unknown.find(|field| {
            field.id == FieldName::Other
                && cx.part(field.name).eq_ignore_ascii_case(name.as_bytes())
        });
        field.map(|field| cx.part(field.value))
    });
    let trace = tracer.begin(tracer.wall_ns(cx.course.began_us), parent);
    trace.write_id_field(&mut cx.answer_fields);
    cx.course.is_recorded |= trace.is_sampled();
    cx.trace = Some(trace);
}

/// A step of the chain begins.
pub fn step_begins(cx: &mut Ctx, name: &'static str) {
    let began_us = since(&cx.course, process_us());
    cx.steps.push(Step {
        name,
        began_us,
        took_us: 0,
        has_failed: false,
    });
}

/// The step that began last has decided.
pub fn step_ends(cx: &mut Ctx, verdict: &Verdict) {
    let now_us = since(&cx.course, process_us());
    if let Some(step) = cx.steps.last_mut() {
        step.took_us = now_us.saturating_sub(step.began_us);
        step.has_failed = matches!(verdict, Verdict::Reject(_));
    }
}

/// The content that the step under way needs could not be read, or is not what it must be.
pub fn step_breaks(cx: &mut Ctx) {
    let now_us = since(&cx.course, process_us());
    if let Some(step) = cx.steps.last_mut() {
        step.took_us = now_us.saturating_sub(step.began_us);
        step.has_failed = true;
    }
}

/// Counts the steps that were timed, and leaves what the spans are made of. To be called at the end
/// of a request that has a trace or steps.
pub fn end(local: &Local, client: &Client, mount: &Mount, cx: &Ctx, served: Served, now_us: u64) {
    if local.settings.times_steps {
        for step in &cx.steps {
            let steps = &local.metrics.steps;
            steps.took(step.name, step.took_us.into());
        }
    }
    let (Some(tracer), Some(api), Some(trace)) = (&local.tracer, &mount.api.tracer, &cx.trace)
    else {
        return;
    };
    if !trace.is_sampled() {
        return;
    }
    let course = &cx.course;
    let is_answered = course.answered_us.get() > 0;
    let upstream_status = if is_answered { cx.answer.status } else { 0 };
    let error = match (&course.message, course.reject) {
        (Some(message), _) => message,
        (None, Some(reject)) => reject.parts().2,
        (None, None) if served.is_cut() => "the exchange was cut off",
        (None, None) => course.refused,
    };
    let facts = Facts {
        took_us: since(course, now_us),
        method: cx.part(cx.head.method_span),
        path: cx.head.path_bytes(&cx.inb),
        host: cx.head.host.map(|host| cx.part(host)).unwrap_or_default(),
        user_agent: cx.field(FieldName::UserAgent).unwrap_or_default(),
        ip: cx.real_ip(client.peer.ip(), &local.settings),
        is_tls: matches!(client.stream, Stream::Tls(_)),
        status: match (served.is_cut(), upstream_status) {
            (false, _) => served.status,
            (true, 0) => 499,
            (true, status) => status,
        },
        request_bytes: match cx.head.framing {
            Framing::Length(length) => i64::try_from(length).unwrap_or(i64::MAX),
            Framing::Chunked => -1,
            Framing::None | Framing::UntilClose => 0,
        },
        response_bytes: course.content_bytes.get(),
        version: b"",
        identity: cx.access.as_ref().map(|access| &access.identity),
        error,
        upstream: (course.proxied_us > 0)
            .then(|| upstream_call(&mount.api, cx, upstream_status, now_us)),
        steps: match api.has_steps() {
            true => &cx.steps,
            false => &[],
        },
    };
    tracer.end(api, trace, &facts);
}

fn upstream_call<'a>(api: &'a Api, cx: &'a Ctx, status: u16, now_us: u64) -> UpstreamCall<'a> {
    let course = &cx.course;
    let first = match &api.upstream {
        Destination::Upstream(upstream) => upstream.targets().first(),
        Destination::Invalid => None,
    };
    let first_authority = first.map_or(&b""[..], |target| &target.authority);
    UpstreamCall {
        began_us: since(course, course.proxied_us),
        took_us: u32::try_from(now_us.saturating_sub(course.proxied_us)).unwrap_or(u32::MAX),
        status,
        authority: course.target.as_deref().unwrap_or(first_authority),
        path: cx.upstream_path(),
        is_tls: first.is_some_and(|target| target.tls.is_some()),
    }
}

/// Microseconds from the begin of a request until `at_us`.
fn since(course: &Course, at_us: u64) -> u32 {
    u32::try_from(at_us.saturating_sub(course.began_us)).unwrap_or(u32::MAX)
}
