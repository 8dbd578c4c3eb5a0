//! The life of a request: route → chain → upstream → answer. The one place that owns the sequence.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use crate::{
    error::Reject,
    exchange::{
        Client, Ctx, Local, Reply, Verdict,
        body::{BodyFault, Incoming},
    },
    gateway::{
        account,
        chain::Step,
        detail,
        router::RouteKind,
        snapshot::{ErrorResponses, Mount, PortKey, Published, Slot, Snapshot},
        spec::Destination,
        trace,
    },
    http::{
        h1::{Expect, FieldName, Framing, Method},
        uri,
    },
    middleware::{access_rights, granular_access, key_expired, rate_limit_and_quota},
    net::{
        io::Transport,
        watch::{AtDeadline, process_us},
    },
    upstream::{
        head,
        pool::Pools,
        serve::{self, Fault},
        target::encoded_path,
    },
};

/// What a shard serves with.
pub struct Worker {
    pub local: Rc<Local>,
    pub pools: Pools,
    published: Arc<Published>,
    #[allow(
        clippy::redundant_allocation,
        reason = "requests count on the shard's own counter, not on one that all shards write"
    )]
    view: RefCell<Rc<Arc<Snapshot>>>,
    epoch: Cell<u64>,
}

/// How a request left its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    pub status: u16,
    pub keep_alive: bool,
    /// The client may have sent more: the close must let it read the answer first.
    pub linger: bool,
}

impl Served {
    /// The answer ends in the middle.
    #[must_use]
    pub const fn is_cut(self) -> bool {
        self.status == 0
    }
}

/// The answer ends in the middle, and the client must see that.
const CUT: Served = Served {
    status: 0,
    keep_alive: false,
    linger: false,
};

impl Worker {
    #[must_use]
    pub fn new(local: Rc<Local>, published: Arc<Published>) -> Self {
        let epoch = Cell::new(published.epoch());
        let view = RefCell::new(Rc::new(published.load()));
        Self {
            local,
            pools: Pools::default(),
            published,
            view,
            epoch,
        }
    }

    /// The current snapshot. Costs one comparison when nothing changed.
    #[must_use]
    pub fn view(&self) -> Rc<Arc<Snapshot>> {
        let epoch = self.published.epoch();
        if epoch != self.epoch.get() {
            self.epoch.set(epoch);
            self.view.replace(Rc::new(self.published.load()));
        }
        Rc::clone(&self.view.borrow())
    }
}

/// Answers the request in `cx`, which has been parsed, on a listener.
pub async fn exchange(worker: &Worker, port: PortKey, client: &Client, cx: &mut Ctx) -> Served {
    let snapshot = worker.view();
    let local = &*worker.local;
    cx.consumed = cx.head.len;
    cx.course.began_us = process_us();
    let answer = match precheck(local, cx) {
        Some(reply) => Err(reply),
        None => route(&snapshot, port, local, cx),
    };
    let mount = match answer {
        Ok(found) => found,
        Err(reply) => return respond(local, client, cx, reply).await,
    };
    if let Some(paths) = &mount.api.rate_limits
        && paths.iter().any(|path| **path == *cx.path())
    {
        return Box::pin(tell_limits(&snapshot.errors, local, client, mount, cx)).await;
    }
    cx.course.is_recorded = mount.api.recorder.is_some();
    if mount.api.tracer.is_some() {
        trace::begin(local, cx);
    }
    let outcome = chain(local, client, mount, cx, Part::All).await;
    if outcome.is_err() {
        trace::step_breaks(cx);
    }
    detail::begin(mount, cx);
    let served = match outcome {
        Ok(Verdict::Next) if cx.head.upgrade.is_some() => {
            // A tunnel may last for days: it keeps its own API and not the whole snapshot.
            let (mount, errors) = (mount.clone(), Arc::clone(&snapshot.errors));
            drop(snapshot);
            let served = Box::pin(proxy(worker, &errors, client, &mount, cx)).await;
            account::note(local, client, &mount, cx, served);
            return served;
        }
        Ok(Verdict::Next) => proxy(worker, &snapshot.errors, client, mount, cx).await,
        Ok(Verdict::Respond(reply)) => respond(local, client, cx, reply).await,
        Ok(Verdict::Reject(reject)) => {
            let reply = rejection(&snapshot.errors, local, cx, reject);
            respond(local, client, cx, reply).await
        }
        Err(Refused::Rendered { status, message }) => {
            cx.course.refused = "content";
            if cx.trace.is_some() {
                cx.course.message = Some(message.as_str().into());
            }
            let reply = error_reply(&snapshot.errors, local, cx, status, &message);
            respond(local, client, cx, reply).await
        }
        Err(Refused::Content(fault)) => content_fault(local, client, cx, fault).await,
    };
    account::note(local, client, mount, cx, served);
    served
}

