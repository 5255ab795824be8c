//! `config.json` of a packed folder: what compressed-tensors has to know of it, from which transformers and others
//! load it.

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::model::Entry;
use crate::packed::Layout;
use crate::{Error, Result};

/// The name of the configuration.
pub(super) const CONFIG: &str = "config.json";
/// The key under which transformers keeps how weights are stored, and the keys within.
const STORAGE: &str = "quantization_config";
const METHOD: &str = "quant_method";
const SPARSITY: &str = "sparsity_config";
/// The method, and the version whose configuration this is.
const COMPRESSED_TENSORS: &str = "compressed-tensors";
const VERSION: &str = "0.9.4";
const FORMAT: &str = "sparse-bitmask";

/// `SparsityCompressionConfig` of compressed-tensors.
#[derive(Serialize)]
struct Sparsity<'a> {
    format: &'static str,
    /// Zeros that are not stored ÷ all elements.
    global_sparsity: f64,
    sparsity_structure: &'static str,
    /// The modules whose weights are packed.
    targets: Vec<&'a str>,
    ignore: [&'a str; 0],
}

/// The configuration of a folder that holds the entries, from what it was; `None` where it stays as it is: what
/// says something else of how weights are stored is left alone.
///
/// # Errors
/// `Input` where it is no JSON object.
pub(super) fn rewritten(old: &[u8], entries: &[&Entry<'_>]) -> Result<Option<Vec<u8>>> {
    let wrong = |e: serde_json::Error| Error::input(format!("is not as transformers has it: {e}"));
    let mut root: IndexMap<String, Box<RawValue>> = serde_json::from_slice(old).map_err(wrong)?;
    let storage: Option<IndexMap<String, Value>> = match root.get(STORAGE) {
        Some(value) => Some(serde_json::from_str(value.get()).map_err(wrong)?),
        None => None,
    };
    if storage.as_ref().is_some_and(|storage| !is_ours(storage)) {
        return Ok(None);
    }
    let json = |e: serde_json::Error| Error::internal(e.to_string());
    match sparsity(entries) {
        Some(sparsity) => {
            let mut new: IndexMap<&str, Value> = IndexMap::new();
            new.insert(METHOD, COMPRESSED_TENSORS.into());
            new.insert(SPARSITY, serde_json::to_value(sparsity).map_err(json)?);
            new.insert("version", VERSION.into());
            root.insert(STORAGE.into(), to_raw_value(&new).map_err(json)?);
        }
        None if storage.is_some() => drop(root.shift_remove(STORAGE)),
        None => return Ok(None),
    }
    let mut text = serde_json::to_vec_pretty(&root).map_err(json)?;
    text.extend(old.ends_with(b"\n").then_some(b'\n'));
    Ok(Some(text))
}

/// Whether a `quantization_config` says nothing but how zeros are packed.
fn is_ours(storage: &IndexMap<String, Value>) -> bool {
    let plain = storage.keys().all(|key| [METHOD, SPARSITY, "version"].contains(&key.as_str()));
    let format = storage.get(SPARSITY).and_then(|sparsity| sparsity.get("format"));
    plain
        && storage.get(METHOD).is_some_and(|m| m == COMPRESSED_TENSORS)
        && format.is_some_and(|f| f == FORMAT)
}

/// What compressed-tensors has to know; `None` where nothing is packed, or something in a way it cannot read.
fn sparsity<'a>(entries: &[&'a Entry<'_>]) -> Option<Sparsity<'a>> {
    let (mut targets, mut zeros, mut elements) = (Vec::new(), 0, 0);
    for entry in entries {
        let len = entry.shape.iter().product::<usize>();
        elements += len;
        let Some((spec, _)) = entry.packing() else { continue };
        let rows = Layout::Bitmask { cols: entry.shape.last().copied()? };
        let exact = spec.value_type == spec.dtype && spec.scales.is_none();
        targets.push(entry.path.strip_suffix(".weight").filter(|_| exact && spec.layout == rows)?);
        zeros += len - spec.stored;
    }
    let global_sparsity = zeros as f64 / elements.max(1) as f64;
    (!targets.is_empty()).then_some(Sparsity {
        format: FORMAT,
        global_sparsity,
        sparsity_structure: "unstructured",
        targets,
        ignore: [],
    })
}
