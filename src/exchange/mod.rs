//! One request and its answer: what belongs to it while it passes through the gateway.
//!
//! [`Ctx`] owns the bytes of the head and refers to them by ranges, so that its buffers can move
//! into IO. [`Local`] is what every exchange of one shard may use.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use crate::{
    analytics::{Producer, Tail},
    error::Reject,
    http::h1::{self, RequestHead, ResponseHead, Span},
    metrics,
    net::{
        buffers::Buffers,
        io::Stream,
        watch::{Deadline, Watch, process_us},
    },
    telemetry::{Step, Trace, Tracer},
};

pub mod body;
pub mod detail;
pub mod direct;
pub mod limits;
pub mod path_set;
pub mod sessions;

/// What the request plane reads of `tyk.conf`, ready for use. Times in milliseconds.
#[derive(Debug, Clone)]
pub struct Settings {
    pub limits: h1::Limits,
    /// `http_server_options.max_request_body_size`; `u64::MAX` when off.
    pub request_body_bytes_max: u64,
    /// Bodies that a step reads.
    pub step_body_bytes_max: u64,
    pub interim_max: u32,
    pub header_deadline_ms: u64,
    pub body_grace_ms: u64,
    /// Bytes per second a request body must keep up after the grace; 0 switches it off.
    pub body_rate_min: u64,
    pub keep_alive_idle_ms: u64,
    /// `http_server_options.write_timeout`: how long a peer may take no byte of an answer.
    pub write_timeout_ms: u64,
    pub close_connections: bool,
    pub hide_generator: bool,
    pub websockets: bool,
    pub clean_urls: bool,
    pub strict_routes: bool,
    pub escape_target_path: bool,
    /// A client's own `X-Real-IP` and `X-Forwarded-For` count only from these networks; `None`:
    /// from anyone, as in Tyk.
    pub trusted_proxies: Option<Vec<crate::net::cidr::Net>>,
    pub upstream_idle_ms: u64,
    /// Idle connections kept per upstream and shard.
    pub upstream_idle_max: usize,
    pub store_deadline_ms: u64,
    /// How long a session counts without being read again; 0: for one request.
    pub session_fresh_ms: u64,
    pub access_log: crate::config::AccessLog,
    /// StatsD is told how long steps of chains take.
    pub times_steps: bool,
}

/// What the exchanges of one shard share.
pub struct Local {
    pub buffers: Buffers,
    pub watch: Watch,
    pub metrics: Arc<metrics::Shard>,
    pub settings: Arc<Settings>,
    pub sessions: sessions::Sessions,
    pub limiters: limits::Limiters,
    /// Where records go; `None` while analytics are off.
    pub records: Option<Producer>,
    /// Where spans go; `None` while OpenTelemetry is off.
    pub tracer: Option<Tracer>,
    /// The number of this shard.
    pub index: usize,
    /// The process is going away: answers close their connection.
    pub draining: Cell<bool>,
    /// The time to drain is over: streams without end are ended now.
    pub ending: Cell<bool>,
    /// The last `Date` field written, with the second that it stands for.
    date: RefCell<(u64, [u8; 29])>,
}

impl Local {
    #[must_use]
    pub fn new(
        settings: Arc<Settings>,
        metrics: Arc<metrics::Shard>,
        sessions: sessions::Sessions,
        limiters: limits::Limiters,
        records: Option<Producer>,
        tracer: Option<Tracer>,
        index: usize,
    ) -> Self {
        Self {
            buffers: Buffers::default(),
            watch: Watch::new(),
            metrics,
            settings,
            sessions,
            limiters,
            records,
            tracer,
            index,
            draining: Cell::new(false),
            ending: Cell::new(false),
            date: RefCell::new((0, [b' '; 29])),
        }
    }

    /// Appends a `Date` field (RFC 9110 §6.6.1).
    pub fn write_date(&self, out: &mut Vec<u8>) {
        let mut date = self.date.borrow_mut();
        let now_s = self.watch.clock().unix_s();
        if date.0 != now_s {
            *date = (now_s, crate::http::date::httpdate(now_s));
        }
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(&date.1);
        out.extend_from_slice(b"\r\n");
    }
}

/// The client's side of a connection.
pub struct Client {
    pub stream: Stream,
    pub deadline: Rc<Deadline>,
    pub peer: SocketAddr,
    /// A byte of an answer to the current request has been sent.
    pub begun: Cell<bool>,
    /// What arrived behind the message that is being read, in order.
    pub overread: RefCell<Vec<u8>>,
}

