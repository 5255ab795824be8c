//! Trainings by their settings: what makes two of them the same.

use std::path::Path;

use secateur_model::{Error, Model, Result, io};
use serde_json::{Value, json};

use super::options::{LotteryOptions, Rewind};
use super::{Kind, Task};
use crate::calib::needs_data;
use crate::data::{DataSpec, TrainData};
use crate::eval::evaluate::EvalOptions;
use crate::prune::PruneOptions;
use crate::random::Stream;
use crate::train::Init;

/// Digits of a hash that name a folder.
const DIGITS: usize = 16;

/// The settings of a training, and the hash of them in their canonical form: JSON without spaces, keys in order.
pub(super) struct Named {
    pub(super) settings: Value,
    pub(super) id: String,
}

/// The settings of trainings.
pub(super) struct Settings {
    /// What all of them have alike, without the seed.
    common: Value,
    pruning: Value,
    rewind: Rewind,
    init: Init,
}

impl Settings {
    /// # Errors
    /// Where a file of data cannot be read.
    pub(super) fn new(model: &Model, options: &LotteryOptions) -> Result<Self> {
        let (train, data) = (&options.train, &options.data);
        let mut training = to_value(train)?;
        if let Some(fields) = training.as_object_mut() {
            fields.remove("seed");
        }
        let test = options.test.as_ref();
        let common = json!({
            "format": 1,
            "model": io::content_hash(model)?,
            "train": training,
            "data": read(data)?,
            "validation": evaluated(&options.validation)?,
            "test": test.map(evaluated).transpose()?,
            "evaluate-every": options.evaluate_every.to_string(),
            "test-every": options.test_every.to_string(),
        });
        let mut pruning = pruned(&options.prune)?;
        if let Some(calibrate) = options.calibrate.as_ref().filter(|_| needs_data(&options.prune.method)) {
            pruning["calibrate"] = json!({
                "data": read(&calibrate.data)?,
                "loss": to_value(&calibrate.loss)?,
                "output": calibrate.output,
            });
        }
        Ok(Settings { common, pruning, rewind: options.rewind, init: options.init })
    }

    /// Those of a training. They hold the hash of the training that comes before it, so that trainings that share their
    /// beginning share it among experiments too.
    pub(super) fn of(&self, task: Task) -> Named {
        let mut settings = self.common.clone();
        settings["seed"] = task.seed.into();
        settings["initialisation"] = json!(self.init);
        if self.keeps_rewound(task) {
            settings["rewind"] = self.rewind.to_string().into();
        }
        if task.level > 0 {
            let parent = Task { kind: Kind::Ticket, level: task.level - 1, seed: task.seed };
            settings["kind"] = json!(task.kind);
            settings["after"] = self.of(parent).id.into();
            settings["prune"] = self.pruning.clone();
        }
        let id = io::sha256(settings.to_string().as_bytes())[..DIGITS].to_string();
        Named { settings, id }
    }

    /// Whether a training depends on what is rewound to: all but the dense one, which does only where it keeps the weights of a
    /// later step.
    fn keeps_rewound(&self, task: Task) -> bool {
        task.level > 0 || matches!(self.rewind, Rewind::To(length) if length.iterations(1) > 0)
    }
}

/// The seed of the weights of a training that draws them.
pub(super) fn seed_of_weights(task: Task) -> u64 {
    match task.kind {
        Kind::Reinitialised => {
            Stream::seed_of(task.seed, &format!("reinitialisation of level {}", task.level))
        }
        _ => Stream::seed_of(task.seed, "initialisation"),
    }
}

fn to_value(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|e| Error::usage(format!("settings cannot be recorded: {e}")))
}

fn read(data: &TrainData) -> Result<Value> {
    Ok(json!({
        "data": identified(&data.data)?,
        "preprocess": to_value(&data.preprocess)?,
        "sampling": to_value(&data.sampling)?,
        "split": format!("{:?}", data.sampling.split),
    }))
}

fn evaluated(options: &EvalOptions) -> Result<Value> {
    let mut value = to_value(options)?;
    value["data"] = identified(&options.data)?;
    value["split"] = format!("{:?}", options.sampling.split).into();
    Ok(value)
}

/// Data by the names and contents of their files; of a folder the name alone.
fn identified(data: &DataSpec) -> Result<Value> {
    let file = |path: &Path| -> Result<Value> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let hash = if path.is_file() { Some(io::sha256(&io::read_regular(path)?)) } else { None };
        Ok(json!([name, hash]))
    };
    let labels = match data.labels.as_deref() {
        Some(name) if Path::new(name).is_file() => file(Path::new(name))?,
        other => json!(other),
    };
    Ok(json!({
        "files": data.paths.iter().map(|path| file(path)).collect::<Result<Vec<_>>>()?,
        "labels": labels,
        "format": to_value(&data.format)?,
        "classes": data.classes.as_deref().map(file).transpose()?,
        "input": data.input,
    }))
}

fn pruned(options: &PruneOptions) -> Result<Value> {
    let scores =
        options.scores.as_deref().map(|path| Ok(io::sha256(&io::read_regular(path)?))).transpose()?;
    let layers: Vec<Value> = options.overrides.iter().map(|o| json!([o.name, o.sparsity])).collect();
    Ok(json!({
        "method": options.method.to_string(),
        "rate": options.amount.to_string(),
        "layers": layers,
        "selector": to_value(&options.selector)?,
        "weights-only": options.weights_only,
        "scores": scores,
    }))
}
