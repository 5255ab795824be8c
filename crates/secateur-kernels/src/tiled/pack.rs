//! What a convolution reads of its input for one tile of its output, brought together.

use super::{COLUMNS, Tiling};
use crate::conv::spec::{Axis, Geometry};
use crate::simd::Simd;
use std::ops::Range;

/// Values of a line: those that a row of outputs meets, and to each side [`MARGIN`] of their neighbours.
const LINE: usize = 2 * MARGIN + COLUMNS;

/// How far beyond a row of outputs a kernel may reach in lines.
const MARGIN: usize = COLUMNS / 2;

/// Bytes of input that a block may take, to stay in the first-level cache beside weights and outputs.
const BLOCK_BYTES: usize = 28 * 1024;

/// The same for blocks that are read where they lie: as they need no packing, more of the cache is theirs.
const TILE_BYTES: usize = 32 * 1024;

/// Columns of the input matrix (channel, kernel row, kernel column) that a window block holds.
const WINDOW_COLUMNS: usize = 128;

/// The form in which a convolution's inputs are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The input's own tiles.
    Tile,
    /// Each input row of a tile with its halo: for every column modulo the stride a [`LINE`], in which the
    /// pixels that neighbouring outputs meet are neighbours.
    Lines,
    /// For every (channel, kernel element) the input pixels that a tile's outputs meet, as a tile.
    Windows,
}

/// Input blocks of a convolution: each holds all that some columns of its weight matrix meet.
#[derive(Clone, Debug)]
pub(crate) struct Pack {
    pub(crate) source: Source,
    input: Tiling,
    height: Axis,
    width: Axis,
    /// Rows of an output tile.
    rows: usize,
    /// From one row of outputs to the next in a block, in values.
    pub(crate) step: usize,
    /// From one channel (for windows: column) of a block to the next, in values.
    stride: usize,
    /// Columns of the weight matrix in each block.
    pub(crate) blocks: Vec<Range<usize>>,
}

