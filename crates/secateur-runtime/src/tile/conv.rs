//! Convolutions with constant weights, sparse or dense.

use std::sync::Arc;

use secateur_kernels::sparse::{Form, SparseConv};
use secateur_kernels::tiled::Tiling;
use secateur_kernels::{Activation, ConvSpec};
use secateur_model::{Result, Tensor};

use super::{Estimate, Lower, TileCandidate, TileQuery, Tiles};
use crate::buffers::Pool;
use crate::costs::Counts;
use crate::kernels::{self, ConvConstants, Kernel, Packed};
use crate::packed::Bits;
use crate::weights::Weights;

pub(super) fn candidate(query: &TileQuery<'_>) -> Result<Option<TileCandidate>> {
    let node = &query.item.node;
    let (Some(input), [batch, _, _, _]) = (query.map(0), query.shape(0)) else { return Ok(None) };
    let Some(operands) = query.with_residual(input, |at| query.map(at)) else { return Ok(None) };
    let Some(constants) = kernels::conv_constants(node, query.inputs, &query.item.epilogue)? else {
        return Ok(None);
    };
    let Some((form, tiles)) = best(&constants, query)? else { return Ok(None) };
    let tensors = query.costs.time(&on_tensors(&constants.spec));
    let outputs = constants.spec.out_channels * constants.spec.out_size().iter().product::<usize>();
    let end = query.at_end(outputs);
    let estimate = Estimate { tensors, tiles }.plus(end).times(*batch);
    Ok(Some(TileCandidate { operands, estimate, lower: Box::new(TiledConv { constants, form }) }))
}

/// The form of a convolution's weights, the better one where none is kept, and its time for an image in nanoseconds.
/// `None` where a weight is infinite or no number: on tiles it would be multiplied with the zeros of the padding, which
/// kernels on tensors leave out in part, and an output would depend on where it is computed.
pub(super) fn best(conv: &ConvConstants, query: &TileQuery<'_>) -> Result<Option<(Form, f64)>> {
    let rows = conv.rows.load(query.weights)?;
    let weights = rows.values::<f32>()?;
    if !weights.iter().all(|w| w.is_finite()) {
        return Ok(None);
    }
    let timed = |form| (form, query.costs.time(&on_tiles(&conv.spec, weights, form)));
    let [panels, rows] = match query.form {
        Some(form) => return Ok(Some(timed(form))),
        None => [Form::Panels, Form::Rows].map(timed),
    };
    Ok(Some(if panels.1 < rows.1 { panels } else { rows }))
}

/// What a dense convolution of an image counts.
pub(super) fn on_tensors(spec: &ConvSpec) -> Counts {
    let work = spec.work();
    Counts {
        product: work.products,
        gather: work.gathered,
        copy: work.copied,
        direct: work.direct,
        depthwise: work.depthwise,
        depthwise_row: work.depthwise_rows,
        output: work.outputs,
        ..Counts::default()
    }
}

/// What a convolution of an image counts on tiles.
pub(super) fn on_tiles(spec: &ConvSpec, weights: &[f32], form: Form) -> Counts {
    let tiling = Tiling::new(spec.in_channels, spec.in_size[0], spec.in_size[1]);
    let work = SparseConv::work(form, weights, spec, &tiling);
    let multiplied = work.weights.saturating_mul(work.pixels);
    let counts =
        Counts { line: work.lines, split_line: work.split_lines, window: work.windows, ..Counts::default() };
    match form {
        Form::Rows => Counts { sparse: multiplied, row: work.rows, weight: work.weights, ..counts },
        Form::Panels => Counts {
            panel: multiplied,
            panel_column: work.columns.saturating_mul(work.pixels),
            panel_pattern: work.patterns,
            panel_row: work.rows,
            panel_weight: work.weights,
            ..counts
        },
    }
}

/// A convolution and the form that its weights get.
pub(super) struct TiledConv {
    pub(super) constants: ConvConstants,
    pub(super) form: Form,
}

impl Lower for TiledConv {
    fn form(&self) -> Option<Form> {
        Some(self.form)
    }

    fn lower(
        &self,
        operands: &[Tiles],
        act: Activation,
        weights: &Weights,
    ) -> Result<(Arc<dyn Kernel>, Tiles)> {
        let Tiles { tiling, samples } = &operands[0];
        let ConvConstants { spec, rows, bias } = &self.constants;
        let how = (self.form, spec, tiling, bias.as_deref().map(Bits));
        let conv = rows.share(weights, how, || {
            let Packed { rows, factors, values } = rows.load_packed(weights)?;
            let (weights, bias) = (rows.values()?, bias.as_deref());
            Ok(SparseConv::with_values(self.form, values, weights, factors, bias, spec, tiling))
        })?;
        let sparse = conv.nnz() < rows.len();
        let name = kernels::kernel_name(Some(if sparse { "sparse" } else { "tiles" }), conv.values());
        let out = Tiles { tiling: conv.output().clone(), samples: *samples };
        let kernel = OnTiles { conv, input: operands[0].clone(), out: out.clone(), act, name };
        Ok((Arc::new(kernel), out))
    }
}

struct OnTiles {
    conv: Arc<SparseConv>,
    input: Tiles,
    out: Tiles,
    act: Activation,
    name: Option<&'static str>,
}

impl Kernel for OnTiles {
    fn run(&self, inputs: &mut [Option<Tensor>], pool: &mut Pool) -> Result<Vec<Tensor>> {
        let x = self.input.of(inputs, 0)?;
        let residual = if inputs.len() > 1 { Some(self.out.of(inputs, 1)?) } else { None };
        self.out.filled(pool, |out| self.conv.run(1, x, residual, self.act, out))
    }

    fn name(&self) -> Option<&'static str> {
        self.name
    }
}
