//! Scores of weights: plain arrays in, scores out. Higher = keep.
//!
//! One criterion a file. [`CRITERIA`] is the table of all of them: what a method can name, what help
//! and docs say, and what the goldens must cover.
#![doc(alias = "saliency")]
#![doc(alias = "importance")]

pub mod file;
pub mod lamp;
pub mod norm;

use std::fmt;

use secateur_model::{Error, Result};

use crate::near::did_you_mean;

pub use norm::Order;

/// A rule that gives each weight, or each unit of weights (a channel, a block), a score.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Criterion {
    /// Uniform draws.
    Random,
    /// The norm of the weight (its magnitude) or of the unit.
    Norm(Order),
    /// The square of the weight, or of the unit's norm, over the sum of those that are not smaller.
    Lamp,
    /// Read from a file.
    File,
}

/// What a criterion needs besides the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A file of scores.
    ScoreFile,
}

/// A row of the table of criteria.
#[derive(Clone, Copy, Debug)]
pub struct CriterionInfo {
    /// The name as a method is written: `l1`; with a parameter `ln:P`.
    pub name: &'static str,
    /// One sentence for help texts.
    pub summary: &'static str,
    /// The score of a channel or block of n weights w_i; of a single weight with n = 1.
    pub formula: &'static str,
    /// Where it is defined.
    pub source: &'static str,
    /// What it needs besides the weights.
    pub needs: Needs,
    /// The criterion; for one with a parameter, an example.
    pub criterion: Criterion,
}

/// PyTorch's module, the reference for what users know.
const TORCH: &str = "torch.nn.utils.prune";

/// All criteria.
pub const CRITERIA: &[CriterionInfo] = &[
    CriterionInfo {
        name: "random",
        summary: "uniform draws by seed and tensor name: the baseline that a criterion has to beat",
        formula: "u(seed, tensor, index)",
        source: TORCH,
        needs: Needs::Nothing,
        criterion: Criterion::Random,
    },
    CriterionInfo {
        name: "l1",
        summary: "magnitude of the weight, mean magnitude of the channel or block",
        formula: "Σ|w_i| ÷ n",
        source: "torch.nn.utils.prune; filters: Li et al. 2017, arXiv:1608.08710",
        needs: Needs::Nothing,
        criterion: Criterion::Norm(Order::L1),
    },
    CriterionInfo {
        name: "l2",
        summary: "magnitude of the weight, Euclidean norm of the channel or block",
        formula: "√(Σw_i² ÷ n)",
        source: TORCH,
        needs: Needs::Nothing,
        criterion: Criterion::Norm(Order::L2),
    },
    CriterionInfo {
        name: "ln:P",
        summary: "norm of any order P > 0, such as ln:0.5",
        formula: "(Σ|w_i|^P ÷ n)^(1/P)",
        source: TORCH,
        needs: Needs::Nothing,
        criterion: Criterion::Norm(Order::HALF),
    },
    CriterionInfo {
        name: "l0",
        summary: "share of weights of the channel or block that are not zero",
        formula: "#{w_i ≠ 0} ÷ n",
        source: TORCH,
        needs: Needs::Nothing,
        criterion: Criterion::Norm(Order::ZERO),
    },
    CriterionInfo {
        name: "linf",
        summary: "magnitude of the weight, largest magnitude of the channel or block",
        formula: "max|w_i|",
        source: TORCH,
        needs: Needs::Nothing,
        criterion: Criterion::Norm(Order::INF),
    },
    CriterionInfo {
        name: "l-inf",
        summary: "magnitude of the weight, smallest magnitude of the channel or block",
        formula: "min|w_i|",
        source: TORCH,
        needs: Needs::Nothing,
        criterion: Criterion::Norm(Order::MINUS_INF),
    },
    CriterionInfo {
        name: "lamp",
        summary: "square of the weight over those of its layer that are not smaller, so that no layer \
                  dies: meant for the scope global, within a layer it ranks as magnitudes do",
        formula: "q ÷ Σ_{q_j ≥ q} q_j, q = Σw_i² ÷ n, j over the layer",
        source: "Lee et al. 2021, arXiv:2010.07611",
        needs: Needs::Nothing,
        criterion: Criterion::Lamp,
    },
    CriterionInfo {
        name: "file",
        summary: "scores from an npz or safetensors file (--scores), as they are: one for each weight \
                  under its tensor's path, or a vector with one for each channel or block",
        formula: "Σs_i ÷ n, s from the file",
        source: "torch.nn.utils.prune (importance_scores; no magnitudes are taken here)",
        needs: Needs::ScoreFile,
        criterion: Criterion::File,
    },
];

impl Criterion {
    /// Reads a criterion's name.
    ///
    /// # Errors
    /// `Usage` where no criterion has the name; it lists those there are.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(order) = text.strip_prefix("ln:") {
            return Order::parse(order).map(Criterion::Norm);
        }
        let known = CRITERIA.iter().find(|info| info.name == text && !info.has_parameter());
        known.map(|info| info.criterion).ok_or_else(|| {
            let names = CRITERIA.iter().map(|info| info.name);
            let near = did_you_mean(text, names);
            Error::usage(format!(
                "no criterion is called `{text}`{near} (`secateur methods` says what each is)"
            ))
        })
    }
}

impl CriterionInfo {
    /// Whether the name holds a parameter.
    pub fn has_parameter(&self) -> bool {
        self.name.contains(':')
    }
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (CRITERIA.iter().find(|info| info.criterion == *self && !info.has_parameter()), self) {
            (Some(info), _) => f.write_str(info.name),
            (None, Criterion::Norm(order)) => write!(f, "ln:{}", order.value()),
            (None, Criterion::Random | Criterion::Lamp | Criterion::File) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for info in CRITERIA {
            let printed = info.criterion.to_string();
            assert_eq!(Criterion::parse(&printed).unwrap(), info.criterion);
            if !info.has_parameter() {
                assert_eq!(printed, info.name);
            }
        }
        assert_eq!(Criterion::parse("ln:1").unwrap().to_string(), "l1");
        assert_eq!(Criterion::parse("ln:-inf").unwrap().to_string(), "l-inf");
        assert_eq!(Criterion::parse("ln:0").unwrap().to_string(), "l0");
        for wrong in ["ln:-1", "ln:nan", "ln:", "L1", "ln:P", "magnitude"] {
            assert!(Criterion::parse(wrong).is_err(), "{wrong}");
        }
    }
}
