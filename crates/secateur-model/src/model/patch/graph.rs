//! Changes of graphs: what they are. [`Patch::apply`] makes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{AddedTensor, LazyTensor, Patch, Rule, of_form};
use crate::graph::{Dim, Value};
use crate::{Attr, DType, Error, Graph, Model, Node, NodeId, Result, ResultExt, Tensor, TensorId, ValueId};

/// Where a graph is in a model. Each step names a node, its attribute, and the position among the graphs of the
/// attribute (0 where it holds one). The main graph's path is empty.
pub type GraphPath = Vec<(NodeId, String, usize)>;

/// The changes of one graph.
#[derive(Clone, Default)]
pub(super) struct GraphChanges {
    /// Values that are added: their ids follow those of the model's graph.
    pub(super) values: Vec<Value>,
    /// Values that become constants: each with its position among the added tensors.
    pub(super) constants: BTreeMap<ValueId, usize>,
    /// Added values that stand for values of the enclosing graph.
    pub(super) captures: Vec<ValueId>,
    pub(super) nodes: BTreeMap<NodeId, NodeChange>,
    /// Nodes that are inserted before the node with an index, or last.
    pub(super) inserted: BTreeMap<u32, Vec<(Node, Rule)>>,
    pub(super) declared: BTreeMap<ValueId, Declared>,
    pub(super) inputs: Vec<ValueId>,
    pub(super) outputs: Vec<ValueId>,
    /// Outputs that are no longer outputs.
    pub(super) internal: Vec<ValueId>,
    /// The rule of the last change.
    pub(super) rule: Rule,
}

/// What a patch says of a value's type and shape.
#[derive(Clone)]
pub(super) struct Declared {
    pub(super) dtype: Option<DType>,
    pub(super) shape: Option<Vec<Dim>>,
    pub(super) rule: Rule,
}

/// The changes of one node.
#[derive(Clone, Default)]
pub(crate) struct NodeChange {
    pub(super) rule: Rule,
    pub(super) removed: bool,
    pub(super) replacement: Vec<Node>,
    pub(crate) inputs: BTreeMap<usize, Option<ValueId>>,
    /// Attributes that are set, and (`None`) removed.
    pub(crate) attrs: BTreeMap<String, Option<Attr>>,
}

impl GraphChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
            && self.constants.is_empty()
            && self.nodes.is_empty()
            && self.inserted.is_empty()
            && self.declared.is_empty()
            && !self.changes_interface()
    }

    /// Whether the graph gets other inputs or outputs.
    pub(super) fn changes_interface(&self) -> bool {
        !self.inputs.is_empty() || !self.outputs.is_empty() || !self.internal.is_empty()
    }
}

/// A path of [`Patch::set_graph`] in words.
pub(super) fn shown(path: &GraphPath) -> String {
    let step = |(node, attr, index): &(NodeId, String, usize)| match index {
        0 => format!("attribute `{attr}` of node {}", node.0),
        _ => format!("graph {index} of attribute `{attr}` of node {}", node.0),
    };
    path.iter().rev().map(step).collect::<Vec<_>>().join(" in ")
}

impl Model {
    /// The main graph, or a graph nested in it.
    ///
    /// # Errors
    /// Where the model has no graph, or none at the path.
    pub fn graph_at(&self, path: &GraphPath) -> Result<&Graph> {
        path.iter().try_fold(self.graph()?, |graph, (node, attr, index)| {
            let node = graph.nodes.get(node.0 as usize);
            let nested = node.and_then(|node| node.attrs.get(attr)?.graphs().get(*index));
            nested.ok_or_else(|| Error::input(format!("the model has no nested graph in {}", shown(path))))
        })
    }
}

/// Changes of graphs. Ids of nodes and values are those of the graph that [`Patch::set_graph`] names.
impl Patch {
    /// Names the graph that changes of nodes and values belong to from here on; at first it is the main graph.
    pub fn set_graph(&mut self, path: impl Into<GraphPath>) {
        self.path = path.into();
    }

    fn changes(&mut self) -> &mut GraphChanges {
        let changes = self.graphs.entry(self.path.clone()).or_default();
        changes.rule.clone_from(&self.rule);
        changes
    }

    /// The changes of a graph; `None` where it has none.
    pub(super) fn changes_of(&self, path: &GraphPath) -> Option<&GraphChanges> {
        self.graphs.get(path).filter(|changes| !changes.is_empty())
    }

    fn node(&mut self, node: NodeId) -> &mut NodeChange {
        let rule = self.rule.clone();
        let change = self.changes().nodes.entry(node).or_default();
        change.rule = rule;
        change
    }

    /// A name that no value of the model or of the patch has: this one, or with a number appended.
    ///
    /// # Errors
    /// Where the model has no graph.
    pub fn fresh_name(&mut self, model: &Model, name: &str) -> Result<String> {
        if self.names.is_empty() {
            self.names = model.graph()?.names();
        }
        let numbered = (2u64..).map(|number| format!("{name}_{number}"));
        let mut names = std::iter::once(name.to_string()).chain(numbered);
        let free = names.find(|name| !name.is_empty() && !self.names.contains(name)).unwrap_or_default();
        self.names.insert(free.clone());
        Ok(free)
    }

