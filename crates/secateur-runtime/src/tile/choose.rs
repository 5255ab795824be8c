//! Which items run on tiles.

use std::collections::HashMap;

use petgraph::algo::dinics;
use petgraph::graph::{Graph, NodeIndex};
use petgraph::visit::EdgeRef;
use secateur_model::ValueId;

use super::TileCandidate;
use crate::item::Item;

/// More than any sum of costs.
const NEVER: u64 = 1 << 60;

/// Chooses for each item between tiles and tensors, so that the items' costs and those of converting values
/// between the two are the least in sum. A value is converted once for all who need it.
///
/// The choice is a minimum cut: items on the side of the source run on tiles. `convert` is what converting a
/// value costs, `outputs` are needed as tensors.
pub(super) fn choose(
    items: &[Item],
    candidates: &[Option<TileCandidate>],
    convert: impl Fn(ValueId) -> f64,
    outputs: &[ValueId],
) -> Vec<bool> {
    let whole = |nanoseconds: f64| nanoseconds.round() as u64;
    let mut network = Graph::<(), u64>::new();
    let (tiles, tensors) = (network.add_node(()), network.add_node(()));
    let places: Vec<NodeIndex> = candidates
        .iter()
        .map(|candidate| if candidate.is_some() { network.add_node(()) } else { tensors })
        .collect();
    for (candidate, &place) in candidates.iter().zip(&places) {
        match candidate.as_ref().map_or(0.0, |candidate| candidate.estimate.saving()) {
            saving if saving > 0.0 => network.add_edge(tiles, place, whole(saving)),
            saving => network.add_edge(place, tensors, whole(-saving)),
        };
    }
    let mut makers: HashMap<ValueId, NodeIndex> = HashMap::new();
    for (item, &place) in items.iter().zip(&places) {
        makers.extend(item.node.outputs.iter().flatten().map(|&value| (value, place)));
    }
    // For each value: the node that is on the tensors' side if anyone needs it as a tensor, and the one that is on
    // the tiles' side if anyone needs it as tiles.
    let mut wanted: HashMap<ValueId, [NodeIndex; 2]> = HashMap::new();
    let mut want = |network: &mut Graph<(), u64>, value: ValueId| {
        *wanted.entry(value).or_insert_with(|| {
            let maker = makers.get(&value).copied().unwrap_or(tensors);
            let [as_tensor, as_tiles] = [network.add_node(()), network.add_node(())];
            network.add_edge(maker, as_tensor, whole(convert(value)));
            network.add_edge(as_tiles, maker, whole(convert(value)));
            [as_tensor, as_tiles]
        })
    };
    for ((item, candidate), &place) in items.iter().zip(candidates).zip(&places) {
        let operands = candidate.as_ref().map_or(&[][..], |candidate| &candidate.operands);
        for &value in item.node.inputs.iter().flatten() {
            let [as_tensor, as_tiles] = want(&mut network, value);
            if operands.contains(&value) {
                network.add_edge(as_tensor, place, NEVER);
                network.add_edge(place, as_tiles, NEVER);
            } else {
                network.add_edge(as_tensor, tensors, NEVER);
            }
        }
    }
    for &value in outputs {
        let [as_tensor, _] = want(&mut network, value);
        network.add_edge(as_tensor, tensors, NEVER);
    }
    let (_, flow) = dinics(&network, tiles, tensors);
    let reached = reached(&network, &flow, tiles);
    candidates
        .iter()
        .zip(&places)
        .map(|(candidate, place)| candidate.is_some() && reached[place.index()])
        .collect()
}

