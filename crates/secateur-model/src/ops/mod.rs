//! The meaning of operators: one family a file, one [`Op`] an operator.
//!
//! An operator states here once its attributes, its shape inference, the roles of its weights' axes
//! and its cost. Operators that move or compare elements, and elementwise arithmetic, also evaluate
//! here, on any element type: shape arithmetic is folded with that, and the runtime falls back to it
//! where it has no kernel of its own. An operator that is not in the table is carried unchanged; it
//! cannot be run.
//!
//! To add an operator: one `Op` in its family's `OPS`, its functions beside it, one test.

use std::collections::HashMap;
use std::sync::{LazyLock, PoisonError, RwLock};

use self::axes::AxesFn;
use self::types::ONE_TYPE;
pub(crate) use self::types::check_types;
use crate::tensor::checked_len;
use crate::{DType, Error, Node, Result, ResultExt, StoredTensor, Tensor, TensorId};

/// What is known of a value before running: the type, the shape, and the elements of constants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fact {
    /// The element type, where known.
    pub dtype: Option<DType>,
    /// The shape, where known.
    pub shape: Option<Vec<usize>>,
    /// The elements, where the value is a constant or follows from constants and shapes.
    pub value: Option<Tensor>,
    /// The tensor of the model that a constant is, where its elements are not loaded.
    pub stored: Option<Stored>,
}

/// A tensor of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The tensor.
    pub tensor: TensorId,
    /// Whether it is transposed; then it has two axes.
    pub transposed: bool,
}

impl Fact {
    /// A known type and shape.
    pub fn new(dtype: DType, shape: impl Into<Vec<usize>>) -> Self {
        Fact { dtype: Some(dtype), shape: Some(shape.into()), ..Fact::default() }
    }

    /// A tensor of the model, not loaded.
    pub fn stored(id: TensorId, tensor: &StoredTensor) -> Self {
        let stored = Stored { tensor: id, transposed: false };
        Fact { stored: Some(stored), ..Fact::new(tensor.dtype, tensor.shape.clone()) }
    }

    /// The transpose of a matrix that is not loaded; `None` for other values.
    pub fn transposed(&self) -> Option<Fact> {
        let (Some(Stored { tensor, transposed }), Some(&[rows, columns])) =
            (self.stored, self.shape.as_deref())
        else {
            return None;
        };
        let stored = Some(Stored { tensor, transposed: !transposed });
        Some(Fact { stored, shape: Some(vec![columns, rows]), ..self.clone() })
    }

    /// Whether the elements are known before running, though perhaps not loaded.
    pub fn is_constant(&self) -> bool {
        self.value.is_some() || self.stored.is_some()
    }

    /// Nothing but, perhaps, the type is known.
    pub fn unknown(dtype: Option<DType>) -> Self {
        Fact { dtype, ..Fact::default() }
    }

    /// The shape, where both it and the type are of interest only together.
    pub fn shape(&self) -> Option<&[usize]> {
        self.shape.as_deref()
    }
}

impl From<Tensor> for Fact {
    fn from(tensor: Tensor) -> Self {
        let fact = Fact::new(tensor.dtype(), tensor.shape());
        Fact { value: Some(tensor), ..fact }
    }
}

/// The inputs of a node as facts, with accessors that name what is missing.
#[derive(Clone, Copy)]
pub struct Facts<'a>(pub &'a [Option<Fact>]);

impl<'a> Facts<'a> {
    /// The fact of a required input.
    ///
    /// # Errors
    /// Where the node leaves it out.
    pub fn need(&self, index: usize) -> Result<&'a Fact> {
        self.get(index).ok_or_else(|| missing_input(index))
    }

    /// The fact of an optional input.
    pub fn get(&self, index: usize) -> Option<&'a Fact> {
        self.0.get(index).and_then(Option::as_ref)
    }

    /// The shape of an input where it is there and known.
    pub fn shape(&self, index: usize) -> Option<&'a [usize]> {
        self.get(index).and_then(|f| f.shape.as_deref())
    }

    /// Checks that an input has one of the shapes it may have, where it is there and its shape known.
    ///
    /// # Errors
    /// Where it has another.
    pub(crate) fn expect(&self, index: usize, what: &str, shapes: &[&[usize]]) -> Result<()> {
        match self.shape(index) {
            Some(found) if !shapes.contains(&found) => {
                let shapes: Vec<String> = shapes.iter().map(|shape| format!("{shape:?}")).collect();
                Err(Error::input(format!(
                    "input {index} ({what}) has the shape {found:?}, expected {}",
                    shapes.join(" or ")
                )))
            }
            _ => Ok(()),
        }
    }

    /// Checks that an input broadcasts to a shape, where it is there and its own is known.
    ///
    /// # Errors
    /// Where it does not.
    pub(crate) fn expect_broadcast(&self, index: usize, what: &str, to: &[usize]) -> Result<()> {
        match self.shape(index) {
            Some(found) if broadcast(&[to, found]).ok().as_deref() != Some(to) => Err(Error::input(format!(
                "input {index} ({what}) has the shape {found:?}, which does not broadcast to {to:?}"
            ))),
            _ => Ok(()),
        }
    }

    /// The elements of an input where it is there and known.
    pub fn value(&self, index: usize) -> Option<&'a Tensor> {
        self.get(index).and_then(|f| f.value.as_ref())
    }

    /// The element type of an input where known.
    pub fn dtype(&self, index: usize) -> Option<DType> {
        self.get(index).and_then(|f| f.dtype)
    }

    /// The number of inputs, those left out included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The inputs of a node as tensors, with accessors that name what is missing.
