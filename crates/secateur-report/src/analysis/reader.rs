//! Points of a run put together to curves.

use secateur::Result;
use secateur::measure::Bytes;
use secateur::records::{Latency, LayerInfo, Point, Run};

use super::curve::{self, standard_error};
use super::{
    Curve, CurvePoint, Fit, Harm, MeanBytes, Scale, Spread, Tolerance, Worse, higher_is_better, same,
};

/// The points of one curve, by target.
pub(super) struct Group {
    pub(super) method: String,
    pub(super) layer: Option<String>,
    pub(super) targets: Vec<(f64, Vec<usize>)>,
}

/// How values of a measure are read.
#[derive(Clone, Copy, PartialEq)]
enum Reading {
    /// As multiples of the unpruned model's.
    Ratio,
    /// Less the unpruned model's.
    Difference,
    /// As they are.
    Plain,
}

/// A measure with all it is compared with.
struct Gauge {
    measure: String,
    reading: Reading,
    /// The unpruned model's value and its standard error.
    unpruned: (f64, f64),
    /// The unpruned model's value of each sample.
    base: Option<Vec<f32>>,
}

pub(super) struct Reader<'a> {
    run: &'a Run,
    scale: Scale,
    tolerance: Tolerance,
    deciding: Gauge,
    /// What judges whether pruning is free; none where the deciding gauge does.
    judging: Option<Gauge>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(run: &'a Run, scale: Scale, tolerance: &Tolerance) -> Result<Self> {
        let measures = &run.header.measures;
        let gauge = |place: usize, reading| -> Result<Gauge> {
            let measure = measures.get(place).cloned().unwrap_or_default();
            let unpruned =
                run.unpruned.measure(&measure).map_or((f64::NAN, f64::NAN), |m| (m.value, m.standard_error));
            let base = run.samples(&run.unpruned, &measure)?;
            Ok(Gauge { measure, reading, unpruned, base })
        };
        let place = tolerance.place(measures)?;
        let deciding = match scale {
            Scale::Relative { .. } => Reading::Ratio,
            Scale::Absolute => Reading::Plain,
        };
        let judging = match (scale, tolerance.by) {
            (Scale::Absolute, _) if place == 0 => Reading::Plain,
            (_, Worse::Share(_)) => Reading::Ratio,
            (_, Worse::Points(_)) => Reading::Difference,
        };
        Ok(Reader {
            run,
            scale,
            tolerance: tolerance.clone(),
            deciding: gauge(0, deciding)?,
            judging: ((place, judging) != (0, deciding)).then(|| gauge(place, judging)).transpose()?,
        })
    }

    /// The curve of a group, drawn as the series `slot`.
    pub(super) fn curve(&self, mut group: Group, slot: usize) -> Result<Curve> {
        group.targets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let layer = group.layer.as_ref().and_then(|name| self.run.header.layer(name));
        let mut points = vec![self.point(0.0, &[], layer)?];
        let mut seeds = 1;
        for (target, indices) in &group.targets {
            seeds = seeds.max(indices.len());
            points.push(self.point(*target, indices, layer)?);
        }
        let free = curve::free(&points, self.tolerance.amount());
        let fit = match self.scale {
            Scale::Relative { .. } => {
                Fit::of(&points.iter().map(|p| (p.sparsity, p.value.mean)).collect::<Vec<_>>())
            }
            Scale::Absolute => None,
        };
        Ok(Curve { method: group.method, layer: group.layer, seeds, points, free, fit, slot })
    }

    /// The mean of the points with these indices, or the unpruned model; `layer` is the one that is pruned alone.
    fn point(&self, target: f64, indices: &[usize], layer: Option<&LayerInfo>) -> Result<CurvePoint> {
        let points: Vec<&Point> = match indices {
            [] => vec![&self.run.unpruned],
            _ => indices.iter().map(|i| &self.run.points[*i]).collect(),
        };
        let mean = |f: &dyn Fn(&Point) -> f64| points.iter().map(|p| f(p)).sum::<f64>() / points.len() as f64;
        let all_sizes = points.iter().all(|p| p.bytes.is_some());
        let size = |f: fn(&Bytes) -> f64| mean(&|p| p.bytes.as_ref().map_or(f64::NAN, f));
        let bytes = all_sizes.then(|| MeanBytes {
            raw: size(|b| b.raw as f64),
            gzip: size(|b| b.gzip as f64),
            zstd: size(|b| b.zstd as f64),
            packed: Some(size(|b| b.packed.map_or(f64::NAN, |packed| packed as f64))).filter(|p| !p.is_nan()),
            entropy: size(|b| b.entropy),
        });
        let measures = self.run.header.measures.iter();
        let measures = measures
            .map(|name| Spread::over_seeds(&points.iter().map(|p| recorded(name, p)).collect::<Vec<_>>()));
        let (value, samples) = self.read(&self.deciding, &points, indices.is_empty())?;
        let harm = match &self.judging {
            None => self.deciding.harm(&value),
            Some(gauge) => gauge.harm(&self.read(gauge, &points, indices.is_empty())?.0),
        };
        Ok(CurvePoint {
            target,
            sparsity: mean(&|p| p.counted(layer).sparsity()),
            parameters: mean(&|p| p.parameters.nonzero as f64),
            macs: mean(&|p| p.macs.nonzero as f64),
            bytes,
            latency: latency(&points),
            value,
            harm,
            measures: measures.collect(),
            indices: indices.to_vec(),
            samples,
        })
    }

    /// A measure of points, averaged, and that of each sample.
    fn read(&self, gauge: &Gauge, points: &[&Point], unpruned: bool) -> Result<(Spread, Option<Vec<f64>>)> {
        let (base, base_error) = gauge.unpruned;
        let values: Vec<(f64, f64)> = points
            .iter()
            .map(|p| {
                let (value, error) = recorded(&gauge.measure, p);
                match gauge.reading {
                    Reading::Ratio => (value / base, error.hypot(value / base * base_error) / base),
                    Reading::Difference => (value - base, error.hypot(base_error)),
                    Reading::Plain => (value, error),
                }
            })
            .collect();
        let mut value = Spread::over_seeds(&values);
        let samples = self.samples(gauge, points)?;
        if unpruned && gauge.reading != Reading::Plain {
            value.standard_error = 0.0; // against itself
        } else if let Some(samples) = &samples {
            let paired = match (gauge.reading, &gauge.base) {
                // The ratio of two means: its residual for a sample is l/L₀ − r·l₀/L₀.
                (Reading::Ratio, Some(own)) => Some(standard_error(
                    samples.iter().zip(own).map(|(l, l0)| l - value.mean * f64::from(*l0) / base),
                )),
                (Reading::Difference, Some(own)) => {
                    Some(standard_error(samples.iter().zip(own).map(|(l, l0)| l - f64::from(*l0))))
                }
                (Reading::Ratio | Reading::Difference, None) => None,
                (Reading::Plain, _) => Some(standard_error(samples.iter().copied())),
            };
            if let Some(paired) = paired {
                value.standard_error = paired.hypot(value.seed_error);
            }
        }
        Ok((value, samples))
    }

    /// A measure of each sample, over the unpruned model's mean where it is read as a ratio, averaged over the
    /// points; none where one lacks them.
    fn samples(&self, gauge: &Gauge, points: &[&Point]) -> Result<Option<Vec<f64>>> {
        let mut sum: Vec<f64> = Vec::new();
        for point in points {
            let Some(values) = self.run.samples(point, &gauge.measure)? else { return Ok(None) };
            sum.resize(values.len(), 0.0);
            sum.iter_mut().zip(&values).for_each(|(s, v)| *s += f64::from(*v));
        }
        let unit = if gauge.reading == Reading::Ratio { gauge.unpruned.0 } else { 1.0 };
        let scale = points.len() as f64 * unit;
        Ok(Some(sum.into_iter().map(|s| s / scale).collect()))
    }
}

