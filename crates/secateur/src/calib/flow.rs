//! Synaptic flow: R = 1ᵀ Π|W| 1 and |w·∂R/∂w| of each weight.
//!
//! The network is made linear: weights and factors of batch-norms count by their magnitudes, addends and means are 0, and
//! functions that let positive numbers pass do nothing. R grows by a factor with every layer and leaves the range of f32 in
//! deep networks. Wherever all that flows passes through one value, that value is therefore multiplied by a power of two.
//! Since the network is linear, this multiplies R, and the scores of all weights, by one and the same number: none of them
//! is rounded, and their ranks stay.

use std::collections::BTreeSet;
use std::sync::Arc;

use secateur_model::graph::Dim;
use secateur_model::prunable::PrunableView;
use secateur_model::{
    DType, Error, Graph, Model, Node, NodeId, Patch, Result, ResultExt, Tensor, TensorId, ValueId,
};
use secateur_runtime::{Session, Tape, TapeOptions};

use crate::data::logits;
use crate::prune::Subject;

/// Functions that are the identity on positive numbers, or for ReLU6 and the like up to a bound.
const PASSING: &[&str] = &["Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Selu", "Celu", "Gelu", "Dropout"];

/// The scores of the weights of some layers of a model in f32.
///
/// # Errors
/// `Unsupported` where an input is not f32 or has dynamic axes besides the first, where a layer is in a nested graph, or
/// where the flow leaves the range of f32 between two places at which it can be scaled.
pub(super) fn flow(model: &Arc<Model>, views: &[&PrunableView]) -> Result<Vec<(TensorId, Vec<f64>)>> {
    let linear = Arc::new(linear(model)?);
    let graph = linear.graph()?;
    let inputs = ones(graph)?;
    let id = |view: &&PrunableView| {
        let path = &model.tensor(view.tensor).path;
        let found = linear.tensor_id(path).filter(|id| graph.constants.values().any(|own| own == id));
        found.ok_or_else(|| {
            let message =
                "is in a nested graph, which flow does not reach: leave it out with option `exclude`";
            Error::unsupported(message).at_tensor(path)
        })
    };
    let variables = views.iter().map(id).collect::<Result<Vec<_>>>()?;
    let output = logits(graph, None)?;
    let scaled = scaled(&linear, &inputs)?;
    let scaled_id = |id: &TensorId| {
        let path = &linear.tensor(*id).path;
        scaled.tensor_id(path).ok_or_else(|| Error::internal(format!("no tensor `{path}`")))
    };
    let variables = variables.iter().map(scaled_id).collect::<Result<Vec<_>>>()?;
    let options = TapeOptions { variables, output: Some(output), freeze_norms: true, seed: 0 };
    let mut tape = Tape::new(&scaled, &Patch::new(), &options)?;
    let found = tape.forward(inputs.into_iter().map(|(_, tensor)| tensor).collect(), 0)?;
    let gradient = Tensor::new(found.shape(), vec![1f32; found.len()])?;
    drop(found);
    tape.backward(gradient)?;
    let mut scores = Vec::with_capacity(views.len());
    for (place, view) in views.iter().enumerate() {
        let values = tape.values(place)?;
        let found: Vec<f64> = match tape.gradient(place)? {
            Some(gradient) => {
                values.iter().zip(gradient).map(|(&w, &g)| (f64::from(w) * f64::from(g)).abs()).collect()
            }
            None => vec![0.0; values.len()],
        };
        if found.iter().any(|score| !score.is_finite()) {
            return Err(out_of_range()).at_tensor(&model.tensor(view.tensor).path);
        }
        scores.push((view.tensor, found));
    }
    Ok(scores)
}

fn out_of_range() -> Error {
    Error::unsupported(
        "synaptic flow leaves the range of f32 within layers that cannot be scaled: choose another criterion",
    )
}

/// The linear network.
fn linear(model: &Model) -> Result<Model> {
    let subject = Subject::of(model);
    let graph = model.graph()?;
    let mut patch = Patch::by("synaptic flow");
    let mut change = |id: TensorId, of: fn(f32) -> f32| -> Result<()> {
        let stored = model.tensor(id);
        if stored.dtype == DType::F32 {
            let values = stored.load()?.to_f32s()?.into_iter().map(of).collect();
            patch.set(id, Tensor::new(stored.shape.clone(), values)?);
        }
        Ok(())
    };
    for view in subject.entries()?.iter().filter_map(|entry| entry.view()) {
        change(view.tensor, f32::abs)?;
        view.bias.iter().try_for_each(|bias| change(bias.tensor, |_| 0.0))?;
    }
    for node in
        graph.nodes.iter().filter(|node| node.domain.is_empty() && node.op_type == "BatchNormalization")
    {
        let constant =
            |input: usize| graph.constants.get(&node.inputs.get(input).copied().flatten()?).copied();
        constant(1).map_or(Ok(()), |id| change(id, f32::abs))?;
        [2, 3].into_iter().filter_map(constant).try_for_each(|id| change(id, |_| 0.0))?;
    }
    for (at, node) in (0..).zip(&graph.nodes) {
        if PASSING.contains(&node.op_type.as_str()) && node.outputs.iter().flatten().count() == 1 {
            patch.replace_node(NodeId(at), [super::identity(node)]);
        }
    }
    patch.apply(model)
}

