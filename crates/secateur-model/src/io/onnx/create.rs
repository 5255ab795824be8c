//! An ONNX file of a model that was not read from one: made in memory, or a checkpoint with a graph.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::data_file::DataFile;
use super::elements::Encoding;
use super::encode::{self, INITIALIZER, INPUT, NODE, OUTPUT, VALUE_INFO, name_in};
use super::repack::{OPSET_IMPORT, Rest, initializer};
use super::splice::{Piece, metadata_field};
use super::wire::{put_bytes, put_int, put_len};
use crate::graph::{Dim, Value};
use crate::infer::{Binding, Inference};
use crate::{DType, Error, Graph, Model, Result, ResultExt, ValueId};

/// Messages beyond this size are written with external data, as protobuf ends at 2 GiB.
const MOST: u64 = i32::MAX as u64 - (1 << 24);
/// Initializers from this size on are external data where any are.
const EXTERNAL: usize = 1 << 16;

/// A file that is laid out: the message, and external data where it would be too large.
pub(super) struct NewFile {
    pub(super) pieces: Vec<Piece>,
    pub(super) data: Option<DataFile>,
}

/// Lays out the file of a model's graph; `location` is the name of a file of external data, should it take one.
///
/// # Errors
/// `Unsupported` where the graph cannot be written as ONNX: with nodes of several versions of an operator set, values
/// without names or two of one name, or inputs without a type.
pub(super) fn layout(
    model: &Model,
    metadata: &[(String, String)],
    location: Option<&str>,
) -> Result<NewFile> {
    let graph = model.graph()?;
    let bytes = graph.constants.values().fold(0u64, |sum, &id| sum + model.tensor(id).byte_len() as u64);
    let mut data = None;
    if bytes > MOST {
        let Some(location) = location else {
            return Err(Error::unsupported(format!(
                "the weights take {bytes} bytes, more than one ONNX message may: write a file, which gets external data"
            )));
        };
        data = Some(DataFile::at(location));
    }
    let opsets = opsets(graph)?;
    let mut head = Vec::new();
    put_int(&mut head, 1, ir_version(opsets.get("").copied().unwrap_or(0)));
    put_bytes(&mut head, 2, b"secateur");
    put_bytes(&mut head, 3, env!("CARGO_PKG_VERSION").as_bytes());
    let content = graph_pieces(graph, model, data.as_mut())?;
    put_len(&mut head, 7, content.iter().map(Piece::len).sum());
    let mut tail = Vec::new();
    for (domain, version) in &opsets {
        put_bytes(&mut tail, OPSET_IMPORT, &encode::opset_import(domain, (*version).into()));
    }
    metadata.iter().for_each(|(key, value)| tail.extend(metadata_field(key, value)));
    let pieces = std::iter::once(Piece::New(head)).chain(content).chain([Piece::New(tail)]).collect();
    Ok(NewFile { pieces, data })
}

/// The operator sets that the nodes are of, nested ones included.
fn opsets(graph: &Graph) -> Result<BTreeMap<String, u32>> {
    fn collect(graph: &Graph, opsets: &mut BTreeMap<String, u32>) -> Result<()> {
        for node in &graph.nodes {
            let version = *opsets.entry(node.domain.clone()).or_insert(node.opset);
            if version != node.opset {
                let message = format!(
                    "is of version {} of its operator set, other nodes are of version {version}: an ONNX file has one",
                    node.opset
                );
                return Err(Error::unsupported(message).at_node(node));
            }
            node.graphs().try_for_each(|(_, nested)| collect(nested, opsets))?;
        }
        Ok(())
    }
    let mut opsets = BTreeMap::new();
    collect(graph, &mut opsets)?;
    if opsets.is_empty() {
        opsets.insert(String::new(), 17);
    }
    Ok(opsets)
}

/// The oldest IR version that goes with an operator set; from 4 on initializers are no inputs.
fn ir_version(opset: u32) -> i64 {
    match opset {
        0..=14 => 7,
        15..=18 => 8,
        19 | 20 => 9,
        21 | 22 => 10,
        _ => 11,
    }
}

fn graph_pieces(graph: &Graph, model: &Model, mut data: Option<&mut DataFile>) -> Result<Vec<Piece>> {
    check_names(graph)?;
    let inference = Inference::of(model, &Binding::default()).unwrap_or_default();
    let mut out = Vec::new();
    let name_of = |value: ValueId| name_in(graph, value);
    for node in &graph.nodes {
        put_bytes(&mut out, NODE, &encode::node(node, model, &[graph], &name_of).at_node(node)?);
    }
    put_bytes(&mut out, 2, if graph.name.is_empty() { b"graph" } else { graph.name.as_bytes() });
    let mut pieces = vec![Piece::New(out)];
    for (&value, &id) in &graph.constants {
        let (name, stored) = (name_of(value)?, model.tensor(id));
        if stored.dtype == DType::String {
            let mut field = Vec::new();
            put_bytes(
                &mut field,
                INITIALIZER,
                &encode::tensor(&name, &stored.load()?).at_tensor(&stored.path)?,
            );
            pieces.push(Piece::New(field));
            continue;
        }
        let elements = Piece::Tensor(id, Encoding::Raw, stored.byte_len() as u64);
        let data = data.as_deref_mut().filter(|_| stored.byte_len() >= EXTERNAL);
        pieces.extend(initializer(&name, stored.dtype, &stored.shape, elements, &Rest::default(), data));
    }
    let mut out = Vec::new();
    let mut declared: HashSet<ValueId> = graph.constants.keys().copied().collect();
    for (field, what, values) in [(INPUT, "input", &graph.inputs), (OUTPUT, "output", &graph.outputs)] {
        for &id in values {
            let Value { name, dtype, shape } = &graph.values[id.index()];
            let fact = inference.facts.get(id.index()).and_then(Option::as_ref);
            let Some(dtype) = dtype.or(fact.and_then(|fact| fact.dtype)) else {
                let message = format!("the type of the {what} `{name}` is not known: declare it");
                return Err(Error::unsupported(message));
            };
            // Of what follows from assumed extents the rank alone is known.
            let inferred = || Some(vec![Dim::Unknown; fact?.shape.as_ref()?.len()]);
            let shape = shape.clone().or_else(inferred);
            put_bytes(&mut out, field, &encode::value_info(name, Some(dtype), shape.as_deref()));
            declared.insert(id);
        }
    }
    for (id, value) in (0..).map(ValueId).zip(&graph.values) {
        if value.dtype.is_some() && value.shape.is_some() && !value.name.is_empty() && declared.insert(id) {
            let info = encode::value_info(&value.name, value.dtype, value.shape.as_deref());
            put_bytes(&mut out, VALUE_INFO, &info);
        }
    }
    pieces.push(Piece::New(out));
    Ok(pieces)
}

/// Checks that each value that is used has a name of its own.
fn check_names(graph: &Graph) -> Result<()> {
    let produced = graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten());
    let mut names = BTreeSet::new();
    for &value in graph.inputs.iter().chain(graph.constants.keys()).chain(produced) {
        if !names.insert(name_in(graph, value)?) {
            let name = graph.value_name(value);
            return Err(Error::unsupported(format!("two values of the graph are named `{name}`")));
        }
    }
    Ok(())
}
