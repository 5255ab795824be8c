//! Parameters that the exporter merged.
//!
//! PyTorch's older exporter stores parameters with equal elements once: one bias of zeros serves all layers with that
//! many outputs, and the other biases are an `Identity` of it under their own names. After training they differ.

use std::sync::Arc;

use super::names::Paths;
use super::values;
use crate::{Model, Node, NodeId, Patch, Result, TensorId, ValueId};

/// The ONNX model with each merged parameter a constant of its own again.
///
/// # Errors
/// Those of [`Patch::apply`].
pub(super) fn apart(onnx: &Model, checkpoint: &Model, paths: &Paths) -> Result<Model> {
    let graph = onnx.graph()?;
    let merged = |node: &Node| -> Option<(ValueId, TensorId)> {
        let (input, output) = ((*node.inputs.first()?)?, (*node.outputs.first()?)?);
        let constant = *graph.constants.get(&input)?;
        let named = paths.find(graph.value_name(output))?;
        let of_its_own = node.op_type == "Identity" && paths.find(&onnx.tensor(constant).path) != Some(named);
        let fits = values::fits(checkpoint.tensor(named), onnx.tensor(constant), None);
        (of_its_own && !fits.is_empty()).then_some((output, constant))
    };
    let mut patch = Patch::by("pairing");
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        let Some((output, constant)) = merged(node) else { continue };
        let (path, stored) = (graph.value_name(output).to_string(), onnx.tensor(constant).clone());
        if !onnx.tensors.contains_key(&path) {
            let (dtype, shape) = (stored.dtype, stored.shape.clone());
            patch.remove_node(NodeId(index as u32));
            patch.make_constant(output, path, dtype, shape, Arc::new(move || stored.load()));
        }
    }
    patch.apply(onnx)
}
