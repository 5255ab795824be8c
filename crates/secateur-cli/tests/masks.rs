//! Masks as a user meets them: composed over rounds, from files, beside the model and as PyTorch's pairs,
//! taken back and made permanent; files compared and checked.

mod common;
#[path = "../../secateur/tests/common/shared.rs"]
mod shared;

use std::sync::Arc;

use common::{Place, bytes, json};
use secateur::{DType, Model, Patch, io};
use secateur_model::model::Storage;
use secateur_model::{Data, StoredTensor};
use shared::shared;

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
    p.ok(&["prune", "digits.onnx", "-o", "a.onnx", "-m", "l1", "-s", "0.5", "--masks", "sidecar"]);
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
    assert!(message.contains("--masks sidecar"), "{message}");
}

#[test]
fn masks_come_from_files_and_compose() {
    let p = Place::new();
    // `beside` is what `sidecar` was called before.
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

/// A checkpoint of three linear layers, of which the first and the last are one.
fn tied(p: &Place, name: &str) -> Model {
    let values = |seed: f32| (0..768).map(|i| (i as f32 * seed).sin()).collect::<Vec<f32>>();
    let shared = Storage::Data(Arc::new(Data::F32(values(12.9898))));
    let own = Storage::Data(Arc::new(Data::F32(values(78.233))));
    let tensors =
        [("a.weight", &shared), ("middle.weight", &own), ("z.weight", &shared)].map(|(path, storage)| {
            let (path, storage) = (path.to_string(), storage.clone());
            (path.clone(), StoredTensor { path, dtype: DType::F32, shape: vec![24, 32], storage })
        });
    let tensors = tensors.into_iter().collect();
    let model = Model { tensors, graph: None, path: None, source: io::Source::memory() };
    let path = p.path(name);
    let format = io::format_of(&path).unwrap();
    io::convert(&model, &Patch::new(), &[], format, &path, io::WriteOptions::default()).unwrap();
    io::read(path).unwrap()
}

/// The paths of tied tensors, in groups.
fn ties(model: &Model) -> Vec<Vec<String>> {
    let path = |&id: &_| model.tensor(id).path.clone();
    model.aliases().iter().map(|group| group.iter().map(path).collect()).collect()
}

fn same_tensors(one: &Model, other: &Model) {
    assert!(one.tensors.keys().eq(other.tensors.keys()));
    for (path, stored) in &one.tensors {
        let (one, other) = (stored.load().unwrap(), other.tensors[path].load().unwrap());
        assert_eq!(one.shape(), other.shape(), "{path}");
        let bytes = |data| secateur_model::model::encode(data).unwrap();
        assert!(bytes(one.data()) == bytes(other.data()), "{path}");
    }
}

#[test]
fn every_form_in_every_container_is_undone_and_keeps_ties() {
    let p = Place::new();
    checkpoint(&p);
    p.ok(&["convert", "digits.onnx", "-o", "digits.pth"]);
    tied(&p, "tied.pth");
    tied(&p, "tied.safetensors");
    let forms: [&[&str]; 3] =
        [&["--keep-originals"], &["--masks", "sidecar", "--keep-originals"], &["--masks", "pairs"]];
    let mut n = 0;
    for input in ["digits.onnx", "digits.safetensors", "digits.pth", "tied.pth", "tied.safetensors"] {
        let before = io::read(p.path(input)).unwrap();
        let ending = input.rsplit_once('.').unwrap().1;
        for form in forms.iter().filter(|form| !(ending == "onnx" && form.contains(&"pairs"))) {
            n += 1;
            let name = |what: &str| format!("{n}-{what}.{ending}");
            let (once, twice, undone, last) = (name("1"), name("2"), name("undone"), name("final"));
            p.ok(&[&["prune", input, "-o", &once, "-m", "random", "-s", "0.3"], *form].concat());
            p.ok(&["prune", &once, "-o", &twice, "-m", "l1@global", "-s", "0.6"]);
            p.ok(&["verify", &twice]);
            p.ok(&["undo", &twice, "-o", &undone]);
            let again = io::read(p.path(&undone)).unwrap();
            same_tensors(&before, &again);
            assert_eq!(ties(&again), ties(&before), "{twice}");
            p.ok(&["finalize", &twice, "-o", &last]);
            p.ok(&["verify", &last, "-m", "l1@global", "-s", "0.6"]);
            let permanent = io::read(p.path(&last)).unwrap();
            assert_eq!(ties(&permanent), ties(&before), "{last}");
            assert!(permanent.tensors.keys().eq(before.tensors.keys()));
        }
    }
}

#[test]
fn tied_weights_become_tied_pairs() {
    let p = Place::new();
    tied(&p, "tied.pth");
    p.ok(&["prune", "tied.pth", "-o", "pairs.pth", "-m", "l1", "-s", "0.5", "--masks", "pairs"]);
    let pairs = io::read(p.path("pairs.pth")).unwrap();
    let names = |end: &str| vec![format!("a.weight_{end}"), format!("z.weight_{end}")];
    assert_eq!(ties(&pairs), [names("orig"), names("mask")]);
    p.ok(&["verify", "pairs.pth"]);
    // Plain zeros, other formats and packed files.
    p.ok(&["prune", "pairs.pth", "-o", "zeros.pth", "-m", "l1", "-s", "0.9", "--masks", "zeros"]);
    p.ok(&["convert", "zeros.pth", "-o", "zeros.safetensors"]);
    p.ok(&["pack", "zeros.safetensors", "-o", "packed.safetensors"]);
    p.ok(&["unpack", "packed.safetensors", "-o", "unpacked.safetensors"]);
    p.ok(&["convert", "unpacked.safetensors", "-o", "again.pth"]);
    let zeros = io::read(p.path("zeros.pth")).unwrap();
    for file in ["zeros.pth", "zeros.safetensors", "packed.safetensors", "unpacked.safetensors", "again.pth"]
    {
        let model = io::read(p.path(file)).unwrap();
        assert_eq!(ties(&model), [["a.weight", "z.weight"]], "{file}");
        same_tensors(&zeros, &model);
    }
}

#[test]
fn the_shared_tied_checkpoint() {
    let Some(file) = shared("cases/tied_linear.pt") else { return };
    let p = Place::new();
    let file = file.to_str().unwrap();
    p.ok(&["prune", file, "-o", "pairs.pt", "-m", "l1", "-s", "0.5", "--masks", "pairs"]);
    p.ok(&["verify", "pairs.pt"]);
    p.ok(&["finalize", "pairs.pt", "-o", "final.pt"]);
    p.ok(&["verify", "final.pt", "-m", "l1", "-s", "0.5"]);
    p.ok(&["undo", "pairs.pt", "-o", "undone.pt"]);
    let before = io::read(file).unwrap();
    assert!(!ties(&before).is_empty());
    for name in ["final.pt", "undone.pt"] {
        assert_eq!(ties(&io::read(p.path(name)).unwrap()), ties(&before), "{name}");
    }
    same_tensors(&before, &io::read(p.path("undone.pt")).unwrap());
}

#[test]
fn sparse_initializers_are_pruned_measured_and_undone() {
    let Some(file) = shared("cases/sparse_init_flat.onnx") else { return };
    let p = Place::new();
    let file = file.to_str().unwrap();
    p.ok(&["prune", file, "-o", "a.onnx", "-m", "l1", "-s", "0.8", "--keep-originals"]);
    p.ok(&["verify", "a.onnx"]);
    p.ok(&["undo", "a.onnx", "-o", "b.onnx"]);
    assert_eq!(bytes(&p.path("b.onnx")), bytes(std::path::Path::new(file)));
    p.ok(&["sizes", file, "-o", "sizes", "--methods", "l1", "--step", "0.5"]);
}

#[test]
fn undo_brings_back_the_recipe_of_an_earlier_round() {
    let p = Place::new();
    checkpoint(&p);
    p.ok(&["convert", "digits.onnx", "-o", "digits.pth"]);
    for (input, kept) in [
        ("digits.onnx", &["--keep-originals"][..]),
        ("digits.safetensors", &["--keep-originals"]),
        ("digits.pth", &["--masks", "pairs"]),
    ] {
        let ending = input.rsplit_once('.').unwrap().1;
        let name = |n: u32| format!("{n}.{ending}");
        p.ok(&["prune", input, "-o", &name(1), "-m", "l1", "-s", "0.5"]);
        p.ok(&[&["prune", &name(1), "-o", &name(2), "-m", "l1", "-s", "0.7"], kept].concat());
        p.ok(&["prune", &name(2), "-o", &name(3), "-m", "l1", "-s", "0.8"]);
        p.ok(&["undo", &name(3), "-o", &name(4)]);
        p.ok(&["verify", &name(4)]);
        let metadata = |n: u32| io::read(p.path(&name(n))).unwrap().source.metadata().to_vec();
        let recipe = |n: u32| metadata(n).into_iter().find(|(key, _)| key == "secateur.recipe").unwrap();
        assert_eq!(recipe(4), recipe(1));
        assert!(!metadata(4).iter().any(|(key, _)| key == "secateur.before"));
        same_tensors(&io::read(p.path(&name(1))).unwrap(), &io::read(p.path(&name(4))).unwrap());
    }
}

/// A checkpoint with a training script's average of the weights, an int8 layer and an output projection.
fn mixed(p: &Place) {
    let values: Vec<f32> = (0..48).map(|i| (i as f32 * 12.9898).sin()).collect();
    let float = Data::F32(values.clone());
    let int8 = Data::I8(values.iter().map(|v| (v * 100.0) as i8).collect());
    let tensors =
        [("a.weight", &float), ("b.weight", &int8), ("lm_head.weight", &float)].map(|(path, data)| {
            let storage = Storage::Data(Arc::new(data.clone()));
            let path = path.to_string();
            (path.clone(), StoredTensor { path, dtype: data.dtype(), shape: vec![6, 8], storage })
        });
    let tensors = tensors.into_iter().collect();
    let model = Model { tensors, graph: None, path: None, source: io::Source::memory() };
    let (path, options) = (p.path("mixed.safetensors"), io::WriteOptions::default());
    io::convert(&model, &Patch::new(), &[], &io::SAFETENSORS, &path, options).unwrap();
}

#[test]
fn what_stays_dense_is_said() {
    let p = Place::new();
    mixed(&p);
    let text = p.ok(&["prune", "mixed.safetensors", "-o", "a.safetensors", "-m", "l1", "-s", "0.5"]);
    assert!(text.contains("`lm_head.weight`") && text.contains("`--include lm_head.weight`"), "{text}");
    assert!(text.contains("`b.weight`") && text.contains("quantised weights cannot be pruned yet"), "{text}");
    let text = p.ok(&["verify", "a.safetensors"]);
    assert!(!text.contains("OK: all"), "{text}");
    assert!(text.contains("33.3 % of the layers' 144 weights"), "{text}");
    assert!(text.contains("`lm_head.weight`") && text.contains("`b.weight`"), "{text}");
    let found = json(&p.ok(&["prune", "mixed.safetensors", "--dry-run", "-m", "l1", "-s", "0.5", "--json"]));
    let dense: Vec<&str> = found["coverage"]["dense"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["tensor"].as_str().unwrap())
        .collect();
    assert_eq!(dense, ["lm_head.weight", "b.weight"]);
    assert_eq!(found["coverage"]["weights"], 144);
    let found = json(&p.ok(&["inspect", "mixed.safetensors", "--json"]));
    assert_eq!(found["parameters"]["total"], 144);
    let text = p.ok(&["inspect", "mixed.safetensors"]);
    assert!(text.contains("dense by default: a language model's output projection"), "{text}");

    // Asked for by name it takes part; a glob that matches others as well does not ask for it.
    let layers = |arguments: &[&str]| {
        let all =
            [&["prune", "mixed.safetensors", "--dry-run", "-m", "l1", "-s", "0.5", "--json"], arguments];
        let found = json(&p.ok(&all.concat()));
        let layers = found["layers"].as_array().unwrap().clone();
        layers.iter().map(|l| l["tensor"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(layers(&["--include", "lm_head*"]), ["lm_head.weight"]);
    assert_eq!(layers(&["--include", "*,lm_head*"]), ["a.weight", "lm_head.weight"]);
    assert_eq!(layers(&["--include", "*"]), ["a.weight"]);
    assert_eq!(layers(&["--exclude", "lm_head*"]), ["a.weight"]);
    assert_eq!(layers(&["--layer", "lm_head*=0"]), ["a.weight"]);
    let message = p.fails(
        2,
        &["prune", "mixed.safetensors", "--dry-run", "-m", "l1", "-s", "0.5", "--layer", "lm_head*=0.9"],
    );
    assert!(message.contains("`--include lm_head.weight`"), "{message}");
}

/// A moving average of the weights beside them (EMA) stays as it is, and both commands say so.
#[test]
fn copies_beside_the_weights_are_named() {
    let p = Place::new();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../secateur-model/tests/goldens/torch/averaged.pt");
    let pruned = p.ok(&["prune", golden, "-o", "pruned.pt", "--method", "l1", "--sparsity", "0.5"]);
    let checked = p.ok(&["verify", "pruned.pt"]);
    for said in [&pruned, &checked] {
        assert!(said.contains("`model_ema.0.weight`, `model_ema.2.weight`, 48 weights"), "{said}");
        assert!(said.contains("a copy beside the state dict"), "{said}");
    }
    let found = json(&p.ok(&["diff", golden, "pruned.pt", "--json"]));
    for tensor in found["tensors"].as_array().unwrap() {
        let path = tensor["path"].as_str().unwrap();
        let kept = path.starts_with("model_ema") || path.ends_with("bias");
        assert_eq!(tensor["changed"][0] == 0, kept, "{tensor}");
    }
}

#[test]
fn tied_tensors_are_packed_as_one() {
    let p = Place::new();
    let model = tied(&p, "tied.safetensors");
    for values in ["int8", "f16"] {
        p.ok(&["pack", "tied.safetensors", "-o", "packed.safetensors", "--values", values, "--force"]);
        let packed = io::read(p.path("packed.safetensors")).unwrap();
        assert_eq!(ties(&packed), ties(&model), "{values}");
        assert!(packed.tensors.values().all(|tensor| tensor.packed().is_some()), "{values}");
    }
}

/// Biases that masks prune already stay so when their channels are pruned, and `verify` reads these masks.
#[test]
fn channels_join_the_masks_of_biases() {
    let p = Place::new();
    checkpoint(&p);
    let pairs = ["--masks", "pairs"];
    let first = ["prune", "digits.safetensors", "-o", "b.safetensors", "--biases", "-m", "l1", "-s", "0.5"];
    p.ok(&[&first[..], &pairs].concat());
    p.ok(&["prune", "b.safetensors", "-o", "c.safetensors", "-m", "l2/channel", "-s", "0.3"]);
    p.ok(&["verify", "c.safetensors"]);
    let [before, after] = ["b", "c"].map(|name| {
        let to = format!("{name}-final.safetensors");
        p.ok(&["finalize", &format!("{name}.safetensors"), "-o", &to]);
        io::read(p.path(&to)).unwrap()
    });
    let mut zeros = 0;
    for (path, stored) in before.tensors.iter().filter(|(path, _)| path.ends_with("bias")) {
        let values = |stored: &StoredTensor| stored.load().unwrap().to_f32s().unwrap();
        for (b, a) in values(stored).into_iter().zip(values(&after.tensors[path])) {
            assert!(b != 0.0 || a == 0.0, "{path}");
            zeros += usize::from(b == 0.0);
        }
    }
    assert!(zeros > 0);
}

/// Two names that differ in their beginnings alone do not share a partner.
#[test]
fn a_tensor_is_compared_once() {
    let model = |paths: &[&str]| {
        let tensors = paths.iter().enumerate().map(|(seed, path)| {
            let storage = Storage::Data(Arc::new(Data::F32(vec![seed as f32; 4])));
            (
                path.to_string(),
                StoredTensor { path: path.to_string(), dtype: DType::F32, shape: vec![4], storage },
            )
        });
        Model { tensors: tensors.collect(), graph: None, path: None, source: io::Source::memory() }
    };
    let (first, second) = (model(&["module.x", "model.x"]), model(&["x"]));
    let found = secateur::diff::diff(&first, &second, &secateur::infer::Binding::default()).unwrap();
    assert_eq!(found.tensors.len(), 1);
    assert_eq!(found.only_first, ["model.x"]);
    assert!(found.only_second.is_empty());
}

#[test]
fn solved_weights_go_where_masks_go() {
    let p = Place::new();
    let method = ["-m", "l1+kernel-sum", "-s", "0.6", "--ops", "Conv"];
    let prune = |output: &str, further: &[&str]| {
        p.ok(&[&["prune", "digits.onnx", "-o", output][..], &method, further].concat());
    };
    p.ok(&["prune", "digits.onnx", "-o", "l1.onnx", "-m", "l1", "-s", "0.6", "--ops", "Conv"]);
    prune("solved.onnx", &["--masks", "sidecar", "--keep-originals"]);
    p.ok(&["verify", "solved.onnx"]);
    let found = json(&p.ok(&["diff", "l1.onnx", "solved.onnx", "--json"]));
    let changed = |found: &serde_json::Value| {
        let tensors = found["tensors"].as_array().unwrap();
        tensors.iter().map(|t| t["changed"][0].as_u64().unwrap()).sum::<u64>()
    };
    assert!(changed(&found) > 0, "{found}");
    // The sidecar holds what was there before solving.
    p.ok(&["undo", "solved.onnx", "-o", "undone.onnx"]);
    assert_eq!(bytes(&p.path("undone.onnx")), bytes(&p.path("digits.onnx")));
    // What is pruned stays so, and a second round goes on from the solved weights.
    p.ok(&[
        "prune",
        "solved.onnx",
        "-o",
        "further.onnx",
        "-m",
        "l1+kernel-sum",
        "-s",
        "0.7",
        "--ops",
        "Conv",
    ]);
    p.ok(&["verify", "further.onnx"]);
    p.ok(&["undo", "further.onnx", "-o", "undone2.onnx"]);
    assert_eq!(bytes(&p.path("undone2.onnx")), bytes(&p.path("digits.onnx")));
}
