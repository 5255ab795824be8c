//! Convolutions with sparse constant weights.

use secateur_kernels::Activation;
use secateur_kernels::sparse::SparseConv;
use secateur_kernels::tiled::Tiling;
use secateur_model::{Result, Tensor};

use super::{Asked, Costs, Lower, Tiles, Work};
use crate::kernels::{self, ConvConstants, Kernel};
use crate::plan::Prepared;
use crate::pool::Pool;

pub(super) fn work(asked: &Asked<'_>) -> Result<Option<Work>> {
    let node = &asked.item.node;
    let (Some(input), [batch, _, _, _]) = (asked.map(0), asked.shape(0)) else { return Ok(None) };
    let mut operands = vec![input];
    if let Some(at) = asked.item.epilogue.add {
        let Some(residual) = asked.map(at) else { return Ok(None) };
        operands.push(residual);
    }
    let Some(constants) = kernels::conv_constants(node, asked.inputs, &asked.item.epilogue)? else {
        return Ok(None);
    };
    let saving = *batch as f64 * saving(&constants, asked.costs);
    Ok(Some(Work { operands, saving, lower: Box::new(constants) }))
}

/// What a convolution of an image saves on tiles, in nanoseconds.
fn saving(conv: &ConvConstants, costs: &Costs) -> f64 {
    let spec = &conv.spec;
    let dense = if spec.groups == 1 { costs.dense } else { costs.grouped };
    let nonzero = conv.weights.iter().filter(|w| **w != 0.0).count();
    let work = Tiling::new(spec.in_channels, spec.in_size[0], spec.in_size[1]).work(spec);
    let sparse = costs.sparse * (nonzero * work.pixels) as f64
        + costs.row * work.rows as f64
        + costs.pack * work.packed as f64;
    dense * spec.macs() as f64 - sparse
}

impl Lower for ConvConstants {
    fn lower(&self, operands: &[Tiles], act: Activation) -> Result<(Prepared, Tiles)> {
        let Tiles { tiling, batch } = &operands[0];
        let conv = SparseConv::new(&self.weights, self.bias.as_deref(), &self.spec, tiling);
        let out = Tiles { tiling: conv.output().clone(), batch: *batch };
        Ok((Prepared::new(OnTiles { conv, input: operands[0].clone(), out: out.clone(), act }), out))
    }
}

struct OnTiles {
    conv: SparseConv,
    input: Tiles,
    out: Tiles,
    act: Activation,
}

impl Kernel for OnTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let x = self.input.of(inputs, 0)?;
        let residual = if inputs.len() > 1 { Some(self.out.of(inputs, 1)?) } else { None };
        self.out.filled(pool, |out| self.conv.run(self.out.batch, x, residual, self.act, out))
    }

    fn name(&self) -> Option<&'static str> {
        Some("sparse")
    }
}
