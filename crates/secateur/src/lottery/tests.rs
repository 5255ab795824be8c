//! Tickets of the embedded digits: masks, initialisations and files; accuracies are not asserted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use secateur_model::{Model, io};

use super::*;
use crate::calib::CalibrateOptions;
use crate::data::{DataSpec, Preprocess, Sampling, Scale, Split};
use crate::eval::evaluate::EvalOptions;
use crate::progress::{Progress, Silent};
use crate::prune::{Amount, Override, PruneOptions};
use crate::schedule::Length;
use crate::train::{Init, Optim, OptimOptions, Rate, TrainData, TrainOptions};
use crate::{Error, demo};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> (Self, Arc<Model>, LotteryOptions) {
        let folder = tempfile::tempdir().unwrap();
        let files = demo::unpack(folder.path()).unwrap();
        let model = Arc::new(io::read(&files.model).unwrap());
        let spec = DataSpec { paths: vec![files.data], ..DataSpec::default() };
        let preprocess = Preprocess { scale: Scale::Factor(demo::SCALE), ..Preprocess::default() };
        let sampling = |split| Sampling { samples: Some(200), split, ..Sampling::default() };
        let (held_out, all) = (sampling(Split::HeldOut(72)), sampling(Split::Train(72)));
        let evaluated = |sampling| EvalOptions {
            data: spec.clone(),
            preprocess: preprocess.clone(),
            sampling,
            ..EvalOptions::default()
        };
        let options = LotteryOptions {
            train: TrainOptions {
                length: Length::Iterations(8),
                batch: 32,
                optimizer: OptimOptions { kind: Optim::Adam, ..OptimOptions::default() },
                rate: Rate { rate: 2e-3, ..Rate::default() },
                seed: 5,
                ..TrainOptions::default()
            },
            validation: evaluated(held_out),
            test: Some(evaluated(Sampling { samples: Some(50), ..Sampling::default() })),
            data: TrainData { data: spec.clone(), preprocess: preprocess.clone(), sampling: all },
            prune: PruneOptions {
                of_remaining: true,
                overrides: vec![Override { name: "head*".into(), sparsity: 0.25 }],
                ..PruneOptions::new("l1".parse().unwrap(), Amount::Sparsity(0.5))
            },
            calibrate: None,
            levels: 3,
            rewind: Rewind::default(),
            init: Init::Glorot,
            controls: vec![Control::Reinit, Control::Random],
            seeds: 1,
            evaluate_every: Length::Iterations(2),
            test_every: Length::Iterations(4),
            limits: None,
        };
        (Place(folder), model, options)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn header() -> Header {
    Header {
        model: "digits.onnx".into(),
        data: "digits".into(),
        samples: [0; 3],
        steps: 0,
        method: "l1".into(),
        rate: 0.5,
        rewind: Rewind::default(),
        init: Init::Glorot,
        recipe: serde_json::Value::Null,
        version: "0".into(),
    }
}

fn search(model: &Arc<Model>, options: &LotteryOptions, folder: &Path) -> Lottery {
    lottery(model, options, header(), folder, &Silent).unwrap()
}

fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

/// What a training's file holds of each tensor.
fn tensors(lottery: &Lottery, level: &Level, file: &str) -> BTreeMap<String, Vec<f32>> {
    let model = io::read(lottery.folder.join(&level.id).join(file)).unwrap();
    let floats = model.tensors.values().filter(|stored| stored.dtype == secateur_model::DType::F32);
    floats.map(|stored| (stored.path.clone(), stored.load().unwrap().to_f32s().unwrap())).collect()
}

fn masks(lottery: &Lottery, level: &Level) -> BTreeMap<String, Vec<i64>> {
    let model = io::read(lottery.folder.join(&level.id).join("mask.safetensors")).unwrap();
    model.tensors.values().map(|s| (s.path.clone(), s.load().unwrap().to_i64s().unwrap())).collect()
}

fn find(lottery: &Lottery, kind: Kind, level: u64) -> &Level {
    lottery.levels.iter().find(|found| (found.kind, found.level) == (kind, level)).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Every file of a folder, by its path in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true => found
                .extend(files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes))),
            false => drop(found.insert(name, std::fs::read(&path).unwrap())),
        }
    }
    found
}

