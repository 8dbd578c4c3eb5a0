//! The single integration binary.

mod tidy;
