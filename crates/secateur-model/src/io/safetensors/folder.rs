//! A folder as Hugging Face lays it out: `model.safetensors`, or shards and their index, beside the
//! configuration and the tokenizer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::config::{self, CONFIG};
use super::header::Entries;
use super::packed::slots;
use super::{SafetensorsSource, Shard, changes_table, shard, write_shard};
use crate::io::atomic::StagedFolder;
use crate::io::{folders, mmap, open_regular, read_small};
use crate::model::{Entry, Patch, Source, WriteOptions, WriteReport, WrittenFile};
use crate::{Error, Model, Result, ResultExt, TensorId};

/// What files of weights are called: by transformers, and by diffusers.
const STEMS: &[&str] = &["model", "diffusion_pytorch_model"];

/// The largest `config.json` that is rewritten, in bytes.
const CONFIG_BYTES: u64 = 1 << 24;

/// Extensions of other files with weights, which are not copied next to changed ones.
const WEIGHTS: &[&str] = &["safetensors", "bin", "pt", "pth", "h5", "msgpack", "gguf", "onnx", "ot"];

/// A folder that is a model.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Where it is.
    pub root: PathBuf,
    /// The name of the index of shards, and what stands in it; `None` where one file holds all, or shards came
    /// without one.
    index: Option<(String, Bytes)>,
    /// Names of the files that are copied as they are: configuration, tokenizer, and so on.
    pub others: Vec<String>,
    /// Names of what is in the folder and does not belong to the model: further weights, folders.
    pub left_out: Vec<String>,
}

/// What the index says.
#[derive(Deserialize)]
struct Index {
    weight_map: Entries<String>,
    #[serde(default)]
    metadata: IndexMap<String, serde_json::Value>,
}

/// Reads an index; every shard it names is a plain name.
fn read_index(path: &Path) -> Result<(Bytes, Index)> {
    let bytes = mmap::map_file(path)?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|e| Error::input(format!("is no index of shards: {e}")))
        .at_file(path)?;
    for (tensor, file) in &index.weight_map.0 {
        check_name(file).at_tensor(tensor).at_file(path)?;
    }
    Ok((bytes, index))
}

/// The names of the shards that an index names, in their order.
///
/// # Errors
/// `Input` where it is not as Hugging Face has it or names a file outside the folder.
pub(in crate::io) fn indexed_shards(path: &Path) -> Result<Vec<String>> {
    let (_, index) = read_index(path)?;
    let names: BTreeSet<&String> = index.weight_map.0.iter().map(|(_, file)| file).collect();
    Ok(names.into_iter().cloned().collect())
}

/// Reads a folder; `None` where no safetensors file in it has the name of a model's.
///
/// # Errors
/// `Input` where the index is not as Hugging Face has it, names a file outside the
/// folder or one that is missing, or a tensor and its shard do not belong together.
pub(in crate::io) fn read_folder(root: &Path) -> Result<Option<Model>> {
    let named = |ending: &str| {
        let names = STEMS.iter().map(|stem| format!("{stem}.{ending}"));
        names.into_iter().find(|name| root.join(name).is_file())
    };
    if let Some(index) = named("safetensors.index.json") {
        return read_shards(root, &index).map(Some);
    }
    let single = named("safetensors").map(|name| vec![name]);
    let names = match single {
        Some(single) => Some(single),
        None => folders::numbered(root, "safetensors")?,
    };
    let Some(names) = names else { return Ok(None) };
    let mut tensors = IndexMap::new();
    let mut shards: Vec<Shard> = Vec::new();
    for name in names {
        let path = root.join(&name);
        let read = mmap::map_file(&path).and_then(|bytes| shard(name, bytes, &mut tensors));
        shards.push(read.at_file(&path)?);
    }
    model_of(root, shards, tensors, None).map(Some)
}

