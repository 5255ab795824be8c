//! The file of masks beside a model.

use std::path::{Path, PathBuf};

use secateur_model::io::{self, Source};
use secateur_model::{Edits, Error, Model, Result, ResultExt, StoredTensor};

use super::{MASK, Masks, ORIGINAL, read_mask};
use crate::mask::Mask;
use crate::score::weights::Weights;

/// Where the masks of a model lie: `<model>.masks.safetensors`, beside the file or the folder.
pub fn path_beside(model: &Path) -> PathBuf {
    let mut name = model.components().collect::<PathBuf>().into_os_string();
    name.push(".masks.safetensors");
    name.into()
}

/// Reads the masks and originals of the file beside a model.
pub(super) fn read(path: &Path, model: &Model, masks: &mut Masks) -> Result<()> {
    for (name, stored) in &io::read(path)?.tensors {
        let (target, original) = match (name.strip_suffix(MASK), name.strip_suffix(ORIGINAL)) {
            (Some(target), _) => (target, false),
            (_, Some(target)) => (target, true),
            _ => {
                return Err(
                    Error::input(format!("expected names that end in {MASK} or {ORIGINAL}")).at_tensor(name)
                );
            }
        };
        let id = masks.target(model, target).ok_or_else(|| {
            Error::input("the model has no such tensor: the masks belong to another model").at_tensor(target)
        })?;
        let weight = model.tensor(id);
        if original {
            if stored.shape != weight.shape || stored.dtype != weight.dtype {
                let message = format!(
                    "is {} of shape {:?}, but the model's tensor is {} of shape {:?}",
                    stored.dtype, stored.shape, weight.dtype, weight.shape
                );
                return Err(Error::input(message).at_tensor(name));
            }
            masks.originals.insert(id, stored.clone());
        } else {
            let mask = read_mask(stored, weight)?;
            check_zeros(&mask, weight).at_tensor(name)?;
            masks.intersect(id, mask)?;
        }
    }
    Ok(())
}

/// What a mask prunes is zero in the model it belongs to.
fn check_zeros(mask: &Mask, weight: &StoredTensor) -> Result<()> {
    let dense = weight.dense();
    let weights = Weights::of(&dense)?;
    let left = weights.len() - weights.masked_by(mask)?.zeros();
    let all = weights.len() - weights.zeros();
    if left == all {
        return Ok(());
    }
    Err(Error::input(format!(
        "prunes {} weights that are not zero in the model: the masks belong to another version of it, or \
         writing it was interrupted; prune again, or move the file away",
        all - left
    )))
}

/// Writes a file of masks and originals: what `edits` add to an empty model.
pub(super) fn write(path: &Path, edits: &Edits, overwrite: bool) -> Result<()> {
    let empty = Model { tensors: Default::default(), graph: None, path: None, source: Source::Memory };
    let options = io::WriteOptions { overwrite };
    let metadata = [("format".to_string(), "pt".to_string())];
    io::convert(&empty, edits, &metadata, io::Format::Safetensors, path, options).at(|| "masks")?;
    Ok(())
}
