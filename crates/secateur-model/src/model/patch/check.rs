//! Checks of a patched graph, and the declared shapes that hold in it.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::apply::{Applied, AppliedGraph, by, wrong};
use super::graph::GraphPath;
use super::{Patch, Rule};
use crate::graph::Dim;
use crate::infer::{Binding, Inference};
use crate::ops::{self, Fact, Facts};
use crate::{Attr, Error, ErrorKind, Graph, Model, Node, NodeId, Result, ResultExt, TensorId, ValueId};

/// Checks a patched graph, and corrects what it declares of its values.
///
/// # Errors
/// Those of [`Patch::apply`].
pub(super) fn check(patch: &Patch, model: &Model, before: &Graph, applied: &mut Applied) -> Result<()> {
    if patch.changes_graph() || !patch.removed.is_empty() {
        for (path, site) in &applied.graphs {
            order(patch, path, model.graph_at(path)?, applied.model.graph_at(&site.path)?, site)?;
        }
    }
    if !patch.alters_shapes(model) {
        return Ok(());
    }
    let reach = Reach::new(patch, model, before, applied);
    let stripped = reach.strip(before, applied);
    redeclare(patch, applied);
    let old = Inference::of(model, &Binding::default()).unwrap_or_default();
    let new =
        Inference::of(&applied.model, &Binding::default()).map_err(|error| by(error, patch.rule.as_ref()))?;
    let graph = applied.model.graph()?;
    let levels =
        Levels { patch, models: [model, &applied.model], graphs: &applied.graphs, assumed: new.assumed };
    levels.check([before, graph], [&old, &new], &GraphPath::new(), (&reach.nodes, &reach.outside))?;
    applied.reached = reach.nodes.iter().map(Option::is_some).collect();
    declare(patch, before, applied, &old, &new, stripped)?;
    interface(patch, applied, &new)
}

impl Patch {
    /// Whether the changes can alter shapes in the graph: other elements of float tensors alone do not.
    pub(crate) fn alters_shapes(&self, model: &Model) -> bool {
        self.changes_graph() || self.ids().any(|id| self.alters_shapes_by(model, id))
    }

    fn alters_shapes_by(&self, model: &Model, id: TensorId) -> bool {
        self.contains(id) && (self.reforms(model, id) || !model.tensor(id).dtype.is_prunable())
    }
}

/// Checks that each value is there when it is used, and produced once.
fn order(patch: &Patch, path: &GraphPath, before: &Graph, graph: &Graph, site: &AppliedGraph) -> Result<()> {
    let mut known = vec![false; graph.values.len()];
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, value) in graph.values.iter().enumerate() {
        by_name.entry(&value.name).or_default().push(index);
    }
    for value in graph.inputs.iter().chain(graph.constants.keys()).chain(&graph.captures) {
        known[value.index()] = true;
    }
    // What the unpatched graph lacks already, such as one made in memory without inputs.
    let used_before =
        before.nodes.iter().flat_map(|node| node.inputs.iter().flatten()).chain(&before.outputs);
    let producers = before.producers();
    let given = |value: &ValueId| {
        let place = producers.get(value.index()).copied().flatten();
        place.is_some() || [&before.inputs, &before.captures].iter().any(|ids| ids.contains(value))
    };
    for value in used_before.filter(|value| !given(value) && !before.constants.contains_key(value)) {
        known[value.index()] = true;
    }
    let removed = |value: ValueId| {
        let producer = producers.get(value.index()).copied().flatten()?;
        patch.of_node(path, producer).map(|change| change.rule.clone())
    };
    for (node, rule) in graph.nodes.iter().zip(&site.node_rules) {
        let at_fault = |value: ValueId| rule.clone().or_else(|| removed(value)).flatten();
        for &value in node.inputs.iter().flatten() {
            let name = graph.values.get(value.index()).map(|value| &value.name);
            let Some(name) = name else {
                let message = format!("uses the value {}, which the graph does not have", value.0);
                return Err(wrong(message, node, at_fault(value).as_ref()));
            };
            if !known[value.index()] {
                let message = format!("uses `{name}`, which no earlier node produces");
                return Err(wrong(message, node, at_fault(value).as_ref()));
            }
        }
        for name in node.captures() {
            let ids = by_name.get(name).map_or(&[][..], Vec::as_slice);
            if !ids.is_empty() && !ids.iter().any(|&index| known[index]) {
                let message = format!("a nested graph uses `{name}`, which no earlier node produces");
                return Err(wrong(message, node, at_fault(ValueId(ids[0] as u32)).as_ref()));
            }
        }
        for &value in node.outputs.iter().flatten() {
            match known.get_mut(value.index()) {
                Some(known) if !*known => *known = true,
                Some(_) => {
                    let message = format!("produces `{}`, which is there already", graph.value_name(value));
                    return Err(wrong(message, node, at_fault(value).as_ref()));
                }
                None => {
                    let message = format!("produces the value {}, which the graph does not have", value.0);
                    return Err(wrong(message, node, at_fault(value).as_ref()));
                }
            }
        }
    }
    for &value in &graph.outputs {
        if !known[value.index()] {
            let message = format!("no node produces the graph's output `{}`", graph.value_name(value));
            return Err(by(Error::input(message), removed(value).flatten().as_ref()));
        }
    }
    Ok(())
}

