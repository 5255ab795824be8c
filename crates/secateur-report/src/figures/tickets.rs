//! Lottery tickets: accuracy against iterations, early stops and accuracies against the weights that are left.

use secateur::format;
use secateur::lottery::Kind;

use super::super::draw::Drawing;
use super::super::lottery::{OverSeeds, Point, Series, Tickets};
use super::axes::{Axis, plain_tick};
use super::lines::{Frame, Line, later, padded, panel, short, spread};
use super::panels::{GAP, grid};

/// Levels whose curves are drawn.
const CURVES: usize = 6;

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
    let all = || panels.iter().flat_map(|(_, lines)| lines);
    let end = all().flat_map(|line| &line.points).map(|p| p[0]).fold(1.0, f64::max);
    let y = padded(later(all(), end), tickets.is_share());
    let x = Axis::linear(0.0, end);
    let draw = |(kind, lines): &(Kind, Vec<Line>)| {
        let title = format!("{}: {}", heading(*kind), title(tickets, ""));
        let said = format!("{title} against iterations");
        let share = tickets.is_share();
        let frame = Frame { title: &title, said: &said, x, y, x_title: "iterations", share, marks: &[] };
        panel(&frame, lines, &short)
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
        marks: &[],
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
    let ends = lines.iter().flat_map(|line| &line.points).flat_map(|p| [p[2], p[3]]);
    let y = padded(spread(ends), tickets.is_share());
    let title = format::capital(&title(tickets, when));
    let said = format!("{title} against the weights that are left");
    let frame = Frame {
        title: &title,
        said: &said,
        x: remaining_axis(tickets),
        y,
        x_title: LEFT,
        share: tickets.is_share(),
        marks: &[],
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
