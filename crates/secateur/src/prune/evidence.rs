//! What criteria and solvers know of a layer: its weights, and what else was gathered about it.
//!
//! Each states what it needs ([`Need`]). The union of all needs is gathered once ([`EvidenceSet`]); each layer gets its
//! part as [`Evidence`].

use std::collections::BTreeMap;
use std::path::Path;

use indexmap::IndexMap;
use secateur_model::ops::AxisRole;
use secateur_model::prunable::PrunableView;
use secateur_model::{Error, Result, StoredTensor};

use super::PruneOptions;
use super::method::Method;
use super::patterns::Pattern;
use super::patterns::axes::{self, Axis};
use super::registry::About;
use super::units::Units;
use super::weights::{Weights, position_of_nan};
use crate::data::read_named;
use crate::near::did_you_mean;

/// Something that a criterion or solver needs besides the weights.
#[derive(Debug)]
pub struct Need {
    /// The name.
    pub name: &'static str,
    /// What it is, for messages.
    pub what: &'static str,
    /// How to give it, for messages.
    pub how: &'static str,
    /// The shape of what is needed of a layer.
    pub shape: NeedShape,
}

/// The shape of what is needed of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeedShape {
    /// Nothing is stored: it comes with the options.
    Nothing,
    /// The weight's own.
    Weight,
    /// The weight's own, or a number for each unit that is ranked.
    WeightOrUnits,
    /// The weight's own where single weights are ranked, else a number for each unit of the pattern: each pattern has
    /// evidence of its own.
    Ranked,
    /// A number for each of [`Evidence::inputs`].
    Inputs,
    /// A matrix `[n, n]` over the n inputs of each separate part of the layer (groups, directions, stacked
    /// matrices): `[parts, n, n]`.
    InputPairs,
}

impl PartialEq for Need {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A seed of random draws: [`Evidence::seed`].
pub static SEED: Need = Need {
    name: "seed",
    what: "a seed of random draws",
    how: "set option `seed`",
    shape: NeedShape::Nothing,
};

/// Scores that another program computed.
pub static SCORES: Need = Need {
    name: "scores",
    what: "a file of scores",
    how: "pass one, for example with option `scores=scores.npz`",
    shape: NeedShape::WeightOrUnits,
};

/// The weights of another version of the model, such as those before training.
pub static OTHER_WEIGHTS: Need = Need {
    name: "other weights",
    what: "the weights of another version of the model, such as those before training",
    how: GIVEN,
    shape: NeedShape::Weight,
};

/// The gradient of the loss with respect to each weight, summed over the samples.
pub static GRADIENTS: Need = Need {
    name: "gradients",
    what: "the gradient of the loss with respect to each weight, summed over the samples",
    how: CALIBRATE,
    shape: NeedShape::Weight,
};

/// The squares of the gradients of single samples, the mean over the samples: E\[g²\] of each weight.
pub static GRADIENT_SQUARES: Need = Need {
    name: "gradient squares",
    what: "the mean square over the samples of the gradient with respect to each weight",
    how: CALIBRATE,
    shape: NeedShape::Weight,
};

/// What removing each weight or unit changes in the loss of a sample to first order, squared, the mean over the samples:
/// E[(Σ g·w)²] over the weights of a unit. Of output channels in front of a batch-norm the sum is taken behind it:
/// γ·∂L/∂γ + β·∂L/∂β.
pub static SALIENCY: Need = Need {
    name: "saliency",
    what: "the mean square over the samples of gradient times weight",
    how: CALIBRATE,
    shape: NeedShape::Ranked,
};

/// The mean magnitude of the activation that each output channel reaches.
pub static OUTPUT_MAGNITUDES: Need = Need {
    name: "output magnitudes",
    what: "the mean magnitude of each output channel's activation",
    how: CALIBRATE,
    shape: NeedShape::Ranked,
};

/// The share of zeros in the activation that each output channel reaches.
pub static OUTPUT_ZEROS: Need = Need {
    name: "output zeros",
    what: "the share of zeros in each output channel's activation",
    how: CALIBRATE,
    shape: NeedShape::Ranked,
};

/// The sum of squares Σx² of each input of the layer over all calibration positions.
pub static INPUT_SQUARES: Need = Need {
    name: "input squares",
    what: "the sum of squares of each input of the layer over the calibration data",
    how: GIVEN,
    shape: NeedShape::Inputs,
};

/// The second moments ΣXXᵀ of the inputs of the layer over all calibration positions.
pub static INPUT_MOMENTS: Need = Need {
    name: "input moments",
    what: "the second moments XXᵀ of the layer's inputs, summed over the calibration data",
    how: GIVEN,
    shape: NeedShape::InputPairs,
};

/// Synaptic flow, of the weights as they are in a round of pruning.
pub static FLOW: Need = Need {
    name: "synaptic flow",
    what: "the flow through each weight, computed anew in each round of pruning",
    how: "plan with `calib::plan`, as `prune`, `sweep`, `sensitivity` and schedules do",
    shape: NeedShape::Weight,
};

/// How to give what calibration data tell.
const CALIBRATE: &str = "pass calibration data, for example with option `calibrate=train.npz`";

/// How to give what no option does.
const GIVEN: &str = "pass it to `prune::plan_with` in an `EvidenceSet`";

/// What was gathered about a model's layers, by the need it meets, the pattern it is for and the weight's path.
#[derive(Clone, Debug, Default)]
pub struct EvidenceSet {
    tensors: BTreeMap<(&'static str, String), IndexMap<String, StoredTensor>>,
}

/// What evidence is kept under: the need, and the pattern where each has its own.
fn key(need: &Need, pattern: Pattern) -> (&'static str, String) {
    let has_own =
        need.shape == NeedShape::Ranked && matches!(pattern, Pattern::Channel(_) | Pattern::Block(_));
    (need.name, if has_own { pattern.to_string() } else { String::new() })
}

impl EvidenceSet {
    /// Gathers once what the methods of all these options need of files. Evidence that only a
    /// program can give is left out; asking for it later is an error.
    ///
    /// # Errors
    /// Where a file cannot be read.
    pub fn gather<'o>(options: impl IntoIterator<Item = &'o PruneOptions>) -> Result<Self> {
        let mut set = EvidenceSet::default();
        let mut read: Option<&Path> = None;
        for options in options.into_iter().filter(|o| o.method.needs(&SCORES)) {
            if let Some(path) = options.scores.as_deref().filter(|path| read != Some(path)) {
                // One set holds the scores of one file: a program that has several plans with several sets.
                if read.replace(path).is_some() {
                    return Err(Error::usage("several files of scores: one at a time is read"));
                }
                set.insert(&SCORES, read_named(path)?);
            }
        }
        Ok(set)
    }

