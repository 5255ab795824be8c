//! `secateur finetune`

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use secateur::data::metrics::Measure;
use secateur::progress::Progress;
use secateur::prune::masks::{self, Form};
use secateur::records::read_curve;
use secateur::train::{self, Epoch};
use secateur::{Error, format, io};
use secateur_report::training::Training;
use secateur_report::write_training;

use super::{Compress, LimitFlags, ModelArgs};
use crate::flags::Global;
use crate::progress::Bar;
use crate::recipe::{CalibrateFlags, DataFlags, PruneFlags, Recipe, TrainFlags, file_name};
use crate::style;

/// The file of `--log` that grows while the model trains.
const LOG_FILE: &str = "curve.jsonl";

/// Train a model while its pruned weights stay zero, or prune it while it trains.
#[derive(Args)]
#[command(after_help = "Examples:
  secateur finetune pruned.onnx -o tuned.onnx --data train.npz --epochs 10ep
  secateur finetune pruned.onnx -o tuned.onnx --data train.bin \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --flip --pad 4 \\
      --epochs 10ep --lr 0.01 --validation test.bin --log runs/tuned
  secateur finetune model.onnx -o tuned.onnx --data train.npz --epochs 20ep \\
      --schedule cubic --method l1@global --sparsity 0.9 --hold-out 0.1
  secateur finetune pruned.onnx -o tuned.onnx --data train.npz --epochs 5ep \\
      --teacher model.onnx")]
pub(crate) struct Finetune {
    #[command(flatten)]
    model: ModelArgs,
    /// Output file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Write the course of the training into this folder: losses, accuracies, prunings, and a report with plots
    #[arg(long, value_name = "FOLDER")]
    log: Option<PathBuf>,
    /// Compress the written file: gzip or zstd
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    compress: Option<Compress>,
    #[command(flatten)]
    train: TrainFlags,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    calibrate: CalibrateFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

impl Finetune {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let mut recipe = super::recipe(global, &self.model.graph, Some(&self.prune), Some(&self.data), None)?;
        let (train, calibrate) = (self.train.clone(), self.calibrate.clone());
        recipe = recipe.with(&Recipe { train, calibrate, ..Recipe::default() })?;
        let mut options = recipe.finetune_options()?;
        options.limits = Some(self.limits.limits());
        let path = Compress::name(self.compress, &self.output);
        let model = self.model.open_by(&recipe)?;
        super::check_output(&model, &path, global)?;
        let teacher = recipe.train.teacher.as_deref().map(super::read).transpose()?.map(Arc::new);
        let found = super::masks(&model, &recipe.prune.mask)?;
        let (form, _) = recipe.masks_form(&found);
        if form == Form::Pairs && model.source.format() == Some(&io::ONNX) {
            let message =
                "pairs of weight_orig and weight_mask only work in checkpoints: pass --masks sidecar";
            return Err(Error::usage(message).into());
        }
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(".training.safetensors");
        let unfinished = PathBuf::from(unfinished);
        options.progress_file = Some(unfinished.clone());
        if let Some(folder) = &self.log {
            // A report that a kill left beside an unfinished training is its own.
            secateur_report::check_training(folder, global.force || unfinished.exists())?;
            options.log = Some(folder.join(LOG_FILE));
        }
        crate::interrupt::say(format!(
            "the training is kept in {} to within a minute; run the same command again to resume",
            unfinished.display()
        ));
        let started = Instant::now();
        let bar = Bar::new();
        let mut said = |epoch: &Epoch| {
            bar.note(&line(epoch));
            Ok(())
        };
        let tuned = train::finetune(&model, &found.masks, teacher.as_ref(), &options, &bar, &mut said)?;
        drop(bar);
        let seconds = started.elapsed().as_secs_f64();
        let report = self.report(&recipe, global.force || unfinished.exists())?;
        let output = masks::trained(&model, &tuned.patch, &tuned.masks, &found, form)?;
        let mut metadata = recipe.told(&model).metadata(&model)?;
        metadata.extend(masks::kept_metadata(&model, &found, form, false)?);
        let mut files = super::write_output(&model, &output, &metadata, &path, global)?;
        files.extend(report);
        if unfinished.exists() {
            std::fs::remove_file(&unfinished)?;
        }
        if global.json {
            return super::print_json(&serde_json::json!({
                "model": super::text(&self.model.model),
                "recipe": recipe.as_text().to_json()?,
                "epochs": tuned.epochs,
                "best": tuned.best,
                "stopped": tuned.stopped.as_ref().map(|(step, figures)| serde_json::json!({
                    "step": step,
                    "validation": figures,
                })),
                "notes": tuned.notes,
                "seconds": seconds,
                "files": super::texts(&files),
            }));
        }
        let mut out = crate::style::stdout();
        if !found.originals.is_empty() {
            let note = "the weights from before pruning are not kept: they do not fit the trained ones";
            style::print_note(note, &mut out)?;
        }
        if let Some(best) = tuned.best {
            writeln!(out, "the weights are those after epoch {best}, of the least validation loss")?;
        }
        if let Some((step, figures)) = &tuned.stopped {
            let figures: Vec<String> = figures.values.iter().map(shown).collect();
            let (step, figures) = (format::grouped(*step as i64), figures.join(", "));
            writeln!(out, "pruning further costs too much: the model is that of step {step}, {figures}")?;
        }
        let (pruned, all) = held(&tuned.masks);
        let steps = tuned.epochs.last().map_or(0, |epoch| epoch.step);
        writeln!(
            out,
            "{} steps in {seconds:.1} s; {} of {} weights with a mask are zero ({})",
            format::grouped(steps as i64),
            format::grouped(pruned as i64),
            format::grouped(all as i64),
            format::percent(pruned as f64 / (all as f64).max(1.0)),
        )?;
        super::print_written(&files, &mut out)?;
        Ok(())
    }
}

impl Finetune {
    /// Writes the report of a training that is done, where its course was written; gives its files.
    fn report(&self, recipe: &Recipe, overwrite: bool) -> anyhow::Result<Vec<PathBuf>> {
        let Some(folder) = &self.log else { return Ok(Vec::new()) };
        let log = folder.join(LOG_FILE);
        let training = Training {
            model: file_name(&self.model.model),
            data: recipe.data_name(),
            recipe: recipe.as_text().to_json()?,
            version: env!("CARGO_PKG_VERSION").into(),
            lines: read_curve(&log)?,
        };
        let files = write_training(&training, folder, overwrite)?;
        Ok([vec![log], files].concat())
    }
}

/// How many weights masks prune, of how many.
fn held(masks: &train::Masks) -> (usize, usize) {
    masks.values().fold((0, 0), |(pruned, all), mask| (pruned + mask.pruned(), all + mask.len()))
}

/// A figure on the validation data.
fn shown(measure: &Measure) -> String {
    match measure.name.as_str() {
        "top1" | "top5" => format!("{} {}", measure.name, format::percent(measure.value)),
        name => format!("{name} {:.4}", measure.value),
    }
}

/// An epoch as a line of a log.
fn line(epoch: &Epoch) -> String {
    let mut line = format!("epoch {}: loss {:.4}, rate {:.2e}", epoch.epoch, epoch.loss, epoch.rate);
    if epoch.sparsity > 0.0 {
        line.push_str(&format!(", {} zeros", format::percent(epoch.sparsity)));
    }
    if let Some(metrics) = &epoch.validation {
        for measure in &metrics.values {
            line.push_str(&format!(", {}", shown(measure)));
        }
    }
    line
}
