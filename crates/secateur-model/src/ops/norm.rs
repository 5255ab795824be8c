//! Normalisation with scales and biases that are inputs. Statistics are computed in f64 in two passes: the mean, then
//! the squares of the differences from it.

use super::axes::{Slot, Statement};
use super::broadcast::zip_values;
use super::number::{Float, Number, with_float};
use super::reduce::{Reduction, fold_row};
use super::unary::infer_same;
use super::{Fact, Facts, Inputs, MICROSOFT, ONE_TYPE, Op, Operand, axis_index};
use crate::{DType, Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("BatchNormalization", 1, infer_batch_norm)
        .types(&[&[1, 2], &[3, 4]])
        .axes(axes_batch_norm)
        .parameters(&[1, 2])
        .operands(&[(1, Operand::NormScale), (2, Operand::NormBias)])
        .eval(eval_batch_norm),
    Op::new("InstanceNormalization", 1, infer_instance_norm)
        .types(ONE_TYPE)
        .axes(axes_instance_norm)
        .parameters(&[1, 2])
        .eval(eval_instance_norm),
    Op::new("GroupNormalization", 18, infer_group_norm)
        .types(ONE_TYPE)
        .axes(axes_group_norm)
        .parameters(&[1, 2])
        .eval(eval_group_norm),
    Op::new("LayerNormalization", 1, infer_layer_norm)
        .types(ONE_TYPE)
        .axes(axes_layer_norm)
        .parameters(&[1, 2])
        .eval(eval_layer_norm),
    Op::new("RMSNormalization", 23, infer_rms_norm)
        .axes(axes_layer_norm)
        .parameters(&[1])
        .eval(eval_rms_norm),
    Op::new("SimplifiedLayerNormalization", 1, infer_rms_norm)
        .axes(axes_layer_norm)
        .parameters(&[1])
        .eval(eval_rms_norm),
    Op::new("SkipLayerNormalization", 1, infer_skip_norm)
        .types(ONE_TYPE)
        .axes(axes_skip_norm)
        .domain(MICROSOFT)
        .eval(eval_skip_layer_norm),
    Op::new("SkipSimplifiedLayerNormalization", 1, infer_skip_norm)
        .types(ONE_TYPE)
        .axes(axes_skip_norm)
        .domain(MICROSOFT)
        .eval(eval_skip_rms_norm),
];

/// Batch normalisation with fixed statistics as one multiplication and one addition a channel:
/// `scale · (x − mean) / √(var + epsilon) + bias = factor · x + shift`. Gives factors and shifts,
/// computed in f64 and rounded once. All slices hold one element a channel.
///
/// This is what a convolution before (or a product after) takes in when the normalisation is folded
/// into its weights.
pub fn batch_norm_affine(
    scale: &[f32],
    bias: &[f32],
    mean: &[f32],
    var: &[f32],
    epsilon: f32,
) -> (Vec<f32>, Vec<f32>) {
    let statistics = mean.iter().zip(var).map(|(&m, &v)| (f64::from(m), f64::from(v)));
    scale
        .iter()
        .zip(bias)
        .zip(statistics)
        .map(|((&scale, &bias), (mean, var))| {
            let factor = f64::from(scale) / (var + f64::from(epsilon)).sqrt();
            (factor as f32, (f64::from(bias) - mean * factor) as f32)
        })
        .unzip()
}

/// A shape as batch, channels and the elements of a channel.
pub(super) struct Layout {
    batch: usize,
    pub(super) channels: usize,
    pub(super) inner: usize,
}

impl Layout {
    /// The layout of a shape of at least two axes.
    pub(super) fn of(shape: &[usize]) -> Result<Self> {
        match shape {
            [batch, channels, rest @ ..] => {
                Ok(Layout { batch: *batch, channels: *channels, inner: rest.iter().product() })
            }
            _ => Err(Error::input(format!("expected a batch and a channel axis, found the shape {shape:?}"))),
        }
    }
}

