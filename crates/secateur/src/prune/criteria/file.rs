//! Scores from a file: what another program computed.

use secateur_model::Result;

use super::{Criterion, Scores, UnitScores, mean};
use crate::prune::evidence::{Evidence, SCORES};
use crate::prune::registry::{About, Described};
use crate::prune::units::Units;

/// The scores of a file, unchanged.
#[derive(Debug)]
pub(super) struct File;

static ABOUT: About = About {
    name: "file",
    aliases: &[],
    parameter: None,
    summary: "scores from an npz or safetensors file (option `scores`), as they are: one for each weight \
              under its tensor's path, or a vector with one for each channel or block",
    formula: "Σs_i ÷ n, s from the file",
    source: "torch.nn.utils.prune (importance_scores; no magnitudes are taken here)",
    needs: &[&SCORES],
};

impl Described for File {
    fn about(&self) -> &About {
        &ABOUT
    }
}

impl Criterion for File {
    fn weights<'a>(&self, layer: &Evidence<'a>) -> Result<Scores<'a>> {
        let scores = layer.given(&SCORES)?;
        Ok(Scores::Numbers(Box::new(move |start, out| scores.read(start, out))))
    }

    fn units(&self, layer: &Evidence<'_>, units: &Units) -> Result<UnitScores> {
        Ok(UnitScores::Numbers(match layer.given_by_unit(&SCORES, units)? {
            Some(scores) => scores,
            None => mean(layer.given(&SCORES)?.numbers(), units),
        }))
    }
}
