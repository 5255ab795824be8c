//! What a model was read from, and the kinds of files there are: the interface that each folder of `io` implements.

use std::any::Any;
use std::fmt;
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{Model, Patch, TensorId};
use crate::{Error, Result};

/// A file's metadata: keys and values.
pub type Metadata = [(String, String)];

/// The files of a model: what the writer needs to find every tensor in them again, and how they are written back with
/// a patch.
///
/// All but [`Container::write_stream`] has a default, that of a format of plain weights without anything special.
pub trait Container: Any + fmt::Debug + Send + Sync {
    /// The format; `None` for models made in memory.
    fn format(&self) -> Option<&'static Format>;

    /// Writes the files with the changes into one stream, uncompressed, and returns the number of bytes. Every byte that
    /// nothing changes is as it was.
    ///
    /// # Errors
    /// `Unsupported` where the files cannot hold a change; `Io` where writing fails.
    fn write_stream(
        &self,
        model: &Model,
        patch: &Patch,
        metadata: &Metadata,
        out: &mut dyn Write,
    ) -> Result<u64>;

    /// Writes the files where they are more than one stream, such as a folder; `None` where one stream into the file
    /// `path` is all.
    ///
    /// # Errors
    /// Those of [`io::write`](crate::io::write()).
    fn write_files(
        &self,
        model: &Model,
        patch: &Patch,
        metadata: &Metadata,
        path: &Path,
        options: WriteOptions,
    ) -> Result<Option<WriteReport>> {
        let _ = (model, patch, metadata, path, options);
        Ok(None)
    }

    /// The metadata, in the file's order.
    fn metadata(&self) -> &Metadata {
        &[]
    }

    /// Whether a tensor is one of the model's weights: all are, but for those of a PyTorch checkpoint that
    /// stand outside of its state dict, such as an optimiser's.
    fn is_weight(&self, id: TensorId) -> bool {
        let _ = id;
        true
    }

    /// Whether the files can hold a tensor with other elements: all but those that an ONNX file has as an
    /// attribute of numbers.
    fn holds_changed(&self, id: TensorId) -> bool {
        let _ = id;
        true
    }

    /// How many tensors the files hold: the first of [`Model::tensors`], behind which those of a graph
    /// from elsewhere may stand. `None` for models made in memory and for those with a graph of their own.
    fn tensor_count(&self) -> Option<usize> {
        None
    }

    /// Whether a tensor's elements are the integers of a quantised tensor of PyTorch, without the scales that make
    /// numbers of them. Files of another kind cannot hold it.
    fn is_quantised(&self, id: TensorId) -> bool {
        let _ = id;
        false
    }

    /// Tensors that the file holds and that are not read, such as sparse ones of PyTorch: their paths, and why. A file
    /// that is written from the same kind of file has them as they were.
    fn unread(&self) -> &[(String, String)] {
        &[]
    }

    /// The bytes of the files that were read, the main one first.
    fn files(&self) -> Vec<&Bytes> {
        Vec::new()
    }

    /// Whether the model is more than one file: external data, or a folder.
    fn is_several_files(&self) -> bool {
        self.files().len() > 1
    }
}

/// The container a model came from.
#[derive(Clone, Debug)]
pub struct Source(Arc<dyn Container>);

impl Source {
    /// A source of its files.
    pub fn new(container: impl Container) -> Self {
        Source(Arc::new(container))
    }

    /// The source of models that were made in memory.
    pub fn memory() -> Self {
        Self::new(Memory)
    }

    /// The container, where it is of one kind: `source.downcast::<OnnxSource>()`.
    pub fn downcast<C: Container>(&self) -> Option<&C> {
        (&*self.0 as &dyn Any).downcast_ref()
    }
}

impl Deref for Source {
    type Target = dyn Container;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// Nothing: the model was made in memory.
#[derive(Debug)]
struct Memory;

impl Container for Memory {
    fn format(&self) -> Option<&'static Format> {
        None
    }

    fn write_stream(&self, _: &Model, _: &Patch, _: &Metadata, _: &mut dyn Write) -> Result<u64> {
        Err(Error::unsupported(
            "the model was made in memory and not read from a file, so there is none to write back",
        ))
    }
}

/// A kind of file that models are read from and written to.
pub struct Format {
    /// The name.
    pub name: &'static str,
    /// The endings of file names, the usual one first.
    pub extensions: &'static [&'static str],
    /// Whether bytes are taken for a file of this format.
    pub begins: fn(&[u8]) -> bool,
    /// Reads a model from the bytes of a file; further files are looked for in the folder.
    pub read: fn(Bytes, Option<&Path>) -> Result<Model>,
    /// Writes a model of whatever container as a file of this format into a stream; returns the number of bytes.
    pub create: fn(&Model, &Patch, &Metadata, &mut dyn Write) -> Result<u64>,
    /// The same for formats that may take more than one file.
    pub create_files: Option<CreateFiles>,
}

/// Writes a model of whatever container as files of a format.
pub type CreateFiles = fn(&Model, &Patch, &Metadata, &Path, WriteOptions) -> Result<WriteReport>;

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Format {}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// How a model is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Whether files that exist may be replaced, the input included.
    pub overwrite: bool,
}

/// The files that [`io::write`](crate::io::write()) wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteReport {
    /// The model.
    pub model: WrittenFile,
    /// Its files of external data.
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
