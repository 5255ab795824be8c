//! How a pruned model is repaired.

use std::path::{Path, PathBuf};

use secateur::data::Sampling;
use secateur::evaluate::EvalOptions;
use secateur::solve::{Method, RepairOptions};
use secateur::train::TrainData;
use secateur::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Recipe, is_default, value, word};

/// How a pruned model is repaired.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct RepairFlags {
    /// How: norms (batch-norm statistics), bias (means of layers) [default: each that applies]
    #[arg(long, short, value_name = "HOW", value_delimiter = ',', value_parser = word::<Method>, help_heading = "Repair")]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) method: Vec<Method>,
    /// The model before pruning, whose means `bias` restores
    #[arg(long, value_name = "MODEL", help_heading = "Repair")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) reference: Option<PathBuf>,
    /// Data to evaluate on before and after, read as --data [default: --data, where they have labels]
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Validation")]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) validation: Vec<PathBuf>,
    /// The labels of --validation, as --labels says those of --data [default: as --labels, where that is no file]
    #[arg(long, value_name = "NAME|FILE", requires = "validation", help_heading = "Validation")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) validation_labels: Option<String>,
}

impl Recipe {
    /// How a model is repaired.
    ///
    /// # Errors
    /// `Usage` where data are missing or flags on them contradict each other.
    pub(crate) fn repair_options(&self) -> Result<RepairOptions> {
        let eval = self.eval_options()?;
        let data = TrainData { data: eval.data, preprocess: eval.preprocess, sampling: eval.sampling };
        Ok(RepairOptions { methods: self.repair.method.clone(), data, limits: None })
    }

    /// What a model is evaluated on before and after it is repaired: other data, or those that it is repaired on.
    ///
    /// # Errors
    /// As [`Recipe::repair_options`].
    pub(crate) fn repair_validation(&self) -> Result<EvalOptions> {
        let said = &self.repair;
        if said.validation.is_empty() {
            return self.eval_options();
        }
        let labels = (said.validation_labels.as_ref(), "--validation-labels");
        self.data_like(&self.eval_options()?, &said.validation, labels)
    }

    /// Other data, all samples of them, read as those that `eval` names: the labels that are given for them, and the name of
    /// their flag.
    ///
    /// # Errors
    /// `Usage` where labels of the data of `--data` would be taken for theirs.
    pub(super) fn data_like(
        &self,
        eval: &EvalOptions,
        paths: &[PathBuf],
        (labels, labels_flag): (Option<&String>, &str),
    ) -> Result<EvalOptions> {
        let is_file = |labels: &&String| Path::new(labels.as_str()).is_file();
        let shared = self.data.labels.as_ref().filter(is_file).filter(|_| !self.data.data.is_empty());
        if let (Some(of_data), None) = (shared, labels) {
            return Err(Error::usage(format!(
                "{of_data} holds the labels of --data: pass {labels_flag} too"
            )));
        }
        let sampling = Sampling { seed: self.seed.unwrap_or(0), ..Sampling::default() };
        let mut other = EvalOptions { sampling, ..eval.clone() };
        other.data.paths = paths.to_vec();
        if labels.is_some() {
            other.data.labels = labels.cloned();
        }
        Ok(other)
    }
}
