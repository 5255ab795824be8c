//! safetensors: single files, and folders of them as Hugging Face lays them out, with or without an
//! index of shards.

mod config;
mod folder;
mod header;
mod packed;
mod tied;

use std::io::Write;
use std::path::Path;

use bytes::Bytes;
use indexmap::IndexMap;

pub use folder::Folder;
use folder::write_folder;
pub(super) use folder::{indexed_shards, read_folder, read_shards};

use self::packed::Slot;
use super::{Compression, failed, format_of, merged, weights};
use crate::model::{Container, Entry, Format, Metadata, Patch, Source, WriteOptions, WriteReport};
use crate::packed::PackedCache;
use crate::{Error, Model, Result, TensorId};

/// safetensors: weights.
pub static SAFETENSORS: Format = Format {
    name: "safetensors",
    extensions: &["safetensors"],
    begins: header::begins,
    read: |bytes, _| parse(bytes),
    create: |model, patch, metadata, out| create(&weights(model, patch), metadata, out),
    create_files: None,
};

/// What the writer needs to know of the safetensors files a model came from.
#[derive(Clone, Debug)]
pub struct SafetensorsSource {
    /// The files that hold the tensors; one but for folders.
    pub shards: Vec<Shard>,
    /// The folder of the files, where the whole folder is the model.
    pub folder: Option<Folder>,
}

/// A safetensors file.
#[derive(Clone, Debug)]
pub struct Shard {
    /// The name of the file in its folder; empty for a file that is the whole model.
    pub name: String,
    /// The file's bytes, memory-mapped.
    pub bytes: Bytes,
    /// The metadata, in the file's order, without what says how tensors are packed and which are tied.
    pub metadata: Vec<(String, String)>,
    /// The metadata that say how tensors are packed.
    packing: Option<(String, String)>,
    /// The metadata that say which tensors are tied.
    tied: Option<(String, String)>,
    /// Its tensors and parts of packed ones in the order of their elements.
    places: Vec<packed::DataBlock>,
    /// Where the elements begin, behind the header.
    start: usize,
    /// Ids of its tensors, about in the order of their elements: a range of [`Model::tensors`].
    tensors: std::ops::Range<usize>,
}

impl Container for SafetensorsSource {
    fn format(&self) -> Option<&'static Format> {
        Some(&SAFETENSORS)
    }

    fn write_stream(
        &self,
        model: &Model,
        patch: &Patch,
        metadata: &Metadata,
        out: &mut dyn Write,
    ) -> Result<u64> {
        match &self.shards[..] {
            [shard] => write_shard(shard, &patch.entries(model), model, patch, metadata, out),
            _ => create(&patch.entries(model), &merged(self.metadata(), patch, metadata), out),
        }
    }

    fn write_files(
        &self,
        model: &Model,
        patch: &Patch,
        metadata: &Metadata,
        path: &Path,
        options: WriteOptions,
    ) -> Result<Option<WriteReport>> {
        let folder = self.folder.as_ref();
        let Some(folder) =
            folder.filter(|_| format_of(path).is_none() && Compression::of_name(path).is_none())
        else {
            return Ok(None);
        };
        write_folder(self, folder, model, patch, metadata, path, options).map(Some)
    }

    /// The metadata of the first file.
    fn metadata(&self) -> &Metadata {
        self.shards.first().map_or(&[], |shard| &shard.metadata)
    }

    fn tensor_count(&self) -> Option<usize> {
        Some(self.shards.last().map_or(0, |shard| shard.tensors.end))
    }

    fn files(&self) -> Vec<&Bytes> {
        self.shards.iter().map(|shard| &shard.bytes).collect()
    }

    fn is_several_files(&self) -> bool {
        self.folder.is_some()
    }
}

/// Reads a model from the bytes of one file. Tensors stay in the memory map until they are loaded.
///
/// # Errors
/// `Input` where the file is not as the format has it.
pub fn parse(bytes: Bytes) -> Result<Model> {
    let mut tensors = IndexMap::new();
    let shard = shard(String::new(), bytes, &mut tensors)?;
    let source = SafetensorsSource { shards: vec![shard], folder: None };
    Ok(Model { tensors, graph: None, path: None, source: Source::new(source) })
}

