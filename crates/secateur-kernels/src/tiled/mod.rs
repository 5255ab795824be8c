//! Activations in tiles, and the dense kernels that work on them.
//!
//! The memory layout of an image is `[tile row][tile column][channel][row of the tile][8 pixels]`. What a kernel reads of a
//! tile is contiguous and stays in the cache, and the pixels of a channel are whole vectors.

mod norm;
mod pack;
mod pooling;
mod tokens;

pub use norm::TokenNorm;
pub(crate) use pack::{Pack, Source};
pub use pooling::TiledPool;

use crate::conv::ConvSpec;
use crate::conv::spec::Geometry;
use crate::simd::Isa;
use crate::size;
use crate::threads::{self, SharedMut};

/// Pixels per row of a tile.
pub(crate) const COLUMNS: usize = 8;

/// How maps of one size are divided into tiles.
///
/// Tiles at the right and lower edges extend beyond the map. Their content there is undefined (zero new buffers, so that no
/// spurious NaN appears), and kernels that read beyond a tile's own pixels mask it. The height of tiles depends only on the
/// map's height and the instruction set, so all maps of one size have tiles of the same shape.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tiling {
    pub(crate) isa: Isa,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Rows of a tile.
    pub(crate) rows: usize,
    /// Rows and columns of tiles.
    pub(crate) grid: [usize; 2],
    /// Distance between channels of a tile, in values.
    pub(crate) channel_len: usize,
    /// Distance between tiles, in values: whole cache lines.
    pub(crate) tile_len: usize,
}

impl Tiling {
    /// The tiling of maps `[channels, height, width]`, for the best instruction set of this processor.
    pub fn new(channels: usize, height: usize, width: usize) -> Tiling {
        Tiling::with(Isa::best(), channels, height, width)
    }

    pub(crate) fn with(isa: Isa, channels: usize, height: usize, width: usize) -> Tiling {
        Tiling::of_rows(isa, channels, height, width, isa.rows_of_tile(height))
    }

    /// With tiles of `rows` rows.
    pub(crate) fn of_rows(isa: Isa, channels: usize, height: usize, width: usize, rows: usize) -> Tiling {
        let channel_len = size::of(&[rows, COLUMNS]).next_multiple_of(isa.tile().lanes);
        let tile_len = size::of(&[channels, channel_len]).next_multiple_of(16);
        let grid = [height.div_ceil(rows), width.div_ceil(COLUMNS)];
        Tiling { isa, channels, height, width, rows, grid, channel_len, tile_len }
    }

    /// Channels of a map.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Height and width of a map.
    pub fn size(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Values that `batch` images take, whole cache lines. Their memory should be aligned to cache lines (see
    /// [`Buffer`](crate::Buffer)): kernels take up to half as long again on unaligned memory.
    pub fn len(&self, batch: usize) -> usize {
        size::of(&[batch, self.tiles(), self.tile_len])
    }

    /// Tiles of an image.
    pub(crate) fn tiles(&self) -> usize {
        let [y, x] = self.grid;
        size::of(&[y, x])
    }

    /// The geometry and the output of a convolution over such maps.
    ///
    /// # Panics
    /// If the spec is invalid or does not match the maps, or the kernel does not fit into the padded input.
    pub(crate) fn convolved(&self, spec: &ConvSpec) -> (Geometry, Tiling) {
        let geometry = spec.geometry();
        assert!(
            spec.in_channels == self.channels && spec.in_size == self.size(),
            "a convolution {spec:?} of maps tiled as {self:?}"
        );
        let [_, h, w] = geometry.axes.map(|a| a.out);
        assert!(h > 0 && w > 0, "the kernel of {spec:?} doesn't fit into its input");
        (geometry, Tiling::with(self.isa, spec.out_channels, h, w))
    }

    /// Offset of a channel's pixel (`y`, `x`) in an image.
    fn at(&self, channel: usize, y: usize, x: usize) -> usize {
        let tile = y / self.rows * self.grid[1] + x / COLUMNS;
        tile * self.tile_len + channel * self.channel_len + y % self.rows * COLUMNS + x % COLUMNS
    }

    /// Converts `batch` images `[channels, height, width]` to tiles.
    ///
    /// # Panics
    /// If a slice's length does not match.
    pub fn from_nchw(&self, batch: usize, nchw: &[f32], tiles: &mut [f32]) {
        assert_eq!(
            nchw.len(),
            size::of(&[batch, self.channels, self.height, self.width]),
            "images for {self:?}"
        );
        assert_eq!(tiles.len(), self.len(batch), "tiles of {self:?}");
        let (shared, image) = (SharedMut::new(tiles), self.len(1));
        self.each_row(batch, |b, c, y, row| {
            for x in (0..self.width).step_by(COLUMNS) {
                let n = COLUMNS.min(self.width - x);
                // SAFETY: each row of eight pixels is written by one call.
                let to = unsafe { shared.slice(b * image + self.at(c, y, x), n) };
                to.copy_from_slice(&nchw[row + x..row + x + n]);
            }
        });
    }

    /// Converts the tiles of `batch` images to `[channels, height, width]`.
    ///
    /// # Panics
    /// If a slice's length does not match.
    pub fn to_nchw(&self, batch: usize, tiles: &[f32], nchw: &mut [f32]) {
        assert_eq!(
            nchw.len(),
            size::of(&[batch, self.channels, self.height, self.width]),
            "images for {self:?}"
        );
        assert_eq!(tiles.len(), self.len(batch), "tiles of {self:?}");
        let (shared, image) = (SharedMut::new(nchw), self.len(1));
        self.each_row(batch, |b, c, y, row| {
            // SAFETY: each row of the map is written by one call.
            let to = unsafe { shared.slice(row, self.width) };
            for (x, to) in to.chunks_mut(COLUMNS).enumerate() {
                let at = b * image + self.at(c, y, x * COLUMNS);
                to.copy_from_slice(&tiles[at..at + to.len()]);
            }
        });
    }

    /// Calls `f(image, channel, y, start of the row in NCHW)` for every row of every map.
    fn each_row(&self, batch: usize, f: impl Fn(usize, usize, usize, usize) + Sync + Send) {
        threads::ranges(batch * self.channels, size::work(&[self.height, self.width]), |planes| {
            for plane in planes {
                for y in 0..self.height {
                    let row = (plane * self.height + y) * self.width;
                    f(plane / self.channels, plane % self.channels, y, row);
                }
            }
        });
    }
}

impl Isa {
    /// Rows per tile of a map, at most eight vectors: minimises the total number of vectors, plus half a row per tile for
    /// its fixed cost.
    fn rows_of_tile(self, height: usize) -> usize {
        let rows_of_vector = (self.tile().lanes / COLUMNS).max(1);
        let cost = |rows: usize| height.div_ceil(rows) * (2 * rows.next_multiple_of(rows_of_vector) + 1);
        let most = 8 * rows_of_vector;
        (1..=most).rev().min_by_key(|&rows| cost(rows)).expect("there are heights to choose from")
    }
}

#[cfg(test)]
pub(crate) mod tests;
