//! Products with sparse constant weights: only weights that aren't zero are stored and multiplied.
//!
//! A weight multiplies a whole tile of pixels (or tokens), so what a sparse format costs, the index of each
//! weight, is paid once for 56 multiply-adds or more. Inputs are taken a block of channels at a time, small enough
//! for the first-level cache; each block passes over all outputs, the sums of which wait in the output tile.

mod conv;
mod kernel;
mod panel;
mod program;
#[cfg(test)]
mod tests;
mod values;
mod work;

pub use conv::{Form, SparseConv};
pub use work::ConvWork;
