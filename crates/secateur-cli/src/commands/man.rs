//! `secateur man`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use secateur::{Error, io};

use crate::flags::Global;

/// Print the man page, or write one page per command.
#[derive(Args)]
#[command(after_help = "Examples:
  secateur man | man -l -
  secateur man prune | man -l -
  secateur man -o ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// The command whose page is printed [default: the overview of all]
    #[arg(conflicts_with = "output")]
    command: Option<String>,
    /// A folder for the pages of all commands
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self, mut all: clap::Command, global: &Global) -> anyhow::Result<()> {
        all.build();
        let Some(folder) = self.output else {
            let page = match &self.command {
                None => page(all)?,
                Some(name) => page(named(&all, name)?)?,
            };
            std::io::stdout().lock().write_all(&page)?;
            return Ok(());
        };
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let commands = all.get_subcommands().filter(|command| command.get_name() != "help").cloned();
        let mut files = Vec::new();
        for command in commands.chain([all.clone()]) {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_string();
            let path = folder.join(format!("{name}.1"));
            let page = page(command)?;
            io::write_file(&path, global.force, |out| out.write_all(&page).map_err(|e| Error::io(&path, e)))?;
            files.push(path);
        }
        super::print_written(&files, &mut std::io::stdout().lock())?;
        Ok(())
    }
}

/// A command by its name.
fn named(all: &clap::Command, name: &str) -> secateur::Result<clap::Command> {
    let found = all.get_subcommands().find(|command| command.get_name() == name);
    found.cloned().ok_or_else(|| Error::usage(format!("there is no command `{name}`: see `secateur --help`")))
}

fn page(command: clap::Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    let source = concat!("secateur ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command).source(source).render(&mut page)?;
    Ok(page)
}
