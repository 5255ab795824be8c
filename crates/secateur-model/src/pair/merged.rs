//! Parameters that the exporter merged.
//!
//! PyTorch's older exporter stores parameters with equal elements once: a bias of zeros stands for all
//! of that length, and the others are an `Identity` of it, under their own names. Trained on, they
//! differ.

use super::names::Paths;
use super::values;
use crate::{Graph, Model, TensorId};

/// The ONNX model with each merged parameter a constant of its own again.
pub(super) fn apart(onnx: &Model, checkpoint: &Model, paths: &Paths) -> Model {
    let mut model = onnx.clone();
    let Some(mut graph) = model.graph.take() else { return model };
    let merged = |graph: &Graph, at: usize| {
        let node = &graph.nodes[at];
        let (Some(Some(input)), Some(Some(output))) = (node.inputs.first(), node.outputs.first()) else {
            return None;
        };
        let &constant = graph.constants.get(input)?;
        let named = paths.find(graph.value_name(*output))?;
        let of_its_own = node.op_type == "Identity" && paths.find(&onnx.tensor(constant).path) != Some(named);
        let fits = values::fits(checkpoint.tensor(named), onnx.tensor(constant), None);
        (of_its_own && !fits.is_empty()).then_some((*output, constant))
    };
    for at in (0..graph.nodes.len()).rev() {
        let Some((output, constant)) = merged(&graph, at) else { continue };
        let path = graph.value_name(output).to_string();
        if model.tensors.contains_key(&path) {
            continue;
        }
        let mut stored = onnx.tensor(constant).clone();
        stored.path.clone_from(&path);
        graph.constants.insert(output, TensorId(model.tensors.len() as u32));
        model.tensors.insert(path, stored);
        graph.nodes.remove(at);
    }
    model.graph = Some(graph);
    model
}
