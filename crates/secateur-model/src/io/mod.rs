//! File formats: each reads into a [`Model`] and writes back what was not changed byte for byte.

pub mod mmap;
pub mod onnx;

use std::path::Path;

use crate::{Model, Result};

/// The container a model came from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Source {
    /// Made in memory.
    Memory,
    /// An ONNX file.
    Onnx(onnx::OnnxSource),
}

/// Reads a model; the format is told from the content.
///
/// # Errors
/// Where the file cannot be read or holds nothing secateur knows.
pub fn read(path: impl AsRef<Path>) -> Result<Model> {
    onnx::read(path.as_ref())
}
