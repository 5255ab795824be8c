//! The walk over the graphs that finds how each stored tensor is used.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::CompanionKind;
use crate::graph::Dim;
use crate::ops::{self, AxisRole, Fact, Facts, WeightUse};
use crate::{DType, Error, Graph, Model, Node, NodeId, Result, ResultExt, TensorId, ValueId};

/// The uses of each stored tensor, by [`TensorId`].
pub(crate) fn uses(model: &Model, graph: &Graph) -> Result<Vec<Vec<Use>>> {
    let uses = vec![Vec::new(); model.tensors.len()];
    let mut walk = Walk { model, uses, sites: 0, followed: Cell::new(0) };
    walk.graph(graph, None)?;
    Ok(walk.uses)
}

/// Steps of a way that are named. A chain may have as many as the file has nodes.
const MAX_STEPS: usize = 64;

/// Tensors that a value is followed as the parts of.
const MAX_PARTS: usize = 4096;

/// Parts of values that consist of several, and uses of these, that are followed in a model.
const MAX_FOLLOWED: usize = 1 << 19;

/// The operators between a stored tensor and a value, the last first. What several values come through is shared.
#[derive(Clone, Default)]
pub(crate) struct Path(Option<Arc<Step>>);

struct Step {
    name: Arc<str>,
    before: Path,
    len: usize,
}

impl Path {
    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |step| step.len)
    }

    /// Adds an operator, up to [`MAX_STEPS`].
    fn push(&mut self, name: &Arc<str>) {
        let name = match self.len() {
            0..MAX_STEPS => name.clone(),
            MAX_STEPS => "…".into(),
            _ => return,
        };
        let before = std::mem::take(self);
        self.0 = Some(Arc::new(Step { name, len: before.len() + 1, before }));
    }

    /// The operators' names, the first first.
    pub(crate) fn names(&self) -> Vec<String> {
        let steps = std::iter::successors(self.0.as_deref(), |step| step.before.0.as_deref());
        let mut names: Vec<String> = steps.map(|step| step.name.to_string()).collect();
        names.reverse();
        names
    }
}

/// The way from a stored tensor to a value.
#[derive(Clone)]
struct Origin {
    tensor: TensorId,
    /// For each stored axis the axis of the value it is part of; `None` where it is spread over several.
    axes: Option<Vec<usize>>,
    /// The value's shape.
    shape: Vec<usize>,
    dtype: DType,
    via: Path,
    quantised: bool,
    /// Of codes that `QuantizeLinear` made from the tensor: their zero point, `None` where it is left out.
    zero_point: Option<Option<TensorId>>,
    /// Whether the value holds only a part of the tensor, or others besides.
    part: bool,
}

/// One use of a stored tensor by a node that computes with it.
#[derive(Clone)]
pub(crate) struct Use {
    /// A number of the node, unique in the model.
    pub(crate) site: usize,
    pub(crate) node: String,
    pub(crate) op_type: String,
    /// The module that the exporter recorded for the node; may be empty.
    pub(crate) module: String,
    pub(crate) input: usize,
    pub(crate) role: UseRole,
    pub(crate) quantised: bool,
}

#[derive(Clone)]
pub(crate) enum UseRole {
    Weight(Box<WeightSite>),
    Bias,
    /// A weight whose axes a reshape splits.
    Reshaped,
    /// A part of a weight with groups or gates.
    Part,
    /// Only the shape is read.
    Shape,
    /// The graph hands it out.
    Output,
    Operand,
    Unknown,
}

#[derive(Clone)]
pub(crate) struct WeightSite {
    pub(crate) roles: Vec<AxisRole>,
    pub(crate) groups: usize,
    pub(crate) group_axis: Option<usize>,
    pub(crate) gates: usize,
    pub(crate) via: Path,
    pub(crate) companions: Vec<Found>,
    /// The other factor, where the node multiplies two stored tensors.
    pub(crate) factor: Option<TensorId>,
}

/// A companion and the number of the node that uses it.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) tensor: TensorId,
    pub(crate) kind: CompanionKind,
    pub(crate) node: String,
    pub(crate) site: usize,
}

