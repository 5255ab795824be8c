//! Packed tensors in safetensors: each is several tensors, named `<stem>.compressed`, `<stem>.bitmask`,
//! `<stem>.shape` and so on ([`Part`]), as compressed-tensors lays out its format `sparse-bitmask`.
//!
//! The stem is the tensor's path without `.weight` (compressed-tensors from 0.9 on), or the whole path (before).
//! The metadata hold what these names cannot say: the paths of tensors that do not end in `.weight`, and
//! element types that differ from the stored values'.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::header::{Metadata, from_name, to_name};
use crate::model::{Entry, LazyPacked, Storage};
use crate::packed::{Packed, PackedCache, Part};
use crate::{DType, Error, Result, ResultExt, StoredTensor, TensorId};

/// The key of the metadata: JSON by stem.
const KEY: &str = "secateur.packed";

const WEIGHT: &str = ".weight";

/// What the parts' names cannot say of a packed tensor.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dtype: Option<String>,
}

/// What a block of bytes after a file's header holds.
#[derive(Clone, Debug)]
pub(super) enum DataBlock {
    /// A tensor of the model by its id.
    Tensor(usize),
    /// A part of a packed one: bytes behind the header.
    Part(Range<usize>),
}

/// Takes out of the metadata what says how tensors are packed.
pub(super) fn take_metadata(metadata: &mut Metadata) -> Option<(String, String)> {
    let at = metadata.iter().position(|(key, _)| key == KEY)?;
    Some(metadata.remove(at))
}

/// Joins the parts of packed tensors among those of a file, which come in the order of their elements. The
/// tensors get ids from `first` on.
///
/// # Errors
/// `Input` where parts do not fit together, or the metadata are not as they are written here.
pub(super) fn join(
    tensors: Vec<StoredTensor>,
    packing: Option<&(String, String)>,
    first: usize,
) -> Result<(Vec<StoredTensor>, Vec<DataBlock>)> {
    let infos: HashMap<String, Info> = match packing {
        Some((_, json)) => serde_json::from_str(json).map_err(|e| {
            Error::input(format!("the metadata `{KEY}` do not say how tensors are packed: {e}"))
        })?,
        None => HashMap::new(),
    };
    let by_path: HashMap<&str, &StoredTensor> = tensors.iter().map(|t| (t.path.as_str(), t)).collect();
    let find = |stem: &str, part: Part| by_path.get(format!("{stem}.{}", part.name()).as_str()).copied();
    let is_packed = |stem: &str| {
        let positions = find(stem, Part::Bitmask).or(find(stem, Part::Indices));
        find(stem, Part::Compressed).is_some() && find(stem, Part::Shape).is_some() && positions.is_some()
    };
    let stem_of = |path: &str| {
        let (stem, part) = path.rsplit_once('.')?;
        let known = Part::ALL.iter().any(|p| p.name() == part);
        (known && is_packed(stem)).then(|| stem.to_string())
    };
    let stems: Vec<Option<String>> = tensors.iter().map(|t| stem_of(&t.path)).collect();
    let whole_paths = stems.iter().flatten().any(|s| s.ends_with(WEIGHT) && !infos.contains_key(s));
    let mut found: Vec<StoredTensor> = Vec::new();
    let mut places = Vec::with_capacity(tensors.len());
    let mut joined = HashSet::new();
    let mut at = 0;
    for (tensor, stem) in tensors.iter().zip(&stems) {
        let len = tensor.byte_len();
        let range = at..at + len;
        at += len;
        let Some(stem) = stem else {
            places.push(DataBlock::Tensor(first + found.len()));
            found.push(tensor.clone());
            continue;
        };
        places.push(DataBlock::Part(range));
        if joined.insert(stem) {
            let info = infos.get(stem);
            let path = match info.and_then(|i| i.path.clone()) {
                Some(path) => path,
                None if whole_paths => stem.clone(),
                None => format!("{stem}{WEIGHT}"),
            };
            let packed = packed(info, &|part| find(stem, part)).at_tensor(&path)?;
            found.push(StoredTensor {
                path,
                dtype: packed.dtype(),
                shape: packed.shape().to_vec(),
                storage: Storage::Packed(Arc::new(packed)),
            });
        }
    }
    Ok((found, places))
}

