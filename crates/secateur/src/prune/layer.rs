//! A selected tensor and its scores.

use std::ops::Range;
use std::sync::Arc;

use secateur_kernels::select::Split;
use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Model, Result, ResultExt, StoredTensor};

use super::PruneOptions;
use super::allocation::Place;
use super::amount::Amount;
use super::criteria::norm::unit_nonzeros;
use super::criteria::{Criterion, Scores, UnitScores};
use super::evidence::{Evidence, EvidenceSet};
use super::masks::Mask;
use super::patterns::{Division, Pattern};
use super::ranking::Keys;
use super::registry::About;
use super::scope::Scope;
use super::units::Units;
use super::weights::{Numbers, Weights, ordered, position_of_nan};

/// A selected tensor.
pub(in crate::prune) struct Layer<'m> {
    pub(in crate::prune) view: PrunableView,
    pub(in crate::prune) stored: &'m StoredTensor,
    pub(in crate::prune) weights: Weights<'m>,
    pub(in crate::prune) base: Option<&'m Mask>,
    /// Zeros as stored.
    pub(in crate::prune) zeros_before: usize,
    /// Zeros with the base mask applied.
    pub(in crate::prune) pruned_before: usize,
    /// The layer's own amount, where an override names it.
    pub(in crate::prune) own: Option<Amount>,
    /// Its position in the network.
    pub(in crate::prune) place: Place,
    /// How its weights are ranked.
    pub(in crate::prune) division: Division,
}

impl<'m> Layer<'m> {
    pub(in crate::prune) fn new(
        model: &'m Model,
        view: PrunableView,
        base: Option<&'m Mask>,
        pattern: Pattern,
        own: Option<Amount>,
        place: Place,
    ) -> Result<Self> {
        let stored = model.tensor(view.tensor);
        let as_stored = Weights::of(stored)?;
        let weights = match base {
            Some(base) => as_stored.masked_by(base).at_tensor(&stored.path)?,
            None => as_stored,
        };
        let pruned_before = weights.zeros_of_numbers(stored)?;
        let zeros_before = base.map_or(pruned_before, |_| as_stored.zeros());
        let division = pattern.divide(&view, &stored.shape).at_tensor(&stored.path)?;
        Ok(Layer { view, stored, weights, base, zeros_before, pruned_before, own, place, division })
    }

    /// What a criterion or solver sees of it.
    pub(in crate::prune) fn evidence<'a>(
        &'a self,
        about: &'a About,
        parameter: Option<f64>,
        options: &PruneOptions,
        set: &'a EvidenceSet,
    ) -> Evidence<'a> {
        let (view, stored, weights) = (&self.view, self.stored, &self.weights);
        let (seed, pattern) = (options.seed, options.method.pattern);
        Evidence { view, stored, weights, seed, parameter, pattern, set, about }
    }

    /// How many things are ranked, and how many of them are pruned already.
    pub(in crate::prune) fn sizes(&self) -> (usize, usize) {
        match &self.division {
            Division::Weights | Division::Groups(_) => (self.weights.len(), self.pruned_before),
            Division::Units(units) => {
                let nonzeros = unit_nonzeros(&self.weights, units);
                (nonzeros.len(), nonzeros.iter().filter(|&&n| n == 0).count())
            }
        }
    }
}

/// A layer with its scores.
pub(in crate::prune) struct Scored<'a> {
    pub(in crate::prune) layer: &'a Layer<'a>,
    ranked: What<'a>,
}

/// What is ranked of a layer.
enum What<'a> {
    /// Its weights.
    Weights(Scores<'a>),
    /// Its units.
    Units(UnitKeys),
}

/// The units of a layer: their keys, and how many weights of each are not zero.
struct UnitKeys {
    keys: Vec<u64>,
    nonzeros: Vec<u32>,
}

impl<'a> Scored<'a> {
    /// # Errors
    /// Where the evidence is missing or does not fit, or a score is NaN.
    pub(in crate::prune) fn of(
        layer: &'a Layer<'a>,
        options: &PruneOptions,
        evidence: &'a EvidenceSet,
    ) -> Result<Self> {
        let criterion = options.method.criterion;
        let seen = layer.evidence(criterion.about(), criterion.parameter(), options, evidence);
        let ranked = match &layer.division {
            Division::Units(units) => {
                let relate = matches!(options.method.pattern, Pattern::Channel(_))
                    && options.method.scope == Scope::Global;
                let nonzeros = unit_nonzeros(&layer.weights, units);
                unit_keys(&*criterion, &seen, units, &nonzeros, relate)
                    .map(|keys| What::Units(UnitKeys { keys, nonzeros }))
            }
            Division::Weights | Division::Groups(_) => {
                criterion.weights(&seen).and_then(|scores| checked(scores, layer.stored)).map(What::Weights)
            }
        };
        let ranked = ranked.at(|| format!("criterion `{criterion}`")).at_tensor(&layer.stored.path)?;
        Ok(Scored { layer, ranked })
    }

    /// Whether 32 bits do not tell the keys apart.
    pub(in crate::prune) fn needs_wide_keys(&self) -> bool {
        self.layer.weights.is_f64() || !matches!(self.ranked, What::Weights(Scores::Magnitude))
    }

