//! Gathers the inputs that a convolution reads for one tile of its output.

use super::{COLUMNS, Tiling};
use crate::conv::spec::{Axis, Geometry};
use crate::simd::Simd;
use std::ops::Range;

/// Values of a line: those of a row of outputs, and [`MARGIN`] neighbours on each side.
const LINE: usize = 2 * MARGIN + COLUMNS;

/// How far a kernel may reach beyond a row of outputs in lines.
const MARGIN: usize = COLUMNS / 2;

/// Bytes of input per block, so that it stays in the first-level cache together with weights and outputs.
const BLOCK_BYTES: usize = 40 * 1024;

/// The same for blocks that are read in place, which share the cache with their neighbours in memory.
const TILE_BYTES: usize = 32 * 1024;

/// Factor by which blocks are larger, on wide vectors, for kernels that read half a tile's rows at a time.
const DEEP: usize = 2;

/// Largest block: offsets of inputs have two bytes.
const MOST_BYTES: usize = 64 * 1024;

/// From this many outputs, wide vectors save more than folding costs, at 50 % zeros as at 90 %.
const FOLDED_OUTPUTS: usize = 32;

/// Channels that are folded together: their lines stay in the cache, and the writes have completed when they are read.
const AT_ONCE: usize = 8;

/// Columns of the input matrix (channel, kernel row, kernel column) per block of windows.
const WINDOW_COLUMNS: usize = 128;

/// The form in which a convolution's inputs are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The input's own tiles.
    Tile,
    /// Each input row of a tile with its halo: one [`LINE`] per column modulo the stride, so that the pixels of neighbouring
    /// outputs are neighbours.
    Lines,
    /// For every (channel, kernel column), vectors of two input rows, one for an output row of the tile's first half and one
    /// for the corresponding row of its second half: none of these vectors crosses a cache line.
    Folded,
    /// For every (channel, kernel element), the input pixels of a tile's outputs, as a tile.
    Windows,
}

impl Source {
    /// How windows are read: as `halo` if kernels reach no further than a line's margin.
    pub(crate) fn of(geometry: &Geometry, halo: Source) -> Source {
        let [_, h, w] = geometry.axes;
        let square = h.stride == w.stride && w.stride <= 2;
        let near = |a: Axis| a.pad <= MARGIN && (a.kernel - 1) * a.dilation <= a.pad + MARGIN;
        if geometry.pointwise() {
            Source::Tile
        } else if square && geometry.taps() > 1 && near(w) && near(h) {
            halo
        } else {
            Source::Windows
        }
    }
}

/// Input blocks of a convolution: each holds the inputs of some columns of the weight matrix.
#[derive(Clone, Debug)]
pub(crate) struct Pack {
    pub(crate) source: Source,
    input: Tiling,
    height: Axis,
    width: Axis,
    /// Rows of an output tile.
    rows: usize,
    /// Distance between the inputs of neighbouring output rows in a block, in values.
    pub(crate) step: usize,
    /// Distance between channels (for windows: columns) of a block, in values.
    stride: usize,
    /// Lines per channel of a block, one per input row.
    lines: usize,
    /// Columns of the weight matrix in each block.
    pub(crate) blocks: Vec<Range<usize>>,
}

impl Pack {
    /// For kernels that read the inputs of output rows one by one.
    pub(crate) fn new(geometry: &Geometry, input: &Tiling, output: &Tiling) -> Pack {
        Pack::with(geometry, input, output, Source::Lines, 1)
    }

    /// For products with `outputs` output channels per group: with many, folding the inputs pays. `deep` makes blocks as large
    /// as pays for kernels that process a tile in parts.
    pub(crate) fn of_products(
        geometry: &Geometry,
        input: &Tiling,
        output: &Tiling,
        outputs: usize,
        deep: bool,
    ) -> Pack {
        let wide = input.isa.tile().lanes > COLUMNS;
        let halo = if wide && outputs >= FOLDED_OUTPUTS { Source::Folded } else { Source::Lines };
        Pack::with(geometry, input, output, halo, if wide && deep { DEEP } else { 1 })
    }

