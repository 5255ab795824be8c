//! Reads bytes as a checkpoint, leaves a tensor out and adds one, reads what that gives.
#![no_main]

#[path = "../../crates/secateur-model/tests/common/exercise.rs"]
#[allow(dead_code)] // the other target's part
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::table(bytes));
