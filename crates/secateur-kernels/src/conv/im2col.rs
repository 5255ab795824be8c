//! The matrix of a convolution's input windows (im2col), packed straight into panels, one block at a time.

use super::lanes::{lane_bits, load};
use super::spec::{Axis, Geometry};
use crate::gemm::{PACK_SLACK, PanelShape, PanelSource};
use crate::simd::{Isa, Kernel, Simd};
use std::ops::Range;

/// Depth (channel, kernel element) × output position, of one group of one image.
pub(crate) struct Windows<'a> {
    /// The group's channels.
    pub(crate) x: &'a [f32],
    pub(crate) geometry: &'a Geometry,
}

impl PanelSource for Windows<'_> {
    fn pack(&self, isa: Isa, depth: Range<usize>, cols: Range<usize>, shape: PanelShape, dst: &mut [f32]) {
        let taps = self.geometry.taps();
        assert!(
            depth.end <= taps * (self.x.len() / self.geometry.in_plane().max(1)),
            "more depth than input"
        );
        assert!(cols.end <= self.geometry.out_plane(), "more columns than outputs");
        assert!(shape.padded(cols.len()) * depth.len() + PACK_SLACK <= dst.len(), "panels don't fit");
        isa.run(Pack { windows: self, depth, cols, shape, dst });
    }
}

struct Pack<'a> {
    windows: &'a Windows<'a>,
    depth: Range<usize>,
    cols: Range<usize>,
    shape: PanelShape,
    dst: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let geometry = self.windows.geometry;
        let (taps, plane, step) = (geometry.taps(), geometry.in_plane(), geometry.axes[2].stride);
        let offsets = tap_offsets(geometry);
        let (mut vectors, mut bits) = (vec![], vec![]);
        let mut dst = self.dst.as_mut_ptr();
        for col in self.cols.clone().step_by(self.shape.width) {
            let n = self.shape.width.min(self.cols.end - col);
            cut(col, n, S::LANES, geometry, &mut vectors);
            visible(geometry, &vectors, &mut bits);
            let (mut channel, mut tap) = (self.depth.start / taps, self.depth.start % taps);
            for _ in self.depth.clone() {
                let x = self.windows.x.as_ptr().wrapping_add(channel * plane).wrapping_offset(offsets[tap]);
                let bits = &bits[tap * vectors.len()..][..vectors.len()];
                for (v, &bits) in vectors.iter().zip(bits) {
                    let src = x.wrapping_offset(v.src);
                    // SAFETY: set bits are values of the channel. The store may reach beyond the panel's row, into
                    // what is written later, or into the slack.
                    unsafe {
                        s.store(dst.add(v.at), load(s, src, step, bits));
                    }
                }
                // SAFETY: `pack` asserts that the panels fit into dst.
                dst = unsafe { dst.add(self.shape.padded(n)) };
                (channel, tap) = if tap + 1 == taps { (channel + 1, 0) } else { (channel, tap + 1) };
            }
        }
    }
}

/// Offset of each kernel element's input from that of the first one.
pub(super) fn tap_offsets(geometry: &Geometry) -> Vec<isize> {
    let [d, h, w] = geometry.axes;
    let mut offsets = Vec::with_capacity(geometry.taps());
    for td in 0..d.kernel {
        for th in 0..h.kernel {
            for tw in 0..w.kernel {
                offsets.push(
                    (((td * d.dilation * h.size) + th * h.dilation) * w.size + tw * w.dilation) as isize,
                );
            }
        }
    }
    offsets
}

/// Neighbouring output positions in one row, at most a vector.
struct Vector {
    /// Position in the panel's row.
    at: usize,
    len: usize,
    /// Coordinates of the row, and the first position in it.
    outer: [usize; 2],
    start: usize,
    /// Position in a channel of the first kernel element's input at the first position; it may be padding.
    src: isize,
}

/// Cuts `n` output positions from `col` on into vectors.
fn cut(col: usize, n: usize, lanes: usize, geometry: &Geometry, vectors: &mut Vec<Vector>) {
    let [d, h, w] = geometry.axes;
    vectors.clear();
    let mut at = 0;
    let (mut row, mut start) = (col / w.out, col % w.out);
    while at < n {
        let len = (w.out - start).min(n - at).min(lanes);
        let outer = [row / h.out, row % h.out];
        let first = |a: &Axis, o: usize| (o * a.stride) as isize - a.pad as isize;
        let src = (first(&d, outer[0]) * h.size as isize + first(&h, outer[1])) * w.size as isize
            + first(&w, start);
        vectors.push(Vector { at, len, outer, start, src });
        at += len;
        start += len;
        if start == w.out {
            (row, start) = (row + 1, 0);
        }
    }
}

/// For each kernel element, the lanes of each vector that read the input and not padding.
fn visible(geometry: &Geometry, vectors: &[Vector], bits: &mut Vec<u32>) {
    let [d, h, w] = geometry.axes;
    bits.clear();
    bits.resize(geometry.taps() * vectors.len(), 0);
    for (i, v) in vectors.iter().enumerate() {
        for tw in 0..w.kernel {
            let valid = w.valid(tw);
            let lane = |column: usize| column.clamp(v.start, v.start + v.len) - v.start;
            let columns = lane_bits(lane(valid.start)..lane(valid.end), w.stride);
            for td in 0..d.kernel {
                for th in 0..h.kernel {
                    if d.input(v.outer[0], td).is_some() && h.input(v.outer[1], th).is_some() {
                        bits[((td * h.kernel + th) * w.kernel + tw) * vectors.len() + i] = columns;
                    }
                }
            }
        }
    }
}
