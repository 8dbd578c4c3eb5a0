//! Chunked bodies: the decoder against the slow one.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_fuzz::h1_chunked::check(data));
