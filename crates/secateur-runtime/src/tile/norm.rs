//! Normalisation of tokens.

use std::sync::Arc;

use secateur_kernels::Activation;
use secateur_kernels::tiled::TokenNorm;
use secateur_model::ops::axis_index;
use secateur_model::{Result, Tensor};

use super::{Estimate, Lower, TileCandidate, TileQuery, Tiles};
use crate::buffers::Pool;
use crate::kernels::Kernel;
use crate::weights::Weights;

pub(super) fn candidate(query: &TileQuery<'_>) -> Result<Option<TileCandidate>> {
    let (node, shape) = (&query.item.node, query.shape(0));
    let Some((input, _)) = query.tokens(0).filter(|_| query.item.epilogue.is_empty()) else {
        return Ok(None);
    };
    if axis_index(node.int_or("axis", -1)?, shape.len())? + 1 != shape.len() {
        return Ok(None);
    }
    let centred = node.op_type == "LayerNormalization";
    let mut constants = [None, None];
    for (i, constant) in constants.iter_mut().enumerate() {
        let Some(fact) = query.inputs.get(1 + i) else { continue };
        let features = &shape[shape.len() - 1..];
        let Some(value) = fact.value.as_ref().filter(|v| v.shape() == features && (i == 0 || centred)) else {
            return Ok(None);
        };
        *constant = Some(value.values::<f32>()?.to_vec());
    }
    let [scale, bias] = constants;
    let norm = Norm { centred, scale, bias, eps: node.float_or("epsilon", 1e-5)? };
    Ok(Some(TileCandidate { operands: vec![input], estimate: Estimate::default(), lower: Box::new(norm) }))
}

#[derive(Clone)]
struct Norm {
    centred: bool,
    scale: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl Lower for Norm {
    fn lower(&self, operands: &[Tiles], _: Activation, _: &Weights) -> Result<(Arc<dyn Kernel>, Tiles)> {
        let tiles = operands[0].clone();
        Ok((Arc::new(OnTiles { norm: self.clone(), tiles: tiles.clone() }), tiles))
    }
}

struct OnTiles {
    norm: Norm,
    tiles: Tiles,
}

impl Kernel for OnTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let x = self.tiles.of(inputs, 0)?;
        let Norm { centred, scale, bias, eps } = &self.norm;
        let norm = TokenNorm { centred: *centred, scale: scale.as_deref(), bias: bias.as_deref(), eps: *eps };
        self.tiles.filled(pool, |out| self.tiles.tiling.normalise(&norm, x, out))
    }

    fn name(&self) -> Option<&'static str> {
        Some("tiles")
    }
}
