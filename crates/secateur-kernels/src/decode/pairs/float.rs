//! Weights that are multiplied in single precision.

use super::super::rows::prefetch_ahead;
use super::super::value::Float;
use super::{GROUP, Paired};
use crate::simd::{Isa, Simd};

/// Weights of a row in a block: as many as a 32-bit word has picks for.
const WEIGHTS: usize = 16;

/// A block has one word per lane, with two bits per weight, and then the weights, lane by lane.
impl<T: Float> Paired for T {
    const INPUTS: usize = WEIGHTS / 2 * GROUP;

    fn lanes(isa: Isa) -> usize {
        isa.tile().lanes
    }

    #[inline(always)]
    fn block_bytes(lanes: usize) -> usize {
        lanes * (size_of::<u32>() + WEIGHTS * size_of::<T>())
    }

    fn put(self, block: &mut [i8], lanes: usize, [four, k, lane]: [usize; 3], pick: u8) {
        let step = 2 * four + k;
        let (words, weights) = block.split_at_mut(lanes * size_of::<u32>());
        let word = words[lane * size_of::<u32>()..][..size_of::<u32>()].as_mut_ptr().cast::<u32>();
        let weight = weights[(step * lanes + lane) * size_of::<T>()..][..size_of::<T>()].as_mut_ptr();
        // SAFETY: `words` and `weights` were sliced to the sizes written; any bits are valid values.
        unsafe {
            word.write_unaligned(word.read_unaligned() | u32::from(pick) << (2 * step));
            weight.cast::<T>().write_unaligned(self);
        }
    }

    #[inline(always)]
    unsafe fn blocks<S: Simd, const R: usize>(
        s: S,
        mut blocks: [*const i8; R],
        count: usize,
        x: *const f32,
        sums: &mut [f32],
    ) {
        let size = Self::block_bytes(S::LANES);
        let mut acc = [[s.zero(); 2]; R];
        for b in 0..count {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let mut words = [s.load_words(blocks[0].cast()); R];
                for (words, block) in words.iter_mut().zip(blocks) {
                    prefetch_ahead(s, block, size);
                    *words = s.load_words(block.cast());
                }
                for four in 0..WEIGHTS / 2 {
                    let x = s.load_quads(x.add(b * Self::INPUTS + four * GROUP));
                    for r in 0..R {
                        let weights = blocks[r].add(S::LANES * size_of::<u32>()).cast::<T>();
                        for (k, sum) in acc[r].iter_mut().enumerate() {
                            let w = T::load(s, weights.add((2 * four + k) * S::LANES));
                            *sum = s.fma(w, s.pick_quads(x, words[r]), *sum);
                            words[r] = s.shift_right::<2>(words[r]);
                        }
                    }
                }
                blocks.iter_mut().for_each(|block| *block = block.add(size));
            }
        }
        for (&[a, b], sums) in acc.iter().zip(sums.chunks_exact_mut(S::LANES)) {
            // SAFETY: there are LANES sums.
            unsafe { s.store(sums.as_mut_ptr(), s.add(a, b)) };
        }
    }
}