    /// Reads as `halo` where [`Source::of`] allows it, in blocks `deep` times as large.
    fn with(geometry: &Geometry, input: &Tiling, output: &Tiling, halo: Source, deep: usize) -> Pack {
        let [_, h, w] = geometry.axes;
        let taps = h.kernel * w.kernel;
        let source = Source::of(geometry, halo);
        let rows = if source == Source::Folded { output.rows.next_multiple_of(2) } else { output.rows };
        let lines = |rows: usize| (rows - 1) * h.stride + (h.kernel - 1) * h.dilation + 1;
        let line = LINE * w.stride;
        let within = |bytes: usize, stride: usize| (deep * bytes).min(MOST_BYTES) / (4 * stride);
        let (step, stride, most) = match source {
            Source::Tile => (COLUMNS, input.channel_len, within(TILE_BYTES, input.channel_len)),
            Source::Lines => {
                let stride = lines(rows) * line;
                (line * h.stride, stride, within(BLOCK_BYTES, stride))
            }
            Source::Folded => {
                let stride = w.kernel * lines(rows / 2) * 2 * COLUMNS;
                (COLUMNS * h.stride, stride, within(BLOCK_BYTES, stride))
            }
            Source::Windows => (COLUMNS, output.channel_len, WINDOW_COLUMNS),
        };
        let (columns, unit) = match source {
            Source::Windows => (input.channels * taps, 1),
            _ => (input.channels, taps),
        };
        // Of nearly equal size, in multiples of four, so that small groups of channels stay together.
        let count = columns.div_ceil((most / 4 * 4).max(4));
        let size = columns.div_ceil(count.max(1)).next_multiple_of(4);
        let blocks = (0..count).map(|b| b * size * unit..columns.min((b + 1) * size) * unit);
        Pack {
            source,
            input: input.clone(),
            height: h,
            width: w,
            rows: output.rows,
            step,
            stride,
            lines: lines(rows),
            blocks: blocks.collect(),
        }
    }

    /// Whether a vector holds rows of both halves of the tile.
    pub(crate) fn folded(&self) -> bool {
        self.source == Source::Folded
    }

    /// Offset in `block` of a weight column's pixels for the first row of outputs, in values.
    pub(crate) fn offset(&self, block: usize, column: usize) -> usize {
        let taps = self.height.kernel * self.width.kernel;
        let column = column - self.blocks[block].start;
        match self.source {
            Source::Tile | Source::Windows => column * self.stride,
            Source::Lines => {
                let (h, w) = (self.height, self.width);
                let [line, x] = self.in_lines(column % w.kernel);
                let lines = column % taps / w.kernel * h.dilation * w.stride + line;
                column / taps * self.stride + lines * LINE + x
            }
            Source::Folded => {
                let (h, w) = (self.height, self.width);
                let vectors = column % w.kernel * self.folded_rows() + column % taps / w.kernel * h.dilation;
                column / taps * self.stride + vectors * 2 * COLUMNS
            }
        }
    }

    /// The first pixel of a tap in kernel column `tap`: its line among those of a row, and its position in the line.
    fn in_lines(&self, tap: usize) -> [usize; 2] {
        let w = self.width;
        // Relative to the margin before the tile, `MARGIN` pixels of every line.
        let x = MARGIN * w.stride + tap * w.dilation - w.pad;
        [x % w.stride, x / w.stride]
    }

    /// Folded vectors per kernel column.
    fn folded_rows(&self) -> usize {
        self.stride / (self.width.kernel * 2 * COLUMNS)
    }

    /// Channels of a block of lines.
    pub(crate) fn channels(&self, block: usize) -> Range<usize> {
        let taps = self.height.kernel * self.width.kernel;
        self.blocks[block].start / taps..self.blocks[block].end / taps
    }

    /// Offset of the `c`-th channel of a block, in values.
    pub(crate) fn channel(&self, c: usize) -> usize {
        c * self.stride
    }

    /// Sets the values of a block of lines that lie outside the map.
    pub(crate) fn fill_outside(&self, block: usize, [ty, tx]: [usize; 2], scratch: &mut [f32], value: f32) {
        let (h, w) = (self.height, self.width);
        // The positions of a line's pixels inside the map.
        let (all, before, from) = (LINE * w.stride, MARGIN * w.stride, tx * COLUMNS * w.stride);
        let end = (w.size + before).saturating_sub(from).min(all);
        let within = before.saturating_sub(from).min(end)..end;
        for r in 0..self.lines {
            let inside = (ty * self.rows * h.stride + r).wrapping_sub(h.pad) < h.size;
            let within = if inside { within.clone() } else { 0..0 };
            for i in (0..within.start).chain(within.end..all) {
                let at = (r * w.stride + i % w.stride) * LINE + i / w.stride;
                for c in 0..self.channels(block).len() {
                    scratch[self.channel(c) + at] = value;
                }
            }
        }
    }

