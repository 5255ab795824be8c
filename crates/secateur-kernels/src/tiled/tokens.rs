//! Rows of features as tiles.

use super::{COLUMNS, Tiling};
use crate::simd::{Isa, Transpose};
use crate::size;
use crate::threads::{self, SharedMut};

/// Features of a tile's tokens that are transposed together: some cache lines of each row.
const FEATURES: usize = 64;

impl Tiling {
    /// The tiling of `tokens` rows of `features` values: features are channels, and tokens the pixels of a map of
    /// eight columns, row after row, the last of which may be filled in part. A linear layer is a convolution of
    /// 1 × 1 then.
    pub fn of_tokens(features: usize, tokens: usize) -> Tiling {
        Tiling::of_tokens_with(Isa::best(), features, tokens)
    }

    pub(crate) fn of_tokens_with(isa: Isa, features: usize, tokens: usize) -> Tiling {
        Tiling::with(isa, features, tokens.div_ceil(COLUMNS), COLUMNS)
    }

    /// Cuts rows, `[tokens, features]`, into tiles.
    ///
    /// # Panics
    /// If the tiling isn't that of so many tokens or a slice's length doesn't fit.
    pub fn from_rows(&self, rows: &[f32], tiles: &mut [f32]) {
        let tokens = self.tokens(rows.len(), tiles.len());
        let shared = SharedMut::new(tiles);
        self.each_part(tokens, |part| Transpose {
            rows: part.tokens,
            cols: part.features,
            src: rows[part.row..].as_ptr(),
            src_stride: self.channels,
            dst: shared.at(part.tile),
            dst_stride: self.channel_len,
        });
    }

    /// Joins tiles to rows, `[tokens, features]`.
    ///
    /// # Panics
    /// As [`Tiling::from_rows`].
    pub fn to_rows(&self, tiles: &[f32], rows: &mut [f32]) {
        let tokens = self.tokens(rows.len(), tiles.len());
        let shared = SharedMut::new(rows);
        self.each_part(tokens, |part| Transpose {
            rows: part.features,
            cols: part.tokens,
            src: tiles[part.tile..].as_ptr(),
            src_stride: self.channel_len,
            dst: shared.at(part.row),
            dst_stride: self.channels,
        });
    }

    /// The tokens of rows of so many values in all.
    fn tokens(&self, rows: usize, tiles: usize) -> usize {
        let tokens = rows.checked_div(self.channels).unwrap_or(0);
        assert!(
            rows == size::of(&[tokens, self.channels]) && self.size() == [tokens.div_ceil(COLUMNS), COLUMNS],
            "rows of {rows} values for {self:?}"
        );
        assert_eq!(tiles, self.len(1), "tiles of {self:?}");
        tokens
    }

    /// Runs `turn` of every part of every tile. Parts differ in their features or their tokens.
    fn each_part(&self, tokens: usize, turn: impl Fn(Part) -> Transpose + Sync + Send) {
        let (parts, per_tile) = (self.channels.div_ceil(FEATURES), self.rows * COLUMNS);
        threads::ranges(self.tiles() * parts, per_tile * FEATURES, |range| {
            for i in range {
                let (token, feature) = (i / parts * per_tile, i % parts * FEATURES);
                self.isa.run(turn(Part {
                    tokens: per_tile.min(tokens - token),
                    features: FEATURES.min(self.channels - feature),
                    tile: i / parts * self.tile_len + feature * self.channel_len,
                    row: token * self.channels + feature,
                }));
            }
        });
    }
}

/// Some features of a tile's tokens.
struct Part {
    tokens: usize,
    features: usize,
    /// Where they begin in the tiles,
    tile: usize,
    /// and in the rows.
    row: usize,
}
