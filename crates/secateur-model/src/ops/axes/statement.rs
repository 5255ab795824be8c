//! What an operator says of its axes: the builder that [`Op::axes`](crate::ops::Op) functions write to.

use std::collections::HashSet;

use super::{Axis, Fixed, Space};
use crate::ops::{Fact, Facts};
use crate::{Error, NodeId, Result, Tensor};

/// A place where a node writes an extent down.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// An integer attribute, such as `group`.
    Attr(&'static str),
    /// An element of a list attribute, such as `perm`.
    AttrAt(&'static str, usize),
    /// An element of an input, such as the target shape of `Reshape`.
    Input(usize, usize),
}

/// An extent that a node writes down: where the axis shrinks, so does the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The node.
    pub node: NodeId,
    /// Where it writes.
    pub slot: Slot,
    /// The axis whose extent it is.
    pub axis: Axis,
}

/// The axes of one node's operands and results, and what its operator says of them. Inputs and outputs that are left
/// out have no axes; what a statement says of them is ignored.
pub struct Statement<'a> {
    space: &'a mut Space,
    node: NodeId,
    facts: Facts<'a>,
    inputs: Vec<Vec<Axis>>,
    outputs: Vec<Vec<Axis>>,
    written: &'a mut Vec<Written>,
    /// Axes of which something was said.
    mentioned: HashSet<Axis>,
    /// Which inputs and which outputs are there.
    present: [Vec<bool>; 2],
}

impl<'a> Statement<'a> {
    /// What a node's operator says is noted in `space` and `written`. `operands` are the axes of inputs and of outputs,
    /// `None` where one is left out.
    pub(crate) fn new(
        space: &'a mut Space,
        written: &'a mut Vec<Written>,
        node: NodeId,
        facts: Facts<'a>,
        operands: [Vec<Option<Vec<Axis>>>; 2],
    ) -> Self {
        let present = operands.each_ref().map(|axes| axes.iter().map(Option::is_some).collect());
        let [inputs, outputs] =
            operands.map(|axes| axes.into_iter().map(Option::unwrap_or_default).collect());
        Statement { space, node, facts, inputs, outputs, written, mentioned: HashSet::new(), present }
    }

    /// The axes of an input; empty where it is left out or a scalar.
    pub fn input(&self, index: usize) -> Vec<Axis> {
        self.inputs.get(index).cloned().unwrap_or_default()
    }

    /// The axes of an output; empty where nothing takes it or it is a scalar.
    pub fn output(&self, index: usize) -> Vec<Axis> {
        self.outputs.get(index).cloned().unwrap_or_default()
    }

    /// The axes of an input of at least `rank`.
    ///
    /// # Errors
    /// Where it has fewer.
    pub fn need(&self, index: usize, rank: usize) -> Result<Vec<Axis>> {
        of_rank(self.input(index), rank, "input", index)
    }

    /// The axes of an output of at least `rank`.
    ///
    /// # Errors
    /// Where it has fewer.
    pub fn need_output(&self, index: usize, rank: usize) -> Result<Vec<Axis>> {
        of_rank(self.output(index), rank, "output", index)
    }

    /// The inputs from `first` on, which say what the node does, as tensors.
    ///
    /// # Errors
    /// Where one of them is not constant.
    pub fn params(&self, first: usize) -> Result<Vec<Option<Tensor>>> {
        let param = |index: usize| match self.facts.get(index).filter(|_| index >= first) {
            None => Ok(None),
            Some(Fact { value: Some(value), .. }) => Ok(Some(value.clone())),
            Some(_) => Err(Error::unsupported(format!("input {index} is not constant"))),
        };
        (0..self.facts.len()).map(param).collect()
    }

    /// Whether an input is there.
    pub fn has_input(&self, index: usize) -> bool {
        self.present[0].get(index) == Some(&true)
    }

    /// Whether something takes an output.
    pub fn has_output(&self, index: usize) -> bool {
        self.present[1].get(index) == Some(&true)
    }

    /// The elements of an input, where they are constant.
    pub fn value(&self, index: usize) -> Option<&Tensor> {
        self.facts.value(index)
    }

    /// The fact of an input.
    pub fn fact(&self, index: usize) -> Option<&Fact> {
        self.facts.get(index)
    }

    /// The number of elements along an axis.
    pub fn extent(&self, axis: Axis) -> usize {
        self.space.extent(axis)
    }

    /// The extents of an input's axes.
    pub fn shape(&self, index: usize) -> Vec<usize> {
        self.input(index).into_iter().map(|axis| self.extent(axis)).collect()
    }

    /// A dimension of the node's own.
    pub fn dim(&mut self, extent: usize) -> Axis {
        self.space.dim(extent)
    }

