//! PyTorch checkpoints: what `torch.save` writes, the zip archive of today and the layout before
//! PyTorch 1.6. The pickle is read into inert values; nothing of a file is ever executed.

mod archive;
mod emit;
mod globals;
mod legacy;
mod pickle;
mod records;
mod shards;
mod splice;
mod state_dict;
mod tensors;
mod value;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::ops::Range;

use bytes::Bytes;
use indexmap::IndexMap;

pub use self::shards::TorchShards;
pub(super) use self::shards::read_shards;
use self::write::create;

use self::archive::{Archive, Opened};
use self::tensors::{Storage, Storages, View};
use self::value::{Id, Values};
use super::weights;
use crate::model::{Container, Format, Metadata, Patch, Source, Storage as Elements};
use crate::{Error, ErrorKind, Model, Result, ResultExt, StoredTensor, TensorId};

/// PyTorch checkpoints: weights.
pub static TORCH: Format = Format {
    name: "PyTorch",
    extensions: &["pth", "pt", "th", "bin", "tar", "ckpt"],
    begins,
    read: |bytes, _| parse(bytes),
    create: |model, patch, metadata, out| create(&weights(model, patch), metadata, out),
    create_files: None,
};

/// The record of an archive in which secateur keeps metadata: a JSON object of texts.
const METADATA: &str = "secateur.json";

/// How much tensors that do not stand row-major in the file may take, each name counted, as a multiple of
/// the file's size, and whatever its size, in bytes.
const LARGEST_COPIES: usize = 4;
const SMALL_COPIES: usize = 1 << 28;

/// A PyTorch checkpoint: what the writer needs to know of it, and where its tensors stand.
#[derive(Clone, Debug)]
pub struct TorchSource {
    /// The file's bytes, memory-mapped.
    pub bytes: Bytes,
    /// What secateur noted in the file; files of the layout before PyTorch 1.6 have no place for it.
    pub metadata: Vec<(String, String)>,
    values: Values,
    root: Id,
    storages: Storages,
    /// Where the file is a zip archive.
    archive: Option<Archive>,
    state_dict: Option<(Id, String)>,
    inside: usize,
    /// Tensors of which the integers are read and the scales are not.
    quantised: BTreeSet<TensorId>,
    /// Tensors that are carried and not read: their paths, and why.
    unread: Vec<(String, String)>,
    /// By [`TensorId`].
    tensors: Vec<Place>,
}

/// Where a tensor stands.
#[derive(Clone, Debug)]
struct Place {
    view: View,
    /// The dictionary it is a value of, and which of its entries.
    holder: Option<(Id, usize)>,
}

/// What a file of either layout holds.
struct Content {
    values: Values,
    root: Id,
    storages: Storages,
    archive: Option<Archive>,
    metadata: Vec<(String, String)>,
}

impl Container for TorchSource {
    fn format(&self) -> Option<&'static Format> {
        Some(&TORCH)
    }

    fn write_stream(
        &self,
        model: &Model,
        patch: &Patch,
        metadata: &Metadata,
        out: &mut dyn Write,
    ) -> Result<u64> {
        write::write_stream(self, model, patch, metadata, out)
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Weights come first in [`Model::tensors`]; what stands behind the tensors of the file was made of weights, or
    /// came with a graph.
    fn is_weight(&self, id: TensorId) -> bool {
        let index = id.0 as usize;
        self.state_dict.is_none() || index < self.inside || index >= self.tensors.len()
    }

    fn tensor_count(&self) -> Option<usize> {
        Some(self.tensors.len())
    }

    fn is_quantised(&self, id: TensorId) -> bool {
        self.quantised.contains(&id)
    }

    fn unread(&self) -> &[(String, String)] {
        &self.unread
    }

    fn files(&self) -> Vec<&Bytes> {
        vec![&self.bytes]
    }
}

impl TorchSource {
    /// The keys that lead to the dictionary of the weights, joined by dots: empty where the file is that
    /// dictionary; `None` where it has none, so that no tensor is told apart from the others.
    pub fn state_dict(&self) -> Option<&str> {
        self.state_dict.as_ref().map(|(_, way)| way.as_str())
    }

    /// How many tensors stand outside of the dictionary of the weights.
    pub fn tensors_outside(&self) -> usize {
        if self.state_dict.is_some() { self.tensors.len() - self.inside } else { 0 }
    }
}

/// Whether bytes begin as a checkpoint does: as a zip archive, or with PyTorch's magic number.
fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(archive::LOCAL) || legacy::begins(bytes)
}

