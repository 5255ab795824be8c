//! Colour and width of the terminal, what is said beside the results, and tables.

use std::borrow::Cow;
use std::io::{IsTerminal, StdoutLock, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use secateur::shown::shown;
use secateur_report::{Align, Table};

use crate::options::as_flags;

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
        let text = as_flags(text);
        // Where nobody reads it, nobody misses it.
        let _ = writeln!(std::io::stderr(), "{}", to_width(&shown(&text)));
    }
}

/// A text on standard error: on a terminal its long lines are broken between words.
fn to_width(text: &str) -> Cow<'_, str> {
    if !std::io::stderr().is_terminal() {
        return Cow::Borrowed(text);
    }
    let columns = said_width().or_else(|| width_of(&console::Term::stderr())).unwrap_or(WIDTH);
    let wrapped: Vec<String> = text
        .lines()
        // A line that fits stays as it is: it may point at a place in the one above it.
        .map(|line| {
            if console::measure_text_width(line) > columns {
                secateur_report::wrap(line, columns)
            } else {
                line.to_string()
            }
        })
        .collect();
    Cow::Owned(wrapped.join("\n"))
}

/// Says that Ctrl-C ended the command, and a sentence more.
pub(crate) fn interrupted(text: &str) {
    let _ = writeln!(std::io::stderr(), "\n{}", to_width(&shown(&format!("interrupted: {text}"))));
}

/// An error, on standard error.
pub(crate) fn error(text: &str) {
    let word = console::style("error:").red().bold();
    let word = word.force_styling(output().colour.on(std::io::stderr().is_terminal()));
    let text = format!("error: {}", shown(&as_flags(text)));
    let text = to_width(&text);
    let _ = writeln!(std::io::stderr(), "{word}{}", text.strip_prefix("error:").unwrap_or_default());
}

/// Standard output. Names from files reach it without what a terminal would obey, whoever prints them; of its own
/// commands only colours pass, where there are any.
pub(crate) fn stdout() -> Shown {
    Shown { out: std::io::stdout().lock(), line: Vec::new(), colour: colour() }
}

/// A stream of lines, each written when it is whole.
pub(crate) struct Shown {
    out: StdoutLock<'static>,
    line: Vec<u8>,
    colour: bool,
}

impl Shown {
    /// Writes so many of the bytes that are there.
    fn emit(&mut self, end: usize) -> std::io::Result<()> {
        let lines: Vec<u8> = self.line.drain(..end).collect();
        let text = String::from_utf8_lossy(&lines);
        let text = if self.colour { but_colours(&text) } else { shown(&text) };
        self.out.write_all(text.as_bytes())
    }
}

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if let Some(end) = self.line.iter().rposition(|&b| b == b'\n') {
            self.emit(end + 1)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.emit(self.line.len())?;
        self.out.flush()
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

/// As [`shown`], but for the commands that set a colour or a weight: `ESC [ numbers m`.
fn but_colours(text: &str) -> Cow<'_, str> {
    let mut parts = text.split("\x1b[");
    let mut plain = shown(parts.next().unwrap_or_default()).into_owned();
    for part in parts {
        let end = part.bytes().take_while(|b| b.is_ascii_digit() || *b == b';').count();
        let sets = part[end..].starts_with('m');
        plain.push_str(if sets { "\x1b[" } else { "\\u001b[" });
        plain.push_str(&shown(part));
    }
    Cow::Owned(plain)
}

/// Columns where there is no terminal: what is piped into a pager or a file is read on one of the usual width.
const WIDTH: usize = 80;

/// The columns of the terminal: what COLUMNS says, where it says a number, else the terminal's.
pub(crate) fn width() -> usize {
    said_width().or_else(|| width_of(&console::Term::stdout())).unwrap_or(WIDTH)
}

fn said_width() -> Option<usize> {
    std::env::var("COLUMNS").ok()?.parse().ok().filter(|&columns| columns > 0)
}

fn width_of(terminal: &console::Term) -> Option<usize> {
    terminal.size_checked().map(|(_, columns)| columns as usize)
}

/// A sentence on standard output, broken to the width of the terminal.
pub(crate) fn print_wrapped(text: &str, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "{}", secateur_report::wrap(&as_flags(text), width()))
}

/// A sentence beside the results that stands among them, broken to the width of the terminal.
pub(crate) fn print_note(text: &str, out: &mut dyn Write) -> std::io::Result<()> {
    if quiet() { Ok(()) } else { print_wrapped(text, out) }
}

/// A table on standard output, as wide as the terminal.
pub(crate) fn print_table(table: &Table, out: &mut dyn Write) -> std::io::Result<()> {
    let bare = quiet().then(|| table.clone().without_note());
    bare.as_ref().unwrap_or(table).write(out, width(), colour())
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

#[cfg(test)]
mod tests {
    use super::but_colours;

    #[test]
    fn colours_pass_and_nothing_else_does() {
        assert_eq!(but_colours("\x1b[1;31mred\x1b[0m a\tb\n"), "\x1b[1;31mred\x1b[0m a\tb\n");
        assert_eq!(but_colours("\x1b[2J\x1b]0;title\x07\x1b"), "\\u001b[2J\\u001b]0;title\\u0007\\u001b");
        assert_eq!(but_colours("x\x1b[1"), "x\\u001b[1");
    }
}