/// A parameter of one element for each of `expected`.
fn parameter<'a, F: Float>(
    inputs: Inputs<'a>,
    index: usize,
    name: &str,
    expected: usize,
) -> Result<std::borrow::Cow<'a, [F]>> {
    let tensor = inputs.need(index)?;
    if tensor.len() != expected {
        return Err(Error::input(format!(
            "{name} has the shape {:?}, expected {expected} elements",
            tensor.shape()
        )));
    }
    F::load(tensor)
}

/// Sum of `f` over a row, in f64.
fn sum<F: Float>(row: &[F], f: impl Fn(f64) -> f64) -> f64 {
    fold_row(row, 0.0, &|sum, v: F| sum + f(v.to_f64()), &|a, b| a + b)
}

/// Brings each row to mean 0 (unless `mean_is_zero`) and variance 1, in place; gives the rows' means
/// and inverse standard deviations.
fn standardize<F: Float>(values: &mut [F], row: usize, epsilon: f32, mean_is_zero: bool) -> (Vec<F>, Vec<F>) {
    if row == 0 {
        return (Vec::new(), Vec::new());
    }
    values
        .chunks_exact_mut(row)
        .map(|row| {
            let count = row.len() as f64;
            let mean = if mean_is_zero { 0.0 } else { sum(row, |v| v) / count };
            let variance = sum(row, |v| (v - mean) * (v - mean)) / count;
            let inverse = 1.0 / (variance + f64::from(epsilon)).sqrt();
            row.iter_mut().for_each(|v| *v = F::from_f64((v.to_f64() - mean) * inverse));
            (F::from_f64(mean), F::from_f64(inverse))
        })
        .unzip()
}

/// `scale · x + bias`, each scale and bias over `inner` elements, again and again.
fn scale_channels<F: Float>(values: &mut [F], inner: usize, scale: &[F], bias: &[F]) {
    if inner == 0 {
        return;
    }
    let parameters = scale.iter().zip(bias).cycle();
    for (part, (&scale, &bias)) in values.chunks_exact_mut(inner).zip(parameters) {
        part.iter_mut().for_each(|v| *v = scale * *v + bias);
    }
}

/// Whether a batch normalisation takes the statistics of its batch. Before operator set 14 that was
/// said by further outputs, whose meaning was open; before 7 by an attribute too.
fn is_training(node: &Node) -> Result<bool> {
    if node.opset >= 14 {
        return Ok(node.int_or("training_mode", 0)? != 0);
    }
    let further = node.outputs.iter().skip(1).any(Option::is_some);
    if further || (node.opset < 7 && node.int_or("is_test", 0)? == 0) {
        return Err(Error::unsupported(
            "batch normalisation in training mode before operator set 14; export the model for inference",
        ));
    }
    Ok(false)
}

fn infer_batch_norm(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let mut facts = infer_same(node, inputs)?;
    if let Some(x) = inputs.shape(0)
        && (node.opset >= 9 || node.int_or("spatial", 1)? != 0)
    {
        let channels = x.get(1).copied().unwrap_or(1);
        for (index, what) in [(1, "the scale"), (2, "B"), (3, "the mean"), (4, "the variance")] {
            inputs.need(index)?;
            inputs.expect(index, what, &[&[channels]])?;
        }
    }
    if is_training(node)? {
        for index in [3, 4] {
            let input = inputs.need(index)?;
            facts.push(Fact { dtype: input.dtype, shape: input.shape.clone(), ..Fact::default() });
        }
    }
    Ok(facts)
}