fn shard(name: String, bytes: Bytes, tensors: &mut IndexMap<String, crate::StoredTensor>) -> Result<Shard> {
    let mut header = header::read(&bytes)?;
    let first = tensors.len();
    let packing = packed::take_metadata(&mut header.metadata);
    let tied = tied::take_metadata(&mut header.metadata);
    let (mut found, places) = packed::join(header.tensors, packing.as_ref(), first)?;
    tied::join(&mut found, tied.as_ref())?;
    for tensor in found {
        if tensors.contains_key(&tensor.path) {
            return Err(Error::input("stands in another shard too").at_tensor(&tensor.path));
        }
        tensors.insert(tensor.path.clone(), tensor);
    }
    let (start, metadata) = (header.start, header.metadata);
    Ok(Shard { name, bytes, metadata, packing, tied, places, start, tensors: first..tensors.len() })
}

/// Writes a file of its own that holds the entries. Wider types come first, so that all elements are
/// aligned.
pub(super) fn create(
    entries: &[Entry<'_>],
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    packed::check_names(entries)?;
    let mut slots: Vec<Slot<'_>> = entries.iter().flat_map(packed::slots).collect();
    slots.sort_by_key(|slot| std::cmp::Reverse(slot.dtype.bits()));
    write_slots(&slots, &with_own_metadata(metadata.to_vec(), entries), out)
}

/// Metadata with what the table of tensors cannot say.
fn with_own_metadata(metadata: Vec<(String, String)>, entries: &[Entry<'_>]) -> Vec<(String, String)> {
    tied::with_metadata(packed::with_metadata(metadata, entries), entries)
}

/// Whether changes alter which tensors a shard holds, packed or not.
fn changes_table(shard: &Shard, model: &Model, patch: &Patch) -> bool {
    let mut ids = shard.tensors.clone().map(|id| TensorId(id as u32));
    patch.is_structural(model) || ids.any(|id| patch.repacks(model, id))
}

/// Writes a shard with its entries: where the table of its tensors stays, with the header's own bytes.
fn write_shard(
    shard: &Shard,
    entries: &[Entry<'_>],
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    out: &mut dyn Write,
) -> Result<u64> {
    let metadata = merged(&shard.metadata, patch, metadata);
    if changes_table(shard, model, patch) {
        packed::check_names(entries)?;
        let slots: Vec<Slot<'_>> = entries.iter().flat_map(packed::slots).collect();
        return write_slots(&slots, &with_own_metadata(metadata, entries), out);
    }
    let header = &shard.bytes[..shard.start];
    let changed = match metadata == shard.metadata {
        true => None,
        false => {
            let all: Vec<_> =
                metadata.into_iter().chain(shard.packing.clone()).chain(shard.tied.clone()).collect();
            Some(header::with_metadata(header, &all)?)
        }
    };
    let header = changed.as_deref().unwrap_or(header);
    out.write_all(header).map_err(failed)?;
    let mut total = header.len() as u64;
    for place in &shard.places {
        total += match place {
            packed::DataBlock::Tensor(id) => {
                write_slot(&Slot::of(&entries[id - shard.tensors.start]), &mut PackedCache::default(), out)?
            }
            packed::DataBlock::Part(range) => {
                out.write_all(&shard.bytes[shard.start..][range.clone()]).map_err(failed)?;
                range.len() as u64
            }
        };
    }
    Ok(total)
}

fn write_slots(slots: &[Slot<'_>], metadata: &[(String, String)], out: &mut dyn Write) -> Result<u64> {
    let tensors = slots.iter().map(|s| (&*s.path, s.dtype, &*s.shape, s.byte_len()));
    let header = header::write(metadata, tensors)?;
    out.write_all(&header).map_err(failed)?;
    let mut made = PackedCache::default();
    slots.iter().try_fold(header.len() as u64, |total, slot| Ok(total + write_slot(slot, &mut made, out)?))
}

fn write_slot(slot: &Slot<'_>, made: &mut PackedCache, out: &mut dyn Write) -> Result<u64> {
    let mut written = 0;
    slot.write(made, &mut |bytes| {
        written += bytes.len();
        out.write_all(bytes).map_err(failed)
    })?;
    if written != slot.byte_len() {
        let message = format!("came out as {written} bytes, expected {}", slot.byte_len());
        return Err(Error::internal(message).at_tensor(&slot.path));
    }
    Ok(written as u64)
}
