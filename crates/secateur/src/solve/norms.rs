//! Re-estimates the running statistics of batch-norms.
//!
//! With x the input of a batch-norm over all positions and samples, n values a channel, running mean := Σx ÷ n and running
//! variance := Σ(x − mean)² ÷ (n − 1). These are the statistics that PyTorch computes in training mode with `momentum=None`
//! (cumulative average; the variance unbiased) of a batch that holds all samples.

use secateur_model::{Error, Result};

use super::State;
use super::sites::Norm;
use crate::calib::Channels;

/// Sets the running statistics to those of the input.
pub(super) fn reestimate(norm: &Norm, input: &Channels, state: &mut State<'_>) -> Result<()> {
    check(norm, input, state)?;
    if input.count() < 2 {
        return Err(Error::usage("a variance takes at least two values a channel: more samples are needed"));
    }
    state.set(&norm.mean, &input.means())?;
    state.set(&norm.variance, &input.variances())
}

/// The means of the output: scale · (E[x] − mean) ÷ √(variance + epsilon) + bias, with the parameters as they are.
pub(super) fn output_means(norm: &Norm, input: &Channels, state: &State<'_>) -> Result<Vec<f64>> {
    check(norm, input, state)?;
    let values =
        |path: &str| -> Result<Vec<f64>> { Ok(state.values(path)?.into_iter().map(f64::from).collect()) };
    let [scale, bias, mean, variance] =
        [values(&norm.scale)?, values(&norm.bias)?, values(&norm.mean)?, values(&norm.variance)?];
    let of = |(c, x): (usize, f64)| scale[c] * (x - mean[c]) / (variance[c] + norm.epsilon).sqrt() + bias[c];
    Ok(input.means().into_iter().enumerate().map(of).collect())
}

fn check(norm: &Norm, input: &Channels, state: &State<'_>) -> Result<()> {
    let expected = state.model.tensor(state.id(&norm.mean)?).len();
    if input.len() == expected {
        return Ok(());
    }
    let found = input.len();
    Err(Error::input(format!("its statistics are of {expected} channels, its input has {found}")))
}