impl Gauge {
    /// How much worse than the unpruned model a value is.
    fn harm(&self, value: &Spread) -> Harm {
        let change = match self.reading {
            Reading::Ratio => value.mean - 1.0,
            Reading::Difference | Reading::Plain => value.mean,
        };
        let excess = if higher_is_better(&self.measure) { -change } else { change };
        Harm { excess, error: value.standard_error }
    }
}

/// A point's value of a measure with its standard error.
fn recorded(measure: &str, point: &Point) -> (f64, f64) {
    point.measure(measure).map_or((f64::NAN, f64::NAN), |m| (m.value, m.standard_error))
}

/// The time of points: the middle one's, by share; none where one was not timed.
fn latency(points: &[&Point]) -> Option<Latency> {
    let mut times: Vec<Latency> = points.iter().map(|p| p.latency).collect::<Option<_>>()?;
    times.sort_by(|a, b| a.share.total_cmp(&b.share));
    times.get((times.len() - 1) / 2).copied()
}

/// The points of a run by curve, in the header's order.
pub(super) fn groups(run: &Run) -> Vec<Group> {
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
    let header = &run.header;
    groups.sort_by_key(|g| {
        let layer = g.layer.as_ref();
        let method = header.methods.iter().position(|m| *m == g.method);
        let layer = header.layers.iter().position(|l| Some(&l.name) == layer);
        (method.unwrap_or(usize::MAX), layer.unwrap_or(usize::MAX))
    });
    groups
}