/// What is decided before any API is known.
pub fn precheck(local: &Local, cx: &Ctx) -> Option<Reply> {
    if cx.head.expect == Expect::Other {
        return Some(Reply::new(
            417,
            "text/plain; charset=utf-8",
            "Expectation Failed\n",
        ));
    }
    if let Framing::Length(length) = cx.head.framing
        && length > local.settings.request_body_bytes_max
    {
        return Some(too_large());
    }
    if cx.head.is_asterisk && cx.head.method == Method::Options {
        return Some(Reply {
            status: 200,
            fields: Vec::new(),
            content: Vec::new(),
        });
    }
    None
}

fn too_large() -> Reply {
    plain(413, "Request Entity Too Large\n")
}

/// Go's `http.Error`.
fn plain(status: u16, text: &str) -> Reply {
    let mut reply = Reply::new(status, "text/plain; charset=utf-8", text);
    reply
        .fields
        .extend_from_slice(b"X-Content-Type-Options: nosniff\r\n");
    reply
}

fn route<'a>(
    snapshot: &'a Snapshot,
    port: PortKey,
    local: &Local,
    cx: &mut Ctx,
) -> Result<&'a Mount, Reply> {
    let Some(port) = snapshot.port(port) else {
        return Err(plain(404, "404 page not found\n"));
    };
    let raw = cx.head.path_bytes(&cx.inb);
    if !uri::is_plain(raw) {
        let Some(decoded) = uri::decode_path(raw) else {
            return Err(Reply::new(
                400,
                "text/plain; charset=utf-8",
                "400 Bad Request",
            ));
        };
        if local.settings.clean_urls
            && let Cow::Owned(clean) = uri::clean(&decoded)
        {
            return Err(redirect(cx, &clean));
        }
        cx.decoded_path = Some(decoded.into_owned());
    }
    let host = cx.head.host.map(|host| cx.part(host)).unwrap_or_default();
    let not_found = || {
        if port.carries_control {
            Reply::new(404, "text/plain; charset=utf-8", "Not Found")
        } else {
            plain(404, "404 page not found\n")
        }
    };
    let found = port.router.find(host, cx.path()).ok_or_else(not_found)?;
    let Some(Slot::Api(mount)) = snapshot.slots.get(found.target as usize) else {
        return Err(Reply::new(404, "text/plain; charset=utf-8", "Not Found"));
    };
    let strict = local.settings.strict_routes && found.kind == RouteKind::ListenPath;
    if strict && !mount.listen_path.matches_strictly(cx.path()) {
        return Err(Reply::new(404, "text/plain; charset=utf-8", "Not Found"));
    }
    Ok(mount)
}

/// gorilla/mux sends clients to the clean form of their path.
fn redirect(cx: &Ctx, clean: &[u8]) -> Reply {
    let mut fields = b"Location: ".to_vec();
    fields.extend_from_slice(&uri::escape_path(clean));
    if let Some(query) = cx
        .head
        .query
        .map(|query| cx.part(query))
        .filter(|query| !query.is_empty())
    {
        fields.push(b'?');
        fields.extend_from_slice(query);
    }
    fields.extend_from_slice(b"\r\n");
    Reply {
        status: 301,
        fields,
        content: Vec::new(),
    }
}

/// Which steps of a chain run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    /// Those that decide who may come in.
    Rights,
}

