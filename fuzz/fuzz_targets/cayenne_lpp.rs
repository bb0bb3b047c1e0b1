#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| app_bridge::fuzz::cayenne_lpp(bytes));
