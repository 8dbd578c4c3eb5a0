//! Penstock: an API gateway that takes a Tyk Gateway's place.
//!
//! Modules in layer order; each may know only those above it in this list (`tests/it/tidy.rs` holds
//! the table). `ARCHITECTURE.md` tells the life of a request.

#![deny(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        clippy::disallowed_types,
        reason = "tests block and measure on threads of their own; the bans protect the shards"
    )
)]

// 0 ground
pub mod error;
pub mod hash;
pub mod log;
pub mod time;
// 1 wire
pub mod http;
pub mod protobuf;
// 2 model
pub mod apidef;
pub mod config;
pub mod policy;
pub mod session;
// 3 machinery
pub mod analytics;
pub mod auth;
pub mod event;
pub mod limit;
pub mod mailbox;
pub mod metrics;
pub mod net;
pub mod storage;
pub mod telemetry;
// 4 features
pub mod exchange;
pub mod middleware;
pub mod upstream;
// 5 assembly
pub mod gateway;
// 6 edges
pub mod control;
pub mod shard;
// 7 process
pub mod cli;
pub mod server;
