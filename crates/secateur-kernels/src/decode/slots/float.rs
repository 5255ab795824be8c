//! Weights that are multiplied in single precision: one slot per row and step.

use super::super::rows::prefetch_ahead;
use super::super::value::Float;
use super::{MAX_ROWS, ROW_BITS, Shape, Slotted, Spill};
use crate::simd::{Isa, Kernel, Simd};

/// Steps of a block: as many as a word has picks for.
const fn steps<S: Simd>() -> usize {
    (u32::BITS / S::PICK_BITS) as usize
}

const fn block_bytes<S: Simd, T>() -> usize {
    S::LANES * (size_of::<u32>() + steps::<S>() * size_of::<T>())
}

struct ShapeOf<T>(std::marker::PhantomData<T>);

impl<T> Kernel for ShapeOf<T> {
    type Output = Shape;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Shape {
        Shape {
            lanes: S::LANES,
            window: 1 << S::PICK_BITS,
            slots: 1,
            steps: steps::<S>(),
            bytes: block_bytes::<S, T>(),
        }
    }
}

/// A block has one word per lane, with the picks of each step from the low bits up, and then each step's weights.
impl<T: Float> Slotted for T {
    /// The input and, in the low bits, the row; the weight.
    type Spill = (u32, T);

    fn pack_spill(spill: Spill<T>) -> (u32, T) {
        ((spill.input << ROW_BITS | spill.row) as u32, spill.weight)
    }

    #[inline(always)]
    fn unpack_spill((place, weight): (u32, T)) -> Spill<T> {
        Spill { input: (place >> ROW_BITS) as usize, row: place as usize % MAX_ROWS, weight }
    }

    fn shape(isa: Isa) -> Shape {
        isa.run(ShapeOf::<T>(std::marker::PhantomData))
    }

    fn put(self, block: &mut [i8], shape: Shape, [step, lane, _]: [usize; 3], pick: u8) {
        let (picks, weights) = block.split_at_mut(shape.lanes * size_of::<u32>());
        let word = picks[lane * 4..][..4].as_mut_ptr().cast::<u32>();
        let bits = shape.window.ilog2() as usize;
        // SAFETY: both slices have the sizes written; any bits are valid values.
        unsafe {
            word.write_unaligned(word.read_unaligned() | u32::from(pick) << (bits * step));
            let weights =
                weights[(step * shape.lanes + lane) * size_of::<T>()..][..size_of::<T>()].as_mut_ptr();
            weights.cast::<T>().write_unaligned(self);
        }
    }

    #[inline(always)]
    unsafe fn add_steps<S: Simd, const R: usize>(
        s: S,
        mut blocks: [*const i8; R],
        windows: &[u32],
        x: *const f32,
        sums: &mut [f32],
    ) {
        let mut acc = [[s.zero(); 2]; R];
        for windows in windows.chunks_exact(steps::<S>()) {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let mut words = [s.load_words(blocks[0].cast()); R];
                for (words, block) in words.iter_mut().zip(blocks) {
                    prefetch_ahead(s, block, block_bytes::<S, T>());
                    *words = s.load_words(block.cast());
                }
                for (step, &window) in windows.iter().enumerate() {
                    let x = x.add(window as usize);
                    for r in 0..R {
                        let weights = blocks[r].add(S::LANES * size_of::<u32>()).cast::<T>();
                        let w = T::load(s, weights.add(step * S::LANES));
                        acc[r][step % 2] = s.fma(w, s.pick(x, words[r]), acc[r][step % 2]);
                        words[r] = match S::PICK_BITS {
                            5 => s.shift_right::<5>(words[r]),
                            _ => s.shift_right::<4>(words[r]),
                        };
                    }
                }
                blocks.iter_mut().for_each(|block| *block = block.add(block_bytes::<S, T>()));
            }
        }
        for (&[a, b], sums) in acc.iter().zip(sums.chunks_exact_mut(S::LANES)) {
            // SAFETY: there are LANES sums.
            unsafe { s.store(sums.as_mut_ptr(), s.add(s.add(a, b), s.load(sums.as_ptr()))) };
        }
    }
}
