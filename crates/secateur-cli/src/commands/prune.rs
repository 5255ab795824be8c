//! `secateur prune`

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use secateur::calib::{self, needs_data};
use secateur::coverage::Coverage;
use secateur::files::size;
use secateur::measure::Bytes;
use secateur::prune::masks::{self, Form};
use secateur::prune::{self, LayerSummary, Pruning, Subject};
use secateur::text::listed;
use secateur::{Error, format};
use secateur_report::Table;

use super::{Compress, ModelArgs};
use crate::flags::Global;
use crate::options::as_flags;
use crate::progress::Bar;
use crate::recipe::{CalibrateFlags, DataFlags, PruneFlags, Recipe};
use crate::style;

/// Prune a model and write it to a file.
#[derive(Args)]
#[command(after_help = "Examples:
  secateur prune model.onnx -o pruned.onnx --method l1@global --sparsity 0.8
  secateur prune model.onnx -o pruned.onnx --method l1/channel \\
      --sparsity 0.3 --module encoder --ops Conv
  secateur prune model.onnx -o pruned.onnx --recipe recipe.toml \\
      --layer 'layer4.*=0.9'
  secateur prune model.safetensors -o sparse.safetensors --method l1/2:4
  secateur prune checkpoint.pth -o masked.pth --method l1 --sparsity 0.5 \\
      --masks pairs
  secateur prune model.onnx -o pruned.onnx --method taylor@global \
      --sparsity 0.5 --calibrate train.npz
  secateur prune model.onnx -o pruned.onnx --mask masks.npz
  secateur prune model.onnx --method l1 --sparsity 0.5 --dry-run")]
pub(crate) struct Prune {
    #[command(flatten)]
    model: ModelArgs,
    /// Output file
    #[arg(long, short, value_name = "FILE", required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Compress the written file: gzip or zstd
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    compress: Option<Compress>,
    /// Show what would be pruned and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    flags: PruneFlags,
    #[command(flatten)]
    calibrate: CalibrateFlags,
    #[command(flatten)]
    data: DataFlags,
}