/// `scale · (x − mean) / √(var + epsilon) + bias` a channel; in training mode with the batch's mean
/// and (population) variance, and then the running statistics are outputs too.
fn eval_batch_norm(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let epsilon = f64::from(node.float_or("epsilon", 1e-5)?);
    let Layout { batch, mut channels, mut inner } = match x.shape() {
        &[batch] => Layout { batch, channels: 1, inner: 1 },
        shape => Layout::of(shape)?,
    };
    if node.opset < 9 && node.int_or("spatial", 1)? == 0 {
        (channels, inner) = (channels * inner, 1);
    }
    let training = is_training(node)?;
    with_float!(x.dtype(), F => {
        let scale = parameter::<F>(inputs, 1, "scale", channels)?;
        let bias = parameter::<F>(inputs, 2, "B", channels)?;
        let mut mean = parameter::<f64>(inputs, 3, "the mean", channels)?;
        let mut var = parameter::<f64>(inputs, 4, "the variance", channels)?;
        let mut values = F::load(x)?.into_owned();
        let mut running = Vec::new();
        if training {
            let plan = Reduction::new(&[batch, channels, inner], &[true, false, true], true);
            let average = |values: &[f64]| -> Result<Vec<f64>> {
                let sums = plan.fold(values, 0.0, |a, v| a + v, |a, b| a + b)?;
                Ok(sums.into_iter().map(|s| s / plan.count as f64).collect())
            };
            let wide: Vec<f64> = values.iter().map(|v| v.to_f64()).collect();
            let batch_mean = average(&wide)?;
            let (_, squares) = zip_values(&wide, &[batch, channels, inner], &batch_mean, &[channels, 1], |v, m| {
                (v - m) * (v - m)
            })?;
            let batch_var = average(&squares)?;
            let momentum = f64::from(node.float_or("momentum", 0.9)?);
            for (index, old, new) in [(3, &mean, &batch_mean), (4, &var, &batch_var)] {
                let blended = old.iter().zip(new).map(|(o, n)| o * momentum + n * (1.0 - momentum)).collect();
                let input = inputs.need(index)?;
                running.push(f64::store(blended, input.dtype(), input.shape())?);
            }
            (mean, var) = (batch_mean.into(), batch_var.into());
        }
        if inner > 0 && channels > 0 {
            for (at, part) in values.chunks_exact_mut(inner).enumerate() {
                let c = at % channels;
                let (mean, factor) = (mean[c], scale[c].to_f64() / (var[c] + epsilon).sqrt());
                let (mean, factor, bias) = (F::from_f64(mean), F::from_f64(factor), bias[c]);
                part.iter_mut().for_each(|v| *v = (*v - mean) * factor + bias);
            }
        }
        let mut outputs = vec![F::store(values, x.dtype(), x.shape())?];
        outputs.extend(running);
        Ok(outputs)
    })
}

fn infer_instance_norm(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    if let Some(x) = inputs.shape(0) {
        let Layout { channels, .. } = Layout::of(x)?;
        for (index, what) in [(1, "the scale"), (2, "B")] {
            inputs.need(index)?;
            inputs.expect(index, what, &[&[channels]])?;
        }
    }
    infer_same(node, inputs)
}

/// Each channel of each sample normalised by itself.
fn eval_instance_norm(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let Layout { channels, inner, .. } = Layout::of(x.shape())?;
    let epsilon = node.float_or("epsilon", 1e-5)?;
    with_float!(x.dtype(), F => {
        let scale = parameter::<F>(inputs, 1, "scale", channels)?;
        let bias = parameter::<F>(inputs, 2, "B", channels)?;
        let mut values = F::load(x)?.into_owned();
        standardize(&mut values, inner, epsilon, false);
        scale_channels(&mut values, inner, &scale, &bias);
        Ok(vec![F::store(values, x.dtype(), x.shape())?])
    })
}

/// The number of groups of a `GroupNormalization`.
fn group_count(node: &Node, channels: usize) -> Result<usize> {
    let groups = node.int_or("num_groups", 0)?;
    usize::try_from(groups).ok().filter(|&g| g > 0 && channels.is_multiple_of(g)).ok_or_else(|| {
        Error::input(format!("num_groups is {groups}, expected a divisor of the {channels} channels"))
    })
}

