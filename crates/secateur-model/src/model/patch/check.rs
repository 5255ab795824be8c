//! Checks of a patched graph, and the declared shapes that hold in it.

use std::collections::{BTreeSet, HashMap};

use super::apply::{Applied, by, nested_graphs, wrong};
use super::{Patch, Rule};
use crate::graph::Dim;
use crate::infer::{Binding, Inference};
use crate::ops::Fact;
use crate::{Error, ErrorKind, Graph, Model, Node, NodeId, Result, TensorId, ValueId};

/// Checks a patched graph, and corrects what it declares of its values.
///
/// # Errors
/// Those of [`Patch::apply`].
pub(super) fn check(patch: &Patch, model: &Model, before: &Graph, applied: &mut Applied) -> Result<()> {
    let Some(graph) = applied.model.graph.take() else { return Ok(()) };
    if patch.changes_graph() || !patch.removed.is_empty() {
        order(patch, before, &graph, applied)?;
    }
    applied.model.graph = Some(graph);
    if !patch.alters_shapes(model) {
        return Ok(());
    }
    let reach = Reach::new(patch, model, before, applied);
    let stripped = reach.strip(before, applied);
    let old = Inference::of(model, &Binding::default()).unwrap_or_default();
    let new =
        Inference::of(&applied.model, &Binding::default()).map_err(|error| by(error, patch.rule.as_ref()))?;
    problems(&reach, before, applied, &old, &new)?;
    applied.reached = reach.nodes.iter().map(Option::is_some).collect();
    declare(patch, before, applied, &old, &new, stripped)
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
fn order(patch: &Patch, before: &Graph, graph: &Graph, applied: &Applied) -> Result<()> {
    let mut known = vec![false; graph.values.len()];
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, value) in graph.values.iter().enumerate() {
        by_name.entry(&value.name).or_default().push(index);
    }
    for value in graph.inputs.iter().chain(graph.constants.keys()) {
        known[value.index()] = true;
    }
    let removed = |value: ValueId| {
        let producer = before.producers().get(value.index()).copied().flatten()?;
        patch.graph.nodes.get(&producer).map(|change| change.rule.clone())
    };
    for (node, rule) in graph.nodes.iter().zip(&applied.node_rules) {
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

/// How far changes reach: what may have another type or shape than before.
struct Reach {
    /// The rule whose change reaches a value, by value index.
    values: Vec<Option<Rule>>,
    /// The rule whose change reaches a node, by index.
    nodes: Vec<Option<Rule>>,
}

impl Reach {
    fn new(patch: &Patch, model: &Model, before: &Graph, applied: &Applied) -> Self {
        let Some(graph) = &applied.model.graph else {
            return Reach { values: Vec::new(), nodes: Vec::new() };
        };
        let mut values: Vec<Option<Rule>> = vec![None; graph.values.len()];
        let shapes = |id| patch.alters_shapes_by(model, id);
        for (value, &id) in before.constants.iter().filter(|(_, id)| shapes(**id)) {
            values[value.index()] = Some(patch.rule_of(id));
        }
        for (value, &index) in &patch.graph.constants {
            values[value.index()] = Some(patch.added[index].rule.clone());
        }
        for (value, declared) in &patch.graph.declared {
            if let Some(reached) = values.get_mut(value.index()) {
                *reached = Some(declared.rule.clone());
            }
        }
        let nested: HashMap<NodeId, Rule> = (0..)
            .map(NodeId)
            .zip(&before.nodes)
            .filter_map(|(id, node)| {
                Some((id, patch.rule_of(nested_constants(node).find(|&id| shapes(id))?)))
            })
            .collect();
        let by_name: HashMap<&str, usize> =
            graph.values.iter().enumerate().map(|(index, value)| (value.name.as_str(), index)).collect();
        let mut nodes = Vec::with_capacity(graph.nodes.len());
        for (index, node) in graph.nodes.iter().enumerate() {
            let operands = node.inputs.iter().flatten().map(|value| value.index());
            let captured = node.captures().filter_map(|name| by_name.get(name).copied());
            let reached = || operands.chain(captured).find_map(|index| values[index].clone());
            let rule = applied.node_rules[index].clone().or_else(reached);
            let rule = rule.or_else(|| nested.get(&applied.origins[index]?).cloned());
            if let Some(rule) = &rule {
                node.outputs.iter().flatten().for_each(|value| values[value.index()] = Some(rule.clone()));
            }
            nodes.push(rule);
        }
        Reach { values, nodes }
    }

    /// Takes the declared shapes of values away that a change reaches, so that inference does not believe them;
    /// those of nested graphs for good. Returns which values had one.
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
        for (index, node) in graph.nodes.iter_mut().enumerate() {
            if let (Some(_), Some(origin)) = (&self.nodes[index], applied.origins[index])
                && node.graphs().next().is_some()
            {
                applied.undeclared.push(origin);
                nested_graphs(node).for_each(undeclare);
            }
        }
        stripped
    }
}

/// Takes the declared shapes of a nested graph's values away, but for constants.
fn undeclare(graph: &mut Graph) {
    for (index, value) in graph.values.iter_mut().enumerate() {
        if !graph.constants.contains_key(&ValueId(index as u32)) {
            value.shape = None;
        }
    }
    graph.nodes.iter_mut().flat_map(nested_graphs).for_each(undeclare);
}

/// The tensors that are constants in nested graphs of a node.
fn nested_constants(node: &Node) -> Box<dyn Iterator<Item = TensorId> + '_> {
    Box::new(node.graphs().flat_map(|(_, graph)| {
        graph.constants.values().copied().chain(graph.nodes.iter().flat_map(nested_constants))
    }))
}

