//! Trainings of small models made in memory.

use std::path::{Path, PathBuf};
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

#[test]
fn masks_hold_at_every_step_and_the_loss_falls() {
    let place = Place::new();
    let (model, data) = (mlp(None, false), data(place.points("train.npz", 200, 1)));
    let masks = two_thirds(&model);
    let of = |kind, momentum, nesterov, weight_decay| OptimOptions {
        kind,
        momentum,
        nesterov,
        weight_decay,
        ..OptimOptions::default()
    };
    let optimizers = [
        of(Optim::Sgd, 0.0, false, 0.0),
        of(Optim::Sgd, 0.9, false, 0.01),
        of(Optim::Sgd, 0.9, true, 0.01),
        of(Optim::Adam, 0.0, false, 0.01),
        of(Optim::AdamW, 0.0, false, 0.01),
    ];
    for optimizer in optimizers {
        let options = TrainOptions { optimizer, ..options(150) };
        let mut trainer = trainer(&model, &masks, &data, &options);
        let mut losses = Vec::new();
        for step in 0..trainer.steps() {
            let before = trainer.patch().unwrap();
            losses.push(trainer.step().unwrap());
            assert!(trainer.holds_masks().unwrap(), "{:?} step {step}", options.optimizer);
            let after = trainer.patch().unwrap();
            let mut moved = 0;
            for (&id, mask) in &masks {
                let [before, after] =
                    [&before, &after].map(|patch| patch.load(&model, id).unwrap().to_f32s().unwrap());
                for (i, keep) in mask.iter().enumerate() {
                    assert!(keep || after[i].to_bits() == 0, "{:?} step {step}", options.optimizer);
                    moved += usize::from(before[i] != after[i]);
                }
            }
            assert!(moved > 20 || step > 140, "{moved} weights moved in step {step}");
        }
        let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
        let (first, last) = (mean(&losses[..20]), mean(&losses[130..]));
        assert!(last < 0.8 * first, "{:?}: {first} → {last}", options.optimizer);
    }
}

#[test]
fn the_seed_says_everything_and_threads_nothing() {
    let place = Place::new();
    let (model, data) = (mlp(None, true), data(place.points("train.npz", 60, 1)));
    let run = |threads, seed| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let trainer = trained(&model, &data, &TrainOptions { seed, ..options(20) });
            bits(&model, &trainer.patch().unwrap())
        })
    };
    let one = run(1, 3);
    assert_eq!(one, run(1, 3));
    assert_eq!(one, run(2, 3));
    assert_ne!(one, run(1, 4));
}

/// Runs a training to its end, stopped after each of some steps, saved and resumed by another.
fn resumes_alike(model: &Arc<Model>, options: &FinetuneOptions, stops: &[u64]) -> Finetune {
    let place = Place::new();
    let start = |file: Option<&Path>| {
        let progress_file = file.map(Path::to_path_buf);
        FinetuneOptions { progress_file, ..options.clone() }
    };
    let whole = finetune(model, &Masks::new(), None, &start(None), &crate::progress::Silent, &mut |_| Ok(()));
    let whole = whole.unwrap();
    let file = place.path("progress.safetensors");
    let options = start(Some(&file));
    for &stop in stops {
        let mut run = Run::new(model, &Masks::new(), None, &options).unwrap();
        run.resume().unwrap();
        while run.trainer.step_number() < stop && run.advance(&mut |_| Ok(())).unwrap().is_some() {}
        run.save().unwrap();
    }
    let mut run = Run::new(model, &Masks::new(), None, &options).unwrap();
    run.resume().unwrap();
    while run.advance(&mut |_| Ok(())).unwrap().is_some() {}
    let resumed = run.finish().unwrap();
    assert_eq!(bits(model, &resumed.patch), bits(model, &whole.patch));
    // The figures of single samples are not kept.
    let told = |found: &Finetune| serde_json::to_string(&found.epochs).unwrap();
    assert!(told(&resumed) == told(&whole), "other epochs");
    assert_eq!((&resumed.masks, resumed.best), (&whole.masks, whole.best));
    whole
}

