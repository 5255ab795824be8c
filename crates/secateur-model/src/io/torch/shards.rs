//! Checkpoints in several files, as transformers shards them: `pytorch_model-00001-of-00002.bin`, ….

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use indexmap::IndexMap;

use super::{TORCH, create};
use crate::io::{format_of, merged, mmap};
use crate::model::{Container, Format, Metadata, Patch, Source, WriteOptions, WriteReport};
use crate::{Error, Model, Result, ResultExt, TensorId};

/// A checkpoint in several files. It is read as one, and written as one file.
#[derive(Clone, Debug)]
pub struct TorchShards {
    /// The folder that the files lie in.
    pub root: PathBuf,
    /// Each file with the tensors that it holds, by [`TensorId`].
    shards: Vec<(Source, Range<usize>)>,
    /// Tensors that are not read, and why.
    unread: Vec<(String, String)>,
}

impl TorchShards {
    /// What a file says of one of its tensors.
    fn ask<T>(&self, id: TensorId, what: impl Fn(&Source, TensorId) -> T) -> Option<T> {
        let index = id.0 as usize;
        let (source, range) = self.shards.iter().find(|(_, range)| range.contains(&index))?;
        Some(what(source, TensorId((index - range.start) as u32)))
    }
}

impl Container for TorchShards {
    fn format(&self) -> Option<&'static Format> {
        Some(&TORCH)
    }

    /// All tensors in one file.
    fn write_stream(
        &self,
        model: &Model,
        patch: &Patch,
        metadata: &Metadata,
        out: &mut dyn Write,
    ) -> Result<u64> {
        let mut entries = patch.entries(model);
        entries.retain(|entry| entry.id().is_none_or(|id| !self.is_quantised(id)));
        create(&entries, &merged(&[], patch, metadata), out)
    }

    fn write_files(
        &self,
        _: &Model,
        _: &Patch,
        _: &Metadata,
        path: &Path,
        _: WriteOptions,
    ) -> Result<Option<WriteReport>> {
        if format_of(path).is_some() {
            return Ok(None);
        }
        let message = "the model is a PyTorch checkpoint in several files, which is written as one: end the \
                       name in .safetensors or .pth";
        Err(Error::usage(message)).at_file(path)
    }

    fn is_weight(&self, id: TensorId) -> bool {
        self.ask(id, |source, id| source.is_weight(id)).unwrap_or(true)
    }

    fn tensor_count(&self) -> Option<usize> {
        Some(self.shards.last().map_or(0, |(_, range)| range.end))
    }

    fn is_quantised(&self, id: TensorId) -> bool {
        self.ask(id, |source, id| source.is_quantised(id)).unwrap_or(false)
    }

    fn unread(&self) -> &[(String, String)] {
        &self.unread
    }

    fn files(&self) -> Vec<&Bytes> {
        self.shards.iter().flat_map(|(source, _)| source.files()).collect()
    }
}

/// Reads the files of a folder as one checkpoint.
///
/// # Errors
/// As [`super::parse`]; `Input` where a file is missing, is no checkpoint, or two hold a tensor of one name.
pub(in crate::io) fn read_shards(root: &Path, names: &[String]) -> Result<Model> {
    let mut tensors = IndexMap::new();
    let (mut shards, mut unread) = (Vec::new(), Vec::new());
    for name in names {
        let path = root.join(name);
        let bytes = mmap::map_file(&path)?;
        if !super::begins(&bytes) {
            return Err(Error::input("is no PyTorch checkpoint").at_file(&path));
        }
        let model = super::parse(bytes).at_file(&path)?;
        let source = model.source;
        let first = tensors.len();
        for (name, tensor) in model.tensors {
            if tensors.contains_key(&name) {
                return Err(Error::input("stands in another shard too").at_tensor(&name).at_file(&path));
            }
            tensors.insert(name, tensor);
        }
        unread.extend_from_slice(source.unread());
        shards.push((source, first..tensors.len()));
    }
    let source = Source::new(TorchShards { root: root.to_path_buf(), shards, unread });
    Ok(Model { tensors, graph: None, path: Some(root.to_path_buf()), source })
}
