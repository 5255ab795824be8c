//! How the changes of graphs are spliced into the file, message by message.

use prost::Message;

use super::declared::undeclared;
use super::graph::{EditedGraph, NodeEdit};
use super::{ATTRIBUTE, Added, GraphEdit};
use crate::Result;
use crate::graph::Dim;
use crate::io::onnx::data_file::DataFile;
use crate::io::onnx::encode::{self, INITIALIZER, INPUT, NODE, OUTPUT, VALUE_INFO};
use crate::io::onnx::proto::{AttributeProto, ValueInfoProto};
use crate::io::onnx::repack::{GRAPH, OPSET_IMPORT, Rest, initializer};
use crate::io::onnx::splice::{Cut, Kind, Piece};
use crate::io::onnx::wire::{Field, put_bytes};

/// `FunctionProto.value_info`.
const FUNCTION_VALUE_INFO: u32 = 12;

impl GraphEdit {
    /// Puts new nodes before the node at `path`.
    pub(in crate::io::onnx) fn before(&mut self, path: &[(u32, u32)], field: &Field, cut: &mut Cut) {
        if let Some(edit) = self.node(path)
            && !edit.before.is_empty()
        {
            cut.insert(field, std::mem::take(&mut edit.before));
        }
    }

    /// Replaces or removes the message at `path`, which may contain tensors; false where it stays.
    ///
    /// # Errors
    /// Where the message is damaged.
    pub(in crate::io::onnx) fn child(
        &mut self,
        path: &[(u32, u32)],
        bytes: &[u8],
        field: &Field,
        cut: &mut Cut,
    ) -> Result<bool> {
        if let Some(message) = self.numbers.get(path) {
            cut.replace_value(field, vec![Piece::New(message.clone())]);
            return Ok(true);
        }
        let Some((&(_, position), outer)) = path.split_last() else { return Ok(false) };
        let removed = self.node(path).is_some_and(|edit| edit.removed);
        let dropped = self.graphs.get(outer).is_some_and(|graph| graph.dropped.contains(&path[outer.len()]));
        if removed || dropped {
            cut.remove(field);
            return Ok(true);
        }
        let edit = self
            .node(outer)
            .filter(|edit| path[outer.len()] == (ATTRIBUTE, position) && !edit.attrs.is_empty());
        let Some(edit) = edit else { return Ok(false) };
        let proto = AttributeProto::decode(&bytes[field.value.clone()]).unwrap_or_default();
        match edit.attrs.remove(proto.name.as_deref().unwrap_or_default()) {
            None => return Ok(false),
            Some(Some(message)) => cut.replace_value(field, vec![Piece::New(message)]),
            Some(None) => cut.remove(field),
        }
        Ok(true)
    }

