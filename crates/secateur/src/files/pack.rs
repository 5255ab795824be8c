//! Which of a model's weights are smaller packed, and what that costs in precision.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use secateur_model::io::onnx::OnnxSource;
use secateur_model::io::safetensors::SafetensorsSource;
use secateur_model::model::LazyPacked;
use secateur_model::ops::AxisRole;
use secateur_model::packed::{self, Choice, Packed, Part, Rounding, Spec, ValueType};
use secateur_model::prunable::{self, ReasonKind, Status};
use secateur_model::tensor::checked_len;
use secateur_model::{DType, Error, Model, Patch, Result, ResultExt, TensorId};
use serde::Serialize;

/// How values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Values {
    /// As they are, bit for bit, but for −0, which becomes 0.
    #[default]
    Exact,
    /// The values of weights that can be pruned are rounded to f16.
    F16,
    /// Those values become int8 with a scale for each output channel.
    Int8,
}

/// How a model is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// How values are kept.
    pub values: Values,
    /// The file they go into.
    pub target: Target,
}

/// Files that hold packed tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// A safetensors file.
    #[default]
    Safetensors,
    /// A Hugging Face folder: only what compressed-tensors reads too, the bitmask in rows along the last axis.
    Folder,
    /// The ONNX file that the model came from.
    Onnx,
}

/// Bytes that the header of a safetensors file takes for each part of a packed tensor besides names, about: what is not
/// smaller by more stays dense.
const PART_BYTES: usize = 70;

/// Bytes that an ONNX file takes for a tensor besides its name and elements, for a name among the inputs of a node, and
/// for the node that expands a packed tensor, about.
const TENSOR_BYTES: usize = 11;
const INPUT_BYTES: usize = 2;
const CALL_BYTES: usize = 60;

/// Bytes of packed tensors that a plan keeps for the writer, which packs the others again.
const KEPT_BYTES: usize = 256 << 20;

/// A tensor that is packed.
#[derive(Clone, Debug, Serialize)]
pub struct PackedTensor {
    /// The path.
    pub path: String,
    /// How places are stored: `bitmask`, or N:M.
    pub layout: String,
    /// The type of the stored values.
    pub values: String,
    /// Elements.
    pub elements: usize,
    /// Values that are stored.
    pub stored: usize,
    /// Bytes before.
    pub dense_bytes: usize,
    /// Bytes packed.
    pub packed_bytes: usize,
    /// max |w − ŵ| ÷ max |w|.
    pub max_relative_error: f64,
    /// √(Σ (w − ŵ)² ÷ Σ w²).
    pub rms_relative_error: f64,
    /// Weights that were not zero and are now.
    pub to_zero: usize,
    /// Weights that were −0 and are 0 now ([`packed::negative_zeros`]).
    pub negative_zeros: usize,
    /// Why its values are kept, where others were asked for.
    pub note: Option<String>,
    #[serde(skip)]
    tensor: TensorId,
    /// Bytes that the file takes less with it packed, without what comes once for all.
    #[serde(skip)]
    gain: usize,
    #[serde(skip)]
    spec: Spec,
    #[serde(skip)]
    kind: ValueType,
    #[serde(skip)]
    rounding: Rounding,
    /// The packed tensor, where it was made already and there was room to keep it.
    #[serde(skip)]
    made: Option<Arc<Packed>>,
}

/// The effect of packing a model.
#[derive(Clone, Debug, Serialize)]
pub struct PackPlan {
    /// The tensors that are packed.
    pub tensors: Vec<PackedTensor>,
    /// Weights that the file cannot hold packed: their names, and why.
    pub unfit: Vec<(String, String)>,
    /// Weights that are not packed because another tensor has the name of one of their parts: both names.
    pub name_taken: Vec<(String, String)>,
    /// Bytes of all tensors, dense.
    pub dense_bytes: usize,
    /// Bytes of all tensors with those packed.
    pub packed_bytes: usize,
    /// max |w − ŵ| ÷ max |w| over all packed tensors.
    pub max_relative_error: f64,
    /// √(Σ (w − ŵ)² ÷ Σ w²) over all tensors whose values were rounded.
    pub rms_relative_error: f64,
    /// Weights that were not zero and are now.
    pub to_zero: usize,
    /// Weights that were −0 and are 0 now.
    pub negative_zeros: usize,
}