    /// Values of scratch memory for one block.
    pub(crate) fn scratch_len(&self) -> usize {
        let lines = if self.folded() { AT_ONCE * self.lines * LINE * self.width.stride } else { 0 };
        (0..self.blocks.len()).map(|block| self.packed_of(block)).max().unwrap_or(0) + lines
    }

    /// Values gathered for a tile of outputs.
    pub(crate) fn packed(&self) -> usize {
        (0..self.blocks.len()).map(|block| self.packed_of(block)).sum()
    }

    fn packed_of(&self, block: usize) -> usize {
        match self.source {
            Source::Tile => 0,
            Source::Lines | Source::Folded => self.channels(block).len() * self.stride,
            Source::Windows => self.blocks[block].len() * self.stride,
        }
    }

    /// The block's input for the output tile in row `ty` and column `tx`: within `image`, or packed into `scratch`.
    ///
    /// # Safety
    /// An image of the input's tiling can be read at `image`, [`Pack::scratch_len`] values can be read and written at `scratch`,
    /// no other thread uses them, and the tile is one of the output's.
    #[inline(always)]
    pub(crate) unsafe fn block<S: Simd>(
        &self,
        s: S,
        image: *const f32,
        block: usize,
        [ty, tx]: [usize; 2],
        scratch: *mut f32,
    ) -> *const f32 {
        let (columns, taps) = (self.blocks[block].clone(), self.height.kernel * self.width.kernel);
        let channels = columns.start / taps..columns.end / taps;
        let tiles = Tiles { tiling: &self.input, image };
        // SAFETY: guaranteed by the caller; pixels outside the map are never read, and the block's values fit into scratch.
        unsafe {
            match self.source {
                Source::Tile => return tiles.tile(ty, tx).add(channels.start * self.stride),
                Source::Lines => self.lines(s, &tiles, channels, [ty, tx], scratch, self.stride),
                Source::Folded => {
                    let lines = scratch.add(channels.len() * self.stride);
                    let stride = self.lines * LINE * self.width.stride;
                    for first in channels.clone().step_by(AT_ONCE) {
                        let some = first..channels.end.min(first + AT_ONCE);
                        let to = scratch.add((first - channels.start) * self.stride);
                        self.lines(s, &tiles, some.clone(), [ty, tx], lines, stride);
                        self.fold(some.len(), lines, stride, to);
                    }
                }
                Source::Windows => self.windows(s, &tiles, columns, [ty, tx], scratch),
            }
        }
        scratch
    }

    /// Writes the lines of some channels, `stride` values apart.
    ///
    /// # Safety
    /// `tiles` and the output tile are valid as for [`Pack::block`]; `dst` can be written for all these channels.
    #[inline(always)]
    unsafe fn lines<S: Simd>(
        &self,
        s: S,
        tiles: &Tiles,
        channels: Range<usize>,
        place: [usize; 2],
        dst: *mut f32,
        stride: usize,
    ) {
        // SAFETY: guaranteed by the caller.
        unsafe {
            match self.width.stride {
                1 => self.whole_lines(tiles, channels, place, dst, stride),
                _ => self.split_lines(s, tiles, channels, place, dst, stride),
            }
        }
    }

    /// Folds the lines of `count` channels: for each kernel column, eight pixels of a row of the first half and eight of the
    /// second.
    ///
    /// # Safety
    /// `lines` holds these channels' lines, `stride` values apart, and `dst` can be written for `count` folded channels.
    #[inline(always)]
    unsafe fn fold(&self, count: usize, lines: *const f32, stride: usize, dst: *mut f32) {
        let line = LINE * self.width.stride;
        let half = self.rows.div_ceil(2) * self.height.stride * line;
        for c in 0..count {
            let mut to = dst.wrapping_add(c * self.stride);
            for tap in 0..self.width.kernel {
                let [of_row, x] = self.in_lines(tap);
                let mut from = lines.wrapping_add(c * stride + of_row * LINE + x);
                for _ in 0..self.folded_rows() {
                    // SAFETY: guaranteed by the caller.
                    unsafe {
                        to.cast::<[f32; COLUMNS]>()
                            .write_unaligned(from.cast::<[f32; COLUMNS]>().read_unaligned());
                        let second = from.add(half).cast::<[f32; COLUMNS]>().read_unaligned();
                        to.add(COLUMNS).cast::<[f32; COLUMNS]>().write_unaligned(second);
                    }
                    to = to.wrapping_add(2 * COLUMNS);
                    from = from.wrapping_add(line);
                }
            }
        }
    }

