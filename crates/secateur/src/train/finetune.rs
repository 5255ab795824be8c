//! Fine-tuning: training a pruned model, or pruning it while it trains.

mod log;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secateur_model::text::listed;
use secateur_model::{Error, Model, Patch, Result, io};
use secateur_runtime::Limits;
use serde::{Deserialize, Serialize};

use self::log::Position;
use super::checkpoint::{Pace, Resumed};
use super::{Masks, Masters, TrainData, TrainOptions, Trainer, Variables, held};
use crate::calib::{self, CalibrateOptions};
use crate::data::Tolerance;
use crate::data::metrics::Metrics;
use crate::eval::evaluate::{EvalOptions, Evaluator};
use crate::progress::{Progress, Silent};
use crate::prune::{Amount, Override, PruneOptions, Subject};
use crate::records::{CurveWriter, Event, Logged, MeasuredOn, measures};
use crate::schedule::{Extent, Schedule, ScheduleOptions};
use crate::solve::{self, RepairOptions, Repairer};

/// How often the loss is reported while an epoch runs.
const SHOWN_EVERY: Duration = Duration::from_millis(200);

/// What is trained on, validated on and pruned.
#[derive(Clone, Debug, Default)]
pub struct FinetuneOptions {
    /// The training.
    pub train: TrainOptions,
    /// What it reads.
    pub data: TrainData,
    /// What the model is evaluated on after each epoch.
    pub validation: Option<EvalOptions>,
    /// How the model is pruned meanwhile, and when; otherwise the masks that it has are held.
    pub pruning: Option<(PruneOptions, ScheduleOptions)>,
    /// What criteria that look at data are calibrated on at each pruning, and the model repaired.
    pub calibrate: Option<CalibrateOptions>,
    /// How the model is repaired after each pruning; its biases by the means that it had before.
    pub repair: Vec<solve::Method>,
    /// Training ends where the validation loss has not fallen for so many epochs, with the weights of the best.
    pub patience: Option<u64>,
    /// Pruning stops where the model is worse on the validation data, just before a pruning or at the end, than before the first
    /// one by more than this; what comes out is the last model that was not.
    pub until: Option<Tolerance>,
    /// Where the training is saved while it runs, and resumed from.
    pub progress_file: Option<PathBuf>,
    /// Where its course is written while it runs, as [`LogLine`](crate::records::LogLine)s; a training that is resumed goes on with it.
    pub log: Option<PathBuf>,
    /// What the training may take.
    pub limits: Option<Limits>,
}

/// An epoch of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Epochs so far.
    pub epoch: u64,
    /// Steps so far.
    pub step: u64,
    /// The mean loss over the batches of the epoch, each before its step.
    pub loss: f64,
    /// The learning rate of the last step.
    pub rate: f64,
    /// The share of zeros among the weights that masks are on.
    pub sparsity: f64,
    /// The figures on the validation data.
    pub validation: Option<Metrics>,
}

/// What came of a training.
#[derive(Clone)]
pub struct Finetune {
    /// The trained weights.
    pub patch: Patch,
    /// The masks that hold at the end.
    pub masks: Masks,
    /// The epochs.
    pub epochs: Vec<Epoch>,
    /// The epoch whose weights these are, where training ended early.
    pub best: Option<u64>,
    /// The step whose weights these are, and the figures there, where pruning stopped since the model became worse.
    pub stopped: Option<(u64, Metrics)>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

/// What a resumed training has to know besides what [`Trainer::save`] writes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The options that the training was begun with, as text: another training does not go on from it.
    options: String,
    epochs: Vec<Epoch>,
    /// The sum of the losses of the epoch in work.
    sum: f64,
    /// The epoch of the least validation loss, and that loss.
    best: Option<(u64, f64)>,
    /// The figures before the first pruning; the last step at which they were not worse by too much, and the figures there.
    unpruned: Option<Metrics>,
    good: Option<(u64, Metrics)>,
    /// Whether they are worse by too much.
    stopped: bool,
    /// How far the log is.
    log: Position,
}

