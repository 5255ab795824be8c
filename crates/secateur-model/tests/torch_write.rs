//! PyTorch checkpoints are written so that nothing but the changes differs, and that PyTorch reads them.

mod common;

use std::sync::Arc;

use common::*;
use secateur_model::io::torch::TorchSource;
use secateur_model::io::{self, SAFETENSORS, Source, TORCH, WriteOptions, format_of};
use secateur_model::model::{Patch, Storage};
use secateur_model::{DType, Data, ErrorKind, Model, StoredTensor, Tensor};

const GOLDENS: [&str; 6] =
    ["kinds", "kinds-legacy", "kinds-protocol4", "training", "training-legacy", "pruned"];

fn golden(name: &str) -> Model {
    io::read(torch_goldens().join(format!("{name}.pt"))).unwrap()
}

/// Checkpoints that were written, for PyTorch to read them all in one process at the end of a test.
#[derive(Default)]
struct Written(Vec<(Vec<u8>, Option<&'static str>, bool)>);

impl Written {
    fn add(&mut self, bytes: &[u8], golden: &str) {
        let key = golden.starts_with("training").then_some("state_dict");
        let full = key.is_some() || golden == "kinds-protocol4";
        self.0.push((bytes.to_vec(), key, full));
    }

    /// What PyTorch reads is what is read here.
    fn check(self) {
        let folder = tempfile::tempdir().unwrap();
        let files = self.0.into_iter().enumerate().map(|(index, (bytes, key, full))| {
            let file = folder.path().join(format!("{index}.pt"));
            std::fs::write(&file, bytes).unwrap();
            (file, key, full)
        });
        same_as_pytorch(files);
    }
}

#[test]
fn without_changes_every_byte_stays() {
    for name in GOLDENS {
        let bytes = std::fs::read(torch_goldens().join(format!("{name}.pt"))).unwrap();
        assert_eq!(write(&golden(name), &Patch::new()), bytes, "{name}");
    }
    let Some(folder) = shared() else { return };
    for file in [
        "cifar10-resnet/resnet20-12fca82f.th",
        "mobilenetv1-025/mobilenetV1X0.25_pretrain.tar",
        "vit-cifar10/vit_cifar10.pth",
        "mnist/mnist.pt",
    ] {
        let path = folder.join("models").join(file);
        assert_eq!(write(&io::read(&path).unwrap(), &Patch::new()), std::fs::read(&path).unwrap(), "{file}");
    }
}

#[test]
fn changes_are_put_in_place() {
    let mut read = Written::default();
    for name in GOLDENS {
        let model = golden(name);
        let source = std::fs::read(torch_goldens().join(format!("{name}.pt"))).unwrap();
        let mut patch = Patch::new();
        for path in ["last.weight", "half", "brain", "stepped", "module.0.weight", "rng", "0.weight_orig"] {
            let Some(id) = model.tensor_id(path) else { continue };
            let stored = model.tensor(id);
            let elements = (0..stored.byte_len() as u8).collect::<Vec<_>>();
            let data = secateur_model::model::decode(stored.dtype, &stored.shape, &elements).unwrap();
            patch.set(id, Tensor::from_data(stored.shape.clone(), data).unwrap());
        }
        let written = write(&model, &patch);
        assert_eq!(written.len(), source.len());
        let again = io::read_bytes(written.clone()).unwrap();
        assert!(again.tensors.keys().eq(model.tensors.keys()));
        for (index, stored) in again.tensors.values().enumerate() {
            let expected = patch.load(&model, secateur_model::TensorId(index as u32)).unwrap();
            let bytes = |tensor: &Tensor| secateur_model::model::encode(tensor.data()).unwrap();
            assert_eq!(bytes(&stored.load().unwrap()), bytes(&expected), "{name} {}", stored.path);
        }
        read.add(&written, name);
        check_sums(&written);
    }
    read.check();
}

/// The sums of a zip archive are those of its content.
fn check_sums(bytes: &[u8]) {
    if !bytes.starts_with(b"PK") {
        return;
    }
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    for index in 0..archive.len() {
        std::io::copy(&mut archive.by_index(index).unwrap(), &mut std::io::sink()).unwrap();
    }
}

#[test]
fn tensors_that_share_bytes_change_alike_or_not_at_all() {
    for name in ["kinds", "kinds-legacy"] {
        let model = golden(name);
        let zeros = |path: &str| {
            let stored = &model.tensors[path];
            Tensor::new(stored.shape.clone(), vec![0f32; stored.len()]).unwrap()
        };
        let mut patch = Patch::new();
        patch.set(id(&model, "conv.weight"), zeros("conv.weight"));
        let error = io::write_stream(&model, &patch, &[], &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("`conv.weight`"), "{error}");
        assert!(
            error.to_string().contains("`tied.weight`") || error.to_string().contains("`row`"),
            "{error}"
        );
        patch.set(id(&model, "tied.weight"), zeros("tied.weight"));
        patch.set(id(&model, "row"), zeros("row"));
        let again = io::read_bytes(write(&model, &patch)).unwrap();
        assert_eq!(data(&again, "row"), zeros("row").data().clone());

        // One element repeated is one element.
        let expanded = |values: Vec<f32>| set(&model, "expanded", values);
        let uneven = expanded(vec![1., 1., 2., 3., 3., 3.]);
        assert!(io::write_stream(&model, &uneven, &[], &mut Vec::new()).is_err());
        let again = io::read_bytes(write(&model, &expanded(vec![5., 5., 5., 3., 3., 3.]))).unwrap();
        assert_eq!(data(&again, "expanded"), secateur_model::Data::F32(vec![5., 5., 5., 3., 3., 3.]));
    }
}

#[test]
fn metadata_is_kept_in_a_record_that_pytorch_does_not_mind() {
    let mut read = Written::default();
    let model = golden("kinds");
    let mut first = Vec::new();
    let noted = |value: &str| vec![("secateur".to_string(), value.to_string())];
    let patch = set(&model, "half", vec![half::f16::ZERO; 2]);
    io::write_stream(&model, &patch, &noted("l1"), &mut first).unwrap();
    read.add(&first, "kinds");
    check_sums(&first);
    let again = io::read_bytes(first.clone()).unwrap();
    assert_eq!(again.source.metadata(), noted("l1"));
    assert_eq!(write(&again, &Patch::new()), first);

    let mut second = Vec::new();
    let length = io::write_stream(&again, &Patch::new(), &noted("l2"), &mut second).unwrap();
    assert_eq!((length, second.len()), (second.len() as u64, first.len()), "the record is replaced");
    assert_eq!(io::read_bytes(second.clone()).unwrap().source.metadata(), noted("l2"));
    read.add(&second, "kinds");

    // Without it, the file is the one before.
    let mut patch = Patch::new();
    patch.set(id(&again, "half"), model.tensors["half"].load().unwrap());
    patch.drop_metadata("secateur");
    assert_eq!(write(&again, &patch), std::fs::read(torch_goldens().join("kinds.pt")).unwrap());

    // The old layout has no place for it.
    let legacy = golden("kinds-legacy");
    let mut out = Vec::new();
    io::write_stream(&legacy, &Patch::new(), &noted("l1"), &mut out).unwrap();
    assert_eq!(out, std::fs::read(torch_goldens().join("kinds-legacy.pt")).unwrap());
    read.check();
}

#[test]
fn tensors_can_be_added_and_left_out() {
    let mut read = Written::default();
    for name in ["kinds", "kinds-legacy", "training", "training-legacy"] {
        let model = golden(name);
        let weight = if name.starts_with("kinds") { "last.weight" } else { "module.0.weight" };
        let weight = id(&model, weight);
        let stored = model.tensor(weight).clone();
        let tensor = stored.load().unwrap();
        let mut patch = Patch::new();
        patch.remove(weight);
        let (path, shape) = (&stored.path, &stored.shape);
        patch.add(
            format!("{path}_orig"),
            stored.dtype,
            shape.clone(),
            Some(weight),
            Arc::new(move || Ok(tensor.clone())),
        );
        let ones = Tensor::new(shape.clone(), vec![true; stored.len()]).unwrap();
        patch.add(
            format!("{path}_mask"),
            DType::Bool,
            shape.clone(),
            Some(weight),
            Arc::new(move || Ok(ones.clone())),
        );
        let wide = Tensor::vector(vec![7u32, 8]);
        patch.add("wide32", DType::U32, vec![2], None, Arc::new(move || Ok(wide.clone())));

        let mut written = Vec::new();
        let noted = [("secateur".to_string(), "l1".to_string())];
        let length = io::write_stream(&model, &patch, &noted, &mut written).unwrap();
        assert_eq!(length, written.len() as u64);
        let again = io::read_bytes(written.clone()).unwrap();
        assert_eq!(again.source.metadata(), noted);
        let (old, new): (Vec<_>, Vec<_>) = (model.tensors.keys().collect(), again.tensors.keys().collect());
        assert_eq!(new.len(), old.len() + 2);
        let at = weight.0 as usize;
        assert_eq!(new[at..at + 2], [&format!("{path}_orig"), &format!("{path}_mask")]);
        assert_eq!(data(&again, "wide32"), secateur_model::Data::U32(vec![7, 8]));
        assert_eq!(data(&again, new[at]), stored.load().unwrap().data().clone());
        for path in new.iter().filter(|path| old.contains(path)) {
            let bytes = |model: &Model| secateur_model::model::encode(&data(model, path)).unwrap();
            assert_eq!(bytes(&again), bytes(&model));
        }
        let [before, after] = [&model, &again].map(|model| model.source.downcast::<TorchSource>().unwrap());
        assert_eq!(before.tensors_outside(), after.tensors_outside());
        read.add(&written, name);
        check_sums(&written);
        // Written anew and unchanged, it is the same again.
        assert_eq!(write(&again, &Patch::new()), written);
    }
    read.check();
}

#[test]
fn storages_that_are_parts_of_others_change_in_place_only() {
    let model = golden("old");
    let mut patch = set(&model, "end", vec![0f32; 2]);
    let error = io::write_stream(&model, &patch, &[], &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("shares its bytes with"), "{error}");
    let whole = (0..12).map(|i| if i < 10 { i as f32 } else { 0.0 }).collect::<Vec<_>>();
    patch.set(id(&model, "whole"), Tensor::new([3, 4], whole).unwrap());
    let written = write(&model, &patch);
    assert_eq!(
        data(&io::read_bytes(written.clone()).unwrap(), "end"),
        secateur_model::Data::F32(vec![0.0; 2])
    );
    let mut read = Written::default();
    read.add(&written, "old");
    read.check();

    let mut patch = Patch::new();
    patch.remove(id(&model, "part"));
    let error = io::write_stream(&model, &patch, &[], &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("before 0.4"), "{error}");
}

#[test]
fn shared_storages_stay_shared_when_the_pickle_is_written_anew() {
    let model = golden("kinds");
    let mut patch = Patch::new();
    patch.remove(id(&model, "short"));
    let again = io::read_bytes(write(&model, &patch)).unwrap();
    let ids = ["conv.weight", "tied.weight"].map(|path| id(&again, path));
    assert!(again.aliases().contains(&ids.to_vec()), "{:?}", again.aliases());
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let model = golden("kinds");
    let mut patch = Patch::new();
    patch.add("half", DType::F32, vec![1], None, Arc::new(|| Ok(Tensor::vector(vec![0f32]))));
    let error = io::write_stream(&model, &patch, &[], &mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert!(error.to_string().contains("`half`"), "{error}");
}

#[test]
fn optimiser_tensors_can_be_left_out() {
    let model = golden("training");
    let mut patch = Patch::new();
    for path in model.tensors.keys().filter(|path| path.starts_with("optimizer.")) {
        patch.remove(id(&model, path));
    }
    let written = write(&model, &patch);
    let again = io::read_bytes(written.clone()).unwrap();
    assert!(!again.tensors.keys().any(|path| path.starts_with("optimizer.")));
    let mut read = Written::default();
    read.add(&written, "training");
    read.check();
}

#[test]
fn load_state_dict_accepts_what_is_written() {
    let Some(python) = python(&["torch"]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let write = |model: &Model, patch: &Patch, name: &str| {
        let path = folder.path().join(name);
        io::write(model, patch, &[], &path, WriteOptions::default()).unwrap();
        path
    };
    let model = golden("pruned");
    let original = id(&model, "0.weight_orig");
    let (weight, mask) = (model.tensors["0.weight_orig"].load().unwrap(), data(&model, "0.weight_mask"));
    let secateur_model::Data::F32(mask) = mask else { panic!("{mask:?}") };
    let kept = weight.values::<f32>().unwrap().iter().zip(mask).map(|(w, m)| w * m).collect::<Vec<_>>();
    let kept = Tensor::new(weight.shape().to_vec(), kept).unwrap();

    // Both ways to make the pruned weights permanent: in the pair, and as the plain weight.
    let mut in_pair = Patch::new();
    in_pair.set(original, kept.clone());
    let mut plain = Patch::new();
    plain.remove(original);
    plain.remove(id(&model, "0.weight_mask"));
    let shape = weight.shape().to_vec();
    plain.add("0.weight", DType::F32, shape, Some(original), Arc::new(move || Ok(kept.clone())));

    let training = golden("training-legacy");
    let mut structural = Patch::new();
    structural.remove(id(&training, "rng"));
    let files = [
        write(&model, &in_pair, "pruned.pt"),
        write(&model, &plain, "final.pt"),
        write(&training, &structural, "training.pt"),
    ];
    let output = std::process::Command::new(python).arg(torch_goldens().join("load.py")).args(files).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn converting_takes_the_state_dict_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (format, name) in [(&SAFETENSORS, "weights.safetensors"), (&TORCH, "weights.pth")] {
        let out = folder.path().join(name);
        let model = golden("training");
        io::convert(&model, &Patch::new(), &[], format, &out, WriteOptions::default()).unwrap();
        let again = io::read(&out).unwrap();
        assert!(again.tensors.keys().all(|path| path.starts_with("module.")));
        assert_eq!(data(&again, "module.0.weight"), data(&model, "module.0.weight"));
    }
}

#[test]
fn any_model_becomes_a_state_dict() {
    let mut read = Written::default();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("model.pth");
    let noted = [("secateur".to_string(), "l1".to_string())];
    for name in GOLDENS {
        let model = io::read(torch_goldens().join(format!("{name}.safetensors"))).unwrap();
        let options = WriteOptions { overwrite: true };
        io::convert(&model, &Patch::new(), &noted, &TORCH, &out, options).unwrap();
        let bytes = std::fs::read(&out).unwrap();
        read.add(&bytes, "weights");
        check_sums(&bytes);
        let again = io::read(&out).unwrap();
        assert_eq!(again.source.metadata(), noted);
        assert!(again.tensors.keys().eq(model.tensors.keys()));
        same_tensors(&again, &torch_goldens().join(format!("{name}.safetensors")));
    }
    read.check();
}

/// Tensors under two names share their elements, in whatever file they are written to.
#[test]
fn ties_are_kept_by_every_writer() {
    let storage = Storage::Data(Arc::new(Data::F32((0..12).map(|i| (i as f32).sin()).collect())));
    let other = Storage::Data(Arc::new(Data::F32((0..12).map(|i| (i as f32).sin()).collect())));
    let stored = |path: &str, storage: &Storage| StoredTensor {
        path: path.into(),
        dtype: DType::F32,
        shape: vec![3, 4],
        storage: storage.clone(),
    };
    let tensors = [("a.weight", &storage), ("apart.weight", &other), ("b.weight", &storage)]
        .map(|(path, storage)| (path.to_string(), stored(path, storage)));
    let model =
        Model { tensors: tensors.into_iter().collect(), graph: None, path: None, source: Source::memory() };
    let folder = tempfile::tempdir().unwrap();
    let convert = |model: &Model, patch: &Patch, name: &str| {
        let path = folder.path().join(name);
        let format = format_of(&path).unwrap();
        io::convert(model, patch, &[], format, &path, WriteOptions { overwrite: true }).unwrap();
        io::read(path).unwrap()
    };
    let groups = |model: &Model| -> Vec<Vec<String>> {
        let path = |&id: &_| model.tensor(id).path.clone();
        model.aliases().iter().map(|group| group.iter().map(path).collect()).collect()
    };
    let tied = vec![vec!["a.weight".to_string(), "b.weight".to_string()]];
    let torch = convert(&model, &Patch::new(), "a.pth");
    assert_eq!(groups(&torch), tied);
    let safetensors = convert(&torch, &Patch::new(), "b.safetensors");
    assert_eq!(groups(&safetensors), tied);
    assert!(!safetensors.source.metadata().iter().any(|(key, _)| key.contains("tied")));
    // A change made to one name goes to all, through every file again.
    let mut patch = set(&safetensors, "b.weight", vec![0.5f32; 12]);
    patch.spread(&safetensors);
    let path = folder.path().join("c.safetensors");
    io::write(&safetensors, &patch, &[], &path, WriteOptions::default()).unwrap();
    let changed = io::read(path).unwrap();
    assert_eq!(groups(&changed), tied);
    let again = convert(&changed, &Patch::new(), "d.pth");
    assert_eq!(groups(&again), tied);
    assert_eq!(data(&again, "a.weight"), Data::F32(vec![0.5; 12]));
    // Names that differ by now are tied no longer.
    let apart = set(&safetensors, "b.weight", vec![0.25f32; 12]);
    let path = folder.path().join("e.safetensors");
    io::write(&safetensors, &apart, &[], &path, WriteOptions::default()).unwrap();
    assert!(groups(&io::read(path).unwrap()).is_empty());
}
