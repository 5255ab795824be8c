//! Inputs and outputs of a convolution in planes of one pitch, in which a tap is one constant offset.
//!
//! A stride splits the input into phases, each of every stride-th position; a plane has room for the outputs and the
//! largest shift of a tap. Along such planes a convolution, its input's gradient and that of its weights are long products of
//! vectors, whatever the extents are.

use super::spec::Axis;
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
        let [_, a1, a2] = self.axes;
        let Some((first, start, count)) = self.row(phase) else { return };
        for (p0, i0) in self.places(0, phase) {
            for (p1, i1) in self.places(1, phase) {
                let row = &x[(i0 * a1.size + i1) * a2.size..][..a2.size];
                let out = &mut out[(p0 * self.extents[1] + p1) * self.extents[2] + first..][..count];
                match a2.stride {
                    1 => out.copy_from_slice(&row[start..start + count]),
                    stride => {
                        out.iter_mut().zip(row[start..].iter().step_by(stride)).for_each(|(o, x)| *o = *x)
                    }
                }
            }
        }
    }

    /// Copies an output plane.
    pub(super) fn gradient(&self, dy: &[f32], out: &mut [f32]) {
        let [a0, a1, a2] = self.axes;
        for o0 in 0..a0.out {
            for o1 in 0..a1.out {
                let out = &mut out[(o0 * self.extents[1] + o1) * self.extents[2]..][..a2.out];
                out.copy_from_slice(&dy[(o0 * a1.out + o1) * a2.out..][..a2.out]);
            }
        }
    }

    /// Copies what lies in an output plane.
    pub(super) fn output(&self, plane: &[f32], out: &mut [f32]) {
        let [a0, a1, a2] = self.axes;
        for o0 in 0..a0.out {
            for o1 in 0..a1.out {
                let row = &plane[(o0 * self.extents[1] + o1) * self.extents[2]..][..a2.out];
                out[(o0 * a1.out + o1) * a2.out..][..a2.out].copy_from_slice(row);
            }
        }
    }

    /// Copies what lies in a phase to the positions of the input that it holds.
    pub(super) fn input(&self, phase: [usize; 3], plane: &[f32], x: &mut [f32]) {
        let [_, a1, a2] = self.axes;
        let Some((first, start, count)) = self.row(phase) else { return };
        for (p0, i0) in self.places(0, phase) {
            for (p1, i1) in self.places(1, phase) {
                let row = &mut x[(i0 * a1.size + i1) * a2.size..][..a2.size];
                let from = &plane[(p0 * self.extents[1] + p1) * self.extents[2] + first..][..count];
                row[start..].iter_mut().step_by(a2.stride).zip(from).for_each(|(x, v)| *x = *v);
            }
        }
    }

    /// The positions of an axis that a phase holds: the place there, and the position in the input.
    fn places(&self, axis: usize, phase: [usize; 3]) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (of, first) = (self.axes[axis], phase[axis]);
        let at = move |place: usize| (place * of.stride + first).checked_sub(of.pad).filter(|&i| i < of.size);
        (0..self.extents[axis]).filter_map(move |place| Some((place, at(place)?)))
    }

    /// Where the elements of a row that a phase holds begin there and in the input, and how many there are.
    fn row(&self, phase: [usize; 3]) -> Option<(usize, usize, usize)> {
        let (first, start) = self.places(2, phase).next()?;
        let axis = &self.axes[2];
        Some((first, start, (axis.size - start).div_ceil(axis.stride).min(self.extents[2] - first)))
    }
}
