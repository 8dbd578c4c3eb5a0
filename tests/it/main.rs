//! The single integration binary.
//!
//! Black-box modules start the built `penstock` and speak to it over sockets ([`harness`]).
//! `tidy` reads the sources instead. Long forms run with `SLOW_TESTS=1`, the epoll driver with
//! `PENSTOCK_TEST_DRIVER=epoll`.

// Tests block, poll and measure on threads of their own; the bans protect the shards.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod cli;
mod features;
mod features_apidef;
mod fuzz_corpus;
mod harness;
mod limits;
mod tidy;
mod websocket;
mod wire_attacks;