/// Answers `tyk/rate-limits/`: what the key's own limits are. Costs the key nothing.
async fn tell_limits(
    errors: &ErrorResponses,
    local: &Local,
    client: &Client,
    mount: &Mount,
    cx: &mut Ctx,
) -> Served {
    let reply = match chain(local, client, mount, cx, Part::Rights).await {
        Ok(Verdict::Next) => match &cx.access {
            Some(access) => {
                let limit = access.session.root_limit();
                let remaining = match &access.pass.limits.quota {
                    Some(cell) => cell.remaining().unwrap_or(limit.quota_remaining),
                    None => limit.quota_remaining,
                };
                let text = format!(
                    "{{\"quota\":{{\"quota_max\":{},\"quota_remaining\":{remaining},\
                     \"quota_renews\":{}}},\"rate_limit\":{{\"requests\":{},\"per_unit\":{}}}}}\n",
                    limit.quota_max, limit.quota_renews, limit.rate, limit.per
                );
                Reply::new(200, "application/json", text)
            }
            None => Reply::new(
                400,
                "application/json",
                "{\"status\":\"error\",\"message\":\"Health checks are not enabled for this node\"}\n",
            ),
        },
        Ok(Verdict::Respond(reply)) => reply,
        Ok(Verdict::Reject(reject)) => rejection(errors, local, cx, reject),
        Err(Refused::Rendered { status, message }) => {
            error_reply(errors, local, cx, status, &message)
        }
        Err(Refused::Content(fault)) => return content_fault(local, client, cx, fault).await,
    };
    respond(local, client, cx, reply).await
}

/// A step turned the request away in words of its own, or its content could not be read.
enum Refused {
    Rendered { status: u16, message: String },
    Content(BodyFault),
}

async fn chain(
    local: &Local,
    client: &Client,
    mount: &Mount,
    cx: &mut Ctx,
    part: Part,
) -> Result<Verdict, Refused> {
    let is_timed = mount.api.times_steps;
    for step in &mount.api.chain {
        if part == Part::Rights && !step.decides_rights() {
            continue;
        }
        if is_timed {
            trace::step_begins(cx, step.name());
        }
        let verdict = match step {
            Step::VersionCheck(step) => step.check(local, cx),
            Step::IpWhitelist(step) => step.check(local, client, cx),
            Step::IpBlacklist(step) => step.check(local, client, cx),
            Step::AuthKey(step) => step.check(local, cx).await,
            Step::StripAuth(step) => {
                step.apply(cx);
                Verdict::Next
            }
            Step::OrganizationRecords(step) => {
                step.apply(local, cx).await;
                Verdict::Next
            }
            Step::OrganizationMonitor(step) => step.check(local, cx).await,
            Step::TrackEndpoints(step) => {
                let path = mount.listen_path.strip(cx.path()).into_owned();
                step.apply(&path, cx);
                Verdict::Next
            }
            Step::RateLimitAndQuota => rate_limit_and_quota::check(local, client, cx).await,
            Step::RateLimitForApi(step) => step.check(local).await,
            Step::KeyExpired => key_expired::check(local, cx),
            Step::AccessRights => access_rights::check(cx),
            Step::GranularAccess => granular_access::check(cx),
            Step::ValidateJson(step) => {
                let path = mount.listen_path.strip(cx.path()).into_owned();
                if let Some(rule) = step.rule(&path, cx) {
                    Box::pin(read_content(local, client, cx))
                        .await
                        .map_err(Refused::Content)?;
                    rule.check(cx).map_err(|invalid| Refused::Rendered {
                        status: invalid.status,
                        message: invalid.message,
                    })?;
                }
                Verdict::Next
            }
        };
        if tracing::enabled!(tracing::Level::DEBUG) {
            tell_step(step, &verdict);
        }
        if is_timed {
            trace::step_ends(cx, &verdict);
        }
        if verdict != Verdict::Next {
            return Ok(verdict);
        }
    }
    Ok(Verdict::Next)
}

/// As Tyk tells at this level which step a request came to.
#[cold]
fn tell_step(step: &Step, verdict: &Verdict) {
    let mw = step.name();
    match verdict {
        Verdict::Next => tracing::debug!(mw, code = 200, "Finished"),
        Verdict::Respond(reply) => tracing::debug!(mw, code = reply.status, "Finished"),
        Verdict::Reject(reject) => {
            let (code, _, err) = reject.parts();
            tracing::debug!(mw, code, err, "Finished");
        }
    }
}

