//! Gradients of the weights that a mask keeps: the others are not computed.

use crate::simd::{Kernel, MAX_LANES, Simd, sum_lanes};

/// The weights of a matrix that a mask keeps, row by row.
#[derive(Clone, Debug)]
pub struct Kept {
    columns: usize,
    /// Where the weights of each row begin; one entry more than there are rows.
    starts: Vec<usize>,
    /// The columns of the weights.
    weights: Vec<u32>,
}

impl Kept {
    /// The weights of a matrix of `columns` columns for which `keeps` says true.
    ///
    /// # Panics
    /// If the length isn't a whole number of rows.
    pub fn new(columns: usize, len: usize, keeps: impl Fn(usize) -> bool) -> Self {
        assert!(columns > 0 && len.is_multiple_of(columns), "rows of {columns} weights, {len} in all");
        let (mut starts, mut weights) = (vec![0], Vec::new());
        for row in 0..len / columns {
            weights.extend((0..columns).filter(|&c| keeps(row * columns + c)).map(|c| c as u32));
            starts.push(weights.len());
        }
        Kept { columns, starts, weights }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The share of weights that are kept.
    pub fn density(&self) -> f64 {
        self.weights.len() as f64 / (self.rows() * self.columns).max(1) as f64
    }

    /// The columns that are kept of a row.
    #[inline(always)]
    pub(crate) fn of(&self, row: usize) -> &[u32] {
        &self.weights[self.starts[row]..self.starts[row + 1]]
    }
}

/// Vectors of a gradient that stay in registers while the weights of its row are gone through.
const VECTORS: usize = 8;

/// dw\[row, c\] += Σ over i of gradient\[row, i\] · input\[at(c) + i\], for the weights that are kept.
pub(crate) struct Sampled<'a, At: Fn(usize) -> usize> {
    pub(crate) len: usize,
    /// Values that may be read from each gradient and input on: `len` rounded up to whole vectors at least.
    pub(crate) inputs: &'a [f32],
    pub(crate) gradients: &'a [f32],
    /// From one gradient to the next.
    pub(crate) pitch: usize,
    pub(crate) kept: &'a Kept,
    /// The row of the first gradient among those of `kept`.
    pub(crate) first: usize,
    /// Where the input of a column begins.
    pub(crate) at: At,
    /// Rows of all columns.
    pub(crate) dw: &'a mut [f32],
    /// Room for a vector for each weight of a row.
    pub(crate) sums: &'a mut [f32],
}

impl<At: Fn(usize) -> usize> Kernel for Sampled<'_, At> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sampled { len, inputs, gradients, pitch, kept, first, at, dw, sums } = self;
        let vectors = len.div_ceil(S::LANES);
        assert!(vectors * S::LANES <= pitch && sums.len() >= kept.columns * MAX_LANES);
        for (row, dw) in dw.chunks_exact_mut(kept.columns).enumerate() {
            let weights = kept.of(first + row);
            let gradient = &gradients[row * pitch..][..vectors * S::LANES];
            let sums = &mut sums[..weights.len() * S::LANES];
            sums.fill(0.0);
            let mut v = 0;
            while v < vectors {
                // SAFETY: the vectors from v on are within the gradient.
                let g = unsafe { gradient.as_ptr().add(v * S::LANES) };
                let at = |column: u32| {
                    let from = at(column as usize);
                    assert!(from + vectors * S::LANES <= inputs.len(), "an input ends early");
                    inputs.as_ptr().wrapping_add(from + v * S::LANES)
                };
                // SAFETY: as above, and the assertion for inputs; sums has a vector for each weight.
                unsafe {
                    if vectors - v >= VECTORS {
                        block::<S, VECTORS>(s, g, weights, at, sums.as_mut_ptr());
                        v += VECTORS;
                    } else {
                        block::<S, 1>(s, g, weights, at, sums.as_mut_ptr());
                        v += 1;
                    }
                }
            }
            for (&column, sum) in weights.iter().zip(sums.chunks_exact(S::LANES)) {
                // SAFETY: a chunk is a vector.
                dw[column as usize] += sum_lanes(s, unsafe { s.load(sum.as_ptr()) });
            }
        }
    }
}

/// Adds `N` vectors of products to the sum of each weight.
///
/// # Safety
/// `N` vectors can be read at `g` and at each weight's input, and `sums` holds a vector for each weight.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn block<S: Simd, const N: usize>(
    s: S,
    g: *const f32,
    weights: &[u32],
    at: impl Fn(u32) -> *const f32,
    sums: *mut f32,
) {
    let mut values = [s.zero(); N];
    for i in 0..N {
        // SAFETY: guaranteed by the caller.
        values[i] = unsafe { s.load(g.add(i * S::LANES)) };
    }
    let mut place = 0;
    while place < weights.len() {
        let x = at(weights[place]);
        // SAFETY: guaranteed by the caller. Two sums, so that products need not wait for each other.
        unsafe {
            let sum = sums.add(place * S::LANES);
            let (mut even, mut odd) = (s.load(sum), s.zero());
            for i in 0..N {
                let x = s.load(x.add(i * S::LANES));
                if i % 2 == 0 {
                    even = s.fma(values[i], x, even);
                } else {
                    odd = s.fma(values[i], x, odd);
                }
            }
            s.store(sum, s.add(even, odd));
        }
        place += 1;
    }
}
