//! The single integration binary.

mod fuzz_corpus;
mod tidy;
