//! Matrix transposition.

use super::{Kernel, Simd};

/// Writes a matrix transposed.
#[derive(Clone, Copy)]
pub(crate) struct Transpose {
    rows: usize,
    cols: usize,
    src: *const f32,
    /// Distance of the source's rows.
    src_stride: usize,
    dst: *mut f32,
    /// Distance of the destination's rows.
    dst_stride: usize,
}

impl Transpose {
    /// The transposition of a matrix `[rows, cols]` at `src`, with rows `src_stride` apart, to `dst`, with rows
    /// `dst_stride` apart.
    ///
    /// # Safety
    /// While the kernel runs, `rows` rows of `cols` values can be read at `src`, `cols` rows of `rows` values can be written
    /// at `dst`, the two do not overlap, and no other thread uses the latter.
    pub(crate) unsafe fn new(
        [rows, cols]: [usize; 2],
        src: *const f32,
        src_stride: usize,
        dst: *mut f32,
        dst_stride: usize,
    ) -> Self {
        Transpose { rows, cols, src, src_stride, dst, dst_stride }
    }
}

impl Kernel for Transpose {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Transpose { rows, cols, src, src_stride, dst, dst_stride } = self;
        // SAFETY: guaranteed by the caller of `new`; `steps` stays within the rows and columns.
        unsafe {
            if rows < S::SQUARE || cols < S::SQUARE {
                for i in 0..rows {
                    for j in 0..cols {
                        *dst.add(j * dst_stride + i) = *src.add(i * src_stride + j);
                    }
                }
                return;
            }
            // The outer loop follows the larger stride: cache lines that far apart evict each other, so each should be
            // finished before the next ones are accessed.
            let by_rows = src_stride >= dst_stride;
            let (outer, inner) = if by_rows { (rows, cols) } else { (cols, rows) };
            for a in steps(outer, S::SQUARE) {
                for b in steps(inner, S::SQUARE) {
                    let (i, j) = if by_rows { (a, b) } else { (b, a) };
                    let (src, dst) = (src.add(i * src_stride + j), dst.add(j * dst_stride + i));
                    s.transpose(src, src_stride, dst, dst_stride);
                }
            }
        }
    }
}

/// Starts of squares that cover `n` values; the last one overlaps its predecessor if `n` is not a multiple.
fn steps(n: usize, square: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(square).map(move |i| i.min(n - square))
}