/// Chooses for each float tensor the smallest form. Biases, norms and embeddings keep their values' bits, whatever
/// [`PackOptions::values`] says.
///
/// # Errors
/// Where a tensor cannot be read.
pub fn plan(model: &Model, options: &PackOptions) -> Result<PackPlan> {
    let entries = prunable::view(model)?;
    if let (Some(source), Target::Onnx) = (model.source.downcast::<OnnxSource>(), options.target)
        && let Some(reason) = source.unpackable()
    {
        return Err(Error::unsupported(reason));
    }
    let ours = model.source.tensor_count().unwrap_or(model.tensors.len());
    let holds = Holds::new(model, options.target);
    let kind = |entry: &prunable::Entry| {
        let view = match &entry.status {
            Status::Fixed(_) => return ValueType::Exact,
            // Tables of constants keep their bits, as what is no layer does.
            Status::LeftDense(_, reason) if reason.kind == ReasonKind::Table => return ValueType::Exact,
            Status::Prunable(view) | Status::LeftDense(view, _) => view,
        };
        match options.values {
            Values::Exact => ValueType::Exact,
            Values::F16 => ValueType::F16,
            Values::Int8 => {
                let out = |role: &AxisRole| matches!(role, AxisRole::Out | AxisRole::GateOut);
                ValueType::Int8 { axis: view.roles.iter().position(out).unwrap_or(0) }
            }
        }
    };
    let mut kinds: BTreeMap<TensorId, ValueType> = entries.iter().map(|e| (e.tensor, kind(e))).collect();
    // Tied tensors are packed once, for all their names.
    for group in model.aliases() {
        if let Some(&first) = group.first().and_then(|first| kinds.get(first)) {
            kinds.extend(group.iter().map(|&further| (further, first)));
        }
    }
    let candidates = kinds.into_iter().filter(|(id, _)| (id.0 as usize) < ours).collect();
    let room = AtomicUsize::new(KEPT_BYTES);
    let (tensors, _) = holds.choose(&Patch::new(), candidates, options, &room)?;
    let weights = || entries.iter().filter(|e| e.view().is_some()).map(|e| e.tensor);
    let path = |id| model.tensor(id).path.clone();
    let unfit = weights().filter_map(|id| Some((path(id), holds.unfit(id)?))).collect();
    let name_taken = weights().filter_map(|id| Some((path(id), holds.name_taken(id)?))).collect();
    let dense_bytes = model.tensors.values().take(ours).map(|t| t.byte_len()).sum();
    let saved: usize = tensors.iter().map(|t| t.dense_bytes - t.packed_bytes).sum();
    let all = tensors.iter().fold(Rounding::default(), |all, t| all.and(t.rounding));
    let largest = tensors.iter().map(|t| t.max_relative_error).fold(0.0, f64::max);
    Ok(PackPlan {
        negative_zeros: tensors.iter().map(|t| t.negative_zeros).sum(),
        tensors,
        unfit,
        name_taken,
        dense_bytes,
        packed_bytes: dense_bytes - saved,
        max_relative_error: largest,
        rms_relative_error: all.rms_relative(),
        to_zero: all.to_zero,
    })
}

/// Bytes that a tensor of a changed model takes as it would be written: packed where it is packed already.
pub(crate) fn written_len(model: &Model, patch: &Patch, id: TensorId) -> u64 {
    let packing = patch.packing(model, id);
    let target = Target::of(model);
    packing.map_or_else(|| model.tensor(id).byte_len(), |(spec, _)| target.part_bytes(&spec)) as u64
}

/// The type of the values of a changed model's tensor as they would be written: smaller than the tensor's where it is
/// packed so.
pub(crate) fn value_type(model: &Model, patch: &Patch, id: TensorId) -> DType {
    patch.packing(model, id).map_or(model.tensor(id).dtype, |(spec, _)| spec.value_type)
}

/// What packing saves of a changed model.
pub(crate) struct Saved {
    /// Bytes of each tensor that is packed, with what the file's table takes more for it.
    pub(crate) tensors: BTreeMap<TensorId, u64>,
    /// Bytes that the file takes more, once for all of them.
    shared: u64,
}

impl Saved {
    /// Bytes of the whole file.
    pub(crate) fn bytes(&self) -> u64 {
        self.tensors.values().sum::<u64>() - self.shared
    }
}