    fn push_value(&mut self, model: &Model, value: Value) -> Result<ValueId> {
        let known = model.graph_at(&self.path)?.values.len();
        let values = &mut self.changes().values;
        values.push(value);
        Ok(ValueId((known + values.len() - 1) as u32))
    }

    /// Adds a value for a new node to produce. Where a value of the model has the name, a number is appended to it.
    ///
    /// # Errors
    /// Those of [`Model::graph_at`].
    pub fn add_value(&mut self, model: &Model, name: &str) -> Result<ValueId> {
        let name = self.fresh_name(model, name)?;
        self.push_value(model, Value { name, ..Value::default() })
    }

    /// Adds an input to the main graph, named as [`Patch::add_value`] says.
    ///
    /// # Errors
    /// Those of [`Model::graph_at`].
    pub fn add_input(&mut self, model: &Model, name: &str, dtype: DType, shape: Vec<Dim>) -> Result<ValueId> {
        let value = self.add_value(model, name)?;
        self.declare(value, Some(dtype), Some(shape));
        self.changes().inputs.push(value);
        Ok(value)
    }

    /// Makes a value an output of the main graph, the last one. Its type and shape are as declared, or as inferred.
    pub fn add_output(&mut self, value: ValueId) {
        self.changes().outputs.push(value);
    }

    /// Makes an output of the main graph an internal value.
    pub fn remove_output(&mut self, value: ValueId) {
        self.changes().internal.push(value);
    }

    /// The value of a nested graph that stands for a value of the graph around it.
    ///
    /// # Errors
    /// Those of [`Model::graph_at`]; `Input` where the graph is the main one, or the graph around it lacks the value.
    pub fn capture(&mut self, model: &Model, outer: ValueId) -> Result<ValueId> {
        let (path, graph) = (self.path.clone(), model.graph_at(&self.path)?);
        let Some((_, around)) = path.split_last() else {
            return Err(Error::input("the main graph captures no values"));
        };
        let around = around.to_vec();
        let enclosing = &model.graph_at(&around)?.values;
        let added = self.graphs.get(&around).map_or(&[][..], |changes| &changes.values);
        let Some(value) = enclosing.iter().chain(added).nth(outer.index()).cloned() else {
            return Err(Error::input(format!("the graph around it has no value {}", outer.0)));
        };
        let own = self.graphs.get(&path).map_or(&[][..], |changes| &changes.values);
        let known = graph.values.iter().chain(own).position(|known| known.name == value.name);
        if let Some(known) = known {
            return Ok(ValueId(known as u32));
        }
        let id = self.push_value(model, value)?;
        self.changes().captures.push(id);
        Ok(id)
    }

    /// Adds a constant, named as [`Patch::add_value`] says.
    ///
    /// # Errors
    /// Those of [`Model::graph_at`].
    pub fn add_constant(&mut self, model: &Model, name: &str, tensor: Tensor) -> Result<ValueId> {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        self.add_lazy_constant(model, name, dtype, shape, Arc::new(move || Ok(tensor.clone())))
    }

    /// Adds a constant that is computed each time it is needed, named as [`Patch::add_value`] says.
    ///
    /// # Errors
    /// Those of [`Model::graph_at`].
    pub fn add_lazy_constant(
        &mut self,
        model: &Model,
        name: &str,
        dtype: DType,
        shape: Vec<usize>,
        make: LazyTensor,
    ) -> Result<ValueId> {
        let value = self.add_value(model, name)?;
        let path = self.changes().values.last().map(|value| value.name.clone()).unwrap_or_default();
        self.make_constant(value, path, dtype, shape, make);
        Ok(value)
    }

    /// Makes a value a constant. No node may produce it then; the tensor gets the path `path`.
    pub fn make_constant(
        &mut self,
        value: ValueId,
        path: String,
        dtype: DType,
        shape: Vec<usize>,
        make: LazyTensor,
    ) {
        let index = self.added.len();
        self.changes().constants.insert(value, index);
        self.added.push(AddedTensor { path, dtype, shape, make, after: None, rule: self.rule.clone() });
    }

    /// Gives a node another tensor for a constant input. A constant with other uses stays, and the node gets its own.
    ///
    /// # Errors
    /// `Input` where the graph has no such node, or the input is no constant.
    pub fn set_constant(&mut self, model: &Model, node: NodeId, input: usize, tensor: Tensor) -> Result<()> {
        let graph = model.graph_at(&self.path)?;
        let found = graph.nodes.get(node.0 as usize);
        let found = found.ok_or_else(|| Error::input(format!("the graph has no node {}", node.0)))?;
        let value = found.inputs.get(input).copied().flatten();
        let Some(&id) = value.and_then(|value| graph.constants.get(&value)) else {
            return Err(Error::input(format!("input {input} is no constant"))).at_node(found);
        };
        if uses(model.graph()?, id) > 1 {
            let own = self.add_constant(model, &model.tensor(id).path, tensor)?;
            self.rewire(node, input, Some(own));
        } else {
            self.replace(id, tensor);
        }
        Ok(())
    }

