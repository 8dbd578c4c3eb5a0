//! Counters and their exposition.
//!
//! Each shard owns a [`Shard`] and alone writes to it, so counting is a load and a store without a
//! locked instruction; the same holds for its part of each API's [`ApiCounters`]. [`Registry`] adds
//! the shards up when somebody asks, beside what belongs to the process; [`Registry::render`] is the
//! text that `/metrics` answers. How many series there are is bounded: APIs by 10,000, reasons by
//! 64, and what was never counted is not shown per API.

mod api;
mod histogram;
mod named;
mod names;
mod prometheus;
mod records;
mod registry;
mod shard;
mod store;
mod window;

pub use api::{ApiCounters, ApiShard, ApiSums, Refusal};
pub use histogram::{Histogram, Spans};
pub use named::Named;
pub use records::Records;
pub use registry::Registry;
pub use shard::{Counter, Gauge, Shard};
pub use store::StoreCounts;
pub use window::{Figures, Window};
