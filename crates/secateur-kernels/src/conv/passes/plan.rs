//! Which shifted rows the passes of a convolution add up.

use super::sums::{Dense, Sparse};
use crate::conv::ConvSpec;
use crate::conv::spec::Axis;
use crate::gradient::Kept;
use crate::planes::{Planes, Window};
use crate::simd::{Isa, MAX_LANES};
use crate::size;
use crate::threads::SharedMut;

/// Rows of results that a task computes at least.
const ROWS: usize = 16;

/// A map is computed by shifts up to this many times its elements.
const WASTE: usize = 2;

/// Where the kernel elements of a convolution read, in planes of its outputs' extents.
#[derive(Clone, Debug)]
pub(super) struct Taps {
    out: [usize; 3],
    /// The least extents of a plane: outputs, and zeros wherever a kernel element reads beyond the input.
    pub(super) extents: [usize; 3],
    /// The phases of the input that are read.
    pub(super) phases: Vec<Window>,
    /// For each kernel element its phase, and how far it is shifted there along each axis.
    taps: Vec<(usize, [isize; 3])>,
}

impl Taps {
    /// Kernel elements are shifts of the phases of the input; where planes for that are much larger than outputs, such as for a
    /// kernel as large as the input, each reads a phase of its own.
    pub(super) fn new(axes: [Axis; 3]) -> Taps {
        let shifted = Taps::shifted(axes);
        let elements = |extents: [usize; 3]| extents.iter().product::<usize>();
        if elements(shifted.extents) <= WASTE * elements(shifted.out) {
            return shifted;
        }
        let phase = |tap: [usize; 3]| {
            let valid = [0, 1, 2].map(|d| axes[d].valid(tap[d]));
            let start = [0, 1, 2].map(|d| axes[d].input(valid[d].start, tap[d]).unwrap_or(0));
            let place = [0, 1, 2].map(|d| valid[d].start);
            Window { start, stride: axes.map(|axis| axis.stride), place, count: valid.map(|of| of.len()) }
        };
        let out = axes.map(|axis| axis.out);
        let phases: Vec<Window> = kernel(axes).map(phase).collect();
        let taps = (0..phases.len()).map(|tap| (tap, [0; 3])).collect();
        Taps { out, extents: out, phases, taps }
    }

    fn shifted(axes: [Axis; 3]) -> Taps {
        let place = |axis: &Axis, tap: usize| {
            let at = (tap * axis.dilation) as isize - axis.pad as isize;
            let phase = at.rem_euclid(axis.stride as isize);
            ((at - phase) / axis.stride as isize, phase as usize)
        };
        let (mut starts, mut taps) = (Vec::new(), Vec::new());
        for tap in kernel(axes) {
            let each = [0, 1, 2].map(|d| place(&axes[d], tap[d]));
            let start = each.map(|(_, phase)| phase);
            let at = starts.iter().position(|known| *known == start).unwrap_or(starts.len());
            if at == starts.len() {
                starts.push(start);
            }
            taps.push((at, each.map(|(shift, _)| shift)));
        }
        let stride = axes.map(|axis| axis.stride);
        let window = |start: [usize; 3]| {
            let count = [0, 1, 2].map(|d| axes[d].size.saturating_sub(start[d]).div_ceil(stride[d]));
            Window { start, stride, place: [0; 3], count }
        };
        let phases: Vec<Window> = starts.into_iter().map(window).collect();
        let extents = [0, 1, 2].map(|d| {
            let shifts = || taps.iter().map(|(_, shift)| shift[d]);
            let behind = shifts().max().unwrap_or(0).max(0) as usize;
            let before = shifts().min().unwrap_or(0).min(0).unsigned_abs();
            let count = phases.iter().map(|phase| phase.count[d]).max().unwrap_or(0).max(axes[d].out);
            size::sum(&[axes[d].out, behind]).max(size::sum(&[count, before]))
        });
        Taps { out: axes.map(|axis| axis.out), extents, phases, taps }
    }

    /// The distance of a kernel element in planes of these extents.
    fn offset(shift: [isize; 3], [_, e1, e2]: [usize; 3]) -> isize {
        (shift[0] * e1 as isize + shift[1]) * e2 as isize + shift[2]
    }

