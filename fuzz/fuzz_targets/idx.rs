//! Reads bytes as an idx file.
#![no_main]

#[path = "../../crates/secateur/tests/common/exercise.rs"]
#[allow(dead_code)] // each target uses one of its functions
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drop(exercise::idx(bytes)));
