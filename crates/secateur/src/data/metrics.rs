//! Losses and accuracies of outputs against labels, with their standard errors.

use rayon::prelude::*;
use secateur_model::{DType, Error, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::batches::Batch;

/// How outputs are scored against labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scoring {
    /// The loss.
    pub loss: Loss,
    /// What the outputs are, for the cross-entropy.
    pub outputs: Outputs,
    /// The axis of the classes; by default the one that the labels lack: the second
    /// (`[batch, classes, …]`) or the last (`[batch, …, classes]`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_axis: Option<usize>,
}

/// A loss, for each sample the mean over its positions or elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// −ln of the probability that the model gives the label; comes with top-1 and top-5 accuracy.
    #[default]
    CrossEntropy,
    /// The mean of squared differences between output and target.
    Mse,
}

impl Loss {
    /// What it is called among the measures.
    pub fn name(self) -> &'static str {
        match self {
            Loss::CrossEntropy => "cross-entropy",
            Loss::Mse => "mse",
        }
    }
}

/// What a classifier's outputs are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outputs {
    /// Probabilities where all values of the first batch are at least 0 and each row sums to 1
    /// within 1e-3, logits otherwise.
    #[default]
    Auto,
    /// Logits: their softmax gives the probabilities.
    Logits,
    /// Probabilities; those below the smallest positive normal f32 (1.2e-38) count as that.
    Probabilities,
}

/// A measure over samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// What is measured: `cross-entropy`, `mse`, `top1`, `top5`, …
    pub name: String,
    /// The mean over samples; NaN where one is NaN.
    #[serde(with = "nan_as_null")]
    pub value: f64,
    /// The sample standard deviation over √n; NaN for a single sample.
    #[serde(with = "nan_as_null")]
    pub standard_error: f64,
    /// The value of each sample, for paired comparisons. Left out of files.
    #[serde(skip)]
    pub per_sample: Vec<f32>,
}

/// The measures of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The number of samples.
    pub samples: usize,
    /// The measures, the loss (or what replaces it) first.
    pub values: Vec<Measure>,
    /// Notes: how outputs were interpreted, NaN outputs.
    pub notes: Vec<String>,
}

impl Measure {
    /// A measure from the values of the samples: the mean in f64, the standard error from the sum of
    /// squared deviations.
    pub fn new(name: impl Into<String>, per_sample: Vec<f32>) -> Self {
        let (value, standard_error) = mean_and_error(per_sample.iter().map(|&v| f64::from(v)));
        Measure { name: name.into(), value, standard_error, per_sample }
    }
}

impl Metrics {
    /// The measure of this name.
    pub fn get(&self, name: &str) -> Option<&Measure> {
        self.values.iter().find(|m| m.name == name)
    }

    /// The loss of each sample.
    pub fn losses(&self) -> &[f32] {
        self.values.first().map_or(&[], |m| &m.per_sample)
    }

    /// Each measure as a multiple of the baseline's. The standard error is that of a ratio r of paired
    /// means, √(Var(aᵢ − r·bᵢ) / n) / |b̄|, where both have values for the same samples; otherwise
    /// that of independent ones, |r|·√((sₐ/ā)² + (s_b/b̄)²).
    #[must_use]
    pub fn relative_to(&self, baseline: &Metrics) -> Vec<Measure> {
        let relative = |a: &Measure| {
            let b = baseline.get(&a.name)?;
            let value = a.value / b.value;
            let paired = a.per_sample.len() == b.per_sample.len() && !a.per_sample.is_empty();
            let standard_error = if paired {
                let pairs = a.per_sample.iter().zip(&b.per_sample);
                mean_and_error(pairs.map(|(&a, &b)| f64::from(a) - value * f64::from(b))).1 / b.value.abs()
            } else {
                value.abs() * (a.standard_error / a.value).hypot(b.standard_error / b.value)
            };
            Some(Measure { name: a.name.clone(), value, standard_error, per_sample: Vec::new() })
        };
        self.values.iter().filter_map(relative).collect()
    }
}

