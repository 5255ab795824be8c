//! Nodes that run nested graphs: `If`, `Loop` and `Scan`.

use secateur_model::{Error, Graph, Node, Result, ValueId};

/// Whether a node runs nested graphs.
pub(crate) fn is_control(node: &Node) -> bool {
    node.domain.is_empty() && matches!(node.op_type.as_str(), "If" | "Loop" | "Scan")
}

/// The names of the values of the enclosing graph that a node's nested graphs use, graph by graph.
/// They are handed over after the node's own inputs.
pub(crate) fn captures(node: &Node) -> Vec<String> {
    node.graphs().flat_map(|(_, g)| g.captures.iter().map(|&c| g.value_name(c).to_string())).collect()
}

/// The values of a graph that the nested graphs of one of its nodes use.
///
/// # Errors
/// `Internal` where the graph does not have one.
pub(crate) fn captured(node: &Node, graph: &Graph) -> Result<Vec<ValueId>> {
    let find = |name: String| {
        let at = graph.values.iter().position(|value| value.name == name).ok_or_else(|| {
            Error::internal(format!("the captured value `{name}` is not in the enclosing graph"))
        })?;
        Ok(ValueId(at as u32))
    };
    if is_control(node) { captures(node).into_iter().map(find).collect() } else { Ok(Vec::new()) }
}