/// The values of a graph that come from stored tensors, by name for nested graphs.
struct Scope<'a> {
    outer: Option<&'a Scope<'a>>,
    names: HashMap<&'a str, Arc<[Origin]>>,
}

impl Scope<'_> {
    fn find(&self, name: &str) -> Option<&Arc<[Origin]>> {
        self.names.get(name).or_else(|| self.outer?.find(name))
    }
}

/// What is known of one graph while its nodes are looked at.
struct Local<'a> {
    graph: &'a Graph,
    /// By value: the stored tensors it comes from, several where they are concatenated.
    origins: HashMap<ValueId, Arc<[Origin]>>,
    consumers: Vec<Vec<(NodeId, usize)>>,
    /// Values that something other than this graph's nodes reads: outputs and what nested graphs take.
    read_elsewhere: Vec<bool>,
    first_site: usize,
}

struct Walk<'m> {
    model: &'m Model,
    uses: Vec<Vec<Use>>,
    sites: usize,
    followed: Cell<usize>,
}

impl Walk<'_> {
    fn graph(&mut self, graph: &Graph, outer: Option<&Scope<'_>>) -> Result<()> {
        let mut local = Local {
            graph,
            origins: HashMap::new(),
            consumers: graph.consumers(),
            read_elsewhere: read_elsewhere(graph),
            first_site: self.sites,
        };
        self.sites += graph.nodes.len();
        for (&value, &tensor) in &graph.constants {
            let stored = self.model.tensor(tensor);
            let origin = Origin {
                tensor,
                axes: Some((0..stored.shape.len()).collect()),
                shape: stored.shape.clone(),
                dtype: stored.dtype,
                via: Path::default(),
                quantised: false,
                zero_point: None,
                part: false,
            };
            local.origins.insert(value, Arc::new([origin]));
        }
        for &value in &graph.captures {
            if let Some(origin) = outer.and_then(|o| o.find(graph.value_name(value))) {
                local.origins.insert(value, origin.clone());
            }
        }
        // All ways first: a bias is looked for behind the node it belongs to.
        let mut passed = vec![0; graph.nodes.len()];
        for (passed, node) in passed.iter_mut().zip(&graph.nodes) {
            *passed = self.pass_on(node, &mut local)?;
        }
        for (n, node) in graph.nodes.iter().enumerate() {
            // Where inputs are passed on, whoever takes them is the one that uses them.
            self.node(n, node, passed[n], &local).at_node(node)?;
        }
        for output in &graph.outputs {
            for from in local.of(Some(*output)) {
                let use_of = Use {
                    site: usize::MAX,
                    node: graph.value_name(*output).to_string(),
                    op_type: "output".to_string(),
                    module: String::new(),
                    input: 0,
                    role: UseRole::Output,
                    quantised: from.quantised,
                };
                self.uses[from.tensor.0 as usize].push(use_of);
            }
        }
        let names = local.origins.into_iter().map(|(v, o)| (graph.value_name(v), o)).collect();
        let scope = Scope { outer, names };
        for node in &graph.nodes {
            for (_, nested) in node.graphs() {
                self.graph(nested, Some(&scope))?;
            }
        }
        Ok(())
    }

    /// Follows stored tensors through an operator that keeps their elements; gives how many of its inputs, from
    /// the first on, are passed on so: none of other nodes.
    fn pass_on(&self, node: &Node, local: &mut Local<'_>) -> Result<usize> {
        let Some(&first) = node.inputs.first().filter(|_| node.domain.is_empty()) else { return Ok(0) };
        let from = local.of(first);
        if from.is_empty() {
            return Ok(0);
        }
        let via: Arc<str> = format!("{} `{}`", node.op_type, node.label()).into();
        let pass = |origins: &[Origin], change: &dyn Fn(&mut Origin)| {
            let changed = origins.iter().cloned().map(|mut origin| {
                change(&mut origin);
                origin.via.push(&via);
                origin
            });
            changed.collect::<Arc<[Origin]>>()
        };
        self.follow(from.len()).at_node(node)?;
        let to = vec![match node.op_type.as_str() {
            "Identity" | "Cast" | "CastLike" => pass(from, &|_| {}),
            "Transpose" => {
                let perm = node.ints("perm").at_node(node)?;
                pass(from, &|origin| origin.transpose(perm))
            }
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
                let shape = self.shapes(node, local)?.swap_remove(0);
                pass(from, &|origin| origin.reshape(shape.as_deref()))
            }
            "QuantizeLinear" => {
                let zero_point = match node.inputs.get(2).copied().flatten() {
                    Some(zero) => local.only(Some(zero)).map(|o| Some(o.tensor)),
                    None => Some(None),
                };
                pass(from, &|origin| (origin.quantised, origin.zero_point) = (true, zero_point))
            }
            "DynamicQuantizeLinear" => {
                pass(from, &|origin| (origin.quantised, origin.zero_point) = (true, None))
            }
            "DequantizeLinear" => {
                let zero = node.inputs.get(2).copied().flatten();
                let known = zero.is_none() || local.only(zero).is_some();
                let zero = local.only(zero).map(|o| o.tensor);
                pass(from, &|origin| {
                    // Zero has the zero point's code, and so comes back.
                    let kept =
                        origin.zero_point.take().is_some_and(|own| known && self.same_zeros(own, zero));
                    origin.quantised = !kept;
                })
            }
            "Split" | "Slice" if from.iter().all(|origin| origin.dtype.is_prunable()) => {
                let parts = self.shapes(node, local)?.into_iter().map(|shape| {
                    pass(from, &|origin| {
                        // The rank stays where the extents are not known.
                        origin.shape = shape.clone().unwrap_or_else(|| origin.shape.clone());
                        origin.part = true;
                    })
                });
                let parts: Vec<_> = parts.collect();
                local.put(node, parts);
                return Ok(1);
            }
            "Concat" => {
                let all: Vec<&Origin> = node.inputs.iter().flat_map(|&input| local.of(input)).collect();
                let stored = node.inputs.iter().all(|&input| !local.of(input).is_empty());
                if !stored || all.len() > MAX_PARTS || !all.iter().all(|origin| origin.dtype.is_prunable()) {
                    return Ok(0);
                }
                let Some(shape) = self.shapes(node, local)?.swap_remove(0) else { return Ok(0) };
                // A value that is joined with itself is used in one way.
                let joined: Vec<Origin> = {
                    let mut met = HashSet::new();
                    all.into_iter().filter(|origin| met.insert(origin.way())).cloned().collect()
                };
                self.follow(joined.len()).at_node(node)?;
                let joined = pass(&joined, &|origin| {
                    origin.shape.clone_from(&shape);
                    origin.part |= node.inputs.len() > 1;
                });
                local.put(node, vec![joined]);
                return Ok(node.inputs.len());
            }
            _ => return Ok(0),
        }];
        local.put(node, to);
        Ok(1)
    }

    /// Counts what is followed of values of several parts.
    ///
    /// # Errors
    /// Beyond [`MAX_FOLLOWED`].
    fn follow(&self, parts: usize) -> Result<()> {
        if parts > 1 {
            self.followed.set(self.followed.get() + parts);
        }
        match self.followed.get() <= MAX_FOLLOWED {
            true => Ok(()),
            false => Err(Error::unsupported(format!(
                "concatenated tensors are passed on in more than {MAX_FOLLOWED} parts"
            ))),
        }
    }

    /// The shapes of a node's outputs, where they follow from what is known; at least one.
    fn shapes(&self, node: &Node, local: &Local<'_>) -> Result<Vec<Option<Vec<usize>>>> {
        let facts: Vec<_> = node.inputs.iter().map(|&v| self.fact(v, local)).collect();
        let mut found: Vec<_> = ops::infer(node, Facts(&facts))?.into_iter().map(|fact| fact.shape).collect();
        found.resize(node.outputs.len().max(1), None);
        Ok(found)
    }

    /// Whether two zero points are equal; one that is left out is zero.
    fn same_zeros(&self, a: Option<TensorId>, b: Option<TensorId>) -> bool {
        let load = |id: Option<TensorId>| id.map(|id| self.model.tensor(id).load()).transpose();
        a == b
            || match (load(a), load(b)) {
                (Ok(Some(a)), Ok(Some(b))) => a.data() == b.data(),
                (Ok(Some(one)), Ok(None)) | (Ok(None), Ok(Some(one))) => {
                    one.to_i64s().is_ok_and(|zeros| zeros.iter().all(|&zero| zero == 0))
                }
                _ => false,
            }
    }

    /// What is known of a value: the shape of constants, the rank of others where declared (unknown
    /// extents stand as 1: only ranks of activations matter to the roles of weights).
    fn fact(&self, value: Option<ValueId>, local: &Local<'_>) -> Option<Fact> {
        let value = value?;
        if let Some(origin) = local.of(Some(value)).first() {
            let stored = self.model.tensor(origin.tensor);
            let integers = matches!(stored.dtype, DType::I64 | DType::I32);
            // The target shapes and axes of operators that keep elements.
            let small = (integers && origin.via.len() == 0 && stored.len() <= 64)
                .then(|| stored.load().ok())
                .flatten();
            return Some(match small {
                Some(tensor) => tensor.into(),
                None => Fact::new(origin.dtype, origin.shape.clone()),
            });
        }
        let declared = &local.graph.values[value.index()];
        let extent = |d: &Dim| if let Dim::Known(n) = d { *n } else { 1 };
        Some(Fact {
            dtype: declared.dtype,
            shape: declared.shape.as_ref().map(|s| s.iter().map(extent).collect()),
            ..Fact::default()
        })
    }

    /// Records how a node uses stored tensors, from its input `first` on.
    fn node(&mut self, n: usize, node: &Node, first: usize, local: &Local<'_>) -> Result<()> {
        let op = ops::find(node);
        let weights = match op.and_then(|op| op.weights) {
            Some(weights) => {
                let facts: Vec<_> = node.inputs.iter().map(|&v| self.fact(v, local)).collect();
                weights(node, Facts(&facts))?
            }
            None => Vec::new(),
        };
        let origins = |input: usize| local.of(node.inputs.get(input).copied().flatten());
        let origin = |input: usize| origins(input).first();
        let owned: Vec<&WeightUse> = weights.iter().filter(|w| origin(w.input).is_some()).collect();
        // Where the first input may be a weight as well, the operator has no other place for activations.
        let is_product = owned.len() == weights.len() && owned.iter().any(|w| w.input == 0);
        (first..node.inputs.len()).try_for_each(|input| self.follow(origins(input).len()))?;
        let used =
            (first..node.inputs.len()).flat_map(|input| origins(input).iter().map(move |o| (input, o)));
        for (input, from) in used {
            let weight = owned.iter().find(|w| w.input == input);
            let role = if let Some(weight) = weight {
                match stored_roles(weight, from) {
                    Some(roles) if from.part && (weight.groups > 1 || roles.contains(&AxisRole::GateOut)) => {
                        UseRole::Part
                    }
                    Some(roles) => {
                        let companions = local.companions(n, node, weight, from);
                        let other = owned.iter().find(|w| is_product && w.input != input);
                        let factor = other.and_then(|w| origin(w.input)).map(|o| o.tensor);
                        UseRole::Weight(Box::new(WeightSite {
                            gates: gates(node, weight, from),
                            groups: weight.groups,
                            group_axis: group_axis(weight, from),
                            via: from.via.clone(),
                            roles,
                            companions,
                            factor,
                        }))
                    }
                    None => UseRole::Reshaped,
                }
            } else if owned.iter().any(|w| w.bias == Some(input)) {
                UseRole::Bias
            } else if matches!(node.op_type.as_str(), "Shape" | "Size") && node.domain.is_empty() {
                UseRole::Shape
            } else if op.is_some() {
                UseRole::Operand
            } else {
                UseRole::Unknown
            };
            self.uses[from.tensor.0 as usize].push(Use {
                site: local.first_site + n,
                node: node.label().to_string(),
                op_type: node.op_type.clone(),
                module: node.module.clone(),
                input,
                role,
                quantised: from.quantised,
            });
        }
        Ok(())
    }
}

