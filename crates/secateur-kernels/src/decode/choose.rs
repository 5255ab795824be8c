//! Which layout suits weights.

use super::value::ValueType;
use crate::simd::Isa;

/// How the weights of a row layer lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// All of them, zeros too.
    Dense,
    /// Those that aren't zero, and a bit for each weight.
    Mask,
    /// Those that aren't zero, in slots of steps that several rows take together.
    Slots,
    /// Two of each four inputs, for weights of the pattern 2:4 alone.
    Pairs,
}

/// How many weights there are, and how many of them aren't zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zeros {
    /// All weights.
    pub weights: usize,
    /// Those that aren't zero.
    pub nnz: usize,
    /// Whether at most two of each four along the inputs aren't zero.
    pub two_of_four: bool,
}

impl Layout {
    /// Most inputs of a layer: sums of so many products of bytes fit an i32.
    pub const MAX_INPUTS: usize = 1 << 17;

    /// The fastest layout on this machine for weights in memory.
    pub fn choose(values: ValueType, zeros: Zeros) -> Layout {
        Layout::choose_with(Isa::best(), values, zeros)
    }

    pub(super) fn choose_with(isa: Isa, values: ValueType, zeros: Zeros) -> Layout {
        let density = zeros.nnz as f64 / zeros.weights.max(1) as f64;
        let _ = (isa, values);
        if zeros.two_of_four && density > 0.4 {
            Layout::Pairs
        } else if density > 0.7 {
            Layout::Dense
        } else {
            Layout::Slots
        }
    }
}
