//! Small multiples with a panel for each method.

use secateur::format;
use secateur::records::Run;

use super::super::analysis::{Analysis, Curve, MeanBytes};
use super::super::draw::{Anchor, Drawing, Ink, Text, slots, text_width};
use super::axes::{Axis, Plot, percent_tick, plain_tick};

const PANEL: (f64, f64) = (250.0, 216.0);
pub(super) const GAP: f64 = 24.0;
/// What the x axis' labels and title take beneath a panel's plot.
const FOOT: f64 = 40.0;
/// Panels in a row.
const COLUMNS: usize = 4;

/// Lays panels out in rows; `top` is left free above.
pub(super) fn grid(title: String, panels: Vec<Drawing>, (columns, gap): (usize, f64), top: f64) -> Drawing {
    let columns = panels.len().clamp(1, columns);
    let (width, height) = panels.first().map_or((1.0, 0.0), |p| (p.width, p.height));
    let rows = panels.len().div_ceil(columns) as f64;
    let size = (columns as f64 * (width + gap) - gap, top + rows * (height + gap) - gap);
    let mut drawing = Drawing::new(size.0, size.1, title);
    for (i, panel) in panels.into_iter().enumerate() {
        let (column, row) = ((i % columns) as f64, (i / columns) as f64);
        drawing.place(panel, (column * (width + gap), top + row * (height + gap)));
    }
    drawing
}

/// Width of each of so many panels: one alone has the room of two.
fn panel_width(panels: usize) -> f64 {
    if panels == 1 { 2.0 * PANEL.0 + GAP } else { PANEL.0 }
}

fn panel_title(d: &mut Drawing, method: &str, slot: usize) {
    let ink = Ink::SeriesText(slot);
    let text = method.to_string();
    d.text(Text { x: 0.0, y: 13.0, text, size: 13.0, bold: true, anchor: Anchor::Start, ink });
}

/// The axis of sparsities up to 1, from the least that any method starts at.
fn sparsity_axis(starts: impl Iterator<Item = f64>) -> Axis {
    let least = starts.fold(1.0, f64::min);
    Axis::linear(if least < 0.02 { 0.0 } else { least }, 1.0)
}

/// The fitted exponential through each method's relative loss, on a logarithmic axis. None where there is no
/// fit at all.
pub fn exponentials_figure(run: &Run, analysis: &Analysis) -> Option<Drawing> {
    let panels = exponential_panels(analysis);
    let title = format!("Exponentials through the relative loss of {}", run.header.model);
    (!panels.is_empty()).then(|| grid(title, panels, (COLUMNS, GAP), 0.0))
}

/// A panel for each method; none where there is no fit at all.
pub(in super::super) fn exponential_panels(analysis: &Analysis) -> Vec<Drawing> {
    if analysis.curves.iter().all(|c| c.fit.is_none()) {
        return Vec::new();
    }
    let x = sparsity_axis(analysis.curves.iter().filter_map(|c| Some(c.points.first()?.sparsity)));
    let values = analysis.curves.iter().flat_map(|c| &c.points).map(|p| p.value.mean);
    let high = values.filter(|v| v.is_finite()).fold(2.0, f64::max).min(20.0) * 1.1;
    let width = panel_width(analysis.curves.len());
    let panel = |curve: &Curve| {
        let mut d = Drawing::new(width, PANEL.1, format!("Exponential through {}", curve.method));
        panel_title(&mut d, &curve.method, curve.slot);
        let verdict = match curve.fit {
            None => "too few points".to_string(),
            Some(fit) => {
                let off = format::percent(fit.misfit.exp_m1());
                let word = if fit.holds() { "off by" } else { "does not fit: off by" };
                format!("{word} {off} · a = {} · b = {}", format::number(fit.a), format::number(fit.b))
            }
        };
        d.label((0.0, 29.0), verdict, 11.0, Anchor::Start, Ink::Muted);
        let y = Axis { low: 0.9, high, log: true };
        let plot = Plot { left: 30.0, top: 42.0, right: width - 12.0, bottom: PANEL.1 - FOOT, x, y };
        plot.y_ticks(&mut d, &plain_tick);
        plot.x_ticks(&mut d, "sparsity, %", &percent_tick);
        if let Some(fit) = curve.fit {
            let sample = |from: f64, to: f64| -> Vec<(f64, f64)> {
                (0..=60)
                    .map(|t| from + (to - from) * f64::from(t) / 60.0)
                    .map(|s| (s, fit.value(s)))
                    .collect()
            };
            for piece in plot.cut(&sample(fit.origin, fit.until)) {
                d.line(piece, Ink::Text, 1.4, None);
            }
            for piece in plot.cut(&sample(fit.until, x.high)) {
                d.line(piece, Ink::Text, 1.2, Some(3.0));
            }
        }
        for p in &curve.points {
            let at = plot.place((p.sparsity, p.value.mean));
            if at.1 >= plot.top && at.1 <= plot.bottom {
                d.hover(
                    format!("{} at {}", format::number(p.value.mean), format::percent(p.sparsity)),
                    |d| {
                        d.marker(at, curve.slot, 2.6);
                    },
                );
            }
        }
        d
    };
    analysis.curves.iter().map(panel).collect()
}

