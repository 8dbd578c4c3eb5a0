//! A shard's side of tracing: ids, and what it leaves of a request for the spans to be made of.
//!
//! A request takes 24 random bytes of the shard's own generator; only a sampled one writes an entry.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    analytics::Identity,
    apidef::ApiDefinition,
    config::Config,
    mailbox::{Filler, Party, Taker, blocks},
    metrics::Shard,
    net::watch::{process_us, unix_us},
    telemetry::{Propagation, Sampler, TraceContext, context::hex, otlp},
};

/// How this process traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tracing {
    pub propagation: Propagation,
    pub sampler: Sampler,
    /// Spans name the key: only where keys are hashed.
    pub shows_keys: bool,
}

impl Tracing {
    /// `None` while `opentelemetry.enabled` is off.
    ///
    /// # Errors
    /// One line naming the key whose value does not exist.
    pub fn from_config(config: &Config) -> Result<Option<Self>, String> {
        let otel = &config.opentelemetry;
        if !otel.enabled {
            return Ok(None);
        }
        let unknown = |key, value: &str| format!("opentelemetry.{key}: {value:?} does not exist");
        let form = &otel.context_propagation;
        Ok(Some(Self {
            propagation: Propagation::from_config(form)
                .ok_or_else(|| unknown("context_propagation", form))?,
            sampler: Sampler::from_config(&otel.sampling)
                .ok_or_else(|| unknown("sampling.type", &otel.sampling.kind))?,
            shows_keys: config.hash_keys,
        }))
    }
}

/// One API's part in its spans, put into bytes at load.
#[derive(Debug)]
pub struct ApiTracer {
    /// Never given twice.
    number: u64,
    attributes: Box<[u8]>,
    has_steps: bool,
}

impl ApiTracer {
    #[must_use]
    pub fn from_definition(api: &ApiDefinition) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            attributes: otlp::api_attributes(api).into(),
            has_steps: api.detailed_tracing,
        }
    }

    /// `detailed_tracing`: each step of the chain is a span.
    #[inline]
    #[must_use]
    pub fn has_steps(&self) -> bool {
        self.has_steps
    }

    pub(super) fn attributes(&self) -> &[u8] {
        &self.attributes
    }
}

impl Party for ApiTracer {
    fn number(&self) -> u64 {
        self.number
    }
}

/// A request's place in its trace, for as long as it is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    trace_id: [u8; 16],
    /// The caller's span, where there is one.
    parent_id: [u8; 8],
    span_id: [u8; 8],
    upstream_id: [u8; 8],
    propagation: Propagation,
    is_sampled: bool,
    began_at_ns: u64,
}

impl Trace {
    #[inline]
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.is_sampled
    }

    /// Whether a field of the client, in any case, gives way to those of
    /// [`Trace::write_upstream_fields`].
    #[must_use]
    pub fn replaces(&self, name: &[u8]) -> bool {
        let mut replaced = self.propagation.replaced().iter();
        replaced.any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
    }

    /// Appends whole field lines that tell the upstream its place in the trace.
    pub fn write_upstream_fields(&self, out: &mut Vec<u8>) {
        self.propagation.inject(&self.upstream(), out);
    }

    /// What the upstream is told.
    #[must_use]
    pub fn upstream(&self) -> TraceContext {
        TraceContext {
            trace_id: self.trace_id,
            span_id: self.upstream_id,
            is_sampled: Some(self.is_sampled),
        }
    }

    /// Appends the field that tells the client its trace.
    pub fn write_id_field(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"X-Tyk-Trace-Id: ");
        hex(&self.trace_id, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// What is told of a request at its end. Spans of time in microseconds, counted from
/// [`Tracer::begin`].
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    pub took_us: u32,
    pub method: &'a [u8],
    /// Inbound, without the query.
    pub path: &'a [u8],
    pub host: &'a [u8],
    pub user_agent: &'a [u8],
    pub ip: IpAddr,
    pub is_tls: bool,
    pub status: u16,
    /// Of the request's content; -1 when it was not told.
    pub request_bytes: i64,
    /// Of the answer's content.
    pub response_bytes: u64,
    /// Empty for an API without versions.
    pub version: &'a [u8],
    pub identity: Option<&'a Identity>,
    /// Why the gateway turned the request away, or what failed.
    pub error: &'a str,
    pub upstream: Option<UpstreamCall<'a>>,
    /// Steps of the chain, for an API that [`ApiTracer::has_steps`].
    pub steps: &'a [Step],
}

