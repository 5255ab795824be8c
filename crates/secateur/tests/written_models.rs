//! Pruned files as others see them: every shared ONNX file is pruned, written, checked by onnx and run
//! in ONNX Runtime, whose outputs must equal ours (see `tests/ort/peer.rs` for where they come from).
//!
//! `SECATEUR_EXPORTS` may name a folder with exports of `scripts/`, such as the tile classifier:
//! `python scripts/tile_classifier.py exports/tiles.onnx`.

#[path = "../../../tests/ort/peer.rs"]
mod peer;

use std::path::Path;
use std::sync::Arc;

use secateur::prune::{PruneOptions, plan};
use secateur::{Amount, Patch, Session, io};

/// Prunes, writes and runs; compares with ONNX Runtime where there is a Python. The share of zeros.
fn round_trip(file: &Path, options: &PruneOptions, python: Option<&Path>) -> Result<f64, String> {
    let text = |e: secateur::Error| e.to_string();
    let model = io::read(file).map_err(text)?;
    let pruning = plan(&model, options).map_err(text)?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let written = folder.path().join("pruned.onnx");
    let recipe = [("secateur.test".to_string(), options.method.to_string())];
    io::write(&model, &pruning.patch(&model), &recipe, &written, io::WriteOptions::default())
        .map_err(text)?;

    let back = Arc::new(io::read(&written).map_err(text)?);
    for (name, stored) in &model.tensors {
        let id = model.tensor_id(name).ok_or("a tensor without id")?;
        let expected = pruning.patch(&model).load(&model, id).map_err(text)?;
        let found = back.tensors.get(name).ok_or(format!("`{name}` is gone"))?.load().map_err(text)?;
        if expected != found {
            return Err(format!("`{name}` ({}) reads back differently", stored.dtype));
        }
    }
    let session = Session::new(back, Patch::new()).map_err(text)?;
    let mut state = 11;
    let inputs: Vec<_> = session.inputs().iter().map(|i| peer::random(i, &mut state)).collect();
    let given = session.inputs().iter().map(|i| i.name.clone()).zip(inputs.iter().cloned()).collect();
    let outputs = session.run(given).map_err(text)?;
    if let Some(python) = python {
        peer::compare(python, &written, &inputs, &outputs)?;
    }
    Ok(pruning.sparsity())
}

#[test]
fn models_pruned_to_half_run_in_onnx_runtime() {
    let (files, python) = (peer::model_files(), peer::python());
    let options = PruneOptions::new("l1".parse().unwrap(), Amount::Sparsity(0.5));
    for file in &files {
        match round_trip(file, &options, python.as_deref()) {
            Ok(sparsity) => {
                println!("ok {}", file.display());
                assert!((sparsity - 0.5).abs() < 0.01, "{}: {sparsity}", file.display());
            }
            Err(why) => panic!("{}: {why}", file.display()),
        }
    }
}

/// Three methods over the encoder's convolutions.
#[test]
fn the_tile_classifier_is_pruned_in_its_encoder_only() {
    let classifiers: Vec<_> = peer::model_files()
        .into_iter()
        .filter(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("tiles")))
        .collect();
    if classifiers.is_empty() {
        println!("skipped: SECATEUR_EXPORTS has no export of scripts/tile_classifier.py");
    }
    let python = peer::python();
    for file in &classifiers {
        for method in ["l1", "l1/channel:1", "l1@global"] {
            let mut options = PruneOptions::new(method.parse().unwrap(), Amount::Sparsity(0.4));
            options.selector.ops = vec!["Conv".into()];
            options.selector.modules = vec!["enc".into()];
            let model = io::read(file).unwrap();
            let pruning = plan(&model, &options).unwrap();
            // ResNeXt-50 has 53 convolutions.
            assert_eq!(pruning.layers.len(), 53, "{}", file.display());
            round_trip(file, &options, python.as_deref())
                .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            println!("ok {} {method}: {:.3}", file.display(), pruning.sparsity());
        }
    }
}