impl Origin {
    /// All but the names of the operators and the value's shape: what decides how the tensor is used.
    fn way(&self) -> impl Eq + std::hash::Hash + use<'_> {
        (self.tensor, self.axes.as_deref(), self.quantised, self.zero_point, self.part)
    }

    /// The value with its axes in another order, by default reversed.
    fn transpose(&mut self, perm: Option<&[i64]>) {
        let rank = self.shape.len();
        let perm: Vec<usize> = match perm {
            Some(perm) => perm.iter().filter_map(|&p| usize::try_from(p).ok()).collect(),
            None => (0..rank).rev().collect(),
        };
        // Extents that the permutation does not name say that the node is wrong; whoever
        // runs or infers it reports that.
        let place = |axis: usize| perm.iter().position(|&p| p == axis);
        self.axes = self.axes.as_ref().and_then(|axes| axes.iter().map(|&a| place(a)).collect());
        self.shape = perm.iter().filter_map(|&p| self.shape.get(p).copied()).collect();
    }

    fn reshape(&mut self, shape: Option<&[usize]>) {
        self.axes = match (&self.axes, shape) {
            (Some(axes), Some(shape)) => merged(&self.shape, shape)
                .map(|m| axes.iter().map(|&a| m[a]).collect::<Vec<_>>())
                .filter(|axes| axes.is_sorted()),
            _ => None,
        };
        self.shape = shape.map(<[usize]>::to_vec).unwrap_or_default();
    }
}

