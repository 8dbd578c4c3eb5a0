//! One client connection: requests one after the other, and nothing held while it idles.
//!
//! An active connection is one boxed future that lives as long as requests keep coming, so that a
//! request allocates nothing. After a second without one the box and its buffers go back and only
//! the socket waits.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
};

use crate::{
    config::AccessLog,
    control::Call,
    exchange::{Client, Ctx, Local, Reply},
    gateway::{
        serve::{self, Served, Worker},
        snapshot::PortKey,
    },
    http::h1::{Framing, Progress},
    metrics,
    net::{
        io::{Stream, Tcp, Transport, is_canceled},
        sys::{self, Half},
        tls::ServerTls,
        watch::AtDeadline,
    },
    shard::{Debug, Shard},
};

/// Without a request for so long, a connection gives its buffers back.
const PARK_AFTER_MS: u64 = 1_000;
/// With more active connections than this on a shard, one gives its buffers back at once.
const ACTIVE_MAX: usize = 512;
/// What a client may still send after its last answer before the connection is cut.
const LINGER_BYTES_MAX: usize = 256 << 10;
const LINGER_MS: u64 = 2_000;

/// Why an active connection stopped being active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// No request came for a while.
    Parked,
    Closed,
}

/// Counts a connection as open while it lives, however it ends.
pub struct Open(Arc<metrics::Shard>);

impl Open {
    #[must_use]
    pub fn new(metrics: &Arc<metrics::Shard>) -> Self {
        metrics.connections.count();
        metrics.connections_open.up();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections_open.down();
    }
}

/// Serves a connection to its end. Panics end with the connection.
pub async fn serve(
    open: Open,
    shard: Rc<Shard>,
    tcp: Tcp,
    peer: SocketAddr,
    port: PortKey,
    tls: Option<ServerTls>,
) {
    let stream = match tls {
        None => Some(Stream::Tcp(tcp)),
        Some(tls) => Box::pin(handshake(&shard, tcp, &tls)).await,
    };
    if let Some(stream) = stream {
        let client = Client {
            deadline: shard.worker.local.watch.deadline(stream.fd()),
            stream,
            peer,
            begun: Cell::new(false),
            overread: RefCell::default(),
        };
        requests(&shard, &client, port).await;
    }
    drop(open);
}

/// Answers one request that came by `/tyk/debug`, and logs to whoever asked.
pub async fn debug(open: Open, local: Rc<Local>, debug: Debug) {
    let Debug {
        published,
        request,
        stream,
        peer,
        logs,
    } = debug;
    let tcp = match Tcp::from_std(stream) {
        Ok(tcp) => tcp,
        Err(error) => return tracing::error!(%error, "the way back of a debugged request"),
    };
    let client = Client {
        deadline: local.watch.deadline(tcp.fd()),
        stream: Stream::Tcp(tcp),
        peer,
        begun: Cell::new(false),
        overread: RefCell::default(),
    };
    let worker = Worker::new(Rc::clone(&local), published);
    let mut cx = Ctx {
        inb: request,
        ..Ctx::default()
    };
    let parsed = cx.head.parse(&cx.inb, &mut 0, &local.settings.limits);
    let mut answer = Box::pin(async {
        match parsed {
            // An answer of HTTP/1.0 is neither chunked nor followed by another.
            Ok(Progress::Complete) => {
                cx.head.version_minor = 0;
                cx.head.keep_alive = false;
                serve::exchange(&worker, PortKey::NONE, &client, &mut cx).await;
            }
            Ok(Progress::Partial) => {}
            Err(refusal) => {
                let reply = serve::refusal_reply(refusal.status);
                serve::respond(&local, &client, &mut cx, reply).await;
            }
        }
    });
    std::future::poll_fn(|task| {
        tracing::dispatcher::with_default(&logs, || answer.as_mut().poll(task))
    })
    .await;
    drop(answer);
    client.stream.shutdown(Half::Write);
    drop(open);
}

