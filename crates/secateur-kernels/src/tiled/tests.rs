use super::*;
use crate::testing::Rng;
use crate::threads::Buffer;

/// `batch` images cut into tiles.
pub(crate) fn tiled(tiling: &Tiling, batch: usize, x: &[f32]) -> Buffer {
    let mut tiles = Buffer::zeroed(tiling.len(batch));
    tiling.from_nchw(batch, x, tiles.as_mut_slice());
    tiles
}

#[test]
fn tiles_give_back_the_image() {
    println!("instruction sets that this processor lacks, not tested: {:?}", Isa::missing());
    let mut rng = Rng::new(41);
    for isa in Isa::available() {
        for (channels, height, width) in [(1, 1, 1), (3, 7, 7), (5, 14, 17), (2, 56, 28), (4, 11, 8)] {
            let tiling = Tiling::with(isa, channels, height, width);
            assert!(tiling.tile_len.is_multiple_of(16));
            let x = rng.values(2 * channels * height * width);
            let mut back = vec![f32::NAN; x.len()];
            tiling.to_nchw(2, tiled(&tiling, 2, &x).as_slice(), &mut back);
            assert_eq!(back, x, "{tiling:?}");
        }
    }
}

#[test]
fn tiles_give_back_the_rows() {
    let mut rng = Rng::new(42);
    for isa in Isa::available() {
        for _ in 0..60 {
            let (tokens, features) = (rng.below(200), 1 + rng.below(100));
            let tiling = Tiling::of_tokens_with(isa, features, tokens);
            let rows = rng.values(tokens * features);
            let mut tiles = Buffer::zeroed(tiling.len(1));
            tiles.as_mut_slice().fill(f32::NAN);
            tiling.from_rows(&rows, tiles.as_mut_slice());
            for (i, x) in rows.iter().enumerate() {
                let (token, feature) = (i / features, i % features);
                let at = tiling.at(feature, token / COLUMNS, token % COLUMNS);
                assert_eq!(tiles.as_slice()[at], *x, "{tiling:?}");
            }
            let mut back = vec![f32::NAN; rows.len()];
            tiling.to_rows(tiles.as_slice(), &mut back);
            assert_eq!(back, rows, "{tiling:?}");
        }
    }
}

#[test]
fn tiles_of_common_maps_waste_nothing() {
    for size in [7, 14, 28, 56, 112, 8, 16, 32, 64, 6, 12, 24, 10, 20, 40, 80] {
        // Vectors may hold two rows.
        let rows = Isa::best().rows_of_tile(size);
        let whole = size.is_multiple_of(rows) || size + 1 == rows;
        assert!(whole && (rows >= 5 || rows == size), "{size} rows by {rows}");
    }
}
