//! Weights as stored in memory.

use super::kernel::PREFETCH_BYTES;
use crate::simd::{Isa, Simd};
use crate::value::{ValueType, byte_scale, to_bytes};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::borrow::Cow;
use std::ops::Range;

/// The weights of a matrix and how to store them.
pub(super) struct Stored<'a> {
    isa: Isa,
    values: ValueType,
    /// `[outputs, depth]`.
    weights: &'a [f32],
    depth: usize,
    /// Scale per output.
    factors: Option<&'a [f32]>,
}

impl<'a> Stored<'a> {
    pub(super) fn new(
        isa: Isa,
        values: ValueType,
        weights: &'a [f32],
        depth: usize,
        factors: Option<&'a [f32]>,
    ) -> Stored<'a> {
        Stored { isa, values, weights, depth, factors }
    }

    /// Columns and values of an output's nonzero weights, which the type holds exactly.
    pub(super) fn nonzeros(&self, output: usize) -> impl Iterator<Item = (usize, f32)> + use<'a> {
        let row = self.row(output);
        (0..row.len()).map(move |i| (i, row[i])).filter(|(_, w)| *w != 0.0)
    }

    fn row(&self, output: usize) -> Cow<'a, [f32]> {
        let row = &self.weights[output * self.depth..][..self.depth];
        match self.values {
            ValueType::F32 => match self.factors {
                Some(factors) => row.iter().map(|w| w * factors[output]).collect(),
                None => row.into(),
            },
            ValueType::F16 => {
                let mut halves = vec![f16::ZERO; row.len()];
                halves.convert_from_f32_slice(row);
                let mut rounded = vec![0.0; row.len()];
                halves.convert_to_f32_slice(&mut rounded);
                rounded.into()
            }
            ValueType::Int8 => {
                let mut bytes = vec![0; row.len()];
                to_bytes(self.isa, row, &mut bytes);
                bytes.into_iter().map(f32::from).collect()
            }
        }
    }

    /// Scale per output of the stored weights, if they have one.
    pub(super) fn scales(&self) -> Option<Vec<f32>> {
        let factor = |o: usize| self.factors.map_or(1.0, |f| f[o]);
        match self.values {
            ValueType::F32 => None,
            ValueType::F16 => self.factors.map(<[f32]>::to_vec),
            ValueType::Int8 => {
                let mut bytes = vec![0; self.depth];
                let rows = self.weights.chunks_exact(self.depth.max(1)).enumerate();
                let scale = |(o, row)| byte_scale(to_bytes(self.isa, row, &mut bytes)) * factor(o);
                Some(rows.map(scale).collect())
            }
        }
    }
}

/// The weights of a matrix, with the layout of its inputs and outputs.
pub(super) struct Matrix<'a, N, F> {
    /// Type of the stored weights, which holds them exactly.
    pub(super) values: ValueType,
    pub(super) outputs: usize,
    /// Distance between outputs in the output tile, in values.
    pub(super) row_len: usize,
    pub(super) bias: Option<&'a [f32]>,
    /// Scale per output of the stored weights, if they have one.
    pub(super) scales: Option<&'a [f32]>,
    /// The columns of each block.
    pub(super) blocks: &'a [Range<usize>],
    /// Columns and values of an output's nonzero weights, in ascending order.
    pub(super) nonzeros: N,
    /// Offset of a column's input in its block, in values, given the block and the column.
    pub(super) offset: F,
}

/// Weights that are widened at a time.
const WIDENED: usize = 1024;

/// Weights in the order in which a kernel reads them.
#[derive(Clone, Debug)]
pub(super) enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Int8(Vec<i8>),
}

impl Values {
    pub(super) fn new(values: ValueType) -> Values {
        match values {
            ValueType::F32 => Values::F32(vec![]),
            ValueType::F16 => Values::F16(vec![]),
            ValueType::Int8 => Values::Int8(vec![]),
        }
    }

    /// Reserves memory for exactly `count` more weights.
    pub(super) fn reserve(&mut self, count: usize) {
        match self {
            Values::F32(values) => values.reserve_exact(count),
            Values::F16(values) => values.reserve_exact(count),
            Values::Int8(values) => values.reserve_exact(count),
        }
    }

    /// Appends weights that the type holds exactly.
    pub(super) fn extend(&mut self, weights: &[f32]) {
        match self {
            Values::F32(values) => values.extend(weights),
            Values::F16(values) => {
                let at = values.len();
                values.resize(at + weights.len(), f16::ZERO);
                values[at..].convert_from_f32_slice(weights);
            }
            Values::Int8(values) => values.extend(weights.iter().map(|&w| w as i8)),
        }
    }

    /// Whether the weights are stored as f32.
    pub(super) fn are_wide(&self) -> bool {
        matches!(self, Values::F32(_))
    }

    /// Length of the scratch memory in which parts of these numbers of weights are widened, a few parts at a time.
    pub(super) fn scratch_len(&self, parts: impl Iterator<Item = usize>) -> usize {
        if self.are_wide() { 0 } else { parts.max().unwrap_or(0).max(WIDENED) }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
            Values::Int8(values) => values.len(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Values::F32(values) => size_of_val(&values[..]),
            Values::F16(values) => size_of_val(&values[..]),
            Values::Int8(values) => size_of_val(&values[..]),
        }
    }

    /// The weights of a range as f32, widened into `scratch` unless they are stored as f32.
    ///
    /// # Panics
    /// If `scratch` is shorter than the range.
    #[inline(always)]
    pub(super) fn widened<'a, S: Simd>(
        &'a self,
        s: S,
        range: Range<usize>,
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        let to = match self {
            Values::F32(values) => return &values[range],
            Values::F16(_) | Values::Int8(_) => &mut scratch[..range.len()],
        };
        match self {
            Values::F32(_) => {}
            Values::F16(values) => {
                let mut from = values[range].chunks_exact(S::LANES);
                let mut to = to.chunks_exact_mut(S::LANES);
                for (to, from) in to.by_ref().zip(from.by_ref()) {
                    s.prefetch(from.as_ptr().wrapping_byte_add(PREFETCH_BYTES).cast());
                    // SAFETY: LANES values on both sides.
                    unsafe { s.store(to.as_mut_ptr(), s.load_f16(from.as_ptr())) };
                }
                to.into_remainder().iter_mut().zip(from.remainder()).for_each(|(to, w)| *to = w.to_f32());
            }
            // Plain loops, which are vectorised for the instruction set that this is inlined into.
            Values::Int8(values) => {
                const LINE: usize = 64;
                for (to, from) in to.chunks_mut(LINE).zip(values[range].chunks(LINE)) {
                    s.prefetch(from.as_ptr().wrapping_byte_add(PREFETCH_BYTES).cast());
                    to.iter_mut().zip(from).for_each(|(to, w)| *to = f32::from(*w));
                }
            }
        }
        to
    }
}