impl Pack {
    pub(crate) fn new(geometry: &Geometry, input: &Tiling, output: &Tiling) -> Pack {
        let [_, h, w] = geometry.axes;
        let taps = h.kernel * w.kernel;
        let square = h.stride == w.stride && w.stride <= 2;
        let near = |a: Axis| a.pad <= MARGIN && (a.kernel - 1) * a.dilation <= a.pad + MARGIN;
        let source = if geometry.pointwise() {
            Source::Tile
        } else if square && taps > 1 && near(w) && near(h) {
            Source::Lines
        } else {
            Source::Windows
        };
        let (step, stride, most) = match source {
            Source::Tile => (COLUMNS, input.channel_len, TILE_BYTES / (4 * input.channel_len)),
            Source::Lines => {
                let line = LINE * w.stride;
                let lines = (output.rows - 1) * h.stride + (h.kernel - 1) * h.dilation + 1;
                (line * h.stride, lines * line, BLOCK_BYTES / (4 * lines * line))
            }
            Source::Windows => (COLUMNS, output.channel_len, WINDOW_COLUMNS),
        };
        let (columns, unit) = match source {
            Source::Windows => (input.channels * taps, 1),
            _ => (input.channels, taps),
        };
        // Of nearly one size, and in multiples of four, so that small groups of channels aren't torn apart.
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
            blocks: blocks.collect(),
        }
    }

    /// Where in `block` the pixels for the first row of outputs of a weight column lie, in values.
    pub(crate) fn offset(&self, block: usize, column: usize) -> usize {
        let taps = self.height.kernel * self.width.kernel;
        let column = column - self.blocks[block].start;
        match self.source {
            Source::Tile | Source::Windows => column * self.stride,
            Source::Lines => {
                let (h, w) = (self.height, self.width);
                // Counted from the margin before the tile, `MARGIN` pixels of every line.
                let x = MARGIN * w.stride + column % w.kernel * w.dilation - w.pad;
                let lines = column % taps / w.kernel * h.dilation * w.stride + x % w.stride;
                column / taps * self.stride + lines * LINE + x / w.stride
            }
        }
    }

    /// The channels of a block of lines.
    pub(crate) fn channels(&self, block: usize) -> Range<usize> {
        let taps = self.height.kernel * self.width.kernel;
        self.blocks[block].start / taps..self.blocks[block].end / taps
    }

    /// Where the `c`-th channel of a block begins, in values.
    pub(crate) fn channel(&self, c: usize) -> usize {
        c * self.stride
    }

    /// Sets what a block of lines holds of the outside of the map.
    pub(crate) fn fill_outside(&self, block: usize, [ty, tx]: [usize; 2], scratch: &mut [f32], value: f32) {
        let (h, w) = (self.height, self.width);
        let inside = |at: usize, pad: usize, size: usize| at.wrapping_sub(pad) < size;
        for r in 0..self.halo_rows() {
            let y = inside(ty * self.rows * h.stride + r, h.pad, h.size);
            for i in 0..LINE * w.stride {
                if y && inside(tx * COLUMNS * w.stride + i, MARGIN * w.stride, w.size) {
                    continue;
                }
                let at = (r * w.stride + i % w.stride) * LINE + i / w.stride;
                for c in 0..self.channels(block).len() {
                    scratch[self.channel(c) + at] = value;
                }
            }
        }
    }

    /// Memory for one block, in values.
    pub(crate) fn scratch(&self) -> usize {
        self.blocks.iter().map(|block| self.packed_of(block)).max().unwrap_or(0)
    }

    /// Values that are brought together for a tile of outputs.
    pub(crate) fn packed(&self) -> usize {
        self.blocks.iter().map(|block| self.packed_of(block)).sum()
    }

    fn packed_of(&self, block: &Range<usize>) -> usize {
        match self.source {
            Source::Tile => 0,
            Source::Lines => block.len() / (self.height.kernel * self.width.kernel) * self.stride,
            Source::Windows => block.len() * self.stride,
        }
    }

    /// The block's input for the output tile in row `ty` and column `tx`: within `image`, or packed into
    /// `scratch`.
    ///
    /// # Safety
    /// `image` is an image of the input's tiling, and `scratch` has the size that [`Pack::scratch`] gives.
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
        // SAFETY: the caller's promise; positions outside of the map are never read.
        unsafe {
            match (self.source, self.width.stride) {
                (Source::Tile, _) => return tiles.tile(ty, tx).add(channels.start * self.stride),
                (Source::Lines, 1) => self.lines(&tiles, channels, [ty, tx], scratch),
                (Source::Lines, _) => self.split_lines(s, &tiles, channels, [ty, tx], scratch),
                (Source::Windows, _) => self.windows(s, &tiles, columns, [ty, tx], scratch),
            }
        }
        scratch
    }

    /// Rows of input of a tile with its halo.
    fn halo_rows(&self) -> usize {
        self.stride / (LINE * self.width.stride)
    }

    /// Row `r` of the tile and its halo in some columns of tiles; zeros beyond the map.
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

    /// Stride 1: a line is the tile's pixels between [`MARGIN`] of each neighbour.
    #[inline(always)]
    unsafe fn lines(&self, tiles: &Tiles, channels: Range<usize>, [ty, tx]: [usize; 2], dst: *mut f32) {
        let tx = tx as isize;
        for r in 0..self.halo_rows() {
            let [left, own, right] = self.halo_row(tiles, channels.start, ty, r, [tx - 1, tx, tx + 1]);
            // Tiles to the left are never cut off by the map's edge.
            let (own_bits, right_bits) =
                (bits_below::<COLUMNS>(own.valid), bits_below::<MARGIN>(right.valid));
            for c in 0..channels.len() {
                // SAFETY: the caller's promise.
                unsafe {
                    let line = dst.add(c * self.stride + r * LINE);
                    copy(left.channel(c).add(COLUMNS - MARGIN), line, [u32::MAX; MARGIN]);
                    copy(own.channel(c), line.add(MARGIN), own_bits);
                    copy(right.channel(c), line.add(MARGIN + COLUMNS), right_bits);
                }
            }
        }
    }

    /// Stride 2: the even pixels of the tile's two input tiles and their neighbours, and then the odd ones.
    #[inline(always)]
    unsafe fn split_lines<S: Simd>(
        &self,
        s: S,
        tiles: &Tiles,
        channels: Range<usize>,
        [ty, tx]: [usize; 2],
        dst: *mut f32,
    ) {
        let tx = 2 * tx as isize;
        for r in 0..self.halo_rows() {
            let columns = [tx - 1, tx, tx + 1, tx + 2];
            let [left, a, b, right] = self.halo_row(tiles, channels.start, ty, r, columns);
            for c in 0..channels.len() {
                // SAFETY: the caller's promise.
                unsafe {
                    let line = dst.add(c * self.stride + r * 2 * LINE);
                    for (x, y, at) in [(&left, &a, 0), (&b, &right, COLUMNS)] {
                        unzip(s, x, y, c, line.add(at), Some(line.add(LINE + at)));
                    }
                }
            }
        }
    }

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
        // Places in the block and channels, one column for each channel that has the tap in this block.
        let of_tap = |tap: usize| {
            let first = (tap + taps - columns.start % taps) % taps;
            (first..columns.len()).step_by(taps).zip((columns.start + first) / taps..)
        };
        for tap in 0..taps {
            let (tap_y, tap_x) = (tap / w.kernel, tap % w.kernel);
            for r in 0..self.rows {
                let to = |i: usize| dst.wrapping_add(i * self.stride + r * COLUMNS);
                let y = h.input(ty * self.rows + r, tap_y);
                // SAFETY: the rows lie in the scratch memory, and the pixels read in the map.
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
    /// The tile is one of the image's.
    #[inline(always)]
    unsafe fn tile(&self, ty: usize, tx: usize) -> *const f32 {
        // SAFETY: the caller's promise.
        unsafe { self.image.add((ty * self.tiling.grid[1] + tx) * self.tiling.tile_len) }
    }

    /// The eight pixels of row `y`, which lies in the map, in the tiles' column `tx`, which needn't.
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

/// Eight neighbouring pixels of a row in every channel; those from `valid` on lie beyond the map.
#[derive(Clone, Copy)]
struct Eight {
    pixels: *const f32,
    stride: usize,
    valid: usize,
}

impl Eight {
    /// What stands beyond the map.
    const NOTHING: Eight = {
        static ZEROS: [f32; COLUMNS] = [0.0; COLUMNS];
        Eight { pixels: ZEROS.as_ptr(), stride: 0, valid: COLUMNS }
    };

    /// # Safety
    /// The channel exists.
    #[inline(always)]
    unsafe fn channel(&self, c: usize) -> *const f32 {
        // SAFETY: the caller's promise.
        unsafe { self.pixels.add(c * self.stride) }
    }

    /// Vector `v` of the pixels, zeros beyond the map.
    ///
    /// # Safety
    /// The channel exists.
    #[inline(always)]
    unsafe fn vector<S: Simd>(&self, s: S, c: usize, v: usize) -> S::V {
        let at = v * S::LANES;
        // SAFETY: the caller's promise; only pixels of the tile are read.
        unsafe {
            let p = self.channel(c).add(at);
            if self.valid >= at + S::LANES { s.load(p) } else { s.load_n(p, self.valid.saturating_sub(at)) }
        }
    }
}

/// All bits of the values below `n`, at most eight.
fn bits_below<const N: usize>(n: usize) -> [u32; N] {
    // From a table: of comparisons the compiler would make a choice for each value.
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

/// Copies some bits of each value.
///
/// # Safety
/// The values can be read and written.
#[inline(always)]
unsafe fn copy<const N: usize>(from: *const f32, to: *mut f32, bits: [u32; N]) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut values = from.cast::<[u32; N]>().read_unaligned();
        for (value, bits) in values.iter_mut().zip(bits) {
            *value &= bits;
        }
        to.cast::<[u32; N]>().write_unaligned(values);
    }
}

/// Writes the even pixels of `a` and `b`, and the odd ones where they're wanted.
///
/// # Safety
/// The channel exists, and eight values can be written to each.
#[inline(always)]
unsafe fn unzip<S: Simd>(s: S, a: &Eight, b: &Eight, c: usize, even: *mut f32, odd: Option<*mut f32>) {
    let half = COLUMNS / S::LANES;
    for k in 0..half {
        // SAFETY: the caller's promise.
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
