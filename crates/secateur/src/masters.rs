//! Models in f32: what trains are masters of the weights, whatever type and form the file stores them in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use half::{bf16, f16};
use secateur_model::model::Storage;
use secateur_model::packed::{ValueType, pack};
use secateur_model::{
    Attr, DType, Data, Error, Graph, Model, Patch, Result, ResultExt, StoredTensor, Tensor, TensorId,
};

use crate::prune::MaskMap;

/// Attributes that name an element type.
const TYPES: [&str; 5] = ["to", "dtype", "output_dtype", "output_datatype", "stash_type"];

/// ONNX's numbers of f32, and of the float types that become f32: f16, f64 and bf16.
const F32: i64 = 1;
const OTHER_FLOATS: [i64; 3] = [10, 11, 16];

/// A model and its f32 form, whose tensors have the same ids.
#[derive(Clone, Debug)]
pub struct Masters {
    model: Arc<Model>,
    in_f32: Arc<Model>,
}

impl Masters {
    /// The f32 form of a model: constants in f16, bf16, f64 or packed are f32, and so are the values that its graph declares
    /// or casts to these types. Weights that masks prune are zero. Tied tensors are one: the first of their paths.
    ///
    /// # Errors
    /// Where the model has no graph, or a tensor cannot be read.
    pub fn of(model: &Arc<Model>, masks: &MaskMap) -> Result<Self> {
        model.graph()?;
        let first: BTreeMap<TensorId, TensorId> = model
            .aliases()
            .iter()
            .flat_map(|group| group[1..].iter().map(|id| (*id, group[0])).collect::<Vec<_>>())
            .collect();
        let mut in_f32 = Model::clone(model);
        let mut used = BTreeSet::new();
        if let Some(graph) = &mut in_f32.graph {
            widen(graph, &first, &mut used)?;
        }
        for id in used {
            let stored = model.tensor(id);
            let mask = masks.get(&id);
            let is_plain = matches!(stored.storage, Storage::Bytes(_) | Storage::Data(_));
            if !stored.dtype.is_prunable() || (stored.dtype == DType::F32 && is_plain && mask.is_none()) {
                continue;
            }
            let mut values = stored.load()?.to_f32s()?;
            if let Some(mask) = mask {
                let pruned = values.iter_mut().zip(mask.iter()).filter(|(_, keep)| !keep);
                pruned.for_each(|(value, _)| *value = 0.0);
            }
            let storage = Storage::Data(Arc::new(Data::F32(values)));
            in_f32.tensors[id.0 as usize] = StoredTensor { dtype: DType::F32, storage, ..stored.clone() };
        }
        Ok(Masters { model: model.clone(), in_f32: Arc::new(in_f32) })
    }

    /// The model as it is stored.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The model in f32.
    pub fn in_f32(&self) -> &Arc<Model> {
        &self.in_f32
    }

    /// f32 elements as a change of the model's tensor: rounded to its type, packed where it is, and of all its paths.
    ///
    /// # Errors
    /// Where a value is beyond the range of the type.
    pub(crate) fn store(&self, id: TensorId, values: &Tensor, patch: &mut Patch) -> Result<()> {
        let stored = self.model.tensor(id);
        let write = |patch: &mut Patch| -> Result<()> {
            let tensor = rounded(values, stored.dtype)?;
            let Some(packed) = stored.packed() else {
                patch.set(id, tensor);
                return Ok(());
            };
            let spec = packed.spec();
            let how = match &spec.scales {
                Some(shape) => ValueType::Int8 { axis: shape.iter().position(|n| *n != 1).unwrap_or(0) },
                None if spec.value_type == spec.dtype => ValueType::Exact,
                None => ValueType::F16,
            };
            let packed = Arc::new(pack(&tensor, spec.layout, how)?.0);
            patch.set_packed(id, packed.spec(), Arc::new(move || Ok(packed.clone())));
            Ok(())
        };
        write(patch).at_tensor(&stored.path)
    }
}

/// f32 elements in another float type.
fn rounded(tensor: &Tensor, dtype: DType) -> Result<Tensor> {
    let values = tensor.values::<f32>()?;
    let data = match dtype {
        DType::F16 => Data::F16(values.iter().map(|&v| f16::from_f32(v)).collect()),
        DType::BF16 => Data::BF16(values.iter().map(|&v| bf16::from_f32(v)).collect()),
        DType::F64 => Data::F64(values.iter().map(|&v| f64::from(v)).collect()),
        _ => return Ok(tensor.clone()),
    };
    let rounded = Tensor::from_data(tensor.shape(), data)?;
    let after = rounded.to_f32s()?;
    match values.iter().zip(&after).find(|(before, after)| before.is_finite() && !after.is_finite()) {
        Some((value, _)) => Err(Error::input(format!(
            "a weight became {value:e}, which {dtype} cannot hold: in training a lower rate, or weight decay, may keep it small"
        ))),
        None => Ok(rounded),
    }
}

/// Has a graph compute in f32 wherever it uses floats of another width; `first` are the tensors that others are tied to.
fn widen(
    graph: &mut Graph,
    first: &BTreeMap<TensorId, TensorId>,
    used: &mut BTreeSet<TensorId>,
) -> Result<()> {
    let is_other = |dtype: DType| dtype.is_prunable() && dtype != DType::F32;
    for value in &mut graph.values {
        value.dtype = value.dtype.map(|dtype| if is_other(dtype) { DType::F32 } else { dtype });
    }
    for id in graph.constants.values_mut() {
        *id = first.get(id).copied().unwrap_or(*id);
        used.insert(*id);
    }
    for (name, attr) in graph.nodes.iter_mut().flat_map(|node| &mut node.attrs) {
        match attr {
            Attr::Int(code) if TYPES.contains(&name.as_str()) && OTHER_FLOATS.contains(code) => *code = F32,
            Attr::Tensor(tensor) if is_other(tensor.dtype()) => {
                *tensor = Tensor::new(tensor.shape(), tensor.to_f32s()?)?;
            }
            other => other.graphs_mut().iter_mut().try_for_each(|nested| widen(nested, first, used))?,
        }
    }
    Ok(())
}