/// Checks a training against the model that its kept weights come from: equal bits where the mask keeps, zero elsewhere, and
/// all that has no mask equal.
fn begins_with(
    start: &BTreeMap<String, Vec<f32>>,
    masks: &BTreeMap<String, Vec<i64>>,
    from: &BTreeMap<String, Vec<f32>>,
) {
    for (path, values) in start {
        let mask = masks.get(path);
        for (i, (value, origin)) in values.iter().zip(&from[path]).enumerate() {
            let expected = if mask.is_some_and(|mask| mask[i] == 0) { 0.0 } else { *origin };
            assert_eq!(value.to_bits(), expected.to_bits(), "{path} {i}");
        }
    }
}

#[test]
fn a_ticket_of_three_levels() {
    let (place, model, options) = Place::new();
    let found = search(&model, &options, &place.path("run"));
    assert_eq!(found.levels.len(), 1 + 3 * 3);
    let dense = find(&found, Kind::Ticket, 0);
    let initial = tensors(&found, dense, "initial.onnx");
    assert_eq!(dense.remaining(), 1.0);
    let mut before: Option<BTreeMap<String, Vec<i64>>> = None;
    for level in 1..=3 {
        let [ticket, reinit, random] =
            [Kind::Ticket, Kind::Reinitialised, Kind::Random].map(|kind| find(&found, kind, level));
        // Half of what remains goes with each level, of the last layer a quarter.
        for layer in &ticket.layers {
            let rate: f64 = if layer.name.starts_with("head") { 0.25 } else { 0.5 };
            let expected = layer.size as f64 * (1.0 - rate).powi(level as i32);
            assert!((layer.kept as f64 - expected).abs() <= 1.0, "{layer:?} {level}");
        }
        assert_eq!(ticket.layers, reinit.layers);
        assert_eq!(ticket.layers, random.layers);
        let mask = masks(&found, ticket);
        assert_eq!(mask, masks(&found, reinit));
        let drawn = masks(&found, random);
        assert_ne!(mask, drawn);
        if let Some(before) = &before {
            let nested =
                |path: &String, now: &Vec<i64>| now.iter().zip(&before[path]).all(|(now, was)| now <= was);
            assert!(mask.iter().all(|(path, now)| nested(path, now)), "level {level}: a weight came back");
        }
        begins_with(&tensors(&found, ticket, "initial.onnx"), &mask, &initial);
        begins_with(&tensors(&found, random, "initial.onnx"), &drawn, &initial);
        let anew = tensors(&found, reinit, "initial.onnx");
        for (level, mask) in [(ticket, &mask), (reinit, &mask), (random, &drawn)] {
            for (path, mask) in mask {
                let trained = &tensors(&found, level, "trained.onnx")[path];
                assert!(mask.iter().zip(trained).all(|(keep, value)| *keep == 1 || *value == 0.0), "{path}");
                let equal =
                    anew[path].iter().zip(&initial[path]).filter(|(a, b)| a == b && **a != 0.0).count();
                assert_eq!(equal, 0, "{path}: reinitialised weights are new");
            }
        }
        before = Some(mask);
    }
    // Every second step is validated, every fourth tested, and the last one both.
    let measured = |on| -> Vec<u64> {
        dense.curve.iter().filter(|point| point.on == on).map(|point| point.iteration).collect()
    };
    assert_eq!(measured(crate::records::MeasuredOn::Validation), [0, 2, 4, 6, 8]);
    assert_eq!(measured(crate::records::MeasuredOn::Test), [0, 4, 8]);
    for level in &found.levels {
        let losses = level.curve.iter().filter(|point| point.on == crate::records::MeasuredOn::Validation);
        let least = losses.map(|point| point.loss()).fold(f64::INFINITY, f64::min);
        assert_eq!(level.early_stop.validation.loss(), least);
        assert_eq!(level.early_stop.test.as_ref().unwrap().iteration, level.early_stop.iteration());
        assert_eq!(level.last.iteration(), 8);
        assert!(!found.folder.join(&level.id).join("training.safetensors").exists());
    }
    let again = Lottery::load(&found.folder).unwrap();
    assert_eq!((again.header, again.levels), (found.header, found.levels));
}

#[test]
fn side_by_side_is_as_one_by_one_and_seeds_differ() {
    let (place, model, options) = Place::new();
    let options = LotteryOptions { seeds: 2, levels: 2, ..options };
    let folders = ["one", "three"].map(|name| place.path(name));
    for (folder, threads) in folders.iter().zip([1, 3]) {
        on_threads(threads, || search(&model, &options, folder));
    }
    let [one, three] = folders.each_ref().map(|folder| files(folder));
    assert_eq!(one.keys().collect::<Vec<_>>(), three.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(*bytes == three[name], "{name}");
    }
    let found = Lottery::load(&folders[0]).unwrap();
    assert_eq!(found.levels.len(), 2 * (1 + 2 * 3));
    let dense: Vec<&Level> = found.levels.iter().filter(|level| level.level == 0).collect();
    let [a, b] = [0, 1].map(|i| tensors(&found, dense[i], "initial.onnx"));
    assert_ne!(a["head.weight"], b["head.weight"]);
}

