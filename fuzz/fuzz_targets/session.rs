//! Sessions and policies: parse(print(x)) == x.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_fuzz::session::check(data));
