//! A selected tensor, and what is ranked of it.

use std::ops::Range;
use std::sync::Arc;

use secateur_kernels::select::Split;
use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Model, Result, ResultExt, StoredTensor};

use super::PruneOptions;
use crate::prune::allocation::Place;
use crate::prune::criteria::file::ScoreFile;
use crate::prune::criteria::{Criterion, Order, lamp, norm};
use crate::prune::patterns::Division;
use crate::prune::ranking::Keys;
use crate::prune::units::Units;
use crate::prune::weights::{Weights, ordered};
use crate::prune::{Amount, Mask, Pattern, Scope};
use crate::random::Stream;

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
    /// Where it stands in the network.
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

    /// How many things are ranked, and how many of them are pruned already.
    pub(in crate::prune) fn sizes(&self) -> (usize, usize) {
        match &self.division {
            Division::Weights | Division::Groups(_) => (self.weights.len(), self.pruned_before),
            Division::Units(units) => {
                let nonzeros = norm::unit_nonzeros(&self.weights, units);
                (nonzeros.len(), nonzeros.iter().filter(|&&n| n == 0).count())
            }
        }
    }
}

/// A layer with its scores.
pub(in crate::prune) struct Scored<'a> {
    pub(in crate::prune) layer: &'a Layer<'a>,
    scores: Scores<'a>,
}

/// What is ranked of a layer.
enum Scores<'a> {
    /// Its weights by magnitude.
    Magnitude,
    /// Its weights by random draws.
    Draws(Stream),
    /// Its weights by given numbers.
    Given(Weights<'a>),
    /// Its units.
    Units(UnitScores),
}

/// The units of a layer: their keys, and how many weights of each are not zero.
struct UnitScores {
    keys: Vec<u64>,
    nonzeros: Vec<u32>,
}

impl<'a> Scored<'a> {
    /// # Errors
    /// Where the file of scores does not fit the layer.
    pub(in crate::prune) fn of(
        layer: &'a Layer<'a>,
        options: &PruneOptions,
        file: Option<&'a ScoreFile>,
    ) -> Result<Self> {
        let stream = Stream::new(options.seed, &layer.stored.path);
        let file = || file.ok_or_else(|| Error::internal("the criterion `file` without its file"));
        let scores = match (&layer.division, options.method.criterion) {
            (Division::Units(units), criterion) => {
                let nonzeros = norm::unit_nonzeros(&layer.weights, units);
                let relate = matches!(options.method.pattern, Pattern::Channel(_))
                    && options.method.scope == Scope::Global;
                let mut keys: Vec<u64> = match criterion {
                    Criterion::Random => (0..units.count() as u64).map(|u| stream.draw(u).max(1)).collect(),
                    Criterion::Norm(order) => {
                        let mut scores = norm::unit_scores(&layer.weights, units, order);
                        if relate {
                            norm::relate_to_mean(&mut scores, order, &nonzeros);
                        }
                        scores.into_iter().map(ordered).collect()
                    }
                    Criterion::Lamp => {
                        let squares = norm::unit_scores(&layer.weights, units, Order::L2);
                        lamp::unit_scores(&squares).into_iter().map(ordered).collect()
                    }
                    Criterion::File => {
                        let scores = file()?.of_units(layer.stored, units).at_tensor(&layer.stored.path)?;
                        scores.into_iter().map(ordered).collect()
                    }
                };
                for (key, _) in keys.iter_mut().zip(&nonzeros).filter(|(_, n)| **n == 0) {
                    *key = 0;
                }
                Scores::Units(UnitScores { keys, nonzeros })
            }
            // Within a layer LAMP orders as the magnitudes do.
            (_, Criterion::Norm(_) | Criterion::Lamp) => Scores::Magnitude,
            (_, Criterion::Random) => Scores::Draws(stream),
            (_, Criterion::File) => {
                Scores::Given(file()?.of_weights(layer.stored).at_tensor(&layer.stored.path)?)
            }
        };
        Ok(Scored { layer, scores })
    }

    /// Whether 32 bits do not tell the keys apart.
    pub(in crate::prune) fn needs_wide_keys(&self) -> bool {
        self.layer.weights.is_f64() || !matches!(self.scores, Scores::Magnitude)
    }

    /// How many things are ranked, and how many of them are pruned already.
    pub(in crate::prune) fn sizes(&self) -> (usize, usize) {
        match &self.scores {
            Scores::Units(units) => (units.keys.len(), units.keys.iter().filter(|&&k| k == 0).count()),
            _ => (self.layer.weights.len(), self.layer.pruned_before),
        }
    }

    /// How many of what `rows` put together are pruned already, row by row.
    pub(in crate::prune) fn pruned_in_rows(&self, rows: &Units) -> Vec<usize> {
        match &self.scores {
            Scores::Units(units) => {
                let mut pruned = vec![0; rows.count()];
                rows.for_each_run(|start, len, first, step| {
                    for i in 0..len {
                        pruned[first + i * step] += usize::from(units.keys[start + i] == 0);
                    }
                });
                pruned
            }
            _ => {
                let nonzeros = norm::unit_nonzeros(&self.layer.weights, rows);
                nonzeros.into_iter().map(|n| rows.size() - n as usize).collect()
            }
        }
    }

    /// What becomes of the layer where a mask of what was ranked is applied.
    ///
    /// # Errors
    /// Never for masks of as many things as were ranked.
    pub(in crate::prune) fn pruned_by(self, mask: Mask) -> Result<Pruned> {
        let (Division::Units(units), Scores::Units(scores)) = (&self.layer.division, &self.scores) else {
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

/// What becomes of a layer.
pub(in crate::prune) struct Pruned {
    /// The mask of its weights.
    pub(in crate::prune) mask: Arc<Mask>,
    /// The mask of its units, where units were ranked.
    pub(in crate::prune) units: Option<Mask>,
    /// Zeros afterwards.
    pub(in crate::prune) zeros: usize,
}

/// A weight that is zero, or a unit of zeros, has the key 0, so it goes first whatever the criterion
/// says.
impl Keys<u64> for Scored<'_> {
    fn len(&self) -> usize {
        match &self.scores {
            Scores::Units(units) => units.keys.len(),
            _ => self.layer.weights.len(),
        }
    }

    fn fill(&self, start: usize, out: &mut [u64]) {
        match &self.scores {
            Scores::Magnitude => self.layer.weights.magnitudes64(start, out),
            Scores::Units(units) => out.copy_from_slice(&units.keys[start..start + out.len()]),
            Scores::Draws(stream) => {
                self.layer.weights.magnitudes64(start, out);
                of_nonzeros(out, |i| stream.draw((start + i) as u64).max(1));
            }
            Scores::Given(scores) => {
                let mut given = vec![0; out.len()];
                scores.ordered(start, &mut given);
                self.layer.weights.magnitudes64(start, out);
                of_nonzeros(out, |i| given[i]);
            }
        }
    }
}

/// Replaces the keys that are not 0 by those of a function of their position.
fn of_nonzeros(keys: &mut [u64], of: impl Fn(usize) -> u64) {
    for (i, key) in keys.iter_mut().enumerate().filter(|(_, key)| **key != 0) {
        *key = of(i);
    }
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
