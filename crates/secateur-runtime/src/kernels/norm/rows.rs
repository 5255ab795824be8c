//! Gradients of normalisations of rows: layer, RMS, group and instance normalisation.

use secateur_kernels::gradient::{RowNorm, column_sums, layer_norm_gradient};
use secateur_kernels::{BinaryOp, ReduceOp, binary, reduce};
use secateur_model::ops::axis_index;
use secateur_model::{Result, Tensor};

use super::{Groups, all_f32};
use crate::buffers::Pool;
use crate::kernels::summed::summed_to;
use crate::kernels::{Backward, Build, Differentiated, Reads, Training};

/// The shape of a parameter without leading ones, where it broadcasts to rows of the shape `row`.
fn fitting(parameter: &[usize], row: &[usize]) -> Option<Vec<usize>> {
    let extra = parameter.len().saturating_sub(row.len());
    let (ones, rest) = parameter.split_at(extra);
    let own = row[row.len() - rest.len()..].iter().zip(rest);
    (ones.iter().all(|&d| d == 1) && own.into_iter().all(|(row, d)| d == row || *d == 1))
        .then(|| rest.to_vec())
}

/// Scale and bias of rows.
struct Parameters {
    norm: RowNorm,
    /// The shape of a row.
    row: Vec<usize>,
    /// The shapes of scale and bias without leading ones.
    fitting: [Vec<usize>; 2],
    /// Their shapes.
    shapes: [Vec<usize>; 2],
}

impl Parameters {
    /// Those of inputs `scale` and `bias` (where there is one) for rows from an axis on.
    fn of(
        build: &Build<'_>,
        (axis, scale, bias): (i64, usize, Option<usize>),
        centred: bool,
        eps: f32,
    ) -> Result<Option<Self>> {
        let shape = build.shape(0)?;
        if !all_f32(build.inputs) || shape.is_empty() {
            return Ok(None);
        }
        let row = shape[axis_index(axis, shape.len())?..].to_vec();
        let bias = bias.and_then(|bias| build.inputs.shape(bias)).unwrap_or(&[]);
        let shapes = [build.shape(scale)?.to_vec(), bias.to_vec()];
        let (Some(scale), Some(bias)) = (fitting(&shapes[0], &row), fitting(&shapes[1], &row)) else {
            return Ok(None);
        };
        let norm = RowNorm { n: row.iter().product(), centred, eps };
        Ok(Some(Parameters { norm, row, fitting: [scale, bias], shapes }))
    }

    /// The sum over rows as the gradient of scale (0) or bias (1).
    fn sum(&self, which: usize, d: &[f32], pool: &mut Pool) -> Result<Tensor> {
        let mut sums = pool.take(self.norm.n)?;
        column_sums(d, d.len() / self.norm.n.max(1), self.norm.n, &mut sums);
        let sums = summed_to(Tensor::new(self.row.clone(), sums)?, &self.fitting[which], pool)?;
        sums.reshaped(self.shapes[which].clone())
    }

    /// The gradients of x, scale and bias, where they are asked for; ∂L/∂y is overwritten.
    fn gradients(
        &self,
        [x, scale]: [&[f32]; 2],
        d: &mut [f32],
        [wants_x, wants_scale, wants_bias]: [bool; 3],
        pool: &mut Pool,
    ) -> Result<[Option<Tensor>; 3]> {
        let bias = wants_bias.then(|| self.sum(1, d, pool)).transpose()?;
        let mut whole = pool.take(self.norm.n)?;
        binary(BinaryOp::Add, scale, &self.fitting[0], &[0.0], &[], &mut whole, &self.row);
        let mut dx = wants_x.then(|| pool.take(d.len())).transpose()?;
        layer_norm_gradient(self.norm, x, &whole, d, dx.as_deref_mut());
        pool.give(whole);
        let scale = wants_scale.then(|| self.sum(0, d, pool)).transpose()?;
        let dx = dx.map(|dx| Tensor::new([dx.len()], dx)).transpose()?;
        Ok([dx, scale, bias])
    }
}

/// `LayerNormalization` and its kin without a mean.
pub(super) fn layer(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    let node = build.node;
    let centred = node.op_type == "LayerNormalization";
    let inputs = (node.int_or("axis", -1)?, 1, centred.then_some(2));
    let Some(parameters) = Parameters::of(build, inputs, centred, node.float_or("epsilon", 1e-5)?)? else {
        return Ok(None);
    };
    if !training.first_only() {
        return Ok(None);
    }
    Ok(Some(Differentiated::of(Reads::inputs([0, 1]), move |at: &mut Backward<'_>| {
        let (shape, mut d) = (at.shape.to_vec(), at.own_gradient()?);
        let wanted = [at.wants(0), at.wants(1), at.wants(2)];
        let operands = [at.input(0)?, at.input(1)?];
        let [dx, scale, bias] = parameters.gradients(operands, &mut d, wanted, at.pool)?;
        at.pool.give(d);
        Ok(vec![dx.map(|dx| dx.reshaped(shape)).transpose()?, scale, bias])
    })))
}