/// Reads the shards that the index of this name in a folder names.
///
/// # Errors
/// As [`read_folder`].
pub(in crate::io) fn read_shards(root: &Path, index_name: &str) -> Result<Model> {
    let index_path = root.join(index_name);
    let (bytes, said) = read_index(&index_path)?;
    let mut tensors = IndexMap::new();
    let mut shards: Vec<Shard> = Vec::new();
    // By shard, in the order in which the index first names them.
    let mut by_shard: IndexMap<&str, BTreeSet<&str>> = IndexMap::new();
    for (tensor, file) in &said.weight_map.0 {
        by_shard.entry(file).or_default().insert(tensor);
    }
    by_shard.sort_unstable_keys();
    for (name, listed) in by_shard {
        let path = root.join(name);
        if !path.is_file() {
            let message =
                format!("names the shard `{name}`, which is not in the folder: complete the download");
            return Err(Error::input(message).at_file(&index_path));
        }
        let found = mmap::map_file(&path)
            .and_then(|bytes| shard(name.to_string(), bytes, &mut tensors))
            .at_file(&path)?;
        let stored = header_paths(&found)?;
        for path in &stored {
            if !listed.contains(path.as_str()) {
                let message = format!("stands in the shard `{name}`, but the index does not say so");
                return Err(Error::input(message).at_tensor(path).at_file(&index_path));
            }
        }
        if stored.len() != listed.len() {
            let missing = listed.iter().find(|tensor| !stored.contains(**tensor));
            let missing = missing.copied().unwrap_or_default();
            let message = format!("the index says that it is in the shard `{name}`, where it is not");
            return Err(Error::input(message).at_tensor(missing).at_file(&index_path));
        }
        shards.push(found);
    }
    model_of(root, shards, tensors, Some((index_name.to_string(), bytes)))
}

/// The model of a folder whose shards are read.
fn model_of(
    root: &Path,
    shards: Vec<Shard>,
    tensors: IndexMap<String, crate::StoredTensor>,
    index: Option<(String, Bytes)>,
) -> Result<Model> {
    check_whole(&tensors)?;
    let (others, left_out) = contents(root, &shards, index.as_ref().map(|(name, _)| name.as_str()))?;
    let folder = Folder { root: root.to_path_buf(), index, others, left_out };
    let source = SafetensorsSource { shards, folder: Some(folder) };
    Ok(Model { tensors, graph: None, path: Some(root.to_path_buf()), source: Source::new(source) })
}

/// The paths of all tensors in a shard's file, parts of packed ones by their own.
fn header_paths(shard: &Shard) -> Result<BTreeSet<String>> {
    Ok(super::header::read(&shard.bytes)?.tensors.into_iter().map(|t| t.path).collect())
}

/// One shard holds all parts of a packed tensor.
fn check_whole(tensors: &IndexMap<String, crate::StoredTensor>) -> Result<()> {
    let apart = tensors.keys().filter_map(|path| path.strip_suffix(".compressed")).find(|stem| {
        [".bitmask", ".indices"].iter().any(|part| tensors.contains_key(&format!("{stem}{part}")))
    });
    match apart {
        Some(stem) => {
            Err(Error::unsupported("the parts of the packed tensor stand in several shards").at_tensor(stem))
        }
        None => Ok(()),
    }
}

/// Shards are in the folder itself, so a shard's name is one plain component.
fn check_name(name: &str) -> Result<()> {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    if plain && !name.contains(['/', '\\']) {
        return Ok(());
    }
    Err(Error::input(format!("the shard `{name}` is not a file in the folder; nothing outside it is read")))
}

/// The other files of a folder: those that belong to the model, and what does not.
fn contents(root: &Path, shards: &[Shard], index: Option<&str>) -> Result<(Vec<String>, Vec<String>)> {
    let (mut others, mut left_out) = (Vec::new(), Vec::new());
    for item in fs::read_dir(root).map_err(|e| Error::io(root, e))? {
        let item = item.map_err(|e| Error::io(root, e))?;
        let name = match item.file_name().into_string() {
            Ok(name) => name,
            Err(name) => {
                left_out.push(name.to_string_lossy().into_owned());
                continue;
            }
        };
        if Some(name.as_str()) == index || name.starts_with('.') || shards.iter().any(|s| s.name == name) {
            continue;
        }
        let ending = Path::new(&name).extension().and_then(|e| e.to_str()).unwrap_or_default();
        let weights = WEIGHTS.contains(&ending) || name.contains(".index.json");
        let kind = if item.path().is_file() && !weights { &mut others } else { &mut left_out };
        kind.push(name);
    }
    others.sort();
    left_out.sort();
    Ok((others, left_out))
}

