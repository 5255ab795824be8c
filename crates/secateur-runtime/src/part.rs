//! Values of a graph by name, and parts of graphs.

use std::collections::HashSet;

use secateur_model::infer::{Binding, Inference};
use secateur_model::text::quoted;
use secateur_model::{Error, Graph, Model, Result, ValueId};

use crate::input::InputInfo;
use crate::nested::captured;

/// The value of this name, or the first output of the node of this name.
///
/// # Errors
/// `Usage` where there is none, `Unsupported` where it is in a nested graph.
pub(crate) fn find(graph: &Graph, name: &str) -> Result<ValueId> {
    let computed = |id: &ValueId| {
        graph.inputs.contains(id)
            || graph.constants.contains_key(id)
            || graph.nodes.iter().any(|node| node.outputs.contains(&Some(*id)))
    };
    let of_name = (0..).map(ValueId).zip(&graph.values).filter(|(_, value)| value.name == name);
    let of_node = || graph.nodes.iter().filter(|node| node.label() == name);
    let first_outputs = || of_node().filter_map(|node| node.outputs.first().copied().flatten());
    let known = of_name.map(|(id, _)| id).find(computed).or_else(|| first_outputs().next());
    known.ok_or_else(|| match graph.nodes.iter().find(|node| node.graphs().any(|(_, g)| contains(g, name))) {
        Some(node) => Error::unsupported(format!(
            "`{name}` is inside node `{}` ({}): only values of the main graph can be taken out",
            node.label(),
            node.op_type
        )),
        None => Error::usage(format!("the model has no value or node `{name}`")),
    })
}

/// Whether a nested graph, or one inside it, has a value or node of this name.
fn contains(graph: &Graph, name: &str) -> bool {
    graph.values.iter().any(|value| value.name == name)
        || graph
            .nodes
            .iter()
            .any(|node| node.label() == name || node.graphs().any(|(_, nested)| contains(nested, name)))
}

/// The part of a graph that computes `outputs` from `inputs`: the same values, with those nodes that are needed.
///
/// # Errors
/// Those of [`find`]; `Usage` where inputs of the graph are needed that are not given.
pub(crate) fn extract(graph: &Graph, inputs: &[&str], outputs: &[&str]) -> Result<Graph> {
    let ids = |names: &[&str]| names.iter().map(|name| find(graph, name)).collect::<Result<Vec<_>>>();
    let (given, wanted) = (ids(inputs)?, ids(outputs)?);
    if wanted.is_empty() {
        return Err(Error::usage("no outputs are named, so that there is nothing to run"));
    }
    if let Some(at) = (1..given.len()).find(|&at| given[..at].contains(&given[at])) {
        return Err(Error::usage(format!("`{}` is named twice among the inputs", inputs[at])));
    }
    let mut needed: HashSet<ValueId> = wanted.iter().copied().collect();
    let mut nodes = Vec::new();
    // Nodes come after those whose results they use.
    for node in graph.nodes.iter().rev() {
        if node.outputs.iter().flatten().any(|id| needed.contains(id) && !given.contains(id)) {
            needed.extend(node.inputs.iter().flatten());
            needed.extend(captured(node, graph)?);
            nodes.push(node.clone());
        }
    }
    nodes.reverse();
    let missing = graph.inputs.iter().filter(|id| needed.contains(id) && !given.contains(id));
    let missing: Vec<&str> = missing.map(|&id| graph.value_name(id)).collect();
    if !missing.is_empty() {
        return Err(Error::usage(format!(
            "{} depend on {}, which the part is not given: name them as inputs, or values that lie between",
            quoted(outputs.iter().copied()),
            quoted(missing)
        )));
    }
    let mut part = Graph { inputs: given, outputs: wanted, nodes, ..graph.clone() };
    part.constants.retain(|id, _| !part.inputs.contains(id));
    Ok(part)
}

/// Fills in the types of a part's inputs that the file does not declare and that follow from the model.
///
/// # Errors
/// Those of inference.
pub(crate) fn infer(inputs: &mut [InputInfo], part: &Graph, model: &Model) -> Result<()> {
    if inputs.iter().all(|input| input.dtype.is_some()) {
        return Ok(());
    }
    let inference = Inference::of(model, &Binding::default())?;
    for (input, id) in inputs.iter_mut().zip(&part.inputs) {
        if let Some(fact) = inference.facts.get(id.index()).and_then(Option::as_ref) {
            input.dtype = input.dtype.or(fact.dtype);
        }
    }
    Ok(())
}
