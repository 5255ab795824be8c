//! LAMP: layer-adaptive magnitudes (Lee et al. 2021, arXiv:2010.07611).
//!
//! With the weights of a layer in the order of their magnitudes, ties by position, the score of one is
//! its square ÷ the sum of the squares from it on. Within a layer it orders as the magnitudes do, so
//! only the number pruned in each layer has to be found; magnitudes tell which.

use rayon::prelude::*;
use secateur_model::Result;

use super::norm::{self, Order};
use super::{Criterion, Scores, UnitScores};
use crate::prune::evidence::Evidence;
use crate::prune::ranking::{Keys, prune_lowest};
use crate::prune::registry::{About, Described};
use crate::prune::units::Units;
use crate::prune::weights::Weights;

/// The square of the weight, or of the unit's norm, over the sum of those that are not smaller.
#[derive(Debug)]
pub(super) struct Lamp;

static ABOUT: About = About {
    name: "lamp",
    aliases: &[],
    parameter: None,
    summary: "square of the weight over those of its layer that are not smaller, so that no layer \
              dies: meant for the scope global, within a layer it ranks as magnitudes do",
    formula: "q ÷ Σ_{q_j ≥ q} q_j, q = Σw_i² ÷ n, j over the layer",
    source: "Lee et al. 2021, arXiv:2010.07611",
    needs: &[],
};

impl Described for Lamp {
    fn about(&self) -> &About {
        &ABOUT
    }
}

impl Criterion for Lamp {
    /// Within a layer LAMP orders as the magnitudes do.
    fn weights<'a>(&self, _: &Evidence<'a>) -> Result<Scores<'a>> {
        Ok(Scores::Magnitude)
    }

    fn units(&self, layer: &Evidence<'_>, units: &Units) -> Result<UnitScores> {
        let squares = norm::unit_scores(layer.weights, units, Order::L2);
        Ok(UnitScores::Numbers(unit_scores(&squares)))
    }

    fn counts(&self, layers: &[Evidence<'_>], k: usize) -> Option<Vec<usize>> {
        let weights: Vec<&Weights<'_>> = layers.iter().map(|layer| layer.weights).collect();
        Some(counts(&weights, k))
    }
}

/// The scores of the units of a layer from their squared Euclidean norms.
fn unit_scores(squares: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..squares.len()).collect();
    order.sort_by(|&a, &b| squares[b].total_cmp(&squares[a]).then(b.cmp(&a)));
    let (mut scores, mut suffix) = (vec![0.0; squares.len()], 0.0);
    for unit in order {
        suffix += squares[unit];
        scores[unit] = share(squares[unit], suffix);
    }
    scores
}

/// A square ÷ the sum of those from it on; of infinite weights, which have no share, 1.
fn share(square: f64, suffix: f64) -> f64 {
    let share = square / suffix;
    if share.is_nan() { 1.0 } else { share }
}

