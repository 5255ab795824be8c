//! Pooling over windows.

use secateur_kernels::tiled::{TiledPool, Tiling};
use secateur_kernels::{Activation, PoolSpec};
use secateur_model::{Result, Tensor};

use super::{Asked, Counts, Estimate, Lower, Tiles, Work};
use crate::kernels::{self, Kernel};
use crate::plan::Prepared;
use crate::pool::Pool;
use crate::session::Weights;

pub(super) fn work(asked: &Asked<'_>) -> Result<Option<Work>> {
    let (Some(input), &[batch, channels, height, width]) = (asked.map(0), asked.shape(0)) else {
        return Ok(None);
    };
    let (op, spec) = kernels::pooling(&asked.item.node, &[height, width])?;
    let Some(pool) = TiledPool::new(op, &spec, &Tiling::new(channels, height, width)) else {
        return Ok(None);
    };
    let tensors = asked.costs.time(&on_tensors(&spec, channels));
    let tiles = asked.costs.time(&on_tiles(&spec, &pool, channels));
    let estimate = Estimate { tensors, tiles }.times(batch);
    Ok(Some(Work { operands: vec![input], estimate, lower: Box::new(pool) }))
}

/// What a pooling of an image counts.
pub(super) fn on_tensors(spec: &PoolSpec, channels: usize) -> Counts {
    Counts { pool: elements(spec, channels), ..Counts::default() }
}

/// What a pooling of an image counts on tiles.
pub(super) fn on_tiles(spec: &PoolSpec, pool: &TiledPool, channels: usize) -> Counts {
    let [line, split_line] = if spec.stride[1] == 1 { [pool.packed(), 0] } else { [0, pool.packed()] };
    Counts { line, split_line, pool_tile: elements(spec, channels), ..Counts::default() }
}

/// Elements of all windows.
fn elements(spec: &PoolSpec, channels: usize) -> usize {
    spec.out_size.iter().chain(&spec.kernel).fold(channels, |n, &d| n.saturating_mul(d))
}

impl Lower for TiledPool {
    fn lower(&self, operands: &[Tiles], _: Activation, _: &Weights) -> Result<(Prepared, Tiles)> {
        let input = operands[0].clone();
        let out = Tiles { tiling: self.output().clone(), samples: input.samples };
        Ok((Prepared::new(OnTiles { pool: self.clone(), input, out: out.clone() }), out))
    }
}

struct OnTiles {
    pool: TiledPool,
    input: Tiles,
    out: Tiles,
}

impl Kernel for OnTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let x = self.input.of(inputs, 0)?;
        self.out.filled(pool, |out| self.pool.run(1, x, out))
    }

    fn name(&self) -> Option<&'static str> {
        Some("tiles")
    }
}
