//! The passes of a convolution in training: its result, and the gradients of its input and weights.
//!
//! All three are sums over shifted rows of [`Planes`]: with zeros around each map a kernel element is one constant
//! distance, so that rows of many samples are computed in whole vectors, whatever the extents are. Where input and output
//! lie in the same planes, nothing is copied. A stride splits the input into phases, each of every stride-th position.

mod correlate;
mod plan;
mod sums;

use self::correlate::Correlation;
use self::plan::{Pass, Results, Taps};
use super::ConvSpec;
use crate::gradient::{Kept, Sampled};
use crate::planes::Planes;
use crate::simd::{Isa, MAX_LANES};
use crate::size;
use crate::threads::{self, SharedMut};

/// Parts that a batch is summed in, where the weights are few. It does not depend on the number of threads.
const PARTS: usize = 8;

/// Bytes of weights up to which each part has sums of its own.
const PART_BYTES: usize = 4 << 20;

/// A convolution in training: the weights change from step to step. Where a mask is given, the weights that it prunes are
/// zero, and no pass computes with them.
#[derive(Clone, Debug)]
pub struct TrainedConv {
    isa: Isa,
    spec: ConvSpec,
    taps: Taps,
    /// Where the input and the output lie.
    x: Planes,
    y: Planes,
    /// Where the passes compute: the output's planes where these have the room.
    own: Planes,
    /// Whether the passes read input and output where these lie, and so write their gradients.
    x_in_place: bool,
    y_in_place: bool,
    forward: Pass,
    backward: Pass,
    kept: Option<Kept>,
}

impl TrainedConv {
    /// The extents of planes and the zeros in front of them that the output of a convolution needs, and its input too where
    /// they have the same size, to be computed without copies.
    ///
    /// # Panics
    /// If the spec is invalid.
    pub fn extents(spec: &ConvSpec) -> [usize; 3] {
        Taps::new(spec.geometry().axes).extents
    }

    /// The zeros in front of planes of these extents that a convolution reads.
    ///
    /// # Panics
    /// If the spec is invalid.
    pub fn reach(spec: &ConvSpec, extents: [usize; 3]) -> usize {
        Taps::new(spec.geometry().axes).reach(extents)
    }

    /// For a convolution of this shape, with its input and output in these planes, whose weights outside of `kept` are zero.
    ///
    /// # Panics
    /// If the spec is invalid, or the planes or `kept` are those of another shape.
    pub fn new(spec: ConvSpec, x: Planes, y: Planes, kept: Option<Kept>) -> Self {
        Self::with(Isa::best(), spec, x, y, kept)
    }

    fn with(isa: Isa, spec: ConvSpec, x: Planes, y: Planes, kept: Option<Kept>) -> Self {
        let taps = Taps::new(spec.geometry().axes);
        let (batch, out) = (x.count() / size::of(&spec.in_size).max(1), spec.out_size());
        assert_eq!(x.count(), size::of(&[batch, size::of(&spec.in_size)]), "input of {spec:?}");
        assert_eq!(y.count(), size::of(&[batch, size::of(&out)]), "output of {spec:?}");
        let rows = kept.as_ref().map(|kept| [kept.rows(), kept.columns()]);
        assert!(rows.is_none_or(|rows| rows == [spec.out_channels, spec.depth()]), "weights of {spec:?}");
        let room = y.extents().iter().zip(&taps.extents).all(|(has, needs)| has >= needs);
        let own = match room && y.margin() >= taps.reach(y.extents()) && y.margin() > 0 {
            true => y.clone(),
            false => Planes::padded(batch, &out, taps.extents, taps.reach(taps.extents)),
        };
        let (forward, backward) = Pass::both(&spec, &taps, &own, kept.as_ref());
        let whole = taps.phases.len() == 1 && taps.phases[0].is_whole();
        let (x_in_place, y_in_place) = (whole && x == own, y == own);
        TrainedConv { isa, spec, taps, x, y, own, x_in_place, y_in_place, forward, backward, kept }
    }