    /// The largest distance of a kernel element, forward or back.
    pub(super) fn reach(&self, extents: [usize; 3]) -> usize {
        self.taps.iter().map(|(_, shift)| Self::offset(*shift, extents).unsigned_abs()).max().unwrap_or(0)
    }

    /// All outputs.
    pub(super) fn outputs(&self) -> Window {
        Window::whole(self.out)
    }
}

/// The elements of a kernel, by their places along each axis.
fn kernel(axes: [Axis; 3]) -> impl Iterator<Item = [usize; 3]> {
    let [_, k1, k2] = axes.map(|axis| axis.kernel);
    (0..axes.iter().map(|axis| axis.kernel).product())
        .map(move |i: usize| [i / (k1 * k2), i / k2 % k1, i % k2])
}

/// Rows of results that are sums of the same shifted rows of sources, with weights of their own.
#[derive(Clone, Debug)]
struct Panel {
    /// The first row of results, from a row to the next one, and how many.
    first: usize,
    step: usize,
    rows: usize,
    /// Which of the lists of terms.
    terms: usize,
    /// The weight of row 0 and term 0.
    weight: usize,
    row_stride: usize,
}

/// A pass: for each row of results a sum of shifted rows of sources.
#[derive(Clone, Debug, Default)]
pub(super) struct Pass {
    panels: Vec<Panel>,
    /// Lists of terms: where each source begins, and its weight behind that of term 0.
    terms: Vec<(Vec<usize>, Vec<usize>)>,
    sparse: Option<Terms>,
    /// Terms of all rows.
    work: usize,
}

/// The terms of rows whose weights a mask keeps.
#[derive(Clone, Debug)]
struct Terms {
    /// Where those of each row begin; one entry more than there are rows.
    starts: Vec<usize>,
    places: Vec<usize>,
    weights: Vec<usize>,
}

impl Pass {
    /// The passes that give the result and the gradient of the input.
    pub(super) fn both(spec: &ConvSpec, taps: &Taps, own: &Planes, kept: Option<&Kept>) -> (Pass, Pass) {
        let (rows, channels) = (spec.out_channels / spec.groups, spec.in_channels / spec.groups);
        let (phases, count, depth) = (taps.phases.len(), taps.taps.len(), spec.depth());
        let (pitch, margin) = (own.pitch(), own.margin() as isize);
        let offset = |tap: usize| Taps::offset(taps.taps[tap].1, own.extents());
        // A place counts from the margin in front of the sources on.
        let place = |plane: usize, offset: isize| ((plane * pitch) as isize + margin + offset) as usize;
        let (mut forward, mut backward) = (Pass::default(), Pass::default());
        for group in 0..spec.groups {
            let weight = group * rows * depth;
            let list = (0..channels * count).map(|w| {
                let (c, tap) = (w / count, w % count);
                let plane = (group * channels + c) * phases + taps.taps[tap].0;
                (place(plane, offset(tap)), w)
            });
            forward.panel([group * rows, 1, rows], list, weight, depth);
            for phase in 0..phases {
                let own: Vec<usize> = (0..count).filter(|&tap| taps.taps[tap].0 == phase).collect();
                let list = (0..rows * own.len()).map(|k| {
                    let (o, tap) = (k / own.len(), own[k % own.len()]);
                    (place(group * rows + o, -offset(tap)), o * depth + tap)
                });
                let first = group * channels * phases + phase;
                backward.panel([first, phases, channels], list, weight, count);
            }
        }
        if let Some(kept) = kept {
            let mut keeps = vec![false; spec.out_channels * depth];
            for row in 0..kept.rows() {
                kept.of(row).iter().for_each(|&column| keeps[row * depth + column as usize] = true);
            }
            forward.keep(&keeps);
            backward.keep(&keeps);
        }
        (forward, backward)
    }

    fn panel(
        &mut self,
        [first, step, rows]: [usize; 3],
        list: impl Iterator<Item = (usize, usize)>,
        weight: usize,
        row_stride: usize,
    ) {
        let terms: (Vec<usize>, Vec<usize>) = list.unzip();
        self.work += rows * terms.0.len();
        for start in (0..rows).step_by(ROWS) {
            self.panels.push(Panel {
                first: first + start * step,
                step,
                rows: ROWS.min(rows - start),
                terms: self.terms.len(),
                weight: weight + start * row_stride,
                row_stride,
            });
        }
        self.terms.push(terms);
    }