    /// Adds what meets a need: a tensor for each weight, under the weight's path.
    pub fn insert(&mut self, need: &'static Need, tensors: impl IntoIterator<Item = (String, StoredTensor)>) {
        self.insert_for(need, Pattern::Unstructured, tensors);
    }

    /// As [`EvidenceSet::insert`], for a pattern: of needs of the shape [`NeedShape::Ranked`] each pattern of units has
    /// its own.
    pub fn insert_for(
        &mut self,
        need: &'static Need,
        pattern: Pattern,
        tensors: impl IntoIterator<Item = (String, StoredTensor)>,
    ) {
        let tensors = tensors.into_iter().map(|(path, tensor)| match tensor.packed() {
            Some(_) => (path, tensor.dense().into_owned()),
            None => (path, tensor),
        });
        self.tensors.entry(key(need, pattern)).or_default().extend(tensors);
    }

    /// What was gathered for a need, a pattern and the weight with a path.
    pub fn tensor(&self, need: &Need, pattern: Pattern, path: &str) -> Option<&StoredTensor> {
        self.tensors.get(&key(need, pattern))?.get(path)
    }

    /// Checks that there is what a method needs.
    ///
    /// # Errors
    /// `Usage` where something is missing, with how to give it.
    pub(super) fn check(&self, method: &Method) -> Result<()> {
        let solvers = method.solvers.iter().map(|solver| ("solver", solver.about()));
        for (kind, about) in [("criterion", method.criterion.about())].into_iter().chain(solvers) {
            for need in about.needs.iter().filter(|need| need.shape != NeedShape::Nothing) {
                if !self.tensors.contains_key(&key(need, method.pattern)) {
                    let (name, what, how) = (about.name, need.what, need.how);
                    return Err(Error::usage(format!(
                        "{kind} `{name}` needs {what}, and none is given: {how}"
                    ))
                    .at(format!("method `{method}`")));
                }
            }
        }
        Ok(())
    }

    fn get(&self, need: &Need, pattern: Pattern, path: &str) -> Result<&StoredTensor> {
        let tensors = self.tensors.get(&key(need, pattern));
        tensors.and_then(|tensors| tensors.get(path)).ok_or_else(|| {
            let near = did_you_mean(path, tensors.into_iter().flatten().map(|(name, _)| name.as_str()));
            Error::input(format!("{} has none for it{near}", need.what))
        })
    }
}

/// What a criterion or solver knows of a layer.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What the layer's axes mean, and the node that owns it.
    pub view: &'a PrunableView,
    /// The weight as stored.
    pub stored: &'a StoredTensor,
    /// Its elements, read in place; those pruned before are zeros.
    pub weights: &'a Weights<'a>,
    /// The seed of random draws.
    pub seed: u64,
    /// The number that follows the name in the method.
    pub parameter: Option<f64>,
    pub(super) pattern: Pattern,
    pub(super) set: &'a EvidenceSet,
    /// The criterion or solver that asks.
    pub(super) about: &'a About,
}

