//! How a model is trained, and pruned meanwhile.

use std::path::PathBuf;

use secateur::calib::{CalibrateOptions, needs_data};
use secateur::data::{Augment, Sampling, Split, Tolerance};
use secateur::evaluate::EvalOptions;
use secateur::schedule::{Length, Schedule, ScheduleOptions};
use secateur::train::{
    FinetuneOptions, LossOptions, Optim, OptimOptions, Rate, RateSchedule, TrainData, TrainOptions,
};
use secateur::{Error, Result, solve};
use serde::{Deserialize, Serialize};

use super::{HeldOut, Recipe, Share, is_default, value, word};

/// How a model is trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct TrainFlags {
    /// How long to train: 10ep (epochs) or 500it (iterations)
    #[arg(long, value_name = "LENGTH", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) epochs: Option<Length>,
    /// Learning rate [default: 0.01; 0.001 with adam and adamw]
    #[arg(long, value_name = "RATE", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) lr: Option<f64>,
    /// Course of the learning rate: constant, step, cosine or one-cycle [default: cosine]
    #[arg(long, value_name = "COURSE", value_parser = word::<RateSchedule>, help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) lr_schedule: Option<RateSchedule>,
    /// Where `step` lowers the rate, such as 80ep,120ep [default: at a half and three quarters]
    #[arg(long, value_name = "LENGTH", value_delimiter = ',', help_heading = "Training")]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) lr_milestones: Vec<Length>,
    /// What `step` multiplies the rate by [default: 0.1]
    #[arg(long, value_name = "FACTOR", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) lr_gamma: Option<f64>,
    /// Raise the rate from 0 for so long: 1ep or 100it
    #[arg(long, value_name = "LENGTH", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) warmup: Option<Length>,
    /// The optimizer: sgd, adam or adamw [default: sgd]
    #[arg(long, value_parser = word::<Optim>, help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) optimizer: Option<Optim>,
    /// Momentum of sgd [default: 0.9]
    #[arg(long, value_name = "SHARE", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) momentum: Option<f64>,
    /// Use Nesterov momentum with sgd
    #[arg(long, help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) nesterov: bool,
    /// Weight decay [default: 0]
    #[arg(long, value_name = "FACTOR", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) weight_decay: Option<f64>,
    /// The betas of adam and adamw [default: 0.9,0.999]
    #[arg(long, value_name = "B1,B2", value_delimiter = ',', help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) betas: Vec<f64>,
    /// Spread this share of each label evenly over all classes
    #[arg(long, value_name = "SHARE", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) label_smoothing: Option<Share>,
    /// Learn from the outputs of this model too, such as the one before pruning
    #[arg(long, value_name = "MODEL", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) teacher: Option<PathBuf>,
    /// Share of the loss that comes from the teacher [default: 0.9 with --teacher]
    #[arg(long, value_name = "SHARE", requires = "teacher", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) distill: Option<Share>,
    /// Temperature of the distillation [default: 4]
    #[arg(long, value_name = "T", requires = "teacher", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) temperature: Option<f64>,
    /// Globs of tensors that are not trained, such as 'conv1*'
    #[arg(long, value_name = "GLOB", value_delimiter = ',', help_heading = "Training")]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) freeze: Vec<String>,
    /// Globs of constants to train besides the layers' own, such as a table of positions
    #[arg(long, value_name = "GLOB", value_delimiter = ',', help_heading = "Training")]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) also_train: Vec<String>,
    /// Keep the running statistics of batch-norms, and use them
    #[arg(long, help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) freeze_norms: bool,
    /// Mirror each training image with probability 1/2
    #[arg(long, help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) flip: bool,
    /// Pad training images with N black pixels and crop them at a random place
    #[arg(long, value_name = "N", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pad: Option<usize>,
    /// Data to evaluate on after each epoch, read as --data
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Validation")]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) validation: Vec<PathBuf>,
    /// The labels of --validation, as --labels says those of --data [default: as --labels, where that is no file]
    #[arg(long, value_name = "NAME|FILE", requires = "validation", help_heading = "Validation")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) validation_labels: Option<String>,
    /// Hold this share or number of the training samples out instead, such as 0.1 or 5000, chosen by --seed
    #[arg(long, value_name = "SHARE|N", conflicts_with = "validation", help_heading = "Validation")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) hold_out: Option<HeldOut>,
    /// Stop where the validation loss has not fallen for N epochs, and keep the best epoch's weights
    #[arg(long, value_name = "N", help_heading = "Validation")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) patience: Option<u64>,
    /// With --schedule: stop pruning where the validation gets worse by more than this, and keep the last model that was not
    #[arg(long, value_name = "MEASURE:BY", value_parser = word::<Tolerance>, help_heading = "Pruning schedule")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) until: Option<Tolerance>,
    /// When to prune: one-shot, iterative, linear, exponential or cubic, with --method and --sparsity
    #[arg(long, value_name = "SCHEDULE", value_parser = word::<Schedule>, help_heading = "Pruning schedule")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) schedule: Option<Schedule>,
    /// When pruning begins: 1ep or 100it [default: at once]
    #[arg(long, value_name = "LENGTH", help_heading = "Pruning schedule")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) prune_start: Option<Length>,
    /// When the last pruning is done [default: three quarters of the training]
    #[arg(long, value_name = "LENGTH", help_heading = "Pruning schedule")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) prune_end: Option<Length>,
    /// How often linear, exponential and cubic schedules prune [default: 100it]
    #[arg(long, value_name = "LENGTH", help_heading = "Pruning schedule")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) prune_every: Option<Length>,
    /// How often `iterative` prunes [default: 5]
    #[arg(long, value_name = "N", help_heading = "Pruning schedule")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) rounds: Option<u64>,
    /// Repair the model after each pruning: norms, bias or both
    #[arg(long, value_name = "HOW", value_delimiter = ',', value_parser = word::<solve::Method>, help_heading = "Pruning schedule")]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) repair: Vec<solve::Method>,
}

