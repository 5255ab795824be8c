//! Pruning: from a model and options to masks, and from masks to edits of the model.

mod options;
mod pruning;

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use secateur_model::prunable::{self, Companion, PrunableView};
use secateur_model::{Model, Result, ResultExt, StoredTensor, TensorId};

use crate::mask::rank::{Key, Keys, prune_lowest, prune_lowest_in_units};
use crate::mask::units::Units;
use crate::mask::{Amount, ChannelAxis, Mask, Pattern, Scope, amount, pattern};
use crate::score::random::Stream;
use crate::score::weights::Weights;
use crate::score::{Criterion, norm};
use crate::select::NameGlob;

pub use options::{Override, PruneOptions};
pub(crate) use pruning::masked;
pub use pruning::{Channels, LayerSummary, Pruning};

/// Finds what to prune.
///
/// # Errors
/// `Usage` where the options have no meaning for the model, `Input` where a selected weight is NaN.
pub fn plan(model: &Model, options: &PruneOptions) -> Result<Pruning> {
    plan_from(model, options, &BTreeMap::new())
}

/// Finds what to prune where masks prune weights already: those weights are zeros, whatever the
/// model stores, and the new masks prune them too. Masks of tensors that are not selected have no
/// effect.
///
/// # Errors
/// As [`plan`]; `Input` where a mask is not as long as its tensor.
pub fn plan_from(
    model: &Model,
    options: &PruneOptions,
    base: &BTreeMap<TensorId, Arc<Mask>>,
) -> Result<Pruning> {
    options.method.check()?;
    options.amount.check()?;
    let entries = prunable::view(model)?;
    let selected = options.selector.select(model, &entries)?;
    let overrides: Vec<(NameGlob, f64)> = options
        .overrides
        .iter()
        .map(|o| {
            Amount::Sparsity(o.sparsity).check().at(|| format!("override `{}`", o.name))?;
            Ok((NameGlob::new(&o.name, &selected, model, &entries)?, o.sparsity))
        })
        .collect::<Result<_>>()?;
    let layers = selected
        .into_par_iter()
        .map(|view| {
            let own = overrides.iter().rev().find(|(glob, _)| glob.matches(&view, model));
            let own = own.map(|&(_, sparsity)| Amount::Sparsity(sparsity));
            let base = base.get(&view.tensor).map(|mask| &**mask);
            Layer::new(model, view, base, options, own)
        })
        .collect::<Result<Vec<_>>>()?;
    let ranked = match (options.method.pattern, options.method.scope) {
        (Pattern::Unstructured, Scope::Row) => rank_rows(&layers, options)?,
        _ if layers.iter().any(Layer::needs_wide_keys) => rank::<u64>(&layers, options)?,
        _ => rank::<u32>(&layers, options)?,
    };
    summarise(model, options, layers, ranked)
}

/// A selected tensor.
struct Layer<'m> {
    view: PrunableView,
    stored: &'m StoredTensor,
    weights: Weights<'m>,
    base: Option<&'m Mask>,
    /// Zeros as stored.
    zeros_before: usize,
    /// Zeros with the base mask applied.
    pruned_before: usize,
    /// The layer's own amount, where an override names it.
    own: Option<Amount>,
    scores: Scores,
}

/// What is ranked of a layer.
enum Scores {
    /// Its weights by magnitude.
    Magnitude,
    /// Its weights by random draws.
    Draws(Stream),
    /// Its channels.
    Channels { units: Units, keys: Vec<u64>, nonzeros: Vec<usize> },
}

