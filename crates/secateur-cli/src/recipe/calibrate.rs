//! What criteria that look at data are calibrated on.

use std::path::PathBuf;

use secateur::calib::{CalibrateOptions, needs_data};
use secateur::train::{LossOptions, TrainData};
use secateur::{Error, Method, Result};
use serde::{Deserialize, Serialize};

use super::{Recipe, is_default, value};

/// Samples that are looked at where nothing else is said.
const SAMPLES: usize = 1000;

/// What criteria that look at data are calibrated on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct CalibrateFlags {
    /// Data for criteria such as taylor and apoz, read as --data; training data, not those you test on
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Calibration")]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) calibrate: Vec<PathBuf>,
    /// The labels of --calibrate, as --labels says those of --data [default: as --labels, where that is no file]
    #[arg(long, value_name = "NAME|FILE", requires = "calibrate", help_heading = "Calibration")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) calibrate_labels: Option<String>,
    /// Use at most N samples of them, chosen by --seed [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Calibration")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) calibrate_samples: Option<usize>,
}

impl Recipe {
    /// What criteria are calibrated on, where data are given.
    ///
    /// # Errors
    /// `Usage` where flags on the data contradict each other.
    pub(crate) fn calibrate_options(&self) -> Result<Option<CalibrateOptions>> {
        let said = &self.calibrate;
        if said.calibrate.is_empty() {
            return Ok(None);
        }
        let labels = (said.calibrate_labels.as_ref(), "--calibrate-labels");
        let eval = self.data_like(&self.options_on(&[])?, &said.calibrate, labels)?;
        let data = TrainData { data: eval.data, preprocess: eval.preprocess, sampling: eval.sampling };
        Ok(Some(self.calibrated_on(
            data,
            LossOptions {
                loss: eval.scoring.loss,
                class_axis: eval.scoring.class_axis,
                ..LossOptions::default()
            },
        )))
    }

    /// As [`Recipe::calibrate_options`], on data that are known; label smoothing and distillation belong to training only.
    pub(crate) fn calibrated_on(&self, mut data: TrainData, loss: LossOptions) -> CalibrateOptions {
        data.sampling.most = Some(self.calibrate.calibrate_samples.unwrap_or(SAMPLES));
        data.sampling.batch = self.data.batch;
        let loss = LossOptions { label_smoothing: 0.0, distill: 0.0, ..loss };
        CalibrateOptions { data, loss, output: self.data.output_name.clone(), limits: None }
    }

    /// Refuses calibration data that nothing looks at.
    ///
    /// # Errors
    /// `Usage` where neither a method nor a repair takes data.
    pub(crate) fn check_calibration(&self, methods: &[Method], repairs: bool) -> Result<()> {
        let given = [
            ("--calibrate", !self.calibrate.calibrate.is_empty()),
            ("--calibrate-samples", self.calibrate.calibrate_samples.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) if !repairs && !methods.iter().any(needs_data) => Err(Error::usage(format!(
                "{flag} has no effect without a criterion that looks at data, such as --method taylor@global"
            ))),
            _ => Ok(()),
        }
    }
}
