//! Activations and elementwise arithmetic on f32.

use secateur_kernels::{Activation, activate};
use secateur_model::ops::Facts;
use secateur_model::{DType, Node, Result, Tensor};

use super::{Build, BuildFn, Kernel};
use crate::pool::Pool;

pub(super) const KERNELS: &[(&str, BuildFn)] = &[
    ("Relu", activated),
    ("Clip", activated),
    ("LeakyRelu", activated),
    ("HardSwish", activated),
    ("HardSigmoid", activated),
    ("Sigmoid", activated),
    ("Swish", activated),
    ("Gelu", activated),
    ("Mish", activated),
    ("Tanh", activated),
    ("Elu", activated),
    ("Celu", activated),
    ("Selu", activated),
    ("Softplus", activated),
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
        _ => return Ok(None),
    }))
}

fn activated(build: &Build<'_>) -> Result<Option<Box<dyn Kernel>>> {
    Ok(activation(build.node, build.inputs)?.map(|act| Box::new(Activated(act)) as Box<dyn Kernel>))
}

struct Activated(Activation);

impl Kernel for Activated {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let Some(input) = inputs.first_mut().and_then(Option::take) else {
            return Err(secateur_model::Error::input("input 0 is missing"));
        };
        // In place where nobody else holds the data.
        let shape = input.shape().to_vec();
        let mut values = own(input, pool)?;
        activate(self.0, &mut values);
        Ok(vec![Tensor::new(shape, values)?])
    }
}

/// The elements for work in place: the tensor's own where nobody shares them, else a copy.
pub(super) fn own(tensor: Tensor, pool: &mut Pool) -> Result<Vec<f32>> {
    if tensor.is_shared() {
        let values = tensor.values::<f32>()?;
        let mut out = pool.take(values.len());
        out.copy_from_slice(values);
        return Ok(out);
    }
    tensor.reclaim().ok_or_else(|| secateur_model::Error::internal("expected an f32 tensor of its own"))
}