/// Reads the content whole, once, up to the limit for steps.
pub async fn read_content(local: &Local, client: &Client, cx: &mut Ctx) -> Result<(), BodyFault> {
    if cx.content.is_some() {
        return Ok(());
    }
    let settings = &local.settings;
    let bytes_max = settings
        .request_body_bytes_max
        .min(settings.step_body_bytes_max);
    if let Framing::Length(length) = cx.head.framing
        && length > bytes_max
    {
        return Err(BodyFault::TooLarge);
    }
    let mut incoming = Incoming::new(cx.head.framing, bytes_max, local);
    let mut content = Vec::new();
    let early = cx.inb.get(cx.consumed..).unwrap_or_default();
    cx.consumed += incoming.take(early, &mut content, false)?;
    if !incoming.is_complete() {
        let mut raw = cx.inb.get(cx.consumed..).unwrap_or_default().to_vec();
        cx.consumed = cx.inb.len();
        if head::waits_for_continue(cx) {
            let interim = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
            client
                .stream
                .write_all(interim, 0)
                .await
                .0
                .map_err(|_| BodyFault::Ended)?;
        }
        while !incoming.is_complete() {
            let mut buf = local.buffers.take(raw.len().max(1) * 2);
            buf.extend_from_slice(&raw);
            let (result, buf) = incoming.read(client, local, buf).await;
            result?;
            if matches!(cx.head.framing, Framing::Chunked) {
                let taken = incoming.take(&buf, &mut content, false)?;
                raw = buf.get(taken..).unwrap_or_default().to_vec();
            } else {
                content.extend_from_slice(&buf);
                raw.clear();
            }
            local.buffers.give(buf);
        }
        client.overread.borrow_mut().extend_from_slice(&raw);
    }
    cx.content = Some(content);
    Ok(())
}

async fn proxy(
    worker: &Worker,
    errors: &ErrorResponses,
    client: &Client,
    mount: &Mount,
    cx: &mut Ctx,
) -> Served {
    let (local, api) = (&*worker.local, &*mount.api);
    let listen_path = &mount.listen_path;
    let Destination::Upstream(upstream) = &api.upstream else {
        let reply = rejection(errors, local, cx, Reject::UpstreamFailed);
        return respond(local, client, cx, reply).await;
    };
    cx.header_timeout_ms = upstream.header_timeout_ms;
    // The path moves out of the request's buffer only where it is changed.
    let mut span = None;
    let mut path = {
        let raw = cx.head.path_bytes(&cx.inb);
        // A request under `/<api_id>/` keeps its path: the listen path is no prefix of it.
        let stripped = if api.strip {
            match (&cx.decoded_path, listen_path.matches(raw)) {
                (Some(decoded), false) => {
                    Cow::Owned(uri::escape_path(&listen_path.strip(decoded)).into_owned())
                }
                _ => listen_path.strip(raw),
            }
        } else {
            Cow::Borrowed(raw)
        };
        if let (None, Cow::Borrowed(stripped)) = (&cx.decoded_path, &stripped) {
            span = cx.head.path.last(stripped.len());
        }
        let mut path = local.buffers.small();
        if cx.decoded_path.is_some() {
            path.extend_from_slice(&encoded_path(&stripped, local.settings.escape_target_path));
        } else {
            path.extend_from_slice(&stripped);
        }
        path
    };
    if let Some(timeouts) = &api.hard_timeouts {
        let mut outgoing = Vec::new();
        if let Some(target) = upstream.targets().first() {
            target.write_path(&mut outgoing, &path, None);
        }
        timeouts.apply(&outgoing, cx);
    }
    cx.course.proxied_us = process_us();
    if cx.course.is_recorded
        && let Some(target) = upstream.targets().first()
    {
        if span.is_some() && target.keeps_path(&path) {
            cx.course.upstream_path_span = span;
        } else {
            let mut sent = std::mem::take(&mut cx.course.upstream_path);
            target.write_path(&mut sent, &path, None);
            cx.course.upstream_path = sent;
        }
    }
    let result = serve::proxy(local, &worker.pools, upstream, client, cx, &path).await;
    path.clear();
    local.buffers.give(path);
    match result {
        Ok(done) => {
            local.metrics.response(done.status);
            Served {
                status: done.status,
                keep_alive: done.keep_alive,
                linger: done.unread,
            }
        }
        Err(_) if client.begun.get() => CUT,
        Err(Fault::Content(fault)) => content_fault(local, client, cx, fault).await,
        Err(Fault::ClientGone) => CUT,
        Err(fault) => {
            local.metrics.upstream_errors.count();
            tracing::debug!(api_id = %api.definition.api_id, ?fault, "upstream failed");
            let reply = rejection(errors, local, cx, fault.reject());
            respond(local, client, cx, reply).await
        }
    }
}

/// The content broke: an answer if none has begun, and in any case the end of the connection.
pub async fn content_fault(
    local: &Local,
    client: &Client,
    cx: &mut Ctx,
    fault: BodyFault,
) -> Served {
    if client.begun.get() {
        return CUT;
    }
    let reply = match fault {
        BodyFault::Malformed(refusal) => refusal_reply(refusal.status),
        BodyFault::TooLarge => too_large(),
        BodyFault::TooSlow => refusal_reply(408),
        BodyFault::Ended | BodyFault::Abandoned => return CUT,
    };
    local.metrics.refusals.count();
    cx.head.keep_alive = false;
    respond(local, client, cx, reply).await
}

