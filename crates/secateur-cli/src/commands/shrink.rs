//! `secateur shrink`

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use secateur::shrink::{self, Row, ShrinkOptions, Shrunk, Size};
use secateur::text::counted;
use secateur::{Error, Method, format, io};

use super::{Compress, ModelArgs};
use crate::flags::Global;
use crate::recipe::Share;
use crate::style;

/// Remove channels, neurons and heads from a network: a smaller dense model.
#[derive(Args)]
#[command(
    after_help = "Every layer that depends on a removed channel follows: see `secateur groups`. Without --method, channels go \
that are zero already, whoever pruned them. The result has the same inputs and outputs and runs in every runtime. It is run beside \
the model with the removed channels zero, and must give the same. OUTPUT.kept.json lists the indices that are left.

Examples:
  secateur shrink model.onnx -o small.onnx --method l2/channel@global --sparsity 0.3
  secateur shrink pruned.onnx -o small.onnx"
)]
pub(crate) struct Shrink {
    #[command(flatten)]
    model: ModelArgs,
    /// Output file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Compress the written file: gzip or zstd
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    compress: Option<Compress>,
    /// How channels are ranked: l1/channel, l2/channel, l0/channel or random/channel, with @global over all groups
    /// together [default: those that are zero go]
    #[arg(long, short, value_name = "METHOD", requires = "sparsity")]
    method: Option<Method>,
    /// The share of channels to remove, such as 0.3 or 30%
    #[arg(long, short, value_name = "SHARE", requires = "method")]
    sparsity: Option<Share>,
    /// Keep a multiple of N channels
    #[arg(long, value_name = "N", default_value_t = 1)]
    round_to: usize,
    /// Remove whole groups of convolutions and whole attention heads, not as many channels in each
    #[arg(long)]
    whole_groups: bool,
    /// Offer widths too that layers normalise over: the network then computes something else
    #[arg(long)]
    norm_widths: bool,
    /// Leave layers whole whose name matches a glob, and all that would change with them
    #[arg(long, value_name = "GLOB", value_delimiter = ',')]
    exclude: Vec<String>,
}

/// The largest difference of outputs, as a share of the largest output, that rounding explains.
const TOLERANCE: f64 = 1e-3;

impl Shrink {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let path = Compress::name(self.compress, &self.output);
        let model = self.model.open()?;
        super::check_output(&model, &path, global)?;
        let options = ShrinkOptions {
            by: self.method.zip(self.sparsity).map(|(method, share)| (method, share.get())),
            norm_widths: self.norm_widths,
            whole_groups: self.whole_groups,
            round_to: self.round_to,
            exclude: self.exclude,
            seed: global.seed.unwrap_or_default(),
        };
        let shrunk = shrink::shrink(&model, &options)?;
        if shrunk.kept.is_empty() {
            let why = match options.by {
                Some(_) => "no group can lose a channel at this sparsity: see `secateur groups`",
                None => {
                    "no channel is zero throughout: prune some (--method l2/channel), or name a method here"
                }
            };
            return Err(Error::usage(why).into());
        }
        // Widths that are normalised over change what is left.
        let difference = match self.norm_widths {
            true => None,
            false => shrink::prove(&model, &shrunk, &options)?,
        };
        if let Some(by) = difference.filter(|by| by.is_nan() || *by > TOLERANCE) {
            return Err(match options.by {
                Some(_) => Error::internal(format!(
                    "the smaller network differs by {by:.1e} from the whole one with these channels zero"
                )),
                None => Error::input(format!(
                    "the network without its zero channels differs by {by:.1e}: they carry a constant to the layers behind \
                     them; name a method to remove them all the same"
                )),
            }
            .into());
        }
        let indices = kept_path(&path);
        io::check_target(&indices, global.force)?;
        let mut files = super::write(&model, &shrunk.patch, &[], &path, global)?;
        let text = serde_json::to_string(&shrunk.indices)?;
        io::write_file(&indices, global.force, |file| {
            file.write_all(text.as_bytes()).map_err(|error| Error::io(&indices, error))
        })?;
        files.push(indices);
        if global.json {
            return super::print_json(&serde_json::json!({
                "groups": shrunk.rows,
                "before": shrunk.size[0],
                "after": shrunk.size[1],
                "difference": difference,
                "files": super::texts(&files),
            }));
        }
        let mut out = style::stdout();
        print(&shrunk, difference, &mut out)?;
        super::print_written(&files, &mut out)?;
        Ok(())
    }
}

/// Where the indices that are left are listed.
fn kept_path(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_os_string();
    name.push(".kept.json");
    output.with_file_name(name)
}

fn print(shrunk: &Shrunk, difference: Option<f64>, out: &mut dyn Write) -> std::io::Result<()> {
    let cut = shrunk.rows.iter().filter(|row| row.kept < row.extent);
    let row = |row: &Row| {
        let layers = if row.outputs.is_empty() { &row.inputs } else { &row.outputs };
        vec![super::groups::joined(layers), row.extent.to_string(), row.kept.to_string()]
    };
    style::print_table(&style::table(&["group", "channels", "left"], cut.map(row).collect(), &[]), out)?;
    writeln!(out)?;
    let [before, after] = shrunk.size;
    let line = |name: &str, of: fn(&Size) -> Option<u64>| {
        let (before, after) = (of(&before)?, of(&after)?);
        let share = format::percent(after as f64 / before.max(1) as f64);
        Some(vec![name.to_string(), format::count(before as f64), format::count(after as f64), share])
    };
    let rows = [line("parameters", |size| Some(size.parameters)), line("MACs", |size| size.macs)];
    style::print_table(
        &style::table(&["", "before", "after", "left"], rows.into_iter().flatten().collect(), &[]),
        out,
    )?;
    writeln!(out)?;
    let frozen = shrunk.rows.iter().filter(|row| row.frozen.is_some()).count();
    if frozen > 0 {
        style::print_note(
            &format!("{} cannot be cut: `secateur groups` says why", counted(frozen, "group")),
            out,
        )?;
    }
    match difference {
        Some(by) => {
            writeln!(out, "outputs are those of the whole network with these channels zero, within {by:.0e}")
        }
        None => writeln!(out, "not compared with the whole network"),
    }
}
