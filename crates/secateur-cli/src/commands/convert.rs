//! `secateur convert`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use secateur::text::counted;
use secateur::{Error, Patch, io};

use super::Compress;
use crate::flags::Global;

/// Convert a model's weights to another format, or compress the file.
#[derive(Args)]
#[command(
    after_help = "The output's extension gives the format: .safetensors, .pth or .pt. An additional .gz or .zst compresses the file; \
every command reads compressed files. With the same format for input and output the file is only compressed or \
decompressed. What the other format cannot hold (a graph, optimiser state) is left out, with a note.

Examples:
  secateur convert checkpoint.pth -o checkpoint.safetensors
  secateur convert model.safetensors -o model.pth
  secateur convert model.onnx -o model.onnx --compress zstd"
)]
pub(crate) struct Convert {
    /// The model
    model: PathBuf,
    /// Output file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Compress the file as a whole: gzip or zstd
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    compress: Option<Compress>,
}

impl Convert {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let model = super::read(&self.model)?;
        let path = Compress::name(self.compress, &self.output);
        let Some(format) = io::format_of(&path) else {
            return Err(Error::usage("unknown output extension; use .safetensors, .pth or .onnx")
                .at_file(&path)
                .into());
        };
        let files = super::write(&model, &Patch::new(), &[], &path, global)?;
        let again = io::read(&path)?;
        if global.json {
            return super::print_json(&serde_json::json!({
                "format": format.name,
                "tensors": again.tensors.len(),
                "left_out": super::left_out(&model, &Patch::new(), &path),
                "files": super::texts(&files),
            }));
        }
        let mut out = crate::style::stdout();
        writeln!(out, "{}, {format}", counted(again.tensors.len(), "tensor"))?;
        for file in files {
            let bytes = std::fs::metadata(&file).map_or(0, |m| m.len());
            writeln!(out, "wrote {} ({})", file.display(), secateur::format::bytes(bytes as f64))?;
        }
        Ok(())
    }
}
