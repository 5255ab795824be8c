//! What a convolution reads of its input for one tile of its output, brought together.

use super::{COLUMNS, Tiling};
use crate::conv::spec::{Axis, Geometry};
use crate::simd::Simd;
use std::ops::Range;

/// Values of a line: the pixels that neighbouring outputs of a row meet, at most.
const LINE: usize = 16;

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
        let near = (w.kernel - 1) * w.dilation <= COLUMNS && w.pad <= COLUMNS;
        let source = if geometry.pointwise() {
            Source::Tile
        } else if square && taps > 1 && near {
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

    /// Memory for one block, in values.
    pub(crate) fn scratch(&self) -> usize {
        let taps = self.height.kernel * self.width.kernel;
        let columns = self.blocks.iter().map(|b| b.len()).max().unwrap_or(0);
        match self.source {
            Source::Tile => 0,
            Source::Lines => columns / taps * self.stride,
            Source::Windows => columns * self.stride,
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

    /// Calls `f(y, first)` with each input row of the halo that lies in the map and the start of its lines in
    /// the first channel; the other rows' lines become zero.
    #[inline(always)]
    unsafe fn each_row<S: Simd>(
        &self,
        s: S,
        channels: usize,
        ty: usize,
        dst: *mut f32,
        mut f: impl FnMut(usize, *mut f32),
    ) {
        let line = LINE * self.width.stride;
        for r in 0..self.stride / line {
            let y = (ty * self.rows * self.height.stride + r).wrapping_sub(self.height.pad);
            // SAFETY: the lines lie in the scratch memory.
            unsafe {
                let first = dst.add(r * line);
                if y < self.height.size {
                    f(y, first);
                    continue;
                }
                for c in 0..channels {
                    for i in (0..line).step_by(S::LANES) {
                        s.store(first.add(c * self.stride + i), s.zero());
                    }
                }
            }
        }
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
        // SAFETY: the caller's promise.
        unsafe {
            self.each_row(s, channels.len(), ty, dst, |y, first| {
                let own = tiles.row(y, tx as isize, channels.start);
                let left = tiles.row(y, tx as isize - 1, channels.start);
                let right = tiles.row(y, tx as isize + 1, channels.start);
                for c in 0..channels.len() {
                    let line = first.add(c * self.stride);
                    if pad == 1 && left.valid == COLUMNS {
                        *line = *left.channel(c).add(COLUMNS - 1);
                    } else {
                        for i in 0..pad {
                            *line.add(i) = left.pixel(c, COLUMNS - pad + i);
                        }
                    }
                    own.copy(s, c, line.add(pad));
                    for i in 0..after {
                        *line.add(pad + COLUMNS + i) = right.pixel(c, i);
                    }
                }
            });
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
        // SAFETY: the caller's promise.
        unsafe {
            self.each_row(s, channels.len(), ty, dst, |y, first| {
                let row = |x: isize| tiles.row(y, 2 * tx as isize + x, channels.start);
                let (left, a, b, right) = (row(-1), row(0), row(1), row(2));
                for c in 0..channels.len() {
                    let line = first.add(c * self.stride);
                    for i in 0..pad {
                        *line.add(place(i)) = left.pixel(c, COLUMNS - pad + i);
                    }
                    unzip(s, &a, &b, c, line.add(place(pad)), Some(line.add(place(pad + 1))));
                    for i in 0..after {
                        *line.add(place(pad + 2 * COLUMNS + i)) = right.pixel(c, i);
                    }
                }
            });
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
        let (h, w) = (self.height, self.width);
        for (i, column) in columns.enumerate() {
            let (channel, tap) = (column / (h.kernel * w.kernel), column % (h.kernel * w.kernel));
            let shift = tap % w.kernel * w.dilation;
            for r in 0..self.rows {
                // SAFETY: the row lies in the scratch memory, and the pixels read in the map.
                unsafe {
                    let to = dst.add(i * self.stride + r * COLUMNS);
                    let y = h.input((ty * self.rows) + r, tap / w.kernel);
                    match y {
                        Some(y) if w.stride == 2 && shift == w.pad => {
                            let row = |x: usize| tiles.row(y, (2 * tx + x) as isize, channel);
                            unzip(s, &row(0), &row(1), 0, to, None);
                        }
                        _ => {
                            for j in 0..COLUMNS {
                                let x = w.input(tx * COLUMNS + j, tap % w.kernel);
                                *to.add(j) = match (y, x) {
                                    (Some(y), Some(x)) => *tiles.image.add(tiles.tiling.at(channel, y, x)),
                                    _ => 0.0,
                                };
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
        unsafe { self.image.add((ty * self.tiling.grid()[1] + tx) * self.tiling.tile_len) }
    }

    /// The eight pixels of row `y`, which lies in the map, in the tiles' column `tx`, which needn't.
    ///
    /// # Safety
    /// The image has the row and the channel.
    #[inline(always)]
    unsafe fn row(&self, y: usize, tx: isize, channel: usize) -> Eight {
        let t = self.tiling;
        let columns = t.grid()[1];
        if tx < 0 || tx as usize >= columns {
            return Eight { pixels: NOTHING.as_ptr(), stride: 0, valid: COLUMNS };
        }
        // SAFETY: the caller's promise; the column was checked.
        let pixels =
            unsafe { self.tile(y / t.rows, tx as usize).add(channel * t.channel_len + y % t.rows * COLUMNS) };
        Eight { pixels, stride: t.channel_len, valid: COLUMNS.min(t.width - tx as usize * COLUMNS) }
    }
}

/// What stands beyond the map.
static NOTHING: [f32; COLUMNS] = [0.0; COLUMNS];

/// Eight neighbouring pixels of a row in every channel; those from `valid` on lie beyond the map.
struct Eight {
    pixels: *const f32,
    stride: usize,
    valid: usize,
}

impl Eight {
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

    /// # Safety
    /// The channel exists, and eight values can be written.
    #[inline(always)]
    unsafe fn copy<S: Simd>(&self, s: S, c: usize, to: *mut f32) {
        for v in 0..COLUMNS / S::LANES {
            // SAFETY: the caller's promise.
            unsafe { s.store(to.add(v * S::LANES), self.vector(s, c, v)) };
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
