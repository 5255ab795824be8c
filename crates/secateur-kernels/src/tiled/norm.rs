//! Layer norm and RMS norm of tokens on tiles.

use super::{COLUMNS, Tiling};
use crate::simd::{Kernel, Simd};
use crate::threads::{self, SharedMut};
use std::ops::Range;

/// How the features of a token are normalised.
#[derive(Clone, Copy, Debug)]
pub struct TokenNorm<'a> {
    /// Whether to subtract the mean first: layer norm, else RMS norm.
    pub centred: bool,
    /// Scale per feature.
    pub scale: Option<&'a [f32]>,
    /// Bias per feature.
    pub bias: Option<&'a [f32]>,
    /// Added to the variance.
    pub eps: f32,
}

impl Tiling {
    /// out = (x − mean) / √(variance + eps) · scale + bias over the features of each token, as
    /// [`layer_norm`](crate::layer_norm) and [`rms_norm`](crate::rms_norm) have it, on the current rayon pool.
    ///
    /// # Panics
    /// If a slice's length does not match the tiling.
    pub fn normalise(&self, norm: &TokenNorm<'_>, x: &[f32], out: &mut [f32]) {
        assert!(x.len() == self.len(1) && out.len() == x.len(), "tiles of {self:?}");
        let parts = [norm.scale, norm.bias];
        assert!(parts.iter().flatten().all(|p| p.len() == self.channels), "factors of {self:?}");
        let vectors = (self.rows * COLUMNS).div_ceil(self.isa.tile().lanes);
        let shared = SharedMut::new(out);
        threads::ranges(self.tiles() * vectors, 4 * self.channels * self.isa.tile().lanes, |range| {
            self.isa.run(Vectors { tiling: self, norm, x, out: shared, vectors, range });
        });
    }
}

/// Some vectors of tokens, numbered through the tiles.
struct Vectors<'a> {
    tiling: &'a Tiling,
    norm: &'a TokenNorm<'a>,
    x: &'a [f32],
    out: SharedMut<'a, f32>,
    vectors: usize,
    range: Range<usize>,
}

/// Independent sums, to hide the latency of additions.
const SUMS: usize = 4;

impl Kernel for Vectors<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tiling { channels, channel_len, tile_len, .. } = *self.tiling;
        let TokenNorm { centred, scale, bias, eps } = *self.norm;
        let share = s.splat(1.0 / channels as f32);
        for i in self.range {
            let start = i / self.vectors * tile_len + i % self.vectors * S::LANES;
            let x = self.x[start..].as_ptr();
            // SAFETY: each channel of a tile has `vectors` vectors, and ranges are disjoint.
            unsafe {
                let mut sums = [s.zero(); SUMS];
                let mut mean = s.zero();
                if centred {
                    for c in 0..channels {
                        let sum = &mut sums[c % SUMS];
                        *sum = s.add(*sum, s.load(x.add(c * channel_len)));
                    }
                    mean = s.mul(total(s, sums), share);
                    sums = [s.zero(); SUMS];
                }
                for c in 0..channels {
                    let off = s.sub(s.load(x.add(c * channel_len)), mean);
                    let sum = &mut sums[c % SUMS];
                    *sum = s.fma(off, off, *sum);
                }
                let variance = s.mul(total(s, sums), share);
                let factor = s.div(s.splat(1.0), s.sqrt(s.add(variance, s.splat(eps))));
                for c in 0..channels {
                    let mut y = s.mul(s.sub(s.load(x.add(c * channel_len)), mean), factor);
                    if let Some(scale) = scale {
                        y = s.mul(y, s.splat(scale[c]));
                    }
                    if let Some(bias) = bias {
                        y = s.add(y, s.splat(bias[c]));
                    }
                    s.store(self.out.at(start + c * channel_len), y);
                }
            }
        }
    }
}

#[inline(always)]
fn total<S: Simd>(s: S, [a, b, c, d]: [S::V; SUMS]) -> S::V {
    s.add(s.add(a, b), s.add(c, d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;
    use crate::testing::{Rng, in_pool};
    use crate::threads::Buffer;

    #[test]
    fn tokens_on_tiles_equal_rows() {
        let mut rng = Rng::new(71);
        for isa in Isa::available() {
            for round in 0..40 {
                let (tokens, features) = (1 + rng.below(200), 1 + rng.below(90));
                let tiling = Tiling::of_tokens_with(isa, features, tokens);
                let rows = rng.values(tokens * features);
                let [scale, bias] = [rng.values(features), rng.values(features)];
                let (scale, bias) =
                    ((round % 3 > 0).then_some(&scale[..]), (round % 2 > 0).then_some(&bias[..]));
                let (centred, eps) = (round % 4 > 0, 1e-5);
                let bias = bias.filter(|_| centred);
                let mut want = vec![0.0; rows.len()];
                if centred {
                    crate::layer_norm(&rows, &mut want, features, scale, bias, eps);
                } else {
                    crate::rms_norm(&rows, &mut want, features, scale, eps);
                }
                let mut x = Buffer::zeroed(tiling.len(1));
                tiling.from_rows(&rows, x.as_mut_slice());
                let run = || {
                    let mut out = Buffer::zeroed(tiling.len(1));
                    let norm = TokenNorm { centred, scale, bias, eps };
                    tiling.normalise(&norm, x.as_slice(), out.as_mut_slice());
                    let mut got = vec![f32::NAN; rows.len()];
                    tiling.to_rows(out.as_slice(), &mut got);
                    got
                };
                let got = run();
                for (g, w) in got.iter().zip(&want) {
                    assert!(
                        (g - w).abs() <= 2e-5 * w.abs().max(1.0),
                        "{isa:?} {tokens} x {features}: {g} {w}"
                    );
                }
                assert_eq!(in_pool(3, run), got, "{isa:?} on three threads");
            }
        }
    }
}
