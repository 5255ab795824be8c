//! `secateur sizes`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use secateur::method::Method;
use secateur::recipe::{PruneFlags, SweepFlags};
use secateur::report::format;
use secateur::sizes::{Size, Sizes, sizes};

use super::ModelArgs;
use crate::progress::Bar;
use crate::{Global, style};

/// Draw the size of the file against sparsity: as written, after gzip, after zstd, packed, and the entropy bound.
#[derive(Args)]
#[command(after_help = "No data are needed. The folder gets sizes.csv, sizes.svg and sizes.png.

Example:
  secateur sizes model.onnx --methods l1,l1@global --ops Conv -o sizes/model")]
pub(crate) struct SizesOf {
    #[command(flatten)]
    model: ModelArgs,
    /// The folder for table and figure
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    /// The methods to compare, such as l1,l1/channel,l1@global
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    methods: Vec<Method>,
    /// Distance between sparsities; 0.05 by default
    #[arg(long, value_name = "SHARE")]
    step: Option<f64>,
    /// The largest sparsity; 0.95 by default
    #[arg(long, value_name = "SHARE")]
    max: Option<f64>,
    #[command(flatten)]
    prune: PruneFlags,
}

impl SizesOf {
    pub(crate) fn run(mut self, global: &Global) -> anyhow::Result<()> {
        // One method may be named as for `prune`.
        self.methods.extend(self.prune.method.take());
        let points =
            SweepFlags { methods: self.methods, step: self.step, max: self.max, ..SweepFlags::default() };
        let recipe = super::recipe(global, Some(&self.prune), None, Some(&points))?;
        Sizes::check(&self.output, global.force)?;
        let model = self.model.open()?;
        let masks = super::masks(&model, &recipe.prune.mask)?;
        let found = sizes(&model, &recipe, &masks, &Bar::new())?;
        let files = found.write(&self.output, global.force)?;
        if global.json {
            return super::print_json(&serde_json::json!({ "sizes": found, "files": files }));
        }
        let row = |size: &Size| {
            let mut row =
                vec![size.method.clone(), format::percent(size.target, 1), format::percent(size.sparsity, 1)];
            row.extend(size.bytes.all().map(format::known_bytes));
            row
        };
        let rows = std::iter::once(&found.unpruned).chain(&found.points).map(row).collect();
        let header = ["method", "target", "sparsity", "raw", "gzip", "zstd", "packed", "entropy bound"];
        let mut out = std::io::stdout().lock();
        style::print_table(&style::table(&header, rows, &[]), &mut out)?;
        writeln!(out)?;
        super::print_written(&files, &mut out)?;
        Ok(())
    }
}
