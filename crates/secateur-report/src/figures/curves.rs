//! The curves: a measure against how much is pruned.

use secateur::format;
use secateur::records::Run;

use super::super::analysis::{Analysis, Curve, CurvePoint, Scale, Spread, higher_is_better};
use super::super::draw::{Anchor, Drawing, Ink, Text, text_width};
use super::axes::{Axis, Plot, apart, percent_tick, plain_tick};

/// What runs along a chart's x axis. All run from the unpruned model at the left to nothing left at the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X {
    /// Sparsity achieved over the selected weights.
    Sparsity,
    /// Parameters that are not zero.
    Parameters,
    /// Multiply-accumulate operations with a weight that is not zero.
    Macs,
    /// Size of the file after gzip.
    Bytes,
}

impl X {
    /// All of them, with a word for each.
    pub const ALL: [(X, &str); 4] = [
        (X::Sparsity, "sparsity"),
        (X::Parameters, "parameters"),
        (X::Macs, "MACs"),
        (X::Bytes, "file size"),
    ];

    fn value(self, point: &CurvePoint) -> f64 {
        match self {
            X::Sparsity => point.sparsity,
            X::Parameters => point.parameters,
            X::Macs => point.macs,
            X::Bytes => point.bytes.map_or(f64::NAN, |b| b.gzip),
        }
    }

    fn title(self) -> &'static str {
        match self {
            X::Sparsity => "sparsity achieved, % of the selected weights",
            X::Parameters => "parameters left",
            X::Macs => "MACs left for one sample",
            X::Bytes => "size of the gzipped file",
        }
    }

    fn tick(self, value: f64, decimals: usize) -> String {
        match self {
            X::Sparsity => percent_tick(value, decimals),
            _ if value == 0.0 => "0".into(),
            X::Parameters | X::Macs => short(format::count(value)),
            X::Bytes => short(format::bytes(value)),
        }
    }
}

/// Round values need no decimals: `1.00 M` becomes `1 M`.
pub(super) fn short(text: String) -> String {
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}

/// What runs along a chart's y axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Y {
    /// The deciding measure on its scale, cut off where it explodes.
    Cut,
    /// The deciding measure on its scale, all of it, logarithmic.
    Log,
    /// A measure as it is, by its place in the header.
    Raw(usize),
}

impl Y {
    fn value<'a>(&self, point: &'a CurvePoint) -> &'a Spread {
        match self {
            Y::Cut | Y::Log => &point.value,
            Y::Raw(i) => &point.measures[*i],
        }
    }
}

/// The deciding measure against sparsity: relative loss, or the output's error where there are no labels.
pub fn loss_figure(run: &Run, analysis: &Analysis) -> Drawing {
    chart(run, analysis, X::Sparsity, Y::Cut)
}

/// The first measure of which more is better against sparsity: top-1 accuracy where there are labels. None
/// where the run has no such measure.
pub fn accuracy_figure(run: &Run, analysis: &Analysis) -> Option<Drawing> {
    let i = run.header.measures.iter().position(|m| higher_is_better(m))?;
    Some(chart(run, analysis, X::Sparsity, Y::Raw(i)))
}

const WIDTH: f64 = 540.0;
const HEIGHT: f64 = 400.0;
const LABEL: f64 = 12.0;
const LINE: f64 = 15.0;

