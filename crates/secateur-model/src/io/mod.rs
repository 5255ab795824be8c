//! File formats: each reads into a [`Model`] and writes back what was not changed byte for byte.

mod atomic;
mod compress;
mod folders;
mod hash;
pub mod mmap;
pub mod onnx;
mod open;
pub mod safetensors;
mod sniff;
pub mod torch;

use std::io::Write;
use std::path::Path;

use bytes::Bytes;
use indexmap::IndexMap;

pub use atomic::{check_target, write_file, write_file_like};
pub use compress::{Compression, unpack_limit};
pub use hash::{content_hash, sha256, tensors_hash};
pub use onnx::ONNX;
pub use open::{inside_folder, open_regular, read_regular, read_small, read_small_text};
pub use safetensors::SAFETENSORS;
pub use torch::TORCH;

use crate::model::{Entry, Patch};
pub use crate::model::{Format, Source, WriteOptions, WriteReport, WrittenFile};
use crate::{Error, ErrorKind, Model, Result, ResultExt};

/// The formats, one a line. The first that takes the bytes for its own reads them, so ONNX, which has no mark of its
/// own, comes last.
pub static FORMATS: &[&Format] = &[&SAFETENSORS, &TORCH, &ONNX];

/// The format that the ending of a name says, behind that of a compression.
pub fn format_of(path: &Path) -> Option<&'static Format> {
    Formats::known().of_name(path)
}

/// The formats that a program reads: the known ones, and those that it adds.
#[derive(Clone, Debug)]
pub struct Formats(Vec<&'static Format>);

impl Formats {
    /// The known formats.
    pub fn known() -> Self {
        Formats(FORMATS.to_vec())
    }

    /// With another one, which is asked before those that are there.
    #[must_use]
    pub fn with(mut self, format: &'static Format) -> Self {
        self.0.insert(0, format);
        self
    }

    /// The format that the ending of a name says, behind that of a compression.
    pub fn of_name(&self, path: &Path) -> Option<&'static Format> {
        let inner = if Compression::of_name(path).is_some() { path.with_extension("") } else { path.into() };
        let ending = inner.extension()?.to_str()?;
        self.0.iter().copied().find(|format| format.extensions.contains(&ending))
    }

    /// Reads a model; see [`read`].
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Model> {
        let path = path.as_ref();
        let folder = if path.is_dir() { Some(folders::read(path)?) } else { folders::read_indexed(path)? };
        if let Some(model) = folder {
            check_sum(&model).at_file(path)?;
            return Ok(model);
        }
        let bytes = mmap::map_file(path)?;
        let mut model = self.parse(bytes, Some(atomic::folder_of(path))).at_file(path)?;
        model.path = Some(path.to_path_buf());
        Ok(model)
    }

    /// Reads a model from bytes in memory; see [`read_bytes`].
    ///
    /// # Errors
    /// As [`read_bytes`].
    pub fn read_bytes(&self, bytes: impl Into<Bytes>) -> Result<Model> {
        self.parse(bytes.into(), None)
    }

    fn parse(&self, bytes: Bytes, folder: Option<&Path>) -> Result<Model> {
        let bytes = match Compression::of_bytes(&bytes) {
            Some(compression) => compression.unpack(&bytes)?,
            None => bytes,
        };
        let format = self.0.iter().find(|format| (format.begins)(&bytes));
        let format = format.ok_or_else(|| Error::input("is of no known format"))?;
        let model = (format.read)(bytes, folder)?;
        check_sum(&model)?;
        Ok(model)
    }
}

/// Reads a model; the format is told from the content, gzip and zstd files are unpacked into memory.
/// A folder is read as Hugging Face lays it out.
///
/// # Errors
/// Where the file cannot be read or holds nothing secateur knows.
pub fn read(path: impl AsRef<Path>) -> Result<Model> {
    Formats::known().read(path)
}

/// Reads a model from bytes in memory, such as one that is part of a program.
///
/// # Errors
/// As [`read`]; and where the model has external data, which would need a folder.
pub fn read_bytes(bytes: impl Into<Bytes>) -> Result<Model> {
    Formats::known().read_bytes(bytes)
}

/// Checks that the tensors of a file take no more in all than a compressed file of its size may unpack to.
/// Each alone is bounded by its own reader, but any number of names can lead to the same bytes, and what
/// writes tensors one by one, such as [`convert`], writes these again for each name.
///
/// # Errors
/// `Input` where they take more.
fn check_sum(model: &Model) -> Result<()> {
    let held: usize = model.source.files().iter().map(|bytes| bytes.len()).sum();
    let all = model.tensors.values().fold(0u64, |sum, t| sum.saturating_add(t.byte_len() as u64));
    if all <= unpack_limit(held) {
        return Ok(());
    }
    Err(Error::input(format!(
        "the tensors would take {all} bytes in all, but the file has {held}: too many of them are views of the \
         same bytes"
    )))
}

