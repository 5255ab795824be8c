//! Weights that aren't zero in the slots of steps: the lanes of a vector are rows, and in each step each of them
//! takes its next weight (or two) among the inputs of a window, which moves along the inputs and is the same for
//! all rows of a band. Four bits name an input of the window, so an input is a permutation away and nothing is
//! gathered. A weight that the window has left behind is spilled: kept aside with its row and input.
//!
//! Rows are sorted by their weights, so that those of a band need about as many steps; the windows move faster
//! where fewer weights are.

mod plan;

use super::rows::{STREAMS, ask_ahead};
use super::value::{Cells, Float, Input, Value, WINDOW};
use super::{Form, Layout, Rows};
use crate::simd::{Isa, Kernel, Simd};
use plan::Place;
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
    lanes: usize,
    /// Rows in the order of bands.
    order: Vec<u32>,
    bands: Vec<Band>,
    /// Windows' first inputs.
    starts: Vec<u32>,
    spills: Vec<T::Spill>,
    /// Blocks of steps of each group, one group after the other.
    blocks: Cells<i8>,
}

/// Up to [`STREAMS`] groups, each of as many rows as lanes, that pass over the same windows.
#[derive(Debug)]
struct Band {
    rows: Range<usize>,
    /// Its windows among `starts`; as many as fill whole blocks.
    windows: Range<usize>,
    /// Its first block, in bytes.
    at: usize,
    spills: Range<usize>,
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
        let lanes = T::lanes(isa);
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

        // Bands with about as many weights share windows, which then stay in the cache.
        let mut windows = BTreeMap::new();
        let (mut starts, mut spills, mut bands, mut size) = (vec![], vec![], vec![], 0);
        let step_bytes = T::block_bytes(lanes) as f64 / (T::STEPS * lanes) as f64;
        let spill_bytes = size_of::<T::Spill>() as f64;
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
                let mut steps = plan::cheapest(&columns, &sample, T::SLOTS, step_bytes, spill_bytes);
                steps.resize(steps.len().next_multiple_of(T::STEPS), steps.last().copied().unwrap_or(0));
                let at = starts.len();
                starts.extend(steps);
                at..starts.len()
            });
            let blocks = windows.len() / T::STEPS * rows.len().div_ceil(lanes);
            bands.push(Band { rows, windows: windows.clone(), at: size, spills: 0..0 });
            size += blocks * T::block_bytes(lanes);
        }

        let mut blocks = Cells::zeroed(size);
        for band in &mut bands {
            let windows = &starts[band.windows.clone()];
            let mut spilled = vec![];
            for (i, &o) in order[band.rows.clone()].iter().enumerate() {
                let columns = places(o);
                let group = band.at + i / lanes * (windows.len() / T::STEPS) * T::block_bytes(lanes);
                plan::fill(windows, T::SLOTS, &columns, |n, place| {
                    let weight = row(o as usize)[columns[n] as usize];
                    match place {
                        Place::Spill => spilled.push(Spill { input: columns[n] as usize, row: i, weight }),
                        Place::Slot { step, slot, pick } => {
                            let at = group + step / T::STEPS * T::block_bytes(lanes);
                            let block = &mut blocks.as_mut_slice()[at..][..T::block_bytes(lanes)];
                            weight.put(block, lanes, [step % T::STEPS, i % lanes, slot], pick as u8);
                        }
                    }
                });
            }
            // By input, so that sums of the same row don't wait for each other.
            spilled.sort_by_key(|spill| (spill.input, spill.row));
            let before = spills.len();
            spills.extend(spilled.into_iter().map(T::pack_spill));
            band.spills = before..spills.len();
        }
        Slots { inputs, lanes, order, bands, starts, spills, blocks }
    }

    /// The sums of a band's groups in slots.
    ///
    /// # Safety
    /// `x` has the layer's inputs and a window more, and the instruction set has as many lanes as this.
    #[inline(always)]
    unsafe fn in_slots<S: Simd>(&self, s: S, band: &Band, x: &[T::X]) -> [T::Sum; MAX_ROWS] {
        let mut sums = [T::Sum::default(); MAX_ROWS];
        let windows = &self.starts[band.windows.clone()];
        let group = windows.len() / T::STEPS * T::block_bytes(self.lanes);
        let groups = band.rows.len().div_ceil(self.lanes);
        let blocks = self.blocks.as_slice()[band.at..][..groups * group].as_ptr();
        // SAFETY: each group has a block for each STEPS windows, and windows begin within the inputs.
        unsafe {
            if groups == STREAMS {
                let at = std::array::from_fn(|i| blocks.add(i * group));
                T::steps::<S, STREAMS>(s, at, windows, x.as_ptr(), &mut sums);
            } else {
                for (i, sums) in sums.chunks_mut(self.lanes).take(groups).enumerate() {
                    T::steps(s, [blocks.add(i * group)], windows, x.as_ptr(), sums);
                }
            }
        }
        sums
    }
}

