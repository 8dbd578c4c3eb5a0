//! Sockets, TLS and names. The only module that knows the runtime's types.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

pub mod buffers;
pub mod cidr;
pub mod dns;
pub mod io;
pub mod listener;
pub mod proxy_connect;
pub mod sys;
pub mod tls;
pub mod watch;
