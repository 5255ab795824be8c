//! Colour and width of the terminal, and tables on it.

use std::io::{IsTerminal, Write};

use secateur::report::{Align, Table};

/// Whether standard output takes colour: a terminal, and NO_COLOR is not set.
pub(crate) fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// The columns of the terminal; 100 where there is none.
pub(crate) fn width() -> usize {
    console::Term::stdout().size_checked().map_or(100, |(_, columns)| columns as usize)
}

/// The word that begins an error, red on a terminal.
pub(crate) fn error(word: &str) -> String {
    console::style(word).for_stderr().red().bold().to_string()
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