/// Samples of a step where nothing else is said.
const BATCH: usize = 64;

impl Recipe {
    /// How a model is trained, and pruned meanwhile.
    ///
    /// # Errors
    /// `Usage` where data or a length are missing, or flags have no effect.
    pub(crate) fn finetune_options(&self) -> Result<FinetuneOptions> {
        let flags = &self.train;
        self.check_schedule()?;
        let (train, data, validation) = self.training(&self.eval_options()?)?;
        let pruning = match flags.schedule {
            None => None,
            Some(schedule) => Some((
                self.prune_options()?,
                ScheduleOptions {
                    schedule,
                    start: flags.prune_start,
                    end: flags.prune_end,
                    every: flags.prune_every,
                    rounds: flags.rounds,
                },
            )),
        };
        if flags.repair.contains(&solve::Method::Norms) && train.freeze_norms {
            return Err(Error::usage(
                "--repair norms changes the statistics that --freeze-norms keeps: pass one of them",
            ));
        }
        let calibrate = self.training_calibration(&data, &train, !flags.repair.is_empty())?;
        Ok(FinetuneOptions {
            train,
            data,
            validation,
            pruning,
            calibrate,
            repair: flags.repair.clone(),
            patience: flags.patience,
            until: flags.until.clone(),
            progress_file: None,
            log: None,
            limits: None,
        })
    }

    /// A training, what it reads, and what is validated on, where that is said.
    pub(super) fn training(
        &self,
        eval: &EvalOptions,
    ) -> Result<(TrainOptions, TrainData, Option<EvalOptions>)> {
        let train = &self.train;
        let Some(length) = train.epochs else {
            return Err(Error::usage("no length is given: pass --epochs, for example --epochs 10ep"));
        };
        self.check_training()?;
        let kind = train.optimizer.unwrap_or_default();
        let default_rate = if kind == Optim::Sgd { 0.01 } else { 0.001 };
        let rate = Rate {
            rate: train.lr.unwrap_or(default_rate),
            schedule: train.lr_schedule.unwrap_or_default(),
            warmup: train.warmup,
            gamma: train.lr_gamma.unwrap_or(Rate::default().gamma),
            milestones: train.lr_milestones.clone(),
        };
        let defaults = OptimOptions::default();
        let optimizer = OptimOptions {
            kind,
            momentum: train.momentum.unwrap_or(defaults.momentum),
            nesterov: train.nesterov,
            weight_decay: train.weight_decay.unwrap_or(defaults.weight_decay),
            betas: match train.betas[..] {
                [] => defaults.betas,
                [mean, square] => [mean, square],
                ref other => {
                    let found = other.len();
                    return Err(Error::usage(format!(
                        "--betas takes two numbers, such as 0.9,0.999, found {found}"
                    )));
                }
            },
            ..defaults
        };
        let distill = train.distill.map(Share::get).or(train.teacher.as_ref().map(|_| 0.9));
        let loss = LossOptions {
            loss: eval.scoring.loss,
            class_axis: eval.scoring.class_axis,
            label_smoothing: train.label_smoothing.map_or(0.0, Share::get),
            distill: distill.unwrap_or(0.0),
            temperature: train.temperature.unwrap_or(4.0),
        };
        let options = TrainOptions {
            length,
            batch: eval.sampling.batch.unwrap_or(BATCH),
            loss,
            optimizer,
            rate,
            augment: Augment { flip: train.flip, pad: train.pad.unwrap_or(0) },
            freeze: train.freeze.clone(),
            train: train.also_train.clone(),
            freeze_norms: train.freeze_norms,
            output: eval.output.clone(),
            seed: self.seed.unwrap_or(0),
        };
        let mut data = TrainData {
            data: eval.data.clone(),
            preprocess: eval.preprocess.clone(),
            sampling: eval.sampling.clone(),
        };
        let validation = self.validation(eval, &mut data)?;
        Ok((options, data, validation))
    }

