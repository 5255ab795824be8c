//! The changes of one graph of the file, from the graph before and after a patch.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::declared::Declared;
use super::{Added, GraphEdit, in_graph, message};
use crate::graph::Value;
use crate::io::onnx::encode::{self, INPUT, NODE, OUTPUT, VALUE_INFO};
use crate::io::onnx::repack::GRAPH;
use crate::io::onnx::wire::put_bytes;
use crate::io::onnx::{FieldPath, GraphSite, NodeSite, OnnxSource};
use crate::model::{Applied, AppliedGraph, GraphPath, Patch};
use crate::{Attr, DType, Error, Graph, Model, Node, NodeId, Result, ResultExt, TensorId, ValueId};

/// What changes of a graph of the file.
#[derive(Default)]
pub(super) struct EditedGraph {
    pub(super) nodes: BTreeMap<u32, NodeEdit>,
    /// New fields that come last: nodes, inputs and outputs.
    pub(super) last: Vec<u8>,
    /// Initializers, sparse ones and `Constant` nodes that are removed: field numbers and positions.
    pub(super) dropped: BTreeSet<(u32, u32)>,
    /// Values that are declared otherwise, or (`None`) not at all, by name.
    pub(super) declared: HashMap<String, Option<Declared>>,
    /// The names of outputs that are outputs no longer.
    pub(super) internal: BTreeSet<String>,
    pub(super) added: Vec<Added>,
    /// How many inputs of the node that is being spliced were met.
    pub(super) inputs: usize,
}

/// What becomes of a node of the file.
#[derive(Default)]
pub(super) struct NodeEdit {
    /// New nodes that come before it, as fields of the graph.
    pub(super) before: Vec<u8>,
    pub(super) removed: bool,
    /// The names of inputs that change.
    pub(super) inputs: BTreeMap<usize, String>,
    /// Attributes as messages by name; `None` where they are removed.
    pub(super) attrs: BTreeMap<String, Option<Vec<u8>>>,
}

/// A graph before and after a patch, and the changes of the file so far.
pub(super) struct Editor<'a> {
    source: &'a OnnxSource,
    model: &'a Model,
    patch: &'a Patch,
    applied: &'a Applied,
    path: &'a GraphPath,
    place: &'a FieldPath,
    site: &'a GraphSite,
    change: &'a AppliedGraph,
    before: &'a Graph,
    after: &'a Graph,
    edited: EditedGraph,
}

impl<'a> Editor<'a> {
    /// An editor of the graph at a path, which has a place in the file.
    ///
    /// # Errors
    /// Where the model lacks the graph.
    pub(super) fn new(
        source: &'a OnnxSource,
        model: &'a Model,
        patch: &'a Patch,
        applied: &'a Applied,
        (path, place): (&'a GraphPath, &'a FieldPath),
    ) -> Result<Self> {
        let lost = || Error::internal("the source lacks a graph that was read");
        let change = &applied.graphs[path];
        Ok(Editor {
            source,
            model,
            patch,
            applied,
            path,
            place,
            site: source.sites.get(place).ok_or_else(lost)?,
            change,
            before: model.graph_at(path)?,
            after: applied.model.graph_at(&change.path)?,
            edited: EditedGraph::default(),
        })
    }

    /// The changes of the graph; those of the whole file go to `file`.
    ///
    /// # Errors
    /// `Unsupported` where the file cannot hold a change.
    pub(super) fn edit(mut self, file: &mut GraphEdit) -> Result<EditedGraph> {
        self.nodes(file)?;
        self.move_constants()?;
        self.declare();
        self.interface()?;
        for (value, index) in self.patch.new_constants(self.path) {
            let name = self.name_of(value)?;
            let tensor = self.applied.model.tensor(self.applied.added[index]);
            let message = match tensor.dtype {
                DType::String => Some(encode::tensor(&name, &tensor.load()?)?),
                _ => None,
            };
            let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
            self.edited.added.push(Added { name, dtype, shape, index, message, external: false });
        }
        Ok(self.edited)
    }

    fn node(&mut self, index: u32) -> &mut NodeEdit {
        self.edited.nodes.entry(index).or_default()
    }

