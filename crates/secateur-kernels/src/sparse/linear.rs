//! Linear layers with sparse weights on tiles of tokens.

use super::SparseConv;
use crate::conv::ConvSpec;
use crate::gemm::MatRef;
use crate::tiled::Tiling;

impl SparseConv {
    /// Packs a linear layer, x W + bias, as a convolution of 1 × 1 over tokens tiled as `input` (see
    /// [`Tiling::of_tokens`]): `weights` are W (`[inputs, outputs]`), `bias` has `outputs` values.
    ///
    /// # Panics
    /// If the weights' memory is too short or the bias has another length.
    pub fn linear(outputs: usize, weights: MatRef, bias: Option<&[f32]>, input: &Tiling) -> SparseConv {
        let inputs = input.channels();
        let spec = ConvSpec::new(inputs, outputs, &input.size(), &[1; 2]);
        SparseConv::new(&columns(inputs, outputs, weights), bias, &spec, input)
    }
}

/// The columns of a matrix of `rows` × `cols`, one after the other.
///
/// # Panics
/// If its memory is too short.
pub(super) fn columns(rows: usize, cols: usize, matrix: MatRef) -> Vec<f32> {
    matrix.check(rows, cols, "weights of a linear layer");
    let MatRef { data, row_stride, col_stride } = matrix;
    (0..cols * rows).map(|i| data[i % rows * row_stride + i / rows * col_stride]).collect()
}

#[cfg(test)]
mod tests;
