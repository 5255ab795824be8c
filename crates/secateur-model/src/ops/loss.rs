//! Losses of classification.

use super::number::{Float, with_float};
use super::softmax::log_softmax;
use super::{Fact, Facts, Inputs, Op};
use crate::{Error, Node, Result, Tensor};

pub(super) const OPS: &[Op] = &[
    Op::new("NegativeLogLikelihoodLoss", 12, infer_loss).eval(eval_negative_log_likelihood),
    Op::new("SoftmaxCrossEntropyLoss", 12, infer_loss).eval(eval_cross_entropy),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Average {
    None,
    Sum,
    Mean,
}

fn average(node: &Node) -> Result<Average> {
    match node.str_or("reduction", "mean")? {
        "none" => Ok(Average::None),
        "sum" => Ok(Average::Sum),
        "mean" => Ok(Average::Mean),
        other => Err(Error::input(format!("reduction `{other}`, expected none, sum or mean"))),
    }
}

/// The loss, and the logarithms of the probabilities where they are asked for.
fn infer_loss(node: &Node, inputs: Facts<'_>) -> Result<Vec<Fact>> {
    let (scores, labels) = (inputs.need(0)?, inputs.need(1)?);
    let shape = match average(node)? {
        Average::None => labels.shape.clone(),
        _ => Some(Vec::new()),
    };
    Ok(vec![
        Fact { dtype: scores.dtype, shape, ..Fact::default() },
        Fact { dtype: scores.dtype, shape: scores.shape.clone(), ..Fact::default() },
    ])
}

fn eval_negative_log_likelihood(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let scores = inputs.need(0)?;
    with_float!(scores.dtype(), F => Ok(vec![likelihood::<F>(node, inputs, &F::load(scores)?)?]))
}

fn eval_cross_entropy(node: &Node, inputs: Inputs<'_>) -> Result<Vec<Tensor>> {
    let scores = inputs.need(0)?;
    with_float!(scores.dtype(), F => {
        let mut logarithms = F::load(scores)?.into_owned();
        if let [_, classes, rest @ ..] = scores.shape() {
            log_softmax(&mut logarithms, *classes, rest.iter().product());
        }
        let loss = likelihood::<F>(node, inputs, &logarithms)?;
        Ok(vec![loss, F::store(logarithms, scores.dtype(), scores.shape())?])
    })
}

/// Minus the logarithm of each label's probability times the class's weight; the mean is over the
/// weights. Labels equal to `ignore_index` count nothing.
fn likelihood<F: Float>(node: &Node, inputs: Inputs<'_>, logarithms: &[F]) -> Result<Tensor> {
    let (scores, labels) = (inputs.need(0)?, inputs.need(1)?);
    let &[batch, classes, ref rest @ ..] = scores.shape() else {
        return Err(Error::input(format!("scores of shape {:?}, expected at least 2 axes", scores.shape())));
    };
    if labels.shape().split_first() != Some((&batch, rest)) {
        return Err(Error::input(format!(
            "labels of shape {:?} for scores of shape {:?}",
            labels.shape(),
            scores.shape()
        )));
    }
    let weights = inputs.get(2).map(F::load).transpose()?;
    if weights.as_ref().is_some_and(|w| w.len() != classes) {
        return Err(Error::input(format!("the weights are not one for each of the {classes} classes")));
    }
    let ignored = node.int("ignore_index")?;
    let inner: usize = rest.iter().product();
    let (mut losses, mut total, mut weight_sum) = (Vec::with_capacity(labels.len()), 0.0, 0.0);
    for (at, label) in labels.to_i64s()?.into_iter().enumerate() {
        if ignored == Some(label) {
            losses.push(F::ZERO);
            continue;
        }
        let class = usize::try_from(label)
            .ok()
            .filter(|&c| c < classes)
            .ok_or_else(|| Error::input(format!("label {label} is out of range for {classes} classes")))?;
        let weight = weights.as_ref().map_or(F::ONE, |w| w[class]);
        let loss = -logarithms[(at / inner * classes + class) * inner + at % inner] * weight;
        total += loss.to_f64();
        weight_sum += weight.to_f64();
        losses.push(loss);
    }
    let dtype = scores.dtype();
    match average(node)? {
        Average::None => F::store(losses, dtype, labels.shape()),
        Average::Sum => F::store(vec![F::from_f64(total)], dtype, &[]),
        Average::Mean => F::store(vec![F::from_f64(total / weight_sum)], dtype, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Attr;
    use crate::ops::testing::{close, eval, node, with_attr, with_outputs};

    #[test]
    fn the_example_of_the_specification() {
        let values = vec![1f32, 2.0, 2.0, 2.0, 3.0, 2.0, 0.0, 1.0, 2.0, 2.0, 1.0, 2.0];
        let x = Tensor::new([2, 3, 2], values).unwrap();
        let target = Tensor::new([2, 2], vec![2i64, 1, 0, 2]).unwrap();
        let weight = Tensor::vector(vec![0.2f32, 0.3, 0.1]);
        let op = |reduction: &str| {
            let op = node("NegativeLogLikelihoodLoss", 13);
            with_attr(op, "reduction", Attr::String(reduction.into()))
        };
        close(&eval(&op("none"), &[&x, &target]).unwrap()[0], &[-3.0, -2.0, 0.0, -2.0], 1e-7);
        close(&eval(&op("sum"), &[&x, &target, &weight]).unwrap()[0], &[-1.1], 1e-6);
        close(&eval(&op("mean"), &[&x, &target, &weight]).unwrap()[0], &[-1.1 / 0.7], 1e-6);
    }

    #[test]
    fn ignored_labels_may_be_out_of_range_and_others_may_not() {
        let x = Tensor::new([2, 2], vec![0f32, 0.0, 0.0, 0.0]).unwrap();
        let labels = Tensor::vector(vec![1i32, -100]);
        let op = with_outputs(node("SoftmaxCrossEntropyLoss", 13), 2);
        assert!(eval(&op, &[&x, &labels]).is_err());
        let y = eval(&with_attr(op, "ignore_index", Attr::Int(-100)), &[&x, &labels]).unwrap();
        close(&y[0], &[2f64.ln()], 1e-6);
        close(&y[1], &[-(2f64.ln()); 4], 1e-6);
    }
}
