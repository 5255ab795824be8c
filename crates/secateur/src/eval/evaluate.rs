//! Runs a model over a data set and measures its outputs.

use std::sync::Arc;

use secateur_model::text::listed;
use secateur_model::{Error, Model, Patch, Result, Tensor};
use secateur_runtime::{Kernels, Limits, Session};
use serde::{Deserialize, Serialize};

use crate::data::compare::OutputErrors;
use crate::data::metrics::{Metrics, Scorer, Scoring};
use crate::data::{Batch, Batches, DataSpec, InputSpec, Preprocess, Sampling, Scale, Value};
use crate::progress::Progress;
use crate::prune::masks::Masks;

/// Outputs of the unpruned model kept for comparisons without labels, in bytes; beyond that the
/// unpruned model is run again with each pruned one.
const REFERENCE_BYTES: usize = 1 << 30;

/// A loss this many times that of guessing means that the inputs are not what the model was trained on.
const ABSURD: f64 = 1.5;

/// How many images are read to find the range of their values.
const SEEN_IMAGES: usize = 32;

/// What a model is evaluated on, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalOptions {
    /// The data.
    pub data: DataSpec,
    /// How samples become the model's inputs.
    pub preprocess: Preprocess,
    /// Which samples, and the batch size.
    pub sampling: Sampling,
    /// How outputs are scored against labels.
    pub scoring: Scoring,
    /// The output that is scored against the labels; the model's first by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// A data set prepared for a model, to evaluate changed versions of that model on. All of them run in one session, which
/// gets the changed weights and chooses kernels for them by the shipped costs.
///
/// With labels the measures are the loss, top-1 and top-5; without, the outputs' error against the
/// reference model's (see [`OutputErrors`]).
pub struct Evaluator {
    session: Session,
    batches: Batches,
    scoring: Scoring,
    /// Position of the scored output.
    output: usize,
    /// The masks of the model's pairs, and the weights that they leave.
    masks: Masks,
    masked: Patch,
    reference: Option<Reference>,
    limits: Limits,
}

struct Reference {
    session: Session,
    /// The outputs of the first batches.
    kept: Vec<Vec<(String, Tensor)>>,
}

impl Evaluator {
    /// Prepares the data for `model`. Where they have no labels, or where a `reference` is given,
    /// outputs are compared with those of the reference: by default the model itself, unchanged.
    ///
    /// # Errors
    /// Where the data cannot be read or do not fit the model's inputs, or the output is not there.
    pub fn new(model: &Arc<Model>, options: &EvalOptions, reference: Option<&Arc<Model>>) -> Result<Self> {
        let graph = model.graph()?;
        let inputs = InputSpec::of(graph)?;
        // Data for a model's only input need no name, but a name that is given must be its.
        if let Some(name) = options.data.input.as_ref().filter(|name| inputs.iter().all(|i| i.name != **name))
        {
            let there = listed(inputs.iter().map(|input| &input.name));
            return Err(Error::usage(format!("the model has no input `{name}`; it has {there}")));
        }
        let batches =
            Batches::new(options.data.open()?, options.preprocess.clone(), inputs, &options.sampling)?;
        let names: Vec<&str> = graph.outputs.iter().map(|&o| graph.value_name(o)).collect();
        let output = match &options.output {
            None => 0,
            Some(name) => names.iter().position(|n| n == name).ok_or_else(|| {
                Error::usage(format!("the model has no output `{name}`; it has {}", listed(&names)))
            })?,
        };
        if names.is_empty() {
            return Err(Error::input("the model has no outputs"));
        }
        let compared = reference.is_some() || !batches.has_labels()?;
        if compared && (options.scoring != Scoring::default() || options.output.is_some()) {
            return Err(Error::usage(
                "all outputs are compared with those of the reference model, without labels: options `loss`, \
                 `outputs`, `class_axis` and `output` have no effect",
            ));
        }
        let reference = if compared {
            let reference = reference.unwrap_or(model);
            let masks = Masks::of_pairs(reference)?;
            let session = Session::new(reference.clone(), masks.effective(reference))?;
            Some(Reference { session, kept: Vec::new() })
        } else {
            None
        };
        let masks = Masks::of_pairs(model)?;
        let masked = masks.effective(model);
        let session = Session::new(model.clone(), masked.clone())?;
        let (scoring, limits) = (options.scoring, Limits::of_machine());
        Ok(Evaluator { session, batches, scoring, output, masks, masked, reference, limits })
    }

    /// An evaluator of another model with the same inputs and outputs, on the same data with labels: what was read and
    /// preprocessed is shared.
    ///
    /// # Errors
    /// `Internal` where outputs are compared with a reference; where the model cannot be run.
    pub fn of(&self, model: &Arc<Model>) -> Result<Evaluator> {
        if self.reference.is_some() {
            return Err(Error::internal("evaluators share data with labels"));
        }
        let masks = Masks::of_pairs(model)?;
        let masked = masks.effective(model);
        let session = Session::new(model.clone(), masked.clone())?.within(self.limits);
        let (batches, scoring, output, limits) =
            (self.batches.clone(), self.scoring, self.output, self.limits);
        Ok(Evaluator { session, batches, scoring, output, masks, masked, reference: None, limits })
    }

    /// With other bounds on a run of the model than [`Limits::of_machine`].
    #[must_use]
    pub fn within(self, limits: Limits) -> Self {
        let within = |r: Reference| Reference { session: r.session.within(limits), ..r };
        let session = self.session.within(limits);
        Evaluator { limits, session, reference: self.reference.map(within), ..self }
    }

    /// Whether outputs are compared with labels.
    pub fn has_labels(&self) -> bool {
        self.reference.is_none()
    }

