//! Ties: tensors that hold the same elements. The format has no tensors that share bytes, so a file has the
//! elements under each name, and its metadata say which names belong together.

use std::collections::HashMap;

use indexmap::IndexMap;

use super::header::Metadata;
use crate::model::{Entry, ties};
use crate::{Error, Result, StoredTensor};

/// The key of the metadata: a JSON object with, for each further name, the first one.
const KEY: &str = "secateur.tied";

/// Takes out of the metadata what says which tensors are tied.
pub(super) fn take_metadata(metadata: &mut Metadata) -> Option<(String, String)> {
    let at = metadata.iter().position(|(key, _)| key == KEY)?;
    Some(metadata.remove(at))
}

/// Has tied tensors share their elements. Names that the file does not have are passed over, and tensors whose
/// elements differ are not tied.
///
/// # Errors
/// `Input` where the metadata are not as they are written here.
pub(super) fn join(tensors: &mut [StoredTensor], tied: Option<&(String, String)>) -> Result<()> {
    let Some((_, json)) = tied else { return Ok(()) };
    let names: IndexMap<String, String> = serde_json::from_str(json)
        .map_err(|e| Error::input(format!("the metadata `{KEY}` do not say which tensors are tied: {e}")))?;
    let places: HashMap<String, usize> =
        tensors.iter().enumerate().map(|(place, tensor)| (tensor.path.clone(), place)).collect();
    for (further, first) in &names {
        if let (Some(&further), Some(&first)) = (places.get(further), places.get(first))
            && tensors[further].holds_the_same(&tensors[first])
        {
            tensors[further].storage = tensors[first].storage.clone();
        }
    }
    Ok(())
}

/// Metadata with the ties among the entries.
pub(super) fn with_metadata(mut metadata: Metadata, entries: &[Entry<'_>]) -> Metadata {
    let all = ties(entries);
    let tied = all.iter().enumerate().filter(|&(index, &first)| index != first);
    let names: IndexMap<&str, &str> =
        tied.map(|(index, &first)| (entries[index].path, entries[first].path)).collect();
    if !names.is_empty() {
        metadata.push((KEY.into(), serde_json::to_string(&names).expect("texts are JSON")));
    }
    metadata
}
