//! One exchange with an upstream: request out, answer back, content streamed both ways.
//!
//! Tyk: `reverse_proxy.go` (`WrappedServeHTTP`).
//! Tyk differs: answers are streamed and never buffered whole; see `docs/FEATURES.md`.

use std::{cell::Cell, future::Future, pin::pin, task::Poll};

use crate::{
    error::Reject,
    exchange::{
        Client, Ctx, Local,
        body::{BodyFault, Incoming},
    },
    http::{
        compress::Gunzip,
        h1::{FieldName, Framing, Method, Progress, ResponseHead, chunked},
    },
    net::{
        io::{Transport, is_canceled},
        sys::{self, Half, PeerState},
        watch::{AtDeadline, Deadline, process_us},
    },
    upstream::{
        head::{self, AnswerHead, Send},
        pool::{self, Conn, ConnectFault, Pools},
        target::{Target, Upstream},
        tunnel,
    },
};

/// Longest time between two looks at a client that waits for an answer.
const LOOK_AT_CLIENT_MS: u64 = 1_000;
/// The same while the answer pauses; streams may be many and pause for long.
const LOOK_AT_READER_MS: u64 = 5_000;

/// How long a client may wait for a 100 where the upstream has no limit.
const FORGIVEN_MS: u64 = 30_000;

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Connect(ConnectFault),
    /// The first byte of the answer did not come in time.
    Timeout,
    /// The upstream closed, reset or broke the protocol.
    Upstream(&'static str),
    ClientGone,
    Content(BodyFault),
}

impl Fault {
    /// What the client is told, when it can still be told.
    #[must_use]
    pub fn reject(self) -> Reject {
        match self {
            Self::Connect(ConnectFault::Lookup) => Reject::UpstreamHostLookup,
            Self::Connect(ConnectFault::Refused) | Self::Upstream(_) | Self::Content(_) => {
                Reject::UpstreamFailed
            }
            Self::Timeout => Reject::UpstreamTimeout,
            Self::ClientGone => Reject::ClientClosed,
        }
    }
}

/// How an exchange ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    pub status: u16,
    /// The client's connection may carry another request.
    pub keep_alive: bool,
    /// Content was left unread.
    pub unread: bool,
}

/// What one exchange works with.
struct Exchange<'a> {
    local: &'a Local,
    pools: &'a Pools,
    upstream: &'a Upstream,
    target: &'a Target,
    client: &'a Client,
    cx: &'a Ctx,
    upgrade: bool,
    decode: bool,
    /// The request has been written to its last byte.
    sent: Cell<bool>,
    /// When that was; until then, when the exchange began.
    sent_ms: Cell<u64>,
    /// The answer has ended before the request: nobody reads the rest.
    abandoned: Cell<bool>,
    /// Content has been read behind what the first write holds.
    touched: Cell<bool>,
}

