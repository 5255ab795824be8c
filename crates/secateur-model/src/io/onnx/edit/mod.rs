//! What changes of the graph in an ONNX file: nodes, attributes, initializers, declared types and shapes.
//!
//! A node that is edited keeps the fields and attributes that do not change, byte for byte. What the file cannot
//! express, such as an edit inside the call of a function, is refused with the node's name.

mod declared;
mod splice;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use self::declared::Declared;
use super::OnnxSource;
use super::encode::{self, INITIALIZER, NODE};
use super::repack::GRAPH;
use super::splice::FieldPath;
use super::wire::{Wire, fields, put_bytes};
use crate::graph::Value;
use crate::model::{Applied, Patch};
use crate::{Attr, DType, Error, Graph, Model, Node, NodeId, Result, ResultExt, TensorId, ValueId};

/// The most bytes that a protobuf message may take, with room for what is not counted.
const MOST: usize = i32::MAX as usize - (1 << 20);

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
    /// Whether nested graphs' declared shapes go.
    undeclares: bool,
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
    /// Messages for attributes of numbers that become tensors, by their place.
    numbers: BTreeMap<FieldPath, Vec<u8>>,
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
            numbers: BTreeMap::new(),
            external: BTreeSet::new(),
            relays_data: false,
            writes_external: false,
            inputs: 0,
        };
        edit.tensors(source, model, patch, graph, &applied)?;
        for id in numbers {
            let tensor = Attr::Tensor(patch.load(model, id)?);
            let message = encode::attribute("value", &tensor, model, &[])?;
            edit.numbers.insert(source.number_attributes[&id].0.clone(), message);
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
            } else if let Some(place) = source.place(id)
                && let [GRAPH, step, inner @ ..] = &place.0[..]
                // What a nested graph holds goes with the node, or is still used.
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
}

/// The position of the node that gives a constant in the main graph; `None` for initializers.
fn constant_node(source: &OnnxSource, id: TensorId) -> Option<u32> {
    if let Some(site) = source.packed.get(&id) {
        return Some(site.node as u32);
    }
    match source.place(id)?.0[..] {
        [GRAPH, (NODE, node), ..] => Some(node),
        _ => None,
    }
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
