//! Writes the result of pruning, undoes it, and makes it permanent.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secateur_model::io::ONNX;
use secateur_model::model::{LazyTensor, decode, encode};
use secateur_model::{DType, Data, Error, Model, Patch, Result, StoredTensor, Tensor, TensorId};

use super::{Form, MASK, Masks, ORIGINAL, Pair, masked, sidecar};
use crate::prune::Mask;
use crate::prune::Pruning;

/// What pruning writes: a patch of the model, and the sidecar of masks.
pub struct Output {
    /// The patch of the model.
    pub patch: Patch,
    /// What the sidecar holds.
    sidecar: Option<Patch>,
}

impl From<Patch> for Output {
    /// A patch of the model alone.
    fn from(patch: Patch) -> Self {
        Output { patch, sidecar: None }
    }
}

impl Output {
    /// Whether a sidecar belongs to the model.
    pub fn has_sidecar(&self) -> bool {
        self.sidecar.is_some()
    }

    /// Has `write_model` write the model at `path` with [`Output::patch`], and writes the sidecar that
    /// belongs to it. Even if writing is interrupted or another process writes there, a model
    /// is never read with the masks of another. Where there are no masks, the sidecar of the model that is replaced is
    /// removed; returns its path then.
    ///
    /// # Errors
    /// `Usage` where the sidecar exists and may not be replaced; `Io` where writing fails; those of
    /// `write_model`.
    pub fn write<T>(
        &self,
        model: &Model,
        path: &Path,
        overwrite: bool,
        write_model: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Option<PathBuf>)> {
        let entries = self.patch.entries(model);
        let sidecar = self.sidecar.as_ref().map(|patch| (patch, &entries[..]));
        sidecar::replace(path, sidecar, overwrite, write_model)
    }
}

/// What is written of a pruning in a form of masks, with the original weights where they are to be kept.
/// Originals that the model's own sidecar keeps already are carried on, so that undoing gives back
/// what was there before the first round.
///
/// # Errors
/// `Usage` where pairs are asked for in a file that has a graph, or for weights that a solver changes.
pub fn output(
    model: &Model,
    pruning: &Pruning,
    masks: &Masks,
    form: Form,
    keep_originals: bool,
) -> Result<Output> {
    let all = || pruning.masks.iter().chain(&pruning.companions);
    if form == Form::Pairs {
        if !pruning.values.is_empty() {
            return Err(Error::usage(
                "pairs hold the original weights, and the method's solver changes them: use option \
                 `form=sidecar`, with option `keep_originals` to be able to undo",
            ));
        }
        return Ok(Output { patch: as_pairs(model, all(), masks, &Patch::new())?, sidecar: None });
    }
    let mut patch = pruning.patch(model);
    patch.fill_from(&masks.effective(model));
    join_pairs(model, masks, &mut patch);
    if form == Form::Zeros && !keep_originals {
        return Ok(Output { patch, sidecar: None });
    }
    let pruned = all().filter(|(_, mask)| mask.pruned() > 0);
    let known = masks.masks.iter().filter(|(id, _)| all().all(|(other, _)| other != *id));
    let found = pruned.map(|(id, mask)| (*id, mask)).chain(known.map(|(id, mask)| (*id, mask)));
    Ok(Output { patch, sidecar: Some(as_sidecar(model, found, masks, keep_originals)) })
}

/// What is written of a model that trained while masks held, in a form of masks. In pairs, an original has the trained weights
/// where its mask keeps them and is as it was elsewhere. Originals in the model's own sidecar are left out: they belong to
/// weights that are no more.
///
/// # Errors
/// `Usage` where pairs are asked for in a file that has a graph.
pub fn trained(
    model: &Model,
    weights: &Patch,
    held: &BTreeMap<TensorId, Arc<Mask>>,
    masks: &Masks,
    form: Form,
) -> Result<Output> {
    let held: Vec<(TensorId, Arc<Mask>)> = held
        .iter()
        .filter(|(id, mask)| mask.pruned() > 0 || masks.masks.contains_key(id))
        .map(|(id, mask)| (*id, mask.clone()))
        .collect();
    let mut patch = weights.clone();
    if form == Form::Pairs {
        let mut pairs = as_pairs(model, held.iter(), masks, &patch)?;
        let halves: Vec<TensorId> = patch.ids().filter(|id| pairs.removes(*id)).collect();
        halves.into_iter().for_each(|id| drop(patch.take(id)));
        pairs.fill_from(&patch);
        return Ok(Output { patch: pairs, sidecar: None });
    }
    patch.fill_from(&masks.effective(model));
    join_pairs(model, masks, &mut patch);
    let sidecar = (form == Form::Sidecar)
        .then(|| as_sidecar(model, held.iter().map(|(id, mask)| (*id, mask)), masks, false));
    Ok(Output { patch, sidecar })
}

