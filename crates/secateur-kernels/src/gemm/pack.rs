//! Operands in panels: the order in which the tile kernel reads them.

use crate::simd::{Isa, TileSize};
use crate::threads::Buffer;
use std::ops::Range;

/// Deepest block of the inner dimension: a panel of B of this depth and one of A stay near in the caches.
const MAX_KC: usize = 256;

/// Depth of the blocks into which an inner dimension of `k` is cut.
pub(crate) fn depth_block(k: usize) -> usize {
    k.div_ceil(k.div_ceil(MAX_KC).max(1)).max(1)
}

/// How wide panels are: `width`, the last one `round`ed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PanelShape {
    pub(crate) width: usize,
    pub(crate) round: usize,
}

impl PanelShape {
    /// Panels of rows of a left operand.
    pub(crate) fn lhs(tile: TileSize) -> Self {
        PanelShape { width: tile.mr, round: 1 }
    }

    /// Panels of columns of a right operand.
    pub(crate) fn rhs(tile: TileSize) -> Self {
        PanelShape { width: tile.nr, round: tile.lanes }
    }

    /// Values to one row of the depth, for `cols` columns.
    pub(crate) fn padded(self, cols: usize) -> usize {
        cols.next_multiple_of(self.round)
    }
}

/// A matrix of depth × columns that can be written into panels.
pub(crate) trait PanelSource: Sync {
    /// Writes rows `depth` of columns `cols` as panels, one after the other, each as rows of its width, with
    /// zeros where the last one is rounded up.
    fn pack(&self, isa: Isa, depth: Range<usize>, cols: Range<usize>, shape: PanelShape, dst: &mut [f32]);
}

/// A whole operand in panels: blocks of the depth, each as panels.
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    shape: PanelShape,
    depth: usize,
    padded: usize,
    data: Buffer,
}

impl Panels {
    pub(crate) fn new(
        isa: Isa,
        depth: usize,
        cols: usize,
        shape: PanelShape,
        source: &dyn PanelSource,
    ) -> Self {
        let padded = shape.padded(cols);
        let mut data = Buffer::zeroed(depth * padded);
        let kc = depth_block(depth);
        for k0 in (0..depth).step_by(kc) {
            let k1 = depth.min(k0 + kc);
            source.pack(isa, k0..k1, 0..cols, shape, &mut data.as_mut_slice()[k0 * padded..k1 * padded]);
        }
        Panels { shape, depth, padded, data }
    }

    /// The panel of block `depth` (a block of `depth_block`) that begins with column `col`.
    pub(crate) fn at(&self, depth: Range<usize>, col: usize) -> &[f32] {
        debug_assert!(col.is_multiple_of(self.shape.width) && depth.end <= self.depth);
        &self.data.as_slice()[depth.start * self.padded + col * depth.len()..depth.end * self.padded]
    }
}

/// A matrix by strides: element (i, j) is `data[i · row_stride + j · col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    /// The memory that holds the elements.
    pub data: &'a [f32],
    /// Distance of rows.
    pub row_stride: usize,
    /// Distance of columns.
    pub col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// A matrix of rows of `cols` contiguous elements.
    pub fn row_major(data: &'a [f32], cols: usize) -> Self {
        MatRef { data, row_stride: cols, col_stride: 1 }
    }

    /// The same matrix with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        MatRef { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }

    /// # Panics
    /// If the memory doesn't hold `rows` × `cols` elements.
    pub(crate) fn check(&self, rows: usize, cols: usize, name: &str) {
        if rows > 0 && cols > 0 {
            let last = (rows - 1) * self.row_stride + (cols - 1) * self.col_stride;
            assert!(
                last < self.data.len(),
                "{name}: {rows}x{cols} needs {} values, has {}",
                last + 1,
                self.data.len()
            );
        }
    }
}

impl PanelSource for MatRef<'_> {
    fn pack(&self, _isa: Isa, depth: Range<usize>, cols: Range<usize>, shape: PanelShape, dst: &mut [f32]) {
        let mut at = 0;
        for col in cols.clone().step_by(shape.width) {
            let n = shape.width.min(cols.end - col);
            let width = shape.padded(n);
            let panel = &mut dst[at..at + width * depth.len()];
            at += panel.len();
            if self.col_stride == 1 {
                for (row, k) in panel.chunks_exact_mut(width).zip(depth.clone()) {
                    let start = k * self.row_stride + col;
                    row[..n].copy_from_slice(&self.data[start..start + n]);
                    row[n..].fill(0.0);
                }
            } else {
                for (row, k) in panel.chunks_exact_mut(width).zip(depth.clone()) {
                    let start = k * self.row_stride + col * self.col_stride;
                    for (j, x) in row[..n].iter_mut().enumerate() {
                        *x = self.data[start + j * self.col_stride];
                    }
                    row[n..].fill(0.0);
                }
            }
        }
    }
}
