//! Changes of a graph: what they are. [`Patch::apply`] makes them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{AddedTensor, LazyTensor, Patch, Rule, of_form};
use crate::graph::{Dim, Value};
use crate::{Attr, DType, Error, Graph, Model, Node, NodeId, Result, ResultExt, Tensor, TensorId, ValueId};

/// The changes of the main graph.
#[derive(Clone, Default)]
pub(super) struct GraphChanges {
    /// Values that are added: their ids follow those of the model's graph.
    pub(super) values: Vec<Value>,
    /// Values that are constants: each with its position among the added tensors.
    pub(super) constants: BTreeMap<ValueId, usize>,
    pub(super) nodes: BTreeMap<NodeId, NodeChange>,
    /// Nodes that come in front of the node with an index, or last.
    pub(super) inserted: BTreeMap<u32, Vec<(Node, Rule)>>,
    pub(super) declared: BTreeMap<ValueId, Declared>,
    /// The names that are taken, once they are needed.
    names: HashSet<String>,
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
    /// Attributes that are set, and (`None`) taken away.
    pub(crate) attrs: BTreeMap<String, Option<Attr>>,
}

impl GraphChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
            && self.nodes.is_empty()
            && self.inserted.is_empty()
            && self.declared.is_empty()
    }

    /// A name that no value has: this one, or with a number behind it.
    fn fresh(&mut self, graph: &Graph, name: &str) -> String {
        if self.names.is_empty() {
            self.names = graph.names();
        }
        let numbered = (2u64..).map(|number| format!("{name}_{number}"));
        let mut names = std::iter::once(name.to_string()).chain(numbered);
        let free = names.find(|name| !name.is_empty() && !self.names.contains(name)).unwrap_or_default();
        self.names.insert(free.clone());
        free
    }
}

/// Changes of the main graph. Nodes in nested graphs stay as they are; their constants can change.
impl Patch {
    fn node(&mut self, node: NodeId) -> &mut NodeChange {
        let change = self.graph.nodes.entry(node).or_default();
        change.rule.clone_from(&self.rule);
        change
    }

    /// Adds a value for a new node to produce. It gets this name, with a number behind it where the graph has the name.
    pub fn add_value(&mut self, graph: &Graph, name: &str) -> ValueId {
        let name = self.graph.fresh(graph, name);
        self.graph.values.push(Value { name, ..Value::default() });
        ValueId((graph.values.len() + self.graph.values.len() - 1) as u32)
    }

    /// Adds a constant, named as [`Patch::add_value`] says.
    pub fn add_constant(&mut self, graph: &Graph, name: &str, tensor: Tensor) -> ValueId {
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        self.add_lazy_constant(graph, name, dtype, shape, Arc::new(move || Ok(tensor.clone())))
    }

    /// Adds a constant that is computed each time it is asked for, named as [`Patch::add_value`] says.
    pub fn add_lazy_constant(
        &mut self,
        graph: &Graph,
        name: &str,
        dtype: DType,
        shape: Vec<usize>,
        make: LazyTensor,
    ) -> ValueId {
        let value = self.add_value(graph, name);
        let path = self.graph.values[value.index() - graph.values.len()].name.clone();
        self.graph.constants.insert(value, self.added.len());
        self.added.push(AddedTensor { path, dtype, shape, make, after: None, rule: self.rule.clone() });
        value
    }

    /// Gives a node another tensor for a constant input: in the constant's place where nothing else uses it, else as
    /// a constant of its own.
    ///
    /// # Errors
    /// `Input` where the model has no such node, or the input is no constant.
    pub fn set_constant(&mut self, model: &Model, node: NodeId, input: usize, tensor: Tensor) -> Result<()> {
        let graph = model.graph()?;
        let found = graph.nodes.get(node.0 as usize);
        let found = found.ok_or_else(|| Error::input(format!("the graph has no node {}", node.0)))?;
        let value = found.inputs.get(input).copied().flatten();
        let constant = value.and_then(|value| Some((value, *graph.constants.get(&value)?)));
        let Some((value, id)) = constant else {
            return Err(Error::input(format!("input {input} is no constant"))).at_node(found);
        };
        let uses =
            graph.nodes.iter().flat_map(|node| &node.inputs).filter(|&&used| used == Some(value)).count();
        let shared = uses > 1
            || graph.outputs.contains(&value)
            || graph.nodes.iter().flat_map(Node::captures).any(|name| name == graph.value_name(value));
        if shared {
            let own = self.add_constant(graph, &model.tensor(id).path, tensor);
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

    /// Takes an attribute away.
    pub fn remove_attr(&mut self, node: NodeId, name: &str) {
        self.node(node).attrs.insert(name.to_string(), None);
    }

    /// Gives a node another value for an input; `None` leaves an optional one out.
    pub fn rewire(&mut self, node: NodeId, input: usize, value: Option<ValueId>) {
        self.node(node).inputs.insert(input, value);
    }

    /// Gives each node that uses a value another one. The graph's outputs and what nested graphs use by name stay.
    pub fn redirect(&mut self, graph: &Graph, from: ValueId, to: ValueId) {
        for (node, input) in graph.consumers().into_iter().nth(from.index()).into_iter().flatten() {
            self.rewire(node, input, Some(to));
        }
    }

    /// Removes a node. What it produced is produced by another one then, or used by none.
    pub fn remove_node(&mut self, node: NodeId) {
        self.node(node).removed = true;
    }

    /// Puts nodes in the place of one; they may produce its outputs.
    pub fn replace_node(&mut self, node: NodeId, by: impl IntoIterator<Item = Node>) {
        let change = self.node(node);
        change.removed = true;
        change.replacement = by.into_iter().collect();
    }

    /// Inserts a node in front of another one. A version of 0 is the one of the graph's other nodes.
    pub fn insert_before(&mut self, node: NodeId, new: Node) {
        self.insert_at(node.0, new);
    }

    /// Inserts a node behind another one.
    pub fn insert_after(&mut self, node: NodeId, new: Node) {
        self.insert_at(node.0.saturating_add(1), new);
    }

    fn insert_at(&mut self, index: u32, new: Node) {
        self.graph.inserted.entry(index).or_default().push((new, self.rule.clone()));
    }

    /// Declares the type and shape of a value, such as an input of the graph; what is `None` stays.
    pub fn declare(&mut self, value: ValueId, dtype: Option<DType>, shape: Option<Vec<Dim>>) {
        self.graph.declared.insert(value, Declared { dtype, shape, rule: self.rule.clone() });
    }

    /// Whether nodes or values of the graph change.
    pub fn changes_graph(&self) -> bool {
        !self.graph.is_empty()
    }

    /// The tensor that was added at a position.
    ///
    /// # Errors
    /// Those of whoever computes it, and where it comes out with another type or shape.
    pub(crate) fn load_added(&self, index: usize) -> Result<Tensor> {
        let added = &self.added[index];
        (added.make)().and_then(|tensor| of_form(tensor, added.dtype, &added.shape)).at_tensor(&added.path)
    }

    /// The changes of a node.
    pub(crate) fn of_node(&self, node: NodeId) -> Option<&NodeChange> {
        self.graph.nodes.get(&node)
    }

    /// Whether a tensor with this id is left out or changed, and by which rule.
    pub(super) fn rule_of(&self, id: TensorId) -> Rule {
        self.removed.get(&id).cloned().or_else(|| self.tensors.get(&id).map(|change| change.rule.clone()))?
    }
}