/// A chart with a curve for each method: error bands, markers, the unpruned model, rings where pruning stops
/// being free, and the names beside the curves.
pub(in super::super) fn chart(run: &Run, analysis: &Analysis, x: X, y: Y) -> Drawing {
    let curves = &analysis.curves;
    let title = y_title(run, analysis, y);
    let mut drawing =
        Drawing::new(WIDTH, HEIGHT, format!("{title} of {} against {}", run.header.model, x.title()));
    let bands: Vec<Vec<(f64, f64, f64, f64)>> = curves.iter().map(|c| band(c, x, y)).collect();
    let y_axis = y_axis(analysis, y, &bands);
    let x_axis = x_axis(curves, x);

    // The curves that leave at the top have their names there, the others at the right.
    let ends: Vec<End> = bands.iter().map(|b| End::of(b, y_axis)).collect();
    let widest = curves
        .iter()
        .zip(&ends)
        .filter(|(_, end)| matches!(end, End::Right(..)))
        .map(|(c, _)| text_width(&name(c), LABEL, true))
        .fold(0.0, f64::max);
    let plot = Plot {
        left: 44.0,
        top: 0.0,
        right: WIDTH - 14.0 - widest.min(170.0),
        bottom: HEIGHT - 44.0,
        x: x_axis,
        y: y_axis,
    };
    let top_labels = top_labels(curves, &ends, &plot);
    let rows = top_labels.iter().map(|l| l.row + 1).max().unwrap_or(0);
    let plot = Plot { top: 34.0 + LINE * rows as f64 + if rows > 0 { 6.0 } else { 0.0 }, ..plot };

    drawing.heading((0.0, 14.0), &title, 14.0);
    let tick = |v: f64, d: usize| match y {
        Y::Raw(i) if is_share(&run.header.measures[i]) => percent_tick(v, d),
        _ => plain_tick(v, d),
    };
    plot.y_ticks(&mut drawing, &tick);
    plot.x_ticks(&mut drawing, x.title(), &|v, d| x.tick(v, d));
    baseline(&mut drawing, run, analysis, y, &plot);
    for (i, (curve, band)) in curves.iter().zip(&bands).enumerate() {
        drawing.group(vec![("class", "series".into()), ("data-s", i.to_string())], |d| {
            draw_curve(d, i, curve, band, &plot, (x, y));
        });
    }
    for label in &top_labels {
        let i = label.curve;
        drawing.group(vec![("class", "series".into()), ("data-s", i.to_string())], |d| {
            let y = plot.top - 8.0 - LINE * label.row as f64;
            let foot = (label.at.min(label.x + 3.0), y + if label.x < label.at { 3.0 } else { -8.0 });
            d.line(vec![(label.at, plot.top - 1.0), foot], Ink::Series(curves[i].slot), 1.2, Some(2.0));
            let text = format!("{} ↑", name(&curves[i]));
            let ink = Ink::SeriesText(curves[i].slot);
            let x = label.x;
            d.text(Text { x, y, text, size: LABEL, bold: true, anchor: Anchor::Start, ink });
        });
    }
    let right: Vec<(usize, (f64, f64))> = ends
        .iter()
        .enumerate()
        .filter_map(|(i, end)| match end {
            End::Right(x, y) => Some((i, plot.place((*x, *y)))),
            _ => None,
        })
        .collect();
    let wanted: Vec<f64> = right.iter().map(|(_, end)| end.1).collect();
    for ((i, end), y) in right.iter().zip(apart(&wanted, LINE, (plot.top, plot.bottom))) {
        drawing.group(vec![("class", "series".into()), ("data-s", i.to_string())], |d| {
            d.line(
                vec![(end.0 + 5.0, end.1), (plot.right + 5.0, y)],
                Ink::Series(curves[*i].slot),
                1.0,
                Some(1.5),
            );
            let (x, y) = (plot.right + 8.0, y + 4.0);
            let text = name(&curves[*i]);
            let ink = Ink::SeriesText(curves[*i].slot);
            d.text(Text { x, y, text, size: LABEL, bold: true, anchor: Anchor::Start, ink });
        });
    }
    drawing
}

fn is_share(measure: &str) -> bool {
    matches!(measure, "top1" | "top5" | "argmax_equal")
}

/// A method's name, shortened where it is longer than a label may be.
fn name(curve: &Curve) -> String {
    let full = &curve.method;
    match full.char_indices().nth(24) {
        Some((at, _)) => format!("{}…", &full[..at]),
        None => full.clone(),
    }
}

fn y_title(run: &Run, analysis: &Analysis, y: Y) -> String {
    let deciding = run.header.measures.first().map_or("loss", String::as_str);
    let capital = format::capital;
    match (y, analysis.scale) {
        (Y::Raw(i), _) => {
            let name = &run.header.measures[i];
            format!("{}{}", capital(format::measure(name)), if is_share(name) { ", %" } else { "" })
        }
        (_, Scale::Relative { .. }) => {
            format!("{}, multiple of the unpruned model’s", capital(format::measure(deciding)))
        }
        (_, Scale::Absolute) => capital(format::measure(deciding)),
    }
}

