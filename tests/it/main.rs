//! The single integration binary.

mod cli;
mod features;
mod tidy;
