//! Functions of one f32 tensor, element by element.

use secateur_kernels::gradient::{UnaryOperand, unary_gradient};
use secateur_kernels::{Activation, BinaryOp, UnaryOp, binary, unary, unary_in_place};
use secateur_model::ops::Facts;
use secateur_model::{DType, Error, Node, Result, Tensor};

use super::summed::summed_to;
use super::{Build, BuildFn, Kernel, from_fn};
use super::{Differentiated, GradientFn, Reads, Training};
use crate::buffers::Pool;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[
    ("Relu", build),
    ("Clip", build),
    ("LeakyRelu", build),
    ("HardSwish", build),
    ("HardSigmoid", build),
    ("Sigmoid", build),
    ("Swish", build),
    ("Gelu", build),
    ("Mish", build),
    ("Tanh", build),
    ("Elu", build),
    ("Celu", build),
    ("Selu", build),
    ("Softplus", build),
    ("Softsign", build),
    ("ThresholdedRelu", build),
    ("Abs", build),
    ("Neg", build),
    ("Sqrt", build),
    ("Reciprocal", build),
    ("Exp", build),
    ("Log", build),
    ("Floor", build),
    ("Ceil", build),
    ("Round", build),
    ("Sign", build),
    ("Erf", build),
    ("Sin", build),
    ("Cos", build),
    ("Tan", build),
    ("Asin", build),
    ("Acos", build),
    ("Atan", build),
    ("Sinh", build),
    ("Cosh", build),
    ("Asinh", build),
    ("Acosh", build),
    ("Atanh", build),
];

/// The activation a node computes on its first input, where it is one on f32.
pub(crate) fn activation(node: &Node, inputs: Facts<'_>) -> Result<Option<Activation>> {
    if inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    Ok(Some(match node.op_type.as_str() {
        "Relu" => Activation::Relu,
        "Clip" => {
            let bound = |index: usize, name: &str, default: f32| -> Result<Option<f32>> {
                if node.opset < 11 {
                    return node.float_or(name, default).map(Some);
                }
                match inputs.get(index) {
                    None => Ok(Some(default)),
                    Some(fact) => {
                        let values = fact.value.as_ref().map(Tensor::to_f32s).transpose()?;
                        Ok(values.and_then(|v| v.first().copied()))
                    }
                }
            };
            match (bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?) {
                (Some(min), Some(max)) if min <= max => Activation::Clip { min, max },
                _ => return Ok(None),
            }
        }
        "LeakyRelu" => Activation::LeakyRelu(node.float_or("alpha", 0.01)?),
        "HardSwish" => Activation::HardSwish,
        "HardSigmoid" => {
            Activation::HardSigmoid { alpha: node.float_or("alpha", 0.2)?, beta: node.float_or("beta", 0.5)? }
        }
        "Sigmoid" => Activation::Sigmoid,
        "Swish" => Activation::Swish(node.float_or("alpha", 1.0)?),
        "Gelu" if node.str_or("approximate", "none")? == "tanh" => Activation::GeluTanh,
        "Gelu" => Activation::Gelu,
        "Mish" => Activation::Mish,
        "Tanh" => Activation::Tanh,
        "Elu" => Activation::Elu(node.float_or("alpha", 1.0)?),
        "Celu" => Activation::Celu(node.float_or("alpha", 1.0)?),
        "Selu" => Activation::Selu {
            alpha: node.float_or("alpha", 1.673_263_2)?,
            gamma: node.float_or("gamma", 1.050_701)?,
        },
        "Softplus" => Activation::Softplus,
        "Softsign" => Activation::Softsign,
        "ThresholdedRelu" => Activation::ThresholdedRelu(node.float_or("alpha", 1.0)?),
        _ => return Ok(None),
    }))
}

