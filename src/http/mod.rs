//! HTTP without IO: bytes in, bytes out, in the words of RFC 9110 and RFC 9112.

pub mod compress;
pub mod date;
pub mod h1;
pub mod hop_by_hop;
pub mod path_set;
pub mod real_ip;
pub mod uri;
pub mod ws;
