//! safetensors: files and folders are read as the format's own library reads them, written back byte
//! for byte where nothing was changed, and damaged ones are refused.

mod common;
#[path = "common/exercise.rs"]
mod exercise;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::*;
use safetensors::tensor::{Dtype, TensorView};
use secateur_model::io::safetensors::SafetensorsSource;
use secateur_model::io::{self, Compression, SAFETENSORS, WriteOptions};
use secateur_model::{DType, Data, ErrorKind, Model, Patch, Tensor};

const KEEP: WriteOptions = WriteOptions { overwrite: false };
const FORCE: WriteOptions = WriteOptions { overwrite: true };

/// A file as the reference library writes it.
fn reference(tensors: &[(&str, Dtype, &[usize])], metadata: Option<HashMap<String, String>>) -> Vec<u8> {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, dtype, shape)| {
            let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let largest = if *dtype == Dtype::BOOL { 2 } else { 61 };
            (0..len).map(|i| (i * 7 % largest) as u8).collect()
        })
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, dtype, shape), data)| {
        (name.to_string(), TensorView::new(*dtype, shape.to_vec(), data).unwrap())
    });
    safetensors::serialize(views, metadata).unwrap()
}

fn sample() -> Vec<u8> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    reference(
        &[
            ("a.weight", Dtype::F32, &[3, 4]),
            ("a.bias", Dtype::F32, &[3]),
            ("half", Dtype::F16, &[5]),
            ("brain", Dtype::BF16, &[2, 2]),
            ("steps", Dtype::I64, &[]),
            ("flags", Dtype::BOOL, &[3]),
            ("none", Dtype::F32, &[0, 4]),
            ("small", Dtype::F8_E4M3, &[6]),
        ],
        Some(metadata),
    )
}

/// A file from a header and the number of bytes behind it.
fn raw(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 1);
    bytes
}

fn zeroed(model: &Model, path: &str) -> Patch {
    let id = id(model, path);
    let stored = model.tensor(id);
    let data = secateur_model::model::decode(stored.dtype, &stored.shape, &vec![0; stored.byte_len()]);
    let mut patch = Patch::new();
    patch.set(id, Tensor::from_data(stored.shape.clone(), data.unwrap()).unwrap());
    patch
}

/// All tensors as the reference library reads them.
fn check_by_reference(bytes: &[u8], model: &Model) {
    let read = safetensors::SafeTensors::deserialize(bytes).unwrap();
    assert_eq!(read.len(), model.tensors.len());
    for (name, view) in read.iter() {
        let stored = model.tensor(id(model, name));
        assert_eq!(stored.shape, view.shape());
        let raw = secateur_model::model::encode(stored.load().unwrap().data()).unwrap();
        assert_eq!(raw, view.data(), "{name}");
    }
}

#[test]
fn files_are_read_and_written_back_byte_for_byte() {
    let bytes = sample();
    let model = io::read_bytes(bytes.clone()).unwrap();
    check_by_reference(&bytes, &model);
    assert_eq!(model.source.format(), Some(&SAFETENSORS));
    assert_eq!(model.source.metadata(), [("format".to_string(), "pt".to_string())]);
    assert!(model.graph().unwrap_err().to_string().contains("`graph=model.onnx`"));
    assert_eq!(write(&model, &Patch::new()), bytes);
}

#[test]
fn a_change_leaves_all_other_bytes() {
    let bytes = sample();
    let model = io::read_bytes(bytes.clone()).unwrap();
    let written = write(&model, &zeroed(&model, "half"));
    assert_eq!(written.len(), bytes.len());
    let again = io::read_bytes(written.clone()).unwrap();
    check_by_reference(&written, &again);
    for (path, stored) in &model.tensors {
        let same = again.tensors[path].load().unwrap().data() == stored.load().unwrap().data();
        assert_eq!(same, path != "half", "{path}");
    }
}

