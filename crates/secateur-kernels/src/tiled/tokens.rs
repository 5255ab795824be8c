//! Conversion between rows of features and tiles.

use super::{COLUMNS, Tiling};
use crate::simd::{Isa, Transpose};
use crate::size;
use crate::threads::{self, SharedMut};

/// Features of a tile's tokens that are transposed together: a few cache lines of each row.
const FEATURES: usize = 64;

impl Tiling {
    /// The tiling of `tokens` rows of `features` values: features are channels, and tokens are the pixels of a map with eight
    /// columns, row by row; the last row may be incomplete. A linear layer is then a 1 × 1 convolution.
    pub fn of_tokens(features: usize, tokens: usize) -> Tiling {
        Tiling::of_tokens_with(Isa::best(), features, tokens)
    }

    pub(crate) fn of_tokens_with(isa: Isa, features: usize, tokens: usize) -> Tiling {
        Tiling::with(isa, features, tokens.div_ceil(COLUMNS), COLUMNS)
    }

    /// Converts rows `[tokens, features]` to tiles.
    ///
    /// # Panics
    /// If the tiling is not that of so many tokens or a slice's length does not match.
    pub fn from_rows(&self, rows: &[f32], tiles: &mut [f32]) {
        let tokens = self.tokens(rows.len(), tiles.len());
        let shared = SharedMut::new(tiles);
        self.each_part(tokens, |Part { tokens, features, tile, row }| {
            let (src, dst) = (rows[row..].as_ptr(), shared.at(tile));
            // SAFETY: `tokens` has checked both lengths, and parts are disjoint.
            unsafe { Transpose::new([tokens, features], src, self.channels, dst, self.channel_len) }
        });
    }

    /// Converts tiles to rows `[tokens, features]`.
    ///
    /// # Panics
    /// As [`Tiling::from_rows`].
    pub fn to_rows(&self, tiles: &[f32], rows: &mut [f32]) {
        let tokens = self.tokens(rows.len(), tiles.len());
        let shared = SharedMut::new(rows);
        self.each_part(tokens, |Part { tokens, features, tile, row }| {
            let (src, dst) = (tiles[tile..].as_ptr(), shared.at(row));
            // SAFETY: `tokens` has checked both lengths, and parts are disjoint.
            unsafe { Transpose::new([features, tokens], src, self.channel_len, dst, self.channels) }
        });
    }

    /// Number of tokens, given the lengths of the rows and the tiles.
    fn tokens(&self, rows: usize, tiles: usize) -> usize {
        let tokens = rows.checked_div(self.channels).unwrap_or(0);
        assert!(
            rows == size::of(&[tokens, self.channels]) && self.size() == [tokens.div_ceil(COLUMNS), COLUMNS],
            "rows of {rows} values for {self:?}"
        );
        assert_eq!(tiles, self.len(1), "tiles of {self:?}");
        tokens
    }

    /// Runs the transposition of every part of every tile. Parts differ in their features or tokens.
    fn each_part(&self, tokens: usize, transpose: impl Fn(Part) -> Transpose + Sync + Send) {
        let (parts, per_tile) = (self.channels.div_ceil(FEATURES), self.rows * COLUMNS);
        threads::ranges(self.tiles() * parts, per_tile * FEATURES, |range| {
            for i in range {
                let (token, feature) = (i / parts * per_tile, i % parts * FEATURES);
                self.isa.run(transpose(Part {
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
    /// Offset in the tiles.
    tile: usize,
    /// Offset in the rows.
    row: usize,
}
