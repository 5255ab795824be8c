//! Reads bytes as an ONNX model and asks for its shapes, its costs and what can be pruned.
#![no_main]

#[path = "../../crates/secateur-model/tests/common/exercise.rs"]
#[allow(dead_code)] // the other target's part
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| exercise::meaning(bytes));
