//! HTTP without IO: bytes in, bytes out, in the words of RFC 9110 and RFC 9112.

pub mod h1;
pub mod path_set;
pub mod ws;
