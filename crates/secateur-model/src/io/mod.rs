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

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;

pub use atomic::{check_target, write_file, write_file_like};
pub use compress::{Compression, unpack_limit};
pub use hash::{content_hash, tensors_hash};
pub use open::{inside_folder, open_regular, read_regular, read_small, read_small_text};

use crate::model::Patch;
use crate::{Error, ErrorKind, Model, Result, ResultExt, TensorId};

/// The container a model came from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Source {
    /// Made in memory.
    Memory,
    /// An ONNX file.
    Onnx(Arc<onnx::OnnxSource>),
    /// A safetensors file, or a folder of them.
    Safetensors(Arc<safetensors::SafetensorsSource>),
    /// A PyTorch checkpoint.
    Torch(Arc<torch::TorchSource>),
    /// A PyTorch checkpoint in several files.
    TorchShards(Arc<torch::TorchShards>),
}

/// A kind of file that models are read from and written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// ONNX: weights and graph.
    Onnx,
    /// safetensors: weights.
    Safetensors,
    /// PyTorch checkpoints: weights.
    Torch,
}

impl Format {
    /// All formats.
    pub const ALL: &'static [Format] = &[Format::Onnx, Format::Safetensors, Format::Torch];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Onnx => "ONNX",
            Format::Safetensors => "safetensors",
            Format::Torch => "PyTorch",
        }
    }

    /// The endings of file names, the usual one first.
    pub fn extensions(self) -> &'static [&'static str] {
        match self {
            Format::Onnx => &["onnx"],
            Format::Safetensors => &["safetensors"],
            Format::Torch => &["pth", "pt", "th", "bin", "tar", "ckpt"],
        }
    }

    /// What the ending of a name says, behind that of a compression.
    pub fn of_name(path: &Path) -> Option<Self> {
        let inner = if Compression::of_name(path).is_some() { path.with_extension("") } else { path.into() };
        let ending = inner.extension()?.to_str()?;
        Self::ALL.iter().copied().find(|f| f.extensions().contains(&ending))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Source {
    /// The format; `None` for models made in memory.
    pub fn format(&self) -> Option<Format> {
        match self {
            Source::Memory => None,
            Source::Onnx(_) => Some(Format::Onnx),
            Source::Safetensors(_) => Some(Format::Safetensors),
            Source::Torch(_) | Source::TorchShards(_) => Some(Format::Torch),
        }
    }

    /// The metadata, in the file's order.
    pub fn metadata(&self) -> &[(String, String)] {
        match self {
            Source::Memory | Source::TorchShards(_) => &[],
            Source::Onnx(source) => &source.metadata,
            Source::Safetensors(source) => source.metadata(),
            Source::Torch(source) => &source.metadata,
        }
    }

    /// Whether a tensor is one of the model's weights: all are, but for those of a PyTorch checkpoint that
    /// stand outside of its state dict, such as an optimiser's.
    pub fn is_weight(&self, id: TensorId) -> bool {
        match self {
            Source::Torch(source) => source.is_weight(id),
            Source::TorchShards(source) => source.is_weight(id),
            _ => true,
        }
    }

    /// Whether the files can hold a tensor with other elements: all but those that an ONNX file has as an
    /// attribute of numbers.
    pub fn holds_changed(&self, id: TensorId) -> bool {
        match self {
            Source::Onnx(source) => source.places.get(id.0 as usize).is_none_or(Option::is_some),
            _ => true,
        }
    }

    /// How many tensors the files hold: the first of [`Model::tensors`], behind which those of a graph
    /// from elsewhere may stand. `None` for models made in memory and for those with a graph of their own.
    pub fn tensor_count(&self) -> Option<usize> {
        match self {
            Source::Memory | Source::Onnx(_) => None,
            Source::Safetensors(source) => Some(source.tensor_count()),
            Source::Torch(source) => Some(source.tensor_count()),
            Source::TorchShards(source) => Some(source.tensor_count()),
        }
    }

    /// Whether a tensor's elements are the integers of a quantised tensor of PyTorch, without the scales that make
    /// numbers of them. Files of another kind cannot hold it.
    pub fn is_quantised(&self, id: TensorId) -> bool {
        match self {
            Source::Torch(source) => source.quantised.contains(&id),
            Source::TorchShards(source) => source.is_quantised(id),
            _ => false,
        }
    }

    /// Tensors that the file holds and that are not read, such as sparse ones of PyTorch: their paths, and why. A file
    /// that is written from the same kind of file has them as they were.
    pub fn unread(&self) -> &[(String, String)] {
        match self {
            Source::Torch(source) => &source.unread,
            Source::TorchShards(source) => source.unread(),
            _ => &[],
        }
    }

    /// The bytes of the files that were read, the main one first.
    fn files(&self) -> Vec<&Bytes> {
        match self {
            Source::Memory => Vec::new(),
            Source::Onnx(source) => {
                let external = source.external_files().iter().map(|file| &file.bytes);
                std::iter::once(&source.bytes).chain(external).collect()
            }
            Source::Safetensors(source) => source.shards.iter().map(|shard| &shard.bytes).collect(),
            Source::Torch(source) => vec![&source.bytes],
            Source::TorchShards(source) => source.files(),
        }
    }

    /// Whether the model is more than one file: external data, or a folder.
    pub fn is_several_files(&self) -> bool {
        match self {
            Source::Safetensors(source) => source.folder.is_some(),
            _ => self.files().len() > 1,
        }
    }
}

/// Reads a model; the format is told from the content, gzip and zstd files are unpacked into memory.
/// A folder is read as Hugging Face lays it out.
///
/// # Errors
/// Where the file cannot be read or holds nothing secateur knows.
pub fn read(path: impl AsRef<Path>) -> Result<Model> {
    let path = path.as_ref();
    let folder = if path.is_dir() { Some(folders::read(path)?) } else { folders::read_indexed(path)? };
    if let Some(model) = folder {
        check_sum(&model).at_file(path)?;
        return Ok(model);
    }
    let bytes = mmap::map_file(path)?;
    let mut model = parse(bytes, Some(atomic::folder_of(path))).at_file(path)?;
    model.path = Some(path.to_path_buf());
    Ok(model)
}

/// Reads a model from bytes in memory, such as one that is part of a program.
///
/// # Errors
/// As [`read`]; and where the model has external data, which would need a folder.
pub fn read_bytes(bytes: impl Into<Bytes>) -> Result<Model> {
    parse(bytes.into(), None)
}

fn parse(bytes: Bytes, folder: Option<&Path>) -> Result<Model> {
    let bytes = match Compression::of_bytes(&bytes) {
        Some(compression) => compression.unpack(&bytes)?,
        None => bytes,
    };
    let model = if safetensors::begins(&bytes) {
        safetensors::parse(bytes)?
    } else if torch::begins(&bytes) {
        torch::parse(bytes)?
    } else {
        onnx::parse(bytes, folder)?
    };
    check_sum(&model)?;
    Ok(model)
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

/// How a model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Whether files that exist may be replaced, the input included.
    pub overwrite: bool,
}

/// The files that [`write()`] wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteReport {
    /// The model.
    pub model: WrittenFile,
    /// Files of external data beside it.
    pub external: Vec<WrittenFile>,
}