#[test]
fn a_training_resumes_at_any_step() {
    let place = Place::new();
    let points = data(place.points("train.npz", 70, 1));
    let optimizer = OptimOptions { nesterov: true, weight_decay: 0.01, ..OptimOptions::default() };
    let rate = Rate { warmup: Some(Length::Iterations(4)), ..options(0).rate };
    let train = TrainOptions { optimizer, rate, ..options(26) };
    let momentum = FinetuneOptions { train, data: points.clone(), ..FinetuneOptions::default() };
    resumes_alike(&mlp(None, true), &momentum, &(1..26).collect::<Vec<_>>());

    let adam = OptimOptions { kind: Optim::Adam, ..OptimOptions::default() };
    let pruning = Some((
        PruneOptions::new("l1@global".parse().unwrap(), Amount::Sparsity(0.7)),
        ScheduleOptions {
            schedule: Schedule::Cubic,
            every: Some(Length::Iterations(5)),
            ..ScheduleOptions::default()
        },
    ));
    let train = TrainOptions { optimizer: adam, ..options(40) };
    let scheduled = FinetuneOptions { train, pruning, data: points.clone(), ..FinetuneOptions::default() };
    resumes_alike(&mlp(None, false), &scheduled, &[1, 4, 5, 6, 17, 30, 31, 39]);

    // A rate at which the validation loss jumps about: the best epoch is not the last.
    let validation = place.points("validation.npz", 40, 2);
    let rate = Rate { rate: 1.0, schedule: RateSchedule::Constant, ..Rate::default() };
    let stopped = FinetuneOptions {
        train: TrainOptions { rate, length: Length::Epochs(40), ..options(0) },
        data: points,
        validation: Some(EvalOptions { data: validation, ..EvalOptions::default() }),
        patience: Some(3),
        ..FinetuneOptions::default()
    };
    let whole = resumes_alike(&mlp(None, false), &stopped, &[3, 8, 9, 20, 33]);
    let best = whole.best.unwrap();
    assert_eq!(whole.epochs.len() as u64, (best + 3).min(40));
    let loss = |epoch: &Epoch| epoch.validation.as_ref().unwrap().values[0].value;
    let least = whole.epochs.iter().map(loss).fold(f64::INFINITY, f64::min);
    assert_eq!(loss(&whole.epochs[best as usize - 1]), least);

    let augment = Augment { flip: true, pad: 4 };
    let train = TrainOptions { augment, ..options(12) };
    let images = FinetuneOptions { train, data: data(place.images(40)), ..FinetuneOptions::default() };
    resumes_alike(&cnn(), &images, &[2, 5, 6, 11]);
}

#[test]
fn another_training_is_not_resumed() {
    let place = Place::new();
    let model = mlp(None, false);
    let options = FinetuneOptions {
        train: options(10),
        data: data(place.points("train.npz", 40, 1)),
        progress_file: Some(place.path("progress.safetensors")),
        ..FinetuneOptions::default()
    };
    Run::new(&model, &Masks::new(), None, &options).unwrap().save().unwrap();
    let with = |change: &dyn Fn(&mut FinetuneOptions)| {
        let mut options = options.clone();
        change(&mut options);
        let mut run = Run::new(&model, &Masks::new(), None, &options).unwrap();
        run.resume().err().map(|error| error.to_string())
    };
    assert_eq!(with(&|_| ()), None);
    let message = with(&|options| options.train.rate.rate = 0.3).unwrap();
    assert!(message.contains("other options") && message.contains("progress.safetensors"), "{message}");
    let mut other = Model::clone(&model);
    other.tensors.get_mut("fc1.bias").unwrap().storage = Storage::Data(Arc::new(Data::F32(vec![0.0; 16])));
    let other = Arc::new(other);
    let mut run = Run::new(&other, &Masks::new(), None, &options).unwrap();
    assert!(run.resume().is_err());
    std::fs::write(place.path("progress.safetensors"), b"damaged").unwrap();
    assert!(with(&|_| ()).is_some());
}

#[test]
fn smaller_runs_add_up_to_the_same_gradient() {
    let place = Place::new();
    let data = data(place.points("train.npz", 64, 1));
    let after = |fixed| values(&trained(&mlp(fixed, false), &data, &options(6)), "fc1.weight");
    let whole = after(None);
    for fixed in [1, 2, 4, 8] {
        for (one, other) in after(Some(fixed)).iter().zip(&whole) {
            assert!((one - other).abs() < 1e-5, "{fixed}: {one} {other}");
        }
    }
    let model = mlp(Some(3), false);
    let masters = Masters::of(&model, &Masks::new()).unwrap();
    let variables = Variables::of(&Subject::of(masters.in_f32()), &[], &[]).unwrap();
    let refused = Trainer::new(&masters, &Patch::new(), &variables, &Masks::new(), &data, None, &options(6));
    let message = refused.err().unwrap().to_string();
    assert!(message.contains("takes 3 at a time") && message.contains("multiple"), "{message}");
}

