//! Lottery tickets: accuracy against iterations, early stops and accuracies against the weights that are left.

use secateur::format;
use secateur::lottery::Kind;

use super::super::draw::{Anchor, Drawing, Ink, Text, text_width};
use super::super::lottery::{OverSeeds, Point, Series, Tickets};
use super::axes::{Axis, Plot, percent_tick, plain_tick};
use super::panels::{GAP, grid};

const PANEL: (f64, f64) = (470.0, 330.0);
const LABEL: f64 = 12.0;
/// Levels whose curves are drawn.
const CURVES: usize = 6;

/// A line of a panel: x, mean, least and greatest.
struct Line {
    name: String,
    slot: usize,
    points: Vec<[f64; 4]>,
    /// Whether single points are marked.
    marked: bool,
}

/// The measure against iterations, a line for some of the levels: a panel for tickets, and one for each control.
pub fn ticket_curves(tickets: &Tickets) -> Drawing {
    let panels = curve_panels(tickets);
    grid(format::capital(&format!("{} against iterations", title(tickets, ""))), panels, (2, GAP), 0.0)
}

/// The panels of [`ticket_curves`].
pub(in super::super) fn curve_panels(tickets: &Tickets) -> Vec<Drawing> {
    let levels = shown_levels(&tickets.series[0].points);
    let of_series = |series: &Series| -> Vec<Line> {
        let shown = series.points.iter().filter(|point| levels.contains(&point.level));
        let line = |(slot, point): (usize, &Point)| Line {
            name: format::percent(point.remaining),
            slot,
            points: point.curve.iter().map(|&(x, y)| [x, y, y, y]).collect(),
            marked: false,
        };
        // Colours go by level, so that a level has one in all panels.
        let slot = |point: &&Point| levels.iter().position(|level| *level == point.level).unwrap_or(0);
        shown.map(|point| line((slot(&point), point))).collect()
    };
    let panels: Vec<(Kind, Vec<Line>)> = tickets.series.iter().map(|s| (s.kind, of_series(s))).collect();
    let all = || panels.iter().flat_map(|(_, lines)| lines).flat_map(|line| &line.points);
    let end = all().map(|p| p[0]).fold(1.0, f64::max);
    // The first tenth of a training is steep: what happens later has the room.
    let later = || all().filter(|p| p[0] >= 0.1 * end).map(|p| p[1]).filter(|v| v.is_finite());
    let y = padded(later().fold(f64::INFINITY, f64::min), later().fold(f64::NEG_INFINITY, f64::max), tickets);
    let x = Axis::linear(0.0, end);
    let draw = |(kind, lines): &(Kind, Vec<Line>)| {
        let title = format!("{}: {}", heading(*kind), title(tickets, ""));
        let said = format!("{title} against iterations");
        let share = tickets.is_share();
        let frame = Frame { title: &title, said: &said, x, y, x_title: "iterations", share };
        panel(&frame, lines, &|v, d| short(v, d))
    };
    panels.iter().map(draw).collect()
}

/// The early stop against the weights that are left.
pub fn ticket_stops(tickets: &Tickets) -> Drawing {
    let lines = lines(tickets, |point| point.early_stop);
    let most = lines.iter().flat_map(|line| &line.points).map(|p| p[3]).fold(1.0, f64::max);
    let said = "Early stop against the weights that are left";
    let y = Axis::linear(0.0, 1.05 * most);
    let frame = Frame {
        title: "Early stop: iteration of the least validation loss",
        said,
        x: remaining_axis(tickets),
        y,
        x_title: LEFT,
        share: false,
    };
    panel(&frame, &lines, &plain_tick)
}

/// The measure at the early stop against the weights that are left.
pub fn ticket_values(tickets: &Tickets) -> Drawing {
    values(tickets, " at the early stop", |point| point.value)
}

/// The measure at the end of training against the weights that are left.
pub fn ticket_ends(tickets: &Tickets) -> Drawing {
    values(tickets, " at the end of training", |point| point.last)
}

fn values(tickets: &Tickets, when: &str, read: fn(&Point) -> OverSeeds) -> Drawing {
    let lines = lines(tickets, read);
    let ends =
        || lines.iter().flat_map(|line| &line.points).flat_map(|p| [p[2], p[3]]).filter(|v| v.is_finite());
    let y = padded(ends().fold(f64::INFINITY, f64::min), ends().fold(f64::NEG_INFINITY, f64::max), tickets);
    let title = format::capital(&title(tickets, when));
    let said = format!("{title} against the weights that are left");
    let frame = Frame {
        title: &title,
        said: &said,
        x: remaining_axis(tickets),
        y,
        x_title: LEFT,
        share: tickets.is_share(),
    };
    panel(&frame, &lines, &plain_tick)
}

const LEFT: &str = "weights left, %";

/// What is measured, and when where it is said.
fn title(tickets: &Tickets, when: &str) -> String {
    let on = if tickets.on_test { "test" } else { "validation" };
    match tickets.is_share() {
        true => format!("{on} accuracy{when}, %"),
        false => format!("{on} {}{when}", format::measure(&tickets.measure)),
    }
}

fn heading(kind: Kind) -> &'static str {
    match kind {
        Kind::Ticket => "Tickets",
        Kind::Reinitialised => "Reinitialised",
        Kind::Random => "Random pruning",
    }
}

/// Levels at equal distances, the first and the last among them.
fn shown_levels(points: &[Point]) -> Vec<u64> {
    let shown = points.len().min(CURVES);
    let place = |i: usize| i * (points.len() - 1) / (shown - 1).max(1);
    (0..shown).map(|i| points[place(i)].level).collect()
}

fn lines(tickets: &Tickets, read: fn(&Point) -> OverSeeds) -> Vec<Line> {
    let line = |series: &Series| Line {
        name: heading(series.kind).to_string(),
        slot: series.kind as usize,
        points: series
            .points
            .iter()
            .map(|point| {
                let OverSeeds { mean, low, high } = read(point);
                [100.0 * point.remaining, mean, low, high]
            })
            .collect(),
        marked: true,
    };
    tickets.series.iter().map(line).collect()
}

/// All weights at the left, the fewest at the right.
fn remaining_axis(tickets: &Tickets) -> Axis {
    let least = tickets.series.iter().flat_map(|s| &s.points).map(|p| p.remaining).fold(1.0, f64::min);
    Axis { low: 100.0, high: (100.0 * least).max(1e-4), log: true }
}

fn padded(low: f64, high: f64, tickets: &Tickets) -> Axis {
    if !(low.is_finite() && high.is_finite()) {
        return Axis::linear(0.0, 1.0);
    }
    let pad = (0.06 * (high - low)).max(1e-3);
    let top = if tickets.is_share() { 1.0 } else { f64::INFINITY };
    Axis::linear((low - pad).max(0.0), (high + pad).min(top))
}

/// A number of iterations, in thousands where it is one.
fn short(value: f64, decimals: usize) -> String {
    if value >= 1000.0 { super::curves::short(format::count(value)) } else { plain_tick(value, decimals) }
}

/// What is around the lines of a panel.
struct Frame<'a> {
    title: &'a str,
    /// What it shows, for those who cannot see it.
    said: &'a str,
    x: Axis,
    y: Axis,
    x_title: &'a str,
    /// Whether values are shares.
    share: bool,
}

fn panel(frame: &Frame<'_>, lines: &[Line], x_unit: &dyn Fn(f64, usize) -> String) -> Drawing {
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
    // The first line, the tickets', lies above the others.
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