/// The mean of aᵢ − bᵢ and its standard error: whether two models differ on the same samples.
///
/// # Errors
/// Where the numbers of samples differ.
pub fn paired_difference(a: &[f32], b: &[f32]) -> Result<(f64, f64)> {
    if a.len() != b.len() {
        return Err(Error::usage(format!("{} and {} samples cannot be paired", a.len(), b.len())));
    }
    Ok(mean_and_error(a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b))))
}

/// The mean, and the sample standard deviation over √n.
fn mean_and_error(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    let squares: f64 = values.map(|v| (v - mean) * (v - mean)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// Accumulates the measures of a classifier or regressor over batches.
#[derive(Clone, Debug)]
pub struct Scorer {
    scoring: Scoring,
    losses: Vec<f32>,
    top1: Vec<f32>,
    top5: Vec<f32>,
    guessed: bool,
    classes: Option<usize>,
}

/// The values of one sample.
#[derive(Clone, Copy, Default)]
struct Scores {
    loss: f64,
    top1: f64,
    top5: f64,
}

impl Scorer {
    /// Starts without samples.
    pub fn new(scoring: Scoring) -> Self {
        Scorer {
            scoring,
            losses: Vec::new(),
            top1: Vec::new(),
            top5: Vec::new(),
            guessed: false,
            classes: None,
        }
    }

    /// How outputs are scored, with [`Outputs::Auto`] resolved after the first batch. Evaluations that
    /// are compared should share it: a pruned model's outputs might be interpreted differently.
    pub fn scoring(&self) -> Scoring {
        self.scoring
    }

    /// The number of classes in the output, once a batch has been added whose labels are classes.
    pub fn classes(&self) -> Option<usize> {
        self.classes
    }

    /// Adds an output of the model for a batch with labels.
    ///
    /// Classes are `[batch, classes]` with labels `[batch]`, or `[batch, classes, …]` or
    /// `[batch, …, classes]` with labels `[batch, …]`. A sample counts as right at a position where
    /// fewer than k classes have a larger value, or the same at a lower index; never where one is NaN.
    ///
    /// # Errors
    /// Where there are no labels, shapes do not fit, or a label is not a class: the sample is named.
    pub fn update(&mut self, output: &Tensor, batch: &Batch) -> Result<()> {
        let indices = batch.indices.as_slice();
        let labels = batch.labels.as_ref();
        let labels =
            labels.ok_or_else(|| Error::usage("the data have no labels to score the outputs against"))?;
        if output.shape().first() != Some(&batch.rows()) {
            return Err(Error::input(format!(
                "the output's shape {:?} does not begin with the batch of {} samples",
                output.shape(),
                batch.rows()
            )));
        }
        let values = output.to_f32s()?;
        let rows: Vec<&[f32]> = match values.len() / output.shape()[0] {
            0 => return Err(Error::input(format!("the output of shape {:?} is empty", output.shape()))),
            len => values.chunks_exact(len).take(indices.len()).collect(),
        };
        let scores = match self.scoring.loss {
            Loss::Mse => mse(&rows, labels)?,
            Loss::CrossEntropy => {
                let classes = Classes::of(output.shape(), labels.shape(), self.scoring.class_axis)?;
                self.classes = Some(classes.count);
                if self.scoring.outputs == Outputs::Auto {
                    let probable = rows.iter().all(|row| classes.are_probabilities(row));
                    self.scoring.outputs = if probable { Outputs::Probabilities } else { Outputs::Logits };
                    self.guessed = true;
                }
                classes.score(&rows, labels, indices, self.scoring.outputs)?
            }
        };
        for score in scores {
            self.losses.push(score.loss as f32);
            self.top1.push(score.top1 as f32);
            self.top5.push(score.top5 as f32);
        }
        Ok(())
    }

    /// The measures.
    ///
    /// # Errors
    /// Where no batch was added.
    pub fn finish(self) -> Result<Metrics> {
        let samples = self.losses.len();
        if samples == 0 {
            return Err(Error::usage("there are no samples to measure"));
        }
        let mut notes = Vec::new();
        if self.guessed {
            let taken = match self.scoring.outputs {
                Outputs::Probabilities => "probabilities (they are nonnegative and sum to 1)",
                _ => "logits (softmax is applied)",
            };
            notes.push(format!("treating outputs as {taken}"));
        }
        let nan = self.losses.iter().filter(|l| l.is_nan()).count();
        if nan > 0 {
            notes.push(format!("the loss of {nan} of {samples} samples is NaN: outputs are NaN or infinite"));
        }
        let mut values = vec![Measure::new(self.scoring.loss.name(), self.losses)];
        if self.scoring.loss == Loss::CrossEntropy {
            values.extend([Measure::new("top1", self.top1), Measure::new("top5", self.top5)]);
        }
        Ok(Metrics { samples, values, notes })
    }
}

/// Where the classes are in a sample's output: `[before, count, stride]`.
pub(crate) struct Classes {
    pub(crate) count: usize,
    /// Elements from one class to the next, which is the number of positions after the class axis.
    pub(crate) stride: usize,
}

impl Classes {
    pub(crate) fn of(output: &[usize], labels: &[usize], axis: Option<usize>) -> Result<Classes> {
        let fits = |axis: usize| {
            let others = output.iter().enumerate().filter(|&(i, _)| i != axis).map(|(_, d)| d).skip(1);
            output.len() == labels.len() + 1 && axis > 0 && axis < output.len() && others.eq(&labels[1..])
        };
        let (second, last) = (1, output.len().saturating_sub(1));
        let axis = match axis {
            Some(axis) if fits(axis) => axis,
            None if fits(second) && fits(last) && second != last => {
                return Err(Error::usage(format!(
                    "output of shape {output:?} with labels of shape {labels:?}: the class axis may be 1 or {last}; \
                     set option `class_axis`"
                )));
            }
            None if fits(second) => second,
            None if fits(last) => last,
            _ => {
                return Err(Error::input(format!(
                    "an output of shape {output:?} does not fit labels of shape {labels:?}: expected the \
                     labels' axes and one for the classes{}",
                    axis.map_or(String::new(), |axis| format!(" (axis {axis})"))
                )));
            }
        };
        Ok(Classes { count: output[axis], stride: output[axis + 1..].iter().product() })
    }

    /// Where the values of the classes at a position of a sample begin.
    pub(crate) fn start(&self, position: usize) -> usize {
        position / self.stride * self.stride * self.count + position % self.stride
    }

    /// A label that is none of the classes.
    pub(crate) fn no_class(&self, sample: usize, label: i64) -> Error {
        Error::input(format!(
            "sample {sample} has label {label}, but the model has {} classes (0 to {})",
            self.count,
            self.count - 1
        ))
    }

    /// The values of the classes at a position of a sample.
    pub(crate) fn at<'a>(
        &self,
        row: &'a [f32],
        position: usize,
    ) -> impl Iterator<Item = f32> + Clone + use<'a> {
        row[self.start(position)..].iter().step_by(self.stride).take(self.count).copied()
    }

    fn are_probabilities(&self, row: &[f32]) -> bool {
        (0..row.len() / self.count).all(|position| {
            let values = self.at(row, position);
            let sum: f64 = values.clone().map(f64::from).sum();
            values.clone().all(|v| v >= 0.0) && (sum - 1.0).abs() <= 1e-3
        })
    }

    fn score(
        &self,
        rows: &[&[f32]],
        labels: &Tensor,
        indices: &[usize],
        outputs: Outputs,
    ) -> Result<Vec<Scores>> {
        if labels.dtype() != DType::I64 {
            return Err(Error::input(format!(
                "the labels are {}, not classes; use option `loss=mse` for regression targets",
                labels.dtype()
            )));
        }
        let labels = labels.values::<i64>()?;
        let positions = labels.len() / rows.len().max(1);
        if positions == 0 {
            return Err(Error::input("the labels are empty"));
        }
        rows.par_iter()
            .zip(labels.par_chunks_exact(positions))
            .zip(indices)
            .map(|((row, labels), index)| {
                let mut sum = Scores::default();
                for (position, &label) in labels.iter().enumerate() {
                    let class = usize::try_from(label).ok().filter(|&class| class < self.count);
                    let label = class.ok_or_else(|| self.no_class(*index, label))?;
                    let score = score(self.at(row, position), label, outputs);
                    sum.loss += score.loss;
                    sum.top1 += score.top1;
                    sum.top5 += score.top5;
                }
                let n = positions as f64;
                Ok(Scores { loss: sum.loss / n, top1: sum.top1 / n, top5: sum.top5 / n })
            })
            .collect()
    }
}