    /// Planes of the input in a block.
    fn inputs(&self) -> usize {
        self.spec.in_channels * self.taps.phases.len()
    }

    fn check(&self, x: &[f32], y: &[f32]) {
        let spec = &self.spec;
        assert_eq!(x.len(), self.x.len(spec.in_channels), "input of {spec:?}");
        assert_eq!(y.len(), self.y.len(spec.out_channels), "output of {spec:?}");
    }

    fn check_weights(&self, weights: &[f32]) {
        let spec = &self.spec;
        assert_eq!(weights.len(), size::of(&[spec.out_channels, spec.depth()]), "weights of {spec:?}");
    }

    /// y = convolution of x + bias.
    ///
    /// # Panics
    /// If the lengths don't fit the shape.
    pub fn run(&self, weights: &[f32], bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
        let spec = &self.spec;
        self.check(x, y);
        self.check_weights(weights);
        assert!(bias.is_none_or(|bias| bias.len() == spec.out_channels), "bias of {spec:?}");
        self.y.clear_margins(y);
        let sources =
            |block: usize, space: &mut [f32]| self.gather_input(block, x, 0..spec.in_channels, space);
        let (y, own) = (SharedMut::new(y), &self.own);
        let results = |block: usize, space: &[f32]| {
            for n in 0..own.block() {
                for o in 0..spec.out_channels {
                    let from = &space[o * own.pitch() + n * self.plane()..][..self.plane()];
                    let at = self.y.at(spec.out_channels, block * own.block() + n, o);
                    let extents = self.y.extents();
                    // SAFETY: each map is written once.
                    let to = unsafe { y.slice(at, extents.iter().product()) };
                    self.taps.outputs().scatter(own.extents(), from, extents, to, false);
                }
            }
        };
        let sides = Sides {
            pass: &self.forward,
            planes: [self.inputs(), spec.out_channels],
            source: self.x_in_place.then_some(x),
            target: self.y_in_place.then_some(y),
        };
        self.sums(sides, weights, bias, sources, results);
    }

    /// The gradient of the input.
    ///
    /// # Panics
    /// If the lengths don't fit the shape.
    pub fn input(&self, weights: &[f32], dy: &[f32], dx: &mut [f32]) {
        let spec = &self.spec;
        self.check(dx, dy);
        self.check_weights(weights);
        match self.x_in_place {
            true => self.x.clear_margins(dx),
            // Positions that no kernel element reads have no gradient.
            false => dx.fill(0.0),
        }
        let sources =
            |block: usize, space: &mut [f32]| self.gather_output(block, dy, 0..spec.out_channels, space);
        let (dx, own, phases) = (SharedMut::new(dx), &self.own, &self.taps.phases);
        let results = |block: usize, space: &[f32]| {
            for n in 0..own.block() {
                for c in 0..spec.in_channels {
                    let at = self.x.at(spec.in_channels, block * own.block() + n, c);
                    let extents = self.x.extents();
                    // SAFETY: each map is written by one task.
                    let to = unsafe { dx.slice(at, extents.iter().product()) };
                    for (p, phase) in phases.iter().enumerate() {
                        let from = (c * phases.len() + p) * own.pitch() + n * self.plane();
                        phase.scatter(own.extents(), &space[from..][..self.plane()], extents, to, true);
                    }
                }
            }
        };
        let sides = Sides {
            pass: &self.backward,
            planes: [spec.out_channels, self.inputs()],
            source: self.y_in_place.then_some(dy),
            target: self.x_in_place.then_some(dx),
        };
        self.sums(sides, weights, None, sources, results);
    }

    fn plane(&self) -> usize {
        self.own.extents().iter().product()
    }

