//! Folders that are models: which files in them hold the weights, and what to say of folders that are something
//! else.

use std::fs;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use crate::parametrised::ADAPTER_CONFIG;
use crate::text::quoted;
use crate::{Error, Model, Result, ResultExt};

use super::{mmap, safetensors, torch};

/// What diffusers says of a pipeline.
const PIPELINE: &str = "model_index.json";
/// Names of PyTorch's weights in a folder of transformers.
const TORCH: &str = "pytorch_model.bin";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";

/// Reads the shards that an index names; `None` where the file is no index by its name.
///
/// # Errors
/// As [`read`].
pub(super) fn read_indexed(path: &Path) -> Result<Option<Model>> {
    let root = super::atomic::folder_of(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with(".safetensors.index.json") {
        safetensors::read_shards(root, &name).map(Some)
    } else if name.ends_with(".bin.index.json") {
        torch::read_shards(root, &safetensors::indexed_shards(path)?).map(Some)
    } else {
        Ok(None)
    }
}

/// Reads a folder as Hugging Face lays it out.
///
/// # Errors
/// Where its files cannot be read; `Input` where it is no model, with what it is.
pub(super) fn read(root: &Path) -> Result<Model> {
    if let Some(model) = safetensors::read_folder(root)? {
        return Ok(model);
    }
    let index = root.join(TORCH_INDEX);
    if index.is_file() {
        return torch::read_shards(root, &safetensors::indexed_shards(&index)?);
    }
    if root.join(TORCH).is_file() {
        return super::read(root.join(TORCH));
    }
    match numbered(root, "bin")? {
        Some(names) => torch::read_shards(root, &names),
        None => Err(other(root)?.at_file(root)),
    }
}

/// The names of shards that stand in a folder without an index, `<stem>-00001-of-00003.<ending>` and so on, in their
/// order; `None` where there are none.
///
/// # Errors
/// `Input` where one is missing, or there are two sets of them.
pub(super) fn numbered(root: &Path, ending: &str) -> Result<Option<Vec<String>>> {
    let mut sets: IndexMap<(String, usize), Vec<(usize, String)>> = IndexMap::new();
    for name in names(root)? {
        let Some((stem, number, count)) = numbers(&name, ending) else { continue };
        sets.entry((stem.to_string(), count)).or_default().push((number, name));
    }
    let mut sets = sets.into_iter();
    let Some(((stem, count), mut shards)) = sets.next() else { return Ok(None) };
    if let Some(((other, of), _)) = sets.next() {
        let message = format!(
            "holds shards of `{stem}` ({count}) and of `{other}` ({of}) without an index: leave one set in it"
        );
        return Err(Error::input(message).at_file(root));
    }
    shards.sort_unstable();
    if let Some(missing) = (1..=count).find(|n| shards.get(n - 1).is_none_or(|(number, _)| number != n)) {
        let message = format!("has no shard {missing} of {count} of `{stem}`: complete the download");
        return Err(Error::input(message).at_file(root));
    }
    Ok(Some(shards.into_iter().map(|(_, name)| name).collect()))
}

/// The stem, the number and the count that the name of a shard says.
fn numbers<'a>(name: &'a str, ending: &str) -> Option<(&'a str, usize, usize)> {
    let name = name.strip_suffix(ending)?.strip_suffix('.')?;
    let (front, count) = name.rsplit_once("-of-")?;
    let (stem, number) = front.rsplit_once('-')?;
    let number_of = |text: &str| text.parse().ok().filter(|n| (1..=100_000).contains(n));
    Some((stem, number_of(number)?, number_of(count)?))
}

/// The names in a folder that are text, sorted.
fn names(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for item in fs::read_dir(root).map_err(|e| Error::io(root, e))? {
        names.extend(item.map_err(|e| Error::io(root, e))?.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// What a folder is that is no model here, and what to do.
fn other(root: &Path) -> Result<Error> {
    if root.join(PIPELINE).is_file() {
        let parts: Vec<String> =
            names(root)?.into_iter().filter(|name| holds_weights(&root.join(name))).collect();
        return Ok(Error::input(format!(
            "is a pipeline of diffusers, which is several models; give the folder of one: {}",
            if parts.is_empty() { "none of them holds weights".to_string() } else { quoted(&parts) }
        )));
    }
    if root.join(ADAPTER_CONFIG).is_file() {
        return Ok(Error::input(format!(
            "is an adapter of {}, which is no model without it: merge the two in peft (`merge_and_unload`, \
             `save_pretrained`) and give the merged folder",
            base_of(&root.join(ADAPTER_CONFIG))?
        )));
    }
    let files: Vec<String> =
        names(root)?.into_iter().filter(|name| super::format_of(Path::new(name)).is_some()).collect();
    Ok(Error::input(match files.is_empty() {
        true => {
            "is a folder without a model: expected `model.safetensors`, its shards, or `pytorch_model.bin`"
                .into()
        }
        false => {
            format!("is a folder without `model.safetensors`; give a model's file itself: {}", quoted(&files))
        }
    }))
}

/// Whether a folder holds files of weights, told by their names.
fn holds_weights(folder: &Path) -> bool {
    let format =
        |name: &String| super::format_of(Path::new(name)).is_some_and(|format| *format != super::ONNX);
    folder.is_dir() && names(folder).is_ok_and(|names| names.iter().any(format))
}

/// The base that an adapter names.
fn base_of(config: &PathBuf) -> Result<String> {
    let said: IndexMap<String, serde_json::Value> = serde_json::from_slice(&mmap::map_file(config)?)
        .map_err(|e| Error::input(format!("is not as peft has it: {e}")))
        .at_file(config)?;
    let base = said.get("base_model_name_or_path").and_then(|base| base.as_str());
    Ok(base.map_or("a base that it does not name".to_string(), |base| format!("`{base}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_told_by_their_numbers() {
        assert_eq!(numbers("model-00002-of-00003.safetensors", "safetensors"), Some(("model", 2, 3)));
        assert_eq!(numbers("a-b-1-of-1.bin", "bin"), Some(("a-b", 1, 1)));
        for name in ["model.safetensors", "model-0-of-3.bin", "model-x-of-3.bin", "1-of-2.bin"] {
            assert_eq!(numbers(name, "bin"), None, "{name}");
        }
    }
}