async fn handshake(shard: &Shard, tcp: Tcp, tls: &ServerTls) -> Option<Stream> {
    let deadline = shard.worker.local.watch.deadline(tcp.fd());
    deadline.set(
        shard.worker.local.settings.header_deadline_ms,
        AtDeadline::Shutdown,
    );
    match tls.accept(tcp).await {
        Ok(stream) => Some(Stream::Tls(stream)),
        Err(error) => {
            tracing::debug!(%error, "TLS handshake failed");
            None
        }
    }
}

async fn requests(shard: &Shard, client: &Client, port: PortKey) {
    let local = &shard.worker.local;
    let mut parked = shard.active.get() > ACTIVE_MAX;
    loop {
        if parked && !wait_for_bytes(shard, client).await {
            return;
        }
        shard.active.set(shard.active.get() + 1);
        let end = guarded(Box::pin(active(shard, client, port))).await;
        shard.active.set(shard.active.get() - 1);
        match end {
            Some(End::Parked) => parked = true,
            Some(End::Closed) => return,
            None => {
                local.metrics.panics.count();
                tracing::error!("a panic ended one connection");
                if !client.begun.get() {
                    let answer = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\
                        Connection: close\r\n\r\n";
                    client.deadline.set(LINGER_MS, AtDeadline::Shutdown);
                    // Boxed: an idle connection must not carry the room for this.
                    let _ = Box::pin(client.stream.write_all(answer.to_vec(), 0)).await;
                }
                return;
            }
        }
    }
}

/// Waits without buffers until the client sends something. False when the connection is to end.
async fn wait_for_bytes(shard: &Shard, client: &Client) -> bool {
    let local = &shard.worker.local;
    client
        .deadline
        .set(local.settings.keep_alive_idle_ms, AtDeadline::Shutdown);
    client.deadline.set_polled(true);
    let ready = client.stream.readable().await;
    client.deadline.set_polled(false);
    let over = client.deadline.is_expired() || local.ending.get();
    client.deadline.clear();
    if over || ready.is_err() {
        client.stream.shutdown(Half::Write);
        return false;
    }
    true
}

/// Polls a future and answers `None` when it panics. The future is dropped then.
async fn guarded<F: Future>(mut future: Pin<Box<F>>) -> Option<F::Output> {
    std::future::poll_fn(move |cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        match polled {
            Ok(polled) => polled.map(Some),
            Err(_) => std::task::Poll::Ready(None),
        }
    })
    .await
}

async fn active(shard: &Shard, client: &Client, port: PortKey) -> End {
    let local = &*shard.worker.local;
    let mut cx = Ctx {
        inb: local.buffers.small(),
        ..Ctx::default()
    };
    // Whoever became active because bytes came reads them.
    let mut may_park_at_once = false;
    let end = loop {
        match next_head(shard, client, &mut cx, may_park_at_once).await {
            Ok(()) => may_park_at_once = true,
            Err(end) => break end,
        }
        local.metrics.requests.count();
        client.begun.set(false);
        #[cfg(feature = "fault-injection")]
        inject_fault(&cx);
        let began_ms =
            (local.settings.access_log != AccessLog::Off).then(|| local.watch.clock().exact_ms());
        let served = one(shard, client, port, &mut cx).await;
        if let Some(began_ms) = began_ms {
            log_access(local, client, &cx, served, began_ms);
        }
        if !served.keep_alive {
            if served.is_cut() {
                // What HTTP/1.0 is sent ends with its connection: only a reset tells it apart.
                if cx.head.version_minor == 0 {
                    sys::reset_at_close(client.stream.fd());
                } else {
                    client.stream.shutdown(Half::Both);
                }
                break End::Closed;
            }
            // Closing with unread bytes would reset the connection, and the answer with it.
            if served.linger || sys::has_unread(client.stream.fd()) {
                linger(shard, client, &mut cx).await;
            }
            if let Stream::Tls(tls) = &client.stream {
                tls.shutdown(Half::Write);
            }
            break End::Closed;
        }
        let consumed = cx.consumed.min(cx.inb.len());
        if consumed == cx.inb.len() {
            cx.inb.clear();
        } else {
            cx.inb.drain(..consumed);
        }
        // Taken whole, so that an idle connection does not keep its room.
        cx.inb.extend_from_slice(&client.overread.take());
        cx.clear();
    };
    local.buffers.give(std::mem::take(&mut cx.inb));
    end
}

