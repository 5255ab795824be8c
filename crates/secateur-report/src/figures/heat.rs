//! Heat maps with a row for each layer.

use secateur::format;
use secateur::records::Run;

use super::super::analysis::{Analysis, Scale};
use super::super::draw::{Anchor, Drawing, Ink, Text, text_width};

const ROW: f64 = 18.0;
const CELL: f64 = 60.0;
const SMALL: f64 = 11.0;
/// Layer names beyond this width are shortened.
const WIDEST_NAME: f64 = 260.0;

struct Cell {
    /// Share of the colour scale.
    heat: f64,
    text: String,
}

struct Map {
    title: String,
    /// Names and what stands beside them.
    rows: Vec<(String, String)>,
    columns: Vec<(String, Ink)>,
    /// Whether the report's script fills the cells.
    scripted: bool,
}

impl Map {
    fn draw(&self, cell: impl Fn(usize, usize) -> Option<Cell>) -> Drawing {
        let names: Vec<String> = self.rows.iter().map(|r| fitted(&r.0, SMALL, WIDEST_NAME)).collect();
        let wide = |texts: &mut dyn Iterator<Item = &str>| {
            texts.map(|t| text_width(t, SMALL, false)).fold(0.0, f64::max)
        };
        let name_width = 2.0 + wide(&mut names.iter().map(String::as_str));
        let note_width = wide(&mut self.rows.iter().map(|r| r.1.as_str()));
        let left = name_width + 14.0 + note_width + 10.0;
        let heads = self.columns.iter().map(|c| text_width(&c.0, SMALL, true) + 12.0);
        let width = heads.fold(CELL, f64::max).min(150.0);
        let top = 22.0;
        let size = (left + width * self.columns.len() as f64, top + ROW * self.rows.len() as f64 + 2.0);
        let mut d = Drawing::new(size.0, size.1, self.title.clone());
        for (c, (name, ink)) in self.columns.iter().enumerate() {
            let x = left + width * (c as f64 + 0.5);
            let text = fitted(name, SMALL, width - 6.0);
            d.text(Text { x, y: 13.0, text, size: SMALL, bold: true, anchor: Anchor::Middle, ink: *ink });
        }
        for (r, name) in names.iter().enumerate() {
            let y = top + ROW * r as f64;
            d.label((name_width, y + 13.0), name, SMALL, Anchor::End, Ink::Text);
            let note = (name_width + 14.0 + note_width, y + 13.0);
            d.label(note, &self.rows[r].1, SMALL, Anchor::End, Ink::Muted);
            for c in 0..self.columns.len() {
                let x = left + width * c as f64;
                // A method without this target has an empty cell, which the report's script may fill.
                let empty = || Cell { heat: 0.0, text: String::new() };
                let Cell { heat, text } = cell(r, c).unwrap_or_else(empty);
                let attributes = if self.scripted {
                    vec![("class", "layer".to_string()), ("data-c", format!("{r} {c}"))]
                } else {
                    Vec::new()
                };
                let words = if text.is_empty() {
                    String::new()
                } else {
                    format!("{}, {}: {text}", self.rows[r].0, self.columns[c].0)
                };
                d.grouped(attributes, words, |d| {
                    d.rect((x + 0.5, y + 0.5), (width - 1.0, ROW - 1.0), Ink::Heat(heat));
                    let at = (x + width / 2.0, y + 13.0);
                    d.label(at, text, SMALL, Anchor::Middle, Ink::OnHeat(heat));
                });
            }
        }
        d
    }
}

/// The text without its middle where it is wider than it may be.
fn fitted(text: &str, size: f64, widest: f64) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut keep = chars.len();
    let mut fit = text.to_string();
    while keep > 1 && text_width(&fit, size, true) > widest {
        keep -= 1;
        let (head, tail) = (keep / 2, keep - keep / 2);
        fit = chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect();
    }
    fit
}

/// The sparsity of each pruned layer under each method at a target. None where no layer was recorded.
pub fn layers_figure(run: &Run, analysis: &Analysis, target: f64) -> Option<Drawing> {
    let layers: Vec<_> = run.header.layers.iter().filter(|l| l.selected).collect();
    if layers.is_empty() {
        return None;
    }
    let map = Map {
        title: format!(
            "Sparsity of each layer of {} at a target of {}, in per cent",
            run.header.model,
            format::percent(target)
        ),
        rows: layers.iter().map(|l| (l.name.clone(), format::grouped(l.weights as i64))).collect(),
        columns: analysis.curves.iter().map(|c| (c.method.clone(), Ink::SeriesText(c.slot))).collect(),
        scripted: true,
    };
    Some(map.draw(|row, column| {
        let sparsity = layer_sparsity(run, analysis, column, target, &layers[row].name)?;
        Some(Cell { heat: sparsity, text: format::percent_number(sparsity) })
    }))
}

/// A layer's sparsity under a method at a target, averaged over the seeds.
pub(in super::super) fn layer_sparsity(
    run: &Run,
    analysis: &Analysis,
    curve: usize,
    target: f64,
    layer: &str,
) -> Option<f64> {
    let point = analysis.curves[curve].point(target)?;
    let found = point.indices.iter().filter_map(|i| run.points[*i].layers.iter().find(|l| l.name == layer));
    let (sum, n) = found.fold((0.0, 0.0), |(sum, n), l| (sum + l.sparsity, n + 1.0));
    (n > 0.0).then(|| sum / n)
}

/// The sensitivity of each layer, under a heading that says what it shows.
pub fn sensitivity_figure(run: &Run, analysis: &Analysis) -> Drawing {
    const TOP: f64 = 46.0;
    let map = sensitivity_chart(run, analysis);
    let mut d = Drawing::new(map.width, map.height + TOP, map.title.clone());
    d.heading((0.0, 14.0), map.title.clone(), 14.0);
    let words = format!(
        "{} at each sparsity of a layer pruned alone. Next to the layers: their counts of weights.",
        format::capital(&analysis.reading(run))
    );
    d.label((0.0, 32.0), words, SMALL, Anchor::Start, Ink::Muted);
    d.place(map, (0.0, TOP));
    d
}

/// The deciding measure for each layer pruned alone against sparsity, the most sensitive layer first. The
/// colour grows with the logarithm: from free to three times the unpruned loss, or to an error as large as the
/// output.
pub(in super::super) fn sensitivity_chart(run: &Run, analysis: &Analysis) -> Drawing {
    let order = analysis.by_sensitivity();
    let targets = analysis.targets();
    let weights = |name: &str| {
        let layer = run.header.layer(name);
        layer.map_or_else(String::new, |l| format::grouped(l.weights as i64))
    };
    let map = Map {
        title: format!("Sensitivity of each layer of {}", run.header.model),
        rows: order
            .iter()
            .map(|i| analysis.curves[*i].name())
            .map(|name| (name.to_string(), weights(name)))
            .collect(),
        columns: targets.iter().map(|t| (format::percent(*t), Ink::Text)).collect(),
        scripted: false,
    };
    let excess_at_top = match analysis.scale {
        Scale::Relative { .. } => 2.0,
        Scale::Absolute => 1.0,
    };
    map.draw(|row, column| {
        let point = analysis.curves[order[row]].point(targets[column])?;
        let value = point.value.mean;
        let excess = value - analysis.scale.unpruned();
        let heat = match excess {
            e if e.is_nan() => 1.0,
            e => {
                (e.max(analysis.threshold()) / analysis.threshold()).ln()
                    / (excess_at_top / analysis.threshold()).ln()
            }
        };
        Some(Cell { heat, text: format::number(value) })
    })
}
