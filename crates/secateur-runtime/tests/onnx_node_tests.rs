//! ONNX's own backend tests: every case whose operators are claimed must pass.
//!
//! The cases are not part of this repository: they are read from `onnx-node-tests.tar.xz` in the data
//! folder (`SECATEUR_DATA`, or `../shared/data` beside the workspace), and skipped where it is absent.
//! Prints passed, not claimed (by operator) and failed. All of PyTorch's cases have to be claimed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secateur_model::io::onnx;
use secateur_model::{Data, ErrorKind, Patch, Tensor, with_elements};
use secateur_runtime::Session;

/// Tolerances of the suite itself.
const RTOL: f64 = 1e-3;
const ATOL: f64 = 1e-7;

fn data_folder() -> PathBuf {
    std::env::var_os("SECATEUR_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from)
}

/// The files of each case, by the case's name.
fn cases() -> Option<BTreeMap<String, BTreeMap<String, Vec<u8>>>> {
    let path = data_folder().join("onnx-node-tests.tar.xz");
    let Ok(file) = std::fs::File::open(&path) else {
        println!("skipped: {} is not there", path.display());
        return None;
    };
    let mut tar = Vec::new();
    lzma_rs::xz_decompress(&mut std::io::BufReader::new(file), &mut tar).expect("the archive unpacks");
    let mut cases: BTreeMap<String, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for entry in tar::Archive::new(&tar[..]).entries().expect("a tar archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let (case, file) = match path.find("/model.onnx").or_else(|| path.find("/test_data_set_")) {
            Some(at) => (&path[..at], path[at + 1..].to_string()),
            None => continue,
        };
        // `node/test_abs`, `pytorch-operator/test_operator_add`, …
        let case = case.split_once('/').map_or(case, |(_, c)| c).to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("an entry's bytes");
        if !bytes.is_empty() {
            cases.entry(case).or_default().insert(file, bytes);
        }
    }
    Some(cases)
}

enum Outcome {
    Passed,
    /// The operators or types that nothing here claims.
    NotClaimed(String),
    Failed(String),
}

/// The tensors of one kind in a data set.
fn tensors(files: &BTreeMap<String, Vec<u8>>, set: &str, kind: &str) -> Result<Vec<Tensor>, String> {
    (0..)
        .map_while(|i| files.get(&format!("{set}/{kind}_{i}.pb")))
        .map(|bytes| onnx::read_tensor(bytes.clone().into()).map_err(|e| e.to_string()))
        .collect()
}

fn close(ours: &Tensor, expected: &Tensor) -> Result<(), String> {
    if ours.shape() != expected.shape() || ours.dtype() != expected.dtype() {
        return Err(format!(
            "{} {:?}, expected {} {:?}",
            ours.dtype(),
            ours.shape(),
            expected.dtype(),
            expected.shape()
        ));
    }
    let floats = |t: &Tensor| -> Option<Vec<f64>> {
        match t.data() {
            Data::F32(v) => Some(v.iter().map(|&x| x.into()).collect()),
            Data::F64(v) => Some(v.clone()),
            Data::F16(v) => Some(v.iter().map(|x| x.to_f64()).collect()),
            Data::BF16(v) => Some(v.iter().map(|x| x.to_f64()).collect()),
            _ => None,
        }
    };
    let Some((a, b)) = floats(ours).zip(floats(expected)) else {
        let same =
            with_elements!(ours, |_v| ours.data() == expected.data(), else ours.data() == expected.data());
        return if same { Ok(()) } else { Err(format!("{:?}, expected {:?}", ours.data(), expected.data())) };
    };
    // The suite computes cases of narrow types step by step in these and is off by two units in the last
    // place; its f32 Fourier transforms leave half a unit of the largest element where terms cancel.
    let most = b.iter().filter(|b| b.is_finite()).fold(0.0, |most: f64, b| most.max(b.abs()));
    let (rtol, atol) = match expected.data() {
        Data::F16(_) => (2.0 / 1024.0, ATOL),
        Data::BF16(_) => (2.0 / 128.0, ATOL),
        Data::F32(_) => (RTOL, ATOL.max(most * f64::from(f32::EPSILON) / 2.0)),
        _ => (RTOL, ATOL),
    };
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let near = (a - b).abs() <= atol + rtol * b.abs();
        if !(near || a == b || a.is_nan() && b.is_nan()) {
            return Err(format!("element {i} of {:?} is {a}, expected {b}", ours.shape()));
        }
    }
    Ok(())
}