/// Proxies the current request. `path` is the encoded path to join to the target's.
///
/// # Errors
/// [`Fault`]; when `client.begun` is set by then, the connection can only be cut.
pub async fn proxy(
    local: &Local,
    pools: &Pools,
    upstream: &Upstream,
    client: &Client,
    cx: &mut Ctx,
    path: &[u8],
) -> Result<Done, Fault> {
    let target = upstream.next_target();
    if cx.course.is_recorded && !upstream.is_first(target) {
        cx.course.target = Some(target.authority.clone());
    }
    let upgrade = cx.head.upgrade.is_some() && local.settings.websockets;
    let mut out = local.buffers.small();
    let decode = head::write_request(
        &mut out,
        cx,
        client.peer.ip(),
        upstream,
        target,
        path,
        upgrade,
    );
    let framing = if cx.content.is_some() {
        Framing::None
    } else {
        cx.head.framing
    };
    let mut incoming = Incoming::new(framing, local.settings.request_body_bytes_max, local);
    if let Some(detail) = &mut cx.course.detail {
        head::copy_request(&mut detail.request_head, &out);
        incoming.capture();
    }
    if let Some(content) = &cx.content {
        out.extend_from_slice(content);
    } else {
        let early = cx.inb.get(cx.consumed..).unwrap_or_default();
        match incoming.take(early, &mut out, true) {
            Ok(taken) => cx.consumed += taken,
            Err(fault) => {
                local.buffers.give(out);
                return Err(Fault::Content(fault));
            }
        }
    }
    if head::waits_for_continue(cx) {
        // For ever means as long as an answer may take by default.
        incoming.forgive(match cx.header_timeout_ms {
            0 => FORGIVEN_MS,
            span_ms => span_ms,
        });
    }
    let mut answer = std::mem::take(&mut cx.answer);
    let sent = incoming.is_complete();
    let mut raw = Vec::new();
    if !sent {
        // What is behind the framing that was understood so far belongs to the content too.
        raw.extend_from_slice(cx.inb.get(cx.consumed..).unwrap_or_default());
        cx.consumed = cx.inb.len();
    }
    let exchange = Exchange {
        local,
        pools,
        upstream,
        target,
        client,
        cx,
        upgrade,
        decode,
        sent: Cell::new(sent),
        sent_ms: Cell::new(local.watch.clock().now_ms()),
        abandoned: Cell::new(false),
        touched: Cell::new(false),
    };
    let result = if sent {
        exchange.whole(out, &mut answer).await
    } else {
        Box::pin(exchange.streamed(out, raw, &mut incoming, &mut answer)).await
    };
    cx.answer = answer;
    if let Some(detail) = &mut cx.course.detail {
        detail.request = incoming.captured();
    }
    result
}