/// Weights to come back to, with their masks.
struct Kept {
    patch: Patch,
    masks: Masks,
}

/// Trains a model while masks hold: those given, of other weights what is zero in the model, and what belongs to channels that
/// are pruned as a whole. A schedule adds to them.
///
/// # Errors
/// Where options contradict each other or data do not fit; those of the training.
pub fn finetune(
    model: &Arc<Model>,
    masks: &Masks,
    teacher: Option<&Arc<Model>>,
    options: &FinetuneOptions,
    progress: &dyn Progress,
    on_epoch: &mut dyn FnMut(&Epoch) -> Result<()>,
) -> Result<Finetune> {
    Run::new(model, masks, teacher, options)?.run(progress, on_epoch)
}

pub(super) struct Run<'a> {
    options: &'a FinetuneOptions,
    pub(super) trainer: Trainer,
    evaluator: Option<Evaluator>,
    pub(super) masks: Masks,
    /// The sparsity that pruning begins at, and the one that it ends at.
    initial: f64,
    target: f64,
    record: Record,
    notes: Vec<String>,
    /// The weights of the epoch of the least validation loss, or the last that were not worse by too much.
    best: Option<Kept>,
    log: Option<CurveWriter>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        model: &Arc<Model>,
        masks: &Masks,
        teacher: Option<&Arc<Model>>,
        options: &'a FinetuneOptions,
    ) -> Result<Self> {
        let masters = Masters::of(model, masks)?;
        let subject = Subject::of(masters.in_f32());
        let variables = Variables::of(&subject, &options.train.train, &options.train.freeze)?;
        let masks = held(&subject, masks, &variables.tensors)?;
        let trainer = Trainer::new(
            &masters,
            &Patch::new(),
            &variables,
            &masks,
            &options.data,
            teacher,
            &options.train,
        )?;
        let trainer = match options.limits {
            Some(limits) => trainer.within(limits),
            None => trainer,
        };
        let extent = Extent { steps: trainer.steps(), of_epoch: trainer.steps_of_epoch() };
        let (initial, target) = match &options.pruning {
            Some((prune, schedule)) => {
                schedule.check(extent)?;
                course(&subject, prune, schedule, &masks, &variables)?
            }
            None => (0.0, 0.0),
        };
        let evaluator = match &options.validation {
            None => None,
            Some(validation) => {
                let evaluator = Evaluator::new(model, validation, None)?;
                if !evaluator.has_labels() {
                    return Err(Error::usage("the validation data have no labels"));
                }
                Some(match options.limits {
                    Some(limits) => evaluator.within(limits),
                    None => evaluator,
                })
            }
        };
        match options.patience {
            Some(0) => return Err(Error::usage("training ends early after at least one epoch, found 0")),
            Some(_) if evaluator.is_none() => {
                let message = "training ends early by the validation loss: name validation data";
                return Err(Error::usage(message));
            }
            _ => {}
        }
        if options.until.is_some() {
            let needs = [
                ("a schedule of pruning", options.pruning.is_some()),
                ("validation data", evaluator.is_some()),
                ("no option `patience`", options.patience.is_none()),
            ];
            if let Some((what, _)) = needs.iter().find(|(_, met)| !met) {
                return Err(Error::usage(format!("option `until` needs {what}")));
            }
        }
        let record = Record { options: described(model, teacher, options)?, ..Record::default() };
        Ok(Run {
            options,
            trainer,
            evaluator,
            masks,
            initial,
            target,
            record,
            notes: variables.notes,
            best: None,
            log: None,
        })
    }

    fn run(
        mut self,
        progress: &dyn Progress,
        on_epoch: &mut dyn FnMut(&Epoch) -> Result<()>,
    ) -> Result<Finetune> {
        self.resume()?;
        self.notes.iter().for_each(|note| progress.note(note));
        let (steps, of_epoch) = (self.trainer.steps(), self.trainer.steps_of_epoch());
        progress.begin("training", steps);
        progress.advance(self.trainer.step_number());
        let (mut pace, mut shown) = (Pace::new(), Instant::now());
        while let Some(loss) = self.advance(on_epoch)? {
            progress.advance(1);
            if shown.elapsed() >= SHOWN_EVERY {
                let epoch = self.trainer.step_number() / of_epoch + 1;
                progress.state(&format!("epoch {epoch}, loss {loss:.4}"));
                shown = Instant::now();
            }
            pace.keep(|| self.save())?;
        }
        self.finish()
    }

    /// One step and what is due before and after it; gives its loss. `None` where the training is over.
    pub(super) fn advance(&mut self, on_epoch: &mut dyn FnMut(&Epoch) -> Result<()>) -> Result<Option<f64>> {
        let (steps, of_epoch) = (self.trainer.steps(), self.trainer.steps_of_epoch());
        let (step, extent) = (self.trainer.step_number(), Extent { steps, of_epoch });
        if step >= steps || self.is_over() {
            return Ok(None);
        }
        if let Some((prune, schedule)) = &self.options.pruning
            && let Some(sparsity) = schedule.at(step, extent, self.initial, self.target)
        {
            if !self.is_good_enough(step)? {
                return Ok(None);
            }
            self.prune(prune, sparsity)?;
        }
        let rate = self.trainer.rate();
        let stepped = self.trainer.step()?;
        let loss = stepped.loss;
        self.record.sum += loss;
        let step = step + 1;
        self.add_to_log(stepped)?;
        if step.is_multiple_of(of_epoch) || step == steps {
            self.end_epoch(step, rate, on_epoch)?;
        }
        if step == steps {
            self.is_good_enough(step)?;
        }
        Ok(Some(loss))
    }

    /// Whether the model is not worse than before the first pruning by more than it may be; keeps the weights of one that is.
    fn is_good_enough(&mut self, step: u64) -> Result<bool> {
        let (Some(until), Some(evaluator)) = (&self.options.until, &mut self.evaluator) else {
            return Ok(true);
        };
        let patch = self.trainer.patch()?;
        // An epoch that ends here has been evaluated.
        let figures = match self.record.epochs.last() {
            Some(Epoch { step: at, validation: Some(figures), .. }) if *at == step => figures.clone(),
            _ => {
                let figures = evaluator.evaluate(patch.clone(), &Silent)?;
                self.log(Logged::Measured { on: MeasuredOn::Validation, measures: measures(&figures) })?;
                figures
            }
        };
        let unpruned = self.record.unpruned.get_or_insert_with(|| figures.clone());
        self.record.stopped = until.is_exceeded(unpruned, &figures)?;
        if !self.record.stopped {
            self.record.good = Some((step, figures));
            self.best = Some(Kept { patch, masks: self.masks.clone() });
        }
        Ok(!self.record.stopped)
    }

    pub(super) fn finish(self) -> Result<Finetune> {
        if let Some(path) = self.trainer.not_finite()? {
            let rate = self.options.train.rate.rate;
            let message = format!(
                "weights are not finite after training at a rate of {rate:.2e}: a lower one may train"
            );
            return Err(Error::input(message).at_tensor(path));
        }
        if !self.trainer.holds_masks()? {
            return Err(Error::internal("a pruned weight is not zero after training"));
        }
        let best = self.record.best.map(|(epoch, _)| epoch);
        let Kept { patch, masks } = match self.best {
            Some(kept) => kept,
            None => Kept { patch: self.trainer.patch()?, masks: self.masks },
        };
        let stopped = self.record.good.filter(|_| self.record.stopped);
        Ok(Finetune { patch, masks, epochs: self.record.epochs, best, stopped, notes: self.notes })
    }

    /// Prunes the weights as they are to a sparsity. Masks only grow.
    fn prune(&mut self, options: &PruneOptions, sparsity: f64) -> Result<()> {
        let current = self.trainer.current()?;
        // Layers with a sparsity of their own go the same share of the way.
        let share = if self.target > 0.0 { sparsity / self.target } else { 1.0 };
        let own = |o: &Override| Override { sparsity: o.sparsity * share, ..o.clone() };
        let overrides = options.overrides.iter().map(own).collect();
        let options = PruneOptions { amount: Amount::Sparsity(sparsity), overrides, ..options.clone() };
        let current = Arc::new(current);
        let data = self.options.calibrate.as_ref();
        let evidence = calib::evidence(&current, &self.masks, [&options], data, &Silent)?;
        let pruning = calib::plan(&current, &Subject::of(&current), &options, &self.masks, &evidence)?;
        let joined = pruning.joined(&self.masks)?;
        let before = std::mem::replace(&mut self.masks, joined);
        self.trainer.set_masks(&self.masks)?;
        self.log(Logged::Changed { event: Event::Pruned })?;
        self.repair(&current, &before)
    }

    /// Repairs the model after a pruning, by its means before it.
    fn repair(&mut self, dense: &Arc<Model>, masks: &Masks) -> Result<()> {
        let methods = &self.options.repair;
        if methods.is_empty() {
            return Ok(());
        }
        let calibrate = self.options.calibrate.as_ref();
        let calibrate =
            calibrate.ok_or_else(|| Error::usage("repairing takes data: pass option `calibrate`"))?;
        let (data, limits) = (calibrate.data.clone(), calibrate.limits);
        let options = RepairOptions { methods: methods.clone(), data, limits };
        let pruned = Arc::new(self.trainer.current()?);
        let repairer = Repairer::new(&pruned, Some((dense, masks)), &options, &Silent)?;
        let repaired = repairer.repair(&pruned, &self.masks, false, &Silent)?;
        self.trainer.lay_over(&repaired.patch)?;
        self.log(Logged::Changed { event: Event::Repaired })
    }

    fn end_epoch(
        &mut self,
        step: u64,
        rate: f64,
        on_epoch: &mut dyn FnMut(&Epoch) -> Result<()>,
    ) -> Result<()> {
        let of_epoch = self.trainer.steps_of_epoch();
        let taken = match step % of_epoch {
            0 => of_epoch,
            rest => rest,
        };
        let validation = match &mut self.evaluator {
            None => None,
            Some(evaluator) => Some(evaluator.evaluate(self.trainer.patch()?, &crate::progress::Silent)?),
        };
        if let Some(metrics) = &validation {
            self.log(Logged::Measured { on: MeasuredOn::Validation, measures: measures(metrics) })?;
        }
        let epoch = Epoch {
            epoch: step.div_ceil(of_epoch),
            step,
            loss: self.record.sum / taken as f64,
            rate,
            sparsity: self.sparsity(),
            validation,
        };
        self.record.sum = 0.0;
        // An epoch before the last pruning has other masks: it is no candidate.
        let extent = Extent { steps: self.trainer.steps(), of_epoch };
        let last = self.options.pruning.as_ref().map(|(_, schedule)| schedule.last(extent));
        let is_pruned = last.is_none_or(|last| step > last);
        if let (Some(_), Some(metrics), true) = (self.options.patience, &epoch.validation, is_pruned) {
            let loss = metrics.values.first().map_or(f64::NAN, |measure| measure.value);
            if !loss.is_nan() && self.record.best.is_none_or(|(_, best)| loss < best) {
                self.record.best = Some((epoch.epoch, loss));
                self.best = Some(Kept { patch: self.trainer.patch()?, masks: self.masks.clone() });
            }
        }
        on_epoch(&epoch)?;
        self.record.epochs.push(epoch);
        Ok(())
    }

    /// The share of zeros among the weights that masks are on.
    fn sparsity(&self) -> f64 {
        let masks = self.masks.values();
        let (pruned, size) =
            masks.fold((0, 0), |(pruned, size), mask| (pruned + mask.pruned(), size + mask.len()));
        pruned as f64 / size.max(1) as f64
    }

    /// Whether the validation loss has not fallen for long, or the model is worse by too much.
    fn is_over(&self) -> bool {
        if self.record.stopped {
            return true;
        }
        let (Some(patience), Some((best, _))) = (self.options.patience, self.record.best) else {
            return false;
        };
        self.record.epochs.last().is_some_and(|last| last.epoch >= best + patience)
    }

    pub(super) fn save(&self) -> Result<()> {
        let Some(path) = &self.options.progress_file else { return Ok(()) };
        // What the training goes on from has lines in the log that are there.
        self.log.as_ref().map_or(Ok(()), CurveWriter::sync)?;
        let record =
            serde_json::to_string(&self.record).map_err(|error| Error::internal(error.to_string()))?;
        let best = self.best.as_ref().map(|best| (&best.patch, &best.masks));
        self.trainer.save(path, best, &record)
    }

    pub(super) fn resume(&mut self) -> Result<()> {
        self.load()?;
        let log = self.options.log.as_deref();
        self.log = log.map(|path| CurveWriter::after(path, self.record.log.lines)).transpose()?;
        Ok(())
    }

    fn load(&mut self) -> Result<()> {
        let Some(path) = self.options.progress_file.as_ref().filter(|path| path.exists()) else {
            return Ok(());
        };
        let Resumed { masks, other: best, record: text } = self.trainer.resume(path)?;
        let record: Record = serde_json::from_str(&text)
            .map_err(|error| Error::input(format!("is damaged: {error}")).at_file(path))?;
        if record.options != self.record.options {
            return Err(
                Error::usage("is a training with other options: remove it to begin anew").at_file(path)
            );
        }
        let (step, steps) = (self.trainer.step_number(), self.trainer.steps());
        self.notes.push(format!("resumed from {}: step {step} of {steps}", path.display()));
        self.best = best.map(|(patch, masks)| Kept { patch, masks });
        (self.record, self.masks) = (record, masks);
        Ok(())
    }
}

