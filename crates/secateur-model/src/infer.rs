//! Shapes and costs of a whole graph, without running it.

use std::collections::BTreeSet;

use crate::graph::Dim;
use crate::ops::{self, Fact, Facts};
use crate::tensor::checked_len;
use crate::text::quoted;
use crate::{Error, ErrorKind, Graph, Model, Node, NodeId, Result, ValueId};

/// The facts of a graph's inputs with open extents bound: named extents and inputs by `bind`, the
/// first axis of an input to `batch` where it is open.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The extent of open first axes.
    pub batch: usize,
    /// Extents by name, such as `height`.
    pub dims: Vec<(String, usize)>,
    /// Whole shapes by input name.
    pub shapes: Vec<(String, Vec<usize>)>,
}

impl Default for Binding {
    fn default() -> Self {
        Binding { batch: 1, dims: Vec::new(), shapes: Vec::new() }
    }
}

impl Binding {
    /// The shape of an input, `None` where an extent stays open.
    fn shape(&self, name: &str, declared: Option<&[Dim]>) -> Option<Vec<usize>> {
        if let Some((_, shape)) = self.shapes.iter().find(|(n, _)| n == name) {
            return Some(shape.clone());
        }
        let extent = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Known(n) => Some(*n),
            Dim::Symbol(s) => {
                let bound = self.dims.iter().find(|(n, _)| n == s).map(|(_, n)| *n);
                bound.or_else(|| (axis == 0).then_some(self.batch))
            }
            Dim::Unknown => (axis == 0).then_some(self.batch),
        };
        declared?.iter().enumerate().map(extent).collect()
    }

    /// Whether the first extent of an input is open and nothing but `batch` says it.
    fn assumes(&self, name: &str, declared: Option<&[Dim]>) -> bool {
        let said = self.shapes.iter().any(|(n, _)| n == name);
        let open = match declared.and_then(<[Dim]>::first) {
            Some(Dim::Symbol(s)) => self.dims.iter().all(|(n, _)| n != s),
            Some(Dim::Unknown) => true,
            Some(Dim::Known(_)) | None => false,
        };
        open && !said
    }
}

/// What is known of a graph's values and nodes for given input shapes.
#[derive(Clone, Debug, Default)]
pub struct Inference {
    /// By value index; `None` where nothing is known.
    pub facts: Vec<Option<Fact>>,
    /// Multiply–accumulates by node index; 0 for nodes without products, `None` where shapes are open.
    pub macs: Vec<Option<u64>>,
    /// Nodes whose operands contradict the operator's meaning. Inference went on without them.
    pub problems: Vec<Problem>,
    /// Whether the extent of an input was open and taken from [`Binding::batch`]: then a contradiction may
    /// be of that extent and not of the file.
    pub assumed: bool,
}

/// A node that inference went on without.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The node.
    pub node: NodeId,
    /// What is wrong in the large: whether the file is, or is just not understood.
    pub kind: ErrorKind,
    /// The node and what is wrong with it, in a sentence.
    pub text: String,
}

impl Problem {
    fn new(node: NodeId, error: &Error) -> Self {
        Problem { node, kind: error.kind(), text: error.to_string() }
    }
}

impl Inference {
    /// Infers the main graph of a model.
    ///
    /// # Errors
    /// Where the model has no graph, or `binding` names inputs the graph does not have.
    pub fn of(model: &Model, binding: &Binding) -> Result<Self> {
        let graph = model.graph()?;
        for (name, _) in &binding.shapes {
            if !graph.inputs.iter().any(|&i| graph.value_name(i) == name) {
                let known = quoted(graph.inputs.iter().map(|&i| graph.value_name(i)));
                return Err(Error::usage(format!("the model has no input `{name}`; it has {known}")));
            }
        }
        let shapes = graph.inputs.iter().filter_map(|i| graph.values[i.index()].shape.as_ref());
        let dynamic = |dim: &Dim| if let Dim::Symbol(name) = dim { Some(name.clone()) } else { None };
        let axes: BTreeSet<String> = shapes.flatten().filter_map(dynamic).collect();
        if let Some((name, _)) = binding.dims.iter().find(|(name, _)| !axes.contains(name)) {
            return Err(Error::usage(match axes.is_empty() {
                true => format!("no input has a dynamic axis `{name}`: none has a name"),
                false => format!("no input has a dynamic axis `{name}`; there are {}", quoted(&axes)),
            }));
        }
        let mut inference = Inference { facts: vec![None; graph.values.len()], ..Inference::default() };
        for &id in &graph.inputs {
            let value = &graph.values[id.index()];
            let shape = binding.shape(&value.name, value.shape.as_deref());
            inference.assumed |= binding.assumes(&value.name, value.shape.as_deref());
            if let Some(shape) = shape.as_deref().filter(|s| checked_len(s).is_none()) {
                return Err(ops::too_large(shape).at(format!("input `{}`", value.name)));
            }
            inference.facts[id.index()] = Some(Fact { dtype: value.dtype, shape, ..Fact::default() });
        }
        inference.run(model, graph)?;
        Ok(inference)
    }