/// (x, y, low, high) of a curve's points up to the first that isn't a number.
fn band(curve: &Curve, x: X, y: Y) -> Vec<(f64, f64, f64, f64)> {
    let points = curve.points.iter().map(|p| {
        let spread = y.value(p);
        let (low, high) = match p.indices.len() > 1 {
            true => (spread.low, spread.high),
            false if spread.standard_error.is_finite() => {
                (spread.mean - 2.0 * spread.standard_error, spread.mean + 2.0 * spread.standard_error)
            }
            false => (spread.mean, spread.mean),
        };
        (x.value(p), spread.mean, low, high)
    });
    points.take_while(|p| p.0.is_finite() && p.1.is_finite()).collect()
}

fn y_axis(analysis: &Analysis, y: Y, bands: &[Vec<(f64, f64, f64, f64)>]) -> Axis {
    let all = || bands.iter().flatten();
    let least = all().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let most = all().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let unpruned = analysis.scale.unpruned();
    match y {
        Y::Cut => {
            let high = analysis.shown_limit();
            let low = least.min(unpruned);
            Axis::linear(low - 0.04 * (high - low), high)
        }
        Y::Log => {
            let positive = all().map(|p| p.1).filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
            let low = if positive.is_finite() { positive.min(most) } else { 0.1 };
            let low = if unpruned > 0.0 { (low * 0.9).min(0.9) } else { low };
            Axis { low, high: (most * 1.1).max(low * 2.0), log: true }
        }
        // Nothing is hidden by starting above zero where everything happens close to one.
        Y::Raw(_) if least > 0.8 => {
            let (ticks, _) = format::ticks(least - 0.2 * (1.0 - least), 1.0, 5);
            let step = if ticks.len() > 1 { ticks[1] - ticks[0] } else { 0.1 };
            Axis::linear((least / step).floor() * step, 1.0f64.max(most))
        }
        Y::Raw(_) => Axis::linear(least.min(0.0), most.max(1.0)),
    }
}

fn x_axis(curves: &[Curve], x: X) -> Axis {
    let values = curves.iter().flat_map(|c| &c.points).map(|p| x.value(p)).filter(|v| v.is_finite());
    match x {
        X::Sparsity => {
            let least = values.fold(1.0, f64::min);
            Axis::linear(if least < 0.02 { 0.0 } else { least }, 1.0)
        }
        _ => Axis::linear(values.fold(0.0, f64::max), 0.0),
    }
}

/// Where a curve's name belongs.
enum End {
    /// It leaves at the top, between the points at these places: (x, y) of the last inside and the next.
    Top((f64, f64), (f64, f64)),
    /// It stays to this last point.
    Right(f64, f64),
    /// There is nothing of it.
    None,
}

impl End {
    fn of(band: &[(f64, f64, f64, f64)], axis: Axis) -> End {
        let Some(last) = band.last() else { return End::None };
        match band.iter().position(|p| p.1 > axis.high) {
            Some(i) if i > 0 && last.1 > axis.high => {
                let (a, b) = (band[i - 1], band[i]);
                End::Top((a.0, a.1), (b.0, b.1))
            }
            _ => End::Right(last.0, last.1.clamp(axis.low, axis.high)),
        }
    }
}

struct TopLabel {
    curve: usize,
    /// Where the curve leaves.
    at: f64,
    /// Where the label starts.
    x: f64,
    row: usize,
}