impl Prune {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let recipe = super::recipe(global, &self.model.graph, Some(&self.flags), Some(&self.data), None)?;
        let recipe = recipe.with(&Recipe { calibrate: self.calibrate.clone(), ..Recipe::default() })?;
        let said = &recipe.prune;
        let amount = !said.sparsity.is_empty() || said.count.is_some();
        let only_masks = said.method.is_empty() && !amount && !said.mask.is_empty();
        let options = if only_masks { None } else { Some(recipe.prune_options()?) };
        let model = self.model.open_by(&recipe)?;
        if let Some(options) = &options {
            super::check_used(&self.flags, &[options.method])?;
            let flags = Recipe { calibrate: self.calibrate.clone(), ..Recipe::default() };
            flags.check_calibration(&[options.method], false)?;
            if self.data != DataFlags::default() && !needs_data(&options.method) {
                return Err(Error::usage(
                    "flags on data have no effect without a criterion that looks at data, such as --method taylor@global",
                )
                .into());
            }
        }
        let masks = super::masks(&model, &said.mask)?;
        let subject = Subject::of(&model);
        let pruning = match &options {
            Some(options) => {
                let data = recipe.calibrate_options()?;
                let evidence = calib::evidence(&model, &masks.masks, [options], data.as_ref(), &Bar::new())?;
                calib::plan(&model, &subject, options, &masks.masks, &evidence)?
            }
            None => prune::Pruning::of_masks(&subject, &masks.masks)?,
        };
        let (form, keep_originals) = recipe.masks_form(&masks);
        let output = masks::output(&model, &pruning, &masks, form, keep_originals)?;
        let written = match &self.output {
            Some(path) if !self.dry_run => {
                let path = Compress::name(self.compress, path);
                let mut metadata = recipe.metadata(&model)?;
                metadata.extend(masks::kept_metadata(&model, &masks, form, keep_originals)?);
                Some((super::write_output(&model, &output, &metadata, &path, global)?, metadata))
            }
            _ => None,
        };
        let selected = pruning.masks.iter().map(|(id, _)| *id);
        let coverage = match &options {
            _ if said.biases => None,
            Some(options) => Some(Coverage::among(&model, options.entries(&subject)?, selected)),
            None => Some(Coverage::among(&model, subject.entries()?, selected)),
        };
        if global.json {
            return super::print_json(&serde_json::json!({
                "model": super::text(&self.model.model),
                "recipe": recipe.as_text().to_json()?,
                "layers": pruning.layers,
                "selected": { "weights": pruning.size(), "zeros": pruning.zeros(), "sparsity": pruning.sparsity() },
                "model_sparsity": pruning.model_sparsity(&subject)?,
                "notes": pruning.notes,
                "coverage": coverage,
                "files": written.map_or_else(Vec::new, |(files, _)| super::texts(&files)),
            }));
        }
        let names = subject.layer_names()?;
        let mut out = crate::style::stdout();
        style::print_table(&layers(&pruning, &names), &mut out)?;
        writeln!(out)?;
        for note in &pruning.notes {
            style::print_note(note, &mut out)?;
        }
        let emptied = pruning.layers.iter().filter(|l| l.size > 0 && l.nnz() == 0);
        let emptied: Vec<&String> = emptied.map(|l| names.get(&l.tensor).unwrap_or(&l.tensor)).collect();
        if !emptied.is_empty() {
            style::print_note(&format!("no weights are left in {}", listed(&emptied)), &mut out)?;
        }
        let zeros = format!(
            "{}: {} of {} selected weights are zero ({}), {} of all parameters",
            options.map_or_else(|| "masks".to_string(), |o| o.method.to_string()),
            format::grouped(pruning.zeros() as i64),
            format::grouped(pruning.size() as i64),
            format::percent(pruning.sparsity()),
            format::percent(pruning.model_sparsity(&subject)?),
        );
        style::print_wrapped(&zeros, &mut out)?;
        if let Some(coverage) = coverage.filter(|coverage| !coverage.is_complete()) {
            writeln!(out, "{}", coverage.heading())?;
            coverage.lines().iter().try_for_each(|line| writeln!(out, "  {}", as_flags(line)))?;
        }
        match &written {
            None => writeln!(out, "nothing is written (--dry-run)")?,
            Some((files, metadata)) => {
                let nothing = secateur::Patch::new();
                let before = size::bytes(&model, &nothing, &[], pruning.counts_before().into_iter())?;
                let after = size::bytes(&model, &output.patch, metadata, pruning.counts().into_iter())?;
                writeln!(out)?;
                style::print_table(&sizes(before, after), &mut out)?;
                if form == Form::Zeros && !keep_originals {
                    style::print_note("to be able to undo, use --keep-originals", &mut out)?;
                }
                super::print_written(files, &mut out)?;
            }
        }
        Ok(())
    }
}

/// What is pruned of each layer.
fn layers(pruning: &Pruning, names: &HashMap<String, String>) -> Table {
    let channels = pruning.layers.iter().any(|l| l.channels.is_some());
    let row = |l: &LayerSummary| {
        let mut row = vec![
            names.get(&l.tensor).unwrap_or(&l.tensor).clone(),
            l.op_type.clone(),
            format!("{:?}", l.shape),
            format::count((l.size - l.zeros_before) as f64),
            format::count(l.nnz() as f64),
            format::percent(l.sparsity()),
        ];
        if channels {
            row.push(l.channels.map_or_else(String::new, |c| format!("{} of {}", c.pruned, c.size)));
        }
        row
    };
    let mut header = vec!["layer", "operator", "shape", "nonzero", "after", "sparsity"];
    if channels {
        header.push("channels pruned");
    }
    style::table(&header, pruning.layers.iter().map(row).collect(), &[1, 2])
}

/// The sizes of the file before and after, as far as both are known.
fn sizes(before: Bytes, after: Bytes) -> Table {
    let names = ["plain", "gzip", "zstd", "packed", "entropy bound"];
    let sizes = before.all().into_iter().zip(after.all());
    let row = |(name, (before, after)): (&str, (Option<f64>, Option<f64>))| {
        let (a, b) = (before?, after?);
        Some(vec![name.into(), format::bytes(a), format::bytes(b), format!("{:.2}×", a / b)])
    };
    let rows = names.into_iter().zip(sizes).filter_map(row).collect();
    style::table(&["file size", "before", "after", ""], rows, &[])
}
