//! Operands packed in panels, the order in which the tile kernel reads them.

use crate::simd::{Isa, Kernel, MAX_LANES, Simd, TileSize, Transpose};
use crate::size;
use crate::threads::Buffer;
use std::ops::Range;

/// Values that packing may overwrite after its panels.
pub(crate) const PACK_SLACK: usize = MAX_LANES;

/// Values in a panel of a right operand: with a panel of a left one they fill most of a first-level cache.
const PANEL: usize = 9 * 1024;

/// Depth of the blocks that an inner dimension of `k` is divided into.
pub(crate) fn depth_block(tile: TileSize, k: usize) -> usize {
    let most = (PANEL / tile.nr).min(256);
    k.div_ceil(k.div_ceil(most).max(1)).max(1)
}

/// Panel width; the last panel is rounded up to a multiple of `round`.
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

    /// Values per row of the depth, for `cols` columns.
    pub(crate) fn padded(self, cols: usize) -> usize {
        cols.next_multiple_of(self.round)
    }
}

/// A matrix of depth × columns that can be written into panels.
pub(crate) trait PanelSource: Sync {
    /// Writes rows `depth` of columns `cols` as consecutive panels, each as rows of its width. The padding columns of the
    /// last panel may hold anything. `dst` is `PACK_SLACK` values longer, which may be overwritten.
    fn pack(&self, isa: Isa, depth: Range<usize>, cols: Range<usize>, shape: PanelShape, dst: &mut [f32]);
}

/// A whole operand, packed: blocks of the depth, each in panels.
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
        let mut data = Buffer::zeroed(size::of(&[depth, padded]) + PACK_SLACK);
        let kc = depth_block(isa.tile(), depth);
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

    /// The transpose of the matrix.
    pub fn transposed(self) -> Self {
        MatRef { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }

    /// Matrix `item` of those that begin `stride` elements apart.
    pub(crate) fn skip(self, item: usize, stride: usize) -> Self {
        MatRef { data: &self.data[(item * stride).min(self.data.len())..], ..self }
    }

    /// # Panics
    /// If the memory doesn't hold `rows` × `cols` elements.
    pub(crate) fn check(&self, rows: usize, cols: usize, name: &str) {
        if rows > 0 && cols > 0 {
            let along = |count: usize, stride: usize| size::of(&[count - 1, stride]);
            let last = size::sum(&[along(rows, self.row_stride), along(cols, self.col_stride)]);
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
    fn pack(&self, isa: Isa, depth: Range<usize>, cols: Range<usize>, shape: PanelShape, dst: &mut [f32]) {
        self.check(depth.end, cols.end, "operand");
        assert!(size::of(&[shape.padded(cols.len()), depth.len()]) <= dst.len(), "panels don't fit");
        isa.run(PackMatrix { mat: *self, depth, cols, shape, dst });
    }
}

struct PackMatrix<'a> {
    mat: MatRef<'a>,
    depth: Range<usize>,
    cols: Range<usize>,
    shape: PanelShape,
    dst: &'a mut [f32],
}

impl Kernel for PackMatrix<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.mat.col_stride == 1 {
            self.rows(s);
        } else {
            self.columns(s);
        }
    }
}

impl PackMatrix<'_> {
    /// Copies rows of contiguous values, a whole row into all panels, so that memory is read in order.
    #[inline(always)]
    fn rows<S: Simd>(self, s: S) {
        let (k, n, width) = (self.depth.len(), self.cols.len(), self.shape.width);
        let (panels, rest) = (n / width, n % width);
        let rest_width = self.shape.padded(rest);
        let start = self.depth.start * self.mat.row_stride + self.cols.start;
        for i in 0..k {
            let row = &self.mat.data[start + i * self.mat.row_stride..][..n];
            let mut src = row.as_ptr();
            // SAFETY: `pack` asserts that the panels fit into dst, and `row` was sliced to the n columns.
            unsafe {
                let mut dst = self.dst.as_mut_ptr().add(i * width);
                for _ in 0..panels {
                    copy(s, src, dst, width);
                    src = src.add(width);
                    dst = dst.add(k * width);
                }
                let dst = self.dst.as_mut_ptr().add(panels * width * k + i * rest_width);
                let mut v = 0;
                while v < rest {
                    let lanes = S::LANES.min(rest - v);
                    let x = s.load_n(src.add(v), lanes);
                    s.store_n(dst.add(v), x, S::LANES.min(rest_width - v));
                    v += S::LANES;
                }
            }
        }
    }

    /// Gathers columns.
    #[inline(always)]
    fn columns<S: Simd>(self, s: S) {
        let (k, n) = (self.depth.len(), self.cols.len());
        let (rs, cs) = (self.mat.row_stride, self.mat.col_stride);
        for col in (0..n).step_by(self.shape.width) {
            let used = self.shape.width.min(n - col);
            let width = self.shape.padded(used);
            let panel = &mut self.dst[col * k..col * k + width * k];
            let start = self.depth.start * rs + (self.cols.start + col) * cs;
            if rs == 1 {
                let src = self.mat.data.as_ptr().wrapping_add(start);
                // SAFETY: `pack` checks that these columns lie in the matrix; the panel has k rows of `width` values.
                unsafe { Transpose::new([used, k], src, cs, panel.as_mut_ptr(), width) }.run(s);
            }
            let done = if rs == 1 { used } else { 0 };
            for (i, row) in panel.chunks_exact_mut(width).enumerate() {
                for (j, x) in row.iter_mut().enumerate().skip(done) {
                    *x = if j < used { self.mat.data[start + i * rs + j * cs] } else { 0.0 };
                }
            }
        }
    }
}

/// Copies a panel's row: some whole vectors, or a left operand's few values.
///
/// # Safety
/// `width` values can be read at `src` and written at `dst`, and they do not overlap.
#[inline(always)]
unsafe fn copy<S: Simd>(s: S, src: *const f32, dst: *mut f32, width: usize) {
    // SAFETY: guaranteed by the caller; each case accesses `width` values.
    unsafe {
        if width == S::NV * S::LANES {
            for v in 0..S::NV {
                s.store(dst.add(v * S::LANES), s.load(src.add(v * S::LANES)));
            }
        } else if width == 8 {
            dst.cast::<[f32; 8]>().write_unaligned(src.cast::<[f32; 8]>().read_unaligned());
        } else {
            std::ptr::copy_nonoverlapping(src, dst, width);
        }
    }
}
