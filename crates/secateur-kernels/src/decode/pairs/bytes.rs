//! Weights in bytes, whose products are summed as integers.

use super::super::rows::prefetch_ahead;
use super::super::value::BYTE_LANES as LANES;
use super::{GROUP, Paired};
use crate::simd::{Isa, Simd};

/// Bytes of the weights for four inputs, and of the picks of a whole block.
const FOUR: usize = 2 * LANES;

/// A block has two bytes of picks per lane, with two bits for each of its four groups of inputs, and then the weights of
/// each group.
impl Paired for i8 {
    const INPUTS: usize = 4 * GROUP;

    fn lanes(_: Isa) -> usize {
        LANES
    }

    #[inline(always)]
    fn block_bytes(_: usize) -> usize {
        FOUR * (1 + Self::INPUTS / GROUP)
    }

    fn put(self, block: &mut [i8], _: usize, [four, k, lane]: [usize; 3], pick: u8) {
        let at = 2 * lane + k;
        block[at] |= (pick << (2 * four)) as i8;
        block[FOUR * (1 + four) + at] = self;
    }

    #[inline(always)]
    unsafe fn blocks<S: Simd, const R: usize>(
        s: S,
        mut blocks: [*const i8; R],
        count: usize,
        x: *const i8,
        sums: &mut [i32],
    ) {
        let size = Self::block_bytes(LANES);
        let mut acc = [s.zero_sums(); R];
        for b in 0..count {
            for (block, acc) in blocks.iter_mut().zip(&mut acc) {
                prefetch_ahead(s, *block, size);
                // SAFETY: guaranteed by the caller.
                unsafe {
                    let (x, w) = (x.add(b * Self::INPUTS), block.add(FOUR));
                    let picks = block.cast::<u8>();
                    *acc = s.add_picked::<0, 2>(*acc, w, picks, x);
                    *acc = s.add_picked::<2, 2>(*acc, w.add(FOUR), picks, x.add(GROUP));
                    *acc = s.add_picked::<4, 2>(*acc, w.add(2 * FOUR), picks, x.add(2 * GROUP));
                    *acc = s.add_picked::<6, 2>(*acc, w.add(3 * FOUR), picks, x.add(3 * GROUP));
                    *block = block.add(size);
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(LANES)) {
            sums.copy_from_slice(&s.sums_to_array(*acc));
        }
    }
}
