//! A plot of curves in braille dots, two by four to a character.

use std::io::{self, Write};

use anstyle::{Ansi256Color, Style};
use secateur::format::ticks;
use unicode_width::UnicodeWidthStr;

use super::super::draw::SERIES_COLOURS;
use super::table::{paint, shorten};

/// Terminal neighbours of the Okabe–Ito colours.
const COLOURS: [u8; SERIES_COLOURS] = [32, 208, 36, 175, 178, 74, 246];

/// The style of a series, by its [slot](super::super::draw::slots).
pub(super) fn series_style(slot: usize) -> Style {
    Style::new().fg_color(Some(Ansi256Color(COLOURS[slot % COLOURS.len()]).into()))
}

/// A curve of a plot, or points.
pub(super) struct Series<'a> {
    /// Its name in the legend.
    pub name: &'a str,
    /// The series whose colour it has.
    pub slot: usize,
    pub marks: Marks,
    pub points: Vec<(f64, f64)>,
}

/// How the points of a series are drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Marks {
    /// A line joins them, and a letter stands at its end.
    Line,
    /// A letter stands at the last.
    Letter,
    /// A dot each.
    Dots,
}

/// The plot's frame: what the axes are, where they end, and a level to draw across.
pub(super) struct Frame<'a> {
    pub title: &'a str,
    pub x_title: &'a str,
    pub x: (f64, f64),
    /// Values along x with their labels, in order.
    pub x_ticks: Vec<(f64, String)>,
    pub y: (f64, f64),
    pub level: f64,
}

/// Draws curves and points. A letter stands where a curve ends or leaves the frame, and before
/// its name, so that they can be told apart without colours.
pub(super) fn plot(
    out: &mut dyn Write,
    frame: &Frame,
    series: &[Series],
    width: usize,
    colour: bool,
) -> io::Result<()> {
    const LEFT: usize = 6;
    let columns = width.clamp(30, 100) - LEFT - 1;
    let rows = (columns / 4).clamp(8, 18);
    let mut canvas = Canvas::new(columns, rows);
    let (low, high) = frame.y;
    let to_dot = |(x, y): (f64, f64)| {
        (
            (x - frame.x.0) / (frame.x.1 - frame.x.0) * (2 * columns - 1) as f64,
            (high - y) / (high - low) * (4 * rows - 1) as f64,
        )
    };
    let level = to_dot((frame.x.0, frame.level)).1.round() as i64;
    for x in (0..2 * columns as i64).step_by(4) {
        canvas.dot(x, level, None);
    }
    for (i, s) in series.iter().enumerate() {
        let finite: Vec<_> = s.points.iter().take_while(|p| p.1.is_finite()).map(|p| to_dot(*p)).collect();
        for pair in finite.windows(2).filter(|_| s.marks == Marks::Line) {
            canvas.line(pair[0], pair[1], i);
        }
        for (x, y) in finite.iter().filter(|_| s.marks != Marks::Line) {
            canvas.dot(x.round() as i64, y.round() as i64, Some(i));
        }
        if let Some(end) = canvas.end(&finite).filter(|_| s.marks != Marks::Dots) {
            canvas.letter(end, letter(lettered(series, i)), i);
        }
    }
    writeln!(out, "{}", frame.title)?;
    let (ticks, decimals) = ticks(low, high, rows / 3);
    let tick_row = |t: f64| (to_dot((frame.x.0, t)).1.round().max(0.0) as usize / 4).min(rows - 1);
    for row in 0..rows {
        let tick = ticks.iter().find(|t| tick_row(**t) == row);
        let label = tick.map_or_else(String::new, |t| format!("{t:.decimals$}"));
        writeln!(out, "{label:>width$} {}", canvas.row(row, series, colour), width = LEFT - 1)?;
    }
    let mut axis = String::new();
    for (value, label) in &frame.x_ticks {
        // A label ends beneath its place, but for one at the left edge.
        let place = (to_dot((*value, low)).0 / 2.0).round().max(0.0) as usize;
        let at = (place + 1).saturating_sub(label.width());
        if at >= axis.width() + usize::from(!axis.is_empty()) && at + label.width() <= columns {
            axis.push_str(&" ".repeat(at - axis.width()));
            axis.push_str(label);
        }
    }
    writeln!(out, "{:LEFT$}{axis}", "")?;
    writeln!(out, "{:>width$}", frame.x_title, width = LEFT + columns)?;
    let mut line = " ".repeat(LEFT);
    let mut used = LEFT;
    for (i, s) in series.iter().enumerate() {
        let name = shorten(s.name, columns.saturating_sub(4));
        let sign = if s.marks == Marks::Dots { '⠂' } else { letter(lettered(series, i)) };
        let item = format!("{sign} {name}");
        if used > LEFT && used + item.width() > LEFT + columns {
            writeln!(out, "{}", line.trim_end())?;
            line = " ".repeat(LEFT);
            used = LEFT;
        }
        used += item.width() + 3;
        line.push_str(&paint(&item, series_style(s.slot), colour));
        line.push_str("   ");
    }
    writeln!(out, "{}", line.trim_end())
}

