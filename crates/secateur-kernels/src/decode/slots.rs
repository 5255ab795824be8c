//! Nonzero weights in the slots of steps. The lanes of a vector are rows. In each step, every row uses its next weights, as
//! many as it has slots, among the inputs of a window. The window moves along the inputs and is the same for all rows of a
//! band. A few bits name an input of the window, so a permutation fetches it and nothing is gathered. A weight that the
//! window has passed is spilled: stored separately with its row and input.
//!
//! Rows are sorted by their number of weights, so that the rows of a band need about as many steps; windows move faster
//! where weights are sparser.

mod bytes;
mod float;
mod plan;
#[cfg(target_arch = "x86_64")]
mod vbmi;

use super::rows::STREAMS;
use super::value::{Cells, Input, Value};
use super::{Layout, PackedRows, RowSums};
use crate::simd::{Isa, Kernel, Simd};
use plan::Placement;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;

/// Most rows of a band: 4 groups of 16 lanes.
const MAX_ROWS: usize = 64;

/// Bits of a spill's row and input.
const ROW_BITS: u32 = MAX_ROWS.ilog2();
const INPUT_BITS: u32 = Layout::MAX_INPUTS.ilog2();

#[derive(Debug)]
pub(super) struct Slots<T: Slotted> {
    inputs: usize,
    shape: Shape,
    /// Rows in the order of bands.
    order: Vec<u32>,
    /// Initial sums of these rows; empty if all are zero.
    bases: Vec<T::Sum>,
    bands: Vec<Band>,
    /// First input of each window.
    starts: Vec<u32>,
    spills: Vec<T::Spill>,
    /// Blocks of steps, group by group.
    blocks: Cells<i8>,
}

/// Up to [`STREAMS`] groups, each of as many rows as lanes, that pass over the same windows.
#[derive(Debug)]
pub(super) struct Band {
    rows: Range<usize>,
    /// Its windows among `starts`, a whole number of blocks.
    windows: Range<usize>,
    /// Byte offset of its first block.
    at: usize,
    spills: Range<usize>,
}

/// The layout of a type's weights for an instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Rows per group.
    lanes: usize,
    /// Inputs that a step picks from.
    window: usize,
    /// Slots per row and step.
    slots: usize,
    /// Steps per block.
    steps: usize,
    /// Bytes per block.
    bytes: usize,
}

/// A spilled weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spill<T> {
    input: usize,
    /// Its row in the band.
    row: usize,
    weight: T,
}

