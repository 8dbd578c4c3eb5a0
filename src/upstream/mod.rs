//! The reverse proxy: where a request goes, over which connection, and how its answer comes back.

pub mod head;
pub mod pool;
pub mod serve;
pub mod target;
pub mod tunnel;
