//! `secateur groups` and `secateur shrink`.

mod common;

use common::{Place, json};
use secateur::io;

const DATA: [&str; 4] = ["--data", "digits-test.npz", "--scale", "0.0625"];

#[test]
fn groups_are_shown_with_the_reasons_of_those_that_stay() {
    let place = Place::new();
    let out = place.ok(&["groups", "digits.onnx"]);
    assert!(out.contains("made by") && out.contains("frozen") && out.contains("of the model"), "{out}");
    let found = json(&place.ok(&["groups", "digits.onnx", "--json"]));
    let groups = found["groups"].as_array().unwrap();
    assert!(
        groups.iter().any(|group| group["frozen"].is_null() && group["macs"].as_u64().unwrap() > 0),
        "{found}"
    );
}

#[test]
fn channels_leave_the_file_and_the_rest_computes_the_same() {
    let place = Place::new();
    let shrink =
        ["shrink", "digits.onnx", "-o", "small.onnx", "--method", "l2/channel@global", "--sparsity", "0.4"];
    let found = json(&place.ok(&[&shrink[..], &["--json"]].concat()));
    let parameters = |key: &str| found[key]["parameters"].as_u64().unwrap();
    assert!(parameters("after") * 10 < parameters("before") * 8, "{found}");
    assert!(found["difference"].as_f64().unwrap() < 1e-4, "{found}");
    // The list of what is left says the shapes of the tensors of the file.
    let kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("small.onnx.kept.json")).unwrap()).unwrap();
    let small = io::read(place.path("small.onnx")).unwrap();
    for (tensor, axes) in kept.as_object().unwrap() {
        for (axis, indices) in axes.as_object().unwrap() {
            let extent = small.tensors[tensor.as_str()].shape[axis.parse::<usize>().unwrap()];
            assert_eq!(extent, indices.as_array().unwrap().len());
        }
    }
    place.ok(&[&["eval", "small.onnx"], &DATA[..]].concat());
    // Nothing is replaced unasked.
    assert!(place.fails(2, &shrink).contains("--force"));
}

#[test]
fn zero_channels_leave_whoever_pruned_them() {
    let place = Place::new();
    place.ok(&["prune", "digits.onnx", "-o", "pruned.onnx", "--method", "l2/channel", "--sparsity", "0.5"]);
    let out = place.ok(&["shrink", "pruned.onnx", "-o", "small.onnx"]);
    assert!(out.contains("with these channels zero, within"), "{out}");
    let measures =
        |file| json(&place.ok(&[&["eval", file, "--json"], &DATA[..]].concat()))["measures"].clone();
    let (before, after) = (measures("pruned.onnx"), measures("small.onnx"));
    assert_eq!(before[1]["value"], after[1]["value"], "{before} {after}");
    let size = |file| std::fs::metadata(place.path(file)).unwrap().len();
    assert!(size("small.onnx") * 4 < size("pruned.onnx") * 3);
}

#[test]
fn what_cannot_be_done_is_said() {
    let place = Place::new();
    let message =
        place.fails(2, &["shrink", "digits.onnx", "-o", "x.onnx", "--method", "l1", "--sparsity", "0.5"]);
    assert!(message.contains("l2/channel"), "{message}");
    let message = place.fails(2, &["shrink", "digits.onnx", "-o", "x.onnx"]);
    assert!(message.contains("no channel is zero"), "{message}");
}