/// The exchange with the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamCall<'a> {
    pub began_us: u32,
    pub took_us: u32,
    /// 0 when there was no answer.
    pub status: u16,
    pub authority: &'a [u8],
    pub path: &'a [u8],
    pub is_tls: bool,
}

/// One step of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Tyk's name of the middleware.
    pub name: &'static str,
    pub began_us: u32,
    pub took_us: u32,
    /// It turned the request away.
    pub has_failed: bool,
}

/// A shard's end. Dropping it hands over what is left.
pub struct Tracer {
    tracing: Tracing,
    filler: RefCell<Filler<ApiTracer>>,
    random: Cell<u64>,
    /// From the clock of requests to the time of day, in microseconds.
    wall_us: Cell<u64>,
    metrics: Arc<Shard>,
}

/// The tokio thread's end.
pub type Taken = Taker<ApiTracer>;

impl Tracer {
    /// A tracer that keeps up to `bytes_max` bytes for the other side. Counts on the shard's own
    /// counters.
    #[must_use]
    pub fn new(tracing: Tracing, bytes_max: usize, metrics: Arc<Shard>) -> (Self, Taken) {
        let (filler, taker) = blocks(bytes_max);
        let mut seed = [0; 8];
        if let Err(error) = getrandom::fill(&mut seed) {
            // The address of a fresh allocation differs from shard to shard and start to start.
            seed = (std::ptr::from_ref(&*metrics).addr() as u64).to_ne_bytes();
            tracing::warn!(%error, "ids of traces begin from an address");
        }
        let tracer = Self {
            tracing,
            filler: RefCell::new(filler),
            random: Cell::new(u64::from_ne_bytes(seed)),
            wall_us: Cell::new(wall_us()),
            metrics,
        };
        (tracer, taker)
    }

    /// How requests are traced here.
    #[inline]
    #[must_use]
    pub fn tracing(&self) -> Tracing {
        self.tracing
    }

    /// A time of [`process_us`] in nanoseconds since 1970.
    #[inline]
    #[must_use]
    pub fn wall_ns(&self, process_us: u64) -> u64 {
        self.wall_us.get().wrapping_add(process_us) * 1000
    }

    /// Begins a request's spans. `now_ns` counts from 1970.
    #[inline]
    #[must_use]
    pub fn begin(&self, now_ns: u64, parent: Option<TraceContext>) -> Trace {
        let trace_id = match &parent {
            Some(parent) => parent.trace_id,
            None => (u128::from(self.id()) << 64 | u128::from(self.id())).to_be_bytes(),
        };
        Trace {
            trace_id,
            parent_id: parent.map_or([0; 8], |parent| parent.span_id),
            span_id: self.id().to_be_bytes(),
            upstream_id: self.id().to_be_bytes(),
            propagation: self.tracing.propagation,
            is_sampled: self.tracing.sampler.samples(&trace_id, parent.as_ref()),
            began_at_ns: now_ns,
        }
    }

    /// Leaves a sampled request's facts for its spans.
    pub fn end(&self, api: &Arc<ApiTracer>, trace: &Trace, facts: &Facts<'_>) {
        if !trace.is_sampled {
            return;
        }
        let identity = facts.identity.map_or(&[][..], Identity::bytes);
        let upstream = facts.upstream.unwrap_or(NOT_CALLED);
        let texts = [
            facts.method,
            facts.path,
            facts.host,
            facts.user_agent,
            facts.version,
            identity,
            facts.error.as_bytes(),
            upstream.authority,
            upstream.path,
        ];
        let bytes = HEAD_BYTES
            + texts.iter().map(|text| text.len()).sum::<usize>()
            + facts.steps.iter().map(step_bytes).sum::<usize>();
        let is_kept = self.filler.borrow_mut().put(api, bytes, |place, out| {
            write_head(place, trace, facts, &upstream, out);
            for text in texts {
                out.extend_from_slice(&(text.len() as u32).to_ne_bytes());
            }
            for text in texts {
                out.extend_from_slice(text);
            }
            for step in facts.steps {
                out.extend_from_slice(&step.began_us.to_ne_bytes());
                out.extend_from_slice(&step.took_us.to_ne_bytes());
                out.push(step.has_failed.into());
                out.push(step.name.len() as u8);
                out.extend_from_slice(step.name.as_bytes());
            }
        });
        match is_kept {
            true => self.metrics.traces.count(),
            false => self.metrics.traces_dropped.count(),
        }
    }