    /// What the file calls a value of the patched graph.
    fn name_of(&self, value: ValueId) -> Result<String> {
        let shown = encode::name_in(self.after, value)?;
        let known = self.before.values.get(value.index());
        let known = known.map_or(Some(&*shown), |_| self.site.name_of(self.before, value));
        known.map(str::to_string).ok_or_else(|| {
            Error::unsupported(format!(
                "uses `{shown}`, a value inside a function, for which the file has no name"
            ))
        })
    }

    /// The patched graph and those around it, the main one first.
    fn around(&self) -> Result<Vec<&'a Graph>> {
        let path = &self.change.path;
        (0..=path.len()).map(|end| self.applied.model.graph_at(&path[..end].to_vec())).collect()
    }

    /// New nodes, and what becomes of the file's.
    fn nodes(&mut self, file: &mut GraphEdit) -> Result<()> {
        let (before, graph, site) = (self.before, self.after, self.site);
        let around = self.around()?;
        let mut kept = vec![false; before.nodes.len()];
        let mut pending: Vec<u8> = Vec::new();
        // The file's node that the last node came from, and a new one that waits.
        let (mut previous, mut waiting): (Option<u32>, Option<&Node>) = (None, None);
        for (index, node) in graph.nodes.iter().enumerate() {
            let Some(origin) = self.change.origins[index] else {
                file.import(self.source, node)?;
                let name_of = |value| self.name_of(value);
                let message = encode::node(node, &self.applied.model, &around, &name_of).at_node(node)?;
                put_bytes(&mut pending, NODE, &message);
                waiting = Some(node);
                continue;
            };
            let at = site.nodes[origin.0 as usize];
            if let Some(new) = waiting.take() {
                if previous == Some(at.index) {
                    return Err(inside(node).at_node(new));
                }
                self.node(at.index).before = std::mem::take(&mut pending);
            }
            previous = Some(at.index);
            kept[origin.0 as usize] = true;
            self.edit_node(at, origin, node, &around)?;
            if !at.whole && self.path.is_empty() && self.applied.reached.get(index) == Some(&true) {
                file.undeclares_functions = true;
            }
        }
        self.edited.last = pending;
        let partly: BTreeSet<u32> =
            site.nodes.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(at, _)| at.index).collect();
        for (index, at) in site.nodes.iter().enumerate().filter(|(index, _)| !kept[*index]) {
            if partly.contains(&at.index) {
                return Err(inside(&before.nodes[index]));
            }
            self.node(at.index).removed = true;
        }
        if self.path.is_empty() {
            let undeclared = self.applied.undeclared.iter().map(|id| site.nodes[id.0 as usize]);
            file.undeclared = undeclared.filter(|at| at.whole).map(|at| at.index).collect();
        }
        Ok(())
    }

    fn edit_node(&mut self, at: NodeSite, id: NodeId, node: &Node, around: &[&Graph]) -> Result<()> {
        let Some(change) = self.patch.of_node(self.path, id) else { return Ok(()) };
        if change.inputs.is_empty() && change.attrs.is_empty() {
            return Ok(());
        }
        if !at.whole {
            return Err(inside(node));
        }
        for (&input, value) in &change.inputs {
            let name = value.map_or(Ok(String::new()), |value| self.name_of(value)).at_node(node)?;
            self.node(at.index).inputs.insert(input, name);
        }
        for (name, attr) in &change.attrs {
            let new = attr.as_ref().and_then(|_| node.attrs.get(name));
            let encoded = new.map(|attr| encode::attribute(name, attr, &self.applied.model, around));
            let encoded = encoded.transpose().at_node(node)?;
            self.node(at.index).attrs.insert(name.clone(), encoded);
        }
        Ok(())
    }

    /// Moves `Constant` nodes to the front where a new use comes before them in the file. In [`Graph`] constants are
    /// there from the start.
    fn move_constants(&mut self) -> Result<()> {
        let (before, source, site) = (self.before, self.source, self.site);
        let mut moved: BTreeMap<u32, (TensorId, ValueId)> = BTreeMap::new();
        // Up to here the file's nodes come before the one that is looked at.
        let mut at = 0;
        let by_name: HashMap<&str, ValueId> =
            before.constants.keys().map(|&value| (before.value_name(value), value)).collect();
        for (index, node) in self.after.nodes.iter().enumerate() {
            let origin = self.change.origins[index];
            at = origin.map_or(at, |origin| site.nodes[origin.0 as usize].index);
            let change = origin.map(|origin| self.patch.of_node(self.path, origin));
            if change.is_some_and(|change| change.is_none_or(|change| change.inputs.is_empty()))
                && node.graphs().next().is_none()
            {
                continue;
            }
            let captured = node.captures().filter_map(|name| by_name.get(name).copied());
            for value in node.inputs.iter().flatten().copied().chain(captured) {
                let Some(&id) = before.constants.get(&value) else { continue };
                let Some(position) = self.constant_node(id).filter(|&position| position >= at) else {
                    continue;
                };
                if !self.patch.repacks(self.model, id) && !self.patch.removes(id) {
                    moved.insert(position, (id, value));
                }
            }
        }
        let mut first = Vec::new();
        for (position, (id, value)) in moved {
            if source.packed.contains_key(&id)
                || (!self.patch.contains(id) && source.extents[id.0 as usize].is_none())
            {
                let node = message(source, &self.place.then(NODE, position as usize))?;
                put_bytes(&mut first, NODE, &source.bytes[node]);
            } else {
                let constant = Node {
                    op_type: "Constant".to_string(),
                    outputs: vec![Some(value)],
                    attrs: [("value".to_string(), Attr::Tensor(self.patch.load(self.model, id)?))]
                        .into_iter()
                        .collect(),
                    ..Node::default()
                };
                let name_of = |value| self.name_of(value);
                put_bytes(&mut first, NODE, &encode::node(&constant, self.model, &[], &name_of)?);
            }
            self.node(position).removed = true;
        }
        if !first.is_empty() {
            self.node(0).before.splice(0..0, first);
        }
        Ok(())
    }

    /// The position of the node of the file's graph that gives a constant; `None` for other constants.
    fn constant_node(&self, id: TensorId) -> Option<u32> {
        if let Some(site) = self.source.packed.get(&id) {
            return (self.place.0 == [GRAPH]).then_some(site.node as u32);
        }
        let (graph, (number, position)) = in_graph(self.source.place(id)?)?;
        (graph == self.place.0 && number == NODE).then_some(position)
    }

    /// Values whose declared type or shape is another one than the file's. In nested graphs only what the patch says
    /// of them: other shapes are removed there.
    fn declare(&mut self) {
        let mut there = vec![false; self.after.values.len()];
        let produced = self.after.nodes.iter().flat_map(|node| node.outputs.iter().flatten());
        let given = self.after.inputs.iter().chain(self.after.constants.keys()).chain(&self.after.captures);
        for value in given.chain(produced) {
            there[value.index()] = true;
        }
        let said: BTreeSet<ValueId> = self.patch.declared(self.path).collect();
        for (id, old) in (0..).map(ValueId).zip(&self.before.values) {
            let Some(name) = self.site.name_of(self.before, id) else { continue };
            let Value { dtype, shape, .. } = &self.after.values[id.index()];
            let declared = if !there[id.index()] {
                None
            } else if (*dtype, shape) != (old.dtype, &old.shape)
                && (self.path.is_empty() || said.contains(&id))
            {
                Some(Declared { was: old.shape.clone(), dtype: *dtype, shape: shape.clone() })
            } else {
                continue;
            };
            self.edited.declared.insert(name.to_string(), declared);
        }
    }

    /// New inputs and outputs of the main graph, and outputs that become internal values.
    fn interface(&mut self) -> Result<()> {
        if !self.path.is_empty() {
            return Ok(());
        }
        let [inputs, outputs, internal] = self.patch.interface();
        for (field, values) in [(INPUT, inputs), (OUTPUT, outputs), (VALUE_INFO, internal)] {
            for &id in values {
                let (name, Value { dtype, shape, .. }) = (self.name_of(id)?, &self.after.values[id.index()]);
                let gone = matches!(self.edited.declared.get(&name), Some(None));
                if field != VALUE_INFO || (dtype.is_some() && !gone) {
                    let info = encode::value_info(&name, *dtype, shape.as_deref());
                    put_bytes(&mut self.edited.last, field, &info);
                }
                if field == VALUE_INFO {
                    self.edited.internal.insert(name);
                }
            }
        }
        Ok(())
    }
}

/// An edit of a part of what the file has as one node.
pub(super) fn inside(node: &Node) -> Error {
    let message = "comes from the call of a function, or from an operator that stands for several, so it changes \
                   only as a whole: replace all nodes of the call";
    Error::unsupported(message).at_node(node)
}
