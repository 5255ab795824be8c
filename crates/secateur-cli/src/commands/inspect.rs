//! `secateur inspect`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use secateur::format;
use secateur::inspect::{InspectOptions, Inspection, TensorInfo, inspect};
use secateur::measure::Bytes;
use secateur::prune::masks::Masks;
use secateur::text::listed;
use secateur::{Error, io};
use secateur_report::{Align, Table, bar, sparkline, write_inspection};

use super::{InputFlags, ModelArgs};
use crate::flags::Global;
use crate::style;

/// Show layers, shapes, costs and zeros, which layers can be pruned, and why the others cannot.
#[derive(Args)]
#[command(after_help = "Examples:
  secateur inspect model.onnx
  secateur inspect model.safetensors --html model.html
  secateur inspect model.onnx --all --sizes
  secateur inspect model.onnx --shape input=1x3x320x320 --json")]
pub(crate) struct Inspect {
    #[command(flatten)]
    model: ModelArgs,
    /// List every tensor, with the reason if it cannot be pruned
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    inputs: InputFlags,
    /// Write an HTML page with all tensors, the sparsity of each layer, the distribution of its weights, and file sizes
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show the size of each layer and of the file: plain, gzip, zstd, packed, and the entropy bound
    #[arg(long)]
    sizes: bool,
    /// Count zeros and draw histograms for models of more than 268 million weights too
    #[arg(long)]
    scan: bool,
}

impl Inspect {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let model = self.model.open()?;
        self.inputs.check(&[(&model, &self.model.model)])?;
        if let Some(path) = &self.html {
            // Before the work, not after it.
            io::check_target(path, global.force)?;
        } else if global.force {
            return Err(Error::usage("--force has no effect without --html").into());
        }
        let options = InspectOptions {
            binding: self.inputs.binding(),
            scan: self.scan,
            sizes: self.sizes || self.html.is_some(),
        };
        let found = inspect(&model, &Masks::of_pairs(&model)?, &options)?;
        if let Some(path) = &self.html {
            write_inspection(&found, path, global.force)?;
        }
        // What the file says is shown whether it is right or not.
        let right = found.check().map_err(|e| e.at_file(&self.model.model));
        if global.json {
            super::print_json(&found)?;
            return Ok(right?);
        }
        let mut out = crate::style::stdout();
        self.head(&mut out, &found)?;
        layers(&mut out, &found)?;
        if self.sizes {
            sizes(&mut out, &found)?;
        }
        if self.all {
            others(&mut out, &found)?;
        } else {
            reasons(&mut out, &found)?;
        }
        totals(&mut out, &found)?;
        if let Some(path) = &self.html {
            writeln!(out, "wrote {}", path.display())?;
        }
        Ok(right?)
    }

    fn head(&self, out: &mut impl Write, found: &Inspection) -> std::io::Result<()> {
        writeln!(out, "{}", self.model.model.display())?;
        let producer = match found.producer.as_str() {
            "" => String::new(),
            name => format!(", written by {name}"),
        };
        style::print_wrapped(&format!("{}{producer}", found.format), out)?;
        for (what, values) in [("input", &found.inputs), ("output", &found.outputs)] {
            for v in values {
                let bound = match &v.shape {
                    Some(shape) if v.declared != format!("{shape:?}") => format!(", here {shape:?}"),
                    _ => String::new(),
                };
                writeln!(out, "{what:<6} {}: {} {}{bound}", v.name, v.dtype, v.declared)?;
            }
        }
        if found.has_graph() {
            let operators: Vec<String> = found.operators.iter().map(|(n, c)| format!("{n} {c}")).collect();
            style::print_wrapped(&format!("nodes  {}", operators.join(", ")), out)?;
        }
        for (key, value) in
            found.metadata.iter().filter(|(k, _)| k.starts_with("secateur.") && k != "secateur.before")
        {
            style::print_wrapped(&format!("{key}: {value}"), out)?;
        }
        if !found.unknown_operators.is_empty() {
            writeln!(
                out,
                "unsupported operators, so the model cannot be run here: {}",
                listed(&found.unknown_operators)
            )?;
        }
        for problem in found.problems.iter().take(5) {
            writeln!(out, "shapes are unknown after {problem}")?;
        }
        writeln!(out)
    }
}

