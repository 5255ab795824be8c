//! Tables for the terminal.

use std::borrow::Cow;
use std::io::{self, Write};

use anstyle::{Effects, Style};
use secateur::shown::shown_name;
use unicode_width::UnicodeWidthStr;

use super::plot::series_style;

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table without lines: a bold head, columns two spaces apart.
///
/// Where it is wider than asked, it gives way in this order: outer modules of the names in the first column become
/// initials with an ellipsis; sentences in the last column break over lines; columns that may be left out are, and are
/// named beneath; names lose their middle, in the first column before the others.
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: Vec<(String, Align)>,
    /// Places of columns that may be left out, the first to go first.
    expendable: Vec<usize>,
    rows: Vec<Vec<(String, Style)>>,
    /// Whether it does not say which columns are left out.
    bare: bool,
}

/// How a table fits a width.
struct Layout {
    /// Places and widths of the columns that are shown.
    columns: Vec<(usize, usize)>,
    /// Those that are not.
    left_out: Vec<usize>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(columns: &[(&str, Align)]) -> Table {
        Table {
            columns: columns.iter().map(|(name, align)| (name.to_string(), *align)).collect(),
            expendable: Vec::new(),
            rows: Vec::new(),
            bare: false,
        }
    }

    /// Without the line on columns that are left out.
    #[must_use]
    pub fn without_note(mut self) -> Table {
        self.bare = true;
        self
    }

    /// Columns that may be left out: where no row has anything in them, and where there is no room, the first to go
    /// first. Names that no column has are ignored.
    #[must_use]
    pub fn without_if_narrow(mut self, names: &[&str]) -> Table {
        let place = |name: &&str| self.columns.iter().position(|column| column.0 == **name);
        self.expendable = names.iter().filter_map(place).collect();
        self
    }