impl<'a> Evidence<'a> {
    /// What was gathered for a need, read in place: floats of the need's shape without NaN.
    ///
    /// # Errors
    /// `Usage` where nothing was gathered for the need, with how to give it; `Input` where there is nothing for
    /// this layer, its shape is another, or an element is NaN; `Unsupported` where the elements are not floats;
    /// `Internal` where [`About::needs`] does not name it.
    pub fn given(&self, need: &'static Need) -> Result<Weights<'a>> {
        let found = self.stored(need)?;
        let expected = match need.shape {
            NeedShape::Nothing => Vec::new(),
            NeedShape::Weight | NeedShape::WeightOrUnits | NeedShape::Ranked => self.stored.shape.clone(),
            NeedShape::Inputs => vec![self.inputs()?.count()],
            NeedShape::InputPairs => {
                let (parts, inputs) = (self.parts()?, self.inputs()?.count());
                vec![parts, inputs / parts, inputs / parts]
            }
        };
        if found.shape != expected {
            return Err(Error::input(format!(
                "the {} have the shape {:?}; expected {expected:?}",
                need.name, found.shape
            )));
        }
        numbers(found, need)
    }

    /// As [`Evidence::given`], of a vector with one number for each unit; `None` where what was gathered has
    /// the weight's own shape.
    ///
    /// # Errors
    /// As [`Evidence::given`].
    pub fn given_by_unit(&self, need: &'static Need, units: &Units) -> Result<Option<Vec<f64>>> {
        let found = self.stored(need)?;
        let is_weight = need.shape != NeedShape::Ranked && found.shape == self.stored.shape;
        if is_weight || found.shape != [units.count()] {
            return Ok(None);
        }
        let mut values = vec![0.0; units.count()];
        numbers(found, need)?.read(0, &mut values);
        Ok(Some(values))
    }

    /// As [`Evidence::given_by_unit`], where only a number for each unit will do.
    ///
    /// # Errors
    /// As [`Evidence::given`]; `Input` where what was gathered is no vector of units.
    pub fn of_units(&self, need: &'static Need, units: &Units) -> Result<Vec<f64>> {
        self.given_by_unit(need, units)?.ok_or_else(|| {
            let (count, name) = (units.count(), need.name);
            Error::input(format!("expected the {name} of {count} channels or blocks, a vector of numbers"))
        })
    }

    fn stored(&self, need: &'static Need) -> Result<&'a StoredTensor> {
        if !self.about.needs.contains(&need) {
            let (name, need) = (self.about.name, need.name);
            return Err(Error::internal(format!("`{name}` asks for {need}, which it does not say it needs")));
        }
        self.set.get(need, self.pattern, &self.stored.path)
    }

    /// Which input each weight multiplies: of a linear layer a unit for each input feature, of a convolution one
    /// for each group, input channel of the group and position of the kernel, in the order in which the weight
    /// stores them.
    ///
    /// # Errors
    /// `Usage` where the weight has no axis of inputs, `Unsupported` where its groups cannot be told apart.
    pub fn inputs(&self) -> Result<Units> {
        let axes = axes::axes(self.view, &self.stored.shape, &[Axis::In])?;
        Ok(axes::units(&axes, |axis| match axis {
            Axis::Out | Axis::Gate => axes::ALL,
            Axis::In | Axis::Spatial | Axis::Apart => 1,
        }))
    }

    /// Which output each weight contributes to: a unit for each row.
    ///
    /// # Errors
    /// As [`Evidence::inputs`], of outputs.
    pub fn outputs(&self) -> Result<Units> {
        Pattern::Unstructured.rows(self.view, &self.stored.shape)
    }

    /// Which kernel each weight of a convolution belongs to: a unit for each output and input channel, over all
    /// positions. `None` where the weight has no axes of positions.
    ///
    /// # Errors
    /// As [`Evidence::inputs`].
    pub fn kernels(&self) -> Result<Option<Units>> {
        if !self.view.roles.contains(&AxisRole::Spatial) {
            return Ok(None);
        }
        let axes = axes::axes(self.view, &self.stored.shape, &[])?;
        Ok(Some(axes::units(&axes, |axis| if axis == Axis::Spatial { axes::ALL } else { 1 })))
    }

    /// The separate parts of the layer, which share no inputs: groups, directions, stacked matrices.
    fn parts(&self) -> Result<usize> {
        let axes = axes::axes(self.view, &self.stored.shape, &[Axis::In])?;
        let inputs = axes.iter().position(|a| matches!(a.0, Axis::In | Axis::Spatial)).unwrap_or(axes.len());
        if axes[inputs..].iter().any(|a| a.0 == Axis::Apart) {
            return Err(Error::unsupported(
                "the weight stores its inputs before what divides them into parts",
            ));
        }
        Ok(axes.iter().filter(|a| a.0 == Axis::Apart).map(|a| a.1).product())
    }
}

fn numbers<'a>(found: &'a StoredTensor, need: &Need) -> Result<Weights<'a>> {
    if !found.dtype.is_prunable() {
        return Err(Error::unsupported(format!("{} of type {}: expected floats", need.name, found.dtype)));
    }
    let weights = Weights::of(found)?;
    match position_of_nan(weights.numbers(), found) {
        Some(at) => Err(Error::input(format!(
            "the element at {at:?} of the {} is NaN: it cannot be ranked",
            need.name
        ))),
        None => Ok(weights),
    }
}
