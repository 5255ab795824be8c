//! `secateur inspect`

use std::io::Write;

use clap::Args;
use secateur::inspect::{InspectOptions, Inspection, inspect};
use secateur::masks::Masks;
use secateur::report::format;

use super::ModelArgs;
use crate::{Global, style};

/// Show layers, shapes, costs, zeros, and what can be pruned.
#[derive(Args)]
#[command(after_help = "Examples:
  secateur inspect model.onnx
  secateur inspect model.onnx --all
  secateur inspect model.onnx --shape input=1x3x320x320 --json")]
pub(crate) struct Inspect {
    #[command(flatten)]
    model: ModelArgs,
    /// List every tensor, with the reason where it cannot be pruned
    #[arg(long)]
    all: bool,
    /// The shape of an input for costs, where it is open: NAME=1x3x224x224
    #[arg(long, value_name = "NAME=SHAPE", value_parser = shape)]
    shape: Vec<(String, Vec<usize>)>,
    /// The extent of a named open axis for costs: height=224
    #[arg(long, value_name = "NAME=N", value_parser = dim)]
    dim: Vec<(String, usize)>,
    /// Count zeros and draw histograms even above 268 million weights
    #[arg(long)]
    scan: bool,
}

fn shape(text: &str) -> Result<(String, Vec<usize>), String> {
    let (name, dims) = text.rsplit_once('=').ok_or("expected NAME=1x3x224x224")?;
    let dims = dims.split('x').map(str::parse).collect::<Result<_, _>>();
    Ok((name.to_string(), dims.map_err(|_| "expected a shape such as 1x3x224x224")?))
}

fn dim(text: &str) -> Result<(String, usize), String> {
    let (name, n) = text.rsplit_once('=').ok_or("expected NAME=N")?;
    Ok((name.to_string(), n.parse().map_err(|_| "expected a number")?))
}

impl Inspect {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let model = self.model.open()?;
        let mut options = InspectOptions { binding: Default::default(), scan: self.scan };
        options.binding.shapes.clone_from(&self.shape);
        options.binding.dims.clone_from(&self.dim);
        let found = inspect(&model, &Masks::of_pairs(&model)?, &options)?;
        if global.json {
            return super::print_json(&found);
        }
        let mut out = std::io::stdout().lock();
        self.head(&mut out, &found)?;
        layers(&mut out, &found)?;
        if self.all {
            others(&mut out, &found)?;
        } else {
            reasons(&mut out, &found)?;
        }
        totals(&mut out, &found)?;
        Ok(())
    }

    fn head(&self, out: &mut impl Write, found: &Inspection) -> std::io::Result<()> {
        writeln!(out, "{}", self.model.model.display())?;
        writeln!(
            out,
            "{}{}",
            found.format,
            if found.producer.is_empty() {
                String::new()
            } else {
                format!(", written by {}", found.producer)
            }
        )?;
        for (what, values) in [("input", &found.inputs), ("output", &found.outputs)] {
            for v in values {
                let bound = match &v.shape {
                    Some(shape) if v.declared != format!("{shape:?}") => format!(", here {shape:?}"),
                    _ => String::new(),
                };
                writeln!(out, "{what:<6} {}: {} {}{bound}", v.name, v.dtype, v.declared)?;
            }
        }
        let operators: Vec<String> = found.operators.iter().map(|(n, c)| format!("{n} {c}")).collect();
        writeln!(out, "nodes  {}", operators.join(", "))?;
        for (key, value) in found.metadata.iter().filter(|(k, _)| k.starts_with("secateur.")) {
            writeln!(out, "{key}: {value}")?;
        }
        if !found.unknown_operators.is_empty() {
            writeln!(
                out,
                "not known, so the model cannot be run here: {}",
                found.unknown_operators.join(", ")
            )?;
        }
        for problem in found.problems.iter().take(5) {
            writeln!(out, "shapes are open behind {problem}")?;
        }
        writeln!(out)
    }
}

fn layers(out: &mut impl Write, found: &Inspection) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = found
        .tensors
        .iter()
        .filter(|t| t.reason.is_none())
        .map(|t| {
            let zeros = t.count.total - t.count.nonzero;
            vec![
                t.path.clone(),
                t.op.clone().unwrap_or_default(),
                format!("{:?}", t.shape),
                t.dtype.clone(),
                format::count(t.count.total as f64),
                t.macs.map_or_else(|| "?".into(), |m| format::count(m as f64)),
                if found.unscanned {
                    "?".into()
                } else if zeros == 0 {
                    "0".into()
                } else {
                    format::percent(t.count.sparsity(), 1)
                },
                t.histogram.as_ref().map(|h| h.sparkline(24)).unwrap_or_default(),
            ]
        })
        .collect();
    if rows.is_empty() {
        writeln!(out, "Nothing can be pruned here.\n")
    } else {
        let header =
            ["prunable layer", "operator", "shape", "type", "weights", "MACs", "zeros", "weights' histogram"];
        style::print_table(&style::table(&header, rows, &[1, 2, 3, 7]), out)?;
        writeln!(out)
    }
}

fn others(out: &mut impl Write, found: &Inspection) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = found
        .tensors
        .iter()
        .filter_map(|t| {
            Some(vec![t.path.clone(), format!("{:?}", t.shape), t.dtype.clone(), t.reason.clone()?])
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    style::print_table(&style::table(&["not prunable", "shape", "type", "why"], rows, &[1, 2, 3]), out)?;
    writeln!(out)
}

/// How many tensors are left out for which reason.
fn reasons(out: &mut impl Write, found: &Inspection) -> std::io::Result<()> {
    let mut counts: Vec<(&str, usize, u64)> = Vec::new();
    for t in &found.tensors {
        let Some(kind) = &t.reason_kind else { continue };
        match counts.iter_mut().find(|(k, _, _)| k == kind) {
            Some((_, n, elements)) => {
                *n += 1;
                *elements += t.count.total;
            }
            None => counts.push((kind, 1, t.count.total)),
        }
    }
    let rows: Vec<Vec<String>> = counts
        .iter()
        .map(|(k, n, e)| vec![(*k).to_string(), n.to_string(), format::count(*e as f64)])
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    style::print_table(
        &style::table(&["not prunable (--all lists them)", "tensors", "elements"], rows, &[]),
        out,
    )?;
    writeln!(out)
}

fn totals(out: &mut impl Write, found: &Inspection) -> std::io::Result<()> {
    let zeros = if found.unscanned {
        "zeros not counted (--scan counts them)".to_string()
    } else {
        format!("{} of them zero", format::percent(found.prunable.sparsity(), 1))
    };
    writeln!(
        out,
        "{} parameters ({}), {} in prunable layers, {zeros}; {} MACs a sample",
        format::count(found.parameters.total as f64),
        format::bytes(found.tensor_bytes as f64),
        format::count(found.prunable.total as f64),
        found.macs.map_or_else(|| "unknown".into(), |m| format::count(m as f64)),
    )
}
