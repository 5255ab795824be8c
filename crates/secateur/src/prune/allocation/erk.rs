//! Erdős–Rényi-Kernel: the larger a layer, the sparser.

use secateur_model::Result;

use super::{Allocation, AllocationInfo, Share, proportional};

pub(super) const INFO: AllocationInfo = AllocationInfo {
    name: "erk",
    summary: "Erdős–Rényi-Kernel: densities that fall with the size of the layer; layers whose density \
              would be above 1 stay dense and the others are solved again",
    formula: "d = ε·Σextents ÷ Πextents, ε such that the sparsity of all is met",
    source: "Evci et al. 2020 (RigL), arXiv:1911.11134",
    allocation: Allocation::Erk,
    kept: Some(kept),
};

#[allow(clippy::unnecessary_wraps)] // the table's form
fn kept(layers: &[Share<'_>], kept: f64) -> Result<Vec<f64>> {
    let weight = |l: &Share<'_>| {
        let extents = || l.shape.iter().map(|&d| d as f64);
        extents().sum::<f64>() / extents().product::<f64>() * l.size as f64
    };
    let weights: Vec<f64> = layers.iter().map(weight).collect();
    Ok(proportional(layers, &weights, kept))
}
