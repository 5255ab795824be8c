//! Compares outputs with those of a reference model, for data without labels.

use rayon::prelude::*;
use secateur_model::{Error, Result, ResultExt, Tensor};

use super::batches::Batch;
use super::metrics::{Classes, Measure, Metrics};

/// Accumulates the error of outputs against a reference's over batches.
///
/// For each sample and output: `relative-l2`, ‖a − b‖ / ‖b‖ (1 where b is zero and a is not);
/// `cosine`, a·b / (‖a‖ ‖b‖) (1 where both are zero, 0 where one is); `same-argmax`, the share of
/// positions where the largest value has the same index along the class axis, which is the second
/// for outputs of 2 or at least 4 axes and the last for 3. For integer outputs `same-argmax` is the
/// share of equal elements. With several outputs the first three measures are means over all of them,
/// followed by those of each output as `<output>/relative-l2` and so on.
#[derive(Clone, Debug, Default)]
pub struct OutputErrors {
    outputs: Vec<(String, [Vec<f32>; 3])>,
}

const NAMES: [&str; 3] = ["relative-l2", "cosine", "same-argmax"];

impl OutputErrors {
    /// Starts without samples.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the outputs that the model and the reference gave for a batch, by name.
    ///
    /// # Errors
    /// Where the outputs are not those of the reference in number, name or shape, or do not begin
    /// with the axis of samples.
    pub fn update(
        &mut self,
        outputs: &[(String, Tensor)],
        reference: &[(String, Tensor)],
        batch: &Batch,
    ) -> Result<()> {
        if self.outputs.is_empty() {
            self.outputs = reference.iter().map(|(name, _)| (name.clone(), Default::default())).collect();
        }
        let known = self.outputs.iter().map(|(name, _)| name);
        if !known.clone().eq(reference.iter().map(|(name, _)| name)) || outputs.len() != reference.len() {
            return Err(Error::input("the two models have different outputs"));
        }
        for ((name, columns), (_, b)) in self.outputs.iter_mut().zip(reference) {
            let a = outputs.iter().find(|(n, _)| n == name).map(|(_, a)| a);
            let a = a.ok_or_else(|| Error::input(format!("the model has no output `{name}`")))?;
            add(columns, a, b, batch).at(|| format!("output `{name}`"))?;
        }
        Ok(())
    }

    /// The measures.
    ///
    /// # Errors
    /// Where no batch was added.
    pub fn finish(self) -> Result<Metrics> {
        let samples = self.outputs.first().map_or(0, |(_, columns)| columns[0].len());
        if samples == 0 {
            return Err(Error::usage("there are no samples to compare"));
        }
        let mut values = Vec::new();
        let count = self.outputs.len();
        if count > 1 {
            for (at, name) in NAMES.into_iter().enumerate() {
                let mean = |i: usize| {
                    self.outputs.iter().map(|(_, c)| f64::from(c[at][i])).sum::<f64>() / count as f64
                };
                values.push(Measure::new(name, (0..samples).map(|i| mean(i) as f32).collect()));
            }
        }
        for (output, columns) in self.outputs {
            for (name, column) in NAMES.into_iter().zip(columns) {
                let name = if count > 1 { format!("{output}/{name}") } else { name.to_string() };
                values.push(Measure::new(name, column));
            }
        }
        let nan = values[0].per_sample.iter().filter(|v| v.is_nan()).count();
        let notes = (nan > 0)
            .then(|| format!("the error of {nan} of {samples} samples is NaN: outputs are NaN or infinite"));
        Ok(Metrics { samples, values, notes: notes.into_iter().collect() })
    }
}

fn add(columns: &mut [Vec<f32>; 3], a: &Tensor, b: &Tensor, batch: &Batch) -> Result<()> {
    if a.shape() != b.shape() {
        return Err(Error::unsupported(format!(
            "shape {:?}, but the reference's is {:?}; outputs whose shape depends on their values cannot be \
             compared, choose others",
            a.shape(),
            b.shape()
        )));
    }
    // Models that take one sample at a time need not have an axis for it in every output.
    let sample_shape = match (batch.rows(), b.shape()) {
        (rows, [first, rest @ ..]) if rows == *first => rest,
        (1, whole) => whole,
        (rows, shape) => {
            return Err(Error::unsupported(format!(
                "shape {shape:?} does not begin with the batch of {rows} samples; choose another output"
            )));
        }
    };
    let len: usize = sample_shape.iter().product();
    if len == 0 {
        return Err(Error::unsupported(format!("shape {:?} is empty; choose another output", b.shape())));
    }
    let axis = match sample_shape.len() {
        2 => 1,
        _ => 0,
    };
    let classes = match sample_shape.get(axis) {
        Some(&count) => Classes { count, stride: sample_shape[axis + 1..].iter().product() },
        None => Classes { count: 1, stride: 1 },
    };
    let integers = !b.dtype().is_prunable();
    let (a, b) = (a.to_f32s()?, b.to_f32s()?);
    let measured: Vec<[f64; 3]> = a
        .par_chunks_exact(len)
        .zip(b.par_chunks_exact(len))
        .take(batch.indices.len())
        .map(|(a, b)| {
            let same = if integers { equal(a, b) } else { same_argmax(a, b, &classes) };
            let (error, cosine) = distance(a, b);
            [error, cosine, same]
        })
        .collect();
    for sample in measured {
        for (column, value) in columns.iter_mut().zip(sample) {
            column.push(value as f32);
        }
    }
    Ok(())
}