/// How many classes come before the label: those with a larger value, or the same at a lower index. `None` where a value is
/// NaN.
pub(crate) fn rank(values: impl Iterator<Item = f32> + Clone, label: usize) -> Option<usize> {
    let of_label = values.clone().nth(label).unwrap_or(f32::NAN);
    let mut before = 0;
    for (class, value) in values.enumerate() {
        if value.is_nan() {
            return None;
        }
        before += usize::from(value > of_label || (value == of_label && class < label));
    }
    Some(before)
}

/// The scores of one position: −ln p(label) and whether the label is among the first 1 and 5.
fn score(values: impl Iterator<Item = f32> + Clone, label: usize, outputs: Outputs) -> Scores {
    let of_label = values.clone().nth(label).unwrap_or(f32::NAN);
    let Some(before) = rank(values.clone(), label) else {
        return Scores { loss: f64::NAN, top1: 0.0, top5: 0.0 };
    };
    let max = values.clone().fold(f32::NEG_INFINITY, f32::max);
    let loss = match outputs {
        Outputs::Probabilities => -f64::from(of_label.max(f32::MIN_POSITIVE)).ln(),
        // With an infinite maximum this is NaN, as in training frameworks.
        _ => {
            let sum: f64 = values.map(|v| (f64::from(v) - f64::from(max)).exp()).sum();
            sum.ln() - (f64::from(of_label) - f64::from(max))
        }
    };
    let within = |k| f64::from(u8::from(before < k));
    Scores { loss, top1: within(1), top5: within(5) }
}

