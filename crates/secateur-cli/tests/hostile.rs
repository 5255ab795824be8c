//! Models whose attributes or constants are absurd end with exit code 2, the node named, whatever command runs them.

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::Place;

/// The small damaged models of the shared data; prints why where they are absent.
fn damaged() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let data = std::env::var_os("SECATEUR_DATA").map_or_else(beside, PathBuf::from);
    let folder = data.join("cases/damaged");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: there is no {} (set SECATEUR_DATA)", folder.display());
    None
}

/// Runs a command that must refuse the model soon, and gives what it said.
fn refused(place: &Place, arguments: &[&str]) -> String {
    let start = Instant::now();
    let said = place.fails(2, arguments);
    assert!(said.contains("node `"), "{arguments:?}: {said}");
    assert!(start.elapsed() < Duration::from_secs(10), "{arguments:?} took {:?}", start.elapsed());
    said
}

#[test]
fn damaged_models_are_refused() {
    let Some(folder) = damaged() else { return };
    let place = Place::new();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    for name in ["min-conv1x1", "min-conv3x3", "min-convbias", "min-convdw", "min-maxpool", "min-wrap_conv"] {
        let (model, input) = (path(&format!("{name}.onnx")), path("min-x4.npy"));
        // The array has a channel less than the depthwise convolution.
        if name != "min-convdw" {
            refused(&place, &["run", &model, "-i", &input, "-o", "y.npy", "--costs", "shipped", "--force"]);
        }
        refused(&place, &["bench", &model, "--costs", "shipped"]);
        assert_eq!(place.run(&["inspect", &model]).status.code(), Some(2), "{name}");
    }
    let mut runs = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(stem) = name.strip_suffix(".x.npz") else { continue };
        let (model, input) = (path(&format!("{stem}.m.onnx")), path(&name));
        let arguments = ["run", &model, "-i", &input, "-o", "out", "--costs", "shipped", "--force"];
        // Attention whose queries lie beyond the keys is legal: their rows are empty.
        match place.run(&arguments).status.code() {
            Some(0) if matches!(stem, "ext-run-7e3df3ab84" | "ext-run-9879332bbf") => {}
            _ => drop(refused(&place, &arguments)),
        }
        runs += 1;
    }
    assert!(runs > 0, "there are no inputs in {}", folder.display());
}
