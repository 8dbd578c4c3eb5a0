//! The single integration binary.
//!
//! Black-box modules start the built `penstock` and speak to it over sockets ([`harness`]).
//! `tidy` reads the sources instead. Long forms run with `SLOW_TESTS=1`, the epoll driver with
//! `PENSTOCK_TEST_DRIVER=epoll`.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests block, poll and measure on threads of their own; the bans protect the shards"
)]
#![allow(unreachable_pub, reason = "nobody is outside of a test binary")]

mod auth_key;
mod cli;
mod conformance;
mod debug;
mod dns;
mod documents;
mod features;
mod features_apidef;
mod fleet;
mod fuzz_corpus;
mod harness;
mod keys;
mod limits;
mod options;
mod proxying;
mod readme;
mod records;
mod reload;
mod start;
mod storage;
mod storage_crash;
mod storage_faults;
mod streams;
mod telemetry;
mod tidy;
mod upgrade;
mod websocket;
mod wire_attacks;
