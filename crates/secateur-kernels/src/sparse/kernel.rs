//! The row kernel: output rows of a tile, each a sum of input rows times weights.

use super::program::{GROUP, RowStream};
use crate::simd::{Kernel, Simd};
use crate::tiled::COLUMNS;

/// Distance at which weights are prefetched: a network's weights are in no near cache when they are needed.
pub(super) const PREFETCH_BYTES: usize = 2048;

/// Distance, in values, at which residuals and outputs that are written without being read are prefetched. Rows of a
/// tile are contiguous, and so are tiles; maps are in no near cache.
pub(super) const ROW_PREFETCH: usize = 1024;

/// Output rows of one tile, for one block of inputs.
#[derive(Clone, Copy)]
pub(super) struct RowTask<'a> {
    pub(super) stream: RowStream<'a>,
    /// The block's inputs.
    pub(super) input: *const f32,
    pub(super) out: *mut f32,
    /// Added to the outputs, in their layout; may be null.
    pub(super) residual: *const f32,
    /// Bounds that the outputs are clamped to.
    pub(super) bounds: (f32, f32),
}

/// How vectors cover the rows of a tile.
#[derive(Clone, Copy, Debug)]
pub(super) struct VectorLayout {
    /// Rows of the tile.
    pub(super) height: usize,
    /// Distance between the inputs of neighbouring output rows, in values.
    pub(super) step: usize,
    /// Whether a vector holds one row of the tile's first half and one of its second half, instead of neighbours.
    pub(super) folded: bool,
}

/// A task that is compiled for each [`VectorLayout`].
pub(super) trait LaidOut: Sized {
    /// Runs on tiles of `vectors` vectors.
    ///
    /// # Safety
    /// The implementing type states its preconditions.
    unsafe fn run<S: Simd, const STEP: usize, const FOLDED: bool>(self, s: S, vectors: usize);
}

impl VectorLayout {
    /// Runs a task compiled for this layout.
    ///
    /// # Safety
    /// As [`LaidOut::run`] of the task.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(self, s: S, task: impl LaidOut) {
        let vectors = |lanes: usize| (self.height * COLUMNS).div_ceil(lanes);
        let (wide, row) = (vectors(S::LANES), vectors(S::Narrow::LANES));
        // SAFETY: guaranteed by the caller.
        unsafe {
            match (self.step, self.folded) {
                (COLUMNS, false) => task.run::<S, COLUMNS, false>(s, wide),
                (COLUMNS, true) if S::LANES > COLUMNS => task.run::<S, COLUMNS, true>(s, wide),
                (16, true) if S::LANES > COLUMNS => task.run::<S, 16, true>(s, wide),
                (16, false) => task.run::<S::Narrow, 16, false>(s.narrow(), row),
                (64, false) => task.run::<S::Narrow, 64, false>(s.narrow(), row),
                _ => unreachable!("{self:?}"),
            }
        }
    }
}

impl LaidOut for RowTask<'_> {
    /// # Safety
    /// `input` can be read at the offsets of all groups; `out` can be written and `residual` read (unless null) at the
    /// offsets of all rows, for `vectors` vectors each. No other thread uses these outputs. The rows' groups add up to
    /// those of the stream.
    #[inline(always)]
    unsafe fn run<S: Simd, const STEP: usize, const FOLDED: bool>(self, s: S, vectors: usize) {
        macro_rules! vectors {
            ($($n:literal)*) => {
                match vectors {
                    $($n => s.call(OfVectors::<$n, STEP, FOLDED>(self)),)*
                    _ => unreachable!("tiles of {vectors} vectors"),
                }
            };
        }
        vectors!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
    }
}

/// [`RowTask`] of tiles of `N` vectors.
struct OfVectors<'a, const N: usize, const STEP: usize, const FOLDED: bool>(RowTask<'a>);

/// The vectors of an output row.
///
/// Filled by loops: `array::from_fn` is not always inlined, and then its closure lacks the caller's instruction set.
#[derive(Clone, Copy)]
pub(super) struct Sums<S: Simd, const N: usize>([S::V; N]);

