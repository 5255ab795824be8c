//! Corrects biases: b += E[y_dense] − E[y] of each output channel (Nagel et al. 2019, arXiv:1906.04721, section 4.2).

use secateur_model::{Error, Result};

use super::State;
use crate::calib::Channels;
use crate::prune::Mask;

/// Means that differ by less than this share of the output's spread are equal but for rounding.
const ROUNDING: f64 = 1e-5;

/// Corrects a bias by the means of its layer's output; entries that a mask prunes stay. Gives whether it changed.
pub(super) fn correct(
    bias: &str,
    means: &[f64],
    dense: &Channels,
    mask: Option<&Mask>,
    state: &mut State<'_>,
) -> Result<bool> {
    if error(means, dense)? < ROUNDING {
        return Ok(false);
    }
    let mut values: Vec<f64> = state.values(bias)?.into_iter().map(f64::from).collect();
    if values.len() != means.len() {
        let (found, expected) = (values.len(), means.len());
        return Err(Error::input(format!("the bias has {found} elements, the output {expected} channels")));
    }
    for (c, (value, dense)) in values.iter_mut().zip(dense.means()).enumerate() {
        if mask.is_none_or(|mask| mask.keeps(c)) {
            *value += dense - means[c];
        }
    }
    state.set(bias, &values)?;
    Ok(true)
}

/// √(Σ(E[y] − E[y_dense])² ÷ ΣVar[y_dense]) over the channels.
pub(super) fn error(means: &[f64], dense: &Channels) -> Result<f64> {
    if means.len() != dense.len() {
        let (found, expected) = (means.len(), dense.len());
        return Err(Error::usage(format!(
            "the model's output has {found} channels, the reference's {expected}: expected the same network before pruning"
        )));
    }
    let distance: f64 = means.iter().zip(dense.means()).map(|(a, b)| (a - b) * (a - b)).sum();
    let spread: f64 = dense.variances().into_iter().sum();
    Ok(if distance == 0.0 { 0.0 } else { (distance / spread).sqrt() })
}
