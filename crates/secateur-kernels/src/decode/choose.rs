//! Chooses a layout for weights.

use super::pairs;
use crate::simd::Isa;
use crate::value::ValueType;

/// Memory layout of the weights of a row layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// All weights, including zeros.
    Dense,
    /// Nonzero weights, and one bit per weight.
    Mask,
    /// Nonzero weights in the slots of steps that several rows share.
    Slots,
    /// Two of every four inputs; only for the pattern 2:4.
    Pairs,
}

/// Counts of weights and nonzero weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Zeros {
    /// All weights.
    pub weights: usize,
    /// Nonzero weights.
    pub nnz: usize,
    /// How uneven rows are: standard deviation ÷ mean of their numbers of nonzero weights.
    pub spread: f64,
    /// Whether at most two of every four weights along the inputs are nonzero.
    pub two_of_four: bool,
}

impl Zeros {
    /// The zeros of `weights` (`[outputs, inputs]`).
    ///
    /// # Panics
    /// If there are no inputs.
    pub fn of<T: Default + PartialEq>(inputs: usize, weights: &[T]) -> Zeros {
        let of_row = |row: &[T]| row.iter().filter(|w| **w != T::default()).count();
        let counts: Vec<usize> = weights.chunks(inputs).map(of_row).collect();
        let (rows, nnz) = (counts.len().max(1) as f64, counts.iter().sum());
        let mean = nnz as f64 / rows;
        let variance = counts.iter().map(|&count| (count as f64 - mean).powi(2)).sum::<f64>() / rows;
        let spread = if nnz == 0 { 0.0 } else { variance.sqrt() / mean };
        Zeros { weights: weights.len(), nnz, spread, two_of_four: pairs::holds(inputs, weights) }
    }
}

impl Layout {
    /// Most inputs of a layer: the sum of this many products of bytes fits an i32.
    pub const MAX_INPUTS: usize = 1 << 17;

    /// The fastest layout on this machine for weights in memory.
    pub fn choose(values: ValueType, zeros: Zeros) -> Layout {
        Layout::choose_with(Isa::best(), values, zeros)
    }

    pub(super) fn choose_with(isa: Isa, values: ValueType, zeros: Zeros) -> Layout {
        let density = zeros.nnz as f64 / zeros.weights.max(1) as f64;
        let masks = if values == ValueType::Int8 { isa.has_byte_vectors() } else { isa.expands() };
        if zeros.two_of_four && density > 0.4 {
            return Layout::Pairs;
        }
        /// Rows more uneven than pruning whole layers makes them by chance.
        const UNEVEN: f64 = 0.25;
        // Densities from which slots are slower than masks, and from which dense is fastest.
        let (slots, dense) = match (values, masks) {
            // Masks process several rows at the pace of the one with most weights; slots sort rows.
            (ValueType::F32, true) if zeros.spread > UNEVEN => (0.6, 0.9),
            (ValueType::F32, true) => (0.2, 0.9),
            (ValueType::F16, true) => (0.4, 0.65),
            (ValueType::Int8, true) => (0.15, 0.8),
            (ValueType::F32, false) => (0.7, 0.7),
            (ValueType::F16, false) => (0.6, 0.6),
            (ValueType::Int8, false) => (0.52, 0.52),
        };
        if density < slots {
            Layout::Slots
        } else if density < dense {
            Layout::Mask
        } else {
            Layout::Dense
        }
    }
}
