//! `secateur verify`

use std::collections::HashMap;
use std::io::Write;

use clap::Args;
use secateur::format;
use secateur::prune::Subject;
use secateur::prune::masks::Masks;
use secateur::text::quoted;
use secateur::verify::{Verification, verify};
use secateur::{Error, ErrorKind};

use super::ModelArgs;
use crate::flags::Global;
use crate::options::as_flags;
use crate::recipe::{PruneFlags, recipe_in};
use crate::style;

/// Check that every tensor has at least the sparsity asked for, and its pattern.
#[derive(Args)]
#[command(
    after_help = "Without a recipe and flags, the recipe in the file's own metadata is used. The exit code is 0 if all tensors match, \
1 if not, and 2 if that cannot be checked.

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
        let said = super::recipe(global, &self.model.graph, Some(&self.flags), None, None)?;
        let model = self.model.open_by(&said)?;
        let recipe = if said.prune == PruneFlags::default() { recipe_in(&model)? } else { said };
        let options = recipe.prune_options()?;
        let subject = Subject::of(&model);
        let found = verify(&subject, &options, &Masks::of_pairs(&model)?.masks)?;
        let names = subject.layer_names()?;
        let printed = if global.json {
            super::print_json(&found)
        } else {
            print(&found, &options.method.to_string(), &names)
        };
        if found.holds {
            return printed;
        }
        // The exit code says it even to whom reads no further.
        let mut failure = failure(&found, &names);
        // Which layers take part, and which channels belong together, follows from the graph.
        if model.graph.is_none() {
            failure += "; if the checkpoint was pruned with `--graph`, pass it here too";
        }
        Err(Error::new(ErrorKind::Failed, failure).at_file(&self.model.model).into())
    }
}

fn print(found: &Verification, method: &str, names: &HashMap<String, String>) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = found
        .layers
        .iter()
        .map(|layer| {
            let share = |zeros: usize| format::percent(zeros as f64 / (layer.size as f64).max(1.0));
            let verdict = match layer.missing {
                0 => "OK".to_string(),
                // No tensor alone breaks a promise over all.
                n if found.global => format!("{} to prune yet", format::grouped(n as i64)),
                n => format!("{} zeros missing", format::grouped(n as i64)),
            };
            let name = names.get(&layer.tensor).unwrap_or(&layer.tensor).clone();
            vec![name, format::count(layer.size as f64), share(layer.zeros), verdict]
        })
        .collect();
    let mut out = crate::style::stdout();
    style::print_table(&style::table(&["tensor", "weights", "sparsity", method], rows, &[3]), &mut out)?;
    if !found.holds {
        return Ok(());
    }
    match &found.coverage {
        Some(coverage) if !coverage.is_complete() => {
            writeln!(
                out,
                "\nOK: what the recipe covers matches it: {} of the layers' {} weights\n{}",
                format::percent(coverage.share()),
                format::count(coverage.weights as f64),
                coverage.heading()
            )?;
            coverage.lines().iter().try_for_each(|line| writeln!(out, "  {}", as_flags(line)))?;
        }
        _ => {
            let matching = match found.layers.len() {
                1 => "the tensor matches".to_string(),
                n => format!("all {n} tensors match"),
            };
            writeln!(out, "\nOK: {matching} the recipe")?;
        }
    }
    Ok(())
}

/// What is missing, in a sentence.
fn failure(found: &Verification, names: &HashMap<String, String>) -> String {
    let broken: Vec<&String> = found
        .layers
        .iter()
        .filter(|l| l.missing > 0)
        .map(|l| names.get(&l.tensor).unwrap_or(&l.tensor))
        .collect();
    let zeros = format::grouped(found.missing() as i64);
    if found.global && !broken.is_empty() {
        return format!("{zeros} zeros are missing over all selected tensors together");
    }
    match (&broken[..], &found.companions[..]) {
        ([], companions) => {
            format!("not zero in pruned channels: {}", quoted(companions))
        }
        (broken, _) => {
            format!("{zeros} zeros are missing in {}", quoted(broken))
        }
    }
}