/// What packing the file of a changed model saves, values kept bit for bit: of tensors that the file can hold packed,
/// as [`plan`] chooses them. Of those that are packed already nothing more is saved.
///
/// # Errors
/// Where a tensor cannot be read.
pub(crate) fn saved(model: &Model, patch: &Patch) -> Result<Saved> {
    let dense = |id: &TensorId| patch.packing(model, *id).is_none();
    let ids = patch.written(model).into_iter().filter(dense).map(|id| (id, ValueType::Exact)).collect();
    let options = PackOptions { target: Target::of(model), ..PackOptions::default() };
    let holds = Holds::new(model, options.target);
    // Exact values are packed when they're written, so that no room is taken.
    let (tensors, shared) = holds.choose(patch, ids, &options, &AtomicUsize::new(0))?;
    let tensors = tensors.into_iter().map(|t| (t.tensor, t.gain as u64)).collect();
    Ok(Saved { tensors, shared: shared as u64 })
}

impl Target {
    /// The file that a model is packed into, of the kind that it came from.
    fn of(model: &Model) -> Self {
        let in_folder = |source: &SafetensorsSource| source.folder.is_some();
        if model.source.downcast::<OnnxSource>().is_some() {
            Target::Onnx
        } else if model.source.downcast().is_some_and(in_folder) {
            Target::Folder
        } else {
            Target::Safetensors
        }
    }

    /// The parts that a file has of a packed tensor: ONNX needs no offsets of rows.
    fn parts(self, spec: &Spec) -> impl Iterator<Item = (Part, DType, Vec<usize>)> {
        spec.parts().into_iter().filter(move |(part, ..)| self != Target::Onnx || *part != Part::RowOffsets)
    }

    /// Bytes of the elements of these parts.
    fn part_bytes(self, spec: &Spec) -> usize {
        self.parts(spec).filter_map(|(_, dtype, shape)| dtype.bytes_for(checked_len(&shape)?)).sum()
    }

    /// Bytes that the table of a file takes for the parts of a packed tensor, more than for the dense one.
    fn table_bytes(self, path: &str, spec: &Spec) -> usize {
        let names = self.parts(spec).map(|(part, ..)| path.len() + 1 + part.name().len());
        match self {
            // Each part has its name as an initializer and as an input of the node.
            Target::Onnx => {
                let parts: usize = names.map(|name| TENSOR_BYTES + INPUT_BYTES + 2 * name).sum();
                parts + CALL_BYTES - TENSOR_BYTES
            }
            Target::Safetensors | Target::Folder => names.skip(1).map(|name| PART_BYTES + name).sum(),
        }
    }
}

/// Which tensors a file can hold packed, for packing and for its estimate.
struct Holds<'a> {
    model: &'a Model,
    target: Target,
    /// Names that parts may not get: those of tensors, and of the graph's values.
    names: HashSet<&'a str>,
}

impl<'a> Holds<'a> {
    fn new(model: &'a Model, target: Target) -> Self {
        let mut names: HashSet<&str> = model.tensors.keys().map(String::as_str).collect();
        if let (Target::Onnx, Some(graph)) = (target, &model.graph) {
            names.extend(graph.values.iter().map(|value| value.name.as_str()));
        }
        Holds { model, target, names }
    }

    /// Why the file cannot hold a tensor packed.
    fn unfit(&self, id: TensorId) -> Option<String> {
        match self.model.source.downcast::<OnnxSource>() {
            Some(source) if self.target == Target::Onnx => source.stays_dense(id),
            _ if self.model.source.is_weight(id) => None,
            _ => Some("it is none of the model's weights".into()),
        }
    }

    /// The name that a part of a tensor would get and that something else has: it would be taken for the part.
    fn name_taken(&self, id: TensorId) -> Option<String> {
        let path = &self.model.tensor(id).path;
        let stem = match self.target {
            Target::Onnx => path,
            _ => path.strip_suffix(".weight").unwrap_or(path),
        };
        let mut names = Part::ALL.iter().map(|part| format!("{stem}.{}", part.name()));
        names.find(|name| self.names.contains(name.as_str()))
    }

    /// The tensors that make the file smaller packed, and the bytes that it takes more, once for all of them.
    fn choose(
        &self,
        patch: &Patch,
        candidates: Vec<(TensorId, ValueType)>,
        options: &PackOptions,
        room: &AtomicUsize,
    ) -> Result<(Vec<PackedTensor>, usize)> {
        let found: Vec<Option<PackedTensor>> = candidates
            .into_par_iter()
            .filter(|(id, _)| self.unfit(*id).is_none() && self.name_taken(*id).is_none())
            .map(|(id, kind)| of_tensor(self.model, patch, id, kind, options, room))
            .collect::<Result<_>>()?;
        let mut tensors: Vec<PackedTensor> = found.into_iter().flatten().collect();
        let mut shared = 0;
        if let (Some(source), Target::Onnx) = (self.model.source.downcast::<OnnxSource>(), self.target) {
            // The functions that expand them come once: they have to pay together.
            let mut gains: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
            for t in &tensors {
                let (name, len) = source.unpacker(&t.spec);
                gains.entry(name).or_insert((0, len)).0 += t.gain;
            }
            tensors.retain(|t| gains[source.unpacker(&t.spec).0].0 > gains[source.unpacker(&t.spec).0].1);
            shared = gains.values().filter(|(gain, len)| gain > len).map(|(_, len)| len).sum();
        }
        Ok((tensors, shared))
    }
}

