#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mac::fuzz::session_state(bytes));