    /// How many things are ranked, and how many of them are pruned already.
    pub(in crate::prune) fn sizes(&self) -> (usize, usize) {
        match &self.ranked {
            What::Units(units) => (units.keys.len(), units.keys.iter().filter(|&&k| k == 0).count()),
            _ => (self.layer.weights.len(), self.layer.pruned_before),
        }
    }

    /// How many of what `rows` put together are pruned already, row by row.
    pub(in crate::prune) fn pruned_in_rows(&self, rows: &Units) -> Vec<usize> {
        match &self.ranked {
            What::Units(units) => {
                let mut pruned = vec![0; rows.count()];
                rows.for_each_run(|start, len, first, step| {
                    for i in 0..len {
                        pruned[first + i * step] += usize::from(units.keys[start + i] == 0);
                    }
                });
                pruned
            }
            _ => {
                let nonzeros = unit_nonzeros(&self.layer.weights, rows);
                nonzeros.into_iter().map(|n| rows.size() - n as usize).collect()
            }
        }
    }

    /// The layer after a mask of the ranked weights or units.
    ///
    /// # Errors
    /// Never for masks of as many things as were ranked.
    pub(in crate::prune) fn pruned_by(self, mask: Mask) -> Result<Pruned> {
        let (Division::Units(units), What::Units(scores)) = (&self.layer.division, &self.ranked) else {
            return Ok(Pruned { zeros: mask.pruned(), mask: Arc::new(mask), units: None });
        };
        let kept = mask.iter().zip(&scores.nonzeros).filter(|(keep, _)| *keep);
        let zeros = self.layer.weights.len() - kept.map(|(_, &n)| n as usize).sum::<usize>();
        let expanded = units.expand(&mask);
        let expanded = match self.layer.base {
            Some(base) => expanded.and(base)?,
            None => expanded,
        };
        Ok(Pruned { mask: Arc::new(expanded), units: Some(mask), zeros })
    }
}

/// A pruned layer.
pub(in crate::prune) struct Pruned {
    /// The mask of its weights.
    pub(in crate::prune) mask: Arc<Mask>,
    /// The mask of its units, where units were ranked.
    pub(in crate::prune) units: Option<Mask>,
    /// Zeros afterwards.
    pub(in crate::prune) zeros: usize,
}

/// A weight that is zero, or a unit of zeros, has the key 0, so it is pruned first whatever the
/// criterion.
impl Keys<u64> for Scored<'_> {
    fn len(&self) -> usize {
        match &self.ranked {
            What::Units(units) => units.keys.len(),
            _ => self.layer.weights.len(),
        }
    }

    fn fill(&self, start: usize, out: &mut [u64]) {
        let weights = &self.layer.weights;
        match &self.ranked {
            What::Units(units) => out.copy_from_slice(&units.keys[start..start + out.len()]),
            What::Weights(Scores::Magnitude) => weights.magnitudes64(start, out),
            What::Weights(Scores::Keys(fill)) => {
                fill(start, out);
                weights.zero_keys_of_zeros(start, out);
            }
            What::Weights(Scores::Numbers(fill)) => {
                let mut numbers = vec![0.0; out.len()];
                fill(start, &mut numbers);
                out.iter_mut().zip(numbers).for_each(|(key, number)| *key = ordered(number));
                weights.zero_keys_of_zeros(start, out);
            }
        }
    }
}

/// The keys of a layer's units: 0 for a unit of zeros.
fn unit_keys(
    criterion: &dyn Criterion,
    layer: &Evidence<'_>,
    units: &Units,
    nonzeros: &[u32],
    relate: bool,
) -> Result<Vec<u64>> {
    let mut keys: Vec<u64> = match criterion.units(layer, units)? {
        UnitScores::Keys(keys) => keys,
        UnitScores::Numbers(mut scores) => {
            if relate {
                criterion.relate(layer, &mut scores, nonzeros);
            }
            if let Some(unit) = scores.iter().position(|score| score.is_nan()) {
                return Err(Error::input(format!("the score of unit {unit} is NaN: it cannot be ranked")));
            }
            scores.into_iter().map(ordered).collect()
        }
    };
    if keys.len() != nonzeros.len() {
        let (found, expected) = (keys.len(), nonzeros.len());
        return Err(Error::internal(format!("{found} scores for {expected} channels or blocks")));
    }
    keys.iter_mut().zip(nonzeros).filter(|(_, n)| **n == 0).for_each(|(key, _)| *key = 0);
    Ok(keys)
}

/// Refuses NaN, which cannot be ranked.
fn checked<'a>(scores: Scores<'a>, stored: &StoredTensor) -> Result<Scores<'a>> {
    if let Scores::Numbers(fill) = &scores
        && let Some(at) = position_of_nan(Numbers::of(&**fill), stored)
    {
        return Err(Error::input(format!("the score at {at:?} is NaN: it cannot be ranked")));
    }
    Ok(scores)
}

/// Magnitudes of weights narrower than f64.
impl Keys<u32> for Scored<'_> {
    fn len(&self) -> usize {
        self.layer.weights.len()
    }

    fn fill(&self, start: usize, out: &mut [u32]) {
        self.layer.weights.magnitudes32(start, out);
    }

    fn split(
        &self,
        range: Range<usize>,
        bounds: [u32; 2],
        words: &mut [u64],
        found: &mut Split<u32>,
    ) -> bool {
        self.layer.weights.split32(range, bounds, words, found)
    }
}
