//! Which of two methods is better at the same target.

use super::curve::{Curve, CurvePoint, standard_error};

/// Differences of fewer standard errors are none.
const CERTAIN: f64 = 2.0;

/// What a comparison of two methods says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The first method is better.
    First,
    /// The second method is better.
    Second,
    /// The difference is within two standard errors.
    NoDifference,
}

/// Two methods at one target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Sparsity asked of both.
    pub target: f64,
    /// First minus second on the analysis's scale: negative where the first is better.
    pub difference: f64,
    /// Standard error of the difference, paired sample by sample where both kept them, with the part that
    /// comes from the choice of seeds.
    pub standard_error: f64,
    /// What that says.
    pub verdict: Verdict,
}

/// Two methods at all targets that both have.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairing {
    /// Index of the first method's curve.
    pub first: usize,
    /// Index of the second method's curve.
    pub second: usize,
    /// One for each target in ascending order.
    pub comparisons: Vec<Comparison>,
}

impl Pairing {
    /// The targets with that verdict, joined to ranges of targets next to each other.
    pub fn ranges(&self, verdict: Verdict) -> Vec<(f64, f64)> {
        let mut ranges: Vec<(f64, f64)> = Vec::new();
        let mut open = false;
        for c in &self.comparisons {
            match (c.verdict == verdict, open, ranges.last_mut()) {
                (true, true, Some(last)) => last.1 = c.target,
                (true, ..) => ranges.push((c.target, c.target)),
                _ => {}
            }
            open = c.verdict == verdict;
        }
        ranges
    }
}

pub(super) fn all(curves: &[Curve]) -> Vec<Pairing> {
    let pairs = (0..curves.len()).flat_map(|i| (i + 1..curves.len()).map(move |j| (i, j)));
    pairs.map(|(first, second)| pair(curves, first, second)).collect()
}

fn pair(curves: &[Curve], first: usize, second: usize) -> Pairing {
    let points = curves[first].points[1..].iter();
    let comparisons = points
        .filter_map(|a| {
            curves[second].points[1..].iter().find(|b| super::same(a.target, b.target)).map(|b| (a, b))
        })
        .map(|(a, b)| compare(a, b))
        .collect();
    Pairing { first, second, comparisons }
}

fn compare(a: &CurvePoint, b: &CurvePoint) -> Comparison {
    let difference = a.value.mean - b.value.mean;
    let standard_error = match (&a.samples, &b.samples) {
        (Some(x), Some(y)) if x.len() == y.len() => standard_error(x.iter().zip(y).map(|(x, y)| x - y))
            .hypot(a.value.seed_error)
            .hypot(b.value.seed_error),
        _ => a.value.standard_error.hypot(b.value.standard_error),
    };
    let verdict = match (a.value.mean.is_finite(), b.value.mean.is_finite()) {
        (true, false) => Verdict::First,
        (false, true) => Verdict::Second,
        // An error that isn't known (a single sample) makes nothing certain.
        _ if difference < -CERTAIN * standard_error => Verdict::First,
        _ if difference > CERTAIN * standard_error => Verdict::Second,
        _ => Verdict::NoDifference,
    };
    Comparison { target: a.target, difference, standard_error, verdict }
}
