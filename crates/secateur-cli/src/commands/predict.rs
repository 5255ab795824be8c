//! `secateur predict`

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use secateur::io;
use secateur::method::Method;
use secateur::predict::{PredictOptions, Prediction, predict};
use secateur::recipe::PruneFlags;

use super::{CostFlags, dim, shape};
use crate::progress::Bar;
use crate::{Global, style};

/// Say what pruning would gain in time, before anything is pruned.
#[derive(Args)]
#[command(
    after_help = "The model is measured as it is; then it is pruned in memory, and what each layer would take follows from the kernel
that its zeros would get and from what kernels cost on this machine. Of channels it is the time with them taken out, as
far as multiply-adds tell. `secateur bench --sparsity` measures the same and says how close this was.

Examples:
  secateur predict model.onnx
  secateur predict resnet50.onnx --methods l1+uniform+,l1/2:4 --sparsities 0.5,0.8,0.9 --threads 1 --layers
  secateur predict bert.onnx --dim sequence=128 --batch 16 --json"
)]
pub(crate) struct Predict {
    /// The model: an ONNX file
    model: PathBuf,
    /// The methods, such as l1+uniform+,l1/2:4; single weights, blocks, 2:4 and channels by default
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    methods: Vec<Method>,
    /// Shares of zeros; 0.5,0.7,0.8,0.9,0.95 by default
    #[arg(long, value_name = "SHARE", value_delimiter = ',')]
    sparsities: Vec<f64>,
    /// Samples at a time; 1 by default
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// The shape of an input where it is open: NAME=1x3x224x224; a first extent that is open is the batch
    #[arg(long, value_name = "NAME=SHAPE", value_parser = shape)]
    shape: Vec<(String, Vec<usize>)>,
    /// The extent of a named open axis: sequence=128
    #[arg(long, value_name = "NAME=N", value_parser = dim)]
    dim: Vec<(String, usize)>,
    /// Show each layer's time for each method and sparsity
    #[arg(long)]
    layers: bool,
    #[command(flatten)]
    costs: CostFlags,
    /// Prune only layers whose name matches a glob
    #[arg(long, value_name = "GLOB", value_delimiter = ',', help_heading = "Selection")]
    include: Vec<String>,
    /// Leave out layers whose name matches a glob
    #[arg(long, value_name = "GLOB", value_delimiter = ',', help_heading = "Selection")]
    exclude: Vec<String>,
}

impl Predict {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let flags = PruneFlags { include: self.include, exclude: self.exclude, ..PruneFlags::default() };
        let recipe = super::recipe(global, Some(&flags), None, None)?;
        let model = Arc::new(io::read(&self.model)?);
        let mut options = PredictOptions {
            methods: self.methods,
            sparsities: self.sparsities,
            batch: self.batch,
            threads: global.threads.first().copied(),
            costs: self.costs.choose()?,
            ..PredictOptions::default()
        };
        options.binding.shapes = self.shape;
        options.binding.dims = self.dim;
        let found = predict(&model, &recipe, &options, &Bar::new())?;
        if global.json {
            return super::print_json(&found);
        }
        let mut out = std::io::stdout().lock();
        found.head().iter().try_for_each(|line| writeln!(out, "{line}"))?;
        writeln!(out)?;
        style::print_table(&found.table(), &mut out)?;
        writeln!(out)?;
        found.reasons().iter().chain(&found.notes).try_for_each(|line| writeln!(out, "{line}"))?;
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
        style::print_table(&found.layers(method), out)?;
    }
    Ok(())
}
