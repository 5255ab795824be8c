//! PyTorch checkpoints are read as PyTorch reads them. The goldens and the script that makes them are in
//! `goldens/torch`.

mod common;

use std::path::Path;

use common::*;
use secateur_model::io::{self, torch::TorchSource};
use secateur_model::model::Container;
use secateur_model::{DType, Model, Tensor, TensorId};

fn torch(model: &Model) -> &TorchSource {
    model.source.downcast().unwrap()
}

#[test]
fn goldens_read_as_pytorch_reads_them() {
    for name in ["kinds", "kinds-legacy", "kinds-protocol4", "training", "training-legacy", "pruned", "old"] {
        let model = io::read(torch_goldens().join(format!("{name}.pt"))).unwrap();
        same_tensors(&model, &torch_goldens().join(format!("{name}.safetensors")));
    }
}

#[test]
fn weights_come_first_and_are_told_from_the_rest() {
    for name in ["training.pt", "training-legacy.pt"] {
        let model = io::read(torch_goldens().join(name)).unwrap();
        let source = torch(&model);
        assert_eq!(source.state_dict(), Some("state_dict"));
        assert_eq!(source.tensors_outside(), 5);
        let paths: Vec<&String> = model.tensors.keys().collect();
        assert_eq!(paths[0], "module.0.weight");
        let outside: Vec<&str> = paths[paths.len() - 5..].iter().map(|p| p.as_str()).collect();
        assert_eq!(outside[0], "optimizer.state.0.momentum_buffer");
        assert_eq!(outside[4], "rng");
        assert!(source.is_weight(TensorId(0)) && !source.is_weight(id(&model, "rng")));
    }
    let model = io::read(torch_goldens().join("pruned.pt")).unwrap();
    assert_eq!((torch(&model).state_dict(), torch(&model).tensors_outside()), (Some(""), 0));
    assert_eq!(
        model.tensors.keys().collect::<Vec<_>>(),
        ["0.bias", "0.weight_orig", "0.weight_mask", "2.weight", "2.bias"]
    );
}

#[test]
fn tensors_that_are_one_are_known() {
    let model = io::read(torch_goldens().join("kinds.pt")).unwrap();
    let (one, other) = (id(&model, "conv.weight"), id(&model, "tied.weight"));
    let (strided, same) = (id(&model, "transposed"), id(&model, "transposed.tied"));
    assert_eq!(model.aliases(), [[one, other], [strided, same]]);
}

#[test]
fn contiguous_tensors_are_not_copied() {
    let model = io::read(torch_goldens().join("kinds.pt")).unwrap();
    let file = torch(&model).bytes.as_ptr_range();
    for (path, inside) in [("conv.weight", true), ("row", true), ("transposed", false), ("expanded", false)] {
        let secateur_model::model::Storage::Bytes(bytes) = &model.tensors[path].storage else { panic!() };
        assert_eq!(file.contains(&bytes.as_ptr()), inside, "{path}");
    }
}

#[test]
fn the_content_tells_the_format_whatever_the_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["kinds.pt", "kinds-legacy.pt"] {
        let copy = folder.path().join("model.onnx");
        std::fs::copy(torch_goldens().join(name), &copy).unwrap();
        assert_eq!(io::read(&copy).unwrap().source.format(), Some(&io::TORCH));
    }
    for name in ["a.pth", "a.pt", "a.th", "a.bin", "a.tar", "a.ckpt", "a.pth.gz"] {
        assert_eq!(io::format_of(Path::new(name)), Some(&io::TORCH));
    }
}

#[test]
fn shared_checkpoints_read_as_pytorch_reads_them() {
    let Some(folder) = shared() else { return };
    let checkpoints = [
        ("cifar10-resnet/resnet20-12fca82f.th", Some("state_dict"), 0),
        ("cifar10-resnet/resnet56-4bfd9763.th", Some("state_dict"), 0),
        ("mobilenetv1-025/mobilenetV1X0.25_pretrain.tar", Some("state_dict"), 84),
        ("vit-cifar10/vit_cifar10.pth", None, 0),
        ("mnist/mnist.pt", None, 0),
    ];
    let path = |file: &str| folder.join("models").join(file);
    for (file, key, outside) in checkpoints {
        let model = io::read(path(file)).unwrap();
        assert_eq!(torch(&model).state_dict(), Some(key.unwrap_or("")));
        assert_eq!(torch(&model).tensors_outside(), outside, "{file}");
    }
    same_as_pytorch(checkpoints.map(|(file, key, _)| (path(file), key, true)));
}

#[test]
fn a_whole_model_is_refused_with_the_way_out() {
    let Some(folder) = shared() else { return };
    let error = io::read(folder.join("models/edge-cases/vdsr-whole-model-pickle.pth")).unwrap_err();
    assert_eq!(error.kind(), secateur_model::ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(text.contains("vdsr") && text.contains("torch.save(model.state_dict()"), "{text}");
}

#[test]
fn values_of_a_strided_tensor_are_row_major() {
    let model = io::read(torch_goldens().join("kinds.pt")).unwrap();
    let transposed: Tensor = model.tensors["transposed"].load().unwrap();
    assert_eq!(transposed.shape(), [3, 2]);
    assert_eq!(transposed.values::<f32>().unwrap(), [0., 3., 1., 4., 2., 5.]);
    assert_eq!(model.tensors["complex"].dtype, DType::C64);
}

#[test]
fn quantised_and_sparse_tensors_do_not_refuse_the_others() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/torch");
    let model = io::read(folder.join("quantised-sparse.pt")).unwrap();
    let paths: Vec<&str> = model.tensors.keys().map(String::as_str).collect();
    assert_eq!(paths, ["fc.weight", "fc.bias", "quantised.weight", "channels.weight"]);
    let weight = model.tensors["quantised.weight"].load().unwrap();
    assert_eq!(weight.values::<u8>().unwrap()[..6], [0, 0, 0, 0, 20, 17]);
    let unread: Vec<&str> = model.source.unread().iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(unread, ["sparse.weight", "csr.weight"]);
    assert!(model.source.unread()[0].1.contains("a sparse tensor"));
    for entry in secateur_model::prunable::view(&model).unwrap() {
        let path = &model.tensor(entry.tensor).path;
        assert_eq!(entry.prunable().is_some(), path == "fc.weight", "{path}");
        assert_eq!(
            model.source.is_quantised(entry.tensor),
            path.starts_with("quantised") || path.starts_with("channels")
        );
    }
    // A change leaves them as they are; another format has no place for them.
    let id = model.tensor_id("fc.weight").unwrap();
    let mut patch = secateur_model::Patch::new();
    patch.set(id, secateur_model::Tensor::new([4, 6], vec![0f32; 24]).unwrap());
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("out.pt");
    io::write(&model, &patch, &[], &path, io::WriteOptions::default()).unwrap();
    let again = io::read(&path).unwrap();
    assert_eq!(again.source.unread(), model.source.unread());
    assert_eq!(again.tensors["fc.weight"].load().unwrap().to_f32s().unwrap(), [0.0; 24]);
    let path = out.path().join("out.safetensors");
    io::convert(&model, &patch, &[], &io::SAFETENSORS, &path, io::WriteOptions::default()).unwrap();
    assert_eq!(io::read(&path).unwrap().tensors.len(), 2);
}
