//! The walk over the graphs that finds how each stored tensor is used.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::CompanionKind;
use crate::axes;
use crate::graph::Dim;
use crate::ops::{self, AxisRole, Fact, Facts, Operand, Passes, WeightUse};
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

    /// Follows stored tensors through an operator that passes their elements on; gives how many of its inputs, from
    /// the first on, are passed on so: none of other nodes.
    fn pass_on(&self, node: &Node, local: &mut Local<'_>) -> Result<usize> {
        let passes = ops::find(node).map_or(Passes::No, |op| op.passes);
        let Some(&first) = node.inputs.first().filter(|_| passes != Passes::No) else { return Ok(0) };
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
        let followable = |origins: &[Origin]| origins.iter().all(|origin| origin.dtype.is_prunable());
        self.follow(from.len()).at_node(node)?;
        let zero_point = node.inputs.get(2).copied().flatten();
        let to = vec![match passes {
            Passes::No => return Ok(0),
            Passes::InPlace => pass(from, &|_| {}),
            Passes::Moved => {
                let (facts, outputs) = self.infer(node, local)?;
                let axes = axes::passed_on(node, &facts, &outputs, 0);
                let shape = outputs.first().and_then(Fact::shape);
                pass(from, &|origin| origin.rearrange(axes.as_deref(), shape))
            }
            Passes::Quantised { given } => {
                let zero_point = match zero_point {
                    Some(zero) => local.only(Some(zero)).map(|o| Some(o.tensor)),
                    None => given.then_some(None),
                };
                pass(from, &|origin| (origin.quantised, origin.zero_point) = (true, zero_point))
            }
            Passes::Dequantised => {
                let known = zero_point.is_none() || local.only(zero_point).is_some();
                let zero = local.only(zero_point).map(|o| o.tensor);
                pass(from, &|origin| {
                    // Zero has the zero point's code, and so comes back.
                    let kept =
                        origin.zero_point.take().is_some_and(|own| known && self.same_zeros(own, zero));
                    origin.quantised = !kept;
                })
            }
            Passes::Part => {
                if !followable(from) {
                    return Ok(0);
                }
                let (_, outputs) = self.infer(node, local)?;
                let parts = outputs.into_iter().map(|fact| {
                    pass(from, &|origin| {
                        // The rank stays where the extents are not known.
                        origin.shape = fact.shape.clone().unwrap_or_else(|| origin.shape.clone());
                        origin.part = true;
                    })
                });
                let parts: Vec<_> = parts.collect();
                local.put(node, parts);
                return Ok(1);
            }
            Passes::Joined => {
                let all: Vec<&Origin> = node.inputs.iter().flat_map(|&input| local.of(input)).collect();
                let stored = node.inputs.iter().all(|&input| !local.of(input).is_empty());
                if !stored || all.len() > MAX_PARTS || !all.iter().all(|origin| origin.dtype.is_prunable()) {
                    return Ok(0);
                }
                let (_, outputs) = self.infer(node, local)?;
                let Some(shape) = outputs.first().and_then(Fact::shape) else { return Ok(0) };
                // A value that is joined with itself is used in one way.
                let joined: Vec<Origin> = {
                    let mut met = HashSet::new();
                    all.into_iter().filter(|origin| met.insert(origin.way())).cloned().collect()
                };
                self.follow(joined.len()).at_node(node)?;
                let joined = pass(&joined, &|origin| {
                    origin.shape = shape.to_vec();
                    origin.part |= node.inputs.len() > 1;
                });
                local.put(node, vec![joined]);
                return Ok(node.inputs.len());
            }
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

    /// What is known of a node's inputs and outputs; at least one output.
    fn infer(&self, node: &Node, local: &Local<'_>) -> Result<(Vec<Option<Fact>>, Vec<Fact>)> {
        let facts: Vec<_> = node.inputs.iter().map(|&v| self.fact(v, local)).collect();
        let mut found = ops::infer(node, Facts(&facts))?;
        found.resize(node.outputs.len().max(1), Fact::default());
        Ok((facts, found))
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
                None if origin.axes.is_none() && origin.shape.is_empty() => Fact::unknown(Some(origin.dtype)),
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
                            gates: weight.gates,
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

    /// The value with its elements rearranged: its axes become those of `axes`.
    fn rearrange(&mut self, axes: Option<&[usize]>, shape: Option<&[usize]>) {
        let rank = self.shape.len();
        self.axes = match (&self.axes, axes, shape) {
            (Some(own), Some(to), Some(shape)) => {
                let moved: Option<Vec<usize>> = own.iter().map(|&axis| to.get(axis).copied()).collect();
                // Axes that are joined have to be stored in the order they are joined in.
                let only_permuted = shape.len() == rank && (0..rank).all(|axis| to.contains(&axis));
                moved.filter(|axes| only_permuted || axes.is_sorted())
            }
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
        let mut at = node.outputs.first().copied().flatten();
        while let Some(value) = at {
            let ([(next, input)], false) =
                (self.consumers[value.index()].as_slice(), self.read_elsewhere[value.index()])
            else {
                break;
            };
            let (n, node) = (next.0 as usize, &self.graph.nodes[next.0 as usize]);
            let Some(op) = ops::find(node) else { break };
            let operand = |i: usize| origin(node.inputs.get(i).copied().flatten());
            let norms = op.operands.iter().filter_map(|&(i, does)| match does {
                Operand::NormScale => Some((i, CompanionKind::NormScale)),
                Operand::NormBias => Some((i, CompanionKind::NormBias)),
                Operand::Addend => None,
            });
            let norms: Vec<_> = norms.collect();
            let other = op.operands.iter().find(|(i, does)| *does == Operand::Addend && i != input);
            if let (Some(&(addend, _)), true) = (other, found.is_empty()) {
                let Some(addend) = operand(addend) else { break };
                // `[C, 1, 1]` or `[1, C, 1, 1]`: all of it lies on the channel axis.
                let on_axis = weight.out_from_last.and_then(|last| addend.shape.iter().rev().nth(last));
                if on_axis != Some(&channels) || !one_a_channel(addend) {
                    break;
                }
                found.push(of(addend, CompanionKind::Bias, node, n));
            } else if *input == 0 && !norms.is_empty() && weight.out_axis == Some(1) {
                for (i, kind) in norms {
                    if let Some(affine) = operand(i).filter(|o| one_a_channel(o)) {
                        found.push(of(affine, kind, node, n));
                    }
                }
                break;
            } else if op.passes != Passes::InPlace {
                break;
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