impl<'m> Layer<'m> {
    fn new(
        model: &'m Model,
        view: PrunableView,
        base: Option<&'m Mask>,
        options: &PruneOptions,
        own: Option<Amount>,
    ) -> Result<Layer<'m>> {
        let stored = model.tensor(view.tensor);
        let as_stored = Weights::of(stored)?;
        let weights = match base {
            Some(base) => as_stored.masked_by(base).at_tensor(&stored.path)?,
            None => as_stored,
        };
        let pruned_before = weights.zeros_of_numbers(stored)?;
        let zeros_before = base.map_or(pruned_before, |_| as_stored.zeros());
        let stream = Stream::new(options.seed, &stored.path);
        let scores = match (options.method.pattern, options.method.criterion) {
            (Pattern::Unstructured, Criterion::Norm(_)) => Scores::Magnitude,
            (Pattern::Unstructured, Criterion::Random) => Scores::Draws(stream),
            (Pattern::Channel(axis), criterion) => {
                let units = axis.units(&view, &stored.shape).at_tensor(&stored.path)?;
                let nonzeros = norm::unit_nonzeros(&weights, &units);
                let keys: Vec<u64> = match criterion {
                    Criterion::Random => (0..units.count() as u64).map(|u| stream.draw(u).max(1)).collect(),
                    Criterion::Norm(order) => {
                        norm::unit_norms(&weights, &units, order).into_iter().map(ordered).collect()
                    }
                };
                let keys = keys.into_iter().zip(&nonzeros).map(|(k, &n)| if n == 0 { 0 } else { k });
                Scores::Channels { keys: keys.collect(), units, nonzeros }
            }
        };
        Ok(Layer { view, stored, weights, base, zeros_before, pruned_before, own, scores })
    }

    fn needs_wide_keys(&self) -> bool {
        self.weights.is_f64() || !matches!(self.scores, Scores::Magnitude)
    }

    /// How many things are ranked, and how many of them are zero already.
    fn sizes(&self) -> (usize, usize) {
        match &self.scores {
            Scores::Channels { keys, .. } => (keys.len(), keys.iter().filter(|&&k| k == 0).count()),
            _ => (self.weights.len(), self.pruned_before),
        }
    }
}

/// A score as a key: orders as the numbers do and is never 0, which stands for what is pruned already.
fn ordered(score: f64) -> u64 {
    let bits = score.to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// A weight that is zero has the key 0, so it goes first whatever the criterion says.
impl Keys<u64> for Layer<'_> {
    fn len(&self) -> usize {
        self.sizes().0
    }

    fn fill(&self, start: usize, out: &mut [u64]) {
        match &self.scores {
            Scores::Magnitude => self.weights.magnitudes64(start, out),
            Scores::Channels { keys, .. } => out.copy_from_slice(&keys[start..start + out.len()]),
            Scores::Draws(stream) => {
                self.weights.magnitudes64(start, out);
                for (i, key) in out.iter_mut().enumerate().filter(|(_, key)| **key != 0) {
                    *key = stream.draw((start + i) as u64).max(1);
                }
            }
        }
    }
}

/// Magnitudes of weights narrower than f64.
impl Keys<u32> for Layer<'_> {
    fn len(&self) -> usize {
        self.weights.len()
    }

    fn fill(&self, start: usize, out: &mut [u32]) {
        self.weights.magnitudes32(start, out);
    }
}

/// The masks of what was ranked: weights or channels.
struct Ranked {
    masks: Vec<Mask>,
    /// By layer: whether there were more zeros than asked for.
    exceeded: Vec<bool>,
}