/// ONNX Runtime's `SkipLayerNormalization`: the normalisation of x + skip + bias, which is its fourth output.
pub(super) fn skip(build: &Build<'_>, training: &Training<'_>) -> Result<Option<Differentiated>> {
    let node = build.node;
    let centred = node.op_type == "SkipLayerNormalization";
    let (beta, bias) = if centred { (Some(3), 4) } else { (None, 3) };
    let eps = node.float_or("epsilon", 1e-12)?;
    let Some(parameters) = Parameters::of(build, (-1, 2, beta), centred, eps)? else { return Ok(None) };
    let statistics = training.needed.iter().skip(1).take(2).any(|&needed| needed);
    if statistics {
        return Ok(None);
    }
    let shape = build.shape(0)?.to_vec();
    // What is added up, by input.
    let terms: Vec<(usize, Vec<usize>)> = [0, 1, bias]
        .into_iter()
        .filter_map(|i| build.inputs.shape(i).map(|shape| (i, shape.to_vec())))
        .collect();
    let reads: Vec<usize> = terms.iter().map(|(i, _)| *i).chain([2]).collect();
    Ok(Some(Differentiated::of(Reads::inputs(reads), move |at: &mut Backward<'_>| {
        let mut sum = at.pool.take(shape.iter().product())?;
        sum.fill(0.0);
        for (i, own) in &terms {
            let former = std::mem::replace(&mut sum, at.pool.take(shape.iter().product())?);
            binary(BinaryOp::Add, &former, &shape, at.input(*i)?, own, &mut sum, &shape);
            at.pool.give(former);
        }
        let mut found = vec![None; 5];
        let wants_sum = terms.iter().any(|(i, _)| at.wants(*i));
        let mut total = at.gradients.get_mut(3).and_then(Option::take);
        if at.gradients[0].is_some() {
            let mut d = at.own_gradient()?;
            let wanted = [wants_sum, at.wants(2), beta.is_some_and(|beta| at.wants(beta))];
            let operands = [&sum[..], at.input(2)?];
            let [dx, scale, shift] = parameters.gradients(operands, &mut d, wanted, at.pool)?;
            at.pool.give(d);
            found[2] = scale;
            if let Some(beta) = beta {
                found[beta] = shift;
            }
            let dx = dx.map(|dx| dx.reshaped(shape.clone())).transpose()?;
            total = match (total, dx) {
                (Some(direct), Some(dx)) => {
                    let mut both = at.pool.take(dx.len())?;
                    binary(BinaryOp::Add, direct.values()?, &shape, dx.values()?, &shape, &mut both, &shape);
                    Some(Tensor::new(shape.clone(), both)?)
                }
                (direct, dx) => dx.or(direct),
            };
        }
        at.pool.give(sum);
        for (i, own) in terms.iter().filter(|(i, _)| at.wanted.get(*i).copied().unwrap_or(false)) {
            found[*i] = total.clone().map(|total| summed_to(total, own, at.pool)).transpose()?;
        }
        Ok(found)
    })))
}

/// `GroupNormalization` and `InstanceNormalization`: rows are the groups of channels of a sample.
pub(super) fn grouped(build: &Build<'_>, _: &Training<'_>) -> Result<Option<Differentiated>> {
    if !all_f32(build.inputs) {
        return Ok(None);
    }
    let Groups { channels, inner, groups, repeats, eps } = Groups::of(build)?;
    let norm = RowNorm { n: channels / groups.max(1) * inner, centred: true, eps };
    Ok(Some(Differentiated::of(Reads::inputs([0, 1]), move |at: &mut Backward<'_>| {
        let (shape, mut d) = (at.shape.to_vec(), at.own_gradient()?);
        let sample = channels * inner;
        // The sum over samples and positions, for each element of a parameter.
        let summed = |d: &[f32], times: usize, pool: &mut Pool| -> Result<Tensor> {
            let (mut sums, mut out) = (pool.take(sample)?, pool.take(channels / times)?);
            column_sums(d, d.len() / sample.max(1), sample, &mut sums);
            reduce(ReduceOp::Sum, &sums, channels / times, times * inner, 1, &mut out);
            pool.give(sums);
            Tensor::new([channels / times], out)
        };
        let bias = if at.wants(2) { Some(summed(&d, repeats[1], at.pool)?) } else { None };
        let mut scale = at.pool.take(sample)?;
        let each = repeats[0] * inner;
        scale.chunks_exact_mut(each.max(1)).zip(at.input(1)?).for_each(|(to, &scale)| to.fill(scale));
        let mut dx = if at.wants(0) { Some(at.pool.take(d.len())?) } else { None };
        layer_norm_gradient(norm, at.input(0)?, &scale, &mut d, dx.as_deref_mut());
        at.pool.give(scale);
        let scale = if at.wants(1) { Some(summed(&d, repeats[0], at.pool)?) } else { None };
        at.pool.give(d);
        Ok(vec![dx.map(|dx| Tensor::new(shape, dx)).transpose()?, scale, bias])
    })))
}
