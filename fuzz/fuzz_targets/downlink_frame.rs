#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mac::fuzz::downlink_frame(bytes));