impl<S: Simd, const N: usize> Sums<S, N> {
    /// Loads vectors of an output row.
    ///
    /// # Safety
    /// The vectors of `part` can be read from `row`.
    #[inline(always)]
    pub(super) unsafe fn load<const FOLDED: bool>(s: S, row: *const f32, part: Part) -> Self {
        let mut sums = Sums::splat(s, 0.0);
        for (v, sum) in sums.0.iter_mut().enumerate() {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let p = row.add(at_output::<S, FOLDED>(part.from + v));
                *sum = if FOLDED { s.load_halves(p, p.add(part.of * COLUMNS)) } else { s.load(p) };
            }
        }
        sums
    }

    /// Loads the inputs of `N` vectors, from vector `from` on, of rows that are `STEP` values apart.
    ///
    /// # Safety
    /// These vectors can be read from `p`.
    #[inline(always)]
    pub(super) unsafe fn load_inputs<const STEP: usize>(s: S, p: *const f32, from: usize) -> Self {
        let mut inputs = Sums::splat(s, 0.0);
        for (v, input) in inputs.0.iter_mut().enumerate() {
            // SAFETY: guaranteed by the caller.
            *input = unsafe { s.load(p.add(at_input::<S, STEP>(from + v))) };
        }
        inputs
    }

    #[inline(always)]
    pub(super) fn splat(s: S, x: f32) -> Self {
        Sums([s.splat(x); N])
    }

    /// Adds `x` · `weight`.
    #[inline(always)]
    pub(super) fn add_scaled(&mut self, s: S, x: &Self, weight: S::V) {
        for (sum, &x) in self.0.iter_mut().zip(&x.0) {
            *sum = s.fma(x, weight, *sum);
        }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, s: S, x: &Self) {
        for (sum, &x) in self.0.iter_mut().zip(&x.0) {
            *sum = s.add(*sum, x);
        }
    }

    /// Multiplies by `factor` and adds `plus`.
    #[inline(always)]
    pub(super) fn scale(&mut self, s: S, factor: f32, plus: f32) {
        for sum in &mut self.0 {
            *sum = s.fma(*sum, s.splat(factor), s.splat(plus));
        }
    }

    #[inline(always)]
    pub(super) fn clamp(&mut self, s: S, (lo, hi): (f32, f32)) {
        for v in &mut self.0 {
            *v = s.min(s.splat(hi), s.max(s.splat(lo), *v));
        }
    }

    /// Stores vectors of an output row.
    ///
    /// # Safety
    /// The vectors of `part` can be written to `row`, and no other thread uses them.
    #[inline(always)]
    pub(super) unsafe fn store<const FOLDED: bool>(&self, s: S, row: *mut f32, part: Part) {
        for (v, &sum) in self.0.iter().enumerate() {
            // SAFETY: guaranteed by the caller.
            unsafe {
                let p = row.add(at_output::<S, FOLDED>(part.from + v));
                if FOLDED { s.store_halves(p, p.add(part.of * COLUMNS), sum) } else { s.store(p, sum) }
            }
        }
    }
}

/// Which vectors of a row: those from `from` on, of `of` in all.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) from: usize,
    pub(super) of: usize,
}

/// Offset of vector `v` of an output row; of its first half if rows are folded.
#[inline(always)]
fn at_output<S: Simd, const FOLDED: bool>(v: usize) -> usize {
    v * if FOLDED { COLUMNS } else { S::LANES }
}

/// Offset of the inputs of vector `v`.
#[inline(always)]
fn at_input<S: Simd, const STEP: usize>(v: usize) -> usize {
    v * S::LANES / COLUMNS * STEP + v * S::LANES % COLUMNS
}

/// Rows of at most this many vectors sum every second weight separately, because processors have about eight additions in
/// flight.
const FEW: usize = 4;

impl<const N: usize, const STEP: usize, const FOLDED: bool> Kernel for OfVectors<'_, N, STEP, FOLDED> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RowTask { stream, input, out, residual, bounds } = self.0;
        let RowStream { rows, offsets, weights, scaled } = stream;
        let clamps = bounds != (f32::NEG_INFINITY, f32::INFINITY);
        let (mut offset, mut weight) = (offsets.as_ptr(), weights.as_ptr());
        let whole = Part { from: 0, of: N };
        for row in rows {
            // SAFETY: the contract of `RowTask::run` makes all offsets valid and gives each row its groups.
            unsafe {
                let to = out.add(row.out as usize);
                for v in 0..N {
                    let ahead = row.out as usize + v * S::LANES + ROW_PREFETCH;
                    if row.first && row.last {
                        s.prefetch_write(out.wrapping_add(ahead));
                    }
                    if row.last && !residual.is_null() {
                        s.prefetch(residual.wrapping_add(ahead));
                    }
                }
                let start = if scaled { 0.0 } else { row.bias };
                let mut sums: Sums<S, N> =
                    if row.first { Sums::splat(s, start) } else { Sums::load::<FOLDED>(s, to, whole) };
                let mut others = Sums::splat(s, 0.0);
                macro_rules! products {
                    ($($i:literal)*) => {
                        s.prefetch(weight.wrapping_byte_add(PREFETCH_BYTES));
                        s.prefetch(offset.wrapping_byte_add(PREFETCH_BYTES / 2).cast());
                        // One load for four offsets, because loads limit the loop.
                        let offsets = offset.cast::<u64>().read_unaligned().to_le();
                        let weights = s.load_quads(weight);
                        $(
                            let x = input.byte_add((offsets >> (16 * $i)) as usize & 0xffff);
                            let to = if N <= FEW && $i % 2 == 0 { &mut others } else { &mut sums };
                            to.add_scaled(s, &Sums::load_inputs::<STEP>(s, x, 0), s.splat_quads::<$i>(weights));
                        )*
                        (offset, weight) = (offset.add(1), weight.add(GROUP));
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
                if N <= FEW {
                    sums.add(s, &others);
                }
                if row.last {
                    if scaled {
                        sums.scale(s, row.scale, row.bias);
                    }
                    if !residual.is_null() {
                        sums.add(s, &Sums::load::<FOLDED>(s, residual.add(row.out as usize), whole));
                    }
                    if clamps {
                        sums.clamp(s, bounds);
                    }
                }
                sums.store::<FOLDED>(s, to, whole);
            }
        }
    }
}
