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

pub use self::fact::{Fact, Facts, Inputs, Stored};
pub(crate) use self::moved::moved_from;
pub use self::op::{AxisRole, EvalFn, InferFn, MacsFn, Op, Operand, Passes, ViewsFn, WeightUse, WeightsFn};
use self::types::ONE_TYPE;
pub(crate) use self::types::check_types;
pub use self::view::View;
use crate::tensor::checked_len;
use crate::{Error, Node, Result, ResultExt, Tensor};

/// The families; an operator stands in exactly one.
const FAMILIES: &[&[Op]] = &[
    activation::OPS,
    attention::OPS,
    binary::OPS,
    blocks::OPS,
    cast::OPS,
    conv::OPS,
    create::OPS,
    det::OPS,
    gather::OPS,
    join::OPS,
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
mod blocks;
mod broadcast;
mod cast;
mod cells;
pub mod conv;
mod create;
mod det;
pub(crate) mod expand;
mod fact;
mod gather;
mod join;
mod logic;
mod loss;
pub mod matmul;
mod moved;
mod movement;
mod narrow;
pub mod norm;
mod norm_bare;
mod number;
mod op;
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
pub mod resize;
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

/// The tensor with only these positions of each axis, in this order; `None` keeps an axis as it is.
///
/// # Errors
/// Where there is no memory for it.
pub fn take(tensor: &Tensor, positions: &[Option<Vec<usize>>]) -> Result<Tensor> {
    pick::pick(tensor, positions, None)
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
