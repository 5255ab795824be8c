//! Packed tensors in safetensors: round trips, what compressed-tensors wrote, damaged files.

mod common;
#[path = "common/exercise.rs"]
mod exercise;

use std::path::PathBuf;
use std::sync::Arc;

use common::{Numbers, damage, id, python};
use secateur_model::io::{self, SAFETENSORS, WriteOptions};
use secateur_model::model::{Patch, encode};
use secateur_model::packed::{self, Choice, GroupLayout, Layout, ValueType};
use secateur_model::{Data, Model, Result, Tensor};

/// How a tensor is packed, where it is.
type How = Option<(Layout, ValueType)>;

/// A model of tensors by path, packed as said.
fn packed_file(tensors: Vec<(&str, Tensor, How)>) -> Vec<u8> {
    try_packed_file(tensors).unwrap()
}

fn try_packed_file(tensors: Vec<(&str, Tensor, How)>) -> Result<Vec<u8>> {
    let mut added = Patch::new();
    let empty = Model { tensors: Default::default(), graph: None, path: None, source: io::Source::memory() };
    for (path, tensor, _) in &tensors {
        let (shape, own) = (tensor.shape().to_vec(), tensor.clone());
        added.add(*path, tensor.dtype(), shape, None, Arc::new(move || Ok(own.clone())));
    }
    let folder = tempfile::tempdir().unwrap();
    let (dense, file) = (folder.path().join("dense.safetensors"), folder.path().join("packed.safetensors"));
    io::convert(&empty, &added, &[], &SAFETENSORS, &dense, WriteOptions::default())?;
    let model = io::read(&dense)?;
    let mut patch = Patch::new();
    for (path, tensor, how) in tensors {
        let Some((layout, kind)) = how else { continue };
        let packed = Arc::new(packed::pack(&tensor, layout, kind).unwrap().0);
        patch.set_packed(id(&model, path), packed.spec(), Arc::new(move || Ok(packed.clone())));
    }
    let metadata = [("about".to_string(), "a test".to_string())];
    io::write(&model, &patch, &metadata, &file, WriteOptions::default())?;
    Ok(std::fs::read(&file).unwrap())
}

fn sparse(shape: &[usize], every: usize) -> Tensor {
    let len: usize = shape.iter().product();
    let value = |i: usize| if i.is_multiple_of(every) { 0.25 + i as f32 } else { 0.0 };
    Tensor::new(shape, (0..len).map(value).collect::<Vec<f32>>()).unwrap()
}

