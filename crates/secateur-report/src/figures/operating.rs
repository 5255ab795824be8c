//! Accuracy against latency.

use secateur::format;
use secateur::records::{Run, UNPRUNED};

use super::super::analysis::{Analysis, OperatingPoint, higher_is_better};
use super::super::draw::{Anchor, Drawing, Ink, Text, text_width};
use super::axes::{Axis, Plot, percent_tick, plain_tick};

const WIDTH: f64 = 540.0;
const HEIGHT: f64 = 400.0;
const LABEL: f64 = 12.0;
const SMALL: f64 = 11.0;
const LINE: f64 = 17.0;
/// How much further than the slowest median the spread of runs is shown.
const WIDEST: f64 = 1.3;

/// Accuracy against latency, with the numbered points named beside the chart. None where no model was timed.
pub fn operating_figure(run: &Run, analysis: &Analysis) -> Option<Drawing> {
    let mut d = operating_chart(run, analysis)?;
    let found = analysis.operating(run)?;
    key(&mut d, analysis, &found.front(), run.header.measures.get(found.measure)?);
    Some(d)
}

/// The first measure of which more is better against the median latency of a run: a mark for each model, a curve for
/// each method, the Pareto front joined and numbered. None where no model was timed.
pub(in super::super) fn operating_chart(run: &Run, analysis: &Analysis) -> Option<Drawing> {
    let found = analysis.operating(run)?;
    let measure = run.header.measures.get(found.measure)?;
    let is_share = matches!(measure.as_str(), "top1" | "top5" | "argmax_equal");
    let name = format::capital(format::measure(measure));
    let title = format!("{name}{}", if is_share { ", %" } else { "" });
    let mut d = Drawing::new(WIDTH, HEIGHT, format!("{name} of {} against latency", run.header.model));
    d.heading((0.0, 14.0), title, 14.0);

    let all: Vec<&OperatingPoint> =
        found.points.iter().chain([&found.unpruned]).filter(|p| p.value.is_finite()).collect();
    let of = |f: fn(&OperatingPoint) -> f64| all.iter().map(move |p| f(p));
    // Of runs on a busy machine the spread is cut off, so that it does not press the medians together.
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max) * 1e3;
    let slowest = largest(&mut of(|p| p.latency));
    let slowest = largest(&mut of(|p| p.spread[1])).clamp(slowest, WIDEST * slowest);
    let (least, most) =
        (of(|p| p.value).fold(f64::INFINITY, f64::min), of(|p| p.value).fold(f64::NEG_INFINITY, f64::max));
    let room = 0.05 * (most - least).max(1e-3);
    // Of a loss that explodes the best part is shown.
    let top = if higher_is_better(measure) { most } else { most.min(least + 3.0 * least.abs().max(0.1)) };
    let legend = legend(analysis);
    let plot = Plot {
        left: 44.0,
        top: 30.0 + legend.height,
        right: WIDTH - 10.0,
        bottom: HEIGHT - 44.0,
        x: Axis::linear(0.0, slowest * 1.02),
        // Shares up to all, so that 100 % has its tick.
        y: Axis::linear(least - room, if is_share { most.max(1.0) } else { top + room }),
    };
    d.place(legend, (plot.left, 22.0));
    plot.y_ticks(&mut d, &|v, n| if is_share { percent_tick(v, n) } else { plain_tick(v, n) });
    plot.x_ticks(&mut d, "median latency, ms", &plain_tick);
    let level = plot.py(found.unpruned.value);
    d.line(vec![(plot.left, level), (plot.right, level)], Ink::Axis, 1.2, Some(4.0));

    let place = |p: &OperatingPoint| plot.place((p.latency * 1e3, p.value));
    let within = |p: &&OperatingPoint| (plot.top..=plot.bottom).contains(&place(p).1);
    for (c, curve) in analysis.curves.iter().enumerate() {
        let own = || found.points.iter().filter(|p| p.at.is_some_and(|(of, _)| of == c)).filter(within);
        d.line(own().map(place).collect(), Ink::Series(curve.slot), 0.8, Some(2.0));
        for point in own() {
            let at = place(point);
            let [from, to] = point.spread.map(|t| (plot.px((t * 1e3).min(plot.x.high)), at.1));
            d.hover(words(point, measure), |d| {
                d.line(vec![from, to], Ink::Series(curve.slot), 0.8, None);
                d.marker(at, curve.slot, 3.0);
            });
        }
    }
    d.hover(words(&found.unpruned, measure), |d| {
        d.circle(place(&found.unpruned), 4.0, Some(Ink::Text), None)
    });
    let front = found.front();
    d.line(front.iter().copied().filter(within).map(place).collect(), Ink::Text, 1.4, None);
    let mut taken: Vec<(f64, f64)> = Vec::new();
    for (i, point) in front.iter().enumerate().filter(|(_, p)| within(p)) {
        let at = place(point);
        d.circle(at, 6.0, None, Some((Ink::Text, 1.4)));
        let corners =
            [(-8.0, -7.0), (8.0, 15.0), (8.0, -7.0), (-8.0, 15.0)].map(|(x, y)| (at.0 + x, at.1 + y));
        let is_free = |(x, y): &(f64, f64)| {
            taken.iter().all(|other| (other.0 - x).abs() > LABEL || (other.1 - y).abs() > LABEL)
        };
        let (x, y) = corners.into_iter().find(is_free).unwrap_or(corners[0]);
        taken.push((x, y));
        let anchor = if x < at.0 { Anchor::End } else { Anchor::Start };
        let (text, ink) = ((i + 1).to_string(), Ink::Text);
        d.text_over_lines(Text { x, y, text, size: LABEL, bold: true, anchor, ink });
    }
    Some(d)
}

