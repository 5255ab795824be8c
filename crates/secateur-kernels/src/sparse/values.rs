//! Weights as they lie in memory.

use crate::simd::Simd;
use crate::value::{ValueType, byte_scale, largest, to_byte};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::borrow::Cow;
use std::ops::Range;

/// The weights of a matrix as they are stored: f32 that a smaller type holds exactly.
pub(super) struct Rounded<'a> {
    pub(super) weights: Cow<'a, [f32]>,
    /// What a stored weight of each output counts; `None` where it counts itself.
    pub(super) scales: Option<Vec<f32>>,
}

impl<'a> Rounded<'a> {
    /// Rounds `weights` (`[outputs, depth]`) times `factors` of outputs to what `values` can hold.
    pub(super) fn new(
        values: ValueType,
        weights: &'a [f32],
        factors: Option<&[f32]>,
        depth: usize,
    ) -> Rounded<'a> {
        let rows = || weights.chunks_exact(depth.max(1));
        match (values, factors) {
            (ValueType::F32, None) => Rounded { weights: weights.into(), scales: None },
            (ValueType::F32, Some(factors)) => {
                let scaled = rows().zip(factors).flat_map(|(row, f)| row.iter().map(move |w| w * f));
                Rounded { weights: scaled.collect(), scales: None }
            }
            (ValueType::F16, _) => {
                let mut halves = vec![f16::ZERO; weights.len()];
                halves.convert_from_f32_slice(weights);
                let mut rounded = vec![0.0; weights.len()];
                halves.convert_to_f32_slice(&mut rounded);
                Rounded { weights: rounded.into(), scales: factors.map(<[f32]>::to_vec) }
            }
            (ValueType::Int8, _) => {
                let bytes = rows().flat_map(|row| {
                    let largest = largest(row);
                    row.iter().map(move |w| f32::from(to_byte(*w, largest)))
                });
                let factor = |o: usize| factors.map_or(1.0, |f| f[o]);
                let scales = rows().enumerate().map(|(o, row)| byte_scale(largest(row)) * factor(o));
                Rounded { weights: bytes.collect(), scales: Some(scales.collect()) }
            }
        }
    }
}

/// The weights of a matrix, and where they and what they meet lie.
pub(super) struct Matrix<'a, N, F> {
    /// What the weights are stored as, and hold exactly.
    pub(super) values: ValueType,
    pub(super) outputs: usize,
    /// From one output to the next in the output tile, in values.
    pub(super) row_len: usize,
    pub(super) bias: Option<&'a [f32]>,
    /// What a weight of each output counts; `None` where it counts itself.
    pub(super) scales: Option<&'a [f32]>,
    /// The columns, shared out.
    pub(super) blocks: &'a [Range<usize>],
    /// The columns and weights of an output, in ascending order.
    pub(super) nonzeros: N,
    /// Where the input of a column lies in its block, in values, given the block and the column.
    pub(super) offset: F,
}

/// Weights that are widened at a time.
pub(super) const ROOM: usize = 4096;

/// Weights in the order in which a kernel takes them.
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

    /// Adds weights that the type holds exactly.
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

    /// The weights of a range as f32, in `room` where they aren't stored as such.
    ///
    /// # Panics
    /// If there is less room than weights.
    #[inline(always)]
    pub(super) fn widened<'a, S: Simd>(
        &'a self,
        s: S,
        range: Range<usize>,
        room: &'a mut [f32],
    ) -> &'a [f32] {
        let room = match self {
            Values::F32(values) => return &values[range],
            Values::F16(_) | Values::Int8(_) => &mut room[..range.len()],
        };
        match self {
            Values::F32(_) => {}
            Values::F16(values) => {
                let mut from = values[range].chunks_exact(S::LANES);
                let mut to = room.chunks_exact_mut(S::LANES);
                for (to, from) in to.by_ref().zip(from.by_ref()) {
                    // SAFETY: LANES values on both sides.
                    unsafe { s.store(to.as_mut_ptr(), s.load_f16(from.as_ptr())) };
                }
                to.into_remainder().iter_mut().zip(from.remainder()).for_each(|(to, w)| *to = w.to_f32());
            }
            // A plain loop, which compilers turn into vectors of the instruction set that this is inlined for.
            Values::Int8(values) => {
                room.iter_mut().zip(&values[range]).for_each(|(to, w)| *to = f32::from(*w))
            }
        }
        room
    }
}