fn target(layers: &[&Layer<'_>], amount: Amount, options: &PruneOptions) -> Result<amount::Target> {
    let sizes = layers.iter().map(|layer| layer.sizes());
    let (size, already) = sizes.fold((0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1));
    amount.target(size, already, options.of_remaining)
}

/// Ranks per layer or all layers together.
fn rank<'m, K: Key>(layers: &[Layer<'m>], options: &PruneOptions) -> Result<Ranked>
where
    Layer<'m>: Keys<K>,
{
    // What is ranked together.
    let (pool, alone): (Vec<usize>, Vec<usize>) =
        (0..layers.len()).partition(|&i| options.method.scope == Scope::Global && layers[i].own.is_none());
    let mut sets: Vec<(Vec<usize>, Amount)> =
        alone.into_iter().map(|i| (vec![i], layers[i].own.unwrap_or(options.amount))).collect();
    if !pool.is_empty() {
        sets.push((pool, options.amount));
    }
    let ranked = sets
        .into_par_iter()
        .map(|(set, amount)| {
            let members: Vec<&Layer<'_>> = set.iter().map(|&i| &layers[i]).collect();
            let target = target(&members, amount, options);
            let target =
                if let [layer] = members[..] { target.at_tensor(&layer.stored.path)? } else { target? };
            let keys: Vec<&dyn Keys<K>> = set.iter().map(|&i| &layers[i] as &dyn Keys<K>).collect();
            Ok((set, prune_lowest(&keys, target.pruned), target.exceeded))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut masks = vec![Mask::all(0); layers.len()];
    let mut exceeded = vec![false; layers.len()];
    for (set, found, more) in ranked {
        for (i, mask) in set.into_iter().zip(found) {
            (masks[i], exceeded[i]) = (mask, more);
        }
    }
    Ok(Ranked { masks, exceeded })
}

/// Ranks each output row by itself.
fn rank_rows(layers: &[Layer<'_>], options: &PruneOptions) -> Result<Ranked> {
    let ranked = layers
        .par_iter()
        .map(|layer| {
            let rows = pattern::rows(&layer.view, &layer.stored.shape)?;
            let amount = layer.own.unwrap_or(options.amount);
            let nonzeros = norm::unit_nonzeros(&layer.weights, &rows);
            let targets = nonzeros
                .iter()
                .map(|&n| amount.target(rows.size(), rows.size() - n, options.of_remaining))
                .collect::<Result<Vec<_>>>()?;
            let pruned: Vec<usize> = targets.iter().map(|t| t.pruned).collect();
            let mask = if layer.needs_wide_keys() {
                prune_lowest_in_units::<u64>(layer, &rows, &pruned)
            } else {
                prune_lowest_in_units::<u32>(layer, &rows, &pruned)
            };
            Ok((mask, targets.iter().any(|t| t.exceeded)))
        })
        .zip(layers)
        .map(|(result, layer)| result.at_tensor(&layer.stored.path))
        .collect::<Result<Vec<_>>>()?;
    let (masks, exceeded) = ranked.into_iter().unzip();
    Ok(Ranked { masks, exceeded })
}

/// Turns masks of channels into masks of weights, takes companions along and adds up.
fn summarise(
    model: &Model,
    options: &PruneOptions,
    layers: Vec<Layer<'_>>,
    ranked: Ranked,
) -> Result<Pruning> {
    let mut pruning =
        Pruning { masks: Vec::new(), companions: Vec::new(), layers: Vec::new(), notes: Vec::new() };
    let mut companions: BTreeMap<TensorId, Mask> = BTreeMap::new();
    let mut exceeded = Vec::new();
    for ((layer, mask), more) in layers.into_iter().zip(ranked.masks).zip(ranked.exceeded) {
        if more {
            exceeded.push(layer.stored.path.as_str());
        }
        let mut summary = LayerSummary {
            tensor: layer.stored.path.clone(),
            node: layer.view.node.clone(),
            op_type: layer.view.op_type.clone(),
            module: layer.view.module.clone(),
            shape: layer.stored.shape.clone(),
            size: layer.weights.len(),
            zeros_before: layer.zeros_before,
            pruned_before: layer.pruned_before,
            zeros_after: mask.pruned(),
            channels: None,
            companions: Vec::new(),
        };
        let mask = match &layer.scores {
            Scores::Channels { units, nonzeros, .. } => {
                let of_kept = mask.iter().zip(nonzeros).filter(|(keep, _)| *keep).map(|(_, &n)| n);
                summary.zeros_after = summary.size - of_kept.sum::<usize>();
                summary.channels = Some(Channels { size: units.count(), pruned: mask.pruned() });
                let axis = match options.method.pattern {
                    Pattern::Channel(axis) => axis,
                    Pattern::Unstructured => ChannelAxis::Out,
                };
                if axis.is_out(&layer.view) && !options.weights_only && !more && mask.pruned() > 0 {
                    for companion in layer.view.bias.iter().chain(&layer.view.followers) {
                        if let Some(why) = obstacle(model, companion, &mask) {
                            pruning.notes.push(why);
                            continue;
                        }
                        summary.companions.push(model.tensor(companion.tensor).path.clone());
                        let so_far = companions.remove(&companion.tensor);
                        let both = so_far.map_or(Ok(mask.clone()), |m| m.and(&mask))?;
                        companions.insert(companion.tensor, both);
                    }
                }
                let expanded = units.expand(&mask);
                match layer.base {
                    Some(base) => expanded.and(base)?,
                    None => expanded,
                }
            }
            _ => mask,
        };
        pruning.masks.push((layer.view.tensor, Arc::new(mask)));
        pruning.layers.push(summary);
    }
    if !exceeded.is_empty() {
        pruning.notes.push(format!(
            "more zeros than asked for are there already, and nothing is revived: {}",
            exceeded.join(", ")
        ));
    }
    pruning.companions = companions.into_iter().map(|(id, mask)| (id, Arc::new(mask))).collect();
    Ok(pruning)
}

/// Why a companion's channels cannot go along with the weight's.
fn obstacle(model: &Model, companion: &Companion, channels: &Mask) -> Option<String> {
    let stored = model.tensor(companion.tensor);
    let why = if !companion.exclusive {
        "is used in other places too"
    } else if !stored.dtype.is_prunable() || stored.len() != channels.len() {
        "does not hold one number a channel"
    } else {
        return None;
    };
    Some(format!("`{}` of node `{}` {why}: it stays as it is", stored.path, companion.node))
}
