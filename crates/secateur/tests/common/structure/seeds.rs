//! The cases that are damaged: ONNX's own tests, real models, and a node of every operator.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use secateur_model::ops;

use super::damage::{Case, single};
use super::wire::{Kind, Msg, Value};

/// Nodes by operator of each kind that [`single`] makes.
const SINGLES: u64 = 3;

/// Files beyond this size take too long for what they bring.
const LARGEST: u64 = 4 << 20;

/// ONNX's own tests from their archive.
pub fn node_tests(archive: &Path) -> Vec<Case> {
    let Ok(file) = std::fs::File::open(archive) else { return Vec::new() };
    let mut tar = Vec::new();
    lzma_rs::xz_decompress(&mut std::io::BufReader::new(file), &mut tar).expect("the archive unpacks");
    let mut models: BTreeMap<String, Msg> = BTreeMap::new();
    let mut inputs: BTreeMap<String, BTreeMap<usize, Msg>> = BTreeMap::new();
    for entry in tar::Archive::new(&tar[..]).entries().expect("a tar archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("an entry's bytes");
        if let Some(case) = path.strip_suffix("/model.onnx") {
            models.extend(Msg::parse(Kind::Model, &bytes).map(|model| (case.to_string(), model)));
        } else if let Some((case, rest)) = path.split_once("/test_data_set_0/input_")
            && let Some(number) = rest.strip_suffix(".pb").and_then(|n| n.parse().ok())
            && let Some(tensor) = Msg::parse(Kind::Tensor, &bytes)
        {
            inputs.entry(case.to_string()).or_default().insert(number, tensor);
        }
    }
    let case = |(name, model): (String, Msg)| {
        let names: Vec<String> =
            model.msgs(7).flat_map(|graph| graph.msgs(11)).map(|info| info.text(1)).collect();
        let given = inputs.remove(&name).unwrap_or_default();
        let inputs = given.into_iter().filter_map(|(number, mut tensor)| {
            tensor.set_text(8, names.get(number)?);
            Some(tensor)
        });
        Case { name, model, inputs: inputs.collect() }
    };
    models.into_iter().map(case).collect()
}

/// ONNX files of a folder and below, those of a moderate size.
pub fn files(folder: &Path) -> Vec<Case> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let small = || path.metadata().is_ok_and(|m| m.len() <= LARGEST);
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "onnx") && small() {
                found.push(path);
            }
        }
    }
    found.sort();
    let case = |path: PathBuf| {
        let model = Msg::parse(Kind::Model, &std::fs::read(&path).ok()?)?;
        Some(Case { name: path.display().to_string(), model, inputs: Vec::new() })
    };
    found.into_iter().filter_map(case).collect()
}

/// Nodes of every operator of the table.
pub fn singles() -> Vec<Case> {
    ops::all().flat_map(|op| (0..SINGLES).map(move |seed| single(op, seed))).collect()
}

/// A model read from bytes, as a case without inputs.
pub fn of_bytes(bytes: &[u8]) -> Option<Case> {
    let model = Msg::parse(Kind::Model, bytes)?;
    let graph = model.fields.iter().any(|(field, value)| *field == 7 && matches!(value, Value::Msg(_)));
    graph.then(|| Case { name: String::new(), model, inputs: Vec::new() })
}
