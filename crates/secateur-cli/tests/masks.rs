//! Masks as a user meets them: composed over rounds, from files, beside the model and as PyTorch's pairs,
//! taken back and made permanent; files compared and checked.

mod common;

use common::{Place, bytes, json};

/// A checkpoint of the embedded model.
fn checkpoint(p: &Place) {
    p.ok(&["convert", "digits.onnx", "-o", "digits.safetensors"]);
}

fn sparsity(p: &Place, file: &str) -> f64 {
    let found = json(&p.ok(&["inspect", file, "--json"]));
    let count = |key: &str| found["prunable"][key].as_f64().unwrap();
    1.0 - count("nonzero") / count("total")
}

#[test]
fn undo_gives_back_the_same_bytes_after_several_rounds() {
    let p = Place::new();
    checkpoint(&p);
    for (input, ending) in [("digits.onnx", "onnx"), ("digits.safetensors", "safetensors")] {
        let name = |n: u32| format!("{n}.{ending}");
        let first = ["-m", "l1", "-s", "0.5", "--keep-originals"];
        p.ok(&[&["prune", input, "-o", &name(1)], &first[..]].concat());
        // The second round carries the originals on without being asked.
        p.ok(&["prune", &name(1), "-o", &name(2), "-m", "l2/channel", "-s", "0.25"]);
        assert!(p.path(&format!("2.{ending}.masks.safetensors")).is_file());
        p.ok(&["undo", &name(2), "-o", &name(3)]);
        assert_eq!(bytes(&p.path(&name(3))), bytes(&p.path(input)));
    }
}

#[test]
fn undo_needs_originals() {
    let p = Place::new();
    p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "-m", "l1", "-s", "0.5", "--masks", "beside"]);
    let message = p.fails(2, &["undo", "a.onnx", "-o", "b.onnx"]);
    assert!(message.contains("without originals"), "{message}");
    std::fs::remove_file(p.path("a.onnx.masks.safetensors")).unwrap();
    let message = p.fails(2, &["undo", "a.onnx", "-o", "b.onnx"]);
    assert!(message.contains("--keep-originals"), "{message}");
}

#[test]
fn pairs_hold_originals_and_masks_over_rounds() {
    let p = Place::new();
    checkpoint(&p);
    p.ok(&[
        "prune",
        "digits.safetensors",
        "-o",
        "a.safetensors",
        "-m",
        "l1",
        "-s",
        "0.5",
        "--masks",
        "pairs",
    ]);
    p.ok(&["prune", "a.safetensors", "-o", "b.safetensors", "-m", "l1", "-s", "0.5", "--of-remaining"]);
    assert!((sparsity(&p, "a.safetensors") - 0.5).abs() < 0.001);
    assert!((sparsity(&p, "b.safetensors") - 0.75).abs() < 0.001);
    let tensors = secateur::io::read(p.path("b.safetensors")).unwrap().tensors;
    let original = secateur::io::read(p.path("digits.safetensors")).unwrap().tensors;
    for (path, stored) in &tensors {
        if let Some(path) = path.strip_suffix("_orig") {
            assert!(tensors.contains_key(&format!("{path}_mask")));
            assert_eq!(stored.load().unwrap().data(), original[path].load().unwrap().data());
        }
    }
    p.ok(&["undo", "b.safetensors", "-o", "c.safetensors"]);
    assert!(p.ok(&["diff", "c.safetensors", "digits.safetensors"]).contains("MACs"));
    let found = json(&p.ok(&["diff", "c.safetensors", "digits.safetensors", "--json"]));
    assert!(found["tensors"].as_array().unwrap().iter().all(|t| t["changed"][0] == 0), "{found}");
    p.ok(&["finalize", "b.safetensors", "-o", "d.safetensors"]);
    assert!((sparsity(&p, "d.safetensors") - 0.75).abs() < 0.001);
    p.ok(&["verify", "d.safetensors", "-m", "l1", "-s", "0.75"]);
    let message =
        p.fails(2, &["prune", "digits.onnx", "-o", "x.onnx", "-m", "l1", "-s", "0.5", "--masks", "pairs"]);
    assert!(message.contains("--masks beside"), "{message}");
}