    /// What criteria are calibrated on while the model trains: the training data, where no others are named.
    pub(super) fn training_calibration(
        &self,
        data: &TrainData,
        options: &TrainOptions,
        repairs: bool,
    ) -> Result<Option<CalibrateOptions>> {
        self.check_calibration(&self.prune.method, repairs)?;
        if !repairs && !self.prune.method.iter().any(needs_data) {
            return Ok(None);
        }
        let given = self.calibrate_options()?;
        Ok(Some(given.unwrap_or_else(|| self.calibrated_on(data.clone(), options.loss.clone()))))
    }

    /// What the model is evaluated on, taken out of the training data where it is a part of them.
    fn validation(&self, eval: &EvalOptions, data: &mut TrainData) -> Result<Option<EvalOptions>> {
        let train = &self.train;
        if !train.validation.is_empty() {
            let labels = (train.validation_labels.as_ref(), "--validation", "--validation-labels");
            return self.other_data(eval, &train.validation, labels).map(Some);
        }
        let count = match train.hold_out {
            None => return Ok(None),
            Some(HeldOut::Samples(count)) => count,
            Some(HeldOut::Share(share)) => {
                let samples =
                    data.sampling.samples.map_or_else(|| data.data.open().map(|set| set.len()), Ok)?;
                (share.get() * samples as f64).round_ties_even() as usize
            }
        };
        data.sampling.split = Split::Train(count);
        let sampling = Sampling { batch: None, split: Split::HeldOut(count), ..data.sampling.clone() };
        Ok(Some(EvalOptions { sampling, ..eval.clone() }))
    }

    /// Data besides those that are trained on, read in the same way: the labels that are given for them, and the names of
    /// both flags.
    pub(super) fn other_data(
        &self,
        eval: &EvalOptions,
        paths: &[PathBuf],
        (labels, flag, labels_flag): (Option<&String>, &str, &str),
    ) -> Result<EvalOptions> {
        let real = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let trained: Vec<PathBuf> = self.data.data.iter().map(real).collect();
        if let Some(path) = paths.iter().find(|path| trained.contains(&real(path))) {
            let message = format!("is given with --data and with {flag}: pass other data, or --hold-out 0.1");
            return Err(Error::usage(message).at_file(path));
        }
        self.data_like(eval, paths, (labels, labels_flag))
    }

    /// Refuses flags of training that have no effect.
    fn check_training(&self) -> Result<()> {
        let train = &self.train;
        let kind = train.optimizer.unwrap_or_default();
        let by_sgd = [("--momentum", train.momentum.is_some()), ("--nesterov", train.nesterov)];
        let steps = train.lr_schedule == Some(RateSchedule::Step);
        let by_step =
            [("--lr-milestones", !train.lr_milestones.is_empty()), ("--lr-gamma", train.lr_gamma.is_some())];
        refuse(&by_sgd, kind == Optim::Sgd, "--optimizer sgd")?;
        let betas = [("--betas", !train.betas.is_empty())];
        refuse(&betas, kind != Optim::Sgd, "--optimizer adam or adamw")?;
        refuse(&by_step, steps, "--lr-schedule step")
    }

    /// Refuses flags of pruning that have no effect.
    fn check_schedule(&self) -> Result<()> {
        let train = &self.train;
        let pruning = [
            ("--prune-start", train.prune_start.is_some()),
            ("--prune-end", train.prune_end.is_some()),
            ("--prune-every", train.prune_every.is_some()),
            ("--rounds", train.rounds.is_some()),
            ("--until", train.until.is_some()),
            ("--repair", !train.repair.is_empty()),
            ("--calibrate", !self.calibrate.calibrate.is_empty()),
            ("--calibrate-samples", self.calibrate.calibrate_samples.is_some()),
            ("--sparsity", !self.prune.sparsity.is_empty()),
            ("--method", !self.prune.method.is_empty()),
        ];
        refuse(&pruning, train.schedule.is_some(), "--schedule, for example --schedule cubic")
    }
}

/// Refuses the first of some flags that is given where none of them applies.
fn refuse(flags: &[(&str, bool)], applies: bool, instead: &str) -> Result<()> {
    match flags.iter().find(|(_, given)| *given && !applies) {
        Some((flag, _)) => Err(Error::usage(format!("{flag} has no effect without {instead}"))),
        None => Ok(()),
    }
}
