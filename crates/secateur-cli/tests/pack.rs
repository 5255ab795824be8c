//! Packed files as a user meets them: smaller, read by every command, dense again bit for bit.

mod common;

use common::{Place, bytes, json};

fn pruned(p: &Place, method: &str) {
    p.ok(&["prune", "digits.onnx", "-o", "pruned.onnx", "-m", method, "-s", "0.5"]);
    p.ok(&["convert", "pruned.onnx", "-o", "dense.safetensors"]);
}

#[test]
fn packed_files_are_smaller_and_unpack_to_the_same_bits() {
    let p = Place::new();
    for (method, layout) in [("l1", "bitmask"), ("l1/2:4", "2:4")] {
        pruned(&p, method);
        let found =
            json(&p.ok(&["pack", "pruned.onnx", "-o", "packed.safetensors", "--json"]))["packed"].clone();
        let layouts: Vec<_> = found["tensors"].as_array().unwrap().iter().map(|t| &t["layout"]).collect();
        assert!(layouts.iter().any(|l| *l == layout), "{layouts:?}");
        assert_eq!(found["max_relative_error"], 0.0);
        let (before, after) =
            (bytes(&p.path("dense.safetensors")).len(), bytes(&p.path("packed.safetensors")).len());
        assert!((after as f64) < 0.75 * before as f64, "{before} {after}");
        // The table tells the truth, but for the header.
        assert!(after.abs_diff(found["packed_bytes"].as_u64().unwrap() as usize) < 6000);
        p.ok(&["unpack", "packed.safetensors", "-o", "again.safetensors"]);
        let difference = json(&p.ok(&["diff", "dense.safetensors", "again.safetensors", "--json"]));
        let of_packed = json(&p.ok(&["diff", "dense.safetensors", "packed.safetensors", "--json"]));
        assert_eq!(difference["tensors"], of_packed["tensors"]);
        // What is dense again is written as if it had never been packed, but for the order.
        let [dense, again] = ["dense.safetensors", "again.safetensors"].map(|f| bytes(&p.path(f)).len());
        assert!(dense.abs_diff(again) < 2000);
        for file in ["packed.safetensors", "again.safetensors"] {
            std::fs::remove_file(p.path(file)).unwrap();
        }
        for file in ["pruned.onnx", "dense.safetensors"] {
            std::fs::remove_file(p.path(file)).unwrap();
        }
    }
}

#[test]
fn commands_read_packed_files_as_dense_ones() {
    let p = Place::new();
    pruned(&p, "l1");
    p.ok(&["pack", "pruned.onnx", "-o", "packed.safetensors"]);
    let [dense, packed] = ["dense.safetensors", "packed.safetensors"].map(|file| {
        let found = json(&p.ok(&["inspect", file, "--json"]));
        (found["prunable"].clone(), found["parameters"].clone())
    });
    assert_eq!(dense, packed);
    let eval = |file: &str| {
        let data = ["--graph", "digits.onnx", "--data", "digits-test.npz", "--json"];
        json(&p.ok(&[&["eval", file], &data[..]].concat()))["metrics"].clone()
    };
    assert_eq!(eval("dense.safetensors"), eval("packed.safetensors"));
    for file in ["dense", "packed"] {
        let input = format!("{file}.safetensors");
        p.ok(&["prune", &input, "-o", &format!("{file}-80.safetensors"), "-m", "l1@global", "-s", "0.8"]);
    }
    p.ok(&["unpack", "packed-80.safetensors", "-o", "unpacked-80.safetensors"]);
    let found = json(&p.ok(&["diff", "dense-80.safetensors", "unpacked-80.safetensors", "--json"]));
    let itself = json(&p.ok(&["diff", "dense-80.safetensors", "dense-80.safetensors", "--json"]));
    assert_eq!(found["tensors"], itself["tensors"]);
}

