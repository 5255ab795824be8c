//! A method's points, and how far along them pruning is free.

use secateur::measure::Bytes;
use secateur::records::Latency;

use super::{Fit, same};

/// A method's points in the order of their sparsity, the unpruned model first.
#[derive(Clone, Debug)]
pub struct Curve {
    /// The method.
    pub method: String,
    /// The layer that is pruned alone, in a sensitivity run.
    pub layer: Option<String>,
    /// How many seeds each point averages at most; 1 for a method that draws nothing at random.
    pub seeds: usize,
    /// The points.
    pub points: Vec<CurvePoint>,
    /// How far pruning is free.
    pub free: Free,
    /// The exponential through the points; none where there are fewer than four below ten times the unpruned
    /// loss, or the scale isn't relative.
    pub fit: Option<Fit>,
    /// The series that it is drawn as, by its method.
    pub(in super::super) slot: usize,
}

/// A method at one target, averaged over its seeds.
#[derive(Clone, Debug)]
pub struct CurvePoint {
    /// Sparsity asked for.
    pub target: f64,
    /// Sparsity achieved: over the selected weights, or over the layer's where the curve is a layer's.
    pub sparsity: f64,
    /// Parameters that are not zero.
    pub parameters: f64,
    /// Multiply-accumulate operations with a weight that is not zero.
    pub macs: f64,
    /// File sizes.
    pub bytes: Option<MeanBytes>,
    /// The model's time, where it was measured: that of the middle one of the seeds.
    pub latency: Option<Latency>,
    /// The deciding measure on the analysis's scale.
    pub value: Spread,
    /// How much worse than the unpruned model it is, as the analysis's tolerance counts.
    pub harm: Harm,
    /// The measures as they are, in the header's order.
    pub measures: Vec<Spread>,
    /// Indices of the averaged points in [`secateur::records::Run::points`]; none for the unpruned model.
    pub indices: Vec<usize>,
    /// The deciding measure of each sample on the analysis's scale, averaged over the seeds.
    pub(super) samples: Option<Vec<f64>>,
}

/// How much worse than the unpruned model a point is: what a [`super::Tolerance`] is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Harm {
    /// The judged measure's change for the worse: a share of the unpruned model's value, or a difference.
    pub excess: f64,
    /// Its standard error, paired sample by sample where the samples were kept.
    pub error: f64,
}

/// File sizes averaged over seeds; see [`Bytes`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanBytes {
    /// As written.
    pub raw: f64,
    /// After gzip.
    pub gzip: f64,
    /// After zstd.
    pub zstd: f64,
    /// With its tensors packed; none where that was not measured of all.
    pub packed: Option<f64>,
    /// The entropy bound.
    pub entropy: f64,
}

impl From<Bytes> for MeanBytes {
    fn from(bytes: Bytes) -> MeanBytes {
        let Bytes { raw, gzip, zstd, packed, entropy } = bytes;
        let packed = packed.map(|packed| packed as f64);
        MeanBytes { raw: raw as f64, gzip: gzip as f64, zstd: zstd as f64, packed, entropy }
    }
}

/// A mean over seeds with its error and range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Mean over the seeds.
    pub mean: f64,
    /// Standard error of the mean: that of the samples and that of the seeds together. On a relative scale it
    /// is paired with the unpruned model sample by sample, so that hard samples count as hard for both.
    pub standard_error: f64,
    /// The part of it that comes from the choice of seeds; 0 for one seed.
    pub seed_error: f64,
    /// Least over the seeds.
    pub low: f64,
    /// Greatest over the seeds.
    pub high: f64,
}

/// How far pruning is free: up to the first point at which the harm exceeds the tolerance, or its own standard
/// error where that is larger; linear between points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Free {
    /// Sparsity at the crossing, or the last one where there is none.
    pub sparsity: f64,
    /// The crossing as a place on the curve: 2.5 is half way between points 2 and 3.
    pub place: f64,
    /// Whether the curve crosses at all.
    pub crossed: bool,
    /// The same for the curve raised by two standard errors: up to here it is free beyond doubt.
    pub certain: f64,
    /// The same for the curve lowered by two standard errors: beyond here it is not.
    pub possible: f64,
    /// The standard error at the crossing, where it and not the tolerance decides: more samples give a finer result.
    pub limited_by: Option<f64>,
}