#[test]
fn frozen_tensors_keep_their_bits() {
    let place = Place::new();
    let (model, data) = (mlp(None, false), data(place.points("train.npz", 40, 1)));
    let optimizer = OptimOptions { weight_decay: 0.1, ..OptimOptions::default() };
    let options = TrainOptions { freeze: vec!["fc1*".into()], optimizer, ..options(10) };
    let patch = trained(&model, &data, &options).patch().unwrap();
    let changed: Vec<&str> = patch.ids().map(|id| model.tensor(id).path.as_str()).collect();
    assert_eq!(changed, ["fc2.weight", "fc2.bias"]);
    assert_ne!(of_patch(&model, &patch, "fc2.weight"), random(48, 3));

    let all = TrainOptions { freeze: vec!["*".into()], ..options.clone() };
    let subject = Subject::of(&model);
    assert!(
        Variables::of(&subject, &all.train, &all.freeze).unwrap_err().to_string().contains("nothing trains")
    );
    let message = Variables::of(&subject, &[], &["fc9*".into()]).unwrap_err().to_string();
    assert!(message.contains("`fc9*`"), "{message}");
}

/// Two layers of one shape, whose weights have these paths.
fn twins(paths: [&str; 2], shared: bool) -> Arc<Model> {
    let mut net = Net::new(None, &[6]);
    for path in paths {
        net.tensor(path, &[6, 6], random(36, 1));
    }
    if shared {
        let storage = net.model.tensors[paths[0]].storage.clone();
        net.model.tensors.get_mut(paths[1]).unwrap().storage = storage;
    }
    net.node("Gemm", &["x", paths[0]], "h", TRANSPOSED);
    net.node("Tanh", &["h"], "t", &[]);
    net.node("Gemm", &["t", paths[1]], "z", TRANSPOSED);
    net.ends_with("z")
}

#[test]
fn tied_weights_are_one_variable() {
    let place = Place::new();
    let data = data(place.points("train.npz", 40, 1));
    let plain = OptimOptions { momentum: 0.0, ..OptimOptions::default() };
    let options = TrainOptions { optimizer: plain, ..options(1) };
    let before = random(36, 1);
    let apart = trained(&twins(["a", "b"], false), &data, &options);
    let (a, b) = (values(&apart, "a"), values(&apart, "b"));
    assert_ne!(a, b);
    // One tensor that two nodes use, and two names of the same elements.
    for tied in [
        trained(&twins(["a", "a"], false), &data, &options),
        trained(&twins(["a", "b"], true), &data, &options),
    ] {
        for (path, stored) in &tied.masters().model().tensors {
            assert_eq!(stored.len(), 36);
            for (i, value) in values(&tied, path).iter().enumerate() {
                let sum = before[i] + (a[i] - before[i]) + (b[i] - before[i]);
                assert!((value - sum).abs() < 1e-6, "{path} {i}: {value} {sum}");
            }
        }
    }
}

#[test]
fn a_model_has_nothing_to_learn_from_itself() {
    let place = Place::new();
    let (model, data) = (mlp(None, false), data(place.points("train.npz", 40, 1)));
    let loss = LossOptions { distill: 1.0, temperature: 4.0, ..LossOptions::default() };
    let options = TrainOptions { loss, ..options(10) };
    let masters = Masters::of(&model, &Masks::new()).unwrap();
    let variables = Variables::of(&Subject::of(masters.in_f32()), &[], &[]).unwrap();
    let new = |teacher, options: &TrainOptions| {
        Trainer::new(&masters, &Patch::new(), &variables, &Masks::new(), &data, teacher, options)
    };
    let mut trainer = new(Some(&model), &options).unwrap();
    for _ in 0..trainer.steps() {
        assert!(trainer.step().unwrap().abs() < 1e-9);
    }
    for (after, before) in values(&trainer, "fc1.weight").iter().zip(random(96, 1)) {
        assert!((after - before).abs() < 1e-6, "{after} {before}");
    }
    // Another model does teach something.
    let mut other = Model::clone(&model);
    other.tensors.get_mut("fc2.bias").unwrap().storage =
        Storage::Data(Arc::new(Data::F32(vec![9.0, 0.0, 0.0])));
    let other = Arc::new(other);
    let mut trainer = new(Some(&other), &options).unwrap();
    assert!(trainer.step().unwrap() > 0.1);
    assert!(new(None, &options).err().unwrap().to_string().contains("takes a teacher"));
    let message = new(Some(&model), &TrainOptions { loss: LossOptions::default(), ..options }).err().unwrap();
    assert!(message.to_string().contains("no effect"), "{message}");
}