fn packed<'a>(info: Option<&Info>, find: &dyn Fn(Part) -> Option<&'a StoredTensor>) -> Result<Packed> {
    let dtype = match info.and_then(|i| i.dtype.as_deref()) {
        Some(name) => Some(
            from_name(name)
                .ok_or_else(|| Error::unsupported(format!("the element type `{name}` is not known here")))?,
        ),
        // int8 values with scales are of floats.
        None => find(Part::Scales).map(|_| DType::F32),
    };
    Packed::of_parts(dtype, find)
}

/// A tensor of a file: an entry, or a part of a packed one.
pub(super) struct Slot<'a> {
    pub(super) path: Cow<'a, str>,
    pub(super) dtype: DType,
    pub(super) shape: Cow<'a, [usize]>,
    content: Content<'a>,
}

enum Content<'a> {
    Entry(&'a Entry<'a>),
    Part(TensorId, LazyPacked, Part),
    Numbers(Bytes),
}

impl<'a> Slot<'a> {
    /// The slot of a dense entry.
    pub(super) fn of(entry: &'a Entry<'a>) -> Self {
        Slot {
            path: entry.path.into(),
            dtype: entry.dtype,
            shape: entry.shape.into(),
            content: Content::Entry(entry),
        }
    }

    /// The size in bytes.
    pub(super) fn byte_len(&self) -> usize {
        self.dtype.bytes_for(self.shape.iter().product()).unwrap_or(0)
    }

    /// The elements as little-endian bytes, in pieces.
    pub(super) fn write(
        &self,
        made: &mut PackedCache,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        match &self.content {
            Content::Entry(entry) => entry.write(sink),
            Content::Part(id, make, part) => sink(&made.get(*id, make).at_tensor(&self.path)?.part(*part)),
            Content::Numbers(bytes) => sink(bytes),
        }
    }
}

/// The name in front of the parts' names.
fn stem(path: &str) -> &str {
    path.strip_suffix(WEIGHT).unwrap_or(path)
}

/// The tensors of a file that hold an entry.
pub(super) fn slots<'a>(entry: &'a Entry<'a>) -> Vec<Slot<'a>> {
    let (Some(id), Some((spec, make))) = (entry.tensor(), entry.packing()) else {
        return vec![Slot::of(entry)];
    };
    let slot = |(part, dtype, shape): (Part, DType, Vec<usize>)| Slot {
        path: format!("{}.{}", stem(entry.path), part.name()).into(),
        dtype,
        shape: shape.into(),
        content: match spec.numbers(part) {
            Some(numbers) => Content::Numbers(numbers),
            None => Content::Part(id, make.clone(), part),
        },
    };
    spec.parts().into_iter().map(slot).collect()
}

/// Checks that no other tensor has the name of a part of a packed one, not even of a part that it does not need:
/// read back it would be taken for that.
///
/// # Errors
/// `Usage` where one has.
pub(super) fn check_names(entries: &[Entry<'_>]) -> Result<()> {
    let paths: HashSet<&str> = entries.iter().map(|entry| entry.path).collect();
    for entry in entries.iter().filter(|entry| entry.packing().is_some()) {
        let mut names = Part::ALL.iter().map(|part| format!("{}.{}", stem(entry.path), part.name()));
        if let Some(taken) = names.find(|name| paths.contains(name.as_str())) {
            let message = format!("it cannot be packed: a part of it would have the name of `{taken}`");
            return Err(Error::usage(message).at_tensor(entry.path));
        }
    }
    Ok(())
}

/// Metadata with what the parts' names cannot say.
pub(super) fn with_metadata(mut metadata: Metadata, entries: &[Entry<'_>]) -> Metadata {
    let mut infos: IndexMap<&str, Info> = IndexMap::new();
    for entry in entries {
        let Some((spec, _)) = entry.packing() else { continue };
        let stem = stem(entry.path);
        let dtype = (spec.dtype != spec.value_type).then(|| to_name(spec.dtype)).flatten();
        let named = entry.path.ends_with(WEIGHT) && !stem.ends_with(WEIGHT);
        if dtype.is_some() || !named {
            let path = (!named).then(|| entry.path.to_string());
            infos.insert(stem, Info { path, dtype: dtype.map(str::to_string) });
        }
    }
    if !infos.is_empty() {
        let json = serde_json::to_string(&infos).expect("texts are JSON");
        metadata.push((KEY.into(), json));
    }
    metadata
}