/// Reads a model from the bytes of a file. Tensors stay in the memory map until they are asked for,
/// but for those that do not stand row-major in it.
///
/// A tensor of the dictionary of the weights has its key as path; the others have the keys that lead to
/// them, joined by dots.
///
/// # Errors
/// `Input` where the file is damaged; `Unsupported` where it holds more than plain data (a whole model,
/// a TorchScript program), numbers in big-endian order, or no tensor that is read: those of other kinds (sparse, of
/// less than a byte an element) are left where they are ([`Container::unread`]).
pub fn parse(bytes: Bytes) -> Result<Model> {
    let content = match legacy::begins(&bytes) {
        true => legacy::read(&bytes)?,
        false => read_archive(&bytes)?,
    };
    let Content { values, root, storages, archive, metadata } = content;
    let found = state_dict::find(&values, root)?;
    let budget = SMALL_COPIES.max(bytes.len().saturating_mul(LARGEST_COPIES));
    let mut copies = Copies { made: HashMap::new(), budget };
    let mut stored: IndexMap<String, StoredTensor> = IndexMap::new();
    let mut tensors = Vec::new();
    let (mut unread, mut quantised, mut inside) = (Vec::new(), BTreeSet::new(), 0);
    for (index, tensor) in found.tensors.into_iter().enumerate() {
        let mut path = match tensor.way {
            way if way.is_empty() => "tensor".to_string(),
            way => way,
        };
        if stored.contains_key(&path)
            && let Some((_, way)) = found.state_dict.as_ref().filter(|_| index < found.inside)
        {
            path = state_dict::join(way, &path);
        }
        if stored.contains_key(&path) {
            return Err(Error::input("is the name of two tensors").at_tensor(&path));
        }
        let view = match tensors::view(&values, &storages, tensor.value) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                unread.push((path, error.to_string()));
                continue;
            }
            view => view.at_tensor(&path)?,
        };
        inside += usize::from(index < found.inside);
        if view.quantised {
            quantised.insert(TensorId(tensors.len() as u32));
        }
        let elements = copies.elements(&view, &storages).at_tensor(&path)?;
        let (dtype, shape) = (view.dtype, view.shape.clone());
        stored.insert(path.clone(), StoredTensor { path, dtype, shape, storage: Elements::Bytes(elements) });
        tensors.push(Place { view, holder: tensor.holder });
    }
    if let (true, Some((path, why))) = (tensors.is_empty(), unread.first()) {
        return Err(Error::unsupported(why.clone()).at_tensor(path));
    }
    let source = TorchSource {
        unread,
        quantised,
        bytes,
        metadata,
        values,
        root,
        storages,
        archive,
        state_dict: found.state_dict,
        inside,
        tensors,
    };
    Ok(Model { tensors: stored, graph: None, path: None, source: Source::new(source) })
}

/// Copies of tensors that do not stand row-major in the file; what is the same view is the same copy.
struct Copies {
    made: HashMap<View, Bytes>,
    /// How much more they may take if each name had a copy of its own, in bytes.
    budget: usize,
}

impl Copies {
    /// The elements row-major: a part of the file where they stand so.
    fn elements(&mut self, view: &View, storages: &Storages) -> Result<Bytes> {
        let storage = &storages.get(view.storage).bytes;
        if view.is_contiguous() {
            return Ok(storage.slice(view.extent.clone()));
        }
        // A view that several names have is one copy in memory, but not where it is written by name.
        let left = view.byte_len().and_then(|length| self.budget.checked_sub(length)).ok_or_else(|| {
            Error::unsupported(
                "repeats its elements more often than memory should be spent on; store it with `.contiguous()`",
            )
        })?;
        self.budget = left;
        if let Some(made) = self.made.get(view) {
            return Ok(made.clone());
        }
        let copy = Bytes::from(view.gather(storage));
        self.made.insert(view.clone(), copy.clone());
        Ok(copy)
    }
}

fn read_archive(bytes: &Bytes) -> Result<Content> {
    let mut opened = Opened::new(bytes)?;
    if let Some((order, _)) = opened.content("byteorder")? {
        match &order[..] {
            b"little" => {}
            b"big" => return Err(big_endian()),
            _ => {
                return Err(Error::input("names an order of bytes that is neither little nor big")
                    .at("record `byteorder`"));
            }
        }
    }
    let (pickle, _) = opened.content("data.pkl")?.ok_or_else(|| Error::input("has no `data.pkl`"))?;
    let mut values = Values::default();
    let (root, _) = pickle::read(&pickle, &mut values).at(|| "record `data.pkl`")?;
    let storages = Storages::collect(&values, |said| {
        let content = opened.content(&format!("data/{}", said.key))?;
        let (bytes, place): (Bytes, Option<Range<usize>>) =
            content.ok_or_else(|| Error::input("is not in the archive"))?;
        Ok(Storage { bytes, place })
    })?;
    let metadata = match opened.content(METADATA)? {
        None => Vec::new(),
        Some((json, _)) => serde_json::from_slice::<IndexMap<String, String>>(&json)
            .map_err(|e| {
                Error::input(format!("is no JSON object of texts: {e}")).at(format!("record `{METADATA}`"))
            })?
            .into_iter()
            .collect(),
    };
    Ok(Content { values, root, storages, archive: Some(opened.archive), metadata })
}

fn big_endian() -> Error {
    Error::unsupported(
        "holds numbers in big-endian order; load it where it was made and store it again on a machine of the \
         usual order",
    )
}