fn run(files: &BTreeMap<String, Vec<u8>>) -> Outcome {
    let unsupported = |e: secateur_model::Error| match e.kind() {
        ErrorKind::Unsupported => Outcome::NotClaimed(e.to_string()),
        _ => Outcome::Failed(e.to_string()),
    };
    let Some(bytes) = files.get("model.onnx") else { return Outcome::Failed("no model".into()) };
    let model = match onnx::from_bytes(bytes.clone().into(), Path::new(".")) {
        Ok(model) => Arc::new(model),
        Err(e) => return unsupported(e),
    };
    let session = match Session::new(model, Patch::new()) {
        Ok(session) => session,
        Err(e) => return unsupported(e),
    };
    let sets: BTreeSet<&str> = files.keys().filter_map(|f| f.split_once('/')).map(|(set, _)| set).collect();
    for set in sets {
        let (inputs, expected) = match (tensors(files, set, "input"), tensors(files, set, "output")) {
            (Ok(inputs), Ok(expected)) => (inputs, expected),
            (Err(e), _) | (_, Err(e)) => return Outcome::NotClaimed(format!("data: {e}")),
        };
        let given = session.inputs().iter().map(|i| i.name.clone()).zip(inputs).collect();
        match session.run(given) {
            Err(e) => return unsupported(e),
            Ok(outputs) => {
                for (i, (ours, expected)) in outputs.iter().zip(&expected).enumerate() {
                    if let Err(why) = close(ours, expected) {
                        return Outcome::Failed(format!("output {i}: {why}"));
                    }
                }
            }
        }
    }
    Outcome::Passed
}

#[test]
fn claimed_cases_pass() {
    let Some(cases) = cases() else { return };
    let filter = std::env::var("SECATEUR_CASES").unwrap_or_default();
    let mut passed = (0, 0);
    let mut not_claimed: BTreeMap<String, usize> = BTreeMap::new();
    let mut failed = Vec::new();
    for (name, files) in cases.iter().filter(|(name, _)| name.contains(&filter)) {
        let node_case = name.starts_with("node/");
        let must_pass = name.starts_with("pytorch-");
        match std::panic::catch_unwind(|| run(files)) {
            Ok(Outcome::Passed) if node_case => passed.0 += 1,
            Ok(Outcome::Passed) => passed.1 += 1,
            Ok(Outcome::NotClaimed(why)) => {
                if !filter.is_empty() {
                    println!("not claimed: {name}: {why}");
                }
                let op = why.split_once('(').map_or(why.as_str(), |(_, r)| r);
                let op: String = op.chars().take_while(|c| c.is_alphanumeric()).collect();
                *not_claimed.entry(op).or_default() += 1;
                if must_pass {
                    failed.push(format!("{name}: not claimed: {why}"));
                }
            }
            Ok(Outcome::Failed(why)) => {
                failed.push(format!("{name}: {}", why.chars().take(300).collect::<String>()))
            }
            Err(_) => failed.push(format!("{name}: panicked")),
        }
    }
    println!("passed: {} node cases, {} PyTorch and simple cases", passed.0, passed.1);
    println!("not claimed: {}", not_claimed.values().sum::<usize>());
    for (op, count) in &not_claimed {
        println!("  {op}: {count}");
    }
    println!("failed: {}", failed.len());
    for line in &failed {
        println!("  {line}");
    }
    assert!(failed.is_empty(), "{} cases failed", failed.len());
    assert!(passed.0 >= 900 || !filter.is_empty(), "at least 900 node cases are to pass");
}