/// Runs a schedule; masks only grow. Gives the final masks and weights.
fn scheduled(
    model: &Arc<Model>,
    data: &TrainData,
    method: &str,
    schedule: Schedule,
    sparsity: f64,
) -> Finetune {
    let every =
        Some(Length::Iterations(4)).filter(|_| !matches!(schedule, Schedule::OneShot | Schedule::Iterative));
    let options = FinetuneOptions {
        train: options(32),
        data: data.clone(),
        pruning: Some((
            PruneOptions::new(method.parse().unwrap(), Amount::Sparsity(sparsity)),
            ScheduleOptions { schedule, every, ..ScheduleOptions::default() },
        )),
        ..FinetuneOptions::default()
    };
    let mut run = Run::new(model, &Masks::new(), None, &options).unwrap();
    let mut before = run.masks.clone();
    let mut grew = 0;
    while run.advance(&mut |_| Ok(())).unwrap().is_some() {
        for (id, mask) in &before {
            let after = &run.masks[id];
            assert!(
                (0..mask.len()).all(|i| mask.keeps(i) || !after.keeps(i)),
                "{method}: a weight came back"
            );
        }
        grew += usize::from(run.masks != before);
        before = run.masks.clone();
        assert!(run.trainer.holds_masks().unwrap());
    }
    assert_eq!(grew > 1, schedule != Schedule::OneShot, "{method}: {grew}");
    run.finish().unwrap()
}

#[test]
fn schedules_reach_their_sparsity() {
    let place = Place::new();
    let (model, points) = (mlp(None, false), data(place.points("train.npz", 64, 1)));
    let zeros = |found: &Finetune, path: &str| {
        of_patch(&model, &found.patch, path).iter().filter(|v| **v == 0.0).count()
    };
    for schedule in
        [Schedule::OneShot, Schedule::Iterative, Schedule::Linear, Schedule::Exponential, Schedule::Cubic]
    {
        let found = scheduled(&model, &points, "l1@global", schedule, 0.75);
        assert_eq!(
            zeros(&found, "fc1.weight") + zeros(&found, "fc2.weight"),
            (96 + 48) * 3 / 4,
            "{schedule:?}"
        );
    }
    let found = scheduled(&model, &points, "l1/2:4", Schedule::OneShot, 0.5);
    for (path, row) in [("fc2.weight", 16)] {
        let weights = of_patch(&model, &found.patch, path);
        for group in weights.chunks_exact(row).flat_map(|row| row.chunks_exact(4)) {
            assert_eq!(group.iter().filter(|v| **v == 0.0).count(), 2);
        }
    }
    let found = scheduled(&model, &points, "l1/channel", Schedule::Iterative, 0.5);
    let (weights, bias) =
        (of_patch(&model, &found.patch, "fc1.weight"), of_patch(&model, &found.patch, "fc1.bias"));
    let empty: Vec<usize> = (0..16).filter(|c| weights[c * 6..][..6].iter().all(|v| *v == 0.0)).collect();
    assert_eq!(empty.len(), 8);
    assert!((0..16).all(|c| (bias[c] == 0.0) == empty.contains(&c)));
}

