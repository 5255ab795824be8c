//! The masks of a model: those of its pairs, its sidecar, and files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secateur_model::{Data, Error, Model, Patch, Result, ResultExt, StoredTensor, TensorId};
use serde::{Deserialize, Serialize};

use super::{Mask, Pair, pairs, sidecar};
use crate::data::read_named;

/// The suffix of a mask's tensor, after the weight's path.
pub const MASK: &str = "_mask";
/// The suffix of an original's tensor, after the weight's path.
pub const ORIGINAL: &str = "_orig";

/// The form in which masks are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Exact zeros in the weights are the mask.
    #[default]
    Zeros,
    /// A sidecar: `<model>.masks.safetensors` next to the model.
    #[serde(alias = "beside")]
    Sidecar,
    /// PyTorch's pairs in the checkpoint: `weight_orig` and `weight_mask`.
    Pairs,
}

/// The masks of a model.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    /// The masks by the tensor they prune; in pairs that is the original.
    pub masks: BTreeMap<TensorId, Arc<Mask>>,
    /// PyTorch's pairs in the checkpoint.
    pub pairs: Vec<Pair>,
    /// The sidecar, where there is one.
    pub sidecar: Option<PathBuf>,
    /// The original weights that the sidecar keeps.
    pub originals: BTreeMap<TensorId, StoredTensor>,
}

impl Masks {
    /// The masks of a model: pairs in the checkpoint, and the sidecar.
    ///
    /// # Errors
    /// `Input` where a mask does not fit its tensor, holds something other than 0 and 1, or the
    /// sidecar belongs to other weights than the model has.
    pub fn of(model: &Model) -> Result<Masks> {
        let mut masks = Masks::of_pairs(model)?;
        masks.sidecar = sidecar::read(model, &mut masks)?;
        masks.tie(model)?;
        Ok(masks)
    }

    /// Checks the sidecar of a model, where there is one, so that a sidecar that does not match the weights is
    /// reported at once and not when the masks are next used.
    ///
    /// # Errors
    /// As [`Masks::of`].
    pub fn check_sidecar(model: &Model) -> Result<()> {
        let sidecar = model.path.as_deref().map(sidecar::path_for);
        if sidecar.is_some_and(|path| path.symlink_metadata().is_ok()) {
            Masks::of(model)?;
        }
        Ok(())
    }

    /// The masks of a model's pairs alone, which its weights cannot be used without.
    ///
    /// # Errors
    /// `Input` where a mask does not fit its original or holds something other than 0 and 1.
    pub fn of_pairs(model: &Model) -> Result<Masks> {
        let mut masks = Masks { pairs: pairs::find(model), ..Masks::default() };
        for pair in &masks.pairs {
            let mask = read_mask(model.tensor(pair.mask), model.tensor(pair.original))?;
            masks.masks.insert(pair.original, Arc::new(mask));
        }
        masks.tie(model)?;
        Ok(masks)
    }

    /// The masks of a model's pairs and those of files.
    ///
    /// # Errors
    /// As [`Masks::of_pairs`] and [`Masks::intersect_file`].
    pub fn with_files(model: &Model, files: &[PathBuf]) -> Result<Masks> {
        let mut masks = Masks::of_pairs(model)?;
        files.iter().try_for_each(|file| masks.intersect_file(file, model))?;
        Ok(masks)
    }

    /// The form in which the masks are stored.
    pub fn form(&self) -> Form {
        match (&self.pairs[..], &self.sidecar) {
            ([], None) => Form::Zeros,
            ([], Some(_)) => Form::Sidecar,
            _ => Form::Pairs,
        }
    }

    /// Prunes what the masks of a file prune too: npz, safetensors or a PyTorch checkpoint, each mask
    /// under the name of its tensor, with or without the suffix `_mask`.
    ///
    /// # Errors
    /// `Input` where a mask fits no tensor, has another shape, or holds something other than 0 and 1.
    pub fn intersect_file(&mut self, path: &Path, model: &Model) -> Result<()> {
        let arrays = read_named(path)?;
        let merge = |masks: &mut Masks| -> Result<()> {
            for (name, stored) in &arrays {
                if name.ends_with(ORIGINAL) {
                    continue;
                }
                let target = name.strip_suffix(MASK).unwrap_or(name);
                let id = masks.target(model, target).ok_or_else(|| {
                    let near = crate::near::did_you_mean(target, model.tensors.keys().map(String::as_str));
                    Error::input(format!("the model has no tensor `{target}`{near}"))
                })?;
                let mask = read_mask(stored, model.tensor(id))?;
                masks.intersect(id, mask)?;
            }
            masks.tie(model)
        };
        merge(self).at_file(path)
    }