/// What a size is called, how to read it, how to draw it.
type Size = (&'static str, fn(&MeanBytes) -> f64, Ink, Option<f64>);

/// Series colours that no method's marks use here: the panels' lines are the kinds of size.
const SIZES: [Size; 5] = [
    ("plain", |b| b.raw, Ink::Muted, None),
    ("gzip", |b| b.gzip, Ink::Series(0), Some(6.0)),
    ("zstd", |b| b.zstd, Ink::Series(2), None),
    ("packed", |b| b.packed.unwrap_or(f64::NAN), Ink::Series(4), None),
    ("entropy bound", |b| b.entropy, Ink::Text, Some(3.0)),
];

/// The sizes of the files that a method gives.
#[derive(Clone, Debug, PartialEq)]
pub struct SizeSeries {
    /// The method.
    pub method: String,
    /// Sparsity achieved over the selected weights, and the sizes there; the unpruned model first.
    pub points: Vec<(f64, MeanBytes)>,
}

impl SizeSeries {
    /// The series of a run; none where its sizes were not measured.
    pub fn of_run(analysis: &Analysis) -> Vec<SizeSeries> {
        let series = |curve: &Curve| SizeSeries {
            method: curve.method.clone(),
            points: curve.points.iter().filter_map(|p| Some((p.sparsity, p.bytes?))).collect(),
        };
        analysis.curves.iter().map(series).filter(|s| !s.points.is_empty()).collect()
    }
}

/// File size: plain, gzipped, with zstd and packed, and the entropy bound, against sparsity. None where no sizes
/// were measured.
pub fn sizes_figure(model: &str, series: &[SizeSeries]) -> Option<Drawing> {
    let panels = size_panels(series);
    let title = format!("File size of {model} against sparsity");
    let mut drawing = (!panels.is_empty()).then(|| grid(title, panels, (COLUMNS, GAP), 34.0))?;
    drawing.place(size_legend(), (0.0, 0.0));
    Some(drawing)
}

/// A panel for each method; none where no sizes were measured.
pub(in super::super) fn size_panels(series: &[SizeSeries]) -> Vec<Drawing> {
    let raw = series.iter().flat_map(|s| &s.points).map(|(_, bytes)| bytes.raw).fold(0.0, f64::max);
    let x = sparsity_axis(series.iter().filter_map(|s| Some(s.points.first()?.0)));
    let (ticks, _) = format::ticks(0.0, raw * 1.08, 4);
    let y = Axis::linear(0.0, ticks.last().copied().unwrap_or(raw).max(raw * 1.08));
    let slots = slots(series.iter().map(|s| s.method.as_str()));
    let width = panel_width(series.len());
    let panel = |(series, slot): (&SizeSeries, usize)| {
        let mut d = Drawing::new(width, PANEL.1, format!("File size under {}", series.method));
        panel_title(&mut d, &series.method, slot);
        d.label((0.0, 29.0), "size of the file", 11.0, Anchor::Start, Ink::Muted);
        let plot = Plot { left: 48.0, top: 42.0, right: width - 12.0, bottom: PANEL.1 - FOOT, x, y };
        plot.y_ticks(&mut d, &|v, _| {
            if v == 0.0 { "0".into() } else { super::curves::short(format::bytes(v)) }
        });
        plot.x_ticks(&mut d, "sparsity, %", &percent_tick);
        // The dashed line of gzip lies above that of zstd, which it often meets.
        for (name, size, ink, dash) in SIZES.into_iter().rev() {
            let points: Vec<_> =
                series.points.iter().map(|(sparsity, bytes)| (*sparsity, size(bytes))).collect();
            for piece in plot.cut(&points) {
                d.line(piece, ink, 1.8, dash);
            }
            for point in points.into_iter().filter(|p| p.1.is_finite()) {
                let words = format!("{name} at {}: {}", format::percent(point.0), format::bytes(point.1));
                d.hover(words, |d| d.circle(plot.place(point), 2.2, Some(ink), None));
            }
        }
        d
    };
    series.iter().zip(slots).map(panel).collect()
}

/// What the lines of a size panel are.
pub(in super::super) fn size_legend() -> Drawing {
    let mut drawing = Drawing::new(0.0, 20.0, "Kinds of size");
    let mut x = 0.0;
    for (name, _, ink, dash) in SIZES {
        drawing.line(vec![(x, 10.0), (x + 22.0, 10.0)], ink, 2.0, dash);
        drawing.label((x + 28.0, 14.0), name, 12.0, Anchor::Start, Ink::Text);
        x += 28.0 + text_width(name, 12.0, false) + 22.0;
    }
    drawing
}
