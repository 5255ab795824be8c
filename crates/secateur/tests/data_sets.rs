//! The shared data sets load with the right samples and labels.

#[path = "common/shared.rs"]
mod shared;

use std::path::PathBuf;

use secateur::data::{DataSpec, Dataset, Value};
use shared::shared;

fn open(path: PathBuf) -> Box<dyn Dataset> {
    DataSpec { paths: vec![path], ..DataSpec::default() }.open().unwrap()
}

fn label(set: &dyn Dataset, index: usize) -> i64 {
    set.label(index).unwrap().unwrap().to_i64s().unwrap()[0]
}

fn labels(set: &dyn Dataset) -> Vec<i64> {
    (0..set.len()).map(|i| label(set, i)).collect()
}

fn pixels(set: &dyn Dataset, index: usize) -> (usize, usize, usize, Vec<u8>) {
    match set.sample(index).unwrap().remove(0) {
        Value::Image(i) => (i.width(), i.height(), i.channels(), i.pixels().to_vec()),
        Value::Tensor(t) => panic!("a tensor of shape {:?}", t.shape()),
    }
}

#[test]
fn cifar_10() {
    let Some(folder) = shared("cifar-10-batches-bin") else { return };
    let test = open(folder.join("test_batch.bin.gz"));
    assert_eq!(test.len(), 1000);
    let labels = labels(test.as_ref());
    assert!((0..10).all(|class| labels.iter().filter(|&&l| l == class).count() > 70), "{labels:?}");
    let (width, height, channels, _) = pixels(test.as_ref(), 0);
    assert_eq!((width, height, channels), (32, 32, 3));

    let paths = ["data_batch_1.bin.gz", "data_batch_2.bin.gz"].map(|name| folder.join(name)).to_vec();
    let second = open(paths[1].clone());
    let both = DataSpec { paths, ..DataSpec::default() }.open().unwrap();
    assert_eq!(both.len(), 20_000);
    assert_eq!(pixels(both.as_ref(), 10_000), pixels(second.as_ref(), 0));
    assert_eq!(label(both.as_ref(), 19_999), label(second.as_ref(), 9_999));
}

#[test]
fn mnist() {
    let Some(folder) = shared("mnist") else { return };
    let test = open(folder.join("t10k-images-idx3-ubyte.gz"));
    assert_eq!(test.len(), 10_000);
    let first: Vec<i64> = (0..10).map(|i| label(test.as_ref(), i)).collect();
    assert_eq!(first, [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]); // as everybody knows them
    let (width, height, channels, image) = pixels(test.as_ref(), 0);
    assert_eq!((width, height, channels), (28, 28, 1));
    assert!(image[..28].iter().all(|&p| p == 0) && image.contains(&254));

    let named = DataSpec {
        paths: vec![folder.join("train-images-idx3-ubyte.gz")],
        labels: Some(folder.join("train-labels-idx1-ubyte.gz").to_str().unwrap().into()),
        ..DataSpec::default()
    };
    assert_eq!(label(named.open().unwrap().as_ref(), 0), 5);
    let wrong = DataSpec { paths: vec![folder.join("t10k-images-idx3-ubyte.gz")], ..named };
    let error = wrong.open().err().unwrap().to_string();
    assert!(error.contains("labels of shape [60000] for 10000 samples"), "{error}");
}

#[test]
fn imagenet_samples() {
    let Some(folder) = shared("imagenet-samples") else { return };
    let set = open(folder);
    assert_eq!(set.len(), 200);
    assert_eq!(set.classes().unwrap().len(), 1000);
    assert_eq!(label(set.as_ref(), 0), 0); // n01440764, tench
    let labels = labels(set.as_ref());
    assert!(labels.is_sorted(), "class ids are sorted in the list of classes");
    let (width, height, channels, image) = pixels(set.as_ref(), 199);
    assert_eq!(channels, 3);
    assert_eq!(image.len(), width * height * 3);
}

#[test]
fn the_demo_holds_named_arrays() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("demo/digits-test.npz");
    let set = open(path.clone());
    assert_eq!((set.len(), set.input_names()), (500, &["x".to_string()][..]));
    assert!(labels(set.as_ref()).iter().all(|l| (0..10).contains(l)));
    let (width, height, channels, _) = pixels(set.as_ref(), 3);
    assert_eq!((width, height, channels), (8, 8, 1));

    let spec = DataSpec { paths: vec![path], labels: Some("z".into()), ..DataSpec::default() };
    let error = spec.open().err().unwrap().to_string();
    assert!(error.contains("no array `z` for the labels; there are x, y"), "{error}");
}
