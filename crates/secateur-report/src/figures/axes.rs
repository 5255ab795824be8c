//! Axes: from values to pixels, with ticks and titles.

use secateur::format;

use super::super::draw::{Anchor, Drawing, Ink};

/// From values to shares of the axis; `low` may exceed `high`, then the axis runs backwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub low: f64,
    pub high: f64,
    pub log: bool,
}

impl Axis {
    pub(super) fn linear(low: f64, high: f64) -> Axis {
        Axis { low, high, log: false }
    }

    pub(super) fn share(self, value: f64) -> f64 {
        let f = |v: f64| if self.log { v.max(f64::MIN_POSITIVE).ln() } else { v };
        let (low, high) = (f(self.low), f(self.high));
        if low == high { 0.0 } else { (f(value) - low) / (high - low) }
    }

    /// Round values with their labels; `unit` writes one.
    fn ticks(self, most: usize, unit: &dyn Fn(f64, usize) -> String) -> Vec<(f64, String)> {
        let (low, high) = (self.low.min(self.high), self.low.max(self.high));
        if self.log {
            let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
            let values = powers.flat_map(|p| [1.0, 2.0, 5.0].map(|m| m * 10f64.powi(p)));
            let values: Vec<f64> = values.filter(|v| *v >= low * 0.999 && *v <= high * 1.001).collect();
            let every = values.len().div_ceil(most.max(1)).max(1);
            return values.into_iter().step_by(every).map(|v| (v, round(v))).collect();
        }
        let (values, decimals) = format::ticks(low, high, most);
        values.into_iter().map(|v| (v, unit(v, decimals))).collect()
    }
}

/// A round number with no more digits than it has.
fn round(value: f64) -> String {
    if (1e-4..1e6).contains(&value) {
        format!("{}", (value * 1e6).round() / 1e6)
    } else {
        format!("{value:e}")
    }
}

/// The rectangle that data is drawn in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plot {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
    pub x: Axis,
    pub y: Axis,
}

/// Size of tick labels.
const SMALL: f64 = 11.0;

impl Plot {
    pub(super) fn place(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.px(x), self.py(y))
    }

    pub(super) fn px(&self, x: f64) -> f64 {
        self.left + self.x.share(x) * (self.right - self.left)
    }

    pub(super) fn py(&self, y: f64) -> f64 {
        self.bottom - self.y.share(y) * (self.bottom - self.top)
    }

    /// Grid lines and labels of the y axis; `unit` writes a value with so many decimals.
    pub(super) fn y_ticks(&self, drawing: &mut Drawing, unit: &dyn Fn(f64, usize) -> String) {
        let most = ((self.bottom - self.top) / 45.0) as usize;
        for (value, label) in self.y.ticks(most.max(4), unit) {
            let y = self.py(value);
            drawing.line(vec![(self.left, y), (self.right, y)], Ink::Grid, 1.0, None);
            drawing.label((self.left - 6.0, y + 4.0), label, SMALL, Anchor::End, Ink::Muted);
        }
    }

    /// The x axis with ticks, labels and its title below.
    pub(super) fn x_ticks(&self, drawing: &mut Drawing, title: &str, unit: &dyn Fn(f64, usize) -> String) {
        let most = ((self.right - self.left) / 60.0) as usize;
        drawing.line(vec![(self.left, self.bottom), (self.right, self.bottom)], Ink::Axis, 1.0, None);
        for (value, label) in self.x.ticks(most.max(2), unit) {
            let x = self.px(value);
            drawing.line(vec![(x, self.bottom), (x, self.bottom + 4.0)], Ink::Axis, 1.0, None);
            drawing.label((x, self.bottom + 17.0), label, SMALL, Anchor::Middle, Ink::Muted);
        }
        if !title.is_empty() {
            drawing.label((self.right, self.bottom + 35.0), title, SMALL, Anchor::End, Ink::Muted);
        }
    }

    /// The pieces of a line that lie within the plot's height, cut where it leaves, in pixels.
    pub(super) fn cut(&self, points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
        let mut pieces: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
        let inside = |p: (f64, f64)| p.1 >= self.top - 0.01 && p.1 <= self.bottom + 0.01;
        let mut previous: Option<(f64, f64)> = None;
        for point in points.iter().map(|p| self.place(*p)) {
            if let Some(before) = previous {
                // Edges that the segment crosses, in the order it meets them.
                let mut crossings: Vec<f64> = [self.top, self.bottom]
                    .into_iter()
                    .map(|edge| (edge - before.1) / (point.1 - before.1))
                    .filter(|t| *t > 0.0 && *t < 1.0)
                    .collect();
                crossings.sort_by(f64::total_cmp);
                for t in crossings {
                    let at = (before.0 + t * (point.0 - before.0), before.1 + t * (point.1 - before.1));
                    match pieces.last_mut() {
                        Some(piece) if !piece.is_empty() => {
                            piece.push(at);
                            pieces.push(Vec::new());
                        }
                        Some(piece) => piece.push(at),
                        None => {}
                    }
                }
            }
            if inside(point)
                && let Some(piece) = pieces.last_mut()
            {
                piece.push(point);
            }
            previous = Some(point);
        }
        pieces.retain(|p| p.len() > 1);
        pieces
    }

    /// A line held within the plot's height: where it would leave it runs along the edge. In pixels.
    pub(super) fn held(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let mut held: Vec<(f64, f64)> = Vec::new();
        let mut previous: Option<(f64, f64)> = None;
        for point in points.iter().map(|p| self.place(*p)) {
            if let Some(before) = previous {
                for edge in [self.top, self.bottom] {
                    let t = (edge - before.1) / (point.1 - before.1);
                    if t > 0.0 && t < 1.0 {
                        held.push((before.0 + t * (point.0 - before.0), edge));
                    }
                }
            }
            held.push((point.0, point.1.clamp(self.top, self.bottom)));
            previous = Some(point);
        }
        held
    }
}

