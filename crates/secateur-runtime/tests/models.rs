//! Whole models against ONNX Runtime, on deterministic random inputs.
//!
//! Every ONNX file of the data folder (`SECATEUR_DATA`, or `../shared/data` beside the workspace), and
//! of the folder `SECATEUR_EXPORTS` where it is set (see `scripts/`), is run, with and without fusion;
//! its outputs are compared by `tests/ort/compare.py` where `SECATEUR_PYTHON` names a Python with onnxruntime:
//! max|a−b| ≤ 1e-4·max|b| per output. `SECATEUR_MODELS` picks files by a part of their path.

#[path = "../../../tests/ort/peer.rs"]
mod peer;

use std::path::Path;
use std::sync::Arc;

use secateur_model::{Patch, Tensor, io};
use secateur_runtime::Session;

/// Whether max|a−b| ≤ 1e-4·max|b|.
fn near(a: &Tensor, b: &Tensor) -> Result<(), String> {
    let (Ok(a), Ok(b)) = (a.values::<f32>(), b.values::<f32>()) else {
        return if a == b { Ok(()) } else { Err("other values".into()) };
    };
    let difference = a.iter().zip(b).fold(0f32, |m, (a, b)| if a == b { m } else { m.max((a - b).abs()) });
    let largest = b.iter().fold(0f32, |m, v| m.max(v.abs()));
    if a.len() == b.len() && difference <= 1e-4 * largest {
        Ok(())
    } else {
        Err(format!("differs by {difference}, the largest value is {largest}"))
    }
}

#[test]
fn outputs_equal_those_of_onnx_runtime() {
    let (files, python) = (peer::model_files(), peer::python());
    let mut failed = Vec::new();
    for file in &files {
        let start = std::time::Instant::now();
        let outcome = run(file, python.as_deref());
        println!(
            "{} {} ({:.1?})",
            if outcome.is_ok() { "ok" } else { "FAILED" },
            file.display(),
            start.elapsed()
        );
        if let Err(why) = outcome {
            failed.push(format!("{}: {why}", file.display()));
        }
    }
    assert!(failed.is_empty(), "{} of {} models:\n{}", failed.len(), files.len(), failed.join("\n"));
}

fn run(file: &Path, python: Option<&Path>) -> Result<(), String> {
    let model = Arc::new(io::read(file).map_err(|e| e.to_string())?);
    let session = Session::new(model.clone(), Patch::new()).map_err(|e| e.to_string())?;
    let mut state = 7;
    let inputs: Vec<Tensor> = session.inputs().iter().map(|i| peer::random(i, &mut state)).collect();
    let given = || session.inputs().iter().map(|i| i.name.clone()).zip(inputs.iter().cloned()).collect();
    let outputs = session.run(given()).map_err(|e| e.to_string())?;
    // A second run meets memory that the first one left.
    if session.run(given()).map_err(|e| e.to_string())? != outputs {
        return Err("two runs on the same inputs differ".into());
    }
    let plain = Session::without_fusion(model, Patch::new()).and_then(|s| s.run(given()));
    for (i, (a, b)) in outputs.iter().zip(plain.map_err(|e| e.to_string())?).enumerate() {
        near(a, &b).map_err(|why| format!("output {i} without fusion: {why}"))?;
    }
    match python {
        Some(python) => peer::compare(python, file, &inputs, &outputs),
        None => Ok(()),
    }
}