/// Counts what is to be done.
#[derive(Default)]
struct Counting(AtomicU64);

impl Progress for Counting {
    fn begin(&self, _: &str, steps: u64) {
        self.0.store(steps, Ordering::Relaxed);
    }
}

#[test]
fn what_is_done_is_not_done_again() {
    let (place, model, options) = Place::new();
    let folder = place.path("run");
    let steps = |options: &LotteryOptions| {
        let counting = Counting::default();
        lottery(&model, options, header(), &folder, &counting).unwrap();
        counting.0.into_inner()
    };
    let small = LotteryOptions { levels: 1, controls: Vec::new(), ..options.clone() };
    assert_eq!(steps(&small), 2 * 8);
    let before = files(&folder);
    assert_eq!(steps(&small), 0);
    assert_eq!(files(&folder), before);
    // A level more, a control, another method: each takes what is there.
    assert_eq!(steps(&LotteryOptions { levels: 2, ..small.clone() }), 8);
    assert_eq!(steps(&LotteryOptions { controls: vec![Control::Random], ..small.clone() }), 8);
    let method =
        PruneOptions { method: "l1@global".parse().unwrap(), overrides: Vec::new(), ..small.prune.clone() };
    assert_eq!(steps(&LotteryOptions { prune: method, ..small.clone() }), 8);
    // Another network or training shares nothing.
    assert_eq!(steps(&LotteryOptions { init: Init::Kaiming, ..small.clone() }), 2 * 8);
    let train = TrainOptions { rate: Rate { rate: 1e-3, ..Rate::default() }, ..small.train.clone() };
    assert_eq!(steps(&LotteryOptions { train, ..small }), 2 * 8);
}

#[test]
fn kept_weights_are_put_back_where_it_is_said() {
    let (place, model, options) = Place::new();
    let with = |rewind: Rewind| {
        let options = LotteryOptions { rewind, levels: 2, ..options.clone() };
        search(&model, &options, &place.path(&rewind.to_string()))
    };
    let later = with("3it".parse().unwrap());
    let dense = find(&later, Kind::Ticket, 0);
    let rewound = tensors(&later, dense, "rewind.onnx");
    assert_ne!(bits(&rewound["head.weight"]), bits(&tensors(&later, dense, "initial.onnx")["head.weight"]));
    for level in 1..=2 {
        for kind in [Kind::Ticket, Kind::Random] {
            let found = find(&later, kind, level);
            begins_with(&tensors(&later, found, "initial.onnx"), &masks(&later, found), &rewound);
            assert_eq!(found.curve[0].iteration, 4, "it goes on at step 3");
        }
        assert_eq!(find(&later, Kind::Reinitialised, level).curve[0].iteration, 0);
    }
    for rewind in [Rewind::LearningRate, Rewind::Nothing] {
        let kept = with(rewind);
        for level in 1..=2 {
            let parent = tensors(&kept, find(&kept, Kind::Ticket, level - 1), "trained.onnx");
            for kind in [Kind::Ticket, Kind::Random] {
                let found = find(&kept, kind, level);
                begins_with(&tensors(&kept, found, "initial.onnx"), &masks(&kept, found), &parent);
                assert_eq!(found.layers, find(&kept, Kind::Ticket, level).layers);
            }
        }
    }
    // The last rate of half a cosine is nearly 0: what is only fine-tuned hardly moves.
    let moved = |name: &str| {
        let found = Lottery::load(&place.path(name)).unwrap();
        let level = find(&found, Kind::Ticket, 1);
        let [before, after] = ["initial.onnx", "trained.onnx"].map(|file| tensors(&found, level, file));
        let of = |path: &str| before[path].iter().zip(&after[path]).map(|(a, b)| (a - b).abs()).sum::<f32>();
        of("head.weight")
    };
    assert!(moved("none") < 0.2 * moved("learning-rate"), "{} {}", moved("none"), moved("learning-rate"));
}

