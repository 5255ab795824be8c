//! Damages the structure of models: an attribute, a constant, an edge, a chain of nodes at a time, and does everything
//! with what comes out. Seeds are small valid models.
#![no_main]

#[path = "../../crates/secateur/tests/common/structure/mod.rs"]
mod structure;

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use structure::damage::{Damaged, damage};
use structure::{exercise, seeds};

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let Some(case) = seeds::of_bytes(&data[..size]) else { return libfuzzer_sys::fuzzer_mutate(data, size, max_size) };
    let model = damage(&case, seed.into()).model;
    match data.get_mut(..model.len()).filter(|_| model.len() <= max_size) {
        Some(to) => {
            to.copy_from_slice(&model);
            model.len()
        }
        None => size,
    }
});

fuzz_target!(|bytes: &[u8]| {
    let Some(case) = seeds::of_bytes(bytes) else { return };
    let inputs = structure::damage::inputs(&case);
    exercise::all(&Damaged { model: bytes.to_vec(), inputs, damage: Vec::new() }, bytes.len() as u64);
});
