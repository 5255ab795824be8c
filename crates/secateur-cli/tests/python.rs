//! Files that Python programs go on with: PyTorch from masks, transformers from a pruned folder. Each needs
//! `SECATEUR_PYTHON` and the package, and is skipped with the reason otherwise.

mod common;
#[path = "../../../tests/python.rs"]
mod python;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::Place;
use python::python;

fn script(p: &Place, python: &Path, name: &str, arguments: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name);
    let out = Command::new(python).arg(script).args(arguments).current_dir(p.folder.path()).output().unwrap();
    assert!(out.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn pytorch_goes_on_from_masks_and_back() {
    let Some(python) = python(&["torch"]) else { return };
    let p = Place::new();
    script(&p, &python, "go_on.py", &["make", "model.pth"]);
    p.ok(&["prune", "model.pth", "-o", "a.pth", "-m", "l1", "-s", "0.5", "--masks", "pairs"]);
    script(&p, &python, "go_on.py", &["prune", "a.pth", "b.pth"]);
    p.ok(&["verify", "b.pth", "-m", "l1", "-s", "0.75"]);
    // A third round here, where PyTorch left off; then the masks become permanent.
    p.ok(&["prune", "b.pth", "-o", "c.pth", "-m", "l1", "-s", "0.5", "--of-remaining"]);
    p.ok(&["finalize", "c.pth", "-o", "d.pth"]);
    p.ok(&["verify", "d.pth", "-m", "l1", "-s", "0.874"]);
    script(&p, &python, "go_on.py", &["final", "d.pth", "c.pth"]);
    p.ok(&["undo", "c.pth", "-o", "e.pth"]);
    let found = common::json(&p.ok(&["diff", "e.pth", "model.pth", "--json"]));
    assert!(found["tensors"].as_array().unwrap().iter().all(|t| t["changed"][0] == 0), "{found}");
}

#[test]
fn transformers_loads_a_pruned_folder() {
    let Some(python) = python(&["torch", "transformers"]) else { return };
    let Some(stories) = stories() else { return };
    let (p, stories) = (Place::new(), stories.to_str().unwrap());
    p.ok(&["prune", stories, "-o", "two-four", "-m", "l1/2:4"]);
    p.ok(&["prune", stories, "-o", "rows", "-m", "l1@row", "-s", "0.5"]);
    p.ok(&["verify", "two-four"]);
    p.ok(&["verify", "rows"]);
    script(&p, &python, "transformers_load.py", &["two-four", "rows"]);
}

/// onnx's checker, with shape inference, finds nothing wrong with the built-in networks.
#[test]
fn networks_are_valid_onnx() {
    let Some(python) = python(&["onnx"]) else { return };
    let p = Place::new();
    for net in secateur::nets::NETS {
        std::fs::write(p.path("net.onnx"), net.onnx().unwrap()).unwrap();
        let check = "import onnx; onnx.checker.check_model(onnx.load('net.onnx'), full_check=True)";
        let out = Command::new(&python).args(["-c", check]).current_dir(p.folder.path()).output().unwrap();
        assert!(out.status.success(), "{}: {}", net.name, String::from_utf8_lossy(&out.stderr));
    }
}

/// The shared language model; prints why where it is absent.
fn stories() -> Option<PathBuf> {
    let shared = std::env::var_os("SECATEUR_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let stories = shared.join("models/stories260k");
    if !stories.is_dir() {
        println!("skipped: no shared data at {} (set SECATEUR_DATA)", shared.display());
        return None;
    }
    Some(stories)
}

/// Needs transformers 4.51.3, compressed-tensors 0.9.4 and accelerate, without which transformers decompresses nothing.
#[test]
fn transformers_loads_a_packed_folder() {
    let Some(python) = python(&["torch", "transformers", "compressed_tensors", "accelerate"]) else { return };
    let Some(stories) = stories() else { return };
    let (p, stories) = (Place::new(), stories.to_str().unwrap());
    p.ok(&["prune", stories, "-o", "pruned", "-m", "l1", "-s", "0.8"]);
    p.ok(&["pack", "pruned", "-o", "packed"]);
    script(&p, &python, "packed_folder.py", &["pruned", "packed"]);
    p.ok(&["unpack", "packed", "-o", "again"]);
    let config =
        |folder: &str| common::json(&std::fs::read_to_string(p.path(folder).join("config.json")).unwrap());
    assert_eq!(config("again"), config("pruned"));
    assert_ne!(config("packed"), config("pruned"));
}