    /// Sets an attribute.
    pub fn set_attr(&mut self, node: NodeId, name: &str, attr: Attr) {
        self.node(node).attrs.insert(name.to_string(), Some(attr));
    }

    /// Removes an attribute.
    pub fn remove_attr(&mut self, node: NodeId, name: &str) {
        self.node(node).attrs.insert(name.to_string(), None);
    }

    /// Gives a node another value for an input; `None` leaves an optional one out.
    pub fn rewire(&mut self, node: NodeId, input: usize, value: Option<ValueId>) {
        self.node(node).inputs.insert(input, value);
    }

    /// Gives each node of the graph that uses a value another one. The graph's outputs stay, and so does what nested
    /// graphs capture.
    ///
    /// # Errors
    /// Those of [`Model::graph_at`].
    pub fn redirect(&mut self, model: &Model, from: ValueId, to: ValueId) -> Result<()> {
        let consumers = model.graph_at(&self.path)?.consumers();
        for (node, input) in consumers.into_iter().nth(from.index()).into_iter().flatten() {
            self.rewire(node, input, Some(to));
        }
        Ok(())
    }

    /// Removes a node. Its outputs must be unused, or produced by other nodes of the patch.
    pub fn remove_node(&mut self, node: NodeId) {
        self.node(node).removed = true;
    }

    /// Replaces a node by others, which may produce its outputs.
    pub fn replace_node(&mut self, node: NodeId, by: impl IntoIterator<Item = Node>) {
        let change = self.node(node);
        change.removed = true;
        change.replacement = by.into_iter().collect();
    }

    /// Inserts a node before another one. An operator set of version 0 stands for that of the main graph's nodes.
    pub fn insert_before(&mut self, node: NodeId, new: Node) {
        self.insert_at(node.0, new);
    }

    /// Inserts a node after another one.
    pub fn insert_after(&mut self, node: NodeId, new: Node) {
        self.insert_at(node.0.saturating_add(1), new);
    }

    fn insert_at(&mut self, index: u32, new: Node) {
        let rule = self.rule.clone();
        self.changes().inserted.entry(index).or_default().push((new, rule));
    }

    /// Declares the type and shape of a value, such as an input of the graph; `None` keeps what is declared.
    pub fn declare(&mut self, value: ValueId, dtype: Option<DType>, shape: Option<Vec<Dim>>) {
        let rule = self.rule.clone();
        self.changes().declared.insert(value, Declared { dtype, shape, rule });
    }

    /// Whether nodes or values of a graph change.
    pub fn changes_graph(&self) -> bool {
        self.graphs.values().any(|changes| !changes.is_empty())
    }

    /// The tensor that was added at a position.
    ///
    /// # Errors
    /// Those of whoever computes it, and where it comes out with another type or shape.
    pub(crate) fn load_added(&self, index: usize) -> Result<Tensor> {
        let added = &self.added[index];
        (added.make)().and_then(|tensor| of_form(tensor, added.dtype, &added.shape)).at_tensor(&added.path)
    }

    /// The changes of a node of a graph.
    pub(crate) fn of_node(&self, path: &GraphPath, node: NodeId) -> Option<&NodeChange> {
        self.graphs.get(path)?.nodes.get(&node)
    }

    /// The values of a graph that become constants, each with its position among the added tensors.
    pub(crate) fn new_constants(&self, path: &GraphPath) -> impl Iterator<Item = (ValueId, usize)> + '_ {
        let changes = self.graphs.get(path);
        changes
            .into_iter()
            .flat_map(|changes| changes.constants.iter().map(|(&value, &index)| (value, index)))
    }

    /// The values of a graph whose type or shape the patch declares.
    pub(crate) fn declared(&self, path: &GraphPath) -> impl Iterator<Item = ValueId> + '_ {
        self.graphs.get(path).into_iter().flat_map(|changes| changes.declared.keys().copied())
    }

    /// The new inputs of the main graph, its new outputs, and those that are outputs no longer.
    pub(crate) fn interface(&self) -> [&[ValueId]; 3] {
        let main = self.graphs.get(&GraphPath::new());
        main.map_or([&[]; 3], |changes| [&changes.inputs[..], &changes.outputs, &changes.internal])
    }

    /// The rule by which a tensor is removed or changed.
    pub(super) fn rule_of(&self, id: TensorId) -> Rule {
        self.removed.get(&id).cloned().or_else(|| self.tensors.get(&id).map(|change| change.rule.clone()))?
    }
}

/// How many inputs of nodes and outputs of graphs a tensor is, those of nested graphs included.
fn uses(graph: &Graph, id: TensorId) -> usize {
    let inputs = graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten());
    let own = inputs.chain(&graph.outputs).filter(|value| graph.constants.get(*value) == Some(&id)).count();
    let nested = graph.nodes.iter().flat_map(Node::graphs).map(|(_, nested)| uses(nested, id));
    own + nested.sum::<usize>()
}