/// How far changes reach in the main graph: which values may have another type or shape than before.
#[derive(Default)]
struct Reach {
    /// The rule whose change reaches a value, by value index.
    values: Vec<Option<Rule>>,
    /// The rule whose change reaches a node, by index.
    nodes: Vec<Option<Rule>>,
    /// Whether a change reaches a node from outside its nested graphs.
    outside: Vec<bool>,
}

impl Reach {
    fn new(patch: &Patch, model: &Model, before: &Graph, applied: &Applied) -> Self {
        let Some(graph) = &applied.model.graph else {
            return Reach::default();
        };
        let mut values: Vec<Option<Rule>> = vec![None; graph.values.len()];
        let shapes = |id| patch.alters_shapes_by(model, id);
        for (value, &id) in before.constants.iter().filter(|(_, id)| shapes(**id)) {
            values[value.index()] = Some(patch.rule_of(id));
        }
        let main = GraphPath::new();
        for (value, index) in patch.new_constants(&main) {
            values[value.index()] = Some(patch.added[index].rule.clone());
        }
        for (value, declared) in patch.changes_of(&main).into_iter().flat_map(|changes| &changes.declared) {
            values[value.index()] = Some(declared.rule.clone());
        }
        let mut nested: HashMap<NodeId, Rule> = (0..)
            .map(NodeId)
            .zip(&before.nodes)
            .filter_map(|(id, node)| {
                Some((id, patch.rule_of(nested_constants(node).find(|&id| shapes(id))?)))
            })
            .collect();
        for (path, changes) in patch.graphs.iter().filter(|(_, changes)| !changes.is_empty()) {
            nested.extend(path.first().map(|(id, ..)| (*id, changes.rule.clone())));
        }
        let mut outside = Vec::with_capacity(graph.nodes.len());
        let site = &applied.graphs[&main];
        let by_name: HashMap<&str, usize> =
            graph.values.iter().enumerate().map(|(index, value)| (value.name.as_str(), index)).collect();
        let mut nodes = Vec::with_capacity(graph.nodes.len());
        for (index, node) in graph.nodes.iter().enumerate() {
            let operands = node.inputs.iter().flatten().map(|value| value.index());
            let captured = node.captures().filter_map(|name| by_name.get(name).copied());
            let reached = || operands.chain(captured).find_map(|index| values[index].clone());
            let rule = site.node_rules[index].clone().or_else(reached);
            outside.push(rule.is_some());
            let rule = rule.or_else(|| nested.get(&site.origins[index]?).cloned());
            if let Some(rule) = &rule {
                node.outputs.iter().flatten().for_each(|value| values[value.index()] = Some(rule.clone()));
            }
            nodes.push(rule);
        }
        Reach { values, nodes, outside }
    }

