//! `secateur unpack`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use secateur::pack;
use secateur::text::counted;

use crate::flags::Global;

/// Unpack packed weights.
#[derive(Args)]
#[command(after_help = "The output's extension gives the format, as for `secateur convert`.

Example:
  secateur unpack packed.safetensors -o dense.safetensors")]
pub(crate) struct Unpack {
    /// The model
    model: PathBuf,
    /// Output file
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

impl Unpack {
    pub(crate) fn run(self, global: &Global) -> anyhow::Result<()> {
        let model = super::read(&self.model)?;
        let (patch, unpacked) = pack::unpack(&model);
        let files = super::write(&model, &patch, &[], &self.output, global)?;
        if global.json {
            return super::print_json(
                &serde_json::json!({ "unpacked": unpacked, "files": super::texts(&files) }),
            );
        }
        let mut out = crate::style::stdout();
        match unpacked {
            0 => writeln!(out, "no tensor is packed: all are unchanged")?,
            n => writeln!(out, "unpacked {}", counted(n, "tensor"))?,
        }
        super::print_written(&files, &mut out)?;
        Ok(())
    }
}
