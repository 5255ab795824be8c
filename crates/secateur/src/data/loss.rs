//! Losses and their gradients by the model's output.

use secateur_model::text::listed;
use secateur_model::{DType, Error, Graph, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::batches::Batch;
use super::metrics::{Classes, Loss, rank};

/// The loss that training lowers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LossOptions {
    /// Cross-entropy or mean squared error, against the labels.
    pub loss: Loss,
    /// The axis of the classes; found from the labels' shape by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_axis: Option<usize>,
    /// The share of the label that is spread evenly over all classes (Szegedy et al. 2016).
    pub label_smoothing: f64,
    /// The share of the loss that comes from a teacher's outputs; 0 without one.
    pub distill: f64,
    /// The temperature that both outputs are divided by for distillation.
    pub temperature: f64,
}

/// What a batch gave.
#[derive(Clone, Debug)]
pub struct BatchLoss {
    /// The mean loss over the samples.
    pub loss: f64,
    /// The share of positions whose label is first, as [`Scorer`](super::metrics::Scorer) has it; only of classes.
    pub top1: Option<f64>,
    /// The gradient of the loss by the output: of the output's shape, 0 in rows that are padding.
    pub gradient: Tensor,
}

impl LossOptions {
    /// Checks the settings.
    ///
    /// # Errors
    /// `Usage` where one is out of its range or has no effect.
    pub fn check(&self) -> Result<()> {
        let shares = [("label smoothing", self.label_smoothing), ("the share of distillation", self.distill)];
        if let Some((name, value)) = shares.iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            return Err(Error::usage(format!("{name} is {value}, expected a number from 0 to 1")));
        }
        if !(self.temperature() > 0.0 && self.temperature().is_finite()) {
            let value = self.temperature;
            return Err(Error::usage(format!("the temperature is {value}, expected a number above 0")));
        }
        if self.loss == Loss::Mse && self.label_smoothing > 0.0 {
            return Err(Error::usage("labels are smoothed for the cross-entropy only, not for the mse"));
        }
        Ok(())
    }

    fn temperature(&self) -> f64 {
        if self.temperature == 0.0 { 1.0 } else { self.temperature }
    }

    /// The mean loss over the samples of a batch, and its gradient by the output.
    ///
    /// With z the logits of one position, p = softmax(z), y the label as a distribution, smoothed by s, and of a teacher's
    /// logits q = softmax(teacher / T):
    ///
    /// ```text
    /// cross-entropy  −Σ y ln p                              ∂z = p − y
    /// mse            mean (z − target)²                     ∂z = 2 (z − target) / elements
    /// distillation   T² Σ q (ln q − ln softmax(z / T))      ∂z = T (softmax(z / T) − q)      (Hinton et al. 2015)
    /// loss           (1 − distill) · first + distill · distillation, the mean over positions
    /// ```
    ///
    /// For the mean squared error the teacher's outputs are further targets, and T is 1.
    ///
    /// # Errors
    /// Where there are no labels, shapes do not fit, or a label is no class.
    pub fn evaluate(&self, output: &Tensor, batch: &Batch, teacher: Option<&Tensor>) -> Result<BatchLoss> {
        let labels = batch.labels.as_ref();
        let labels = labels.ok_or_else(|| Error::usage("the training data have no labels"))?;
        let values = output.values::<f32>()?;
        let rows = output.shape().first().copied().unwrap_or(0);
        if rows != batch.rows() || values.is_empty() {
            return Err(Error::input(format!(
                "the output's shape {:?} does not begin with the batch of {} samples",
                output.shape(),
                batch.rows()
            )));
        }
        let of_row = values.len() / rows;
        let count = batch.indices.len();
        if let Some(teacher) = teacher.filter(|teacher| teacher.shape() != output.shape()) {
            let (found, own) = (teacher.shape(), output.shape());
            return Err(Error::input(format!("the teacher's output is {found:?}, the model's {own:?}")));
        }
        let teacher = teacher.map(Tensor::values::<f32>).transpose()?;
        let mut gradient = vec![0f32; values.len()];
        let (mut total, mut top1) = (0.0, None);
        let rows = values.chunks_exact(of_row).zip(gradient.chunks_exact_mut(of_row)).take(count).enumerate();
        match self.loss {
            Loss::Mse => {
                let targets = labels.to_f32s()?;
                if targets.len() != of_row * count {
                    return Err(Error::input(format!(
                        "samples of the output have {of_row} elements, the targets have the shape {:?}",
                        labels.shape()
                    )));
                }
                for (i, (row, gradient)) in rows {
                    let teacher = teacher.map(|all| &all[i * of_row..][..of_row]);
                    total += self.squares(row, &targets[i * of_row..][..of_row], teacher, gradient);
                }
            }
            Loss::CrossEntropy => {
                let classes = Classes::of(output.shape(), labels.shape(), self.class_axis)?;
                if labels.dtype() != DType::I64 {
                    return Err(Error::input(format!(
                        "the labels are {}, not classes; train with the loss mse for a regression",
                        labels.dtype()
                    )));
                }
                let labels = labels.values::<i64>()?;
                let positions = of_row / classes.count;
                let mut hits = 0usize;
                for (i, (row, gradient)) in rows {
                    let teacher = teacher.map(|all| &all[i * of_row..][..of_row]);
                    for position in 0..positions {
                        let label = labels[i * positions + position];
                        let label = usize::try_from(label).ok().filter(|&label| label < classes.count);
                        let label = label.ok_or_else(|| {
                            classes.no_class(batch.indices[i], labels[i * positions + position])
                        })?;
                        let at = Position { classes: &classes, position, label };
                        total += self.entropy(row, at, teacher, gradient) / positions as f64;
                        hits += usize::from(rank(classes.at(row, position), label) == Some(0));
                    }
                    gradient.iter_mut().for_each(|v| *v /= positions as f32);
                }
                top1 = Some(hits as f64 / (count * positions) as f64);
            }
        }
        let scale = 1.0 / count as f32;
        gradient.iter_mut().for_each(|v| *v *= scale);
        Ok(BatchLoss { loss: total / count as f64, top1, gradient: Tensor::new(output.shape(), gradient)? })
    }

    fn squares(&self, row: &[f32], target: &[f32], teacher: Option<&[f32]>, gradient: &mut [f32]) -> f64 {
        let n = row.len() as f64;
        let (own, other) = (1.0 - self.distill, self.distill);
        let mut loss = 0.0;
        for (i, (&z, slot)) in row.iter().zip(gradient).enumerate() {
            let by_target = f64::from(z) - f64::from(target[i]);
            let by_teacher = teacher.map_or(0.0, |teacher| f64::from(z) - f64::from(teacher[i]));
            loss += own * by_target * by_target + other * by_teacher * by_teacher;
            *slot = (2.0 * (own * by_target + other * by_teacher) / n) as f32;
        }
        loss / n
    }

    fn entropy(&self, row: &[f32], at: Position<'_>, teacher: Option<&[f32]>, gradient: &mut [f32]) -> f64 {
        let logits = |row: &[f32], t: f64| -> Vec<f64> {
            at.classes.at(row, at.position).map(|z| f64::from(z) / t).collect()
        };
        let (own, other, n) = (1.0 - self.distill, self.distill, at.classes.count as f64);
        let logs = log_softmax(&logits(row, 1.0));
        let even = self.label_smoothing / n;
        let target = |class: usize| even + if class == at.label { 1.0 - self.label_smoothing } else { 0.0 };
        let mut loss = -own * logs.iter().enumerate().map(|(class, log)| target(class) * log).sum::<f64>();
        let mut slopes: Vec<f64> =
            logs.iter().enumerate().map(|(class, log)| own * (log.exp() - target(class))).collect();
        if let Some(teacher) = teacher.filter(|_| other > 0.0) {
            let t = self.temperature();
            let (student, teacher) = (log_softmax(&logits(row, t)), log_softmax(&logits(teacher, t)));
            for ((slope, p), q) in slopes.iter_mut().zip(student).zip(teacher) {
                loss += other * t * t * q.exp() * (q - p);
                *slope += other * t * (p.exp() - q.exp());
            }
        }
        let start = at.classes.start(at.position);
        let targets = gradient[start..].iter_mut().step_by(at.classes.stride);
        targets.zip(slopes).for_each(|(target, slope)| *target = slope as f32);
        loss
    }
}

