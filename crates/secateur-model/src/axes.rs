//! Which axes of a graph's values are the same: what a channel is, everywhere it occurs.
//!
//! Each operator states once how the axes of its operands and results correspond ([`Op::axes`](crate::ops::Op)):
//! which are the same, which are products or concatenations of others, along which it looks at positions, and where
//! the node writes extents down. From these statements [`GraphAxes`] derives for every axis of every value the
//! dimensions it consists of. Two axes that share a dimension change together: they are permuted, pruned and shrunk
//! as one. An operator without a statement fixes everything that touches it.
//!
//! ```text
//! Conv 1   x [N, 3, H, W]    w1 [C, 3, 3, 3]       y [N, C, H', W']
//! BN       scale, bias, mean, variance [C]
//! Flatten  [N, C·H'·W']
//! Gemm     w2 [10, C·H'·W']                        C is one dimension in seven tensors
//! ```

use std::collections::{BTreeMap, HashMap};

use crate::infer::Inference;
use crate::ops::axes::Statement;
pub use crate::ops::axes::{Axis, Fixed, Slot, Space, View, Written};
use crate::ops::{self, Fact, Facts};
use crate::{Graph, Model, Node, NodeId, Result, TensorId, ValueId};

/// The axes of all values of a graph.
#[derive(Clone, Debug, Default)]
pub struct GraphAxes {
    space: Space,
    /// By value index; `None` where the shape is not known.
    values: Vec<Option<Vec<Axis>>>,
    written: Vec<Written>,
}

impl GraphAxes {
    /// The axes of a model's main graph. Those of its inputs and outputs, which callers see, are fixed.
    ///
    /// # Errors
    /// Where the model has no graph, or a node contradicts its operator's meaning.
    pub fn of(model: &Model, inference: &Inference) -> Result<Self> {
        let graph = model.graph()?;
        let mut axes = GraphAxes::stated(model, inference)?;
        for &value in &graph.inputs {
            axes.fix(value, Fixed::Input(value));
        }
        for &value in &graph.outputs {
            axes.fix(value, Fixed::Output(value));
        }
        Ok(axes)
    }

    /// As [`GraphAxes::of`], but the axes of the graph's inputs and outputs are as free as others.
    ///
    /// # Errors
    /// As [`GraphAxes::of`].
    pub fn stated(model: &Model, inference: &Inference) -> Result<Self> {
        let graph = model.graph()?;
        let mut axes = GraphAxes { values: vec![None; graph.values.len()], ..GraphAxes::default() };
        let mut tensors: HashMap<TensorId, Vec<Axis>> = HashMap::new();
        for (index, fact) in inference.facts.iter().enumerate() {
            let Some(shape) = fact.as_ref().and_then(Fact::shape) else { continue };
            let stored = graph.constants.get(&ValueId(index as u32));
            let of_value = stored.and_then(|id| tensors.get(id)).cloned().unwrap_or_else(|| {
                let fresh: Vec<Axis> = shape.iter().map(|&extent| axes.space.dim(extent)).collect();
                if let Some(&id) = stored {
                    tensors.insert(id, fresh.clone());
                }
                fresh
            });
            axes.values[index] = Some(of_value);
        }
        for (id, node) in (0..).map(NodeId).zip(&graph.nodes) {
            axes.node(id, node, graph, inference)?;
        }
        Ok(axes)
    }

    fn node(&mut self, id: NodeId, node: &Node, graph: &Graph, inference: &Inference) -> Result<()> {
        for (_, nested) in node.graphs() {
            for &captured in &nested.captures {
                let name = nested.value_name(captured);
                let outer = (0..).map(ValueId).zip(&graph.values).find(|(_, value)| value.name == name);
                if let Some((value, _)) = outer {
                    self.fix(value, Fixed::Captured(value));
                }
            }
        }
        let operands = inference.operands(node);
        let all = || node.inputs.iter().chain(&node.outputs).flatten();
        let unknown = all().any(|value| self.values[value.index()].is_none());
        let axes = ops::find(node).and_then(|op| op.axes);
        let (Some(axes), false) = (axes, unknown) else {
            let why = if unknown && axes.is_some() { Fixed::Unknown(id) } else { Fixed::Unstated(id) };
            all().for_each(|&value| self.fix(value, why));
            return Ok(());
        };
        let of = |values: &[Option<ValueId>]| {
            let each = values.iter().map(|value| self.values[value.as_ref()?.index()].clone());
            each.collect::<Vec<_>>()
        };
        let both = [of(&node.inputs), of(&node.outputs)];
        let mut statement = Statement::new(&mut self.space, &mut self.written, id, Facts(&operands), both);
        match axes(node, &mut statement) {
            Ok(()) => statement.fix_the_rest(),
            // Inference has reported what contradicts the operator's meaning.
            Err(_) => statement.fix_everything(),
        }
        Ok(())
    }

    fn fix(&mut self, value: ValueId, why: Fixed) {
        for axis in self.values[value.index()].clone().unwrap_or_default() {
            self.space.fix(axis, why);
        }
    }

    /// The axes of a value; `None` where its shape is not known.
    pub fn value(&self, value: ValueId) -> Option<&[Axis]> {
        self.values[value.index()].as_deref()
    }

    /// What axes consist of.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The extents that nodes write down.
    pub fn written(&self) -> &[Written] {
        &self.written
    }

    /// Each dimension and the axes of values that it is part of.
    pub fn occurrences(&self) -> BTreeMap<Axis, Vec<(ValueId, usize)>> {
        let mut found: BTreeMap<Axis, Vec<(ValueId, usize)>> = BTreeMap::new();
        for (index, axes) in self.values.iter().enumerate() {
            for (place, &axis) in axes.iter().flatten().enumerate() {
                for dim in self.space.dims(axis) {
                    found.entry(dim).or_default().push((ValueId(index as u32), place));
                }
            }
        }
        found
    }
}

/// For each axis of a node's input the axis of its first output that its elements lie along: `None` for all where one
/// is spread over several. An axis of extent 1 goes with the one before it. This looks at one node alone.
pub fn passed_on(node: &Node, inputs: &[Option<Fact>], outputs: &[Fact], input: usize) -> Option<Vec<usize>> {
    let axes = ops::find(node)?.axes?;
    let (mut space, mut written) = (Space::default(), Vec::new());
    let mut fresh = |fact: Option<&Fact>| -> Option<Vec<Axis>> {
        Some(fact?.shape()?.iter().map(|&extent| space.dim(extent)).collect())
    };
    let of_inputs: Vec<_> = inputs.iter().map(|fact| fresh(fact.as_ref())).collect();
    let of_outputs: Vec<_> = outputs.iter().map(|fact| fresh(Some(fact))).collect();
    let both = [of_inputs.clone(), of_outputs.clone()];
    let mut statement = Statement::new(&mut space, &mut written, NodeId(0), Facts(inputs), both);
    axes(node, &mut statement).ok()?;
    let own: Vec<Vec<Axis>> = of_outputs.first()?.iter().flatten().map(|&axis| space.dims(axis)).collect();
    let mut found = Vec::new();
    for &axis in of_inputs.get(input)?.as_ref()? {
        let dims = space.dims(axis);
        let mut places = (0..own.len()).filter(|&place| dims.iter().any(|dim| own[place].contains(dim)));
        match (places.next(), places.next()) {
            (Some(place), None) => found.push(place),
            (None, _) if space.extent(axis) == 1 => found.push(found.last().copied().unwrap_or(0)),
            _ => return None,
        }
    }
    Some(found)
}