    /// Copies the phases of some channels of a block of inputs behind a margin.
    fn gather_input(&self, block: usize, x: &[f32], channels: std::ops::Range<usize>, space: &mut [f32]) {
        let (own, phases) = (&self.own, &self.taps.phases);
        let first = channels.start;
        for n in 0..own.block() {
            for c in channels.clone() {
                let from = &x[self.x.at(self.spec.in_channels, block * own.block() + n, c)..];
                for (p, phase) in phases.iter().enumerate() {
                    let to = ((c - first) * phases.len() + p) * own.pitch() + n * self.plane();
                    let to = &mut space[own.margin() + to..][..self.plane()];
                    phase.gather(self.x.extents(), from, own.extents(), to);
                }
            }
        }
    }

    /// Copies some channels of a block of outputs behind a margin.
    fn gather_output(&self, block: usize, y: &[f32], channels: std::ops::Range<usize>, space: &mut [f32]) {
        let own = &self.own;
        let first = channels.start;
        for n in 0..own.block() {
            for o in channels.clone() {
                let from = &y[self.y.at(self.spec.out_channels, block * own.block() + n, o)..];
                let to = own.margin() + (o - first) * own.pitch() + n * self.plane();
                let to = &mut space[to..][..self.plane()];
                self.taps.outputs().gather(self.y.extents(), from, own.extents(), to);
            }
        }
    }

