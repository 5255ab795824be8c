//! Panels with lines in them: what tickets and trainings are drawn in.

use secateur::format;

use super::super::draw::{Anchor, Drawing, Ink, Text, text_width};
use super::axes::{Axis, Plot, percent_tick, plain_tick};

const PANEL: (f64, f64) = (470.0, 330.0);
const LABEL: f64 = 12.0;
/// Up to so many marks reach from the bottom to the top.
const MARKED: usize = 40;

/// A line of a panel: x, mean, least and greatest.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) slot: usize,
    pub(super) points: Vec<[f64; 4]>,
    /// Whether single points are marked.
    pub(super) marked: bool,
}

/// The least and the greatest of the finite values.
pub(super) fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|v| v.is_finite());
    finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

/// The spread of lines that end at `end`, without the first tenth, which is steep in a training: what happens later has the room.
pub(super) fn later<'a>(lines: impl Iterator<Item = &'a Line>, end: f64) -> (f64, f64) {
    spread(lines.flat_map(|line| &line.points).filter(|p| p[0] >= 0.1 * end).map(|p| p[1]))
}

/// An axis with some room about values from 0 on; shares end at 1.
pub(super) fn padded((low, high): (f64, f64), share: bool) -> Axis {
    if !(low.is_finite() && high.is_finite()) {
        return Axis::linear(0.0, 1.0);
    }
    let pad = (0.06 * (high - low)).max(1e-3);
    let top = if share { 1.0 } else { f64::INFINITY };
    Axis::linear((low - pad).max(0.0), (high + pad).min(top))
}

/// A number of iterations, in thousands where it is one.
pub(super) fn short(value: f64, decimals: usize) -> String {
    if value >= 1000.0 { super::curves::short(format::count(value)) } else { plain_tick(value, decimals) }
}

/// What is around the lines of a panel.
pub(super) struct Frame<'a> {
    pub(super) title: &'a str,
    /// What it shows, for those who cannot see it.
    pub(super) said: &'a str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) x_title: &'a str,
    /// Whether values are shares.
    pub(super) share: bool,
    /// Places along the x axis where something happened, with what it was.
    pub(super) marks: &'a [(f64, String)],
}

/// A panel with its lines; the first lies above the others.
pub(super) fn panel(frame: &Frame<'_>, lines: &[Line], x_unit: &dyn Fn(f64, usize) -> String) -> Drawing {
    let mut d = Drawing::new(PANEL.0, PANEL.1, frame.said);
    d.heading((0.0, 14.0), frame.title, 14.0);
    legend(&mut d, lines);
    let plot =
        Plot { left: 48.0, top: 46.0, right: PANEL.0 - 14.0, bottom: PANEL.1 - 44.0, x: frame.x, y: frame.y };
    match frame.share {
        true => plot.y_ticks(&mut d, &percent_tick),
        false => plot.y_ticks(&mut d, &plain_tick),
    }
    plot.x_ticks(&mut d, frame.x_title, x_unit);
    // Many marks would hide the lines.
    let top = if frame.marks.len() > MARKED { plot.bottom - 10.0 } else { plot.top };
    for (at, words) in frame.marks {
        let x = plot.px(*at);
        d.hover(words.clone(), |d| d.line(vec![(x, top), (x, plot.bottom)], Ink::Axis, 1.0, Some(3.0)));
    }
    for line in lines.iter().rev() {
        let ink = Ink::Series(line.slot);
        let along = |k: usize| line.points.iter().map(|p| (p[0], p[k])).collect::<Vec<_>>();
        if line.marked {
            let upper = plot.held(&along(3)).into_iter();
            d.area(upper.chain(plot.held(&along(2)).into_iter().rev()).collect(), ink, 0.16);
        }
        for piece in plot.cut(&along(1)) {
            d.line(piece, ink, 1.8, None);
        }
        for &[x, mean, low, high] in line.points.iter().filter(|_| line.marked) {
            let show = |v: f64| if frame.share { format!("{:.2} %", 100.0 * v) } else { format::number(v) };
            let words = format!(
                "{}, {} of the weights: {} ({} to {})",
                line.name,
                format::percent(x / 100.0),
                show(mean),
                show(low),
                show(high)
            );
            d.hover(words, |d| d.marker(plot.place((x, mean)), line.slot, 3.0));
        }
    }
    d
}

/// Which line is which, above the plot.
fn legend(d: &mut Drawing, lines: &[Line]) {
    let mut x = 0.0;
    for line in lines {
        d.line(vec![(x, 28.0), (x + 18.0, 28.0)], Ink::Series(line.slot), 2.0, None);
        if line.marked {
            d.marker((x + 9.0, 28.0), line.slot, 3.0);
        }
        let (text, ink) = (line.name.clone(), Ink::SeriesText(line.slot));
        d.text(Text { x: x + 23.0, y: 32.0, text, size: LABEL, bold: true, anchor: Anchor::Start, ink });
        x += 23.0 + text_width(&line.name, LABEL, true) + 16.0;
    }
}