/// Percent without the sign, for axes whose title says it.
pub(super) fn percent_tick(value: f64, decimals: usize) -> String {
    format!("{:.*}", decimals.saturating_sub(2), value * 100.0)
}

/// A plain number with so many decimals.
pub(super) fn plain_tick(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}

/// Moves labels apart that stand closer than `gap`, as little as it takes, within an interval. The positions
/// come back in the order given.
pub(super) fn apart(wanted: &[f64], gap: f64, (low, high): (f64, f64)) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    // Groups of labels that touch, each spread evenly about the mean of what its labels want.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let start = |group: &[usize]| {
        let mean = group.iter().map(|i| wanted[*i]).sum::<f64>() / group.len() as f64;
        let length = gap * (group.len() - 1) as f64;
        (mean - length / 2.0).clamp(low, (high - length).max(low))
    };
    for i in order {
        groups.push(vec![i]);
        while let [.., before, last] = &groups[..] {
            if start(before) + gap * before.len() as f64 <= start(last) {
                break;
            }
            let last = groups.pop().unwrap_or_default();
            if let Some(before) = groups.last_mut() {
                before.extend(last);
            }
        }
    }
    let mut placed = vec![0.0; wanted.len()];
    for group in groups {
        let start = start(&group);
        for (n, i) in group.into_iter().enumerate() {
            placed[i] = start + gap * n as f64;
        }
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_move_apart_and_stay_in_order() {
        assert_eq!(apart(&[10.0, 50.0], 12.0, (0.0, 100.0)), [10.0, 50.0]);
        assert_eq!(apart(&[50.0, 50.0, 10.0], 12.0, (0.0, 100.0)), [44.0, 56.0, 10.0]);
        assert_eq!(apart(&[99.0, 100.0], 12.0, (0.0, 100.0)), [88.0, 100.0]);
        assert_eq!(apart(&[], 12.0, (0.0, 100.0)), [0.0; 0]);
    }

    #[test]
    fn lines_are_cut_at_the_edges() {
        let axis = Axis::linear(0.0, 10.0);
        let plot = Plot { left: 0.0, top: 0.0, right: 10.0, bottom: 10.0, x: axis, y: axis };
        let pieces = plot.cut(&[(0.0, 5.0), (1.0, 15.0), (2.0, 5.0), (3.0, 5.0)]);
        assert_eq!(pieces, [vec![(0.0, 5.0), (0.5, 0.0)], vec![(1.5, 0.0), (2.0, 5.0), (3.0, 5.0)]]);
        let held = plot.held(&[(0.0, 5.0), (1.0, 15.0), (2.0, 5.0)]);
        assert_eq!(held, [(0.0, 5.0), (0.5, 0.0), (1.0, 0.0), (1.5, 0.0), (2.0, 5.0)]);
        // From below to above within one step.
        let through = plot.cut(&[(0.0, -10.0), (1.0, 20.0)]);
        assert_eq!(through.len(), 1);
        assert!((through[0][0].1 - 10.0).abs() < 1e-9 && through[0][1].1.abs() < 1e-9);
    }

    #[test]
    fn axes_run_both_ways() {
        assert_eq!(Axis::linear(0.0, 4.0).share(1.0), 0.25);
        assert_eq!(Axis::linear(4.0, 0.0).share(1.0), 0.75);
        assert_eq!(Axis::linear(1.0, 1.0).share(1.0), 0.0);
        let log = Axis { low: 1.0, high: 100.0, log: true };
        assert!((log.share(10.0) - 0.5).abs() < 1e-12);
        let labels: Vec<_> = log.ticks(9, &plain_tick).into_iter().map(|t| t.1).collect();
        assert_eq!(labels, ["1", "2", "5", "10", "20", "50", "100"]);
    }
}
