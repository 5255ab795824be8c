//! `secateur finalize`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use secateur::prune::masks;

use super::ModelArgs;
use crate::flags::Global;

/// Make masks permanent: write zeros into the weights and keep nothing else.
#[derive(Args)]
#[command(
    after_help = "PyTorch's pairs of weight_orig and weight_mask become one weight with zeros in it, as \
torch.nn.utils.prune.remove does. A model with a sidecar of masks is copied without it.

Example:
  secateur finalize checkpoint-with-masks.pth -o checkpoint.pth"
)]
pub(crate) struct Finalize {
    #[command(flatten)]
    model: ModelArgs,
    /// Output file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Also apply the masks in this file (npz, safetensors, PyTorch)
    #[arg(long, value_name = "FILE")]
    mask: Vec<PathBuf>,
}

impl Finalize {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let model = self.model.open()?;
        let kept = super::masks(&model, &self.mask)?;
        let patch = masks::finalize(&model, &kept);
        let files = super::write(&model, &patch, &[], &self.output, global)?;
        if global.json {
            return super::print_json(
                &serde_json::json!({ "masks": kept.masks.len(), "files": super::texts(&files) }),
            );
        }
        let mut out = crate::style::stdout();
        match kept.masks.len() {
            0 => writeln!(out, "the model has no masks: its zeros are permanent already")?,
            1 => writeln!(out, "1 mask is permanent")?,
            n => writeln!(out, "{n} masks are permanent")?,
        }
        super::print_written(&files, &mut out)?;
        Ok(())
    }
}
