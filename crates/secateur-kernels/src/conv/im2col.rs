//! The matrix of a convolution's input windows, written straight into panels, a block at a time.

use super::spec::Geometry;
use crate::gemm::{PanelShape, PanelSource};
use crate::simd::Isa;
use std::ops::Range;

/// Depth (channel, kernel element) × output position, of one group of one image.
pub(crate) struct Windows<'a> {
    /// The group's channels.
    pub(crate) x: &'a [f32],
    pub(crate) geometry: &'a Geometry,
}

/// Output positions of a panel that follow each other in one row of the output.
#[derive(Clone, Copy, Default)]
struct Run {
    /// Where in the panel.
    at: usize,
    len: usize,
    /// The row's coordinates and the first position in it.
    outer: [usize; 2],
    start: usize,
}

/// A run seen by one kernel element: zeros, input, zeros.
#[derive(Clone, Copy, Default)]
struct Piece {
    at: usize,
    zeros: usize,
    len: usize,
    end: usize,
    src: usize,
}

/// Widest panel of any instruction set.
const MAX_WIDTH: usize = 48;

impl PanelSource for Windows<'_> {
    fn pack(&self, _isa: Isa, depth: Range<usize>, cols: Range<usize>, shape: PanelShape, dst: &mut [f32]) {
        let [d, h, w] = self.geometry.axes;
        let (taps, plane) = (self.geometry.taps(), self.geometry.in_plane());
        let mut at = 0;
        for col in cols.clone().step_by(shape.width) {
            let n = shape.width.min(cols.end - col);
            let width = shape.padded(n);
            let panel = &mut dst[at..at + width * depth.len()];
            at += panel.len();
            let mut runs = [Run::default(); MAX_WIDTH];
            let runs = cut(col, n, h.out, w.out, &mut runs);
            let mut pieces = [Piece::default(); MAX_WIDTH];
            for tap in 0..taps {
                let first = depth.start.saturating_sub(tap).div_ceil(taps) * taps + tap;
                if first >= depth.end {
                    continue;
                }
                let (td, th, tw) = (tap / (h.kernel * w.kernel), tap / w.kernel % h.kernel, tap % w.kernel);
                let valid = w.valid(tw);
                for (piece, run) in pieces.iter_mut().zip(runs) {
                    *piece = Piece { at: run.at, zeros: run.len, len: 0, end: run.at + run.len, src: 0 };
                    let (Some(id), Some(ih)) = (d.input(run.outer[0], td), h.input(run.outer[1], th)) else {
                        continue;
                    };
                    let start = run.start.max(valid.start);
                    let end = (run.start + run.len).min(valid.end);
                    if start < end {
                        piece.zeros = start - run.start;
                        piece.len = end - start;
                        piece.src = (id * h.size + ih) * w.size + start * w.stride + tw * w.dilation - w.pad;
                    }
                }
                for k in (first..depth.end).step_by(taps) {
                    let row = &mut panel[(k - depth.start) * width..][..width];
                    let x = &self.x[k / taps * plane..][..plane];
                    for p in &pieces[..runs.len()] {
                        row[p.at..p.at + p.zeros].fill(0.0);
                        let filled = p.at + p.zeros..p.at + p.zeros + p.len;
                        row[filled.end..p.end].fill(0.0);
                        if w.stride == 1 {
                            row[filled].copy_from_slice(&x[p.src..p.src + p.len]);
                        } else if p.len > 0 {
                            for (y, x) in row[filled].iter_mut().zip(x[p.src..].iter().step_by(w.stride)) {
                                *y = *x;
                            }
                        }
                    }
                    row[n..].fill(0.0);
                }
            }
        }
    }
}

/// Cuts `n` output positions from `col` on where rows of the output end.
fn cut(col: usize, n: usize, rows: usize, row_len: usize, runs: &mut [Run; MAX_WIDTH]) -> &[Run] {
    let (mut count, mut at) = (0, 0);
    while at < n {
        let (row, start) = ((col + at) / row_len, (col + at) % row_len);
        let len = (row_len - start).min(n - at);
        runs[count] = Run { at, len, outer: [row / rows, row % rows], start };
        count += 1;
        at += len;
    }
    &runs[..count]
}
