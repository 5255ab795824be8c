//! Additions and activations: the same on tiles as on tensors.

use secateur_kernels::{Activation, BinaryOp, activate, binary};
use secateur_model::{Result, Tensor};

use super::{Asked, Estimate, Lower, Tiles, Work};
use crate::kernels::{self, Kernel};
use crate::plan::Prepared;
use crate::pool::Pool;
use crate::session::Weights;

pub(super) fn add(asked: &Asked<'_>) -> Result<Option<Work>> {
    let (Some(a), Some(b)) = (asked.tiled(0), asked.tiled(1)) else { return Ok(None) };
    let fits = asked.item.epilogue.is_empty() && asked.shape(0) == asked.shape(1);
    Ok(fits.then(|| Work { operands: vec![a, b], estimate: Estimate::default(), lower: Box::new(Add) }))
}

pub(super) fn activation(asked: &Asked<'_>) -> Result<Option<Work>> {
    let Some(x) = asked.tiled(0).filter(|_| asked.item.epilogue.is_empty()) else { return Ok(None) };
    let found = kernels::activation(&asked.item.node, asked.inputs)?;
    Ok(found.map(|act| Work {
        operands: vec![x],
        estimate: Estimate::default(),
        lower: Box::new(Activate(act)),
    }))
}

struct Add;

impl Lower for Add {
    fn lower(&self, operands: &[Tiles], _: Activation, _: &Weights) -> Result<(Prepared, Tiles)> {
        Ok((Prepared::new(AddTiles(operands[0].clone())), operands[0].clone()))
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
    fn lower(&self, operands: &[Tiles], _: Activation, _: &Weights) -> Result<(Prepared, Tiles)> {
        Ok((Prepared::new(ActivateTiles { act: self.0, tiles: operands[0].clone() }), operands[0].clone()))
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
