//! Encodes nodes, attributes, types and nested graphs as ONNX messages.

use super::splice::tensor_field;
use super::wire::{put_bytes, put_fixed32, put_int};
use crate::graph::{Dim, Value};
use crate::model::encode;
use crate::{Attr, DType, Data, Error, Graph, Model, Node, Result, ResultExt, Tensor, ValueId};

/// `GraphProto.node`, `.initializer`, `.input`, `.output` and `.value_info`.
pub(super) const NODE: u32 = 1;
pub(super) const INITIALIZER: u32 = 5;
pub(super) const INPUT: u32 = 11;
pub(super) const OUTPUT: u32 = 12;
pub(super) const VALUE_INFO: u32 = 13;

/// What a value is called in the file.
pub(super) type NameOf<'a> = &'a dyn Fn(ValueId) -> Result<String>;

/// `NodeProto`. Constants of nested graphs are tensors of `model`; `outer` are the graphs around the node.
///
/// # Errors
/// Where a value has no name, or an attribute cannot be written.
pub(super) fn node(node: &Node, model: &Model, outer: &[&Graph], name_of: NameOf<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let name = |value: &Option<ValueId>| value.map_or(Ok(String::new()), name_of);
    let given = node.inputs.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    for input in &node.inputs[..given] {
        put_bytes(&mut out, 1, name(input)?.as_bytes());
    }
    for output in &node.outputs {
        put_bytes(&mut out, 2, name(output)?.as_bytes());
    }
    if !node.name.is_empty() {
        put_bytes(&mut out, 3, node.name.as_bytes());
    }
    put_bytes(&mut out, 4, node.op_type.as_bytes());
    for (name, attr) in &node.attrs {
        put_bytes(&mut out, 5, &attribute(name, attr, model, outer)?);
    }
    if !node.domain.is_empty() {
        put_bytes(&mut out, 7, node.domain.as_bytes());
    }
    Ok(out)
}

/// `AttributeProto`.
///
/// # Errors
/// `Unsupported` where the attribute is of a type that is not read.
pub(super) fn attribute(name: &str, attr: &Attr, model: &Model, outer: &[&Graph]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, name.as_bytes());
    let kind = match attr {
        Attr::Float(value) => {
            put_fixed32(&mut out, 2, value.to_le_bytes());
            1
        }
        Attr::Int(value) => {
            put_int(&mut out, 3, *value);
            2
        }
        Attr::String(value) => {
            put_bytes(&mut out, 4, value);
            3
        }
        Attr::Tensor(value) => {
            put_bytes(&mut out, 5, &tensor("", value)?);
            4
        }
        Attr::Graph(value) => {
            put_bytes(&mut out, 6, &graph(value, model, outer)?);
            5
        }
        Attr::Floats(values) => {
            values.iter().for_each(|value| put_fixed32(&mut out, 7, value.to_le_bytes()));
            6
        }
        Attr::Ints(values) => {
            values.iter().for_each(|&value| put_int(&mut out, 8, value));
            7
        }
        Attr::Strings(values) => {
            values.iter().for_each(|value| put_bytes(&mut out, 9, value));
            8
        }
        Attr::Tensors(values) => {
            for value in values {
                put_bytes(&mut out, 10, &tensor("", value)?);
            }
            9
        }
        Attr::Graphs(values) => {
            for value in values {
                put_bytes(&mut out, 11, &graph(value, model, outer)?);
            }
            10
        }
        Attr::Other(what) => {
            let message = format!("attribute `{name}` ({what}) cannot be written");
            return Err(Error::unsupported(message));
        }
    };
    put_int(&mut out, 20, kind);
    Ok(out)
}

/// The fields of `TensorProto` in front of the elements.
pub(super) fn tensor_head(name: &str, dtype: DType, shape: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    shape.iter().for_each(|&extent| put_int(&mut out, 1, extent as i64));
    put_int(&mut out, 2, dtype.to_onnx().into());
    if !name.is_empty() {
        put_bytes(&mut out, 8, name.as_bytes());
    }
    out
}

