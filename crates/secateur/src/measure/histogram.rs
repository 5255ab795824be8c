//! Distributions of weights.

use serde::{Deserialize, Serialize};

use super::number;

/// Distribution of a layer's non-zero weights over equal bins from `-limit` to `limit`.
///
/// The first and the last bin also hold what lies beyond.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Where the outermost bins end: four times the root mean square of the non-zero weights, or the largest
    /// magnitude where that is less, so that single outliers don't squeeze the rest into the middle.
    #[serde(with = "number")]
    pub limit: f64,
    /// Weights that are exactly zero; no bin counts them.
    pub zeros: u64,
    /// Weights in each bin.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Bins that layers are recorded with: even, so that zero is an edge.
    pub const BINS: usize = 48;

    /// The distribution of `weights` over `bins` bins. Weights that aren't finite count at the ends.
    pub fn of(weights: &[f32], bins: usize) -> Histogram {
        let (mut squares, mut nonzero, mut largest) = (0.0, 0u64, 0.0f64);
        for w in weights.iter().map(|&w| f64::from(w)).filter(|w| *w != 0.0 && w.is_finite()) {
            squares += w * w;
            nonzero += 1;
            largest = largest.max(w.abs());
        }
        let limit = if nonzero == 0 { 0.0 } else { largest.min(4.0 * (squares / nonzero as f64).sqrt()) };
        let mut histogram = Histogram { limit, zeros: 0, counts: vec![0; bins] };
        histogram.counts = histogram.counts_of(weights);
        histogram.zeros = weights.iter().filter(|w| **w == 0.0).count() as u64;
        histogram
    }

    /// Counts the non-zero ones of other weights in the same bins, such as the layer's weights after pruning.
    pub fn counts_of(&self, weights: &[f32]) -> Vec<u64> {
        let bins = self.counts.len();
        let mut counts = vec![0; bins];
        if bins == 0 {
            return counts;
        }
        let scale = if self.limit > 0.0 { bins as f64 / (2.0 * self.limit) } else { 0.0 };
        for &w in weights.iter().filter(|w| **w != 0.0) {
            // Casting saturates: what lies beyond counts at the ends, NaN in the first bin.
            let bin = ((f64::from(w) + self.limit) * scale).floor() as usize;
            counts[bin.min(bins - 1)] += 1;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_counts_every_weight_once() {
        let weights = [0.0, 0.5, -0.5, 0.1, -0.1, 0.0, 3.0];
        let h = Histogram::of(&weights, 4);
        assert_eq!(h.zeros, 2);
        assert_eq!(h.counts.iter().sum::<u64>(), 5);
        assert_eq!(h.counts, [0, 2, 2, 1]);
        assert_eq!(h.limit, 3.0);
        let outlier: Vec<f32> =
            (0..999).map(|i| if i % 2 == 0 { 0.1 } else { -0.1 }).chain([100.0]).collect();
        let h = Histogram::of(&outlier, 8);
        assert!(h.limit < 13.0, "{}", h.limit);
        assert_eq!(h.counts.iter().sum::<u64>(), 1000);
        assert_eq!(h.counts[7], 1);
    }

    #[test]
    fn histogram_of_nothing() {
        assert_eq!(Histogram::of(&[], 4).counts, [0; 4]);
        let h = Histogram::of(&[0.0; 3], 4);
        assert_eq!((h.zeros, h.limit), (3, 0.0));
        assert_eq!(h.counts_of(&[f32::NAN, f32::INFINITY]).iter().sum::<u64>(), 2);
    }
}