    /// Infers a nested graph of a model, with the shapes of its inputs and the facts of the values around it that it
    /// uses, by name.
    ///
    /// # Errors
    /// Where a constant cannot be read.
    pub(crate) fn nested(
        model: &Model,
        graph: &Graph,
        input: impl Fn(ValueId) -> Option<Vec<usize>>,
        captured: impl Fn(&str) -> Option<Fact>,
    ) -> Result<Self> {
        let mut inference = Inference { facts: vec![None; graph.values.len()], ..Inference::default() };
        for &id in &graph.inputs {
            let (dtype, shape) = (graph.values[id.index()].dtype, input(id));
            inference.facts[id.index()] = Some(Fact { dtype, shape, ..Fact::default() });
        }
        for &id in &graph.captures {
            inference.facts[id.index()] = captured(graph.value_name(id));
        }
        inference.run(model, graph)?;
        Ok(inference)
    }

    /// Infers the nodes, given the facts of inputs.
    fn run(&mut self, model: &Model, graph: &Graph) -> Result<()> {
        for (&id, &tensor) in &graph.constants {
            let stored = model.tensor(tensor);
            self.facts[id.index()] = Some(match stored.len() <= ops::FOLD_LIMIT {
                true => stored.load()?.into(),
                false => Fact::stored(tensor, stored),
            });
        }
        for (index, node) in graph.nodes.iter().enumerate() {
            self.node(NodeId(index as u32), node, graph);
        }
        Ok(())
    }

    /// Multiply–accumulates of all nodes; `None` where a shape is open.
    pub fn total_macs(&self) -> Option<u64> {
        self.macs.iter().try_fold(0, |all: u64, macs| Some(all.saturating_add((*macs)?)))
    }

    /// Multiply–accumulates of the nodes whose shapes are known.
    pub fn known_macs(&self) -> u64 {
        self.macs.iter().flatten().fold(0, |all, &macs| all.saturating_add(macs))
    }

    fn node(&mut self, id: NodeId, node: &Node, graph: &Graph) {
        let operands = self.operands(node);
        let found = ops::infer(node, Facts(&operands)).unwrap_or_else(|e| {
            self.problems.push(Problem::new(id, &e));
            vec![Fact::default(); node.outputs.len()]
        });
        self.macs.push(match ops::find(node).and_then(|op| op.macs) {
            None => Some(0),
            Some(_) if found.first().is_none_or(|f| f.shape.is_none()) => None,
            Some(macs) => macs(node, Facts(&operands), &found).ok(),
        });
        for (output, mut fact) in node.outputs.iter().zip(found) {
            let Some(output) = output else { continue };
            let declared = &graph.values[output.index()];
            fact.dtype = fact.dtype.or(declared.dtype);
            // What the file says of a value that cannot be inferred, where it says it in full.
            if fact.shape.is_none() {
                let extent = |d: &Dim| if let Dim::Known(n) = d { Some(*n) } else { None };
                let shape: Option<Vec<usize>> =
                    declared.shape.as_ref().and_then(|dims| dims.iter().map(extent).collect());
                match shape {
                    Some(shape) if checked_len(&shape).is_none() => {
                        let place = format!("value `{}`", declared.name);
                        self.problems.push(Problem::new(id, &ops::too_large(&shape).at(place).at_node(node)));
                    }
                    shape => fact.shape = shape,
                }
            }
            self.facts[output.index()] = Some(fact);
        }
    }

    /// The facts of a node's inputs.
    pub fn operands(&self, node: &Node) -> Vec<Option<Fact>> {
        node.inputs.iter().map(|i| i.map(|i| self.facts[i.index()].clone().unwrap_or_default())).collect()
    }
}
