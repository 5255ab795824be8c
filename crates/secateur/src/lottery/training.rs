//! One training: from its start to what came of it, resumed where it was interrupted.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use secateur_model::{Error, Model, Patch, Result, ResultExt, io};
use serde::{Deserialize, Serialize};

use super::masks::{self, MASK_FILE};
use super::options::Rewind;
use super::record::{CURVE_FILE, Level, Stop, write_text};
use super::{Experiment, Kind, Task};
use crate::eval::evaluate::Evaluator;
use crate::progress::Silent;
use crate::records::{CurvePoint, CurveWriter, MeasuredOn};
use crate::train::{Masks, Masters, Pace, Rate, RateSchedule, Resumed, TrainOptions, Trainer};

/// The files of a training with its weights: before it, after it, and at the step that tickets are put back to.
pub(super) const INITIAL_FILE: &str = "initial.onnx";
pub(super) const TRAINED_FILE: &str = "trained.onnx";
const REWIND_FILE: &str = "rewind.onnx";
/// The file of a training that is not done.
const PROGRESS_FILE: &str = "training.safetensors";

/// How often the loss is reported while a training runs.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

/// Steps that are reported at a time.
const STEPS_SHOWN: u64 = 16;

/// What a resumed training has to know besides what its trainer does.
#[derive(Default, Serialize, Deserialize)]
struct Record {
    /// The point of the least validation loss.
    best: Option<CurvePoint>,
}

struct Run<'a> {
    experiment: &'a Experiment<'a>,
    task: Task,
    folder: PathBuf,
    start: Arc<Model>,
    masks: Masks,
    trainer: Trainer,
    validation: Evaluator,
    test: Option<Evaluator>,
    record: Record,
    /// The weights there.
    best: Option<Patch>,
    /// What the step's evaluation found last.
    last: Option<Stop>,
}

/// Trains and gives what came of it; `None` where it was told to stop before the end.
///
/// # Errors
/// Those of training, evaluation and files.
pub(super) fn run(experiment: &Experiment<'_>, task: Task, stop: &AtomicBool) -> Result<Option<Level>> {
    let mut run = Run::new(experiment, task)?;
    if run.train(stop)? { run.finish().map(Some) } else { Ok(None) }
}

impl<'a> Run<'a> {
    fn new(experiment: &'a Experiment<'a>, task: Task) -> Result<Self> {
        let named = experiment.settings.of(task);
        let folder = experiment.folder.join(&named.id);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let settings =
            serde_json::to_string_pretty(&named.settings).map_err(|e| Error::internal(e.to_string()))?;
        write_text(&folder.join("settings.json"), &(settings + "\n"))?;
        let masks = masks::of(experiment, task)?;
        if !masks.is_empty() {
            masks::write(&folder.join(MASK_FILE), &masks, &experiment.model)?;
        }
        let start = start(experiment, task, &masks, &folder.join(INITIAL_FILE))?;
        let masters = Masters::of(&start, &masks)?;
        let options = options(experiment, task);
        let (variables, batches) = (&experiment.variables, &experiment.batches);
        let trainer = Trainer::on(&masters, &Patch::new(), variables, &masks, batches, None, &options)?;
        let trainer = match experiment.options.limits {
            Some(limits) => trainer.within(limits),
            None => trainer,
        };
        let trainer = trainer.starting_at(experiment.first_step(task));
        let validation = experiment.validation.of(&start)?;
        let test = experiment.test.as_ref().map(|test| test.of(&start)).transpose()?;
        let record = Record::default();
        Ok(Run {
            experiment,
            task,
            folder,
            start,
            masks,
            trainer,
            validation,
            test,
            record,
            best: None,
            last: None,
        })
    }

    /// Trains to the end, or until it is told to stop, and says which.
    fn train(&mut self, stop: &AtomicBool) -> Result<bool> {
        let progress = self.experiment.progress;
        let first = self.trainer.step_number();
        self.resume()?;
        let mut curve = CurveWriter::open(&self.folder.join(CURVE_FILE), self.trainer.step_number())?;
        progress.advance(self.trainer.step_number() - first);
        let (mut pace, mut shown, mut steps) = (Pace::new(), Instant::now(), 0);
        loop {
            self.at_step(&mut curve)?;
            let step = self.trainer.step_number();
            if step >= self.trainer.steps() {
                progress.advance(steps);
                return Ok(true);
            }
            if stop.load(Ordering::Relaxed) {
                curve.sync()?;
                self.save()?;
                return Ok(false);
            }
            let loss = self.trainer.step()?.loss;
            steps += 1;
            if steps == STEPS_SHOWN {
                progress.advance(steps);
                steps = 0;
            }
            if shown.elapsed() >= SHOWN_EVERY {
                let name = self.experiment.name_of(self.task);
                progress.state(&format!("{name}, step {step}, loss {loss:.4}"));
                shown = Instant::now();
            }
            pace.keep(|| {
                curve.sync()?;
                self.save()
            })?;
        }
    }

