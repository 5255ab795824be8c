//! What an operator states: an entry of the table.

use super::axes::AxesFn;
use super::view::View;
use super::{Fact, Facts, Inputs};
use crate::{Node, Result, Tensor};

/// What an axis of a weight means to the operator that owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisRole {
    /// Output channels or neurons (of all groups together).
    Out,
    /// Input channels or neurons (of one group).
    In,
    /// A position of the kernel.
    Spatial,
    /// Stacked gates of a recurrent operator, each with its outputs: gates × out.
    GateOut,
    /// Directions of a recurrent operator.
    Direction,
    /// Independent matrices of a batched product.
    Batch,
}

/// A weight input of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightUse {
    /// Which input of the node is the weight.
    pub input: usize,
    /// The role of each of its axes.
    pub roles: Vec<AxisRole>,
    /// Groups that outputs and inputs are divided into.
    pub groups: usize,
    /// Which input is the bias: one element an output channel.
    pub bias: Option<usize>,
    /// The axis of the node's first output that the weight's outputs become.
    pub out_axis: Option<usize>,
    /// The same counted from the last axis, which may be known where the rank is not.
    pub out_from_last: Option<usize>,
    /// Gates stacked along the axis of role [`AxisRole::GateOut`]; 1 for other operators.
    pub gates: usize,
}

/// Shape inference: the facts of all outputs.
pub type InferFn = fn(&Node, Facts<'_>) -> Result<Vec<Fact>>;
/// Evaluation on tensors of any supported type.
pub type EvalFn = fn(&Node, Inputs<'_>) -> Result<Vec<Tensor>>;
/// For each output the walk over the first input's elements, of this shape, that it is a copy of; `None` where outputs are
/// no such copies. What else the operator reads is known.
pub type ViewsFn = fn(&Node, &[usize], Inputs<'_>) -> Result<Option<Vec<View>>>;
/// The weights among the inputs.
pub type WeightsFn = fn(&Node, Facts<'_>) -> Result<Vec<WeightUse>>;
/// Multiply–accumulates, given the facts of inputs and outputs.
pub type MacsFn = fn(&Node, Facts<'_>, &[Fact]) -> Result<u64>;

/// Whether an operator passes elements of its inputs on, so that who reads its output reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passes {
    /// It computes others.
    No,
    /// All elements of the first input where they are, perhaps converted.
    InPlace,
    /// All elements of the first input, rearranged.
    Moved,
    /// Some elements of the first input, with all axes in their places.
    Part,
    /// All elements of all inputs, with all axes in their places.
    Joined,
    /// The first input as codes. The code of zero is the third input, or it is computed.
    Quantised {
        /// Whether it is the third input.
        given: bool,
    },
    /// The numbers that the first input, of codes, stands for; the third is the code of zero.
    Dequantised,
}

/// What an input does to the channels of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// It is added.
    Addend,
    /// It is the factor of a normalisation by fixed statistics of each channel (axis 1).
    NormScale,
    /// It is added behind that.
    NormBias,
}

/// One operator.
#[derive(Clone, Copy)]
pub struct Op {
    /// The operator's name.
    pub name: &'static str,
    /// Its domain; `ai.onnx` is the empty string.
    pub domain: &'static str,
    /// The first operator set whose meaning is implemented.
    pub since: u32,
    /// Shape inference.
    pub infer: InferFn,
    /// Evaluation, where the operator has one here; the runtime's kernels come first.
    pub eval: Option<EvalFn>,
    /// The outputs as views of the first input, where they are.
    pub views: Option<ViewsFn>,
    /// The weights among the inputs.
    pub weights: Option<WeightsFn>,
    /// The inputs that are parameters where they are constants: weights, biases, factors and addends.
    pub parameters: &'static [usize],
    /// How the axes of operands and results correspond; operators without a statement fix all of them.
    pub axes: Option<AxesFn>,
    /// What becomes of the elements of the first input, or of all inputs.
    pub passes: Passes,
    /// Groups of inputs that have one element type; an empty group is all inputs.
    pub types: &'static [&'static [usize]],
    /// Whether it adds its inputs, perhaps with signs or averaged: what one layer gives meets what another does.
    pub sums: bool,
    /// Inputs that act on whole channels of the first output.
    pub operands: &'static [(usize, Operand)],
    /// The cost; operators without one are not counted (as is usual, only products are).
    pub macs: Option<MacsFn>,
}

impl Op {
    /// An operator of the default domain that only infers shapes.
    pub const fn new(name: &'static str, since: u32, infer: InferFn) -> Self {
        Op {
            name,
            domain: "",
            since,
            infer,
            eval: None,
            views: None,
            weights: None,
            parameters: &[],
            axes: None,
            passes: Passes::No,
            types: &[],
            sums: false,
            operands: &[],
            macs: None,
        }
    }

    /// In another domain.
    #[must_use]
    pub const fn domain(mut self, domain: &'static str) -> Self {
        self.domain = domain;
        self
    }

    /// With an evaluation.
    #[must_use]
    pub const fn eval(mut self, eval: EvalFn) -> Self {
        self.eval = Some(eval);
        self
    }

    /// With outputs that are views of the first input.
    #[must_use]
    pub const fn views(mut self, views: ViewsFn) -> Self {
        self.views = Some(views);
        self
    }

    /// With weights.
    #[must_use]
    pub const fn weights(mut self, weights: WeightsFn) -> Self {
        self.weights = Some(weights);
        self
    }

    /// With inputs that are parameters.
    #[must_use]
    pub const fn parameters(mut self, parameters: &'static [usize]) -> Self {
        self.parameters = parameters;
        self
    }

    /// With a statement about its axes.
    #[must_use]
    pub const fn axes(mut self, axes: AxesFn) -> Self {
        self.axes = Some(axes);
        self
    }

    /// With groups of inputs that have one element type.
    #[must_use]
    pub const fn types(mut self, types: &'static [&'static [usize]]) -> Self {
        self.types = types;
        self
    }

    /// Passes elements on.
    #[must_use]
    pub const fn passes(mut self, passes: Passes) -> Self {
        self.passes = passes;
        self
    }

    /// Adds its inputs.
    #[must_use]
    pub const fn sums(mut self) -> Self {
        self.sums = true;
        self
    }

    /// With inputs that act on whole channels.
    #[must_use]
    pub const fn operands(mut self, operands: &'static [(usize, Operand)]) -> Self {
        self.operands = operands;
        self
    }

    /// With a cost.
    #[must_use]
    pub const fn macs(mut self, macs: MacsFn) -> Self {
        self.macs = Some(macs);
        self
    }
}
