//! Ranking: how many of the weights ranked together are pruned, and which.

use rayon::prelude::*;
use secateur_model::{Error, Result, ResultExt};

use super::{Key, Keys, prune_lowest, prune_lowest_in_units};
use crate::prune::PruneOptions;
use crate::prune::allocation::{Place, Share, evenly};
use crate::prune::evidence::EvidenceSet;
use crate::prune::groups::{Groups, prune_lowest_in_groups};
use crate::prune::layer::{Layer, Pruned, Scored};
use crate::prune::patterns::Division;
use crate::prune::{Amount, Mask, NofM, Pattern, Scope};

/// The pruned layers.
pub(in crate::prune) struct Ranked {
    /// By layer.
    pub(in crate::prune) layers: Vec<Pruned>,
    /// By layer: whether there were more zeros than asked for.
    pub(in crate::prune) exceeded: Vec<bool>,
}

/// Layers that are ranked together. Layers of several sets are scored one after the other, so that the
/// scores of all of them are never held at once.
struct Set {
    layers: Vec<usize>,
    quota: Quota,
}

/// How many of the weights ranked together are pruned.
#[derive(Clone, Copy)]
enum Quota {
    /// As the options say.
    Asked(Amount),
    /// So many of a layer in the end; and whether more than asked for were pruned before, of all
    /// layers that share the amount.
    Exactly { pruned: usize, exceeded: bool },
}

