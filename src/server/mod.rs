//! The process: start, signals, upgrade.

pub mod boot;
pub mod debug;
pub mod fleet;
pub mod last_writes;
pub mod notify;
pub mod origin;
pub mod pid_file;
pub mod process;
pub mod records;
pub mod signals;
pub mod telemetry;
pub mod upgrade;