/// One line per request, when `penstock.access_log` asks for it.
#[cold]
fn log_access(local: &Local, client: &Client, cx: &Ctx, served: Served, began_ms: u64) {
    let text = |bytes| String::from_utf8_lossy(bytes);
    let target = text(cx.part(cx.head.target));
    let method = text(cx.part(cx.head.method_span));
    let took_ms = local.watch.clock().exact_ms().saturating_sub(began_ms);
    let ip = cx.real_ip(client.peer.ip(), &local.settings);
    if local.settings.access_log == AccessLog::Json {
        let status = served.status;
        tracing::info!(
            prefix = "access-log", %ip, %method, path = %target, status, latency_ms = took_ms, "request"
        );
    } else {
        let minor = cx.head.version_minor;
        tracing::info!(
            prefix = "access-log",
            "{ip} - - \"{method} {target} HTTP/1.{minor}\" {} {took_ms}ms",
            served.status
        );
    }
}

/// `x-penstock-fault: panic` makes the data plane panic, for tests of what a panic costs.
#[cfg(feature = "fault-injection")]
fn inject_fault(cx: &Ctx) {
    let fault = cx.field_named(b"x-penstock-fault");
    assert_ne!(fault, Some(&b"panic"[..]), "asked for by x-penstock-fault");
}

/// Reads until a whole head stands at the begin of `cx.inb`.
async fn next_head(
    shard: &Shard,
    client: &Client,
    cx: &mut Ctx,
    may_park_at_once: bool,
) -> Result<(), End> {
    let local = &*shard.worker.local;
    let settings = &local.settings;
    let clock = local.watch.clock();
    let mut scanned = 0;
    let mut began_ms = None;
    loop {
        if !cx.inb.is_empty() {
            match cx.head.parse(&cx.inb, &mut scanned, &settings.limits) {
                Ok(Progress::Complete) => {
                    client.deadline.clear();
                    return Ok(());
                }
                Ok(Progress::Partial) => {}
                Err(refusal) => {
                    local.metrics.requests.count();
                    refuse(shard, client, cx, refusal.status).await;
                    return Err(End::Closed);
                }
            }
            let began_ms = *began_ms.get_or_insert(clock.now_ms());
            let over_ms = began_ms + settings.header_deadline_ms;
            client.deadline.set(
                over_ms.saturating_sub(clock.now_ms()),
                AtDeadline::CancelRead,
            );
        } else if may_park_at_once && shard.active.get() > ACTIVE_MAX {
            return Err(End::Parked);
        } else {
            client.deadline.set(PARK_AFTER_MS, AtDeadline::CancelRead);
        }
        if cx.inb.len() == cx.inb.capacity() {
            cx.inb.reserve(cx.inb.capacity());
        }
        let inb = std::mem::take(&mut cx.inb);
        let (result, inb) = client
            .stream
            .read_until_canceled(inb, client.deadline.cancel())
            .await;
        cx.inb = inb;
        match result {
            Ok(0) => return Err(End::Closed),
            Ok(read) => local.metrics.received_bytes.add(read as u64),
            Err(error) if is_canceled(&error) && cx.inb.is_empty() => {
                if local.ending.get() {
                    return Err(End::Closed);
                }
                if client.deadline.is_expired() {
                    return Err(End::Parked);
                }
            }
            Err(error) if is_canceled(&error) => {
                if client.deadline.is_expired() {
                    refuse(shard, client, cx, 408).await;
                    return Err(End::Closed);
                }
                if local.ending.get() {
                    return Err(End::Closed);
                }
            }
            Err(_) => return Err(End::Closed),
        }
    }
}