impl<T: Slotted> Slots<T> {
    pub(super) fn new(isa: Isa, inputs: usize, weights: &[T]) -> Slots<T> {
        let outputs = weights.len() / inputs;
        let shape = T::shape(isa);
        let lanes = shape.lanes;
        let row = |o: usize| &weights[o * inputs..(o + 1) * inputs];
        let mut counts = vec![0u32; outputs];
        let mut columns = vec![0u32; inputs];
        for (o, count) in counts.iter_mut().enumerate() {
            for (column, w) in columns.iter_mut().zip(row(o)) {
                let one = u32::from(*w != T::default());
                *column += one;
                *count += one;
            }
        }
        let columns = plan::shares(&columns);
        let mut order: Vec<u32> = (0..outputs as u32).collect();
        order.sort_by_key(|&o| counts[o as usize]);

        // Bands with similar numbers of weights share windows, which then stay in the cache.
        let mut windows = BTreeMap::new();
        let (mut starts, mut spills, mut bands, mut size) = (vec![], vec![], vec![], 0);
        let spill_bytes = size_of::<T::Spill>();
        let places = |o: u32| -> Vec<u32> {
            let kept = row(o as usize).iter().enumerate().filter(|(_, w)| **w != T::default());
            kept.map(|(i, _)| i as u32).collect()
        };
        for first in (0..outputs).step_by(STREAMS * lanes) {
            let rows = first..outputs.min(first + STREAMS * lanes);
            let total: u32 = order[rows.clone()].iter().map(|&o| counts[o as usize]).sum();
            let class = ((total as f32 / rows.len() as f32).max(1.0).log2() * CLASSES).round() as u32;
            let windows = windows.entry(class).or_insert_with(|| {
                let sample: Vec<Vec<u32>> = order[rows.clone()].iter().map(|&o| places(o)).collect();
                let mut steps = plan::cheapest(&columns, &sample, shape, spill_bytes);
                steps.resize(steps.len().next_multiple_of(shape.steps), steps.last().copied().unwrap_or(0));
                let at = starts.len();
                starts.extend(steps);
                at..starts.len()
            });
            let blocks = windows.len() / shape.steps * rows.len().div_ceil(lanes);
            bands.push(Band { rows, windows: windows.clone(), at: size, spills: 0..0 });
            size += blocks * shape.bytes;
        }

        let (mut blocks, mut bases) = (Cells::zeroed(size), vec![]);
        for band in &mut bands {
            let windows = &starts[band.windows.clone()];
            let mut spilled = vec![];
            for (i, &o) in order[band.rows.clone()].iter().enumerate() {
                let (columns, mut in_slots) = (places(o), vec![]);
                let group = band.at + i / lanes * (windows.len() / shape.steps) * shape.bytes;
                plan::fill(windows, shape, &columns, |n, place| {
                    let weight = row(o as usize)[columns[n] as usize];
                    match place {
                        Placement::Spill => {
                            spilled.push(Spill { input: columns[n] as usize, row: i, weight })
                        }
                        Placement::Slot { step, slot, pick } => {
                            let at = group + step / shape.steps * shape.bytes;
                            let block = &mut blocks.as_mut_slice()[at..][..shape.bytes];
                            weight.put(block, shape, [step % shape.steps, i % lanes, slot], pick as u8);
                            in_slots.push(weight);
                        }
                    }
                });
                bases.extend(T::base(shape, &in_slots));
            }
            // By input, so that consecutive additions go to different rows.
            spilled.sort_by_key(|spill| (spill.input, spill.row));
            let before = spills.len();
            spills.extend(spilled.into_iter().map(T::pack_spill));
            band.spills = before..spills.len();
        }
        Slots { inputs, shape, order, bases, bands, starts, spills, blocks }
    }

    /// The sums of a band's weights in slots.
    ///
    /// # Safety
    /// `x` holds the layer's inputs and one more window, and `take` is for this shape.
    #[inline(always)]
    unsafe fn in_slots(&self, take: impl Steps<T>, band: &Band, x: &[T::X]) -> [T::Sum; MAX_ROWS] {
        let mut sums = [T::Sum::default(); MAX_ROWS];
        if let Some(bases) = self.bases.get(band.rows.clone()) {
            sums[..bases.len()].copy_from_slice(bases);
        }
        let Shape { lanes, steps, bytes, .. } = self.shape;
        let windows = &self.starts[band.windows.clone()];
        let group = windows.len() / steps * bytes;
        let groups = band.rows.len().div_ceil(lanes);
        let blocks = self.blocks.as_slice()[band.at..][..groups * group].as_ptr();
        // SAFETY: `blocks` was sliced to all groups' blocks, one per `steps` windows; windows begin within the inputs.
        unsafe {
            if groups == STREAMS {
                let at: [_; STREAMS] = std::array::from_fn(|i| blocks.add(i * group));
                take.add(at, windows, x.as_ptr(), &mut sums);
            } else {
                for (i, sums) in sums.chunks_mut(lanes).take(groups).enumerate() {
                    take.add([blocks.add(i * group)], windows, x.as_ptr(), sums);
                }
            }
        }
        sums
    }

    /// Writes the sums of bands.
    ///
    /// # Safety
    /// As for [`Slots::in_slots`].
    #[inline(always)]
    unsafe fn run_bands(&self, take: impl Steps<T>, bands: &[Band], x: &[T::X], out: RowSums) {
        for band in bands {
            // SAFETY: guaranteed by the caller.
            let mut sums = unsafe { self.in_slots(take, band, x) };
            for spill in &self.spills[band.spills.clone()] {
                let Spill { input, row, weight } = T::unpack_spill(*spill);
                sums[row] += weight.times(x[input]);
            }
            for (&row, sum) in self.order[band.rows.clone()].iter().zip(sums) {
                // SAFETY: each row belongs to one band, and tasks have disjoint ranges of bands.
                unsafe { out.write(row as usize, T::to_f32(sum)) };
            }
        }
    }
}

