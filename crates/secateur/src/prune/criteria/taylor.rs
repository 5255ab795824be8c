//! First-order Taylor: what removing a weight or channel changes in the loss of a sample (Molchanov et al. 2019,
//! arXiv:1906.10771).

use secateur_model::Result;

use super::{Criterion, Scores, UnitScores};
use crate::prune::evidence::{Evidence, SALIENCY};
use crate::prune::registry::{About, Described};
use crate::prune::units::Units;

/// The square of gradient times weight, summed over a unit, the mean over the samples.
#[derive(Debug)]
pub(super) struct Taylor;

static ABOUT: About = About {
    name: "taylor",
    aliases: &["taylor-fo"],
    parameter: None,
    summary: "what removing the weight, channel or block changes in the loss to first order, from gradients of single \
              samples (option `calibrate`); of output channels taken behind their batch-norm",
    formula: "E[(Σg_i·w_i)²] over the samples",
    source: "Molchanov et al. 2019, arXiv:1906.10771",
    needs: &[&SALIENCY],
};

impl Described for Taylor {
    fn about(&self) -> &About {
        &ABOUT
    }
}

impl Criterion for Taylor {
    fn weights<'a>(&self, layer: &Evidence<'a>) -> Result<Scores<'a>> {
        let saliency = layer.given(&SALIENCY)?;
        Ok(Scores::Numbers(Box::new(move |start, out| saliency.read(start, out))))
    }

    fn units(&self, layer: &Evidence<'_>, units: &Units) -> Result<UnitScores> {
        layer.of_units(&SALIENCY, units).map(UnitScores::Numbers)
    }
}
