//! Reads bytes as a model, writes what is packed dense and what is dense packed, reads what that gives.
#![no_main]

#[path = "../../crates/secateur-model/tests/common/exercise.rs"]
#[allow(dead_code)] // the other targets' parts
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::packed(bytes));
