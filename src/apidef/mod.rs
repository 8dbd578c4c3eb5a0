//! API definitions as written.

pub mod go_regex;