/// Which mark is which method's, in as many rows as it takes.
fn legend(analysis: &Analysis) -> Drawing {
    let mut d = Drawing::new(WIDTH, LINE, "Methods");
    let (mut x, widest) = (0.0, WIDTH - 54.0);
    let methods = analysis.curves.iter().map(|c| (c.method.as_str(), Some(c.slot)));
    for (name, slot) in methods.chain([(UNPRUNED, None)]) {
        let wide = 12.0 + text_width(name, LABEL, false) + 18.0;
        if x > 0.0 && x + wide > widest {
            (x, d.height) = (0.0, d.height + LINE);
        }
        let y = d.height - LINE / 2.0;
        match slot {
            Some(slot) => d.marker((x + 4.0, y), slot, 3.0),
            None => d.circle((x + 4.0, y), 4.0, Some(Ink::Text), None),
        }
        let ink = slot.map_or(Ink::Text, Ink::SeriesText);
        d.label((x + 12.0, y + 4.0), name, LABEL, Anchor::Start, ink);
        x += wide;
    }
    d
}

/// The numbered points by name, right of the plot.
fn key(d: &mut Drawing, analysis: &Analysis, front: &[&OperatingPoint], measure: &str) {
    let left = WIDTH + 24.0;
    d.label((left, 14.0), "Pareto front: none is both faster and better", SMALL, Anchor::Start, Ink::Muted);
    let names: Vec<String> =
        front.iter().enumerate().map(|(i, p)| format!("{}  {}", i + 1, p.name)).collect();
    let wide = names.iter().map(|n| text_width(n, LABEL, true)).fold(0.0, f64::max);
    for (i, (point, text)) in front.iter().zip(names).enumerate() {
        let y = 36.0 + LINE * i as f64;
        let ink = point.at.map_or(Ink::Text, |(curve, _)| Ink::SeriesText(analysis.curves[curve].slot));
        d.text(Text { x: left, y, text, size: LABEL, bold: true, anchor: Anchor::Start, ink });
        let value = format::measured(measure, point.value, f64::NAN);
        let said = format!(
            "{} ms, {}×, {value}",
            format::number(point.latency * 1e3),
            format::number(point.speedup)
        );
        d.label((left + wide + 14.0, y), said, SMALL, Anchor::Start, Ink::Muted);
    }
}

fn words(point: &OperatingPoint, measure: &str) -> String {
    format!(
        "{}: {} ms, {}× as fast, {} {}",
        point.name,
        format::number(point.latency * 1e3),
        format::number(point.speedup),
        format::measure(measure),
        format::measured(measure, point.value, point.error)
    )
}