fn infer_group_norm(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    if let Some(x) = inputs.shape(0) {
        let Layout { channels, .. } = Layout::of(x)?;
        let groups = group_count(node, channels)?;
        let parameters = if node.opset < 21 { groups } else { channels };
        for (index, what) in [(1, "the scale"), (2, "the bias")] {
            inputs.need(index)?;
            inputs.expect(index, what, &[&[parameters], &[channels]])?;
        }
    }
    infer_same(node, inputs)
}

/// Groups of channels normalised together; scale and bias are one a channel since operator set 21
/// and one a group before.
fn eval_group_norm(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let Layout { channels, inner, .. } = Layout::of(x.shape())?;
    let groups = group_count(node, channels)?;
    let epsilon = node.float_or("epsilon", 1e-5)?;
    let group = channels / groups * inner;
    let (parameters, width) = if node.opset < 21 { (groups, group) } else { (channels, inner) };
    with_float!(x.dtype(), F => {
        let scale = parameter::<F>(inputs, 1, "scale", parameters)?;
        let bias = parameter::<F>(inputs, 2, "bias", parameters)?;
        let mut values = F::load(x)?.into_owned();
        standardize(&mut values, group, epsilon, false);
        scale_channels(&mut values, width, &scale, &bias);
        Ok(vec![F::store(values, x.dtype(), x.shape())?])
    })
}

/// The type that statistics are given in.
fn stash_type(node: &Node) -> Result<DType> {
    let number = node.int_or("stash_type", 1)?;
    i32::try_from(number)
        .ok()
        .and_then(DType::from_onnx)
        .ok_or_else(|| Error::input(format!("stash_type {number} is not an element type")))
}

/// The shape with extents of 1 from `axis` on.
fn statistics_shape(node: &Node, shape: &[usize]) -> Result<Vec<usize>> {
    let axis = axis_index(node.int_or("axis", -1)?, shape.len())?;
    let mut out = shape.to_vec();
    out[axis..].fill(1);
    Ok(out)
}

fn infer_layer_norm(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let x = inputs.need(0)?;
    if let Some(shape) = x.shape() {
        inputs.expect_broadcast(1, "the scale", shape)?;
        inputs.expect_broadcast(2, "the bias", shape)?;
    }
    let shape = x.shape().map(|shape| statistics_shape(node, shape)).transpose()?;
    let statistic = Fact { dtype: Some(stash_type(node)?), shape, ..Fact::default() };
    let mut facts = infer_same(node, inputs)?;
    facts.extend([statistic.clone(), statistic]);
    Ok(facts)
}

/// The result has the scale's type.
fn infer_rms_norm(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let shape = inputs.need(0)?.shape.clone();
    if let Some(shape) = &shape {
        inputs.expect_broadcast(1, "the scale", shape)?;
    }
    let statistics = shape.as_ref().map(|shape| statistics_shape(node, shape)).transpose()?;
    Ok(vec![
        Fact { dtype: inputs.need(1)?.dtype, shape, ..Fact::default() },
        Fact { dtype: Some(stash_type(node)?), shape: statistics, ..Fact::default() },
    ])
}

/// Rows from `axis` on normalised, then scaled and shifted by parameters that broadcast to the input.
struct RowNorm<'a> {
    axis: i64,
    epsilon: f32,
    mean_is_zero: bool,
    scale: &'a Tensor,
    bias: Option<&'a Tensor>,
}

impl RowNorm<'_> {
    /// The normalised elements, and the rows' means and inverse standard deviations.
    fn apply<F: Float>(&self, x: &[F], shape: &[usize]) -> Result<(Vec<F>, Vec<F>, Vec<F>)> {
        let axis = axis_index(self.axis, shape.len())?;
        let mut values = x.to_vec();
        let row = shape[axis..].iter().product();
        let (means, inverses) = standardize(&mut values, row, self.epsilon, self.mean_is_zero);
        let fits = |out: Vec<usize>, parameter: &Tensor| {
            if out == shape {
                return Ok(());
            }
            Err(Error::input(format!("{:?} does not broadcast to the input's {shape:?}", parameter.shape())))
        };
        let scale = F::load(self.scale)?;
        let (out, scaled) = zip_values(&values, shape, &scale, self.scale.shape(), |&v, &s| v * s)?;
        fits(out, self.scale)?;
        values = scaled;
        if let Some(bias) = self.bias {
            let biases = F::load(bias)?;
            let (out, shifted) = zip_values(&values, shape, &biases, bias.shape(), |&v, &b| v + b)?;
            fits(out, bias)?;
            values = shifted;
        }
        Ok((values, means, inverses))
    }
}

