//! What a convolution reads of its input for one tile of its output, brought together.

use super::{COLUMNS, Tiling};
use crate::conv::spec::{Axis, Geometry};
use crate::simd::Simd;
use std::ops::Range;

/// Values of a line: the pixels that neighbouring outputs of a row meet, at most.
const LINE: usize = 16;

/// Rows of input that a tile with its halo has at most: 8 rows, stride 2, a kernel that reaches 8 rows further.
const MAX_ROWS: usize = 2 * 7 + 8 + 1;

/// Bytes of input that a block may take, to stay in the first-level cache beside weights and outputs.
const BLOCK_BYTES: usize = 28 * 1024;

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
        let near = |a: Axis| (a.kernel - 1) * a.dilation <= COLUMNS && a.pad <= COLUMNS;
        let source = if geometry.pointwise() {
            Source::Tile
        } else if square && taps > 1 && near(w) && near(h) {
            Source::Lines
        } else {
            Source::Windows
        };
        let (step, stride, most) = match source {
            Source::Tile => (COLUMNS, input.channel_len, BLOCK_BYTES / (4 * input.channel_len)),
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
        let most = most.max(1);
        let count = columns.div_ceil(most).max(1);
        let blocks = (0..count).map(|b| {
            let part = crate::threads::split(columns, count, b);
            part.start * unit..part.end * unit
        });
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
                let (tap_y, tap_x) =
                    (column % taps / self.width.kernel, column % self.width.kernel * self.width.dilation);
                let lines = tap_y * self.height.dilation * self.width.stride + tap_x % self.width.stride;
                column / taps * self.stride + lines * LINE + tap_x / self.width.stride
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
        let (first_y, first_x) = (ty * self.rows * h.stride, tx * COLUMNS * w.stride);
        let rows = self.stride / (LINE * w.stride);
        let reach = w.stride * (COLUMNS - 1) + (w.kernel - 1) * w.dilation + 1;
        let inside = |first: usize, size: usize, pad: usize, i: usize| (first + i).wrapping_sub(pad) < size;
        for r in 0..rows {
            for i in 0..reach {
                if inside(first_y, h.size, h.pad, r) && inside(first_x, w.size, w.pad, i) {
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
                (Source::Lines, 1) => self.lines(s, &tiles, channels, [ty, tx], scratch),
                (Source::Lines, _) => self.split_lines(s, &tiles, channels, [ty, tx], scratch),
                (Source::Windows, _) => self.windows(s, &tiles, columns, [ty, tx], scratch),
            }
        }
        scratch
    }

    /// The pixels of the halo's rows in some columns of tiles; zeros beyond the map.
    #[inline(always)]
    fn halo<const N: usize>(
        &self,
        tiles: &Tiles,
        channel: usize,
        ty: usize,
        columns: [isize; N],
    ) -> ([[Eight; N]; MAX_ROWS], usize) {
        let count = self.stride / (LINE * self.width.stride);
        let mut rows = [[Eight::NOTHING; N]; MAX_ROWS];
        for (r, row) in rows.iter_mut().enumerate().take(count) {
            let y = (ty * self.rows * self.height.stride + r).wrapping_sub(self.height.pad);
            if y < self.height.size {
                *row = columns.map(|tx| tiles.row(y, tx, channel));
            }
        }
        (rows, count)
    }

    /// Stride 1: a line is the pixels from `pad` before the tile to those after it that the kernel reaches.
    #[inline(always)]
    unsafe fn lines<S: Simd>(
        &self,
        s: S,
        tiles: &Tiles,
        channels: Range<usize>,
        [ty, tx]: [usize; 2],
        dst: *mut f32,
    ) {
        let pad = self.width.pad;
        let after = ((self.width.kernel - 1) * self.width.dilation).saturating_sub(pad);
        let tx = tx as isize;
        let (rows, count) = self.halo(tiles, channels.start, ty, [tx - 1, tx, tx + 1]);
        for c in 0..channels.len() {
            for (r, [left, own, right]) in rows.iter().enumerate().take(count) {
                // SAFETY: the caller's promise.
                unsafe {
                    let line = dst.add(c * self.stride + r * LINE);
                    for i in 0..pad {
                        *line.add(i) = left.pixel(c, COLUMNS - pad + i);
                    }
                    for v in 0..COLUMNS / S::LANES {
                        s.store(line.add(pad + v * S::LANES), own.vector(s, c, v));
                    }
                    for i in 0..after {
                        *line.add(pad + COLUMNS + i) = right.pixel(c, i);
                    }
                }
            }
        }
    }

    /// Stride 2: even and odd columns, counted from the first that the tile's outputs meet, in lines of their
    /// own.
    #[inline(always)]
    unsafe fn split_lines<S: Simd>(
        &self,
        s: S,
        tiles: &Tiles,
        channels: Range<usize>,
        [ty, tx]: [usize; 2],
        dst: *mut f32,
    ) {
        let pad = self.width.pad;
        let reach = 2 * (COLUMNS - 1) + (self.width.kernel - 1) * self.width.dilation + 1;
        let after = reach.saturating_sub(pad + 2 * COLUMNS);
        let place = |i: usize| i % 2 * LINE + i / 2;
        let tx = 2 * tx as isize;
        let (rows, count) = self.halo(tiles, channels.start, ty, [tx - 1, tx, tx + 1, tx + 2]);
        for c in 0..channels.len() {
            for (r, [left, a, b, right]) in rows.iter().enumerate().take(count) {
                // SAFETY: the caller's promise.
                unsafe {
                    let line = dst.add(c * self.stride + r * 2 * LINE);
                    for i in 0..pad {
                        *line.add(place(i)) = left.pixel(c, COLUMNS - pad + i);
                    }
                    unzip(s, a, b, c, line.add(place(pad)), Some(line.add(place(pad + 1))));
                    for i in 0..after {
                        *line.add(place(pad + 2 * COLUMNS + i)) = right.pixel(c, i);
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
            (first..columns.len()).step_by(taps).map(move |i| (i, (columns.start + i) / taps))
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

    /// Pixel `i`, zero beyond the map.
    ///
    /// # Safety
    /// The channel exists.
    #[inline(always)]
    unsafe fn pixel(&self, c: usize, i: usize) -> f32 {
        // SAFETY: the caller's promise.
        if i < self.valid { unsafe { *self.channel(c).add(i) } } else { 0.0 }
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
