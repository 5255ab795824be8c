//! The model with a patch in it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;

use super::graph::{GraphChanges, GraphPath, NodeChange, shown};
use super::{AddedTensor, Edit, Patch, Rule, of_form, unpacked};
use crate::graph::Dim;
use crate::model::{Model, Source, Storage};
use crate::{Error, ErrorKind, Graph, Node, NodeId, Result, ResultExt, StoredTensor, TensorId, ValueId};

/// A patched model, and where its parts come from.
pub(crate) struct Applied {
    pub(crate) model: Model,
    /// The main graph, and nested graphs that change, by their paths in the unpatched model.
    pub(crate) graphs: BTreeMap<GraphPath, AppliedGraph>,
    /// The new ids of the model's tensors; `None` for those that are left out.
    ids: Vec<Option<TensorId>>,
    /// The ids of the added tensors, in the patch's order.
    pub(crate) added: Vec<TensorId>,
    /// Whether a change can reach the shapes of each node of the main graph; empty where none can.
    pub(crate) reached: Vec<bool>,
    /// Nodes of the unpatched main graph whose nested graphs' declared shapes may not hold.
    pub(crate) undeclared: Vec<NodeId>,
}

impl Applied {
    /// The id that a tensor of the unpatched model has in the patched one; `None` where it is left out.
    pub(crate) fn id_of(&self, id: TensorId) -> Option<TensorId> {
        self.ids.get(id.0 as usize).copied().flatten()
    }
}

/// A patched graph.
#[derive(Default)]
pub(crate) struct AppliedGraph {
    /// Where it is in the patched model.
    pub(crate) path: GraphPath,
    /// The node of the unpatched graph that each node is; `None` for new ones.
    pub(crate) origins: Vec<Option<NodeId>>,
    /// The rule that made or changed each node.
    pub(super) node_rules: Vec<Option<Rule>>,
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
    /// on demand still is, but for packed tensors. The graph is checked by shape inference as a whole;
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

