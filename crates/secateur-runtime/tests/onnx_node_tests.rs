//! ONNX's own backend tests: every case whose operators are claimed must pass.
//!
//! The cases are not part of this repository: they are read from `onnx-node-tests.tar.xz` in the data
//! folder (`SECATEUR_DATA`, or `../shared/data` beside the workspace), and skipped where it is absent.
//! Prints passed, not claimed (by operator) and failed. All of PyTorch's cases have to be claimed.

#[path = "common/suite.rs"]
mod suite;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use secateur_model::io::onnx;
use secateur_model::{ErrorKind, Patch};
use secateur_runtime::Session;

use suite::{cases, close, tensors};

enum Outcome {
    Passed,
    /// The operators or types that nothing here claims.
    NotClaimed(String),
    Failed(String),
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
