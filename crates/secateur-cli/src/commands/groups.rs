//! `secateur groups`

use std::io::Write;

use clap::Args;
use secateur::dims::{Dims, Kept};
use secateur::format;
use secateur::shrink::{self, Row};
use secateur::text::counted;

use super::ModelArgs;
use crate::flags::Global;
use crate::style;

/// Show which channels, neurons and heads can be removed, and which layers lose them together.
#[derive(Args)]
#[command(
    after_help = "A group is one dimension of the network. Take a position out of it, and every layer named loses it. The \
numbers are what leaves with one position while everything else is whole.

Examples:
  secateur groups resnet20.onnx
  secateur groups vit.onnx --norm-widths"
)]
pub(crate) struct Groups {
    #[command(flatten)]
    model: ModelArgs,
    /// Offer widths too that layers normalise over: the network then computes something else
    #[arg(long)]
    norm_widths: bool,
}

impl Groups {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let model = self.model.open()?;
        let dims = Dims::of(&model, self.norm_widths)?;
        let rows = shrink::rows(&model, &dims, &Kept::new())?;
        if global.json {
            return super::print_json(&serde_json::json!({ "groups": rows }));
        }
        let mut out = style::stdout();
        let (free, frozen): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.frozen.is_none());
        let row = |row: &&Row| {
            vec![
                row.extent.to_string(),
                joined(&row.outputs),
                joined(&row.inputs),
                format::count(row.parameters as f64),
                format::count(row.macs as f64),
            ]
        };
        let header = ["size", "made by", "taken by", "parameters", "MACs"];
        if !free.is_empty() {
            style::print_table(&style::table(&header, free.iter().map(row).collect(), &[1, 2]), &mut out)?;
        }
        if !frozen.is_empty() {
            let row = |row: &&Row| {
                let layers = if row.outputs.is_empty() { &row.inputs } else { &row.outputs };
                vec![row.extent.to_string(), joined(layers), row.frozen.clone().unwrap_or_default()]
            };
            writeln!(out)?;
            let table =
                style::table(&["frozen", "layers", "because"], frozen.iter().map(row).collect(), &[1, 2]);
            style::print_table(&table, &mut out)?;
        }
        writeln!(out)?;
        writeln!(out, "{} can be cut, {} cannot", counted(free.len(), "group"), frozen.len())?;
        Ok(())
    }
}

/// The first names, and how many more there are.
pub(super) fn joined(names: &[String]) -> String {
    match names {
        [] => "–".into(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} + {}", rest.len()),
    }
}
