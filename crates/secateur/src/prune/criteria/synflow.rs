//! Synaptic flow (Tanaka et al. 2020, arXiv:2006.05467): what flows through a weight where all weights count by their
//! magnitudes. It prunes in many rounds, each scored anew, so that no layer dies.

use secateur_model::Result;

use super::{Criterion, Scores};
use crate::prune::evidence::{Evidence, FLOW};
use crate::prune::registry::{About, Described};

/// |w·∂R/∂w|, R = 1ᵀ Π|W| 1.
#[derive(Debug)]
pub(super) struct SynFlow;

static ABOUT: About = About {
    name: "synflow",
    aliases: &[],
    parameter: None,
    summary: "synaptic flow: share of the weight in what flows through the network where weights count by their \
              magnitudes and addends are 0, on inputs of ones; needs no data. Prunes in 100 rounds of equal shares of what \
              remains, meant for the scope global",
    formula: "|w·∂R/∂w|, R = 1ᵀ Π|W| 1",
    source: "Tanaka et al. 2020, arXiv:2006.05467",
    needs: &[&FLOW],
};

impl Described for SynFlow {
    fn about(&self) -> &About {
        &ABOUT
    }
}

impl Criterion for SynFlow {
    fn weights<'a>(&self, layer: &Evidence<'a>) -> Result<Scores<'a>> {
        let flow = layer.given(&FLOW)?;
        Ok(Scores::Numbers(Box::new(move |start, out| flow.read(start, out))))
    }

    fn rounds(&self) -> u32 {
        100
    }
}