/// Classes of bands that share windows in each doubling of the weights.
const CLASSES: f32 = 24.0;

impl<T: Slotted> Form for Slots<T> {
    fn bytes(&self) -> usize {
        size_of_val(&self.order[..])
            + size_of_val(&self.bands[..])
            + size_of_val(&self.starts[..])
            + size_of_val(&self.spills[..])
            + self.blocks.bytes()
    }

    fn parts(&self) -> usize {
        self.bands.len()
    }

    fn run(&self, isa: Isa, parts: Range<usize>, x: &Input, out: Rows) {
        assert!(self.lanes == T::lanes(isa) && T::inputs(x).len() >= self.inputs + WINDOW);
        isa.run(Bands { form: self, bands: &self.bands[parts], x: T::inputs(x), out });
    }
}

struct Bands<'a, T: Slotted> {
    form: &'a Slots<T>,
    bands: &'a [Band],
    x: &'a [T::X],
    out: Rows<'a>,
}

impl<T: Slotted> Kernel for Bands<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Bands { form, bands, x, out } = self;
        for band in bands {
            // SAFETY: `Form::run` has checked the inputs and lanes.
            let mut sums = unsafe { form.in_slots(s, band, x) };
            for spill in &form.spills[band.spills.clone()] {
                let Spill { input, row, weight } = T::unpack_spill(*spill);
                sums[row] += weight.times(x[input]);
            }
            for (&row, sum) in form.order[band.rows.clone()].iter().zip(sums) {
                // SAFETY: each row is in one band, and bands are in one range.
                unsafe { out.write(row as usize, T::to_f32(sum)) };
            }
        }
    }
}

/// A weight in slots.
pub(super) trait Slotted: Value {
    /// Slots of a row in a step.
    const SLOTS: usize;
    /// Steps whose weights are stored together.
    const STEPS: usize;
    /// A spill as stored.
    type Spill: Copy + Debug + Send + Sync;
    fn pack_spill(spill: Spill<Self>) -> Self::Spill;
    fn unpack_spill(spill: Self::Spill) -> Spill<Self>;

    /// Rows of a group.
    fn lanes(isa: Isa) -> usize;
    fn block_bytes(lanes: usize) -> usize;
    /// Writes the weight to its step of the block, lane and slot, and its place in the window.
    fn put(self, block: &mut [i8], lanes: usize, at: [usize; 3], pick: u8);

    /// Sets `sums`, for each row of the groups one after the other, to the sums of what their blocks have in slots.
    ///
    /// # Safety
    /// There are as many blocks at each address as hold a step for each window, and a window of inputs can be read
    /// at each of `windows` from `x` on.
    unsafe fn steps<S: Simd, const R: usize>(
        s: S,
        blocks: [*const i8; R],
        windows: &[u32],
        x: *const Self::X,
        sums: &mut [Self::Sum],
    );
}

/// A block has a word for each lane, with 4 bits for each step, and then each step's weights.
impl<T: Float> Slotted for T {
    const SLOTS: usize = 1;
    const STEPS: usize = 8;

    /// The input and, in the low bits, the row; the weight.
    type Spill = (u32, T);

    fn pack_spill(spill: Spill<T>) -> (u32, T) {
        ((spill.input << ROW_BITS | spill.row) as u32, spill.weight)
    }

    #[inline(always)]
    fn unpack_spill((place, weight): (u32, T)) -> Spill<T> {
        Spill { input: (place >> ROW_BITS) as usize, row: place as usize % MAX_ROWS, weight }
    }

    fn lanes(isa: Isa) -> usize {
        isa.tile().lanes
    }

    #[inline(always)]
    fn block_bytes(lanes: usize) -> usize {
        lanes * (size_of::<u32>() + Self::STEPS * size_of::<T>())
    }

    fn put(self, block: &mut [i8], lanes: usize, [step, lane, _]: [usize; 3], pick: u8) {
        let (picks, weights) = block.split_at_mut(lanes * size_of::<u32>());
        let word = picks[lane * 4..][..4].as_mut_ptr().cast::<u32>();
        // SAFETY: four bytes of the block, and as many as a weight's; any bits are a weight.
        unsafe {
            word.write_unaligned(word.read_unaligned() | u32::from(pick) << (4 * step));
            let weights = weights[(step * lanes + lane) * size_of::<T>()..][..size_of::<T>()].as_mut_ptr();
            weights.cast::<T>().write_unaligned(self);
        }
    }

