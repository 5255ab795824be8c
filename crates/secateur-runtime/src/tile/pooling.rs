//! Pooling over windows.

use std::sync::Arc;

use secateur_kernels::tiled::{TiledPool, Tiling};
use secateur_kernels::{Activation, PoolSpec};
use secateur_model::{Result, Tensor};

use super::{Estimate, Lower, TileCandidate, TileQuery, Tiles};
use crate::buffers::Pool;
use crate::costs::Counts;
use crate::kernels::{self, Kernel};
use crate::weights::Weights;

pub(super) fn candidate(query: &TileQuery<'_>) -> Result<Option<TileCandidate>> {
    let (Some(input), &[batch, channels, height, width]) = (query.map(0), query.shape(0)) else {
        return Ok(None);
    };
    let (op, spec) = kernels::pooling(&query.item.node, &[height, width])?;
    let Some(pool) = TiledPool::new(op, &spec, &Tiling::new(channels, height, width)) else {
        return Ok(None);
    };
    let tensors = query.costs.time(&on_tensors(&spec, channels));
    let tiles = query.costs.time(&on_tiles(&spec, &pool, channels));
    let estimate = Estimate { tensors, tiles }.times(batch);
    Ok(Some(TileCandidate { operands: vec![input], estimate, lower: Box::new(pool) }))
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
    fn lower(&self, operands: &[Tiles], _: Activation, _: &Weights) -> Result<(Arc<dyn Kernel>, Tiles)> {
        let input = operands[0].clone();
        let out = Tiles { tiling: self.output().clone(), samples: input.samples };
        Ok((Arc::new(OnTiles { pool: self.clone(), input, out: out.clone() }), out))
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
