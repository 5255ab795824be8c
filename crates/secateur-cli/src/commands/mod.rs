//! One file a subcommand: parse, call the library, print.

pub(crate) mod demo;
pub(crate) mod eval;
pub(crate) mod inspect;
pub(crate) mod methods;
pub(crate) mod prune;
pub(crate) mod sensitivity;
pub(crate) mod sweep;

use secateur::recipe::{DataFlags, PruneFlags, Recipe, SweepFlags};

use crate::Global;

/// The recipe file with the flags laid over it.
fn recipe(
    global: &Global,
    prune: Option<&PruneFlags>,
    data: Option<&DataFlags>,
    sweep: Option<&SweepFlags>,
) -> secateur::Result<Recipe> {
    let flags = Recipe {
        seed: global.seed,
        prune: prune.cloned().unwrap_or_default(),
        data: data.cloned().unwrap_or_default(),
        sweep: sweep.cloned().unwrap_or_default(),
    };
    match &global.recipe {
        Some(path) => Recipe::load(path)?.with(&flags),
        None => Ok(flags),
    }
}

/// Prints a value as JSON.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}
