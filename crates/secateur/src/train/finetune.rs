//! Fine-tuning: training a pruned model, or pruning it while it trains.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secateur_model::{Error, Model, Patch, Result};
use secateur_runtime::Limits;
use serde::{Deserialize, Serialize};

use super::checkpoint::Resumed;
use super::{Masks, TrainData, TrainOptions, Trainer, Variables};
use crate::data::metrics::Metrics;
use crate::evaluate::{EvalOptions, Evaluator};
use crate::progress::Progress;
use crate::prune::{self, Amount, PruneOptions, Subject};
use crate::schedule::{Extent, ScheduleOptions};

/// How often a training in progress is saved.
const SAVED_EVERY: Duration = Duration::from_secs(45);

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
    /// Training ends where the validation loss has not fallen for so many epochs, with the weights of the best.
    pub patience: Option<u64>,
    /// Where the training is saved while it runs, and resumed from.
    pub progress_file: Option<PathBuf>,
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
}

/// Trains a model while masks hold.
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

struct Run<'a> {
    model: &'a Arc<Model>,
    options: &'a FinetuneOptions,
    trainer: Trainer,
    evaluator: Option<Evaluator>,
    masks: Masks,
    /// The masks that the model comes with, and the sparsity of what is pruned.
    base: Masks,
    initial: f64,
    target: f64,
    record: Record,
    notes: Vec<String>,
    /// The weights of the epoch of the least validation loss.
    best: Option<Patch>,
}

impl<'a> Run<'a> {
    fn new(
        model: &'a Arc<Model>,
        masks: &Masks,
        teacher: Option<&Arc<Model>>,
        options: &'a FinetuneOptions,
    ) -> Result<Self> {
        let subject = Subject::of(model);
        let variables = Variables::of(&subject, &options.train.train, &options.train.freeze)?;
        let trainer =
            Trainer::new(model, &Patch::new(), &variables, masks, &options.data, teacher, &options.train)?;
        let trainer = match options.limits {
            Some(limits) => trainer.within(limits),
            None => trainer,
        };
        let extent = Extent { steps: trainer.steps(), of_epoch: trainer.steps_of_epoch() };
        let (mut initial, mut target) = (0.0, 0.0);
        if let Some((prune, schedule)) = &options.pruning {
            schedule.check(extent)?;
            target = match prune.amount {
                Amount::Sparsity(sparsity) => sparsity,
                _ => {
                    return Err(Error::usage(
                        "a schedule of pruning takes a sparsity, not a number of weights",
                    ));
                }
            };
            let views = prune.selector.select(model, prune.entries(&subject)?)?;
            let (mut zeros, mut size) = (0, 0);
            for view in views {
                let values = model.tensor(view.tensor).load()?.to_f32s()?;
                zeros += values.iter().filter(|v| **v == 0.0).count();
                size += values.len();
            }
            initial = zeros as f64 / size.max(1) as f64;
            if target < initial {
                return Err(Error::usage(format!(
                    "{target} of the weights are to be zero, {initial:.3} of them are already"
                )));
            }
        }
        let evaluator = match &options.validation {
            None => None,
            Some(validation) => {
                let evaluator = Evaluator::new(model, validation, None)?;
                Some(match options.limits {
                    Some(limits) => evaluator.within(limits),
                    None => evaluator,
                })
            }
        };
        if options.patience.is_some() && evaluator.is_none() {
            return Err(Error::usage("training ends early by the validation loss: name validation data"));
        }
        let settings =
            (&options.train, &options.data, options.pruning.as_ref().map(|(_, schedule)| schedule));
        let text = serde_json::to_string(&settings).map_err(|error| Error::internal(error.to_string()))?;
        Ok(Run {
            model,
            options,
            trainer,
            evaluator,
            masks: masks.clone(),
            base: masks.clone(),
            initial,
            target,
            record: Record { options: text, ..Record::default() },
            notes: variables.notes,
            best: None,
        })
    }

