//! The process: start, signals, upgrade.
