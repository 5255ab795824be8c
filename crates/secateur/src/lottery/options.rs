//! What an experiment does.

use std::fmt;
use std::str::FromStr;

use secateur_model::{Error, Result};
use secateur_runtime::Limits;
use serde::{Deserialize, Serialize};

use super::record::Kind;
use crate::calib::CalibrateOptions;
use crate::eval::evaluate::EvalOptions;
use crate::prune::{Amount, PruneOptions};
use crate::schedule::{Extent, Length};
use crate::train::{Init, TrainData, TrainOptions};

/// What an experiment does.
#[derive(Clone, Debug)]
pub struct LotteryOptions {
    /// Each training; its seed is that of the first replicate, the next ones have the numbers after it.
    pub train: TrainOptions,
    /// What is trained on.
    pub data: TrainData,
    /// What the early stop is found by.
    pub validation: EvalOptions,
    /// What accuracies are reported on; by default the validation data.
    pub test: Option<EvalOptions>,
    /// How each level prunes: the amount and the sparsities of single layers are shares of what remains.
    pub prune: PruneOptions,
    /// What criteria that look at data are calibrated on, at each level anew.
    pub calibrate: Option<CalibrateOptions>,
    /// How many times is pruned.
    pub levels: u64,
    /// What becomes of the kept weights.
    pub rewind: Rewind,
    /// The weights that the dense network begins with.
    pub init: Init,
    /// What tickets are compared with.
    pub controls: Vec<Control>,
    /// How many replicates.
    pub seeds: u64,
    /// How often the model is evaluated on the validation data.
    pub evaluate_every: Length,
    /// How often on the test data; the early stop is evaluated besides.
    pub test_every: Length,
    /// What a run of the model may take.
    pub limits: Option<Limits>,
}

/// What becomes of the kept weights before the next training, written `0it`, `500it` or `2ep`, `learning-rate` or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rewind {
    /// They are those of the dense network after so many steps, and training goes on from there: weight rewinding (Frankle
    /// et al. 2020); from step 0 lottery tickets (Frankle and Carbin 2019).
    To(Length),
    /// They stay, and the whole course of the learning rate is repeated: learning-rate rewinding (Renda et al. 2020).
    LearningRate,
    /// They stay, and training goes on for as long with the last learning rate: fine-tuning.
    Nothing,
}

impl Default for Rewind {
    fn default() -> Self {
        Rewind::To(Length::Iterations(0))
    }
}

impl FromStr for Rewind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "0" => Ok(Rewind::default()),
            "learning-rate" => Ok(Rewind::LearningRate),
            "none" => Ok(Rewind::Nothing),
            text => text.parse().map(Rewind::To).map_err(|_| {
                Error::usage(format!(
                    "`{text}` is nothing to rewind to: expected 0, 500it, 2ep, learning-rate or none"
                ))
            }),
        }
    }
}

impl fmt::Display for Rewind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rewind::To(length) => write!(f, "{length}"),
            Rewind::LearningRate => write!(f, "learning-rate"),
            Rewind::Nothing => write!(f, "none"),
        }
    }
}

impl TryFrom<String> for Rewind {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Rewind> for String {
    fn from(rewind: Rewind) -> String {
        rewind.to_string()
    }
}

/// What tickets are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Control {
    /// The ticket's mask with newly drawn weights, trained from the first step.
    Reinit,
    /// The weights that the ticket begins with, and a random mask of as many in each layer.
    Random,
}

impl Control {
    pub(super) fn kind(self) -> Kind {
        match self {
            Control::Reinit => Kind::Reinitialised,
            Control::Random => Kind::Random,
        }
    }
}

impl LotteryOptions {
    /// The seeds of the replicates.
    pub(super) fn replicates(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.train.seed;
        (0..self.seeds).map(move |i| first.wrapping_add(i))
    }

    /// Whether the zeros of the model's file are its masks.
    pub(super) fn keeps_file(&self) -> bool {
        self.init == Init::File
    }

    /// Checks what can be checked without data.
    pub(super) fn check(&self) -> Result<()> {
        self.train.check()?;
        self.prune.check()?;
        if self.seeds == 0 || self.levels == 0 {
            return Err(Error::usage("an experiment has at least one level and one seed"));
        }
        match self.prune.amount {
            Amount::Sparsity(rate) if rate > 0.0 && rate < 1.0 => {}
            other => {
                return Err(Error::usage(format!(
                    "each level prunes a share of what remains between 0 and 1, found {other}"
                )));
            }
        }
        Ok(())
    }

    /// Checks the lengths against that of the training.
    pub(super) fn check_extent(&self, extent: Extent) -> Result<()> {
        if extent.of_epoch == 0 {
            let batch = self.train.batch;
            return Err(Error::usage(format!(
                "there are fewer training samples than a batch of {batch} takes"
            )));
        }
        for (what, length) in [("validation", self.evaluate_every), ("test", self.test_every)] {
            if length.iterations(extent.of_epoch) == 0 {
                return Err(Error::usage(format!(
                    "the {what} data are evaluated every {length}: expected more"
                )));
            }
        }
        match self.rewind {
            Rewind::To(length) if length.iterations(extent.of_epoch) >= extent.steps => {
                let steps = extent.steps;
                Err(Error::usage(format!(
                    "kept weights are put back to {length}, a training has {steps} steps"
                )))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rewound_is_written_in_one_word() {
        for (text, rewind) in [
            ("0it", Rewind::default()),
            ("2ep", Rewind::To(Length::Epochs(2))),
            ("learning-rate", Rewind::LearningRate),
            ("none", Rewind::Nothing),
        ] {
            assert_eq!(text.parse::<Rewind>().unwrap(), rewind);
            assert_eq!(rewind.to_string(), text);
        }
        assert_eq!("0".parse::<Rewind>().unwrap(), Rewind::default());
        assert!("500".parse::<Rewind>().unwrap_err().to_string().contains("500it"));
    }
}