fn eval_layer_norm(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let x = inputs.need(0)?;
    let norm = RowNorm {
        axis: node.int_or("axis", -1)?,
        epsilon: node.float_or("epsilon", 1e-5)?,
        mean_is_zero: false,
        scale: inputs.need(1)?,
        bias: inputs.get(2),
    };
    let (stash, statistics) = (stash_type(node)?, statistics_shape(node, x.shape())?);
    with_float!(x.dtype(), F => {
        let (values, means, inverses) = norm.apply::<F>(&F::load(x)?, x.shape())?;
        let mut outputs = vec![F::store(values, x.dtype(), x.shape())?];
        if node.outputs.len() > 1 {
            outputs.push(F::store(means, stash, &statistics)?);
            outputs.push(F::store(inverses, stash, &statistics)?);
        }
        Ok(outputs)
    })
}

fn eval_rms_norm(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let (x, scale) = (inputs.need(0)?, inputs.need(1)?);
    let norm = RowNorm {
        axis: node.int_or("axis", -1)?,
        epsilon: node.float_or("epsilon", 1e-5)?,
        mean_is_zero: true,
        scale,
        bias: None,
    };
    let (stash, statistics) = (stash_type(node)?, statistics_shape(node, x.shape())?);
    with_float!(x.dtype(), F => {
        let (values, _, inverses) = norm.apply::<F>(&F::load(x)?, x.shape())?;
        let mut outputs = vec![F::store(values, scale.dtype(), x.shape())?];
        if node.outputs.len() > 1 {
            outputs.push(F::store(inverses, stash, &statistics)?);
        }
        Ok(outputs)
    })
}

fn infer_skip_norm(_: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let x = inputs.need(0)?;
    let same = Fact { dtype: x.dtype, shape: x.shape.clone(), ..Fact::default() };
    let shape = x.shape().map(|shape| {
        let mut shape = shape.to_vec();
        shape.last_mut().into_iter().for_each(|d| *d = 1);
        shape
    });
    let statistic = Fact { dtype: Some(DType::F32), shape, ..Fact::default() };
    Ok(vec![same.clone(), statistic.clone(), statistic, same])
}

fn eval_skip_layer_norm(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    skip_norm(node, inputs, false, inputs.get(3), inputs.get(4))
}

fn eval_skip_rms_norm(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    skip_norm(node, inputs, true, None, inputs.get(3))
}

/// The sum of the input, a skip connection and a bias, normalised; that sum is the fourth output
/// (ONNX Runtime's `SkipLayerNormalization` and `SkipSimplifiedLayerNormalization`).
fn skip_norm(
    node: &Node,
    inputs: Inputs<'_>,
    mean_is_zero: bool,
    beta: Option<&Tensor>,
    bias: Option<&Tensor>,
) -> Result<Vec<Tensor>> {
    let (x, skip) = (inputs.need(0)?, inputs.need(1)?);
    let epsilon = node.float_or("epsilon", 1e-12)?;
    let norm = RowNorm { axis: -1, epsilon, mean_is_zero, scale: inputs.need(2)?, bias: beta };
    let mut statistics = x.shape().to_vec();
    statistics.last_mut().into_iter().for_each(|d| *d = 1);
    with_float!(x.dtype(), F => {
        let mut sum = F::load(x)?.into_owned();
        for term in [Some(skip), bias].into_iter().flatten() {
            sum = zip_values(&sum, x.shape(), &F::load(term)?, term.shape(), |&a, &b| a + b)?.1;
        }
        let (values, means, inverses) = norm.apply::<F>(&sum, x.shape())?;
        Ok(vec![
            F::store(values, x.dtype(), x.shape())?,
            F::store(means, DType::F32, &statistics)?,
            F::store(inverses, DType::F32, &statistics)?,
            F::store(sum, x.dtype(), x.shape())?,
        ])
    })
}

