//! Training with masks held.
//!
//! A [`Trainer`] runs a model's [`Tape`] over batches, and has an optimiser change the weights: those that a mask prunes
//! are exactly zero after every step, and so is what the optimiser keeps for them. Everything that is random depends on
//! the seed and on counters alone, so that a training that is stopped and resumed ends in the same bits.

mod checkpoint;
mod finetune;
mod init;
mod optim;
mod rate;
mod reshape;
#[cfg(test)]
mod tests;
mod variables;

use std::sync::Arc;

use secateur_model::{Error, Model, Patch, Result, ResultExt, Tensor, TensorId};
use secateur_runtime::{Limits, Session, Tape, TapeOptions};
use serde::{Deserialize, Serialize};

pub(crate) use self::checkpoint::Pace;
pub use self::checkpoint::Resumed;
pub use self::finetune::{Epoch, Finetune, FinetuneOptions, finetune};
pub use self::init::{Init, Initialised};
pub use self::optim::{Optim, OptimOptions};
pub use self::rate::{Rate, RateSchedule};
pub use self::reshape::KeptIndices;
pub use self::variables::Variables;
use crate::data::{Augment, Batch, BatchLoss, Batches, Epochs, InputSpec, logits};
pub use crate::data::{LossOptions, TrainData};
pub use crate::masters::Masters;
use crate::prune::MaskMap;
pub use crate::prune::held;
use crate::schedule::Length;

/// What a model trains on, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainOptions {
    /// How long.
    pub length: Length,
    /// Samples of a step; gradients add up over several runs where the model takes fewer at a time.
    pub batch: usize,
    /// The loss.
    pub loss: LossOptions,
    /// The optimiser.
    pub optimizer: OptimOptions,
    /// The learning rate.
    pub rate: Rate,
    /// Changes of training images.
    pub augment: Augment,
    /// Globs of tensors that stay as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// Globs of constants that train besides what layers own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub train: Vec<String>,
    /// Whether batch-norms keep their running statistics.
    pub freeze_norms: bool,
    /// The output that the loss is computed from; the first by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The seed of the order of samples, augmentation and dropout.
    pub seed: u64,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            length: Length::Epochs(1),
            batch: 64,
            loss: LossOptions::default(),
            optimizer: OptimOptions::default(),
            rate: Rate::default(),
            augment: Augment::default(),
            freeze: Vec::new(),
            train: Vec::new(),
            freeze_norms: false,
            output: None,
            seed: 0,
        }
    }
}

impl TrainOptions {
    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// `Usage` where a setting is out of its range.
    pub fn check(&self) -> Result<()> {
        if self.batch == 0 {
            return Err(Error::usage("a step takes at least one sample, found a batch of 0"));
        }
        if let Length::Epochs(0) | Length::Iterations(0) = self.length {
            let length = self.length;
            return Err(Error::usage(format!("a training lasts at least one step, found {length}")));
        }
        self.loss.check()?;
        self.optimizer.check()?;
        self.rate.check()
    }
}

/// The masks of tensors.
pub type Masks = MaskMap;

/// A variable with what the optimiser keeps for it.
struct Variable {
    id: TensorId,
    /// 1 for weights that a mask keeps, else 0.
    kept: Option<Arc<[f32]>>,
    /// One list for each of [`optim::Optimiser::state`].
    state: Vec<Vec<f32>>,
}

/// What a step measured on its batch, before it changed the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stepped {
    /// The mean loss.
    pub loss: f64,
    /// The share of samples whose class came first; only of classes.
    pub top1: Option<f64>,
}

/// A training in progress.
pub struct Trainer {
    masters: Masters,
    tape: Tape,
    variables: Vec<Variable>,
    optimiser: Box<dyn optim::Optimiser>,
    epochs: Epochs,
    teacher: Option<Session>,
    options: TrainOptions,
    /// What a run may take; [`Limits::of_machine`] by default.
    limits: Option<Limits>,
    /// Runs of a step.
    runs: u64,
    /// The step that the optimiser began at, the steps so far, and those in all.
    first: u64,
    step: u64,
    steps: u64,
}

