//! Graphs of the file to [`Graph`]: names to values, `Constant` nodes to constants, calls expanded.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use bytes::Bytes;
use indexmap::IndexMap;

use super::call::Functions;
use super::external::ExternalFiles;
use super::modules::module_path;
use super::packed::{Calls, PackedSite};
use super::proto::{AttributeProto, GraphProto, NodeProto, ValueInfoProto, decode};
use super::read::{Opsets, normal_domain};
use super::tensor::{MAX_RANK, stored, tensor_name};
use super::{Extent, FieldPath, GraphSite, NodeSite};
use crate::graph::{Dim, Value};
use crate::ops::expand::{Expansion, Source, expand};
use crate::{Attr, DType, Error, Graph, Node, Result, ResultExt, StoredTensor, TensorId, ValueId};

/// How deep graphs and calls of functions may nest; a bound against functions that call in circles.
pub(super) const MAX_DEPTH: usize = 64;
/// Bytes of memory that may be made beyond a fixed multiple of the file's size: by expanding
/// functions, by unfolding sparse tensors, by the names of what is nested. A bound against functions
/// that double at each call and sparse tensors of huge shapes.
const MAX_UNFOLDED: usize = 1 << 30;
/// What a node of an expanded function takes at least.
const NODE_COST: usize = 2048;

/// What holds while the nodes of one graph or function body are read.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) opsets: &'a Opsets,
    /// The calling node's attributes, inside a function body.
    pub(super) attrs: Option<&'a IndexMap<String, Attr>>,
    /// Graphs and calls around this one.
    pub(super) depth: usize,
    /// The way to nested graphs and functions, prefixed to tensor paths.
    pub(super) prefix: &'a str,
}

/// Names visible in a graph or in a function body.
#[derive(Default)]
pub(super) struct Scope {
    pub(super) values: HashMap<String, ValueId>,
    /// Inputs of a function that the call leaves out.
    pub(super) missing: HashSet<String>,
}

/// A graph under construction.
pub(super) struct Frame {
    pub(super) graph: Graph,
    /// The graph's names; a function body opens a scope of its own on top.
    pub(super) scopes: Vec<Scope>,
    /// The value of each constant: a function called twice brings the same one twice.
    constants: HashMap<TensorId, ValueId>,
    /// The node of the file that each node comes from, but for those in functions.
    nodes: Vec<NodeSite>,
}

pub(super) struct Builder {
    pub(super) external: ExternalFiles,
    pub(super) tensors: IndexMap<String, StoredTensor>,
    pub(super) places: Vec<Option<FieldPath>>,
    pub(super) extents: Vec<Option<Extent>>,
    /// The tensor whose elements a message or an attribute holds, whether or not they can be changed there.
    origins: HashMap<FieldPath, TensorId>,
    pub(super) functions: Functions,
    /// The nodes and initializers of packed tensors; the nodes are not in [`Graph`].
    pub(super) packed_sites: BTreeMap<TensorId, PackedSite>,
    /// The positions of the values of sparse tensors.
    pub(super) sparse: BTreeMap<TensorId, Vec<usize>>,
    pub(super) packed_nodes: HashSet<FieldPath>,
    /// Whether functions that expand packed tensors are called in other ways too.
    pub(super) expands_unpackers: bool,
    /// Initializers of the main graph that are inputs too: defaults that a caller may replace.
    pub(super) defaults: HashSet<TensorId>,
    /// How the file holds each graph, by place.
    pub(super) sites: HashMap<FieldPath, GraphSite>,
    frames: Vec<Frame>,
    unfolded: usize,
}

/// Value infos by name.
type Declared = HashMap<String, ValueInfoProto>;

/// A constant tensor, ready to be added.
pub(super) struct Constant {
    pub(super) tensor: StoredTensor,
    pub(super) extent: Option<Extent>,
    /// The message or attribute with its elements; `None` where they are the argument of a function call.
    pub(super) origin: Option<FieldPath>,
    /// Whether a tensor message holds the elements, so that they can be changed.
    pub(super) changeable: bool,
}

impl Builder {
    pub(super) fn new(folder: Option<&Path>, functions: &[Bytes]) -> Result<Self> {
        Ok(Builder {
            external: ExternalFiles::new(folder),
            tensors: IndexMap::new(),
            places: Vec::new(),
            extents: Vec::new(),
            origins: HashMap::new(),
            functions: Functions::new(functions)?,
            packed_sites: BTreeMap::new(),
            sparse: BTreeMap::new(),
            packed_nodes: HashSet::new(),
            expands_unpackers: false,
            defaults: HashSet::new(),
            sites: HashMap::new(),
            frames: Vec::new(),
            unfolded: 0,
        })
    }

