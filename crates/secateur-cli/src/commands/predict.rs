//! `secateur predict`

use std::io::Write;

use clap::Args;
use secateur::predict::{PredictOptions, Prediction, predict};
use secateur_report::predict as report;

use super::{CostFlags, InputFlags, LimitFlags, ModelArgs};
use crate::flags::Global;
use crate::progress::Bar;
use crate::recipe::PruneFlags;
use crate::style;

/// Estimate the speed-up from pruning, before anything is pruned.
#[derive(Args)]
#[command(
    after_help = "The unpruned model is measured. Then it is pruned in memory, and the time of each layer is estimated from the kernel \
that would run it and from measured kernel costs. `secateur bench --sparsity` measures the same models and says how \
close the estimate was. Zeros in whole channels bring no speed-up by themselves: for channels the estimate is what \
removing them would bring, which secateur does not do yet.

Examples:
  secateur predict model.onnx
  secateur predict resnet50.onnx --method l1+uniform+,l1/2:4 \\
      --sparsity 0.5,0.8,0.9 --threads 1 --layers
  secateur predict bert.onnx --dim sequence=128 --batch 16 --json"
)]
pub(crate) struct Predict {
    #[command(flatten)]
    model: ModelArgs,
    /// Batch size [default: the model's, or 1]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    #[command(flatten)]
    inputs: InputFlags,
    /// Show each layer's time for each method and sparsity
    #[arg(long)]
    layers: bool,
    #[command(flatten)]
    costs: CostFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    prune: PruneFlags,
}

impl Predict {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let recipe = super::recipe(global, &self.model.graph, Some(&self.prune), None, None)?;
        super::check_used(&self.prune, &recipe.prune.method)?;
        super::check_by_weights(&recipe.prune.method)?;
        let model = self.model.open_by(&recipe)?;
        let verbose = self.costs.verbose;
        let pruned = recipe.version_options()?;
        let options = PredictOptions {
            methods: pruned.methods,
            sparsities: pruned.sparsities,
            prune: pruned.prune,
            masks: pruned.masks,
            batch: self.batch,
            threads: global.threads.first().copied(),
            costs: self.costs.choose()?,
            binding: self.inputs.binding(),
            limits: self.limits.limits(),
        };
        let found = predict(&model, &options, &Bar::new())?;
        if global.json {
            return super::print_json(&found);
        }
        let mut out = crate::style::stdout();
        report::head(&found, verbose).iter().try_for_each(|line| style::print_wrapped(line, &mut out))?;
        writeln!(out)?;
        style::print_table(&report::table(&found), &mut out)?;
        writeln!(out)?;
        let said = report::shrunk(&found).into_iter().chain(report::reasons(&found));
        said.into_iter().try_for_each(|line| style::print_wrapped(&line, &mut out))?;
        let notes = found.busy.iter().chain(&found.notes);
        notes.into_iter().try_for_each(|line| style::print_note(line, &mut out))?;
        if self.layers {
            layers(&found, &mut out)?;
        }
        Ok(())
    }
}

/// The layers, a table for each method.
fn layers(found: &Prediction, out: &mut impl Write) -> std::io::Result<()> {
    let mut methods: Vec<&str> = found.forecasts.iter().map(|forecast| forecast.method.as_str()).collect();
    methods.dedup();
    for method in methods {
        writeln!(out, "\n{method}")?;
        style::print_table(&report::layers(found, method), out)?;
    }
    Ok(())
}