impl Local<'_> {
    /// The stored tensors that a value comes from.
    fn of(&self, value: Option<ValueId>) -> &[Origin] {
        value.and_then(|value| self.origins.get(&value)).map_or(&[], |origins| origins)
    }

    /// The stored tensor that a value is the whole of.
    fn only(&self, value: Option<ValueId>) -> Option<&Origin> {
        match self.of(value) {
            [origin] if !origin.part => Some(origin),
            _ => None,
        }
    }

    /// Notes what a node's outputs come from.
    fn put(&mut self, node: &Node, origins: Vec<Arc<[Origin]>>) {
        for (output, origins) in node.outputs.iter().zip(origins) {
            if let Some(output) = output {
                self.origins.insert(*output, origins);
            }
        }
    }

    /// The tensors with one element an output channel of a weight: the node's bias, or the constant
    /// that an `Add` behind it adds, and the affine tensors of a batch-norm behind that.
    fn companions(&self, n: usize, node: &Node, weight: &WeightUse, from: &Origin) -> Vec<Found> {
        let mut found = Vec::new();
        let extent = |role| -> usize {
            let of_role = weight.roles.iter().zip(&from.shape).filter(|(r, _)| **r == role);
            of_role.map(|(_, &d)| d).product()
        };
        let per_group = weight.roles.first() == Some(&AxisRole::In);
        let channels = extent(AxisRole::Out) * if per_group { weight.groups } else { 1 };
        // Channels are numbered as they are stored: where groups and their outputs lie along two axes,
        // these have to be stored in the order they are used in.
        let stored_as_used = from.axes.as_ref().is_some_and(|axes| axes.iter().copied().eq(0..axes.len()));
        if from.part
            || weight.roles.contains(&AxisRole::GateOut)
            || extent(AxisRole::Batch) != 1
            || (per_group && weight.groups > 1 && !stored_as_used)
        {
            return found;
        }
        let origin = |value: Option<ValueId>| self.only(value);
        let of = |from: &Origin, kind, node: &Node, n: usize| Found {
            tensor: from.tensor,
            kind,
            node: node.label().to_string(),
            site: self.first_site + n,
        };
        let one_a_channel = |o: &Origin| o.shape.iter().product::<usize>() == channels;
        let bias = weight.bias.and_then(|b| origin(node.inputs.get(b).copied().flatten()));
        if let Some(bias) = bias.filter(|b| one_a_channel(b)) {
            found.push(of(bias, CompanionKind::Bias, node, n));
        }
        // The output channels' axis counted from the last: constants broadcast from there.
        let declared = |v: ValueId| self.graph.values[v.index()].shape.as_ref().map(Vec::len);
        let mut at = node.outputs.first().copied().flatten();
        let out_rank = at.and_then(declared).or(match node.op_type.as_str() {
            "MatMul" => None,
            _ => Some(weight.roles.len()),
        });
        let from_end = match (weight.out_axis, out_rank) {
            (Some(axis), Some(rank)) if axis < rank => Some(rank - 1 - axis),
            _ if node.op_type == "MatMul" && weight.input == 1 => Some(0),
            _ => None,
        };
        while let Some(value) = at {
            let ([(next, input)], false) =
                (self.consumers[value.index()].as_slice(), self.read_elsewhere[value.index()])
            else {
                break;
            };
            let (n, node) = (next.0 as usize, &self.graph.nodes[next.0 as usize]);
            let operand = |i: usize| origin(node.inputs.get(i).copied().flatten());
            match node.op_type.as_str() {
                _ if !node.domain.is_empty() => break,
                "Identity" | "Cast" => {}
                "Add" if found.is_empty() => {
                    let Some(addend) = operand(1 - input) else { break };
                    // `[C, 1, 1]` or `[1, C, 1, 1]`: all of it lies on the channel axis.
                    let on_axis = from_end.and_then(|e| addend.shape.iter().rev().nth(e));
                    if on_axis != Some(&channels) || !one_a_channel(addend) {
                        break;
                    }
                    found.push(of(addend, CompanionKind::Bias, node, n));
                }
                "BatchNormalization" if *input == 0 && weight.out_axis == Some(1) => {
                    for (i, kind) in [(1, CompanionKind::NormScale), (2, CompanionKind::NormBias)] {
                        if let Some(affine) = operand(i).filter(|o| one_a_channel(o)) {
                            found.push(of(affine, kind, node, n));
                        }
                    }
                    break;
                }
                _ => break,
            }
            at = node.outputs.first().copied().flatten();
        }
        found
    }
}

