//! Upstreams behind an HTTP proxy.
