//! Operation counts of dense convolutions, for cost estimates.

use super::{Algorithm, ConvSpec};
use crate::simd::Isa;
use crate::size;

/// Operation counts of a dense convolution of one image, from which its time is estimated. Counts of the algorithms not
/// used are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DenseWork {
    /// Multiply-adds of a matrix product, including those beyond the edges of the output.
    pub products: usize,
    /// Values gathered from windows for the product.
    pub gathered: usize,
    /// Values copied for the product of a 1 × 1 convolution.
    pub copied: usize,
    /// Multiply-adds of the direct algorithm, including those beyond the ends of rows.
    pub direct: usize,
    /// Multiply-adds of the depthwise algorithm, including those beyond the ends of rows.
    pub depthwise: usize,
    /// Output rows of the depthwise algorithm.
    pub depthwise_rows: usize,
    /// Output values of the first two algorithms.
    pub outputs: usize,
}

impl ConvSpec {
    /// Operation counts of [`PackedConv`](super::PackedConv) for one image.
    ///
    /// # Panics
    /// If the spec is invalid.
    pub fn work(&self) -> DenseWork {
        let (geometry, tile) = (self.geometry(), Isa::best().tile());
        let (rows, depth) = (self.out_channels / self.groups, self.depth());
        let [d, h, w] = geometry.axes.map(|axis| axis.out);
        let pixels = geometry.out_plane();
        let vector = if geometry.prefers_narrow(tile.lanes, tile.narrow) { tile.narrow } else { tile.lanes };
        let whole_rows = size::work(&[self.out_channels, depth, d, h, w.next_multiple_of(vector)]);
        let outputs = size::work(&[self.out_channels, pixels]);
        match Algorithm::of(self, &geometry) {
            Algorithm::Product => {
                let met = size::work(&[self.groups, depth, pixels]);
                let [gathered, copied] = if geometry.pointwise() { [0, met] } else { [met, 0] };
                let padded = [rows.next_multiple_of(tile.mr), pixels.next_multiple_of(tile.lanes)];
                DenseWork {
                    products: size::work(&[self.groups, depth, padded[0], padded[1]]),
                    gathered,
                    copied,
                    outputs,
                    ..DenseWork::default()
                }
            }
            Algorithm::Direct => DenseWork { direct: whole_rows, outputs, ..DenseWork::default() },
            Algorithm::Depthwise => {
                let depthwise_rows = size::work(&[self.out_channels, d, h]);
                DenseWork { depthwise: whole_rows, depthwise_rows, ..DenseWork::default() }
            }
        }
    }
}
