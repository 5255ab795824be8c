//! What changes of the graph in an ONNX file: nodes, attributes, initializers, declared types and shapes.
//!
//! A node that is edited keeps the fields and attributes that do not change, byte for byte. What the file cannot
//! express, such as an edit inside the call of a function, is refused with the node's name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use prost::Message;

use super::OnnxSource;
use super::data_file::DataFile;
use super::encode::{self, INITIALIZER, INPUT, NODE, OUTPUT, VALUE_INFO};
use super::proto::{AttributeProto, ValueInfoProto};
use super::repack::{GRAPH, OPSET_IMPORT, Rest, initializer};
use super::splice::{Cut, Kind, Piece};
use super::wire::{Field, Wire, fields, put_bytes, put_int};
use crate::graph::{Dim, Value};
use crate::model::{Applied, Patch};
use crate::{Attr, DType, Error, Graph, Model, Node, NodeId, Result, ResultExt, TensorId, ValueId};

/// The most bytes that a protobuf message may take, with room for what is not counted.
const MOST: usize = i32::MAX as usize - (1 << 20);
/// `FunctionProto.value_info`.
const FUNCTION_VALUE_INFO: u32 = 12;

/// What becomes of a node of the file.
#[derive(Default)]
struct NodeEdit {
    /// New nodes that come in front of it, as fields of the graph.
    before: Vec<u8>,
    removed: bool,
    /// The names of inputs that change.
    inputs: BTreeMap<usize, String>,
    /// Attributes as messages by name; `None` where they go.
    attrs: BTreeMap<String, Option<Vec<u8>>>,
    /// The message that stands in the place of an attribute of numbers, by its position.
    numbers: Option<(u32, Vec<u8>)>,
    /// Whether nested graphs' declared shapes go.
    undeclares: bool,
}

/// What a value is declared as.
struct Declared {
    was: Option<Vec<Dim>>,
    dtype: Option<DType>,
    shape: Option<Vec<Dim>>,
}

/// See the module.
pub(super) struct GraphEdit {
    nodes: BTreeMap<u32, NodeEdit>,
    /// New nodes behind all others.
    last: Vec<u8>,
    /// Initializers, sparse ones and `Constant` nodes that go: field numbers and positions.
    dropped: BTreeSet<(u32, u32)>,
    /// Values that are declared otherwise, or (`None`) no more, by name.
    declared: HashMap<String, Option<Declared>>,
    added: Vec<Added>,
    /// Whether initializers are inputs too, as older IR versions have it.
    lists_initializers: bool,
    /// Operator sets to import.
    imports: Vec<(String, u32)>,
    /// Whether the types that functions declare of their values go.
    undeclares_functions: bool,
    /// Tensors of another type or shape that lie in external data.
    external: BTreeSet<TensorId>,
    /// Whether external data are laid out anew.
    pub(super) relays_data: bool,
    /// Whether tensors that change are written as external data.
    pub(super) writes_external: bool,
    /// How many inputs of the node that is walked were met.
    inputs: usize,
}

/// A new initializer.
struct Added {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    /// The position among the patch's added tensors.
    index: usize,
    /// The whole message, for text.
    message: Option<Vec<u8>>,
    external: bool,
}

impl GraphEdit {
    /// What changes; `None` where only elements do.
    ///
    /// # Errors
    /// Those of [`Patch::apply`]; `Unsupported` where the file cannot hold a change.
    pub(super) fn new(source: &OnnxSource, model: &Model, patch: &Patch) -> Result<Option<Self>> {
        let numbers: Vec<TensorId> = patch
            .ids()
            .filter(|id| !patch.removes(*id) && source.number_attributes.contains_key(id))
            .collect();
        let Some(before) = &model.graph else { return Ok(None) };
        if !patch.is_structural(model) && !patch.alters_shapes(model) && numbers.is_empty() {
            return Ok(None);
        }
        let applied = patch.applied(model)?;
        let graph = applied.model.graph()?;
        let mut edit = GraphEdit {
            nodes: BTreeMap::new(),
            last: Vec::new(),
            dropped: BTreeSet::new(),
            declared: HashMap::new(),
            added: Vec::new(),
            lists_initializers: source.lists_initializers(),
            imports: Vec::new(),
            undeclares_functions: false,
            external: BTreeSet::new(),
            relays_data: false,
            writes_external: false,
            inputs: 0,
        };
        edit.tensors(source, model, patch, graph, &applied)?;
        for id in numbers {
            let (node, attribute) = source.number_attributes[&id];
            let tensor = Attr::Tensor(patch.load(model, id)?);
            let message = encode::attribute("value", &tensor, model, &[])?;
            edit.node(node).numbers = Some((attribute, message));
        }
        edit.graph_nodes(source, patch, before, graph, &applied)?;
        edit.move_constants(source, model, patch, before, graph, &applied)?;
        edit.declare(source, before, graph);
        Ok(Some(edit))
    }