#[test]
fn pruning_stops_where_the_model_becomes_too_bad() {
    let place = Place::new();
    let (model, points) = (mlp(None, false), data(place.points("train.npz", 64, 1)));
    let validation = EvalOptions { data: points.data.clone(), ..EvalOptions::default() };
    let until = |text: &str| FinetuneOptions {
        train: options(40),
        data: points.clone(),
        validation: Some(validation.clone()),
        pruning: Some((
            PruneOptions::new("l1@global".parse().unwrap(), Amount::Sparsity(0.99)),
            ScheduleOptions {
                schedule: Schedule::Iterative,
                rounds: Some(10),
                start: Some(Length::Iterations(4)),
                end: Some(Length::Iterations(40)),
                ..ScheduleOptions::default()
            },
        )),
        until: Some(text.parse().unwrap()),
        ..FinetuneOptions::default()
    };
    let free = resumes_alike(&model, &until("loss:100000%"), &[3, 20]);
    assert!(free.stopped.is_none());
    // It is stopped and resumed at each step, also behind the last good pruning.
    let options = until("loss:30%");
    let stopped = resumes_alike(&model, &options, &(1..40).collect::<Vec<_>>());
    let (step, figures) = stopped.stopped.clone().unwrap();
    let zeros = |masks: &Masks| masks.values().map(|mask| mask.pruned()).sum::<usize>();
    assert!(zeros(&stopped.masks) < zeros(&free.masks), "stopped at {step}");
    // The weights are those of the step, under its masks, with its figures.
    let mut evaluator = Evaluator::new(&model, &validation, None).unwrap();
    let again = evaluator.evaluate(stopped.patch.clone(), &Silent).unwrap();
    assert_eq!(again.values[0].value, figures.values[0].value);
    for (&id, mask) in &stopped.masks {
        let values = stopped.patch.load(&model, id).unwrap().to_f32s().unwrap();
        assert!((0..mask.len()).all(|i| mask.keeps(i) || values[i] == 0.0));
    }
    let missing = FinetuneOptions { validation: None, ..options };
    assert!(
        Run::new(&model, &Masks::new(), None, &missing).err().unwrap().to_string().contains("validation")
    );
}

#[test]
fn schedules_that_cannot_be_are_refused() {
    let place = Place::new();
    let (model, points) = (mlp(None, false), data(place.points("train.npz", 64, 1)));
    let refused = |method: &str, amount, schedule, freeze: &[&str]| {
        let freeze = freeze.iter().map(|glob| glob.to_string()).collect();
        let pruning = (
            PruneOptions::new(method.parse().unwrap(), amount),
            ScheduleOptions { schedule, ..ScheduleOptions::default() },
        );
        let options = FinetuneOptions {
            train: TrainOptions { freeze, ..options(32) },
            data: points.clone(),
            pruning: Some(pruning),
            ..FinetuneOptions::default()
        };
        Run::new(&model, &Masks::new(), None, &options).err().unwrap().to_string()
    };
    let half = Amount::Sparsity(0.5);
    assert!(refused("l1/2:4", half, Schedule::Cubic, &[]).contains("one-shot"));
    assert!(refused("l1", Amount::Count(5), Schedule::OneShot, &[]).contains("takes a sparsity"));
    let frozen = refused("l1", half, Schedule::OneShot, &["fc1.weight"]);
    assert!(frozen.contains("fc1.weight") && frozen.contains("exclude"), "{frozen}");
}

#[test]
fn running_statistics_follow_the_batches_or_stay() {
    let place = Place::new();
    let (model, data) = (cnn(), data(place.images(40)));
    let free = trained(&model, &data, &options(4));
    assert_ne!(values(&free, "norm.mean"), vec![0.0; 8]);
    assert_ne!(values(&free, "norm.var"), vec![1.0; 8]);
    let frozen = trained(&model, &data, &TrainOptions { freeze_norms: true, ..options(4) });
    assert_eq!(values(&frozen, "norm.mean"), vec![0.0; 8]);
    assert_eq!(values(&frozen, "norm.var"), vec![1.0; 8]);
    assert_ne!(values(&frozen, "norm.weight"), vec![1.0; 8]);
}

