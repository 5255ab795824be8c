//! What dense convolutions do, to estimate their time.

use super::{Algorithm, ConvSpec};
use crate::simd::Isa;
use crate::size;

/// What a dense convolution of an image does; its time is estimated from it. What its algorithm doesn't do is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DenseWork {
    /// Multiply-adds of a matrix product, those beyond the edges of the outputs among them.
    pub products: usize,
    /// Values of windows that are brought together for the product.
    pub gathered: usize,
    /// Values that are copied for the product where a window is a pixel.
    pub copied: usize,
    /// Multiply-adds of the algorithm for few output channels, those beyond the ends of rows among them.
    pub direct: usize,
    /// The same of the algorithm that goes plane by plane.
    pub depthwise: usize,
    /// Rows of outputs of the algorithm that goes plane by plane.
    pub depthwise_rows: usize,
    /// Values of the output that the first two algorithms finish.
    pub outputs: usize,
}

impl ConvSpec {
    /// What [`PackedConv`](super::PackedConv) does for an image.
    ///
    /// # Panics
    /// If the spec has no meaning.
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