    pub(super) fn main_graph(&mut self, message: &Bytes, opsets: &Opsets) -> Result<Graph> {
        let context = Context { opsets, attrs: None, depth: 0, prefix: "" };
        self.graph(message, &FieldPath(vec![(7, 0)]), &context)
    }

    /// The constants that `Constant` nodes hold as numbers or strings, each with the place of the attribute.
    pub(super) fn number_attributes(&self) -> BTreeMap<TensorId, FieldPath> {
        let is_attribute = |place: &FieldPath| matches!(place.0[..], [.., (1 | 7, _), (5, _)]);
        let in_message = |id: TensorId| self.places[id.0 as usize].is_some();
        let found = self.origins.iter().filter(|(place, id)| is_attribute(place) && !in_message(**id));
        found.map(|(place, &id)| (id, place.clone())).collect()
    }

    /// The names in the file of the values of a graph that was read, where they are others there.
    fn names_in_file(&mut self) -> HashMap<ValueId, Option<String>> {
        let Frame { graph, scopes, .. } = self.frame();
        let names = &scopes[0].values;
        let mut kept = HashMap::new();
        for (id, value) in (0..).map(ValueId).zip(&graph.values) {
            if names.get(&value.name) != Some(&id) {
                kept.insert(id, None);
            }
        }
        for (name, id) in names {
            if let Some(known) = kept.get_mut(id) {
                let first = known.take().into_iter().chain([name.clone()]).min();
                *known = first;
            }
        }
        kept
    }

