//! Records of requests, in the form that tyk-pump reads.
//!
//! ```text
//!   shard thread                                              tokio thread
//!   Hit ── Producer::record ──> Block (bytes) ══ queue ══> Consumer ─> Assembler ─> encoders
//!                │ full: counted, dropped                                              │
//!                └ nothing waits                       Store::push <── Flusher <───────┘
//! ```
//!
//! A shard writes what it knows of a request into a block of bytes: numbers, and the texts that
//! differ from request to request. What is the same for every request of an API or of a key was put
//! into bytes when the API or the session was loaded. Addresses as text, calendar, tags, normalised
//! paths, GeoIP and the final encoding are left to the tokio thread: on the shard they would cost
//! several times as much as the copy, and GeoIP and patterns have no fixed cost at all.
//!
//! Tyk: `gateway/analytics.go`, `gateway/handler_success.go`, `gateway/handler_error.go`.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod assemble;
mod flush;
mod geo;
mod hit;
mod msgpack;
mod normalise;
mod protobuf;
mod record;
mod recorder;
mod ring;
mod spill;

pub use assemble::{Assembler, Serializer};
pub use flush::{Flusher, Lists, Sink};
pub use geo::GeoIp;
pub(crate) use hit::Identified;
pub use hit::{FieldValues, Hit, Identity, NoFields};
pub use msgpack::encode;
pub use normalise::Normaliser;
pub use record::{Geo, Latency, Network, Record};
pub use recorder::{ApiRecorder, DETAIL_BYTES_MAX, Recording};
pub use ring::{Consumer, HitBlock, Producer, ring};
