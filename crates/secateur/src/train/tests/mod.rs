//! Trainings of small models made in memory.

mod batches;
mod masked;
mod refused;
mod reshaped;
mod resumed;
mod schedules;
mod stored;

use std::path::PathBuf;
use std::sync::Arc;

use half::{bf16, f16};
use secateur_model::model::Storage;
use secateur_model::packed::{Layout, ValueType, pack};
use secateur_model::{Attr, DType, Data, Model, Patch, Tensor, TensorId};

use super::finetune::Run;
use super::*;
use crate::data::metrics::Loss;
use crate::data::{DataSpec, Preprocess, Sampling, Split, write_npz};
use crate::eval::evaluate::{EvalOptions, Evaluator};
use crate::progress::Silent;
use crate::prune::masks::{self, Form};
use crate::prune::{Amount, Mask, PruneOptions, Subject};
use crate::random::Stream;
use crate::records::{Event, LogLine, Logged, MeasuredOn, read_curve};
use crate::schedule::{Schedule, ScheduleOptions};
use crate::testing::{Net, TRANSPOSED, random};

/// 6 → 16 → 3, with a dropout of ½ between them where asked.
fn mlp(batch: Option<usize>, drops: bool) -> Arc<Model> {
    let mut net = Net::new(batch, &[6]);
    net.tensor("fc1.weight", &[16, 6], random(96, 1));
    net.tensor("fc1.bias", &[16], random(16, 2));
    net.tensor("fc2.weight", &[3, 16], random(48, 3));
    net.tensor("fc2.bias", &[3], random(3, 4));
    net.node("Gemm", &["x", "fc1.weight", "fc1.bias"], "h", TRANSPOSED);
    net.node("Relu", &["h"], "r", &[]);
    let last = if drops { "d" } else { "r" };
    if drops {
        net.node("Dropout", &["r"], "d", &[]);
    }
    net.node("Gemm", &[last, "fc2.weight", "fc2.bias"], "z", TRANSPOSED);
    net.node("Softmax", &["z"], "y", &[]);
    net.ends_with("y")
}

/// A convolution, a batch-norm and a head on images of 3 × 32 × 32.
fn cnn() -> Arc<Model> {
    let mut net = Net::new(None, &[3, 32, 32]);
    net.tensor("conv.weight", &[8, 3, 3, 3], random(216, 1));
    net.tensor("norm.weight", &[8], vec![1.0; 8]);
    net.tensor("norm.bias", &[8], vec![0.1; 8]);
    net.tensor("norm.mean", &[8], vec![0.0; 8]);
    net.tensor("norm.var", &[8], vec![1.0; 8]);
    net.tensor("head.weight", &[10, 8], random(80, 2));
    net.tensor("head.bias", &[10], random(10, 3));
    net.node("Conv", &["x", "conv.weight"], "c", &[("strides", Attr::Ints(vec![4, 4]))]);
    net.node("BatchNormalization", &["c", "norm.weight", "norm.bias", "norm.mean", "norm.var"], "n", &[]);
    net.node("Relu", &["n"], "r", &[]);
    net.node("GlobalAveragePool", &["r"], "p", &[]);
    net.node("Flatten", &["p"], "f", &[]);
    net.node("Gemm", &["f", "head.weight", "head.bias"], "z", TRANSPOSED);
    net.ends_with("z")
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Points in 6 dimensions; the class is the largest of the first three.
    fn points(&self, name: &str, count: usize, seed: u64) -> DataSpec {
        let x = random(6 * count, seed);
        let largest = |x: &[f32]| (0..3).max_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap() as i64;
        let y: Vec<i64> = x.chunks_exact(6).map(largest).collect();
        let x = Tensor::new([count, 6], x).unwrap();
        let path = self.path(name);
        let mut file = std::fs::File::create(&path).unwrap();
        write_npz(&[("x".into(), x), ("y".into(), Tensor::vector(y))], &mut file).unwrap();
        DataSpec { paths: vec![path], ..DataSpec::default() }
    }

    /// Records of CIFAR-10.
    fn images(&self, count: usize) -> DataSpec {
        let (path, stream) = (self.path("images.bin"), Stream::new(5, "images"));
        let bytes: Vec<u8> = (0..count as u64)
            .flat_map(|i| {
                let pixels = (0..3072).map(move |at| (stream.draw(i * 4096 + at) % 200 + 5 * (i % 10)) as u8);
                std::iter::once((i % 10) as u8).chain(pixels)
            })
            .collect();
        std::fs::write(&path, bytes).unwrap();
        DataSpec { paths: vec![path], ..DataSpec::default() }
    }
}

fn data(data: DataSpec) -> TrainData {
    TrainData { data, ..TrainData::default() }
}

fn options(steps: u64) -> TrainOptions {
    TrainOptions {
        length: Length::Iterations(steps),
        batch: 8,
        rate: Rate { rate: 0.05, ..Rate::default() },
        ..TrainOptions::default()
    }
}

/// A trainer with the masks that the model has.
fn trainer(model: &Arc<Model>, given: &Masks, data: &TrainData, options: &TrainOptions) -> Trainer {
    let masters = Masters::of(model, given).unwrap();
    let subject = Subject::of(masters.in_f32());
    let variables = Variables::of(&subject, &options.train, &options.freeze).unwrap();
    let masks = held(&subject, given, &variables.tensors).unwrap();
    Trainer::new(&masters, &Patch::new(), &variables, &masks, data, None, options).unwrap()
}

fn trained(model: &Arc<Model>, data: &TrainData, options: &TrainOptions) -> Trainer {
    let mut trainer = trainer(model, &Masks::new(), data, options);
    while trainer.step_number() < trainer.steps() {
        trainer.step().unwrap();
    }
    trainer
}

/// The elements of a tensor after training.
fn values(trainer: &Trainer, path: &str) -> Vec<f32> {
    of_patch(trainer.masters().model(), &trainer.patch().unwrap(), path)
}

fn of_patch(model: &Model, patch: &Patch, path: &str) -> Vec<f32> {
    patch.load(model, model.tensor_id(path).unwrap()).unwrap().to_f32s().unwrap()
}

/// All changed tensors, bit for bit.
fn bits(model: &Model, patch: &Patch) -> Vec<(TensorId, Vec<u32>)> {
    let of = |id| patch.load(model, id).unwrap().to_f32s().unwrap().iter().map(|v| v.to_bits()).collect();
    patch.ids().map(|id| (id, of(id))).collect()
}

/// Masks of two thirds of the weights of the layers.
fn two_thirds(model: &Model) -> Masks {
    let weights = ["fc1.weight", "fc2.weight"].map(|path| model.tensor_id(path).unwrap());
    let mask = |id: TensorId| Arc::new(Mask::from_fn(model.tensor(id).len(), |i| (i * 7) % 3 == 0));
    weights.map(|id| (id, mask(id))).into_iter().collect()
}
