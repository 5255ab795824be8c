//! Inputs to time a model with.

use std::collections::BTreeMap;

use half::{bf16, f16};
use secateur_model::graph::Dim;
use secateur_model::infer::{Binding, Inference};
use secateur_model::{DType, Error, Model, Result, Tensor};

use crate::data::InputSpec;
use crate::random::Stream;

/// The number of samples that a model takes at once, where it is fixed.
pub(crate) fn fixed_batch(model: &Model) -> Result<Option<usize>> {
    Ok(InputSpec::of(model.graph()?)?.first().and_then(InputSpec::fixed_batch))
}

/// Random inputs of a batch size: floats between −√3 and √3 (variance 1), integers and booleans 0 and 1, which
/// are token ids, masks and token types alike. `binding` gives the other dynamic extents; where the first
/// extent of a shape is dynamic, it is the batch size.
///
/// # Errors
/// `Usage` where an extent stays open or `binding` names inputs the model does not have; `Unsupported` for
/// inputs of other types.
pub(crate) fn random(
    model: &Model,
    binding: &Binding,
    batch: usize,
    seed: u64,
) -> Result<Vec<(String, Tensor)>> {
    let graph = model.graph()?;
    let mut binding = Binding { batch, ..binding.clone() };
    for (name, shape) in &mut binding.shapes {
        let declared = graph.inputs.iter().map(|id| &graph.values[id.index()]).find(|v| v.name == *name);
        let first = declared.and_then(|value| value.shape.as_ref()?.first());
        if let (Some(extent), Some(Dim::Symbol(_) | Dim::Unknown)) = (shape.first_mut(), first) {
            *extent = batch;
        }
    }
    let known = Inference::of(model, &binding)?;
    let input = |id: &secateur_model::ValueId| {
        let name = graph.value_name(*id);
        let fact = known.facts[id.index()].clone().unwrap_or_default();
        let shape = fact.shape.ok_or_else(|| {
            Error::usage(format!(
                "input `{name}` has dynamic axes: set their sizes with option `dims`, such as sequence=128, or with \
                 option `shapes`, such as {name}=1x128"
            ))
        })?;
        let stream = Stream::new(seed, name);
        let len = secateur_model::tensor::checked_len(&shape).ok_or_else(|| {
            Error::usage(format!("input `{name}` of shape {shape:?} does not fit into memory"))
        })?;
        let floats = (0..len as u64).map(|i| {
            let share = (stream.draw(i) >> 40) as f32 / (1u64 << 24) as f32;
            12f32.sqrt() * (share - 0.5)
        });
        let bits = (0..len as u64).map(|i| stream.draw(i) >> 63 == 1);
        let tensor = match fact.dtype {
            Some(DType::F32) => Tensor::new(shape, floats.collect()),
            Some(DType::F64) => Tensor::new(shape, floats.map(f64::from).collect()),
            Some(DType::F16) => Tensor::new(shape, floats.map(f16::from_f32).collect()),
            Some(DType::BF16) => Tensor::new(shape, floats.map(bf16::from_f32).collect()),
            Some(DType::I64) => Tensor::new(shape, bits.map(i64::from).collect()),
            Some(DType::I32) => Tensor::new(shape, bits.map(i32::from).collect()),
            Some(DType::U8) => Tensor::new(shape, bits.map(u8::from).collect()),
            Some(DType::Bool) => Tensor::new(shape, bits.collect()),
            other => Err(Error::unsupported(format!(
                "input `{name}` is of type {}, for which there are no random inputs",
                other.map_or("unknown", DType::name)
            ))),
        };
        Ok((name.to_string(), tensor?))
    };
    graph.inputs.iter().map(input).collect()
}

/// The extents of the named dynamic axes of a model, as inputs have them.
pub(super) fn dims(model: &Model, inputs: &[(String, Tensor)]) -> Result<BTreeMap<String, usize>> {
    let graph = model.graph()?;
    let mut dims = BTreeMap::new();
    for (id, (_, tensor)) in graph.inputs.iter().zip(inputs) {
        for (dim, &extent) in graph.values[id.index()].shape.iter().flatten().zip(tensor.shape()) {
            if let Dim::Symbol(name) = dim {
                dims.insert(name.clone(), extent);
            }
        }
    }
    Ok(dims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits() -> Model {
        let folder = tempfile::tempdir().unwrap();
        let files = crate::demo::unpack(folder.path()).unwrap();
        secateur_model::io::read(files.model).unwrap()
    }

    #[test]
    fn inputs_have_the_batch_size_and_depend_on_the_seed() {
        let model = digits();
        assert_eq!(fixed_batch(&model).unwrap(), None);
        let inputs = random(&model, &Binding::default(), 3, 0).unwrap();
        let (name, tensor) = &inputs[0];
        assert_eq!(tensor.shape(), [3, 1, 8, 8]);
        let values = tensor.to_f32s().unwrap();
        let variance = values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32;
        assert!((0.7..1.3).contains(&variance), "{variance}");
        assert_eq!(random(&model, &Binding::default(), 3, 0).unwrap(), inputs);
        assert_ne!(random(&model, &Binding::default(), 3, 1).unwrap(), inputs);
        assert_eq!(dims(&model, &inputs).unwrap().into_values().collect::<Vec<_>>(), [3]);
        let shapes = vec![(name.clone(), vec![1, 1, 8, 8])];
        let bound = random(&model, &Binding { shapes, ..Binding::default() }, 2, 0).unwrap();
        assert_eq!(bound[0].1.shape(), [2, 1, 8, 8]);
        let shapes = vec![("nothing".to_string(), vec![1])];
        assert!(random(&model, &Binding { shapes, ..Binding::default() }, 2, 0).is_err());
    }
}