impl Exchange<'_> {
    /// The request is complete in `out`: written at once, and again on another connection when the
    /// one taken from the pool turns out to be closing.
    async fn whole(&self, mut out: Vec<u8>, answer: &mut ResponseHead) -> Result<Done, Fault> {
        let mut pooled = !self.upgrade && !self.upstream.close_connections;
        loop {
            let conn = self.connection(pooled).await?;
            let sent_before = conn.sent.get();
            conn.deadline
                .set(self.local.settings.write_timeout_ms, AtDeadline::Shutdown);
            let (written, back) = conn.stream.write_all(out, 0).await;
            out = back;
            conn.sent.set(sent_before + out.len() as u64);
            self.sent_ms.set(self.local.watch.clock().now_ms());
            let mut buf = self.local.buffers.small();
            let first = match written {
                Ok(()) => {
                    let deadline = &self.client.deadline;
                    self.answer_head(&conn, &mut buf, answer, deadline).await
                }
                Err(_) => Err(Fault::Upstream("closed while the request was written")),
            };
            match first {
                Ok(()) => {
                    self.local.buffers.give(out);
                    return self.relay(conn, buf, answer, &self.client.deadline).await;
                }
                Err(fault) => {
                    let again = conn.reused.get()
                        && buf.is_empty()
                        && !self.client.begun.get()
                        && matches!(fault, Fault::Upstream(_))
                        // RFC 9110 §9.2.2: a request that may have been processed is repeated
                        // only when repeating does no harm.
                        && (self.cx.head.method.is_idempotent()
                            || !conn.is_acknowledged_beyond(sent_before));
                    self.local.buffers.give(buf);
                    if !again {
                        self.local.buffers.give(out);
                        return Err(fault);
                    }
                    pooled = false;
                }
            }
        }
    }

    /// The request's content is still coming: it is written while the answer is read, because an
    /// upstream may answer before it has read everything. Sent again, as in [`Self::whole`], only
    /// while no more of the content has been read than `out` holds.
    async fn streamed(
        &self,
        mut out: Vec<u8>,
        mut raw: Vec<u8>,
        incoming: &mut Incoming,
        answer: &mut ResponseHead,
    ) -> Result<Done, Fault> {
        let mut conn = self
            .connection(!self.upgrade && !self.upstream.close_connections)
            .await?;
        // There is more to lose here: a pooled connection is looked at, however short it idled.
        while conn.reused.get() && !sys::is_quiet(conn.stream.fd()) {
            conn = self.connection(true).await?;
        }
        loop {
            let sent_before = conn.sent.get();
            let kept = (conn.reused.get() && raw.is_empty()).then(|| out.clone());
            let done = self.attempt(conn, out, raw, incoming, answer).await;
            let (fault, ended) = match done {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            let Some(kept) = kept.filter(|_| {
                matches!(fault, Fault::Upstream(_))
                    && !self.touched.get()
                    && !self.client.begun.get()
                    && (self.cx.head.method.is_idempotent()
                        || !ended.is_acknowledged_beyond(sent_before))
            }) else {
                return Err(fault);
            };
            (out, raw) = (kept, Vec::new());
            self.abandoned.set(false);
            conn = self.connection(false).await?;
        }
    }

    /// One way of a streamed request through one connection, which comes back when that fails.
    async fn attempt(
        &self,
        conn: Conn,
        out: Vec<u8>,
        raw: Vec<u8>,
        incoming: &mut Incoming,
        answer: &mut ResponseHead,
    ) -> Result<Done, (Fault, Conn)> {
        let write_deadline = self.local.watch.deadline(self.client.stream.fd());
        let (pumped, relayed) = {
            let conn = &conn;
            let pump = self.pump(conn, out, raw, incoming);
            let reply = async {
                let mut buf = self.local.buffers.small();
                match self
                    .answer_head(conn, &mut buf, answer, &write_deadline)
                    .await
                {
                    // Who is to read the rest of the content, and in which protocol?
                    Ok(()) if answer.status == 101 => Err(Fault::Upstream(
                        "switched protocols before the content had ended",
                    )),
                    Ok(()) => self.relay_content(conn, buf, answer, &write_deadline).await,
                    Err(fault) => {
                        self.local.buffers.give(buf);
                        Err(fault)
                    }
                }
            };
            both(
                pump,
                reply,
                |pumped| {
                    if matches!(pumped, Err(Fault::Content(_))) && !self.abandoned.get() {
                        // Nothing at or behind the fault goes on, and no final chunk either.
                        conn.stream.shutdown(Half::Both);
                    }
                },
                |_| {
                    if !self.sent.get() {
                        self.abandoned.set(true);
                        self.client.deadline.cancel().cancel();
                        conn.stream.shutdown(Half::Both);
                    }
                },
            )
            .await
        };
        if let Err(fault @ Fault::Content(content)) = pumped
            && content != BodyFault::Abandoned
            && relayed.is_err()
        {
            return Err((fault, conn));
        }
        match relayed {
            Err(fault) => Err((fault, conn)),
            Ok(Relayed { mut done, reusable }) => {
                let whole = self.sent.get() && pumped.is_ok();
                done.keep_alive &= whole;
                done.unread = !whole;
                if whole && reusable {
                    self.pools.give(self.target, conn, self.local);
                }
                Ok(done)
            }
        }
    }

    async fn connection(&self, pooled: bool) -> Result<Conn, Fault> {
        if pooled && let Some(conn) = self.pools.take(self.target, self.local) {
            return Ok(conn);
        }
        pool::connect(self.upstream, self.target, self.local)
            .await
            .map_err(Fault::Connect)
    }

    /// Writes `out`, then the rest of the content as it comes. `raw` is content that was read but
    /// not understood yet.
    async fn pump(
        &self,
        conn: &Conn,
        out: Vec<u8>,
        mut raw: Vec<u8>,
        incoming: &mut Incoming,
    ) -> Result<(), Fault> {
        let chunked = matches!(self.cx.head.framing, Framing::Chunked);
        let mut out = self.write_upstream(conn, out).await?;
        loop {
            if chunked {
                out.clear();
                let taken = match incoming.take(&raw, &mut out, true) {
                    Ok(taken) => taken,
                    Err(fault) => {
                        self.local.buffers.give(out);
                        return Err(Fault::Content(fault));
                    }
                };
                raw.drain(..taken);
                if !out.is_empty() {
                    out = self.write_upstream(conn, out).await?;
                }
            }
            if incoming.is_complete() {
                self.client.overread.borrow_mut().extend_from_slice(&raw);
                self.local.buffers.give(out);
                self.sent.set(true);
                self.sent_ms.set(self.local.watch.clock().now_ms());
                // Whoever reads the answer has waited without a limit so far: let it look.
                conn.deadline.set(LOOK_AT_CLIENT_MS, AtDeadline::CancelRead);
                return Ok(());
            }
            if self.abandoned.get() {
                return Err(Fault::Content(BodyFault::Abandoned));
            }
            if chunked {
                let room = crate::net::buffers::MEDIUM_BYTES;
                let mut buf = self.local.buffers.take(room.max(raw.len() * 2));
                buf.extend_from_slice(&raw);
                self.local.buffers.give(raw);
                let (result, back) = incoming.read(self.client, self.local, buf).await;
                raw = back;
                self.touched.set(self.touched.get() || result.is_ok());
                result.map_err(Fault::Content)?;
            } else {
                self.local.buffers.give(out);
                let buf = self.local.buffers.for_remaining(incoming.remaining());
                let (result, back) = incoming.read(self.client, self.local, buf).await;
                out = back;
                self.touched.set(self.touched.get() || result.is_ok());
                result.map_err(Fault::Content)?;
                out = self.write_upstream(conn, out).await?;
            }
        }
    }

    async fn write_upstream(&self, conn: &Conn, out: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let len = out.len() as u64;
        conn.deadline
            .set(self.local.settings.write_timeout_ms, AtDeadline::Shutdown);
        let (result, out) = conn.stream.write_all(out, 0).await;
        conn.deadline.clear();
        conn.sent.set(conn.sent.get() + len);
        result.map_err(|_| Fault::Upstream("closed while the content was written"))?;
        Ok(out)
    }

    /// Reads until a final answer's head stands at the begin of `buf`; interim answers are passed
    /// on within `deadline` (RFC 9110 §15.2).
    async fn answer_head(
        &self,
        conn: &Conn,
        buf: &mut Vec<u8>,
        answer: &mut ResponseHead,
        deadline: &Deadline,
    ) -> Result<(), Fault> {
        let settings = &self.local.settings;
        let clock = self.local.watch.clock();
        let mut scanned = 0;
        let mut interim = 0;
        loop {
            if !buf.is_empty() {
                let is_head = self.cx.head.method == Method::Head;
                match answer.parse(buf, &mut scanned, &settings.limits, is_head) {
                    Err(refusal) => return Err(Fault::Upstream(refusal.why)),
                    Ok(Progress::Complete) if answer.status >= 200 => {
                        self.cx.course.answered_us.set(process_us());
                        conn.deadline.clear();
                        return Ok(());
                    }
                    Ok(Progress::Complete) if answer.status == 101 => {
                        self.cx.course.answered_us.set(process_us());
                        if !self.upgrade {
                            return Err(Fault::Upstream("switched protocols without being asked"));
                        }
                        conn.deadline.clear();
                        return Ok(());
                    }
                    Ok(Progress::Complete) => {
                        interim += 1;
                        if interim > settings.interim_max {
                            return Err(Fault::Upstream("too many interim answers"));
                        }
                        self.pass_interim(buf, answer, deadline).await?;
                        buf.drain(..answer.len);
                        scanned = 0;
                        continue;
                    }
                    Ok(Progress::Partial) => {}
                }
            }
            if buf.len() == buf.capacity() {
                buf.reserve(buf.capacity());
            }
            let waited = clock.now_ms().saturating_sub(self.sent_ms.get());
            let timeout = self.cx.header_timeout_ms;
            if self.sent.get() {
                let left = if timeout == 0 {
                    u64::MAX
                } else {
                    timeout.saturating_sub(waited)
                };
                conn.deadline
                    .set(left.min(LOOK_AT_CLIENT_MS), AtDeadline::CancelRead);
            }
            let (result, back) = conn
                .stream
                .read_until_canceled(std::mem::take(buf), conn.deadline.cancel())
                .await;
            *buf = back;
            match result {
                Ok(0) => return Err(Fault::Upstream("closed before it answered")),
                Ok(_) => {}
                Err(error) if is_canceled(&error) => {
                    if !self.sent.get() {
                        continue;
                    }
                    let waited = clock.now_ms().saturating_sub(self.sent_ms.get());
                    if timeout != 0 && waited >= timeout {
                        return Err(Fault::Timeout);
                    }
                    self.look_at_client()?;
                }
                Err(_) => return Err(Fault::Upstream("reset before it answered")),
            }
        }
    }

    /// Go cancels a request whose client has closed its sending side.
    fn look_at_client(&self) -> Result<(), Fault> {
        match sys::peer_state(self.client.stream.fd()) {
            PeerState::Open => Ok(()),
            PeerState::HalfClosed | PeerState::Gone => Err(Fault::ClientGone),
        }
    }

    async fn pass_interim(
        &self,
        buf: &[u8],
        answer: &ResponseHead,
        deadline: &Deadline,
    ) -> Result<(), Fault> {
        let wanted = self.cx.head.version_minor > 0
            && (answer.status != 100 || head::waits_for_continue(self.cx));
        if !wanted {
            return Ok(());
        }
        let mut out = self.local.buffers.small();
        head::write_interim(&mut out, answer, buf);
        deadline.set(self.local.settings.write_timeout_ms, AtDeadline::Shutdown);
        let (result, out) = self.client.stream.write_all(out, 0).await;
        deadline.clear();
        self.local.buffers.give(out);
        result.map_err(|_| Fault::ClientGone)
    }

    /// Passes the answer on and gives the connection back to the pool.
    async fn relay(
        &self,
        conn: Conn,
        buf: Vec<u8>,
        answer: &mut ResponseHead,
        deadline: &Deadline,
    ) -> Result<Done, Fault> {
        if answer.status == 101 {
            return Box::pin(self.tunnel(conn, buf, answer)).await;
        }
        let relayed = self.relay_content(&conn, buf, answer, deadline).await?;
        if relayed.reusable {
            self.pools.give(self.target, conn, self.local);
        }
        Ok(relayed.done)
    }

    async fn relay_content(
        &self,
        conn: &Conn,
        mut buf: Vec<u8>,
        answer: &mut ResponseHead,
        deadline: &Deadline,
    ) -> Result<Relayed, Fault> {
        let (local, cx) = (self.local, self.cx);
        let decoded = self.decode
            && !matches!(answer.framing, Framing::None | Framing::Length(0))
            && answer.fields.iter().any(|field| {
                field.id == FieldName::ContentEncoding
                    && field.value.of(&buf).eq_ignore_ascii_case(b"gzip")
            });
        let legacy = cx.head.version_minor == 0;
        let send = match answer.framing {
            Framing::None => Send::Nothing,
            Framing::Length(length) if !decoded => Send::Length(length),
            _ if legacy => Send::UntilClose,
            _ => Send::Chunked,
        };
        let close = !cx.head.keep_alive
            || send == Send::UntilClose
            || local.settings.close_connections
            || local.draining.get()
            || !self.sent.get();
        let mut out = local.buffers.take(buf.len() + 1024);
        let how = AnswerHead {
            send,
            close,
            decoded,
        };
        head::write_answer(&mut out, answer, &buf, cx, local, &how);
        if let Some(detail) = &cx.course.detail {
            head::copy_answer(
                &mut detail.answer.borrow_mut(),
                answer,
                &buf,
                cx,
                local,
                &how,
            );
        }
        let status = answer.status;
        let done = Done {
            status,
            keep_alive: !close,
            unread: false,
        };
        let mut pass = Pass {
            exchange: self,
            conn,
            deadline,
            out,
        };
        let arrived = buf.len().saturating_sub(answer.len) as u64;
        let is_whole = match answer.framing {
            Framing::None => true,
            Framing::Length(length) => length <= arrived,
            _ => false,
        };
        cx.course.is_answered_whole.set(is_whole);
        let clean = match (answer.framing, send) {
            (Framing::None, _) => {
                let clean = buf.len() == answer.len;
                pass.flush().await?;
                clean
            }
            (Framing::Length(length), Send::Length(_)) => {
                let at = answer.len;
                pass.length(&mut buf, at, length).await?
            }
            (framing, _) => {
                buf.drain(..answer.len);
                let content = Content {
                    framing,
                    decoder: chunked::Decoder::default(),
                    gunzip: decoded.then(|| Box::new(Gunzip::new())),
                    chunked: send == Send::Chunked,
                };
                Box::pin(pass.transcoded(&mut buf, content)).await?
            }
        };
        local.buffers.give(pass.out);
        local.buffers.give(buf);
        let reusable = clean && answer.keep_alive && !self.upstream.close_connections;
        Ok(Relayed { done, reusable })
    }

    async fn tunnel(&self, conn: Conn, buf: Vec<u8>, answer: &ResponseHead) -> Result<Done, Fault> {
        let mut out = self.local.buffers.small();
        head::write_switching(&mut out, answer, &buf);
        let to_client_from = out.len();
        out.extend_from_slice(buf.get(answer.len..).unwrap_or_default());
        self.local.buffers.give(buf);
        // What stands behind the request and its content.
        let behind = self.cx.inb.get(self.cx.consumed..).unwrap_or_default();
        let mut to_upstream = behind.to_vec();
        to_upstream.append(&mut self.client.overread.take());
        let websocket = self
            .cx
            .head
            .upgrade
            .is_some_and(|upgrade| self.cx.part(upgrade).eq_ignore_ascii_case(b"websocket"));
        self.client.begun.set(true);
        tunnel::run(
            self.local,
            self.client,
            &conn,
            out,
            to_client_from,
            to_upstream,
            websocket,
        )
        .await;
        Ok(Done {
            status: 101,
            keep_alive: false,
            unread: false,
        })
    }
}