/// A file of everything.
fn everything() -> (Vec<u8>, Vec<(&'static str, Tensor)>) {
    let mut strange = sparse(&[3, 11], 5);
    strange.values_mut::<f32>().unwrap()[..3].copy_from_slice(&[
        f32::MIN_POSITIVE,
        f32::from_bits(0x7fc0_1234),
        f32::MIN,
    ]);
    let exact = |layout| Some((layout, ValueType::Exact));
    let tensors = vec![
        ("fc.weight", strange.clone(), exact(Layout::bitmask(&[3, 11]))),
        ("conv.weight", sparse(&[2, 4, 3, 3], 3), exact(Layout::bitmask(&[2, 4, 3, 3]))),
        ("table", sparse(&[16, 2], 8), exact(Layout::Groups(GroupLayout { n: 1, m: 4, axis: 0 }))),
        ("half.weight", sparse(&[4, 8], 4), Some((Layout::bitmask(&[4, 8]), ValueType::F16))),
        ("int.weight", sparse(&[4, 8], 32), Some((Layout::bitmask(&[4, 8]), ValueType::Int8 { axis: 0 }))),
        ("fc.bias", sparse(&[3], 1), None),
    ];
    let bytes = packed_file(tensors.clone());
    (bytes, tensors.into_iter().map(|(path, tensor, _)| (path, tensor)).collect())
}

fn bits(tensor: &Tensor) -> Vec<u8> {
    encode(tensor.data()).unwrap()
}

#[test]
fn a_packed_file_reads_as_the_dense_one() {
    let (bytes, tensors) = everything();
    let model = io::read_bytes(bytes.clone()).unwrap();
    assert_eq!(model.tensors.len(), tensors.len());
    for (path, tensor) in &tensors {
        let stored = &model.tensors[*path];
        let loaded = stored.load().unwrap();
        assert_eq!((loaded.dtype(), loaded.shape()), (tensor.dtype(), tensor.shape()), "{path}");
        assert_eq!(stored.packed().is_some(), *path != "fc.bias");
        assert_eq!(bits(&loaded), bits(tensor), "{path}");
    }
    // Only what was given is among the metadata.
    assert_eq!(model.source.metadata(), [("about".to_string(), "a test".to_string())]);
    // Without a change the same bytes.
    assert_eq!(common::write(&model, &Patch::new()), bytes);
}

#[test]
fn a_change_makes_its_tensor_dense_and_leaves_the_others_packed() {
    let (bytes, _) = everything();
    let model = io::read_bytes(bytes).unwrap();
    let ones = vec![1f32; 33];
    let again =
        io::read_bytes(common::write(&model, &common::set(&model, "fc.weight", ones.clone()))).unwrap();
    assert!(again.tensors["fc.weight"].packed().is_none());
    assert_eq!(again.tensors["fc.weight"].load().unwrap().values::<f32>().unwrap(), ones);
    for (path, stored) in model.tensors.iter().filter(|(path, _)| *path != "fc.weight") {
        let other = &again.tensors[path];
        assert_eq!(other.packed().is_some(), stored.packed().is_some());
        assert_eq!(bits(&other.load().unwrap()), bits(&stored.load().unwrap()), "{path}");
    }
    // A change elsewhere leaves all packed, and metadata may be added.
    let mut out = Vec::new();
    let change = common::set(&model, "fc.bias", vec![1f32; 3]);
    io::write_stream(&model, &change, &[("more".into(), "said".into())], &mut out).unwrap();
    let again = io::read_bytes(out).unwrap();
    assert!(again.tensors["table"].packed().is_some());
    assert_eq!(again.source.metadata().len(), 2);
}

#[test]
fn damaged_files_are_errors_or_read() {
    let (bytes, _) = everything();
    exercise::model(&bytes);
    exercise::table(&bytes);
    exercise::packed(&bytes);
    for end in 0..bytes.len() {
        assert!(io::read_bytes(bytes[..end].to_vec()).is_err(), "cut at {end}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        exercise::model(&flipped);
        exercise::packed(&flipped);
    }
    let mut numbers = Numbers(7);
    for _ in 0..2000 {
        let damaged = damage(&bytes, &mut numbers);
        exercise::model(&damaged);
        exercise::packed(&damaged);
    }
}

#[test]
fn wrong_offsets_and_missing_parts_are_named() {
    let mut bytes = packed_file(vec![(
        "fc.weight",
        sparse(&[3, 8], 2),
        Some((Layout::bitmask(&[3, 8]), ValueType::Exact)),
    )]);
    let offsets: Vec<u8> = [0i64, 4, 8].iter().flat_map(|n| n.to_le_bytes()).collect();
    let at = bytes.windows(24).position(|w| w == offsets).unwrap();
    bytes[at + 8] = 3;
    let message = io::read_bytes(bytes).unwrap_err().to_string();
    assert!(message.contains("fc.weight") && message.contains("offsets of rows"), "{message}");
}

#[test]
fn a_tensor_with_the_name_of_a_part_is_never_lost() {
    let weight = || ("fc.weight", sparse(&[4, 8], 4), Some((Layout::bitmask(&[4, 8]), ValueType::Exact)));
    for taken in ["fc.scales", "fc.pattern", "fc.indices", "fc.bitmask", "fc.row_offsets"] {
        let message =
            try_packed_file(vec![weight(), (taken, sparse(&[2], 1), None)]).unwrap_err().to_string();
        assert!(message.contains("fc.weight") && message.contains(taken), "{message}");
    }
    // A file that somebody else wrote.
    let numbers = |shape: &[usize], data| Tensor::from_data(shape.to_vec(), data).unwrap();
    let parts = |other: (&'static str, Tensor)| {
        let values = ("fc.compressed", sparse(&[1], 1), None);
        let mask = ("fc.bitmask", numbers(&[1, 1], Data::U8(vec![2])), None);
        let shape = ("fc.shape", numbers(&[2], Data::I64(vec![1, 4])), None);
        try_packed_file(vec![values, mask, shape, (other.0, other.1, None)])
    };
    assert!(parts(("fc.bias", sparse(&[1], 1))).is_ok());
    let three = |data| numbers(&[3], Data::I64(data));
    for (name, tensor) in [
        ("fc.pattern", three(vec![1, 4, 1])),
        ("fc.indices", numbers(&[1], Data::U8(vec![1]))),
        ("fc.scales", sparse(&[1], 1)),
    ] {
        let message = parts((name, tensor)).unwrap_err().to_string();
        assert!(message.contains("fc.weight"), "{message}");
    }
}

fn goldens() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/packed")
}

/// What compressed-tensors packed is what it packed it from.
#[test]
fn compressed_tensors_files_read_as_their_dense_twins() {
    for version in ["0.8.1", "0.9.4"] {
        let model = io::read(goldens().join(format!("{version}.safetensors"))).unwrap();
        assert!(model.tensors.values().filter(|t| t.packed().is_some()).count() >= 4, "{version}");
        common::same_tensors(&model, &goldens().join("dense.safetensors"));
    }
}

/// compressed-tensors reads what is packed here. Needs `compressed_tensors` 0.9.4.
#[test]
fn compressed_tensors_reads_what_is_packed_here() {
    let Some(python) = python(&["torch", "safetensors", "compressed_tensors"]) else { return };
    let dense = goldens().join("dense.safetensors");
    let model = io::read(&dense).unwrap();
    let mut patch = Patch::new();
    for (path, stored) in model.tensors.iter().filter(|(path, _)| path.ends_with(".weight")) {
        let tensor = stored.load().unwrap();
        let layout = Choice::Compatible.spec(&tensor, &ValueType::Exact).unwrap().layout;
        let packed = Arc::new(packed::pack(&tensor, layout, ValueType::Exact).unwrap().0);
        patch.set_packed(id(&model, path), packed.spec(), Arc::new(move || Ok(packed.clone())));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("packed.safetensors");
    io::write(&model, &patch, &[], &file, WriteOptions::default()).unwrap();
    let output =
        std::process::Command::new(python).arg(goldens().join("read.py")).args([&file, &dense]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A packed folder's `config.json` says so where compressed-tensors reads it, and is as it was when all is dense.
#[test]
fn the_configuration_says_what_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let write = |model: &Model, patch: &Patch, name: &str| {
        io::write(model, patch, &[], &path(name), WriteOptions::default()).unwrap();
        (io::read(path(name)).unwrap(), std::fs::read_to_string(path(name).join("config.json")).unwrap())
    };
    std::fs::create_dir(path("dense")).unwrap();
    std::fs::copy(goldens().join("dense.safetensors"), path("dense").join("model.safetensors")).unwrap();
    for (k, config) in
        ["{\n  \"a\": [1,  2]\n}\n", "{\n  \"quantization_config\": {\"quant_method\": \"gptq\"}\n}"]
            .into_iter()
            .enumerate()
    {
        std::fs::write(path("dense").join("config.json"), config).unwrap();
        let model = io::read(path("dense")).unwrap();
        let pack = |layout: Layout| {
            let tensor = model.tensors["a.weight"].load().unwrap();
            let packed = Arc::new(packed::pack(&tensor, layout, ValueType::Exact).unwrap().0);
            let mut patch = Patch::new();
            patch.set_packed(id(&model, "a.weight"), packed.spec(), Arc::new(move || Ok(packed.clone())));
            patch
        };
        let (packed, said) = write(&model, &pack(Layout::Bitmask { cols: 19 }), &format!("packed-{k}"));
        assert_eq!(
            said.contains(r#""format":"sparse-bitmask""#) && said.contains(r#"["a"]"#),
            k == 0,
            "{said}"
        );
        // Unchanged, changed elsewhere, dense again; a layout that compressed-tensors does not read.
        let (_, unchanged) = write(&packed, &Patch::new(), &format!("same-{k}"));
        assert_eq!(unchanged, said);
        let mut dense = Patch::new();
        dense.set(id(&packed, "a.weight"), packed.tensors["a.weight"].load().unwrap());
        assert_eq!(write(&packed, &dense, &format!("again-{k}")).1, config);
        assert_eq!(write(&model, &pack(Layout::Bitmask { cols: 95 }), &format!("other-{k}")).1, config);
    }
}

/// A folder of two shards packed, its index included, and dense again.
#[test]
fn folders_are_packed_shard_by_shard() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("model");
    std::fs::create_dir(&root).unwrap();
    let dense = goldens().join("dense.safetensors");
    std::fs::copy(&dense, root.join("model-1.safetensors")).unwrap();
    let other = packed_file(vec![("z.weight", sparse(&[4, 40], 3), None)]);
    std::fs::write(root.join("model-2.safetensors"), &other).unwrap();
    let names =
        ["a", "b", "c", "d", "norm"].map(|n| format!("\"{n}.weight\": \"model-1.safetensors\"")).join(", ");
    let index = format!("{{\"weight_map\": {{{names}, \"z.weight\": \"model-2.safetensors\"}}}}");
    std::fs::write(root.join("model.safetensors.index.json"), index).unwrap();
    let model = io::read(&root).unwrap();
    let mut patch = Patch::new();
    for path in ["a.weight", "z.weight"] {
        let tensor = model.tensors[path].load().unwrap();
        let packed = packed::pack(&tensor, Layout::bitmask(tensor.shape()), ValueType::Exact).unwrap();
        let packed = Arc::new(packed.0);
        patch.set_packed(id(&model, path), packed.spec(), Arc::new(move || Ok(packed.clone())));
    }
    let out = folder.path().join("packed");
    io::write(&model, &patch, &[], &out, WriteOptions::default()).unwrap();
    let again = io::read(&out).unwrap();
    assert_eq!(again.tensors.values().filter(|t| t.packed().is_some()).count(), 2);
    for (path, stored) in &model.tensors {
        assert_eq!(bits(&again.tensors[path].load().unwrap()), bits(&stored.load().unwrap()), "{path}");
    }
    // Unchanged, it is written as it stands.
    let third = folder.path().join("third");
    io::write(&again, &Patch::new(), &[], &third, WriteOptions::default()).unwrap();
    for name in ["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"] {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), std::fs::read(third.join(name)).unwrap());
    }
}