#[test]
fn packed_onnx_files_are_onnx_files() {
    let p = Place::new();
    pruned(&p, "l1");
    let said = p.ok(&["pack", "pruned.onnx", "-o", "packed.onnx"]);
    assert!(!said.contains("graph is left out"), "{said}");
    let [before, after] = ["pruned.onnx", "packed.onnx"].map(|f| bytes(&p.path(f)).len());
    assert!((after as f64) < 0.8 * before as f64, "{before} {after}");
    p.ok(&["unpack", "packed.onnx", "-o", "again.onnx"]);
    assert_eq!(bytes(&p.path("again.onnx")), bytes(&p.path("pruned.onnx")));
    for (command, key) in [("inspect", "prunable"), ("inspect", "operators"), ("eval", "metrics")] {
        let data: &[&str] = if command == "eval" { &["--data", "digits-test.npz"] } else { &[] };
        let of = |file: &str| json(&p.ok(&[&[command, file, "--json"], data].concat()))[key].clone();
        assert_eq!(of("packed.onnx"), of("pruned.onnx"), "{command}");
    }
    // What is packed already is as small as that says.
    let sizes = |file: &str| json(&p.ok(&["inspect", file, "--sizes", "--json"]))["bytes"].clone();
    let [dense, packed] = [sizes("pruned.onnx"), sizes("packed.onnx")];
    assert_eq!(packed["packed"], packed["raw"]);
    // Its bound is the dense one's with the names, calls and functions that the packed file has besides.
    let bound = |size: &serde_json::Value| size["entropy"].as_f64().unwrap();
    assert!(packed["entropy"].as_f64() < packed["raw"].as_f64());
    assert!((0.0..0.08 * after as f64).contains(&(bound(&packed) - bound(&dense))), "{dense} {packed}");
    p.ok(&["verify", "packed.onnx"]);
    // Pruned further it has the weights that the dense one has; and safetensors takes the packed form over.
    for file in ["pruned", "packed"] {
        let [input, output] = [format!("{file}.onnx"), format!("{file}-80.onnx")];
        p.ok(&["prune", &input, "-o", &output, "-m", "l1@global", "-s", "0.8"]);
    }
    p.ok(&["convert", "packed.onnx", "-o", "packed.safetensors"]);
    for (one, other) in [("pruned-80.onnx", "packed-80.onnx"), ("packed.onnx", "packed.safetensors")] {
        let found = json(&p.ok(&["diff", one, other, "--json"]));
        let itself = json(&p.ok(&["diff", one, one, "--json"]));
        assert_eq!(found["tensors"], itself["tensors"]);
    }
    assert!(bytes(&p.path("packed.safetensors")).len() < before);
    // A checkpoint has no graph.
    let message = p.fails(2, &["pack", "packed.safetensors", "-o", "x.onnx"]);
    assert!(message.contains("needs the graph"), "{message}");
}

#[test]
fn rounding_is_reported_and_other_outputs_are_refused() {
    let p = Place::new();
    pruned(&p, "l1");
    let mut before = f64::INFINITY;
    for (values, bound) in [("f32", 0.0), ("f16", 5e-4), ("int8", 4e-3)] {
        let output = format!("{values}.safetensors");
        let found = json(&p.ok(&["pack", "pruned.onnx", "-o", &output, "--values", values, "--json"]));
        let found = &found["packed"];
        let [max, packed] = ["max_relative_error", "packed_bytes"].map(|key| found[key].as_f64().unwrap());
        assert!(max <= bound && (max > 0.0) == (bound > 0.0), "{values}: {max}");
        assert!(packed < before);
        before = packed;
        // The bound is of the values as they are stored.
        let bytes = json(&p.ok(&["inspect", &output, "--sizes", "--json"]))["bytes"].clone();
        assert!(bytes["entropy"].as_f64() < bytes["raw"].as_f64(), "{values}: {bytes}");
    }
    let table = p.ok(&["pack", "pruned.onnx", "-o", "table.safetensors", "--values", "int8"]);
    assert!(table.contains("RMS error") && table.contains("weights became zero"), "{table}");
    for output in ["x.pth", "x"] {
        let message = p.fails(2, &["pack", "pruned.onnx", "-o", output]);
        assert!(message.contains(".safetensors"), "{message}");
    }
}

/// A weight and a tensor with the name that a part of it would get: both are written, and it is said.
#[test]
fn a_taken_name_is_said() {
    let p = Place::new();
    let header = r#"{"fc.weight":{"dtype":"F32","shape":[8,64],"data_offsets":[0,2048]},"fc.bitmask":{"dtype":"F32","shape":[1],"data_offsets":[2048,2052]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..512).flat_map(|i| if i % 8 == 0 { 1f32 } else { 0.0 }.to_le_bytes()));
    file.extend(7f32.to_le_bytes());
    std::fs::write(p.path("taken.safetensors"), file).unwrap();
    let said = p.ok(&["pack", "taken.safetensors", "-o", "packed.safetensors"]);
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = "fc.weight: kept dense: a packed part would have the same name as tensor fc.bitmask";
    assert!(words.contains(expected), "{said}");
    assert!(said.contains("0 tensors packed"), "{said}");
    let same = json(&p.ok(&["diff", "taken.safetensors", "packed.safetensors", "--json"]));
    let changed: Vec<_> = same["tensors"].as_array().unwrap().iter().map(|t| &t["changed"][0]).collect();
    assert_eq!(changed, [0, 0], "{same}");
}
