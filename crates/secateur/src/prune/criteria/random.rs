//! Random scores: the baseline.

use secateur_model::Result;

use super::{Criterion, Scores, TORCH, UnitScores};
use crate::prune::evidence::{Evidence, SEED};
use crate::prune::registry::{About, Described};
use crate::prune::units::Units;
use crate::random::Stream;

/// Uniform draws.
#[derive(Debug)]
pub(super) struct Random;

static ABOUT: About = About {
    name: "random",
    aliases: &[],
    parameter: None,
    summary: "uniform draws by seed and tensor name: the baseline that a criterion has to beat",
    formula: "u(seed, tensor, index)",
    source: TORCH,
    needs: &[&SEED],
};

impl Described for Random {
    fn about(&self) -> &About {
        &ABOUT
    }
}

/// A draw as a key, which is never 0.
fn key(stream: Stream, position: usize) -> u64 {
    stream.draw(position as u64).max(1)
}

impl Criterion for Random {
    fn weights<'a>(&self, layer: &Evidence<'a>) -> Result<Scores<'a>> {
        let stream = Stream::new(layer.seed, &layer.stored.path);
        Ok(Scores::Keys(Box::new(move |start, out| {
            out.iter_mut().zip(start..).for_each(|(out, i)| *out = key(stream, i));
        })))
    }

    fn units(&self, layer: &Evidence<'_>, units: &Units) -> Result<UnitScores> {
        let stream = Stream::new(layer.seed, &layer.stored.path);
        Ok(UnitScores::Keys((0..units.count()).map(|unit| key(stream, unit)).collect()))
    }
}
