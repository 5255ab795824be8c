//! `secateur diff`

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use secateur::diff::{Diff as Found, diff};
use secateur::format;
use secateur::text::listed;
use secateur::{Model, io};

use super::InputFlags;
use crate::flags::Global;
use crate::style;

/// Compare two models tensor by tensor.
#[derive(Args)]
#[command(
    after_help = "The models may be of different formats: names are compared without the prefixes that wrappers put before all of \
them (module., model.). The exit code is 0 whether they differ or not.

Examples:
  secateur diff model.onnx pruned.onnx
  secateur diff checkpoint.pth pruned.safetensors --all
  secateur diff bert.onnx pruned.onnx --dim sequence=128"
)]
pub(crate) struct Diff {
    /// The first model
    first: PathBuf,
    /// The second model
    second: PathBuf,
    /// List identical tensors too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    inputs: InputFlags,
}

impl Diff {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let (first, second) = (super::read(&self.first)?, super::read(&self.second)?);
        self.inputs.check(&[(&first, &self.first), (&second, &self.second)])?;
        let found = diff(&first, &second, &self.inputs.binding())?;
        let bytes = [size(&first)?, size(&second)?];
        if global.json {
            let mut value = serde_json::to_value(&found)?;
            value["bytes"] = serde_json::json!(bytes);
            return super::print_json(&value);
        }
        self.print(&found, bytes)
    }

    fn print(&self, found: &Found, bytes: [u64; 2]) -> anyhow::Result<()> {
        let mut out = crate::style::stdout();
        let both = |a: String, b: String| if a == b { a } else { format!("{a} → {b}") };
        let rows: Vec<Vec<String>> = found
            .tensors
            .iter()
            .filter(|t| self.all || !t.is_same())
            .map(|t| {
                let size = |i: usize| t.shapes[i].iter().product::<usize>() as f64;
                let share = |i: usize| format::percent(t.zeros[i] as f64 / size(i).max(1.0));
                let [a, b] = &t.shapes;
                vec![
                    both(t.path.clone(), t.other.clone().unwrap_or_else(|| t.path.clone())),
                    both(format!("{a:?}"), format!("{b:?}")),
                    both(t.dtypes[0].clone(), t.dtypes[1].clone()),
                    both(share(0), share(1)),
                    t.changed.map_or_else(|| "shape".into(), |(n, _)| format::grouped(n as i64)),
                    match t.changed {
                        Some((n, largest)) if n > 0 && largest.is_finite() => format!("{largest:.3e}"),
                        _ => String::new(),
                    },
                ]
            })
            .collect();
        let same = found.tensors.iter().filter(|t| t.is_same()).count();
        if !rows.is_empty() {
            let header = ["tensor", "shape", "type", "zeros", "changed", "largest change"];
            style::print_table(&style::table(&header, rows, &[1, 2]), &mut out)?;
            writeln!(out)?;
        }
        for (names, which) in [(&found.only_first, &self.first), (&found.only_second, &self.second)] {
            only(&mut out, names, which)?;
        }
        let cost = |i: usize| match (found.macs[i], found.effective_macs[i]) {
            (Some(all), Some(effective)) => {
                format!("{} ({} effective)", format::count(all as f64), format::count(effective as f64))
            }
            _ => "unknown".to_string(),
        };
        writeln!(out, "{}", shared(same, found.tensors.len()))?;
        writeln!(out, "file size: {}", both(format::bytes(bytes[0] as f64), format::bytes(bytes[1] as f64)))?;
        writeln!(out, "MACs per sample: {}", both(cost(0), cost(1)))?;
        Ok(())
    }
}

/// How many of the tensors that both models have are identical.
fn shared(same: usize, all: usize) -> String {
    match all {
        0 => "the models share no tensors".into(),
        1 if same == 1 => "the only shared tensor is identical".into(),
        1 => "the only shared tensor differs".into(),
        _ if same == all => format!("all {all} shared tensors are identical"),
        _ => format!("{same} of {all} shared tensors {} identical", if same == 1 { "is" } else { "are" }),
    }
}

fn only(out: &mut impl Write, names: &[String], which: &Path) -> std::io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    writeln!(out, "only in {}: {}", which.display(), listed(names))
}

/// The size of a model's files, uncompressed.
fn size(model: &Model) -> secateur::Result<u64> {
    io::write_stream(model, &secateur::Patch::new(), &[], &mut std::io::sink())
}
