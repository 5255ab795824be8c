//! Convolutions with constant weights, sparse or dense.

use secateur_kernels::sparse::SparseConv;
use secateur_kernels::tiled::Tiling;
use secateur_kernels::{Activation, ConvSpec};
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
    let (form, nanoseconds) = best(&constants, asked.costs);
    let saving = *batch as f64 * (on_tensors(&constants.spec, asked.costs) - nanoseconds);
    Ok(Some(Work { operands, saving, lower: Box::new(TiledConv { constants, form }) }))
}

/// What a convolution of an image costs on tensors, in nanoseconds.
fn on_tensors(spec: &ConvSpec, costs: &Costs) -> f64 {
    let each = match spec.groups {
        1 => costs.dense,
        groups if groups == spec.in_channels => costs.depthwise,
        _ => costs.grouped,
    };
    each * spec.macs() as f64
}

/// How weights are packed on tiles.
#[derive(Clone, Copy)]
enum Form {
    /// Output by output, zeros left out.
    Sparse,
    /// Four outputs together: for few zeros, and for zeros in blocks.
    Panels,
}

/// The better form of a convolution's weights, and what it costs for an image, in nanoseconds.
fn best(conv: &ConvConstants, costs: &Costs) -> (Form, f64) {
    let spec = &conv.spec;
    let work = Tiling::new(spec.in_channels, spec.in_size[0], spec.in_size[1]).work(spec);
    let pixels = work.pixels as f64;
    let nonzero = conv.weights.iter().filter(|w| **w != 0.0).count();
    let sparse = costs.sparse * nonzero as f64 * pixels + costs.row * work.rows as f64;
    let panels = costs.panel * SparseConv::in_panels_len(&conv.weights, spec) as f64 * pixels;
    let pack = costs.pack * work.packed as f64;
    if panels < sparse { (Form::Panels, panels + pack) } else { (Form::Sparse, sparse + pack) }
}

/// A convolution and the form that its weights get.
struct TiledConv {
    constants: ConvConstants,
    form: Form,
}

impl Lower for TiledConv {
    fn lower(&self, operands: &[Tiles], act: Activation) -> Result<(Prepared, Tiles)> {
        let Tiles { tiling, batch } = &operands[0];
        let ConvConstants { spec, weights, bias } = &self.constants;
        let bias = bias.as_deref();
        let (conv, name) = match self.form {
            Form::Sparse => (SparseConv::new(weights, bias, spec, tiling), "sparse"),
            Form::Panels => (SparseConv::in_panels(weights, bias, spec, tiling), "tiles"),
        };
        let out = Tiles { tiling: conv.output().clone(), batch: *batch };
        let kernel = OnTiles { conv, input: operands[0].clone(), out: out.clone(), act, name };
        Ok((Prepared::new(kernel), out))
    }
}

struct OnTiles {
    conv: SparseConv,
    input: Tiles,
    out: Tiles,
    act: Activation,
    name: &'static str,
}

impl Kernel for OnTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let x = self.input.of(inputs, 0)?;
        let residual = if inputs.len() > 1 { Some(self.out.of(inputs, 1)?) } else { None };
        self.out.filled(pool, |out| self.conv.run(self.out.batch, x, residual, self.act, out))
    }

    fn name(&self) -> Option<&'static str> {
        Some(self.name)
    }
}
