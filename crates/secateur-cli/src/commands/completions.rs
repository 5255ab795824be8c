//! `secateur completions`

use std::io::Write;

use clap::Args;
use clap_complete::{Shell, generate};

/// Print shell completions.
#[derive(Args)]
#[command(after_help = "Examples:
  secateur completions bash > ~/.local/share/bash-completion/completions/secateur
  secateur completions zsh > ~/.zfunc/_secateur
  secateur completions fish > ~/.config/fish/completions/secateur.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, mut command_line: clap::Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut command_line, "secateur", &mut script);
        std::io::stdout().lock().write_all(&script)?;
        Ok(())
    }
}