impl Trainer {
    /// Prepares a training of the f32 form of a model with `patch` laid over that. `masks` hold; where distillation is asked
    /// for, `teacher` teaches.
    ///
    /// # Errors
    /// Where options contradict each other, data do not fit the model or have no labels, or nothing trains.
    pub fn new(
        masters: &Masters,
        patch: &Patch,
        variables: &Variables,
        masks: &Masks,
        data: &TrainData,
        teacher: Option<&Arc<Model>>,
        options: &TrainOptions,
    ) -> Result<Self> {
        options.check()?;
        let batches = data.batches(masters.in_f32())?;
        Self::on(masters, patch, variables, masks, &batches, teacher, options)
    }

    /// As [`Trainer::new`], on data that were opened before.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn on(
        masters: &Masters,
        patch: &Patch,
        variables: &Variables,
        masks: &Masks,
        batches: &Batches,
        teacher: Option<&Arc<Model>>,
        options: &TrainOptions,
    ) -> Result<Self> {
        options.check()?;
        let tape = tape(masters, patch, &variables.tensors, options)?;
        let fixed = InputSpec::of(masters.in_f32().graph()?)?.iter().find_map(InputSpec::fixed_batch);
        let run = fixed.unwrap_or(options.batch);
        if run == 0 || !options.batch.is_multiple_of(run) {
            let batch = options.batch;
            return Err(Error::usage(format!(
                "steps of {batch} samples, but the model takes {run} at a time: expected a multiple"
            )));
        }
        let epochs = Epochs::new(batches, run, options.augment, options.seed)?;
        let runs = (options.batch / run) as u64;
        let of_epoch = epochs.len() / runs;
        if of_epoch == 0 {
            let (batch, samples) = (options.batch, batches.samples());
            return Err(Error::usage(format!("steps of {batch} samples, the training data have {samples}")));
        }
        let teacher = match (teacher, options.loss.distill > 0.0) {
            (Some(teacher), true) => Some(teaching(teacher, options.output.as_deref()).at(|| "the teacher")?),
            (None, true) => {
                return Err(Error::usage("distillation takes a teacher: the model to learn from"));
            }
            (Some(_), false) => {
                return Err(Error::usage("a teacher has no effect where its share of the loss is 0"));
            }
            (None, false) => None,
        };
        let optimiser = optim::of(&options.optimizer);
        let mut trainer = Trainer {
            masters: masters.clone(),
            variables: Vec::new(),
            optimiser,
            epochs,
            teacher,
            options: options.clone(),
            limits: None,
            runs,
            first: 0,
            step: 0,
            steps: options.length.iterations(of_epoch),
            tape,
        };
        for (place, &id) in variables.tensors.iter().enumerate() {
            let len = trainer.tape.values(place)?.len();
            let state = trainer.optimiser.state().iter().map(|_| vec![0.0; len]).collect();
            trainer.variables.push(Variable { id, kept: None, state });
        }
        trainer.set_masks(masks)?;
        Ok(trainer)
    }

    /// The training with other bounds on memory than [`Limits::of_machine`].
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        let (tape, teacher) = (self.tape.within(limits), self.teacher.map(|t| t.within(limits)));
        Trainer { tape, teacher, limits: Some(limits), ..self }
    }

    /// The training from a later step on, with the learning rates and batches of the steps from there. The optimiser begins
    /// there: it keeps nothing of the steps before.
    #[must_use]
    pub fn starting_at(self, step: u64) -> Self {
        Trainer { first: step, step, ..self }
    }

    /// Holds other masks from here on: what they prune becomes zero at once.
    ///
    /// # Errors
    /// `Internal` where a mask has another length than its tensor.
    pub fn set_masks(&mut self, masks: &Masks) -> Result<()> {
        for (place, variable) in self.variables.iter_mut().enumerate() {
            let Some(mask) = masks.get(&variable.id) else {
                variable.kept = None;
                self.tape.hold(place, None)?;
                continue;
            };
            let (values, _) = self.tape.update(place)?;
            if mask.len() != values.len() {
                return Err(Error::internal("a mask has another length than its tensor"));
            }
            let kept: Arc<[f32]> = mask.iter().map(|keep| f32::from(u8::from(keep))).collect();
            for list in std::iter::once(values).chain(variable.state.iter_mut().map(Vec::as_mut_slice)) {
                list.iter_mut().zip(&*kept).filter(|(_, kept)| **kept == 0.0).for_each(|(v, _)| *v = 0.0);
            }
            self.tape.hold(place, Some(kept.clone()))?;
            variable.kept = Some(kept);
        }
        Ok(())
    }

    /// Lays changes of the f32 form over the weights and running statistics: of weights that train, where masks keep them.
    /// What does not train stays.
    ///
    /// # Errors
    /// Where a tensor cannot be computed.
    pub fn lay_over(&mut self, patch: &Patch) -> Result<()> {
        let statistics: Vec<TensorId> = self.tape.statistics().map(|(id, _)| id).collect();
        for id in patch.ids() {
            let changed = patch.load(self.masters.in_f32(), id)?;
            if let Some(place) = self.variables.iter().position(|variable| variable.id == id) {
                let kept = self.variables[place].kept.clone();
                let (values, _) = self.tape.update(place)?;
                for (i, (value, new)) in values.iter_mut().zip(changed.values::<f32>()?).enumerate() {
                    *value = if kept.as_ref().is_none_or(|kept| kept[i] != 0.0) { *new } else { 0.0 };
                }
            } else if statistics.contains(&id) {
                self.tape.set_statistics(id, changed)?;
            }
        }
        Ok(())
    }

    /// Whether all weights that masks prune are zero, and what the optimiser keeps for them.
    ///
    /// # Errors
    /// None: variables are f32.
    pub fn holds_masks(&self) -> Result<bool> {
        for (place, variable) in self.variables.iter().enumerate() {
            let Some(kept) = &variable.kept else { continue };
            let lists = variable.state.iter().map(Vec::as_slice).chain([self.tape.values(place)?]);
            for list in lists {
                if list.iter().zip(&**kept).any(|(value, kept)| *kept == 0.0 && *value != 0.0) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Steps so far.
    pub fn step_number(&self) -> u64 {
        self.step
    }

    /// Steps of the whole training.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Steps of an epoch.
    pub fn steps_of_epoch(&self) -> u64 {
        self.epochs.len() / self.runs
    }

    /// One step: forward and backward over a batch, then the optimiser. Gives what the batch measured before it.
    ///
    /// # Errors
    /// Where data cannot be read, a node refuses its operands, or the loss is not finite.
    pub fn step(&mut self) -> Result<Stepped> {
        let of_epoch = self.steps_of_epoch();
        let first = self.step / of_epoch * self.epochs.len() + self.step % of_epoch * self.runs;
        self.tape.clear();
        let (mut loss, mut top1) = (0.0, None);
        for run in 0..self.runs {
            let batch = self.epochs.batch(first + run)?;
            let found = self.run(batch, first + run)?;
            loss += found.loss / self.runs as f64;
            top1 = found.top1.map(|share| top1.unwrap_or(0.0) + share / self.runs as f64);
        }
        if !loss.is_finite() {
            let (step, rate) = (self.step, self.rate());
            return Err(Error::input(format!(
                "the loss is {loss} at step {step}, with a learning rate of {rate:.2e}: a lower rate may train"
            )));
        }
        let (rate, scale) = (self.rate() as f32, 1.0 / self.runs as f32);
        for (place, variable) in self.variables.iter_mut().enumerate() {
            let (weights, gradient) = self.tape.update(place)?;
            let Some(gradient) = gradient else { continue };
            self.optimiser.step(optim::Step {
                rate,
                number: self.step - self.first + 1,
                scale,
                gradient,
                kept: variable.kept.as_deref(),
                weights,
                state: &mut variable.state,
            });
        }
        self.step += 1;
        Ok(Stepped { loss, top1 })
    }

    /// The learning rate of the next step.
    pub fn rate(&self) -> f64 {
        self.options.rate.at(self.step, self.steps, self.steps_of_epoch())
    }

    /// The learning rate of the step before; 0 before the first.
    pub fn last_rate(&self) -> f64 {
        let before = self.step.checked_sub(1);
        before.map_or(0.0, |step| self.options.rate.at(step, self.steps, self.steps_of_epoch()))
    }

    /// Adds the gradients of one run.
    fn run(&mut self, batch: Batch, number: u64) -> Result<Stepped> {
        let taught = match &self.teacher {
            Some(teacher) => teacher.run(batch.inputs.clone())?.into_iter().next(),
            None => None,
        };
        let inputs = batch.tensors(self.tape.inputs());
        let output = self.tape.forward(inputs, number)?;
        let BatchLoss { loss, top1, gradient } =
            self.options.loss.evaluate(&output, &batch, taught.as_ref())?;
        drop(output);
        self.tape.backward(gradient)?;
        Ok(Stepped { loss, top1 })
    }

    /// What training changed so far, in the tensors' own types and forms.
    ///
    /// # Errors
    /// Where a weight is beyond the range of its type.
    pub fn patch(&self) -> Result<Patch> {
        let mut patch = Patch::by("training");
        for (place, variable) in self.variables.iter().enumerate() {
            let shape = &self.masters.model().tensor(variable.id).shape;
            let values = Tensor::new(shape.clone(), self.tape.values(place)?.to_vec())?;
            self.masters.store(variable.id, &values, &mut patch)?;
        }
        for (id, tensor) in self.tape.statistics() {
            self.masters.store(id, tensor, &mut patch)?;
        }
        patch.spread(self.masters.model());
        Ok(patch)
    }

    /// The f32 form of the model with its weights as they are.
    ///
    /// # Errors
    /// Never: the weights keep their shapes.
    pub fn current(&self) -> Result<Model> {
        self.tape.patch().apply(self.masters.in_f32())
    }

    /// The model that trains.
    pub fn masters(&self) -> &Masters {
        &self.masters
    }

    /// The first of the variables that has a value that is no finite number.
    ///
    /// # Errors
    /// None: variables are f32.
    pub fn not_finite(&self) -> Result<Option<&str>> {
        for (place, variable) in self.variables.iter().enumerate() {
            if self.tape.values(place)?.iter().any(|value| !value.is_finite()) {
                return Ok(Some(&self.masters.model().tensor(variable.id).path));
            }
        }
        Ok(None)
    }
}

/// The tape of a training.
fn tape(masters: &Masters, patch: &Patch, variables: &[TensorId], options: &TrainOptions) -> Result<Tape> {
    let model = masters.in_f32();
    let options = TapeOptions {
        variables: variables.to_vec(),
        output: Some(logits(model.graph()?, options.output.as_deref())?),
        freeze_norms: options.freeze_norms,
        seed: options.seed,
    };
    Tape::new(model, patch, &options)
}

/// A session that gives what a teacher's loss is computed from.
fn teaching(teacher: &Arc<Model>, output: Option<&str>) -> Result<Session> {
    let masks = crate::prune::masks::Masks::of_pairs(teacher)?.masks;
    let teacher = Masters::of(teacher, &masks)?;
    let output = logits(teacher.in_f32().graph()?, output)?;
    let session = Session::new(teacher.in_f32().clone(), Patch::new())?;
    let inputs: Vec<String> = session.inputs().iter().map(|info| info.name.clone()).collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    session.extract(&inputs, &[&output])
}
