//! `secateur undo`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use secateur::prune::masks;
use secateur::text::counted;

use super::ModelArgs;
use crate::flags::Global;

/// Restore the original weights that were kept when pruning.
#[derive(Args)]
#[command(
    after_help = "Originals are kept by `secateur prune --keep-originals` (in the sidecar <model>.masks.safetensors), and in \
checkpoints by PyTorch's pairs of weight_orig and weight_mask.

Example:
  secateur prune model.onnx -o pruned.onnx --method l1 --sparsity 0.5 \\
      --keep-originals
  secateur undo pruned.onnx -o model-again.onnx"
)]
pub(crate) struct Undo {
    #[command(flatten)]
    model: ModelArgs,
    /// Output file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

impl Undo {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let model = self.model.open()?;
        let kept = masks::Masks::of(&model)?;
        let (patch, metadata) = masks::undo(&model, &kept)?;
        let files = super::write(&model, &patch, &metadata, &self.output, global)?;
        let restored = kept.originals.len().max(kept.pairs.len());
        if global.json {
            return super::print_json(
                &serde_json::json!({ "restored": restored, "files": super::texts(&files) }),
            );
        }
        let mut out = crate::style::stdout();
        writeln!(out, "restored the original weights of {}", counted(restored, "tensor"))?;
        super::print_written(&files, &mut out)?;
        Ok(())
    }
}