/// What the sidecar of some masks holds.
fn as_sidecar<'a>(
    model: &Model,
    found: impl Iterator<Item = (TensorId, &'a Arc<Mask>)>,
    masks: &Masks,
    keep_originals: bool,
) -> Patch {
    let mut sidecar = Patch::new();
    for (id, mask) in found {
        let stored = model.tensor(id);
        let path = path_of(model, masks, id);
        let (mask, shape) = (mask.clone(), stored.shape.clone());
        let bools = {
            let shape = shape.clone();
            move || Tensor::new(shape.clone(), mask.iter().collect::<Vec<bool>>())
        };
        sidecar.add(format!("{path}{MASK}"), DType::Bool, shape.clone(), None, Arc::new(bools));
        if keep_originals {
            let original = masks.originals.get(&id).unwrap_or(stored).clone();
            let load: LazyTensor = Arc::new(move || original.load());
            sidecar.add(format!("{path}{ORIGINAL}"), stored.dtype, shape, None, load);
        }
    }
    sidecar
}

/// The path of a weight, without `_orig` where it is half of a pair.
fn path_of<'m>(model: &'m Model, masks: &'m Masks, id: TensorId) -> &'m str {
    let pair = masks.pairs.iter().find(|pair| pair.original == id);
    pair.map_or(&model.tensor(id).path, |pair| &pair.path)
}

/// The masks as PyTorch's pairs: masks of pairs that are there change, and originals where they are kept and `trained` has
/// other weights.
fn as_pairs<'a>(
    model: &Model,
    masks: impl Iterator<Item = &'a (TensorId, Arc<Mask>)>,
    known: &Masks,
    trained: &Patch,
) -> Result<Patch> {
    if model.source.format() == Some(&ONNX) {
        return Err(Error::usage(
            "pairs of weight_orig and weight_mask only work in checkpoints; use option `form=sidecar` for ONNX",
        ));
    }
    let ties = Ties::of(model);
    let mut patch = Patch::new();
    for (id, mask) in masks {
        let stored = model.tensor(*id);
        // PyTorch's masks have their weight's type.
        let ones = numbers(stored.dtype, stored.shape.clone(), mask.clone());
        let load = match trained.contains(*id) {
            true => merged(stored, trained.load(model, *id)?, mask.clone()),
            false => original(stored),
        };
        // Tied weights become tied pairs: all of their names have one original and one mask.
        for name in ties.names(*id) {
            match known.pairs.iter().find(|pair| pair.original == name) {
                Some(pair) => {
                    let old = model.tensor(pair.mask);
                    patch.set_lazy(pair.mask, numbers(old.dtype, old.shape.clone(), mask.clone()));
                    if trained.contains(*id) {
                        patch.set_lazy(name, load.clone());
                    }
                }
                None if mask.pruned() > 0 => {
                    let path = &model.tensor(name).path;
                    let add = |patch: &mut Patch, end: &str, make: &LazyTensor| {
                        let shape = stored.shape.clone();
                        patch.add(format!("{path}{end}"), stored.dtype, shape, Some(name), make.clone());
                    };
                    patch.remove(name);
                    add(&mut patch, ORIGINAL, &load);
                    add(&mut patch, MASK, &ones);
                }
                None => {}
            }
        }
    }
    Ok(patch)
}

/// Trained weights where a mask keeps them, elsewhere the stored ones.
fn merged(stored: &StoredTensor, trained: Tensor, mask: Arc<Mask>) -> LazyTensor {
    let stored = stored.clone();
    Arc::new(move || {
        let (mut bytes, new) = (encode(stored.load()?.data())?, encode(trained.data())?);
        let size = bytes.len() / mask.len().max(1);
        for i in mask.iter().enumerate().filter(|(_, keep)| *keep).map(|(i, _)| i) {
            bytes[i * size..][..size].copy_from_slice(&new[i * size..][..size]);
        }
        Tensor::from_data(stored.shape.clone(), decode(stored.dtype, &stored.shape, &bytes)?)
    })
}

/// A mask as ones and zeros of an element type.
fn numbers(dtype: DType, shape: Vec<usize>, mask: Arc<Mask>) -> LazyTensor {
    Arc::new(move || {
        let ones = || mask.iter().map(f32::from);
        let data = match dtype {
            DType::Bool => Data::Bool(mask.iter().collect()),
            DType::F64 => Data::F64(ones().map(f64::from).collect()),
            DType::F16 => Data::F16(ones().map(half::f16::from_f32).collect()),
            DType::BF16 => Data::BF16(ones().map(half::bf16::from_f32).collect()),
            DType::U8 => Data::U8(mask.iter().map(u8::from).collect()),
            DType::I8 => Data::I8(mask.iter().map(i8::from).collect()),
            DType::I32 => Data::I32(mask.iter().map(i32::from).collect()),
            DType::I64 => Data::I64(mask.iter().map(i64::from).collect()),
            _ => Data::F32(ones().collect()),
        };
        Tensor::from_data(shape.clone(), data)
    })
}

