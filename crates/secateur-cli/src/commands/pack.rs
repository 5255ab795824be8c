//! `secateur pack`

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use secateur::format;
use secateur::pack::{self, PackOptions, PackPlan, PackedTensor, Target};
use secateur::text::{counted, listed};
use secateur::{Error, Model, io};

use crate::flags::Global;
use crate::style;

/// Pack weights: store each zero in at most one bit.
#[derive(Args)]
#[command(
    after_help = "Weights are stored as a bitmask and the nonzero values, or as N:M if that is smaller; tensors that would not get \
smaller stay dense. Every command reads packed files. `secateur unpack` reverses it, bit for bit (−0 becomes 0) unless --values \
rounds. The output is safetensors, ONNX for ONNX, or a Hugging Face folder for a folder. Packed ONNX files run in every \
runtime with model-local functions, such as ONNX Runtime.

Examples:
  secateur pack pruned.onnx -o packed.onnx
  secateur pack pruned.pth -o packed.safetensors --values int8"
)]
pub(crate) struct Pack {
    /// The model
    model: PathBuf,
    /// Output file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// How to store values: f32 (unchanged, whatever their type), f16, or int8 with a scale for each output channel; the
    /// rounding error is shown for each tensor
    #[arg(long, value_name = "TYPE", default_value = "f32", hide_possible_values = true)]
    values: Values,
}

/// How values are kept.
#[derive(Clone, Copy, ValueEnum)]
enum Values {
    /// Unchanged, whatever their type
    F32,
    /// Rounded to f16
    F16,
    /// int8 with a scale for each output channel
    Int8,
}

impl Pack {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let model = super::read(&self.model)?;
        let target = self.target(&model)?;
        let values = match self.values {
            Values::F32 => pack::Values::Exact,
            Values::F16 => pack::Values::F16,
            Values::Int8 => pack::Values::Int8,
        };
        let plan = pack::plan(&model, &PackOptions { values, target })?;
        let patch = plan.patch(&model);
        let files = super::write(&model, &patch, &[], &self.output, global)?;
        if global.json {
            return super::print_json(&serde_json::json!({
                "packed": plan,
                "left_out": super::left_out(&model, &patch, &self.output),
                "files": super::texts(&files),
            }));
        }
        let mut out = crate::style::stdout();
        table(&plan, &mut out)?;
        super::print_written(&files, &mut out)?;
        Ok(())
    }
}

impl Pack {
    /// What the output is, by its name.
    fn target(&self, model: &Model) -> secateur::Result<Target> {
        let from = model.source.format();
        let to = io::format_of(&self.output);
        if to == Some(&io::SAFETENSORS) {
            return Ok(Target::Safetensors);
        } else if to == Some(&io::ONNX) && from == to {
            return Ok(Target::Onnx);
        } else if to.is_none() && from == Some(&io::SAFETENSORS) && model.source.is_several_files() {
            return Ok(Target::Folder);
        }
        let message = if to == Some(&io::ONNX) {
            "an .onnx file needs the graph: pack the ONNX of the model, or write .safetensors"
        } else {
            "packed weights are written as .safetensors, as .onnx where the model is one, or into a folder \
             where it is one"
        };
        Err(Error::usage(message).at_file(&self.output))
    }
}

fn table(plan: &PackPlan, out: &mut impl Write) -> std::io::Result<()> {
    let rounded = plan.tensors.iter().any(|t| t.rms_relative_error > 0.0 || t.note.is_some());
    let mut header = vec!["tensor", "as", "values", "nonzero", "dense", "packed"];
    if rounded {
        header.extend(["max error", "RMS error", "to zero"]);
    }
    let error = |e: f64| format!("{e:.1e}");
    let row = |t: &PackedTensor| {
        let mut row = vec![
            t.path.clone(),
            t.layout.clone(),
            t.values.clone(),
            format::percent(t.stored as f64 / t.elements as f64),
            format::bytes(t.dense_bytes as f64),
            format::bytes(t.packed_bytes as f64),
        ];
        if rounded {
            row.extend([error(t.max_relative_error), error(t.rms_relative_error), t.to_zero.to_string()]);
        }
        row
    };
    if !plan.tensors.is_empty() {
        let rows = plan.tensors.iter().map(row).collect();
        let table =
            style::table(&header, rows, &[]).without_if_narrow(&["values", "to zero", "max error", "dense"]);
        style::print_table(&table, out)?;
        writeln!(out)?;
    }
    for t in &plan.tensors {
        if let Some(note) = &t.note {
            style::print_wrapped(&format!("{}: {note}", t.path), out)?;
        }
    }
    for (weight, other) in &plan.name_taken {
        let why = "kept dense: a packed part would have the same name as tensor";
        style::print_wrapped(&format!("{weight}: {why} {other}"), out)?;
    }
    let mut unfit: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (weight, why) in &plan.unfit {
        unfit.entry(why).or_default().push(weight);
    }
    for (why, weights) in unfit {
        style::print_wrapped(&format!("{}: kept dense: {why}", listed(weights)), out)?;
    }
    let bytes = (format::bytes(plan.dense_bytes as f64), format::bytes(plan.packed_bytes as f64));
    let summary = match plan.tensors.len() {
        0 if plan.unfit.is_empty() && plan.name_taken.is_empty() => {
            "no tensor is packed: none would become smaller".to_string()
        }
        packed => {
            let others = if plan.unfit.is_empty() && plan.name_taken.is_empty() {
                ", the others would not be smaller"
            } else {
                ""
            };
            format!("{} packed{others}; {} of tensors became {}", counted(packed, "tensor"), bytes.0, bytes.1)
        }
    };
    style::print_wrapped(&summary, out)?;
    if rounded {
        let (max, rms) = (error(plan.max_relative_error), error(plan.rms_relative_error));
        let error = format!(
            "rounding error: {max} of the tensor's largest weight, RMS {rms} of the weights' RMS; {} weights became zero",
            plan.to_zero
        );
        style::print_wrapped(&error, out)?;
    }
    if plan.negative_zeros > 0 {
        let zeros = format!(
            "{} had the sign of −0, as weight · mask leaves it; packed they are plain zeros, which compute the same",
            counted(plan.negative_zeros, "zero")
        );
        style::print_wrapped(&zeros, out)?;
    }
    Ok(())
}
