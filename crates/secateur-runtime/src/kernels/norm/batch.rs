//! Batch normalisation in training.

use std::sync::Arc;

use secateur_kernels::gradient::{BatchNorm, NormOperands, batch_norm, batch_norm_gradient};
use secateur_kernels::{Activation, Planes};
use secateur_model::{DType, Error, Result, Tensor};

use crate::kernels::{Backward, Differentiated, Reads, Training};
use crate::kernels::{Build, f32s, from_fn};

/// What is normalised, and where it lies.
#[derive(Clone)]
struct Values {
    /// Batch, channels, and positions.
    extents: [usize; 3],
    planes: Option<Arc<Planes>>,
}

impl Values {
    fn shape(&self) -> BatchNorm<'_> {
        match &self.planes {
            None => BatchNorm::plain(self.extents),
            Some(planes) => BatchNorm::planes(planes, self.extents[1]),
        }
    }
}

/// By batch statistics whatever the node's `training_mode`, with running statistics updated as PyTorch does:
/// r ← momentum · r + (1 − momentum) · batch, the variance with n − 1 in its denominator. Where norms are frozen, by the
/// running statistics.
pub(super) fn gradient(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    let (node, x) = (build.node, build.shape(0)?);
    if node.outputs.len() != 1 {
        return Ok(None);
    }
    let float = (0..5).all(|i| build.inputs.dtype(i) == Some(DType::F32));
    if !float || x.len() < 2 || (node.opset < 9 && node.int_or("spatial", 1)? == 0) {
        return Ok(None);
    }
    let (channels, batch) = (x[1], training.batch_statistics);
    let extents = [x[0], channels, x[2..].iter().product()];
    let count = extents[0] * extents[2];
    let place = training.place(0).filter(|_| training.layouts.is_some());
    let of = Values { extents, planes: place.clone() };
    let (whole, len) = match &place {
        None => (x.to_vec(), extents.iter().product()),
        Some(planes) => (vec![planes.len(channels)], planes.len(channels)),
    };
    if batch && count < 2 {
        return Err(Error::input(
            "one element for each channel has no batch statistics: expected a larger batch",
        ));
    }
    let (eps, momentum) = (f64::from(node.float_or("epsilon", 1e-5)?), node.float_or("momentum", 0.9)?);
    let (add, act) = (build.epilogue.add, build.epilogue.act);
    let (out, own) = (whole.clone(), of.clone());
    let forward = from_fn(move |inputs, pool| {
        let shape = own.shape();
        let (x, scale, bias) = (f32s(inputs, 0)?, f32s(inputs, 1)?, f32s(inputs, 2)?);
        let running = [f32s(inputs, 3)?, f32s(inputs, 4)?];
        let [mut mean, mut variance] = [pool.take(channels)?, pool.take(channels)?];
        let mut y = pool.take(len)?;
        let add = add.map(|i| f32s(inputs, i)).transpose()?;
        let given = (!batch).then_some(running);
        let operands = NormOperands { x, scale, bias, running: given, eps, add, act };
        batch_norm(shape, operands, &mut y, [&mut mean, &mut variance]);
        let statistics = [mean, variance];
        // Running statistics that are not updated stay as they are.
        let unbiased = count as f32 / (count.max(2) - 1) as f32;
        let mut next = Vec::with_capacity(2);
        for ((running, own), factor) in running.into_iter().zip(&statistics).zip([1.0, unbiased]) {
            let mut updated = pool.take(channels)?;
            for ((updated, &running), &own) in updated.iter_mut().zip(running).zip(own) {
                *updated = if batch { momentum * running + (1.0 - momentum) * factor * own } else { running };
            }
            next.push(updated);
        }
        let [mean, mut inverse] = statistics;
        inverse.iter_mut().for_each(|v| *v = (1.0 / (f64::from(*v) + eps).sqrt()) as f32);
        let mut found = vec![Tensor::new(out.clone(), y)?];
        for values in next.into_iter().chain([mean, inverse]) {
            found.push(Tensor::new([channels], values)?);
        }
        Ok(found)
    })?;
    let mut reads = Reads { inputs: vec![0, 1], outputs: vec![3, 4] };
    if act != Activation::None {
        reads.outputs.push(0);
    }
    let backward = Differentiated::of(reads, move |at: &mut Backward<'_>| {
        let mut d = at.own_gradient()?;
        let (mut d_scale, mut d_bias) = (at.pool.take(channels)?, at.pool.take(channels)?);
        let mut dx = if at.wants(0) { Some(at.pool.take(d.len())?) } else { None };
        let (x, statistics) = (at.input(0)?, [at.output(3)?, at.output(4)?, at.input(1)?]);
        let y = if act == Activation::None { x } else { at.output(0)? };
        let sums = [&mut d_scale[..], &mut d_bias[..]];
        let statistics = (statistics, batch);
        batch_norm_gradient(of.shape(), x, statistics, (act, y), &mut d, sums, dx.as_deref_mut());
        let mut found = vec![dx.map(|dx| Tensor::new(whole.clone(), dx)).transpose()?];
        found.push(Some(Tensor::new([channels], d_scale)?));
        found.push(Some(Tensor::new([channels], d_bias)?));
        found.extend([None, None]);
        match add {
            Some(_) if at.wants(5) => found.push(Some(Tensor::new(whole.clone(), d)?)),
            _ => at.pool.give(d),
        }
        Ok(found)
    });
    let mut takes = vec![place.clone()];
    if let Some(add) = add {
        takes.resize(add + 1, None);
        takes[add] = place.clone();
    }
    let mut found = backward.forward(4, forward).placed(takes, place);
    if batch {
        found.updates = vec![(1, 3), (2, 4)];
    }
    Ok(Some(found))
}
