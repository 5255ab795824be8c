//! What the points of a run say: curves relative to the unpruned model, how far pruning is free, the
//! exponential, and which method is better.

mod compare;
mod fit;

use secateur_model::Result;

pub use compare::{Comparison, Pairing, Verdict};
pub use fit::Fit;

use super::{Point, Run};

/// Loss above the unpruned model's by less than this share counts as free.
pub const FREE_THRESHOLD: f64 = 0.01;

/// Whether more of a measure is better: it is for accuracies and similarities, not for losses and errors.
pub fn higher_is_better(measure: &str) -> bool {
    matches!(measure, "top1" | "top5" | "cosine" | "argmax_equal")
}

/// A run, analysed by its deciding measure: the first of [`super::RunHeader::measures`].
#[derive(Clone, Debug)]
pub struct Analysis {
    /// How the deciding measure is read.
    pub scale: Scale,
    /// How much worse than the unpruned model still counts as free.
    pub threshold: f64,
    /// A curve for each method, or in a sensitivity run for each layer, in the header's order.
    pub curves: Vec<Curve>,
    /// Every two methods against each other; none in a sensitivity run.
    pub pairings: Vec<Pairing>,
}

/// How the deciding measure is read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// As a multiple of the unpruned model's value, which therefore stands at 1.
    Relative {
        /// The unpruned model's value.
        unpruned: f64,
    },
    /// As it is, where it measures the distance from the unpruned model, which therefore stands at 0.
    Absolute,
}

impl Scale {
    /// Where the unpruned model stands.
    pub fn unpruned(self) -> f64 {
        match self {
            Scale::Relative { .. } => 1.0,
            Scale::Absolute => 0.0,
        }
    }

    fn unit(self) -> f64 {
        match self {
            Scale::Relative { unpruned } => unpruned,
            Scale::Absolute => 1.0,
        }
    }
}

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
}

/// A method at one target, averaged over its seeds.
#[derive(Clone, Debug)]
pub struct CurvePoint {
    /// Sparsity asked for.
    pub target: f64,
    /// Sparsity achieved over the selected weights.
    pub sparsity: f64,
    /// Parameters that are not zero.
    pub parameters: f64,
    /// Multiply-accumulate operations with a weight that is not zero.
    pub macs: f64,
    /// File sizes.
    pub bytes: Option<MeanBytes>,
    /// The deciding measure on the analysis's scale.
    pub value: Spread,
    /// The measures as they are, in the header's order.
    pub measures: Vec<Spread>,
    /// Indices of the averaged points in [`Run::points`]; none for the unpruned model.
    pub indices: Vec<usize>,
    /// The deciding measure of each sample on the analysis's scale, averaged over the seeds.
    samples: Option<Vec<f64>>,
}

/// File sizes averaged over seeds; see [`super::Bytes`].
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

impl From<super::Bytes> for MeanBytes {
    fn from(bytes: super::Bytes) -> MeanBytes {
        let super::Bytes { raw, gzip, zstd, packed, entropy } = bytes;
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

/// How far pruning is free: up to the first crossing of the threshold, linear between points.
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
}

impl Analysis {
    /// Analyses a run with a threshold such as [`FREE_THRESHOLD`].
    ///
    /// # Errors
    /// Those of [`Run::samples`].
    pub fn of(run: &Run, threshold: f64) -> Result<Analysis> {
        let header = &run.header;
        let deciding = header.measures.first().map_or("", String::as_str);
        let unpruned = run.unpruned.measure(deciding).map_or(f64::NAN, |m| m.value);
        // A model that is never wrong has no loss to be a multiple of.
        let scale =
            if header.has_labels && unpruned > 0.0 { Scale::Relative { unpruned } } else { Scale::Absolute };
        let reader = Reader { run, deciding, scale, base: run.samples(&run.unpruned, deciding)? };

        let mut groups: Vec<Group> = Vec::new();
        for (index, point) in run.points.iter().enumerate() {
            let (method, layer) = (&point.key.method, &point.key.layer);
            let group = match groups.iter_mut().find(|g| g.method == *method && g.layer == *layer) {
                Some(group) => group,
                None => {
                    groups.push(Group { method: method.clone(), layer: layer.clone(), targets: Vec::new() });
                    groups.last_mut().expect("just pushed")
                }
            };
            match group.targets.iter_mut().find(|(target, _)| same(*target, point.key.target)) {
                Some((_, indices)) => indices.push(index),
                None => group.targets.push((point.key.target, vec![index])),
            }
        }
        groups.sort_by_key(|g| {
            let layer = g.layer.as_ref();
            let method = header.methods.iter().position(|m| *m == g.method);
            let layer = header.layers.iter().position(|l| Some(&l.name) == layer);
            (method.unwrap_or(usize::MAX), layer.unwrap_or(usize::MAX))
        });
        let curves = groups.into_iter().map(|g| reader.curve(g, threshold)).collect::<Result<Vec<_>>>()?;
        let pairings = match header.kind {
            super::RunKind::Sweep => compare::all(&curves),
            super::RunKind::Sensitivity => Vec::new(),
        };
        Ok(Analysis { scale, threshold, curves, pairings })
    }

