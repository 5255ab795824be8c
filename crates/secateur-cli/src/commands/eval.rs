//! `secateur eval`

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use secateur::evaluate::Evaluator;
use secateur::format;
use secateur::text::counted;

use super::{LimitFlags, ModelArgs};
use crate::flags::Global;
use crate::options::as_flags;
use crate::progress::Bar;
use crate::recipe::DataFlags;
use crate::style;

/// Measure a model's loss and accuracy.
#[derive(Args)]
#[command(after_help = "Examples:
  secateur eval resnet20.onnx --data test_batch.bin.gz \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  secateur eval mobilenet.onnx --data photos/ --resize 256 --crop 224 \\
      --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225
  secateur eval pruned.onnx --reference model.onnx --data images.npz")]
pub(crate) struct Eval {
    #[command(flatten)]
    model: ModelArgs,
    /// Compare the outputs with those of this model instead of with labels
    #[arg(long, value_name = "MODEL")]
    reference: Option<PathBuf>,
    #[command(flatten)]
    flags: DataFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

impl Eval {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let recipe = super::recipe(global, &self.model.graph, None, Some(&self.flags), None)?;
        let options = recipe.eval_options()?;
        let model = self.model.open_by(&recipe)?;
        let reference = self.reference.as_deref().map(super::read).transpose()?.map(Arc::new);
        let mut evaluator =
            Evaluator::new(&model, &options, reference.as_ref())?.within(self.limits.limits());
        if !evaluator.has_labels() && reference.is_none() {
            return Err(secateur::Error::usage(
                "the data have no labels: name them with --labels, or pass --reference to compare with the outputs \
                 of another model",
            )
            .into());
        }
        let started = Instant::now();
        let metrics = {
            use secateur::progress::Progress;
            let bar = Bar::new();
            bar.begin("evaluating", evaluator.batches() as u64);
            evaluator.baseline(&bar)?
        };
        let seconds = started.elapsed().as_secs_f64();
        if global.json {
            return super::print_json(&serde_json::json!({
                "model": super::text(&self.model.model),
                "samples": evaluator.samples(),
                "measures": metrics.values,
                "notes": metrics.notes.iter().map(|note| as_flags(note)).collect::<Vec<_>>(),
                "seconds": seconds,
            }));
        }
        let rows: Vec<Vec<String>> = metrics
            .values
            .iter()
            .map(|m| {
                let share = matches!(m.name.as_str(), "top1" | "top5") || m.name.ends_with("same-argmax");
                let show = |v: f64| if share || v.is_nan() { format::percent(v) } else { format!("{v:.4}") };
                vec![m.name.clone(), show(m.value), format!("± {}", show(m.standard_error))]
            })
            .collect();
        let mut out = crate::style::stdout();
        style::print_table(&style::table(&["measure", "mean", "standard error"], rows, &[]), &mut out)?;
        for note in &metrics.notes {
            style::print_note(note, &mut out)?;
        }
        let samples = evaluator.samples();
        let rate = format::grouped((samples as f64 / seconds).round() as i64);
        writeln!(out, "{} in {seconds:.1} s ({rate}/s)", counted(samples, "sample"))?;
        Ok(())
    }
}
