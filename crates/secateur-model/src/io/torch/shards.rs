//! Checkpoints in several files, as transformers shards them: `pytorch_model-00001-of-00002.bin`, ….

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;

use super::{TorchSource, create};
use crate::io::{Source, merged, mmap};
use crate::model::Patch;
use crate::{Error, Model, Result, ResultExt, TensorId};

/// A checkpoint in several files. It is read as one, and written as one file.
#[derive(Clone, Debug)]
pub struct TorchShards {
    /// The folder that the files lie in.
    pub root: PathBuf,
    /// Each file with the tensors that it holds, by [`TensorId`].
    shards: Vec<(Arc<TorchSource>, Range<usize>)>,
    /// Tensors that are not read, and why.
    unread: Vec<(String, String)>,
}

impl TorchShards {
    /// Whether a tensor is one of the model's weights; see [`TorchSource::is_weight`].
    pub fn is_weight(&self, id: TensorId) -> bool {
        let index = id.0 as usize;
        let shard = self.shards.iter().find(|(_, range)| range.contains(&index));
        shard.is_none_or(|(source, range)| source.is_weight(TensorId((index - range.start) as u32)))
    }

    /// Whether a tensor is quantised; see [`Source::is_quantised`].
    pub(in crate::io) fn is_quantised(&self, id: TensorId) -> bool {
        let index = id.0 as usize;
        let shard = self.shards.iter().find(|(_, range)| range.contains(&index));
        shard
            .is_some_and(|(source, range)| source.quantised.contains(&TensorId((index - range.start) as u32)))
    }

    pub(in crate::io) fn tensor_count(&self) -> usize {
        self.shards.last().map_or(0, |(_, range)| range.end)
    }

    pub(in crate::io) fn files(&self) -> Vec<&Bytes> {
        self.shards.iter().map(|(source, _)| &source.bytes).collect()
    }

    pub(in crate::io) fn unread(&self) -> &[(String, String)] {
        &self.unread
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
        let Source::Torch(source) = model.source else { return Err(Error::internal("another format")) };
        let first = tensors.len();
        for (name, tensor) in model.tensors {
            if tensors.contains_key(&name) {
                return Err(Error::input("stands in another shard too").at_tensor(&name).at_file(&path));
            }
            tensors.insert(name, tensor);
        }
        unread.extend_from_slice(&source.unread);
        shards.push((source, first..tensors.len()));
    }
    let source = TorchShards { root: root.to_path_buf(), shards, unread };
    let source = Source::TorchShards(Arc::new(source));
    Ok(Model { tensors, graph: None, path: Some(root.to_path_buf()), source })
}

/// Writes all tensors into one file.
pub(in crate::io) fn write_shards(
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    let mut entries = patch.entries(model);
    entries.retain(|entry| entry.id().is_none_or(|id| !model.source.is_quantised(id)));
    create(&entries, &merged(&[], patch, metadata), out)
}