    /// Accounts for memory that the file's size does not bound.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<()> {
        self.unfolded = self.unfolded.saturating_add(bytes);
        if self.unfolded > MAX_UNFOLDED {
            return Err(Error::unsupported(format!(
                "the file unfolds to more than {} MiB: functions that call each other, sparse tensors or \
                 nested graphs",
                MAX_UNFOLDED >> 20
            )));
        }
        Ok(())
    }

    /// The path of a tensor, or the name of a value in a function: its name behind the way there.
    pub(super) fn path(&mut self, context: &Context<'_>, name: &str) -> Result<String> {
        self.charge(context.prefix.len() + name.len())?;
        Ok(format!("{}{name}", context.prefix))
    }

    pub(super) fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("a frame is pushed before nodes are read")
    }

    pub(super) fn scope(&mut self) -> &mut Scope {
        self.frame().scopes.last_mut().expect("a frame has a scope")
    }

    pub(super) fn new_value(&mut self, value: Value) -> ValueId {
        let values = &mut self.frame().graph.values;
        values.push(value);
        ValueId(values.len() as u32 - 1)
    }

    pub(super) fn bind(&mut self, name: &str, id: ValueId) {
        self.scope().values.insert(name.to_string(), id);
    }

    /// The value a name refers to, taken from the enclosing graphs where needed.
    pub(super) fn resolve(&mut self, name: &str) -> Option<ValueId> {
        self.resolve_at(self.frames.len() - 1, name)
    }

    fn resolve_at(&mut self, depth: usize, name: &str) -> Option<ValueId> {
        let frame = &self.frames[depth];
        if let Some(&id) = frame.scopes.last().and_then(|scope| scope.values.get(name)) {
            return Some(id);
        }
        // A function body sees nothing of the graph it is called in.
        if depth == 0 || frame.scopes.len() > 1 {
            return None;
        }
        let outer = self.resolve_at(depth - 1, name)?;
        let outer_graph = &self.frames[depth - 1].graph;
        let value = outer_graph.values[outer.index()].clone();
        let constant = outer_graph.constants.get(&outer).copied();
        let frame = &mut self.frames[depth];
        frame.graph.values.push(value);
        let id = ValueId(frame.graph.values.len() as u32 - 1);
        match constant {
            Some(tensor) => {
                frame.graph.constants.insert(id, tensor);
                frame.constants.insert(tensor, id);
            }
            None => frame.graph.captures.push(id),
        }
        frame.scopes[0].values.insert(name.to_string(), id);
        Some(id)
    }

    /// Adds a tensor, once for each place that holds elements.
    pub(super) fn add_tensor(&mut self, constant: Constant) -> Result<TensorId> {
        let Constant { tensor, extent, origin, changeable } = constant;
        if let Some(&known) = origin.as_ref().and_then(|origin| self.origins.get(origin)) {
            return Ok(known);
        }
        if self.tensors.contains_key(&tensor.path) {
            return Err(Error::input("two constant tensors have this name").at_tensor(&tensor.path));
        }
        let id = TensorId(self.tensors.len() as u32);
        if let Some(origin) = &origin {
            self.origins.insert(origin.clone(), id);
        }
        self.places.push(origin.filter(|_| changeable));
        self.extents.push(extent);
        self.tensors.insert(tensor.path.clone(), tensor);
        Ok(id)
    }

    /// Adds the tensor of a tensor message.
    pub(super) fn tensor(&mut self, message: &Bytes, path: String, place: FieldPath) -> Result<TensorId> {
        if let Some(&known) = self.origins.get(&place) {
            return Ok(known);
        }
        let (tensor, extent) = stored(message, path.clone(), &mut self.external).at_tensor(&path)?;
        self.add_tensor(Constant { tensor, extent, origin: Some(place), changeable: true })
    }

    /// Gives a tensor a name in the current graph.
    pub(super) fn constant(&mut self, name: &str, tensor: TensorId) {
        let id = match self.frame().constants.get(&tensor) {
            Some(&id) => id,
            None => {
                let stored = &self.tensors[tensor.0 as usize];
                let value = Value {
                    name: stored.path.clone(),
                    dtype: Some(stored.dtype),
                    shape: Some(stored.shape.iter().map(|&d| Dim::Known(d)).collect()),
                };
                let id = self.new_value(value);
                let frame = self.frame();
                frame.graph.constants.insert(id, tensor);
                frame.constants.insert(tensor, id);
                id
            }
        };
        self.bind(name, id);
    }

    pub(super) fn graph(
        &mut self,
        message: &Bytes,
        place: &FieldPath,
        context: &Context<'_>,
    ) -> Result<Graph> {
        check_depth(context)?;
        let proto: GraphProto = decode(message)?;
        let graph = Graph { name: proto.name.clone().unwrap_or_default(), ..Graph::default() };
        let scopes = vec![Scope::default()];
        self.frames.push(Frame { graph, scopes, constants: HashMap::new(), nodes: Vec::new() });

        let calls = match self.frames.len() {
            1 => Calls::find(&proto, context.opsets, &self.functions)?,
            _ => Calls::default(),
        };
        for (i, initializer) in proto.initializer.iter().enumerate() {
            if let Some(call) = calls.by_values.get(&i) {
                self.packed(call, &proto.initializer, place, context)?;
            }
            if calls.parts.contains(&i) {
                continue;
            }
            let name = tensor_name(initializer).at(|| format!("initializer {i}"))?;
            let path = self.initializer_path(i, &name, context)?;
            let tensor = self.tensor(initializer, path, place.then(5, i))?;
            self.constant(&name, tensor);
        }
        for (i, sparse) in proto.sparse_initializer.iter().enumerate() {
            let (name, tensor) = self.sparse(sparse, place.then(15, i), |builder, name| {
                builder.initializer_path(i, name, context)
            })?;
            self.constant(&name, tensor);
        }
        for input in &proto.input {
            self.graph_input(input)?;
        }
        let infos = proto.value_info.into_iter().chain(proto.output.iter().cloned());
        let declared: Declared = infos.map(|mut info| (info.name.take().unwrap_or_default(), info)).collect();
        self.nodes(&proto.node, &declared, place, 1, context)?;
        for output in &proto.output {
            let name = output.name.as_deref().unwrap_or_default();
            let id = self.resolve(name).ok_or_else(|| {
                Error::input(format!("output `{name}` is produced by no node, input or initializer"))
            })?;
            self.frame().graph.outputs.push(id);
        }
        let names = self.names_in_file();
        let Frame { graph, nodes, .. } = self.frames.pop().expect("pushed above");
        self.sites.insert(place.clone(), GraphSite { nodes, names });
        Ok(graph)
    }

    fn initializer_path(&mut self, index: usize, name: &str, context: &Context<'_>) -> Result<String> {
        if name.is_empty() {
            return Err(Error::input(format!("initializer {index} has no name")));
        }
        self.path(context, name)
    }

    fn graph_input(&mut self, input: &ValueInfoProto) -> Result<()> {
        let value = value_of(input, input.name.clone().unwrap_or_default());
        let known = self.scope().values.get(&value.name).copied();
        // An initializer listed as an input gives the input's default: a constant here.
        if let Some(tensor) = known.and_then(|id| self.frame().graph.constants.get(&id).copied()) {
            self.defaults.insert(tensor);
            return Ok(());
        }
        match known {
            Some(_) => Err(Error::input(format!("two inputs of the graph are named `{}`", value.name))),
            None => {
                let name = value.name.clone();
                let id = self.new_value(value);
                self.bind(&name, id);
                self.frame().graph.inputs.push(id);
                Ok(())
            }
        }
    }

    /// Reads the nodes in `field` of the message at `place`.
    pub(super) fn nodes(
        &mut self,
        nodes: &[Bytes],
        declared: &Declared,
        place: &FieldPath,
        field: u32,
        context: &Context<'_>,
    ) -> Result<()> {
        for (i, message) in nodes.iter().enumerate() {
            let at = place.then(field, i);
            if self.packed_nodes.contains(&at) {
                continue;
            }
            let proto: NodeProto = decode(message).at(|| format!("node {i}"))?;
            let output = proto.output.iter().find(|name| !name.is_empty());
            let label = output.cloned().unwrap_or_else(|| format!("#{i}"));
            let op_type = proto.op_type.clone().unwrap_or_default();
            let shown = proto.name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| label.clone());
            // Constants of a body exist once, however often it is called.
            let size = if context.attrs.is_some() { NODE_COST + message.len() } else { 0 };
            let first = self.frame().graph.nodes.len();
            let whole = self
                .node(proto, label, size, declared, &at, context)
                .at(|| format!("node `{shown}` ({op_type})"))?;
            let frame = self.frame();
            if frame.scopes.len() == 1 {
                let made = frame.graph.nodes.len() - first;
                frame.nodes.extend(std::iter::repeat_n(NodeSite { index: i as u32, whole }, made));
            }
        }
        Ok(())
    }

    /// Reads a node; true where it becomes one node of the graph, false where it becomes several or none.
    fn node(
        &mut self,
        proto: NodeProto,
        label: String,
        size: usize,
        declared: &Declared,
        place: &FieldPath,
        context: &Context<'_>,
    ) -> Result<bool> {
        let op_type = proto.op_type.clone().unwrap_or_default();
        if op_type.is_empty() {
            return Err(Error::input("the node names no operator"));
        }
        let domain = normal_domain(proto.domain.as_deref().unwrap_or_default()).to_string();
        if op_type == "Constant" && domain.is_empty() && self.constant_node(&proto, place, context)? {
            return Ok(false);
        }
        self.charge(size)?;
        let inputs = self.node_inputs(&proto)?;
        let attrs = self.node_attrs(&proto, &label, place, context)?;
        let overload = proto.overload.as_deref().unwrap_or_default();
        if let Some(function) = self.functions.find(&domain, &op_type, overload) {
            self.call(&function, &proto, &inputs, attrs, &label, declared, context)?;
            return Ok(false);
        }
        let opset = match context.opsets.get(&domain) {
            Some(&version) => version,
            None if domain.is_empty() => {
                return Err(Error::input(
                    "the file imports no operator set for the default domain, so the meaning of its \
                     operators is open; set `opset_import` to the version it was exported for",
                ));
            }
            None => 1,
        };
        let mut outputs = Vec::with_capacity(proto.output.len());
        for name in &proto.output {
            outputs.push(match name.is_empty() {
                true => None,
                false => Some(self.output(name, declared, context)?),
            });
        }
        let node = Node {
            module: module_path(&proto),
            name: proto.name.unwrap_or_default(),
            op_type,
            domain,
            opset,
            inputs,
            outputs,
            attrs,
            fallback_label: label,
        };
        let ranks: Vec<Option<usize>> = {
            let values = &self.frame().graph.values;
            let rank = |id: &ValueId| values[id.index()].shape.as_ref().map(Vec::len);
            node.inputs.iter().map(|id| id.as_ref().and_then(rank)).collect()
        };
        let expansion = expand(&node, &ranks)?;
        let whole = expansion.is_none();
        match expansion {
            Some(expansion) => self.expand(&node, expansion),
            None => self.frame().graph.nodes.push(node),
        }
        Ok(whole)
    }

    /// The values that a node's inputs name.
    fn node_inputs(&mut self, proto: &NodeProto) -> Result<Vec<Option<ValueId>>> {
        let mut inputs = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            inputs.push(match self.resolve(name) {
                Some(id) => Some(id),
                None if name.is_empty() || self.scope().missing.contains(name) => None,
                None => {
                    return Err(Error::input(format!(
                        "input `{name}` is produced by no earlier node, input or initializer"
                    )));
                }
            });
        }
        Ok(inputs)
    }

    /// The attributes of a node, those that a function's caller gives among them.
    fn node_attrs(
        &mut self,
        proto: &NodeProto,
        label: &str,
        place: &FieldPath,
        context: &Context<'_>,
    ) -> Result<IndexMap<String, Attr>> {
        let mut attrs = IndexMap::with_capacity(proto.attribute.len());
        for (j, message) in proto.attribute.iter().enumerate() {
            let attribute: AttributeProto = decode(message).at(|| format!("attribute {j}"))?;
            let name = attribute.name.clone().unwrap_or_default();
            let attr = match attribute.ref_attr_name.as_deref().filter(|outer| !outer.is_empty()) {
                Some(outer) => self.outer_attr(outer, context)?,
                None => {
                    let attr = self.attr(attribute, &place.then(5, j), (label, &name), context);
                    Some(attr.at(|| format!("attribute `{name}`"))?)
                }
            };
            if let Some(attr) = attr
                && attrs.insert(name.clone(), attr).is_some()
            {
                return Err(Error::input(format!("attribute `{name}` is given twice")));
            }
        }
        Ok(attrs)
    }

    /// Replaces a node by those it is expanded into.
    fn expand(&mut self, node: &Node, expansion: Expansion) {
        let Expansion { parts, main } = expansion;
        let last = parts.len() - 1;
        let mut made: Vec<Vec<Option<ValueId>>> = Vec::with_capacity(parts.len());
        for (i, part) in parts.into_iter().enumerate() {
            let fallback_label = format!("{}::{}_{i}", node.label(), part.op_type);
            let outputs: Vec<Option<ValueId>> = if i == last {
                node.outputs.clone()
            } else {
                let name = |k: usize| match part.outputs {
                    1 => fallback_label.clone(),
                    _ => format!("{fallback_label}_{k}"),
                };
                let values = (0..part.outputs).map(|k| Value { name: name(k), ..Value::default() });
                values.map(|value| Some(self.new_value(value))).collect()
            };
            let source = |source: &Source| match *source {
                Source::Nothing => None,
                Source::Input(index) => node.inputs.get(index).copied().flatten(),
                Source::Part { part, output } => made[part][output],
            };
            let expanded = Node {
                name: if i == main { node.name.clone() } else { String::new() },
                op_type: part.op_type.to_string(),
                domain: String::new(),
                opset: part.opset,
                inputs: part.inputs.iter().map(source).collect(),
                outputs: outputs.clone(),
                attrs: part.attrs.into_iter().collect(),
                module: node.module.clone(),
                fallback_label: if i == main { node.fallback_label.clone() } else { fallback_label },
            };
            made.push(outputs);
            self.frame().graph.nodes.push(expanded);
        }
    }

    /// A new value that a node or a call produces.
    pub(super) fn output(
        &mut self,
        name: &str,
        declared: &Declared,
        context: &Context<'_>,
    ) -> Result<ValueId> {
        self.check_unbound(name)?;
        let shown = self.value_name(name, context)?;
        let value = match declared.get(name) {
            Some(info) => value_of(info, shown),
            None => Value { name: shown, ..Value::default() },
        };
        let id = self.new_value(value);
        self.bind(name, id);
        Ok(id)
    }

    pub(super) fn check_unbound(&mut self, name: &str) -> Result<()> {
        match self.scope().values.contains_key(name) {
            true => Err(Error::input(format!("`{name}` is produced twice"))),
            false => Ok(()),
        }
    }

    /// The name of a value: as in the file, inside functions behind the way there.
    pub(super) fn value_name(&mut self, name: &str, context: &Context<'_>) -> Result<String> {
        match self.frame().scopes.len() {
            1 => Ok(name.to_string()),
            _ => self.path(context, name),
        }
    }
}

/// Checks how deep graphs and calls nest.
pub(super) fn check_depth(context: &Context<'_>) -> Result<()> {
    if context.depth > MAX_DEPTH {
        return Err(Error::unsupported(format!(
            "graphs and functions nest more than {MAX_DEPTH} deep (do functions call each other in a circle?)"
        )));
    }
    Ok(())
}

/// A value as declared. What is no dense tensor (sequences, optionals, maps) is carried without a type.
pub(super) fn value_of(info: &ValueInfoProto, name: String) -> Value {
    let tensor = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    Value {
        name,
        dtype: tensor.and_then(|t| t.elem_type).and_then(DType::from_onnx),
        shape: tensor.and_then(|t| t.shape.as_ref()).filter(|s| s.dim.len() <= MAX_RANK).map(|s| {
            s.dim
                .iter()
                .map(|d| match (&d.dim_value, &d.dim_param) {
                    (Some(v), _) => usize::try_from(*v).map_or(Dim::Unknown, Dim::Known),
                    (None, Some(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
                    _ => Dim::Unknown,
                })
                .collect()
        }),
    }
}
