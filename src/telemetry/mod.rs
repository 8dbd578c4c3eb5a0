//! What others may see of the traffic: traces, StatsD, log lines on other machines.
//!
//! ```text
//!   shard thread                                     tokio thread
//!   Tracer::begin ─> Trace ─> Tracer::end ══ blocks ══> Exporter ─> OTLP over gRPC or HTTP
//!                      └─ fields for the upstream
//! ```
//!
//! A request that is not sampled costs its ids and nothing else; an API without tracing has no
//! [`ApiTracer`]. Spans are made on the tokio side from what [`Tracer::end`] left.
//!
//! No OpenTelemetry SDK: it would bring a second HTTP stack and some 40 crates to send one message
//! whose form is fixed. `h2` speaks gRPC's transport; the rest is `protobuf` and a few fields.
//!
//! Tyk: `opentelemetry.*`, `gateway/instrumentation_handlers.go`, `gateway/server.go` (`setupLogger`).

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod context;
mod export;
mod otlp;
mod remote_log;
mod sampler;
mod statsd;
mod tracer;
mod transport;

pub use context::{Propagation, TraceContext, parse_b3, parse_b3_fields, parse_traceparent};
pub use export::{Exporter, Hurry};
pub use otlp::Resource;
pub use remote_log::{LogWriter, RemoteLog};
pub use sampler::Sampler;
pub use statsd::{StatsD, StatsDSender};
pub use tracer::{ApiTracer, Facts, Step, Taken, Trace, Tracer, Tracing, UpstreamCall};
pub use transport::Endpoint;