#[test]
fn pruned_channels_keep_their_bias_and_norm_at_zero() {
    let place = Place::new();
    let data = data(place.images(40));
    let mut model = Model::clone(&cnn());
    let mut set = |path: &str, change: &dyn Fn(&mut [f32])| {
        let stored = model.tensors.get_mut(path).unwrap();
        let mut values = stored.load().unwrap().to_f32s().unwrap();
        change(&mut values);
        stored.storage = Storage::Data(Arc::new(Data::F32(values)));
    };
    // Channel 1 is pruned with all that belongs to it; of channel 2 the norm stayed.
    set("conv.weight", &|values| values[27..81].fill(0.0));
    set("norm.weight", &|values| values[1] = 0.0);
    set("norm.bias", &|values| values[1] = 0.0);
    let model = Arc::new(model);
    let mut trainer = trainer(&model, &Masks::new(), &data, &options(6));
    for _ in 0..6 {
        trainer.step().unwrap();
        assert!(trainer.holds_masks().unwrap());
    }
    assert!(values(&trainer, "conv.weight")[27..81].iter().all(|v| *v == 0.0));
    let (weight, bias) = (values(&trainer, "norm.weight"), values(&trainer, "norm.bias"));
    assert_eq!((weight[1], bias[1]), (0.0, 0.0));
    assert_ne!(bias[2], 0.1);
    assert!((0..8).filter(|c| *c != 1).all(|c| bias[c] != 0.0));
}

/// The model with its weights in another form.
fn stored_as(model: &Model, change: &dyn Fn(Vec<f32>, &[usize]) -> Storage, dtype: DType) -> Arc<Model> {
    let mut model = model.clone();
    for stored in model.tensors.values_mut().filter(|stored| stored.shape.len() == 2) {
        let values = stored.load().unwrap().to_f32s().unwrap();
        (stored.storage, stored.dtype) = (change(values, &stored.shape), dtype);
    }
    Arc::new(model)
}