    /// Removes the declared shapes of values that a change reaches, so that inference does not rely on them; what
    /// nested graphs declare is removed for good. Returns the values of the main graph.
    fn strip(&self, before: &Graph, applied: &mut Applied) -> BTreeSet<ValueId> {
        let mut stripped = BTreeSet::new();
        let Some(graph) = &mut applied.model.graph else { return stripped };
        let given: BTreeSet<ValueId> = graph.inputs.iter().chain(graph.constants.keys()).copied().collect();
        for (index, value) in graph.values.iter_mut().enumerate().take(before.values.len()) {
            let id = ValueId(index as u32);
            if self.values[index].is_some() && !given.contains(&id) {
                value.shape = None;
                stripped.insert(id);
            }
        }
        let origins = &applied.graphs[&GraphPath::new()].origins;
        for (index, node) in graph.nodes.iter_mut().enumerate() {
            if self.nodes[index].is_some() && node.graphs().next().is_some() {
                applied.undeclared.extend(origins[index]);
                node.attrs.values_mut().flat_map(Attr::graphs_mut).for_each(undeclare);
            }
        }
        stripped
    }
}

/// Removes what is declared of a nested graph's values, but for constants and the types of inputs and outputs.
fn undeclare(graph: &mut Graph) {
    let interface: BTreeSet<ValueId> = graph.inputs.iter().chain(&graph.outputs).copied().collect();
    for (id, value) in (0..).map(ValueId).zip(&mut graph.values) {
        if !graph.constants.contains_key(&id) {
            value.shape = None;
            value.dtype = value.dtype.filter(|_| interface.contains(&id));
        }
    }
    let nested = graph.nodes.iter_mut().flat_map(|node| node.attrs.values_mut());
    nested.flat_map(Attr::graphs_mut).for_each(undeclare);
}

/// Declares what the patch says of values in nested graphs.
fn redeclare(patch: &Patch, applied: &mut Applied) {
    for (path, site) in applied.graphs.iter().filter(|(path, _)| !path.is_empty()) {
        let main = applied.model.graph.as_mut();
        let graph = site.path.iter().try_fold(main, |graph, (node, attr, index)| {
            let node = graph?.nodes.get_mut(node.0 as usize)?;
            Some(node.attrs.get_mut(attr)?.graphs_mut().get_mut(*index))
        });
        let Some(graph) = graph.flatten() else { continue };
        for (value, declared) in patch.changes_of(path).into_iter().flat_map(|changes| &changes.declared) {
            let known = &mut graph.values[value.index()];
            known.dtype = declared.dtype.or(known.dtype);
            known.shape.clone_from(&declared.shape);
        }
    }
}

/// The tensors that are constants in nested graphs of a node.
fn nested_constants(node: &Node) -> Box<dyn Iterator<Item = TensorId> + '_> {
    Box::new(node.graphs().flat_map(|(_, graph)| {
        graph.constants.values().copied().chain(graph.nodes.iter().flat_map(nested_constants))
    }))
}

/// A model before and after a patch.
struct Levels<'a> {
    patch: &'a Patch,
    models: [&'a Model; 2],
    graphs: &'a BTreeMap<GraphPath, AppliedGraph>,
    /// Whether inference assumed the extent of an input.
    assumed: bool,
}