    /// To be called once per tick of the shard's clock; see [`Filler::tick`]. Follows the time of
    /// day, so that a request need not ask for it.
    pub fn tick(&self) {
        self.wall_us.set(wall_us());
        self.filler.borrow_mut().tick();
    }

    /// SplitMix64 (S. Vigna): a sequence without a repetition, and never zero.
    #[inline]
    fn id(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mut id = state;
        id = (id ^ id >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        id = (id ^ id >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (id ^ id >> 31).max(1)
    }
}

fn wall_us() -> u64 {
    unix_us().wrapping_sub(process_us())
}

const NOT_CALLED: UpstreamCall<'_> = UpstreamCall {
    began_us: 0,
    took_us: 0,
    status: 0,
    authority: b"",
    path: b"",
    is_tls: false,
};

const TEXTS: usize = 9;
const HEAD_BYTES: usize = 104 + 4 * TEXTS;

const IS_TLS: u16 = 1;
const CALLS_UPSTREAM: u16 = 2;
const UPSTREAM_TLS: u16 = 4;

fn step_bytes(step: &Step) -> usize {
    10 + step.name.len()
}

fn write_head(
    place: u32,
    trace: &Trace,
    facts: &Facts<'_>,
    upstream: &UpstreamCall<'_>,
    out: &mut Vec<u8>,
) {
    let flag = |is_set: bool, bit: u16| if is_set { bit } else { 0 };
    let flags = flag(facts.is_tls, IS_TLS)
        | flag(facts.upstream.is_some(), CALLS_UPSTREAM)
        | flag(upstream.is_tls, UPSTREAM_TLS);
    let ip = match facts.ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    out.extend_from_slice(&place.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&facts.status.to_ne_bytes());
    out.extend_from_slice(&upstream.status.to_ne_bytes());
    out.extend_from_slice(&(facts.steps.len() as u16).to_ne_bytes());
    out.extend_from_slice(&trace.trace_id);
    out.extend_from_slice(&trace.parent_id);
    out.extend_from_slice(&trace.span_id);
    out.extend_from_slice(&trace.upstream_id);
    out.extend_from_slice(&trace.began_at_ns.to_ne_bytes());
    out.extend_from_slice(&facts.took_us.to_ne_bytes());
    out.extend_from_slice(&upstream.began_us.to_ne_bytes());
    out.extend_from_slice(&upstream.took_us.to_ne_bytes());
    out.extend_from_slice(&facts.request_bytes.to_ne_bytes());
    out.extend_from_slice(&facts.response_bytes.to_ne_bytes());
    out.extend_from_slice(&ip);
}

/// An entry read back.
#[derive(Debug, Clone)]
pub(super) struct Told<'a> {
    pub(super) api: u32,
    pub(super) is_tls: bool,
    pub(super) status: u16,
    pub(super) trace_id: [u8; 16],
    pub(super) parent_id: [u8; 8],
    pub(super) span_id: [u8; 8],
    pub(super) upstream_id: [u8; 8],
    pub(super) began_at_ns: u64,
    pub(super) took_us: u32,
    pub(super) request_bytes: i64,
    pub(super) response_bytes: u64,
    pub(super) ip: IpAddr,
    pub(super) method: &'a [u8],
    pub(super) path: &'a [u8],
    pub(super) host: &'a [u8],
    pub(super) user_agent: &'a [u8],
    pub(super) version: &'a [u8],
    pub(super) identity: &'a [u8],
    pub(super) error: &'a [u8],
    pub(super) upstream: Option<UpstreamCall<'a>>,
    pub(super) steps: Vec<ToldStep<'a>>,
}

/// A [`Step`] read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ToldStep<'a> {
    pub(super) name: &'a [u8],
    pub(super) began_us: u32,
    pub(super) took_us: u32,
    pub(super) has_failed: bool,
}

