//! API definitions as written.