    /// Row `r` of the tile with its halo, in some columns of tiles; zeros beyond the map.
    #[inline(always)]
    fn halo_row<const N: usize>(
        &self,
        tiles: &Tiles,
        channel: usize,
        ty: usize,
        r: usize,
        columns: [isize; N],
    ) -> [Eight; N] {
        let mut row = [Eight::NOTHING; N];
        let y = (ty * self.rows * self.height.stride + r).wrapping_sub(self.height.pad);
        if y < self.height.size {
            for (eight, tx) in row.iter_mut().zip(columns) {
                *eight = tiles.row(y, tx, channel);
            }
        }
        row
    }

    /// Stride 1: a line is the tile's pixels between [`MARGIN`] pixels of each neighbour.
    ///
    /// # Safety
    /// As [`Pack::lines`].
    #[inline(always)]
    unsafe fn whole_lines(
        &self,
        tiles: &Tiles,
        channels: Range<usize>,
        [ty, tx]: [usize; 2],
        dst: *mut f32,
        stride: usize,
    ) {
        let tx = tx as isize;
        for r in 0..self.lines {
            let [left, own, right] = self.halo_row(tiles, channels.start, ty, r, [tx - 1, tx, tx + 1]);
            // The map's edge never cuts off a tile on the left.
            let (own_bits, right_bits) =
                (bits_below::<COLUMNS>(own.valid), bits_below::<MARGIN>(right.valid));
            for c in 0..channels.len() {
                // SAFETY: guaranteed by the caller.
                unsafe {
                    let line = dst.add(c * stride + r * LINE);
                    copy(left.channel(c).add(COLUMNS - MARGIN), line, [u32::MAX; MARGIN]);
                    copy(own.channel(c), line.add(MARGIN), own_bits);
                    copy(right.channel(c), line.add(MARGIN + COLUMNS), right_bits);
                }
            }
        }
    }

    /// Stride 2: the even pixels of the tile's two input tiles and their neighbours, then the odd ones.
    ///
    /// # Safety
    /// As [`Pack::lines`].
    #[inline(always)]
    unsafe fn split_lines<S: Simd>(
        &self,
        s: S,
        tiles: &Tiles,
        channels: Range<usize>,
        [ty, tx]: [usize; 2],
        dst: *mut f32,
        stride: usize,
    ) {
        let tx = 2 * tx as isize;
        for r in 0..self.lines {
            let columns = [tx - 1, tx, tx + 1, tx + 2];
            let [left, a, b, right] = self.halo_row(tiles, channels.start, ty, r, columns);
            for c in 0..channels.len() {
                // SAFETY: guaranteed by the caller.
                unsafe {
                    let line = dst.add(c * stride + r * 2 * LINE);
                    for (x, y, at) in [(&left, &a, 0), (&b, &right, COLUMNS)] {
                        unzip(s, x, y, c, line.add(at), Some(line.add(LINE + at)));
                    }
                }
            }
        }
    }

