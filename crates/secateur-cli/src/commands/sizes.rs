//! `secateur sizes`

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use secateur::format;
use secateur::sizes::{Size, sizes};

use super::ModelArgs;
use crate::flags::Global;
use crate::progress::Bar;
use crate::recipe::{PruneFlags, Share, SweepFlags};
use crate::{interrupt, style};

/// Plot the file size against sparsity: plain, gzip, zstd, packed, and the entropy bound.
#[derive(Args)]
#[command(after_help = "It needs no data. The folder gets sizes.html, sizes.csv, sizes.svg and sizes.png.

Example:
  secateur sizes model.onnx --method l1,l1@global --ops Conv -o sizes/model")]
pub(crate) struct SizesOf {
    #[command(flatten)]
    model: ModelArgs,
    /// Output folder for the table and the plots
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    /// Step between sparsities, unless --sparsity lists them [default: 0.05]
    #[arg(long, value_name = "SHARE", conflicts_with = "sparsity")]
    step: Option<Share>,
    /// The largest sparsity, unless --sparsity lists them [default: 0.95]
    #[arg(long, value_name = "SHARE", conflicts_with = "sparsity")]
    max: Option<Share>,
    #[command(flatten)]
    prune: PruneFlags,
}

impl SizesOf {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let points = SweepFlags { step: self.step, max: self.max, ..SweepFlags::default() };
        let recipe = super::recipe(global, &self.model.graph, Some(&self.prune), None, Some(&points))?;
        let options = recipe.sweep_options()?;
        super::check_used(&self.prune, &options.methods)?;
        super::check_by_weights(&options.methods)?;
        secateur_report::check_sizes(&self.output, global.force)?;
        let model = self.model.open_by(&recipe)?;
        let masks = super::masks(&model, &recipe.prune.mask)?;
        interrupt::say("nothing was written; `secateur sizes` starts over when it is run again".into());
        let name = model
            .path
            .as_deref()
            .and_then(Path::file_name)
            .map_or("model".into(), |name| name.to_string_lossy());
        let flags = secateur_report::flags("sizes", &options.recipe);
        let command = format!("secateur sizes {}{flags} -o FOLDER", secateur_report::quoted(&name));
        let found = sizes(&model, &options, &masks, command, &Bar::new())?;
        let files = secateur_report::write_sizes(&found, &self.output, global.force)?;
        if global.json {
            return super::print_json(&serde_json::json!({ "sizes": found, "files": super::texts(&files) }));
        }
        let row = |size: &Size| {
            let mut row =
                vec![size.method.clone(), format::percent(size.target), format::percent(size.sparsity)];
            row.extend(size.bytes.all().map(format::known_bytes));
            row
        };
        let rows = std::iter::once(&found.unpruned).chain(&found.points).map(row).collect();
        let header = ["method", "target", "sparsity", "plain", "gzip", "zstd", "packed", "entropy bound"];
        let mut out = crate::style::stdout();
        let table = style::table(&header, rows, &[]).without_if_narrow(&["target", "plain"]);
        style::print_table(&table, &mut out)?;
        writeln!(out)?;
        super::print_written(&files, &mut out)?;
        Ok(())
    }
}