    fn node(&mut self, index: u32) -> &mut NodeEdit {
        self.nodes.entry(index).or_default()
    }

    /// Whether a tensor of another type or shape is written as external data.
    pub(super) fn is_external(&self, id: TensorId) -> bool {
        self.external.contains(&id)
    }

    /// Tensors that go, are added, or get another type or shape.
    fn tensors(
        &mut self,
        source: &OnnxSource,
        model: &Model,
        patch: &Patch,
        graph: &Graph,
        applied: &Applied,
    ) -> Result<()> {
        let stored = |id: TensorId| model.tensor(id);
        let reformed: Vec<TensorId> =
            patch.ids().filter(|&id| !patch.removes(id) && patch.reforms(model, id)).collect();
        if let Some(id) = patch.renamed_ids().next() {
            let message = "an ONNX file's graph refers to it by its name, which therefore stays";
            return Err(Error::unsupported(message).at_tensor(&stored(id).path));
        }
        if let Some(&id) = reformed.iter().find(|id| source.sparse.contains_key(id)) {
            let message = "the file has it as a sparse tensor, whose type and shape stay";
            return Err(Error::unsupported(message).at_tensor(&stored(id).path));
        }
        for id in patch.removed_ids() {
            if let Some(site) = source.packed.get(&id) {
                self.dropped.insert((NODE, site.node as u32));
                self.dropped.extend(site.parts.iter().map(|&part| (INITIALIZER, part as u32)));
            } else if let Some(&(node, _)) = source.number_attributes.get(&id) {
                self.dropped.insert((NODE, node));
            } else if let Some(place) = &source.places[id.0 as usize]
                && let [GRAPH, step, inner @ ..] = &place.0[..]
                // What stands in a nested graph goes with the node, or is still used.
                && !matches!(inner, [_, (6 | 11, _), ..])
            {
                self.dropped.insert(*step);
            }
        }
        let constants =
            graph.constants.iter().filter_map(|(&value, id)| Some((value, *applied.constants.get(id)?)));
        let mut growth = 0usize;
        for (value, index) in constants {
            let name = encode::name_in(graph, value)?;
            let tensor = applied.model.tensor(graph.constants[&value]);
            let message = match tensor.dtype {
                DType::String => Some(encode::tensor(&name, &tensor.load()?)?),
                _ => None,
            };
            growth = growth.saturating_add(tensor.byte_len());
            let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
            self.added.push(Added { name, dtype, shape, index, message, external: false });
        }
        if self.added.len() < patch.added_count() {
            let message = "a tensor that is added to an ONNX model has to be a constant of its graph: use \
                           `Patch::add_constant`";
            return Err(Error::unsupported(message));
        }
        for &id in &reformed {
            growth = growth.saturating_add(patch.byte_len(model, id).saturating_sub(stored(id).byte_len()));
        }
        let too_large = growth > 0 && source.bytes.len().saturating_add(growth) > MOST;
        let outside = |id: &TensorId| source.extents[id.0 as usize].is_some();
        self.external.extend(reformed.iter().copied().filter(|id| too_large || outside(id)));
        for added in self.added.iter_mut().filter(|added| too_large && added.message.is_none()) {
            added.external = true;
        }
        let goes = patch.removed_ids().any(|id| outside(&id));
        self.writes_external = !self.external.is_empty() || self.added.iter().any(|added| added.external);
        self.relays_data = goes || self.writes_external;
        Ok(())
    }

