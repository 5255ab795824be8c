//! Files of named arrays: masks and scores, as npz or as any checkpoint.

use std::path::Path;

use indexmap::IndexMap;
use secateur_model::model::Storage;
use secateur_model::{Result, ResultExt, StoredTensor, io};

use super::npy;

/// The arrays of an npz, safetensors or PyTorch file, by name in the file's order. They stay in the
/// memory map until they are read.
///
/// # Errors
/// Where the file cannot be read or is none of these.
pub fn read_named(path: &Path) -> Result<IndexMap<String, StoredTensor>> {
    if path.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("npz")) {
        return Ok(io::read(path)?.tensors);
    }
    let arrays = npy::read_npz(io::mmap::map_file(path)?).at_file(path)?;
    let stored = arrays.into_iter().map(|(name, array)| {
        let (dtype, shape, bytes) = array.into_parts();
        (name.clone(), StoredTensor { path: name, dtype, shape, storage: Storage::Bytes(bytes) })
    });
    Ok(stored.collect())
}
