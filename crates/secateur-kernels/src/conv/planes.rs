//! Inputs and outputs of a convolution in planes of one pitch, in which a tap is one constant offset.
//!
//! A stride splits the input into phases, each of every stride-th position; a plane has room for the outputs and the
//! largest shift of a tap. Along such planes a convolution, its input's gradient and that of its weights are long products of
//! vectors, whatever the extents are.

use super::spec::Axis;
use crate::simd::{Isa, Kernel, Simd};
use crate::size;

/// How inputs and gradients lie in planes of one pitch.
#[derive(Clone, Debug)]
pub(super) struct Planes {
    axes: [Axis; 3],
    /// Extents of a plane: outputs and the largest shift of a tap.
    pub(super) extents: [usize; 3],
    /// For each phase of the input: which position of each stride it holds.
    pub(super) phases: Vec<[usize; 3]>,
    /// For each tap its phase, and its offset there.
    pub(super) taps: Vec<(usize, usize)>,
}

impl Planes {
    pub(super) fn new(axes: [Axis; 3]) -> Planes {
        let shift =
            |axis: &Axis, tap: usize| (tap * axis.dilation / axis.stride, tap * axis.dilation % axis.stride);
        let extents = axes.map(|axis| size::sum(&[axis.out, shift(&axis, axis.kernel - 1).0]));
        let (mut phases, mut taps) = (Vec::new(), Vec::new());
        for t0 in 0..axes[0].kernel {
            for t1 in 0..axes[1].kernel {
                for t2 in 0..axes[2].kernel {
                    let each = [shift(&axes[0], t0), shift(&axes[1], t1), shift(&axes[2], t2)];
                    let phase = each.map(|(_, phase)| phase);
                    let at = phases.iter().position(|known| *known == phase).unwrap_or(phases.len());
                    if at == phases.len() {
                        phases.push(phase);
                    }
                    let [m0, m1, m2] = each.map(|(shift, _)| shift);
                    taps.push((at, (m0 * extents[1] + m1) * extents[2] + m2));
                }
            }
        }
        Planes { axes, extents, phases, taps }
    }

    pub(super) fn len(&self) -> usize {
        size::of(&self.extents)
    }

    /// Copies an input plane into a phase; what lies in the padding stays.
    pub(super) fn phase(&self, phase: [usize; 3], x: &[f32], out: &mut [f32]) {
        self.each_row(phase, |at, from, rows, count| {
            let [_, a1, a2] = self.axes;
            let (x, out, pitch) = (&x[from..], &mut out[at..], [a1.stride * a2.size, self.extents[2]]);
            match a2.stride {
                1 => copy_rows(x, out, pitch, rows, count),
                stride => {
                    for row in 0..rows {
                        let x = x[row * pitch[0]..].iter().step_by(stride);
                        out[row * pitch[1]..][..count].iter_mut().zip(x).for_each(|(o, x)| *o = *x);
                    }
                }
            }
        });
    }

    /// Copies what lies in a phase to the positions of the input that it holds.
    pub(super) fn input(&self, phase: [usize; 3], plane: &[f32], x: &mut [f32]) {
        self.each_row(phase, |at, to, rows, count| {
            let [_, a1, a2] = self.axes;
            let (plane, x, pitch) = (&plane[at..], &mut x[to..], [self.extents[2], a1.stride * a2.size]);
            match a2.stride {
                1 => copy_rows(plane, x, pitch, rows, count),
                stride => {
                    for row in 0..rows {
                        let x = x[row * pitch[1]..].iter_mut().step_by(stride);
                        x.zip(&plane[row * pitch[0]..][..count]).for_each(|(x, v)| *x = *v);
                    }
                }
            }
        });
    }

    /// Copies an output plane.
    pub(super) fn gradient(&self, dy: &[f32], out: &mut [f32]) {
        let [a0, a1, a2] = self.axes;
        for o0 in 0..a0.out {
            let (dy, out) = (&dy[o0 * a1.out * a2.out..], &mut out[o0 * self.extents[1] * self.extents[2]..]);
            copy_rows(dy, out, [a2.out, self.extents[2]], a1.out, a2.out);
        }
    }

    /// Copies what lies in an output plane.
    pub(super) fn output(&self, plane: &[f32], out: &mut [f32]) {
        let [a0, a1, a2] = self.axes;
        for o0 in 0..a0.out {
            let (plane, out) =
                (&plane[o0 * self.extents[1] * self.extents[2]..], &mut out[o0 * a1.out * a2.out..]);
            copy_rows(plane, out, [self.extents[2], a2.out], a1.out, a2.out);
        }
    }

    /// Calls `f(place, position, rows, count)` for each slice of a phase: where its first element lies there and in the input,
    /// and how many rows of how many elements it has.
    fn each_row(&self, phase: [usize; 3], mut f: impl FnMut(usize, usize, usize, usize)) {
        let [_, a1, a2] = self.axes;
        let (Some((p1, i1, rows)), Some((p2, i2, count))) = (self.run(1, phase), self.run(2, phase)) else {
            return;
        };
        let Some((p0, i0, slices)) = self.run(0, phase) else { return };
        for slice in 0..slices {
            let place = ((p0 + slice) * self.extents[1] + p1) * self.extents[2] + p2;
            let position = ((i0 + slice * self.axes[0].stride) * a1.size + i1) * a2.size + i2;
            f(place, position, rows, count);
        }
    }

    /// The positions of an axis that a phase holds: the first one's place there and position in the input, and how many.
    fn run(&self, axis: usize, phase: [usize; 3]) -> Option<(usize, usize, usize)> {
        let (of, shift) = (self.axes[axis], phase[axis]);
        let place = of.pad.saturating_sub(shift).div_ceil(of.stride);
        let position = (place * of.stride + shift).checked_sub(of.pad).filter(|&i| i < of.size)?;
        let count = (of.size - position).div_ceil(of.stride).min(self.extents[axis].saturating_sub(place));
        (count > 0).then_some((place, position, count))
    }
}

/// Copies rows of `len` values that are `from_pitch` and `to_pitch` apart.
fn copy_rows(from: &[f32], to: &mut [f32], [from_pitch, to_pitch]: [usize; 2], rows: usize, len: usize) {
    if rows > 0 {
        assert!((rows - 1) * from_pitch + len <= from.len() && (rows - 1) * to_pitch + len <= to.len());
        Isa::best().run(Rows { from, to, from_pitch, to_pitch, rows, len });
    }
}

/// [`copy_rows`], inside the bounds. Rows are short: a call to copy each would take longer than the copy.
struct Rows<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
    from_pitch: usize,
    to_pitch: usize,
    rows: usize,
    len: usize,
}

impl Kernel for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Rows { from, to, from_pitch, to_pitch, rows, len } = self;
        for row in 0..rows {
            let from = from.as_ptr().wrapping_add(row * from_pitch);
            let to = to.as_mut_ptr().wrapping_add(row * to_pitch);
            for i in (0..len).step_by(S::LANES) {
                let lanes = S::LANES.min(len - i);
                // SAFETY: len values from the beginning of each row on lie in the slices.
                unsafe { s.store_n(to.add(i), s.load_n(from.add(i), lanes), lanes) };
            }
        }
    }
}
