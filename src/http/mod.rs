//! HTTP without IO: bytes in, bytes out, in the words of RFC 9110 and RFC 9112.
//!
//! Everything here takes bytes that a stranger wrote. Nothing panics on them, nothing allocates
//! more than a named limit allows, and whatever is ambiguous is refused.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "a test fails by panicking"
    )
)]

pub mod compress;
pub mod date;
pub mod form;
pub mod h1;
pub mod hop_by_hop;
pub mod real_ip;
pub mod uri;
pub mod ws;
