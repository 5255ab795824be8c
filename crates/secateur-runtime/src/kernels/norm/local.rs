//! The gradient of local response normalisation.

use secateur_kernels::gradient::{LocalNorm, local_norm_gradient};
use secateur_model::{DType, Error, Result, Tensor};

use crate::kernels::{Backward, Build, Differentiated, Reads, Training};

pub(super) fn gradient(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    let (node, shape) = (build.node, build.shape(0)?.to_vec());
    if build.inputs.dtype(0) != Some(DType::F32) || shape.len() < 2 {
        return Ok(None);
    }
    let size = node.int_or("size", 0)?;
    let norm = LocalNorm {
        channels: shape[1],
        inner: shape[2..].iter().product(),
        size: usize::try_from(size)
            .ok()
            .filter(|&size| size > 0)
            .ok_or_else(|| Error::input(format!("size is {size}, expected a positive number of channels")))?,
        alpha: node.float_or("alpha", 1e-4)?,
        beta: node.float_or("beta", 0.75)?,
        bias: node.float_or("bias", 1.0)?,
    };
    Ok(Some(Differentiated::of(Reads::inputs([0]), move |at: &mut Backward<'_>| {
        let mut dx = at.pool.take(shape.iter().product())?;
        local_norm_gradient(norm, at.input(0)?, at.gradient()?, &mut dx);
        Ok(vec![Some(Tensor::new(shape.clone(), dx)?)])
    })))
}
