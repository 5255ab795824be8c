//! A plot of curves in braille dots, two by four to a character.

use std::io::{self, Write};

use anstyle::{Ansi256Color, Style};
use unicode_width::UnicodeWidthStr;

use super::super::format::ticks;
use super::table::{paint, shorten};

/// Terminal neighbours of the Okabe–Ito colours.
const COLOURS: [u8; 8] = [32, 208, 36, 175, 74, 202, 178, 246];

/// The style of the i-th curve.
pub(super) fn series_style(i: usize) -> Style {
    Style::new().fg_color(Some(Ansi256Color(COLOURS[i % COLOURS.len()]).into()))
}

/// A curve of a plot.
pub(super) struct Series<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// The plot's frame: what y is, where it ends, and a level to draw across.
pub(super) struct Frame<'a> {
    pub title: &'a str,
    pub y: (f64, f64),
    pub level: f64,
}

/// Draws curves over sparsity from 0 to 1. A letter stands where a curve ends or leaves the frame, and before
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
        (x * (2 * columns - 1) as f64, (high - y) / (high - low) * (4 * rows - 1) as f64)
    };
    let level = to_dot((0.0, frame.level)).1.round() as i64;
    for x in (0..2 * columns as i64).step_by(4) {
        canvas.dot(x, level, None);
    }
    for (i, s) in series.iter().enumerate() {
        let finite: Vec<_> = s.points.iter().take_while(|p| p.1.is_finite()).map(|p| to_dot(*p)).collect();
        for pair in finite.windows(2) {
            canvas.line(pair[0], pair[1], i);
        }
        if let Some(end) = canvas.end(&finite) {
            canvas.letter(end, letter(i), i);
        }
    }
    writeln!(out, "{}", frame.title)?;
    let (ticks, decimals) = ticks(low, high, rows / 3);
    let tick_row = |t: f64| (to_dot((0.0, t)).1.round().max(0.0) as usize / 4).min(rows - 1);
    for row in 0..rows {
        let tick = ticks.iter().find(|t| tick_row(**t) == row);
        let label = tick.map_or_else(String::new, |t| format!("{t:.decimals$}"));
        writeln!(out, "{label:>width$} {}", canvas.row(row, colour), width = LEFT - 1)?;
    }
    let mut axis = vec![b' '; columns + 6];
    for step in 0..=4 {
        let label = format!("{}", step * 25);
        let at = (step * (columns - 1) / 4).saturating_sub(if step == 0 { 0 } else { label.len() - 1 });
        axis[at..at + label.len()].copy_from_slice(label.as_bytes());
    }
    let axis = String::from_utf8_lossy(&axis).trim_end().to_string();
    writeln!(out, "{:LEFT$}{axis}", "")?;
    let caption = "sparsity, %";
    writeln!(out, "{:>width$}", caption, width = LEFT + columns)?;
    let mut line = " ".repeat(LEFT);
    let mut used = LEFT;
    for (i, s) in series.iter().enumerate() {
        let name = shorten(s.name, columns.saturating_sub(4));
        let item = format!("{} {name}", letter(i));
        if used > LEFT && used + item.width() > LEFT + columns {
            writeln!(out, "{}", line.trim_end())?;
            line = " ".repeat(LEFT);
            used = LEFT;
        }
        used += item.width() + 3;
        line.push_str(&paint(&item, series_style(i), colour));
        line.push_str("   ");
    }
    writeln!(out, "{}", line.trim_end())
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

    fn row(&self, row: usize, colour: bool) -> String {
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
                Some(s) => text.push_str(&paint(&symbol.to_string(), series_style(s), colour)),
                None => text.push(symbol),
            }
        }
        text.trim_end().to_string()
    }
}