/// Writes a model into a folder of its own, complete with configuration and tokenizer.
///
/// # Errors
/// As [`crate::io::write`].
pub(super) fn write_folder(
    source: &SafetensorsSource,
    folder: &Folder,
    model: &Model,
    patch: &Patch,
    metadata: &[(String, String)],
    path: &Path,
    options: WriteOptions,
) -> Result<WriteReport> {
    let mut names: Vec<&str> = source.shards.iter().map(|s| s.name.as_str()).collect();
    names.extend(folder.others.iter().map(String::as_str));
    names.extend(folder.index.as_ref().map(|(name, _)| name.as_str()));
    for name in &folder.others {
        // A copy of what a link leads to would be published with the model.
        let from = folder.root.join(name);
        if crate::io::inside_folder(&folder.root, &from)?.is_none() {
            let message = "is a link that leads outside the model's folder, so it is not copied: put the file \
                           itself there, or remove the link";
            return Err(Error::input(message).at_file(&from));
        }
    }
    let staged = StagedFolder::new(path, options.overwrite, &names)?;
    let entries = patch.entries(model);
    let mut of_shard: Vec<Vec<Entry<'_>>> = source.shards.iter().map(|_| Vec::new()).collect();
    for entry in entries {
        let shard = entry.anchor().and_then(|id| shard_of(source, id)).unwrap_or(0);
        of_shard[shard].push(entry);
    }
    let mut files = Vec::new();
    for (shard, entries) in source.shards.iter().zip(&of_shard) {
        let bytes =
            staged.file(&shard.name, |out| write_shard(shard, entries, model, patch, metadata, out))?;
        files.push(WrittenFile { path: path.join(&shard.name), bytes });
    }
    let changes = source.shards.iter().any(|shard| changes_table(shard, model, patch));
    if let Some((name, index)) = &folder.index {
        let changed = if changes { Some(new_index(index, source, &of_shard)?) } else { None };
        let bytes = changed.as_deref().unwrap_or(index);
        staged.file(name, |out| {
            out.write_all(bytes).map_err(|e| Error::io(name, e))?;
            Ok(bytes.len() as u64)
        })?;
    }
    for name in &folder.others {
        let from = folder.root.join(name);
        let fail = |e| Error::io(&from, e);
        let rewritten = match changes && name == CONFIG {
            true => {
                let entries: Vec<&Entry<'_>> = of_shard.iter().flatten().collect();
                config::rewritten(&read_small(&from, CONFIG_BYTES)?, &entries).at_file(&from)?
            }
            false => None,
        };
        staged.file(name, |out| match &rewritten {
            Some(text) => out.write_all(text).map(|()| text.len() as u64).map_err(fail),
            None => io::copy(&mut open_regular(&from)?, out).map_err(fail),
        })?;
    }
    staged.publish()?;
    Ok(WriteReport { model: WrittenFile { path: path.to_path_buf(), bytes: 0 }, external: files })
}

fn shard_of(source: &SafetensorsSource, id: TensorId) -> Option<usize> {
    source.shards.iter().position(|shard| shard.tensors.contains(&(id.0 as usize)))
}

/// The index for another table of tensors.
fn new_index(old: &Bytes, source: &SafetensorsSource, of_shard: &[Vec<Entry<'_>>]) -> Result<Vec<u8>> {
    #[derive(Serialize)]
    struct New<'a> {
        metadata: IndexMap<String, serde_json::Value>,
        weight_map: BTreeMap<&'a str, &'a str>,
    }
    let json = |e: serde_json::Error| Error::internal(e.to_string());
    let mut metadata = serde_json::from_slice::<Index>(old).map_err(json)?.metadata;
    let entries = || source.shards.iter().zip(of_shard).flat_map(|(s, es)| es.iter().map(move |e| (s, e)));
    let slots: Vec<_> =
        entries().flat_map(|(shard, e)| slots(e).into_iter().map(move |s| (shard, s))).collect();
    let total: usize = slots.iter().map(|(_, slot)| slot.byte_len()).sum();
    metadata.insert("total_size".into(), total.into());
    let weight_map = slots.iter().map(|(shard, slot)| (&*slot.path, shard.name.as_str())).collect();
    serde_json::to_vec_pretty(&New { metadata, weight_map }).map_err(json)
}
