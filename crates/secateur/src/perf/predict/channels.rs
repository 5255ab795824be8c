//! How much of each node is left where channels are removed.
//!
//! A dimension is one set of channels, wherever it occurs ([`GraphAxes`]). Several layers may write it, as on both
//! sides of a shortcut: it loses the smallest share of channels that any of these layers loses. A
//! dimension loses nothing where something else writes it, such as a table that is looked up, where a layer that is not
//! selected does, or where it is fixed.

use std::collections::{HashMap, HashSet};

use secateur_model::axes::{Axis, GraphAxes, View};
use secateur_model::infer::{Binding, Inference};
use secateur_model::ops::AxisRole;
use secateur_model::prunable::{self, PrunableView};
use secateur_model::{Model, Node, Result, TensorId, ValueId};

use crate::prune::Pruning;

/// For each node, by its label: multiply-adds that are left ÷ those of the unpruned model; for a node without
/// multiply-adds elements in their place.
///
/// # Errors
/// Where the model has no graph or shapes contradict.
pub(super) fn shares(model: &Model, pruning: &Pruning, binding: &Binding) -> Result<HashMap<String, f64>> {
    let graph = model.graph()?;
    let inference = Inference::of(model, binding)?;
    let axes = GraphAxes::of(model, &inference)?;
    let values: HashMap<TensorId, ValueId> =
        graph.constants.iter().map(|(&value, &id)| (id, value)).collect();
    let entries = prunable::view(model)?;
    let views: HashMap<&str, &PrunableView> =
        entries.iter().filter_map(|entry| Some((entry.view()?.node.as_str(), entry.view()?))).collect();
    let pruned: HashMap<&str, f64> = pruning
        .layers
        .iter()
        .filter_map(|layer| Some((layer.node.as_str(), layer.channels?)))
        .map(|(node, channels)| (node, 1.0 - channels.pruned as f64 / channels.size.max(1) as f64))
        .collect();
    let weight = |view: &PrunableView| values.get(&view.tensor).and_then(|&value| axes.value(value));
    let mut kept = Kept { axes: &axes, dims: HashMap::new() };
    for node in &graph.nodes {
        match views.get(node.label()) {
            Some(view) => {
                let share = pruned.get(node.label()).copied().unwrap_or(1.0);
                let outputs = view.roles.iter().zip(weight(view).unwrap_or_default());
                let outputs = outputs.filter(|(role, _)| matches!(role, AxisRole::Out | AxisRole::GateOut));
                outputs.for_each(|(_, &axis)| kept.keep_of_each(axis, share));
            }
            None => {
                let read = dims(&axes, computed_inputs(node, model));
                let written = dims(&axes, node.outputs.iter().flatten().copied());
                written.difference(&read).for_each(|&dim| kept.keep(dim, 1.0));
            }
        }
    }
    let left = |node: &Node| match views.get(node.label()).and_then(|view| weight(view)) {
        Some(weight) => kept.share(weight),
        None => {
            let output = node.outputs.iter().flatten().next().and_then(|&value| axes.value(value));
            let written = dims(&axes, node.outputs.iter().flatten().copied());
            let input = computed_inputs(node, model).next().and_then(|value| axes.value(value));
            let summed: Vec<Axis> = input
                .unwrap_or_default()
                .iter()
                .copied()
                .filter(|&axis| axes.space().dims(axis).iter().all(|dim| !written.contains(dim)))
                .collect();
            kept.share(output.unwrap_or_default()) * kept.share(&summed)
        }
    };
    Ok(graph.nodes.iter().map(|node| (node.label().to_string(), left(node))).collect())
}

/// The inputs of a node that are not constant.
fn computed_inputs<'a>(node: &'a Node, model: &'a Model) -> impl Iterator<Item = ValueId> + 'a {
    let constants = model.graph.as_ref().map(|graph| &graph.constants);
    let constant = move |value: &ValueId| constants.is_some_and(|all| all.contains_key(value));
    node.inputs.iter().flatten().copied().filter(move |value| !constant(value))
}

/// The dimensions of values.
fn dims(axes: &GraphAxes, values: impl Iterator<Item = ValueId>) -> HashSet<Axis> {
    let of_values = values.filter_map(|value| axes.value(value)).flatten();
    of_values.flat_map(|&axis| axes.space().dims(axis)).collect()
}

/// Whether each channel of a convolution has an input channel of its own.
pub(super) fn is_depthwise(model: &Model, view: &PrunableView) -> bool {
    let inputs = view.roles.iter().zip(&model.tensor(view.tensor).shape);
    view.groups > 1 && inputs.filter(|(role, _)| **role == AxisRole::In).all(|(_, &extent)| extent == 1)
}

/// The share of each dimension that is left.
struct Kept<'a> {
    axes: &'a GraphAxes,
    dims: HashMap<Axis, f64>,
}

impl Kept<'_> {
    /// Notes that something which writes a dimension keeps a share of it.
    fn keep(&mut self, dim: Axis, share: f64) {
        let kept = self.dims.entry(dim).or_insert(share);
        *kept = kept.max(share);
    }

    /// Notes that a layer keeps a share of an axis: of each segment, and there within each group or head.
    fn keep_of_each(&mut self, axis: Axis, share: f64) {
        let mut left = vec![axis];
        while let Some(axis) = left.pop() {
            match self.axes.space().view(axis) {
                View::Dim => self.keep(self.axes.space().find(axis), share),
                View::Product(factors) => left.extend(factors.last()),
                View::Concat(segments) => left.extend(segments),
            }
        }
    }

    /// The share of elements that is left of a value with these axes.
    fn share(&self, axes: &[Axis]) -> f64 {
        axes.iter().map(|&axis| self.of_axis(axis)).product()
    }

    fn of_axis(&self, axis: Axis) -> f64 {
        let space = self.axes.space();
        match space.view(axis) {
            View::Dim if space.fixed(axis).is_some() => 1.0,
            View::Dim => self.dims.get(&space.find(axis)).copied().unwrap_or(1.0),
            View::Product(factors) => self.share(factors),
            View::Concat(segments) => {
                let left: f64 = segments.iter().map(|&s| self.of_axis(s) * space.extent(s) as f64).sum();
                left / space.extent(axis).max(1) as f64
            }
        }
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
    fn channels_that_two_layers_write_stay_where_one_of_them_keeps_them() {
        // Around the third layer and the depthwise convolution behind it is a shortcut from the first layer: all three
        // write the same channels.
        let folder = tempfile::tempdir().unwrap();
        let files = crate::demo::unpack(folder.path()).unwrap();
        let model = secateur_model::io::read(files.model).unwrap();
        let nodes = &model.graph().unwrap().nodes;
        let depthwise = nodes.iter().find(|node| node.int_or("group", 1).unwrap() > 1).unwrap();
        let mut options = PruneOptions::new("l1/channel".parse().unwrap(), Amount::Sparsity(0.5));
        options.selector.exclude = vec![depthwise.label().to_string()];
        let shares = shares(&model, &plan(&model, &options).unwrap(), &Binding::default()).unwrap();
        let layers = nodes.iter().filter(|node| matches!(node.op_type.as_str(), "Conv" | "Gemm" | "MatMul"));
        let layers: Vec<f64> = layers.map(|node| shares[node.label()]).collect();
        assert_eq!(layers, [1.0, 0.5, 0.5, 1.0, 0.5, 0.25, 0.5]);
    }
}