    fn run(
        mut self,
        progress: &dyn Progress,
        on_epoch: &mut dyn FnMut(&Epoch) -> Result<()>,
    ) -> Result<Finetune> {
        self.resume()?;
        let (steps, of_epoch) = (self.trainer.steps(), self.trainer.steps_of_epoch());
        let extent = Extent { steps, of_epoch };
        progress.begin("training", steps);
        progress.advance(self.trainer.step_number());
        let mut saved = Instant::now();
        while self.trainer.step_number() < steps {
            let step = self.trainer.step_number();
            if let Some((prune, schedule)) = &self.options.pruning
                && let Some(sparsity) = schedule.at(step, extent, self.initial, self.target)
            {
                self.prune(prune, sparsity)?;
            }
            let rate = self.trainer.rate();
            self.record.sum += self.trainer.step()?;
            progress.advance(1);
            let step = step + 1;
            if step.is_multiple_of(of_epoch) || step == steps {
                self.end_epoch(step, rate, on_epoch)?;
                if self.is_over() {
                    break;
                }
            }
            if saved.elapsed() >= SAVED_EVERY {
                self.save()?;
                saved = Instant::now();
            }
        }
        if !self.trainer.holds_masks()? {
            return Err(Error::internal("a pruned weight is not zero after training"));
        }
        let best = self.record.best.map(|(epoch, _)| epoch);
        let patch = self.best.map_or_else(|| self.trainer.patch(), Ok)?;
        Ok(Finetune { patch, masks: self.masks, epochs: self.record.epochs, best, notes: self.notes })
    }

    /// Prunes the weights as they are to a sparsity. Masks only grow.
    fn prune(&mut self, options: &PruneOptions, sparsity: f64) -> Result<()> {
        let current = self.trainer.patch()?.apply(self.model)?;
        let options = PruneOptions { amount: Amount::Sparsity(sparsity), ..options.clone() };
        let pruning = prune::plan_on(&Subject::of(&current), &options, &self.masks)?;
        let found = pruning.masks.iter().chain(&pruning.companions);
        self.masks.extend(found.map(|(id, mask)| (*id, mask.clone())));
        for (id, mask) in &self.base {
            if let Some(own) = self.masks.get_mut(id) {
                *own = Arc::new(own.and(mask)?);
            }
        }
        self.trainer.set_masks(&self.masks)
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
        let (pruned, size) = self
            .masks
            .values()
            .fold((0, 0), |(pruned, size), mask| (pruned + mask.pruned(), size + mask.len()));
        let epoch = Epoch {
            epoch: step.div_ceil(of_epoch),
            step,
            loss: self.record.sum / taken as f64,
            rate,
            sparsity: pruned as f64 / size.max(1) as f64,
            validation,
        };
        self.record.sum = 0.0;
        if let (Some(_), Some(metrics)) = (self.options.patience, &epoch.validation) {
            let loss = metrics.values.first().map_or(f64::NAN, |measure| measure.value);
            if self.record.best.is_none_or(|(_, best)| loss < best) {
                self.record.best = Some((epoch.epoch, loss));
                self.best = Some(self.trainer.patch()?);
            }
        }
        on_epoch(&epoch)?;
        self.record.epochs.push(epoch);
        Ok(())
    }

    /// Whether the validation loss has not fallen for long.
    fn is_over(&self) -> bool {
        let (Some(patience), Some((best, _))) = (self.options.patience, self.record.best) else {
            return false;
        };
        self.record.epochs.last().is_some_and(|last| last.epoch >= best + patience)
    }

    fn save(&self) -> Result<()> {
        let Some(path) = &self.options.progress_file else { return Ok(()) };
        let record =
            serde_json::to_string(&self.record).map_err(|error| Error::internal(error.to_string()))?;
        self.trainer.save(path, self.best.as_ref(), &record)
    }

    fn resume(&mut self) -> Result<()> {
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
        self.notes.push(format!("went on from step {}", self.trainer.step_number()));
        (self.record, self.masks, self.best) = (record, masks, best);
        Ok(())
    }
}
