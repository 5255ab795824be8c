//! safetensors: single files, and folders of them as Hugging Face lays them out, with or without an
//! index of shards.

mod folder;
mod header;

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;

pub use folder::Folder;
pub(super) use folder::{read_folder, write_folder};
pub(super) use header::begins;

use super::{Source, failed, merged};
use crate::model::{Edits, Entry};
use crate::{Error, Model, Result};

/// What the writer needs to know of the safetensors files a model came from.
#[derive(Clone, Debug)]
pub struct SafetensorsSource {
    /// The files that hold the tensors; one but for folders.
    pub shards: Vec<Shard>,
    /// The folder the files lie in, where the whole folder is the model.
    pub folder: Option<Folder>,
}

/// A safetensors file.
#[derive(Clone, Debug)]
pub struct Shard {
    /// The name of the file in its folder; empty for a file that is the whole model.
    pub name: String,
    /// The file's bytes, memory-mapped.
    pub bytes: Bytes,
    /// The metadata, in the file's order.
    pub metadata: Vec<(String, String)>,
    /// Where the elements begin, behind the header.
    start: usize,
    /// Ids of its tensors in the order of their elements: a range of [`Model::tensors`].
    tensors: std::ops::Range<usize>,
}

impl SafetensorsSource {
    /// The number of tensors in all files.
    pub(super) fn tensor_count(&self) -> usize {
        self.shards.last().map_or(0, |shard| shard.tensors.end)
    }

    /// The metadata of the first file.
    pub fn metadata(&self) -> &[(String, String)] {
        self.shards.first().map_or(&[], |shard| &shard.metadata)
    }
}

/// Reads a model from the bytes of one file. Tensors stay in the memory map until they are asked for.
///
/// # Errors
/// `Input` where the file is not as the format has it.
pub fn parse(bytes: Bytes) -> Result<Model> {
    let mut tensors = IndexMap::new();
    let shard = shard(String::new(), bytes, &mut tensors)?;
    let source = SafetensorsSource { shards: vec![shard], folder: None };
    Ok(Model { tensors, graph: None, path: None, source: Source::Safetensors(Arc::new(source)) })
}

fn shard(name: String, bytes: Bytes, tensors: &mut IndexMap<String, crate::StoredTensor>) -> Result<Shard> {
    let header = header::read(&bytes)?;
    let first = tensors.len();
    for tensor in header.tensors {
        if tensors.contains_key(&tensor.path) {
            return Err(Error::input("stands in another shard too").at_tensor(&tensor.path));
        }
        tensors.insert(tensor.path.clone(), tensor);
    }
    let (start, metadata) = (header.start, header.metadata);
    Ok(Shard { name, bytes, metadata, start, tensors: first..tensors.len() })
}

/// Writes the tensors of all shards into one stream; see [`crate::io::write_stream`].
pub(super) fn write_stream(
    source: &SafetensorsSource,
    model: &Model,
    edits: &Edits,
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    match &source.shards[..] {
        [shard] => write_shard(shard, &edits.entries(model), edits, metadata, out),
        _ => create(&edits.entries(model), &merged(source.metadata(), edits, metadata), out),
    }
}

/// Writes a file of its own that holds the entries. Wider types come first, so that all elements are
/// aligned.
pub(super) fn create(
    entries: &[Entry<'_>],
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    let mut sorted: Vec<&Entry<'_>> = entries.iter().collect();
    sorted.sort_by_key(|entry| std::cmp::Reverse(entry.dtype.bits()));
    write_entries(&sorted, metadata, out)
}

/// Writes a shard with its entries: where the table of its tensors stays, with the header's own bytes.
fn write_shard(
    shard: &Shard,
    entries: &[Entry<'_>],
    edits: &Edits,
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    let metadata = merged(&shard.metadata, edits, metadata);
    let entries: Vec<&Entry<'_>> = entries.iter().collect();
    if edits.is_structural() {
        return write_entries(&entries, &metadata, out);
    }
    let header = &shard.bytes[..shard.start];
    let changed =
        if metadata == shard.metadata { None } else { Some(header::with_metadata(header, &metadata)?) };
    let header = changed.as_deref().unwrap_or(header);
    out.write_all(header).map_err(failed)?;
    Ok(header.len() as u64 + write_elements(&entries, out)?)
}

fn write_entries(entries: &[&Entry<'_>], metadata: &[(String, String)], out: &mut dyn Write) -> Result<u64> {
    let tensors = entries.iter().map(|e| (e.path, e.dtype, e.shape, e.byte_len()));
    let header = header::write(metadata, tensors)?;
    out.write_all(&header).map_err(failed)?;
    Ok(header.len() as u64 + write_elements(entries, out)?)
}

fn write_elements(entries: &[&Entry<'_>], out: &mut dyn Write) -> Result<u64> {
    let mut total = 0;
    for entry in entries {
        let mut written = 0;
        entry.write(&mut |bytes| {
            written += bytes.len();
            out.write_all(bytes).map_err(failed)
        })?;
        if written != entry.byte_len() {
            let message = format!("came out as {written} bytes, expected {}", entry.byte_len());
            return Err(Error::internal(message).at_tensor(entry.path));
        }
        total += written as u64;
    }
    Ok(total)
}