    #[inline(always)]
    unsafe fn steps<S: Simd, const R: usize>(
        s: S,
        mut blocks: [*const i8; R],
        windows: &[u32],
        x: *const f32,
        sums: &mut [f32],
    ) {
        let mut acc = [[s.zero(); 2]; R];
        for windows in windows.chunks_exact(Self::STEPS) {
            // SAFETY: the caller's promise.
            unsafe {
                let mut words = [s.load_words(blocks[0].cast()); R];
                for (words, block) in words.iter_mut().zip(blocks) {
                    ask_ahead(s, block, Self::block_bytes(S::LANES));
                    *words = s.load_words(block.cast());
                }
                for (step, &window) in windows.iter().enumerate() {
                    let x = x.add(window as usize);
                    for r in 0..R {
                        let weights = blocks[r].add(S::LANES * size_of::<u32>()).cast::<T>();
                        let w = T::load(s, weights.add(step * S::LANES));
                        acc[r][step % 2] = s.fma(w, s.pick(x, words[r]), acc[r][step % 2]);
                        words[r] = s.shift_right::<4>(words[r]);
                    }
                }
                blocks.iter_mut().for_each(|block| *block = block.add(Self::block_bytes(S::LANES)));
            }
        }
        for (&[a, b], sums) in acc.iter().zip(sums.chunks_exact_mut(S::LANES)) {
            // SAFETY: there are LANES sums.
            unsafe { s.store(sums.as_mut_ptr(), s.add(a, b)) };
        }
    }
}

/// Lanes of bytes, of any instruction set.
const BYTE_LANES: usize = 16;

/// Bytes of a step's weights, and of the places of two steps' weights.
const STEP_BYTES: usize = 2 * BYTE_LANES;

/// A block has a byte for each lane's slot, with 4 bits for each of two steps, and then each step's weights.
impl Slotted for i8 {
    const SLOTS: usize = 2;
    const STEPS: usize = 2;

    /// From the low bits on: the row, the input, the weight.
    type Spill = u32;

    fn pack_spill(spill: Spill<i8>) -> u32 {
        let place = (spill.input << ROW_BITS | spill.row) as u32;
        place | u32::from(spill.weight as u8) << (ROW_BITS + INPUT_BITS)
    }

    #[inline(always)]
    fn unpack_spill(spill: u32) -> Spill<i8> {
        let input = (spill >> ROW_BITS) as usize % (1 << INPUT_BITS);
        Spill { input, row: spill as usize % MAX_ROWS, weight: (spill >> (ROW_BITS + INPUT_BITS)) as i8 }
    }

    fn lanes(_: Isa) -> usize {
        BYTE_LANES
    }

    #[inline(always)]
    fn block_bytes(_: usize) -> usize {
        STEP_BYTES * (1 + Self::STEPS)
    }

    fn put(self, block: &mut [i8], _: usize, [step, lane, slot]: [usize; 3], pick: u8) {
        let at = 2 * lane + slot;
        block[at] |= (pick << (4 * step)) as i8;
        block[STEP_BYTES * (1 + step) + at] = self;
    }

    #[inline(always)]
    unsafe fn steps<S: Simd, const R: usize>(
        s: S,
        mut blocks: [*const i8; R],
        windows: &[u32],
        x: *const i8,
        sums: &mut [i32],
    ) {
        let mut acc = [s.zero_sums(); R];
        for windows in windows.chunks_exact(Self::STEPS) {
            // SAFETY: the caller's promise.
            unsafe {
                let [a, b] = [x.add(windows[0] as usize), x.add(windows[1] as usize)];
                for (block, acc) in blocks.iter_mut().zip(&mut acc) {
                    ask_ahead(s, *block, Self::block_bytes(BYTE_LANES));
                    let picks = block.cast::<u8>();
                    *acc = s.add_picked::<false>(*acc, block.add(STEP_BYTES), picks, a);
                    *acc = s.add_picked::<true>(*acc, block.add(2 * STEP_BYTES), picks, b);
                    *block = block.add(Self::block_bytes(BYTE_LANES));
                }
            }
        }
        for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(BYTE_LANES)) {
            sums.copy_from_slice(&s.sums_to_array(*acc));
        }
    }
}
