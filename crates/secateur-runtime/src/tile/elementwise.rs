//! Additions and activations: the same on tiles as on tensors.

use std::sync::Arc;

use secateur_kernels::{Activation, BinaryOp, activate, binary};
use secateur_model::{Result, Tensor};

use super::{Estimate, Lower, TileCandidate, TileQuery, Tiles};
use crate::buffers::Pool;
use crate::kernels::{self, Kernel};
use crate::weights::Weights;

pub(super) fn add(query: &TileQuery<'_>) -> Result<Option<TileCandidate>> {
    let (Some(a), Some(b)) = (query.tiled(0), query.tiled(1)) else { return Ok(None) };
    let fits = query.item.epilogue.is_empty() && query.shape(0) == query.shape(1);
    Ok(fits.then(|| TileCandidate {
        operands: vec![a, b],
        estimate: Estimate::default(),
        lower: Box::new(Add),
    }))
}

pub(super) fn activation(query: &TileQuery<'_>) -> Result<Option<TileCandidate>> {
    let Some(x) = query.tiled(0).filter(|_| query.item.epilogue.is_empty()) else { return Ok(None) };
    let found = kernels::activation(&query.item.node, query.inputs)?;
    Ok(found.map(|act| TileCandidate {
        operands: vec![x],
        estimate: Estimate::default(),
        lower: Box::new(Activate(act)),
    }))
}

struct Add;

impl Lower for Add {
    fn lower(&self, operands: &[Tiles], _: Activation, _: &Weights) -> Result<(Arc<dyn Kernel>, Tiles)> {
        Ok((Arc::new(AddTiles(operands[0].clone())), operands[0].clone()))
    }
}

struct AddTiles(Tiles);

impl Kernel for AddTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let (a, b) = (self.0.of(inputs, 0)?, self.0.of(inputs, 1)?);
        let shape = [self.0.len()];
        self.0.filled(pool, |out| binary(BinaryOp::Add, a, &shape, b, &shape, out, &shape))
    }
}

struct Activate(Activation);

impl Lower for Activate {
    fn lower(&self, operands: &[Tiles], _: Activation, _: &Weights) -> Result<(Arc<dyn Kernel>, Tiles)> {
        Ok((Arc::new(ActivateTiles { act: self.0, tiles: operands[0].clone() }), operands[0].clone()))
    }
}

struct ActivateTiles {
    act: Activation,
    tiles: Tiles,
}

impl Kernel for ActivateTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let x = self.tiles.of(inputs, 0)?;
        self.tiles.filled(pool, |out| {
            out.copy_from_slice(x);
            activate(self.act, out);
        })
    }
}