/// Statistics and parameters of one element for each channel, and in training new ones.
fn axes_batch_norm(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    if let Some(&channels) = axes.input(0).get(1) {
        (1..5).for_each(|input| axes.along(input, channels));
        (1..3).for_each(|output| axes.meet_all(&axes.output(output), &[channels]));
    }
    Ok(())
}

fn axes_instance_norm(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let x = axes.need(0, 2)?;
    (1..3).for_each(|input| axes.along(input, x[1]));
    x[2..].iter().for_each(|&axis| axes.normalise(axis));
    Ok(())
}

/// Channels are groups · channels of a group; parameters have one element for each group or channel.
fn axes_group_norm(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.unchanged();
    let x = axes.need(0, 2)?;
    let channels = axes.extent(x[1]);
    let groups = group_count(node, channels)?;
    let (group, each) = (axes.dim(groups), axes.dim(channels / groups));
    let grouped = axes.product(&[group, each]);
    axes.same(x[1], grouped);
    for input in 1..3 {
        let one_per_channel = axes.shape(input) == [channels];
        axes.along(input, if one_per_channel { x[1] } else { group });
    }
    axes.write(Slot::Attr("num_groups"), group);
    axes.normalise(each);
    x[2..].iter().for_each(|&axis| axes.normalise(axis));
    Ok(())
}

/// Parameters meet the input; statistics have the axes before those that are normalised over.
fn axes_layer_norm(node: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.pointwise();
    let x = axes.input(0);
    let first = axis_index(node.int_or("axis", -1)?, x.len())?;
    x[first..].iter().for_each(|&axis| axes.normalise(axis));
    Ok(())
}