    /// New nodes, and what becomes of the file's.
    fn graph_nodes(
        &mut self,
        source: &OnnxSource,
        patch: &Patch,
        before: &Graph,
        graph: &Graph,
        applied: &Applied,
    ) -> Result<()> {
        let name_of = |value: ValueId| -> Result<String> {
            let shown = encode::name_in(graph, value)?;
            let known =
                before.values.get(value.index()).map_or(Some(&*shown), |_| source.name_of(before, value));
            known.map(str::to_string).ok_or_else(|| {
                Error::unsupported(format!(
                    "uses `{shown}`, a value inside a function, for which the file has no name"
                ))
            })
        };
        let mut kept = vec![false; before.nodes.len()];
        let mut pending: Vec<u8> = Vec::new();
        // The file's node that the last node came from, and a new one that waits.
        let (mut previous, mut waiting): (Option<u32>, Option<&Node>) = (None, None);
        for (index, node) in graph.nodes.iter().enumerate() {
            let Some(origin) = applied.origins[index] else {
                self.import(source, node)?;
                let message = encode::node(node, &applied.model, &[graph], &name_of).at_node(node)?;
                put_bytes(&mut pending, NODE, &message);
                waiting = Some(node);
                continue;
            };
            let site = source.nodes[origin.0 as usize];
            if let Some(new) = waiting.take() {
                if previous == Some(site.index) {
                    return Err(inside(node).at_node(new));
                }
                self.node(site.index).before = std::mem::take(&mut pending);
            }
            previous = Some(site.index);
            kept[origin.0 as usize] = true;
            self.edit_node(patch, graph, site, (origin, node), applied, &name_of)?;
            if !site.whole && applied.reached.get(index) == Some(&true) {
                self.undeclares_functions = true;
            }
        }
        self.last = pending;
        let partly: BTreeSet<u32> =
            source.nodes.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(site, _)| site.index).collect();
        for (index, site) in source.nodes.iter().enumerate().filter(|(index, _)| !kept[*index]) {
            if partly.contains(&site.index) {
                return Err(inside(&before.nodes[index]));
            }
            self.node(site.index).removed = true;
        }
        for &id in &applied.undeclared {
            let site = source.nodes[id.0 as usize];
            if site.whole {
                self.node(site.index).undeclares = true;
            }
        }
        Ok(())
    }

    /// Puts nodes that give constants to the front where a new use comes before them in the file. In the graph here
    /// constants are there from the start.
    fn move_constants(
        &mut self,
        source: &OnnxSource,
        model: &Model,
        patch: &Patch,
        before: &Graph,
        graph: &Graph,
        applied: &Applied,
    ) -> Result<()> {
        let mut moved: BTreeMap<u32, (TensorId, ValueId)> = BTreeMap::new();
        // Up to here the file's nodes come before the one that is looked at.
        let mut at = 0;
        let by_name: HashMap<&str, ValueId> =
            before.constants.keys().map(|&value| (before.value_name(value), value)).collect();
        for (index, node) in graph.nodes.iter().enumerate() {
            let origin = applied.origins[index];
            at = origin.map_or(at, |origin| source.nodes[origin.0 as usize].index);
            if origin
                .is_some_and(|origin| patch.of_node(origin).is_none_or(|change| change.inputs.is_empty()))
            {
                continue;
            }
            let captured = node.captures().filter_map(|name| by_name.get(name).copied());
            for value in node.inputs.iter().flatten().copied().chain(captured) {
                let Some(&id) = before.constants.get(&value) else { continue };
                let Some(position) = constant_node(source, id).filter(|&position| position >= at) else {
                    continue;
                };
                if !patch.repacks(model, id) {
                    moved.insert(position, (id, value));
                }
            }
        }
        let mut first = Vec::new();
        for (position, (id, value)) in moved {
            if source.packed.contains_key(&id)
                || (!patch.contains(id) && source.extents[id.0 as usize].is_none())
            {
                put_bytes(&mut first, NODE, node_bytes(source, position)?);
            } else {
                let constant = Node {
                    op_type: "Constant".to_string(),
                    outputs: vec![Some(value)],
                    attrs: [("value".to_string(), Attr::Tensor(patch.load(model, id)?))]
                        .into_iter()
                        .collect(),
                    ..Node::default()
                };
                let name_of = |value| encode::name_in(before, value);
                put_bytes(&mut first, NODE, &encode::node(&constant, model, &[], &name_of)?);
            }
            self.node(position).removed = true;
        }
        if !first.is_empty() {
            self.node(0).before.splice(0..0, first);
        }
        Ok(())
    }

    /// Imports the operator set of a new node.
    fn import(&mut self, source: &OnnxSource, node: &Node) -> Result<()> {
        let known = source.opsets.iter().chain(&self.imports).find(|(domain, _)| *domain == node.domain);
        match known.map(|(_, version)| *version) {
            Some(version) if version == node.opset => Ok(()),
            Some(version) => {
                let domain = if node.domain.is_empty() { "ai.onnx" } else { &node.domain };
                let message = format!(
                    "is of version {} of the operator set `{domain}`, but the file imports version {version}",
                    node.opset
                );
                Err(Error::unsupported(message).at_node(node))
            }
            None => {
                self.imports.push((node.domain.clone(), node.opset));
                Ok(())
            }
        }
    }

    fn edit_node(
        &mut self,
        patch: &Patch,
        graph: &Graph,
        site: super::NodeSite,
        (id, node): (NodeId, &Node),
        applied: &Applied,
        name_of: encode::NameOf<'_>,
    ) -> Result<()> {
        let Some(change) = patch.of_node(id) else { return Ok(()) };
        if change.inputs.is_empty() && change.attrs.is_empty() {
            return Ok(());
        }
        if !site.whole {
            return Err(inside(node));
        }
        let edit = self.nodes.entry(site.index).or_default();
        for (&input, value) in &change.inputs {
            let name = value.map_or(Ok(String::new()), name_of).at_node(node)?;
            edit.inputs.insert(input, name);
        }
        for (name, attr) in &change.attrs {
            let new = attr.as_ref().and_then(|_| node.attrs.get(name));
            let message = new.map(|attr| encode::attribute(name, attr, &applied.model, &[graph])).transpose();
            edit.attrs.insert(name.clone(), message.at_node(node)?);
        }
        Ok(())
    }

    /// Values whose declared type or shape is another one than the file's.
    fn declare(&mut self, source: &OnnxSource, before: &Graph, graph: &Graph) {
        let mut there = vec![false; graph.values.len()];
        let produced = graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten());
        for value in graph.inputs.iter().chain(graph.constants.keys()).chain(produced) {
            there[value.index()] = true;
        }
        for (index, old) in before.values.iter().enumerate() {
            let Some(name) = source.name_of(before, ValueId(index as u32)) else { continue };
            let Value { dtype, shape, .. } = &graph.values[index];
            if !there[index] {
                self.declared.insert(name.to_string(), None);
            } else if (*dtype, shape) != (old.dtype, &old.shape) {
                let declared = Declared { was: old.shape.clone(), dtype: *dtype, shape: shape.clone() };
                self.declared.insert(name.to_string(), Some(declared));
            }
        }
    }

    /// Puts new nodes in front of the node at `path`.
    pub(super) fn before(&mut self, path: &[(u32, u32)], field: &Field, cut: &mut Cut) {
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
    pub(super) fn child(
        &mut self,
        path: &[(u32, u32)],
        bytes: &[u8],
        field: &Field,
        cut: &mut Cut,
    ) -> Result<bool> {
        match *path {
            [GRAPH, (NODE, index)] if self.nodes.get(&index).is_some_and(|edit| edit.removed) => {}
            [GRAPH, step] if self.dropped.contains(&step) => {}
            [GRAPH, (NODE, index), (5, attribute)] => {
                let Some(edit) = self.nodes.get_mut(&index) else { return Ok(false) };
                if let Some((_, message)) = edit.numbers.as_ref().filter(|(at, _)| *at == attribute) {
                    cut.replace_value(field, vec![Piece::New(message.clone())]);
                    return Ok(true);
                }
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
    pub(super) fn leaf(
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
    pub(super) fn end(
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

/// The position of the node that gives a constant in the main graph; `None` for initializers.
fn constant_node(source: &OnnxSource, id: TensorId) -> Option<u32> {
    if let Some(site) = source.packed.get(&id) {
        return Some(site.node as u32);
    }
    let numbers = source.number_attributes.get(&id).map(|&(node, _)| node);
    numbers.or_else(|| match source.places[id.0 as usize].as_ref()?.0[..] {
        [GRAPH, (NODE, node), ..] => Some(node),
        _ => None,
    })
}

/// The message of a node of the main graph.
fn node_bytes(source: &OnnxSource, position: u32) -> Result<&[u8]> {
    let bytes = &source.bytes;
    let lost = || Error::internal("the source has fewer nodes than when it was read");
    let mut all = fields(bytes, 0..bytes.len()).map_while(Result::ok);
    let graph = all.find(|field| (field.number, field.wire) == (GRAPH.0, Wire::Len)).ok_or_else(lost)?;
    let nodes = fields(bytes, graph.value).map_while(Result::ok);
    let mut nodes = nodes.filter(|field| (field.number, field.wire) == (NODE, Wire::Len));
    Ok(&bytes[nodes.nth(position as usize).ok_or_else(lost)?.value])
}

/// An edit of a part of what the file has as one node.
fn inside(node: &Node) -> Error {
    let message = "comes from the call of a function, or from an operator that stands for several, so it changes \
                   only as a whole: replace all nodes of the call";
    Error::unsupported(message).at_node(node)
}

impl Declared {
    /// `ValueInfoProto` with this type and shape, all else as it was.
    fn info(&self, bytes: &[u8], info: Range<usize>) -> Result<Vec<Piece>> {
        let whole = encode::tensor_type(self.dtype, self.shape.as_deref());
        edited(bytes, info, 2, whole, &|value| {
            edited(bytes, value, 1, self.tensor_type(), &|value| self.changed_tensor_type(bytes, value))
        })
    }

    /// `TypeProto.Tensor`.
    fn tensor_type(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.dtype.iter().for_each(|dtype| put_int(&mut out, 1, dtype.to_onnx().into()));
        self.shape.iter().for_each(|dims| put_bytes(&mut out, 2, &encode::shape_message(dims)));
        out
    }

    fn changed_tensor_type(&self, bytes: &[u8], range: Range<usize>) -> Result<Vec<Piece>> {
        let mut cut = Cut::new(range.clone());
        let (mut typed, mut shaped) = (self.dtype.is_none(), self.shape.is_none());
        for field in fields(bytes, range.clone()) {
            let field = field?;
            match (field.number, field.wire, &self.shape) {
                (1, Wire::Varint, _) if self.dtype.is_some() => {
                    cut.remove(&field);
                    if !std::mem::replace(&mut typed, true) {
                        let mut out = Vec::new();
                        self.dtype.iter().for_each(|dtype| put_int(&mut out, 1, dtype.to_onnx().into()));
                        cut.push(Piece::New(out));
                    }
                }
                (2, Wire::Len, Some(dims)) => {
                    shaped = true;
                    let content = self.changed_dims(bytes, field.value.clone(), dims)?;
                    cut.replace_value(&field, content);
                }
                (2, Wire::Len, None) => cut.remove(&field),
                _ => {}
            }
        }
        let mut out = Vec::new();
        self.dtype.iter().filter(|_| !typed).for_each(|dtype| put_int(&mut out, 1, dtype.to_onnx().into()));
        self.shape
            .iter()
            .filter(|_| !shaped)
            .for_each(|dims| put_bytes(&mut out, 2, &encode::shape_message(dims)));
        if !out.is_empty() {
            cut.end(out);
        }
        Ok(cut.finish().unwrap_or_else(|| vec![Piece::Copy(range)]))
    }

    /// The dimensions, those that stay with all that the file says of them.
    fn changed_dims(&self, bytes: &[u8], range: Range<usize>, dims: &[Dim]) -> Result<Vec<Piece>> {
        let Some(was) = self.was.as_ref().filter(|was| was.len() == dims.len()) else {
            return Ok(vec![Piece::New(encode::shape_message(dims))]);
        };
        let mut cut = Cut::new(range.clone());
        let mut axis = 0;
        for field in fields(bytes, range.clone()) {
            let field = field?;
            if (field.number, field.wire) == (1, Wire::Len) {
                if let Some(dim) = dims.get(axis).filter(|dim| was.get(axis) != Some(*dim)) {
                    let message = encode::shape_message(std::slice::from_ref(dim));
                    cut.remove(&field);
                    cut.push(Piece::New(message));
                }
                axis += 1;
            }
        }
        Ok(cut.finish().unwrap_or_else(|| vec![Piece::Copy(range)]))
    }
}

/// A message with the value of one of its fields, a message too, replaced; `whole` where it lacks the field.
fn edited(
    bytes: &[u8],
    range: Range<usize>,
    number: u32,
    whole: Vec<u8>,
    change: &dyn Fn(Range<usize>) -> Result<Vec<Piece>>,
) -> Result<Vec<Piece>> {
    let mut cut = Cut::new(range.clone());
    let mut found = false;
    for field in fields(bytes, range.clone()) {
        let field = field?;
        if (field.number, field.wire) == (number, Wire::Len) {
            found = true;
            cut.replace_value(&field, change(field.value.clone())?);
        }
    }
    if !found {
        let mut out = Vec::new();
        put_bytes(&mut out, number, &whole);
        cut.end(out);
    }
    Ok(cut.finish().unwrap_or_else(|| vec![Piece::Copy(range)]))
}

/// `ValueInfoProto` without a shape.
fn undeclared(bytes: &[u8], info: Range<usize>) -> Result<Vec<Piece>> {
    let nothing = Declared { was: None, dtype: None, shape: None };
    let mut cut = Cut::new(info.clone());
    for field in fields(bytes, info.clone()) {
        let field = field?;
        if (field.number, field.wire) != (2, Wire::Len) {
            continue;
        }
        let mut inner = Cut::new(field.value.clone());
        for part in fields(bytes, field.value.clone()) {
            let part = part?;
            if (part.number, part.wire) == (1, Wire::Len) {
                inner.replace_value(&part, nothing.changed_tensor_type(bytes, part.value.clone())?);
            }
        }
        if let Some(content) = inner.finish() {
            cut.replace_value(&field, content);
        }
    }
    Ok(cut.finish().unwrap_or_else(|| vec![Piece::Copy(info)]))
}