impl WriteReport {
    /// The size of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.model.bytes + self.external.iter().map(|f| f.bytes).sum::<u64>()
    }
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
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
    let compression = Compression::of_name(path);
    match &model.source {
        Source::Onnx(source) if compression.is_none() => {
            return onnx::write(source, model, patch, metadata, path, options);
        }
        Source::Memory if model.graph.is_some() && compression.is_none() => {
            return onnx::create(model, patch, metadata, path, options);
        }
        Source::Safetensors(source) if Format::of_name(path).is_none() && compression.is_none() => {
            if let Some(folder) = &source.folder {
                return safetensors::write_folder(source, folder, model, patch, metadata, path, options);
            }
        }
        Source::TorchShards(_) if Format::of_name(path).is_none() => {
            let message = "the model is a PyTorch checkpoint in several files, which is written as one: end the \
                           name in .safetensors or .pth";
            return Err(Error::usage(message).at_file(path));
        }
        Source::Onnx(_) if model.source.is_several_files() => {
            let message = "the model has external data, so it is not one file that could be compressed";
            return Err(Error::unsupported(message).at_file(path));
        }
        _ => {}
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
    format: Format,
    path: &Path,
    options: WriteOptions,
) -> Result<WriteReport> {
    if format == Format::Onnx && Compression::of_name(path).is_none() {
        needs_graph(model)?;
        return onnx::create(model, patch, metadata, path, options);
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
    format: Format,
    out: &mut dyn Write,
) -> Result<u64> {
    let mut entries = patch.entries(model);
    entries.retain(|entry| entry.anchor().is_none_or(|id| model.source.is_weight(id)));
    entries.retain(|entry| entry.id().is_none_or(|id| !model.source.is_quantised(id)));
    match format {
        Format::Safetensors => safetensors::create(&entries, metadata, out),
        Format::Torch => torch::create(&entries, metadata, out),
        Format::Onnx => {
            needs_graph(model)?;
            onnx::create_stream(model, patch, metadata, out)
        }
    }
}

/// Checks that a model can be written as ONNX.
fn needs_graph(model: &Model) -> Result<()> {
    match model.graph {
        Some(_) => Ok(()),
        None => Err(Error::unsupported(
            "an ONNX file needs the graph, which weights alone do not hold: export it from the program that \
             made the model",
        )),
    }
}

/// Writes one file from a stream.
fn write_one(
    model: &Model,
    path: &Path,
    options: WriteOptions,
    fill: impl FnOnce(&mut dyn Write) -> Result<u64>,
) -> Result<WriteReport> {
    if !options.overwrite && model.path.as_deref().is_some_and(|input| atomic::same_file(input, path)) {
        let message = "is the input itself; choose another name, or `--force` to replace it";
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
    match &model.source {
        Source::Onnx(source) => onnx::write_stream(source, model, patch, metadata, out),
        Source::Safetensors(source) => safetensors::write_stream(source, model, patch, metadata, out),
        Source::Torch(source) => torch::write_stream(source, model, patch, metadata, out),
        Source::TorchShards(_) => torch::write_shards(model, patch, metadata, out),
        Source::Memory if model.graph.is_some() => onnx::create_stream(model, patch, metadata, out),
        Source::Memory => Err(Error::unsupported(
            "the model was made in memory and not read from a file, so there is none to write back",
        )),
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