/// Writes a model into a file of the kind it came from: its bytes with the changed tensors put in
/// their places, and the metadata added or replaced by key. Every other byte stays as it was. A name
/// that ends in `.gz` or `.zst` is compressed.
///
/// The file appears under its name only when complete; on any error nothing is left behind.
/// A folder is written as a folder, complete with the files beside the weights. External data of ONNX
/// is copied beside the model: under its own name in another folder where that name is free and
/// plain, otherwise as `<file name>.data`; the model gets its name last. Changes that are computed
/// when asked for are computed one at a time.
///
/// # Errors
/// `Usage` where a file exists and may not be replaced; `Unsupported` where a changed tensor stands
/// in a form that cannot be changed or shares its bytes with one that is not changed, and where
/// several files are to be compressed as one; `Io` where writing fails.
pub fn write(
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    path: &Path,
    options: WriteOptions,
) -> Result<WriteReport> {
    if model.source.format().is_none() {
        let own = if model.graph.is_some() { Some(&ONNX) } else { None };
        let format = format_of(path).or(own);
        let format = format.ok_or_else(|| Error::usage("the name's ending says no format").at_file(path))?;
        return convert(model, patch, metadata, format, path, options);
    }
    if let Some(report) = model.source.write_files(model, patch, metadata, path, options)? {
        return Ok(report);
    }
    write_one(model, path, options, |out| write_stream(model, patch, metadata, out))
}

/// Writes a model into a file of another kind: a checkpoint has its weights by their paths, without graph or
/// further content, such as an optimiser's state; an ONNX file has its graph. A name that ends in `.gz` or `.zst` is compressed.
///
/// # Errors
/// As [`write()`]; `Unsupported` where the format cannot hold the model: ONNX without a graph, a tensor's type.
pub fn convert(
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    format: &Format,
    path: &Path,
    options: WriteOptions,
) -> Result<WriteReport> {
    if let Some(create) = format.create_files.filter(|_| Compression::of_name(path).is_none()) {
        return create(model, patch, metadata, path, options);
    }
    write_one(model, path, options, |out| convert_stream(model, patch, metadata, format, out))
}

/// Writes what [`convert`] writes into one stream, uncompressed. Returns the number of bytes.
///
/// # Errors
/// As [`convert`], but for those of files that exist.
pub fn convert_stream(
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    format: &Format,
    out: &mut dyn Write,
) -> Result<u64> {
    (format.create)(model, patch, metadata, out)
}

/// The tensors of a checkpoint of another kind: weights whose elements are numbers.
fn weights<'a>(model: &'a Model, patch: &'a Patch) -> Vec<Entry<'a>> {
    let mut entries = patch.entries(model);
    entries.retain(|entry| entry.anchor().is_none_or(|id| model.source.is_weight(id)));
    entries.retain(|entry| entry.id().is_none_or(|id| !model.source.is_quantised(id)));
    entries
}

/// Writes one file from a stream.
fn write_one(
    model: &Model,
    path: &Path,
    options: WriteOptions,
    fill: impl FnOnce(&mut dyn Write) -> Result<u64>,
) -> Result<WriteReport> {
    if !options.overwrite && model.path.as_deref().is_some_and(|input| atomic::same_file(input, path)) {
        let message = "is the input itself; choose another name, or replace it with option `force`";
        return Err(Error::usage(message).at_file(path));
    }
    write_file(path, options.overwrite, |out| match Compression::of_name(path) {
        Some(compression) => compression.pack(out, fill).map(|_| ()),
        None => fill(out).map(|_| ()),
    })?;
    let bytes = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
    Ok(WriteReport { model: WrittenFile { path: path.to_path_buf(), bytes }, external: Vec::new() })
}

/// Writes what [`write()`] writes into one stream, uncompressed: an ONNX model, then its external
/// files, whose names stay; of a folder one file with all tensors. To measure or hash the result
/// without a file. Returns the number of bytes.
///
/// # Errors
/// As [`write()`], but for those of files that exist.
pub fn write_stream(
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    match (model.source.format(), &model.graph) {
        (None, Some(_)) => (ONNX.create)(model, patch, metadata, out),
        _ => model.source.write_stream(model, patch, metadata, out),
    }
}

/// Metadata without what is to be left out, and with more added or replaced by key.
fn merged(metadata: &[(String, String)], patch: &Patch, more: &[(String, String)]) -> Vec<(String, String)> {
    let kept = metadata.iter().filter(|(key, _)| !patch.drops(key));
    let mut merged: IndexMap<String, String> = kept.cloned().collect();
    merged.extend(more.iter().cloned());
    merged.into_iter().collect()
}

/// The error of a stream that cannot be written.
fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("writing failed: {error}"))
}
