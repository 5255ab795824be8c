//! Multiply–accumulates of layers, and how many of them remain where weights are zero.

use std::collections::{BTreeMap, HashMap};

use secateur_model::infer::Inference;
use secateur_model::prunable::Entry;
use secateur_model::{Graph, TensorId};

use super::Count;

/// Multiply–accumulates for one sample of the nodes that use each prunable tensor; `None` where they are open.
pub fn layer_macs(
    graph: &Graph,
    entries: &[Entry],
    inference: &Inference,
) -> BTreeMap<TensorId, Option<u64>> {
    let mut costs: HashMap<&str, Option<u64>> = HashMap::new();
    for (node, macs) in graph.nodes.iter().zip(&inference.macs) {
        costs.entry(node.label()).or_insert(*macs);
    }
    let cost = |label: &str| costs.get(label).copied().flatten();
    let views = entries.iter().filter_map(Entry::view);
    views
        .map(|view| {
            let shared = view.shared.iter().filter_map(|(label, _)| cost(label));
            (view.tensor, cost(&view.node).map(|own| shared.fold(own, u64::saturating_add)))
        })
        .collect()
}

/// What remains of `all` multiply–accumulates if zero weights cost nothing.
pub fn remaining_macs(all: u64, layers: impl IntoIterator<Item = (u64, Count)>) -> u64 {
    let saved: f64 = layers.into_iter().map(|(macs, count)| macs as f64 * count.sparsity()).sum();
    all.saturating_sub(saved.round() as u64)
}
