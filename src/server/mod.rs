//! The process: start, signals, upgrade.

pub mod boot;
