//! Linear layers with constant weights: 1 × 1 convolutions on tiles of tokens.

use secateur_kernels::ConvSpec;
use secateur_kernels::tiled::Tiling;
use secateur_model::Result;

use super::conv::{TiledConv, best};
use super::layout;
use super::{Asked, Counts, Estimate, Work};
use crate::kernels::{self, ConvConstants, FEW_ROWS};

pub(super) fn work(asked: &Asked<'_>) -> Result<Option<Work>> {
    let item = asked.item;
    let Some((input, tokens)) = asked.tokens(0).filter(|(_, tokens)| *tokens > FEW_ROWS) else {
        return Ok(None);
    };
    let whole = |at| asked.tiled(at).filter(|_| asked.shape(at) == asked.output);
    let Some(operands) = asked.with_residual(input, whole) else { return Ok(None) };
    let Some(layer) = kernels::linear_constants(&item.node, asked.inputs, &item.epilogue)? else {
        return Ok(None);
    };
    let [inputs, outputs] = [layer.inputs, layer.outputs];
    let samples = layout::samples(asked.shape(0));
    let tokens = tokens / samples;
    let size = Tiling::of_tokens(inputs, tokens).size();
    let spec = ConvSpec::new(inputs, outputs, &size, &[1; 2]);
    let constants = ConvConstants { spec, rows: layer.rows, bias: layer.bias };
    let Some((form, tiles)) = best(&constants, asked)? else { return Ok(None) };
    let dense = on_tensors(tokens, inputs, outputs);
    let estimate = Estimate { tensors: asked.costs.time(&dense), tiles }
        .plus(asked.at_end(tokens * outputs))
        .times(samples);
    Ok(Some(Work { operands, estimate, lower: Box::new(TiledConv { constants, form }) }))
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
