//! Weight histograms before and after pruning.

use secateur::format;
use secateur::measure::Histogram;
use secateur::records::{LayerInfo, Run};

use super::super::analysis::Analysis;
use super::super::draw::{Anchor, Drawing, Ink, text_width};

/// Width and height of the bars' area.
pub(in super::super) const AREA: (f64, f64) = (190.0, 64.0);
/// Where the bars stand.
pub(in super::super) const BASE: f64 = 17.0 + AREA.1;
const HEIGHT: f64 = BASE + 16.0;
const NAME: f64 = 10.5;
const COLUMNS: usize = 5;
const GAP: f64 = 16.0;

/// The outline of bars over equal bins: heights are shares of `most`.
fn steps(counts: &[u64], most: u64) -> Vec<(f64, f64)> {
    let width = AREA.0 / counts.len().max(1) as f64;
    let mut points = vec![(0.0, BASE)];
    for (i, n) in counts.iter().enumerate() {
        let top = BASE - AREA.1 * *n as f64 / most.max(1) as f64;
        points.extend([(width * i as f64, top), (width * (i + 1) as f64, top)]);
    }
    points.push((AREA.0, BASE));
    points
}

/// The layers whose histograms are shown: the pruned ones, the largest of too many.
pub(in super::super) fn shown_layers(run: &Run) -> Vec<&LayerInfo> {
    largest(run.header.layers.iter().filter(|l| l.selected).collect(), |l| l.weights)
}

/// The largest 120 of more layers, in their order.
pub(in super::super) fn largest<T>(mut layers: Vec<T>, weights: impl Fn(&T) -> u64) -> Vec<T> {
    const MOST: usize = 120;
    if layers.len() > MOST {
        let mut sizes: Vec<u64> = layers.iter().map(&weights).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let least = sizes[MOST - 1];
        layers.retain(|l| weights(l) >= least);
        layers.truncate(MOST);
    }
    layers
}

/// Each pruned layer's weights before (grey) and after pruning by a method at a target; zeros are left out.
/// None where the run has no such point or pruned no layer.
pub fn histograms_figure(run: &Run, analysis: &Analysis, method: usize, target: f64) -> Option<Drawing> {
    let panels = histogram_panels(run, analysis, method, target);
    let title = format!(
        "Weights of {} before and after {} at {}",
        run.header.model,
        analysis.curves.get(method)?.method,
        format::percent(target)
    );
    (!panels.is_empty()).then(|| super::panels::grid(title, panels, (COLUMNS, GAP), 0.0))
}

/// A panel for each of [`shown_layers`]; none where the run has no such point.
pub(in super::super) fn histogram_panels(
    run: &Run,
    analysis: &Analysis,
    method: usize,
    target: f64,
) -> Vec<Drawing> {
    let point = analysis.curves.get(method).and_then(|c| c.point(target));
    let Some(&index) = point.and_then(|p| p.indices.first()) else { return Vec::new() };
    let slot = analysis.curves[method].slot;
    let panel = |(i, layer): (usize, &LayerInfo)| {
        histogram_panel(&layer.name, &layer.histogram, |d, most| {
            d.area(steps(&layer.histogram.counts, most), Ink::Axis, 0.35);
            let after = run.points[index].layers.iter().find(|l| l.name == layer.name);
            d.group(vec![("class", "after".into()), ("data-h", i.to_string())], |d| {
                d.area(steps(after.map_or(&[], |l| &l.kept), most), Ink::Series(slot), 0.85);
            });
        })
    };
    shown_layers(run).into_iter().enumerate().map(panel).collect()
}

/// The panel of a layer's weights as they are.
pub(in super::super) fn weights_panel(name: &str, histogram: &Histogram) -> Drawing {
    histogram_panel(name, histogram, |d, most| d.area(steps(&histogram.counts, most), Ink::Series(0), 0.85))
}

/// A panel with a layer's name and the axis of its histogram; `bars` draws between them, the fullest bin as
/// high as the area.
fn histogram_panel(name: &str, histogram: &Histogram, bars: impl FnOnce(&mut Drawing, u64)) -> Drawing {
    let mut d = Drawing::new(AREA.0, HEIGHT, format!("Weights of {name}"));
    d.label((0.0, 11.0), fitted_end(name), NAME, Anchor::Start, Ink::Text);
    bars(&mut d, histogram.counts.iter().copied().max().unwrap_or(0));
    d.line(vec![(0.0, BASE), (AREA.0, BASE)], Ink::Axis, 1.0, None);
    let limit = format::number(histogram.limit);
    let ticks = [
        (0.0, format!("−{limit}"), Anchor::Start),
        (AREA.0 / 2.0, "0".to_string(), Anchor::Middle),
        (AREA.0, limit.clone(), Anchor::End),
    ];
    for (x, text, anchor) in ticks {
        d.label((x, BASE + 12.0), text, 9.5, anchor, Ink::Muted);
    }
    d
}

/// The end of a layer's name that fits above its panel: what tells layers apart stands there.
fn fitted_end(name: &str) -> String {
    let mut start = name.char_indices().map(|(i, _)| i);
    let mut fit = name.to_string();
    while text_width(&fit, NAME, false) > AREA.0 {
        let Some(at) = start.next() else { break };
        fit = format!("…{}", &name[at..]);
    }
    fit
}
