//! Runs a method's solvers on the layers that were ranked.

use std::collections::BTreeMap;
use std::sync::Arc;

use half::{bf16, f16};
use rayon::prelude::*;
use secateur_model::tensor::strides;
use secateur_model::{DType, Data, Error, Result, ResultExt, Tensor, TensorId};

use super::PruneOptions;
use super::evidence::EvidenceSet;
use super::groups::Groups;
use super::layer::{Layer, Pruned};
use super::masks::Mask;
use super::patterns::Division;
use super::solvers::Solution;
use crate::measure::nonzeros;

/// The new weights of the layers that are pruned; the masks become those of the solvers.
///
/// # Errors
/// Where the evidence, or the result of a solver, is missing or does not fit.
pub(super) fn solve(
    layers: &[Layer<'_>],
    pruned: &mut [Pruned],
    options: &PruneOptions,
    evidence: &EvidenceSet,
) -> Result<BTreeMap<TensorId, Tensor>> {
    if options.method.solvers.is_empty() {
        return Ok(BTreeMap::new());
    }
    let solved = layers.par_iter().zip(pruned).map(|(layer, pruned)| {
        let tensor = solve_layer(layer, pruned, options, evidence).at_tensor(&layer.stored.path)?;
        Ok(tensor.map(|tensor| (layer.view.tensor, tensor)))
    });
    Ok(solved.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn solve_layer(
    layer: &Layer<'_>,
    pruned: &mut Pruned,
    options: &PruneOptions,
    evidence: &EvidenceSet,
) -> Result<Option<Tensor>> {
    if pruned.mask.pruned() == 0 {
        return Ok(None);
    }
    let mut weights = vec![0.0; layer.weights.len()];
    layer.weights.read_pruned(&mut weights);
    // Zeros in channels or blocks that stay are pruned too: nothing is revived.
    let mask = Mask::from_fn(weights.len(), |i| pruned.mask.keeps(i) && weights[i] != 0.0);
    let mut found = Solution { mask, weights };
    for solver in options.method.solvers.iter() {
        let place = || format!("solver `{solver}`");
        let seen = layer.evidence(solver.about(), solver.parameter(), options, evidence);
        let before = found.mask.clone();
        found = solver.solve(&seen, found).at(place)?;
        check(layer, pruned, &before, &found).at(place)?;
    }
    let tensor = tensor(layer, &found)?;
    pruned.zeros = tensor.len() - nonzeros(tensor.data()) as usize;
    pruned.mask = Arc::new(found.mask);
    Ok(Some(tensor))
}

/// Checks that a solver returns a valid mask and valid weights.
fn check(layer: &Layer<'_>, pruned: &Pruned, before: &Mask, found: &Solution) -> Result<()> {
    let len = layer.weights.len();
    let wrong = if found.mask.len() != len || found.weights.len() != len {
        format!("gives {} weights and a mask of {} for {len} weights", found.weights.len(), found.mask.len())
    } else if found.mask.pruned() != before.pruned() {
        format!("prunes {} weights instead of {}", found.mask.pruned(), before.pruned())
    } else if pruned.units.is_some() && found.mask != *before {
        "changes which channels or blocks are pruned".to_string()
    } else if let Division::Groups(groups) = &layer.division
        && per_group(groups, &found.mask) != per_group(groups, before)
    {
        "changes how many weights of a group are kept".to_string()
    } else if layer.base.is_some_and(|base| base.and(&found.mask).ok().as_ref() != Some(&found.mask)) {
        "keeps weights that were pruned before".to_string()
    } else {
        return Ok(());
    };
    Err(Error::internal(wrong))
}

/// How many weights of each group are kept.
fn per_group(groups: &Groups, mask: &Mask) -> Vec<usize> {
    let &Groups { extent, inner, m, .. } = groups;
    let mut kept = vec![0; groups.outer * extent.div_ceil(m) * inner];
    for (at, _) in mask.iter().enumerate().filter(|(_, keep)| *keep) {
        let (outer, along, inside) = (at / inner / extent, at / inner % extent, at % inner);
        kept[(outer * extent.div_ceil(m) + along / m) * inner + inside] += 1;
    }
    kept
}

/// The weights in the layer's own type, pruned ones zero.
fn tensor(layer: &Layer<'_>, found: &Solution) -> Result<Tensor> {
    let kept = || found.weights.iter().zip(found.mask.iter()).map(|(&w, keep)| if keep { w } else { 0.0 });
    let data = match layer.stored.dtype {
        DType::F32 => Data::F32(kept().map(|w| w as f32).collect()),
        DType::F64 => Data::F64(kept().collect()),
        DType::F16 => Data::F16(kept().map(f16::from_f64).collect()),
        DType::BF16 => Data::BF16(kept().map(bf16::from_f64).collect()),
        other => return Err(Error::internal(format!("solved weights of type {other}"))),
    };
    let finite = |w: f64| match layer.stored.dtype {
        DType::F32 => (w as f32).is_finite(),
        DType::F16 => f16::from_f64(w).is_finite(),
        DType::BF16 => bf16::from_f64(w).is_finite(),
        _ => w.is_finite(),
    };
    let mut before = vec![0.0; layer.weights.len()];
    layer.weights.read(0, &mut before);
    if let Some(at) = kept().zip(before).position(|(w, before)| !finite(w) && before.is_finite()) {
        let (dtype, shape) = (layer.stored.dtype, &layer.stored.shape);
        let at: Vec<usize> = strides(shape).iter().zip(shape).map(|(s, extent)| at / s % extent).collect();
        return Err(Error::input(format!(
            "the solved weight at {at:?} is not finite in {dtype}: leave the layer or the solver out"
        )));
    }
    Tensor::from_data(layer.stored.shape.clone(), data)
}
