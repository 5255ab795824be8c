//! Functions of two f32 tensors, element by element.

use secateur_kernels::{BinaryOp, UnaryOp, binary};
use secateur_model::ops::broadcast;
use secateur_model::{DType, Node, Result, Tensor};

use super::elementwise::apply;
use super::{Build, BuildFn, Kernel, f32s, from_fn};

mod gradient;

pub(super) use gradient::GRADIENTS;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[
    ("Add", build),
    ("Sub", build),
    ("Mul", build),
    ("Div", build),
    ("Pow", build),
    ("Min", build),
    ("Max", build),
    ("Mod", build),
    ("PRelu", build),
];

fn op(node: &Node) -> Result<Option<BinaryOp>> {
    Ok(Some(match node.op_type.as_str() {
        "Add" => BinaryOp::Add,
        "Sub" => BinaryOp::Sub,
        "Mul" => BinaryOp::Mul,
        "Div" => BinaryOp::Div,
        "Pow" => BinaryOp::Pow,
        "Min" => BinaryOp::Min,
        "Max" => BinaryOp::Max,
        "Mod" if node.int_or("fmod", 0)? != 0 => BinaryOp::Fmod,
        "PRelu" => BinaryOp::Prelu,
        _ => return Ok(None),
    }))
}

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    // Before opset 7 operands broadcast by an attribute; the evaluation knows.
    let both = (0..2).all(|i| build.inputs.dtype(i) == Some(DType::F32));
    if !both || build.inputs.len() != 2 || build.node.opset < 7 {
        return Ok(None);
    }
    let Some(op) = op(build.node)? else { return Ok(None) };
    let (a_shape, b_shape) = (build.shape(0)?.to_vec(), build.shape(1)?.to_vec());
    let out_shape = broadcast(&[&a_shape, &b_shape])?;
    if let (BinaryOp::Pow, Some(&[exponent])) =
        (op, build.inputs.value(1).map(Tensor::values::<f32>).transpose()?)
        && let Some(unary) = power(exponent)
        && out_shape == a_shape
    {
        return from_fn(move |inputs, pool| Ok(vec![apply(unary, inputs, pool)?]));
    }
    from_fn(move |inputs, pool| {
        let mut out = pool.take(out_shape.iter().product())?;
        binary(op, f32s(inputs, 0)?, &a_shape, f32s(inputs, 1)?, &b_shape, &mut out, &out_shape);
        Ok(vec![Tensor::new(out_shape.clone(), out)?])
    })
}

/// Powers that are cheaper than a power.
fn power(exponent: f32) -> Option<UnaryOp> {
    match exponent {
        2.0 => Some(UnaryOp::Square),
        0.5 => Some(UnaryOp::Sqrt),
        -1.0 => Some(UnaryOp::Reciprocal),
        _ => None,
    }
}