impl Levels<'_> {
    /// Refuses what contradicts a node's meaning and did not before, in a graph and in those nested in it. For each
    /// node, `reached` has the rule whose change reaches it, and whether from outside its nested graphs.
    fn check(
        &self,
        [before, after]: [&Graph; 2],
        [old, new]: [&Inference; 2],
        path: &GraphPath,
        reached: (&[Option<Rule>], &[bool]),
    ) -> Result<()> {
        let site = self.graphs.get(path);
        let origin = |index: usize| site.map_or(Some(NodeId(index as u32)), |site| site.origins[index]);
        let (rules, outside) = reached;
        for problem in &new.problems {
            let index = problem.node.0 as usize;
            let origin = origin(index);
            let known = origin.is_some_and(|origin| old.problems.iter().any(|p| p.node == origin));
            let rule = rules[index].as_ref().filter(|_| !known && problem.kind != ErrorKind::Unsupported);
            let Some(rule) = rule else { continue };
            let found = shapes(&after.nodes[index], after, &new.facts);
            let was = origin.map(|origin| shapes(&before.nodes[origin.0 as usize], before, &old.facts));
            let expected = was.map(|was| format!("; before, {was}")).unwrap_or_default();
            let message = format!("{}; its inputs are {found}{expected}", problem.text);
            return Err(by(Error::new(problem.kind, message), rule.as_ref()));
        }
        for (index, node) in after.nodes.iter().enumerate() {
            let Some(rule) = &rules[index] else { continue };
            let earlier = origin(index).map(|origin| &before.nodes[origin.0 as usize]);
            if let Err(error) = ops::check_types(node, Facts(&new.operands(node)))
                && earlier.is_none_or(|node| ops::check_types(node, Facts(&old.operands(node))).is_ok())
            {
                return Err(by(error, rule.as_ref()));
            }
        }
        let changes = self.patch.changes_of(path).filter(|_| !path.is_empty());
        for (value, said) in changes.into_iter().flat_map(|changes| &changes.declared) {
            let fact = new.facts.get(value.index()).and_then(Option::as_ref);
            if let (Some(dims), Some(inferred)) = (&said.shape, fact.and_then(Fact::shape)) {
                holds(after.value_name(*value), dims, inferred, self.assumed)
                    .map_err(|error| by(error, said.rule.as_ref()))?;
            }
        }
        let names = [before, after].map(|graph| {
            LazyCell::new(|| {
                graph.values.iter().map(|value| value.name.as_str()).zip(0..).collect::<HashMap<_, usize>>()
            })
        });
        for (index, node) in after.nodes.iter().enumerate() {
            let (Some(rule), Some(origin)) = (&rules[index], origin(index)) else { continue };
            // An attribute that the patch sets has nothing to be compared with.
            let set = |name: &String| {
                self.patch.of_node(path, origin).is_some_and(|change| change.attrs.contains_key(name))
            };
            for (name, attr) in node.attrs.iter().filter(|(name, _)| !set(name)) {
                let earlier = before.nodes[origin.0 as usize].attrs.get(name).map_or(&[][..], Attr::graphs);
                for (position, (was, is)) in earlier.iter().zip(attr.graphs()).enumerate() {
                    let fact = |of: usize, name: &str| {
                        let index = *names[of].get(name)?;
                        [old, new][of].facts[index].clone()
                    };
                    let declared =
                        |graph: &Graph, value: ValueId| extents(graph.values[value.index()].shape.as_ref()?);
                    let [old_model, new_model] = self.models;
                    let known = |value| declared(was, value);
                    let input =
                        |value| declared(is, value).or_else(|| known(value).filter(|_| !outside[index]));
                    let old = Inference::nested(old_model, was, known, |name| fact(0, name))?;
                    let new = Inference::nested(new_model, is, input, |name| fact(1, name))
                        .map_err(|error| by(error, rule.as_ref()))?;
                    let mut inner = path.clone();
                    inner.push((origin, name.clone(), position));
                    let own = |index: usize| self.graphs.get(&inner)?.node_rules[index].clone();
                    let count = is.nodes.len();
                    let rules: Vec<Option<Rule>> =
                        (0..count).map(|index| Some(own(index).unwrap_or_else(|| rule.clone()))).collect();
                    let outside = vec![outside[index] || self.graphs.contains_key(&inner); count];
                    self.check([was, is], [&old, &new], &inner, (&rules, &outside)).at_node(node)?;
                }
            }
        }
        Ok(())
    }
}

