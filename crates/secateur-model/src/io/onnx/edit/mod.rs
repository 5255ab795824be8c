//! What changes of the graphs in an ONNX file: nodes, attributes, initializers, declared types and shapes.
//!
//! A node that is edited keeps the fields and attributes that do not change, byte for byte. What the file cannot
//! express, such as an edit inside the call of a function, is refused with the node's name.

mod declared;
mod graph;
mod splice;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use prost::Message;

use self::graph::{EditedGraph, Editor, inside};
use super::encode::{self, INITIALIZER, NODE};
use super::proto::AttributeProto;
use super::repack::GRAPH;
use super::wire::{Wire, fields};
use super::{FieldPath, OnnxSource};
use crate::model::{Applied, GraphPath, Patch};
use crate::{Attr, DType, Error, Model, Node, Result, TensorId};

/// The most bytes that a protobuf message may take, with room for what is not counted.
const MOST: usize = i32::MAX as usize - (1 << 20);
/// `NodeProto.attribute`, `AttributeProto.g` and `.graphs`.
const ATTRIBUTE: u32 = 5;
const ATTRIBUTE_GRAPH: u32 = 6;
const ATTRIBUTE_GRAPHS: u32 = 11;

/// A step of a [`FieldPath`].
type Step = (u32, u32);

/// See the module.
#[derive(Default)]
pub(super) struct GraphEdit {
    /// The graphs that change, by their places.
    graphs: BTreeMap<FieldPath, EditedGraph>,
    /// Whether initializers are inputs too, as in older IR versions.
    lists_initializers: bool,
    /// Operator sets to import.
    imports: Vec<(String, u32)>,
    /// Whether the types that functions declare for their values are removed.
    undeclares_functions: bool,
    /// Nodes of the main graph whose nested graphs' declared shapes are removed.
    undeclared: BTreeSet<u32>,
    /// Messages for attributes of numbers that become tensors, by their places.
    numbers: BTreeMap<FieldPath, Vec<u8>>,
    /// Tensors of another type or shape that are written as external data.
    external: BTreeSet<TensorId>,
    /// Whether the layout of external data changes.
    pub(super) relays_data: bool,
    /// Whether tensors that change are written as external data.
    pub(super) writes_external: bool,
}

/// A new initializer.
struct Added {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    /// The position among the patch's added tensors.
    index: usize,
    /// The whole message, for strings.
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
        let structural = patch.is_structural(model) || patch.alters_shapes(model);
        if model.graph.is_none() || (!structural && numbers.is_empty()) {
            return Ok(None);
        }
        let applied = patch.applied(model)?;
        let mut edit = GraphEdit { lists_initializers: source.lists_initializers(), ..GraphEdit::default() };
        for id in numbers {
            let tensor = Attr::Tensor(patch.load(model, id)?);
            let message = encode::attribute("value", &tensor, model, &[])?;
            edit.numbers.insert(source.number_attributes[&id].clone(), message);
        }
        for path in applied.graphs.keys() {
            let place = place_of(source, model, path)?;
            let edited = Editor::new(source, model, patch, &applied, (path, &place))?.edit(&mut edit)?;
            edit.graphs.insert(place, edited);
        }
        edit.tensors(source, model, patch, &applied)?;
        Ok(Some(edit))
    }

    /// Whether a tensor of another type or shape is written as external data.
    pub(super) fn is_external(&self, id: TensorId) -> bool {
        self.external.contains(&id)
    }

    /// Whether a graph in the message at a path, or an attribute of numbers, changes.
    pub(super) fn changes_in(&self, path: &[(u32, u32)]) -> bool {
        self.graphs.keys().chain(self.numbers.keys()).any(|place| place.0.starts_with(path))
    }

    /// Tensors that are removed, are added, or get another type or shape.
    fn tensors(
        &mut self,
        source: &OnnxSource,
        model: &Model,
        patch: &Patch,
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
                let dropped = &mut self.graphs.entry(FieldPath(vec![GRAPH])).or_default().dropped;
                dropped.insert((NODE, site.node as u32));
                dropped.extend(site.parts.iter().map(|&part| (INITIALIZER, part as u32)));
            } else if let Some((graph, step)) = source.place(id).and_then(in_graph) {
                self.graphs.entry(FieldPath(graph.to_vec())).or_default().dropped.insert(step);
            }
        }
        let added: Vec<&mut Added> = self.graphs.values_mut().flat_map(|graph| &mut graph.added).collect();
        if added.len() < patch.added_count() {
            let message = "a tensor that is added to an ONNX model has to be a constant of its graph: use \
                           `Patch::add_constant`";
            return Err(Error::unsupported(message));
        }
        let mut growth = 0usize;
        for added in &added {
            growth = growth.saturating_add(applied.model.tensor(applied.added[added.index]).byte_len());
        }
        for &id in &reformed {
            growth = growth.saturating_add(patch.byte_len(model, id).saturating_sub(stored(id).byte_len()));
        }
        let too_large = growth > 0 && source.bytes.len().saturating_add(growth) > MOST;
        let outside = |id: &TensorId| source.extents[id.0 as usize].is_some();
        self.external.extend(reformed.iter().copied().filter(|id| too_large || outside(id)));
        self.writes_external = !self.external.is_empty();
        for added in added.into_iter().filter(|added| too_large && added.message.is_none()) {
            added.external = true;
            self.writes_external = true;
        }
        self.relays_data = patch.removed_ids().any(|id| outside(&id)) || self.writes_external;
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
}

