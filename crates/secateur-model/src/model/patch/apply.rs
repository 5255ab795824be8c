//! The model with a patch in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::IndexMap;

use super::{AddedTensor, Edit, Patch, Rule, of_form, unpacked};
use crate::graph::{Dim, Value};
use crate::model::{Model, Source, Storage};
use crate::{
    Attr, Error, ErrorKind, Graph, Node, NodeId, Result, ResultExt, StoredTensor, TensorId, ValueId,
};

/// A patched model, and where its parts come from.
pub(crate) struct Applied {
    pub(crate) model: Model,
    /// The node of the unpatched model that each node is; `None` for new ones.
    pub(crate) origins: Vec<Option<NodeId>>,
    /// The added tensors that the graph has as constants: each with its position among the added ones.
    pub(crate) constants: BTreeMap<TensorId, usize>,
    /// The new ids of the model's tensors.
    ids: Vec<Option<TensorId>>,
    /// The rule that made or changed each node.
    pub(super) node_rules: Vec<Option<Rule>>,
    /// Whether a change can reach the shapes of each node; empty where none can.
    pub(crate) reached: Vec<bool>,
    /// Nodes whose nested graphs' declared shapes may not hold.
    pub(crate) undeclared: Vec<NodeId>,
}

/// The tensors of a patched model.
struct Tensors {
    tensors: IndexMap<String, StoredTensor>,
    /// The new ids of the model's tensors; `None` for those that are left out.
    ids: Vec<Option<TensorId>>,
    /// The ids of the added ones, in the patch's order.
    added: Vec<TensorId>,
}

impl Patch {
    /// The model with the changes, in memory. Tensors are shared with the unpatched model, and what is computed
    /// when asked for still is, but for packed tensors. The graph is checked by shape inference as a whole;
    /// declared shapes that do not hold any more are corrected, or left out where nothing is known.
    ///
    /// # Errors
    /// `Input` where a change names what is not there, a value is used before it is produced, or a node gets operands
    /// that contradict its meaning: with the rule, the node and the shapes. Those of packed tensors that are computed.
    pub fn apply(&self, model: &Model) -> Result<Model> {
        let mut patched = self.applied(model)?;
        let ids = patched.ids;
        for (id, change) in &self.tensors {
            if let (Edit::Packed(_, make), Some(new)) = (&change.edit, ids[id.0 as usize]) {
                let stored = &mut patched.model.tensors[new.0 as usize];
                stored.storage = Storage::Packed(make().at_tensor(&stored.path)?);
            }
        }
        Ok(patched.model)
    }

    /// As [`Patch::apply`], with what a writer needs to know, and with packed tensors computed when asked for.
    ///
    /// # Errors
    /// Those of [`Patch::apply`].
    pub(crate) fn applied(&self, model: &Model) -> Result<Applied> {
        let Tensors { tensors, ids, added } = self.changed_tensors(model)?;
        let source = Source::memory();
        let mut applied = Applied {
            model: Model { tensors, graph: None, path: model.path.clone(), source },
            origins: Vec::new(),
            constants: self.graph.constants.values().map(|&index| (added[index], index)).collect(),
            ids,
            node_rules: Vec::new(),
            reached: Vec::new(),
            undeclared: Vec::new(),
        };
        match &model.graph {
            Some(graph) => {
                self.changed_graph(model, graph, &added, &mut applied)?;
                super::check::check(self, model, graph, &mut applied)?;
            }
            None if self.changes_graph() => {
                return Err(by(Error::input("the model has no graph to change"), self.rule.as_ref()));
            }
            None => {}
        }
        Ok(applied)
    }

    fn changed_tensors(&self, model: &Model) -> Result<Tensors> {
        let count = model.tensors.len();
        let unknown = self.ids().chain(self.removed.keys().copied()).chain(self.renamed.keys().copied());
        if let Some(id) = unknown.into_iter().find(|id| id.0 as usize >= count) {
            let message = format!("the model has {count} tensors, none with the id {}", id.0);
            return Err(by(Error::input(message), self.rule_of(id).as_ref()));
        }
        let mut tensors = IndexMap::with_capacity(count + self.added.len());
        let (mut ids, mut new) = (Vec::with_capacity(count), vec![TensorId(0); self.added.len()]);
        let omitted = self.omitted(model);
        let mut insert = |stored: StoredTensor, rule: &Rule| match tensors.entry(stored.path.clone()) {
            indexmap::map::Entry::Occupied(_) => Err(by(
                Error::input("two tensors would have this path").at_tensor(&stored.path),
                rule.as_ref(),
            )),
            indexmap::map::Entry::Vacant(entry) => {
                let id = TensorId(entry.index() as u32);
                entry.insert(stored);
                Ok(id)
            }
        };
        let behind = |after: Option<TensorId>| {
            let unknown =
                move |a: &AddedTensor| after.is_none() && a.after.is_some_and(|id| id.0 as usize >= count);
            self.added.iter().enumerate().filter(move |(_, a)| a.after == after || unknown(a))
        };
        for id in (0..count as u32).map(TensorId) {
            ids.push(match omitted.contains(&id) {
                true => None,
                false => Some(insert(self.changed_tensor(model, id)?, &self.rule_of(id))?),
            });
            for (index, added) in behind(Some(id)) {
                new[index] = insert(added.stored(), &added.rule)?;
            }
        }
        for (index, added) in behind(None) {
            new[index] = insert(added.stored(), &added.rule)?;
        }
        // What is computed from parts is computed no more where a part is not there.
        for stored in tensors.values_mut() {
            if let Storage::Computed(data, parts) = &stored.storage {
                let moved: Option<Arc<[TensorId]>> = parts.iter().map(|id| ids[id.0 as usize]).collect();
                stored.storage = match moved {
                    Some(parts) => Storage::Computed(data.clone(), parts),
                    None => Storage::Data(data.clone()),
                };
            }
        }
        Ok(Tensors { tensors, ids, added: new })
    }

