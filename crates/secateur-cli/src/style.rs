//! Colour and width of the terminal, what is said beside the results, and tables.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use secateur::report::{Align, Table};

/// When output is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal, unless the variable NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Colour {
    /// Whether a stream is coloured.
    fn on(self, terminal: bool) -> bool {
        let wanted = || std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        match self {
            Colour::Auto => terminal && wanted(),
            Colour::Always => true,
            Colour::Never => false,
        }
    }
}

/// What the flags say of output, once for the process.
#[derive(Clone, Copy, Default)]
struct Output {
    colour: Colour,
    quiet: bool,
}

static OUTPUT: OnceLock<Output> = OnceLock::new();

fn output() -> Output {
    OUTPUT.get().copied().unwrap_or_default()
}

/// Sets what the flags say of output.
pub(crate) fn set(colour: Colour, quiet: bool) {
    // The first word holds: there is one command in a process.
    let _ = OUTPUT.set(Output { colour, quiet });
}

/// Whether standard output takes colour.
pub(crate) fn colour() -> bool {
    output().colour.on(std::io::stdout().is_terminal())
}

/// Whether only results and errors are printed.
pub(crate) fn quiet() -> bool {
    output().quiet
}

/// A sentence beside the results, on standard error.
pub(crate) fn note(text: &str) {
    if !quiet() {
        // Where nobody reads it, nobody misses it.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// An error, on standard error.
pub(crate) fn error(text: &str) {
    let word = console::style("error:").red().bold();
    let word = word.force_styling(output().colour.on(std::io::stderr().is_terminal()));
    let _ = writeln!(std::io::stderr(), "{word} {text}");
}

/// The columns of the terminal; 100 where there is none.
pub(crate) fn width() -> usize {
    console::Term::stdout().size_checked().map_or(100, |(_, columns)| columns as usize)
}

/// A table on standard output, as wide as the terminal.
pub(crate) fn print_table(table: &Table, out: &mut dyn Write) -> std::io::Result<()> {
    table.write(out, width(), colour())
}

/// A table from rows of texts; the columns in `left` (and the first) are aligned left.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>, left: &[usize]) -> Table {
    let columns: Vec<(&str, Align)> = header
        .iter()
        .enumerate()
        .map(|(i, name)| (*name, if i == 0 || left.contains(&i) { Align::Left } else { Align::Right }))
        .collect();
    let mut table = Table::new(&columns);
    for row in rows {
        table.row(row);
    }
    table
}