/// `TensorProto` with its elements, for small tensors.
///
/// # Errors
/// Where the elements cannot be encoded.
pub(super) fn tensor(name: &str, tensor: &Tensor) -> Result<Vec<u8>> {
    let mut out = tensor_head(name, tensor.dtype(), tensor.shape());
    match tensor.data() {
        Data::String(texts) => {
            texts.iter().for_each(|text| put_bytes(&mut out, super::elements::STRING_DATA, text.as_bytes()));
        }
        data => put_bytes(&mut out, tensor_field::RAW_DATA, &encode(data)?),
    }
    Ok(out)
}

/// `TypeProto` of a tensor.
pub(super) fn tensor_type(dtype: Option<DType>, shape: Option<&[Dim]>) -> Vec<u8> {
    let mut tensor = Vec::new();
    if let Some(dtype) = dtype {
        put_int(&mut tensor, 1, dtype.to_onnx().into());
    }
    if let Some(dims) = shape {
        put_bytes(&mut tensor, 2, &shape_message(dims));
    }
    let mut out = Vec::new();
    put_bytes(&mut out, 1, &tensor);
    out
}

/// `TensorShapeProto`.
pub(super) fn shape_message(dims: &[Dim]) -> Vec<u8> {
    let mut out = Vec::new();
    for dim in dims {
        let mut message = Vec::new();
        match dim {
            Dim::Known(extent) => put_int(&mut message, 1, *extent as i64),
            Dim::Symbol(name) => put_bytes(&mut message, 2, name.as_bytes()),
            Dim::Unknown => {}
        }
        put_bytes(&mut out, 1, &message);
    }
    out
}

/// `ValueInfoProto`.
pub(super) fn value_info(name: &str, dtype: Option<DType>, shape: Option<&[Dim]>) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, name.as_bytes());
    if dtype.is_some() {
        put_bytes(&mut out, 2, &tensor_type(dtype, shape));
    }
    out
}

/// `OperatorSetIdProto`.
pub(super) fn opset_import(domain: &str, version: i64) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, domain.as_bytes());
    put_int(&mut out, 2, version);
    out
}

/// `GraphProto` of a nested graph with its constants inside, but for those that it takes from the graphs around it.
fn graph(graph: &Graph, model: &Model, outer: &[&Graph]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let name_of = |value: ValueId| name_in(graph, value);
    let around: Vec<&Graph> = outer.iter().copied().chain([graph]).collect();
    for inner in &graph.nodes {
        put_bytes(&mut out, NODE, &node(inner, model, &around, &name_of).at_node(inner)?);
    }
    put_bytes(&mut out, 2, if graph.name.is_empty() { b"graph" } else { graph.name.as_bytes() });
    for (&value, &id) in &graph.constants {
        let name = name_of(value)?;
        let taken = outer.iter().any(|graph| {
            graph.constants.iter().any(|(&value, &known)| known == id && graph.value_name(value) == name)
        });
        if !taken {
            put_bytes(&mut out, INITIALIZER, &tensor(&name, &model.tensor(id).load()?)?);
        }
    }
    for (field, values) in [(INPUT, &graph.inputs), (OUTPUT, &graph.outputs)] {
        for &value in values {
            let Value { dtype, shape, .. } = &graph.values[value.index()];
            put_bytes(&mut out, field, &value_info(&name_of(value)?, *dtype, shape.as_deref()));
        }
    }
    Ok(out)
}

/// The name of a value of a graph.
///
/// # Errors
/// Where it has none.
pub(super) fn name_in(graph: &Graph, value: ValueId) -> Result<String> {
    match graph.values.get(value.index()) {
        Some(value) if !value.name.is_empty() => Ok(value.name.clone()),
        _ => Err(Error::unsupported(format!(
            "the value {} has no name by which a file could refer to it",
            value.0
        ))),
    }
}
