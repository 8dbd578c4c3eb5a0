//! The single integration binary.

mod features_apidef;
mod tidy;
