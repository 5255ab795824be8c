//! Criteria from what output channels give on data: mean activation, and the share of zeros.

use secateur_model::{Error, Result};

use super::{Criterion, Scores, UnitScores};
use crate::prune::evidence::{Evidence, Need, OUTPUT_MAGNITUDES, OUTPUT_ZEROS};
use crate::prune::patterns::{ChannelAxis, Pattern};
use crate::prune::registry::{About, Described};
use crate::prune::scope::Scope;
use crate::prune::units::Units;

/// A function of a statistic of each output channel's activation.
#[derive(Debug)]
pub(super) struct OfActivation {
    about: About,
    need: &'static Need,
    /// The scores of the channels of a layer.
    scores: fn(Vec<f64>) -> Result<Vec<f64>>,
}

/// E|a|.
pub(super) static MEAN_ACTIVATION: OfActivation = OfActivation {
    about: About {
        name: "mean-activation",
        aliases: &[],
        parameter: None,
        summary: "mean magnitude of the output channel behind its activation (option `calibrate`)",
        formula: "E|a| over samples and positions",
        source: "Molchanov et al. 2017, arXiv:1611.06440, section 2.2, of magnitudes",
        needs: &[&OUTPUT_MAGNITUDES],
    },
    need: &OUTPUT_MAGNITUDES,
    scores: Ok,
};

/// 1 − APoZ.
pub(super) static APOZ: OfActivation = OfActivation {
    about: About {
        name: "apoz",
        aliases: &[],
        parameter: None,
        summary: "share of an output channel's activations that are not zero (1 − average percentage of zeros), behind \
                  a ReLU (option `calibrate`)",
        formula: "1 − #{a = 0} ÷ #a",
        source: "Hu et al. 2016, arXiv:1607.03250, eq. 1",
        needs: &[&OUTPUT_ZEROS],
    },
    need: &OUTPUT_ZEROS,
    scores: |zeros| {
        if zeros.iter().all(|&share| share == 0.0) {
            return Err(Error::usage(
                "no activation of the layer is zero, so that its channels cannot be told apart: leave the layer out with \
                 option `exclude`, or choose another criterion",
            ));
        }
        Ok(zeros.into_iter().map(|share| 1.0 - share).collect())
    },
};

impl Described for OfActivation {
    fn about(&self) -> &About {
        &self.about
    }
}

impl Criterion for OfActivation {
    fn weights<'a>(&self, _: &Evidence<'a>) -> Result<Scores<'a>> {
        let name = self.about.name;
        Err(Error::internal(format!("`{name}` scores output channels, not weights")))
    }

    fn units(&self, layer: &Evidence<'_>, units: &Units) -> Result<UnitScores> {
        (self.scores)(layer.of_units(self.need, units)?).map(UnitScores::Numbers)
    }

    fn refuses(&self, _: Option<f64>, pattern: Pattern, _: Scope) -> Option<&'static str> {
        let outputs = pattern == Pattern::Channel(ChannelAxis::Out);
        (!outputs).then_some(
            "activations are those of output channels: prune channels, such as with mean-activation/channel",
        )
    }
}