/// Replaces each pair by one weight, with the change that `patch` makes to its original.
fn join_pairs(model: &Model, masks: &Masks, patch: &mut Patch) {
    let mut ties = Ties::of(model);
    for pair in &masks.pairs {
        let stored = model.tensor(pair.original);
        let mask = masks.masks.get(&pair.original);
        let changed = patch.take(pair.original);
        let weight = ties.shared(pair.original, || {
            changed.unwrap_or_else(|| match mask {
                Some(mask) => masked(stored, mask),
                None => original(stored),
            })
        });
        join(model, pair, weight, patch);
    }
}

/// The names of tied tensors, and what makes their elements: one thing for all names, so that a writer
/// sees that they stay tied.
struct Ties {
    groups: Vec<Vec<TensorId>>,
    made: BTreeMap<TensorId, LazyTensor>,
}

impl Ties {
    fn of(model: &Model) -> Self {
        Ties { groups: model.aliases(), made: BTreeMap::new() }
    }

    /// All tensors tied to one, itself among them.
    fn names(&self, id: TensorId) -> Vec<TensorId> {
        self.groups.iter().find(|group| group.contains(&id)).cloned().unwrap_or_else(|| vec![id])
    }

    /// What was made for the first of the names, or is made now.
    fn shared(&mut self, id: TensorId, make: impl FnOnce() -> LazyTensor) -> LazyTensor {
        let first = self.names(id)[0];
        self.made.entry(first).or_insert_with(make).clone()
    }
}

fn join(model: &Model, pair: &Pair, weight: LazyTensor, patch: &mut Patch) {
    let stored = model.tensor(pair.original);
    patch.remove(pair.original);
    patch.remove(pair.mask);
    patch.add(&*pair.path, stored.dtype, stored.shape.clone(), Some(pair.original), weight);
}

fn original(stored: &StoredTensor) -> LazyTensor {
    let stored = stored.clone();
    Arc::new(move || stored.load())
}

/// The patch that makes a model's masks permanent: pairs become one weight with zeros in it. Its
/// sidecar is left behind.
pub fn finalize(model: &Model, masks: &Masks) -> Patch {
    let mut patch = masks.effective(model);
    join_pairs(model, masks, &mut patch);
    patch
}

/// The metadata that say what [`undo`] brings back: those of a round before the first whose originals are
/// kept, as a JSON list of pairs.
const BEFORE: &str = "secateur.before";

/// What a pruning that can be undone adds to the metadata it writes, so that [`undo`] brings the recipe of
/// an earlier round back.
///
/// # Errors
/// Never for texts.
pub fn kept_metadata(
    model: &Model,
    masks: &Masks,
    form: Form,
    keep_originals: bool,
) -> Result<Vec<(String, String)>> {
    let own = || model.source.metadata().iter().filter(|(key, _)| key.starts_with("secateur."));
    let carried = !masks.originals.is_empty() || !masks.pairs.is_empty();
    let before = match carried {
        true => own().find(|(key, _)| key == BEFORE).cloned(),
        false => {
            let all: Vec<&(String, String)> = own().collect();
            let json = serde_json::to_string(&all).map_err(|e| Error::internal(e.to_string()))?;
            (!all.is_empty()).then(|| (BEFORE.to_string(), json))
        }
    };
    Ok(before.into_iter().filter(|_| form == Form::Pairs || keep_originals).collect())
}

/// The patch that restores the original weights and removes what pruning wrote into the metadata, and the
/// metadata from before.
///
/// # Errors
/// `Usage` where no originals were kept.
pub fn undo(model: &Model, masks: &Masks) -> Result<(Patch, Vec<(String, String)>)> {
    if masks.originals.is_empty() && masks.pairs.is_empty() {
        let where_to = match &masks.sidecar {
            Some(path) => format!("`{}` keeps masks without originals", path.display()),
            None => "it has no sidecar of masks".to_string(),
        };
        return Err(Error::usage(format!(
            "no original weights are kept for this model ({where_to}): prune with option `keep_originals` to be \
             able to undo"
        )));
    }
    let mut patch = Patch::new();
    for (id, stored) in &masks.originals {
        patch.set_lazy(*id, original(stored));
    }
    patch.spread(model);
    let mut ties = Ties::of(model);
    for pair in &masks.pairs {
        let kept = masks.originals.get(&pair.original).unwrap_or(model.tensor(pair.original));
        join(model, pair, ties.shared(pair.original, || original(kept)), &mut patch);
    }
    patch.drop_metadata("secateur.");
    let before = model.source.metadata().iter().find(|(key, _)| key == BEFORE);
    let metadata = match before {
        Some((_, json)) => serde_json::from_str(json).map_err(|e| {
            Error::input(format!("the metadata `{BEFORE}` are not as they are written here: {e}"))
        })?,
        None => Vec::new(),
    };
    Ok((patch, metadata))
}