/// Characters of the histogram of each layer, the widest first: it gives way before the layers' names do.
const HISTOGRAMS: [usize; 4] = [24, 16, 12, 8];
/// Rows that a table of layers has at most.
const ROWS: usize = 10_000;
/// Characters of a full bar of zeros.
const BAR: usize = 8;

fn layers(out: &mut impl Write, found: &Inspection) -> std::io::Result<()> {
    if found.layers().next().is_none() {
        return writeln!(out, "Nothing in this file can be pruned.\n");
    }
    let patterns = found.layers().any(|t| !pattern(t).is_empty());
    let width = style::width();
    let with = |histogram: usize| layer_table(found, histogram, patterns);
    let fitting = HISTOGRAMS.into_iter().map(with).find(|table| table.width() <= width);
    let table = fitting.unwrap_or_else(|| with(0).without_if_narrow(&["pattern"]));
    style::print_table(&table, out)?;
    if let more @ 1.. = found.layers().count().saturating_sub(ROWS) {
        writeln!(out, "and {} more layers (--json lists all)", format::grouped(more as i64))?;
    }
    writeln!(out)
}

/// The layers that can be pruned; a histogram of no characters is left out.
fn layer_table(found: &Inspection, histogram: usize, patterns: bool) -> Table {
    let zeros = !found.unscanned && found.layers().any(|t| t.count.nonzero < t.count.total);
    let mut columns = vec![("layer", Align::Left), ("operator", Align::Left), ("shape", Align::Left)];
    let types = one_type(found).is_none();
    columns.extend(types.then_some(("type", Align::Left)));
    columns.push(("weights", Align::Right));
    columns.extend(found.has_graph().then_some(("MACs", Align::Right)));
    columns.push(("zeros", Align::Right));
    let bars = columns.len();
    columns.extend(zeros.then_some(("", Align::Left)));
    columns.extend((histogram > 0).then_some(("histogram", Align::Left)));
    columns.extend(patterns.then_some(("pattern", Align::Left)));
    let mut table = Table::new(&columns);
    for t in found.layers().take(ROWS) {
        let mut row = vec![t.name.clone(), t.op.clone().unwrap_or_default(), format!("{:?}", t.shape)];
        row.extend(types.then(|| t.dtype.clone()));
        row.push(format::count(t.count.total as f64));
        let macs = || t.macs.map_or_else(|| "?".into(), |m| format::count(m as f64));
        row.extend(found.has_graph().then(macs));
        row.push(match t.count.total - t.count.nonzero {
            _ if found.unscanned => "?".into(),
            0 => "0".into(),
            _ => format::percent(t.count.sparsity()),
        });
        row.extend(zeros.then(|| format!("{:<BAR$}", bar(t.count.sparsity(), BAR))));
        let sparkline = || t.histogram.as_ref().map(|h| sparkline(h, histogram)).unwrap_or_default();
        row.extend((histogram > 0).then(sparkline));
        row.extend(patterns.then(|| pattern(t)));
        table.row(row);
        if zeros {
            table.tint(bars, 0);
        }
    }
    table
}

/// The element type of all layers, where it is one.
fn one_type(found: &Inspection) -> Option<&str> {
    let first = found.layers().next()?.dtype.as_str();
    found.layers().all(|t| t.dtype == first).then_some(first)
}

/// The patterns of a layer's zeros, no more than there is room for.
fn pattern(t: &TensorInfo) -> String {
    let mut parts = t.pattern.as_ref().map(|p| p.brief(t.count.sparsity())).unwrap_or_default();
    parts.truncate(2);
    parts.join(" · ")
}

