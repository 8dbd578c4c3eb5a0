//! Records of requests, in the form that tyk-pump reads.
//!
//! ```text
//!   shard thread                                                 store's thread
//!        ┌─ Writer ──> Block of records ══ queue ════════════════════════════════════╗
//!   Hit ─┤  Producer::record                                         Flusher ──> Store::push
//!        └─ Hit::write ──> Block of hits ══ queue ══> Assembler ─> encoders ─────────╝
//!                │ full: counted, dropped
//!                └ nothing waits
//! ```
//!
//! Most records take the short way: the shard writes their final bytes between runs that were
//! prepared when the API or the session was loaded (`prepared`), and nobody touches them again before
//! the store has them. What needs GeoIP, patterns, tags of fields, detail or Protocol Buffers takes
//! the long one: the shard writes what it knows, and the rest is left to the store's thread, because
//! GeoIP and patterns have no fixed cost at all.
//!
//! Tyk: `gateway/analytics.go`, `gateway/handler_success.go`, `gateway/handler_error.go`.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod assemble;
mod flush;
mod geo;
mod hit;
mod msgpack;
mod normalise;
mod prepared;
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
pub use prepared::{Again, KeyRuns, Tail};
pub use record::{Geo, Latency, Network, Record};
pub use recorder::{ApiRecorder, DETAIL_BYTES_MAX, Recording};
pub use ring::{Consumer, HitBlock, Producer, ring};
