//! The process: start, signals, upgrade.

pub mod boot;
pub mod notify;
pub mod pid_file;
pub mod signals;
pub mod upgrade;