fn others(out: &mut impl Write, found: &Inspection) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = found
        .tensors
        .iter()
        .filter_map(|t| {
            Some(vec![t.path.clone(), format!("{:?}", t.shape), t.dtype.clone(), t.reason.clone()?])
        })
        .take(ROWS)
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    style::print_table(&style::table(&["stays dense", "shape", "type", "why"], rows, &[1, 2, 3]), out)?;
    let all = found.tensors.iter().filter(|t| t.reason.is_some()).count();
    if let more @ 1.. = all.saturating_sub(ROWS) {
        writeln!(out, "and {} more tensors (--json lists all)", format::grouped(more as i64))?;
    }
    writeln!(out)
}

/// The sizes of the layers and of the file.
fn sizes(out: &mut impl Write, found: &Inspection) -> std::io::Result<()> {
    let Some(file) = &found.bytes else {
        return writeln!(out, "sizes are not measured, because zeros were not counted: pass --scan\n");
    };
    let row = |name: &str, bytes: &Bytes| {
        let sizes = bytes.all().map(format::known_bytes);
        std::iter::once(name.to_string()).chain(sizes).collect::<Vec<_>>()
    };
    let layers = found.layers().filter_map(|t| Some(row(&t.name, t.bytes.as_ref()?)));
    let rows = layers.chain([row("the file", file)]).collect();
    let header = ["size of", "plain", "gzip", "zstd", "packed", "entropy bound"];
    let table = style::table(&header, rows, &[]).without_if_narrow(&["plain"]);
    style::print_table(&table, out)?;
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
        &style::table(&["stays dense (--all lists them)", "tensors", "elements"], rows, &[]),
        out,
    )?;
    writeln!(out)
}

/// How to make shapes known, where inputs have dynamic axes without a size.
fn sizes_wanted(found: &Inspection) -> String {
    let unknown = found.inputs.iter().filter(|input| input.shape.is_none());
    let axes = unknown.flat_map(|input| {
        // The first axis is the batch, which is 1 where it is dynamic.
        let named = input.declared.trim_matches(['[', ']']).split(", ").skip(1).map(str::to_string);
        named.filter(|axis| axis.parse::<usize>().is_err())
    });
    let mut axes: Vec<String> = axes.collect();
    axes.sort();
    axes.dedup();
    match axes.iter().find(|axis| *axis != "?") {
        Some(axis) => format!(" ({} dynamic: set sizes, for example --dim {axis}=128)", listed(&axes)),
        None if axes.is_empty() => String::new(),
        None => " (dynamic axes: set their sizes with --shape NAME=1x3x224x224)".to_string(),
    }
}

fn totals(out: &mut impl Write, found: &Inspection) -> std::io::Result<()> {
    let zeros = if found.unscanned {
        "zeros not counted (pass --scan)".to_string()
    } else {
        format!("{} of them zero", format::percent(found.prunable.sparsity()))
    };
    let macs = match (found.macs, found.effective_macs) {
        _ if !found.has_graph() => String::new(),
        (Some(all), Some(some)) if some < all => format!(
            "; {} MACs per sample, {} with nonzero weights",
            format::count(all as f64),
            format::count(some as f64)
        ),
        (Some(all), _) => format!("; {} MACs per sample", format::count(all as f64)),
        (None, _) => format!("; MACs unknown{}", sizes_wanted(found)),
    };
    let totals = format!(
        "{} parameters ({}), {} in prunable layers{}, {zeros}{macs}",
        format::count(found.parameters.total as f64),
        format::bytes(found.tensor_bytes as f64),
        format::count(found.prunable.total as f64),
        one_type(found).map(|name| format!(" ({name})")).unwrap_or_default(),
    );
    style::print_wrapped(&totals, out)
}