impl<'a> Told<'a> {
    /// Takes the first entry off `bytes`. `None` at the end.
    pub(super) fn read(bytes: &mut &'a [u8]) -> Option<Self> {
        let mut unread = *bytes;
        let rest = &mut unread;
        let api = u32::from_ne_bytes(take(rest)?);
        let flags = u16::from_ne_bytes(take(rest)?);
        let status = u16::from_ne_bytes(take(rest)?);
        let upstream_status = u16::from_ne_bytes(take(rest)?);
        let step_count = u16::from_ne_bytes(take(rest)?);
        let trace_id = take(rest)?;
        let parent_id = take(rest)?;
        let span_id = take(rest)?;
        let upstream_id = take(rest)?;
        let began_at_ns = u64::from_ne_bytes(take(rest)?);
        let took_us = u32::from_ne_bytes(take(rest)?);
        let upstream_began_us = u32::from_ne_bytes(take(rest)?);
        let upstream_took_us = u32::from_ne_bytes(take(rest)?);
        let request_bytes = i64::from_ne_bytes(take(rest)?);
        let response_bytes = u64::from_ne_bytes(take(rest)?);
        let ip = Ipv6Addr::from(take::<16>(rest)?).to_canonical();
        let mut lengths = [0; TEXTS];
        for length in &mut lengths {
            *length = u32::from_ne_bytes(take(rest)?) as usize;
        }
        let mut texts = [&[][..]; TEXTS];
        for (text, length) in texts.iter_mut().zip(lengths) {
            *text = take_slice(rest, length)?;
        }
        let mut steps = Vec::with_capacity(step_count.into());
        for _ in 0..step_count {
            let began_us = u32::from_ne_bytes(take(rest)?);
            let took_us = u32::from_ne_bytes(take(rest)?);
            let [has_failed, length] = take(rest)?;
            steps.push(ToldStep {
                name: take_slice(rest, length.into())?,
                began_us,
                took_us,
                has_failed: has_failed != 0,
            });
        }
        *bytes = rest;
        let [
            method,
            path,
            host,
            user_agent,
            version,
            identity,
            error,
            authority,
            upstream_path,
        ] = texts;
        Some(Self {
            api,
            is_tls: flags & IS_TLS != 0,
            status,
            trace_id,
            parent_id,
            span_id,
            upstream_id,
            began_at_ns,
            took_us,
            request_bytes,
            response_bytes,
            ip,
            method,
            path,
            host,
            user_agent,
            version,
            identity,
            error,
            upstream: (flags & CALLS_UPSTREAM != 0).then_some(UpstreamCall {
                began_us: upstream_began_us,
                took_us: upstream_took_us,
                status: upstream_status,
                authority,
                path: upstream_path,
                is_tls: flags & UPSTREAM_TLS != 0,
            }),
            steps,
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = bytes.split_first_chunk()?;
    *bytes = behind;
    Some(*taken)
}

fn take_slice<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, behind) = bytes.split_at_checked(length)?;
    *bytes = behind;
    Some(taken)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn config(otel: &str) -> Config {
        let file = std::path::Path::new("tyk.conf");
        let text = format!(r#"{{"hash_keys": true, "opentelemetry": {{"enabled": true{otel}}}}}"#);
        Config::from_json_str(file, &text).unwrap().0
    }

    pub(crate) fn tracer(otel: &str, bytes_max: usize, metrics: Arc<Shard>) -> (Tracer, Taken) {
        let tracing = Tracing::from_config(&config(otel)).unwrap().unwrap();
        Tracer::new(tracing, bytes_max, metrics)
    }

    pub(crate) fn api(definition: &str) -> Arc<ApiTracer> {
        let definition = ApiDefinition::from_json_slice(definition.as_bytes()).unwrap();
        Arc::new(ApiTracer::from_definition(&definition))
    }

    pub(crate) fn facts() -> Facts<'static> {
        Facts {
            took_us: 1500,
            method: b"GET",
            path: b"/x/1",
            host: b"gw.example:8080",
            user_agent: b"probe/1",
            ip: IpAddr::from([127, 0, 0, 1]),
            is_tls: false,
            status: 200,
            request_bytes: 0,
            response_bytes: 12,
            version: b"",
            identity: None,
            error: "",
            upstream: None,
            steps: &[],
        }
    }

    #[test]
    fn a_request_goes_on_its_callers_trace_or_begins_one() {
        let (tracer, _taken) = tracer("", 0, Arc::default());
        let parent = TraceContext {
            trace_id: [7; 16],
            span_id: [8; 8],
            is_sampled: Some(false),
        };
        let trace = tracer.begin(5, Some(parent));
        assert_eq!((trace.trace_id, trace.parent_id), ([7; 16], [8; 8]));
        assert_eq!(trace.upstream().trace_id, [7; 16]);
        assert_ne!(trace.upstream().span_id, trace.span_id);
        let ids: std::collections::HashSet<_> = (0..1000)
            .map(|_| tracer.begin(5, None))
            .flat_map(|trace| [trace.span_id, trace.upstream_id])
            .collect();
        assert_eq!(ids.len(), 2000);
        let root = tracer.begin(5, None);
        assert_eq!(root.parent_id, [0; 8]);
        assert_ne!(root.trace_id, tracer.begin(5, None).trace_id);
        let mut field = Vec::new();
        trace.write_id_field(&mut field);
        assert_eq!(
            field,
            format!("X-Tyk-Trace-Id: {}\r\n", "07".repeat(16)).as_bytes()
        );
    }

    #[test]
    fn what_is_told_is_read_back() {
        let metrics = Arc::new(Shard::default());
        let (tracer, taken) = tracer("", 0, Arc::clone(&metrics));
        let api = api("{}");
        let identity = Identity::new("k", "bob", "cl", ["t"]);
        let call = UpstreamCall {
            began_us: 3,
            took_us: 4,
            status: 503,
            authority: b"up:1",
            path: b"/base/x",
            is_tls: true,
        };
        let step = |name, has_failed| Step {
            name,
            began_us: 1,
            took_us: 2,
            has_failed,
        };
        let full = Facts {
            ip: "2001:db8::1".parse().unwrap(),
            is_tls: true,
            request_bytes: -1,
            version: b"v1",
            identity: Some(&identity),
            error: "no",
            upstream: Some(call),
            steps: &[step("A", false), step("BB", true)],
            ..facts()
        };
        for facts in [&full, &facts()] {
            let trace = tracer.begin(9, None);
            tracer.end(&api, &trace, facts);
        }
        drop(tracer);
        let block = taken.take().unwrap();
        let mut rest = block.bytes();
        let told = Told::read(&mut rest).unwrap();
        assert_eq!(told.upstream, Some(call));
        let step = |name, has_failed| ToldStep {
            name,
            began_us: 1,
            took_us: 2,
            has_failed,
        };
        assert_eq!(told.steps, [step(b"A", false), step(b"BB", true)]);
        assert_eq!(
            (told.is_tls, told.request_bytes, told.ip),
            (true, -1, full.ip)
        );
        assert_eq!(
            (told.version, told.error, told.identity),
            (&b"v1"[..], &b"no"[..], identity.bytes())
        );
        let told = Told::read(&mut rest).unwrap();
        assert!(told.upstream.is_none() && told.steps.is_empty() && !told.is_tls);
        assert_eq!(
            (told.method, told.path, told.host),
            (&b"GET"[..], &b"/x/1"[..], &b"gw.example:8080"[..])
        );
        assert_eq!(
            (told.took_us, told.response_bytes, told.ip),
            (1500, 12, facts().ip)
        );
        assert!(Told::read(&mut rest).is_none());
        assert_eq!(metrics.traces.value(), 2);
    }

    #[test]
    fn what_is_not_sampled_leaves_nothing_and_what_has_no_room_is_counted() {
        let metrics = Arc::new(Shard::default());
        let (off, taken) = tracer(
            r#", "sampling": {"type": "AlwaysOff"}"#,
            0,
            Arc::clone(&metrics),
        );
        off.end(&api("{}"), &off.begin(1, None), &facts());
        drop(off);
        assert!(taken.take().is_none());
        let (on, _taken) = tracer("", 0, Arc::clone(&metrics));
        let path = vec![b'x'; 1 << 17];
        on.end(
            &api("{}"),
            &on.begin(1, None),
            &Facts {
                path: &path,
                ..facts()
            },
        );
        assert_eq!(
            (metrics.traces.value(), metrics.traces_dropped.value()),
            (0, 1)
        );
    }

    #[test]
    fn a_word_that_does_not_exist_is_named() {
        for (otel, key) in [
            (r#", "context_propagation": "x""#, "context_propagation"),
            (r#", "sampling": {"type": "x"}"#, "sampling.type"),
        ] {
            let why = Tracing::from_config(&config(otel)).unwrap_err();
            assert!(
                why.starts_with(&format!("opentelemetry.{key}: \"x\"")),
                "{why}"
            );
        }
        assert_eq!(Tracing::from_config(&Config::default()), Ok(None));
    }
}