/// Names above the plot where curves leave it, in as many rows as it takes for none to touch.
///
/// A name stands to the right of the line that leads to it, and the rightmost curve has the lowest row: so no
/// line runs through a name.
fn top_labels(curves: &[Curve], ends: &[End], plot: &Plot) -> Vec<TopLabel> {
    let width = |i: usize| text_width(&format!("{} ↑", name(&curves[i])), LABEL, true);
    let mut labels: Vec<TopLabel> = Vec::new();
    for (i, end) in ends.iter().enumerate() {
        let End::Top(a, b) = end else { continue };
        let t = (plot.y.high - a.1) / (b.1 - a.1);
        let at = plot.px(a.0 + t * (b.0 - a.0));
        let x = (at + 2.0).min(WIDTH - width(i)).max(0.0);
        labels.push(TopLabel { curve: i, at, x, row: 0 });
    }
    labels.sort_by(|a, b| b.at.total_cmp(&a.at));
    // Where each row begins so far; a label takes the lowest row it fits into, above which all rows end.
    let mut starts: Vec<f64> = Vec::new();
    for label in &mut labels {
        let end = label.x + width(label.curve) + 8.0;
        label.row = starts.iter().position(|start| end <= *start).unwrap_or(starts.len());
        starts.truncate(label.row);
        starts.push(label.x);
    }
    labels
}

fn baseline(drawing: &mut Drawing, run: &Run, analysis: &Analysis, y: Y, plot: &Plot) {
    let value = match y {
        Y::Raw(i) => match run.unpruned.measure(&run.header.measures[i]) {
            Some(m) => {
                let (low, high) = (m.value - 2.0 * m.standard_error, m.value + 2.0 * m.standard_error);
                let ends = [plot.x.low, plot.x.high];
                let edge = |y: f64| plot.held(&ends.map(|x| (x, y)));
                let outline = edge(low).into_iter().chain(edge(high).into_iter().rev()).collect();
                drawing.area(outline, Ink::Axis, 0.15);
                m.value
            }
            None => return,
        },
        _ => analysis.scale.unpruned(),
    };
    // Against itself an error of zero is no level on a logarithmic axis.
    if value <= 0.0 && y == Y::Log {
        return;
    }
    let y = plot.py(value);
    drawing.line(vec![(plot.left, y), (plot.right, y)], Ink::Axis, 1.2, Some(4.0));
}

fn draw_curve(
    d: &mut Drawing,
    i: usize,
    curve: &Curve,
    band: &[(f64, f64, f64, f64)],
    plot: &Plot,
    (x, y): (X, Y),
) {
    let ink = Ink::Series(curve.slot);
    // A logarithmic axis has no place for an error of zero.
    let band: Vec<_> = band.iter().filter(|p| !(plot.y.log && p.1 <= 0.0)).collect();
    let low: Vec<(f64, f64)> = band.iter().map(|p| (p.0, p.2)).collect();
    let high: Vec<(f64, f64)> = band.iter().map(|p| (p.0, p.3)).collect();
    d.area(plot.held(&high).into_iter().chain(plot.held(&low).into_iter().rev()).collect(), ink, 0.16);
    let line: Vec<(f64, f64)> = band.iter().map(|p| (p.0, p.1)).collect();
    for piece in plot.cut(&line) {
        d.line(piece, ink, 2.0, None);
    }
    if y == Y::Cut && curve.free.crossed {
        let place = curve.free.place;
        let at = plot.place((curve.at(place, |p| x.value(p)), curve.at(place, |p| p.value.mean)));
        d.line(vec![(at.0, at.1 + 7.0), (at.0, plot.bottom)], ink, 1.2, Some(2.0));
        d.circle(at, 6.0, Some(Ink::Ground), Some((ink, 1.8)));
    }
    for (n, p) in curve.points.iter().enumerate() {
        let at = plot.place((x.value(p), y.value(p).mean));
        if !(at.0.is_finite() && at.1 >= plot.top - 0.5 && at.1 <= plot.bottom + 0.5) {
            continue;
        }
        let words = format!(
            "{}: {} at {}",
            curve.name(),
            format::with_error(y.value(p).mean, y.value(p).standard_error),
            format::percent(p.sparsity)
        );
        d.grouped(vec![("class", "point".into()), ("data-p", format!("{i} {n}"))], words, |d| {
            d.marker(at, curve.slot, if n == 0 { 0.0 } else { 2.6 });
        });
    }
}
