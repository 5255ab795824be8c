//! Weights in bytes, whose products are summed as integers.

#[cfg(target_arch = "x86_64")]
use super::super::RowSums;
use super::super::rows::prefetch_ahead;
use super::super::value::BYTE_LANES as LANES;
#[cfg(target_arch = "x86_64")]
use super::{Band, Slots, vbmi};
use super::{INPUT_BITS, MAX_ROWS, ROW_BITS, Shape, Slotted, Spill};
use crate::simd::{Isa, Simd};

/// Bytes of a step's weights, and of the picks of two steps.
const STEP_BYTES: usize = 2 * LANES;

/// Two slots per step, which picks from 16 inputs: a block has a byte for each lane's slot, with 4 bits for each of two
/// steps, and then each step's weights.
const HALF: Shape = Shape { lanes: LANES, window: 16, slots: 2, steps: 2, bytes: 3 * STEP_BYTES };

impl Slotted for i8 {
    /// From the low bits on: the row, the input, the weight.
    type Spill = u32;

    fn pack_spill(spill: Spill<i8>) -> u32 {
        let place = (spill.input << ROW_BITS | spill.row) as u32;
        place | u32::from(spill.weight as u8) << (ROW_BITS + INPUT_BITS)
    }

    #[inline(always)]
    fn unpack_spill(spill: u32) -> Spill<i8> {
        let input = (spill >> ROW_BITS) as usize % (1 << INPUT_BITS);
        Spill { input, row: spill as usize % MAX_ROWS, weight: (spill >> (ROW_BITS + INPUT_BITS)) as i8 }
    }

    fn shape(isa: Isa) -> Shape {
        #[cfg(target_arch = "x86_64")]
        if isa.has_byte_vectors() {
            return vbmi::SHAPE;
        }
        let _ = isa;
        HALF
    }

    fn put(self, block: &mut [i8], shape: Shape, [step, lane, slot]: [usize; 3], pick: u8) {
        let at = shape.slots * lane + slot;
        let count = shape.slots * shape.lanes;
        // Steps share the bytes of the picks.
        block[at] |= (pick << (u8::BITS as usize / shape.steps * step)) as i8;
        block[count * (1 + step) + at] = self;
    }

    #[cfg(target_arch = "x86_64")]
    fn base(shape: Shape, in_slots: &[i8]) -> Option<i32> {
        (shape == vbmi::SHAPE).then(|| vbmi::base(in_slots))
    }

    #[inline(always)]
    unsafe fn add_steps<S: Simd, const R: usize>(
        s: S,
        mut blocks: [*const i8; R],
        windows: &[u32],
        x: *const i8,
        sums: &mut [i32],
    ) {
        let mut acc = [s.zero_sums(); R];
        for windows in windows.chunks_exact(HALF.steps) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let [a, b] = [x.add(windows[0] as usize), x.add(windows[1] as usize)];
                for (block, acc) in blocks.iter_mut().zip(&mut acc) {
                    prefetch_ahead(s, *block, HALF.bytes);
                    let picks = block.cast::<u8>();
                    *acc = s.add_picked::<0, 4>(*acc, block.add(STEP_BYTES), picks, a);
                    *acc = s.add_picked::<4, 4>(*acc, block.add(2 * STEP_BYTES), picks, b);
                    *block = block.add(HALF.bytes);
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(LANES)) {
            sums.iter_mut().zip(s.sums_to_array(*acc)).for_each(|(sum, more)| *sum += more);
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn special(form: &Slots<i8>, isa: Isa, bands: &[Band], x: &[i8], out: RowSums) -> bool {
        let can = isa.has_byte_vectors();
        if can {
            // SAFETY: `has_byte_vectors` has found the instructions; `PackedRows::run` has checked the inputs.
            unsafe { vbmi::run(form, bands, x, out) };
        }
        can
    }
}