#[derive(Clone, Copy)]
pub struct Inputs<'a>(pub &'a [Option<&'a Tensor>]);

impl<'a> Inputs<'a> {
    /// A required input.
    ///
    /// # Errors
    /// Where the node leaves it out.
    pub fn need(&self, index: usize) -> Result<&'a Tensor> {
        self.get(index).ok_or_else(|| missing_input(index))
    }

    /// An optional input.
    pub fn get(&self, index: usize) -> Option<&'a Tensor> {
        self.0.get(index).copied().flatten()
    }

    /// The number of inputs, those left out included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no inputs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn missing_input(index: usize) -> Error {
    Error::input(format!("input {index} is required, but the node leaves it out"))
}

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
    /// The weights among the inputs.
    pub weights: Option<WeightsFn>,
    /// How the axes of operands and results correspond; operators without a statement fix all of them.
    pub axes: Option<AxesFn>,
    /// Groups of inputs that have one element type; an empty group is all inputs.
    pub types: &'static [&'static [usize]],
    /// What becomes of the elements of the first input, or of all inputs.
    pub passes: Passes,
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
            weights: None,
            axes: None,
            types: &[],
            passes: Passes::No,
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

    /// With weights.
    #[must_use]
    pub const fn weights(mut self, weights: WeightsFn) -> Self {
        self.weights = Some(weights);
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

/// The families; an operator stands in exactly one.
const FAMILIES: &[&[Op]] = &[
    activation::OPS,
    attention::OPS,
    binary::OPS,
    cast::OPS,
    conv::OPS,
    create::OPS,
    det::OPS,
    gather::OPS,
    logic::OPS,
    loss::OPS,
    matmul::OPS,
    movement::OPS,
    norm::OPS,
    norm_bare::OPS,
    order::OPS,
    pad::OPS,
    patches::OPS,
    qlinear::OPS,
    quantize::OPS,
    recurrent::OPS,
    reduce::OPS,
    region::OPS,
    resize::OPS,
    rotary::OPS,
    sample::OPS,
    scan::OPS,
    scatter::OPS,
    select::OPS,
    shape::OPS,
    softmax::OPS,
    spectrum::OPS,
    unary::OPS,
];

mod activation;
pub mod attention;
pub mod axes;
mod binary;
mod broadcast;
mod cast;
mod cells;
pub mod conv;
mod create;
mod det;
pub(crate) mod expand;
mod gather;
mod logic;
mod loss;
pub mod matmul;
mod movement;
mod narrow;
pub mod norm;
mod norm_bare;
mod number;
mod order;
mod pad;
mod params;
mod patches;
mod pick;
mod qlinear;
mod quantize;
mod recurrent;
mod reduce;
mod region;
mod resize;
mod rotary;
mod sample;
mod scan;
mod scatter;
mod select;
mod shape;
mod softmax;
mod spectrum;
mod taps;
#[cfg(test)]
mod testing;
mod types;
mod unary;
mod view;

/// The domain of ONNX Runtime's own operators, which its optimiser and some exporters emit.
pub const MICROSOFT: &str = "com.microsoft";

/// The newest operator set of the default domain that the table was checked against.
pub const NEWEST_OPSET: u32 = 27;

/// All operators of the table.
pub fn all() -> impl Iterator<Item = &'static Op> {
    FAMILIES.iter().copied().flatten()
}

/// The operator a node names, where the table or what a program added has it for the node's operator set.
pub fn find(node: &Node) -> Option<&'static Op> {
    named(&node.domain, &node.op_type).filter(|op| node.opset >= op.since)
}

fn named(domain: &str, name: &str) -> Option<&'static Op> {
    static TABLE: LazyLock<HashMap<(&str, &str), &'static Op>> =
        LazyLock::new(|| all().map(|op| ((op.domain, op.name), op)).collect());
    TABLE.get(&(domain, name)).copied().or_else(|| {
        let added = ADDED.read().unwrap_or_else(PoisonError::into_inner);
        added.iter().find(|op| (op.domain, op.name) == (domain, name)).copied()
    })
}

/// Operators that a program added.
static ADDED: RwLock<Vec<&'static Op>> = RwLock::new(Vec::new());

/// Adds an operator, such as one of a program's own domain, for all models of the process. Add it before reading
/// models that use it: what was inferred without it stays as it was.
///
/// # Errors
/// `Usage` where an operator of that name is known in the domain.
pub fn add(op: &'static Op) -> Result<()> {
    if named(op.domain, op.name).is_some() {
        return Err(Error::usage(format!(
            "the operator `{}` is already known in the domain `{}`: give yours another domain",
            op.name, op.domain
        )));
    }
    ADDED.write().unwrap_or_else(PoisonError::into_inner).push(op);
    Ok(())
}