/// An answer that reached the client whole.
struct Relayed {
    done: Done,
    /// The upstream's connection stands at the begin of the next answer.
    reusable: bool,
}

/// Content of an answer that is not passed on byte for byte.
struct Content {
    framing: Framing,
    decoder: chunked::Decoder,
    gunzip: Option<Box<Gunzip>>,
    /// Chunks of our own towards the client.
    chunked: bool,
}

/// The way from an upstream's connection to the client's.
struct Pass<'a> {
    exchange: &'a Exchange<'a>,
    conn: &'a Conn,
    deadline: &'a Deadline,
    out: Vec<u8>,
}

impl Pass<'_> {
    async fn flush(&mut self) -> Result<(), Fault> {
        let out = std::mem::take(&mut self.out);
        self.out = self.write(out, 0).await?;
        self.out.clear();
        Ok(())
    }

    async fn write(&self, out: Vec<u8>, from: usize) -> Result<Vec<u8>, Fault> {
        let exchange = self.exchange;
        exchange.client.begun.set(true);
        exchange
            .local
            .metrics
            .sent_bytes
            .add((out.len() - from) as u64);
        self.deadline.set(
            exchange.local.settings.write_timeout_ms,
            AtDeadline::Shutdown,
        );
        let (result, out) = exchange.client.stream.write_all(out, from).await;
        self.deadline.clear();
        match result {
            Ok(()) => Ok(out),
            Err(_) => Err(Fault::ClientGone),
        }
    }

    /// Waits for more of the answer, and looks now and then whether the client still does. Never
    /// by shutting the connection down: its end may be the end of the content.
    async fn read(&self, mut buf: Vec<u8>) -> (Result<usize, Fault>, Vec<u8>) {
        let (exchange, local) = (self.exchange, self.exchange.local);
        let clock = local.watch.clock();
        let started_ms = clock.now_ms();
        loop {
            // The interruption of all reads may have come while this exchange was writing.
            if local.ending.get() {
                return (
                    Err(Fault::Upstream("cut off at the end of the process")),
                    buf,
                );
            }
            if exchange.sent.get() {
                let look_ms = LOOK_AT_READER_MS.min(local.settings.write_timeout_ms);
                self.conn.deadline.set(look_ms, AtDeadline::CancelRead);
            }
            let cancel = self.conn.deadline.cancel();
            let (result, back) = self.conn.stream.read_until_canceled(buf, cancel).await;
            buf = back;
            match result {
                Ok(read) => return (Ok(read), buf),
                Err(error) if is_canceled(&error) => {
                    if !exchange.sent.get() {
                        continue;
                    }
                    let since_ms = started_ms.max(exchange.sent_ms.get());
                    let waited_ms = clock.now_ms().saturating_sub(since_ms);
                    if waited_ms >= local.settings.write_timeout_ms {
                        return (Err(Fault::Upstream("stalled inside its answer")), buf);
                    }
                    if let Err(gone) = exchange.look_at_client() {
                        return (Err(gone), buf);
                    }
                }
                Err(_) => return (Err(Fault::Upstream("reset inside its answer")), buf),
            }
        }
    }

    /// Passes on content of known length: head and first bytes in one write, the rest straight from
    /// the buffers it was read into. Answers whether the connection can be used again.
    async fn length(&mut self, buf: &mut Vec<u8>, at: usize, length: u64) -> Result<bool, Fault> {
        let here = (buf.len() - at) as u64;
        let first = usize::try_from(here.min(length)).unwrap_or(0);
        let here_bytes = buf.get(at..at + first).unwrap_or_default();
        self.out.extend_from_slice(here_bytes);
        self.record(here_bytes);
        self.flush().await?;
        let content_bytes = &self.exchange.cx.course.content_bytes;
        content_bytes.set(first as u64);
        let mut remaining = length - first as u64;
        let mut clean = here <= length;
        let buffers = &self.exchange.local.buffers;
        if remaining > 0 {
            buffers.give(std::mem::take(buf));
        }
        while remaining > 0 {
            let (result, mut part) = self.read(buffers.for_remaining(remaining)).await;
            let read = match result {
                Ok(0) => return Err(Fault::Upstream("closed inside its answer")),
                Ok(read) => read as u64,
                Err(fault) => return Err(fault),
            };
            if read > remaining {
                // Bytes behind the announced length: not ours, and never another exchange's.
                clean = false;
                part.truncate(usize::try_from(remaining).unwrap_or(0));
            }
            remaining -= read.min(remaining);
            self.record(&part);
            let part = self.write(part, 0).await?;
            buffers.give(part);
            content_bytes.set(length - remaining);
        }
        self.conn.deadline.clear();
        Ok(clean)
    }

    /// Passes on content that is chunked, ends with its connection, or is decoded on its way. Every
    /// read is followed by a write, so that events are not held back.
    async fn transcoded(&mut self, buf: &mut Vec<u8>, mut content: Content) -> Result<bool, Fault> {
        let buffers = &self.exchange.local.buffers;
        let limits = self.exchange.local.settings.limits;
        let mut remaining = match content.framing {
            Framing::Length(length) => length,
            _ => u64::MAX,
        };
        let mut full_reads = 0_u32;
        loop {
            let mut at = 0;
            let mut end = false;
            let mut clean = true;
            while at < buf.len() || remaining == 0 {
                let rest = buf.get(at..).unwrap_or_default();
                if matches!(content.framing, Framing::Chunked) {
                    let event = content.decoder.next(rest, &limits);
                    match event.map_err(|refusal| Fault::Upstream(refusal.why))? {
                        chunked::Event::Data { skip, len } => {
                            let data = rest.get(skip..skip + len).unwrap_or_default();
                            self.push(&mut content, data).await?;
                            at += skip + len;
                        }
                        chunked::Event::NeedMore { consumed } => {
                            at += consumed;
                            break;
                        }
                        chunked::Event::End { consumed } => {
                            at += consumed;
                            end = true;
                            clean = at == buf.len();
                            break;
                        }
                    }
                } else {
                    let len = usize::try_from(remaining)
                        .unwrap_or(usize::MAX)
                        .min(rest.len());
                    self.push(&mut content, rest.get(..len).unwrap_or_default())
                        .await?;
                    at += len;
                    if remaining != u64::MAX {
                        remaining -= len as u64;
                        end = remaining == 0;
                        clean = at == buf.len();
                    }
                    break;
                }
            }
            buf.drain(..at.min(buf.len()));
            if end {
                self.finish(&mut content).await?;
                self.conn.deadline.clear();
                return Ok(clean);
            }
            if !self.out.is_empty() {
                self.flush().await?;
            }
            let room = if full_reads > 2 {
                crate::net::buffers::LARGE_BYTES
            } else {
                1
            };
            let mut part = buffers.take(room.max(buf.len() * 2 + 1));
            part.extend_from_slice(buf);
            buffers.give(std::mem::replace(buf, part));
            let before = buf.len();
            let (result, back) = self.read(std::mem::take(buf)).await;
            *buf = back;
            if self.exchange.local.ending.get() && result.is_err() {
                // The process ends: a stream without end gets a clean one.
                self.finish(&mut content).await?;
                return Ok(false);
            }
            match result? {
                0 if content.framing == Framing::UntilClose => {
                    self.finish(&mut content).await?;
                    return Ok(false);
                }
                0 => return Err(Fault::Upstream("closed inside its answer")),
                read if before + read == buf.capacity() => full_reads += 1,
                _ => full_reads = 0,
            }
        }
    }

    async fn push(&mut self, content: &mut Content, data: &[u8]) -> Result<(), Fault> {
        let Some(gunzip) = &mut content.gunzip else {
            self.write_part(content.chunked, data);
            return Ok(());
        };
        let mut input = data;
        let mut plain = self
            .exchange
            .local
            .buffers
            .take(crate::net::buffers::MEDIUM_BYTES);
        loop {
            let pushed = gunzip
                .push(input, &mut plain, crate::net::buffers::MEDIUM_BYTES)
                .map_err(|_| Fault::Upstream("its gzip content is broken"))?;
            input = input.get(pushed.consumed..).unwrap_or_default();
            self.write_part(content.chunked, &plain);
            plain.clear();
            if !pushed.is_full {
                break;
            }
            // A small answer may unpack into a large one: never more than one window here.
            self.flush().await?;
        }
        self.exchange.local.buffers.give(plain);
        if self.out.len() >= crate::net::buffers::MEDIUM_BYTES {
            // Many small chunks may, too.
            self.flush().await?;
        }
        Ok(())
    }

    #[inline]
    fn record(&self, data: &[u8]) {
        if let Some(detail) = &self.exchange.cx.course.detail {
            detail.passes(data);
        }
    }

    fn write_part(&mut self, chunked: bool, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.record(data);
        let content_bytes = &self.exchange.cx.course.content_bytes;
        content_bytes.set(content_bytes.get() + data.len() as u64);
        if chunked {
            chunked::encode_header(&mut self.out, data.len());
            self.out.extend_from_slice(data);
            self.out.extend_from_slice(b"\r\n");
        } else {
            self.out.extend_from_slice(data);
        }
    }

    async fn finish(&mut self, content: &mut Content) -> Result<(), Fault> {
        if content
            .gunzip
            .as_ref()
            .is_some_and(|gunzip| !gunzip.is_complete())
        {
            return Err(Fault::Upstream("its gzip content ends early"));
        }
        if content.chunked {
            self.out.extend_from_slice(b"0\r\n");
            self.out.extend_from_slice(content.decoder.trailers());
            self.out.extend_from_slice(b"\r\n");
        }
        if !self.out.is_empty() {
            self.flush().await?;
        }
        Ok(())
    }
}

/// Drives two futures to their ends, neither of which may be dropped before. Each closure is called
/// when its future has ended and may make the other end soon.
pub(super) async fn both<A, B>(
    first: impl Future<Output = A>,
    second: impl Future<Output = B>,
    on_first: impl FnOnce(&A),
    on_second: impl FnOnce(&B),
) -> (A, B) {
    let mut first = pin!(first);
    let mut second = pin!(second);
    let (mut on_first, mut on_second) = (Some(on_first), Some(on_second));
    let (mut one, mut two) = (None, None);
    std::future::poll_fn(move |cx| {
        if two.is_none()
            && let Poll::Ready(value) = second.as_mut().poll(cx)
        {
            if let Some(on_second) = on_second.take() {
                on_second(&value);
            }
            two = Some(value);
        }
        if one.is_none()
            && let Poll::Ready(value) = first.as_mut().poll(cx)
        {
            if let Some(on_first) = on_first.take() {
                on_first(&value);
            }
            one = Some(value);
        }
        match (one.take(), two.take()) {
            (Some(one), Some(two)) => Poll::Ready((one, two)),
            (left, right) => {
                (one, two) = (left, right);
                Poll::Pending
            }
        }
    })
    .await
}