/// Answers what is no request, or came too slowly, and ends the connection.
async fn refuse(shard: &Shard, client: &Client, cx: &mut Ctx, status: u16) {
    let local = &*shard.worker.local;
    local.metrics.refusals.count();
    cx.clear();
    cx.head.keep_alive = false;
    cx.head.version_minor = 1;
    cx.head.method = crate::http::h1::Method::Get;
    cx.head.framing = Framing::None;
    cx.head.len = cx.inb.len();
    cx.consumed = cx.head.len;
    client.begun.set(false);
    serve::respond(local, client, cx, serve::refusal_reply(status)).await;
    linger(shard, client, cx).await;
}

/// Lets the client read its answer: what it still sends is thrown away for a while, because closing
/// a socket with unread bytes resets it.
async fn linger(shard: &Shard, client: &Client, cx: &mut Ctx) {
    client.stream.shutdown(Half::Write);
    client.deadline.set(LINGER_MS, AtDeadline::CancelRead);
    let mut thrown = 0;
    let mut buf = std::mem::take(&mut cx.inb);
    while thrown < LINGER_BYTES_MAX {
        buf.clear();
        let (result, back) = client
            .stream
            .read_until_canceled(buf, client.deadline.cancel())
            .await;
        buf = back;
        match result {
            Ok(0) | Err(_) => break,
            Ok(read) => thrown += read,
        }
    }
    shard.worker.local.buffers.give(buf);
}

/// One request: for the control plane, or for an API.
async fn one(shard: &Shard, client: &Client, port: PortKey, cx: &mut Ctx) -> Served {
    let path = cx.head.path_bytes(&cx.inb);
    if shard.control_paths.owns(path) {
        let view = shard.worker.view();
        if view.port(port).is_some_and(|port| port.carries_control) {
            return Box::pin(control(shard, client, cx)).await;
        }
    }
    serve::exchange(&shard.worker, port, client, cx).await
}

async fn control(shard: &Shard, client: &Client, cx: &mut Ctx) -> Served {
    let local = &*shard.worker.local;
    cx.consumed = cx.head.len;
    if let Some(reply) = serve::precheck(local, cx) {
        return serve::respond(local, client, cx, reply).await;
    }
    if let Err(fault) = serve::read_content(local, client, cx).await {
        return serve::content_fault(local, client, cx, fault).await;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut path_and_query = text(cx.head.path_bytes(&cx.inb));
    if let Some(query) = cx.head.query {
        path_and_query.push('?');
        path_and_query.push_str(&text(cx.part(query)));
    }
    let call = Call {
        method: text(cx.part(cx.head.method_span)),
        path_and_query,
        headers: cx
            .head
            .fields
            .iter()
            .map(|field| (cx.part(field.name).to_vec(), cx.part(field.value).to_vec()))
            .collect(),
        body: cx.content.take().unwrap_or_default(),
        peer: client.peer,
    };
    cx.content = Some(Vec::new());
    let deadline_ms = local.watch.clock().now_ms() + local.settings.write_timeout_ms;
    let reply = match shard.control.ask(call, deadline_ms).await {
        Ok(answer) => {
            let mut fields = Vec::new();
            for (name, value) in &answer.headers {
                fields.extend_from_slice(name.as_bytes());
                fields.extend_from_slice(b": ");
                fields.extend_from_slice(value);
                fields.extend_from_slice(b"\r\n");
            }
            Reply {
                status: answer.status,
                fields,
                content: answer.body,
            }
        }
        Err(why) => {
            let text = format!("{{\"status\":\"error\",\"message\":\"control plane: {why}\"}}\n");
            let mut reply = Reply::new(503, "application/json", text);
            reply.fields.extend_from_slice(b"Retry-After: 1\r\n");
            reply
        }
    };
    serve::respond(local, client, cx, reply).await
}

/// Runs a task of the shard so that a panic in it ends nothing else.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    #[allow(clippy::disallowed_methods, reason = "the one place where tasks start")]
    monoio::spawn(async move {
        let mut future = pin!(future);
        std::future::poll_fn(move |cx| {
            match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
                Ok(polled) => polled,
                Err(_) => {
                    tracing::error!("a task of the shard panicked");
                    std::task::Poll::Ready(())
                }
            }
        })
        .await;
    });
}
