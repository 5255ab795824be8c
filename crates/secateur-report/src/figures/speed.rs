//! How fast: speed-up against sparsity.

use secateur::format;

use super::super::draw::{Anchor, Drawing, Ink, Text, slots, text_width};
use super::axes::{Axis, Plot, percent_tick, plain_tick};
use super::panels::{GAP, grid};

const PANEL: (f64, f64) = (360.0, 250.0);
/// Panels in a row.
const COLUMNS: usize = 2;
const LABEL: f64 = 12.0;
const SMALL: f64 = 11.0;

/// The times of one setting, such as a batch size.
#[derive(Clone, Debug)]
pub struct SpeedPanel {
    /// The setting.
    pub title: String,
    /// A line for each runtime; the same runtimes in each panel.
    pub series: Vec<SpeedSeries>,
}

/// The times of one runtime.
#[derive(Clone, Debug)]
pub struct SpeedSeries {
    /// The runtime.
    pub name: String,
    /// Sparsity, speed-up, and the interval that most runs lie in, by rising sparsity.
    pub points: Vec<[f64; 4]>,
}

impl SpeedPanel {
    /// Its lines with the series that they are drawn as.
    fn drawn(&self) -> Vec<(&SpeedSeries, usize)> {
        self.series.iter().zip(slots(self.series.iter().map(|s| s.name.as_str()))).collect()
    }
}

/// Speed-up against sparsity, a panel for each setting; all panels have the same axes. `caption` says where it
/// was measured.
pub fn speed_figure(title: &str, caption: &str, panels: &[SpeedPanel]) -> Drawing {
    let mut drawing = grid(title.to_string(), speed_panels(panels), (COLUMNS, GAP), 62.0);
    // A single panel is narrower than the words above it may be.
    drawing.width = drawing.width.max(text_width(title, 14.0, true)).max(text_width(caption, SMALL, false));
    drawing.heading((0.0, 14.0), title, 14.0);
    drawing.label((0.0, 31.0), caption, SMALL, Anchor::Start, Ink::Muted);
    drawing.place(speed_legend(panels), (0.0, 36.0));
    drawing
}

/// A panel for each setting, all with the same axes.
pub(in super::super) fn speed_panels(panels: &[SpeedPanel]) -> Vec<Drawing> {
    let points = || panels.iter().flat_map(|p| &p.series).flat_map(|s| &s.points);
    let most = points().flat_map(|p| [p[1], p[3]]).filter(|v| v.is_finite()).fold(1.2, f64::max);
    let (ticks, step) = (format::ticks(0.0, most * 1.05, 5).0, most * 1.05);
    let y = Axis::linear(0.0, ticks.last().copied().unwrap_or(step).max(step));
    panels.iter().map(|panel| draw(panel, y)).collect()
}

/// Which line is which runtime's.
pub(in super::super) fn speed_legend(panels: &[SpeedPanel]) -> Drawing {
    let mut drawing = Drawing::new(0.0, 20.0, "Runtimes");
    let mut x = 0.0;
    for (series, i) in panels.first().iter().flat_map(|p| p.drawn()) {
        drawing.line(vec![(x, 10.0), (x + 22.0, 10.0)], Ink::Series(i), 2.0, None);
        drawing.marker((x + 11.0, 10.0), i, 3.0);
        let (text, ink) = (series.name.clone(), Ink::SeriesText(i));
        drawing.text(Text {
            x: x + 28.0,
            y: 14.0,
            text,
            size: LABEL,
            bold: true,
            anchor: Anchor::Start,
            ink,
        });
        x += 28.0 + text_width(&series.name, LABEL, true) + 22.0;
    }
    drawing
}

fn draw(panel: &SpeedPanel, y: Axis) -> Drawing {
    let mut d = Drawing::new(PANEL.0, PANEL.1, format!("Speed-up against sparsity, {}", panel.title));
    d.label((0.0, 13.0), panel.title.as_str(), LABEL, Anchor::Start, Ink::Text);
    let x = Axis::linear(0.0, 1.0);
    let plot = Plot { left: 30.0, top: 24.0, right: PANEL.0 - 34.0, bottom: PANEL.1 - 40.0, x, y };
    plot.y_ticks(&mut d, &plain_tick);
    d.label((PANEL.0 - 34.0, 13.0), "times as fast", SMALL, Anchor::End, Ink::Muted);
    plot.x_ticks(&mut d, "zeros, % of the prunable weights", &percent_tick);
    d.line(vec![plot.place((0.0, 1.0)), plot.place((1.0, 1.0))], Ink::Axis, 1.2, Some(4.0));
    let mut lines = vec![vec![plot.place((0.0, 1.0)), plot.place((1.0, 1.0))]];
    lines.extend(panel.series.iter().map(|s| s.points.iter().map(|p| plot.place((p[0], p[1]))).collect()));
    // The first line, ours, lies above the others.
    for (place, (series, i)) in panel.drawn().into_iter().enumerate().rev() {
        let along = |k: usize| series.points.iter().map(|p| (p[0], p[k])).collect::<Vec<_>>();
        let upper = plot.held(&along(3)).into_iter();
        d.area(upper.chain(plot.held(&along(2)).into_iter().rev()).collect(), Ink::Series(i), 0.16);
        for piece in plot.cut(&along(1)) {
            d.line(piece, Ink::Series(i), 2.0, None);
        }
        for point in &series.points {
            let [sparsity, speed, low, high] = *point;
            let at = plot.place((sparsity, speed));
            let words = format!(
                "{} at {}: {} times as fast ({}–{})",
                series.name,
                format::percent(sparsity),
                format::number(speed),
                format::number(low),
                format::number(high)
            );
            d.hover(words, |d| d.marker(at, i, 3.0));
            if place == 0 {
                // Left of its point, where the line comes from below; at the axis there is no room for that.
                let (x, anchor) = if at.0 < plot.left + 40.0 {
                    (at.0 + 5.0, Anchor::Start)
                } else {
                    (at.0 - 5.0, Anchor::End)
                };
                let (text, ink) = (format!("{}×", format::number(speed)), Ink::SeriesText(i));
                let half = text_width(&text, SMALL, true) / 2.0;
                let middle = if anchor == Anchor::End { x - half } else { x + half };
                let is_free = |y: &f64| {
                    let within = |at: f64| (y - SMALL..y + 3.0).contains(&at);
                    !lines.iter().filter_map(|line| height(line, middle)).any(within)
                };
                // Above its point, or beneath where lines pass above.
                let y = [at.1 - 7.0, at.1 + 16.0].into_iter().find(is_free).unwrap_or(at.1 - 7.0);
                d.text_over_lines(Text { x, y, text, size: SMALL, bold: true, anchor, ink });
            }
        }
    }
    d
}

/// Where a line through points, by rising x, is at `x`.
fn height(line: &[(f64, f64)], x: f64) -> Option<f64> {
    let pair = line.windows(2).find(|pair| pair[0].0 < pair[1].0 && (pair[0].0..=pair[1].0).contains(&x))?;
    let part = (x - pair[0].0) / (pair[1].0 - pair[0].0);
    Some(pair[0].1 + part * (pair[1].1 - pair[0].1))
}