/// The inputs, of ones: one sample, or as many as the model takes.
fn ones(graph: &Graph) -> Result<Vec<(String, Tensor)>> {
    let input = |id: &ValueId| {
        let value = &graph.values[id.index()];
        let dims = value.shape.as_deref().filter(|_| value.dtype == Some(DType::F32)).unwrap_or_default();
        let extent = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Known(extent) => Some(*extent),
            _ => (axis == 0).then_some(1),
        };
        let shape: Option<Vec<usize>> = dims.iter().enumerate().map(extent).collect();
        let shape = shape.filter(|shape| !shape.is_empty()).ok_or_else(|| {
            Error::unsupported(format!(
                "synaptic flow needs the shape of a sample: input `{}` is not of f32, or has dynamic axes besides the first",
                value.name
            ))
        })?;
        let len = shape.iter().product();
        Ok((value.name.clone(), Tensor::new(shape, vec![1f32; len])?))
    };
    graph.inputs.iter().map(input).collect()
}

/// The values that all that flows passes through, with their nodes, in order.
fn cuts(graph: &Graph) -> Vec<(NodeId, ValueId)> {
    let mut last = vec![0; graph.values.len()];
    let mut carries = vec![false; graph.values.len()];
    graph.inputs.iter().for_each(|id| carries[id.index()] = true);
    for (at, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().flatten().for_each(|id| last[id.index()] = at);
        let flows = node.inputs.iter().flatten().any(|id| carries[id.index()]);
        if flows && !matches!(node.op_type.as_str(), "Shape" | "Size") {
            node.outputs.iter().flatten().for_each(|id| carries[id.index()] = true);
        }
    }
    graph.outputs.iter().for_each(|id| last[id.index()] = usize::MAX);
    let mut live: BTreeSet<ValueId> = graph.inputs.iter().copied().collect();
    let mut found = Vec::new();
    for (at, node) in graph.nodes.iter().enumerate() {
        live.extend(node.outputs.iter().flatten().filter(|id| carries[id.index()]));
        live.retain(|id| last[id.index()] > at);
        if let (1, Some(&value)) = (live.len(), live.first())
            && node.outputs.contains(&Some(value))
            && !graph.outputs.contains(&value)
        {
            found.push((NodeId(at as u32), value));
        }
    }
    found
}

/// The network with values scaled such that the largest of each cut is about 1.
fn scaled(model: &Arc<Model>, inputs: &[(String, Tensor)]) -> Result<Arc<Model>> {
    let graph = model.graph()?;
    let cuts = cuts(graph);
    let names: Vec<&str> = cuts.iter().map(|(_, value)| graph.value_name(*value)).collect();
    let mut exponents = vec![0i32; cuts.len()];
    let mut done = 0;
    loop {
        let current = Arc::new(with_scales(model, &cuts, &exponents)?);
        if done == cuts.len() {
            return Ok(current);
        }
        let session = Session::new(current.clone(), Patch::new())?;
        let mut largest = vec![0f32; cuts.len()];
        session.observe(inputs.to_vec(), &names, &mut |seen| {
            let most = seen
                .tensor
                .values::<f32>()?
                .iter()
                .fold(0f32, |most, &v| if v.is_nan() { f32::NAN } else { most.max(v) });
            if let Some(at) = names.iter().position(|name| *name == seen.name) {
                largest[at] = if most.is_nan() { most } else { largest[at].max(most) };
            }
            Ok(())
        })?;
        let before = done;
        // What the new scales in front of a cut change about it, as an exponent.
        let mut moved = 0;
        for (at, largest) in largest.iter().enumerate() {
            if !(largest.is_normal() && *largest > 0.0) {
                break;
            }
            let wanted = -(largest.log2().round() as i32) - moved;
            moved += wanted - exponents[at];
            exponents[at] = wanted;
            done = at + 1;
        }
        if done == before {
            return Err(out_of_range());
        }
    }
}

/// Multiplies values by powers of two.
fn with_scales(model: &Model, cuts: &[(NodeId, ValueId)], exponents: &[i32]) -> Result<Model> {
    let mut patch = Patch::by("synaptic flow");
    for ((node, value), exponent) in cuts.iter().zip(exponents).filter(|(_, exponent)| **exponent != 0) {
        let name = model.graph()?.value_name(*value).to_string();
        let factor = 2f32.powi((*exponent).clamp(-126, 126));
        let factor = patch.add_constant(model, &format!("{name}.scale"), Tensor::scalar(factor))?;
        let after = patch.add_value(model, &format!("{name}.scaled"))?;
        patch.redirect(model, *value, after)?;
        let opset = model.graph()?.opset("").unwrap_or(13);
        patch.insert_after(
            *node,
            Node {
                op_type: "Mul".into(),
                opset,
                inputs: vec![Some(*value), Some(factor)],
                outputs: vec![Some(after)],
                fallback_label: format!("{name}.scaled"),
                ..Node::default()
            },
        );
    }
    if patch.changes_graph() { patch.apply(model) } else { Ok(model.clone()) }
}