/// The current request.
#[derive(Default)]
pub struct Ctx {
    pub head: RequestHead,
    /// Bytes received, from the first byte of the head.
    pub inb: Vec<u8>,
    /// Room for the head of the answer.
    pub answer: ResponseHead,
    /// The decoded path, where it differs from the path as sent.
    pub decoded_path: Option<Vec<u8>>,
    /// The content, once a step has read it.
    pub content: Option<Vec<u8>>,
    /// Bytes of `inb` that belong to this request, as far as they have been used.
    pub consumed: usize,
    /// How long the upstream may take until the first byte of its answer; 0 is for ever.
    pub header_timeout_ms: u64,
    /// Whole field lines for the answer, proxied or not.
    pub answer_fields: Vec<u8>,
    /// Quota limit, remaining and reset, as `X-RateLimit-*` tells them.
    pub quota: [i64; 3],
    /// What the request's key may do, once authentication has found it.
    pub access: Option<Rc<sessions::Held>>,
    /// Authentication let the request pass without a session, because the store is away.
    pub is_let_in: bool,
    /// When a question to the store was asked in vain: the next one has what is left of its time.
    pub store_asked_us: Option<u64>,
    /// How far it came, for counters and records.
    pub course: Course,
    /// What the connection's last record ended in.
    pub record_tail: RefCell<Tail>,
    /// What goes upstream otherwise than it came.
    pub edits: Option<Box<Edits>>,
    /// Its place in its trace, where the API has a tracer.
    pub trace: Option<Trace>,
    /// The steps that have run, where somebody times them.
    pub steps: Vec<Step>,
}

/// How far a request came, and when. Times are those of [`process_us`](crate::net::watch::process_us).
#[derive(Debug, Default)]
pub struct Course {
    pub began_us: u64,
    /// When it was handed to the upstream's side; 0: never.
    pub proxied_us: u64,
    /// When the head of the upstream's answer was there; 0: never.
    pub answered_us: Cell<u64>,
    /// Why it was turned away; empty: it was not.
    pub refused: &'static str,
    /// The same, where it is one of Tyk's refusals.
    pub reject: Option<Reject>,
    /// What a step said that turned a traced request away in words of its own.
    pub message: Option<Box<str>>,
    /// Its content was there with its head: the exchange ends as soon as that is passed on.
    pub is_answered_whole: Cell<bool>,
    /// A record or spans of it are wanted, so what they need is kept.
    pub is_recorded: bool,
    /// Bytes of the answer's content that have gone to the client.
    pub content_bytes: Cell<u64>,
    /// The path as the upstream got it, where a record or spans are wanted: a part of the request's,
    /// or else `upstream_path`.
    pub upstream_path_span: Option<Span>,
    pub upstream_path: Vec<u8>,
    /// The authority of the target, where that is not the first and a record or spans are wanted.
    pub target: Option<Vec<u8>>,
    /// What the endpoint says about the record.
    pub tracking: Tracking,
    /// What the organisation says about it.
    pub organisation: OfOrganisation,
    /// What passes, where the record is to have it whole.
    pub detail: Option<Box<detail::Detail>>,
}

/// What becomes of a request's record because of its endpoint.
#[derive(Debug, Default)]
pub enum Tracking {
    #[default]
    Plain,
    /// The pattern stands for the path.
    Pattern(Arc<[u8]>),
    /// There is none.
    Off,
}

/// What an organisation decides about records; `None`: what the API or `tyk.conf` says.
#[derive(Debug, Default, Clone, Copy)]
pub struct OfOrganisation {
    /// Seconds.
    pub expire_after_s: Option<i64>,
    pub is_detailed: Option<bool>,
}

/// Changes of a request on its way upstream.
#[derive(Debug, Default)]
pub struct Edits {
    /// Instead of the client's query; empty: none.
    pub query: Option<Vec<u8>>,
    /// Fields by their place in the head: left out, or with another value. The last entry of a
    /// place counts.
    pub fields: Vec<(usize, Option<Vec<u8>>)>,
}

impl Edits {
    /// What to do with the field at a place; `None`: nothing.
    #[must_use]
    pub fn field(&self, place: usize) -> Option<Option<&[u8]>> {
        let edit = self.fields.iter().rev().find(|(at, _)| *at == place)?;
        Some(edit.1.as_deref())
    }
}

