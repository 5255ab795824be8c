//! `secateur repair`

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use secateur::data::metrics::{Measure, Metrics};
use secateur::evaluate::Evaluator;
use secateur::progress::Progress;
use secateur::prune::masks::{self, Form, Masks};
use secateur::solve::{Layer, Repairer};
use secateur::text::counted;
use secateur::{Error, Model, Patch, format};
use secateur_report::Table;

use super::{Compress, LimitFlags, ModelArgs};
use crate::flags::Global;
use crate::progress::Bar;
use crate::recipe::{DataFlags, Recipe, RepairFlags};
use crate::style;

/// Repair a pruned model on data, without training.
#[derive(Args)]
#[command(after_help = "Examples:
  secateur repair pruned.onnx -o repaired.onnx --reference model.onnx \\
      --data train.npz --samples 1000 --validation test.npz
  secateur repair pruned.onnx -o repaired.onnx --method norms \\
      --data train.bin --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225")]
pub(crate) struct Repair {
    #[command(flatten)]
    model: ModelArgs,
    /// Output file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Compress the written file: gzip or zstd
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    compress: Option<Compress>,
    #[command(flatten)]
    repair: RepairFlags,
    #[command(flatten)]
    data: DataFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

impl Repair {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let recipe = super::recipe(global, &self.model.graph, None, Some(&self.data), None)?;
        let recipe = recipe.with(&Recipe { repair: self.repair.clone(), ..Recipe::default() })?;
        let mut options = recipe.repair_options()?;
        options.limits = Some(self.limits.limits());
        let path = Compress::name(self.compress, &self.output);
        let model = self.model.open_by(&recipe)?;
        super::check_output(&model, &path, global)?;
        let reference = recipe.repair.reference.as_deref().map(super::read).transpose()?.map(Arc::new);
        let found = super::masks(&model, &[])?;
        let bar = Bar::new();
        let dense = match &reference {
            Some(reference) => Some((reference, Masks::of(reference)?)),
            None => None,
        };
        let dense = dense.as_ref().map(|(model, masks)| (*model, &masks.masks));
        let repairer = Repairer::new(&model, dense, &options, &bar)?;
        let repaired = repairer.repair(&model, &found.masks, true, &bar)?;
        let form = found.form();
        let output = masks::trained(&model, &repaired.patch, &found.masks, &found, form)?;
        let measured = self.measured(&recipe, &model, reference.as_ref(), &repaired.patch, &bar)?;
        drop(bar);
        let mut metadata = recipe.told(&model).metadata(&model)?;
        metadata.extend(masks::kept_metadata(&model, &found, form, false)?);
        let files = super::write_output(&model, &output, &metadata, &path, global)?;
        if global.json {
            let measured = measured.as_ref();
            return super::print_json(&serde_json::json!({
                "model": super::text(&self.model.model),
                "recipe": recipe.as_text().to_json()?,
                "layers": repaired.layers,
                "notes": repaired.notes,
                "dense": measured.and_then(|m| m.dense.as_ref()).map(|m| &m.values),
                "before": measured.map(|m| &m.before.values),
                "after": measured.map(|m| &m.after.values),
                "files": super::texts(&files),
            }));
        }
        let mut out = crate::style::stdout();
        style::print_table(&layers(&repaired.layers), &mut out)?;
        writeln!(out)?;
        for note in &repaired.notes {
            style::print_note(note, &mut out)?;
        }
        if form != Form::Pairs && !found.originals.is_empty() {
            let note = "the weights from before pruning are not kept: they do not fit the repaired ones";
            style::print_note(note, &mut out)?;
        }
        if let Some(measured) = measured {
            style::print_table(&measured.table(), &mut out)?;
            writeln!(out, "{}", measured.on)?;
            writeln!(out)?;
        }
        super::print_written(&files, &mut out)?;
        Ok(())
    }

    /// Measures the model before and after, where there are labels.
    fn measured(
        &self,
        recipe: &Recipe,
        model: &Arc<Model>,
        reference: Option<&Arc<Model>>,
        patch: &Patch,
        bar: &Bar,
    ) -> secateur::Result<Option<Measured>> {
        let options = recipe.repair_validation()?;
        let mut evaluator = match Evaluator::new(model, &options, None) {
            Ok(evaluator) => evaluator.within(self.limits.limits()),
            // Where the data have no labels, scoring has no meaning, and nothing is scored.
            Err(_) if recipe.repair.validation.is_empty() => return Ok(None),
            Err(error) => return Err(error),
        };
        if !evaluator.has_labels() {
            if recipe.repair.validation.is_empty() {
                return Ok(None);
            }
            return Err(Error::usage("the validation data have no labels"));
        }
        let runs = 2 + u64::from(reference.is_some());
        bar.begin("evaluating", runs * evaluator.batches() as u64);
        let before = evaluator.baseline(bar)?;
        let repaired = Arc::new(patch.apply(model)?);
        let other = |model: &Arc<Model>| -> secateur::Result<Metrics> {
            Evaluator::new(model, &options, None)?.within(self.limits.limits()).baseline(bar)
        };
        let after = other(&repaired)?;
        let dense = reference.map(other).transpose()?;
        let samples = counted(evaluator.samples(), "sample");
        let on = match recipe.repair.validation.is_empty() {
            true => format!("measured on the {samples} that it was repaired with"),
            false => format!("measured on {samples}"),
        };
        Ok(Some(Measured { dense, before, after, on }))
    }
}

/// What was measured.
struct Measured {
    dense: Option<Metrics>,
    before: Metrics,
    after: Metrics,
    on: String,
}

impl Measured {
    fn table(&self) -> Table {
        let show = |measure: &Measure| match measure.name.as_str() {
            "top1" | "top5" => {
                let (mean, error) = (format::percent(measure.value), format::percent(measure.standard_error));
                format!("{mean} ± {error}")
            }
            _ => format!("{:.4} ± {:.4}", measure.value, measure.standard_error),
        };
        let mut header = vec!["measure", "pruned", "repaired"];
        if self.dense.is_some() {
            header.push("dense");
        }
        let row = |before: &Measure| {
            let others = [Some(&self.after), self.dense.as_ref()].into_iter().flatten();
            let others = others.map(|m| m.get(&before.name).map_or_else(String::new, show));
            [before.name.clone(), show(before)].into_iter().chain(others).collect()
        };
        style::table(&header, self.before.values.iter().map(row).collect(), &[])
    }
}

/// What was done to each layer.
fn layers(layers: &[Layer]) -> Table {
    let compared = layers.iter().any(|layer| layer.error.is_some());
    let row = |layer: &Layer| {
        let names: Vec<&str> = layer.methods.iter().map(|method| method.name()).collect();
        let mut row = vec![layer.name.clone(), if names.is_empty() { "–".into() } else { names.join(", ") }];
        if let Some(errors) = layer.error {
            row.extend(errors.map(|error| format!("{error:.4}")));
        }
        row
    };
    let mut header = vec!["layer", "repaired"];
    if compared {
        header.extend(["error of mean", "after"]);
    }
    style::table(&header, layers.iter().map(row).collect(), &[])
}