fn of_tensor(
    model: &Model,
    patch: &Patch,
    id: TensorId,
    mut kind: ValueType,
    options: &PackOptions,
    room: &AtomicUsize,
) -> Result<Option<PackedTensor>> {
    let stored = model.tensor(id);
    if !stored.dtype.is_prunable() || stored.shape.is_empty() {
        return Ok(None);
    }
    let tensor = patch.load(model, id)?;
    let mut note = None;
    if !kind.is_exact(stored.dtype) && !kind.holds(stored.dtype, &tensor.to_f32s()?) {
        let name = kind.stored_type(stored.dtype);
        note = Some(format!("values that {name} does not hold: kept as {}", stored.dtype));
        kind = ValueType::Exact;
    }
    let choice = match options.target {
        Target::Folder => Choice::Compatible,
        Target::Safetensors | Target::Onnx => Choice::Smallest,
    };
    let spec = choice.spec(&tensor, &kind).at_tensor(&stored.path)?;
    let table = options.target.table_bytes(&stored.path, &spec);
    let Some(gain) =
        stored.byte_len().checked_sub(options.target.part_bytes(&spec) + table).filter(|&gain| gain > 0)
    else {
        return Ok(None);
    };
    let (mut made, mut rounding) = (None, Rounding::default());
    if !kind.is_exact(stored.dtype) {
        // What rounding changes is known only when it is done.
        let (packed, changed) = packed::pack(&tensor, spec.layout, kind).at_tensor(&stored.path)?;
        let bytes = packed.byte_len();
        let fits = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        (made, rounding) = (fits.is_ok().then(|| Arc::new(packed)), changed);
    }
    Ok(Some(PackedTensor {
        path: stored.path.clone(),
        layout: spec.layout.name(),
        values: spec.value_type.to_string(),
        elements: tensor.len(),
        stored: spec.stored,
        dense_bytes: stored.byte_len(),
        packed_bytes: options.target.part_bytes(&spec),
        max_relative_error: rounding.max_relative(),
        rms_relative_error: rounding.rms_relative(),
        to_zero: rounding.to_zero,
        negative_zeros: packed::negative_zeros(&tensor),
        note,
        tensor: id,
        gain,
        spec,
        kind,
        rounding,
        made,
    }))
}

impl PackPlan {
    /// The patch that writes the tensors packed; most are packed during writing.
    pub fn patch(&self, model: &Model) -> Patch {
        let mut patch = Patch::new();
        // Tied tensors are made by one thing, so that the writer sees that they stay tied.
        let first: BTreeMap<TensorId, TensorId> =
            model.aliases().iter().flat_map(|group| group.iter().map(move |&id| (id, group[0]))).collect();
        let mut made: BTreeMap<TensorId, LazyPacked> = BTreeMap::new();
        for t in &self.tensors {
            let (stored, layout, kind) = (model.tensor(t.tensor).clone(), t.spec.layout, t.kind);
            let kept = t.made.clone();
            let make = move || match &kept {
                Some(packed) => Ok(packed.clone()),
                None => Ok(Arc::new(packed::pack(&stored.load()?, layout, kind)?.0)),
            };
            let tied = first.get(&t.tensor).copied().unwrap_or(t.tensor);
            let make = made.entry(tied).or_insert_with(|| Arc::new(make)).clone();
            patch.set_packed(t.tensor, t.spec.clone(), make);
        }
        patch
    }
}

/// The patch that writes all packed tensors dense, and their number.
pub fn unpack(model: &Model) -> (Patch, usize) {
    let mut patch = Patch::new();
    let packed = (0..).map(TensorId).zip(model.tensors.values()).filter(|(_, t)| t.packed().is_some());
    let further: BTreeSet<TensorId> = model.aliases().iter().flat_map(|group| group[1..].to_vec()).collect();
    for (id, stored) in packed.filter(|(id, _)| !further.contains(id)) {
        let stored = stored.clone();
        patch.set_lazy(id, Arc::new(move || stored.load()));
    }
    patch.spread(model);
    let count = patch.ids().count();
    (patch, count)
}