/// Elements up to which a value is folded while shapes are inferred: shape arithmetic is small, and
/// a large constant would cost memory without telling a shape.
pub const FOLD_LIMIT: usize = 4096;

/// The facts of a node's outputs: evaluated where all inputs are small constants, inferred
/// otherwise, and unknown where the operator is not in the table.
///
/// # Errors
/// Where the inputs contradict the operator's meaning.
pub fn infer(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let Some(op) = find(node) else {
        return Ok(vec![Fact::default(); node.outputs.len()]);
    };
    let run = || -> Result<Vec<Fact>> {
        countable("input", inputs.0.iter().map(Option::as_ref))?;
        let mut facts = (op.infer)(node, inputs)?;
        facts.resize(node.outputs.len(), Fact::default());
        countable("output", facts.iter().map(Some))?;
        let small = |fact: &Fact| {
            fact.value.is_some()
                || fact.shape().is_none_or(|s| checked_len(s).is_some_and(|n| n <= FOLD_LIMIT))
        };
        let known = inputs.0.iter().flatten().all(|f| f.value.is_some());
        if let (Some(eval), true, true) = (op.eval, known, facts.iter().all(small)) {
            if facts.iter().all(|f| f.value.is_some()) {
                return Ok(facts);
            }
            let tensors: Vec<_> =
                inputs.0.iter().map(|f| f.as_ref().and_then(|f| f.value.as_ref())).collect();
            let mut out: Vec<Fact> = eval(node, Inputs(&tensors))?.into_iter().map(Fact::from).collect();
            out.resize(node.outputs.len(), Fact::default());
            return Ok(out);
        }
        Ok(facts)
    };
    run().at_node(node)
}

/// Checks that the elements of each value can be counted. What follows, here, in kernels and in plans, multiplies
/// the extents of these shapes without a look at overflow.
fn countable<'a>(what: &str, facts: impl Iterator<Item = Option<&'a Fact>>) -> Result<()> {
    for (i, fact) in facts.enumerate() {
        if let Some(shape) = fact.and_then(Fact::shape) {
            len_of(shape).at(|| format!("{what} {i}"))?;
        }
    }
    Ok(())
}

/// The number of elements of a shape.
///
/// # Errors
/// Where it is above [`MAX_LEN`](crate::tensor::MAX_LEN), which no memory holds.
pub fn len_of(shape: &[usize]) -> Result<usize> {
    checked_len(shape).ok_or_else(|| too_large(shape))
}

/// The error for a shape whose elements cannot be counted.
pub(crate) fn too_large(shape: &[usize]) -> Error {
    Error::input(format!("the shape {shape:?} is too large: no memory holds its elements"))
}

/// A product, for numbers of multiply–accumulates.
///
/// # Errors
/// Where it does not fit 60 bits, so that a few of them can be added.
pub(crate) fn count_of<'a>(factors: impl IntoIterator<Item = &'a usize>) -> Result<u64> {
    let mut product = Some(1u64);
    for &factor in factors {
        product = match factor {
            0 => return Ok(0),
            _ => product.and_then(|p| p.checked_mul(factor as u64)),
        };
    }
    product
        .filter(|&p| p < 1 << 60)
        .ok_or_else(|| Error::input("the number of multiply–accumulates is too large to count"))
}

/// What shape inference says of a node's outputs for these operands, without evaluating anything; empty where it
/// says nothing.
pub fn infer_only(node: &Node, inputs: &[Option<Tensor>]) -> Vec<Fact> {
    let facts: Vec<Option<Fact>> = inputs.iter().map(|tensor| tensor.clone().map(Fact::from)).collect();
    find(node).and_then(|op| (op.infer)(node, Facts(&facts)).ok()).unwrap_or_default()
}

/// An axis attribute in `-rank..rank` as an index.
///
/// # Errors
/// Where it is out of range.
pub fn axis_index(axis: i64, rank: usize) -> Result<usize> {
    let signed = rank as i64;
    let index = if axis < 0 { axis + signed } else { axis };
    if (0..signed).contains(&index) {
        Ok(index as usize)
    } else {
        Err(Error::input(format!("axis {axis} is out of range for rank {rank}")))
    }
}

/// The shape two or more shapes broadcast to (numpy's rule).
///
/// # Errors
/// Where extents differ and neither is 1.
pub fn broadcast(shapes: &[&[usize]]) -> Result<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![1; rank];
    for shape in shapes {
        for (o, &d) in out[rank - shape.len()..].iter_mut().zip(*shape) {
            match (*o, d) {
                (a, b) if a == b => {}
                (1, b) => *o = b,
                (_, 1) => {}
                _ => return Err(Error::input(format!("the shapes {shapes:?} do not broadcast"))),
            }
        }
    }
    Ok(out)
}