fn mse(rows: &[&[f32]], targets: &Tensor) -> Result<Vec<Scores>> {
    let values = targets.to_f32s()?;
    let len = values.len() / rows.len().max(1);
    let score = |(row, target): (&&[f32], &[f32])| {
        if row.len() != target.len() {
            return Err(Error::input(format!(
                "samples of the output have {} elements, targets {} (shape {:?})",
                row.len(),
                target.len(),
                targets.shape()
            )));
        }
        let squares = row.iter().zip(target).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        Ok(Scores { loss: squares.sum::<f64>() / row.len() as f64, ..Scores::default() })
    };
    if len == 0 {
        return Err(Error::input("the targets are empty"));
    }
    rows.par_iter().zip(values.par_chunks_exact(len)).map(score).collect()
}

/// JSON has no NaN and no infinity: null is read back as NaN.
mod nan_as_null {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.serialize_none() }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: usize, labels: Tensor) -> Batch {
        let input = Tensor::new([rows, 1], vec![0f32; rows]).unwrap();
        let indices = (10..10 + labels.shape()[0]).collect();
        Batch { inputs: vec![("x".into(), input)], labels: Some(labels), indices }
    }

    fn score(scoring: Scoring, shape: &[usize], output: &[f32], labels: Tensor) -> Result<Metrics> {
        let mut scorer = Scorer::new(scoring);
        scorer.update(&Tensor::new(shape, output.to_vec())?, &batch(shape[0], labels))?;
        scorer.finish()
    }

    fn classes(labels: &[i64]) -> Tensor {
        Tensor::vector(labels.to_vec())
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    #[test]
    fn cross_entropy_and_accuracy_by_hand() {
        let logits = [0.0, 3f32.ln(), 2.0, 2.0, -1000.0, 1000.0];
        let metrics = score(Scoring::default(), &[3, 2], &logits, classes(&[1, 1, 0])).unwrap();
        // Probabilities 3/4 and 1/2, then e^-2000; the tie goes to the lower index.
        let losses = [-(0.75f64.ln()), 2f64.ln(), 2000.0];
        for (found, expected) in metrics.losses().iter().zip(losses) {
            close(f64::from(*found), expected as f32 as f64);
        }
        let loss = metrics.get("cross-entropy").unwrap();
        close(loss.value, losses.iter().sum::<f64>() / 3.0);
        close(metrics.get("top1").unwrap().value, 1.0 / 3.0);
        // Sample deviation of (1, 0, 0) is √(1/3), over √3.
        close(metrics.get("top1").unwrap().standard_error, 1.0 / 3.0);
        assert_eq!(metrics.get("top5").unwrap().value, 1.0);
        assert!(metrics.notes[0].contains("treating outputs as logits"));
    }

    #[test]
    fn probabilities_are_recognised_and_zero_is_not_infinite() {
        let output = [0.25, 0.75, 1.0, 0.0];
        let metrics = score(Scoring::default(), &[2, 2], &output, classes(&[1, 1])).unwrap();
        assert!(metrics.notes[0].contains("treating outputs as probabilities"));
        let expected = [-(0.75f64.ln()), -f64::from(f32::MIN_POSITIVE).ln()];
        close(metrics.values[0].value, f64::midpoint(expected[0] as f32 as f64, expected[1] as f32 as f64));
        let told = Scoring { outputs: Outputs::Logits, ..Scoring::default() };
        let metrics = score(told, &[2, 2], &output, classes(&[1, 1])).unwrap();
        assert!(metrics.notes.is_empty());
        close(metrics.values[0].value, (0.474077 + 1.313262) / 2.0);
    }

    #[test]
    fn top5_counts_larger_values_and_ties_below() {
        let row = [5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 0.0];
        let rows = [row, row, row].concat();
        let metrics = score(Scoring::default(), &[3, 7], &rows, classes(&[4, 5, 6])).unwrap();
        assert_eq!(metrics.get("top5").unwrap().per_sample, [1.0, 0.0, 0.0]);
    }

    #[test]
    fn positions_are_averaged_by_sample() {
        // [batch 1, classes 2, positions 3], labels (0, 1, 1): right, right, wrong.
        let output = [9.0, 0.0, 9.0, 0.0, 9.0, 0.0];
        let labels = Tensor::new([1, 3], vec![0i64, 1, 1]).unwrap();
        let metrics = score(Scoring::default(), &[1, 2, 3], &output, labels.clone()).unwrap();
        close(metrics.get("top1").unwrap().value, f64::from(2f32 / 3.0));
        // The same as [batch, positions, classes].
        let moved = [9.0, 0.0, 0.0, 9.0, 9.0, 0.0];
        let last = score(Scoring::default(), &[1, 3, 2], &moved, labels).unwrap();
        let each = |m: &Metrics| m.values.iter().map(|m| m.per_sample.clone()).collect::<Vec<_>>();
        assert_eq!(each(&last), each(&metrics));
        assert!(metrics.values[0].standard_error.is_nan());
    }

    #[test]
    fn an_undecided_class_axis_is_asked_for() {
        let labels = Tensor::new([1, 2], vec![0i64, 1]).unwrap();
        let output = [9.0, 0.0, 9.0, 0.0];
        let error = score(Scoring::default(), &[1, 2, 2], &output, labels.clone()).unwrap_err().to_string();
        assert!(error.contains("`class_axis`"), "{error}");
        let told = |axis| Scoring { class_axis: Some(axis), ..Scoring::default() };
        let second = score(told(1), &[1, 2, 2], &output, labels.clone()).unwrap();
        let last = score(told(2), &[1, 2, 2], &output, labels.clone()).unwrap();
        assert_eq!((second.values[1].value, last.values[1].value), (0.5, 0.5));
        assert_ne!(second.values[0].value, last.values[0].value);
        assert!(score(told(3), &[1, 2, 2], &output, labels).is_err());
    }

    #[test]
    fn padding_is_left_out_and_nan_counted() {
        let output = [1.0, 0.0, f32::NAN, 0.0, f32::INFINITY, 0.0, 5.0, 5.0];
        let metrics = score(Scoring::default(), &[4, 2], &output, classes(&[0, 1, 1])).unwrap();
        assert_eq!(metrics.samples, 3);
        assert!(metrics.values[0].value.is_nan());
        assert!(metrics.notes[1].contains("2 of 3"), "{:?}", metrics.notes);
        assert_eq!(metrics.get("top1").unwrap().per_sample, [1.0, 0.0, 0.0]);
        let json = serde_json::to_string(&metrics).unwrap();
        let back: Metrics = serde_json::from_str(&json).unwrap();
        assert!(back.values[0].value.is_nan());
        assert_eq!(back.values[1].value, metrics.values[1].value);
    }

    #[test]
    fn labels_out_of_range_name_the_sample() {
        for label in [2, -1] {
            let error = score(Scoring::default(), &[2, 2], &[0.0; 4], classes(&[0, label])).unwrap_err();
            let expected = format!("sample 11 has label {label}, but the model has 2 classes (0 to 1)");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn squared_errors() {
        let mse = Scoring { loss: Loss::Mse, ..Scoring::default() };
        let targets = Tensor::new([2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
        let metrics = score(mse, &[2, 2], &[1.0, 4.0, 3.0, 4.0], targets.clone()).unwrap();
        assert_eq!(metrics.values.len(), 1);
        assert_eq!((metrics.values[0].value, metrics.values[0].standard_error), (1.0, 1.0));
        let error = score(mse, &[2, 3], &[0.0; 6], targets.clone()).unwrap_err().to_string();
        assert!(error.contains("3 elements, targets 2"), "{error}");
        let error = score(Scoring::default(), &[2, 2], &[0.0; 4], Tensor::vector(vec![0f32, 1.0]));
        assert!(error.unwrap_err().to_string().contains("not classes"));
    }

    #[test]
    fn ratios_and_paired_differences() {
        let metrics = |values: &[f32]| Metrics {
            samples: values.len(),
            values: vec![Measure::new("mse", values.to_vec())],
            notes: Vec::new(),
        };
        let (a, b) = (metrics(&[2.0, 4.0, 6.0]), metrics(&[1.0, 2.0, 3.0]));
        let relative = &a.relative_to(&b)[0];
        // Each is exactly twice the other: no uncertainty in pairs.
        assert_eq!((relative.value, relative.standard_error), (2.0, 0.0));
        let mut unpaired = b.clone();
        unpaired.values[0].per_sample.clear();
        close(a.relative_to(&unpaired)[0].standard_error, 2.0 * (2.0f64 / 12.0).sqrt());
        let (difference, error) = paired_difference(a.losses(), b.losses()).unwrap();
        assert_eq!(difference, 2.0);
        close(error, 1.0 / 3f64.sqrt());
        assert!(paired_difference(&[1.0], &[]).is_err());
    }
}