#[test]
fn other_types_train_as_f32_and_are_written_back() {
    let place = Place::new();
    let data = data(place.points("train.npz", 40, 1));
    let dense = mlp(None, false);
    let half = |values: Vec<f32>| -> Data { Data::F16(values.into_iter().map(f16::from_f32).collect()) };
    let brain = |values: Vec<f32>| -> Data { Data::BF16(values.into_iter().map(bf16::from_f32).collect()) };
    let double = |values: Vec<f32>| -> Data { Data::F64(values.into_iter().map(f64::from).collect()) };
    type Make<'a> = &'a dyn Fn(Vec<f32>) -> Data;
    for (make, dtype) in [(&half as Make<'_>, DType::F16), (&brain, DType::BF16), (&double, DType::F64)] {
        let model = stored_as(&dense, &|values, _| Storage::Data(Arc::new(make(values))), dtype);
        let rounded = |values, _: &[usize]| {
            let data: Data = make(values);
            let narrow = Tensor::from_data([data.len()], data).unwrap();
            Storage::Data(Arc::new(Data::F32(narrow.to_f32s().unwrap())))
        };
        let masters = stored_as(&dense, &rounded, DType::F32);
        let (own, wide) = (trained(&model, &data, &options(10)), trained(&masters, &data, &options(10)));
        for path in ["fc1.weight", "fc2.weight"] {
            let id = model.tensor_id(path).unwrap();
            let found = own.patch().unwrap().load(&model, id).unwrap();
            assert_eq!(found.dtype(), dtype);
            let expected = Tensor::from_data(found.shape(), make(values(&wide, path))).unwrap();
            assert_eq!(found.to_f32s().unwrap(), expected.to_f32s().unwrap(), "{path} {dtype}");
            assert_ne!(found.to_f32s().unwrap(), model.tensor(id).load().unwrap().to_f32s().unwrap());
        }
    }
}

#[test]
fn packed_weights_stay_packed() {
    let place = Place::new();
    let data = data(place.points("train.npz", 40, 1));
    let sparse = |values: Vec<f32>| -> Vec<f32> {
        values.into_iter().enumerate().map(|(i, v)| if i % 2 == 0 { v } else { 0.0 }).collect()
    };
    let dense = stored_as(
        &mlp(None, false),
        &|values, _| Storage::Data(Arc::new(Data::F32(sparse(values)))),
        DType::F32,
    );
    for kind in [ValueType::Exact, ValueType::F16, ValueType::Int8 { axis: 0 }] {
        let packs = |values: Vec<f32>, shape: &[usize]| {
            let tensor = Tensor::new(shape, values).unwrap();
            Storage::Packed(Arc::new(pack(&tensor, Layout::bitmask(shape), kind).unwrap().0))
        };
        let model = stored_as(&dense, &packs, DType::F32);
        let patch = trained(&model, &data, &options(10)).patch().unwrap();
        for path in ["fc1.weight", "fc2.weight"] {
            let id = model.tensor_id(path).unwrap();
            let former = model.tensor(id).packed().unwrap().spec();
            let (spec, _) = patch.packing(&model, id).unwrap();
            assert_eq!(spec, former);
            let (after, before) = (of_patch(&model, &patch, path), model.tensor(id).load().unwrap());
            assert_ne!(after, before.to_f32s().unwrap());
            assert!(after.iter().enumerate().all(|(i, v)| (*v == 0.0) == (i % 2 == 1)), "{path} {kind:?}");
        }
    }
}

#[test]
fn what_is_written_keeps_the_form_of_its_masks() {
    let place = Place::new();
    let data = data(place.points("train.npz", 40, 1));
    let mut net = Net::new(None, &[6]);
    net.tensor("fc.weight_orig", &[3, 6], random(18, 1));
    net.tensor("fc.weight_mask", &[3, 6], (0..18).map(|i| f32::from(u8::from(i % 3 == 0))).collect());
    net.tensor("fc.bias", &[3], random(3, 2));
    net.node("Gemm", &["x", "fc.weight_orig", "fc.bias"], "z", TRANSPOSED);
    let model = net.ends_with("z");
    let found = masks::Masks::of(&model).unwrap();
    assert_eq!((found.form(), found.masks.len()), (Form::Pairs, 1));
    let options = FinetuneOptions { train: options(10), data, ..FinetuneOptions::default() };
    let tuned = finetune(&model, &found.masks, None, &options, &crate::progress::Silent, &mut |_| Ok(()));
    let tuned = tuned.unwrap();
    let trained = of_patch(&model, &tuned.patch, "fc.weight_orig");
    let written = |form| masks::trained(&model, &tuned.patch, &tuned.masks, &found, form).unwrap();

    let pairs = written(Form::Pairs).patch.apply(&model).unwrap();
    let of = |model: &Model, path: &str| model.tensors[path].load().unwrap().to_f32s().unwrap();
    let (orig, mask, before) = (of(&pairs, "fc.weight_orig"), of(&pairs, "fc.weight_mask"), random(18, 1));
    for i in 0..18 {
        let kept = i % 3 == 0;
        assert_eq!(mask[i], f32::from(u8::from(kept)));
        assert_eq!(orig[i], if kept { trained[i] } else { before[i] });
        assert_eq!(trained[i] == 0.0, !kept);
    }
    assert_eq!(of(&pairs, "fc.bias"), of_patch(&model, &tuned.patch, "fc.bias"));

    let sidecar = written(Form::Sidecar);
    assert!(sidecar.has_sidecar() && !written(Form::Zeros).has_sidecar());
    for form in [Form::Sidecar, Form::Zeros] {
        let path = place.path(&format!("{form:?}.safetensors"));
        let output = written(form);
        let write = || secateur_model::io::write(&model, &output.patch, &[], &path, Default::default());
        output.write(&model, &path, false, write).unwrap();
        let again = secateur_model::io::read(&path).unwrap();
        assert_eq!(of(&again, "fc.weight"), trained);
        let masks = masks::Masks::of(&again).unwrap();
        assert_eq!((masks.form(), masks.masks.len()), (form, usize::from(form == Form::Sidecar)));
    }
}

#[test]
fn what_has_no_gradient_is_named_at_once() {
    let place = Place::new();
    let data = data(place.points("train.npz", 40, 1));
    let mut net = Net::new(None, &[6]);
    net.tensor("fc1.weight", &[6, 6], random(36, 1));
    net.tensor("fc2.weight", &[3, 6], random(18, 2));
    net.node("Gemm", &["x", "fc1.weight"], "h", TRANSPOSED);
    net.node("Hardmax", &["h"], "first", &[]);
    net.node("Hardmax", &["h"], "unused", &[]);
    net.node("Gemm", &["first", "fc2.weight"], "z", TRANSPOSED);
    let model = net.ends_with("z");
    let mut blocked = trainer(&model, &Masks::new(), &data, &options(3));
    let message = blocked.step().unwrap_err().to_string();
    assert!(message.contains("`first` (Hardmax)") && message.contains("freeze"), "{message}");
    let behind = TrainOptions { freeze: vec!["fc1*".into()], ..options(3) };
    trainer(&model, &Masks::new(), &data, &behind).step().unwrap();
}

#[test]
fn bad_options_and_data_are_refused() {
    let place = Place::new();
    let (model, points) = (mlp(None, false), place.points("train.npz", 20, 1));
    let refused = |options: &FinetuneOptions| {
        let found = finetune(&model, &Masks::new(), None, options, &crate::progress::Silent, &mut |_| Ok(()));
        found.err().unwrap().to_string()
    };
    let base =
        FinetuneOptions { train: options(5), data: data(points.clone()), ..FinetuneOptions::default() };
    let with = |change: &dyn Fn(&mut FinetuneOptions)| {
        let mut options = base.clone();
        change(&mut options);
        refused(&options)
    };
    assert!(with(&|o| o.train.length = Length::Epochs(0)).contains("at least one step"));
    assert!(with(&|o| o.train.batch = 0).contains("at least one sample"));
    assert!(with(&|o| o.train.batch = 21).contains("20"));
    assert!(with(&|o| o.patience = Some(2)).contains("validation data"));
    assert!(with(&|o| o.train.output = Some("nothing".into())).contains("`nothing`"));
    assert!(with(&|o| o.train.loss.loss = Loss::Mse).contains("targets"));
    assert!(
        with(&|o| o.train.optimizer =
            OptimOptions { momentum: 0.0, nesterov: true, ..OptimOptions::default() })
        .contains("momentum")
    );
    let message =
        with(&|o| o.train.rate = Rate { rate: 1e30, schedule: RateSchedule::Constant, ..Rate::default() });
    assert!(message.contains("lower") && message.contains("1.00e30"), "{message}");
    let x = Tensor::new([20, 6], random(120, 1)).unwrap();
    let unlabelled = place.path("x.npz");
    write_npz(&[("x".into(), x)], &mut std::fs::File::create(&unlabelled).unwrap()).unwrap();
    assert!(with(&|o| o.data.data.paths = vec![unlabelled.clone()]).contains("no labels"));
    let validation = EvalOptions {
        data: DataSpec { paths: vec![unlabelled.clone()], ..DataSpec::default() },
        ..EvalOptions::default()
    };
    assert!(with(&|o| o.validation = Some(validation.clone())).contains("validation data have no labels"));
}

#[test]
fn parts_of_the_samples_are_disjoint_and_together_all() {
    let sampling = |samples, split| Sampling { samples, split, seed: 3, ..Sampling::default() };
    for samples in [None, Some(60)] {
        let all = sampling(samples, Split::All).indices(100).unwrap();
        let train = sampling(samples, Split::Train(13)).indices(100).unwrap();
        let out = sampling(samples, Split::HeldOut(13)).indices(100).unwrap();
        assert_eq!((train.len(), out.len()), (all.len() - 13, 13));
        let mut both = [train, out].concat();
        both.sort_unstable();
        assert_eq!(both, all);
    }
    for count in [0, 100] {
        assert!(sampling(None, Split::HeldOut(count)).indices(100).is_err());
    }
}

#[test]
fn an_epoch_has_each_sample_once_in_an_order_of_its_own() {
    let place = Place::new();
    let inputs = InputSpec::of(mlp(None, false).graph().unwrap()).unwrap();
    let points = place.points("train.npz", 30, 1).open().unwrap();
    let batches = Batches::new(points, Preprocess::default(), inputs, &Sampling::default()).unwrap();
    let epochs = |seed| Epochs::new(&batches, 5, Augment::default(), seed).unwrap();
    let of = |epochs: &Epochs, epoch: u64| -> Vec<usize> {
        (0..6).flat_map(|at| epochs.batch(epoch * 6 + at).unwrap().indices).collect()
    };
    let one = epochs(1);
    let orders: Vec<Vec<usize>> = (0..4).map(|epoch| of(&one, epoch)).collect();
    for order in &orders {
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..30).collect::<Vec<_>>());
    }
    assert!((0..4).all(|a| (0..a).all(|b| orders[a] != orders[b])));
    // From any step on, whatever was asked for before.
    assert_eq!(of(&epochs(1), 2), orders[2]);
    assert_eq!(of(&one, 0), orders[0]);
    assert_ne!(of(&epochs(2), 0), orders[0]);
    // What fills no batch is left out, other samples in each epoch.
    let odd = Epochs::new(&batches, 7, Augment::default(), 1).unwrap();
    assert_eq!(odd.len(), 4);
    assert!(Epochs::new(&batches, 31, Augment::default(), 1).is_err());
}
