//! What is left of each node where channels are taken out.
//!
//! Channels hang together: a channel that a layer no longer gives out is one that every node behind it no longer
//! reads, and where two values are added both lose the same. Here whole values hang together, each by the axis of its
//! channels: the inputs and outputs of every node without weights, and of depthwise convolutions. Values that hang
//! together lose the share of channels that the layer among them loses that loses the fewest. None are lost by the
//! model's inputs and outputs, by what is looked up in tables, and by layers that are not selected.

use std::collections::HashMap;

use secateur_model::infer::{Binding, Inference};
use secateur_model::ops::AxisRole;
use secateur_model::prunable::{self, PrunableView};
use secateur_model::{Graph, Model, Node, Result, ValueId};

use crate::prune::Pruning;

/// For each node, by its label: multiply-adds that are left ÷ those as it is, or for a node without weights values.
///
/// # Errors
/// Where the model has no graph or shapes contradict.
pub(super) fn shares(model: &Model, pruning: &Pruning, binding: &Binding) -> Result<HashMap<String, f64>> {
    let graph = model.graph()?;
    let facts = Inference::of(model, binding)?.facts;
    let computed = |value: &ValueId| {
        let float = facts[value.index()].as_ref().and_then(|fact| fact.dtype).is_none_or(|d| d.is_prunable());
        float && !graph.constants.contains_key(value)
    };
    let views: HashMap<String, PrunableView> = prunable::view(model)?
        .iter()
        .filter_map(|entry| Some((entry.view()?.node.clone(), entry.view()?.clone())))
        .collect();
    let kept: HashMap<&str, f64> = pruning
        .layers
        .iter()
        .filter_map(|layer| Some((layer.node.as_str(), layer.channels?)))
        .map(|(node, channels)| (node, 1.0 - channels.pruned as f64 / channels.size.max(1) as f64))
        .collect();
    let mut groups = Groups::new(graph.values.len());
    graph.inputs.iter().chain(&graph.outputs).for_each(|&value| groups.keep(value, 1.0));
    for node in &graph.nodes {
        let inputs: Vec<ValueId> = node.inputs.iter().flatten().copied().filter(computed).collect();
        let outputs: Vec<ValueId> = node.outputs.iter().flatten().copied().filter(computed).collect();
        let view = views.get(node.label());
        if let (Some(view), Some(&first)) = (view, outputs.first()) {
            groups.keep(first, kept.get(node.label()).copied().unwrap_or(1.0));
            if is_depthwise(model, view) {
                inputs.iter().for_each(|&input| groups.join(input, first));
            }
        } else if looks_up(node, graph) || node.graphs().next().is_some() {
            inputs.iter().chain(&outputs).for_each(|&value| groups.keep(value, 1.0));
        } else if let Some(&first) = outputs.first() {
            inputs.iter().chain(&outputs).for_each(|&value| groups.join(value, first));
        }
    }
    let mut shares = HashMap::new();
    for node in &graph.nodes {
        let share = |groups: &mut Groups, value: Option<ValueId>| value.map_or(1.0, |v| groups.share(v));
        let output = node.outputs.iter().flatten().copied().next();
        let mut left = share(&mut groups, output);
        if views.get(node.label()).is_some_and(|view| !is_depthwise(model, view)) {
            let input = node.inputs.iter().flatten().copied().find(computed);
            left *= share(&mut groups, input);
        }
        shares.insert(node.label().to_string(), left);
    }
    Ok(shares)
}

/// Whether each channel of a convolution has an input channel of its own.
pub(super) fn is_depthwise(model: &Model, view: &PrunableView) -> bool {
    let inputs = view.roles.iter().zip(&model.tensor(view.tensor).shape);
    view.groups > 1 && inputs.filter(|(role, _)| **role == AxisRole::In).all(|(_, &extent)| extent == 1)
}

/// Whether a node picks rows of a table.
fn looks_up(node: &Node, graph: &Graph) -> bool {
    node.op_type == "Gather"
        && node.inputs.first().copied().flatten().is_some_and(|v| graph.constants.contains_key(&v))
}

/// Values that lose their channels together.
struct Groups {
    parents: Vec<usize>,
    /// Of each group the largest share that a member keeps; `None` where no layer gives out its channels.
    kept: Vec<Option<f64>>,
}

impl Groups {
    fn new(values: usize) -> Groups {
        Groups { parents: (0..values).collect(), kept: vec![None; values] }
    }

    fn root(&mut self, value: ValueId) -> usize {
        let mut at = value.index();
        while self.parents[at] != at {
            self.parents[at] = self.parents[self.parents[at]];
            at = self.parents[at];
        }
        at
    }

    fn keep(&mut self, value: ValueId, share: f64) {
        let root = self.root(value);
        self.kept[root] = Some(self.kept[root].map_or(share, |kept| kept.max(share)));
    }

    fn join(&mut self, a: ValueId, b: ValueId) {
        let (a, b) = (self.root(a), self.root(b));
        if a != b {
            self.parents[a] = b;
            self.kept[b] = match (self.kept[a], self.kept[b]) {
                (Some(x), Some(y)) => Some(x.max(y)),
                (x, y) => x.or(y),
            };
        }
    }

    fn share(&mut self, value: ValueId) -> f64 {
        let root = self.root(value);
        self.kept[root].unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Amount;
    use crate::prune::{PruneOptions, plan};

    #[test]
    fn channels_go_from_layer_to_layer_and_the_last_gives_out_all() {
        let folder = tempfile::tempdir().unwrap();
        let files = crate::demo::unpack(folder.path()).unwrap();
        let model = secateur_model::io::read(files.model).unwrap();
        let options = PruneOptions::new("l1/channel".parse().unwrap(), Amount::Sparsity(0.5));
        let shares = shares(&model, &plan(&model, &options).unwrap(), &Binding::default()).unwrap();
        let nodes = &model.graph().unwrap().nodes;
        let layers: Vec<f64> = nodes
            .iter()
            .filter(|node| matches!(node.op_type.as_str(), "Conv" | "Gemm" | "MatMul"))
            .map(|node| shares[node.label()])
            .collect();
        // The image's channels stay, and so do the classes; in between both sides lose half, but for a depthwise
        // convolution, the channels of which are the same on both.
        assert_eq!(layers, [0.5, 0.25, 0.25, 0.5, 0.25, 0.25, 0.5]);
    }

    #[test]
    fn what_hangs_together_loses_what_its_most_careful_member_loses() {
        let mut groups = Groups::new(4);
        let value = |at| ValueId(at);
        groups.keep(value(0), 0.2);
        groups.keep(value(1), 0.6);
        assert_eq!(groups.share(value(0)), 0.2);
        groups.join(value(0), value(1));
        groups.join(value(2), value(0));
        assert_eq!(groups.share(value(2)), 0.6);
        groups.keep(value(2), 1.0);
        assert_eq!(groups.share(value(0)), 1.0);
        // Nothing gives out the channels of this one.
        assert_eq!(groups.share(value(3)), 1.0);
    }
}
