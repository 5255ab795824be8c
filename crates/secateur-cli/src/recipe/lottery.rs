//! How lottery tickets are searched for.

use std::path::PathBuf;

use secateur::data::Sampling;
use secateur::evaluate::EvalOptions;
use secateur::lottery::{Control, LotteryOptions, Rewind};
use secateur::prune::PruneOptions;
use secateur::schedule::Length;
use secateur::train::Init;
use secateur::{Amount, Error, Result};
use serde::{Deserialize, Serialize};

use super::{Recipe, Share, is_default, value, word};

/// How lottery tickets are searched for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct LotteryFlags {
    /// Train this network instead of a file's: lenet-300-100, conv-2 or resnet-20
    #[arg(long, value_name = "NAME", conflicts_with = "model", help_heading = "Lottery")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) net: Option<String>,
    /// Initial weights: glorot, kaiming or file (those of the model's file) [default: the net's; kaiming for a file]
    #[arg(long, value_name = "INIT", value_parser = word::<Init>, help_heading = "Lottery")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) init: Option<Init>,
    /// How many times to prune and train again, unless --sparsity says how far
    #[arg(long, value_name = "N", conflicts_with = "sparsity", help_heading = "Lottery")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) levels: Option<u64>,
    /// The share of the remaining weights that each level prunes; --layer sets it for single layers [default: 0.2]
    #[arg(long, value_name = "SHARE", help_heading = "Lottery")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) rate: Option<Share>,
    /// Put the kept weights back to step 0, 500it or 2ep; or keep them and repeat the learning rates (learning-rate), or
    /// train on at the last one (none) [default: 0]
    #[arg(long, value_name = "TO", help_heading = "Lottery")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) rewind: Option<Rewind>,
    /// Replicates, with the seeds from --seed on [default: 1]
    #[arg(long, value_name = "N", help_heading = "Lottery")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) seeds: Option<u64>,
    /// What to compare tickets with at each level: reinit (new weights), random (a random mask), or none
    /// [default: reinit,random]
    #[arg(
        long,
        value_name = "CONTROL",
        value_delimiter = ',',
        value_parser = word::<Compared>,
        help_heading = "Lottery"
    )]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) controls: Vec<Compared>,
    /// How often to evaluate on the validation data [default: 100it]
    #[arg(long, value_name = "LENGTH", help_heading = "Lottery")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) evaluate_every: Option<Length>,
    /// Data whose accuracy is reported, read as --data [default: the validation data]
    #[arg(long, value_name = "PATH", num_args = 1.., help_heading = "Lottery")]
    #[serde(with = "value::list", skip_serializing_if = "is_default")]
    pub(crate) test: Vec<PathBuf>,
    /// The labels of --test, as --labels says those of --data [default: as --labels, where that is no file]
    #[arg(long, value_name = "NAME|FILE", requires = "test", help_heading = "Lottery")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) test_labels: Option<String>,
    /// How often to evaluate on --test [default: 500it]
    #[arg(long, value_name = "LENGTH", requires = "test", help_heading = "Lottery")]
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) test_every: Option<Length>,
}

/// What tickets are compared with, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compared {
    /// New weights.
    Reinit,
    /// A random mask.
    Random,
    /// Nothing.
    None,
}

/// The share of what remains that each level prunes where nothing else is said.
const RATE: f64 = 0.2;

/// Samples of a batch that is evaluated; other sizes give the same results.
const EVALUATED: usize = 250;

