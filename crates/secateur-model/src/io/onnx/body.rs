//! Checks of function bodies. A call expands a body, but one that nothing calls is part of the file too, and
//! of what other runtimes load.

use std::collections::HashSet;

use bytes::Bytes;

use super::build::MAX_DEPTH;
use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, SparseTensorProto, decode, one};
use super::read::{Opsets, normal_domain};
use super::tensor::tensor_name;
use crate::{Error, Result, ResultExt};

/// Checks that a function's body is whole: each message reads, each node names an operator of an operator set
/// that is imported, and each name that is used comes from before.
///
/// # Errors
/// `Input` where it is not; `Unsupported` where graphs nest too deep.
pub(super) fn check(function: &FunctionProto, opsets: &Opsets) -> Result<()> {
    let mut names: Names = vec![HashSet::new()];
    for input in &function.input {
        define(&mut names, input)?;
    }
    for (j, message) in function.attribute_proto.iter().enumerate() {
        attribute(message, opsets, &mut names).at(|| format!("attribute {j}"))?;
    }
    nodes(&function.node, opsets, &mut names)?;
    match function.output.iter().find(|output| !known(&names, output)) {
        Some(output) => Err(Error::input(format!("the output `{output}` is produced by no node"))),
        None => Ok(()),
    }
}

/// The names of each graph around, the innermost last.
type Names = Vec<HashSet<String>>;

fn known(names: &Names, name: &str) -> bool {
    name.is_empty() || names.iter().any(|scope| scope.contains(name))
}

fn define(names: &mut Names, name: &str) -> Result<()> {
    let scope = names.last_mut().ok_or_else(|| Error::internal("there is no scope"))?;
    match name.is_empty() || scope.insert(name.to_string()) {
        true => Ok(()),
        false => Err(Error::input(format!("`{name}` is produced twice"))),
    }
}

fn nodes(messages: &[Bytes], opsets: &Opsets, names: &mut Names) -> Result<()> {
    for (i, message) in messages.iter().enumerate() {
        let proto: NodeProto = decode(message).at(|| format!("node {i}"))?;
        let op_type = proto.op_type.clone().unwrap_or_default();
        node(&proto, opsets, names).at(|| format!("node {i} ({op_type})"))?;
    }
    Ok(())
}

fn node(proto: &NodeProto, opsets: &Opsets, names: &mut Names) -> Result<()> {
    if proto.op_type.as_deref().unwrap_or_default().is_empty() {
        return Err(Error::input("the node names no operator"));
    }
    let domain = normal_domain(proto.domain.as_deref().unwrap_or_default());
    // Files before IR version 8 have functions that take the model's operator sets.
    if !opsets.is_empty() && domain.is_empty() && !opsets.contains_key(domain) {
        return Err(Error::input("the function imports no operator set for the default domain"));
    }
    if let Some(name) = proto.input.iter().find(|name| !known(names, name)) {
        return Err(Error::input(format!("input `{name}` is produced by no earlier node, and no input")));
    }
    for (j, message) in proto.attribute.iter().enumerate() {
        attribute(message, opsets, names).at(|| format!("attribute {j}"))?;
    }
    proto.output.iter().try_for_each(|name| define(names, name))
}

fn attribute(message: &Bytes, opsets: &Opsets, names: &mut Names) -> Result<()> {
    let proto: AttributeProto = decode(message)?;
    if proto.name.as_deref().unwrap_or_default().is_empty() {
        return Err(Error::input("has no name"));
    }
    for tensor in one(&proto.t, "t")?.into_iter().chain(&proto.tensors) {
        tensor_name(tensor)?;
    }
    for graph in one(&proto.g, "g")?.into_iter().chain(&proto.graphs) {
        if names.len() > MAX_DEPTH {
            return Err(Error::unsupported(format!("graphs nest more than {MAX_DEPTH} deep")));
        }
        let graph: GraphProto = decode(graph)?;
        names.push(HashSet::new());
        for initializer in &graph.initializer {
            define(names, &tensor_name(initializer)?)?;
        }
        for sparse in &graph.sparse_initializer {
            let sparse: SparseTensorProto = decode(sparse)?;
            if let Some(values) = one(&sparse.values, "values")? {
                define(names, &tensor_name(values)?)?;
            }
        }
        for input in &graph.input {
            let name = input.name.as_deref().unwrap_or_default();
            // An initializer may be the default of an input of the same name.
            if !names.last().is_some_and(|scope| scope.contains(name)) {
                define(names, name)?;
            }
        }
        nodes(&graph.node, opsets, names)?;
        let output = graph.output.iter().filter_map(|output| output.name.as_deref());
        if let Some(name) = output.into_iter().find(|name| !known(names, name)) {
            return Err(Error::input(format!("the graph's output `{name}` is produced by no node")));
        }
        names.pop();
    }
    Ok(())
}
