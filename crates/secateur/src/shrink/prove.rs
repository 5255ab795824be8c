//! A cut changes nothing but what it removes: shown by running both networks.

use std::sync::Arc;

use secateur_model::dims::{Dims, Kept};
use secateur_model::infer::{Binding, Inference};
use secateur_model::{DType, Model, Patch, Result, Tensor};
use secateur_runtime::Session;

use super::{ShrinkOptions, Shrunk};
use crate::random::Stream;

/// The largest difference between outputs of a smaller network and of the whole one, as a share of the largest output; on
/// random normal inputs. Where a method chose what goes, the whole network has the removed positions zero in every tensor;
/// where zeros were there already, it is the model as it is. `None` where an input is no f32 of a known shape.
///
/// # Errors
/// Where a network does not run.
pub fn prove(model: &Arc<Model>, shrunk: &Shrunk, options: &ShrinkOptions) -> Result<Option<f64>> {
    let Some(inputs) = inputs(model)? else { return Ok(None) };
    let whole = match options.by {
        Some(_) => masked(model, &Dims::of(model, options.norm_widths)?, &shrunk.kept)?,
        None => Patch::new(),
    };
    let want = Session::new(model.clone(), whole)?.run(inputs.clone())?;
    let got = Session::new(Arc::new(shrunk.patch.apply(model)?), Patch::new())?.run(inputs)?;
    let mut worst = 0f64;
    for (want, got) in want.iter().zip(&got) {
        if want.dtype() != DType::F32 || want.shape() != got.shape() {
            worst = if want == got { worst } else { f64::INFINITY };
            continue;
        }
        let (want, got) = (want.values::<f32>()?, got.values::<f32>()?);
        let largest = want.iter().fold(f32::MIN_POSITIVE, |most, v| most.max(v.abs()));
        let apart = want.iter().zip(got).map(|(a, b)| if a == b { 0.0 } else { f64::from((a - b).abs()) });
        worst =
            apart.fold(
                worst,
                |worst, by| if by <= worst * f64::from(largest) { worst } else { by / f64::from(largest) },
            );
    }
    Ok(Some(worst))
}

fn inputs(model: &Model) -> Result<Option<Vec<(String, Tensor)>>> {
    let graph = model.graph()?;
    let inference = Inference::of(model, &Binding::default())?;
    let mut found = Vec::new();
    for id in graph.inputs.iter().filter(|id| !graph.constants.contains_key(id)) {
        let fact = inference.facts[id.index()].as_ref();
        let Some(shape) = fact.filter(|fact| fact.dtype == Some(DType::F32)).and_then(|fact| fact.shape())
        else {
            return Ok(None);
        };
        let stream = Stream::new(0, graph.value_name(*id));
        let len: usize = shape.iter().product();
        let values: Vec<f32> = (0..len).map(|i| stream.normal(i as u64) as f32).collect();
        found.push((graph.value_name(*id).to_string(), Tensor::new(shape, values)?));
    }
    Ok(Some(found))
}

/// The patch that sets what a cut removes to zero, in every tensor of f32.
fn masked(model: &Model, dims: &Dims<'_>, kept: &Kept) -> Result<Patch> {
    let mut patch = Patch::by("mask");
    let space = dims.axes().space();
    for (&value, &id) in &model.graph()?.constants {
        let stored = model.tensor(id);
        let Some(axes) = dims.axes().value(value).filter(|_| stored.dtype == DType::F32) else { continue };
        let stays: Vec<Option<Vec<bool>>> = axes
            .iter()
            .map(|&axis| {
                let touched = space.dims(axis).iter().any(|dim| kept.contains_key(dim));
                touched.then(|| {
                    let mut stays = vec![false; space.extent(axis)];
                    space.select(axis, kept).into_iter().for_each(|i| stays[i] = true);
                    stays
                })
            })
            .collect();
        if stays.iter().all(Option::is_none) {
            continue;
        }
        let mut tensor = stored.load()?;
        let shape = tensor.shape().to_vec();
        let values = tensor.values_mut::<f32>()?;
        for (axis, stays) in stays.iter().enumerate() {
            let Some(stays) = stays else { continue };
            let step: usize = shape[axis + 1..].iter().product();
            for (block, values) in values.chunks_exact_mut(step.max(1)).enumerate() {
                if !stays[block % shape[axis]] {
                    values.fill(0.0);
                }
            }
        }
        patch.set(id, tensor);
    }
    Ok(patch)
}