    /// Where plots cut the deciding measure off: beyond three times the unpruned loss (or an error as large as
    /// the output itself) a network is useless, and the curves explode.
    pub fn shown_limit(&self) -> f64 {
        let values =
            self.curves.iter().flat_map(|c| &c.points).map(|p| p.value.mean).filter(|v| v.is_finite());
        let (unpruned, most) = (
            self.scale.unpruned(),
            match self.scale {
                Scale::Relative { .. } => 3.0,
                Scale::Absolute => 1.0,
            },
        );
        let highest = values.fold(unpruned, f64::max);
        // Flat curves fill the plot, but noise about the baseline doesn't.
        unpruned + (1.05 * (highest - unpruned)).clamp(5.0 * self.threshold, most - unpruned)
    }

    /// Indices of the curves, those that can bear the least pruning first.
    pub fn by_sensitivity(&self) -> Vec<usize> {
        let total = |c: &Curve| -> f64 { c.points.iter().map(|p| p.value.mean.min(1e6)).sum() };
        let mut order: Vec<usize> = (0..self.curves.len()).collect();
        order.sort_by(|&i, &j| {
            let (a, b) = (&self.curves[i], &self.curves[j]);
            a.free.sparsity.total_cmp(&b.free.sparsity).then(total(b).total_cmp(&total(a)))
        });
        order
    }

    /// The targets of all curves in ascending order, without the unpruned model.
    pub fn targets(&self) -> Vec<f64> {
        let mut targets: Vec<f64> =
            self.curves.iter().flat_map(|c| &c.points[1..]).map(|p| p.target).collect();
        targets.sort_by(f64::total_cmp);
        targets.dedup_by(|a, b| same(*a, *b));
        targets
    }
}

/// Targets are steps such as 3 · 0.05, which rounding must not keep apart.
fn same(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

struct Group {
    method: String,
    layer: Option<String>,
    targets: Vec<(f64, Vec<usize>)>,
}

struct Reader<'a> {
    run: &'a Run,
    deciding: &'a str,
    scale: Scale,
    /// The deciding measure of each sample for the unpruned model.
    base: Option<Vec<f32>>,
}

impl Reader<'_> {
    fn curve(&self, mut group: Group, threshold: f64) -> Result<Curve> {
        group.targets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut points = vec![self.point(0.0, &[])?];
        let mut seeds = 1;
        for (target, indices) in &group.targets {
            seeds = seeds.max(indices.len());
            points.push(self.point(*target, indices)?);
        }
        let free = free(&points, self.scale.unpruned() + threshold);
        let fit = match self.scale {
            Scale::Relative { .. } => {
                Fit::of(&points.iter().map(|p| (p.sparsity, p.value.mean)).collect::<Vec<_>>())
            }
            Scale::Absolute => None,
        };
        Ok(Curve { method: group.method, layer: group.layer, seeds, points, free, fit })
    }

