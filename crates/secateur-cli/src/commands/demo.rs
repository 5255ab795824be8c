//! `secateur demo`

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use secateur::evaluate::Evaluator;
use secateur::{demo, io, sweep};

use crate::progress::Bar;
use crate::{Global, interrupt};

/// Prune a built-in model, test it on built-in data and draw its pruning curve.
#[derive(Args)]
pub(crate) struct Demo {
    /// The folder of the run
    #[arg(long, short, value_name = "FOLDER", default_value = "secateur-demo")]
    output: PathBuf,
}

impl Demo {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let files = demo::unpack(&self.output)?;
        interrupt::say_resumes(&self.output.join("run"));
        let mut recipe = demo::recipe(&files);
        recipe.seed = global.seed;
        let model = Arc::new(io::read(&files.model)?);
        let mut evaluator = Evaluator::new(&model, &recipe.eval_options()?, None)?;
        let run = sweep::sweep(&model, &recipe, &mut evaluator, &self.output.join("run"), &Bar::new())?;
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
