//! Rows and columns exchanged.

use super::{Kernel, Simd};

/// Writes `rows` × `cols` values with rows and columns exchanged.
///
/// Whoever makes one promises that the rows at `src` can be read and those at `dst` written by this thread, and
/// that they don't overlap.
#[derive(Clone, Copy)]
pub(crate) struct Exchange {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) src: *const f32,
    /// Distance of the source's rows.
    pub(crate) src_stride: usize,
    pub(crate) dst: *mut f32,
    /// Distance of the destination's rows.
    pub(crate) dst_stride: usize,
}

impl Kernel for Exchange {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Exchange { rows, cols, src, src_stride, dst, dst_stride } = self;
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
            // The last square of a row or column overlaps the one before it where whole ones don't fit.
            for i in (0..rows).step_by(S::SQUARE).map(|i| i.min(rows - S::SQUARE)) {
                for j in (0..cols).step_by(S::SQUARE).map(|j| j.min(cols - S::SQUARE)) {
                    let (src, dst) = (src.add(i * src_stride + j), dst.add(j * dst_stride + i));
                    s.transpose(src, src_stride, dst, dst_stride);
                }
            }
        }
    }
}