/// Refuses what contradicts a node's meaning and did not before.
fn problems(
    reach: &Reach,
    before: &Graph,
    applied: &Applied,
    old: &Inference,
    new: &Inference,
) -> Result<()> {
    let Some(graph) = &applied.model.graph else { return Ok(()) };
    for problem in &new.problems {
        let index = problem.node.0 as usize;
        let origin = applied.origins[index];
        let known = origin.is_some_and(|origin| old.problems.iter().any(|p| p.node == origin));
        let Some(rule) =
            reach.nodes[index].as_ref().filter(|_| !known && problem.kind != ErrorKind::Unsupported)
        else {
            continue;
        };
        let node = &graph.nodes[index];
        let found = shapes(node, graph, &new.facts);
        let was = origin.map(|origin| shapes(&before.nodes[origin.0 as usize], before, &old.facts));
        let expected = was.map(|was| format!("; before, {was}")).unwrap_or_default();
        let message = format!("{}; its inputs are {found}{expected}", problem.text);
        return Err(by(Error::new(problem.kind, message), rule.as_ref()));
    }
    Ok(())
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
    let outputs: BTreeSet<ValueId> = graph.outputs.iter().copied().collect();
    for id in stripped {
        let index = id.index();
        let (declared, fact) = (&before.values[index], new.facts.get(index).and_then(Option::as_ref));
        let was = old.facts.get(index).and_then(Option::as_ref);
        let said = patch.graph.declared.get(&id);
        let dims = said.and_then(|said| said.shape.as_ref()).or(declared.shape.as_ref());
        let inferred = fact.and_then(Fact::shape);
        let value = &mut graph.values[index];
        if let (Some(dims), Some(inferred), Some(said)) = (said.and(dims), inferred, said)
            && !agree(dims, inferred, new.assumed)
        {
            let message = format!(
                "value `{}` is declared as {}, but comes out as {inferred:?}",
                value.name,
                shown(dims)
            );
            return Err(by(Error::input(message), said.rule.as_ref()));
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

/// Whether declared extents hold; the first one cannot be told where the batch was assumed.
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