    /// As [`Patch::apply`], with what a writer needs to know, and with packed tensors computed on demand.
    ///
    /// # Errors
    /// Those of [`Patch::apply`].
    pub(crate) fn applied(&self, model: &Model) -> Result<Applied> {
        let Tensors { tensors, ids, added } = self.changed_tensors(model)?;
        let source = Source::memory();
        let mut applied = Applied {
            model: Model { tensors, graph: None, path: model.path.clone(), source },
            graphs: BTreeMap::new(),
            ids,
            added,
            reached: Vec::new(),
            undeclared: Vec::new(),
        };
        match &model.graph {
            Some(before) => {
                let (mut graph, main) = (before.clone(), GraphPath::new());
                let place = Location { from: Some(&main), to: &main, around: None };
                self.change_graph(model, &mut graph, place, &mut applied)?;
                let lost = self.graphs.iter().find(|(path, changes)| {
                    !changes.is_empty() && !applied.graphs.contains_key(path.as_slice())
                });
                if let Some((path, changes)) = lost {
                    let message = format!("there is no nested graph to change in {}", shown(path));
                    return Err(by(Error::input(message), changes.rule.as_ref()));
                }
                applied.model.graph = Some(graph);
                super::check::check(self, model, before, &mut applied)?;
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

    /// Makes the changes of a graph, and of those nested in it.
    fn change_graph(
        &self,
        model: &Model,
        graph: &mut Graph,
        place: Location<'_>,
        applied: &mut Applied,
    ) -> Result<()> {
        let changes = place.from.and_then(|path| self.changes_of(path));
        let mut origins: Vec<Option<NodeId>> = match place.from {
            Some(_) => (0..graph.nodes.len() as u32).map(|index| Some(NodeId(index))).collect(),
            None => vec![None; graph.nodes.len()],
        };
        if let Some(changes) = changes {
            if changes.changes_interface() && place.around.is_some() {
                let message = "the inputs and outputs of a nested graph belong to its node: replace the node";
                return Err(by(Error::input(message), changes.rule.as_ref()));
            }
            let mut site = AppliedGraph { path: place.to.clone(), ..AppliedGraph::default() };
            changed_nodes(changes, graph, model.graph()?, &mut site)?;
            change_values(changes, graph)?;
            origins.clone_from(&site.origins);
            applied.graphs.extend(place.from.map(|path| (path.clone(), site)));
        } else if place.around.is_none() {
            let node_rules = vec![None; graph.nodes.len()];
            let site = AppliedGraph { path: GraphPath::new(), origins: origins.clone(), node_rules };
            applied.graphs.insert(GraphPath::new(), site);
        }
        let lost = change_constants(graph, changes, place.around, applied);
        let mut nodes = std::mem::take(&mut graph.nodes);
        for (index, (node, origin)) in nodes.iter_mut().zip(origins).enumerate() {
            if node.graphs().next().is_none() {
                continue;
            }
            let shown = format!("node `{}` ({})", node.label(), node.op_type);
            let change = origin.and_then(|origin| self.of_node(place.from?, origin));
            for (name, attr) in &mut node.attrs {
                let is_new = change.is_some_and(|change| change.attrs.contains_key(name));
                for (position, nested) in attr.graphs_mut().iter_mut().enumerate() {
                    let step = |path: &GraphPath, node| {
                        let mut path = path.clone();
                        path.push((node, name.clone(), position));
                        path
                    };
                    let origin = origin.filter(|_| !is_new);
                    let from = place.from.zip(origin).map(|(path, origin)| step(path, origin));
                    let to = step(place.to, NodeId(index as u32));
                    let inner = Location { from: from.as_ref(), to: &to, around: Some(graph) };
                    self.change_graph(model, nested, inner, applied).at(|| shown.as_str())?;
                }
            }
        }
        graph.nodes = nodes;
        let used = used_values(graph);
        if let Some(&(value, id)) = lost.iter().find(|(value, _)| used[value.index()]) {
            return Err(self.gone(model, graph, value, id));
        }
        if changes.is_some() {
            graph.captures.retain(|value| used[value.index()]);
        }
        Ok(())
    }

    /// A tensor that is left out and used.
    fn gone(&self, model: &Model, graph: &Graph, value: ValueId, id: TensorId) -> Error {
        let user = graph.nodes.iter().find(|node| {
            node.inputs.contains(&Some(value)) || node.captures().any(|name| name == graph.value_name(value))
        });
        let path = model.tensors.get_index(id.0 as usize).map_or("", |(path, _)| path);
        let error = Error::input("is left out, but still used").at_tensor(path);
        let error = match user {
            Some(node) => error.at_node(node),
            None => error.at("output of a graph"),
        };
        by(error, self.rule_of(id).as_ref())
    }
}

/// Where a graph that is changed is.
#[derive(Clone, Copy)]
struct Location<'a> {
    /// The path in the unpatched model; `None` inside new nodes.
    from: Option<&'a GraphPath>,
    /// The path in the patched model.
    to: &'a GraphPath,
    /// The graph around it; `None` for the main graph.
    around: Option<&'a Graph>,
}

/// Gives the constants of a graph their tensors' new ids, types and shapes, and resolves what it captures. Returns
/// constants that are left out and that no node produces.
fn change_constants(
    graph: &mut Graph,
    changes: Option<&GraphChanges>,
    around: Option<&Graph>,
    applied: &Applied,
) -> Vec<(ValueId, TensorId)> {
    let (mut constants, mut lost) = (BTreeMap::new(), Vec::new());
    let produced: HashSet<ValueId> =
        graph.nodes.iter().flat_map(|node| node.outputs.iter().flatten().copied()).collect();
    for (&value, &id) in &graph.constants {
        match applied.id_of(id) {
            Some(id) => drop(constants.insert(value, id)),
            None if produced.contains(&value) => {}
            None => lost.push((value, id)),
        }
    }
    let new = changes.into_iter().flat_map(|changes| &changes.constants);
    constants.extend(new.map(|(&value, &index)| (value, applied.added[index])));
    for &value in changes.into_iter().flat_map(|changes| &changes.captures) {
        let name = graph.value_name(value);
        let constant = around.and_then(|around| {
            around.constants.iter().find(|&(&outer, _)| around.value_name(outer) == name).map(|(_, &id)| id)
        });
        match constant {
            Some(id) => drop(constants.insert(value, id)),
            None => graph.captures.push(value),
        }
    }
    for (&value, &id) in &constants {
        let stored = applied.model.tensor(id);
        let known = &mut graph.values[value.index()];
        known.dtype = Some(stored.dtype);
        known.shape = Some(stored.shape.iter().map(|&extent| Dim::Known(extent)).collect());
    }
    graph.constants = constants;
    lost
}

/// Changes the nodes of a graph.
fn changed_nodes(
    changes: &GraphChanges,
    graph: &mut Graph,
    main: &Graph,
    site: &mut AppliedGraph,
) -> Result<()> {
    let count = graph.nodes.len();
    let beyond = changes.nodes.keys().map(|id| id.0 as usize).find(|&index| index >= count);
    let inserted = changes.inserted.keys().map(|&index| index as usize).find(|&index| index > count);
    if let Some(index) = beyond.or(inserted) {
        let message = format!("the graph has {count} nodes, none with the index {index}");
        return Err(by(Error::input(message), changes.rule.as_ref()));
    }
    let mut nodes = Vec::with_capacity(count);
    let mut push = |node: Node, origin: Option<NodeId>, rule: Option<Rule>| {
        nodes.push(node);
        site.origins.push(origin);
        site.node_rules.push(rule);
    };
    let mut old = std::mem::take(&mut graph.nodes).into_iter();
    for index in 0..=count {
        for (node, rule) in changes.inserted.get(&(index as u32)).into_iter().flatten() {
            push(new_node(node, main), None, Some(rule.clone()));
        }
        let Some(mut node) = old.next() else { continue };
        let id = NodeId(index as u32);
        match changes.nodes.get(&id) {
            None => push(node, Some(id), None),
            Some(change) if change.removed => {
                for node in &change.replacement {
                    push(new_node(node, main), None, Some(change.rule.clone()));
                }
            }
            Some(change) => {
                change_node(change, &mut node)?;
                push(node, Some(id), Some(change.rule.clone()));
            }
        }
    }
    graph.nodes = nodes;
    Ok(())
}

fn change_node(change: &NodeChange, node: &mut Node) -> Result<()> {
    for (&input, &value) in &change.inputs {
        if input >= node.inputs.len() {
            if input > u8::MAX.into() {
                let error = Error::input(format!("has no input {input}")).at_node(node);
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
    Ok(())
}

/// Adds values to a graph, and changes its interface and what is declared.
fn change_values(changes: &GraphChanges, graph: &mut Graph) -> Result<()> {
    graph.values.extend(changes.values.iter().cloned());
    let named = changes.constants.keys().chain(&changes.outputs).chain(&changes.internal);
    let mut named = named.chain(changes.declared.keys()).copied();
    if let Some(value) = named.find(|value| value.index() >= graph.values.len()) {
        let message = format!("the graph has {} values, none with the id {}", graph.values.len(), value.0);
        return Err(by(Error::input(message), changes.rule.as_ref()));
    }
    for (&value, declared) in &changes.declared {
        let known = &mut graph.values[value.index()];
        known.dtype = declared.dtype.or(known.dtype);
        known.shape = declared.shape.clone().or(known.shape.take());
    }
    graph.inputs.extend(&changes.inputs);
    for &value in &changes.outputs {
        if graph.outputs.contains(&value) {
            let message = format!("`{}` is an output of the graph already", graph.value_name(value));
            return Err(by(Error::input(message), changes.rule.as_ref()));
        }
        graph.outputs.push(value);
    }
    for value in &changes.internal {
        let count = graph.outputs.len();
        graph.outputs.retain(|output| output != value);
        if graph.outputs.len() == count || graph.outputs.is_empty() {
            let name = graph.value_name(*value);
            let message = match graph.outputs.is_empty() && count > 0 {
                true => format!("without `{name}` the graph has no output"),
                false => format!("`{name}` is no output of the graph"),
            };
            return Err(by(Error::input(message), changes.rule.as_ref()));
        }
    }
    Ok(())
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
