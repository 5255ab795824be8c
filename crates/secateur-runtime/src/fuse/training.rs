//! What follows a batch-norm in training is computed in its pass: an addition and an activation.

use secateur_kernels::Activation;

use super::FusionGraph;
use crate::kernels::derives_from_output;

pub(super) fn fuse(graph: &mut FusionGraph<'_>, start: usize) {
    let Some(item) = &graph.items[start] else { return };
    let node = &item.node;
    // A fused item stands at its last node's place, and is met there once more.
    if !node.domain.is_empty() || node.op_type != "BatchNormalization" || !item.epilogue.is_empty() {
        return;
    }
    let Some(mut value) = node.outputs.first().copied().flatten() else { return };
    // Running statistics that are outputs of the node are updated in their own way.
    let others = node.outputs.iter().skip(1).flatten();
    if others.into_iter().any(|id| graph.outputs.contains(id) || !graph.consumers[id.index()].is_empty()) {
        return;
    }
    let mut epilogue = item.epilogue.clone();
    let (mut added, mut chain) = (None, vec![start]);
    while epilogue.act == Activation::None {
        let Some((index, node)) = graph.only_consumer(value) else { break };
        let Some(out) = node.outputs.first().copied().flatten() else { break };
        if !node.domain.is_empty() {
            break;
        }
        match (node.op_type.as_str(), node.inputs.as_slice()) {
            // What is added has to be there when the last node of the chain runs, and it takes its place.
            ("Add", &[Some(a), Some(b)]) if added.is_none() && a != b => {
                let other = if a == value { b } else { a };
                if graph.shape(other).is_none() || graph.shape(other) != graph.shape(value) {
                    break;
                }
                added = Some(other);
                epilogue.add = Some(5);
            }
            _ => match graph.activation(node) {
                Some(act) if derives_from_output(act) => epilogue.act = act,
                _ => break,
            },
        }
        chain.push(index);
        value = out;
    }
    let last = chain.last().copied().unwrap_or(start);
    for &index in chain.iter().skip(1) {
        graph.remove(index);
    }
    let Some(mut item) = graph.remove(start) else { return };
    item.epilogue = epilogue;
    item.node.inputs.truncate(5);
    item.node.inputs.extend(added.map(Some));
    item.node.outputs = vec![Some(value)];
    graph.place(last, item);
}