impl Recipe {
    /// How lottery tickets are searched for.
    ///
    /// # Errors
    /// `Usage` where data, lengths or levels are missing, or flags have no effect.
    pub(crate) fn lottery_options(&self, init: Init) -> Result<LotteryOptions> {
        let lottery = &self.lottery;
        let eval = self.eval_options()?;
        let (train, data, validation) = self.training(&eval)?;
        let Some(validation) = validation else {
            return Err(Error::usage(
                "no validation data are given: pass --hold-out, for example --hold-out 5000, or --validation",
            ));
        };
        let test = match &lottery.test[..] {
            [] => None,
            paths => {
                let labels = (lottery.test_labels.as_ref(), "--test", "--test-labels");
                Some(self.other_data(&eval, paths, labels)?)
            }
        };
        let batched = |options: EvalOptions| EvalOptions {
            sampling: Sampling { batch: Some(EVALUATED), ..options.sampling },
            ..options
        };
        let rate = self.rate();
        let calibrate = self.training_calibration(&data, &train, false)?;
        Ok(LotteryOptions {
            train,
            data,
            validation: batched(validation),
            test: test.map(batched),
            prune: PruneOptions {
                method: self
                    .only_method("tickets are pruned by one; run this once for each")?
                    .unwrap_or_default(),
                amount: Amount::Sparsity(rate),
                of_remaining: true,
                ..self.base_options()?
            },
            calibrate,
            levels: self.levels(rate)?,
            rewind: lottery.rewind.unwrap_or_default(),
            init,
            controls: lottery.controls()?,
            seeds: lottery.seeds.unwrap_or(1),
            evaluate_every: lottery.evaluate_every.unwrap_or(Length::Iterations(100)),
            test_every: lottery.test_every.unwrap_or(Length::Iterations(500)),
            limits: None,
        })
    }

    /// The share of what remains that each level prunes.
    pub(crate) fn rate(&self) -> f64 {
        self.lottery.rate.map_or(RATE, Share::get)
    }

    /// How many levels there are: as many as it takes to the sparsity, where that is given.
    fn levels(&self, rate: f64) -> Result<u64> {
        match (self.lottery.levels, &self.prune.sparsity[..]) {
            (Some(levels), []) => Ok(levels),
            (None, [target]) if target.get() < 1.0 => {
                // Without the noise of binary fractions: 0.36 takes two levels of 0.2, not three.
                let levels = ((1.0 - target.get()).ln() / (1.0 - rate).ln() - 1e-9).ceil();
                Ok(levels as u64)
            }
            (None, []) => Err(Error::usage(
                "how far to prune is not given: pass --levels, for example --levels 15, or --sparsity 0.96",
            )),
            _ => Err(Error::usage("expected either a number of levels or one sparsity below 1 to go to")),
        }
    }
}

impl LotteryFlags {
    fn controls(&self) -> Result<Vec<Control>> {
        let of = |compared: &Compared| match compared {
            Compared::Reinit => Some(Control::Reinit),
            Compared::Random => Some(Control::Random),
            Compared::None => None,
        };
        match &self.controls[..] {
            [] => Ok(vec![Control::Reinit, Control::Random]),
            [Compared::None] => Ok(Vec::new()),
            several if several.contains(&Compared::None) => {
                Err(Error::usage("--controls none has no effect beside other controls"))
            }
            several => {
                let mut controls: Vec<Control> = several.iter().filter_map(of).collect();
                controls.dedup();
                Ok(controls)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(text: &str) -> Result<u64> {
        let recipe: Recipe = toml::from_str(text).unwrap();
        recipe.levels(0.2)
    }

    #[test]
    fn a_sparsity_takes_as_many_levels_as_go_to_it() {
        assert_eq!(levels("[lottery]\nlevels = 3").unwrap(), 3);
        for (sparsity, expected) in [(0.2, 1), (0.36, 2), (0.37, 3), (0.964, 15)] {
            assert_eq!(levels(&format!("[prune]\nsparsity = {sparsity}")).unwrap(), expected, "{sparsity}");
        }
        assert!(levels("").unwrap_err().to_string().contains("--levels 15"));
        assert!(levels("[prune]\nsparsity = 1").is_err());
        assert!(levels("[prune]\nsparsity = 0.5\n[lottery]\nlevels = 2").is_err());
    }

    #[test]
    fn controls_are_both_unless_said() {
        let controls = |text: &str| toml::from_str::<Recipe>(text).unwrap().lottery.controls();
        assert_eq!(controls("").unwrap(), [Control::Reinit, Control::Random]);
        assert_eq!(controls("[lottery]\ncontrols = 'none'").unwrap(), []);
        assert_eq!(controls("[lottery]\ncontrols = ['random']").unwrap(), [Control::Random]);
        assert!(controls("[lottery]\ncontrols = ['random', 'none']").is_err());
    }
}