    /// A product; the first factor varies slowest.
    pub fn product(&mut self, factors: &[Axis]) -> Axis {
        self.mentioned.extend(factors);
        self.space.product(factors)
    }

    /// Segments, one after the other.
    pub fn concat(&mut self, segments: &[Axis]) -> Axis {
        self.mentioned.extend(segments);
        self.space.concat(segments)
    }

    /// Says that two axes are the same.
    pub fn same(&mut self, a: Axis, b: Axis) {
        self.mentioned.extend([a, b]);
        self.space.unify(a, b, Fixed::Irregular(self.node));
    }

    /// Says that operands have the same axes, one by one.
    pub fn same_all(&mut self, a: &[Axis], b: &[Axis]) {
        a.iter().zip(b).for_each(|(&a, &b)| self.same(a, b));
    }

    /// Says that two axes meet elementwise: the same, or one of them of extent 1 and repeated along the other.
    pub fn meet(&mut self, a: Axis, b: Axis) {
        self.mentioned.extend([a, b]);
        if self.extent(a) == self.extent(b) {
            self.same(a, b);
        }
    }

    /// Says that operands meet elementwise, numpy's way: their last axes first.
    pub fn meet_all(&mut self, a: &[Axis], b: &[Axis]) {
        a.iter().rev().zip(b.iter().rev()).for_each(|(&a, &b)| self.meet(a, b));
    }

    /// Says that the node looks at positions along an axis: they are fixed.
    pub fn fix(&mut self, axis: Axis) {
        self.space.fix(axis, Fixed::Position(self.node));
    }

    /// Says that the order along an axis does not matter, as where the node sums over it.
    pub fn free(&mut self, axis: Axis) {
        self.mentioned.insert(axis);
    }

    /// Fixes those axes of the inputs behind the first of which nothing was said: they are numbers that say how the
    /// node works.
    pub(crate) fn fix_the_rest(&mut self) {
        let unsaid = self.inputs.iter().skip(1).flatten().filter(|axis| !self.mentioned.contains(axis));
        let unsaid: Vec<Axis> = unsaid.copied().collect();
        self.fix_all(&unsaid);
    }

    /// Fixes several axes.
    pub fn fix_all(&mut self, axes: &[Axis]) {
        axes.iter().for_each(|&axis| self.fix(axis));
    }

    /// Fixes all axes of all operands and results.
    pub fn fix_everything(&mut self) {
        let all: Vec<Axis> = self.inputs.iter().chain(&self.outputs).flatten().copied().collect();
        self.fix_all(&all);
    }

    /// Says that the node normalises over an axis: it may be permuted, but what is left out changes the rest.
    pub fn normalise(&mut self, axis: Axis) {
        self.space.normalise(axis, self.node);
    }

    /// Says that the node writes the extent of an axis down.
    pub fn write(&mut self, slot: Slot, axis: Axis) {
        self.written.push(Written { node: self.node, slot, axis });
    }

    /// All inputs meet each other elementwise, and so do all outputs.
    pub fn pointwise(&mut self) {
        let Some(first) = self.outputs.first().cloned() else { return };
        for i in 0..self.inputs.len() {
            let input = self.input(i);
            self.meet_all(&input, &first);
        }
        for o in 1..self.outputs.len() {
            let output = self.output(o);
            self.meet_all(&output, &first);
        }
    }

    /// The first input and the first output have the same axes.
    pub fn unchanged(&mut self) {
        let (input, output) = (self.input(0), self.output(0));
        self.same_all(&input, &output);
    }

    /// As [`Statement::unchanged`], but for one axis of which the node looks at positions.
    pub fn unchanged_but(&mut self, fixed: usize) {
        let (input, output) = (self.input(0), self.output(0));
        for (axis, (&a, &b)) in input.iter().zip(&output).enumerate() {
            if axis == fixed {
                self.fix_all(&[a, b]);
            } else {
                self.same(a, b);
            }
        }
    }

    /// An operand whose elements belong one by one to an axis: a bias, a scale. One element is shared by all.
    pub fn along(&mut self, input: usize, axis: Axis) {
        let operand = self.input(input);
        let whole = self.product(&operand);
        if self.extent(whole) == self.extent(axis) {
            self.same(whole, axis);
        } else if self.extent(whole) != 1 {
            self.fix_all(&[whole, axis]);
        }
    }
}

fn of_rank(axes: Vec<Axis>, rank: usize, what: &str, index: usize) -> Result<Vec<Axis>> {
    match axes.len() {
        found if found < rank => {
            Err(Error::input(format!("{what} {index} has {found} axes, expected at least {rank}")))
        }
        _ => Ok(axes),
    }
}

/// What an operator says of the axes of its operands and results.
pub type AxesFn = fn(&crate::Node, &mut Statement<'_>) -> Result<()>;
