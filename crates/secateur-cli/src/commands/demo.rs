//! `secateur demo`

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use secateur::data::Scale;
use secateur::evaluate::Evaluator;
use secateur::{demo, io, sweep};

use crate::flags::Global;
use crate::interrupt;
use crate::progress::Bar;
use crate::recipe::{DataFlags, Recipe};

/// Prune a built-in model, test it on built-in data and plot its pruning curve.
#[derive(Args)]
pub(crate) struct Demo {
    /// Output folder of the run
    #[arg(long, short, value_name = "FOLDER", default_value = "secateur-demo")]
    output: PathBuf,
}

impl Demo {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let files = demo::unpack(&self.output)?;
        interrupt::say_resumes(&self.output.join("run"));
        let data = vec![files.data.clone()];
        let recipe = Recipe {
            seed: global.seed,
            data: DataFlags { data, scale: Some(Scale::Factor(demo::SCALE)), ..DataFlags::default() },
            ..Recipe::default()
        };
        let model = Arc::new(io::read(&files.model)?);
        let mut evaluator = Evaluator::new(&model, &recipe.eval_options()?, None)?;
        let options = recipe.sweep_options()?;
        let run = sweep::sweep(&model, &options, &mut evaluator, &self.output.join("run"), &Bar::new())?;
        super::sweep::finish(&run, &recipe, global)?;
        if !global.json {
            let mut out = crate::style::stdout();
            writeln!(
                out,
                "\nThe same by hand, to try with a model of your own:\n  secateur sweep {} --data {} --scale 1/16 -o {}",
                files.model.display(),
                files.data.display(),
                self.output.join("run").display()
            )?;
        }
        Ok(())
    }
}