/// Classes of bands that share windows, per doubling of the number of weights.
const CLASSES: f32 = 24.0;

impl<T: Slotted> PackedRows for Slots<T> {
    fn bytes(&self) -> usize {
        size_of_val(&self.order[..])
            + size_of_val(&self.bases[..])
            + size_of_val(&self.bands[..])
            + size_of_val(&self.starts[..])
            + size_of_val(&self.spills[..])
            + self.blocks.bytes()
    }

    fn parts(&self) -> usize {
        self.bands.len()
    }

    fn run(&self, isa: Isa, parts: Range<usize>, x: &Input, out: RowSums) {
        let (bands, x) = (&self.bands[parts], T::inputs(x));
        assert!(self.shape == T::shape(isa) && x.len() >= self.inputs + self.shape.window);
        if !T::special(self, isa, bands, x, out) {
            isa.run(Bands { form: self, bands, x, out });
        }
    }
}

struct Bands<'a, T: Slotted> {
    form: &'a Slots<T>,
    bands: &'a [Band],
    x: &'a [T::X],
    out: RowSums<'a>,
}

impl<T: Slotted> Kernel for Bands<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `PackedRows::run` has checked the inputs and the shape.
        unsafe { self.form.run_bands(With(s), self.bands, self.x, self.out) }
    }
}

/// Computes the steps of groups.
trait Steps<T: Slotted>: Copy {
    /// Adds the sums of the weights in slots to `sums`, for each row of each group in order.
    ///
    /// # Safety
    /// At each of `blocks`, enough blocks can be read for one step per window, and a window of inputs can be read at `x` plus
    /// each of `windows`.
    unsafe fn add<const R: usize>(
        self,
        blocks: [*const i8; R],
        windows: &[u32],
        x: *const T::X,
        sums: &mut [T::Sum],
    );
}

/// Steps with the vectors of an instruction set.
#[derive(Clone, Copy)]
struct With<S>(S);

impl<T: Slotted, S: Simd> Steps<T> for With<S> {
    #[inline(always)]
    unsafe fn add<const R: usize>(
        self,
        blocks: [*const i8; R],
        windows: &[u32],
        x: *const T::X,
        sums: &mut [T::Sum],
    ) {
        // SAFETY: guaranteed by the caller.
        unsafe { T::add_steps(self.0, blocks, windows, x, sums) }
    }
}

/// A weight in slots.
pub(super) trait Slotted: Value {
    /// A spill as stored.
    type Spill: Copy + Debug + Send + Sync;
    fn pack_spill(spill: Spill<Self>) -> Self::Spill;
    fn unpack_spill(spill: Self::Spill) -> Spill<Self>;

    fn shape(isa: Isa) -> Shape;
    /// Writes the weight, and its position in the window (`pick`), to the block; `at` is `[step, lane, slot]`.
    fn put(self, block: &mut [i8], shape: Shape, at: [usize; 3], pick: u8);
    /// Initial sum of a row with these weights in slots, if not zero.
    fn base(_shape: Shape, _in_slots: &[Self]) -> Option<Self::Sum> {
        None
    }

    /// See [`Steps::add`].
    ///
    /// # Safety
    /// As there; the blocks have the shape of `S`.
    unsafe fn add_steps<S: Simd, const R: usize>(
        s: S,
        blocks: [*const i8; R],
        windows: &[u32],
        x: *const Self::X,
        sums: &mut [Self::Sum],
    );

    /// Writes the sums of `bands` and returns true if this instruction set has a faster way than
    /// [`Slotted::add_steps`]. The inputs have been checked.
    fn special(_form: &Slots<Self>, _isa: Isa, _bands: &[Band], _x: &[Self::X], _out: RowSums) -> bool {
        false
    }
}