#[test]
fn channels_take_their_bias_and_norm_along() {
    let (place, model, options) = Place::new();
    let prune = PruneOptions {
        method: "l1/channel".parse().unwrap(),
        overrides: Vec::new(),
        ..options.prune.clone()
    };
    let options = LotteryOptions { prune, levels: 2, ..options };
    let found = search(&model, &options, &place.path("run"));
    for kind in [Kind::Ticket, Kind::Random] {
        let level = find(&found, kind, 2);
        let (mask, trained) = (masks(&found, level), tensors(&found, level, "trained.onnx"));
        assert!(mask.contains_key("block2.bn.bias"), "{:?}", mask.keys());
        let zeros = trained["block2.bn.bias"].iter().filter(|v| **v == 0.0).count();
        assert_eq!(zeros, trained["block2.bn.bias"].len() * 3 / 4);
        assert_eq!(level.layers, find(&found, Kind::Ticket, 2).layers);
    }
}

#[test]
fn criteria_look_at_the_data_that_are_named() {
    let (place, model, options) = Place::new();
    let calibrated =
        |data: &TrainData| Some(CalibrateOptions { data: data.clone(), ..CalibrateOptions::default() });
    let with = |method: &str, calibrate, folder: &str| {
        let method = method.parse().unwrap();
        let prune = PruneOptions { method, overrides: Vec::new(), ..options.prune.clone() };
        let options = LotteryOptions { prune, calibrate, levels: 2, controls: Vec::new(), ..options.clone() };
        lottery(&model, &options, header(), &place.path(folder), &Silent)
    };
    let by_magnitude = with("l1@global", None, "l1").unwrap();
    for method in ["taylor@global", "snip@global", "fisher", "apoz/channel", "synflow@global"] {
        let found = with(method, calibrated(&options.data), "data").unwrap();
        let [first, second] = [1, 2].map(|level| find(&found, Kind::Ticket, level));
        assert!((second.remaining() - 0.25).abs() < 0.01, "{method}: {}", second.remaining());
        let (one, two) = (masks(&found, first), masks(&found, second));
        let nested = |path: &String| two[path].iter().zip(&one[path]).all(|(now, was)| now <= was);
        assert!(one.keys().all(nested), "{method}: a weight came back");
        assert_ne!(one, masks(&by_magnitude, find(&by_magnitude, Kind::Ticket, 1)), "{method}");
    }
    // The dense network is that of all these; other samples are another experiment.
    let ids = |found: &Lottery| [0, 1].map(|level| find(found, Kind::Ticket, level).id.clone());
    let known = ids(&with("taylor@global", calibrated(&options.data), "data").unwrap());
    let mut fewer = options.data.clone();
    fewer.sampling.most = Some(20);
    let other = ids(&with("taylor@global", calibrated(&fewer), "data").unwrap());
    assert!(known[0] == other[0] && known[1] != other[1], "{known:?} {other:?}");
    assert_eq!(ids(&by_magnitude)[0], known[0]);

    let message = with("taylor@global", None, "none").unwrap_err().to_string();
    assert!(message.contains("option `calibrate`") && message.contains("taylor"), "{message}");
    assert!(std::fs::read_dir(place.path("none")).unwrap().all(|entry| entry.unwrap().path().is_file()));
}

#[test]
fn the_file_s_own_weights_can_be_the_initialisation() {
    let (place, model, options) = Place::new();
    let options = LotteryOptions { init: Init::File, levels: 1, ..options };
    let found = search(&model, &options, &place.path("run"));
    let of = |kind, level| tensors(&found, find(&found, kind, level), "initial.onnx");
    for (path, values) in of(Kind::Ticket, 0) {
        let own = model.tensors[&path].load().unwrap().to_f32s().unwrap();
        assert_eq!(bits(&values), bits(&own), "{path}");
    }
    assert_ne!(of(Kind::Reinitialised, 1)["head.bias"], of(Kind::Ticket, 1)["head.bias"]);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let (place, model, options) = Place::new();
    let refused = |change: &dyn Fn(&mut LotteryOptions)| {
        let mut options = options.clone();
        change(&mut options);
        let error: Error = lottery(&model, &options, header(), &place.path("run"), &Silent).unwrap_err();
        error.to_string()
    };
    assert!(refused(&|o| o.rewind = "8it".parse().unwrap()).contains("put back to 8it"));
    assert!(refused(&|o| o.levels = 0).contains("at least one level"));
    assert!(refused(&|o| o.prune.amount = Amount::Sparsity(1.0)).contains("between 0 and 1"));
    assert!(refused(&|o| o.evaluate_every = Length::Iterations(0)).contains("expected more"));
    let message = refused(&|o| o.train.rate.rate = 1e30);
    assert!(message.contains("dense, seed 5") && message.contains("lower"), "{message}");
}
