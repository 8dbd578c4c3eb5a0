//! Sockets, TLS and names. The only module that knows the runtime's types.

pub mod dns;
pub mod io;
pub mod sys;
