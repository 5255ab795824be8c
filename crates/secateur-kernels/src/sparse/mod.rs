//! Products with sparse constant weights: only nonzero weights are stored and multiplied.
//!
//! A weight multiplies a whole tile of pixels (or tokens), so the cost of the sparse format, one index per weight, is
//! shared by 56 multiply-adds or more. Inputs are processed one block of channels at a time, small enough for the
//! first-level cache. Each block contributes to all outputs, whose partial sums stay in the output tile.

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