    /// Leaves out the weights that are not kept.
    fn keep(&mut self, keeps: &[bool]) {
        let mut kept = Terms { starts: vec![0], places: Vec::new(), weights: Vec::new() };
        for panel in &self.panels {
            let (places, weights) = &self.terms[panel.terms];
            for row in 0..panel.rows {
                let base = panel.weight + row * panel.row_stride;
                for (place, weight) in places.iter().zip(weights) {
                    let weight = base + weight;
                    if keeps[weight] {
                        kept.places.push(*place);
                        kept.weights.push(weight);
                    }
                }
                kept.starts.push(kept.places.len());
            }
        }
        self.work = kept.places.len();
        self.sparse = Some(kept);
    }

    pub(super) fn panels(&self) -> usize {
        self.panels.len()
    }

    /// Products of vectors with rows of `pitch` elements, as work.
    pub(super) fn work(&self, pitch: usize) -> usize {
        size::work(&[self.work, pitch / 8])
    }

    /// Where the sources of the first group's terms begin, in the order of the weights of an output.
    pub(super) fn terms(&self) -> &[usize] {
        self.terms.first().map_or(&[], |(places, _)| places)
    }

    /// How many values [`Pass::pack`] gives.
    pub(super) fn packed(&self) -> usize {
        self.work
    }

    /// Weights in the order in which the pass reads them.
    pub(super) fn pack(&self, isa: Isa, weights: &[f32], packed: &mut [f32]) {
        if let Some(kept) = &self.sparse {
            packed.iter_mut().zip(&kept.weights).for_each(|(to, &at)| *to = weights[at]);
            return;
        }
        let (lanes, mut packed) = (isa.tile().lanes, packed.iter_mut());
        for panel in &self.panels {
            let list = &self.terms[panel.terms].1;
            let mut start = 0;
            while start < panel.rows {
                let rows = row_block(lanes, panel.rows - start);
                for &weight in list {
                    let at = panel.weight + start * panel.row_stride + weight;
                    for row in 0..rows {
                        if let Some(to) = packed.next() {
                            *to = weights[at + row * panel.row_stride];
                        }
                    }
                }
                start += rows;
            }
        }
    }

    /// Computes the rows of some panels for a block: `sources` has a margin in front of its rows.
    pub(super) fn run(
        &self,
        isa: Isa,
        panels: std::ops::Range<usize>,
        packed: &[f32],
        sources: &[f32],
        results: Results<'_>,
    ) {
        let before = &self.panels[..panels.start];
        let mut row = before.iter().map(|panel| panel.rows).sum::<usize>();
        let mut at = before.iter().map(|panel| panel.rows * self.terms[panel.terms].0.len()).sum::<usize>();
        for panel in &self.panels[panels] {
            let (places, rows) = (&self.terms[panel.terms].0[..], panel.rows);
            let target = Target { first: panel.first, step: panel.step, rows, results };
            match &self.sparse {
                Some(kept) => {
                    let starts = &kept.starts[row..=row + rows];
                    let (places, weights) = (&kept.places[..], packed);
                    isa.run(Sparse { target, starts, places, weights, sources });
                }
                None => {
                    let weights = &packed[at..][..rows * places.len()];
                    isa.run(Dense { target, places, weights, sources });
                    at += weights.len();
                }
            }
            row += rows;
        }
    }
}

/// Where the results of a block go.
#[derive(Clone, Copy)]
pub(super) struct Results<'a> {
    pub(super) out: SharedMut<'a, f32>,
    pub(super) pitch: usize,
    /// By row.
    pub(super) bias: Option<&'a [f32]>,
    /// 0 where results are to be zero.
    pub(super) inside: Option<&'a [f32]>,
}

/// Rows of results that are computed together.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) first: usize,
    pub(super) step: usize,
    pub(super) rows: usize,
    pub(super) results: Results<'a>,
}

/// How many of the rows that are left are computed together: their sums and what they are sums of have to fit the registers, 32
/// with the widest vectors, else 16.
#[inline(always)]
pub(super) fn row_block(lanes: usize, left: usize) -> usize {
    match left {
        8.. if lanes == MAX_LANES => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}
