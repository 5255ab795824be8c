//! `secateur run`

use clap::Args;
use secateur::prune::masks::Masks;
use secateur::run::{Destination, read_inputs};
use secateur::{DType, Session};

use super::{CostFlags, LimitFlags, ModelArgs};
use crate::flags::Global;
use crate::style;

/// Run the model once on .npy or .npz inputs.
#[derive(Args)]
#[command(after_help = "Examples:
  secateur run model.onnx --input image.npy -o logits.npy
  secateur run bert.onnx --input input_ids=ids.npy \\
      --input attention_mask=mask.npy -o hidden.npy
  secateur run model.onnx --input inputs.npz -o outputs/
  secateur run checkpoint.pth --graph model.onnx --input image.npy \\
      -o logits=logits.npy")]
pub(crate) struct Run {
    #[command(flatten)]
    model: ModelArgs,
    /// An input: FILE.npy for the next input, NAME=FILE.npy, or an .npz with arrays named like inputs;
    /// f16 and bf16 inputs take f32 too; none where the model has no inputs
    #[arg(long, short, value_name = "[NAME=]FILE")]
    input: Vec<String>,
    /// Where to write outputs: an .npy file for one, an .npz file or a folder for all, or NAME=FILE.npy
    #[arg(long, short, value_name = "[NAME=]FILE", required = true)]
    output: Vec<String>,
    #[command(flatten)]
    costs: CostFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

impl Run {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let model = self.model.open()?;
        let masks = Masks::of_pairs(&model)?;
        let costs = self.costs.choose()?;
        let session = Session::with_costs(model.clone(), masks.effective(&model), costs.costs)?;
        let session = session.within(self.limits.limits());
        let destination = Destination::new(session.outputs(), &self.output, global.force)?;
        let inputs = read_inputs(session.inputs(), &self.input)?;
        let outputs: Vec<_> = session.outputs().iter().cloned().zip(session.run(inputs)?).collect();
        let files = destination.write(&outputs, global.force)?;
        if global.json {
            let shown = outputs.iter().map(|(name, tensor)| {
                serde_json::json!({ "name": name, "type": tensor.dtype().name(), "shape": tensor.shape() })
            });
            return super::print_json(&serde_json::json!({
                "model": super::text(&self.model.model),
                "costs": costs,
                "outputs": shown.collect::<Vec<_>>(),
                "files": super::texts(&files),
            }));
        }
        let rows = outputs
            .iter()
            .map(|(name, tensor)| {
                // numpy has no bf16.
                let written = if tensor.dtype() == DType::BF16 { ", written as f32" } else { "" };
                vec![name.clone(), format!("{}{written}", tensor.dtype()), format!("{:?}", tensor.shape())]
            })
            .collect();
        let mut out = crate::style::stdout();
        style::print_table(&style::table(&["output", "type", "shape"], rows, &[1, 2]), &mut out)?;
        super::print_written(&files, &mut out)?;
        Ok(())
    }
}
