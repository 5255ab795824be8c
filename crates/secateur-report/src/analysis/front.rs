//! Accuracy against latency: the points that a person chooses from.

use secateur::format;
use secateur::records::{Latency, Run, UNPRUNED};

use super::{Analysis, higher_is_better};

/// The points of a run whose models were timed.
#[derive(Clone, Debug, PartialEq)]
pub struct Operating {
    /// The measure's place in the header: the first of which more is better, otherwise the deciding one.
    pub measure: usize,
    /// The unpruned model.
    pub unpruned: OperatingPoint,
    /// All points, curve by curve.
    pub points: Vec<OperatingPoint>,
}

/// A model that can be chosen: how fast and how good it is.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatingPoint {
    /// The curve's place in [`Analysis::curves`] and the point's in it; none for the unpruned model.
    pub at: Option<(usize, usize)>,
    /// Its name: method and sparsity.
    pub name: String,
    /// Time of a run in seconds: the share of the unpruned model's time beside it, times the unpruned model's time
    /// when the run began, so that points timed at another hour compare.
    pub latency: f64,
    /// The tenth and the nine tenths of its runs, scaled alike.
    pub spread: [f64; 2],
    /// The unpruned model's time ÷ its own.
    pub speedup: f64,
    /// The measure.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
    /// Whether no other point is both faster and better.
    pub on_front: bool,
}

impl Analysis {
    /// The operating points; none where no model was timed.
    pub fn operating(&self, run: &Run) -> Option<Operating> {
        let reference = run.unpruned.latency?;
        let measures = &run.header.measures;
        let measure = measures.iter().position(|m| higher_is_better(m)).unwrap_or(0);
        let found = run.unpruned.measure(measures.get(measure)?)?;
        // The median and the spread of runs that take this share of the unpruned model's time.
        let scaled = |time: &Latency, share: f64| {
            let latency = share * reference.unpruned;
            (latency, [time.p10, time.p90].map(|t| t * latency / time.median))
        };
        let (latency, spread) = scaled(&reference, 1.0);
        let mut unpruned = OperatingPoint {
            at: None,
            name: UNPRUNED.into(),
            latency,
            spread,
            speedup: 1.0,
            value: found.value,
            error: found.standard_error,
            on_front: false,
        };
        let mut points = Vec::new();
        for (c, curve) in self.curves.iter().enumerate() {
            for (p, point) in curve.points.iter().enumerate().skip(1) {
                let Some(time) = point.latency else { continue };
                let (latency, spread) = scaled(&time, time.share);
                points.push(OperatingPoint {
                    at: Some((c, p)),
                    name: format!("{} {}", curve.method, format::percent(point.sparsity)),
                    latency,
                    spread,
                    speedup: 1.0 / time.share,
                    value: point.measures[measure].mean,
                    error: point.measures[measure].standard_error,
                    on_front: false,
                });
            }
        }
        let more_is_better = higher_is_better(&measures[measure]);
        let all: Vec<(f64, f64)> = points
            .iter()
            .chain([&unpruned])
            .map(|p| (p.latency, if more_is_better { -p.value } else { p.value }))
            .collect();
        for i in front(&all) {
            points.get_mut(i).unwrap_or(&mut unpruned).on_front = true;
        }
        Some(Operating { measure, unpruned, points })
    }
}

impl Operating {
    /// The points on the Pareto front, the fastest first.
    pub fn front(&self) -> Vec<&OperatingPoint> {
        let mut front: Vec<_> = self.points.iter().chain([&self.unpruned]).filter(|p| p.on_front).collect();
        front.sort_by(|a, b| a.latency.total_cmp(&b.latency));
        front
    }

    /// What tables show: the points on the front with their numbers, then the unpruned model where it is not one of
    /// them.
    pub fn shown(&self) -> Vec<(String, &OperatingPoint)> {
        let front = self.front().into_iter().enumerate().map(|(i, point)| ((i + 1).to_string(), point));
        let unpruned = (!self.unpruned.on_front).then(|| (String::new(), &self.unpruned));
        front.chain(unpruned).collect()
    }
}

/// Places of the pairs that no other pair is at most as large as in both, and smaller in one. What isn't a number is
/// on no front.
fn front(pairs: &[(f64, f64)]) -> Vec<usize> {
    let beats = |a: (f64, f64), b: (f64, f64)| a.0 <= b.0 && a.1 <= b.1 && a != b;
    let known = |i: &usize| pairs[*i].0.is_finite() && pairs[*i].1.is_finite();
    (0..pairs.len()).filter(known).filter(|&i| !pairs.iter().any(|&other| beats(other, pairs[i]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_holds_what_nothing_beats() {
        let pairs = [(3.0, 1.0), (2.0, 2.0), (2.5, 2.0), (1.0, 5.0), (1.0, 6.0), (f64::NAN, 0.0), (2.0, 2.0)];
        assert_eq!(front(&pairs), [0, 1, 3, 6]);
        assert_eq!(front(&[]), [0usize; 0]);
    }
}
