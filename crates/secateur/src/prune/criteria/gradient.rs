//! Criteria from the gradients of single weights: SNIP and the diagonal of the Fisher information.

use secateur_model::Result;

use super::{Criterion, Scores};
use crate::prune::evidence::{Evidence, GRADIENT_SQUARES, GRADIENTS, Need};
use crate::prune::registry::{About, Described};

/// A function of the weight and of what gradients are summed up to.
#[derive(Debug)]
pub(super) struct OfGradient {
    about: About,
    need: &'static Need,
    /// The score of a weight, from the weight and the evidence.
    score: fn(f64, f64) -> f64,
}

/// Connection sensitivity.
pub(super) static SNIP: OfGradient = OfGradient {
    about: About {
        name: "snip",
        aliases: &[],
        parameter: None,
        summary: "connection sensitivity: magnitude of the weight times its gradient over all samples together (option \
                  `calibrate`); mean over the channel or block",
        formula: "|w·Σ_samples g|",
        source: "Lee et al. 2019, arXiv:1810.02340, eq. 5, without its constant factor",
        needs: &[&GRADIENTS],
    },
    need: &GRADIENTS,
    score: |weight, gradient| (weight * gradient).abs(),
};

/// Optimal brain damage with the Fisher information in the place of the Hessian.
pub(super) static FISHER: OfGradient = OfGradient {
    about: About {
        name: "fisher",
        aliases: &["obd"],
        parameter: None,
        summary: "optimal brain damage: what removing the weight changes in the loss to second order, the Hessian as the \
                  diagonal of the empirical Fisher information, from gradients of single samples (option `calibrate`); \
                  mean over the channel or block. Single weights rank as by `taylor`",
        formula: "½w²·E[g²] over the samples",
        source: "LeCun et al. 1989; Theis et al. 2018, arXiv:1801.05787, eq. 6",
        needs: &[&GRADIENT_SQUARES],
    },
    need: &GRADIENT_SQUARES,
    score: |weight, square| 0.5 * weight * weight * square,
};

impl Described for OfGradient {
    fn about(&self) -> &About {
        &self.about
    }
}

impl Criterion for OfGradient {
    fn weights<'a>(&self, layer: &Evidence<'a>) -> Result<Scores<'a>> {
        let (given, score) = (layer.given(self.need)?, self.score);
        let mut scores = vec![0.0; given.len()];
        given.read(0, &mut scores);
        layer.weights.numbers().for_each_block(0..given.len(), |start, block| {
            scores[start..].iter_mut().zip(block).for_each(|(slot, &w)| *slot = score(w, *slot));
        });
        Ok(Scores::of(scores))
    }
}
