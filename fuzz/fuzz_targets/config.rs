//! `tyk.conf`: parse(print(x)) == x.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| penstock_fuzz::config::check(data));
