//! The single integration binary.

mod cli;
mod features;
mod features_apidef;
mod tidy;
