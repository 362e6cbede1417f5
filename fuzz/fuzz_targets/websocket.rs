//! What a WebSocket peer sends, to the filter and to a library.

#![no_main]

#[path = "../websocket.rs"]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| properties::websocket(input));
