//! Counters and their exposition.
//!
//! Each shard owns a [`Shard`] and alone writes to it, so counting is a load and a store without a
//! locked instruction. [`Registry`] adds the shards up when somebody asks, beside what belongs to
//! the process; [`Registry::render`] is the text that `/metrics` answers.

mod names;
mod prometheus;
mod records;
mod registry;
mod shard;

pub use records::Records;
pub use registry::Registry;
pub use shard::{Counter, Gauge, Shard};