/// The answer to a message that is no HTTP (Go: `badRequestError`).
#[must_use]
pub fn refusal_reply(status: u16) -> Reply {
    let text = format!("{status} {}", reason(status));
    Reply::new(status, "text/plain; charset=utf-8", text)
}

/// A refusal in the API's error template.
fn rejection(errors: &ErrorResponses, local: &Local, cx: &mut Ctx, reject: Reject) -> Reply {
    cx.course.refused = reject.name();
    cx.course.reject = Some(reject);
    local.metrics.refused.count(reject.name());
    match reject {
        Reject::RateLimitExceeded
        | Reject::ApiRateLimitExceeded
        | Reject::OrganisationRateLimitExceeded => local.metrics.rate_limited.count(),
        Reject::QuotaExceeded | Reject::OrganisationQuotaExceeded => {
            local.metrics.quota_exceeded.count();
        }
        _ => {}
    }
    let (status, message) = errors.refusal(reject);
    let mut reply = error_reply(errors, local, cx, status, message);
    if reject == Reject::StoreAway {
        reply.fields.extend_from_slice(b"Retry-After: 1\r\n");
    }
    reply
}

fn error_reply(
    errors: &ErrorResponses,
    local: &Local,
    cx: &Ctx,
    status: u16,
    message: &str,
) -> Reply {
    let content_type = cx.field(FieldName::ContentType);
    let (content_type, content) = errors.render(status, message, content_type);
    let mut reply = Reply::new(status, content_type, content);
    if !local.settings.hide_generator {
        reply.fields.extend_from_slice(b"X-Generator: tyk.io\r\n");
    }
    reply
}

/// Sends an answer of the gateway's own.
pub async fn respond(local: &Local, client: &Client, cx: &mut Ctx, reply: Reply) -> Served {
    local.metrics.response(reply.status);
    if let Some(kept) = &cx.course.detail {
        detail::replied(kept, &reply, reason(reply.status));
    }
    let unread = cx.content.is_none() && !skip_content(local, cx);
    let more_behind = cx.consumed < cx.inb.len() || !client.overread.borrow().is_empty();
    let close =
        unread || !cx.head.keep_alive || local.settings.close_connections || local.draining.get();
    let mut out = local
        .buffers
        .take(reply.content.len() + reply.fields.len() + 512);
    head::write_status(&mut out, cx, reply.status, reason(reply.status).as_bytes());
    out.extend_from_slice(&reply.fields);
    out.extend_from_slice(&cx.answer_fields);
    local.write_date(&mut out);
    if reply.status >= 200 && reply.status != 204 && reply.status != 304 {
        head::write_length(&mut out, reply.content.len() as u64);
    }
    head::write_connection(&mut out, cx, close);
    out.extend_from_slice(b"\r\n");
    if cx.head.method != Method::Head {
        out.extend_from_slice(&reply.content);
        cx.course.content_bytes.set(reply.content.len() as u64);
    }
    client.begun.set(true);
    local.metrics.sent_bytes.add(out.len() as u64);
    client
        .deadline
        .set(local.settings.write_timeout_ms, AtDeadline::Shutdown);
    let (result, out) = client.stream.write_all(out, 0).await;
    client.deadline.clear();
    local.buffers.give(out);
    Served {
        status: reply.status,
        keep_alive: !close && result.is_ok(),
        linger: unread || (close && more_behind),
    }
}

/// Passes over content that has arrived whole. False when some is still to come.
fn skip_content(local: &Local, cx: &mut Ctx) -> bool {
    let mut incoming = Incoming::new(cx.head.framing, u64::MAX, local);
    let rest = cx.inb.get(cx.consumed..).unwrap_or_default();
    if cx.consumed != cx.head.len {
        return false;
    }
    match incoming.take(rest, &mut Vec::new(), false) {
        Ok(taken) if incoming.is_complete() => {
            cx.consumed += taken;
            true
        }
        _ => false,
    }
}

/// Reason phrases (RFC 9110 §15) of the statuses that the gateway itself answers with.
#[must_use]
pub const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        301 => "Moved Permanently",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Request Entity Too Large",
        414 => "Request URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        499 => "Client Closed Request",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
