//! See `verify::fuzz`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| verify::fuzz::net(bytes));