    /// Changes a field of the message at `path` that contains no tensors; false where it stays.
    ///
    /// # Errors
    /// Where the field is damaged.
    pub(in crate::io::onnx) fn leaf(
        &mut self,
        kind: Kind,
        path: &[(u32, u32)],
        bytes: &[u8],
        field: &Field,
        cut: &mut Cut,
    ) -> Result<bool> {
        let declares = matches!(field.number, INPUT | OUTPUT | VALUE_INFO);
        match kind {
            Kind::Graph if declares => {
                let info = ValueInfoProto::decode(&bytes[field.value.clone()]).unwrap_or_default();
                let name = info.name.as_deref().unwrap_or_default();
                let graph = self.graphs.get(path);
                if field.number == OUTPUT && graph.is_some_and(|graph| graph.internal.contains(name)) {
                    cut.remove(field);
                    return Ok(true);
                }
                match graph.and_then(|graph| graph.declared.get(name)) {
                    Some(Some(declared)) => {
                        cut.replace_value(field, declared.info(bytes, field.value.clone())?)
                    }
                    Some(None) => cut.remove(field),
                    None if !self.undeclares(path) => return Ok(false),
                    None if field.number == VALUE_INFO => cut.remove(field),
                    None => cut.replace_value(field, undeclared(bytes, field.value.clone())?),
                }
                Ok(true)
            }
            Kind::Node if field.number == 1 => {
                let Some((_, outer)) = path.split_last() else { return Ok(false) };
                let Some(graph) = self.graphs.get_mut(outer) else { return Ok(false) };
                let input = graph.inputs;
                graph.inputs += 1;
                let Some(name) = self.node(path).and_then(|edit| edit.inputs.remove(&input)) else {
                    return Ok(false);
                };
                cut.replace_value(field, vec![Piece::New(name.into_bytes())]);
                Ok(true)
            }
            Kind::Function if field.number == FUNCTION_VALUE_INFO && self.undeclares_functions => {
                cut.remove(field);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether the declared shapes of a nested graph are removed.
    fn undeclares(&self, path: &[(u32, u32)]) -> bool {
        matches!(path, [GRAPH, (NODE, index), _, ..] if self.undeclared.contains(index))
    }

    /// What becomes of the node at `path`.
    fn node(&mut self, path: &[(u32, u32)]) -> Option<&mut NodeEdit> {
        let (&(number, index), graph) = path.split_last()?;
        self.graphs.get_mut(graph).filter(|_| number == NODE)?.nodes.get_mut(&index)
    }

    /// Appends what a message still lacks.
    pub(in crate::io::onnx) fn end(
        &mut self,
        kind: Kind,
        path: &[(u32, u32)],
        data: Option<&mut DataFile>,
        cut: &mut Cut,
    ) {
        match kind {
            Kind::Node => {
                let Some((_, outer)) = path.split_last() else { return };
                let Some(graph) = self.graphs.get_mut(outer) else { return };
                let count = std::mem::take(&mut graph.inputs);
                let Some(edit) = self.node(path) else { return };
                let mut out = Vec::new();
                let last = edit
                    .inputs
                    .iter()
                    .rev()
                    .find(|(_, name)| !name.is_empty())
                    .map_or(0, |(last, _)| last + 1);
                for input in count..last {
                    put_bytes(&mut out, 1, edit.inputs.get(&input).map_or(&[][..], |name| name.as_bytes()));
                }
                for message in std::mem::take(&mut edit.attrs).into_values().flatten() {
                    put_bytes(&mut out, 5, &message);
                }
                if !out.is_empty() {
                    cut.end(out);
                }
            }
            Kind::Graph => {
                let lists = self.lists_initializers && path == [GRAPH];
                let Some(graph) = self.graphs.get_mut(path) else { return };
                let mut pieces = vec![Piece::New(std::mem::take(&mut graph.last))];
                pieces.extend(graph.initializers(data, lists));
                if pieces.iter().any(|piece| piece.len() > 0) {
                    cut.end_with(pieces);
                }
            }
            Kind::Model if !self.imports.is_empty() => {
                let mut out = Vec::new();
                for (domain, version) in &self.imports {
                    put_bytes(&mut out, OPSET_IMPORT, &encode::opset_import(domain, (*version).into()));
                }
                cut.end(out);
            }
            _ => {}
        }
    }
}

impl EditedGraph {
    /// The new initializers, with inputs of the same names where an older IR version `lists` them.
    fn initializers(&mut self, mut data: Option<&mut DataFile>, lists: bool) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for Added { name, dtype, shape, index, message, external } in std::mem::take(&mut self.added) {
            if lists {
                let dims: Vec<Dim> = shape.iter().map(|&extent| Dim::Known(extent)).collect();
                let mut input = Vec::new();
                put_bytes(&mut input, INPUT, &encode::value_info(&name, Some(dtype), Some(&dims)));
                pieces.push(Piece::New(input));
            }
            match message {
                Some(message) => {
                    let mut field = Vec::new();
                    put_bytes(&mut field, INITIALIZER, &message);
                    pieces.push(Piece::New(field));
                }
                None => {
                    let len = dtype.bytes_for(shape.iter().product()).unwrap_or(0) as u64;
                    let data = data.as_deref_mut().filter(|_| external);
                    let elements = Piece::Added(index, len);
                    pieces.extend(initializer(&name, dtype, &shape, elements, &Rest::default(), data));
                }
            }
        }
        pieces
    }
}
