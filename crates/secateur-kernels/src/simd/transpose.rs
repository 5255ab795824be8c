//! Transposing a matrix.

use super::{Kernel, Simd};

/// Writes `rows` × `cols` values transposed.
///
/// Whoever makes one promises that the rows at `src` can be read and those at `dst` written by this thread, and
/// that they don't overlap.
#[derive(Clone, Copy)]
pub(crate) struct Transpose {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) src: *const f32,
    /// Distance of the source's rows.
    pub(crate) src_stride: usize,
    pub(crate) dst: *mut f32,
    /// Distance of the destination's rows.
    pub(crate) dst_stride: usize,
}

impl Kernel for Transpose {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Transpose { rows, cols, src, src_stride, dst, dst_stride } = self;
        // SAFETY: the promise of whoever made it.
        unsafe {
            if rows < S::SQUARE || cols < S::SQUARE {
                for i in 0..rows {
                    for j in 0..cols {
                        *dst.add(j * dst_stride + i) = *src.add(i * src_stride + j);
                    }
                }
                return;
            }
            // Along the rows that lie farther apart: lines at such distances displace each other in the cache, so
            // each should be finished before the next ones are touched.
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

/// Where squares begin that cover `n` values; the last one overlaps the one before it where whole ones don't fit.
fn steps(n: usize, square: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by(square).map(move |i| i.min(n - square))
}