/// The place of a series among those that have letters.
fn lettered(series: &[Series], i: usize) -> usize {
    series[..i].iter().filter(|s| s.marks != Marks::Dots).count()
}

fn letter(i: usize) -> char {
    char::from(b'a' + (i % 26) as u8)
}

struct Canvas {
    columns: usize,
    rows: usize,
    /// Braille bits and the curve drawn last in each character.
    cells: Vec<(u8, Option<usize>)>,
    letters: Vec<Option<(char, usize)>>,
}

impl Canvas {
    fn new(columns: usize, rows: usize) -> Canvas {
        Canvas { columns, rows, cells: vec![(0, None); columns * rows], letters: vec![None; columns * rows] }
    }

    fn cell(&self, x: i64, y: i64) -> Option<usize> {
        let inside = x >= 0 && y >= 0 && x < 2 * self.columns as i64 && y < 4 * self.rows as i64;
        inside.then(|| (y / 4) as usize * self.columns + (x / 2) as usize)
    }

    fn dot(&mut self, x: i64, y: i64, series: Option<usize>) {
        // Unicode's order: three rows of the left column, three of the right, then the fourth row.
        const BITS: [[u8; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
        if let Some(i) = self.cell(x, y) {
            self.cells[i].0 |= BITS[(y % 4) as usize][(x % 2) as usize];
            self.cells[i].1 = series.or(self.cells[i].1);
        }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), series: usize) {
        let height = 4.0 * self.rows as f64;
        // A curve that explodes leaves the frame within a step: what lies far outside takes no steps.
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let steps = dx.abs().max(dy.abs().min(4.0 * height)).ceil().max(1.0) as i64;
        for i in 0..=steps {
            let t = i as f64 / steps as f64;
            self.dot((from.0 + t * dx).round() as i64, (from.1 + t * dy).round() as i64, Some(series));
        }
    }

    /// Where a curve ends or first leaves the frame.
    fn end(&self, points: &[(f64, f64)]) -> Option<(i64, i64)> {
        let inside = |p: &(f64, f64)| p.1 >= 0.0 && p.1 < 4.0 * self.rows as f64;
        let last = points.iter().take_while(|p| inside(p)).count().checked_sub(1)?;
        let (x, y) = points[last];
        let end = match points.get(last + 1) {
            Some(&(next_x, next_y)) => {
                let edge = if next_y < 0.0 { 0.0 } else { 4.0 * self.rows as f64 - 1.0 };
                (x + (edge - y) / (next_y - y) * (next_x - x), edge)
            }
            None => (x, y),
        };
        Some((end.0.round() as i64, end.1.round() as i64))
    }

    /// Puts a letter at a dot, or left of it where another letter stands already.
    fn letter(&mut self, (x, y): (i64, i64), letter: char, series: usize) {
        for x in (0..=x).rev().step_by(2) {
            let Some(i) = self.cell(x, y) else { continue };
            if self.letters[i].is_none() {
                self.letters[i] = Some((letter, series));
                return;
            }
        }
    }

    fn row(&self, row: usize, drawn: &[Series], colour: bool) -> String {
        let range = row * self.columns..(row + 1) * self.columns;
        let mut text = String::new();
        for i in range {
            let (bits, series) = self.cells[i];
            let (symbol, series) = match self.letters[i] {
                Some((letter, series)) => (letter, Some(series)),
                None if bits == 0 => (' ', None),
                None => (char::from_u32(0x2800 + u32::from(bits)).unwrap_or(' '), series),
            };
            match series {
                Some(s) => text.push_str(&paint(&symbol.to_string(), series_style(drawn[s].slot), colour)),
                None => text.push(symbol),
            }
        }
        text.trim_end().to_string()
    }
}
