//! `secateur sweep` and `secateur sensitivity`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use secateur::evaluate::Evaluator;
use secateur::progress::Progress;
use secateur::prune::evidence::SEED;
use secateur::records::{CSV_FILE, RESULTS_FILE, Run, RunKind};
use secateur::sweep::{self, SweepOptions};
use secateur::{Error, Method, Model};
use secateur_report::analysis::Analysis;
use secateur_report::{print_summary, write_report};

use super::{LimitFlags, ModelArgs};
use crate::flags::Global;
use crate::progress::Bar;
use crate::recipe::{CalibrateFlags, DataFlags, PruneFlags, Recipe, SweepFlags};
use crate::{interrupt, style};

/// What a sweep and a sensitivity analysis are told alike.
#[derive(Args)]
pub(super) struct Experiment {
    #[command(flatten)]
    model: ModelArgs,
    /// Output folder of the run
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    #[command(flatten)]
    sweep: SweepFlags,
    #[command(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    calibrate: CalibrateFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

/// Plot pruning curves: loss and accuracy against sparsity for several methods.
#[derive(Args)]
#[command(
    after_help = "The run is a folder: results.jsonl and results.csv grow point by point, report.html and the plots (SVG and PNG) are \
written at the end. If interrupted, run the same command again to resume. With --latency each model is timed, interleaved with the unpruned one.

Example:
  secateur sweep resnet56.onnx --data test_batch.bin.gz \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 \\
      --ops Conv --method l1,l1/channel,l1@global,random -o runs/resnet56"
)]
pub(crate) struct Sweep {
    #[command(flatten)]
    experiment: Experiment,
}

/// Prune each layer alone and show which layers are the most sensitive.
#[derive(Args)]
#[command(after_help = "Example:
  secateur sensitivity resnet20.onnx --data test_batch.bin.gz --mean 0.485,0.456,0.406 \\
      --std 0.229,0.224,0.225 --step 0.2 --samples 500 -o runs/resnet20-sensitivity")]
pub(crate) struct Sensitivity {
    #[command(flatten)]
    experiment: Experiment,
}

impl Sweep {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        self.experiment.run(RunKind::Sweep, global)
    }
}

impl Sensitivity {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        self.experiment.run(RunKind::Sensitivity, global)
    }
}

impl Experiment {
    fn run(self, kind: RunKind, global: &Global) -> anyhow::Result<()> {
        let recipe =
            super::recipe(global, &self.model.graph, Some(&self.prune), Some(&self.data), Some(&self.sweep))?;
        let recipe = recipe.with(&Recipe { calibrate: self.calibrate.clone(), ..Recipe::default() })?;
        let (mut options, measure): (_, Measure) = match kind {
            RunKind::Sweep => (recipe.sweep_options()?, sweep::sweep),
            RunKind::Sensitivity => (recipe.sensitivity_options()?, sweep::sensitivity),
        };
        super::check_used(&self.prune, &options.methods)?;
        recipe.check_calibration(&options.methods, !options.repair.is_empty())?;
        if let Some(calibrate) = &mut options.calibrate {
            calibrate.limits = Some(self.limits.limits());
        }
        no_masks(&recipe)?;
        check_free(&recipe)?;
        let is_random = |method: &Method| method.needs(&SEED);
        if self.sweep.random_seeds.is_some() && !options.methods.iter().any(is_random) {
            return Err(Error::usage("--random-seeds has no effect without the criterion `random`").into());
        }
        let model = self.model.open_by(&recipe)?;
        interrupt::say_resumes(&self.output);
        let mut evaluator =
            Evaluator::new(&model, &recipe.eval_options()?, None)?.within(self.limits.limits());
        let run = measure(&model, &options, &mut evaluator, &self.output, &Bar::new())?;
        finish(&run, &recipe, global)
    }
}

/// What measures the points of a run.
type Measure = fn(&Arc<Model>, &SweepOptions, &mut Evaluator, &Path, &dyn Progress) -> secateur::Result<Run>;

/// Measures of which a run has some.
const MEASURES: [&str; 7] = ["loss", "top1", "top5", "mse", "relative_l2", "cosine", "argmax_equal"];

/// Checks that what counts as free is told by a measure that there is, before anything is measured.
pub(super) fn check_free(recipe: &Recipe) -> secateur::Result<()> {
    let free = recipe.sweep.tolerance();
    if MEASURES.contains(&free.measure.as_str()) {
        Ok(())
    } else {
        Err(Error::usage(format!(
            "--free {free}: there is no measure `{}`; there are {}",
            free.measure,
            MEASURES.join(", ")
        )))
    }
}

/// Checks that the recipe has no masks: they would be part of no model that is measured.
pub(super) fn no_masks(recipe: &Recipe) -> secateur::Result<()> {
    match recipe.prune.mask.first() {
        Some(mask) => Err(Error::usage(format!(
            "the recipe's `mask` ({}) is not applied here: apply the masks with `secateur prune --mask`, then measure \
             the result",
            mask.display()
        ))),
        None => Ok(()),
    }
}

/// Writes the report of a run and prints its summary.
pub(super) fn finish(run: &Run, recipe: &Recipe, global: &Global) -> anyhow::Result<()> {
    let analysis = Analysis::of(run, recipe.sweep.tolerance())?;
    let report = write_report(run, &analysis, &run.folder)?;
    let files: Vec<PathBuf> =
        [RESULTS_FILE, CSV_FILE].map(|name| run.folder.join(name)).into_iter().chain(report).collect();
    if global.json {
        return super::print_json(&serde_json::json!({
            "folder": super::text(&run.folder),
            "files": super::texts(&files),
            "unpruned": run.unpruned,
            "points": run.points,
        }));
    }
    let mut out = crate::style::stdout();
    print_summary(run, &analysis, &mut out, style::width(), style::colour())?;
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "html")) {
        use std::io::Write;
        writeln!(out, "\nreport: {}", file.display())?;
    }
    Ok(())
}