fn axes_skip_norm(_: &Node, axes: &mut Statement<'_>) -> Result<()> {
    axes.pointwise();
    axes.input(0).last().into_iter().for_each(|&axis| axes.normalise(axis));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::ops::testing::{close, eval, node, with_attr, with_outputs};

    fn channels(values: [f32; 2]) -> Tensor {
        Tensor::vector(values.to_vec())
    }

    #[test]
    fn the_affine_form_is_the_normalisation() {
        let x = Tensor::new([1, 2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
        let (scale, bias) = (channels([2.0, -1.0]), channels([0.5, 0.0]));
        let (mean, var) = (channels([1.5, 3.0]), channels([0.25, 4.0]));
        let y = eval(&node("BatchNormalization", 15), &[&x, &scale, &bias, &mean, &var]).unwrap();
        let (factor, shift) = batch_norm_affine(&[2.0, -1.0], &[0.5, 0.0], &[1.5, 3.0], &[0.25, 4.0], 1e-5);
        let folded: Vec<f64> =
            (0..4).map(|i| f64::from(factor[i / 2] * (i + 1) as f32 + shift[i / 2])).collect();
        close(&y[0], &folded, 1e-6);
        close(&y[0], &[-1.49996, 2.49996, 0.0, -0.5], 1e-5);
    }

    #[test]
    fn training_takes_and_blends_the_statistics_of_the_batch() {
        let x = Tensor::new([2, 2], vec![0f32, 5.0, 2.0, 5.0]).unwrap();
        let (ones, zeros) = (channels([1.0, 1.0]), channels([0.0, 0.0]));
        let op = with_attr(node("BatchNormalization", 15), "training_mode", Attr::Int(1));
        let op = with_attr(with_outputs(op, 3), "momentum", Attr::Float(0.5));
        let y = eval(&op, &[&x, &ones, &zeros, &zeros, &ones]).unwrap();
        close(&y[0], &[-1.0, 0.0, 1.0, 0.0], 1e-5);
        close(&y[1], &[0.5, 2.5], 1e-7);
        close(&y[2], &[1.0, 0.5], 1e-7);
        let old = with_outputs(node("BatchNormalization", 9), 3);
        assert!(eval(&old, &[&x, &ones, &zeros, &zeros, &ones]).is_err());
    }

    #[test]
    fn layer_normalisation_gives_its_statistics() {
        let x = Tensor::new([2, 2], vec![1f32, 3.0, -2.0, -2.0]).unwrap();
        let op = with_attr(with_outputs(node("LayerNormalization", 17), 3), "epsilon", Attr::Float(0.0));
        let op = with_attr(op, "epsilon", Attr::Float(1e-10));
        let y = eval(&op, &[&x, &channels([1.0, 2.0]), &channels([0.0, 1.0])]).unwrap();
        close(&y[0], &[-1.0, 3.0, 0.0, 1.0], 1e-6);
        assert_eq!(y[1].shape(), [2, 1]);
        close(&y[1], &[2.0, -2.0], 1e-7);
        close(&y[2], &[1.0, 1e5], 1e-5);
        // Scale and bias broadcast to the input, never the other way round.
        let column = Tensor::new([2, 1], vec![1f32, 0.0]).unwrap();
        close(&eval(&op, &[&x, &column]).unwrap()[0], &[-1.0, 1.0, 0.0, 0.0], 1e-6);
        assert!(eval(&op, &[&x, &Tensor::new([1, 2, 2], vec![1f32; 4]).unwrap()]).is_err());
    }

    #[test]
    fn variances_far_from_zero_do_not_cancel() {
        let x = Tensor::new([1, 4], vec![1e4f32, 1e4 + 1.0, 1e4 + 2.0, 1e4 + 3.0]).unwrap();
        let y = eval(&node("LayerNormalization", 17), &[&x, &Tensor::scalar(1f32)]).unwrap();
        close(&y[0], &[-1.3416355, -0.4472118, 0.4472118, 1.3416355], 1e-6);
    }

    #[test]
    fn group_parameters_are_a_group_then_a_channel() {
        let x = Tensor::new([1, 4, 1], vec![1f32, 3.0, 10.0, 30.0]).unwrap();
        let op = |opset| with_attr(node("GroupNormalization", opset), "num_groups", Attr::Int(2));
        let zeros = Tensor::vector(vec![0f32; 4]);
        let y = eval(&op(18), &[&x, &channels([1.0, 2.0]), &channels([0.0, 1.0])]).unwrap();
        close(&y[0], &[-1.0, 1.0, -1.0, 3.0], 1e-5);
        let scale = Tensor::vector(vec![1f32, 2.0, 3.0, 4.0]);
        close(&eval(&op(21), &[&x, &scale, &zeros]).unwrap()[0], &[-1.0, 2.0, -3.0, 4.0], 1e-5);
        assert!(eval(&op(21), &[&x, &channels([1.0, 2.0]), &zeros]).is_err());
        let odd = with_attr(node("GroupNormalization", 21), "num_groups", Attr::Int(3));
        assert!(eval(&odd, &[&x, &scale, &zeros]).is_err());
    }

    #[test]
    fn a_skip_connection_is_added_first() {
        let x = Tensor::new([1, 1, 2], vec![1f32, 2.0]).unwrap();
        let mut op = with_outputs(node("SkipLayerNormalization", 1), 4);
        op.domain = MICROSOFT.into();
        let bias = channels([0.0, 1.0]);
        let y = eval(&op, &[&x, &x, &channels([1.0, 1.0]), &channels([0.0, 0.0]), &bias]).unwrap();
        close(&y[0], &[-1.0, 1.0], 1e-6);
        close(&y[3], &[2.0, 5.0], 1e-7);
    }
}