    /// Computes a pass block by block. Sources that do not lie where the pass reads are gathered into zeros, and results
    /// scattered.
    fn sums(
        &self,
        sides: Sides<'_>,
        weights: &[f32],
        bias: Option<&[f32]>,
        gather: impl Fn(usize, &mut [f32]) + Sync + Send,
        scatter: impl Fn(usize, &[f32]) + Sync + Send,
    ) {
        let Sides { pass, planes: [sources, results], source, target } = sides;
        let (own, pitch, margin) = (&self.own, self.own.pitch(), self.own.margin());
        let (from, to) = (size::of(&[sources, pitch]), size::of(&[results, pitch]));
        let framed = size::sum(&[from, 2 * margin]);
        let inside = target.is_some().then(|| own.inside()).flatten();
        // Few blocks with everything in place are divided by rows of results.
        let divide = source.is_some() && target.is_some() && own.blocks() < 4 * threads::available();
        let parts = if divide { pass.panels() } else { 1 };
        threads::with_workspace(pass.packed(), |packed| {
            pass.pack(self.isa, weights, packed);
            let packed = &*packed;
            let parallel = own.blocks() * pass.work(pitch) > threads::GRAIN;
            threads::tasks(own.blocks() * parts, parallel, |task| {
                let block = task / parts;
                let panels = if parts == 1 { 0..pass.panels() } else { task % parts..task % parts + 1 };
                let with_source = |source: &[f32]| {
                    let compute = |out: SharedMut<'_, f32>| {
                        let results = Results { out, pitch, bias, inside };
                        pass.run(self.isa, panels.clone(), packed, source, results);
                    };
                    match target {
                        Some(target) => compute(target.skip(margin + block * to)),
                        None => threads::with_workspace(to, |space| {
                            compute(SharedMut::new(space));
                            scatter(block, space);
                        }),
                    }
                };
                match source {
                    Some(source) => with_source(&source[block * from..][..framed]),
                    None => threads::with_workspace(framed, |space| {
                        space.fill(0.0);
                        gather(block, space);
                        with_source(space);
                    }),
                }
            });
        });
    }

    /// The gradient of the weights `[out, in / groups, kernel…]`, 0 for those that are not kept:
    ///
    /// ```text
    /// dw[o, c, t] = Σ over samples n and outputs p of dy[n, o, p] · x[n, c, p · stride + t · dilation − pad]
    /// ```
    ///
    /// # Panics
    /// If the lengths don't fit the shape.
    pub fn weights(&self, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        self.check(x, dy);
        self.check_weights(dw);
        dw.fill(0.0);
        let blocks = self.own.blocks();
        if blocks == 0 || dw.is_empty() {
            return;
        }
        let (outputs, depth, len) = (self.spec.out_channels, self.spec.depth(), dw.len());
        let parts = (PART_BYTES / size_of_val(dw)).clamp(1, PARTS).min(blocks);
        if parts > 1 {
            threads::with_workspace(parts * len, |sums| {
                sums.fill(0.0);
                let shared = SharedMut::new(sums);
                threads::tasks(parts, true, |part| {
                    // SAFETY: each part has sums of its own.
                    let dw = unsafe { shared.slice(part * len, len) };
                    self.correlate(threads::split(blocks, parts, part), 0..outputs, x, dy, dw);
                });
                // SAFETY: the parts are done.
                let sums = unsafe { shared.slice(0, parts * len) };
                for part in sums.chunks_exact(len) {
                    dw.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                }
            });
            return;
        }
        // Each weight's sum is computed by one thread, over all samples in their order.
        let shared = SharedMut::new(dw);
        let count = threads::available().min(outputs);
        threads::tasks(count, true, |task| {
            let outputs = threads::split(outputs, count, task);
            // SAFETY: each task has outputs of its own.
            let dw = unsafe { shared.slice(outputs.start * depth, outputs.len() * depth) };
            self.correlate(0..blocks, outputs, x, dy, dw);
        });
    }

    /// Adds the gradients of these outputs' weights over some blocks.
    fn correlate(
        &self,
        blocks: std::ops::Range<usize>,
        outputs: std::ops::Range<usize>,
        x: &[f32],
        dy: &[f32],
        dw: &mut [f32],
    ) {
        let (spec, own, pitch) = (&self.spec, &self.own, self.own.pitch());
        let (rows, channels) = (spec.out_channels / spec.groups, spec.in_channels / spec.groups);
        let inputs = channels * self.taps.phases.len();
        let frame = |in_place: bool, planes: usize| {
            if in_place { 0 } else { size::sum(&[size::of(&[planes, pitch]), 2 * own.margin()]) }
        };
        let (x_room, y_room) =
            (frame(self.x_in_place, inputs), frame(self.y_in_place, rows.min(outputs.len())));
        threads::with_workspace(size::sum(&[x_room, y_room]), |space| {
            space.fill(0.0);
            let (x_space, y_space) = space.split_at_mut(x_room);
            for block in blocks.clone() {
                for group in outputs.start / rows..(outputs.end - 1) / rows + 1 {
                    let of = (group * rows).max(outputs.start)..((group + 1) * rows).min(outputs.end);
                    let inputs = match self.x_in_place {
                        true => &x[(block * spec.in_channels + group * channels) * pitch..],
                        false => {
                            self.gather_input(block, x, group * channels..(group + 1) * channels, x_space);
                            &*x_space
                        }
                    };
                    let gradients = match self.y_in_place {
                        true => &dy[own.margin() + (block * spec.out_channels + of.start) * pitch..],
                        false => {
                            self.gather_output(block, dy, of.clone(), y_space);
                            &y_space[own.margin()..]
                        }
                    };
                    let gradients = &gradients[..of.len() * pitch];
                    let depth = spec.depth();
                    let dw = &mut dw[(of.start - outputs.start) * depth..][..of.len() * depth];
                    let places = self.forward.terms();
                    match &self.kept {
                        None => self.isa.run(Correlation { inputs, gradients, places, pitch, dw }),
                        Some(kept) => threads::with_workspace(depth * MAX_LANES, |sums| {
                            let (len, first) = (pitch, of.start);
                            let at = |column: usize| places[column];
                            let sampled =
                                Sampled { len, inputs, gradients, pitch, kept, first, at, dw, sums };
                            self.isa.run(sampled);
                        }),
                    }
                }
            }
        });
    }
}

/// What a pass reads and writes.
struct Sides<'a> {
    pass: &'a Pass,
    /// Rows of sources and of results in a block.
    planes: [usize; 2],
    /// The sources and the results, where they lie in the planes of the pass.
    source: Option<&'a [f32]>,
    target: Option<SharedMut<'a, f32>>,
}

#[cfg(test)]
mod tests;