    /// Writes the pixels of each of `columns` as a tile.
    ///
    /// # Safety
    /// `tiles` and the output tile are valid as for [`Pack::block`]; `dst` can be written for all these columns.
    #[inline(always)]
    unsafe fn windows<S: Simd>(
        &self,
        s: S,
        tiles: &Tiles,
        columns: Range<usize>,
        [ty, tx]: [usize; 2],
        dst: *mut f32,
    ) {
        let (h, w, t) = (self.height, self.width, tiles.tiling);
        let taps = h.kernel * w.kernel;
        // Positions in the block and channels of the columns with this tap.
        let of_tap = |tap: usize| {
            let first = (tap + taps - columns.start % taps) % taps;
            (first..columns.len()).step_by(taps).zip((columns.start + first) / taps..)
        };
        for tap in 0..taps {
            let (tap_y, tap_x) = (tap / w.kernel, tap % w.kernel);
            for r in 0..self.rows {
                let to = |i: usize| dst.wrapping_add(i * self.stride + r * COLUMNS);
                let y = h.input(ty * self.rows + r, tap_y);
                // SAFETY: `dst` has these rows, by the caller's guarantee, and `Axis::input` yields pixels inside the map.
                unsafe {
                    match y {
                        Some(y) if w.stride == 2 && tap_x * w.dilation == w.pad => {
                            let [a, b] = [0, 1].map(|x| tiles.row(y, (2 * tx + x) as isize, 0));
                            for (i, channel) in of_tap(tap) {
                                unzip(s, &a, &b, channel, to(i), None);
                            }
                        }
                        _ => {
                            let pixels: [_; COLUMNS] = std::array::from_fn(|j| {
                                let x = w.input(tx * COLUMNS + j, tap_x);
                                y.zip(x).map(|(y, x)| t.at(0, y, x))
                            });
                            for (i, channel) in of_tap(tap) {
                                let image = tiles.image.add(channel * t.channel_len);
                                for (j, pixel) in pixels.iter().enumerate() {
                                    *to(i).add(j) = pixel.map_or(0.0, |at| *image.add(at));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// An image that is read by tiles.
struct Tiles<'a> {
    tiling: &'a Tiling,
    image: *const f32,
}

impl Tiles<'_> {
    /// # Safety
    /// The tile exists in the tiling, whose image can be read.
    #[inline(always)]
    unsafe fn tile(&self, ty: usize, tx: usize) -> *const f32 {
        // SAFETY: guaranteed by the caller.
        unsafe { self.image.add((ty * self.tiling.grid[1] + tx) * self.tiling.tile_len) }
    }

    /// The eight pixels of row `y`, inside the map, in column `tx` of tiles, which may be outside.
    #[inline(always)]
    fn row(&self, y: usize, tx: isize, channel: usize) -> Eight {
        let t = self.tiling;
        if tx < 0 || tx as usize >= t.grid[1] {
            return Eight::NOTHING;
        }
        let pixels = self.image.wrapping_add(t.at(channel, y, tx as usize * COLUMNS));
        Eight { pixels, stride: t.channel_len, valid: COLUMNS.min(t.width - tx as usize * COLUMNS) }
    }
}

/// Eight neighbouring pixels of a row, in every channel; those from `valid` on are beyond the map.
#[derive(Clone, Copy)]
struct Eight {
    pixels: *const f32,
    stride: usize,
    valid: usize,
}

impl Eight {
    /// Zeros, for rows beyond the map.
    const NOTHING: Eight = {
        static ZEROS: [f32; COLUMNS] = [0.0; COLUMNS];
        Eight { pixels: ZEROS.as_ptr(), stride: 0, valid: COLUMNS }
    };

    /// # Safety
    /// The channel exists.
    #[inline(always)]
    unsafe fn channel(&self, c: usize) -> *const f32 {
        // SAFETY: guaranteed by the caller.
        unsafe { self.pixels.add(c * self.stride) }
    }

    /// Vector `v` of the pixels; zeros beyond the map.
    ///
    /// # Safety
    /// The channel exists.
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, s: S, c: usize, v: usize) -> S::V {
        let at = v * S::LANES;
        // SAFETY: guaranteed by the caller; only the tile's eight pixels are read.
        unsafe {
            let p = self.channel(c).add(at);
            if self.valid >= at + S::LANES { s.load(p) } else { s.load_n(p, self.valid.saturating_sub(at)) }
        }
    }
}

/// All bits set for the values below `n`, at most eight.
fn bits_below<const N: usize>(n: usize) -> [u32; N] {
    // From a table: comparisons would compile to a branch per value.
    static BITS: [u32; 2 * COLUMNS] = {
        let mut bits = [0; 2 * COLUMNS];
        let mut i = 0;
        while i < COLUMNS {
            bits[i] = u32::MAX;
            i += 1;
        }
        bits
    };
    std::array::from_fn(|i| BITS[COLUMNS - n + i])
}

/// Copies `N` values, each masked with its bits.
///
/// # Safety
/// `N` values can be read at `from` and written at `to`.
#[inline(always)]
unsafe fn copy<const N: usize>(from: *const f32, to: *mut f32, bits: [u32; N]) {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut values = from.cast::<[u32; N]>().read_unaligned();
        for (value, bits) in values.iter_mut().zip(bits) {
            *value &= bits;
        }
        to.cast::<[u32; N]>().write_unaligned(values);
    }
}

/// Writes the even pixels of `a` and `b` to `even`, and the odd ones to `odd` if given.
///
/// # Safety
/// Channel `c` exists, and eight values can be written to each destination.
#[inline(always)]
unsafe fn unzip<S: Simd>(s: S, a: &Eight, b: &Eight, c: usize, even: *mut f32, odd: Option<*mut f32>) {
    let half = COLUMNS / S::LANES;
    for k in 0..half {
        // SAFETY: guaranteed by the caller.
        unsafe {
            let vector = |i: usize| if i < half { a.vector(s, c, i) } else { b.vector(s, c, i - half) };
            let (e, o) = s.unzip(vector(2 * k), vector(2 * k + 1));
            s.store(even.add(k * S::LANES), e);
            if let Some(odd) = odd {
                s.store(odd.add(k * S::LANES), o);
            }
        }
    }
}
