//! Damage to the structure of ONNX models, and what is then done with them. The fuzz targets and the mutator of
//! `fuzz/` run it for hours, a test on every change for a moment.
#![allow(dead_code, unreachable_pub, missing_docs)] // each user takes its part

pub mod damage;
pub mod exercise;
#[path = "../../../../secateur-model/tests/common/patches.rs"]
pub mod patches;
pub mod seeds;
pub mod wire;

/// The same numbers on every machine (SplitMix64).
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// True once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}