/// The value that a loss is computed from: the model's output, or what goes into the softmax that computes it.
pub(crate) fn logits(graph: &Graph, output: Option<&str>) -> Result<String> {
    let names: Vec<&str> = graph.outputs.iter().map(|&id| graph.value_name(id)).collect();
    let at = match output {
        None => 0,
        Some(name) => names.iter().position(|own| *own == name).ok_or_else(|| {
            Error::usage(format!("the model has no output `{name}`; it has {}", listed(&names)))
        })?,
    };
    let mut value = *graph.outputs.get(at).ok_or_else(|| Error::input("the model has no outputs"))?;
    let producers = graph.producers();
    let mut found = false;
    while let Some(producer) = producers.get(value.index()).copied().flatten() {
        let node = &graph.nodes[producer.0 as usize];
        let passes = match node.op_type.as_str() {
            "Softmax" | "LogSoftmax" if !found => {
                found = true;
                true
            }
            "Identity" => true,
            _ => false,
        };
        match node.inputs.first().copied().flatten() {
            Some(input) if passes && node.domain.is_empty() => value = input,
            _ => break,
        }
    }
    Ok(graph.value_name(value).to_string())
}

/// A position of a sample, and its label.
#[derive(Clone, Copy)]
struct Position<'a> {
    classes: &'a Classes,
    position: usize,
    label: usize,
}

fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|z| (z - max).exp()).sum();
    logits.iter().map(|z| z - max - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: usize, labels: Tensor) -> Batch {
        let input = Tensor::new([rows, 1], vec![0f32; rows]).unwrap();
        let indices = (0..labels.shape()[0]).collect();
        Batch { inputs: vec![("x".into(), input)], labels: Some(labels), indices }
    }

    /// torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1), and its gradient.
    #[test]
    fn cross_entropy_is_that_of_pytorch() {
        let z = Tensor::new([2, 3], vec![1.0f32, 2.0, -1.0, 0.5, 0.0, 0.25]).unwrap();
        let options = LossOptions { label_smoothing: 0.1, ..LossOptions::default() };
        let found = options.evaluate(&z, &batch(2, Tensor::vector(vec![1i64, 0])), None).unwrap();
        let (loss, gradient) = (found.loss, found.gradient);
        assert_eq!(found.top1, Some(1.0));
        assert!((loss - 0.688_341_736_793_518).abs() < 1e-6, "{loss}");
        let want = [0.113_081_57, -0.113_974_39, 0.000_892_85, -0.257_052_18, 0.110_470_95, 0.146_581_26];
        for (got, want) in gradient.values::<f32>().unwrap().iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{got} {want}");
        }
    }

    #[test]
    fn gradients_are_slopes_and_padding_has_none() {
        let labels = || batch(3, Tensor::new([2, 2], vec![0i64, 2, 1, 1]).unwrap());
        let targets = || batch(3, Tensor::new([2, 6], (0..12).map(|v| v as f32 / 6.0).collect()).unwrap());
        let values: Vec<f32> = (0..18).map(|i| ((i * 7 % 11) as f32 - 5.0) / 3.0).collect();
        let teacher = Tensor::new([3, 3, 2], values.iter().rev().map(|v| v * 0.7).collect()).unwrap();
        let of = |loss, label_smoothing, distill| LossOptions {
            loss,
            label_smoothing,
            distill,
            temperature: 2.0,
            ..LossOptions::default()
        };
        let cases = [
            (of(Loss::CrossEntropy, 0.0, 0.0), labels()),
            (of(Loss::CrossEntropy, 0.2, 0.6), labels()),
            (of(Loss::Mse, 0.0, 0.0), targets()),
            (of(Loss::Mse, 0.0, 0.3), targets()),
        ];
        for (options, batch) in cases {
            let at = |values: &[f32]| {
                let output = Tensor::new([3, 3, 2], values.to_vec()).unwrap();
                options.evaluate(&output, &batch, Some(&teacher)).unwrap()
            };
            let gradient = at(&values).gradient;
            let gradient = gradient.values::<f32>().unwrap();
            assert!(gradient[12..].iter().all(|&v| v == 0.0));
            for i in 0..12 {
                let mut moved = values.clone();
                moved[i] += 0.01;
                let up = at(&moved).loss;
                moved[i] -= 0.02;
                let slope = (up - at(&moved).loss) / 0.02;
                assert!(
                    (f64::from(gradient[i]) - slope).abs() < 1e-4,
                    "{options:?} {i}: {} {slope}",
                    gradient[i]
                );
            }
        }
    }

    #[test]
    fn labels_are_classes_and_settings_in_range() {
        let z = Tensor::new([1, 3], vec![0f32; 3]).unwrap();
        let options = LossOptions::default();
        let message =
            options.evaluate(&z, &batch(1, Tensor::vector(vec![3i64])), None).unwrap_err().to_string();
        assert!(message.contains("label 3") && message.contains("3 classes"), "{message}");
        assert!(LossOptions { label_smoothing: 1.5, ..options.clone() }.check().is_err());
        assert!(LossOptions { loss: Loss::Mse, label_smoothing: 0.1, ..options }.check().is_err());
    }
}