/// The sparsity that a schedule begins at, and the one that it ends at.
fn course(
    subject: &Subject<'_>,
    prune: &PruneOptions,
    schedule: &ScheduleOptions,
    masks: &Masks,
    variables: &Variables,
) -> Result<(f64, f64)> {
    let Amount::Sparsity(target) = prune.amount else {
        return Err(Error::usage("a schedule of pruning takes a sparsity, not a number of weights"));
    };
    if prune.of_remaining {
        return Err(Error::usage(
            "a schedule of pruning takes a share of all weights, not of those that remain",
        ));
    }
    if prune.method.pattern.sparsity().is_some() && schedule.schedule != Schedule::OneShot {
        let pattern = prune.method.pattern;
        return Err(Error::usage(format!(
            "the pattern {pattern} has one sparsity: its schedule is one-shot"
        )));
    }
    let (mut zeros, mut size, mut left) = (0, 0, Vec::new());
    for view in prune.selector.select(subject.model, prune.entries(subject)?)? {
        let stored = subject.model.tensor(view.tensor);
        size += stored.len();
        zeros += masks.get(&view.tensor).map_or(0, |mask| mask.pruned());
        if !variables.tensors.contains(&view.tensor) {
            left.push(stored.path.as_str());
        }
    }
    if !left.is_empty() {
        let left = listed(&left);
        return Err(Error::usage(format!(
            "to be pruned while the model trains, but not trained: {left}; use option `exclude` to leave them dense"
        )));
    }
    let initial = zeros as f64 / size.max(1) as f64;
    if target < initial {
        return Err(Error::usage(format!(
            "{target} of the weights are to be zero, {initial:.3} of them are already"
        )));
    }
    Ok((initial, target))
}

/// What a training is told from others by, as text.
fn described(model: &Arc<Model>, teacher: Option<&Arc<Model>>, options: &FinetuneOptions) -> Result<String> {
    if options.progress_file.is_none() {
        return Ok(String::new());
    }
    let hash = |model: &Arc<Model>| io::tensors_hash(Patch::new().entries(model).iter());
    let pruning = options.pruning.as_ref();
    let settings = (
        hash(model)?,
        teacher.map(hash).transpose()?,
        &options.train,
        &options.data,
        &options.validation,
        (&options.calibrate, &options.repair),
        (options.patience, &options.until, options.log.is_some()),
        pruning.map(|(_, schedule)| schedule),
        pruning.map(|(prune, _)| format!("{prune:?}")),
    );
    serde_json::to_string(&settings).map_err(|error| Error::internal(error.to_string()))
}