    /// The mean of the points with these indices, or the unpruned model.
    fn point(&self, target: f64, indices: &[usize]) -> Result<CurvePoint> {
        let points: Vec<&Point> = match indices {
            [] => vec![&self.run.unpruned],
            _ => indices.iter().map(|i| &self.run.points[*i]).collect(),
        };
        let mean = |f: &dyn Fn(&Point) -> f64| points.iter().map(|p| f(p)).sum::<f64>() / points.len() as f64;
        let all_sizes = points.iter().all(|p| p.bytes.is_some());
        let size = |f: fn(&super::Bytes) -> f64| mean(&|p| p.bytes.as_ref().map_or(f64::NAN, f));
        let bytes = all_sizes.then(|| MeanBytes {
            raw: size(|b| b.raw as f64),
            gzip: size(|b| b.gzip as f64),
            zstd: size(|b| b.zstd as f64),
            packed: Some(size(|b| b.packed.map_or(f64::NAN, |packed| packed as f64))).filter(|p| !p.is_nan()),
            entropy: size(|b| b.entropy),
        });
        let of = |name: &str, point: &Point| match point.measure(name) {
            Some(m) => (m.value, m.standard_error),
            None => (f64::NAN, f64::NAN),
        };
        let measures = self.run.header.measures.iter();
        let measures =
            measures.map(|name| Spread::over_seeds(&points.iter().map(|p| of(name, p)).collect::<Vec<_>>()));

        let samples = self.samples(&points)?;
        let unit = self.scale.unit();
        let base_error = self.run.unpruned.measure(self.deciding).map_or(f64::NAN, |m| m.standard_error);
        let values: Vec<(f64, f64)> = points
            .iter()
            .map(|p| {
                let (value, error) = of(self.deciding, p);
                let unpaired = match self.scale {
                    Scale::Relative { .. } => error.hypot(value / unit * base_error) / unit,
                    Scale::Absolute => error,
                };
                (value / unit, unpaired)
            })
            .collect();
        let mut value = Spread::over_seeds(&values);
        if indices.is_empty() && matches!(self.scale, Scale::Relative { .. }) {
            value.standard_error = 0.0; // against itself
        } else if let Some(samples) = &samples {
            let paired = match (self.scale, &self.base) {
                // The ratio of two means: its residual for a sample is l/L₀ − r·l₀/L₀.
                (Scale::Relative { .. }, Some(base)) => Some(standard_error(
                    samples.iter().zip(base).map(|(l, l0)| l - value.mean * f64::from(*l0) / unit),
                )),
                (Scale::Relative { .. }, None) => None,
                (Scale::Absolute, _) => Some(standard_error(samples.iter().copied())),
            };
            if let Some(paired) = paired {
                value.standard_error = paired.hypot(value.seed_error);
            }
        }
        Ok(CurvePoint {
            target,
            sparsity: mean(&|p| p.selected.sparsity()),
            parameters: mean(&|p| p.parameters.nonzero as f64),
            macs: mean(&|p| p.macs.nonzero as f64),
            bytes,
            value,
            measures: measures.collect(),
            indices: indices.to_vec(),
            samples,
        })
    }

    /// The deciding measure of each sample on the scale, averaged over the points; none where one lacks them.
    fn samples(&self, points: &[&Point]) -> Result<Option<Vec<f64>>> {
        let mut sum: Vec<f64> = Vec::new();
        for point in points {
            let Some(values) = self.run.samples(point, self.deciding)? else { return Ok(None) };
            sum.resize(values.len(), 0.0);
            sum.iter_mut().zip(&values).for_each(|(s, v)| *s += f64::from(*v));
        }
        let scale = points.len() as f64 * self.scale.unit();
        Ok(Some(sum.into_iter().map(|s| s / scale).collect()))
    }
}

