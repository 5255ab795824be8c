//! How the changes of the graph are spliced into the file, message by message.

use prost::Message;

use super::declared::undeclared;
use super::{Added, GraphEdit};
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
    /// Puts new nodes in front of the node at `path`.
    pub(in crate::io::onnx) fn before(&mut self, path: &[(u32, u32)], field: &Field, cut: &mut Cut) {
        if let &[GRAPH, (NODE, index)] = path
            && let Some(edit) = self.nodes.get_mut(&index)
            && !edit.before.is_empty()
        {
            cut.insert(field, std::mem::take(&mut edit.before));
        }
    }

    /// Replaces or removes the message at `path`, in which tensors may lie; false where it stays.
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
        match *path {
            [GRAPH, (NODE, index)] if self.nodes.get(&index).is_some_and(|edit| edit.removed) => {}
            [GRAPH, step] if self.dropped.contains(&step) => {}
            [GRAPH, (NODE, index), (5, _)] => {
                let Some(edit) = self.nodes.get_mut(&index) else { return Ok(false) };
                if edit.attrs.is_empty() {
                    return Ok(false);
                }
                let proto = AttributeProto::decode(&bytes[field.value.clone()]).unwrap_or_default();
                match edit.attrs.remove(proto.name.as_deref().unwrap_or_default()) {
                    None => return Ok(false),
                    Some(Some(message)) => {
                        cut.replace_value(field, vec![Piece::New(message)]);
                        return Ok(true);
                    }
                    Some(None) => {}
                }
            }
            _ => return Ok(false),
        }
        cut.remove(field);
        Ok(true)
    }

    /// Changes a field in which no tensor lies, of a message at `path`; false where it stays.
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
        match (kind, path) {
            (Kind::Graph, [GRAPH]) if declares && !self.declared.is_empty() => {
                let info = ValueInfoProto::decode(&bytes[field.value.clone()]).unwrap_or_default();
                let Some(declared) = self.declared.get(info.name.as_deref().unwrap_or_default()) else {
                    return Ok(false);
                };
                match declared {
                    Some(declared) => cut.replace_value(field, declared.info(bytes, field.value.clone())?),
                    None => cut.remove(field),
                }
                Ok(true)
            }
            (Kind::Graph, [GRAPH, (NODE, index), _, ..]) if declares && self.undeclares(*index) => {
                match field.number {
                    VALUE_INFO => cut.remove(field),
                    _ => cut.replace_value(field, undeclared(bytes, field.value.clone())?),
                }
                Ok(true)
            }
            (Kind::Node, &[GRAPH, (NODE, index)]) if field.number == 1 => {
                let input = self.inputs;
                self.inputs += 1;
                let Some(name) = self.nodes.get_mut(&index).and_then(|edit| edit.inputs.remove(&input))
                else {
                    return Ok(false);
                };
                cut.replace_value(field, vec![Piece::New(name.into_bytes())]);
                Ok(true)
            }
            (Kind::Function, _) if field.number == FUNCTION_VALUE_INFO && self.undeclares_functions => {
                cut.remove(field);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn undeclares(&self, index: u32) -> bool {
        self.nodes.get(&index).is_some_and(|edit| edit.undeclares)
    }

    /// Appends what a message still lacks.
    pub(in crate::io::onnx) fn end(
        &mut self,
        kind: Kind,
        path: &[(u32, u32)],
        data: Option<&mut DataFile>,
        cut: &mut Cut,
    ) {
        match (kind, path) {
            (Kind::Node, &[GRAPH, (NODE, index)]) => {
                let count = std::mem::take(&mut self.inputs);
                let Some(edit) = self.nodes.get_mut(&index) else { return };
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
            (Kind::Graph, [GRAPH]) => {
                let mut pieces = vec![Piece::New(std::mem::take(&mut self.last))];
                pieces.extend(self.initializers(data));
                if pieces.iter().any(|piece| piece.len() > 0) {
                    cut.end_with(pieces);
                }
            }
            (Kind::Model, []) if !self.imports.is_empty() => {
                let mut out = Vec::new();
                for (domain, version) in &self.imports {
                    put_bytes(&mut out, OPSET_IMPORT, &encode::opset_import(domain, (*version).into()));
                }
                cut.end(out);
            }
            _ => {}
        }
    }

    /// The new initializers, and where an older IR version wants it the inputs of the same names.
    fn initializers(&mut self, mut data: Option<&mut DataFile>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for Added { name, dtype, shape, index, message, external } in std::mem::take(&mut self.added) {
            if self.lists_initializers {
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