    fn changed_tensor(&self, model: &Model, id: TensorId) -> Result<StoredTensor> {
        let mut stored = model.tensor(id).clone();
        stored.path = self.path_of(model, id).to_string();
        let Some(change) = self.tensors.get(&id) else { return Ok(stored) };
        let (dtype, shape) = self.form(model, id);
        stored.storage = match &change.edit {
            Edit::Ready(tensor) => {
                Storage::Data(of_form(tensor.clone(), dtype, shape).at_tensor(&stored.path)?.shared())
            }
            Edit::Lazy(make) => Storage::Lazy(make.clone()),
            Edit::Packed(_, make) => {
                let make = make.clone();
                Storage::Lazy(Arc::new(move || unpacked(&make)))
            }
        };
        (stored.dtype, stored.shape) = (dtype, shape.to_vec());
        Ok(stored)
    }

    fn changed_graph(
        &self,
        model: &Model,
        graph: &Graph,
        added: &[TensorId],
        applied: &mut Applied,
    ) -> Result<()> {
        let changes = &self.graph;
        let count = graph.nodes.len();
        let beyond = changes.nodes.keys().map(|id| id.0 as usize).find(|&index| index >= count);
        let inserted = changes.inserted.keys().map(|&index| index as usize).find(|&index| index > count);
        if let Some(index) = beyond.or(inserted) {
            let message = format!("the graph has {count} nodes, none with the index {index}");
            return Err(by(Error::input(message), self.rule.as_ref()));
        }
        let nodes = self.changed_nodes(graph, applied)?;
        let mut new = Graph {
            name: graph.name.clone(),
            values: graph.values.iter().chain(&changes.values).cloned().collect(),
            inputs: graph.inputs.clone(),
            outputs: graph.outputs.clone(),
            nodes,
            constants: graph.constants.clone(),
            captures: graph.captures.clone(),
        };
        if let Some(value) = changes.constants.keys().find(|value| value.index() >= new.values.len()) {
            let message = format!("the patch was made for another graph: this one has no value {}", value.0);
            return Err(by(Error::input(message), self.rule.as_ref()));
        }
        new.constants.extend(changes.constants.iter().map(|(&value, &index)| (value, placeholder(index))));
        for (&value, declared) in &changes.declared {
            let Some(known) = new.values.get_mut(value.index()) else {
                let message = format!("the graph has no value {}", value.0);
                return Err(by(Error::input(message), declared.rule.as_ref()));
            };
            known.dtype = declared.dtype.or(known.dtype);
            known.shape = declared.shape.clone().or(known.shape.take());
        }
        let used = used_values(&new);
        let constants = std::mem::take(&mut new.constants);
        for (value, id) in constants {
            let id = match changes.constants.get(&value) {
                Some(&index) => added[index],
                None => match applied.ids.get(id.0 as usize).copied().flatten() {
                    Some(id) => id,
                    None if used.get(value.index()).is_some_and(|used| *used) => {
                        return Err(self.gone(model, &new, value, id));
                    }
                    None => continue,
                },
            };
            new.values[value.index()] =
                constant_value(&new.values[value.index()].name, applied.model.tensor(id));
            new.constants.insert(value, id);
        }
        for node in &mut new.nodes {
            let (shown, op_type) = (node.label().to_string(), node.op_type.clone());
            for nested in nested_graphs(node) {
                self.move_constants(model, nested, applied).at(|| format!("node `{shown}` ({op_type})"))?;
            }
        }
        applied.model.graph = Some(new);
        Ok(())
    }