    /// The limits on a run.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The masks that the model comes with as pairs: they hold in every evaluation.
    pub fn masks(&self) -> &Masks {
        &self.masks
    }

    /// The number of samples.
    pub fn samples(&self) -> usize {
        self.batches.samples()
    }

    /// The number of batches: steps of progress of one evaluation.
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Inputs of one run on the first sample; see [`Batches::first`].
    ///
    /// # Errors
    /// Where the data cannot be read.
    pub fn first_inputs(&self) -> Result<Vec<(String, Tensor)>> {
        self.batches.first()
    }

    /// Evaluates the model unchanged. What this finds out about the outputs (logits or
    /// probabilities) holds for the evaluations after it, and the reference's outputs are kept.
    ///
    /// # Errors
    /// As [`Evaluator::evaluate`].
    pub fn baseline(&mut self, progress: &dyn Progress) -> Result<Metrics> {
        if let Some(reference) = &mut self.reference {
            let mut bytes = 0;
            for batch in &self.batches {
                let outputs = run(&reference.session, &batch?)?;
                bytes += outputs.iter().map(|(_, t)| t.len() * t.dtype().bits() / 8).sum::<usize>();
                if bytes > REFERENCE_BYTES {
                    break;
                }
                reference.kept.push(outputs);
            }
        }
        let (mut metrics, scorer) = self.pass(Patch::new(), progress)?;
        self.scoring = scorer.scoring();
        metrics.notes.extend(self.batches.dataset().notes());
        metrics.notes.extend(self.unscaled(&metrics, scorer.classes())?);
        Ok(metrics)
    }

    /// A hint where images were passed unscaled and the loss is worse than that of guessing.
    fn unscaled(&self, metrics: &Metrics, classes: Option<usize>) -> Result<Option<String>> {
        let Some(classes) = classes else { return Ok(None) };
        let guessing = (classes as f64).ln();
        let absurd =
            metrics.values.first().is_some_and(|loss| loss.value.is_nan() || loss.value > ABSURD * guessing);
        let preprocess = self.batches.preprocess();
        let raw = preprocess.mean.is_empty() && preprocess.std.is_empty() && preprocess.scale == Scale::Auto;
        if !absurd || !raw {
            return Ok(None);
        }
        let data = self.batches.dataset();
        let mut largest = None;
        for index in 0..data.len().min(SEEN_IMAGES) {
            if let [Value::Image(image), ..] = &data.sample(index)?[..] {
                largest = largest.max(image.pixels().iter().max().copied());
            }
        }
        let Some(largest) = largest.filter(|&value| value > 1) else { return Ok(None) };
        let advice = match largest {
            128.. => "most models expect options `mean` and `std`, for example options `mean=0.485,0.456,0.406` and \
                 `std=0.229,0.224,0.225` (ImageNet), or option `scale=1/255`"
                .to_string(),
            _ => format!("perhaps the model expects option `scale=1/{largest}`, or options `mean` and `std`"),
        };
        Ok(Some(format!(
            "the loss is far worse than guessing (ln {classes} = {guessing:.3}). The images were passed as values from \
             0 to {}; {advice}",
            if largest < 128 { largest } else { u8::MAX }
        )))
    }

    /// Refuses classes whose order is assumed where there are not as many as the model has.
    fn check_classes(&self, outputs: Option<usize>) -> Result<()> {
        let data = self.batches.dataset();
        let (Some(outputs), Some(classes), true) = (outputs, data.classes(), data.assumes_order()) else {
            return Ok(());
        };
        if classes.len() == outputs {
            return Ok(());
        }
        Err(Error::usage(format!(
            "the data have {} ({}), but the model's output has {outputs}: which output belongs to which class is \
             unknown. Give a text file (option `classes`) with the names of all {outputs} classes, one per line, in \
             the order of the model's outputs; or save it as classes.txt in the data folder",
            counted_classes(classes.len()),
            listed(classes),
        )))
    }

    /// Evaluates the model with changed weights.
    ///
    /// # Errors
    /// Where a node refuses its operands, labels are not classes of the output, or the data cannot
    /// be read.
    pub fn evaluate(&mut self, patch: Patch, progress: &dyn Progress) -> Result<Metrics> {
        Ok(self.pass(patch, progress)?.0)
    }

    fn pass(&mut self, mut patch: Patch, progress: &dyn Progress) -> Result<(Metrics, Scorer)> {
        patch.fill_from(&self.masked);
        self.session.update(patch, Kernels::Choose)?;
        let mut scorer = Scorer::new(self.scoring);
        let mut errors = OutputErrors::new();
        for (index, batch) in self.batches.iter().enumerate() {
            let batch = batch?;
            let outputs = run(&self.session, &batch)?;
            match &self.reference {
                None => {
                    scorer.update(&outputs[self.output].1, &batch)?;
                    self.check_classes(scorer.classes())?;
                }
                Some(reference) => {
                    let again = match reference.kept.get(index) {
                        Some(_) => None,
                        None => Some(run(&reference.session, &batch)?),
                    };
                    let expected = again.as_ref().or(reference.kept.get(index));
                    let expected = expected.ok_or_else(|| Error::internal("no reference outputs"))?;
                    errors.update(&outputs, expected, &batch)?;
                }
            }
            progress.advance(1);
        }
        let metrics = if self.has_labels() { scorer.clone().finish()? } else { errors.finish()? };
        Ok((metrics, scorer))
    }
}

fn counted_classes(number: usize) -> String {
    if number == 1 { "1 class".into() } else { format!("{number} classes") }
}

fn run(session: &Session, batch: &Batch) -> Result<Vec<(String, Tensor)>> {
    let outputs = session.run(batch.inputs.clone())?;
    Ok(session.outputs().iter().cloned().zip(outputs).collect())
}