#[test]
fn metadata_are_added_and_kept() {
    let model = io::read_bytes(sample()).unwrap();
    let mut out = Vec::new();
    let added = [("secateur.version".to_string(), "1".to_string())];
    io::write_stream(&model, &Patch::new(), &added, &mut out).unwrap();
    let again = io::read_bytes(out.clone()).unwrap();
    check_by_reference(&out, &again);
    let expected = [("format", "pt"), ("secateur.version", "1")].map(|(k, v)| (k.into(), v.into()));
    assert_eq!(again.source.metadata(), expected);
    let mut without = Patch::new();
    without.drop_metadata("secateur.");
    assert_eq!(write(&again, &without), sample());
}

#[test]
fn tensors_are_added_and_left_out() {
    let model = io::read_bytes(sample()).unwrap();
    let mut patch = Patch::new();
    let weight = id(&model, "a.weight");
    patch.remove(weight);
    let mask = Tensor::new(vec![3, 4], vec![true; 12]).unwrap();
    patch.add("a.weight_mask", DType::Bool, vec![3, 4], Some(weight), Arc::new(move || Ok(mask.clone())));
    let again = io::read_bytes(write(&model, &patch)).unwrap();
    assert!(again.tensor_id("a.weight").is_none());
    assert_eq!(data(&again, "a.weight_mask"), Data::Bool(vec![true; 12]));
    assert_eq!(again.tensors.len(), model.tensors.len());

    let mut twice = Patch::new();
    twice.add("half", DType::Bool, vec![], None, Arc::new(|| Tensor::new(vec![], vec![true])));
    let error = io::write_stream(&model, &twice, &[], &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

#[test]
fn compressed_files_are_read_and_written_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let model = io::read_bytes(sample()).unwrap();
    for compression in Compression::ALL {
        let path = compression.named(&folder.path().join("m.safetensors"));
        let report = io::write(&model, &Patch::new(), &[], &path, KEEP).unwrap();
        assert_eq!(report.bytes(), fs::metadata(&path).unwrap().len());
        let again = io::read(&path).unwrap();
        assert_eq!(write(&again, &Patch::new()), sample());
        assert_eq!(io::content_hash(&again).unwrap(), io::content_hash(&model).unwrap());
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let info = |dtype: &str, shape: &str, from: usize, to: usize| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let one = |item: &str| format!(r#"{{"w":{item}}}"#);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (raw(&one(&info("F32", "[2]", 0, 8)), 7), "outside the file's 7"),
        (raw(&one(&info("F32", "[2]", 0, 8)), 9), "there are 9"),
        (raw(&one(&info("F32", "[2]", 8, 0)), 8), "outside"),
        (raw(&one(&info("F32", "[3]", 0, 8)), 8), "expected 12 bytes for f32"),
        (raw(&one(&info("F32", "[4294967296,4294967296,2]", 0, 8)), 8), "more than there can be"),
        (raw(&one(&info("X9", "[2]", 0, 8)), 8), "`X9` is not known"),
        (raw(&one(&info("F32", "[-1]", 0, 8)), 8), "not as safetensors"),
        (raw(r#"{"w":{"dtype":"F32"}}"#, 8), "missing field"),
        (raw(r#"{"w":3}"#, 8), "w"),
        (raw(&format!(r#"{{"v":{i},"w":{i}}}"#, i = info("F32", "[2]", 0, 8)), 8), "overlaps"),
        (raw(&format!(r#"{{"v":{},"w":{}}}"#, info("U8", "[2]", 0, 2), info("U8", "[2]", 4, 6)), 6), "gap"),
        (raw(&format!(r#"{{"w":{i},"w":{i}}}"#, i = info("F32", "[2]", 0, 8)), 8), "`w` stands there twice"),
        (raw("{ ", 8), "not as safetensors"),
    ];
    for (bytes, expected) in cases {
        let error = io::read_bytes(bytes).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} / {expected}");
        assert_eq!(error.kind().exit_code(), 2);
    }
    // A length that claims terabytes, and one that claims a little more than there is.
    for claimed in [1u64 << 39, 60] {
        let mut bytes = claimed.to_le_bytes().to_vec();
        bytes.extend(b"{}      ");
        let error = io::read_bytes(bytes).unwrap_err().to_string();
        assert!(error.contains("header claims"), "{error}");
    }
}

#[test]
fn damaged_files_are_refused_or_whole() {
    let source = sample();
    for cut in 0..source.len() {
        assert!(io::read_bytes(source[..cut].to_vec()).is_err(), "cut at {cut}");
    }
    let mut numbers = Numbers(5);
    for _ in 0..5_000 {
        let bytes = damage(&source, &mut numbers);
        let ours = io::read_bytes(bytes.clone());
        // The reference refuses more only where it does not know our order of bits: never what we refuse.
        if let (Err(e), Ok(_)) = (&ours, safetensors::SafeTensors::deserialize(&bytes)) {
            assert!(e.to_string().contains("twice") || e.to_string().contains("metadata"), "{e}");
        }

        exercise::model(&bytes);
        exercise::meaning(&bytes);
    }
}

/// A folder of two shards as Hugging Face lays it out.
fn sharded(root: &Path) {
    fs::create_dir(root).unwrap();
    let shards = [
        ("model-00001-of-00002.safetensors", reference(&[("a.weight", Dtype::F32, &[3, 4])], None)),
        (
            "model-00002-of-00002.safetensors",
            reference(&[("b.weight", Dtype::BF16, &[2, 4]), ("b.bias", Dtype::F32, &[2])], None),
        ),
    ];
    for (name, bytes) in &shards {
        fs::write(root.join(name), bytes).unwrap();
    }
    index(
        root,
        r#""a.weight":"model-00001-of-00002.safetensors","b.weight":"model-00002-of-00002.safetensors","b.bias":"model-00002-of-00002.safetensors""#,
    );
    fs::write(root.join("config.json"), "{}").unwrap();
    fs::write(root.join("pytorch_model.bin"), "other weights").unwrap();
}

fn index(root: &Path, map: &str) {
    let text = format!(r#"{{"metadata":{{"total_size":72}},"weight_map":{{{map}}}}}"#);
    fs::write(root.join("model.safetensors.index.json"), text).unwrap();
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn folders_of_shards_are_read_and_written_whole() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("in");
    sharded(&root);
    for path in [root.clone(), root.join("model.safetensors.index.json")] {
        let model = io::read(path).unwrap();
        assert_eq!(model.tensors.keys().collect::<Vec<_>>(), ["a.weight", "b.bias", "b.weight"]);
    }
    let model = io::read(&root).unwrap();
    let out = parent.path().join("out");
    io::write(&model, &Patch::new(), &[], &out, KEEP).unwrap();
    let kept: Vec<String> = names(&root).into_iter().filter(|n| n != "pytorch_model.bin").collect();
    assert_eq!(names(&out), kept);
    for name in &kept {
        assert_eq!(fs::read(root.join(name)).unwrap(), fs::read(out.join(name)).unwrap(), "{name}");
    }
    let source = model.source.downcast::<SafetensorsSource>().unwrap();
    assert_eq!(source.folder.as_ref().unwrap().left_out, ["pytorch_model.bin"]);

    // Written again: only where asked, and not over what would be lost.
    let error = io::write(&model, &Patch::new(), &[], &out, KEEP).unwrap_err();
    assert!(error.to_string().contains("`force`"), "{error}");
    io::write(&model, &zeroed(&model, "b.weight"), &[], &out, FORCE).unwrap();
    let again = io::read(&out).unwrap();
    assert_ne!(data(&again, "b.weight"), data(&model, "b.weight"));
    assert_eq!(data(&again, "a.weight"), data(&model, "a.weight"));
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let error = io::write(&model, &Patch::new(), &[], &out, FORCE).unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(names(parent.path()), ["in", "out"]);

    // One file with everything, and an index for another table of tensors.
    let single = parent.path().join("all.safetensors");
    io::write(&model, &Patch::new(), &[], &single, KEEP).unwrap();
    assert_eq!(io::read(&single).unwrap().tensors.len(), 3);
    let mut patch = Patch::new();
    let weight = id(&model, "a.weight");
    let mask = || Tensor::new(vec![1], vec![true]);
    patch.add("a.weight_mask", DType::Bool, vec![1], Some(weight), Arc::new(mask));
    let more = parent.path().join("more");
    io::write(&model, &patch, &[], &more, KEEP).unwrap();
    assert_eq!(io::read(&more).unwrap().tensors.len(), 4);
}

#[test]
fn shards_without_an_index_are_read() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("in");
    sharded(&root);
    fs::remove_file(root.join("model.safetensors.index.json")).unwrap();
    let model = io::read(&root).unwrap();
    assert_eq!(model.tensors.keys().collect::<Vec<_>>(), ["a.weight", "b.bias", "b.weight"]);
    let out = parent.path().join("out");
    io::write(&model, &zeroed(&model, "b.weight"), &[], &out, KEEP).unwrap();
    let again = io::read(&out).unwrap();
    assert_eq!(data(&again, "a.weight"), data(&model, "a.weight"));
    assert_ne!(data(&again, "b.weight"), data(&model, "b.weight"));
    fs::copy(root.join("model-00001-of-00002.safetensors"), root.join("model-00002-of-00002.safetensors"))
        .unwrap();
    let text = io::read(&root).unwrap_err().to_string();
    assert!(text.contains("stands in another shard too"), "{text}");
    fs::remove_file(root.join("model-00001-of-00002.safetensors")).unwrap();
    let text = io::read(&root).unwrap_err().to_string();
    assert!(text.contains("no shard 1 of 2"), "{text}");
}

#[test]
fn pytorch_shards_are_read_and_written_as_one_file() {
    let parent = tempfile::tempdir().unwrap();
    let source = parent.path().join("in");
    sharded(&source);
    let model = io::read(&source).unwrap();
    let root = parent.path().join("bin");
    fs::create_dir(&root).unwrap();
    for (shard, number) in [("model-00001-of-00002", 1), ("model-00002-of-00002", 2)] {
        let part = io::read(source.join(format!("{shard}.safetensors"))).unwrap();
        let path = root.join(format!("pytorch_model-0000{number}-of-00002.bin"));
        io::convert(&part, &Patch::new(), &[], &io::TORCH, &path, KEEP).unwrap();
    }
    let weight_map =
        |shard: u32, name: &str| format!("\"{name}\": \"pytorch_model-0000{shard}-of-00002.bin\"");
    let maps = [weight_map(1, "a.weight"), weight_map(2, "b.bias"), weight_map(2, "b.weight")].join(", ");
    for index in [false, true] {
        if index {
            let text = format!("{{\"weight_map\": {{{maps}}}}}");
            fs::write(root.join("pytorch_model.bin.index.json"), text).unwrap();
        }
        let read = io::read(&root).unwrap();
        assert_eq!(read.tensors.len(), 3);
        for path in model.tensors.keys() {
            assert_eq!(data(&read, path), data(&model, path), "{path}");
        }
        for name in [format!("{index}.safetensors"), format!("{index}.pth")] {
            let (out, patch) = (parent.path().join(name), zeroed(&read, "b.weight"));
            if io::format_of(&out) == Some(&io::TORCH) {
                io::write(&read, &patch, &[], &out, KEEP).unwrap();
            } else {
                io::convert(&read, &patch, &[], &io::SAFETENSORS, &out, KEEP).unwrap();
            }
            let again = io::read(&out).unwrap();
            assert_eq!(data(&again, "a.weight"), data(&model, "a.weight"));
            assert_ne!(data(&again, "b.weight"), data(&model, "b.weight"));
        }
        let error = io::write(&read, &Patch::new(), &[], &parent.path().join("folder"), KEEP).unwrap_err();
        assert!(error.to_string().contains(".safetensors or .pth"), "{error}");
    }
    fs::remove_file(root.join("pytorch_model-00002-of-00002.bin")).unwrap();
    assert!(io::read(&root).unwrap_err().to_string().contains("pytorch_model-00002-of-00002.bin"));
}

#[test]
fn other_folders_are_told_apart() {
    let parent = tempfile::tempdir().unwrap();
    let text = |root: &Path| io::read(root).unwrap_err().to_string();
    let adapter = parent.path().join("adapter");
    fs::create_dir(&adapter).unwrap();
    fs::write(adapter.join("adapter_config.json"), r#"{"base_model_name_or_path": "org/base"}"#).unwrap();
    fs::write(adapter.join("adapter_model.safetensors"), sample()).unwrap();
    assert!(text(&adapter).contains("an adapter of `org/base`"), "{}", text(&adapter));
    let pipeline = parent.path().join("pipeline");
    for part in ["unet", "vae", "scheduler"] {
        fs::create_dir_all(pipeline.join(part)).unwrap();
    }
    fs::write(pipeline.join("model_index.json"), "{}").unwrap();
    for part in ["unet", "vae"] {
        fs::write(pipeline.join(part).join("diffusion_pytorch_model.safetensors"), sample()).unwrap();
    }
    assert!(text(&pipeline).ends_with("give the folder of one: `unet`, `vae`"), "{}", text(&pipeline));
    // Which the program then reads.
    assert!(!io::read(pipeline.join("unet")).unwrap().tensors.is_empty());
    assert!(text(&pipeline.join("scheduler")).contains("without a model"));
    fs::write(pipeline.join("scheduler/fp16.safetensors"), sample()).unwrap();
    assert!(text(&pipeline.join("scheduler")).contains("`fp16.safetensors`"));
}

#[test]
fn a_folder_is_replaced_in_place_where_asked() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("m");
    sharded(&root);
    fs::remove_file(root.join("pytorch_model.bin")).unwrap();
    let model = io::read(&root).unwrap();
    assert!(io::write(&model, &Patch::new(), &[], &root, KEEP).is_err());
    io::write(&model, &zeroed(&model, "a.weight"), &[], &root, FORCE).unwrap();
    assert_eq!(data(&io::read(&root).unwrap(), "a.weight"), Data::F32(vec![0.0; 12]));
    assert_eq!(names(parent.path()), ["m"]);
}

#[test]
fn folders_that_contradict_themselves_are_refused() {
    let first = r#""a.weight":"model-00001-of-00002.safetensors""#;
    let second =
        r#""b.weight":"model-00002-of-00002.safetensors","b.bias":"model-00002-of-00002.safetensors""#;
    let cases = [
        (format!("{first},{first},{second}"), "twice"),
        (format!("{first},{second},\"c\":\"model-00002-of-00002.safetensors\""), "where it is not"),
        (
            first.to_string() + r#","b.weight":"model-00002-of-00002.safetensors""#,
            "the index does not say so",
        ),
        (format!("{first},{second},\"c\":\"model-00003-of-00003.safetensors\""), "not in the folder"),
        (format!("{first},{second},\"c\":\"../model.safetensors\""), "nothing outside it"),
        (format!("{first},{second},\"c\":\"/etc/passwd\""), "nothing outside it"),
        (format!("{first},{second},\"c\":\"..\""), "nothing outside it"),
        (format!("{first},{second},\"c\":3"), "no index"),
    ];
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("m");
    sharded(&root);
    for (map, expected) in cases {
        index(&root, &map);
        let error = io::read(&root).unwrap_err();
        assert!(error.to_string().contains(expected), "{error} / {expected}");
        assert_eq!(error.kind().exit_code(), 2);
    }
    // The same tensor in two shards.
    fs::copy(root.join("model-00001-of-00002.safetensors"), root.join("z.safetensors")).unwrap();
    index(&root, &format!("{first},{second},\"x\":\"z.safetensors\""));
    assert!(io::read(&root).unwrap_err().to_string().contains("another shard"));
    // No model at all.
    let empty = parent.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(io::read(&empty).unwrap_err().to_string().contains("model.safetensors"));
}

#[test]
fn the_shared_checkpoints_are_written_back_byte_for_byte() {
    let Some(shared) = shared() else { return };
    for name in ["models/mnist/mnist.safetensors", "models/stories260k/model.safetensors"] {
        let bytes = fs::read(shared.join(name)).unwrap();
        let model = io::read(shared.join(name)).unwrap();
        check_by_reference(&bytes, &model);
        assert_eq!(write(&model, &Patch::new()), bytes);
        let mut out = Vec::new();
        io::write_stream(&model, &Patch::new(), &[("k".into(), "v".into())], &mut out).unwrap();
        check_by_reference(&out, &model);
    }
}
