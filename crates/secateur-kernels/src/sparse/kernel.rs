//! The row kernel: output rows of a tile, each a sum of input rows times weights.

use super::program::{Group, Row};
use crate::simd::{Kernel, Simd};
use crate::tiled::COLUMNS;

/// Rows of outputs of one tile and block.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) rows: &'a [Row],
    pub(super) groups: &'a [Group],
    /// The block's inputs.
    pub(super) input: *const f32,
    pub(super) out: *mut f32,
    /// What is added to the outputs, lying as they do; may be null.
    pub(super) residual: *const f32,
    /// Bounds to which the outputs are clamped.
    pub(super) bounds: (f32, f32),
}

impl Rows<'_> {
    /// Computes tiles of `height` rows of eight pixels, the inputs of which lie `step` values apart.
    ///
    /// # Safety
    /// Inputs can be read at the offsets of all groups, and outputs and residuals at those of all rows; the
    /// numbers of groups in `rows` add up to `groups`.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(self, s: S, height: usize, step: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match step {
                COLUMNS => self.wide::<S, COLUMNS>(s, height),
                16 => self.narrow::<S::Narrow, 16>(s.narrow(), height),
                64 => self.narrow::<S::Narrow, 64>(s.narrow(), height),
                _ => unreachable!("rows {step} values apart"),
            }
        }
    }

    /// Whole tiles are contiguous: two rows may share a vector, and half a vector may be left.
    #[inline(always)]
    unsafe fn wide<S: Simd, const STEP: usize>(self, s: S, height: usize) {
        if S::LANES <= COLUMNS {
            // SAFETY: the caller's promise.
            return unsafe { self.narrow::<S, STEP>(s, height) };
        }
        macro_rules! heights {
            ($($h:literal: $wide:literal + $half:literal),*) => {
                match height {
                    $($h => s.call(Sized::<$wide, $half, STEP>(self)),)*
                    _ => unreachable!("tiles of {height} rows"),
                }
            };
        }
        heights!(1: 0 + 1, 2: 1 + 0, 3: 1 + 1, 4: 2 + 0, 5: 2 + 1, 6: 3 + 0, 7: 3 + 1, 8: 4 + 0)
    }

    #[inline(always)]
    unsafe fn narrow<S: Simd, const STEP: usize>(self, s: S, height: usize) {
        macro_rules! vectors {
            ($($n:literal)*) => {
                match height * COLUMNS / S::LANES {
                    $($n => s.call(Sized::<$n, 0, STEP>(self)),)*
                    _ => unreachable!("tiles of {height} rows"),
                }
            };
        }
        vectors!(1 2 3 4 5 6 7 8 10 12 14 16)
    }
}

/// [`Rows`] of tiles of `WIDE` vectors and `HALF` (0 or 1) narrow ones, the rows of input `STEP` values apart.
struct Sized<'a, const WIDE: usize, const HALF: usize, const STEP: usize>(Rows<'a>);

/// The vectors of an output row.
pub(super) struct Sums<S: Simd, const WIDE: usize, const HALF: usize> {
    wide: [S::V; WIDE],
    half: [<S::Narrow as Simd>::V; HALF],
}

impl<S: Simd, const WIDE: usize, const HALF: usize> Sums<S, WIDE, HALF> {
    /// # Safety
    /// The row can be read.
    #[inline(always)]
    pub(super) unsafe fn load(s: S, p: *const f32) -> Self {
        let narrow = s.narrow();
        // SAFETY: the caller's promise.
        unsafe {
            Sums {
                wide: std::array::from_fn(|v| s.load(p.add(v * S::LANES))),
                half: std::array::from_fn(|_| narrow.load(p.add(WIDE * S::LANES))),
            }
        }
    }

    /// Vectors from `from` on of rows that lie `STEP` values apart.
    ///
    /// # Safety
    /// The rows can be read.
    #[inline(always)]
    pub(super) unsafe fn load_steps<const STEP: usize>(s: S, p: *const f32, from: usize) -> Self {
        let at = |v: usize| (from + v) * S::LANES / COLUMNS * STEP + (from + v) * S::LANES % COLUMNS;
        // SAFETY: the caller's promise.
        unsafe {
            Sums {
                wide: std::array::from_fn(|v| s.load(p.add(at(v)))),
                half: std::array::from_fn(|_| s.narrow().load(p.add(at(WIDE)))),
            }
        }
    }