/// The extents of a declared shape, where all are known.
fn extents(dims: &[Dim]) -> Option<Vec<usize>> {
    dims.iter().map(|dim| if let Dim::Known(extent) = dim { Some(*extent) } else { None }).collect()
}

/// Checks what is declared of a value against what is inferred.
fn holds(name: &str, dims: &[Dim], inferred: &[usize], assumed: bool) -> Result<()> {
    if agree(dims, inferred, assumed) {
        return Ok(());
    }
    let dims = shown(dims);
    Err(Error::input(format!(
        "value `{name}` is declared as {dims}, but its shape is inferred as {inferred:?}"
    )))
}

/// The shapes of a node's inputs.
fn shapes(node: &Node, graph: &Graph, facts: &[Option<Fact>]) -> String {
    let shown = |value: &Option<ValueId>| {
        let Some(value) = value else { return "none".to_string() };
        let shape = facts.get(value.index()).and_then(|fact| fact.as_ref()?.shape.clone());
        let shape = shape.map_or_else(|| "of unknown shape".to_string(), |shape| format!("{shape:?}"));
        format!("`{}` {shape}", graph.value_name(*value))
    };
    node.inputs.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// Gives values that changes reach the types and shapes that hold: as declared before where that still is right,
/// else as inferred. Outputs keep a rank; what else is unknown is declared no more.
fn declare(
    patch: &Patch,
    before: &Graph,
    applied: &mut Applied,
    old: &Inference,
    new: &Inference,
    stripped: BTreeSet<ValueId>,
) -> Result<()> {
    let Some(graph) = &mut applied.model.graph else { return Ok(()) };
    let changes = patch.changes_of(&GraphPath::new());
    let outputs: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    let changed =
        changed_values(before, graph, &applied.graphs[&GraphPath::new()], &applied.undeclared, [old, new]);
    for id in stripped {
        let index = id.index();
        let (declared, fact) = (&before.values[index], new.facts.get(index).and_then(Option::as_ref));
        if !changed[index] && changes.is_none_or(|changes| !changes.declared.contains_key(&id)) {
            graph.values[index].clone_from(declared);
            continue;
        }
        let was = old.facts.get(index).and_then(Option::as_ref);
        let said = changes.and_then(|changes| changes.declared.get(&id));
        let dims = said.and_then(|said| said.shape.as_ref()).or(declared.shape.as_ref());
        let inferred = fact.and_then(Fact::shape);
        let value = &mut graph.values[index];
        if let (Some(dims), Some(inferred), Some(said)) = (said.and(dims), inferred, said) {
            holds(&value.name, dims, inferred, new.assumed).map_err(|error| by(error, said.rule.as_ref()))?;
        }
        let same = inferred.is_some() && was.and_then(Fact::shape) == inferred;
        value.shape = match (dims, inferred) {
            (None, _) => None,
            (Some(dims), _) if same || said.is_some() => Some(dims.clone()),
            (Some(dims), Some(inferred)) => Some(corrected(dims, inferred, new.assumed)),
            (Some(dims), None) => outputs.contains(&id).then(|| vec![Dim::Unknown; dims.len()]),
        };
        if let Some(dtype) = fact.and_then(|fact| fact.dtype).filter(|_| value.dtype.is_some()) {
            value.dtype = Some(dtype);
        }
    }
    Ok(())
}

/// Declares the types and shapes of new outputs.
fn interface(patch: &Patch, applied: &mut Applied, new: &Inference) -> Result<()> {
    let Some(graph) = &mut applied.model.graph else { return Ok(()) };
    let Some(changes) = patch.changes_of(&GraphPath::new()) else { return Ok(()) };
    for &id in &changes.outputs {
        let (value, fact) = (&mut graph.values[id.index()], new.facts[id.index()].as_ref());
        value.dtype = value.dtype.or(fact.and_then(|fact| fact.dtype));
        // Of extents that follow from an assumed one only their number is known.
        let dim = |&extent: &usize| if new.assumed { Dim::Unknown } else { Dim::Known(extent) };
        let inferred = || Some(fact?.shape()?.iter().map(dim).collect());
        value.shape = value.shape.take().or_else(inferred);
        if value.dtype.is_none() || value.shape.is_none() {
            let message = format!(
                "the type or the shape of the new output `{}` cannot be inferred: declare both",
                value.name
            );
            return Err(by(Error::input(message), changes.rule.as_ref()));
        }
    }
    Ok(())
}

/// Which values may have another type or shape than before: new ones, those of which inference finds another type or
/// shape, or other elements where shapes may follow from them, and what nodes of unknown meaning compute from these.
fn changed_values(
    before: &Graph,
    graph: &Graph,
    site: &AppliedGraph,
    undeclared: &[NodeId],
    [old, new]: [&Inference; 2],
) -> Vec<bool> {
    let known = |facts: &Inference, index: usize| {
        let fact = facts.facts.get(index)?.as_ref()?;
        let dtype = fact.dtype?;
        Some((dtype, fact.shape.clone()?, fact.value.clone().filter(|_| !dtype.is_prunable())))
    };
    let differs = |index: usize| {
        let fact = known(new, index);
        index >= before.values.len() || fact.is_none() || fact != known(old, index)
    };
    let mut changed = vec![false; graph.values.len()];
    for &id in graph.constants.keys() {
        changed[id.index()] = differs(id.index());
    }
    for &id in &graph.inputs {
        changed[id.index()] = differs(id.index()) && {
            let was = before.values.get(id.index()).map(|value| (&value.dtype, &value.shape));
            was != Some((&graph.values[id.index()].dtype, &graph.values[id.index()].shape))
        };
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        let own =
            site.node_rules[index].is_some() || site.origins[index].is_none_or(|id| undeclared.contains(&id));
        if own || node.inputs.iter().flatten().any(|value| changed[value.index()]) {
            node.outputs.iter().flatten().for_each(|value| changed[value.index()] = differs(value.index()));
        }
    }
    changed
}

/// Whether declared extents hold; the first one is not known where the batch was assumed.
fn agree(dims: &[Dim], shape: &[usize], assumed: bool) -> bool {
    let holds = |(axis, (dim, &extent)): (usize, (&Dim, &usize))| match dim {
        Dim::Known(declared) => *declared == extent || (axis == 0 && assumed),
        Dim::Symbol(_) | Dim::Unknown => true,
    };
    dims.len() == shape.len() && dims.iter().zip(shape).enumerate().all(holds)
}

/// The declared extents with those put right that do not hold.
fn corrected(dims: &[Dim], shape: &[usize], assumed: bool) -> Vec<Dim> {
    let extent = |(axis, &extent): (usize, &usize)| match dims.get(axis).filter(|_| dims.len() == shape.len())
    {
        Some(Dim::Known(known)) if *known == extent => Dim::Known(extent),
        // An extent that follows from the batch is not the one that inference assumed.
        Some(open @ (Dim::Symbol(_) | Dim::Unknown)) => open.clone(),
        _ if axis == 0 && assumed => Dim::Unknown,
        _ => Dim::Known(extent),
    };
    shape.iter().enumerate().map(extent).collect()
}

/// Extents as a file shows them.
fn shown(dims: &[Dim]) -> String {
    let dims = dims.iter().map(|dim| match dim {
        Dim::Known(extent) => extent.to_string(),
        Dim::Symbol(name) => name.clone(),
        Dim::Unknown => "?".to_string(),
    });
    format!("[{}]", dims.collect::<Vec<_>>().join(", "))
}