fn op(build: &Build<'_>) -> Result<Option<UnaryOp>> {
    if let Some(act) = activation(build.node, build.inputs)? {
        return Ok(Some(UnaryOp::Act(act)));
    }
    Ok(Some(match build.node.op_type.as_str() {
        "Abs" => UnaryOp::Abs,
        "Neg" => UnaryOp::Neg,
        "Sqrt" => UnaryOp::Sqrt,
        "Reciprocal" => UnaryOp::Reciprocal,
        "Exp" => UnaryOp::Exp,
        "Log" => UnaryOp::Log,
        "Floor" => UnaryOp::Floor,
        "Ceil" => UnaryOp::Ceil,
        "Round" => UnaryOp::Round,
        "Sign" => UnaryOp::Sign,
        "Erf" => UnaryOp::Erf,
        "Sin" => UnaryOp::Sin,
        "Cos" => UnaryOp::Cos,
        "Tan" => UnaryOp::Tan,
        "Asin" => UnaryOp::Asin,
        "Acos" => UnaryOp::Acos,
        "Atan" => UnaryOp::Atan,
        "Sinh" => UnaryOp::Sinh,
        "Cosh" => UnaryOp::Cosh,
        "Asinh" => UnaryOp::Asinh,
        "Acosh" => UnaryOp::Acosh,
        "Atanh" => UnaryOp::Atanh,
        _ => return Ok(None),
    }))
}

fn build(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    let Some(op) = op(build)?.filter(|_| build.inputs.dtype(0) == Some(DType::F32)) else {
        return Ok(None);
    };
    from_fn(move |inputs, pool| Ok(vec![apply(op, inputs, pool)?]))
}

