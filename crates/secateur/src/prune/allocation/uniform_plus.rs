//! Uniform, with two exceptions.

use secateur_model::{Error, Result};

use super::{Allocation, AllocationInfo, Place, Share, proportional};

pub(super) const INFO: AllocationInfo = AllocationInfo {
    name: "uniform+",
    summary: "the first convolution stays dense, of the last layer at least 20 % stay, all others \
              have the same sparsity",
    formula: "d = 1 for the first convolution; d ≥ 0.2 for the last layer; else d = ε, ε such that the \
              sparsity of all is met",
    source: "Gale et al. 2019, arXiv:1902.09574; as Lee et al. 2021 (LAMP) compute it",
    allocation: Allocation::UniformPlus,
    kept: Some(kept),
};

/// The share of the last layer that stays.
const LAST: f64 = 0.2;

fn kept(layers: &[Share<'_>], kept: f64) -> Result<Vec<f64>> {
    let least = |l: &Share<'_>| match l.place {
        Place::FirstConvolution => l.left(),
        Place::Last => (LAST * l.size as f64).round_ties_even().min(l.left()),
        Place::Middle => 0.0,
    };
    let held: f64 = layers.iter().map(least).sum();
    if held > kept {
        return Err(Error::usage(format!(
            "uniform+ leaves the first convolution and 20 % of the last layer, which are {held}, but only \
             {kept} are to stay in all: ask for less or use another allocation"
        )));
    }
    let among = |free: &dyn Fn(&Share<'_>) -> bool| {
        let weights: Vec<f64> = layers.iter().map(|l| if free(l) { l.size as f64 } else { 0.0 }).collect();
        let rest = kept - layers.iter().filter(|l| !free(l)).map(least).sum::<f64>();
        let found = proportional(layers, &weights, rest);
        layers.iter().zip(found).map(|(l, x)| if free(l) { x } else { least(l) }).collect::<Vec<f64>>()
    };
    let found = among(&|l| l.place != Place::FirstConvolution);
    if layers.iter().zip(&found).all(|(l, &kept)| kept >= least(l)) {
        return Ok(found);
    }
    Ok(among(&|l| l.place == Place::Middle))
}