/// The source's side of the minimum cut that a maximum flow leaves.
fn reached(network: &Graph<(), u64>, flow: &[u64], source: NodeIndex) -> Vec<bool> {
    let mut reached = vec![false; network.node_count()];
    let mut open = vec![source];
    while let Some(node) = open.pop() {
        if std::mem::replace(&mut reached[node.index()], true) {
            continue;
        }
        let onward = network.edges(node).filter(|e| flow[e.id().index()] < *e.weight()).map(|e| e.target());
        let back = network.edges_directed(node, petgraph::Direction::Incoming);
        open.extend(onward.chain(back.filter(|e| flow[e.id().index()] > 0).map(|e| e.source())));
    }
    reached
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use secateur_kernels::Activation;
    use secateur_model::{Node, Result};

    use super::*;
    use crate::kernels::Kernel;
    use crate::tile::{Estimate, Lower, Tiles};
    use crate::weights::Weights;

    struct Nothing;

    impl Lower for Nothing {
        fn lower(&self, _: &[Tiles], _: Activation, _: &Weights) -> Result<(Arc<dyn Kernel>, Tiles)> {
            unreachable!("choices alone are tested")
        }
    }

    fn item(inputs: &[u32], output: u32) -> Item {
        let node = Node {
            inputs: inputs.iter().map(|&i| Some(ValueId(i))).collect(),
            outputs: vec![Some(ValueId(output))],
            ..Node::default()
        };
        Item { node, ..Item::default() }
    }

    /// What a choice costs, by its definition.
    fn cost(
        items: &[Item],
        candidates: &[Option<TileCandidate>],
        conversions: &[f64],
        outputs: &[ValueId],
        on: &[bool],
    ) -> f64 {
        let mut cost = 0.0;
        for (candidate, &on) in candidates.iter().zip(on) {
            let saving = candidate.as_ref().map_or(0.0, |w| w.estimate.saving());
            cost += if on { (-saving).max(0.0) } else { saving.max(0.0) };
        }
        for (value, conversion) in conversions.iter().enumerate() {
            let value = ValueId(value as u32);
            let made =
                items.iter().position(|i| i.node.outputs.contains(&Some(value))).is_some_and(|i| on[i]);
            let uses = |tiles: bool| {
                items.iter().zip(candidates).zip(on).any(|((item, candidate), &on)| {
                    let tiled = on && candidate.as_ref().is_some_and(|w| w.operands.contains(&value));
                    item.node.inputs.contains(&Some(value)) && tiled == tiles
                })
            };
            cost += if made && (uses(false) || outputs.contains(&value)) { *conversion } else { 0.0 };
            cost += if !made && uses(true) { *conversion } else { 0.0 };
        }
        cost
    }

    /// Every choice of a few random graphs is compared with the cut's.
    #[test]
    fn no_choice_costs_less() {
        let mut state = 7u64;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for _ in 0..60 {
            let count = 2 + below(6) as usize;
            let mut items = Vec::new();
            let mut candidates = Vec::new();
            for i in 0..count as u32 {
                let mut inputs: Vec<u32> = (0..1 + below(2)).map(|_| below(i as u64 + 1) as u32).collect();
                inputs.dedup();
                let tiled = inputs.iter().filter(|_| below(4) > 0).map(|&i| ValueId(i)).collect();
                let saving = below(200) as f64 - 90.0;
                candidates.push((below(5) > 0).then(|| TileCandidate {
                    operands: tiled,
                    estimate: Estimate { tensors: saving, tiles: 0.0 },
                    lower: Box::new(Nothing),
                }));
                items.push(item(&inputs, i + 1));
            }
            let conversions: Vec<f64> = (0..=count).map(|_| below(60) as f64).collect();
            let outputs = [ValueId(count as u32)];
            let chosen = choose(&items, &candidates, |v| conversions[v.index()], &outputs);
            let found = cost(&items, &candidates, &conversions, &outputs, &chosen);
            let best = (0..1u32 << count)
                .map(|bits| (0..count).map(|i| bits >> i & 1 == 1).collect::<Vec<_>>())
                .filter(|on| on.iter().zip(&candidates).all(|(on, candidate)| !on || candidate.is_some()))
                .map(|on| cost(&items, &candidates, &conversions, &outputs, &on))
                .fold(f64::INFINITY, f64::min);
            assert_eq!(found, best, "{items:?} {chosen:?}");
        }
    }
}