    /// The nodes with the changes.
    fn changed_nodes(&self, graph: &Graph, applied: &mut Applied) -> Result<Vec<Node>> {
        let (changes, count) = (&self.graph, graph.nodes.len());
        let mut nodes = Vec::with_capacity(count);
        let mut push = |node: Node, origin: Option<NodeId>, rule: Option<Rule>| {
            nodes.push(node);
            applied.origins.push(origin);
            applied.node_rules.push(rule);
        };
        for index in 0..=count {
            for (node, rule) in changes.inserted.get(&(index as u32)).into_iter().flatten() {
                push(new_node(node, graph), None, Some(rule.clone()));
            }
            let Some(node) = graph.nodes.get(index) else { continue };
            let id = NodeId(index as u32);
            match changes.nodes.get(&id) {
                None => push(node.clone(), Some(id), None),
                Some(change) if change.removed => {
                    for node in &change.replacement {
                        push(new_node(node, graph), None, Some(change.rule.clone()));
                    }
                }
                Some(change) => {
                    let mut node = node.clone();
                    for (&input, &value) in &change.inputs {
                        if input >= node.inputs.len() {
                            if input > u8::MAX.into() {
                                let error = Error::input(format!("has no input {input}")).at_node(&node);
                                return Err(by(error, change.rule.as_ref()));
                            }
                            node.inputs.resize(input + 1, None);
                        }
                        node.inputs[input] = value;
                    }
                    for (name, attr) in &change.attrs {
                        match attr {
                            Some(attr) => drop(node.attrs.insert(name.clone(), attr.clone())),
                            None => drop(node.attrs.shift_remove(name)),
                        }
                    }
                    push(node, Some(id), Some(change.rule.clone()));
                }
            }
        }
        Ok(nodes)
    }

    /// A tensor that is left out and used.
    fn gone(&self, model: &Model, graph: &Graph, value: ValueId, id: TensorId) -> Error {
        let user = graph.nodes.iter().find(|node| {
            node.inputs.contains(&Some(value)) || node.captures().any(|name| name == graph.value_name(value))
        });
        let error = Error::input("is left out, but still used").at_tensor(&model.tensor(id).path);
        let error = match user {
            Some(node) => error.at_node(node),
            None => error.at("output of the graph"),
        };
        by(error, self.rule_of(id).as_ref())
    }

    /// Gives the constants of a nested graph their tensors' new ids, types and shapes.
    fn move_constants(&self, model: &Model, graph: &mut Graph, applied: &Applied) -> Result<()> {
        for (value, id) in std::mem::take(&mut graph.constants) {
            let Some(new) = applied.ids.get(id.0 as usize).copied().flatten() else {
                let path = model.tensors.get_index(id.0 as usize).map_or("", |(path, _)| path);
                let error = Error::input("is left out, but still used in a nested graph").at_tensor(path);
                return Err(by(error, self.rule_of(id).as_ref()));
            };
            let place = &mut graph.values[value.index()];
            *place = constant_value(&place.name, applied.model.tensor(new));
            graph.constants.insert(value, new);
        }
        for node in &mut graph.nodes {
            for nested in nested_graphs(node) {
                self.move_constants(model, nested, applied)?;
            }
        }
        Ok(())
    }
}

impl AddedTensor {
    fn stored(&self) -> StoredTensor {
        StoredTensor {
            path: self.path.clone(),
            dtype: self.dtype,
            shape: self.shape.clone(),
            storage: Storage::Lazy(self.make.clone()),
        }
    }
}

/// An error with the rule that is at fault.
pub(super) fn by(error: Error, rule: Option<&Arc<str>>) -> Error {
    match rule {
        Some(rule) => error.at(format!("rule `{rule}`")),
        None => error,
    }
}

/// The id under which an added constant stands until its own is known.
fn placeholder(index: usize) -> TensorId {
    TensorId(u32::MAX - index as u32)
}

fn new_node(node: &Node, graph: &Graph) -> Node {
    let mut node = node.clone();
    if node.opset == 0 {
        node.opset = graph.opset(&node.domain).or(graph.opset("")).unwrap_or(1);
    }
    if node.name.is_empty() && node.fallback_label.is_empty() {
        node.fallback_label = format!("new {}", node.op_type);
    }
    node
}

fn constant_value(name: &str, stored: &StoredTensor) -> Value {
    let shape = stored.shape.iter().map(|&extent| Dim::Known(extent)).collect();
    Value { name: name.to_string(), dtype: Some(stored.dtype), shape: Some(shape) }
}

/// The nested graphs of a node.
pub(super) fn nested_graphs(node: &mut Node) -> impl Iterator<Item = &mut Graph> {
    node.attrs.values_mut().flat_map(|attr| match attr {
        Attr::Graph(graph) => std::slice::from_mut(&mut **graph),
        Attr::Graphs(graphs) => graphs,
        _ => &mut [],
    })
}

/// Which values nodes and outputs use, nested graphs by name included.
fn used_values(graph: &Graph) -> Vec<bool> {
    let mut used = vec![false; graph.values.len()];
    let captured: std::collections::HashSet<&str> = graph.nodes.iter().flat_map(Node::captures).collect();
    if !captured.is_empty() {
        for (value, used) in graph.values.iter().zip(&mut used) {
            *used = captured.contains(value.name.as_str());
        }
    }
    for value in graph.nodes.iter().flat_map(|node| node.inputs.iter().flatten()).chain(&graph.outputs) {
        if let Some(used) = used.get_mut(value.index()) {
            *used = true;
        }
    }
    used
}

/// An error of a graph that a patch made.
pub(super) fn wrong(message: String, node: &Node, rule: Option<&Arc<str>>) -> Error {
    by(Error::new(ErrorKind::Input, message).at_node(node), rule)
}