impl Ctx {
    /// The path as the upstream got it, where a record or spans are wanted; else empty.
    #[must_use]
    pub fn upstream_path(&self) -> &[u8] {
        match self.course.upstream_path_span {
            Some(span) => self.part(span),
            None => &self.course.upstream_path,
        }
    }

    /// As [`Ctx::upstream_path`], with what stands behind it in the same buffer, and the length of
    /// the path.
    #[inline(always)]
    #[must_use]
    pub fn upstream_path_and_behind(&self) -> (&[u8], usize) {
        match self.course.upstream_path_span {
            Some(span) => {
                let from = self.inb.get(span.at as usize..).unwrap_or_default();
                (from, span.len as usize)
            }
            None => (&self.course.upstream_path, self.course.upstream_path.len()),
        }
    }

    /// The bytes of a part of the head.
    #[must_use]
    pub fn part(&self, span: Span) -> &[u8] {
        span.of(&self.inb)
    }

    /// The value of the first field of that name.
    #[inline]
    #[must_use]
    pub fn field(&self, name: h1::FieldName) -> Option<&[u8]> {
        self.head.fields.value(name).map(|value| self.part(value))
    }

    /// The value of the first field with a name that has no [`h1::FieldName`].
    #[must_use]
    pub fn field_named(&self, name: &[u8]) -> Option<&[u8]> {
        self.head
            .fields
            .iter()
            .find(|field| self.part(field.name).eq_ignore_ascii_case(name))
            .map(|field| self.part(field.value))
    }

    /// The query as the upstream gets it; `None` without one.
    #[must_use]
    pub fn upstream_query(&self) -> Option<&[u8]> {
        match &self.edits {
            Some(edits) if edits.query.is_some() => {
                edits.query.as_deref().filter(|query| !query.is_empty())
            }
            _ => self.head.query.map(|query| self.part(query)),
        }
    }

    /// From when on this request waits for the store.
    #[must_use]
    pub fn store_asked_us(&self) -> u64 {
        self.store_asked_us.unwrap_or_else(process_us)
    }

    /// For changing what goes upstream.
    pub fn edits(&mut self) -> &mut Edits {
        self.edits.get_or_insert_default()
    }

    /// The path that middleware sees: decoded.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.decoded_path
            .as_deref()
            .unwrap_or_else(|| self.head.path_bytes(&self.inb))
    }

    /// The address that IP lists and records go by (Tyk: `request.RealIP`).
    #[must_use]
    pub fn real_ip(&self, peer: IpAddr, settings: &Settings) -> IpAddr {
        let trusted = settings
            .trusted_proxies
            .as_ref()
            .is_none_or(|nets| nets.iter().any(|net| net.contains(peer)));
        if !trusted {
            return peer;
        }
        crate::http::real_ip::real_ip(&self.head.fields, &self.inb, peer).0
    }

    /// Whether [`Ctx::real_ip`] may differ from one request of a connection to the next.
    #[inline]
    #[must_use]
    pub fn may_tell_ip(&self) -> bool {
        let fields = &self.head.fields;
        fields.has(h1::FieldName::XRealIp) | fields.has(h1::FieldName::XForwardedFor)
    }

    /// Forgets the request and keeps the allocations.
    pub fn clear(&mut self) {
        self.decoded_path = None;
        self.content = None;
        self.consumed = 0;
        self.header_timeout_ms = 0;
        self.answer_fields.clear();
        self.quota = [0; 3];
        self.access = None;
        self.is_let_in = false;
        self.store_asked_us = None;
        self.edits = None;
        let mut upstream_path = std::mem::take(&mut self.course.upstream_path);
        upstream_path.clear();
        self.course = Course {
            upstream_path,
            ..Course::default()
        };
        self.trace = None;
        self.steps.clear();
    }
}

/// An answer that the gateway gives itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    /// Whole field lines without `Content-Length`, `Date` and `Connection`.
    pub fields: Vec<u8>,
    pub content: Vec<u8>,
}

impl Reply {
    /// A reply with one `Content-Type`.
    #[must_use]
    pub fn new(status: u16, content_type: &str, content: impl Into<Vec<u8>>) -> Self {
        let fields = format!("Content-Type: {content_type}\r\n").into_bytes();
        Self {
            status,
            fields,
            content: content.into(),
        }
    }
}

/// What a step decides. Nothing else ends a chain early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Next,
    Respond(Reply),
    Reject(Reject),
}
