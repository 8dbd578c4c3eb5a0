//! Counters and their exposition.