/// Which of a graph's values are its outputs or are taken by nested graphs.
fn read_elsewhere(graph: &Graph) -> Vec<bool> {
    let mut elsewhere = vec![false; graph.values.len()];
    for output in &graph.outputs {
        elsewhere[output.index()] = true;
    }
    let mut taken = HashSet::new();
    for (_, nested) in graph.nodes.iter().flat_map(Node::graphs) {
        taken.extend(nested.captures.iter().map(|&v| nested.value_name(v)));
    }
    for (flag, value) in elsewhere.iter_mut().zip(&graph.values) {
        *flag |= taken.contains(value.name.as_str());
    }
    elsewhere
}

/// For each axis of `from` the axis of `to` it is part of, where a reshape only merges neighbouring
/// axes or adds and removes axes of extent 1; `None` where an axis is split.
fn merged(from: &[usize], to: &[usize]) -> Option<Vec<usize>> {
    let mut axes = Vec::with_capacity(from.len());
    let (mut t, mut filled) = (0, 1);
    for &extent in from {
        while t + 1 < to.len() && filled == to[t] && extent != 1 {
            t += 1;
            filled = 1;
        }
        filled *= extent;
        if t >= to.len() || !to[t].is_multiple_of(filled) {
            return None;
        }
        axes.push(t);
    }
    (from.iter().product::<usize>() == to.iter().product::<usize>()).then_some(axes)
}

/// The roles of the stored axes, where each lies within one axis of the operator's input.
fn stored_roles(weight: &WeightUse, from: &Origin) -> Option<Vec<AxisRole>> {
    from.axes.as_ref()?.iter().map(|&a| weight.roles.get(a).copied()).collect()
}

/// The stored axis that becomes the first of a grouped weight: groups lie along that one.
fn group_axis(weight: &WeightUse, from: &Origin) -> Option<usize> {
    let axes = from.axes.as_ref().filter(|_| weight.groups > 1)?;
    let mut first = axes.iter().enumerate().filter(|&(_, &axis)| axis == 0).map(|(stored, _)| stored);
    first.next().filter(|_| first.next().is_none())
}

/// Gates stacked along the gate axis: its extent over the hidden size.
fn gates(node: &Node, weight: &WeightUse, from: &Origin) -> usize {
    let stacked = weight.roles.iter().position(|&r| r == AxisRole::GateOut).and_then(|a| from.shape.get(a));
    let hidden = node.int("hidden_size").ok().flatten().and_then(|h| usize::try_from(h).ok());
    match (stacked, hidden) {
        (Some(&rows), Some(hidden)) if hidden > 0 && rows % hidden == 0 => rows / hidden,
        _ => 1,
    }
}