/// How many weights of each layer are among the `k` of lowest score of all layers; zeros are not
/// counted. Ties between layers go to the earlier one.
///
/// The weights are neither copied nor sorted: a first pass sums squares over bins of magnitudes,
/// which bounds the scores in every bin, and a second gathers the weights of those few bins that the
/// k-th lowest score may lie in.
///
/// # Panics
/// Where `k` is more than there are weights that are not zero.
fn counts(layers: &[&Weights<'_>], k: usize) -> Vec<usize> {
    let bins: Vec<Vec<Bin>> = layers.par_iter().map(|weights| bins(weights)).collect();
    let total: u64 = bins.iter().flatten().map(|bin| bin.count).sum();
    assert!(k as u64 <= total, "{k} of {total} weights");
    if k == 0 {
        return vec![0; layers.len()];
    }
    let low = reaching(&bins, k as u64, Bin::least_score) * (1.0 - SLACK);
    let high = reaching(&bins, k as u64, Bin::greatest_score) * (1.0 + SLACK);
    let candidates: Vec<(u64, Vec<u64>)> = layers
        .par_iter()
        .zip(&bins)
        .map(|(weights, bins)| {
            let from = bins.partition_point(|bin| bin.greatest_score() < low);
            let to = bins.partition_point(|bin| bin.least_score() <= high).max(from);
            let certain = bins[..from].iter().map(|bin| bin.count).sum();
            (certain, scores(weights, &bins[from..to]))
        })
        .collect();
    let certain: u64 = candidates.iter().map(|c| c.0).sum();
    let open: Vec<&dyn Keys<u64>> = candidates.iter().map(|c| &c.1 as &dyn Keys<u64>).collect();
    let masks = prune_lowest(&open, k - certain as usize);
    candidates.iter().zip(masks).map(|((certain, _), mask)| *certain as usize + mask.pruned()).collect()
}

/// Bounds are widened by this, so that rounding does not put a score out of its bin.
const SLACK: f64 = 1e-9;

/// Bits of a magnitude within a bin: a bin spans 2⁻⁶ of its magnitudes.
const WITHIN: u32 = f64::MANTISSA_DIGITS - 1 - 6;

/// Weights of nearly the same magnitude.
struct Bin {
    /// The magnitude's bits above [`WITHIN`].
    index: usize,
    count: u64,
    /// The sum of their squares.
    squares: f64,
    /// The sum of the squares of all larger magnitudes.
    above: f64,
}

impl Bin {
    fn square_of(index: usize) -> f64 {
        f64::from_bits((index as u64) << WITHIN).powi(2)
    }

    /// No weight of the bin has a lower score.
    fn least_score(&self) -> f64 {
        share(Bin::square_of(self.index), self.above + self.squares)
    }

    /// No weight of the bin has a higher score.
    fn greatest_score(&self) -> f64 {
        let square = Bin::square_of(self.index + 1);
        share(square, self.above + square)
    }
}

/// The bins of a layer that hold weights, magnitudes rising.
fn bins(weights: &Weights<'_>) -> Vec<Bin> {
    let bins = 1 << (u64::BITS - 1 - WITHIN);
    let (mut counts, mut squares) = (vec![0u64; bins], vec![0.0f64; bins]);
    weights.magnitudes().for_each_block(0..weights.len(), |_, block| {
        for m in block {
            let bin = (m.to_bits() >> WITHIN) as usize;
            counts[bin] += u64::from(*m != 0.0);
            squares[bin] += m * m;
        }
    });
    let mut above = 0.0;
    let mut found = Vec::new();
    for index in (0..bins).rev().filter(|&index| counts[index] > 0) {
        found.push(Bin { index, count: counts[index], squares: squares[index], above });
        above += squares[index];
    }
    found.reverse();
    found
}

/// The bound at which, bins taken in the order of their bounds, `k` weights are reached.
fn reaching(bins: &[Vec<Bin>], k: u64, bound: fn(&Bin) -> f64) -> f64 {
    let mut bounds: Vec<(f64, u64)> = bins.iter().flatten().map(|bin| (bound(bin), bin.count)).collect();
    bounds.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut reached = 0;
    bounds
        .into_iter()
        .find_map(|(bound, count)| {
            reached += count;
            (reached >= k).then_some(bound)
        })
        .unwrap_or(f64::INFINITY)
}

/// The scores, as bits and rising, of the weights in neighbouring bins.
fn scores(weights: &Weights<'_>, bins: &[Bin]) -> Vec<u64> {
    let (Some(first), Some(last)) = (bins.first(), bins.last()) else { return Vec::new() };
    let mut found = Vec::with_capacity(bins.iter().map(|bin| bin.count as usize).sum());
    weights.magnitudes().for_each_block(0..weights.len(), |_, block| {
        let within =
            |m: &f64| *m != 0.0 && (first.index..=last.index).contains(&((m.to_bits() >> WITHIN) as usize));
        found.extend(block.iter().filter(|m| within(m)).map(|m| m.to_bits()));
    });
    found.sort_unstable();
    let mut suffix = last.above;
    for key in found.iter_mut().rev() {
        let square = f64::from_bits(*key).powi(2);
        suffix += square;
        *key = share(square, suffix).to_bits();
    }
    found
}

impl Keys<u64> for Vec<u64> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn fill(&self, start: usize, out: &mut [u64]) {
        out.copy_from_slice(&self[start..start + out.len()]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use secateur_model::model::Storage;
    use secateur_model::{Data, StoredTensor};

    use super::*;

    /// All scores sorted, ties to the earlier layer.
    fn naive(layers: &[Vec<f32>], k: usize) -> Vec<usize> {
        let mut all: Vec<(f64, usize)> = Vec::new();
        for (l, layer) in layers.iter().enumerate() {
            let squares: Vec<f64> =
                layer.iter().filter(|w| **w != 0.0).map(|&w| f64::from(w).powi(2)).collect();
            all.extend(unit_scores(&squares).into_iter().map(|score| (score, l)));
        }
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut counts = vec![0; layers.len()];
        all[..k].iter().for_each(|(_, l)| counts[*l] += 1);
        counts
    }

    fn check(layers: &[Vec<f32>], share: f64) {
        let stored: Vec<StoredTensor> = layers
            .iter()
            .map(|values| {
                let data = Data::F32(values.clone());
                let (dtype, shape) = (data.dtype(), vec![values.len()]);
                StoredTensor { path: "w".into(), dtype, shape, storage: Storage::Data(Arc::new(data)) }
            })
            .collect();
        let weights: Vec<Weights<'_>> = stored.iter().map(|s| Weights::of(s).unwrap()).collect();
        let weights: Vec<&Weights<'_>> = weights.iter().collect();
        let nonzero = layers.iter().flatten().filter(|w| **w != 0.0).count();
        let k = (share * nonzero as f64) as usize;
        assert_eq!(counts(&weights, k), naive(layers, k));
    }

    proptest! {
        #[test]
        fn counts_equal_sorting_all_scores(
            layers in prop::collection::vec(
                prop::collection::vec(prop_oneof![-1.0f32..1.0, (-3i8..4).prop_map(f32::from)], 1..300),
                1..5,
            ),
            share in 0.0..=1.0f64,
        ) {
            check(&layers, share);
        }
    }

    #[test]
    fn infinite_weights_and_layers_of_one_magnitude() {
        check(&[vec![1.0; 50], vec![-2.0; 30]], 0.4);
        check(&[vec![1.0, f32::INFINITY, 3.0, 0.0], vec![1e-40, 2e-40, 1e38]], 0.5);
    }

    /// A score is a share of what is left: the largest of a layer has all of it.
    #[test]
    fn scores_of_units() {
        assert_eq!(unit_scores(&[4.0, 1.0, 0.0, 1.0]), [1.0, 1.0 / 6.0, 0.0, 0.2]);
    }
}