#[test]
fn masks_come_from_files_and_compose() {
    let p = Place::new();
    p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "-m", "random", "-s", "0.3", "--masks", "beside"]);
    p.ok(&["prune", "digits.onnx", "-o", "b.onnx", "--mask", "a.onnx.masks.safetensors"]);
    let found = json(&p.ok(&["diff", "a.onnx", "b.onnx", "--json"]));
    assert!(found["tensors"].as_array().unwrap().iter().all(|t| t["changed"][0] == 0), "{found}");
    // What the file prunes counts: the rest goes by magnitude, and nothing is revived.
    p.ok(&[
        "prune",
        "digits.onnx",
        "-o",
        "c.onnx",
        "--mask",
        "a.onnx.masks.safetensors",
        "-m",
        "l1",
        "-s",
        "0.6",
    ]);
    assert!((sparsity(&p, "c.onnx") - 0.6).abs() < 0.001);
    let (a, c) =
        (secateur::io::read(p.path("a.onnx")).unwrap(), secateur::io::read(p.path("c.onnx")).unwrap());
    for (path, stored) in &a.tensors {
        let (a, c) = (stored.load().unwrap(), c.tensors[path].load().unwrap());
        if let (Ok(a), Ok(c)) = (a.to_f32s(), c.to_f32s()) {
            assert!(a.iter().zip(&c).all(|(a, c)| *a != 0.0 || *c == 0.0), "{path}");
        }
    }
    let message = p.fails(2, &["prune", "digits.onnx", "-o", "d.onnx", "--mask", "digits.onnx"]);
    assert!(message.contains("neither 0 nor 1") || message.contains("cannot be pruned"), "{message}");
}

#[test]
fn masks_of_another_version_are_noticed() {
    let p = Place::new();
    p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "-m", "l1", "-s", "0.5", "--keep-originals"]);
    std::fs::copy(p.path("digits.onnx"), p.path("a.onnx")).unwrap();
    let message = p.fails(2, &["prune", "a.onnx", "-o", "b.onnx", "-m", "l1", "-s", "0.6"]);
    assert!(message.contains("another version"), "{message}");
}

#[test]
fn verify_tells_what_is_missing() {
    let p = Place::new();
    p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "-m", "l1", "-s", "0.5"]);
    // The recipe in the file, the same said by flags, less, and more.
    p.ok(&["verify", "a.onnx"]);
    p.ok(&["verify", "a.onnx", "-m", "l1", "-s", "0.5"]);
    p.ok(&["verify", "a.onnx", "-m", "l1@global", "-s", "0.4"]);
    let message = p.fails(1, &["verify", "a.onnx", "-m", "l1", "-s", "0.6"]);
    assert!(message.contains("zeros are missing in `"), "{message}");
    let message = p.fails(1, &["verify", "a.onnx", "-m", "l1@global", "-s", "0.6"]);
    assert!(message.contains("all selected tensors together"), "{message}");
    let message = p.fails(1, &["verify", "a.onnx", "-m", "l1/channel", "-s", "0.5"]);
    assert!(message.contains("missing"), "{message}");
    let message = p.fails(2, &["verify", "digits.onnx"]);
    assert!(message.contains("carries no recipe"), "{message}");
    let message = p.fails(2, &["verify", "a.onnx", "-m", "l1", "-s", "0.5", "--of-remaining"]);
    assert!(message.contains("of what remained"), "{message}");
}

#[test]
fn diff_compares_across_formats() {
    let p = Place::new();
    checkpoint(&p);
    let found = json(&p.ok(&["diff", "digits.onnx", "digits.safetensors", "--json"]));
    let tensors = found["tensors"].as_array().unwrap();
    assert!(!tensors.is_empty() && tensors.iter().all(|t| t["changed"][0] == 0), "{found}");
    assert!(found["macs"][0].as_u64().is_some() && found["macs"][1].is_null());
    p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "-m", "l1", "-s", "0.5"]);
    let found = json(&p.ok(&["diff", "digits.onnx", "a.onnx", "--json"]));
    assert!(found["effective_macs"][1].as_u64() < found["effective_macs"][0].as_u64());
}

#[test]
fn compressed_files_are_read_by_every_command() {
    let p = Place::new();
    p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "-m", "l1", "-s", "0.8", "--compress", "zstd"]);
    assert!(p.path("a.onnx.zst").is_file() && !p.path("a.onnx").exists());
    p.ok(&["verify", "a.onnx.zst"]);
    p.ok(&["convert", "a.onnx.zst", "-o", "b.onnx"]);
    p.ok(&["convert", "b.onnx", "-o", "b.onnx.gz"]);
    assert!((sparsity(&p, "b.onnx.gz") - 0.8).abs() < 0.001);
    assert!(std::fs::metadata(p.path("b.onnx.gz")).unwrap().len() < bytes(&p.path("b.onnx")).len() as u64);
    let message = p.fails(2, &["convert", "digits.onnx", "-o", "digits.xyz"]);
    assert!(message.contains("unknown output extension"), "{message}");
}
