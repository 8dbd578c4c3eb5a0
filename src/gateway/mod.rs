//! Assembly: definitions into chains, requests into answers.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod account;
pub mod chain;
pub mod compile;
pub mod detail;
pub mod error_response;
pub mod folder;
pub mod listen_path;
pub mod live;
pub mod loader;
pub mod reload;
pub mod router;
pub mod serve;
pub mod snapshot;
pub mod spec;
pub mod trace;