/// The relative L2 error and the cosine.
fn distance(a: &[f32], b: &[f32]) -> (f64, f64) {
    let (mut aa, mut bb, mut ab, mut dd) = (0f64, 0f64, 0f64, 0f64);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a), f64::from(b));
        aa += a * a;
        bb += b * b;
        ab += a * b;
        dd += (a - b) * (a - b);
    }
    let error = match (dd == 0.0, bb == 0.0) {
        (true, _) => 0.0,
        (false, true) => 1.0,
        (false, false) => (dd / bb).sqrt(),
    };
    let cosine = match (aa == 0.0, bb == 0.0) {
        (true, true) => 1.0,
        (false, false) => ab / (aa.sqrt() * bb.sqrt()),
        _ => 0.0,
    };
    (error, cosine)
}

fn equal(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

fn same_argmax(a: &[f32], b: &[f32], classes: &Classes) -> f64 {
    // The first of the largest values; none where one is NaN.
    let largest = |row, position| {
        classes.at(row, position).enumerate().try_fold((0, f32::NEG_INFINITY), |best, (class, value)| {
            match value {
                v if v.is_nan() => None,
                v if v > best.1 => Some((class, v)),
                _ => Some(best),
            }
        })
    };
    let positions = a.len() / classes.count;
    let same = (0..positions).filter(|&p| match (largest(a, p), largest(b, p)) {
        (Some((a, _)), Some((b, _))) => a == b,
        _ => false,
    });
    same.count() as f64 / positions as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: usize, samples: usize) -> Batch {
        let input = Tensor::new([rows, 1], vec![0f32; rows]).unwrap();
        Batch { inputs: vec![("x".into(), input)], labels: None, indices: (0..samples).collect() }
    }

    fn named(name: &str, shape: &[usize], values: &[f32]) -> (String, Tensor) {
        (name.to_string(), Tensor::new(shape, values.to_vec()).unwrap())
    }

    fn values(metrics: &Metrics) -> Vec<(&str, f64)> {
        metrics.values.iter().map(|m| (m.name.as_str(), m.value)).collect()
    }

    #[test]
    fn figures_by_hand() {
        let mut errors = OutputErrors::new();
        let b = [named("out", &[3, 2], &[3.0, 4.0, 1.0, 0.0, 9.0, 9.0])];
        let a = [named("out", &[3, 2], &[3.0, 0.0, 1.0, 0.0, 0.0, 0.0])];
        errors.update(&a, &b, &batch(3, 2)).unwrap(); // the third row is padding
        let metrics = errors.finish().unwrap();
        assert_eq!(metrics.samples, 2);
        // ‖(0, 4)‖ / ‖(3, 4)‖ = 0.8 and 0; cosines 9 / (3·5) = 0.6 and 1.
        assert_eq!(
            values(&metrics),
            [
                ("relative-l2", f64::from(0.8f32) / 2.0),
                ("cosine", (f64::from(0.6f32) + 1.0) / 2.0),
                ("same-argmax", 0.5)
            ]
        );
        assert_eq!(metrics.losses(), [0.8, 0.0]);
    }

    #[test]
    fn several_outputs_come_with_their_mean() {
        let mut errors = OutputErrors::new();
        let b = [named("p", &[1, 2, 2], &[1.0, 2.0, 2.0, 1.0]), named("q", &[2], &[0.0, 1.0])];
        let a = [named("q", &[2], &[0.0, 0.0]), named("p", &[1, 2, 2], &[1.0, 2.0, 1.0, 2.0])];
        errors.update(&a, &b, &batch(1, 1)).unwrap();
        let metrics = errors.finish().unwrap();
        // Rows (1, 2) and (2, 1) of `p`: one of two arg-maxes is the same. `q` has no batch axis.
        assert_eq!(metrics.get("p/same-argmax").unwrap().value, 0.5);
        assert_eq!(metrics.get("q/relative-l2").unwrap().value, 1.0);
        assert_eq!(metrics.get("q/cosine").unwrap().value, 0.0);
        assert_eq!(metrics.get("same-argmax").unwrap().value, 0.25);
        assert_eq!(metrics.values.len(), 9);
    }

    #[test]
    fn nan_is_counted_and_other_shapes_are_errors() {
        let mut errors = OutputErrors::new();
        let b = [named("out", &[2, 2], &[1.0, 2.0, 3.0, 4.0])];
        let a = [named("out", &[2, 2], &[f32::NAN, 2.0, 3.0, 4.0])];
        errors.update(&a, &b, &batch(2, 2)).unwrap();
        let metrics = errors.clone().finish().unwrap();
        assert!(metrics.values[0].value.is_nan());
        assert!(metrics.notes[0].contains("1 of 2"));
        assert_eq!(metrics.values[2].value, 0.5);

        let other = [named("out", &[2, 3], &[0.0; 6])];
        let error = errors.update(&other, &b, &batch(2, 2)).unwrap_err().to_string();
        assert!(error.contains("`out`: shape [2, 3], but the reference's is [2, 2]"), "{error}");
        let error = errors.update(&b, &b, &batch(4, 4)).unwrap_err().to_string();
        assert!(error.contains("does not begin with the batch of 4"), "{error}");
    }
}
