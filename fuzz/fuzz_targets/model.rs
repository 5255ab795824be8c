//! Reads bytes as a model of any format, walks all of it, writes it back with and without a change.
#![no_main]

#[path = "../../crates/secateur-model/tests/common/exercise.rs"]
#[allow(dead_code)] // the other target's part
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::model(bytes));