    /// Prunes in a tensor what a mask prunes too.
    ///
    /// # Errors
    /// `Internal` where the mask is not as long as the one there is.
    pub fn intersect(&mut self, id: TensorId, mask: Mask) -> Result<()> {
        let both = match self.masks.get(&id) {
            Some(known) => known.and(&mask)?,
            None => mask,
        };
        self.masks.insert(id, Arc::new(both));
        Ok(())
    }

    /// Gives tied weights one mask, which prunes what those of its names do: the first of them has it, and
    /// those that have one.
    fn tie(&mut self, model: &Model) -> Result<()> {
        for group in model.aliases() {
            let named: Vec<TensorId> =
                group.iter().copied().filter(|id| self.masks.contains_key(id)).collect();
            let Some((first, others)) = named.split_first() else { continue };
            let mut all = self.masks[first].clone();
            for other in others {
                all = Arc::new(all.and(&self.masks[other])?);
            }
            self.masks.extend(named.iter().chain([&group[0]]).map(|&id| (id, all.clone())));
        }
        Ok(())
    }

    /// The tensor a mask of this name belongs to: its path, or the path of a pair without `_orig`.
    pub(super) fn target(&self, model: &Model, name: &str) -> Option<TensorId> {
        let pair = self.pairs.iter().find(|pair| pair.path == name);
        pair.map(|pair| pair.original).or_else(|| model.tensor_id(name))
    }

    /// The weights with masks applied, where the model stores them without: those that a model with pairs
    /// computes with.
    pub fn effective(&self, model: &Model) -> Patch {
        let mut patch = Patch::new();
        let further: BTreeSet<TensorId> =
            model.aliases().iter().flat_map(|group| group[1..].to_vec()).collect();
        // Tied weights have one mask: what is made of it is made for the first name and spread.
        for (id, mask) in self.masks.iter().filter(|(id, _)| !further.contains(id)) {
            patch.set_lazy(*id, masked(model.tensor(*id), mask));
        }
        patch.spread(model);
        patch
    }
}

/// Computes a tensor with its mask applied.
pub(super) fn masked(stored: &StoredTensor, mask: &Arc<Mask>) -> secateur_model::model::LazyTensor {
    let (stored, mask) = (stored.clone(), mask.clone());
    Arc::new(move || crate::prune::masked(&stored, &mask))
}

/// A mask from a stored tensor of zeros and ones, true = keep, for a weight.
pub(super) fn read_mask(stored: &StoredTensor, weight: &StoredTensor) -> Result<Mask> {
    let read = || -> Result<Mask> {
        if stored.shape != weight.shape {
            return Err(Error::input(format!(
                "a mask of shape {:?} for the weight `{}` of shape {:?}",
                stored.shape, weight.path, weight.shape
            )));
        }
        if !weight.dtype.is_prunable() {
            return Err(Error::input(format!(
                "a mask for the tensor `{}` of type {}, which cannot be pruned",
                weight.path, weight.dtype
            )));
        }
        let tensor = stored.load()?;
        let of = |keeps: &dyn Fn(usize) -> Option<bool>| -> Result<Mask> {
            let wrong = (0..tensor.len()).find(|&i| keeps(i).is_none());
            match wrong {
                None => Ok(Mask::from_fn(tensor.len(), |i| keeps(i) == Some(true))),
                Some(i) => Err(Error::input(format!("element {i} is neither 0 nor 1"))),
            }
        };
        fn of_number(value: f64) -> Option<bool> {
            (value == 0.0 || value == 1.0).then_some(value == 1.0)
        }
        match tensor.data() {
            Data::Bool(v) => of(&|i| Some(v[i])),
            Data::U8(v) => of(&|i| of_number(v[i].into())),
            Data::I8(v) => of(&|i| of_number(v[i].into())),
            Data::I32(v) => of(&|i| of_number(v[i].into())),
            Data::I64(v) => of(&|i| of_number(v[i] as f64)),
            Data::F32(v) => of(&|i| of_number(v[i].into())),
            Data::F64(v) => of(&|i| of_number(v[i])),
            Data::F16(v) => of(&|i| of_number(v[i].into())),
            Data::BF16(v) => of(&|i| of_number(v[i].into())),
            _ => {
                Err(Error::input(format!("a mask of type {}; expected booleans or 0 and 1", tensor.dtype())))
            }
        }
    };
    read().at_tensor(&stored.path)
}