    /// Adds a row; missing cells stay empty. Cells are shown without what a terminal would obey.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cell = |text: String| match shown_name(&text) {
            Cow::Borrowed(_) => text,
            Cow::Owned(plain) => plain,
        };
        self.rows.push(cells.into_iter().map(|c| (cell(c.into()), Style::new())).collect());
    }

    /// Gives a cell of the last row a style, which shows only where colours do.
    pub fn style(&mut self, column: usize, style: Style) {
        if let Some(cell) = self.rows.last_mut().and_then(|row| row.get_mut(column)) {
            cell.1 = style;
        }
    }

    /// Gives a cell of the last row the colour that the i-th curve has in plots, where colours show.
    pub fn tint(&mut self, column: usize, i: usize) {
        self.style(column, series_style(i));
    }

    /// Columns the table takes when nothing is shortened.
    pub fn width(&self) -> usize {
        self.widths().iter().map(|w| w + 2).sum::<usize>().saturating_sub(2)
    }

    /// Columns the table takes at least where no name is cut in its middle.
    pub fn narrowest(&self) -> usize {
        let first = self.widths().first().copied().unwrap_or(0);
        self.width() - first + self.shortest_names()
    }

    /// Width of the first column where outer modules are initials.
    fn shortest_names(&self) -> usize {
        let names = self.rows.iter().filter_map(|row| row.first()).map(|cell| initials(&cell.0, 0).width());
        names.chain(self.columns.first().map(|c| c.0.width())).max().unwrap_or(0)
    }

    /// The last column, where it holds sentences and so may break over lines.
    fn sentences(&self) -> Option<usize> {
        let last =
            self.columns.len().checked_sub(1).filter(|&i| i > 0 && self.columns[i].1 == Align::Left)?;
        let words = |row: &Vec<(String, Style)>| row.get(last).map_or(0, |cell| cell.0.split(' ').count());
        (self.rows.iter().map(words).max()? > 3).then_some(last)
    }

    /// Whether no row has anything in a column.
    fn is_empty(&self, column: usize) -> bool {
        self.rows.iter().all(|row| row.get(column).is_none_or(|cell| cell.0.is_empty()))
    }

    fn layout(&self, width: usize) -> Layout {
        let mut columns: Vec<(usize, usize)> = self.widths().into_iter().enumerate().collect();
        columns.retain(|(i, _)| !self.expendable.contains(i) || !self.is_empty(*i));
        let over = |columns: &[(usize, usize)]| {
            (columns.iter().map(|(_, w)| w + 2).sum::<usize>().saturating_sub(2)).saturating_sub(width)
        };
        let shrink = |columns: &mut Vec<(usize, usize)>, place: usize, least: usize| {
            let by = over(columns);
            if let Some((_, w)) = columns.iter_mut().find(|(i, _)| *i == place) {
                *w = w.saturating_sub(by).max(least.min(*w));
            }
        };
        shrink(&mut columns, 0, self.shortest_names());
        let sentences = self.sentences();
        if let Some(last) = sentences {
            shrink(&mut columns, last, MIN_SENTENCES);
        }
        let mut left_out = Vec::new();
        for &place in &self.expendable {
            if over(&columns) == 0 {
                break;
            }
            if self.is_empty(place) {
                continue;
            }
            columns.retain(|(i, _)| *i != place);
            left_out.push(place);
        }
        // What has gone may have made more room than was needed.
        if !left_out.is_empty() {
            let natural = self.widths();
            for place in [Some(0), sentences].into_iter().flatten() {
                let room =
                    width.saturating_sub(columns.iter().map(|(_, w)| w + 2).sum::<usize>().saturating_sub(2));
                if let Some((_, w)) = columns.iter_mut().find(|(i, _)| *i == place) {
                    *w = (*w + room).min(natural[place]);
                }
            }
        }
        shrink(&mut columns, 0, MIN_FIRST);
        let words = (1..self.columns.len()).rev().filter(|&i| self.columns[i].1 == Align::Left);
        words.filter(|&i| Some(i) != sentences).for_each(|place| shrink(&mut columns, place, MIN_FIRST));
        left_out.sort_unstable();
        Layout { columns, left_out }
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|c| c.0.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.0.width());
            }
        }
        widths
    }

    /// Writes the table, at most `width` columns wide if its columns can give that much.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut dyn Write, width: usize, colour: bool) -> io::Result<()> {
        let Layout { columns, left_out } = self.layout(width);
        let sentences = self.sentences();
        let head = Style::new().effects(Effects::BOLD);
        let head: Vec<_> = self.columns.iter().map(|c| (c.0.clone(), head)).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let mut line = String::new();
            let mut gap = 0;
            let mut more = Vec::new();
            for (i, wide) in &columns {
                let Some((cell, style)) = row.get(*i) else { continue };
                let text = if sentences == Some(*i) && cell.width() > *wide {
                    let broken = super::wrap(&shorten(cell, usize::MAX), *wide);
                    let mut lines = broken.lines().map(|line| shorten(line, *wide));
                    let first = lines.next().unwrap_or_default();
                    more = lines.collect();
                    first
                } else {
                    shorten(&initials(cell, *wide), *wide)
                };
                let pad = wide.saturating_sub(text.width());
                let (before, after) = if self.columns[*i].1 == Align::Left { (0, pad) } else { (pad, 0) };
                if text.is_empty() {
                    gap += wide + 2;
                    continue;
                }
                line.extend(std::iter::repeat_n(' ', gap + before));
                line.push_str(&paint(&text, *style, colour));
                gap = after + 2;
            }
            writeln!(out, "{line}")?;
            let indent =
                columns.iter().take(columns.len().saturating_sub(1)).map(|(_, w)| w + 2).sum::<usize>();
            more.iter().try_for_each(|line| writeln!(out, "{:indent$}{line}", ""))?;
        }
        if left_out.is_empty() || self.bare {
            return Ok(());
        }
        let names: Vec<&str> = left_out.iter().map(|i| self.columns[*i].0.as_str()).collect();
        let note = format!("(a wider terminal or --json shows: {})", names.join(", "));
        writeln!(out, "{}", super::wrap(&note, width))
    }
}

/// Columns below which no name is shortened.
const MIN_FIRST: usize = 12;
/// Columns that sentences take at least.
const MIN_SENTENCES: usize = 24;

/// The text in a style where colours are wanted.
pub(super) fn paint(text: &str, style: Style, colour: bool) -> String {
    if colour && style != Style::new() { format!("{style}{text}{style:#}") } else { text.to_string() }
}

/// A path whose outer modules give way to their initials, from the left and as far as it takes to fit:
/// `model.layers.3.self_attn.q_proj.weight` becomes `m…l…3.self_attn.q_proj.weight`. The ellipsis says that it is no
/// name, and finds the name again where it is given to `--include`. Numbers stay whole, so do the last two parts, and so
/// does what is no path.
fn initials(path: &str, width: usize) -> String {
    let mut parts: Vec<&str> = path.split_inclusive(['.', '/']).collect();
    let mut wide = path.width();
    let outer = parts.len().saturating_sub(2);
    if path.contains(char::is_whitespace) {
        return path.to_string();
    }
    let mut short: Vec<String> = Vec::with_capacity(parts.len());
    for part in parts.drain(..outer) {
        let (name, separator) = part.split_at(part.len() - 1);
        let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let initial: String = name.chars().take(1).filter(|c| !c.is_ascii_digit()).collect();
        // Behind the ellipsis a separator tells a number from the next part only.
        let shortened = match number {
            "" => format!("{initial}…"),
            number => format!("{initial}…{number}{separator}"),
        };
        let saved = part.width().saturating_sub(shortened.width());
        if wide > width && saved > 0 {
            wide -= saved;
            short.push(shortened);
        } else {
            short.push(part.to_string());
        }
    }
    short.concat() + &parts.concat()
}

