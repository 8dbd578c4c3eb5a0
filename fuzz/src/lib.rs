//! Second opinions on what the network sends, and the comparison with the real parsers.
//!
//! Each `check` takes any bytes and panics when the two disagree. The fuzz targets call them, and
//! so does `tests/it/fuzz_corpus.rs` (which includes these files), on stable and without libFuzzer.

pub mod apidef;
pub mod config;
pub mod h1_chunked;
pub mod h1_request;
pub mod session;
