//! The reverse proxy: where a request goes, over which connection, and how its answer comes back.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod head;
pub mod pool;
pub mod serve;
pub mod target;
pub mod tunnel;