/// Takes out the middle of a text that is wider than `width` and everything that would move the cursor.
pub(super) fn shorten(text: &str, width: usize) -> String {
    use unicode_width::UnicodeWidthChar;
    let clean: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if clean.width() <= width {
        return clean;
    }
    let (head, tail) = ((width.saturating_sub(1)) / 2, width.saturating_sub(1).div_ceil(2));
    let fitting = |chars: &mut dyn Iterator<Item = char>, width: usize| {
        let mut left = width;
        chars
            .take_while(|c| match left.checked_sub(c.width().unwrap_or(0)) {
                Some(rest) => {
                    left = rest;
                    true
                }
                None => false,
            })
            .collect::<Vec<char>>()
    };
    let start: String = fitting(&mut clean.chars(), head).into_iter().collect();
    let end: String = fitting(&mut clean.chars().rev(), tail).into_iter().rev().collect();
    format!("{start}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(table: &Table, width: usize, colour: bool) -> String {
        let mut out = Vec::new();
        table.write(&mut out, width, colour).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up_and_the_first_gives_way() {
        let mut table =
            Table::new(&[("layer", Align::Left), ("weights", Align::Right), ("note", Align::Left)]);
        table.row(["encoder.layer.11.attention.output.dense.weight", "1,024", ""]);
        table.row(["日本", "12", "wide"]);
        insta::assert_snapshot!(text(&table, 80, false), @r"
        layer                                           weights  note
        encoder.layer.11.attention.output.dense.weight    1,024
        日本                                                 12  wide
        ");
        insta::assert_snapshot!(text(&table, 40, false), @r"
        layer                      weights  note
        e…l…11.a…o…dense.weight      1,024
        日本                            12  wide
        ");
        assert_eq!(table.narrowest(), "e.l.11.a.o.dense.weight".len() + 2 + 7 + 2 + 4);
        assert!(text(&table, 5, false).lines().all(|l| l.width() < 40));
    }

    #[test]
    fn narrow_tables_leave_out_what_may_be_left_out_and_say_so() {
        let mut table = Table::new(&[
            ("layer", Align::Left),
            ("median", Align::Right),
            ("memory", Align::Right),
            ("why", Align::Left),
        ])
        .without_if_narrow(&["memory", "nothing"]);
        table.row(["conv1.weight", "1.00 ms", "1.00 MB", "it is used by several nodes whose axes differ"]);
        insta::assert_snapshot!(text(&table, 60, false), @r"
        layer          median   memory  why
        conv1.weight  1.00 ms  1.00 MB  it is used by several nodes
                                        whose axes differ
        ");
        insta::assert_snapshot!(text(&table, 50, false), @r"
        layer          median  why
        conv1.weight  1.00 ms  it is used by several nodes
                               whose axes differ
        (a wider terminal or --json shows: memory)
        ");
    }

    #[test]
    fn outer_modules_give_way_first() {
        let path = "model.layers.13.self_attn.q_proj.weight";
        for (width, expected) in [
            (39, path),
            (38, "m…layers.13.self_attn.q_proj.weight"),
            (30, "m…l…13.self_attn.q_proj.weight"),
            (10, "m…l…13.s…q_proj.weight"),
        ] {
            assert_eq!(initials(path, width), expected);
        }
        assert_eq!(initials("/layer1/layer1.0/conv2/MatMul", 20), "/l…1/l…1.0/conv2/MatMul");
        assert_eq!(initials("a sentence. Another one. A third.", 5), "a sentence. Another one. A third.");
        assert_eq!(initials("", 5), "");
    }

    #[test]
    fn colours_only_where_wanted_and_no_control_characters() {
        let mut table = Table::new(&[("a", Align::Left)]);
        table.row(["x\u{1b}[2Jy"]);
        table.style(0, Style::new().effects(Effects::BOLD));
        assert!(!text(&table, 80, false).contains('\u{1b}'));
        assert!(text(&table, 80, true).contains("\u{1b}[1mx\\u001b[2Jy"));
    }
}
