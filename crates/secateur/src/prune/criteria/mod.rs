//! Criteria: rules that score weights. Higher = keep.
//!
//! One criterion, or one family, per file: its description ([`About`](super::registry::About)) and how it scores.
//! [`CRITERIA`] is the table of all of them, which methods, help, documentation and the golden tests read.
#![doc(alias = "saliency")]
#![doc(alias = "importance")]

mod activation;
mod file;
mod gradient;
mod lamp;
pub mod norm;
mod random;
mod synflow;
mod taylor;

use std::fmt;

use secateur_model::{Error, Result};

use super::evidence::Evidence;
use super::patterns::Pattern;
use super::registry::Described;
use super::scope::Scope;
use super::units::Units;
use super::weights::{Numbers, fold_units};

/// A rule that gives each weight, or each unit of weights (a channel, a block), a score.
///
/// It keeps no state: everything it knows of a layer comes as [`Evidence`], and the same evidence gives the same
/// scores on any number of threads. Weights that are zero are pruned first, whatever their score.
pub trait Criterion: Described {
    /// The scores of a layer's single weights.
    ///
    /// # Errors
    /// Where the evidence is missing or does not fit.
    fn weights<'a>(&self, layer: &Evidence<'a>) -> Result<Scores<'a>>;

    /// The scores of a layer's units; by default the means of their weights' scores.
    ///
    /// # Errors
    /// As [`Criterion::weights`].
    fn units(&self, layer: &Evidence<'_>, units: &Units) -> Result<UnitScores> {
        match self.weights(layer)? {
            Scores::Magnitude => Ok(UnitScores::Numbers(mean(layer.weights.magnitudes(), units))),
            Scores::Numbers(read) => Ok(UnitScores::Numbers(mean(Numbers::of(&*read), units))),
            Scores::Keys(_) => {
                let name = self.about().name;
                Err(Error::internal(format!(
                    "`{name}` gives keys, which have no mean, and no scores of units"
                )))
            }
        }
    }

    /// In how many rounds it prunes, scored anew in each.
    fn rounds(&self) -> u32 {
        1
    }

    /// Makes the scores of a layer's channels comparable with those of other layers, before channels of all layers
    /// are ranked together; `nonzeros` tells how many weights of each channel are not zero.
    fn relate(&self, layer: &Evidence<'_>, scores: &mut [f64], nonzeros: &[u32]) {
        let _ = (layer, scores, nonzeros);
    }

    /// How many weights of each layer are among the `k` lowest of all layers, zeros not counted, for a criterion
    /// that knows this without ranking all of them together; ties between layers go to the earlier one. Its
    /// [`Criterion::weights`] then only has to order the weights of one layer.
    fn counts(&self, layers: &[Evidence<'_>], k: usize) -> Option<Vec<usize>> {
        let _ = (layers, k);
        None
    }

    /// Why the criterion has no meaning with a pattern and scope, if it has none, as a sentence.
    fn refuses(&self, parameter: Option<f64>, pattern: Pattern, scope: Scope) -> Option<&'static str> {
        let _ = (parameter, pattern, scope);
        None
    }
}

/// Fills a slice with the scores of single weights from a position on.
pub type Fill<'a, T> = Box<dyn Fn(usize, &mut [T]) + Send + Sync + 'a>;

/// The scores of single weights, computed when they are asked for.
pub enum Scores<'a> {
    /// The magnitudes of the weights themselves, which are read in place.
    Magnitude,
    /// Numbers.
    Numbers(Fill<'a, f64>),
    /// Integers that order as the scores do, none of them 0.
    Keys(Fill<'a, u64>),
}

impl Scores<'_> {
    /// Scores that are computed already, one for each weight.
    pub fn of(scores: Vec<f64>) -> Self {
        Scores::Numbers(Box::new(move |start, out| out.copy_from_slice(&scores[start..start + out.len()])))
    }
}

impl fmt::Debug for Scores<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scores::Magnitude => "Magnitude",
            Scores::Numbers(_) => "Numbers",
            Scores::Keys(_) => "Keys",
        })
    }
}

/// The scores of units.
#[derive(Clone, Debug, PartialEq)]
pub enum UnitScores {
    /// Numbers.
    Numbers(Vec<f64>),
    /// Integers that order as the scores do, none of them 0.
    Keys(Vec<u64>),
}

fn mean(numbers: Numbers<'_>, units: &Units) -> Vec<f64> {
    let sums = fold_units(numbers, units, 0.0, |s| s, |a, b| a + b);
    sums.into_iter().zip(units.sizes()).map(|(sum, n)| sum / n as f64).collect()
}

/// PyTorch's pruning module, which most users know.
const TORCH: &str = "torch.nn.utils.prune";

/// All criteria.
pub static CRITERIA: &[&dyn Criterion] = &[
    &random::Random,
    &norm::L1,
    &norm::L2,
    &norm::LN,
    &norm::L0,
    &norm::LINF,
    &norm::MINUS_INF,
    &lamp::Lamp,
    &taylor::Taylor,
    &gradient::SNIP,
    &gradient::FISHER,
    &synflow::SynFlow,
    &activation::MEAN_ACTIVATION,
    &activation::APOZ,
    &file::File,
];