/// The place of a graph in the file.
///
/// # Errors
/// `Unsupported` where it is in the call of a function.
fn place_of(source: &OnnxSource, model: &Model, path: &GraphPath) -> Result<FieldPath> {
    let mut place = FieldPath(vec![GRAPH]);
    let mut graph = model.graph()?;
    for (id, name, index) in path {
        let node = &graph.nodes[id.0 as usize];
        let site = source.sites.get(&place).and_then(|site| site.nodes.get(id.0 as usize));
        let Some(site) = site.filter(|site| site.whole) else { return Err(inside(node)) };
        place = place.then(NODE, site.index as usize);
        let bytes = &source.bytes;
        let attributes = fields(bytes, message(source, &place)?).map_while(Result::ok);
        let mut attributes = attributes.filter(|field| (field.number, field.wire) == (ATTRIBUTE, Wire::Len));
        let position = attributes.position(|field| {
            let proto = AttributeProto::decode(&bytes[field.value]).unwrap_or_default();
            proto.name.as_deref() == Some(name)
        });
        let position =
            position.ok_or_else(|| Error::internal("the source lacks an attribute that was read"))?;
        place = place.then(ATTRIBUTE, position);
        place = match &node.attrs[name] {
            Attr::Graphs(_) => place.then(ATTRIBUTE_GRAPHS, *index),
            _ => place.then(ATTRIBUTE_GRAPH, 0),
        };
        graph = &node.attrs[name].graphs()[*index];
    }
    Ok(place)
}

/// The bytes of the message at a place.
fn message(source: &OnnxSource, place: &FieldPath) -> Result<Range<usize>> {
    let bytes = &source.bytes;
    place.0.iter().try_fold(0..bytes.len(), |range, &(number, position)| {
        let fields = fields(bytes, range).map_while(Result::ok);
        let mut fields = fields.filter(|field| (field.number, field.wire) == (number, Wire::Len));
        let found = fields.nth(position as usize).map(|field| field.value);
        found.ok_or_else(|| Error::internal("the source has fewer messages than when it was read"))
    })
}

/// The graph that a tensor's place is in, and the field of the graph that holds it; `None` in functions.
fn in_graph(place: &FieldPath) -> Option<(&[Step], Step)> {
    let path = &place.0[..];
    let is_graph = |&(number, _): &Step| matches!(number, ATTRIBUTE_GRAPH | ATTRIBUTE_GRAPHS);
    let end = path.iter().rposition(is_graph).unwrap_or(0) + 1;
    (path.first() == Some(&GRAPH)).then_some(())?;
    Some((&path[..end], *path.get(end)?))
}