    /// Adds `x` times a weight.
    #[inline(always)]
    pub(super) fn add_scaled(&mut self, s: S, x: &Self, weight: S::V) {
        for (sum, &x) in self.wide.iter_mut().zip(&x.wide) {
            *sum = s.fma(x, weight, *sum);
        }
        for (sum, &x) in self.half.iter_mut().zip(&x.half) {
            *sum = s.narrow().fma(x, s.low(weight), *sum);
        }
    }

    #[inline(always)]
    pub(super) fn splat(s: S, x: f32) -> Self {
        Sums { wide: [s.splat(x); WIDE], half: [s.narrow().splat(x); HALF] }
    }

    /// # Safety
    /// The row can be written.
    #[inline(always)]
    pub(super) unsafe fn store(&self, s: S, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            for v in 0..WIDE {
                s.store(p.add(v * S::LANES), self.wide[v]);
            }
            for v in 0..HALF {
                s.narrow().store(p.add(WIDE * S::LANES), self.half[v]);
            }
        }
    }

    /// Adds input rows `STEP` values apart, times a weight.
    ///
    /// # Safety
    /// The input can be read.
    #[inline(always)]
    pub(super) unsafe fn add_product<const STEP: usize>(&mut self, s: S, p: *const f32, weight: S::V) {
        // SAFETY: the caller's promise.
        unsafe {
            for v in 0..WIDE {
                let at = v * S::LANES / COLUMNS * STEP + v * S::LANES % COLUMNS;
                self.wide[v] = s.fma(s.load(p.add(at)), weight, self.wide[v]);
            }
            for v in 0..HALF {
                let x = s.narrow().load(p.add(WIDE * S::LANES));
                self.half[v] = s.narrow().fma(x, s.low(weight), self.half[v]);
            }
        }
    }

    #[inline(always)]
    pub(super) fn clamp(&mut self, s: S, (lo, hi): (f32, f32)) {
        for v in &mut self.wide {
            *v = s.min(s.splat(hi), s.max(s.splat(lo), *v));
        }
        let n = s.narrow();
        for v in &mut self.half {
            *v = n.min(n.splat(hi), n.max(n.splat(lo), *v));
        }
    }
}

impl<const WIDE: usize, const HALF: usize, const STEP: usize> Kernel for Sized<'_, WIDE, HALF, STEP> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { rows, groups, input, out, residual, bounds } = self.0;
        let clamps = bounds != (f32::NEG_INFINITY, f32::INFINITY);
        let mut group = groups.as_ptr();
        for row in rows {
            // SAFETY: `Rows::run`'s caller promises that rows, inputs and groups fit each other.
            unsafe {
                let to = out.add(row.out as usize);
                let mut sums: Sums<S, WIDE, HALF> =
                    if row.first { Sums::splat(s, row.bias) } else { Sums::load(s, to) };
                macro_rules! products {
                    ($($i:literal)*) => {
                        // One load for the four offsets; the loads are what limits the loop.
                        let offsets = (&raw const (*group).offsets).cast::<u64>().read_unaligned().to_le();
                        let weights = s.load_quads((&raw const (*group).weights).cast());
                        $(
                            let x = input.byte_add((offsets >> (16 * $i)) as usize & 0xffff);
                            sums.add_product::<STEP>(s, x, s.splat_quads::<$i>(weights));
                        )*
                        group = group.add(1);
                    };
                }
                match row.partial {
                    0 => {}
                    1 => {
                        products!(3);
                    }
                    2 => {
                        products!(2 3);
                    }
                    _ => {
                        products!(1 2 3);
                    }
                }
                for _ in 0..row.groups {
                    products!(0 1 2 3);
                }
                if row.last {
                    if !residual.is_null() {
                        let one = s.splat(1.0);
                        sums.add_product::<COLUMNS>(s, residual.add(row.out as usize), one);
                    }
                    if clamps {
                        sums.clamp(s, bounds);
                    }
                }
                sums.store(s, to);
            }
        }
    }
}
