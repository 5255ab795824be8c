//! `secateur sensitivity`

use std::path::PathBuf;

use clap::Args;
use secateur::evaluate::Evaluator;
use secateur::recipe::{DataFlags, PruneFlags, SweepFlags};
use secateur::sweep;

use super::{LimitFlags, ModelArgs};
use crate::progress::Bar;
use crate::{Global, interrupt};

/// Prune each layer alone and show which layers are the most sensitive.
#[derive(Args)]
#[command(after_help = "Example:
  secateur sensitivity resnet20.onnx --data test_batch.bin.gz --mean 0.485,0.456,0.406 \\
      --std 0.229,0.224,0.225 --step 0.2 --samples 500 -o runs/resnet20-sensitivity")]
pub(crate) struct Sensitivity {
    #[command(flatten)]
    model: ModelArgs,
    /// A folder for the run
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
    #[command(flatten)]
    sweep: SweepFlags,
    #[command(flatten)]
    prune: PruneFlags,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

impl Sensitivity {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let recipe =
            super::recipe(global, &self.model.graph, Some(&self.prune), Some(&self.data), Some(&self.sweep))?;
        super::check_used(&self.prune, &recipe.prune.method)?;
        super::sweep::no_masks(&recipe)?;
        super::sweep::check_free(&recipe)?;
        let model = self.model.open_by(&recipe)?;
        interrupt::say_resumes(&self.output);
        let mut evaluator =
            Evaluator::new(&model, &recipe.eval_options()?, None)?.within(self.limits.limits());
        let run = sweep::sensitivity(&model, &recipe, &mut evaluator, &self.output, &Bar::new())?;
        super::sweep::finish(&run, &recipe, global)
    }
}
