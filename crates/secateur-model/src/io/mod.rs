//! File formats: each reads into a [`Model`] and writes back what was not changed byte for byte.

mod atomic;
mod hash;
pub mod mmap;
pub mod onnx;
mod sniff;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

pub use atomic::write_file;
pub use hash::content_hash;

use crate::model::Edits;
use crate::{Error, Model, Result};

/// The container a model came from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Source {
    /// Made in memory.
    Memory,
    /// An ONNX file.
    Onnx(Arc<onnx::OnnxSource>),
}

/// Reads a model; the format is told from the content.
///
/// # Errors
/// Where the file cannot be read or holds nothing secateur knows.
pub fn read(path: impl AsRef<Path>) -> Result<Model> {
    onnx::read(path.as_ref())
}

/// Reads a model from bytes in memory, such as one that is part of a program.
///
/// # Errors
/// As [`read`]; and where the model has external data, which would need a folder.
pub fn read_bytes(bytes: impl Into<Bytes>) -> Result<Model> {
    onnx::parse(bytes.into(), None)
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

/// Writes a model into a file of the kind it came from: its bytes with the changed tensors spliced
/// in, and the metadata added or replaced by key. Every other byte stays as it was.
///
/// The file appears under its name only when complete; on any error nothing is left behind.
/// External data is copied beside it: under its own name in another folder where that name is free
/// and plain, otherwise as `<file name>.data`; the model gets its name last. Changes that are
/// computed when asked for are computed one at a time.
///
/// # Errors
/// `Usage` where a file exists and may not be replaced; `Unsupported` where a changed tensor stands
/// in a form that cannot be changed or shares its bytes with one that is not changed; `Io` where
/// writing fails.
pub fn write(
    model: &Model,
    edits: &Edits,
    metadata: &[(String, String)],
    path: &Path,
    options: WriteOptions,
) -> Result<WriteReport> {
    match &model.source {
        Source::Onnx(source) => onnx::write(source, model, edits, metadata, path, options),
        Source::Memory => Err(no_container()),
    }
}

/// Writes what [`write()`] writes into one stream: the model, then its external files, whose names
/// stay; to measure or hash the result without a file. Returns the number of bytes.
///
/// # Errors
/// As [`write()`], but for those of files that exist.
pub fn write_stream(
    model: &Model,
    edits: &Edits,
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    match &model.source {
        Source::Onnx(source) => onnx::write_stream(source, model, edits, metadata, out),
        Source::Memory => Err(no_container()),
    }
}

fn no_container() -> Error {
    Error::unsupported(
        "the model was made in memory and not read from a file, so there is none to write back",
    )
}
