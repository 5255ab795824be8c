//! Files of external data.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::proto::StringStringEntryProto;
use crate::io::{inside_folder, mmap};
use crate::{Error, Result};

/// A file that holds elements of the model's tensors.
#[derive(Clone, Debug)]
pub struct ExternalFile {
    /// The path as the model gives it, relative to the model's folder.
    pub location: String,
    /// The file itself, links followed; in a Hugging Face cache the link, whose target belongs to all snapshots.
    pub path: PathBuf,
    /// Its bytes, memory-mapped.
    pub bytes: Bytes,
}

/// The external files of one model, mapped once each.
#[derive(Clone, Debug, Default)]
pub(super) struct ExternalFiles {
    /// The model's folder; `None` for models that were read from memory.
    folder: Option<PathBuf>,
    files: Vec<ExternalFile>,
    /// Several spellings may lead to the same file.
    by_location: HashMap<String, usize>,
}

impl ExternalFiles {
    pub(super) fn new(folder: Option<&Path>) -> Self {
        ExternalFiles { folder: folder.map(Path::to_path_buf), ..Self::default() }
    }

    pub(super) fn files(&self) -> &[ExternalFile] {
        &self.files
    }

    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The index of the file at `location`, mapped at the first use.
    ///
    /// # Errors
    /// Where the location leads outside the model's folder or to nothing that can be read.
    pub(super) fn open(&mut self, location: &str) -> Result<usize> {
        if let Some(&index) = self.by_location.get(location) {
            return Ok(index);
        }
        let Some(folder) = &self.folder else {
            return Err(Error::input(format!(
                "external data at `{location}` of a model that was read from memory, which has no folder"
            )));
        };
        let relative = Path::new(location);
        let inside = !location.is_empty()
            && relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside {
            return Err(Error::input(format!(
                "external data at `{location}`: expected a relative path inside the model's folder, \
                 without `..`"
            )));
        }
        let path = folder.join(relative);
        let Some(real) = inside_folder(folder, &path).map_err(|e| e.at("external data"))? else {
            return Err(Error::input(format!(
                "external data at `{location}` is a link that leads outside the model's folder; put the file \
                 itself beside the model"
            )));
        };
        // What lies in a cache is replaced where its link stands, never in the store that others link to.
        let root = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
        let path = if real.starts_with(&root) { real } else { root.join(relative) };
        let index = match self.files.iter().position(|f| f.path == path) {
            Some(index) => index,
            None => {
                let bytes = mmap::map_file(&path).map_err(|e| e.at("external data"))?;
                self.files.push(ExternalFile { location: location.to_string(), path, bytes });
                self.files.len() - 1
            }
        };
        self.by_location.insert(location.to_string(), index);
        Ok(index)
    }

    /// The file and the bytes in it that `entries` (of `TensorProto.external_data`) speak of.
    ///
    /// # Errors
    /// Where an entry is missing or no number, the length is not `expected`, or the file too short.
    pub(super) fn range(
        &mut self,
        entries: &[StringStringEntryProto],
        expected: usize,
    ) -> Result<(usize, Range<usize>)> {
        let number = |key: &str| -> Result<Option<usize>> {
            entry(entries, key)
                .map(|v| {
                    v.parse().map_err(|_| {
                        Error::input(format!("external data: {key} `{v}` is not a number of bytes"))
                    })
                })
                .transpose()
        };
        let location =
            entry(entries, "location").ok_or_else(|| Error::input("external data without a location"))?;
        let file = self.open(location)?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(expected);
        if length != expected {
            return Err(Error::input(format!(
                "external data: {length} bytes, expected {expected} for the tensor's type and shape"
            )));
        }
        let size = self.files[file].bytes.len();
        let end = offset.checked_add(length).filter(|&end| end <= size).ok_or_else(|| {
            Error::input(format!(
                "external data: expected {length} bytes at {offset}, but `{location}` ends at {size}"
            ))
        })?;
        Ok((file, offset..end))
    }
}

/// The value of an entry of `TensorProto.external_data`.
pub(super) fn entry<'a>(entries: &'a [StringStringEntryProto], key: &str) -> Option<&'a str> {
    entries.iter().find(|e| e.key.as_deref() == Some(key)).and_then(|e| e.value.as_deref())
}