impl Spread {
    /// From each seed's value and standard error. All seeds see the same samples, so their errors don't
    /// average out; the differences between seeds do.
    fn over_seeds(values: &[(f64, f64)]) -> Spread {
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
fn standard_error(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let (n, sum) = values.clone().fold((0.0, 0.0), |(n, sum), v| (n + 1.0, sum + v));
    if n < 2.0 {
        return f64::NAN;
    }
    let mean: f64 = sum / n;
    let squares: f64 = values.map(|v| (v - mean).powi(2)).sum();
    (squares / (n - 1.0) / n).sqrt()
}

impl Curve {
    /// The place at which the mean first exceeds `level`, linear between points; none where it doesn't.
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

fn free(points: &[CurvePoint], level: f64) -> Free {
    let last = (points.len() - 1) as f64;
    let sparsity = |place: Option<f64>| at(points, place.unwrap_or(last), |p| p.sparsity);
    let shifted = |errors: f64| {
        sparsity(crossing(
            points.iter().map(|p| match p.value.standard_error {
                error if error.is_finite() => p.value.mean + errors * error,
                _ => p.value.mean,
            }),
            level,
        ))
    };
    let place = crossing(points.iter().map(|p| p.value.mean), level);
    Free {
        sparsity: sparsity(place),
        place: place.unwrap_or(last),
        crossed: place.is_some(),
        certain: shifted(2.0),
        possible: shifted(-2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::synthetic::{Noise, header, run_of as whole};
    use super::super::{Measure, PointKey, RunKind, RunWriter};
    use super::*;

    /// A run whose points have these per-sample losses: (method, seed, target, losses).
    fn run_of(unpruned: &[f32], points: &[(&str, Option<u64>, f64, Vec<f32>)]) -> (tempfile::TempDir, Run) {
        let folder = tempfile::tempdir().unwrap();
        let mut header = header(RunKind::Sweep, true);
        header.samples = unpruned.len() as u64;
        header.measures = vec!["loss".into()];
        header.sample_measures = header.measures.clone();
        let mut writer = RunWriter::open(folder.path(), &header).unwrap();
        let mut append = |key: PointKey, losses: &[f32]| {
            let n = losses.len() as f64;
            let value = losses.iter().map(|l| f64::from(*l)).sum::<f64>() / n;
            let squares = losses.iter().map(|l| (f64::from(*l) - value).powi(2)).sum::<f64>();
            let (mut point, _) = super::super::synthetic::point(&header, &key);
            let standard_error = (squares / (n - 1.0) / n).sqrt();
            point.measures = vec![Measure { name: "loss".into(), value, standard_error }];
            writer.append(point, &[losses], 0.0).unwrap();
        };
        append(PointKey::unpruned(), unpruned);
        for (method, seed, target, losses) in points {
            append(
                PointKey { method: method.to_string(), layer: None, seed: *seed, target: *target },
                losses,
            );
        }
        let run = Run::load(folder.path()).unwrap();
        (folder, run)
    }

    #[test]
    fn relative_loss_is_paired_with_the_unpruned_model() {
        let mut noise = Noise(5);
        let unpruned: Vec<f32> = (0..200).map(|_| (4.0 * noise.next()) as f32).collect();
        // Twice the loss on every sample: the ratio is 2 whatever the samples, so its error is 0.
        let twice: Vec<f32> = unpruned.iter().map(|l| 2.0 * l).collect();
        let other: Vec<f32> = unpruned.iter().map(|l| l + noise.next() as f32).collect();
        let (folder, run) = run_of(&unpruned, &[("l1", None, 0.5, twice), ("l1", None, 0.6, other.clone())]);
        let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
        let points = &analysis.curves[0].points;
        assert_eq!((points[0].value.mean, points[0].value.standard_error), (1.0, 0.0));
        assert!((points[1].value.mean - 2.0).abs() < 1e-12);
        assert!(points[1].value.standard_error < 1e-9);
        // Against the spread over resampled data sets.
        let ratio = |picks: &[usize]| {
            let sum = |v: &[f32]| picks.iter().map(|i| f64::from(v[*i])).sum::<f64>();
            sum(&other) / sum(&unpruned)
        };
        let ratios: Vec<f64> = (0..2000)
            .map(|_| ratio(&(0..200).map(|_| (noise.next() * 200.0) as usize).collect::<Vec<_>>()))
            .collect();
        let mean = ratios.iter().sum::<f64>() / 2000.0;
        let deviation = (ratios.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / 1999.0).sqrt();
        let error = points[2].value.standard_error;
        assert!((error / deviation - 1.0).abs() < 0.1, "{error} {deviation}");
        // Without the samples the error is that of two independent means, which is more.
        std::fs::remove_dir_all(folder.path().join(super::super::SAMPLES_FOLDER)).unwrap();
        let unpaired = Analysis::of(&run, FREE_THRESHOLD).unwrap().curves[0].points[2].value;
        assert_eq!(unpaired.mean, points[2].value.mean);
        assert!(unpaired.standard_error > 2.0 * error, "{unpaired:?}");
    }

    #[test]
    fn seeds_make_mean_and_range() {
        let of = |l: f32| vec![l; 10];
        let points = [("random", Some(0), 0.5, of(2.0)), ("random", Some(1), 0.5, of(4.0))];
        let (_folder, run) = run_of(&of(1.0), &points);
        let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
        let curve = &analysis.curves[0];
        let value = curve.points[1].value;
        assert_eq!((curve.seeds, value.mean, value.low, value.high), (2, 3.0, 2.0, 4.0));
        assert!((value.standard_error - 1.0).abs() < 1e-12, "{value:?}"); // |4 − 2| / 2
        assert_eq!(curve.points[1].indices, [0, 1]);
    }

    #[test]
    fn free_ends_at_the_first_crossing() {
        let of = |l: f32| vec![l; 4];
        let steps = [0.99, 1.005, 1.025, 1.0, 3.0];
        let points: Vec<_> =
            steps.iter().enumerate().map(|(i, l)| ("l1", None, 0.1 * (i + 1) as f64, of(*l))).collect();
        let (_folder, run) = run_of(&of(1.0), &points);
        let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
        let curve = &analysis.curves[0];
        // From 1.005 at 20 % to 1.025 at 30 %: 1.01 is a quarter of the way.
        assert!(curve.free.crossed && (curve.free.place - 2.25).abs() < 1e-4, "{:?}", curve.free);
        assert!((curve.free.sparsity - 0.225).abs() < 1e-3, "{:?}", curve.free);
        assert_eq!(curve.free.certain, curve.free.sparsity);
        assert!((curve.crossing(2.0).unwrap() - 4.5).abs() < 1e-5);
        assert_eq!(curve.crossing(5.0), None);
        let generous = Analysis::of(&run, 4.0).unwrap().curves[0].free;
        assert!(!generous.crossed && (generous.sparsity - 0.5).abs() < 1e-3, "{generous:?}");
    }

    #[test]
    fn a_network_that_fails_altogether_crosses() {
        let (_folder, run) =
            run_of(&[1.0; 4], &[("l1", None, 0.1, vec![1.0; 4]), ("l1", None, 0.2, vec![f32::NAN; 4])]);
        let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
        let free = analysis.curves[0].free;
        assert!(free.crossed && free.place == 1.0, "{free:?}");
    }

    #[test]
    fn methods_are_compared_sample_by_sample() {
        let mut noise = Noise(3);
        let unpruned: Vec<f32> = (0..100).map(|_| (4.0 * noise.next()) as f32).collect();
        let mut near = |add: f32, spread: f64| -> Vec<f32> {
            unpruned.iter().map(|l| l + add + (spread * noise.normal()) as f32).collect()
        };
        let points = [
            ("l1", None, 0.5, near(0.0, 0.01)),
            ("l1", None, 0.6, near(0.1, 0.01)),
            ("l1", None, 0.7, near(0.0, 0.01)),
            ("l1@global", None, 0.5, near(0.1, 0.01)),
            ("l1@global", None, 0.6, near(0.0, 0.01)),
            ("l1@global", None, 0.7, near(0.01, 1.0)),
            ("l1@global", None, 0.8, near(0.0, 1.0)),
        ];
        let (_folder, run) = run_of(&unpruned, &points);
        let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
        let pairing = &analysis.pairings[0];
        let verdicts: Vec<_> = pairing.comparisons.iter().map(|c| c.verdict).collect();
        assert_eq!(verdicts, [Verdict::First, Verdict::Second, Verdict::NoDifference]);
        assert_eq!(pairing.ranges(Verdict::First), [(0.5, 0.5)]);
        // Unpaired, a tenth would drown in the samples' own spread.
        let points = &analysis.curves[0].points;
        assert!(pairing.comparisons[0].difference < -0.04);
        assert!(pairing.comparisons[0].standard_error < 0.1 * points[1].measures[0].standard_error);
    }

    #[test]
    fn without_labels_the_error_itself_counts() {
        let (_folder, run) = whole(&header(RunKind::Sweep, false));
        let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
        assert_eq!(analysis.scale, Scale::Absolute);
        assert_eq!(analysis.curves.len(), 4);
        assert_eq!(analysis.curves[0].points[0].value.mean, 0.0);
        assert!(analysis.curves.iter().all(|c| c.fit.is_none() && c.points.len() == 7));
        assert_eq!(analysis.targets(), [0.1, 0.3, 0.5, 0.7, 0.8, 0.9]);
    }

    #[test]
    fn a_sensitivity_run_has_a_curve_for_each_layer() {
        let header = header(RunKind::Sensitivity, true);
        let (_folder, run) = whole(&header);
        let analysis = Analysis::of(&run, FREE_THRESHOLD).unwrap();
        let names: Vec<_> = analysis.curves.iter().map(|c| c.name().to_string()).collect();
        assert_eq!(names, header.layers[..6].iter().map(|l| l.name.clone()).collect::<Vec<_>>());
        assert!(analysis.pairings.is_empty());
    }
}