impl Spread {
    /// From each seed's value and standard error. All seeds see the same samples, so their errors don't
    /// average out; the differences between seeds do.
    pub(super) fn over_seeds(values: &[(f64, f64)]) -> Spread {
        let n = values.len() as f64;
        let error = values.iter().map(|v| v.1).sum::<f64>() / n;
        let seed_error = match values {
            [_] => 0.0,
            _ => standard_error(values.iter().map(|v| v.0)),
        };
        Spread {
            mean: values.iter().map(|v| v.0).sum::<f64>() / n,
            standard_error: error.hypot(seed_error),
            seed_error,
            low: values.iter().map(|v| v.0).fold(f64::INFINITY, f64::min),
            high: values.iter().map(|v| v.0).fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// Standard deviation ÷ √n; NaN for fewer than two values.
pub(super) fn standard_error(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let (n, sum) = values.clone().fold((0.0, 0.0), |(n, sum), v| (n + 1.0, sum + v));
    if n < 2.0 {
        return f64::NAN;
    }
    let mean: f64 = sum / n;
    let squares: f64 = values.map(|v| (v - mean).powi(2)).sum();
    (squares / (n - 1.0) / n).sqrt()
}

impl Curve {
    /// The place at which the deciding measure's mean first exceeds `level`, linear between points; none where it
    /// doesn't.
    pub fn crossing(&self, level: f64) -> Option<f64> {
        crossing(self.points.iter().map(|p| p.value.mean), level)
    }

    /// A quantity of the points at a place between them, such as the file size at [`Free::place`].
    pub fn at(&self, place: f64, quantity: impl Fn(&CurvePoint) -> f64) -> f64 {
        at(&self.points, place, quantity)
    }

    /// The point with that target.
    pub fn point(&self, target: f64) -> Option<&CurvePoint> {
        self.points.iter().find(|p| same(p.target, target))
    }

    /// The layer of a sensitivity run, otherwise the method.
    pub fn name(&self) -> &str {
        self.layer.as_deref().unwrap_or(&self.method)
    }
}

fn at(points: &[CurvePoint], place: f64, quantity: impl Fn(&CurvePoint) -> f64) -> f64 {
    let i = (place.floor() as usize).min(points.len() - 1);
    let here = quantity(&points[i]);
    let part = place - i as f64;
    match points.get(i + 1) {
        Some(next) if part > 0.0 => here + part * (quantity(next) - here),
        _ => here,
    }
}

/// A share of the weights by which standard errors must move what is free to be called what limits.
const LEAST_MOVE: f64 = 0.005;

/// A value that isn't a number lies above every level; between a finite value and such a one nothing can be
/// said, so the crossing is at the finite one.
fn crossing(values: impl Iterator<Item = f64>, level: f64) -> Option<f64> {
    let mut previous: Option<f64> = None;
    for (i, value) in values.enumerate() {
        if value > level || value.is_nan() {
            let Some(previous) = previous else { return Some(0.0) };
            let part = if value.is_finite() { (level - previous) / (value - previous) } else { 0.0 };
            return Some(i as f64 - 1.0 + part);
        }
        previous = Some(value);
    }
    None
}

/// How far points are free, up to a harm of `tolerance`.
pub(super) fn free(points: &[CurvePoint], tolerance: f64) -> Free {
    let last = (points.len() - 1) as f64;
    let error = |p: &CurvePoint| if p.harm.error.is_finite() { p.harm.error } else { 0.0 };
    let exceeds =
        |level: &dyn Fn(&CurvePoint) -> f64| crossing(points.iter().map(|p| p.harm.excess - level(p)), 0.0);
    let sparsity = |place: Option<f64>| at(points, place.unwrap_or(last), |p| p.sparsity);
    let place = exceeds(&|p| tolerance.max(error(p)));
    let finer = exceeds(&|_| tolerance);
    let moved = sparsity(place) - sparsity(finer) > LEAST_MOVE;
    Free {
        sparsity: sparsity(place),
        place: place.unwrap_or(last),
        crossed: place.is_some(),
        certain: sparsity(exceeds(&|p| tolerance - 2.0 * error(p))),
        possible: sparsity(exceeds(&|p| tolerance + 2.0 * error(p))),
        limited_by: moved.then(|| at(points, place.unwrap_or(last), error)),
    }
}