/// Ranks and prunes.
///
/// # Errors
/// Where the amount or the evidence does not fit.
pub(in crate::prune) fn rank(
    layers: &[Layer<'_>],
    options: &PruneOptions,
    evidence: &EvidenceSet,
) -> Result<Ranked> {
    let sets = sets(layers, options, evidence)?;
    let found = sets
        .into_par_iter()
        .map(|set| {
            let scored = set.layers.par_iter().map(|&i| Scored::of(&layers[i], options, evidence));
            let scored = scored.collect::<Result<Vec<_>>>()?;
            let (masks, exceeded) = if scored.iter().any(Scored::needs_wide_keys) {
                masks::<u64>(&scored, set.quota, options)?
            } else {
                masks::<u32>(&scored, set.quota, options)?
            };
            let pruned = scored.into_par_iter().zip(masks).map(|(scored, mask)| scored.pruned_by(mask));
            Ok((set.layers, pruned.collect::<Result<Vec<_>>>()?, exceeded))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut found: Vec<(usize, Pruned, bool)> = found
        .into_iter()
        .flat_map(|(layers, pruned, more)| layers.into_iter().zip(pruned).map(move |(i, p)| (i, p, more)))
        .collect();
    found.sort_unstable_by_key(|(layer, ..)| *layer);
    let exceeded = found.iter().map(|f| f.2).collect();
    Ok(Ranked { layers: found.into_iter().map(|f| f.1).collect(), exceeded })
}

/// What is ranked together, and how many of it are pruned.
fn sets(layers: &[Layer<'_>], options: &PruneOptions, evidence: &EvidenceSet) -> Result<Vec<Set>> {
    let alone = |i: usize, quota: Quota| Set { layers: vec![i], quota };
    let (own, rest): (Vec<usize>, Vec<usize>) = (0..layers.len()).partition(|&i| layers[i].own.is_some());
    let mut sets: Vec<Set> =
        own.into_iter().filter_map(|i| layers[i].own.map(|own| alone(i, Quota::Asked(own)))).collect();
    if rest.is_empty() {
        return Ok(sets);
    }
    if let Some(quotas) = quotas(layers, &rest, options, evidence)? {
        sets.extend(rest.into_iter().zip(quotas).map(|(i, quota)| alone(i, quota)));
    } else if options.method.scope == Scope::Global {
        sets.push(Set { layers: rest, quota: Quota::Asked(options.amount) });
    } else {
        sets.extend(rest.into_iter().map(|i| alone(i, Quota::Asked(options.amount))));
    }
    Ok(sets)
}

/// How many are pruned in each layer, where the method finds that before ranking.
fn quotas(
    layers: &[Layer<'_>],
    members: &[usize],
    options: &PruneOptions,
    evidence: &EvidenceSet,
) -> Result<Option<Vec<Quota>>> {
    let method = options.method;
    let weights_of_all = (method.pattern, method.scope) == (Pattern::Unstructured, Scope::Global);
    if !weights_of_all && !method.allocation.divides() {
        return Ok(None);
    }
    let members: Vec<&Layer<'_>> = members.iter().map(|&i| &layers[i]).collect();
    let sizes: Vec<(usize, usize)> = members.par_iter().map(|layer| layer.sizes()).collect();
    let (size, already) = sizes.iter().fold((0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1));
    let target = options.amount.target(size, already, options.of_remaining)?;
    let exactly = |pruned| Quota::Exactly { pruned, exceeded: target.exceeded };
    if weights_of_all {
        let (about, parameter) = (method.criterion.about(), method.criterion.parameter());
        let seen: Vec<_> =
            members.iter().map(|layer| layer.evidence(about, parameter, options, evidence)).collect();
        let counts = method.criterion.counts(&seen, target.pruned - already);
        return Ok(counts.map(|counts| {
            counts.into_iter().zip(&sizes).map(|(n, (_, already))| exactly(n + already)).collect()
        }));
    }
    let shares: Vec<Share<'_>> = members
        .iter()
        .zip(&sizes)
        .map(|(layer, &(size, already))| {
            let (shape, place) = (layer.stored.shape.as_slice(), layer.place);
            Share { shape, size, already, place }
        })
        .collect();
    let counts = method.allocation.targets(&shares, target.pruned)?;
    Ok(Some(counts.into_iter().map(exactly).collect()))
}

/// The masks of what is ranked together, and whether there were more zeros than asked for.
fn masks<'a, K: Key>(scored: &[Scored<'a>], quota: Quota, options: &PruneOptions) -> Result<(Vec<Mask>, bool)>
where
    Scored<'a>: Keys<K>,
{
    if let [one] = scored {
        let path = &one.layer.stored.path;
        let found = match (&one.layer.division, options.method.pattern, options.method.scope) {
            (Division::Groups(groups), Pattern::Nm(nm), _) => {
                in_groups::<K>(one, groups, nm).map(|mask| (mask, false))
            }
            (_, _, Scope::Row) => in_rows::<K>(one, quota, options),
            _ => {
                together::<K>(scored, quota, options).map(|(mut masks, exceeded)| (masks.remove(0), exceeded))
            }
        };
        return found.map(|(mask, exceeded)| (vec![mask], exceeded)).at_tensor(path);
    }
    together::<K>(scored, quota, options)
}

fn together<'a, K: Key>(
    scored: &[Scored<'a>],
    quota: Quota,
    options: &PruneOptions,
) -> Result<(Vec<Mask>, bool)>
where
    Scored<'a>: Keys<K>,
{
    let (pruned, exceeded) = match quota {
        Quota::Exactly { pruned, exceeded } => (pruned, exceeded),
        Quota::Asked(amount) => {
            let sizes = scored.iter().map(Scored::sizes);
            let (size, already) = sizes.fold((0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1));
            let target = amount.target(size, already, options.of_remaining)?;
            (target.pruned, target.exceeded)
        }
    };
    let keys: Vec<&dyn Keys<K>> = scored.iter().map(|s| s as &dyn Keys<K>).collect();
    Ok((prune_lowest(&keys, pruned), exceeded))
}

/// Ranks each output row, or row of blocks, by itself.
fn in_rows<'a, K: Key>(scored: &Scored<'a>, quota: Quota, options: &PruneOptions) -> Result<(Mask, bool)>
where
    Scored<'a>: Keys<K>,
{
    let layer = scored.layer;
    let rows = options.method.pattern.rows(&layer.view, &layer.stored.shape)?;
    let already = scored.pruned_in_rows(&rows);
    let (pruned, exceeded) = match quota {
        Quota::Exactly { pruned, exceeded } => {
            let share = |already| Share { shape: &[], size: rows.size(), already, place: Place::Middle };
            let shares: Vec<Share<'_>> = already.into_iter().map(share).collect();
            (evenly(&shares, pruned), exceeded)
        }
        Quota::Asked(amount) => {
            let target = |already| amount.target(rows.size(), already, options.of_remaining);
            let targets = already.into_iter().map(target).collect::<Result<Vec<_>>>()?;
            (targets.iter().map(|t| t.pruned).collect(), targets.iter().any(|t| t.exceeded))
        }
    };
    Ok((prune_lowest_in_units::<K>(scored, &rows, &pruned), exceeded))
}

/// Keeps at most N of each group of M; all of them where the layer's own amount says so.
fn in_groups<'a, K: Key>(scored: &Scored<'a>, groups: &Groups, nm: NofM) -> Result<Mask>
where
    Scored<'a>: Keys<K>,
{
    let kept = match scored.layer.own {
        Some(Amount::Sparsity(0.0)) => nm.m(),
        Some(own) if !nm.fixes(own) => {
            return Err(Error::usage(format!(
                "{own} for one layer, but the pattern {nm} fixes the sparsity: 0 leaves the layer dense"
            )));
        }
        _ => nm.n(),
    };
    Ok(prune_lowest_in_groups::<K>(scored, groups, kept))
}
