//! A whole connection, on any bytes.

#![no_main]

#[allow(dead_code)] // the other target's half
#[path = "../properties.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::connection(input));
