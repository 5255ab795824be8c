//! How a pruned model is repaired.

use std::path::PathBuf;

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
        self.other_data("--validation", &said.validation, said.validation_labels.as_ref())
    }

    /// Data that are read as those of `--data`, all samples of them.
    ///
    /// # Errors
    /// `Usage` where labels of other data would be taken for theirs.
    pub(super) fn other_data(
        &self,
        flag: &str,
        paths: &[PathBuf],
        labels: Option<&String>,
    ) -> Result<EvalOptions> {
        let mut options = EvalOptions { sampling: Default::default(), ..self.options_on(paths)? };
        options.sampling.seed = self.seed.unwrap_or(0);
        let is_file = |labels: &&String| std::path::Path::new(labels.as_str()).is_file();
        let shared = !self.data.data.is_empty();
        if let Some(labels) = self.data.labels.as_ref().filter(is_file).filter(|_| shared && labels.is_none())
        {
            return Err(Error::usage(format!("{labels} holds the labels of --data: pass {flag}-labels too")));
        }
        if labels.is_some() {
            options.data.labels = labels.cloned();
        }
        Ok(options)
    }
}