/// Applies a function to the first operand, in place where its life ends here.
pub(super) fn apply(op: UnaryOp, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Tensor> {
    let x = inputs.first_mut().and_then(Option::take).ok_or_else(|| Error::input("input 0 is missing"))?;
    let shape = x.shape().to_vec();
    if x.is_shared() {
        let mut out = pool.take(x.len())?;
        unary(op, x.values()?, &mut out);
        return Tensor::new(shape, out);
    }
    let mut values: Vec<f32> =
        x.reclaim().ok_or_else(|| Error::internal("expected an f32 tensor of its own"))?;
    unary_in_place(op, &mut values);
    Tensor::new(shape, values)
}

pub(super) const GRADIENTS: &[(&str, GradientFn)] = &[
    ("Relu", gradient),
    ("Clip", gradient),
    ("LeakyRelu", gradient),
    ("HardSwish", gradient),
    ("HardSigmoid", gradient),
    ("Sigmoid", gradient),
    ("Swish", gradient),
    ("Gelu", gradient),
    ("Mish", gradient),
    ("Tanh", gradient),
    ("Elu", gradient),
    ("Celu", gradient),
    ("Selu", gradient),
    ("Softplus", gradient),
    ("Softsign", gradient),
    ("ThresholdedRelu", gradient),
    ("Abs", gradient),
    ("Neg", gradient),
    ("Sqrt", gradient),
    ("Reciprocal", gradient),
    ("Exp", gradient),
    ("Log", gradient),
    ("Floor", gradient),
    ("Ceil", gradient),
    ("Round", gradient),
    ("Sign", gradient),
    ("Erf", gradient),
    ("Sin", gradient),
    ("Cos", gradient),
    ("Tan", gradient),
    ("Asin", gradient),
    ("Acos", gradient),
    ("Atan", gradient),
    ("Sinh", gradient),
    ("Cosh", gradient),
    ("Asinh", gradient),
    ("Acosh", gradient),
    ("Atanh", gradient),
    ("QuickGelu", gradient),
    ("BiasGelu", biased),
    ("FastGelu", biased),
    ("Shrink", shrunk),
    ("SwiGLU", gated),
];

/// Whether an activation's derivative is computed from its value alone, so that it may be part of another kernel.
pub(crate) fn derives_from_output(act: Activation) -> bool {
    UnaryOp::Act(act).gradient_operand() == UnaryOperand::Output
}

fn gradient(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let op = match build.node.op_type.as_str() {
        "QuickGelu" => Some(UnaryOp::Act(Activation::Swish(build.node.float_or("alpha", 1.702)?))),
        _ => op(build)?,
    };
    let Some(op) = op.filter(|_| build.inputs.dtype(0) == Some(DType::F32)) else { return Ok(None) };
    Ok(Some(unary_differentiated(op)))
}

/// ONNX Runtime's `BiasGelu` and `FastGelu`: the GELU, exactly or by its tanh formula, of the sum of an input and a bias
/// along its last axis.
fn biased(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let shape = build.shape(0)?.to_vec();
    let bias = build.inputs.shape(1).map(<[usize]>::to_vec);
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    let exact = build.node.op_type == "BiasGelu";
    let op = UnaryOp::Act(if exact { Activation::Gelu } else { Activation::GeluTanh });
    let reads = Reads::inputs(if bias.is_some() { vec![0, 1] } else { vec![0] });
    Ok(Some(Differentiated::of(reads, move |at| {
        let mut sum = at.pool.take(shape.iter().product())?;
        match &bias {
            Some(bias) => binary(BinaryOp::Add, at.input(0)?, &shape, at.input(1)?, bias, &mut sum, &shape),
            None => sum.copy_from_slice(at.input(0)?),
        }
        let mut gradient = at.own_gradient()?;
        unary_gradient(op, &sum, &mut gradient);
        at.pool.give(sum);
        let gradient = Tensor::new(shape.clone(), gradient)?;
        let mut found = vec![Some(gradient.clone())];
        if let Some(bias) = bias.as_ref().filter(|_| at.wants(1)) {
            found.push(Some(summed_to(gradient, bias, at.pool)?));
        }
        Ok(found)
    })))
}

/// 1 where an element is outside of ±lambd, else 0.
fn shrunk(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let lambd = build.node.float_or("lambd", 0.5)?;
    if build.inputs.dtype(0) != Some(DType::F32) {
        return Ok(None);
    }
    Ok(Some(Differentiated::of(Reads::inputs([0]), move |at| {
        let (shape, mut gradient) = (at.shape.to_vec(), at.own_gradient()?);
        let inside = gradient.iter_mut().zip(at.input(0)?).filter(|(_, x)| x.abs() <= lambd);
        inside.for_each(|(d, _)| *d = 0.0);
        Ok(vec![Some(Tensor::new(shape, gradient)?)])
    })))
}

/// y = swish(gate) · value.
fn gated(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let swish = UnaryOp::Act(Activation::Swish(build.node.float_or("alpha", 1.0)?));
    if (0..2).any(|i| build.inputs.dtype(i) != Some(DType::F32)) {
        return Ok(None);
    }
    Ok(Some(Differentiated::of(Reads::inputs([0, 1]), move |at| {
        let (gate, value) = (at.input(0)?, at.input(1)?);
        let (shape, d) = (at.shape.to_vec(), at.take_gradient()?);
        let (mut by_gate, mut by_value) = (at.pool.take(d.len())?, at.pool.take(d.len())?);
        binary(BinaryOp::Mul, d.values()?, &shape, value, &shape, &mut by_gate, &shape);
        unary_gradient(swish, gate, &mut by_gate);
        unary(swish, gate, &mut by_value);
        by_value.iter_mut().zip(d.values::<f32>()?).for_each(|(swish, d)| *swish *= d);
        at.pool.reclaim(d);
        Ok(vec![Some(Tensor::new(shape.clone(), by_gate)?), Some(Tensor::new(shape, by_value)?)])
    })))
}

/// The backward pass of a function of the first input.
pub(super) fn unary_differentiated(op: UnaryOp) -> Differentiated {
    let operand = op.gradient_operand();
    let reads = match operand {
        UnaryOperand::Input => Reads::inputs([0]),
        UnaryOperand::Output => Reads::outputs([0]),
        UnaryOperand::None => Reads::nothing(),
    };
    Differentiated::of(reads, move |at| {
        let mut gradient = at.own_gradient()?;
        let shape = at.shape.to_vec();
        let operand = match operand {
            UnaryOperand::Input => at.input(0)?,
            UnaryOperand::Output => at.output(0)?,
            UnaryOperand::None => &[],
        };
        unary_gradient(op, operand, &mut gradient);
        Ok(vec![Some(Tensor::new(shape, gradient)?)])
    })
}
