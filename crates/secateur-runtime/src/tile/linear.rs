//! Linear layers with constant weights: 1 × 1 convolutions on tiles of tokens.

use secateur_kernels::ConvSpec;
use secateur_kernels::tiled::Tiling;
use secateur_model::Result;

use super::conv::{TiledConv, best};
use super::layout;
use super::{Estimate, TileCandidate, TileQuery};
use crate::costs::Counts;
use crate::kernels::{self, ConvConstants, FEW_ROWS};

pub(super) fn candidate(query: &TileQuery<'_>) -> Result<Option<TileCandidate>> {
    let item = query.item;
    let Some((input, tokens)) = query.tokens(0).filter(|(_, tokens)| *tokens > FEW_ROWS) else {
        return Ok(None);
    };
    let whole = |at| query.tiled(at).filter(|_| query.shape(at) == query.output);
    let Some(operands) = query.with_residual(input, whole) else { return Ok(None) };
    let Some(layer) = kernels::linear_constants(&item.node, query.inputs, &item.epilogue)? else {
        return Ok(None);
    };
    let [inputs, outputs] = [layer.inputs, layer.outputs];
    let samples = layout::samples(query.shape(0));
    let tokens = tokens / samples;
    let size = Tiling::of_tokens(inputs, tokens).size();
    let spec = ConvSpec::new(inputs, outputs, &size, &[1; 2]);
    let constants = ConvConstants { spec, rows: layer.rows, bias: layer.bias };
    let Some((form, tiles)) = best(&constants, query)? else { return Ok(None) };
    let dense = on_tensors(tokens, inputs, outputs);
    let estimate = Estimate { tensors: query.costs.time(&dense), tiles }
        .plus(query.at_end(tokens * outputs))
        .times(samples);
    Ok(Some(TileCandidate { operands, estimate, lower: Box::new(TiledConv { constants, form }) }))
}

/// What a dense linear layer counts.
pub(super) fn on_tensors(tokens: usize, inputs: usize, outputs: usize) -> Counts {
    Counts {
        linear: tokens.saturating_mul(inputs).saturating_mul(outputs),
        copy: tokens * inputs,
        output: tokens * outputs,
        ..Counts::default()
    }
}
