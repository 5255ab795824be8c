//! Functions of one f32 tensor, element by element.

use secateur_kernels::{Activation, UnaryOp, unary, unary_in_place};
use secateur_model::ops::Facts;
use secateur_model::{DType, Error, Node, Result, Tensor};

use super::{Build, BuildFn, Kernel, from_fn};
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
