//! tyk.conf as written.
