//! Patches models and checkpoints at random: what is written reads as the patched model, or both are refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use secateur_model::io;

#[path = "../../crates/secateur-model/tests/common/patches.rs"]
mod patches;

fuzz_target!(|bytes: &[u8]| {
    // The last bytes choose the changes, the others are the file.
    let Some((bytes, seed)) = bytes.split_last_chunk::<8>() else { return };
    let Ok(model) = io::read_bytes(bytes.to_vec()) else { return };
    let mut state = u64::from_le_bytes(*seed);
    let mut below = |end: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % end
    };
    patches::check(&model, &patches::random(&model, &mut below));
});