    /// What is due before a step: evaluations, and the weights that tickets are put back to.
    fn at_step(&mut self, curve: &mut CurveWriter) -> Result<()> {
        let (experiment, step) = (self.experiment, self.trainer.step_number());
        let (options, of_epoch) = (experiment.options, experiment.extent.of_epoch);
        let is_end = step >= self.trainer.steps();
        let is_due =
            |every: crate::schedule::Length| step.is_multiple_of(every.iterations(of_epoch)) || is_end;
        if let Rewind::To(length) = options.rewind
            && (self.task.level, length.iterations(of_epoch)) == (0, step)
            && step > 0
        {
            write(&self.start, &self.trainer.patch()?, &self.folder.join(REWIND_FILE))?;
        }
        let (validates, tests) = (is_due(options.evaluate_every), is_due(options.test_every));
        if !validates && !tests {
            return Ok(());
        }
        let patch = self.trainer.patch()?;
        let mut measure = |evaluator: &mut Evaluator, on: MeasuredOn| -> Result<CurvePoint> {
            let point = CurvePoint::new(step, on, &evaluator.evaluate(patch.clone(), &Silent)?);
            curve.append(&point)?;
            Ok(point)
        };
        if validates {
            let point = measure(&mut self.validation, MeasuredOn::Validation)?;
            let is_least = self.record.best.as_ref().is_none_or(|best| point.loss() < best.loss());
            if is_least && !point.loss().is_nan() {
                self.record.best = Some(point.clone());
                self.best = Some(patch.clone());
            }
            self.last = Some(Stop { validation: point, test: None });
        }
        if let (Some(test), true) = (&mut self.test, tests) {
            let point = measure(test, MeasuredOn::Test)?;
            if let Some(last) = &mut self.last {
                last.test = Some(point);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Level> {
        if let Some(path) = self.trainer.not_finite()? {
            let rate = self.experiment.options.train.rate.rate;
            let message = format!(
                "weights are not finite after training at a rate of {rate:.2e}: a lower one may train"
            );
            return Err(Error::input(message).at_tensor(path));
        }
        if !self.trainer.holds_masks()? {
            return Err(Error::internal("a pruned weight is not zero after training"));
        }
        let (Some(validation), Some(best), Some(last)) = (self.record.best, self.best, self.last) else {
            return Err(Error::input("the validation loss is no number at any step: a lower rate may train"));
        };
        let iteration = validation.iteration;
        let test = match &mut self.test {
            Some(test) => Some(CurvePoint::new(iteration, MeasuredOn::Test, &test.evaluate(best, &Silent)?)),
            None => None,
        };
        write(&self.start, &self.trainer.patch()?, &self.folder.join(TRAINED_FILE))?;
        let level = Level {
            id: self.experiment.settings.of(self.task).id,
            kind: self.task.kind,
            level: self.task.level,
            seed: self.task.seed,
            layers: masks::counts(self.experiment, &self.masks)?,
            early_stop: Stop { validation, test },
            last,
            curve: Vec::new(),
        };
        level.write(&self.folder)?;
        let progress = self.folder.join(PROGRESS_FILE);
        if progress.exists() {
            fs::remove_file(&progress).map_err(|e| Error::io(&progress, e))?;
        }
        Ok(level)
    }

    fn save(&self) -> Result<()> {
        let record = serde_json::to_string(&self.record).map_err(|e| Error::internal(e.to_string()))?;
        let none = Masks::new();
        let best = self.best.as_ref().map(|best| (best, &none));
        self.trainer.save(&self.folder.join(PROGRESS_FILE), best, &record)
    }

    fn resume(&mut self) -> Result<()> {
        let path = self.folder.join(PROGRESS_FILE);
        if !path.exists() {
            return Ok(());
        }
        let Resumed { other, record, .. } = self.trainer.resume(&path)?;
        self.record = serde_json::from_str(&record)
            .map_err(|e| Error::input(format!("is damaged: {e}; remove it to train again")))
            .at_file(&path)?;
        self.best = other.map(|(patch, _)| patch);
        Ok(())
    }
}

/// The model that a training begins with, as a file: what the mask prunes is zero, all else is as it was at the step that is
/// rewound to, or as it was trained.
fn start(
    experiment: &Experiment<'_>,
    task: Task,
    masks: &Masks,
    path: &std::path::Path,
) -> Result<Arc<Model>> {
    let of_seed = |level: u64| Task { kind: Kind::Ticket, level, seed: task.seed };
    let drawn = || Ok((experiment.model.clone(), experiment.initial(task)?));
    let (model, mut patch) = match (task.level, task.kind, experiment.options.rewind) {
        (0, ..) | (_, Kind::Reinitialised, _) => drawn()?,
        (_, _, Rewind::To(_)) if experiment.first_step(task) == 0 => drawn()?,
        (_, _, Rewind::To(_)) => (experiment.written(of_seed(0), REWIND_FILE)?, Patch::new()),
        (level, ..) => (experiment.written(of_seed(level - 1), TRAINED_FILE)?, Patch::new()),
    };
    masks::applied(masks, &model, &mut patch)?;
    write(&model, &patch, path)?;
    Ok(Arc::new(io::read(path)?))
}

/// How a training differs from that of the dense network.
fn options(experiment: &Experiment<'_>, task: Task) -> TrainOptions {
    let mut options = TrainOptions { seed: task.seed, ..experiment.options.train.clone() };
    let keeps = task.level > 0 && task.kind != Kind::Reinitialised;
    if experiment.options.rewind == Rewind::Nothing && keeps {
        let (steps, of_epoch) = (experiment.extent.steps, experiment.extent.of_epoch);
        let last = options.rate.at(steps - 1, steps, of_epoch);
        options.rate = Rate { rate: last, schedule: RateSchedule::Constant, warmup: None, ..options.rate };
    }
    options
}

fn write(model: &Model, patch: &Patch, path: &std::path::Path) -> Result<()> {
    io::write(model, patch, &[], path, io::WriteOptions { overwrite: true })?;
    Ok(())
}
