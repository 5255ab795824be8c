//! `secateur verify`

use std::io::Write;

use clap::Args;
use secateur::masks::Masks;
use secateur::recipe::PruneFlags;
use secateur::report::format;
use secateur::verify::{Verification, recipe_in, verify};
use secateur::{Error, ErrorKind};

use super::ModelArgs;
use crate::{Global, style};

/// Check that a file has the sparsity and pattern that a recipe promises.
#[derive(Args)]
#[command(
    after_help = "Without a recipe and flags the one in the file's own metadata is taken. The exit code is 0 where
everything promised is there, 1 where it is not, 2 where that cannot be checked.

Examples:
  secateur verify pruned.onnx
  secateur verify pruned.onnx --recipe recipe.toml
  secateur verify pruned.safetensors --method l1/2:4"
)]
pub(crate) struct Verify {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    flags: PruneFlags,
}

impl Verify {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let model = self.model.open()?;
        let said = super::recipe(global, Some(&self.flags), None, None)?;
        let recipe = if said.prune == PruneFlags::default() { recipe_in(&model)? } else { said };
        let options = recipe.prune_options()?;
        let found = verify(&model, &options, &Masks::of_pairs(&model)?.masks)?;
        if global.json {
            super::print_json(&found)?;
        } else {
            print(&found, &options.method.to_string())?;
        }
        if found.holds {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Failed, failure(&found)).at_file(&self.model.model).into())
    }
}

fn print(found: &Verification, method: &str) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = found
        .layers
        .iter()
        .map(|layer| {
            let share = |zeros: usize| format::percent(zeros as f64 / (layer.size as f64).max(1.0), 2);
            let verdict = match layer.missing {
                0 => "holds".to_string(),
                _ if found.global => String::new(),
                n => format!("{} zeros missing", format::grouped(n as i64)),
            };
            vec![layer.tensor.clone(), format::count(layer.size as f64), share(layer.zeros), verdict]
        })
        .collect();
    let mut out = std::io::stdout().lock();
    style::print_table(&style::table(&["tensor", "weights", "sparsity", method], rows, &[3]), &mut out)?;
    if found.holds {
        writeln!(out, "\neverything promised is there")?;
    }
    Ok(())
}

/// What is missing, in a sentence.
fn failure(found: &Verification) -> String {
    let broken: Vec<&str> =
        found.layers.iter().filter(|l| l.missing > 0).map(|l| l.tensor.as_str()).collect();
    let zeros = format::grouped(found.missing() as i64);
    if found.global && !broken.is_empty() {
        return format!("{zeros} zeros are missing over all selected tensors together");
    }
    match (&broken[..], &found.companions[..]) {
        ([], companions) => {
            format!("not zero in channels that are pruned: `{}`", companions.join("`, `"))
        }
        (broken, _) => {
            let shown = broken.iter().take(8).map(|t| format!("`{t}`")).collect::<Vec<_>>().join(", ");
            let more =
                if broken.len() > 8 { format!(" and {} more", broken.len() - 8) } else { String::new() };
            format!("{zeros} zeros are missing in {shown}{more}")
        }
    }
}
